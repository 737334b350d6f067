"""Writes what the rollup job computed to the platform's Redis keys.

- ``metrics:1min:{start}``, ``metrics:5min:{start}``: the executions of a window over all series; expire an hour and six
  hours after the window's *end*, so that a late rewrite prolongs nothing. A window past that is not written.
- ``test:stats:{test_name}``: see ``stats_of_tests``.
- ``dashboard:update``: see ``dashboard``.

``avg_duration`` is the mean over executions: a skipped test has no duration. Everything here can be written again:
a hash is only replaced by a revision that is not older. When Redis is away or full, publishing is tried again
in the next turn, and the minutes concerned are not forgotten before it succeeded.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis

from pipeline.analyse.windows import Executions, Windows, is_final, revision
from pipeline.base import keys, log, lua
from pipeline.base.errors import Outage
from pipeline.base.redis_link import RedisLink, outages
from pipeline.jobs.dashboard import Dashboard
from pipeline.jobs.raw_rows import FRAME_S, MINUTE_S
from pipeline.jobs.redis_text import Fields, flat, number, report_damaged
from pipeline.jobs.stats_of_tests import StatsOfTests

if TYPE_CHECKING:
    from pipeline.store.client import Store

_log = log.get(__name__)

_KEY = {MINUTE_S: keys.window_1min, FRAME_S: keys.window_5min}
_ENTRY = {MINUTE_S: "window_1min", FRAME_S: "window_5min"}
"""By width: the name in the catalogue of the platform's schema."""
_TTL_S = {MINUTE_S: 3600, FRAME_S: 21_600}
"""By width; redis-schema.md."""


@dataclass(frozen=True)
class _Pending:
    """A window still to be written to Redis."""

    executions: Executions
    revision: int
    is_final: bool
    expires_at_s: int


def _days(hours: int) -> int:
    return -(-hours // 24)


@dataclass
class Publisher:
    """Writes rollups to Redis. Holds what is not written yet."""

    store: Store
    metrics: redis.Redis
    results: redis.Redis
    notifications: redis.Redis
    coordination: redis.Redis
    retained_days: int
    skip: Collection[str] = ()
    """Names of schema entries that the platform writes itself."""
    _pending: dict[tuple[int, int], _Pending] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._replace = self.metrics.register_script(lua.load("jobs", "replace"))
        self._dashboard = Dashboard(self.metrics, self.notifications, self.coordination)
        self._stats = StatsOfTests(self.store, self.results, self.retained_days)

    @classmethod
    def open(cls, store: Store, link: RedisLink, retained_hours: int, skip: Collection[str] = ()) -> Publisher:
        """Over the databases of ``link``; ``store`` is the handle of the thread that publishes."""
        return cls(
            store,
            metrics=link.database("metrics"),
            results=link.database("results"),
            notifications=link.database("notifications"),
            coordination=link.database("coordination"),
            retained_days=_days(retained_hours),
            skip=skip,
        )

    def keep(self, retained_hours: int) -> None:
        """Follow a retention that was changed; from any thread."""
        self._stats.retained_days = _days(retained_hours)

    def offer(self, windows: Windows, now_ms: int, grace_s: float) -> None:
        """Take windows that were written to ClickHouse; they go out with the next ``publish``."""
        rows = windows.counts()
        for start, executions in windows.executions.items():
            final = is_final(start, windows.window_s, now_ms, grace_s)
            expires_at_s = start + windows.window_s + _TTL_S[windows.window_s]
            if now_ms < expires_at_s * 1000 and _ENTRY[windows.window_s] not in self.skip:
                self._pending[windows.window_s, start] = _Pending(
                    executions, revision(rows[start], final), final, expires_at_s
                )
            if windows.window_s == FRAME_S:
                self._stats.touch(start)

    def is_pending(self, window_s: int, start_s: int) -> bool:
        """Whether a window waits to be written to Redis."""
        return (window_s, start_s) in self._pending

    def publish(self, now_ms: int) -> bool:
        """Write what is pending; False, and all of it still pending, if a neighbour was away."""
        try:
            with outages():
                if self._write_windows(now_ms) and "channel_dashboard_update" not in self.skip:
                    self._dashboard.announce(now_ms)
                if "test_stats" not in self.skip:
                    self._stats.publish(now_ms)
        except Outage as outage:
            _log.warning("rollups not published", reason=str(outage), windows=len(self._pending))
            return False
        return True

    def _write_windows(self, now_ms: int) -> int:
        """Write pending windows; how many minutes were among them."""
        due = {key: window for key, window in self._pending.items() if now_ms < window.expires_at_s * 1000}
        if due:
            with self.metrics.pipeline(transaction=False) as pipe:
                for (window_s, start_s), window in due.items():
                    self._replace(
                        keys=[_KEY[window_s](start_s)],
                        args=[window.revision, window.expires_at_s, *flat(_fields(window))],
                        client=pipe,
                    )
                report_damaged([_KEY[width](start) for width, start in due], pipe.execute(raise_on_error=False))
        self._pending.clear()
        return sum(window_s == MINUTE_S for window_s, _ in due)


def _fields(window: _Pending) -> Fields:
    return {
        "total_tests": window.executions.total,
        "passed_tests": window.executions.passed,
        "avg_duration": number(window.executions.avg_duration),
        "failed_tests": window.executions.failed,
        "flaky_tests": window.executions.flaky,
        "retried_attempts": window.executions.retried,
        "revision": window.revision,
        "is_final": int(window.is_final),
    }
