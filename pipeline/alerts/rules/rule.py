"""What an alert rule is: its fields, and the statistics it may be about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.analyse.dimensions import SERIES, VITALS, WINDOW_DIMENSIONS

Severity = Literal["info", "warning", "critical"]
NoData = Literal["ignore", "keep", "alert"]
WhenUnsure = Literal["wait", "fire"]
Late = Literal["ignore", "reevaluate"]
Direction = Literal["above", "below"]
Subject = Literal["windows", "vitals", "baselines", "change_points", "facts"]

MINUTE_MS = 60_000
VITAL_WINDOW_MS = 5 * MINUTE_MS
MAX_WINDOW_MS = 24 * 60 * MINUTE_MS
"""Longer windows belong into a baseline: each tick reads the whole window."""

SERIES_DIMENSIONS = SERIES
VITAL_DIMENSIONS = ("metric_type", *WINDOW_DIMENSIONS)
BASELINE_DIMENSIONS = ("test_suite", "environment", "browser", "test_id")
BASELINE_GROUPINGS = (
    ("test_suite",),
    ("test_suite", "environment"),
    ("test_suite", "environment", "browser"),
    ("test_suite", "test_id"),
)
"""What baselines are computed for (``jobs.baselines.GROUPINGS``)."""

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")

STATISTICS: dict[str, tuple[Subject, str]] = {
    "avg": ("windows", "mean of the values"),
    "min": ("windows", "smallest value"),
    "max": ("windows", "largest value"),
    "sum": ("windows", "sum of the values"),
    "count": ("windows", "how many values there were"),
    "p50": ("windows", "median; any percentile may be asked for, as p99.9"),
    "p75": ("windows", "75th percentile"),
    "p90": ("windows", "90th percentile"),
    "p95": ("windows", "95th percentile"),
    "p99": ("windows", "99th percentile"),
    "failure_rate": ("windows", "failed executions, percent of all but the skipped"),
    "age": ("windows", "seconds since the last value"),
    "vital_p75": ("vitals", "75th percentile of a Core Web Vital, browsers by their reported names"),
    "poor_share": ("vitals", "values in the range rated poor, percent; above 25 the vital is rated poor"),
    "change_pct": ("baselines", "mean duration against the baseline, percent of the baseline"),
    "change_spreads": ("baselines", "mean duration against the baseline, in spreads (1.4826 MAD) of it"),
    "change_point": ("change_points", "percent by which a series' level was found to have moved"),
    "drift": ("change_points", "percent a week by which a series drifts, slowly and lastingly"),
}
"""Every statistic by name: where it comes from and what it means."""


_UNIT_OF_STATISTIC = {
    **dict.fromkeys(("failure_rate", "poor_share", "change_pct", "change_point"), "%"),
    "drift": "% a week",
    "age": "s",
    "count": "",
    "change_spreads": "spreads",
}
_MILLISECONDS = frozenset(
    {"duration", "response_time", "load_time", "first_paint", "time_to_interactive", *VITALS} - {"cls"}
)
_UNIT_OF_ENDING = (("bytes_per_s", "bytes/s"), ("_per_s", "a second"), ("_ms", "ms"), ("_s", "s"), ("_pct", "%"))
"""What the names of facts and of collected metrics say of their unit."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule. Times in milliseconds; ``every_ms`` divides the ticks at which it is judged."""

    name: str
    threshold: float
    direction: Direction = "above"
    clears_at: float = 0.0
    metrics: tuple[str, ...] = ()
    fact: str = ""
    statistic: str = "avg"
    window_ms: int = MINUTE_MS
    every_ms: int = MINUTE_MS
    by: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    for_ms: int = 0
    keep_firing_for_ms: int = 0
    min_samples: int = 1
    when_unsure: WhenUnsure = "wait"
    no_data: NoData = "ignore"
    remember_ms: int = 6 * 60 * MINUTE_MS
    stale_after_ms: int = 0
    late: Late = "ignore"
    severity: Severity = "warning"
    type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    about: str = ""
    unit: str = ""
    line: int = 0

    @property
    def subject(self) -> Subject:
        """Where its numbers come from."""
        if self.fact:
            return "facts"
        return STATISTICS[self.statistic][0] if self.statistic in STATISTICS else "windows"

    @property
    def quantile(self) -> float | None:
        """Which quantile its statistic is; None for every other statistic."""
        found = _PERCENTILE.fullmatch("p75" if self.statistic == "vital_p75" else self.statistic)
        return float(found[1]) / 100 if found and not self.fact else None

    @property
    def five_minutes(self) -> bool:
        """Whether the 5-minute windows answer it, which cost a fifth of the reading."""
        step = VITAL_WINDOW_MS
        return self.subject == "vitals" or (self.window_ms % step == 0 and self.every_ms % step == 0)

    def unit_of(self, metric: str = "") -> str:
        """The unit of its number for people, as ``ms``; empty when it has none or none is known.

        ``metric`` is the one meant when the rule is about several.
        """
        if self.unit or self.statistic in _UNIT_OF_STATISTIC:
            return self.unit or _UNIT_OF_STATISTIC[self.statistic]
        name = self.fact or metric.lower() or (self.metrics[0] if self.metrics else "")
        if name in _MILLISECONDS:
            return "ms"
        return next((unit for ending, unit in _UNIT_OF_ENDING if name.endswith(ending)), "")

    def beyond(self, value: float, *, active: bool) -> bool:
        """Whether ``value`` lies beyond the threshold; for an active alert, beyond where it clears."""
        bound = self.clears_at if active else self.threshold
        return value > bound if self.direction == "above" else value < bound


def is_statistic(name: str) -> bool:
    """Whether rules may ask for this statistic."""
    found = _PERCENTILE.fullmatch(name)
    return name in STATISTICS or (found is not None and float(found[1]) > 0)
