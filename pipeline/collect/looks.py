"""Reads keys of the platform: lengths before values, in pipelines, never more than is asked for.

A key may vanish between two commands, hold another type than documented, or a value of half a gigabyte. None of this
stops the others: what cannot be read says why in ``KeyLook.trouble``. Raises ``RedisOutage`` when Redis is away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from hiredis import pack_command

from pipeline.base.errors import RedisDenied
from pipeline.base.redis_link import classify
from pipeline.collect.catalogue import Derived, Entry, Match

MAX_VALUE_BYTES = 65_536
"""A longer string or JSON value is not read."""
MAX_FIELD_BYTES = 4_096
"""A longer field of a hash is not read."""
MAX_COLLECTION_BYTES = 8 << 20
"""A list, set, sorted set or hash that takes more memory is not read."""
MAX_ELEMENTS = 1_000
"""Elements of one collection that are read at most; 1,000 of 100 bytes take Redis 0.1 ms."""

_WHOLE = frozenset({"values", "events", "oldest", "members", "suffixes", "flags"})
"""Kinds that read the elements of a collection."""
_TTL = frozenset({"held", "stuck"})
_LENGTH = {"list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN", "string": "STRLEN", "json": "STRLEN"}


@dataclass
class KeyLook:
    """What was read of one key."""

    match: Match
    length: int = 0
    """Bytes of a string, elements of anything else."""
    ttl_ms: int = -1
    """-1: the key does not expire."""
    fields: dict[str, str] = field(default_factory=dict)
    """Fields of a hash, or of a JSON object (nested ones by their JSON text)."""
    text: str | None = None
    elements: list[bytes] = field(default_factory=list)
    """List elements from the head, or members of a hash as alternating names and values."""
    scored: list[tuple[bytes, float]] = field(default_factory=list)
    overdue: int = 0
    trouble: str = ""
    gone: bool = False

    @property
    def entry(self) -> Entry:
        """The entry that the key belongs to."""
        return self.match.entry


def look(client: redis.Redis, matches: Sequence[Match], now_s: float, cursors: Mapping[str, float]) -> list[KeyLook]:
    """Read what the entries of these keys need; ``cursors`` are the scores from which sorted sets of times are read."""
    looks = [KeyLook(match) for match in matches]
    _lengths(client, looks)
    _values(client, [one for one in looks if not one.gone and not one.trouble], now_s, cursors)
    return looks


# Lengths


def _lengths(client: redis.Redis, looks: Sequence[KeyLook]) -> None:
    commands: list[tuple[KeyLook, str, tuple[Any, ...]]] = []
    for one in looks:
        key, entry = one.match.key, one.match.entry
        commands.append((one, "length", (_LENGTH[entry.type], key)))
        if entry.kinds & _TTL:
            commands.append((one, "ttl", ("PTTL", key)))
        if entry.type not in ("string", "json") and entry.kinds & _WHOLE:
            commands.append((one, "bytes", ("MEMORY", "USAGE", key, "SAMPLES", "5")))
        if entry.type == "hash":
            commands.extend((one, name, ("HSTRLEN", key, name)) for name in entry.read_fields)
    for (one, what, args), reply in zip(commands, _run(client, [args for _, _, args in commands]), strict=True):
        if isinstance(reply, redis.RedisError):
            _blame(one, reply)
        elif args[0] == "HSTRLEN":
            if reply > MAX_FIELD_BYTES:
                one.fields[what] = ""  # known to be there, and too long to read
        elif what == "length":
            one.length = int(reply)
            one.gone = not one.length
            if one.entry.type in ("string", "json") and one.length > MAX_VALUE_BYTES:
                one.trouble = f"the value is longer than {MAX_VALUE_BYTES} bytes"
        elif what == "ttl":
            one.ttl_ms = int(reply)
            one.gone |= one.ttl_ms == -2
        elif reply is not None and int(reply) > MAX_COLLECTION_BYTES:
            one.trouble = f"it takes more than {MAX_COLLECTION_BYTES} bytes"


# Values


def _values(client: redis.Redis, looks: Sequence[KeyLook], now_s: float, cursors: Mapping[str, float]) -> None:
    commands: list[tuple[KeyLook, str, tuple[Any, ...]]] = []
    for one in looks:
        for what, args in _reads(one, now_s, cursors):
            commands.append((one, what, args))
    for (one, what, args), reply in zip(commands, _run(client, [args for _, _, args in commands]), strict=True):
        if isinstance(reply, redis.RedisError):
            _blame(one, reply)
        elif what == "fields":
            for name, value in zip(args[2:], reply, strict=True):
                if value is not None:
                    one.fields[str(name)] = _text(value)
        elif what == "text":
            _take_text(one, reply)
        elif what == "elements":
            one.elements = list(reply)
        elif what == "scored":
            one.scored = [(reply[at], float(reply[at + 1])) for at in range(0, len(reply), 2)]
        elif what == "overdue":
            one.overdue = int(reply)


def _reads(one: KeyLook, now_s: float, cursors: Mapping[str, float]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    entry, key = one.entry, one.match.key
    kinds = entry.kinds
    if entry.type == "hash":
        names = [name for name in entry.read_fields if name not in one.fields]
        if names and not kinds & {"members"}:
            yield "fields", ("HMGET", key, *names)
        if kinds & {"members", "flags"}:
            if one.length > MAX_ELEMENTS:
                one.trouble = f"it has more than {MAX_ELEMENTS} fields"
            else:
                yield "elements", ("HGETALL", key)
    elif entry.type in ("string", "json"):
        if _needs_text(entry.metrics):
            yield "text", ("GET", key)
    elif entry.type == "list" and kinds & _WHOLE:
        yield "elements", ("LRANGE", key, 0, MAX_ELEMENTS - 1)
    elif entry.type == "zset":
        if "oldest" in kinds:
            yield "scored", ("ZRANGE", key, 0, MAX_ELEMENTS - 1, "WITHSCORES")
        if "series" in kinds:
            start = cursors.get(key, float("-inf"))
            yield "scored", ("ZRANGEBYSCORE", key, repr(start), "+inf", "WITHSCORES", "LIMIT", 0, MAX_ELEMENTS)
        if "overdue" in kinds:
            yield "overdue", ("ZCOUNT", key, "-inf", repr(now_s))


def _needs_text(metrics: Sequence[Derived]) -> bool:
    return any(one.read_fields or one.kind in ("sum", "number", "holders", "within") for one in metrics)


def _take_text(one: KeyLook, reply: bytes | None) -> None:
    if reply is None:
        one.gone = True
        return
    one.text = _text(reply)
    if one.entry.type != "json":
        return
    try:
        loaded = json.loads(one.text)
    except ValueError:
        one.trouble = "the value is not JSON"
        return
    if not isinstance(loaded, dict):
        one.trouble = "the value is not a JSON object"
        return
    wanted = {name for derived in one.entry.metrics for name in derived.read_fields} | {"start", "end"}
    one.fields = {name: plain_text(value) for name, value in loaded.items() if name in wanted}


def plain_text(value: Any) -> str:
    """A JSON value as the text of a field."""
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


# Replies


def _run(client: redis.Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The reply of each command; an error of one is its reply, an outage is raised."""
    if not commands:
        return []
    try:
        replies = _replies(client, commands)
    except redis.RedisError as error:
        meaning = classify(error)
        raise meaning if meaning is not None else error from error
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            meaning = classify(reply)
            if meaning is not None and not isinstance(meaning, RedisDenied):
                raise meaning from reply
    return replies


def _replies(client: redis.Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One pipeline. The client's own costs three times as much a command, which is most of what collecting costs."""
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command([b"".join(pack_command(_as_bytes(command)) for command in commands)])
        read = connection.read_response
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(read())
            except redis.ResponseError as error:
                replies.append(error)
        return replies
    except BaseException:
        connection.disconnect()  # replies that were not read must not answer the next command
        raise
    finally:
        pool.release(connection)


def _as_bytes(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """A key that is not UTF-8 goes out as it came."""
    at = 2 if command[0] == "MEMORY" else 1
    key = command[at]
    if key.isascii():
        return command
    return (*command[:at], key.encode("utf-8", "surrogateescape"), *command[at + 1 :])


def _blame(one: KeyLook, error: redis.RedisError) -> None:
    if isinstance(classify(error), RedisDenied):
        one.trouble = "no permission to read it"
    elif "WRONGTYPE" in str(error) or "wrong kind of value" in str(error):
        one.trouble = f"it is not a {'string' if one.entry.type == 'json' else one.entry.type}"
    else:
        one.trouble = str(error)[:200]
