"""Windows: what one series did in one or five minutes, computed from its raw rows.

``roll_up`` promises the same bits for the same rows, in whatever order they arrived and on whatever
machine: values are sorted before anything is computed, sums are exact (``quantiles.grouped_sums``),
percentiles are numpy's ``linear`` ones, histogram edges are fixed numbers, and the rows of the result are sorted by
window and series.

What counts as an execution of a test: a row whose metric type is ``duration`` (any letter case) and
whose status is not ``skipped``. ``total`` counts those, ``passed`` and ``failed`` the ones with that very
status; an unknown or absent status counts in the total only. For every other metric type the three are
0: the LCP of a test may carry the status of the test, and must not make it count twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.analyse.histogram import grouped_histograms
from pipeline.analyse.quantiles import (
    Float64Array,
    IndexArray,
    group_sorted,
    group_sums,
    grouped_quantiles,
    grouped_sums,
)
from pipeline.analyse.series import SERIES, Factorised, densify, factorise, ranked

DURATION = "duration"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

ROW_COLUMNS = ("timestamp_ms", *SERIES, "status", "value")
"""What ``roll_up`` needs of a raw row; ``timestamp_ms`` is int64, epoch milliseconds."""

_PERCENTILES = ("p50", "p75", "p90", "p95", "p99")

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Executions:
    """The executions of one window over all series: what dashboards show."""

    total: int
    passed: int
    failed: int
    duration_sum: float
    """Exact sum of the durations of the executions that ``total`` counts, rounded once."""

    @property
    def avg_duration(self) -> float:
        """Mean duration of an execution; 0.0 when there was none."""
        return self.duration_sum / self.total if self.total else 0.0

    def __add__(self, other: Executions) -> Executions:
        return Executions(
            self.total + other.total,
            self.passed + other.passed,
            self.failed + other.failed,
            self.duration_sum + other.duration_sum,
        )


NO_EXECUTIONS = Executions(0, 0, 0, 0.0)


@dataclass(frozen=True)
class Windows:
    """Windows of one width.

    ``rows`` has one row per window and series, sorted by both, with the columns of ``metrics_1min`` up to
    ``histogram`` (``window_start`` is uint32, epoch seconds). ``executions`` has every window that has rows.
    """

    window_s: int
    rows: pa.Table
    executions: dict[int, Executions]

    def counts(self) -> dict[int, int]:
        """Raw rows per window, over all series."""
        starts = self.rows.column("window_start").to_numpy()
        samples = self.rows.column("samples").to_numpy()
        distinct, where = np.unique(starts, return_inverse=True)
        totals = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(totals, where, samples.astype(np.int64))
        return dict(zip(distinct.tolist(), totals.tolist(), strict=True))

    def only(self, starts: Collection[int]) -> Windows:
        """The windows that begin at one of ``starts``."""
        wanted = pc.is_in(self.rows.column("window_start"), pa.array(sorted(starts), pa.uint32()))
        executions = {start: found for start, found in self.executions.items() if start in starts}
        return Windows(self.window_s, self.rows.filter(wanted), executions)


def roll_up(rows: pa.Table, window_s: int, series: Factorised | None = None) -> Windows:
    """Compute every window of ``window_s`` seconds that has rows in ``rows`` (columns ``ROW_COLUMNS``, any order).

    ``rows`` holds all raw rows of its windows, or all those of some series. ``series`` is
    ``factorise(rows)`` when somebody has computed it already.
    """
    series = factorise(rows) if series is None else series
    values = rows.column("value").to_numpy()
    windows, window_ids = densify(rows.column("timestamp_ms").to_numpy() // (window_s * 1000))
    # Windows first, series within them: the order in which the table is sorted.
    codes, ids = densify(window_ids * max(series.groups, 1) + series.ids)
    groups = len(codes)
    window_of, series_of = np.divmod(codes, max(series.groups, 1))

    grouped = group_sorted(values, ids, groups)
    sums, means = grouped_sums(grouped)
    percentiles = grouped_quantiles(grouped)
    histograms = grouped_histograms(grouped)
    executed, passed, failed = _executions(rows, series)
    columns: dict[str, pa.Array] = {"window_start": pa.array((windows[window_of] * window_s).astype(np.uint32))}
    columns |= {name: series.keys.column(name).combine_chunks().take(pa.array(series_of)) for name in SERIES}
    columns |= {
        "samples": _unsigned(grouped.sizes),
        "total": _unsigned(np.bincount(ids[executed], minlength=groups)),
        "passed": _unsigned(np.bincount(ids[passed], minlength=groups)),
        "failed": _unsigned(np.bincount(ids[failed], minlength=groups)),
        "sum": pa.array(sums),
        "avg": pa.array(means),
        "min": pa.array(grouped.values[grouped.starts[:-1]]),
        "max": pa.array(grouped.values[grouped.starts[1:] - 1]),
    }
    columns |= {name: pa.array(percentiles[:, level]) for level, name in enumerate(_PERCENTILES)}
    columns["histogram"] = pa.MapArray.from_arrays(
        pa.array(histograms.offsets.astype(np.int32)),
        pa.array(histograms.keys),
        _unsigned(histograms.counts),
    )
    starts = (windows * window_s).tolist()
    return Windows(window_s, pa.table(columns), _by_window(starts, window_ids, values, executed, passed, failed))


def merge_series(parts: list[Windows]) -> Windows:
    """Windows whose series were rolled up apart, put together; no series may stand in two parts."""
    executions: dict[int, Executions] = {}
    for part in parts:
        for start, found in part.executions.items():
            executions[start] = executions.get(start, NO_EXECUTIONS) + found
    rows = pa.concat_tables([part.rows for part in parts]).combine_chunks()
    in_order = np.argsort(factorise(rows, ("window_start", *SERIES)).ids)
    return Windows(parts[0].window_s, rows.take(pa.array(in_order)), executions)


def is_final(start_s: int, window_s: int, now_ms: int, grace_s: float) -> bool:
    """Whether ``now`` is ``grace_s`` or more past the end of a window. It may still change; then it stays final."""
    return now_ms >= (start_s + window_s + grace_s) * 1000


def revision(raw_rows: int, final: bool) -> int:
    """The revision of a window that was computed from ``raw_rows`` rows over all series.

    Raw rows are only ever added, so a computation that saw more of them replaces one that saw fewer,
    whoever finishes first; the same rows give the same revision and the same content. Nor can a window
    whose raw rows have expired in part replace the one that saw them all.
    """
    return 2 * raw_rows + final


def stamp(windows: Windows, now_ms: int, grace_s: float) -> pa.Table:
    """The rows as the table stores them: with ``revision``, ``is_final`` and ``computed_at``."""
    finals = {start: is_final(start, windows.window_s, now_ms, grace_s) for start in windows.executions}
    revisions = {start: revision(rows, finals[start]) for start, rows in windows.counts().items()}
    starts = windows.rows.column("window_start").to_pylist()
    return (
        windows.rows.append_column("revision", pa.array([revisions[start] for start in starts], pa.uint64()))
        .append_column("is_final", pa.array([finals[start] for start in starts], pa.bool_()))
        .append_column("computed_at", pa.array(np.full(len(starts), now_ms), pa.timestamp("ms", "UTC")))
    )


def _executions(rows: pa.Table, series: Factorised) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Which rows are executions, passed, failed."""
    metric_type = ranked(series.keys.column("metric_type"))
    durations = np.array([text.lower() == DURATION for text in metric_type.values.to_pylist()], dtype=bool)
    is_duration = durations[metric_type.ranks][series.ids]
    status = ranked(rows.column("status"))
    texts = status.values.to_pylist()
    skipped, passed, failed = (np.array([text == name for text in texts], bool) for name in (SKIPPED, PASSED, FAILED))
    return (
        is_duration & ~skipped[status.ranks],
        is_duration & passed[status.ranks],
        is_duration & failed[status.ranks],
    )


def _by_window(
    starts: list[int],
    window_ids: IndexArray,
    values: Float64Array,
    executed: BoolArray,
    passed: BoolArray,
    failed: BoolArray,
) -> dict[int, Executions]:
    count = len(starts)
    totals = [np.bincount(window_ids[which], minlength=count).tolist() for which in (executed, passed, failed)]
    sums, _ = group_sums(values[executed], window_ids[executed], count)
    return {start: Executions(*figures) for start, *figures in zip(starts, *totals, sums.tolist(), strict=True)}


def _unsigned(counts: IndexArray) -> pa.Array:
    return pa.array(counts.astype(np.uint64))
