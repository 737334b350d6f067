"""How figures look as text in Redis hashes: all digits, times as redis-schema.md writes them."""

from collections.abc import Sequence
from typing import Any

import redis

from pipeline.base import log

_log = log.get(__name__)

Fields = dict[str, str | int]
"""The fields of a hash."""


def number(value: float) -> str:
    """Every digit of a float (it reads back to the same bits), and no ``.0`` behind a whole number."""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def flat(fields: Fields) -> list[str | int]:
    """Names and values in turn, as HSET takes them."""
    return [part for pair in fields.items() for part in pair]


def report_damaged(names: Sequence[str], replies: Sequence[Any]) -> None:
    """Pass over keys of another type than the schema says, loudly; raise every other error among ``replies``.

    One damaged key must not keep all the others from being written.
    """
    for name, reply in zip(names, replies, strict=True):
        if not isinstance(reply, Exception):
            continue
        if not (isinstance(reply, redis.ResponseError) and "WRONGTYPE" in str(reply)):
            raise reply
        _log.warning("redis key of the wrong type skipped", key=name, fix=f"DEL {name}; it is written anew")
