"""Writes ``test:stats:{test_name}``: the executions of a test over the retained days (whole days, UTC).

They come from the stored 5-minute windows. A day is read again only after one of its windows changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import redis

from pipeline.base import keys
from pipeline.base.clock import iso_seconds
from pipeline.jobs.redis_text import Fields, flat, number, report_damaged

if TYPE_CHECKING:
    from pipeline.store.client import Store

DAY_S = 86_400
INTERVAL_MS = 30_000
"""``test:stats`` follows the 5-minute windows; late rows alone must not have days read again every few seconds."""

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


@dataclass
class StatsOfTests:
    """What is known of the days, which of them changed, and what was published last."""

    store: Store
    results: redis.Redis
    retained_days: int
    """May be changed at any time; the next ``publish`` follows."""
    _followed_days: int = 0
    _days: dict[int, pa.Table] = field(default_factory=dict)
    _touched: set[int] = field(default_factory=set)
    _published: dict[str, Fields] = field(default_factory=dict)
    _published_ms: int | None = None

    def touch(self, start_s: int) -> None:
        """A 5-minute window was written."""
        self._touched.add(start_s // DAY_S)

    def publish(self, now_ms: int) -> None:
        """Write the hashes of tests whose figures changed."""
        retained_days = self.retained_days
        is_due = self._published_ms is None or now_ms >= self._published_ms + INTERVAL_MS
        if not is_due or not (self._touched or retained_days != self._followed_days):
            return
        today = now_ms // 1000 // DAY_S
        first = today - retained_days
        if retained_days > self._followed_days:
            self._days = {}  # days count again that were forgotten
        wanted = {day for day in self._touched if day >= first} if self._days else set(range(first, today + 2))
        self._read(wanted)
        self._days = {day: table for day, table in self._days.items() if day >= first}
        figures = self._figures()
        changed = {name: found for name, found in figures.items() if self._published.get(name) != found}
        with self.results.pipeline(transaction=False) as pipe:
            for name, found in changed.items():
                pipe.hset(keys.test_stats(name), items=flat(found))
            report_damaged([keys.test_stats(name) for name in changed], pipe.execute(raise_on_error=False))
        self._published = figures
        self._touched.clear()
        self._published_ms, self._followed_days = now_ms, retained_days

    def _read(self, days: set[int]) -> None:
        if not days:
            return
        table = self.store.query(_STATS, {"days": sorted(days), "first": min(days) * DAY_S})
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
        fields["last_success"] = iso_seconds(row["last_success_max"] * 1000)
    return fields
