"""The journal: small and large commits, what is left half-way, what is damaged."""

import json
from typing import Any

import pytest
import redis

from pipeline.alerts.journal import rule_state
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal, Sizes, StaleJournal
from pipeline.alerts.journal.rule_state import RuleState
from pipeline.alerts.judge.evaluation import Transition
from pipeline.alerts.judge.evidence import Evidence
from pipeline.alerts.judge.state import Alert, State
from pipeline.base import failpoints
from pipeline.base.failpoints import Injected

from .conftest import KEYS

MANY = 1200
PIECES = Sizes(small_alerts=10, small_notices=10, piece_alerts=100, piece_notices=50, stage_at_once=1)


def storm(count: int = MANY) -> tuple[RuleState, list[Transition]]:
    """A rule with ``count`` alerts that begin to fire."""
    alerts = {(f"page {i}",): Alert(State.FIRING, 0, 60_000, value=float(i)) for i in range(count)}
    told = [
        Transition(
            *(f"transition {i}", f"alert {i}", "slow", "slow", "critical", 60_000, State.PENDING, State.FIRING),
            *({"page": f"page {i}"}, float(i), 50.0, "reason", "message", 0, 60_000, None, "avg"),
            *({"page": f"page {i}"}, Evidence(0, None, None, {}, None, "", {}, "")),
        )
        for i in range(count)
    ]
    return RuleState(60_000, ("page",), alerts, rule={"severity": "critical"}), told


def standing(client: redis.Redis) -> dict[str, list[str]]:
    """Which transitions stand in each outbox."""
    entries = [json.loads(json.loads(one)["entry"]) for one in client.lrange(KEYS.redis_outbox, 0, -1)]
    return {
        "table": [json.loads(row)["transition_id"] for row in client.lrange(KEYS.table_outbox, 0, -1)],
        "redis": [entry["transition_id"] for entry in entries],
        **{name: sorted(key.decode() for key in client.hkeys(KEYS.pending(name))) for name in ("one", "two")},
    }


def expected(told: list[Transition]) -> dict[str, list[str]]:
    """Every transition once, everywhere."""
    ids = [one.transition_id for one in told]
    return {"table": ids, "redis": ids, "one": sorted(ids), "two": sorted(ids)}


def test_a_large_commit_is_read_back_as_it_was_written(client: redis.Redis) -> None:
    """States in pieces come back equal, each notice stands in each outbox once, nothing else is left."""
    state, told = storm()
    journal = Journal(client, KEYS, ["one", "two"], PIECES)
    journal.commit(journal.load(), {"slow": state}, told, 70_000)
    assert journal.load().states == {"slow": state}
    assert standing(client) == expected(told)
    again = RuleState(120_000, ("page",), dict(list(state.alerts.items())[:5]), rule={"severity": "critical"})
    journal.commit(journal.load(), {"slow": again}, [], 130_000)
    assert Journal(client, KEYS).load().states == {"slow": again}
    kept = {KEYS.state, KEYS.table_outbox, KEYS.redis_outbox, KEYS.pending("one"), KEYS.pending("two")}
    assert {key.decode() for key in client.scan_iter()} == kept


@pytest.mark.parametrize(
    "place",
    [
        *("alerts.after_stage:1", "alerts.after_stage:20", "alerts.before_commit:1"),
        *("alerts.after_commit:1", "alerts.after_hand_out:1", "alerts.after_hand_out:24"),
    ],
)
def test_a_large_commit_interrupted_anywhere_is_made_once(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Cut off at any piece, the next process either commits the same again or only hands out what is left."""
    state, told = storm()
    monkeypatch.setenv(failpoints.VARIABLE, f"{place}:raise")
    failpoints.reset()
    with pytest.raises(Injected):
        Journal(client, KEYS, ["one", "two"], PIECES).commit(
            Journal(client, KEYS).load(), {"slow": state}, told, 70_000
        )
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    heir = Journal(client, KEYS, ["one", "two"], PIECES)
    heir.hand_out()
    committed = heir.load()
    if not committed.states:
        heir.commit(committed, {"slow": storm()[0]}, told, 70_000)
    assert heir.load().states == {"slow": state}
    assert standing(client) == expected(told)
    left = [key for key in client.scan_iter() if b":notices:" in key or b":held:" in key]
    assert all(0 < client.ttl(key) <= 3600 for key in left if client.ttl(key) != -1)
    assert sum(client.ttl(key) == -1 for key in left) == 1, "the alerts of the rule, and nothing else, stay for good"


def test_staged_alerts_that_expired_are_not_committed(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose staged lists are gone is refused as a whole: there is no state without its alerts."""
    state, told = storm(20)
    journal = Journal(client, KEYS, ["one"], PIECES)
    committed = journal.load()
    append = Journal._append

    def expire(self: Journal, key: str, pieces: Any) -> int:
        length = append(self, key, pieces)
        client.delete(key)
        return length

    monkeypatch.setattr(Journal, "_append", expire)
    with pytest.raises(StaleJournal, match="expired"):
        journal.commit(committed, {"slow": state}, told, 0)
    assert client.hgetall(KEYS.state) == {}


def test_no_command_of_a_storm_is_long(client: redis.Redis) -> None:
    """No command of a commit carries more than a few hundred kilobytes, and no reply of a load either."""
    state, told = storm(5000)
    journal = Journal(client, KEYS, ["one", "two"])
    client.config_resetstat()
    journal.commit(journal.load(), {"slow": state}, told, 70_000)
    assert journal.load().states == {"slow": state}
    held = KEYS.held(journal.load().states["slow"].held_in)
    assert max(len(piece) for piece in client.lrange(held, 0, -1)) < 100_000
    assert client.llen(held) == 10
    scripts = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert scripts >= 10 + 100 + 1 + 100, "pieces of alerts, pieces of notices, the commit, pieces handed out"


@pytest.mark.parametrize(
    "junk", [b"", b"\xff", b"[]", b"{}", b'{"tick_ms":1,"by":["a"],"rule":{},"alerts":[[["x","y"],"firing",1]]}', b"7"]
)
def test_a_state_that_cannot_be_read_begins_anew(client: redis.Redis, junk: bytes) -> None:
    """Junk in the state of one rule costs that rule its alerts; the others are read."""
    state, _ = storm(3)
    journal = Journal(client, KEYS)
    journal.commit(journal.load(), {"slow": state}, [], 0)
    client.hset(KEYS.state, "rule:broken", junk)
    assert journal.load().states == {"slow": state, "broken": RuleState()}


def test_states_of_before_are_read() -> None:
    """What an earlier version wrote, without the later fields of an alert, is read."""
    text = b'{"tick_ms": 5, "by": ["page"], "alerts": [[["a"], "firing", 1, 2, null, null, 60.0]], "rule": {}}'
    state = rule_state.decode(text)
    assert state.alerts == {("a",): Alert(State.FIRING, 1, 2, value=60.0)}


def test_keys_share_a_slot() -> None:
    """Every key of a commit carries the same hash tag, so that its script also runs on a cluster."""
    keys = AlertKeys("metrics:buffer")
    for key in (keys.commits, keys.notices("n"), keys.held("n"), keys.state, keys.scratch):
        assert key.startswith("{metrics:buffer}:alerts:")
