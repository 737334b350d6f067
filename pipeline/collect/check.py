"""A live Redis held against the platform's schema document: what is not as it says, and how to mend it.

Reads lengths, types and TTLs, never values; keys that no pattern knows are grouped by what their names have in common.
Memory is bounded, however many keys there are. Pure but for ``walk``, which reads. Raises
``RedisOutage`` when Redis is away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import redis

from pipeline.base.errors import RedisDenied
from pipeline.base.redis_link import classify, outages
from pipeline.base.redis_replies import exchange, lent_connection, packed
from pipeline.collect.catalogue import Catalogue, Entry
from pipeline.collect.shapes import Shapes

SCAN_COUNT = 200
"""Keys that one SCAN looks at: of 500 it took Redis 1.4 ms on a busy machine."""
MAX_EXAMPLES = 3
MAX_UNKNOWN = 20
"""Groups of unknown keys that one database's findings have."""
_REDIS_TYPE = {"json": "string"}
_UNKNOWN_WITHOUT = {"PTTL": "times to live", "MEMORY USAGE": "shares of memory", "ZCOUNT": "stale members"}
_LENGTH = {"list": "LLEN", "zset": "ZCARD", "set": "SCARD", "hash": "HLEN", "string": "STRLEN"}

Severity = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class KeyFinding:
    """One thing that is not as the document says; ``keys`` are examples, none of a secret entry."""

    severity: Severity
    pattern: str
    what: str
    count: int
    fix: str
    keys: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


@dataclass
class Noted:
    """Keys of one entry that have one fault: how many, and some of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, key: str) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES and key not in self.examples:
            self.examples.append(key)


@dataclass
class Counted:
    """What a walk over one database found."""

    keys: int = 0
    sampled: bool = False
    by_entry: Counter[str] = field(default_factory=Counter)
    wrong_type: dict[str, Noted] = field(default_factory=dict)
    no_ttl: dict[str, Noted] = field(default_factory=dict)
    long_ttl: dict[str, Noted] = field(default_factory=dict)
    too_long: dict[str, Noted] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    unknown: Shapes = field(default_factory=Shapes)
    bytes_read: int = 0
    denied: dict[str, Noted] = field(default_factory=dict)
    """Keys of which this user may not even ask the type, by entry."""
    denied_unknown: int = 0
    denied_commands: Counter[str] = field(default_factory=Counter)
    """Commands that this user may not send, though it may ask for the type of the key: how many keys lack an answer."""


def walk(
    client: Any,
    databases: Sequence[str],
    catalogue: Catalogue,
    own: Callable[[str], bool],
    *,
    most: int | None = None,
    now_s: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Counted:
    """Look at every key of a database, or at ``most`` of them; ``own`` says which keys are this product's.

    ``databases`` are the document's names for it: several where one database holds them all.
    """
    counted = Counted()
    cursor = 0
    while True:
        with outages():
            cursor, names = client.scan(cursor, count=SCAN_COUNT)
        if most is not None and counted.keys + len(names) > most:
            names, counted.sampled = names[: most - counted.keys], True
        keys = [name.decode("utf-8", "surrogateescape") for name in names]
        _look(client, databases, catalogue, [key for key in keys if not own(key)], counted, now_s)
        counted.keys += len(keys)
        progress(counted.keys)
        if cursor == 0 or counted.sampled:
            return counted
        if counted.keys == most:
            counted.sampled = True
            return counted


def _look(
    client: Any, databases: Sequence[str], catalogue: Catalogue, keys: Sequence[str], counted: Counted, now_s: float
) -> None:
    raw = [key.encode("utf-8", "surrogateescape") for key in keys]
    matches = {match.key: match for match in catalogue.matches(databases, raw)}
    # A secret key that stands in the wrong database is unknown there, and a secret still.
    unknown = [name for name, key in zip(raw, keys, strict=True) if key not in matches]
    anywhere = catalogue.matches(sorted({entry.database for entry in catalogue.entries}), unknown) if unknown else []
    secret = {match.key: match.entry.pattern for match in anywhere if match.entry.secret}
    replies = _replies(client, [command for name in raw for command in _asked_of(name)])
    lengths: list[bytes] = []
    asked = []
    for place, key in enumerate(keys):
        kind, ttl_ms, size = replies[3 * place : 3 * place + 3]
        match = matches.get(key)
        if isinstance(kind, redis.RedisError):
            if match is None:
                counted.denied_unknown += 1
            else:
                _note(counted.denied, match.entry, key)
            continue
        if kind in (b"none", None):
            continue
        for command, reply in (("PTTL", ttl_ms), ("MEMORY USAGE", size)):
            counted.denied_commands[command] += _is_denied(reply)
        bytes_ = size if isinstance(size, int) else 0
        counted.bytes_read += bytes_
        if match is None:
            counted.unknown.add(secret.get(key) or printable(key), bytes_)
            continue
        entry = match.entry
        counted.by_entry[entry.name] += 1
        if kind.decode() != _REDIS_TYPE.get(entry.type, entry.type):
            _note(counted.wrong_type, entry, key)
            continue
        if isinstance(ttl_ms, int):
            if entry.needs_ttl and ttl_ms == -1:
                _note(counted.no_ttl, entry, key)
            elif entry.ttl_s is not None and ttl_ms > entry.ttl_s * 1000 + 1000:
                _note(counted.long_ttl, entry, key)
        if entry.most is not None:
            lengths.append(packed(_LENGTH[entry.type], key.encode("utf-8", "surrogateescape")))
            asked.append((entry, key, "length"))
        if any(derived.kind == "overdue" for derived in entry.metrics):
            lengths.append(packed("ZCOUNT", key.encode("utf-8", "surrogateescape"), "-inf", repr(now_s)))
            asked.append((entry, key, "stale"))
    for (entry, key, what), reply in zip(asked, _replies(client, lengths), strict=True):
        if isinstance(reply, redis.RedisError):
            counted.denied_commands["ZCOUNT" if what == "stale" else _LENGTH[entry.type]] += _is_denied(reply)
            continue
        if what == "stale":
            counted.stale[entry.name] = counted.stale.get(entry.name, 0) + int(reply)
        elif int(reply) > (entry.most or 0):
            _note(counted.too_long, entry, key)


def _asked_of(key: bytes) -> tuple[bytes, bytes, bytes]:
    """Type, time to live and memory of a key."""
    return packed("TYPE", key), packed("PTTL", key), packed("MEMORY", "USAGE", key, "SAMPLES", "1")


def _replies(client: Any, commands: Sequence[bytes]) -> list[Any]:
    if not commands:
        return []
    with outages(), lent_connection(client) as connection:
        replies = exchange(connection, b"".join(commands), len(commands))
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            meaning = classify(reply)
            if meaning is not None and not isinstance(meaning, RedisDenied):
                raise meaning from reply
    return replies


def _is_denied(reply: Any) -> bool:
    return isinstance(reply, redis.RedisError) and isinstance(classify(reply), RedisDenied)


def _note(found: dict[str, Noted], entry: Entry, key: str) -> None:
    found.setdefault(entry.name, Noted()).add(entry.pattern if entry.secret else printable(key))


def printable(key: str) -> str:
    """A key as it can be printed: U+FFFD for what is not UTF-8, and for what would steer a terminal."""
    text = key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)


def findings(catalogue: Catalogue, counted: Counted, all_bytes: int | None = None) -> list[KeyFinding]:
    """What a walk found, in words, the worst first; ``all_bytes`` were looked at in all databases together."""
    by_name = {entry.name: entry for entry in catalogue.entries}
    found: list[KeyFinding] = []

    def add(severity: Severity, notes: Mapping[str, Noted], what: str, fix: str) -> None:
        for name, noted in notes.items():
            entry = by_name[name]
            words = {"type": entry.type, "ttl": f"{entry.ttl_s} s", "most": str(entry.most)}
            said, shown = what.format(**words), tuple(noted.examples)
            found.append(KeyFinding(severity, entry.pattern, said, noted.count, fix.format(**words), shown))

    add("bad", counted.wrong_type, "is not a {type}", "delete the key, and let its writer write a {type}")
    add("bad", counted.no_ttl, "never expires", "set its TTL ({ttl}) where it is written: EXPIRE key, or SET … EX")
    add("warn", counted.long_ttl, "expires later than the document says ({ttl})", "use the document's TTL")
    add("bad", counted.too_long, "is longer than {most}", "LTRIM it after each push, to {most}")
    for name, count in counted.stale.items():
        if count:
            found.append(
                KeyFinding("warn", by_name[name].pattern, "has members whose time has passed", count,
                        "run the platform's clean-up, or ZREMRANGEBYSCORE key 0 NOW")
            )  # fmt: skip
    found += _not_looked_at(by_name, counted)
    total = max(counted.bytes_read if all_bytes is None else all_bytes, 1)
    unknown = [
        KeyFinding(
            "warn",
            pattern,
            f"is not in the schema ({100 * group.bytes / total:.1f} % of the memory looked at)",
            group.keys,
            "document it (collect.keys), or delete it",
        )
        for pattern, group in sorted(counted.unknown.groups(MAX_UNKNOWN).items(), key=lambda one: -one[1].bytes)
    ]
    order = {"bad": 0, "warn": 1, "ok": 2}
    return [*sorted(found, key=lambda one: (order[one.severity], one.pattern)), *unknown]


def _not_looked_at(by_name: Mapping[str, Entry], counted: Counted) -> Iterator[KeyFinding]:
    """What the rights of this user keep from being looked at: nothing is known to be well there."""
    for name, noted in counted.denied.items():
        entry = by_name[name]
        what = "was not looked at: this user has no right to these keys"
        fix = f"give the user %R~{entry.glob} in its ACL (~{entry.glob} before Redis 7)"
        yield KeyFinding("warn", entry.pattern, what, noted.count, fix, tuple(noted.examples))
    if counted.denied_unknown:
        what = "were not looked at: this user has no right to them"
        fix = "check as a user that may read all keys (%R~*)"
        yield KeyFinding("warn", "keys of no pattern", what, counted.denied_unknown, fix)
    for command, count in counted.denied_commands.items():
        if count:
            what = f"is refused to this user: {_UNKNOWN_WITHOUT.get(command, 'lengths')} are not known"
            fix = f"give the user +{command.lower().replace(' ', '|')} in its ACL"
            yield KeyFinding("warn", command, what, count, fix)


def server_findings(info: Mapping[str, Any], config: Mapping[str, str]) -> list[KeyFinding]:
    """Eviction and persistence of the server, against what the buffer needs."""
    found = []
    policy = str(config.get("maxmemory-policy") or info.get("maxmemory_policy") or "")
    if policy.startswith("allkeys"):
        found.append(
            KeyFinding("bad", "maxmemory-policy", f"is {policy}: it evicts the buffer itself", 1,
                    "CONFIG SET maxmemory-policy noeviction, or volatile-lru on a shared instance")
        )  # fmt: skip
    if config.get("appendonly") == "no" or info.get("aof_enabled") == 0:
        found.append(
            KeyFinding("bad", "appendonly", "is no: a restart loses what waits in the buffer", 1,
                    "CONFIG SET appendonly yes")
        )  # fmt: skip
    if config.get("appendfsync") == "no":
        found.append(
            KeyFinding("warn", "appendfsync", "is no: a power cut loses up to half a minute", 1,
                    "CONFIG SET appendfsync everysec")
        )  # fmt: skip
    return found
