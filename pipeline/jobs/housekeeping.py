"""Housekeeping of the Redis keys that the platform's schema gives to this product.

Trims ``resource:*`` to a day, forgets processes that fell silent, and leaves its traces in
``cleanup:status`` as the schema has them. Everything is safe to repeat; when Redis is away the outage is raised
and the next turn does the work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.base import keys
from pipeline.base.clock import iso
from pipeline.base.redis_link import RedisLink, outages
from pipeline.jobs.redis_text import report_damaged

RESOURCES = (keys.RESOURCE_CPU, keys.RESOURCE_MEMORY, keys.RESOURCE_NETWORK)
RESOURCE_AGE_MS = 24 * 3_600_000
SILENT_MS = 3_600_000


class Heartbeats(Protocol):
    """What is needed of the fleet's heartbeats."""

    def forget_silent(self, now_ms: int, silent_for_ms: int) -> int:
        """Remove those of processes that said nothing for so long."""
        ...


@dataclass
class Housekeeping:
    """Runs every ``interval_s``."""

    link: RedisLink
    heartbeats: Heartbeats
    interval_s: float
    skip: Collection[str] = ()
    """Names of schema entries that the platform writes itself."""

    def run(self, now_ms: int) -> int:
        """Clean up; the number of items removed. Raises ``RedisOutage``."""
        with outages():
            removed = self._trim_resources(now_ms)
            self.heartbeats.forget_silent(now_ms, SILENT_MS)
            status: dict[Any, Any] = {
                "last_run": iso(now_ms),
                "items_cleaned": str(removed),
                "next_run": iso(now_ms + int(self.interval_s * 1000)),
            }
            if "cleanup_status" in self.skip:
                return removed
            with self.link.database("environment").pipeline(transaction=False) as pipe:
                pipe.hset(keys.CLEANUP_STATUS, mapping=status)
                report_damaged([keys.CLEANUP_STATUS], pipe.execute(raise_on_error=False))
        return removed

    def _trim_resources(self, now_ms: int) -> int:
        # Scores are epoch seconds; a member is "{timestamp}:{value}", or a bare value in the old form.
        oldest_s = (now_ms - RESOURCE_AGE_MS) // 1000
        with self.link.database("metrics").pipeline(transaction=False) as pipe:
            for key in RESOURCES:
                pipe.zremrangebyscore(key, "-inf", f"({oldest_s}")
            replies = pipe.execute(raise_on_error=False)
        report_damaged(RESOURCES, replies)
        return sum(reply for reply in replies if isinstance(reply, int))
