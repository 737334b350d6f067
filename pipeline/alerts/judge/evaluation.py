"""One rule, some ticks: from views and the alerts that were, to the transitions there are.

Pure. Arrays say which groups lie beyond the threshold; only those, the missing ones and the alerts
that are not inactive go through ``state.step``. The same data, rule and ticks give the same
transitions with the same ids, whether judged live, caught up or replayed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

import msgspec
import numpy as np
from msgspec import structs

from pipeline.alerts.judge.evidence import Account, Context, Evidence, sized, sized_labels
from pipeline.alerts.judge.frames import LabelValues
from pipeline.alerts.judge.state import (
    FIRING,
    NO_DATA,
    PENDING,
    RESOLVED,
    Alert,
    Change,
    Observation,
    State,
    Verdict,
    follow,
)
from pipeline.alerts.judge.verdicts import judge_all
from pipeline.alerts.judge.views import View
from pipeline.alerts.rules.rule import Rule
from pipeline.analyse.quantiles import IndexArray
from pipeline.base import garbage

Alerts = dict[LabelValues, Alert]
"""The alerts of one rule that are not inactive, by the values of its ``by``."""


class Transition(msgspec.Struct, frozen=True, gc=False):
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
    statistic: str
    by: Mapping[str, str]
    evidence: Evidence


def alert_id(rule: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert: its rule and label set, nothing else."""
    return _identity(rule, labels).hexdigest()


def transition_id(rule: str, labels: Mapping[str, str], at_ms: int, to_state: State) -> str:
    """The identity of a transition: the same however often it is computed."""
    return _identity_at(_identity(rule, labels), at_ms, to_state)


def _identity(rule: str, labels: Mapping[str, str]) -> hashlib.blake2b:
    return hashlib.blake2b((sized(rule) + sized_labels(labels)).encode(), digest_size=16)


def _identity_at(identity: hashlib.blake2b, at_ms: int, to_state: State) -> str:
    continued = identity.copy()
    continued.update((sized(str(at_ms)) + sized(to_state.value)).encode())
    return continued.hexdigest()


@garbage.paused()
def judge_tick(rule: Rule, tick_ms: int, view: View, alerts: Alerts, page_url: str = "") -> list[Transition]:
    """Judge every group at one tick; changes ``alerts`` in place and returns who fired or resolved, in label order."""
    missing = view.groups_missing(rule)
    known = {labels: view.number(labels) for labels in alerts}
    present = [number for number in known.values() if number >= 0]
    groups = np.unique(
        np.concatenate([view.groups_beyond(rule), missing, np.array(present, np.int64)]).astype(np.int64)
    )
    judged = _judged(view, rule, groups, alerts)
    judged += [(labels, -1, None, NO_DATA) for labels, number in known.items() if number < 0]
    # A series that is no longer remembered is not missing; it is gone.
    gone = replace(rule, no_data="ignore") if rule.no_data == "alert" else rule
    remembered = set(missing.tolist())
    account = Account(rule, tick_ms)
    transitions = []
    for labels, group, observation, verdict in sorted(judged, key=_BY_LABELS):
        before = alerts.get(labels)
        verdict_rule = rule if observation is not None or group in remembered else gone
        after, change = follow(before, observation, verdict, tick_ms, verdict_rule)
        if after is None:
            alerts.pop(labels, None)
        elif after is not before:
            alerts[labels] = after
        # Firing and resolved are told; pending only when it fired before (its rule's ``for`` was raised).
        if change is not None and after is not None and (change.after is not PENDING or change.before is FIRING):
            context = view.context(rule, group) if group >= 0 else _NO_CONTEXT
            transitions.append(transition(account, labels, after, change, observation, context, page_url, before))
    return transitions


_NO_CONTEXT: Context = {}


def judge(
    rule: Rule, ticks_ms: Iterable[int], view_at: Callable[[int], View], alerts: Alerts, page_url: str = ""
) -> list[Transition]:
    """Judge ticks one after the other; changes ``alerts`` in place."""
    return [found for tick in ticks_ms for found in judge_tick(rule, tick, view_at(tick), alerts, page_url)]


def withdraw(rule: Rule, alerts: Alerts, labels: LabelValues, at_ms: int, reason: str) -> Transition | None:
    """Take an alert away for a reason outside its data (its rule is gone); a firing one is resolved by it."""
    alert = alerts.pop(labels)
    if alert.state is not FIRING:
        return None
    resolved = structs.replace(alert, state=RESOLVED, resolved_at_ms=at_ms)
    change = Change(FIRING, RESOLVED, NO_DATA)
    return transition(Account(rule, at_ms), labels, resolved, change, None, {}, "", reason=reason)


def transition(
    account: Account,
    labels: LabelValues,
    alert: Alert,
    change: Change,
    observation: Observation | None,
    context: Context,
    page_url: str,
    before: Alert | None = None,
    reason: str = "",
) -> Transition:
    """Write down one change with its evidence; ``reason`` stands instead of the one that the numbers give."""
    rule, tick_ms = account.rule, account.tick_ms
    described = account.descriptions[labels]
    by = described.by
    identity = account.identity.copy()
    identity.update(described.sized)
    alert_id_ = identity.hexdigest()
    number = observation.value if observation is not None else math.nan
    why = reason or account.reason(change, alert, number, by)
    to_state = change.after
    fired_at_ms, resolved_at_ms = alert.fired_at_ms, alert.resolved_at_ms
    if to_state is PENDING:  # it fired and does not any more: for every reader of the alert that is a resolution
        to_state, resolved_at_ms = RESOLVED, tick_ms
        fired_at_ms = before.fired_at_ms if before is not None else None
        alert = structs.replace(alert, fired_at_ms=fired_at_ms)
    identity.update(account.identity_ends[to_state])
    return Transition(
        identity.hexdigest(),
        alert_id_,
        rule.name,
        rule.type or rule.name,
        rule.severity,
        tick_ms,
        change.before,
        to_state,
        {**by, **rule.labels} if rule.labels else by,
        number,
        rule.threshold,
        why,
        account.message(described, alert, observation, context, change, why),
        alert.active_at_ms,
        fired_at_ms,
        resolved_at_ms,
        rule.statistic,
        by,
        account.evidence(described, observation, context, f"{page_url}/alerts/{alert_id_}" if page_url else ""),
    )


def ticks(rule: Rule, after_ms: int, until_ms: int) -> Sequence[int]:
    """The multiples of ``every`` in (after, until]."""
    return range((after_ms // rule.every_ms + 1) * rule.every_ms, until_ms + 1, rule.every_ms)


_Judged = tuple[LabelValues, int, Observation | None, Verdict]


def _judged(view: View, rule: Rule, groups: IndexArray, alerts: Alerts) -> list[_Judged]:
    """The observation of each group and the verdict on it, all groups at once."""
    labels = view.label_values(groups)
    active = np.zeros(len(labels), np.bool_)
    if alerts:
        before = map(alerts.get, labels)
        active = np.fromiter((alert is not None and alert.active for alert in before), np.bool_, len(labels))
    series = view.observe(rule, groups)
    observed: list[Observation | None] = list(
        map(Observation, series.value.tolist(), series.samples.tolist(), series.low.tolist(), series.high.tolist())
    )
    for number in np.flatnonzero(~series.present).tolist():
        observed[number] = None
    return list(zip(labels, groups.tolist(), observed, judge_all(active, series, rule), strict=True))


_BY_LABELS = itemgetter(0)
