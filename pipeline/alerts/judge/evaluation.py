"""One rule, some ticks: from views and the alerts that were, to the transitions there are.

Pure. Arrays say which groups lie beyond the threshold; only those, the missing ones and the alerts
that are not inactive go through ``state.step``. The same data, rule and ticks give the same
transitions with the same ids, whether judged live, caught up or replayed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.alerts.judge.evidence import Account, Context
from pipeline.alerts.judge.frames import LabelValues
from pipeline.alerts.judge.state import Alert, Change, Observation, State, Verdict, step
from pipeline.alerts.judge.views import View
from pipeline.alerts.rules.rule import Rule
from pipeline.analyse.quantiles import IndexArray

Alerts = dict[LabelValues, Alert]
"""The alerts of one rule that are not inactive, by the values of its ``by``."""


@dataclass(frozen=True)
class Transition:
    """An alert began to fire or was resolved, at a tick, with the evidence for it."""

    transition_id: str
    alert_id: str
    rule: str
    type: str
    severity: str
    at_ms: int
    from_state: State
    to_state: State
    labels: Mapping[str, str]
    value: float
    threshold: float
    reason: str
    message: str
    active_at_ms: int
    fired_at_ms: int | None
    resolved_at_ms: int | None
    statistic: str = ""
    by: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)


def alert_id(rule: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert: its rule and label set, nothing else."""
    return _digest(rule, *_flat(labels))


def transition_id(rule: str, labels: Mapping[str, str], at_ms: int, to_state: State) -> str:
    """The identity of a transition: the same however often it is computed."""
    return _digest(rule, *_flat(labels), str(at_ms), to_state.value)


def _flat(labels: Mapping[str, str]) -> list[str]:
    return [part for label in sorted(labels.items()) for part in label]


def judge_tick(rule: Rule, tick_ms: int, view: View, alerts: Alerts, page_url: str = "") -> list[Transition]:
    """Judge every group at one tick; changes ``alerts`` in place and returns who fired or resolved, in label order."""
    missing = view.groups_missing(rule)
    known = {labels: view.number(labels) for labels in alerts}
    present = [number for number in known.values() if number >= 0]
    groups = np.unique(
        np.concatenate([view.groups_beyond(rule), missing, np.array(present, np.int64)]).astype(np.int64)
    )
    judged = list(_observations(view, rule, groups))
    judged += [(labels, -1, None) for labels, number in known.items() if number < 0]
    # A series that nobody remembers any more is not missing; it is gone.
    gone = replace(rule, no_data="ignore") if rule.no_data == "alert" else rule
    remembered = set(missing.tolist())
    account = Account(rule, tick_ms)
    transitions = []
    for labels, group, observation in sorted(judged, key=_by_labels):
        before = alerts.get(labels)
        verdict_rule = rule if observation is not None or group in remembered else gone
        after, change = step(before, observation, tick_ms, verdict_rule)
        if after is None:
            alerts.pop(labels, None)
        elif after is not before:
            alerts[labels] = after
        if after is not None and change is not None and change.after is not State.PENDING:
            context = view.context(rule, group) if group >= 0 else {}
            transitions.append(transition(account, labels, after, change, observation, context, page_url))
    return transitions


def judge(
    rule: Rule, ticks_ms: Iterable[int], view_at: Callable[[int], View], alerts: Alerts, page_url: str = ""
) -> list[Transition]:
    """Judge ticks one after the other; changes ``alerts`` in place."""
    return [found for tick in ticks_ms for found in judge_tick(rule, tick, view_at(tick), alerts, page_url)]


def withdraw(rule: Rule, alerts: Alerts, labels: LabelValues, tick_ms: int, reason: str) -> Transition | None:
    """Take an alert away for a reason outside its data (its rule is gone); a firing one is resolved by it."""
    alert = alerts.pop(labels)
    if alert.state is not State.FIRING:
        return None
    resolved = replace(alert, state=State.RESOLVED, resolved_at_ms=tick_ms)
    change = Change(State.FIRING, State.RESOLVED, Verdict.NO_DATA)
    written = transition(Account(rule, tick_ms), labels, resolved, change, None, {}, "")
    return replace(written, reason=reason)


def transition(
    account: Account,
    labels: LabelValues,
    alert: Alert,
    change: Change,
    seen: Observation | None,
    context: Context,
    page_url: str,
) -> Transition:
    """Write down one change with its evidence."""
    rule, tick_ms = account.rule, account.tick_ms
    by = {name: value for name, value in zip(rule.by, labels, strict=True) if value}
    identity = alert_id(rule.name, by)
    number = seen.value if seen else math.nan
    reason = account.reason(change, number)
    return Transition(
        transition_id=transition_id(rule.name, by, tick_ms, change.after),
        alert_id=identity,
        rule=rule.name,
        type=rule.type or rule.name,
        severity=rule.severity,
        at_ms=tick_ms,
        from_state=change.before,
        to_state=change.after,
        labels={**by, **rule.labels},
        value=number,
        threshold=rule.threshold,
        reason=reason,
        message=account.message(by, seen, context, change, reason),
        active_at_ms=alert.active_at_ms,
        fired_at_ms=alert.fired_at_ms,
        resolved_at_ms=alert.resolved_at_ms,
        statistic=rule.statistic,
        by=by,
        evidence=account.evidence(by, seen, context, f"{page_url}/alerts/{identity}" if page_url else ""),
    )


def ticks(rule: Rule, after_ms: int, until_ms: int) -> Sequence[int]:
    """The multiples of ``every`` in (after, until]."""
    return range((after_ms // rule.every_ms + 1) * rule.every_ms, until_ms + 1, rule.every_ms)


def _observations(view: View, rule: Rule, groups: IndexArray) -> Iterator[tuple[LabelValues, int, Observation | None]]:
    seen = view.observe(rule, groups)
    columns = (seen.present, seen.value, seen.samples, seen.low, seen.high)
    for group, present, *numbers in zip(groups.tolist(), *(column.tolist() for column in columns), strict=True):
        yield view.label_values(group), group, Observation(*numbers) if present else None


def _by_labels(judged: tuple[LabelValues, int, Observation | None]) -> LabelValues:
    return judged[0]


def _digest(*parts: str) -> str:
    # Lengths keep the parts apart, whatever they contain.
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
