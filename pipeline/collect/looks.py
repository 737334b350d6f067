"""Reads keys of the platform in pipelines, a bounded part of each and never more than is asked for.

A key may vanish between two commands, hold another type than documented, or a value of half a gigabyte. None of this
stops the others: what cannot be read says why in ``KeyLook.trouble``. Raises ``RedisOutage`` when Redis is away.

Most keys cost one or two commands. Of a string its first bytes are asked for, by GETRANGE, which cannot return more,
however long the value is by then. Fields of a hash are asked for at once when Redis keeps the hash as a listpack, in
which no field is long; otherwise the lengths of its fields come first. Collections are measured before they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis

from pipeline.base.errors import RedisDenied
from pipeline.base.redis_link import classify, outages
from pipeline.base.redis_replies import exchange, lent_connection
from pipeline.collect.catalogue import Derived, Entry, Match
from pipeline.collect.json_text import json_object

MAX_VALUE_BYTES = 65_536
"""A longer string or JSON value is not read."""
START_BYTES = 4_096
"""What is read of a string before its length is asked for; few are longer."""
MAX_FIELD_BYTES = 4_096
"""A longer field of a hash is not read."""
MAX_ELEMENTS = 1_000
"""Elements of one collection that are read at most; 1,000 of 100 bytes take Redis 0.1 ms."""
MILLISECONDS_FROM = 1e11
"""A smaller score of a sorted set of times is in seconds."""
MAX_READ_BYTES = 4 << 20
"""Elements of a collection that take more memory together are not read: to copy so much takes Redis a millisecond."""

_WHOLE = frozenset({"values", "events", "oldest", "members", "suffixes", "flags", "series"})
"""Kinds that read the elements of a collection."""
_TTL = frozenset({"held", "stuck"})
_SIZES = frozenset({"size", "members_total"})
_LENGTH = {"list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN", "string": "STRLEN", "json": "STRLEN"}
_COMPACT = frozenset({b"listpack", b"ziplist"})
"""How Redis 7 and 6.2 keep a hash whose fields are all at most hash-max-listpack-value (64) bytes long."""


REFUSED = "no permission to read it"
_NO_OBJECT = "the value is not a JSON object"


@dataclass(slots=True)
class KeyLook:
    """What was read of one key."""

    match: Match
    length: int = 0
    """Elements of a collection; asked only where it is needed."""
    ttl_ms: int = -1
    """-1: the key does not expire."""
    fields: dict[str, str] = field(default_factory=dict)
    """Fields of a hash, or of a JSON object (nested ones by their JSON text)."""
    text: str | None = None
    elements: Sequence[bytes] = ()
    """List elements from the head, or members of a hash as alternating names and values."""
    scored: Sequence[tuple[bytes, float]] = ()
    overdue: int = 0
    trouble: str = ""
    is_damaged: bool = False
    """There, and of the right type, but not the JSON that it should be: it still counts."""
    gone: bool = False
    empty: bool = False
    """A string of no bytes, or none: to Redis they look the same until it is asked whether the key exists."""
    more: bool = False
    """The first round was not enough: a string longer than its start, or a hash whose fields are to be measured."""
    long_fields: frozenset[str] = frozenset()

    @property
    def entry(self) -> Entry:
        """The entry that the key belongs to."""
        return self.match.entry


def look(
    client: redis.Redis, matches: Sequence[Match], now_s: float, cursors: Mapping[str, tuple[float, int]]
) -> list[list[KeyLook]]:
    """Read what the entries of these keys need, a list for each entry.

    ``cursors`` are the times (milliseconds) from which sorted sets of times are read, and how many members at them are
    known.
    """
    by_entry: dict[str, list[KeyLook]] = {}
    for match in matches:
        by_entry.setdefault(match.entry.name, []).append(KeyLook(match))
    groups = list(by_entry.values())
    with outages(), lent_connection(client) as connection:
        _run(connection, [ask for group in groups for ask in _first(group[0].entry, group)])
        going = [still for group in groups if (still := [one for one in group if not one.gone and not one.trouble])]
        _run(connection, [ask for group in going for ask in _second(group[0].entry, group, now_s, cursors)])
        longer = [one for group in going for one in group if one.more and not one.gone and not one.trouble]
        _run(connection, [_third(one) for one in longer])
    return groups


class _Ask(NamedTuple):
    """One command for each of several keys: the words before the key and after it, and who takes the replies."""

    looks: Sequence[KeyLook]
    before: tuple[str, ...]
    after: tuple[str | int, ...]
    take: Callable[[KeyLook, Any], None]
    optional: bool = False
    """Whether an error, such as a missing right, leaves the key as it is."""

    def packed(self) -> bytes:
        """The commands in Redis's protocol; a key that is not UTF-8 goes out as it came."""
        words = len(self.before) + 1 + len(self.after)
        head = b"*%d\r\n%b$" % (words, b"".join(_word(word) for word in self.before))
        tail = b"\r\n%b" % b"".join(_word(word) for word in self.after)
        keys = [one.match.key.encode("utf-8", "surrogateescape") for one in self.looks]
        return b"".join([b"%b%d\r\n%b%b" % (head, len(key), key, tail) for key in keys])


def _word(word: str | int) -> bytes:
    text = str(word).encode()
    return b"$%d\r\n%b\r\n" % (len(text), text)


# What is asked


def _first(entry: Entry, group: Sequence[KeyLook]) -> Iterator[_Ask]:
    """What says whether a key is there and of the right type, and how much there is to read; short values whole."""
    if entry.kinds & _TTL:
        yield _Ask(group, ("PTTL",), (), _take_ttl)
    if entry.type in ("string", "json") and _needs_text(entry.metrics):
        yield _Ask(group, ("GETRANGE",), (0, START_BYTES - 1), _take_start)
        return
    if entry.type == "hash" and _field_names(entry):
        yield _Ask(group, ("OBJECT", "ENCODING"), (), _take_encoding, optional=True)
        if not entry.kinds & (_WHOLE | _SIZES):
            return
    yield _Ask(group, (_LENGTH[entry.type],), (), _take_length)
    if entry.kinds & _WHOLE and entry.type not in ("string", "json"):
        # As many samples as elements are read, and from the same end: one huge element among them is seen.
        yield _Ask(group, ("MEMORY", "USAGE"), ("SAMPLES", MAX_ELEMENTS), _take_bytes)


def _second(
    entry: Entry, group: Sequence[KeyLook], now_s: float, cursors: Mapping[str, tuple[float, int]]
) -> Iterator[_Ask]:
    """Fields and elements; the lengths that are still to be known."""
    kinds = entry.kinds
    if entry.type in ("string", "json"):
        if empty := [one for one in group if one.empty]:
            yield _Ask(empty, ("EXISTS",), (), _take_exists)
        if long := [one for one in group if one.more]:
            yield _Ask(long, ("STRLEN",), (), _take_length_of_long)
    elif entry.type == "hash":
        yield from _fields(entry, group)
        if kinds & {"members", "flags"}:
            yield _Ask([one for one in group if not _is_too_many(one)], ("HGETALL",), (), _take_elements)
    elif entry.type == "list" and kinds & _WHOLE:
        yield _Ask(group, ("LRANGE",), (0, MAX_ELEMENTS - 1), _take_elements)
    elif entry.type == "zset":
        if "oldest" in kinds:
            yield _Ask(group, ("ZRANGE",), (0, MAX_ELEMENTS - 1, "WITHSCORES"), _take_scored)
        if "series" in kinds:
            for one in group:
                from_ms, known = cursors.get(one.match.key, (float("-inf"), 0))
                # What was rounded away by the division is read again; what is known already is not taken twice.
                seconds = repr(math.nextafter(from_ms / 1000, -math.inf)), f"({MILLISECONDS_FROM!r}"
                for span in (seconds, (repr(max(from_ms, MILLISECONDS_FROM)), "+inf")):
                    words = (*span, "WITHSCORES", "LIMIT", 0, MAX_ELEMENTS + known)
                    yield _Ask([one], ("ZRANGEBYSCORE",), words, _take_scored)
        if "overdue" in kinds:
            yield _Ask(group, ("ZCOUNT",), ("-inf", repr(now_s)), _take_overdue)


def _fields(entry: Entry, group: Sequence[KeyLook]) -> Iterator[_Ask]:
    names = _field_names(entry)
    if not names:
        return
    yield _Ask([one for one in group if not one.more], ("HMGET",), names, _take_fields(names))
    measured = [one for one in group if one.more]
    for name in names if measured else ():
        yield _Ask(measured, ("HSTRLEN",), (name,), _take_field_length(name))


def _third(one: KeyLook) -> _Ask:
    """What was measured only after it had turned out to be more than usual."""
    if one.entry.type in ("string", "json"):
        return _Ask([one], ("GETRANGE",), (0, MAX_VALUE_BYTES - 1), _take_text)
    names = tuple(name for name in _field_names(one.entry) if name not in one.long_fields)
    return _Ask([one] if names else [], ("HMGET",), names, _take_fields(names))


def _field_names(entry: Entry) -> tuple[str, ...]:
    """The fields of a hash that are read by name; ``members`` are fields of its JSON values."""
    return () if "members" in entry.kinds else entry.read_fields


def _needs_text(metrics: Sequence[Derived]) -> bool:
    return any(
        one.read_fields or one.kind in ("sum", "number", "holders", "within") or "{value}" in one.by.values()
        for one in metrics
    )


def _is_too_many(one: KeyLook) -> bool:
    if one.length > MAX_ELEMENTS:
        one.trouble = f"it has more than {MAX_ELEMENTS} fields"
    return bool(one.trouble)


# What the replies say


def _take_ttl(one: KeyLook, reply: Any) -> None:
    one.ttl_ms = int(reply)
    one.gone |= one.ttl_ms == -2


def _take_length(one: KeyLook, reply: Any) -> None:
    one.length = int(reply)
    one.empty = not one.length and one.entry.type in ("string", "json")
    one.gone |= not one.length and not one.empty


def _take_exists(one: KeyLook, reply: Any) -> None:
    if not reply:
        one.gone = True
    elif one.entry.type == "json" and _needs_text(one.entry.metrics):
        one.trouble, one.is_damaged = _NO_OBJECT, True
    else:
        one.text = ""


def _take_bytes(one: KeyLook, reply: Any) -> None:
    read = min(1.0, MAX_ELEMENTS / one.length) if one.length and one.entry.type in ("list", "zset") else 1.0
    if reply is not None and int(reply) * read > MAX_READ_BYTES:
        one.trouble = f"what is to be read of it takes more than {MAX_READ_BYTES} bytes"


def _take_encoding(one: KeyLook, reply: Any) -> None:
    if isinstance(reply, redis.RedisError):
        one.more = True
    elif reply is None:
        one.gone = True
    else:
        one.more = reply not in _COMPACT


def _take_start(one: KeyLook, reply: Any) -> None:
    if len(reply) == START_BYTES:
        one.more = True
    else:
        _take_text(one, reply)


def _take_length_of_long(one: KeyLook, reply: Any) -> None:
    _take_length(one, reply)
    if one.length > MAX_VALUE_BYTES:
        one.trouble = f"the value is longer than {MAX_VALUE_BYTES} bytes"


def _take_text(one: KeyLook, reply: Any) -> None:
    if not reply:
        one.empty = True
    elif one.match.entry.type != "json":
        one.text = _text(reply)
    elif (fields := json_object(reply, one.match.entry.read_fields)) is not None:
        one.fields = fields
    else:
        one.trouble, one.is_damaged = _NO_OBJECT, True


def _take_fields(names: tuple[str, ...]) -> Callable[[KeyLook, Any], None]:
    def take(one: KeyLook, reply: Any) -> None:
        found = {
            name: value.decode("utf-8", "replace")
            for name, value in zip(names, reply, strict=True)
            if value is not None
        }
        # Known to be there, and too long to read.
        one.fields = found | dict.fromkeys(one.long_fields, "") if one.long_fields else found

    return take


def _take_field_length(name: str) -> Callable[[KeyLook, Any], None]:
    def take(one: KeyLook, reply: Any) -> None:
        if int(reply) > MAX_FIELD_BYTES:
            one.long_fields |= {name}
            one.fields = dict.fromkeys(one.long_fields, "")

    return take


def _take_elements(one: KeyLook, reply: Any) -> None:
    one.elements = reply


def _take_scored(one: KeyLook, reply: Any) -> None:
    one.scored = [*one.scored, *((reply[at], float(reply[at + 1])) for at in range(0, len(reply), 2))]


def _take_overdue(one: KeyLook, reply: Any) -> None:
    one.overdue = int(reply)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


# Replies


def _run(connection: Any, asks: Iterable[_Ask]) -> None:
    """Hand each reply to its key; an error of one command is its key's trouble, an outage is raised."""
    asks = [ask for ask in asks if ask.looks]
    if not asks:
        return
    replies = exchange(connection, b"".join([ask.packed() for ask in asks]), sum(len(ask.looks) for ask in asks))
    at = 0
    for ask in asks:
        take = ask.take
        for one in ask.looks:
            reply = replies[at]
            at += 1
            if isinstance(reply, redis.RedisError):
                _take_error(one, ask, reply)
            else:
                take(one, reply)


def _take_error(one: KeyLook, ask: _Ask, error: redis.RedisError) -> None:
    meaning = classify(error)
    if ask.optional and (meaning is None or isinstance(meaning, RedisDenied)):
        ask.take(one, error)
    elif isinstance(meaning, RedisDenied):
        one.trouble = REFUSED
    elif meaning is not None:
        raise meaning from error
    elif "WRONGTYPE" in str(error) or "wrong kind of value" in str(error):
        one.trouble = f"it is not a {'string' if one.entry.type == 'json' else one.entry.type}"
    else:
        one.trouble = str(error)[:200]
