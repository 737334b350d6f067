"""Why an alert says what it says: reason, message, and the numbers with a query that gives them again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pipeline.alerts.judge.state import Change, Observation, State, Verdict
from pipeline.alerts.rules.rule import Rule
from pipeline.base import clock, durations

Context = Mapping[str, float | str]


class Account:
    """How a rule accounts for its transitions at one tick: what is the same for all of them is worked out once."""

    def __init__(self, rule: Rule, tick_ms: int) -> None:
        self.rule = rule
        self.tick_ms = tick_ms
        self._subject = rule.fact or f"{rule.statistic} of {', '.join(rule.metrics)}"
        held = f" for {durations.show(rule.for_ms)}" if rule.for_ms else ""
        self._began = f", {rule.direction} {shown(rule.threshold)}{held}"
        self._held = f", was {rule.direction} {shown(rule.threshold)} and not back at {shown(rule.clears_at)}{held}"
        self._ended = f", no longer {rule.direction} {shown(rule.clears_at)}"
        self._nothing = f": no data{held}"
        self._window = {"from": iso(tick_ms - rule.window_ms), "to": iso(tick_ms)}
        self._query = _Query(rule, tick_ms) if rule.source != "facts" else None
        self._fields = _rule_fields(rule)

    def reason(self, change: Change, value: float) -> str:
        """One line for logs and the ``alerts`` table: what was seen, against what, for how long."""
        if change.after is State.FIRING:
            if change.verdict is Verdict.NO_DATA:
                return f"{self._subject}{self._nothing}"
            return f"{self._subject} is {shown(value)}{self._held if change.verdict is Verdict.HELD else self._began}"
        if change.verdict is Verdict.NO_DATA:
            return f"{self._subject}: no data any more"
        return f"{self._subject} is {shown(value)}{self._ended}"

    def message(
        self, labels: Mapping[str, str], seen: Observation | None, context: Context, change: Change, reason: str
    ) -> str:
        """The sentence people read: a firing alert in the words of its rule, everything else by its reason."""
        if not self.rule.message or seen is None or change.after is State.RESOLVED:
            about = ", ".join(f"{name} {value}" for name, value in labels.items())
            over = "Resolved: " if change.after is State.RESOLVED else ""
            return f"{over}{self.rule.name}{f' ({about})' if about else ''}: {reason}"
        fields = {**self._fields, **labels, **seen._asdict()}
        fields |= {name: context.get(name, math.nan) for name in ("baseline", "spread")}
        return self.rule.message.format_map(fields)

    def evidence(
        self, labels: Mapping[str, str], seen: Observation | None, context: Context, link: str
    ) -> dict[str, Any]:
        """Samples, window, bounds, baseline, query, link: what stands after the document's keys in every payload."""
        found: dict[str, Any] = {"samples": seen.samples if seen else 0}
        if self._query is not None:
            found["window"] = self._window
            if seen:
                found |= {"low": finite(seen.low), "high": finite(seen.high)}
            found["query"] = self._query.about(labels)
        found |= {name: finite(value) if isinstance(value, float) else value for name, value in context.items()}
        found["link"] = link
        return found


def _rule_fields(rule: Rule) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(rule.by, "") | dict(rule.labels)
    return fields | {
        "rule": rule.name,
        "metric": rule.fact or ", ".join(rule.metrics),
        "statistic": rule.statistic,
        "window": durations.show(rule.window_ms),
        "for": durations.show(rule.for_ms),
        "severity": rule.severity,
        "threshold": rule.threshold,
    }


class _Query:
    """SQL that gives the number again, from raw rows wherever they hold it.

    Percentiles that were merged from windows agree with it within 1 %, everything else exactly.
    """

    def __init__(self, rule: Rule, tick_ms: int) -> None:
        begin, end = _sql_time(tick_ms - rule.window_ms), _sql_time(tick_ms)
        metric = "vital" if rule.source == "vitals" else "metric_type"
        self._columns = [(name, metric if name == "metric_type" else name) for name in rule.by]
        self._after = ""
        if rule.source == "vitals":
            number = "p75" if rule.statistic == "vital_p75" else "100 * poor / samples"
            self._before = (
                f"SELECT window_start, vital, environment, browser, page, samples, {number} AS value "
                f"FROM web_vitals FINAL WHERE window_start >= '{begin[:19]}' AND window_start < '{end[:19]}'"
            )
        elif rule.source == "change_points":
            self._before = f"SELECT * FROM change_points FINAL WHERE changed_at > '{begin}' AND changed_at <= '{end}'"
            self._after = " ORDER BY abs(change_pct) DESC"
        else:
            self._before = (
                f"SELECT count() AS samples, {_expression(rule)} AS value FROM metrics "
                f"WHERE timestamp >= '{begin}' AND timestamp < '{end}'"
            )
        if "metric_type" not in rule.by:
            self._before += f" AND lower({metric}) IN ({', '.join(map(quoted, rule.metrics))})"
        for name, values in rule.where.items():
            self._before += f" AND {name} IN ({', '.join(map(quoted, values))})"

    def about(self, labels: Mapping[str, str]) -> str:
        """The query of one alert; it names every dimension of ``by``, the empty ones too: they tell series apart."""
        conditions = "".join([f" AND {column} = {quoted(labels.get(name, ''))}" for name, column in self._columns])
        return f"{self._before}{conditions}{self._after}"


def _expression(rule: Rule) -> str:
    if rule.quantile is not None:
        return f"quantileExactInclusive({rule.quantile:g})(value)"
    if rule.statistic == "failure_rate":
        return "100 * countIf(status = 'failed') / countIf(status != 'skipped')"
    if rule.statistic == "age":
        return "dateDiff('second', max(timestamp), now64(3, 'UTC'))"
    simple = {"count": "count()", "change_pct": "avg(value)", "change_spreads": "avg(value)"}
    return simple.get(rule.statistic, f"{rule.statistic}(value)")


def quoted(text: str) -> str:
    """A string as ClickHouse reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@lru_cache(maxsize=1024)  # all alerts of a tick share their times
def iso(time_ms: int) -> str:
    """2025-01-11T12:00:00Z, with milliseconds only where there are any."""
    return clock.iso(time_ms).replace(".000Z", "Z")


def shown(value: float) -> str:
    """A number for people: six significant digits, no exponent for everyday sizes."""
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:.6g}"


def finite(value: float | None) -> float | None:
    """What JSON can say."""
    return value if value is not None and math.isfinite(value) else None


@lru_cache(maxsize=1024)
def _sql_time(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03d}"
