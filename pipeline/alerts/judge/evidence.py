"""Why an alert says what it says: reason, message, and the numbers with a query that gives them again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from pipeline.alerts.judge.state import (
    BREACH,
    FIRING,
    HELD,
    NO_DATA,
    PENDING,
    RESOLVED,
    Alert,
    Change,
    Observation,
    Verdict,
)
from pipeline.alerts.rules.rule import Rule
from pipeline.base import clock, durations
from pipeline.base.sql_text import literal

Context = Mapping[str, float | str]

_INFINITE = math.inf
_MOST_DESCRIPTIONS = 32_768
"""Remembered for one ``by``: 24 MB with three short labels."""
_MOST_BYS = 8


class Account:
    """How a rule accounts for its transitions at one tick: what is the same for all of them is worked out once."""

    def __init__(self, rule: Rule, tick_ms: int) -> None:
        self.rule = rule
        self.tick_ms = tick_ms
        self._about = rule.fact or f"{rule.statistic} of {', '.join(rule.metrics)}"
        self._mixes_units = len(rule.metrics) > 1
        self._unit = _suffix(rule.unit_of())
        self._window = {"from": iso(tick_ms - rule.window_ms), "to": iso(tick_ms)}
        self._query = TickQuery.of(rule, tick_ms) if rule.subject != "facts" else None
        self._fields = _rule_fields(rule)
        self.identity = hashlib.blake2b(sized(rule.name).encode(), digest_size=16)
        self.identity_ends = {state: (sized(str(tick_ms)) + sized(state)).encode() for state in (FIRING, RESOLVED)}
        metric = "vital" if rule.subject == "vitals" else "metric_type"
        columns = tuple([metric if name == "metric_type" else name for name in rule.by])
        self.descriptions = descriptions(tuple(rule.by), columns)
        self._threshold, self._clears_at = shown(rule.threshold), shown(rule.clears_at)
        self._is, self._beyond = f"{self._about} is ", f"{self._unit}, {rule.direction} {self._threshold}{self._unit}"

    def reason(self, change: Change, alert: Alert, value: float, by: Mapping[str, str]) -> str:
        """One line for logs and the ``alerts`` table: the observation, its threshold, since when."""
        if change.verdict is BREACH and change.after is FIRING and not self._mixes_units:
            since = "" if alert.active_at_ms == self.tick_ms else f"; active since {iso(alert.active_at_ms)}"
            return f"{self._is}{shown(value)}{self._beyond}{since}"
        rule, unit = self.rule, self._unit
        if self._mixes_units:
            unit = _suffix(rule.unit_of(by.get("metric_type", "")))
        if change.after is PENDING:
            return (
                f"{self._about} is {shown(value)}{unit}, but the alert is active only since "
                f"{iso(alert.active_at_ms)}, and its rule waits for {durations.show(rule.for_ms)}"
            )
        if change.after is FIRING:
            since = f"; active since {iso(alert.active_at_ms)}" if alert.active_at_ms != self.tick_ms else ""
            return f"{self._firing(change.verdict, alert, value, unit)}{since}"
        if change.verdict is NO_DATA:
            return f"{self._about}: no data any more"
        return f"{self._about} is {shown(value)}{unit}, no longer {rule.direction} {self._clears_at}{unit}"

    def _firing(self, verdict: Verdict, alert: Alert, value: float, unit: str) -> str:
        rule = self.rule
        if verdict is BREACH:
            return f"{self._about} is {shown(value)}{unit}, {rule.direction} {self._threshold}{unit}"
        not_back = f"was {rule.direction} {self._threshold}{unit} and is not back at {self._clears_at}{unit}"
        if verdict is HELD:
            return f"{self._about} is {shown(value)}{unit}: it {not_back}"
        if rule.no_data == "alert" or alert.value is None:
            return f"{self._about}: no data"
        return f"{self._about}: no data; the last value was {shown(alert.value)}{unit}: it {not_back}"

    def message(
        self,
        described: Described,
        alert: Alert,
        observation: Observation | None,
        context: Context,
        change: Change,
        why: str,
    ) -> str:
        """The sentence people read.

        An alert that fires because its number is beyond the threshold speaks in the words of its rule;
        everything else says why, since those words would not be true of it.
        """
        if self.rule.message and observation is not None and change.verdict is BREACH and change.after is FIRING:
            fields = {**self._fields, **described.by}
            fields |= {
                "value": observation.value,
                "samples": observation.samples,
                "low": observation.low,
                "high": observation.high,
            }
            if context:
                fields |= {name: context[name] for name in ("baseline", "spread") if name in context}
            return self.rule.message.format_map(fields)
        named = f"{self.rule.name}{described.about}: {why}"
        if change.after is FIRING:
            return named
        fired = f"; it fired at {iso(alert.fired_at_ms)}" if alert.fired_at_ms is not None else ""
        return f"Resolved: {named}{fired}"

    def evidence(self, described: Described, observation: Observation | None, context: Context, link: str) -> Evidence:
        """What the number rests on, put into words only when it is told."""
        window, query, conditions = self._window, self._query, described.conditions
        if observation is None:
            return Evidence(0, None, None, window, query, conditions, context, link, has_data=False)
        low, high = observation.low, observation.high
        return Evidence(
            observation.samples,
            low if -_INFINITE < low < _INFINITE else None,  # `finite`, without its call
            high if -_INFINITE < high < _INFINITE else None,
            window,
            query,
            conditions,
            context,
            link,
        )


class TickQuery(msgspec.Struct, frozen=True):
    """SQL that gives the numbers of a tick again, from raw rows wherever they hold them; but for one alert's labels.

    Percentiles that were merged from windows agree with it within 1 %, everything else exactly.
    """

    before: str
    after: str

    @classmethod
    def of(cls, rule: Rule, tick_ms: int) -> TickQuery:
        """The query of a rule at a tick."""
        begin, end = _sql_time(tick_ms - rule.window_ms), _sql_time(tick_ms)
        metric = "vital" if rule.subject == "vitals" else "metric_type"
        after = ""
        if rule.subject == "vitals":
            number = "p75" if rule.statistic == "vital_p75" else "100 * poor / samples"
            before = (
                f"SELECT window_start, vital, environment, browser, page, samples, {number} AS value "
                f"FROM web_vitals FINAL WHERE window_start >= '{begin[:19]}' AND window_start < '{end[:19]}'"
            )
        elif rule.subject == "change_points":
            kind, time = ("drift", "detected_at") if rule.statistic == "drift" else ("step", "changed_at")
            before = (
                f"SELECT * FROM change_points FINAL WHERE kind = '{kind}' AND {time} > '{begin}' AND {time} <= '{end}'"
            )
            after = " ORDER BY abs(change_pct) DESC"
        else:
            before = (
                f"SELECT count() AS samples, {_expression(rule)} AS value FROM metrics "
                f"WHERE timestamp >= '{begin}' AND timestamp < '{end}'"
            )
            if rule.metrics == ("duration",):
                before += " AND statusWord(status) != 'retried'"
            elif "duration" in rule.metrics:
                before += " AND (lower(metric_type) != 'duration' OR statusWord(status) != 'retried')"
        if "metric_type" not in rule.by:
            before += f" AND lower({metric}) IN ({', '.join(map(literal, rule.metrics))})"
        for name, values in rule.where.items():
            before += f" AND {name} IN ({', '.join(map(literal, values))})"
        return cls(before, after)


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """What a transition rests on. A storm makes a hundred thousand of them, so that none holds a text of its own."""

    samples: int
    low: float | None
    high: float | None
    window: Mapping[str, str]
    query: TickQuery | None
    """None for facts, of which only the samples are told."""
    conditions: str
    context: Context
    link: str
    has_data: bool = True

    def document(self) -> dict[str, Any]:
        """Samples, window, bounds, query, baseline, link: what stands after the document's keys in every payload."""
        found: dict[str, Any] = {"samples": self.samples}
        if self.query is not None:
            found["window"] = self.window
            if self.has_data:
                found["low"], found["high"] = self.low, self.high
            found["query"] = self.query.before + self.conditions + self.query.after
        for name, value in self.context.items():
            found[name] = finite(value) if isinstance(value, float) else value
        found["link"] = self.link
        return found


class Described(msgspec.Struct, frozen=True, gc=False):
    """What the label values of an alert read like; the same for all rules with the same ``by``."""

    by: Mapping[str, str]
    sized: bytes
    about: str
    conditions: str
    """As ClickHouse reads it, every dimension of ``by``, the empty ones too: they tell series apart."""


class Descriptions(dict[tuple[str, ...], Described]):
    """What label values read like, worked out when first asked for; ``columns`` are the labels' names in the table."""

    def __init__(self, names: tuple[str, ...], columns: tuple[str, ...]) -> None:
        super().__init__()
        self._names = names
        self._columns = columns

    def __missing__(self, values: tuple[str, ...]) -> Described:
        if len(self) >= _MOST_DESCRIPTIONS:
            self.clear()
        by = {name: value for name, value in zip(self._names, values, strict=True) if value}
        about = ", ".join([f"{name} {value}" for name, value in by.items()])
        described = self[values] = Described(
            by,
            sized_labels(by).encode(),
            f" ({about})" if about else "",
            "".join([f" AND {name} = {literal(value)}" for name, value in zip(self._columns, values, strict=True)]),
        )
        return described


descriptions = lru_cache(maxsize=_MOST_BYS)(Descriptions)  # the alerts of all rules with the same ``by`` share theirs


def sized(text: str) -> str:
    """A text with its length before it, which keeps parts apart whatever they contain."""
    return f"{len(text)}:{text}"


def sized_labels(labels: Mapping[str, str]) -> str:
    """Labels in the order of their names, each part with its length."""
    return "".join([sized(part) for label in sorted(labels.items()) for part in label])


def _suffix(unit: str) -> str:
    return f" {unit}" if unit else ""


def _rule_fields(rule: Rule) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(rule.by, "") | dict(rule.labels)
    return fields | {
        "baseline": math.nan,
        "spread": math.nan,
        "rule": rule.name,
        "metric": rule.fact or ", ".join(rule.metrics),
        "statistic": rule.statistic,
        "window": durations.show(rule.window_ms),
        "for": durations.show(rule.for_ms),
        "severity": rule.severity,
        "threshold": rule.threshold,
    }


def _expression(rule: Rule) -> str:
    if rule.quantile is not None:
        return f"quantileExactInclusive({rule.quantile:g})(value)"
    if rule.statistic == "failure_rate":
        return "100 * countIf(statusWord(status) = 'failed') / countIf(statusWord(status) != 'skipped')"
    if rule.statistic == "age":
        return "dateDiff('second', max(timestamp), now64(3, 'UTC'))"
    simple = {"count": "count()", "change_pct": "avg(value)", "change_spreads": "avg(value)"}
    return simple.get(rule.statistic, f"{rule.statistic}(value)")


iso = lru_cache(maxsize=1024)(clock.iso_short)  # all alerts of a tick share their times


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
