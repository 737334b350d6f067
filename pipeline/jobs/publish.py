"""Writes what the rollup job computed to the platform's Redis keys.

- ``metrics:1min:{start}``, ``metrics:5min:{start}``: the executions of a window over all series; expire an hour and six
  hours after the window's *end*, so that a late rewrite prolongs nothing. A window past that is not written.
- ``test:stats:{test_name}``: the executions of a test over the retained days, from ``metrics_5min``.
- ``dashboard:update``: the executions of the last hour (the ``metrics:1min`` hashes alive), and how many tests run.

``avg_duration`` is the mean over executions: a skipped test has no duration. Everything here can be written again:
a hash is only replaced by a revision that is not older. When Redis is away or full, publishing is tried again
in the next run, and the minutes concerned are not forgotten before it succeeded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import redis

from pipeline.analyse.windows import NO_EXECUTIONS, Executions, Windows, is_final, revision
from pipeline.base import keys, log
from pipeline.base.errors import Outage
from pipeline.base.redis_link import RedisLink, outages
from pipeline.jobs.raw_rows import FRAME_S, MINUTE_S
from pipeline.jobs.redis_text import instant, number

if TYPE_CHECKING:
    from pipeline.store.client import Store

_log = log.get(__name__)

Fields = dict[str, str | int]

_KEY = {MINUTE_S: keys.window_1min, FRAME_S: keys.window_5min}
_TTL_S = {MINUTE_S: 3600, FRAME_S: 21_600}
"""By width; redis-schema.md."""

_DAY_S = 86_400
_STATS_INTERVAL_MS = 30_000
"""``test:stats`` follows the 5-minute windows; late rows alone must not have days read again every few seconds."""

_RUNNING_SCAN_COUNT = 1000
_RUNNING_SCANS = 20
"""At most 20 short SCANs per publication; a larger key space is counted over several."""

_REPLACE = """
-- KEYS: hash   ARGV: revision, expires_at_s, field, value ...
local held = redis.call('HGET', KEYS[1], 'revision')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIREAT', KEYS[1], ARGV[2])
return 1
"""

_STATS = """
SELECT
    intDiv(toUnixTimestamp(window_start), 86400) AS day,
    test_name,
    sum(total) AS runs,
    sum(passed) AS passed_runs,
    sum(failed) AS failed_runs,
    -- A series that skipped something in a window holds that in its sum: such windows have no say in the mean.
    sumIf(sum, samples = total) AS timed_sum,
    sumIf(samples, samples = total) AS timed_runs,
    maxIf(toUnixTimestamp(window_start), passed > 0) AS last_success
FROM metrics_5min
WHERE lower(metric_type) = 'duration' AND test_name != ''
  AND intDiv(toUnixTimestamp(window_start), 86400) IN {days:Array(UInt32)}
  AND window_start >= toDateTime({first:UInt32}, 'UTC')
GROUP BY day, test_name
"""


@dataclass(frozen=True)
class _Pending:
    """A window still to be written to Redis."""

    executions: Executions
    revision: int
    is_final: bool
    expires_at_s: int


@dataclass
class Publisher:
    """Writes rollups to Redis. Holds what is not written yet, and the days it has read for ``test:stats``."""

    store: Store
    metrics: redis.Redis
    results: redis.Redis
    notifications: redis.Redis
    coordination: redis.Redis
    retained_days: int
    _pending: dict[tuple[int, int], _Pending] = field(default_factory=dict)
    _running: _RunningTests = field(init=False)
    _stats: _TestStats = field(init=False)

    def __post_init__(self) -> None:
        self._replace = self.metrics.register_script(_REPLACE)
        self._running = _RunningTests(self.coordination)
        self._stats = _TestStats(self.store, self.results, self.retained_days)

    @classmethod
    def open(cls, store: Store, link: RedisLink, retained_hours: int) -> Publisher:
        """Over the databases of ``link``; ``store`` is the handle of the thread that publishes."""
        return cls(
            store,
            metrics=link.database("metrics"),
            results=link.database("results"),
            notifications=link.database("notifications"),
            coordination=link.database("coordination"),
            retained_days=-(-retained_hours // 24),
        )

    def offer(self, windows: Windows, now_ms: int, grace_s: float) -> None:
        """Take windows that were written to ClickHouse; they go out with the next ``publish``."""
        rows = windows.counts()
        for start, executions in windows.executions.items():
            final = is_final(start, windows.window_s, now_ms, grace_s)
            expires_at_s = start + windows.window_s + _TTL_S[windows.window_s]
            if now_ms < expires_at_s * 1000:
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
                if self._write_windows(now_ms):
                    self._announce(now_ms)
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
                        args=[window.revision, window.expires_at_s, *_flat(_fields(window))],
                        client=pipe,
                    )
                pipe.execute()
        self._pending.clear()
        return sum(window_s == MINUTE_S for window_s, _ in due)

    def _announce(self, now_ms: int) -> None:
        hour = self._last_hour(now_ms)
        data = {
            "total_tests": hour.total,
            "passed_tests": hour.passed,
            "running_tests": self._running.count(),
            "avg_duration": hour.avg_duration,
        }
        self.notifications.publish(keys.CHANNEL_DASHBOARD_UPDATE, json.dumps({"type": "metrics_update", "data": data}))

    def _last_hour(self, now_ms: int) -> Executions:
        """The sum of the last hour's ``metrics:1min`` hashes, whichever worker wrote them."""
        newest = now_ms // 60_000 * 60
        with self.metrics.pipeline(transaction=False) as pipe:
            for start in range(newest - _TTL_S[MINUTE_S], newest + MINUTE_S, MINUTE_S):
                pipe.hmget(keys.window_1min(start), "total_tests", "passed_tests", "failed_tests", "avg_duration")
            found = pipe.execute()
        hour = NO_EXECUTIONS
        for total, passed, failed, avg in found:
            if total is not None:
                hour += Executions(int(total), int(passed), int(failed or 0), 0, 0, int(total) * float(avg))
        return hour


@dataclass
class _RunningTests:
    """Counts ``test:running:*``; over a large key space one count is spread over several calls."""

    coordination: redis.Redis
    _cursor: int = 0
    _found: int = 0
    _last: int = 0

    def count(self) -> int:
        """How many tests were running when the key space was last gone through."""
        for _ in range(_RUNNING_SCANS):
            self._cursor, names = self.coordination.scan(
                self._cursor, match="test:running:*", count=_RUNNING_SCAN_COUNT
            )
            self._found += len(names)
            if self._cursor == 0:
                self._last, self._found = self._found, 0
                break
        return self._last


@dataclass
class _TestStats:
    """``test:stats:*`` over the retained days (whole days, UTC): a day is read again only after it changed."""

    store: Store
    results: redis.Redis
    retained_days: int
    _days: dict[int, pa.Table] = field(default_factory=dict)
    _touched: set[int] = field(default_factory=set)
    _published: dict[str, Fields] = field(default_factory=dict)
    _published_ms: int | None = None

    def touch(self, start_s: int) -> None:
        """A 5-minute window was written."""
        self._touched.add(start_s // _DAY_S)

    def publish(self, now_ms: int) -> None:
        """Write the hashes of tests whose figures changed."""
        if not self._touched or (self._published_ms is not None and now_ms < self._published_ms + _STATS_INTERVAL_MS):
            return
        today = now_ms // 1000 // _DAY_S
        first = today - self.retained_days
        wanted = {day for day in self._touched if day >= first} if self._days else set(range(first, today + 2))
        self._read(wanted)
        self._days = {day: table for day, table in self._days.items() if day >= first}
        figures = self._figures()
        changed = {name: found for name, found in figures.items() if self._published.get(name) != found}
        with self.results.pipeline(transaction=False) as pipe:
            for name, found in changed.items():
                pipe.hset(keys.test_stats(name), items=_flat(found))
            pipe.execute()
        self._published = figures
        self._touched.clear()
        self._published_ms = now_ms

    def _read(self, days: set[int]) -> None:
        if not days:
            return
        table = self.store.query(_STATS, {"days": sorted(days), "first": min(days) * _DAY_S})
        for day in days:
            self._days[day] = table.filter(pc.equal(table.column("day"), day))

    def _figures(self) -> dict[str, Fields]:
        days = pa.concat_tables(self._days.values()) if self._days else None
        if days is None:
            return {}
        summed = [(name, "sum") for name in ("runs", "passed_runs", "failed_runs", "timed_sum", "timed_runs")]
        tests = days.group_by("test_name").aggregate([*summed, ("last_success", "max")])
        return {row["test_name"]: _stats_fields(row) for row in tests.to_pylist() if row["runs_sum"]}


def _stats_fields(row: dict[str, Any]) -> Fields:
    fields: Fields = {
        "total_runs": row["runs_sum"],
        "passed_runs": row["passed_runs_sum"],
        "failed_runs": row["failed_runs_sum"],
        "avg_duration": number(row["timed_sum_sum"] / row["timed_runs_sum"] if row["timed_runs_sum"] else 0.0),
        "success_rate": number(100 * row["passed_runs_sum"] / row["runs_sum"]),
    }
    if row["last_success_max"]:
        fields["last_success"] = instant(row["last_success_max"] * 1000)
    return fields


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


def _flat(fields: Fields) -> list[str | int]:
    return [part for pair in fields.items() for part in pair]
