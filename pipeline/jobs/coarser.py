"""Hours and days, merged from the 5-minute windows, so that weeks are read in a moment.

An hour (a day) has rows only once it is over. The job that writes a window of it calls ``write`` before the window
counts as done, so that an hour that is there equals the sum of its windows; a death in between leaves the window due.
``fill`` finds what is missing or behind, also in stores filled by earlier versions, a few hours a turn; until
then readers take the windows themselves (``sql/views/windows_of.sql``).

The revision of an hour is the sum of its windows' revisions, which only grow: the row that saw more of them wins,
in whatever order they are written. Raises ``StoreOutage`` when ClickHouse is away; what was written stays written.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.analyse.dimensions import SERIES
from pipeline.base.errors import Stopped
from pipeline.base.failpoints import hit

if TYPE_CHECKING:
    from pipeline.store.client import Store

HOUR_S = 3600
DAY_S = 86_400

FILL_STEPS = 48
"""A turn of ``fill`` begins no other day after so many hours and days were written, or so many days looked at."""
PASS_EVERY_MS = 3_600_000
"""The past changes by ``write``; a hole in it is left by an upgrade or a death, and is looked for no more often."""

_COUNTS = ("samples", "total", "passed", "failed", "flaky", "retried")
_RATED = ("samples", "good", "needs_improvement", "poor")


def _sums(columns: Iterable[str]) -> dict[str, str]:
    return {name: f"sum(w.{name})" for name in columns}


# A series with nothing but retried attempts has no samples in a window, and NaN where there is no value.
_RANGE = {
    "avg": "if(sum(w.samples) = 0, nan, "
    "arraySum(arraySort(groupArrayIf(w.avg * w.samples, w.samples > 0))) / sum(w.samples))",
    "min": "if(sum(w.samples) = 0, nan, minIf(w.min, w.samples > 0))",
    "max": "if(sum(w.samples) = 0, nan, maxIf(w.max, w.samples > 0))",
}
# Added up in one order, so that the same windows always give the same bits.
_SUM = {"sum": "arraySum(arraySort(groupArrayIf(w.sum, w.samples > 0)))"}
_MERGED = {"histogram": "sumMap(w.histogram)"}
_NEWEST_WINDOW = {
    "newest_avg": "argMax(w.avg, (w.samples > 0, w.window_start))",
    "newest_start": "argMax(w.window_start, (w.samples > 0, w.window_start))",
}
_NEWEST_HOUR = {
    "newest_avg": "argMax(w.newest_avg, (w.samples > 0, w.newest_start))",
    "newest_start": "argMax(w.newest_start, (w.samples > 0, w.newest_start))",
}
_VITAL_KEYS = ("vital", "environment", "browser", "page")
_VITAL = {"avg": _RANGE["avg"], "is_legacy": "any(w.is_legacy)", "form_factor": "max(w.form_factor)"}


@dataclass(frozen=True)
class CoarseTable:
    """A table of spans of ``width_s`` seconds, merged from the shorter ones of ``finer``."""

    table: str
    finer: str
    width_s: int
    keys: tuple[str, ...]
    merged: Mapping[str, str]
    """By column the expression over the rows of the finer table, which is called w."""
    finer_keys: tuple[str, ...]
    """What names a row of the finer table, beside ``window_start``."""
    only: str = "1"
    """The rows of the finer table that count."""


COARSE_TABLES = (
    CoarseTable(
        "metrics_1h", "metrics_5min", HOUR_S, SERIES, _sums(_COUNTS) | _SUM | _RANGE | _NEWEST_WINDOW | _MERGED, SERIES
    ),
    CoarseTable(
        "suites_1h",
        "metrics_5min",
        HOUR_S,
        ("environment", "browser", "test_suite"),
        _sums(_COUNTS) | _RANGE | _MERGED,
        SERIES,
        only="lower(w.metric_type) = 'duration'",
    ),
    CoarseTable(
        "metrics_1d", "metrics_1h", DAY_S, SERIES, _sums(_COUNTS) | _SUM | _RANGE | _NEWEST_HOUR | _MERGED, SERIES
    ),
    CoarseTable("web_vitals_1h", "web_vitals", HOUR_S, _VITAL_KEYS, _sums(_RATED) | _VITAL | _MERGED, _VITAL_KEYS),
    CoarseTable("web_vitals_1d", "web_vitals_1h", DAY_S, _VITAL_KEYS, _sums(_RATED) | _VITAL | _MERGED, _VITAL_KEYS),
)
"""Hours before the days that are made of them."""


@dataclass(frozen=True)
class FillReport:
    """What one turn of ``fill`` did."""

    written: int = 0
    rows: int = 0
    day: int = 0
    """Start of the oldest day looked at."""


@dataclass
class CoarserJob:
    """Keeps hours and days. Holds no more than the place where ``fill`` goes on: a new one begins a pass at once."""

    store: Store
    delay_s: float
    """As long after its end an hour or a day is over: as ``rollups.delay_s`` for windows."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Looked at between two spans."""
    _next_day: int | None = None
    """Where the pass goes on, while one is under way."""
    _next_pass_ms: int = 0

    def write(self, starts_s: Collection[int], now_ms: int) -> int:
        """Bring the hours and days of these 5-minute windows up to date, as far as they are over; the rows written."""
        rows = 0
        for coarse in COARSE_TABLES:
            for start in sorted({start // coarse.width_s * coarse.width_s for start in starts_s}):
                if self._is_over(coarse, start, now_ms):
                    rows += self._write(coarse, start, now_ms)
        return rows

    def fill(self, now_ms: int) -> FillReport:
        """Write what is missing or behind of today and yesterday, and go on with the pass over all days before them.

        A turn goes on until ``FILL_STEPS`` spans are written or as many days looked at. At the oldest window the pass
        is through; the next one begins ``PASS_EVERY_MS`` later.
        """
        oldest = self._oldest_day()
        if oldest is None:
            return FillReport()
        today = now_ms // 1000 // DAY_S * DAY_S
        days = [today, today - DAY_S]
        written, rows = np.sum([self._fill_day(day, now_ms) for day in days], axis=0).tolist()
        if self._next_day is None and now_ms >= self._next_pass_ms:
            self._next_day = today - 2 * DAY_S
        while self._next_day is not None and written < FILL_STEPS and len(days) < FILL_STEPS:
            if self._next_day < oldest:
                self._next_day, self._next_pass_ms = None, now_ms + PASS_EVERY_MS
                break
            spans, merged = self._fill_day(self._next_day, now_ms)
            written, rows = written + spans, rows + merged
            days.append(self._next_day)
            self._next_day -= DAY_S
        return FillReport(written, rows, days[-1])

    def _fill_day(self, day: int, now_ms: int) -> tuple[int, int]:
        """The spans of a day that were missing or behind, and the rows written of them."""
        spans = rows = 0
        for coarse in COARSE_TABLES:
            for start in self._behind(coarse, day, now_ms):
                if self.stop.is_set():
                    raise Stopped("hours and days are merged further after the next start")
                rows += self._write(coarse, start, now_ms)
                spans += 1
        return spans, rows

    def _is_over(self, coarse: CoarseTable, start: int, now_ms: int) -> bool:
        return now_ms >= (start + coarse.width_s + self.delay_s) * 1000

    def _oldest_day(self) -> int | None:
        starts = [
            int(self.store.rows(f"SELECT toUnixTimestamp(min(window_start)) FROM {table}")[0][0])
            for table in ("metrics_5min", "web_vitals")
        ]
        return min((start // DAY_S * DAY_S for start in starts if start), default=None)

    def _behind(self, coarse: CoarseTable, day: int, now_ms: int) -> list[int]:
        """Spans of a day whose rows are older than the finer table; days whose hours are behind are among them."""
        has = self._revisions(coarse.table, day, coarse.width_s)
        return [
            start
            for start, revision in sorted(self._revisions(coarse.finer, day, coarse.width_s, coarse.only).items())
            if self._is_over(coarse, start, now_ms) and has.get(start, 0) < revision
        ]

    def _revisions(self, table: str, day: int, width_s: int, only: str = "1") -> dict[int, int]:
        """By start of a span of ``width_s`` the sum of the revisions of the rows in it, each start's counted once."""
        found = self.store.rows(
            f"SELECT intDiv(toUnixTimestamp(start), {width_s}) * {width_s} AS span, sum(revision) FROM ("
            f"SELECT w.window_start AS start, max(w.revision) AS revision FROM {table} AS w "
            f"WHERE {_within(day, DAY_S)} AND {only} GROUP BY start SETTINGS final = 0) GROUP BY span"
        )
        return {int(start): int(revision) for start, revision in found}

    def _write(self, coarse: CoarseTable, start: int, now_ms: int) -> int:
        """Merge one span anew and write it, whole, in one insert."""
        if coarse.width_s == DAY_S:
            # A day is made of hours: those that are missing, of a store filled by an earlier version, come first.
            hours = next(one for one in COARSE_TABLES if one.table == coarse.finer)
            for hour in self._behind(hours, start, now_ms):
                self._write(hours, hour, now_ms)
        table = self.store.query(_merging(self.store, coarse, start))
        if not table.num_rows:
            return 0
        stamp = pa.array(np.full(table.num_rows, now_ms), pa.timestamp("ms", "UTC"))
        hit("coarser.before_insert")
        self.store.insert(coarse.table, table.append_column("computed_at", stamp))
        hit("coarser.after_insert")
        rows: int = table.num_rows
        return rows


def _merging(store: Store, coarse: CoarseTable, start: int) -> str:
    """The statement that merges one span; the same rows of the finer table give the same bits.

    The revisions of the windows are taken once each: all series of a window carry the same one.
    """
    finer = _newest(store, coarse, start)
    chosen = ", ".join(f"{expression} AS {name}" for name, expression in coarse.merged.items())
    return f"""
WITH (SELECT sum(revision) FROM (
    SELECT max(w.revision) AS revision FROM {finer} AS w
    WHERE {_within(start, coarse.width_s)} AND {coarse.only} GROUP BY w.window_start)) AS newest,
(SELECT min(w.is_final) FROM {finer} AS w WHERE {_within(start, coarse.width_s)} AND {coarse.only}) AS final_ones
SELECT toDateTime({start}, 'UTC') AS window_start, {", ".join(f"w.{key} AS {key}" for key in coarse.keys)},
    {chosen}, assumeNotNull(toUInt64(newest)) AS revision, assumeNotNull(final_ones) AS is_final
FROM {finer} AS w
WHERE {_within(start, coarse.width_s)} AND {coarse.only}
GROUP BY {", ".join(f"w.{key}" for key in coarse.keys)}
"""


def _newest(store: Store, coarse: CoarseTable, start: int) -> str:
    """The finer table, each row in its newest revision. A replica may lag behind the one that took the last insert."""
    if not store.cluster:
        return coarse.finer
    return (
        f"(SELECT * FROM {store.every_replica(coarse.finer)} AS w WHERE {_within(start, coarse.width_s)} "
        f"ORDER BY w.revision DESC LIMIT 1 BY w.window_start, {', '.join(f'w.{key}' for key in coarse.finer_keys)})"
    )


def _within(start: int, width_s: int) -> str:
    return f"w.window_start >= toDateTime({start}, 'UTC') AND w.window_start < toDateTime({start + width_s}, 'UTC')"
