"""What a rule sees at one tick: a value, its samples and its bounds for every group, by arrays.

Percentiles over several windows or series come from their merged histograms (within 1 %), never
from averaged percentiles; where a group is one stored window, its exact percentile is used. Sums,
counts and rates are exact. Bounds are 95 % intervals: by order statistics for percentiles, Wilson's
for shares, Student's for means; a bound that the samples cannot give is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.judge.frames import LabelValues, Selection
from pipeline.alerts.judge.merged_windows import Merged
from pipeline.alerts.judge.verdicts import ObservedSeries
from pipeline.alerts.rules.rule import Rule
from pipeline.analyse.intervals import wilson
from pipeline.analyse.quantiles import Float64Array, IndexArray

_EXACT_PERCENTILES = {0.5: "p50", 0.75: "p75", 0.9: "p90", 0.95: "p95", 0.99: "p99"}


class View(Protocol):
    """What the evaluation needs to know at one tick."""

    def groups_beyond(self, rule: Rule) -> IndexArray:
        """Groups that may lie beyond the threshold: a superset of those that do."""
        ...

    def groups_missing(self, rule: Rule) -> IndexArray:
        """Groups that are remembered but have no data, for rules that alert on that."""
        ...

    def observe(self, rule: Rule, groups: IndexArray) -> ObservedSeries:
        """The observations of these groups."""
        ...

    def number(self, values: LabelValues) -> int:
        """The group with these label values, -1 when unknown."""
        ...

    def label_values(self, groups: IndexArray) -> list[LabelValues]:
        """The label values of these groups."""
        ...

    def context(self, rule: Rule, group: int) -> Mapping[str, float | str]:
        """What else belongs to the evidence of a group: its baseline, its change point."""
        ...


_NO_CONTEXT: Mapping[str, float | str] = {}


class WindowView:
    """The windows of a selection that end by ``tick_s`` and begin ``window_s`` before it or later."""

    def __init__(self, selection: Selection, tick_s: int, window_s: int) -> None:
        self.selection = selection
        self.tick_s = tick_s
        first, last = np.searchsorted(selection.starts_s, (tick_s - window_s, tick_s))
        self._slice = slice(int(first), int(last))
        self._rows = selection.rows[self._slice]
        self._group_of = selection.group_of[self._slice]
        self._merged: dict[bytes, Merged] = {}

    # The questions of View

    def groups_beyond(self, rule: Rule) -> IndexArray:
        """Groups with data whose value, or for percentiles whose largest or smallest value, is beyond."""
        if rule.statistic == "age":
            groups = np.arange(self.selection.groups)
            return groups[_beyond(rule, self._ages(rule, groups))]
        if rule.quantile is not None and "max" in self.selection.frame.columns:
            extreme = self._max if rule.direction == "above" else self._min
            return np.flatnonzero(_beyond(rule, extreme))
        if rule.quantile is not None:
            return np.flatnonzero(self._samples > 0)
        present = np.flatnonzero(self._weight(rule) > 0)
        return present[_beyond(rule, self._simple(rule)[present])]

    def groups_missing(self, rule: Rule) -> IndexArray:
        """Groups without samples in the window that had some within ``remember`` (the one of no ``by``: always)."""
        if rule.no_data != "alert" or rule.statistic == "age":
            return np.empty(0, np.int64)
        absent = self._weight(rule) == 0
        return np.flatnonzero(absent & self._remembered(rule))

    def observe(self, rule: Rule, groups: IndexArray) -> ObservedSeries:
        """Values, samples and bounds of ``groups``."""
        if rule.statistic == "age":
            ages = self._ages(rule, groups)
            return ObservedSeries(~np.isnan(ages), ages, np.full(len(groups), rule.min_samples), ages, ages)
        samples = self._weight(rule)[groups].astype(np.int64)
        if rule.quantile is not None:
            value, low, high = self._merge(groups).quantile(rule.quantile)
            value = self._exact_where_single(rule.quantile, groups, value)
            return ObservedSeries(samples > 0, value, samples, *self._within_extremes(groups, value, low, high))
        value = self._simple(rule)[groups]
        low, high = value, value
        if rule.statistic == "failure_rate":
            low, high = _percent(wilson(self._sum("failed")[groups], samples))
        elif rule.statistic == "poor_share":
            low, high = _percent(wilson(self._sum("poor")[groups], samples))
        elif rule.statistic == "avg":
            half = self._merge(groups).mean_half_width()
            half = np.where((samples > 1) & (self._min == self._max)[groups], 0.0, half)  # no bucket's width here
            low, high = value - half, value + half
        return ObservedSeries(samples > 0, value, samples, low, high)

    def number(self, values: LabelValues) -> int:
        """The group with these label values."""
        return self.selection.number(values)

    def label_values(self, groups: IndexArray) -> list[LabelValues]:
        """The label values of these groups."""
        return self.selection.label_values(groups)

    def context(self, rule: Rule, group: int) -> Mapping[str, float | str]:  # noqa: ARG002  as View has it
        """Nothing beyond the number itself."""
        return _NO_CONTEXT

    # Sums over groups

    def _sum(self, column: str) -> Float64Array:
        numbers = self.selection.frame.columns[column][self._rows]
        return np.bincount(self._group_of, weights=numbers, minlength=self.selection.groups).astype(np.float64)

    @cached_property
    def _samples(self) -> Float64Array:
        return self._sum("samples")

    @cached_property
    def _total(self) -> Float64Array:
        return self._sum("total")

    @cached_property
    def _max(self) -> Float64Array:
        return self._extreme("max", np.maximum, -np.inf)

    @cached_property
    def _min(self) -> Float64Array:
        return self._extreme("min", np.minimum, np.inf)

    def _extreme(self, column: str, keep: np.ufunc, start: float) -> Float64Array:
        found = np.full(self.selection.groups, start)
        keep.at(found, self._group_of, self.selection.frame.columns[column][self._rows])
        return np.where(np.isinf(found), np.nan, found)

    def _weight(self, rule: Rule) -> Float64Array:
        """How many samples the statistic rests on, per group."""
        return self._total if rule.statistic == "failure_rate" else self._samples

    def _simple(self, rule: Rule) -> Float64Array:
        """Statistics that need no histogram, per group."""
        with np.errstate(invalid="ignore", divide="ignore"):
            simple: dict[str, Callable[[], Float64Array]] = {
                "avg": lambda: self._sum("sum") / self._samples,
                "sum": lambda: self._sum("sum"),
                "count": lambda: self._samples,
                "min": lambda: self._min,
                "max": lambda: self._max,
                "failure_rate": lambda: 100 * self._sum("failed") / self._total,
                "poor_share": lambda: 100 * self._sum("poor") / self._samples,
            }
            return simple[rule.statistic]()

    # Time without data

    def _last_start_s(self) -> IndexArray:
        last = self.selection.last_seen_s.copy()
        np.maximum.at(last, self.selection.group_of[: self._slice.stop], self.selection.starts_s[: self._slice.stop])
        return last

    def _silent_s(self, rule: Rule) -> IndexArray:
        """Seconds since the end of the last window with samples; at most ``remember``."""
        end = self._last_start_s() + self.selection.frame.width_s
        silent = np.where(end > 0, self.tick_s - end, rule.remember_ms // 1000)
        return np.clip(silent, 0, rule.remember_ms // 1000).astype(np.int64)

    def _remembered(self, rule: Rule) -> NDArray[np.bool_]:
        if not rule.by:
            return np.ones(1, dtype=bool)
        return self._silent_s(rule) < rule.remember_ms // 1000

    def _ages(self, rule: Rule, groups: IndexArray) -> Float64Array:
        ages = self._silent_s(rule).astype(np.float64)
        return np.where(self._remembered(rule), ages, np.nan)[groups]

    # Distributions

    def _merge(self, groups: IndexArray) -> Merged:
        key = groups.tobytes()
        if key not in self._merged:
            place = np.full(self.selection.groups, -1, np.int64)
            place[groups] = np.arange(len(groups))
            into = place[self._group_of]
            mine = into >= 0
            self._merged[key] = Merged(self.selection.frame.histograms, self._rows[mine], into[mine], len(groups))
        return self._merged[key]

    def _within_extremes(
        self, groups: IndexArray, value: Float64Array, low: Float64Array, high: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """A bound lies between the extremes, which are exact, and on its own side of the value."""
        if "max" in self.selection.frame.columns:
            low, high = np.maximum(low, self._min[groups]), np.minimum(high, self._max[groups])
        return np.minimum(low, value), np.maximum(high, value)

    def _exact_where_single(self, quantile: float, groups: IndexArray, merged: Float64Array) -> Float64Array:
        column = self.selection.frame.columns.get(_EXACT_PERCENTILES.get(quantile, ""))
        if column is None:
            return merged
        windows = np.bincount(self._group_of, minlength=self.selection.groups)
        only = np.zeros(self.selection.groups)
        only[self._group_of] = column[self._rows]
        return np.where(windows[groups] == 1, only[groups], merged)


def _beyond(rule: Rule, values: Float64Array) -> NDArray[np.bool_]:
    """Beyond the threshold, where an inactive alert begins; NaN is not."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.bool_] = values > rule.threshold if rule.direction == "above" else values < rule.threshold
        return found


def _percent(bounds: tuple[Float64Array, Float64Array]) -> tuple[Float64Array, Float64Array]:
    return 100 * bounds[0], 100 * bounds[1]
