"""Views over what comes as a handful of numbers rather than as windows: baselines, change points, facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import astuple

from pipeline.alerts.judge.frames import LabelValues
from pipeline.alerts.judge.state import Observation
from pipeline.alerts.judge.verdicts import ObservedSeries
from pipeline.alerts.judge.views import WindowView
from pipeline.alerts.rules.rule import Rule
from pipeline.analyse.cycles import slot
from pipeline.analyse.quantiles import Float64Array, IndexArray

Context = dict[str, float | str]


@dataclass(frozen=True)
class ListEntry:
    """One label set and its number."""

    labels: LabelValues
    observation: Observation
    context: Context = field(default_factory=dict)


@dataclass(frozen=True)
class ChangePoint:
    """A row of ``change_points``."""

    changed_at_ms: int
    detected_at_ms: int
    dimensions: Mapping[str, str]
    change_pct: float
    points: int
    level_before: float
    level_after: float
    kind: str = "step"
    slope_pct_per_day: Sequence[float] = ()
    """Of a drift, with its lower and upper bound."""
    explanation: str = ""


@dataclass(frozen=True)
class Baseline:
    """A row of ``baselines`` that has enough history."""

    computed_at_ms: int
    dimensions: Mapping[str, str]
    centre: float
    spread: float
    samples: int
    cycle: str = ""
    cycle_factors: Sequence[float] = ()
    """What ``centre`` is multiplied by in each half hour of the week; none without a cycle."""

    def factor(self, at_ms: int) -> float:
        """What is usual at this time, as a multiple of ``centre``."""
        return self.cycle_factors[int(slot(at_ms / 1000))] if self.cycle_factors else 1.0


class ListView:
    """A view over entries; of several with the same labels the one furthest beyond counts."""

    def __init__(self, entries: Sequence[ListEntry], rule: Rule) -> None:
        worst: dict[LabelValues, ListEntry] = {}
        for entry in entries:
            other = worst.get(entry.labels)
            if other is None or (entry.observation.value > other.observation.value) == (rule.direction == "above"):
                worst[entry.labels] = entry
        self._entries = list(worst.values())
        self._missing: list[LabelValues] = [] if rule.by or () in worst else [()]
        self._numbers = {entry.labels: number for number, entry in enumerate(self._entries)}
        self._numbers |= {labels: len(self._entries) + i for i, labels in enumerate(self._missing)}

    def groups_beyond(self, rule: Rule) -> IndexArray:
        """Groups beyond the threshold."""
        values = np.array([entry.observation.value for entry in self._entries], dtype=np.float64)
        return np.flatnonzero(values > rule.threshold if rule.direction == "above" else values < rule.threshold)

    def groups_missing(self, rule: Rule) -> IndexArray:
        """The one group of a rule without ``by``, when there is no number."""
        if rule.no_data != "alert":
            return np.empty(0, np.int64)
        return np.arange(len(self._missing)) + len(self._entries)

    def observe(self, rule: Rule, groups: IndexArray) -> ObservedSeries:  # noqa: ARG002  as View has it
        """The entries' own numbers."""
        nothing = Observation(math.nan, 0)
        observations = [
            astuple(self._entries[g].observation if g < len(self._entries) else nothing) for g in groups.tolist()
        ]
        columns = np.array(observations, dtype=np.float64).reshape(-1, 4).T
        return ObservedSeries(~np.isnan(columns[0]), columns[0], columns[1].astype(np.int64), columns[2], columns[3])

    def number(self, values: LabelValues) -> int:
        """The entry with these labels."""
        return self._numbers.get(values, -1)

    def label_values(self, groups: IndexArray) -> list[LabelValues]:
        """The labels of these entries."""
        known = [*(entry.labels for entry in self._entries), *self._missing]
        return [known[group] for group in groups.tolist()]

    def context(self, rule: Rule, group: int) -> Context:  # noqa: ARG002
        """What the entry brought along."""
        return self._entries[group].context if group < len(self._entries) else {}


def fact_view(readings: Sequence[tuple[Mapping[str, str], float]], rule: Rule) -> ListView:
    """The readings of a fact, grouped by the rule's labels."""
    return ListView(
        [
            ListEntry(_labels_of(labels, rule.by), Observation(value, rule.min_samples, value, value))
            for labels, value in readings
            if not math.isnan(value)
        ],
        rule,
    )


def change_point_view(changes: Sequence[ChangePoint], rule: Rule, tick_ms: int) -> ListView:
    """The changes of the last ``window`` that had been found by ``tick_ms``; of drifts those found in it."""
    entries = []
    is_about_drifts = rule.statistic == "drift"
    for change in changes:
        is_drift = change.kind == "drift"
        at_ms = change.detected_at_ms if is_drift else change.changed_at_ms
        is_recent = tick_ms - rule.window_ms < at_ms <= tick_ms and change.detected_at_ms <= tick_ms
        if is_drift == is_about_drifts and is_recent and _concerns(change.dimensions, rule):
            entries.append(ListEntry(_labels_of(change.dimensions, rule.by), _observation(change), _found(change)))
    return ListView(entries, rule)


def _observation(change: ChangePoint) -> Observation:
    """The change's size; of a drift its slope in percent a week, with its bounds."""
    if change.kind != "drift":
        return Observation(change.change_pct, change.points, change.change_pct, change.change_pct)
    slope, low, high = (7.0 * one for one in change.slope_pct_per_day)
    return Observation(slope, change.points, low, high)


def _found(change: ChangePoint) -> Context:
    context: Context = {
        "changed_at_ms": change.changed_at_ms,
        "baseline": change.level_before,
        "level_after": change.level_after,
    }
    return context | ({"explanation": change.explanation} if change.explanation else {})


class BaselineView:
    """Mean durations of a window against the baselines that were known when it began."""

    def __init__(self, windows: WindowView, baselines: Sequence[Baseline], rule: Rule, tick_ms: int) -> None:
        groups = windows.selection.groups
        self._windows = windows
        self._centre: Float64Array = np.full(groups, np.nan)
        self._spread: Float64Array = np.full(groups, np.nan)
        self._cycles: dict[int, str] = {}
        for baseline in baselines:  # in order of time: the last one that had been computed stays
            # Known before the window began, so that what is judged is no part of its own measure.
            if baseline.computed_at_ms > tick_ms - rule.window_ms or not _is_exactly_by(baseline.dimensions, rule.by):
                continue
            group = windows.number(_labels_of(baseline.dimensions, rule.by))
            if group >= 0:
                # Like with like: at this time of the week this much is usual.
                usual = baseline.factor(tick_ms - rule.window_ms // 2)
                self._centre[group], self._spread[group] = baseline.centre * usual, baseline.spread * usual
                self._cycles[group] = baseline.cycle

    def groups_beyond(self, rule: Rule) -> IndexArray:
        """Groups with data and a baseline, beyond the threshold."""
        groups = np.flatnonzero(~np.isnan(self._centre))
        with np.errstate(invalid="ignore"):
            values = self.observe(rule, groups).value
            return groups[values > rule.threshold if rule.direction == "above" else values < rule.threshold]

    def groups_missing(self, rule: Rule) -> IndexArray:
        """Groups without samples."""
        return self._windows.groups_missing(rule)

    def observe(self, rule: Rule, groups: IndexArray) -> ObservedSeries:
        """The change of the mean; a group without a baseline has no data."""
        means = self._windows.observe(_MEAN, groups)
        centre, spread = self._centre[groups], self._spread[groups]
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = centre / 100 if rule.statistic == "change_pct" else spread
            unit = np.where(unit > 0, unit, np.nan)
            value, low, high = ((number - centre) / unit for number in (means.value, means.low, means.high))
        return ObservedSeries(means.present & ~np.isnan(value), value, means.samples, low, high)

    def number(self, values: LabelValues) -> int:
        """The group with these label values."""
        return self._windows.number(values)

    def label_values(self, groups: IndexArray) -> list[LabelValues]:
        """The label values of these groups."""
        return self._windows.label_values(groups)

    def context(self, rule: Rule, group: int) -> Context:  # noqa: ARG002
        """The baseline it was measured against."""
        if np.isnan(self._centre[group]):
            return {}
        context: Context = {"baseline": float(self._centre[group]), "spread": float(self._spread[group])}
        cycle = self._cycles.get(group)
        return context | ({"cycle": cycle} if cycle else {})


_MEAN = Rule("mean", 0.0, statistic="avg")


def _labels_of(dimensions: Mapping[str, str], by: Sequence[str]) -> LabelValues:
    return tuple(dimensions.get(name, "") for name in by)


def _concerns(dimensions: Mapping[str, str], rule: Rule) -> bool:
    if rule.metrics and dimensions.get("metric_type", "").lower() not in rule.metrics:
        return False
    return all(dimensions.get(name, "") in values for name, values in rule.where.items())


def _is_exactly_by(dimensions: Mapping[str, str], by: Sequence[str]) -> bool:
    """A baseline of a suite in one browser is not that of the suite: dimensions not asked for must be empty."""
    return all(name in by or not value for name, value in dimensions.items())
