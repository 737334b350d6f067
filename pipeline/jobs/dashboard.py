"""Announces on ``dashboard:update`` how the last hour went and how many tests are running."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import redis

from pipeline.analyse.windows import NO_EXECUTIONS, Executions
from pipeline.base import keys

HOUR_S = 3600
MINUTE_S = 60
_SCAN_COUNT = 1000
_SCANS = 20
"""At most 20 short SCANs per announcement; a larger key space is counted over several."""


@dataclass
class Dashboard:
    """Reads the ``metrics:1min`` hashes alive, whichever process wrote them."""

    metrics: redis.Redis
    notifications: redis.Redis
    coordination: redis.Redis

    def __post_init__(self) -> None:
        self._running = _RunningTests(self.coordination)

    def announce(self, now_ms: int) -> None:
        """Publish one message. Raises redis-py's errors."""
        hour = self._last_hour(now_ms)
        data = {
            "total_tests": hour.total,
            "passed_tests": hour.passed,
            "running_tests": self._running.count(),
            "avg_duration": hour.avg_duration,
        }
        message = json.dumps({"type": "metrics_update", "data": data, "source": keys.SOURCE})
        self.notifications.publish(keys.CHANNEL_DASHBOARD_UPDATE, message)

    def _last_hour(self, now_ms: int) -> Executions:
        newest = now_ms // 60_000 * 60
        with self.metrics.pipeline(transaction=False) as pipe:
            for start in range(newest - HOUR_S, newest + MINUTE_S, MINUTE_S):
                pipe.hmget(keys.window_1min(start), "total_tests", "passed_tests", "failed_tests", "avg_duration")
            found = pipe.execute(raise_on_error=False)
        return sum((_executions(reply) for reply in found), NO_EXECUTIONS)


def _executions(reply: Any) -> Executions:
    """The figures of one hash; a key that holds something else counts nothing. Raises what is no damaged key."""
    if isinstance(reply, redis.ResponseError) and "WRONGTYPE" in str(reply):
        return NO_EXECUTIONS
    if isinstance(reply, Exception):
        raise reply
    total, passed, failed, avg = reply
    try:
        return Executions(int(total), int(passed), int(failed or 0), 0, 0, int(total) * float(avg))
    except (TypeError, ValueError):
        return NO_EXECUTIONS


@dataclass
class _RunningTests:
    """Counts ``test:running:*``; over a large key space one count is spread over several calls."""

    coordination: redis.Redis
    _cursor: int = 0
    _found: int = 0
    _last: int = 0

    def count(self) -> int:
        """How many tests were running when the key space was last gone through."""
        for _ in range(_SCANS):
            self._cursor, names = self.coordination.scan(self._cursor, match="test:running:*", count=_SCAN_COUNT)
            self._found += len(names)
            if self._cursor == 0:
                self._last, self._found = self._found, 0
                break
        return self._last
