"""When channels are told: Alertmanager's acceptance cases, then what a channel that was down adds."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alerts.journal.silences import Silence, is_quiet
from pipeline.alerts.notify.dispatch import Group, Note, Policy, Update, arrived, plan
from pipeline.alerts.rules.matchers import Matcher

GOLDEN = yaml.safe_load((Path(__file__).parent / "golden" / "alertmanager.yaml").read_text())["cases"]
STEP_MS = 50


def ms(seconds: float) -> int:
    """Milliseconds of the golden files' seconds."""
    return round(seconds * 1000)


def note(name: str, state: str, seen_ms: int, at_ms: int | None = None, **labels: str) -> Note:
    """A transition of an alert that is known by its name."""
    identity = f"{name} {state} {seen_ms if at_ms is None else at_ms}"
    payload = {"name": name, "state": state, "transition_id": identity}
    at_ms = seen_ms if at_ms is None else at_ms
    return Note(identity, name, state, seen_ms, at_ms, {"alertname": name.split()[0], **labels}, payload)


class Receiver:
    """A channel in simulated time: pending notes, what it was told, and every notification it accepted."""

    def __init__(self, policy: Policy, silences: list[Silence], refuses_until_ms: int = 0) -> None:
        self.policy, self.silences, self.refuses_until_ms = policy, silences, refuses_until_ms
        self.pending: list[Note] = []
        self.told: dict[str, Group] = {}
        self.in_flight: dict[str, tuple[Update, int, int]] = {}
        self.accepted: list[tuple[int, Update]] = []
        self.offered: list[tuple[int, Update]] = []

    def turn(self, now_ms: int) -> None:
        """What the worker does, without Redis: retry, plan, freeze, send, settle."""
        for update, _, _ in list(self.in_flight.values()):
            self.send(update, now_ms)
        quiet = partial(is_quiet, now_ms=now_ms, silences=self.silences, mute_times=())
        found = plan(
            "c", self.policy, self.pending, self.told, now_ms, quiet, {k: one[0] for k, one in self.in_flight.items()}
        )
        for update in found.updates:
            if update.body is None:
                self.settle(update, update.after)
            else:
                self.in_flight[update.group_key] = (update, 0, now_ms)
                self.send(update, now_ms)

    def send(self, update: Update, now_ms: int) -> None:
        _, attempts, next_ms = self.in_flight[update.group_key]
        if now_ms < next_ms:
            return
        self.offered.append((now_ms, update))
        if now_ms < self.refuses_until_ms:
            self.in_flight[update.group_key] = (update, attempts + 1, now_ms + 400 * 2**attempts)
            return
        self.accepted.append((now_ms, update))
        self.settle(update, arrived(update, self.policy, now_ms))
        del self.in_flight[update.group_key]

    def settle(self, update: Update, after: Group | None) -> None:
        self.pending = [one for one in self.pending if one.transition_id not in update.consumed]
        if after is None:
            self.told.pop(update.group_key, None)
        else:
            self.told[update.group_key] = after


def names(update: Update, state: str) -> list[str]:
    """The alerts of a notification in one state."""
    assert update.body is not None
    return sorted(alert["name"] for alert in update.body["alerts"] if alert["state"] == state)


def policy_of(given: dict[str, Any]) -> Policy:
    """A policy in the golden files' seconds."""
    times = {f"{name}_ms": max(1, ms(given[name])) for name in ("group_wait", "group_interval", "repeat_interval")}
    return Policy(group_by=tuple(given["group_by"]), send_resolved=given.get("send_resolved", True), **times)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["cite"])
def test_alertmanagers_acceptance_cases(case: dict[str, Any]) -> None:
    """Pushes at these times give notifications with these alerts in these intervals, and no others."""
    silences = [
        Silence(str(i), (Matcher.parse(one["matcher"]),), ms(one["from"]), ms(one["to"]))
        for i, one in enumerate(case.get("silences", []))
    ]
    receiver = Receiver(policy_of(case["policy"]), silences, ms(case.get("refuses_until", 0)))
    for now_ms in range(0, ms(case["until"]) + 1, STEP_MS):
        for event in case["events"]:
            if now_ms - STEP_MS < ms(event["at"]) <= now_ms:
                name = f"{event['alert']} {event['lbl']}" if "lbl" in event else event["alert"]
                receiver.pending.append(note(name, event["state"], ms(event["at"])))
        receiver.turn(now_ms)
    found = [(at, names(update, "firing"), names(update, "resolved")) for at, update in receiver.accepted]
    assert len(found) == len(case["sends"]), found
    for (at_ms, firing, resolved), expected in zip(found, case["sends"], strict=True):
        assert ms(expected["between"][0]) <= at_ms <= ms(expected["between"][1])
        assert firing == expected.get("firing", [])
        assert resolved == expected.get("resolved", [])


FAST = Policy(group_by=("alertname",), group_wait_ms=1000, group_interval_ms=5000, repeat_interval_ms=3_600_000)


def test_what_came_and_went_while_the_channel_was_down_is_told_once() -> None:
    """An alert that fired and ended before it could be told is told as resolved, even without send_resolved."""
    for send_resolved in (True, False):
        policy = Policy(("alertname",), 1000, 5000, 3_600_000, send_resolved)
        receiver = Receiver(policy, [])
        receiver.pending = [note("a", "firing", 0), note("a", "resolved", 0, 60_000)]
        receiver.turn(600_000)
        assert [names(update, "resolved") for _, update in receiver.accepted] == [["a"]]
        assert (receiver.pending, receiver.told) == ([], {})


def test_a_retry_has_the_same_key_and_body_though_more_is_pending() -> None:
    """What was frozen is sent until it arrives, unchanged; what came meanwhile follows under another key."""
    receiver = Receiver(FAST, [], refuses_until_ms=20_000)
    receiver.pending = [note("a", "firing", 0)]
    for now_ms in range(0, 40_000, STEP_MS):
        if now_ms == 3000:
            receiver.pending.append(note("a x", "firing", 3000))
        receiver.turn(now_ms)
    retries = [update for _, update in receiver.offered if names(update, "firing") == ["a"]]
    assert len(retries) > 3
    assert len({update.key for update in retries}) == 1
    assert [names(update, "firing") for _, update in receiver.accepted] == [["a"], ["a", "a x"]]
    assert receiver.accepted[0][1].key != receiver.accepted[1][1].key


def test_what_came_and_went_in_the_quiet_is_not_told() -> None:
    """An alert that was silenced all its life leaves nothing; one that was told is resolved after the silence."""
    silence = Silence("s", (Matcher.parse("alertname=a"),), 10_000, 60_000)
    receiver = Receiver(FAST, [silence])
    receiver.pending = [note("a told", "firing", 0)]
    for now_ms in range(0, 90_000, STEP_MS):
        if now_ms == 20_000:
            receiver.pending += [note("a unheard", "firing", now_ms), note("a told", "resolved", now_ms)]
        if now_ms == 40_000:
            receiver.pending.append(note("a unheard", "resolved", now_ms))
        receiver.turn(now_ms)
    told = [(at, names(update, "firing"), names(update, "resolved")) for at, update in receiver.accepted]
    assert [what[1:] for what in told] == [(["a told"], []), ([], ["a told"])]
    assert told[1][0] >= 60_000
    assert receiver.pending == []


def test_a_group_that_is_over_begins_anew() -> None:
    """After everything was resolved the next alert waits group_wait again, not for the old rhythm."""
    receiver = Receiver(FAST, [])
    events = {0: ("a", "firing"), 2000: ("a", "resolved"), 7000: ("a", "firing")}
    for now_ms in range(0, 20_000, STEP_MS):
        if now_ms in events:
            receiver.pending.append(note(*events[now_ms], now_ms))
        receiver.turn(now_ms)
    assert [at for at, _ in receiver.accepted] == [1000, 6000, 8000]


EVENT = st.tuples(st.integers(0, 60), st.sampled_from(["a 1", "a 2", "b 1"]), st.booleans())
EVENTS = st.lists(EVENT, max_size=25, unique_by=lambda event: event[:2])


@given(EVENTS, st.integers(0, 50), st.booleans())
@settings(max_examples=150, deadline=None)
def test_everyone_hears_of_everything_in_the_end(
    happened: list[tuple[int, str, bool]], down_until_s: int, send_resolved: bool
) -> None:
    """Whatever happens and however long the channel is down: every alert that fired is told, the last state is known,
    a group is told at most once per interval, and nothing stays pending."""
    policy = Policy(("alertname",), 2000, 5000, 3_600_000, send_resolved)
    receiver = Receiver(policy, [], down_until_s * 1000)
    firing: set[str] = set()
    ever: set[str] = set()
    for second in range(240):
        for at, name, fires in sorted(happened):
            if at == second and fires != (name in firing):
                receiver.pending.append(note(name, "firing" if fires else "resolved", second * 1000))
                (firing.add if fires else firing.remove)(name)
                ever |= firing
        receiver.turn(second * 1000)
    assert receiver.pending == []
    assert {name for group in receiver.told.values() for name in group.firing} == firing
    told = {
        name for _, update in receiver.accepted for state in ("firing", "resolved") for name in names(update, state)
    }
    assert told == ever
    for group in ("a", "b"):
        times = [at for at, update in receiver.accepted if update.body["group"]["alertname"] == group]  # type: ignore[index]
        assert len({update.key for _, update in receiver.accepted}) == len(receiver.accepted)
        late = [at for at in times if at > down_until_s * 1000 + 60_000]
        assert all(b - a >= policy.group_wait_ms for a, b in pairwise(late))


def test_notes_from_a_clock_that_was_ahead_are_told_now() -> None:
    """A jump of an hour ahead and back neither holds back what is new nor what fires for long."""
    policy = Policy(("alertname",), 10_000, 60_000, 3_600_000)
    (told,) = plan("c", policy, [note("a", "firing", 3_600_000)], {}, 20_000).updates
    assert told.body is not None
    group = Group(3_600_000, 3_600_000, 3_600_000, {"a": note("a", "firing", 3_600_000)})
    (over,) = plan("c", policy, [note("a", "resolved", 50_000)], {'{"alertname": "a"}': group}, 60_000).updates
    assert (over.body or {})["state"] == "resolved"
    (again,) = plan("c", policy, [], {'{"alertname": "a"}': group}, 60_000).updates
    assert again.after is not None
    assert again.after.told_ms == 60_000


def test_an_alert_in_two_parts_stays_in_one() -> None:
    """Where two processes put an alert into two parts at the same moment, its resolution ends it in both."""
    policy = Policy(("alertname",), 0, 1000, 10_000)
    first, second = '{"alertname": "a"}', '{"alertname": "a", "#": 2}'
    fires, other = note("a", "firing", 0), note("a2", "firing", 0)
    told = {first: Group(0, 0, 0, {"a": fires}), second: Group(0, 0, 0, {"a": fires, "a2": other})}
    found = plan("c", policy, [note("a", "resolved", 500)], told, 20_000)
    after = {update.group_key: update.after for update in found.updates}
    assert after[first] is None
    assert [*after[second].firing] == ["a2"]  # type: ignore[union-attr]
    assert [update.group_key for update in found.updates if update.body] == [first]
