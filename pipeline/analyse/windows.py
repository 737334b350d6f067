"""Windows: what one series did in one or five minutes, computed from its raw rows.

``roll_up`` promises the same bits for the same rows, in whatever order they arrived and on whatever
machine: values are sorted before anything is computed, sums are exact (``quantiles.grouped_sums``),
percentiles are numpy's ``linear`` ones, histogram edges are fixed numbers, and the rows of the result are sorted by
window and series.

What counts as an execution of a test: a row whose metric type is ``duration`` (any letter case) and whose
status means neither ``skipped`` nor ``retried`` (``status_words``). ``total`` counts those, ``passed`` the ones that
passed at once or after a retry, ``flaky`` the latter alone, ``failed`` the ones that failed; an unknown or absent
status counts in the total only. ``retried`` counts attempts that were tried again: their durations are in no
statistic of their window. For every other metric type all of these are 0: the LCP of a test may carry the status of the
test, and must not make it count twice.

Speed (``speed_samples``, ``speed_p50``) is judged by fewer rows: those of the wanted branches, and of durations only
the executions that passed or say nothing of it, since a timeout says nothing about speed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.histogram import grouped_histograms
from pipeline.analyse.quantiles import (
    Float64Array,
    IndexArray,
    group_sorted,
    group_sums,
    grouped_quantiles,
    grouped_sums,
)
from pipeline.analyse.series import Factorised, densify, factorise, ranked
from pipeline.status_words import FAILED, FLAKY, INTERRUPTED, PASSED, RETRIED, SKIPPED, status_word

DURATION = "duration"

ROW_COLUMNS = ("timestamp_ms", *SERIES, "status", "branch", "value")
"""What ``roll_up`` needs of a raw row; ``timestamp_ms`` is int64, epoch milliseconds."""

_MEASURED = ("timestamp_ms", "status", "branch", "value")
"""What is left of them when the series are known."""

_PERCENTILES = ("p50", "p75", "p90", "p95", "p99")

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Executions:
    """The executions of one window over all series: what dashboards show."""

    total: int
    passed: int
    failed: int
    flaky: int
    retried: int
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
            self.flaky + other.flaky,
            self.retried + other.retried,
            self.duration_sum + other.duration_sum,
        )


NO_EXECUTIONS = Executions(0, 0, 0, 0, 0, 0.0)


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
        samples = self.rows.column("samples").to_numpy() + self.rows.column("retried").to_numpy()
        distinct, where = np.unique(starts, return_inverse=True)
        totals = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(totals, where, samples.astype(np.int64))
        return dict(zip(distinct.tolist(), totals.tolist(), strict=True))

    def only(self, starts: Collection[int]) -> Windows:
        """The windows that begin at one of ``starts``."""
        if self.executions.keys() <= set(starts):
            return self
        wanted = pc.is_in(self.rows.column("window_start"), pa.array(sorted(starts), pa.uint32()))
        executions = {start: found for start, found in self.executions.items() if start in starts}
        return Windows(self.window_s, self.rows.filter(wanted), executions)


def roll_up(
    rows: pa.Table, window_s: int, series: Factorised | None = None, branches: Collection[str] | None = None
) -> Windows:
    """Compute every window of ``window_s`` seconds that has rows in ``rows`` (columns ``ROW_COLUMNS``, any order).

    ``rows`` holds all raw rows of its windows, or all those of some series. ``series`` is
    ``factorise(rows)`` where it was computed before. Speed is judged on rows of ``branches``; None: of all.
    A series that has nothing but retried attempts in a window has no samples there: its statistics are NaN.
    """
    series = factorise(rows) if series is None else series
    values = rows.column("value").to_numpy()
    starts, window_ids, ids, window_of, series_of = _grouping(rows, window_s, series)
    groups = len(window_of)

    meanings = _meanings(rows, series)
    counted = meanings != _RETRIED
    if counted.all():
        grouped = group_sorted(values, ids, groups)
    else:
        grouped = group_sorted(values[counted], ids[counted], groups)
    counts = _counts(ids, meanings, groups)
    sums, means = grouped_sums(grouped)
    percentiles = grouped_quantiles(grouped)
    histograms = grouped_histograms(grouped)
    is_empty = grouped.sizes == 0
    columns: dict[str, pa.Array] = {"window_start": pa.array(starts[window_of].astype(np.uint32))}
    columns |= {name: series.keys.column(name).combine_chunks().take(pa.array(series_of)) for name in SERIES}
    columns |= {
        "samples": _unsigned(grouped.sizes),
        "total": _unsigned(counts.total),
        "passed": _unsigned(counts.passed),
        "failed": _unsigned(counts.failed),
        "flaky": _unsigned(counts.flaky),
        "retried": _unsigned(counts.retried),
        "sum": pa.array(sums),
        "avg": pa.array(np.where(is_empty, np.nan, means)),
        "min": pa.array(_at(grouped.values, grouped.starts[:-1], is_empty)),
        "max": pa.array(_at(grouped.values, grouped.starts[1:] - 1, is_empty)),
    }
    columns |= {name: pa.array(percentiles[:, column]) for column, name in enumerate(_PERCENTILES)}
    speed_samples, speed_p50 = _speed(
        values, ids, _judged(rows, meanings, branches), grouped.sizes, percentiles[:, _PERCENTILES.index("p50")]
    )
    columns |= {"speed_samples": _unsigned(speed_samples), "speed_p50": pa.array(speed_p50)}
    columns["histogram"] = pa.MapArray.from_arrays(
        pa.array(histograms.offsets.astype(np.int32)),
        pa.array(histograms.keys),
        _unsigned(histograms.counts),
    )
    return Windows(window_s, pa.table(columns), _by_window(starts.tolist(), window_ids, values, meanings))


def widen(
    narrow: Windows, rows: pa.Table, window_s: int, series: Factorised, branches: Collection[str] | None = None
) -> Windows:
    """``roll_up(rows, window_s, series, branches)``, given the narrower windows of the same rows: ``narrow``.

    Most tests run once in five minutes. Where a series has one narrow window within a wider one, both hold the same
    rows, and nothing is computed again.
    """
    wide_starts = [start // window_s * window_s for start in narrow.executions]
    if len(set(wide_starts)) == len(wide_starts):  # all of each wider window lies in one narrow one
        starts = pc.multiply(pc.divide(narrow.rows.column("window_start"), window_s), window_s).cast(pa.uint32())
        executions = dict(zip(wide_starts, narrow.executions.values(), strict=True))
        return Windows(window_s, narrow.rows.set_column(0, "window_start", starts), executions)
    of_narrow, of_wide = _grouping(rows, narrow.window_s, series), _grouping(rows, window_s, series)
    wide_of = np.empty(len(of_narrow.window_of), np.int64)
    wide_of[of_narrow.ids] = of_wide.ids
    is_alone = np.bincount(wide_of, minlength=len(of_wide.window_of)) == 1
    if not is_alone.any():
        return roll_up(rows, window_s, series, branches)
    is_known = is_alone[wide_of]
    places = wide_of[is_known]
    starts = pa.array(of_wide.starts[of_wide.window_of[places]].astype(np.uint32))
    found = narrow.rows.filter(pa.array(is_known)).set_column(0, "window_start", starts)
    if not is_alone.all():
        is_left = ~is_alone[of_wide.ids]
        left = Factorised(series.ids[is_left], series.keys)
        more = roll_up(rows.select(_MEASURED).filter(pa.array(is_left)), window_s, left, branches).rows
        found = pa.concat_tables([found, more])
        places = np.concatenate([places, np.flatnonzero(~is_alone)])
    if (places[1:] < places[:-1]).any():
        found = found.take(pa.array(np.argsort(places)))
    # A sum is rounded once, so that those of the narrow ones are not added up.
    values = rows.column("value").to_numpy()
    executions = _by_window(of_wide.starts.tolist(), of_wide.window_ids, values, _meanings(rows, series))
    return Windows(window_s, found.combine_chunks(), executions)


class _Grouping(NamedTuple):
    """Rows by window and series, in the order in which the table is sorted: windows first, series within them.

    ``starts`` (windows,) ascend; ``window_ids`` and ``ids`` (rows,) are each row's window and group; ``window_of`` and
    ``series_of`` (groups,) are those of each group.
    """

    starts: IndexArray
    window_ids: IndexArray
    ids: IndexArray
    window_of: IndexArray
    series_of: IndexArray


def _grouping(rows: pa.Table, window_s: int, series: Factorised) -> _Grouping:
    times, width_ms = rows.column("timestamp_ms").to_numpy(), window_s * 1000
    if len(times) and times.min() // width_ms == times.max() // width_ms:
        times = times[:1]
    windows, window_ids = densify(times // width_ms)
    if len(windows) == 1:
        series_of, ids = densify(series.ids)
        return _Grouping(windows * window_s, np.zeros_like(ids), ids, np.zeros_like(series_of), series_of)
    codes, ids = densify(window_ids * max(series.groups, 1) + series.ids)
    return _Grouping(windows * window_s, window_ids, ids, *np.divmod(codes, max(series.groups, 1)))


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
    in any order; the same rows give the same revision and the same content. Nor can a window
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


# What a row counts as: an execution that ended so, or no execution at all.
_OTHER, _UNKNOWN, _PASSED, _FLAKY, _FAILED, _INTERRUPTED, _SKIPPED, _RETRIED = range(8)
_MEANINGS = 8
_MEANING_OF = {
    PASSED: _PASSED,
    FLAKY: _FLAKY,
    FAILED: _FAILED,
    INTERRUPTED: _INTERRUPTED,
    SKIPPED: _SKIPPED,
    RETRIED: _RETRIED,
}

MeaningArray = NDArray[np.uint8]


def _meanings(rows: pa.Table, series: Factorised) -> MeaningArray:
    """What each row counts as."""
    metric_type = ranked(series.keys.column("metric_type"))
    is_duration = np.array([text.lower() == DURATION for text in metric_type.values.to_pylist()], dtype=bool)
    status = ranked(rows.column("status"))
    words = [status_word(text) for text in status.values.to_pylist()]
    found = status.each(np.array([_MEANING_OF.get(word, _UNKNOWN) for word in words], np.uint8))
    found *= metric_type.each(is_duration)[series.ids]
    return found


@dataclass(frozen=True)
class _Counts:
    """Rows by what they count as; arrays are (groups,)."""

    total: IndexArray
    passed: IndexArray
    failed: IndexArray
    flaky: IndexArray
    retried: IndexArray


def _counts(ids: IndexArray, meanings: MeaningArray, groups: int) -> _Counts:
    by = np.bincount(ids * _MEANINGS + meanings, minlength=groups * _MEANINGS).reshape(groups, _MEANINGS).T
    executed = by[_UNKNOWN : _INTERRUPTED + 1].sum(axis=0)
    return _Counts(executed, by[_PASSED] + by[_FLAKY], by[_FAILED], by[_FLAKY], by[_RETRIED])


def _judged(rows: pa.Table, meanings: MeaningArray, branches: Collection[str] | None) -> BoolArray:
    """The rows that speed is judged by."""
    timed: BoolArray = meanings <= _FLAKY
    if branches is None:
        return timed
    branch = ranked(rows.column("branch"))
    judged: BoolArray = timed & branch.each(np.array([text in branches for text in branch.values.to_pylist()], bool))
    return judged


def _speed(
    values: Float64Array, ids: IndexArray, judged: BoolArray, samples: IndexArray, p50: Float64Array
) -> tuple[IndexArray, Float64Array]:
    """Samples and median of the judged rows of every group; what is known of a group whose rows all are."""
    groups = len(samples)
    speed_samples, speed_p50 = np.bincount(ids[judged], minlength=groups), p50.copy()
    differing = np.flatnonzero(speed_samples != samples)
    if len(differing):
        is_wanted = judged & (speed_samples != samples)[ids]
        places = np.empty(groups, np.int64)
        places[differing] = np.arange(len(differing))
        by_speed = group_sorted(values[is_wanted], places[ids[is_wanted]], len(differing))
        speed_p50[differing] = grouped_quantiles(by_speed, (0.5,))[:, 0]
    return speed_samples, speed_p50


def _by_window(
    starts: list[int], window_ids: IndexArray, values: Float64Array, meanings: MeaningArray
) -> dict[int, Executions]:
    counts = _counts(window_ids, meanings, len(starts))
    executed = (meanings >= _UNKNOWN) & (meanings <= _INTERRUPTED)
    sums, _ = group_sums(values[executed], window_ids[executed], len(starts))
    totals = (counts.total, counts.passed, counts.failed, counts.flaky, counts.retried)
    figures = zip(starts, *(count.tolist() for count in totals), sums.tolist(), strict=True)
    return {start: Executions(*told) for start, *told in figures}


def _at(values: Float64Array, places: IndexArray, is_empty: BoolArray) -> Float64Array:
    """The values at ``places`` (groups,), NaN for a group that has none."""
    if not is_empty.any():
        return values[places]
    found = np.full(len(places), np.nan)
    found[~is_empty] = values[places[~is_empty]]
    return found


def _unsigned(counts: IndexArray) -> pa.Array:
    return pa.array(counts.astype(np.uint64))
