"""Housekeeping of the Redis keys that the platform's schema gives to this product.

Trims ``resource:*`` to a day, forgets processes that fell silent, and leaves its traces in
``cleanup:status`` as the schema has them. Reads the retention that the platform set. Everything is
safe to repeat; when Redis is away the outage is raised and the next run does the work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.base import keys, log
from pipeline.base.clock import iso
from pipeline.base.redis_link import RedisLink, outages
from pipeline.buffer.buffer import Buffer

_log = log.get(__name__)

RESOURCES = (keys.RESOURCE_CPU, keys.RESOURCE_MEMORY, keys.RESOURCE_NETWORK)
RESOURCE_AGE_MS = 24 * 3_600_000
SILENT_MS = 3_600_000


def retention_hours(link: RedisLink, default_hours: int) -> int:
    """Hours that raw rows are kept: what the platform wrote to ``retention:performance_metrics``, else the setting."""
    with outages():
        said = link.database("environment").hget(keys.RETENTION_PERFORMANCE_METRICS, "ttl_hours")
    if said is None:
        return default_hours
    try:
        hours = int(float(said))
    except ValueError:
        hours = 0
    if hours < 1:
        _log.warning("retention ignored", key=keys.RETENTION_PERFORMANCE_METRICS, ttl_hours=str(said))
        return default_hours
    return hours


@dataclass
class Housekeeping:
    """Runs every ``interval_s``."""

    link: RedisLink
    buffers: Sequence[Buffer]
    interval_s: float

    def run(self, now_ms: int) -> int:
        """Clean up; the number of items removed. Raises ``RedisOutage``."""
        with outages():
            removed = self._trim_resources(now_ms)
            self._forget_silent(now_ms)
            environment = self.link.database("environment")
            environment.hset(
                keys.CLEANUP_STATUS,
                mapping={
                    "last_run": iso(now_ms),
                    "items_cleaned": str(removed),
                    "next_run": iso(now_ms + int(self.interval_s * 1000)),
                },
            )
        return removed

    def _trim_resources(self, now_ms: int) -> int:
        # Scores are epoch seconds; a member is "{timestamp}:{value}", or a bare value in the old form.
        oldest_s = (now_ms - RESOURCE_AGE_MS) // 1000
        metrics = self.link.database("metrics")
        return sum(int(metrics.zremrangebyscore(key, "-inf", f"({oldest_s}")) for key in RESOURCES)

    def _forget_silent(self, now_ms: int) -> None:
        for buffer in self.buffers:
            said = buffer.client.hgetall(buffer.keys.services)
            silent = [name for name, text in said.items() if now_ms - json.loads(text)["at"] > SILENT_MS]
            if silent:
                buffer.client.hdel(buffer.keys.services, *silent)
