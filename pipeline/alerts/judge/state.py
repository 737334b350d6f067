"""The life of one alert: a pure step from what was, what is seen, and the time, to what is.

States and times are Prometheus's (rules/alerting.go):

- *inactive*: no ``Alert`` at all. A pending alert whose condition clears becomes this, silently.
- *pending*: the condition holds, but not yet for the rule's ``for``, or not surely enough.
- *firing*: it has held for ``for``. It keeps firing until the condition was away for ``keep_firing_for``.
- *resolved*: it was firing and is over; kept for 15 minutes so that nobody misses it.

Added to that: a second level at which the condition clears (for pending and firing alerts, as
Grafana's recovery threshold), what absent data means (``no_data``), too few samples, from which
nothing is concluded, and evidence that does not exclude the threshold, which keeps an alert pending.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from pipeline.alerts.rules.rule import Rule

RESOLVED_RETENTION_MS = 15 * 60_000
"""Prometheus's ``resolvedRetention``."""
OUTAGE_TOLERANCE_MS = 60 * 60_000
"""Prometheus's ``--rules.alert.for-outage-tolerance``: longer away, and a pending alert starts anew."""
GRACE_MS = 10 * 60_000
"""Prometheus's ``--rules.alert.for-grace-period``: at least this long between a return and firing."""


class State(StrEnum):
    """Where an alert stands."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Verdict(StrEnum):
    """What one observation says about the condition."""

    BREACH = "beyond the threshold"
    HELD = "within the threshold, but not back at the level where it clears"
    UNSURE = "the confidence bound includes the threshold"
    CLEAR = "within the threshold"
    INSUFFICIENT = "too few samples"
    NO_DATA = "no data"


class Observation(NamedTuple):
    """A number as seen at one tick: its value, how many samples it rests on, and its 95 % bounds."""

    value: float
    samples: int = 1
    low: float = math.nan
    high: float = math.nan


class Change(NamedTuple):
    """That an alert's state changed, and the verdict that did it."""

    before: State
    after: State
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that is not inactive, with its times. ``value`` is the last one seen."""

    state: State
    active_at_ms: int
    fired_at_ms: int | None = None
    resolved_at_ms: int | None = None
    keep_firing_since_ms: int | None = None
    value: float | None = None

    @property
    def active(self) -> bool:
        """Whether its condition counts as met: pending or firing."""
        return self.state in (State.PENDING, State.FIRING)


def step(alert: Alert | None, seen: Observation | None, now_ms: int, rule: Rule) -> tuple[Alert | None, Change | None]:
    """Judge one observation (None: no data) of one alert (None: inactive) at ``now_ms``.

    Returns the alert as it is now and the change of its state, if it changed to pending, firing or
    resolved. A pending alert that clears and a resolved one that is forgotten leave without a change.
    """
    verdict = judge(alert, seen, rule)
    if alert is not None and seen is not None and seen.value != alert.value:
        alert = Alert(
            *(alert.state, alert.active_at_ms, alert.fired_at_ms, alert.resolved_at_ms),
            *(alert.keep_firing_since_ms, seen.value),
        )
    if verdict is Verdict.INSUFFICIENT:
        return _forget_resolved(alert, now_ms), None
    if _is_met(alert, verdict, rule):
        return _met(alert, seen, verdict, now_ms, rule)
    return _not_met(alert, verdict, now_ms, rule)


def judge(alert: Alert | None, seen: Observation | None, rule: Rule) -> Verdict:
    """What an observation says, given where the alert stands (an active one clears at another level)."""
    if seen is None:
        return Verdict.NO_DATA
    if seen.samples < rule.min_samples:
        return Verdict.INSUFFICIENT
    if not rule.beyond(seen.value, active=alert is not None and alert.active):
        return Verdict.CLEAR
    # A bound that does not exist is NaN and excludes nothing.
    if rule.when_unsure == "wait" and not (seen.low > rule.threshold or seen.high < rule.threshold):
        return Verdict.UNSURE
    return Verdict.BREACH if rule.beyond(seen.value, active=False) else Verdict.HELD


def restore(alert: Alert, last_seen_ms: int, now_ms: int, rule: Rule) -> Alert | None:
    """The alert after nobody looked between ``last_seen_ms`` and ``now_ms``: Prometheus's RestoreForState.

    Time away does not count towards ``for``, and a pending alert fires at the earliest ``GRACE_MS``
    after the return. A firing alert goes on firing until the next observation says otherwise.
    """
    if alert.state is not State.PENDING:
        return alert
    if now_ms - last_seen_ms > OUTAGE_TOLERANCE_MS or rule.for_ms < GRACE_MS:
        return None
    remaining_ms = rule.for_ms - (last_seen_ms - alert.active_at_ms)
    if remaining_ms <= 0:
        return alert
    if remaining_ms < GRACE_MS:
        return replace(alert, active_at_ms=now_ms + GRACE_MS - rule.for_ms)
    return replace(alert, active_at_ms=alert.active_at_ms + now_ms - last_seen_ms)


def _is_met(alert: Alert | None, verdict: Verdict, rule: Rule) -> bool:
    if verdict is Verdict.NO_DATA:
        if rule.no_data == "keep":  # the last verdict goes on, also towards ``for``
            return alert is not None and alert.active and alert.keep_firing_since_ms is None
        return rule.no_data == "alert"
    return verdict in (Verdict.BREACH, Verdict.HELD, Verdict.UNSURE)


def _met(
    alert: Alert | None, seen: Observation | None, verdict: Verdict, now_ms: int, rule: Rule
) -> tuple[Alert, Change | None]:
    before = alert.state if alert else State.INACTIVE
    if alert is None or not alert.active:
        alert = Alert(State.PENDING, active_at_ms=now_ms, value=seen.value if seen else None)
    elif alert.keep_firing_since_ms is not None:
        alert = replace(alert, keep_firing_since_ms=None)
    held = now_ms - alert.active_at_ms >= rule.for_ms
    if alert.state is State.PENDING and held and verdict is not Verdict.UNSURE:
        alert = Alert(State.FIRING, alert.active_at_ms, now_ms, value=alert.value)
    return alert, Change(before, alert.state, verdict) if alert.state is not before else None


def _not_met(alert: Alert | None, verdict: Verdict, now_ms: int, rule: Rule) -> tuple[Alert | None, Change | None]:
    if alert is None or alert.state is State.PENDING:
        return None, None
    if alert.state is State.RESOLVED:
        return _forget_resolved(alert, now_ms), None
    since_ms = now_ms if alert.keep_firing_since_ms is None else alert.keep_firing_since_ms
    if now_ms - since_ms < rule.keep_firing_for_ms:
        return replace(alert, keep_firing_since_ms=since_ms), None
    resolved = replace(alert, state=State.RESOLVED, resolved_at_ms=now_ms, keep_firing_since_ms=None)
    return resolved, Change(State.FIRING, State.RESOLVED, verdict)


def _forget_resolved(alert: Alert | None, now_ms: int) -> Alert | None:
    if alert is not None and alert.resolved_at_ms is not None and now_ms - alert.resolved_at_ms > RESOLVED_RETENTION_MS:
        return None
    return alert
