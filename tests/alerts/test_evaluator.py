"""The evaluator over a real Redis: due ticks, catching up, late data, facts, rules that change."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.alerts.commands import replay
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal, StaleJournal
from pipeline.alerts.judge.evaluation import Transition
from pipeline.alerts.judge.evaluator import LATE_MS, MAX_CATCH_UP_MS, Evaluator
from pipeline.alerts.judge.memory_source import MemorySource
from pipeline.alerts.judge.state import State
from pipeline.alerts.rules.rule import MINUTE_MS, Rule
from pipeline.base.errors import RedisOutage

from .test_views import T0, raw

DELAY_MS = 10_000
SLOW = Rule(
    "slow",
    50.0,
    metrics=("duration",),
    statistic="avg",
    by=("page",),
    clears_at=50.0,
    for_ms=MINUTE_MS,
    when_unsure="fire",
)


def source(pages: dict[str, list[float | None]]) -> MemorySource:
    """One value a minute for each page; None is no value."""
    return MemorySource(
        raw(
            [
                {"minute": m, "value": v, "page": p}
                for p, values in pages.items()
                for m, v in enumerate(values)
                if v is not None
            ]
        )
    )


def evaluator(journal: Journal, numbers: MemorySource, *rules: Rule) -> Evaluator:
    """An evaluator ten seconds behind the clock."""
    return Evaluator(journal, rules or (SLOW,), numbers, delay_ms=DELAY_MS)


def at(minute: float) -> int:
    """The clock when the window that ends at this minute is due."""
    return T0 + round(minute * MINUTE_MS) + DELAY_MS


def told(transitions: Sequence[Transition]) -> list[tuple[int, str, str]]:
    """Minute, page and new state."""
    return [((t.at_ms - T0) // MINUTE_MS, t.labels.get("page", ""), t.to_state.value) for t in transitions]


def test_a_tick_is_judged_after_the_delay_and_once(journal: Journal) -> None:
    """A window is not judged before ``delay`` after its end, nor a second time."""
    judge = evaluator(journal, source({"a": [60, 60, 60]}))
    assert judge.run(at(1) - 1, {}).ticks == 1  # the tick of minute 0, where nothing was yet
    assert judge.run(at(1), {}).ticks == 1
    assert judge.run(at(1) + 30_000, {}).ticks == 0
    assert told(judge.run(at(2), {}).transitions) == [(2, "a", "firing")]


def test_a_tick_waits_until_its_windows_are_complete(journal: Journal) -> None:
    """However late the clock, a tick is not judged before the windows are computed so far."""
    judge = evaluator(journal, source({"a": [60, 60, 60]}))
    judge.run(at(1), {})
    assert judge.run(at(3), {}, {"windows": T0 + 2 * MINUTE_MS - 1}).ticks == 0
    assert told(judge.run(at(3), {}, {"windows": T0 + 2 * MINUTE_MS}).transitions) == [(2, "a", "firing")]


def test_a_new_rule_begins_with_the_newest_tick(journal: Journal) -> None:
    """What was before the first evaluation is not alerted."""
    judge = evaluator(journal, source({"a": [60] * 30 + [10] * 10}))
    report = judge.run(at(35), {})
    assert (report.ticks, report.transitions) == (1, [])


def test_after_an_absence_every_tick_is_judged(journal: Journal) -> None:
    """An outage of hours is caught up tick by tick: what came and went in it is told with its own times."""
    numbers = source({"a": [10] * 20 + [60] * 20 + [10] * 80})
    evaluator(journal, numbers).run(at(1), {})
    report = evaluator(journal, numbers).run(at(100), {})
    assert told(report.transitions) == [(22, "a", "firing"), (41, "a", "resolved")]
    assert report.ticks == 99


def test_too_long_an_absence_counts_as_time_away(journal: Journal) -> None:
    """Beyond the longest catch-up nothing is judged; a firing alert goes on, a pending one begins anew."""
    minutes = MAX_CATCH_UP_MS // MINUTE_MS + 120
    numbers = source({"firing": [60] * minutes, "pending": [10, 60] + [60] * minutes})
    judge = evaluator(journal, numbers)
    judge.run(at(1), {})
    judge.run(at(2), {})
    report = evaluator(journal, numbers).run(at(minutes), {})
    first = minutes - MAX_CATCH_UP_MS // MINUTE_MS + 1
    assert told(report.transitions) == [(first + 1, "pending", "firing")]
    assert report.ticks == MAX_CATCH_UP_MS // MINUTE_MS


@given(
    values=st.lists(st.lists(st.sampled_from([10.0, 60.0, None]), min_size=40, max_size=40), min_size=1, max_size=3),
    looks=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    keep=st.integers(0, 3),
    no_data=st.sampled_from(["ignore", "keep", "alert"]),
    restart=st.booleans(),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replaying_the_same_data_gives_the_same_transitions(
    client: redis.Redis,
    values: list[list[float | None]],
    looks: list[int],
    keep: int,
    no_data: Any,
    restart: bool,
) -> None:
    """However the looks fall, and however often the process is started anew, ids, times and evidence are the same."""
    client.flushdb()
    rule = replace(SLOW, keep_firing_for_ms=keep * MINUTE_MS, no_data=no_data)
    numbers = source({f"p{i}": series for i, series in enumerate(values)})
    expected = replay(numbers, [rule], T0, T0 + 40 * MINUTE_MS)
    judge = evaluator(Journal(client, AlertKeys("b")), numbers, rule)
    judge.run(at(1), {})
    found: list[Transition] = []
    for minute in [*sorted(set(looks)), 40]:
        if restart:
            judge = evaluator(Journal(client, AlertKeys("b")), numbers, rule)
        found += judge.run(at(minute), {}).transitions
    first = [t for t in expected if t.at_ms <= T0 + MINUTE_MS]
    assert found == expected[len(first) :]


def test_a_commit_writes_state_outboxes_and_channels_together(journal: Journal, client: redis.Redis) -> None:
    """A transition stands in each outbox and in each channel's pending, once, with the state that goes with it."""
    judge = evaluator(journal, source({"a": [60, 60, 60]}))
    judge.run(at(1), {})
    found = judge.run(at(2), {}).transitions
    keys = AlertKeys("metrics:buffer")
    rows = [json.loads(row) for row in journal.rows(10)]
    assert [row["transition_id"] for row in rows] == [found[0].transition_id]
    for channel in ("one", "two"):
        assert client.hkeys(keys.pending(channel)) == [found[0].transition_id.encode()]
    assert client.llen(keys.redis_outbox) == 1
    state = journal.load().states["slow"]
    assert (state.tick_ms, state.alerts[("a",)].state) == (T0 + 2 * MINUTE_MS, State.FIRING)


def test_two_evaluators_tell_everything_once(client: redis.Redis) -> None:
    """Of two processes that judge the same tick one commits; the other writes nothing and loads again."""
    numbers = source({"a": [60, 60, 60, 10, 10, 60, 60]})
    first, second = (evaluator(Journal(client, AlertKeys("b")), numbers) for _ in range(2))
    found: list[Transition] = []
    for minute in range(1, 8):
        for one in (first, second):
            found += one.run(at(minute), {}).transitions
    assert told(found) == [(2, "a", "firing"), (4, "a", "resolved"), (7, "a", "firing")]
    assert len(Journal(client, AlertKeys("b")).rows(10)) == 3


def test_a_stale_commit_writes_nothing(journal: Journal, client: redis.Redis) -> None:
    """A commit on an older version is refused as a whole."""
    stale = journal.load()
    evaluator(journal, source({"a": [60]})).run(at(1), {})
    before = client.hgetall(AlertKeys("metrics:buffer").state)
    with pytest.raises(StaleJournal):
        journal.commit(stale, {"slow": None}, [], 0)
    assert client.hgetall(AlertKeys("metrics:buffer").state) == before


def test_alerts_are_committed_when_redis_is_full(journal: Journal, client: redis.Redis) -> None:
    """The alert that memory is full can be written although memory is full."""
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("anything", "x" * 1000)
    full = Rule(
        "redis_memory_usage", 90.0, fact="redis_memory_pct", statistic="now", clears_at=85.0, severity="critical"
    )
    report = evaluator(journal, source({}), full).run(T0, {"redis_memory_pct": 99.0})
    assert [t.to_state for t in report.transitions] == [State.FIRING]
    assert journal.publish() == 1
    assert client.llen("alerts:performance") == 1


# Late data


def late_rule() -> Rule:
    """Reads the mean of the last minute, and corrects itself."""
    return replace(SLOW, late="reevaluate", for_ms=0)


def test_late_data_corrects_who_is_firing(journal: Journal) -> None:
    """With late: reevaluate, data that come late take an alarm back, or raise it, by one transition that says so."""
    rule = late_rule()
    early = source({"a": [10, 60, 60, 60], "b": [10, 10, 10, 10]})
    judge = evaluator(journal, early, rule)
    for minute in range(1, 4):
        judge.run(at(minute), {})
    assert journal.load().states["slow"].alerts[("a",)].state is State.FIRING
    rows = [{"minute": m, "value": 60, "page": "a"} for m in range(1, 4)] + [{"minute": 0, "value": 10, "page": "a"}]
    rows += [{"minute": m, "value": -100, "page": "a"} for m in range(1, 4)]  # came late: the mean was low all along
    rows += [{"minute": m, "value": 10, "page": "b"} for m in range(4)]
    rows += [{"minute": m, "value": 500, "page": "b"} for m in (1, 2, 3)]  # and here it was high
    judge = evaluator(journal, MemorySource(raw(rows)), rule)
    found = judge.run(at(4), {}).transitions
    assert told(found) == [(3, "a", "resolved"), (3, "b", "firing")]
    assert all(t.reason.startswith("late data changed the verdict") for t in found)
    state = journal.load().states["slow"]
    assert state.alerts[("b",)].fired_at_ms == T0 + 2 * MINUTE_MS
    assert judge.run(at(5), {}).transitions[0].labels == {"page": "b"}  # no more data: resolved once, as usual


def test_late_data_are_ignored_by_default(journal: Journal) -> None:
    """With late: ignore a tick is judged once, on what was stored then."""
    rule = replace(SLOW, for_ms=0)
    evaluator(journal, source({"a": [60]}), rule).run(at(1), {})
    found = evaluator(journal, source({"a": [10, 60]}), rule).run(at(2), {}).transitions
    assert found == []


def test_reevaluation_without_late_data_changes_nothing(client: redis.Redis) -> None:
    """Where nothing came late, both kinds of rule tell the same, also far beyond the horizon."""
    values = ([10.0] * 3 + [60.0] * 4) * 8
    found = {}
    for late in ("ignore", "reevaluate"):
        client.flushdb()
        rule = replace(SLOW, late=late)  # type: ignore[arg-type]
        judge = evaluator(Journal(client, AlertKeys("b")), source({"a": values}), rule)
        found[late] = [t for minute in range(1, len(values) + 1) for t in judge.run(at(minute), {}).transitions]
    assert found["ignore"] == found["reevaluate"]
    base = Journal(client, AlertKeys("b")).load().states["slow"].base_tick_ms
    assert base == T0 + len(values) * MINUTE_MS - LATE_MS


# Facts

LAG = Rule(
    "lag", 60.0, fact="drain_lag_s", statistic="now", clears_at=30.0, every_ms=10_000, for_ms=20_000, by=("buffer",)
)


def lag(seconds: float) -> dict[str, Any]:
    """The fact as the service gives it."""
    return {"drain_lag_s": [({"buffer": "b"}, seconds)]}


def test_facts_are_judged_at_the_moment(journal: Journal) -> None:
    """A rule over a fact is judged at most once per ``every``, on what the fact is then, with hysteresis."""
    judge = evaluator(journal, source({}), LAG)
    found: list[Transition] = []
    for second, value in [(0, 61), (5, 0), (10, 61), (20, 61), (30, 40), (40, 30)]:
        found += judge.run(T0 + second * 1000, lag(value)).transitions
    assert [((t.at_ms - T0) // 1000, t.to_state.value) for t in found] == [(20, "firing"), (40, "resolved")]
    assert found[0].labels == {"buffer": "b"}


def test_a_fact_not_seen_for_long_does_not_count_towards_for(journal: Journal) -> None:
    """No evaluation for ten minutes: the pending alert begins anew, as after a restart of Prometheus."""
    judge = evaluator(journal, source({}), LAG)
    judge.run(T0, lag(61))
    assert judge.run(T0 + 600_000, lag(61)).transitions == []
    assert judge.run(T0 + 610_000, lag(61)).transitions == []
    assert told(judge.run(T0 + 620_000, lag(61)).transitions) == [(10, "", "firing")]


def test_facts_are_judged_though_clickhouse_is_away(journal: Journal) -> None:
    """An outage of the store stops rules over windows, not those over facts; what they found is committed."""

    class Away(MemorySource):
        def windows(self, *_: Any) -> Any:
            raise RedisOutage("stands for any outage")

    down = Rule("down", 0.0, fact="clickhouse_unreachable", statistic="now")
    judge = Evaluator(journal, [SLOW, down], Away(raw([])), delay_ms=0)
    with pytest.raises(RedisOutage):
        judge.run(T0, {"clickhouse_unreachable": 1.0})
    assert journal.load().states["down"].alerts[()].state is State.FIRING


# Rules that change


def test_a_removed_rule_resolves_what_it_fired(journal: Journal) -> None:
    """A receiver of a firing alert is told when its rule is removed."""
    numbers = source({"a": [60, 60, 60, 60]})
    judge = evaluator(journal, numbers)
    judge.run(at(1), {})
    judge.run(at(2), {})
    judge.reload([replace(SLOW, name="other")])
    found = judge.run(at(3), {}).transitions
    (over,) = found
    assert (over.rule, over.to_state.value, over.reason) == ("slow", "resolved", "its rule was removed from the rules")
    assert over.message == (
        "Resolved: slow (page a): its rule was removed from the rules; it fired at 2050-01-01T00:02:00Z"
    )
    assert "slow" not in journal.load().states


def test_other_labels_are_other_alerts(journal: Journal) -> None:
    """A rule whose ``by`` changed resolves its old alerts, and not later than it fires the new ones."""
    judge = evaluator(journal, source({"a": [60] * 6}))
    judge.run(at(1), {})
    judge.run(at(2), {})
    judge.reload([replace(SLOW, by=("page", "browser"))])
    found = [t for minute in range(3, 6) for t in judge.run(at(minute), {}).transitions]
    assert [(t.at_ms - T0, t.to_state.value) for t in found] == [(120_001, "resolved"), (240_000, "firing")]
    assert "has other labels now: by page, browser" in found[0].message
    assert found[0].alert_id == found[1].alert_id  # browser is empty, so the label set is the same


def test_a_changed_for_keeps_the_times_of_its_alerts(journal: Journal) -> None:
    """After a reload with a shorter ``for`` an alert that has been pending long enough fires at the next tick."""
    judge = evaluator(journal, source({"a": [60] * 9}), replace(SLOW, for_ms=3_600_000))
    for minute in range(1, 6):
        judge.run(at(minute), {})
    judge.reload([SLOW])
    found = judge.run(at(6), {}).transitions
    assert told(found) == [(6, "a", "firing")]
    assert found[0].active_at_ms == T0 + MINUTE_MS


def test_a_changed_by_resolves_before_it_fires(journal: Journal) -> None:
    """Also without ``for``, when the new labels fire at the very next look, the old ones are over by then."""
    judge = evaluator(journal, source({"a": [60] * 6}), replace(SLOW, for_ms=0))
    judge.run(at(1), {})
    judge.reload([replace(SLOW, for_ms=0, by=())])
    found = [t for _ in range(2) for t in judge.run(at(2), {}).transitions]
    assert [t.to_state.value for t in found] == ["resolved", "firing"]
    assert found[0].at_ms <= found[1].at_ms


def test_a_raised_for_takes_a_firing_alert_back(journal: Journal) -> None:
    """It is pending again, who was told hears that it is over and why, and it fires when its time has come."""
    judge = evaluator(journal, source({"a": [60] * 12}))
    for minute in range(1, 4):
        judge.run(at(minute), {})
    judge.reload([replace(SLOW, for_ms=8 * MINUTE_MS)])
    (over,) = judge.run(at(4), {}).transitions
    assert (over.to_state, over.from_state, over.fired_at_ms) == (State.RESOLVED, State.FIRING, T0 + 2 * MINUTE_MS)
    assert over.reason == (
        "avg of duration is 60 ms, but the alert is active only since 2050-01-01T00:01:00Z, and its rule waits for 8m"
    )
    assert journal.load().states["slow"].alerts[("a",)].state is State.PENDING
    later = [t for minute in range(5, 12) for t in judge.run(at(minute), {}).transitions]
    assert told(later) == [(9, "a", "firing")]


# Clocks


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_clock_that_was_ahead_does_not_blind(journal: Journal, restarted: bool) -> None:
    """After a jump of an hour ahead and back every rule is judged at the next look, with no time in the future."""
    rules = [replace(SLOW, for_ms=0), LAG]
    judge = Evaluator(journal, rules, source({"a": [60, 10, 60, 60, 60]}), delay_ms=0)
    judge.run(at(1), lag(0))
    judge.run(at(61), lag(61))
    if restarted:
        judge = Evaluator(journal, rules, source({"a": [60, 10, 60, 60, 60]}), delay_ms=0)
    report = judge.run(at(3), lag(61))
    assert sorted(report.rewound) == sorted(rule.name for rule in rules)
    state = journal.load().states
    assert state["slow"].tick_ms == T0 + 3 * MINUTE_MS
    times = [
        time_ms
        for one in state.values()
        for alert in one.alerts.values()
        for time_ms in (alert.active_at_ms, alert.fired_at_ms, alert.resolved_at_ms)
    ]
    assert all(time_ms is None or time_ms <= at(3) for time_ms in times)
    assert ("slow", "firing") in [(t.rule, t.to_state.value) for t in report.transitions]
    assert judge.run(at(4), lag(61)).rewound == []


def test_a_watermark_a_moment_ahead_is_left_alone(journal: Journal) -> None:
    """Two machines whose clocks differ by a fraction of a second do not judge a tick twice."""
    judge = evaluator(journal, source({}), LAG)
    judge.run(T0 + 10_000, lag(61))
    report = judge.run(T0 + 9_500, lag(61))
    assert (report.rewound, report.ticks) == ([], 0)
