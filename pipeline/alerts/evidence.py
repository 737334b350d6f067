"""Why an alert says what it says: reason, message, and the numbers with a query that gives them again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.alerts import durations
from pipeline.alerts.rule import Rule
from pipeline.alerts.state import Change, Observation, State, Verdict


def reason(rule: Rule, change: Change, value: float) -> str:
    """One line for logs and the ``alerts`` table: what was seen, against what, for how long."""
    subject = rule.fact or f"{rule.statistic} of {', '.join(rule.metrics)}"
    held = f" for {durations.show(rule.for_ms)}" if rule.for_ms else ""
    if change.after is State.FIRING:
        if change.verdict is Verdict.NO_DATA:
            return f"{subject}: no data{held}"
        return f"{subject} is {shown(value)}, {rule.direction} {shown(rule.threshold)}{held}"
    if change.verdict is Verdict.NO_DATA:
        return f"{subject}: no data any more"
    return f"{subject} is {shown(value)}, no longer {rule.direction} {shown(rule.clears_at)}"


def message(
    rule: Rule,
    labels: Mapping[str, str],
    seen: Observation | None,
    context: Mapping[str, float | str],
    change: Change,
) -> str:
    """The sentence people read: of a firing alert the rule's template; without one, and when it is over, the reason."""
    if not rule.message or seen is None or change.after is State.RESOLVED:
        about = ", ".join(f"{name} {value}" for name, value in labels.items())
        line = reason(rule, change, seen.value if seen else math.nan)
        over = "Resolved: " if change.after is State.RESOLVED else ""
        return f"{over}{rule.name}{f' ({about})' if about else ''}: {line}"
    fields: dict[str, Any] = dict.fromkeys(rule.by, "") | dict(labels) | dict(rule.labels)
    fields |= {
        "rule": rule.name,
        "metric": rule.fact or ", ".join(rule.metrics),
        "statistic": rule.statistic,
        "window": durations.show(rule.window_ms),
        "for": durations.show(rule.for_ms),
        "severity": rule.severity,
        "value": seen.value,
        "threshold": rule.threshold,
        "samples": seen.samples,
        "low": seen.low,
        "high": seen.high,
        "baseline": context.get("baseline", math.nan),
        "spread": context.get("spread", math.nan),
    }
    return rule.message.format_map(fields)


def collect(
    rule: Rule,
    labels: Mapping[str, str],
    tick_ms: int,
    seen: Observation | None,
    context: Mapping[str, float | str],
    link: str,
) -> dict[str, Any]:
    """Samples, window, bounds, baseline, query, link: what stands after the document's keys in every payload."""
    found: dict[str, Any] = {"samples": seen.samples if seen else 0}
    if rule.source != "facts":
        found["window"] = {"from": iso(tick_ms - rule.window_ms), "to": iso(tick_ms)}
        if seen:
            found |= {"low": finite(seen.low), "high": finite(seen.high)}
        found["query"] = query(rule, labels, tick_ms)
    found |= {name: finite(value) if isinstance(value, float) else value for name, value in context.items()}
    found["link"] = link
    return found


def query(rule: Rule, labels: Mapping[str, str], tick_ms: int) -> str:
    """SQL that gives the number again, from raw rows wherever they hold it.

    Percentiles that were merged from windows agree with it within 1 %, everything else exactly.
    """
    begin, end = _sql_time(tick_ms - rule.window_ms), _sql_time(tick_ms)
    if rule.source == "vitals":
        number = "p75" if rule.statistic == "vital_p75" else "100 * poor / samples"
        conditions = _conditions("vital", rule, labels)
        return (
            f"SELECT window_start, vital, environment, browser, page, samples, {number} AS value FROM web_vitals FINAL "
            f"WHERE window_start >= '{begin[:19]}' AND window_start < '{end[:19]}'{conditions}"
        )
    if rule.source == "change_points":
        conditions = _conditions("metric_type", rule, labels)
        return (
            f"SELECT * FROM change_points FINAL WHERE changed_at > '{begin}' AND changed_at <= '{end}'{conditions} "
            "ORDER BY abs(change_pct) DESC"
        )
    conditions = _conditions("metric_type", rule, labels)
    return (
        f"SELECT count() AS samples, {_expression(rule)} AS value FROM metrics "
        f"WHERE timestamp >= '{begin}' AND timestamp < '{end}'{conditions}"
    )


def _expression(rule: Rule) -> str:
    if rule.quantile is not None:
        return f"quantileExactInclusive({rule.quantile:g})(value)"
    if rule.statistic == "failure_rate":
        return "100 * countIf(status = 'failed') / countIf(status != 'skipped')"
    if rule.statistic == "age":
        return "dateDiff('second', max(timestamp), now64(3, 'UTC'))"
    simple = {"count": "count()", "change_pct": "avg(value)", "change_spreads": "avg(value)"}
    return simple.get(rule.statistic, f"{rule.statistic}(value)")


def _conditions(metric_column: str, rule: Rule, labels: Mapping[str, str]) -> str:
    """Every dimension of ``by``, the empty ones too: they are part of which series this is."""
    column_of = {"metric_type": metric_column}
    conditions = []
    if "metric_type" not in rule.by:
        conditions.append(f"lower({metric_column}) IN ({', '.join(map(quoted, rule.metrics))})")
    conditions += [f"{column_of.get(name, name)} = {quoted(labels.get(name, ''))}" for name in rule.by]
    conditions += [f"{name} IN ({', '.join(map(quoted, values))})" for name, values in rule.where.items()]
    return "".join(f" AND {condition}" for condition in conditions)


def quoted(text: str) -> str:
    """A string as ClickHouse reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def iso(time_ms: int) -> str:
    """2025-01-11T12:00:00Z, with milliseconds only where there are any."""
    whole, milliseconds = divmod(time_ms, 1000)
    seconds = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{milliseconds:03d}Z" if milliseconds else f"{seconds}Z"


def shown(value: float) -> str:
    """A number for people: six significant digits, no exponent for everyday sizes."""
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:.6g}"


def finite(value: float | None) -> float | None:
    """What JSON can say."""
    return value if value is not None and math.isfinite(value) else None


def _sql_time(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03d}"
