"""Commands on the pipeline's own keys: if another program overwrote one, the error names key, type and fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import redis

from pipeline.base.errors import KeyDamaged, RedisOutage
from pipeline.base.redis_link import outages


@contextlib.contextmanager
def typed(client: Any, kinds: Mapping[str, str]) -> Iterator[None]:
    """Raise ``KeyDamaged`` (an outage) when one of the keys is of another type than said; other outages as they are.

    ``kinds``: by key, its type in Redis's words. When all have their type again, it is an outage too: the same command
    may succeed when it is tried again.
    """
    try:
        with outages():
            yield
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        for key, kind in kinds.items():
            with outages():
                found = client.type(key).decode()
            if found not in ("none", kind):
                raise KeyDamaged(key, f"a {found}", f"a {kind}") from error
        raise RedisOutage(f"a Redis key had another type for a moment: {error}") from error
