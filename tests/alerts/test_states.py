"""The states of an alert: other systems' traces, then what they leave open."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.alerts.judge.evidence import Account
from pipeline.alerts.judge.state import Alert, Change, Observation, State, judge, restore, step
from pipeline.alerts.judge.verdicts import ObservedSeries, judge_all
from pipeline.alerts.rule_tests.series_notation import STALE, Gap, values
from pipeline.alerts.rules.fields import parse_rule
from pipeline.alerts.rules.lined_yaml import Mapping, read
from pipeline.alerts.rules.rule import Rule
from pipeline.base import durations

GOLDEN = Path(__file__).parent / "golden"
MINUTE = 60_000


def rule_of(fields: dict[str, Any]) -> Rule:
    """A rule as YAML would give it, over a number that is what it is."""
    document, _ = read(yaml.safe_dump({"name": "golden", "metric": "m", "statistic": "avg"} | fields))
    assert isinstance(document, Mapping)
    rule, problems = parse_rule(document)
    assert rule is not None, problems
    return replace(rule, when_unsure="fire")


def traces() -> list[Any]:
    """Every series of every golden trace, one case each."""
    cases = []
    for name in ("prometheus", "grafana"):
        for trace in yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())["traces"]:
            for label, series in trace["series"].items():
                cases.append(pytest.param(trace, series, id=f"{name}: {trace['cite'][:70]} [{label}]"))
    return cases


def run(rule: Rule, seen: list[float | Gap], every_ms: int) -> list[tuple[Alert | None, Change | None]]:
    """Step through one value per evaluation."""
    alert, history = None, []
    for i, value in enumerate(seen):
        observation = None if isinstance(value, Gap) else Observation(value)
        alert, change = step(alert, observation, i * every_ms, rule)
        history.append((alert, change))
    return history


def shown(alert: Alert | None) -> str:
    """The word the golden files use."""
    if alert is None or alert.state is State.RESOLVED:
        return "-"
    return "recovering" if alert.keep_firing_since_ms is not None else alert.state.value


@pytest.mark.parametrize(("trace", "series"), traces())
def test_golden_traces(trace: dict[str, Any], series: dict[str, Any]) -> None:
    """Prometheus's and Grafana's own inputs give the states that their tests expect."""
    recovering_is_shown = "recovering" in series["states"]
    history = run(rule_of(trace["rule"]), values(series["values"]), durations.parse_ms(trace["every"]))
    found = [shown(alert) for alert, _ in history]
    if not recovering_is_shown:
        found = ["firing" if word == "recovering" else word for word in found]
    assert found == series["states"].split()
    if "active_at" in series:
        times = [
            "-" if alert is None or not alert.active else f"{alert.active_at_ms // MINUTE}m" for alert, _ in history
        ]
        assert times == series["active_at"].split()


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c["name"]) for c in yaml.safe_load((GOLDEN / "prometheus.yaml").read_text())["restores"]],
)
def test_for_state_is_restored_as_prometheus_does(case: dict[str, Any]) -> None:
    """Time away does not count towards ``for``: Prometheus's TestForStateRestore."""
    at = {
        name: durations.parse_ms(case[name])
        for name in ("active_at", "fired_at", "last_seen", "restored")
        if name in case
    }
    rule = rule_of(case["rule"])
    state = State.FIRING if "fired_at" in at else State.PENDING
    before = Alert(state, active_at_ms=at["active_at"], fired_at_ms=at.get("fired_at"))
    after, _ = step(
        restore(before, at["last_seen"], at["restored"], rule), Observation(case["value"]), at["restored"], rule
    )
    assert shown(after) == case["expect"]["state"]
    if "active_at" in case["expect"]:
        assert after is not None
        assert after.active_at_ms == durations.parse_ms(case["expect"]["active_at"])


def test_hysteresis_as_grafana_has_it() -> None:
    """An alert begins above one level and ends at or below another: Grafana's TestHysteresisExecute."""
    golden = yaml.safe_load((GOLDEN / "grafana.yaml").read_text())["hysteresis"]
    rule = rule_of({"above": golden["above"], "clears_at": golden["clears_at"], "for": "1h"})
    for case in golden["cases"]:
        for state in (State.PENDING, State.FIRING):
            before = Alert(state, 0, 0) if case["active"] else None
            after, _ = step(before, Observation(case["value"]), 0, rule)
            assert (after is not None and after.active) == case["met"], case


def test_resolved_is_kept_fifteen_minutes() -> None:
    """A resolved alert stays for 15 minutes after its resolution, and is gone at the first look after that."""
    rule = rule_of({"above": 50})
    history = run(rule, [60.0, *[10.0] * 20], MINUTE)
    states = [alert.state if alert else None for alert, _ in history]
    assert states == [State.FIRING, *[State.RESOLVED] * 16, *[None] * 4]
    assert history[1][0].resolved_at_ms == MINUTE  # type: ignore[union-attr]


def test_a_resolved_alert_fires_anew_with_new_times() -> None:
    """A breach after the resolution is a new alert: pending first, with its own times."""
    rule = rule_of({"above": 50, "for": "1m"})
    history = run(rule, [60.0, 60.0, 10.0, 60.0, 60.0], MINUTE)
    assert [c.after for _, c in history if c] == ["pending", "firing", "resolved", "pending", "firing"]
    last = history[-1][0]
    assert last is not None
    assert (last.active_at_ms, last.fired_at_ms, last.resolved_at_ms) == (3 * MINUTE, 4 * MINUTE, None)


def test_a_changed_for_is_applied_to_the_times_that_are_there() -> None:
    """A shortened ``for`` fires at the next look; a raised one takes a firing alert back to pending, with its times."""
    long, short = rule_of({"above": 50, "for": "30m"}), rule_of({"above": 50, "for": "5m"})
    alert, _ = step(None, Observation(60), 0, long)
    alert, change = step(alert, Observation(60), 6 * MINUTE, long)
    assert change is None
    alert, change = step(alert, Observation(60), 7 * MINUTE, short)
    assert change is not None
    assert change.after is State.FIRING
    alert, change = step(alert, Observation(60), 8 * MINUTE, long)
    assert alert is not None
    assert change is not None
    assert (alert.state, alert.active_at_ms, alert.fired_at_ms) == (State.PENDING, 0, None)
    assert (change.before, change.after) == (State.FIRING, State.PENDING)
    alert, change = step(alert, Observation(60), 30 * MINUTE, long)
    assert alert is not None
    assert (alert.state, alert.fired_at_ms) == (State.FIRING, 30 * MINUTE)


def test_a_missing_number_is_stood_in_for_until_it_is_stale() -> None:
    """With stale_after the last number goes on for so long: a sparse test neither resolves nor fires anew."""
    rule = replace(rule_of({"above": 50, "for": "2m"}), stale_after_ms=3 * MINUTE)
    history = run(rule, [60.0, STALE, STALE, 60.0, STALE, STALE, 60.0, STALE, STALE, STALE, STALE], MINUTE)
    seen = [shown(alert) for alert, _ in history]
    assert seen == ["pending", "pending", *["firing"] * 7, "-", "-"]
    without = run(replace(rule, stale_after_ms=0), [60.0, STALE, STALE, 60.0, STALE, STALE, 60.0], MINUTE)
    assert "firing" not in [shown(alert) for alert, _ in without]


def test_too_few_samples_conclude_nothing() -> None:
    """With fewer than min_samples nothing begins, a pending alert waits and a firing one stays."""
    rule = rule_of({"above": 50, "for": "2m", "min_samples": 10})
    few, many = Observation(60, samples=9), Observation(60, samples=10)
    assert step(None, few, 0, rule) == (None, None)
    alert, _ = step(None, many, 0, rule)
    alert, change = step(alert, few, 5 * MINUTE, rule)
    assert alert is not None
    assert (alert.state, change) == (State.PENDING, None)
    alert, _ = step(alert, many, 6 * MINUTE, rule)
    assert alert is not None
    assert alert.state is State.FIRING
    quiet_but_few = Observation(1, samples=9)
    alert, change = step(alert, quiet_but_few, 7 * MINUTE, rule)
    assert alert is not None
    assert (alert.state, change) == (State.FIRING, None)


def test_evidence_that_includes_the_threshold_waits() -> None:
    """While the confidence bound includes the threshold an alert stays pending; ``fire`` does not wait."""
    rule = replace(rule_of({"above": 50, "for": "1m"}), when_unsure="wait")
    unsure, sure = Observation(60, 5, 45, 75), Observation(60, 50, 55, 65)
    alert, _ = step(None, unsure, 0, rule)
    for minute in range(1, 5):
        alert, change = step(alert, unsure, minute * MINUTE, rule)
        assert alert is not None
        assert (alert.state, change) == (State.PENDING, None)
    alert, change = step(alert, sure, 5 * MINUTE, rule)
    assert change is not None
    assert change.after is State.FIRING
    hasty, _ = step(None, unsure, 0, replace(rule, when_unsure="fire", for_ms=0))
    assert hasty is not None
    assert hasty.state is State.FIRING


def test_an_alert_between_its_levels_says_so() -> None:
    """What fires between the levels is not said to be above the threshold; a bound that includes it waits there too."""
    rule = replace(rule_of({"above": 50, "clears_at": 30, "for": "1m"}), when_unsure="wait")
    alert, _ = step(None, Observation(60, 9, 55, 65), 0, rule)
    waiting, change = step(alert, Observation(45, 9, 38, 52), MINUTE, rule)
    assert waiting is not None
    assert (waiting.state, change) == (State.PENDING, None)
    _, change = step(alert, Observation(45, 9, 42, 48), MINUTE, rule)
    assert change is not None
    held = structs.replace(alert, state=State.FIRING, fired_at_ms=MINUTE)
    reason = Account(rule, MINUTE).reason(change, held, 45.0, {})
    assert reason == "avg of m is 45: it was above 50 and is not back at 30; active since 1970-01-01T00:00:00Z"


def test_an_unknown_bound_excludes_nothing() -> None:
    """A bound that the samples cannot give is no evidence."""
    rule = replace(rule_of({"above": 50}), when_unsure="wait")
    alert, _ = step(None, Observation(60, 1), 0, rule)
    assert alert is not None
    assert alert.state is State.PENDING


def test_below_mirrors_above() -> None:
    """A rule with ``below`` judges value, clearing level and bound on the other side."""
    rule = replace(rule_of({"below": 50, "clears_at": 60}), when_unsure="wait")
    assert step(None, Observation(55, 9, 54, 56), 0, rule)[0] is None
    assert step(None, Observation(45, 9, 40, 52), 0, rule)[0].state is State.PENDING  # type: ignore[union-attr]
    firing = step(None, Observation(45, 9, 40, 49), 0, rule)[0]
    assert firing is not None
    assert firing.state is State.FIRING
    assert step(firing, Observation(59, 9, 58, 60), 1, rule)[0].state is State.FIRING  # type: ignore[union-attr]
    assert step(firing, Observation(60, 9, 59, 61), 1, rule)[0].state is State.RESOLVED  # type: ignore[union-attr]


def test_keep_goes_on_recovering_without_data() -> None:
    """With no_data: keep an alert that was clearing when data ended goes on clearing."""
    rule = rule_of({"above": 50, "keep_firing_for": "3m", "no_data": "keep"})
    history = run(rule, [60.0, 10.0, *[STALE] * 3], MINUTE)
    assert [shown(alert) for alert, _ in history] == ["firing", "recovering", "recovering", "recovering", "-"]


@given(
    half_period=st.integers(1, 20),
    keep_minutes=st.integers(1, 60),
    for_minutes=st.integers(0, 10),
    periods=st.integers(1, 30),
)
def test_square_wave_is_quiet(half_period: int, keep_minutes: int, for_minutes: int, periods: int) -> None:
    """A square wave around the threshold gives at most one firing and one resolved per keep_firing_for."""
    rule = rule_of({"above": 50, "for": f"{for_minutes}m", "keep_firing_for": f"{keep_minutes}m"})
    wave = [60.0] * half_period + [40.0] * half_period
    history = run(rule, [*(wave * periods), *[40.0] * (keep_minutes + 2)], MINUTE)
    changes = [(i * MINUTE, change.after) for i, (_, change) in enumerate(history) if change]
    for wanted in (State.FIRING, State.RESOLVED):
        times = [at for at, after in changes if after is wanted]
        assert all(later - earlier >= rule.keep_firing_for_ms for earlier, later in pairwise(times))
    if keep_minutes > half_period:
        assert sum(after is State.FIRING for _, after in changes) <= 1
    assert sum(after is State.FIRING for _, after in changes) == sum(after is State.RESOLVED for _, after in changes)


@given(st.lists(st.sampled_from([60.0, 40.0, None]), max_size=60), st.integers(0, 5), st.integers(0, 5))
def test_firing_and_resolved_alternate(seen: list[float | None], for_minutes: int, keep_minutes: int) -> None:
    """What is told alternates from firing on, and the condition held for ``for`` before each firing."""
    rule = rule_of({"above": 50, "for": f"{for_minutes}m", "keep_firing_for": f"{keep_minutes}m"})
    alert, told = None, []
    for minute, value in enumerate(seen):
        alert, change = step(alert, None if value is None else Observation(value), minute * MINUTE, rule)
        if change and change.after is not State.PENDING:
            told.append(change.after)
            if change.after is State.FIRING:
                assert seen[minute - for_minutes : minute + 1] == [60.0] * (for_minutes + 1)
    assert told == [State.FIRING, State.RESOLVED] * (len(told) // 2) + [State.FIRING] * (len(told) % 2)


_NUMBERS = st.sampled_from([math.nan, -math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf])


@given(
    st.lists(st.tuples(st.sampled_from([None, *State]), st.booleans(), st.integers(0, 3), *[_NUMBERS] * 3)),
    st.sampled_from(["above", "below"]),
    st.sampled_from(["wait", "fire"]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_many_alerts_are_judged_as_one_is(seen: list[Any], direction: Any, when_unsure: Any, clears_at: float) -> None:
    """The verdicts on all groups of a tick are those that each would get alone, whatever its numbers and state."""
    rule = Rule(
        *("r", 0.5), direction=direction, clears_at=clears_at, min_samples=2, when_unsure=when_unsure, metrics=("m",)
    )
    alerts = [None if state is None else Alert(state, 0) for state, *_ in seen]
    arrays = [np.array(column) for column in zip(*(row[1:] for row in seen), strict=True)] or [np.array([])] * 5
    active = np.array([alert is not None and alert.active for alert in alerts], dtype=bool)
    present, samples, value, low, high = arrays
    series = ObservedSeries(present.astype(bool), value, samples, low, high)
    alone = [
        judge(alert, Observation(row[3], row[2], row[4], row[5]) if row[1] else None, rule)
        for alert, row in zip(alerts, seen, strict=True)
    ]
    assert judge_all(active, series, rule) == alone
