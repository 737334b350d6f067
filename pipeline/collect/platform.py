"""The document's Lua scripts, corrected, as Python functions for the platform's services.

Each script stands in ``scripts/`` with its slip in the document explained; ``pipeline schema scripts`` lists, prints
and loads them. All keys of one call must lie in one slot on Redis Cluster. Works with Redis 6.2 and later.
Errors of redis-py come through as they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

SESSION_TTL_S = 3600
TRIM_AT_ONCE = 1_000
EXPIRE_AT_ONCE = 500


@dataclass(frozen=True)
class Script:
    """One script: its name, its first sentence, its text."""

    name: str
    about: str
    text: str


def scripts() -> dict[str, Script]:
    """The scripts by name."""
    found = {}
    for file in sorted((Path(__file__).parent / "scripts").glob("*.lua")):
        text = file.read_text(encoding="utf-8")
        found[file.stem] = Script(file.stem, text.splitlines()[0].removeprefix("-- "), text)
    return found


@dataclass(frozen=True)
class RateLimit:
    """The answer of ``Platform.rate_limit``."""

    allowed: bool
    count: int
    left_ms: int


class Platform:
    """The scripts over one database of the platform's Redis. The client may decode responses or not."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = {name: client.register_script(script.text) for name, script in scripts().items()}
        self._client: Any = client

    def _call(self, name: str, keys: Sequence[bytes | str], args: list[Any]) -> Any:
        return self._scripts[name](keys=keys, args=args)

    def dequeue(self, queue: str, resource: str, max_running: int) -> bytes | str | None:
        """The most urgent test of ``queue``; None when it is empty or ``resource`` runs ``max_running`` already."""
        found: bytes | str | None = self._call("dequeue", [queue, resource], [max_running])
        return found

    def finish(self, resource: str) -> int:
        """Give the room back; how many run now."""
        return int(self._call("finish", [resource], []))

    def validate_session(self, session: str, blacklist: str, now: str, ttl_s: int = SESSION_TTL_S) -> tuple[bool, str]:
        """Whether a session holds, and VALID, BLACKLISTED, NOT_FOUND or DAMAGED; a valid one is prolonged."""
        valid, reason = self._call("validate_session", [session, blacklist], [now, ttl_s])
        return bool(valid), reason.decode() if isinstance(reason, bytes) else reason

    def lock(self, lock: str, holder: str, ttl_ms: int) -> int:
        """Take a lock; its fencing number, or 0 when another one holds it. Holding it already prolongs it."""
        return int(self._call("lock", [lock, f"{lock}:fence"], [holder, ttl_ms]))

    def renew_lock(self, lock: str, holder: str, ttl_ms: int) -> bool:
        """Prolong a lock; False when it is lost."""
        return bool(self._call("renew_lock", [lock], [holder, ttl_ms]))

    def unlock(self, lock: str, holder: str) -> bool:
        """Give a lock back; False when it was not the caller's."""
        return bool(self._call("unlock", [lock], [holder]))

    def fair_lock(
        self, lock: str, queue: str, holder: str, ttl_ms: int, *, patience_ms: int = 10_000, now_ms: int | None = None
    ) -> bool:
        """Take a lock in the order of asking; on False ask again within ``patience_ms``, or the place is lost."""
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        return bool(self._call("fair_lock", [lock, queue, f"{queue}:waiting"], [holder, ttl_ms, now_ms, patience_ms]))

    def rate_limit(self, counter: str, limit: int, span_s: int) -> RateLimit:
        """Count a request against ``limit`` requests in ``span_s``."""
        allowed, count, left_ms = self._call("rate_limit", [counter], [limit, span_s])
        return RateLimit(bool(allowed), int(count), int(left_ms))

    def expire_keys(self, pattern: str, ttl_s: int) -> int:
        """Give every key of ``pattern`` that never expires a TTL; how many were mended."""
        mended, cursor = 0, 0
        while True:
            cursor, names = self._client.scan(cursor, match=pattern, count=EXPIRE_AT_ONCE)
            if names:
                mended += int(self._call("expire_keys", names, [ttl_s]))
            if cursor == 0:
                return mended

    def trim_series(self, key: str, before_s: float) -> int:
        """Remove the members of a sorted set of times that are older than ``before_s``; how many."""
        removed = 0
        while True:
            count = int(self._call("trim_series", [key], [repr(float(before_s)), TRIM_AT_ONCE]))
            removed += count
            if count < TRIM_AT_ONCE:
                return removed
