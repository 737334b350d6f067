"""The life of one alert: a pure step from the state before, the observation and the time to the state after.

Who decides that an alert fires? ``step`` below, and nothing else: no other module makes an alert that fires. The
evaluator only brings it the numbers, keeps what it returns and passes it on.

States and times are Prometheus's (rules/alerting.go):

- *inactive*: no ``Alert`` at all. A pending alert whose condition clears becomes this, silently.
- *pending*: the condition holds, but not yet for the rule's ``for``, or not surely enough.
- *firing*: it has held for ``for``. It keeps firing until the condition was away for ``keep_firing_for``.
- *resolved*: it was firing and is over; kept for 15 minutes so that every reader notices it.

Added to that: a second level at which the condition clears (for pending and firing alerts, as
Grafana's recovery threshold), what absent data means (``no_data``), too few samples, from which
nothing is concluded, and evidence that does not exclude the threshold, which keeps an alert pending.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec
from msgspec.structs import replace

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


# Python 3.11 looks a member up through its metaclass, which takes longer than judging an alert does.
INACTIVE, PENDING, FIRING, RESOLVED = State
BREACH, HELD, UNSURE, CLEAR, INSUFFICIENT, NO_DATA = Verdict


class Observation(msgspec.Struct, frozen=True, gc=False):
    """A number observed at one tick: its value, how many samples it rests on, and its 95 % bounds."""

    value: float
    samples: int = 1
    low: float = math.nan
    high: float = math.nan


class Change(msgspec.Struct, frozen=True, gc=False):
    """That an alert's state changed, and the verdict that did it."""

    before: State
    after: State
    verdict: Verdict


class Alert(msgspec.Struct, frozen=True, gc=False):
    """An alert that is not inactive, with its times. ``value`` is the last one observed.

    ``last_seen_ms`` is when there were data last, kept only for rules with ``stale_after``.
    A Struct rather than a dataclass: a tick may make a hundred thousand of them.
    """

    state: State
    active_at_ms: int
    fired_at_ms: int | None = None
    resolved_at_ms: int | None = None
    keep_firing_since_ms: int | None = None
    value: float | None = None
    last_seen_ms: int | None = None

    @property
    def active(self) -> bool:
        """Whether its condition counts as met: pending or firing."""
        return self.state is PENDING or self.state is FIRING


def step(
    alert: Alert | None, observation: Observation | None, now_ms: int, rule: Rule
) -> tuple[Alert | None, Change | None]:
    """Judge one observation (None: no data) of one alert (None: inactive) at ``now_ms``.

    Returns the alert as it is now and the change of its state, if it changed to pending, firing or
    resolved. A pending alert that clears and a resolved one that is forgotten leave without a change.
    """
    return follow(alert, observation, judge(alert, observation, rule), now_ms, rule)


def follow(
    alert: Alert | None, observation: Observation | None, verdict: Verdict, now_ms: int, rule: Rule
) -> tuple[Alert | None, Change | None]:
    """``step`` when the verdict on the observation is known already."""
    if alert is not None and observation is not None and (observation.value != alert.value or rule.stale_after_ms):
        alert = _with_observation(alert, observation, now_ms, rule)
    if verdict is BREACH or (verdict is not INSUFFICIENT and _is_met(alert, verdict, now_ms, rule)):
        return _met(alert, observation, verdict, now_ms, rule)
    if verdict is INSUFFICIENT:
        return _forget_resolved(alert, now_ms), None
    return _not_met(alert, verdict, now_ms, rule)


def judge(alert: Alert | None, observation: Observation | None, rule: Rule) -> Verdict:
    """What an observation says, given where the alert stands (an active one clears at another threshold)."""
    if observation is None:
        return NO_DATA
    if observation.samples < rule.min_samples:
        return INSUFFICIENT
    if not rule.beyond(observation.value, active=alert is not None and alert.active):
        return CLEAR
    # A bound that does not exist is NaN and excludes nothing.
    if rule.when_unsure == "wait" and not (observation.low > rule.threshold or observation.high < rule.threshold):
        return UNSURE
    return BREACH if rule.beyond(observation.value, active=False) else HELD


def restore(alert: Alert, evaluated_ms: int, now_ms: int, rule: Rule) -> Alert | None:
    """The alert after no evaluation between ``evaluated_ms`` and ``now_ms``: Prometheus's RestoreForState.

    Time away does not count towards ``for``, and a pending alert fires at the earliest ``GRACE_MS``
    after the return. A firing alert goes on firing until the next observation says otherwise.
    """
    if alert.state is not PENDING:
        return alert
    if now_ms - evaluated_ms > OUTAGE_TOLERANCE_MS or rule.for_ms < GRACE_MS:
        return None
    remaining_ms = rule.for_ms - (evaluated_ms - alert.active_at_ms)
    if remaining_ms <= 0:
        return alert
    if remaining_ms < GRACE_MS:
        return replace(alert, active_at_ms=now_ms + GRACE_MS - rule.for_ms)
    return replace(alert, active_at_ms=alert.active_at_ms + now_ms - evaluated_ms)


def rewound(alert: Alert, by_ms: int, now_ms: int) -> Alert:
    """The alert after a clock that was ahead by ``by_ms`` came back to ``now_ms``: no time lies in the future."""

    def moved(time_ms: int | None) -> int | None:
        return time_ms if time_ms is None or time_ms <= now_ms else min(now_ms, time_ms - by_ms)

    return replace(
        alert,
        active_at_ms=moved(alert.active_at_ms),
        fired_at_ms=moved(alert.fired_at_ms),
        resolved_at_ms=moved(alert.resolved_at_ms),
        keep_firing_since_ms=moved(alert.keep_firing_since_ms),
        last_seen_ms=moved(alert.last_seen_ms),
    )


def _with_observation(alert: Alert, observation: Observation, now_ms: int, rule: Rule) -> Alert:
    return Alert(
        alert.state,
        alert.active_at_ms,
        alert.fired_at_ms,
        alert.resolved_at_ms,
        alert.keep_firing_since_ms,
        observation.value,
        now_ms if rule.stale_after_ms else None,
    )


def _is_met(alert: Alert | None, verdict: Verdict, now_ms: int, rule: Rule) -> bool:
    if verdict is not NO_DATA:
        return verdict is not CLEAR
    if rule.no_data == "keep" or _is_fresh(alert, now_ms, rule):  # the last verdict goes on, also towards ``for``
        return alert is not None and alert.active and alert.keep_firing_since_ms is None
    return rule.no_data == "alert"


def _is_fresh(alert: Alert | None, now_ms: int, rule: Rule) -> bool:
    """Whether the last number is recent enough to stand in for a missing one: Prometheus's lookback delta."""
    return alert is not None and alert.last_seen_ms is not None and now_ms - alert.last_seen_ms < rule.stale_after_ms


def _met(
    alert: Alert | None, observation: Observation | None, verdict: Verdict, now_ms: int, rule: Rule
) -> tuple[Alert, Change | None]:
    before = INACTIVE if alert is None else alert.state
    value = observation.value if observation is not None else None if alert is None else alert.value
    last_seen_ms = None if alert is None else alert.last_seen_ms
    if alert is None or not alert.active:
        if observation is not None and rule.stale_after_ms:
            last_seen_ms = now_ms
        if rule.for_ms or verdict is UNSURE:
            return Alert(PENDING, now_ms, value=value, last_seen_ms=last_seen_ms), Change(before, PENDING, verdict)
        return Alert(FIRING, now_ms, now_ms, value=value, last_seen_ms=last_seen_ms), Change(before, FIRING, verdict)
    held = now_ms - alert.active_at_ms >= rule.for_ms
    if alert.state is PENDING and held and verdict is not UNSURE:
        firing = Alert(FIRING, alert.active_at_ms, now_ms, value=value, last_seen_ms=last_seen_ms)
        return firing, Change(before, FIRING, verdict)
    if alert.state is FIRING and not held:  # ``for`` was raised since it fired
        pending = Alert(PENDING, alert.active_at_ms, value=value, last_seen_ms=last_seen_ms)
        return pending, Change(before, PENDING, verdict)
    if alert.keep_firing_since_ms is not None:
        alert = replace(alert, keep_firing_since_ms=None)
    return alert, None


def _not_met(alert: Alert | None, verdict: Verdict, now_ms: int, rule: Rule) -> tuple[Alert | None, Change | None]:
    if alert is None or alert.state is PENDING:
        return None, None
    if alert.state is RESOLVED:
        return _forget_resolved(alert, now_ms), None
    since_ms = now_ms if alert.keep_firing_since_ms is None else alert.keep_firing_since_ms
    if now_ms - since_ms < rule.keep_firing_for_ms:
        return replace(alert, keep_firing_since_ms=since_ms), None
    resolved = replace(alert, state=RESOLVED, resolved_at_ms=now_ms, keep_firing_since_ms=None)
    return resolved, Change(FIRING, RESOLVED, verdict)


def _forget_resolved(alert: Alert | None, now_ms: int) -> Alert | None:
    if alert is not None and alert.resolved_at_ms is not None and now_ms - alert.resolved_at_ms > RESOLVED_RETENTION_MS:
        return None
    return alert
