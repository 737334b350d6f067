"""Baselines: what is normal for a suite or a test, and whether the newest runs still keep to it.

What counts:

1. An *execution* is a ``duration`` metric whose status means neither ``skipped`` nor ``retried``. All of them count in
   the success rate; in everything about speed only those that passed, or whose status says nothing: a timeout says
   nothing about speed.
2. It counts unless its own series changed level after it (a confirmed change, ``since_ms``), and unless
   the same test was executed ``max_runs`` times after it in the same environment and browser.
3. A *run* of a suite is what carries one ``run_id``. Where metrics carry none, the newest execution of
   every test makes up the newest run, the second newest of every test the one before, and so on: this
   needs no pauses between runs, and a test that is executed more often than others outweighs none.
   For a single test every execution is a run.
4. The newest ``max_runs`` runs count.

How long a run took is the mean of its durations *relative to what its tests usually take* (the median of each
test in its environment and browser), times what the executions of the group usually take. So a run of
two slow tests is no slow run, and a rerun of what failed no outlier. For one test it is the duration
itself. ``centre`` and ``spread`` are the median of runs and 1.4826 times their median absolute deviation.

A single extreme run, more than ``EXTREME_SPREADS`` from the centre, is left out of average and p95, as long as
such runs are a tenth at most (or just one); more of them are how the group behaves. It stays in the success
rate, and in centre and spread, which it cannot move.

Pure: the same executions in any order give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.analyse.cycles import find_cycles, without
from pipeline.analyse.intervals import wilson
from pipeline.analyse.quantiles import METHOD, Float64Array, IndexArray, group_sorted, grouped_quantiles, grouped_sums
from pipeline.analyse.series import densify, factorise, ranked
from pipeline.analyse.shifts import SPREAD_OF_MAD, SPREAD_OF_MEAN_DEVIATION, shifts
from pipeline.status_words import FAILED, FLAKY, INTERRUPTED, PASSED, RETRIED, SKIPPED, status_word

PERCENTILE_DEFINITION = METHOD

EXTREME_SPREADS = 5.0
_EXTREME_SHARE = 0.1

_ROUNDING = 1e-9
"""Runs that differ by less than this share are equal but for the rounding of their correction."""

INSUFFICIENT_HISTORY, OK, SHIFTED, LEARNING = "insufficient_history", "ok", "shifted", "learning"

_TEST = ("test_suite", "environment", "browser", "test_id", "test_name")
COLUMNS = (*_TEST, "status", "value", "timestamp_ms", "run_id", "since_ms")
"""What ``history`` needs of an execution; times are int64, epoch milliseconds; ``since_ms`` is 0 without a change.

A column ``factor`` may say what the time of day or week multiplies the duration by: speed is compared without it."""

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class History:
    """The executions that count, sorted by test and then from oldest to newest; arrays are (rows,).

    ``dimensions`` has test_suite, environment, browser and test_id (the test's name where it has no id).
    ``run`` says which executions belong together in a suite; of runs that ended at the same time the newer
    has the greater number. ``usual`` is the median duration of the execution's test. ``timed`` executions say
    something about speed. ``even`` are the values without the time of day and week. ``has_changed``: the execution's
    series changed level before it.
    """

    dimensions: pa.Table
    values: Float64Array
    passed: BoolArray
    timed: BoolArray
    timestamp_ms: IndexArray
    run: IndexArray
    usual: Float64Array
    even: Float64Array
    has_changed: BoolArray

    def only_timed(self) -> History:
        """The executions that say something about speed."""
        which = self.timed
        return History(
            self.dimensions.filter(pa.array(which)),
            self.values[which],
            self.passed[which],
            self.timed[which],
            self.timestamp_ms[which],
            self.run[which],
            self.usual[which],
            self.even[which],
            self.has_changed[which],
        )


@dataclass(frozen=True)
class _Runs:
    """The runs that count, sorted by group and then from oldest to newest: group ``g`` owns ``starts[g]`` to
    ``starts[g + 1]``. ``of_execution`` (rows,) is the run of each execution, -1 where it does not count; ``ended_ms``
    (runs,) the time of its newest one."""

    starts: IndexArray
    of_execution: IndexArray
    ended_ms: IndexArray

    @property
    def sizes(self) -> IndexArray:
        return np.diff(self.starts)

    @property
    def group(self) -> IndexArray:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def history(executions: pa.Table, max_runs: int) -> History:
    """Keep what counts of ``executions`` (columns ``COLUMNS``, any order) by rules 1 and 2, and tell runs apart."""
    rows = executions.filter(
        pc.and_(
            pa.array(~_means(executions.column("status"), SKIPPED, RETRIED)),
            pc.greater_equal(executions.column("timestamp_ms"), executions.column("since_ms")),
        )
    )
    tests = factorise(rows, _TEST).ids
    in_order = _oldest_first(rows, tests)
    turn = _places_from_end(tests[in_order])
    is_kept = turn < max_runs
    rows, tests, turn = rows.take(pa.array(in_order[is_kept])), tests[in_order[is_kept]], turn[is_kept]
    run_ids = ranked(rows.column("run_id"))
    has_run_id = pc.not_equal(rows.column("run_id"), "").to_numpy()
    values = rows.column("value").to_numpy()
    has_factor = "factor" in rows.column_names
    even = values / rows.column("factor").to_numpy() if has_factor else values
    timed = ~_means(rows.column("status"), FAILED, INTERRUPTED)
    return History(
        _dimensions(rows),
        values,
        _means(rows.column("status"), PASSED, FLAKY),
        timed,
        rows.column("timestamp_ms").to_numpy(),
        np.where(has_run_id, max_runs + run_ids.ranks, max_runs - 1 - turn),
        _medians(even[timed], tests[timed], int(tests.max(initial=-1)) + 1)[tests],
        even,
        rows.column("since_ms").to_numpy() > 0,
    )


def baselines(past: History, by: Sequence[str], *, max_runs: int, min_runs: int) -> pa.Table:
    """The baseline of every group of ``by`` (names out of ``past.dimensions``), one row each, sorted by ``by``.

    With ``test_id`` in ``by`` every execution is a run. The result has the columns ``by``, avg_duration,
    p95_duration (linear), success_rate with its Wilson bounds (fractions), centre, spread, samples
    (executions that count), runs, since (the oldest of them), shift_pct and autocorrelation (``analyse/shifts.py``)
    and state.
    Below ``min_runs`` runs it is ``learning`` where a confirmed change cut the history off, else
    ``insufficient_history``; ``shifted`` when the newest runs left the level of the older half; else ``ok``.
    """
    groups = factorise(past.dimensions, by)
    of_suites = "test_id" not in by
    all_runs = _runs(past, groups.ids, groups.groups, past.run if of_suites else None, max_runs)
    counted = all_runs.of_execution >= 0
    group = groups.ids[counted]
    samples = np.bincount(group, minlength=groups.groups)
    passed = np.bincount(group[past.passed[counted]], minlength=groups.groups)
    since = np.full(groups.groups, np.iinfo(np.int64).max)
    np.minimum.at(since, group, past.timestamp_ms[counted])
    low, high = wilson(passed, samples)

    speed, ids = past.only_timed(), groups.ids[past.timed]
    runs = _runs(speed, ids, groups.groups, speed.run if of_suites else None, max_runs)
    durations = _without_cycles(_durations(speed, runs), runs)
    centre, spread, is_extreme = _centre_spread_extremes(durations, runs.group, groups.groups)
    ordinary = runs.of_execution >= 0
    ordinary[ordinary] = ~is_extreme[runs.of_execution[ordinary]]
    grouped = group_sorted(speed.values[ordinary], ids[ordinary], groups.groups)
    is_enough = runs.sizes >= min_runs
    is_shifted, shift_pct, autocorrelation = shifts(durations, runs.starts, min_runs)
    has_changed = np.bincount(group[past.has_changed[counted]], minlength=groups.groups) > 0
    state = np.select([is_enough & is_shifted, is_enough, has_changed], [SHIFTED, OK, LEARNING], INSUFFICIENT_HISTORY)
    columns = {
        "avg_duration": grouped_sums(grouped)[1],
        "p95_duration": grouped_quantiles(grouped, [0.95])[:, 0],
        "success_rate": passed / samples,
        "success_rate_low": low,
        "success_rate_high": high,
        "centre": centre,
        "spread": spread,
        "samples": samples.astype(np.uint64),
        "runs": all_runs.sizes.astype(np.uint64),
        "since": pa.array(since, pa.timestamp("ms", "UTC")),
        "state": pa.array(state.tolist(), pa.string()),
        "shift_pct": shift_pct,
        "autocorrelation": autocorrelation,
    }
    return pa.table({name: groups.keys.column(name) for name in by} | columns)


def _means(status: pa.ChunkedArray, *meanings: str) -> BoolArray:
    """Which rows have a status of one of these meanings."""
    distinct = ranked(status)
    is_meant = np.array([status_word(text) in meanings for text in distinct.values.to_pylist()], bool)
    found: BoolArray = is_meant[distinct.ranks]
    return found


def _oldest_first(rows: pa.Table, tests: IndexArray) -> IndexArray:
    """An order by test and time; where both are equal by value, status and run_id, so that there is only one."""
    times = rows.column("timestamp_ms").to_numpy()
    in_order = np.lexsort((times, tests))
    tests, times = tests[in_order], times[in_order]
    is_equal = (tests[1:] == tests[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.append(is_equal, False) | np.append(False, is_equal))
    if len(tied):  # few rows, as a rule
        among = rows.take(pa.array(in_order[tied]))
        columns = (
            ranked(among.column("run_id")).ranks,
            ranked(among.column("status")).ranks,
            among.column("value").to_numpy(),
        )
        in_order[tied] = in_order[tied][np.lexsort((*columns, times[tied], tests[tied]))]
    return in_order


def _dimensions(rows: pa.Table) -> pa.Table:
    """What baselines are asked by; a test without an id goes by its name."""
    names = {name: rows.column(name) for name in ("test_suite", "environment", "browser")}
    test_id = rows.column("test_id").cast(pa.string())
    test_name = rows.column("test_name").cast(pa.string())
    return pa.table(names | {"test_id": pc.if_else(pc.equal(test_id, ""), test_name, test_id)})


def _runs(past: History, group_ids: IndexArray, groups: int, run: IndexArray | None, max_runs: int) -> _Runs:
    """Which runs count (rule 4); without ``run`` every execution is one."""
    codes = np.arange(len(group_ids)) if run is None else run
    width = int(codes.max(initial=0)) + 1
    distinct, run_of = densify(group_ids * width + codes)
    group = distinct // width
    newest_ms = np.zeros(len(distinct), dtype=np.int64)
    np.maximum.at(newest_ms, run_of, past.timestamp_ms)
    in_order = np.lexsort((newest_ms, group))  # stable: where times are equal, by code
    kept = in_order[_places_from_end(group[in_order]) < max_runs]
    place = np.full(len(distinct), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    starts = np.zeros(groups + 1, dtype=np.int64)
    np.cumsum(np.bincount(group[kept], minlength=groups), out=starts[1:])
    return _Runs(starts, place[run_of], newest_ms[kept])


def _durations(past: History, runs: _Runs) -> Float64Array:
    """How long every run took, (runs,): its mean duration, corrected for which tests it happened to hold."""
    counts = runs.of_execution >= 0
    run = runs.of_execution[counts]
    usual = past.usual[counts]
    total_runs = int(runs.starts[-1])
    executions = np.bincount(run, minlength=total_runs)
    mean = np.bincount(run, past.even[counts], total_runs) / executions
    usual_mean = np.bincount(run, usual, total_runs) / executions
    group_of_run = runs.group
    group = group_of_run[run]
    groups = len(runs.sizes)
    level = np.bincount(group, usual, groups) / np.maximum(np.bincount(group, minlength=groups), 1)
    least, most = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(least, group, usual)
    np.maximum.at(most, group, usual)
    # With one kind of test there is nothing to correct; without a positive duration nothing to be relative to.
    as_it_is = (least == most)[group_of_run] | (usual_mean <= 0)
    return np.where(as_it_is, mean, mean * (level[group_of_run] / np.where(as_it_is, 1.0, usual_mean)))


def _without_cycles(durations: Float64Array, runs: _Runs) -> Float64Array:
    """The runs without a daily or weekly cycle that they show themselves: three whole ones are among them."""
    sizes = runs.sizes
    within = np.arange(int(sizes.max(initial=0))) < sizes[:, None]
    times, values = np.full(within.shape, np.nan), np.full(within.shape, np.nan)
    times[within], values[within] = runs.ended_ms / 1000, durations
    return without(values, times, find_cycles(values, times))[within]


def _centre_spread_extremes(
    durations: Float64Array, group: IndexArray, groups: int
) -> tuple[Float64Array, Float64Array, BoolArray]:
    """Median and scaled MAD of the runs of every group, and which runs to leave out of averages."""
    centre = _medians(durations, group, groups)
    deviations = np.abs(durations - centre[group])
    spread = SPREAD_OF_MAD * _medians(deviations, group, groups)
    runs = np.bincount(group, minlength=groups)
    with np.errstate(invalid="ignore"):
        mean_deviation = np.bincount(group, deviations, groups) / runs
    rounding = _ROUNDING * np.abs(centre)
    scale = np.where(spread > rounding, spread, SPREAD_OF_MEAN_DEVIATION * mean_deviation)
    is_far = deviations > np.maximum(EXTREME_SPREADS * scale, rounding)[group]
    are_few = np.bincount(group[is_far], minlength=groups) <= np.maximum(1, _EXTREME_SHARE * runs)
    return centre, spread, is_far & are_few[group]


def _places_from_end(groups: IndexArray) -> IndexArray:
    """For rows sorted by group: 0 for the last of its group, 1 for the one before, …"""
    ends = np.flatnonzero(np.append(groups[1:] != groups[:-1], True)[: len(groups)])
    sizes = np.diff(ends, prepend=-1)
    return np.repeat(ends, sizes) - np.arange(len(groups))


def _medians(values: Float64Array, group_ids: IndexArray, groups: int) -> Float64Array:
    return grouped_quantiles(group_sorted(values, group_ids, groups), [0.5])[:, 0]
