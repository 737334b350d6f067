"""Commands on the pipeline's own keys: if another program overwrote one, the error names key, type and fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis

from pipeline.base.redis_link import outages
from pipeline.buffer.damage import KeyDamaged


@contextlib.contextmanager
def typed(client: Any, key: str, kind: str) -> Iterator[None]:
    """Raise ``KeyDamaged`` (an outage) when ``key`` is of another type than ``kind``; other outages as they are."""
    try:
        with outages():
            yield
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        with outages():
            found = client.type(key).decode()
        raise KeyDamaged(key, f"a {found}", f"a {kind}") from error
