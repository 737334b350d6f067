"""Where transitions stand: the alerts table, Redis's list and channel, and the shapes of what is written."""

import json
from dataclasses import replace
from typing import Any

import pytest
import redis
from msgspec import structs

from pipeline.alerts.journal import table
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal
from pipeline.alerts.judge.evaluation import Transition
from pipeline.alerts.notify import payloads
from pipeline.alerts.rules.rule import MINUTE_MS, Rule
from pipeline.base import failpoints
from pipeline.base.failpoints import Injected
from pipeline.store.client import Store

from .test_evaluator import SLOW, at, evaluator, source
from .test_views import T0

KEYS = AlertKeys("metrics:buffer")


def fired(journal: Journal, rule: Rule = SLOW, **pages: list[float | None]) -> list[Transition]:
    """Judge three minutes and return what was committed."""
    judge = evaluator(journal, source(pages or {"login page": [60, 60, 10]}), rule)
    return [t for minute in range(1, 4) for t in judge.run(at(minute), {}).transitions]


def listed(client: redis.Redis) -> list[dict[str, Any]]:
    """alerts:performance, newest first."""
    return [json.loads(entry) for entry in client.lrange("alerts:performance", 0, -1)]


def test_payloads_begin_with_the_documents_keys(journal: Journal) -> None:
    """type, test, threshold, actual, timestamp come first and as the schema document has them; evidence follows."""
    (firing, _) = fired(journal)
    entry = payloads.for_performance_list(firing)
    assert list(entry)[:5] == ["type", "test", "threshold", "actual", "timestamp"]
    assert list(entry.values())[:5] == ["slow", "login page", 50.0, 60.0, "2050-01-01T00:02:00Z"]
    assert {"samples", "window", "low", "high", "query", "link", "alert_id", "transition_id", "state"} <= set(entry)
    assert entry["window"] == {"from": "2050-01-01T00:01:00Z", "to": "2050-01-01T00:02:00Z"}


def test_a_failure_rate_on_the_critical_channel_is_the_documents_message(journal: Journal) -> None:
    """type, test_suite, failure_rate, threshold, timestamp, then the pipeline's own."""
    (firing, _) = fired(journal, replace(SLOW, type="high_failure_rate"))
    rate = {"labels": {"test_suite": "authentication"}, "value": 15.5, "threshold": 10.0, "statistic": "failure_rate"}
    transition = structs.replace(firing, **rate)
    message = payloads.for_critical_channel(transition)
    assert list(message)[:5] == ["type", "test_suite", "failure_rate", "threshold", "timestamp"]
    assert list(message.values())[:5] == ["high_failure_rate", "authentication", 15.5, 10.0, "2050-01-01T00:02:00Z"]


def test_published_once_newest_hundred_kept(journal: Journal, client: redis.Redis) -> None:
    """Every transition is pushed once, oldest first, and the list keeps the newest hundred."""
    client.rpush("alerts:performance", *[f"old {i}" for i in range(100)])
    fired(journal, **{f"page {i}": [60, 60, 10] for i in range(30)})
    assert journal.publish() == 60
    assert journal.publish() == 0
    entries = client.lrange("alerts:performance", 0, -1)
    assert len(entries) == 100
    ours = [json.loads(entry) for entry in entries[:60]]
    assert [entry["state"] for entry in ours] == ["resolved"] * 30 + ["firing"] * 30
    assert len({entry["transition_id"] for entry in ours}) == 60
    assert entries[60:] == [f"old {i}".encode() for i in range(40)]


def test_critical_alerts_are_published_once(journal: Journal, client: redis.Redis) -> None:
    """Subscribers of alerts:critical hear each critical transition once, even when publishing is interrupted."""
    with client.pubsub() as listener:
        listener.subscribe("alerts:critical")
        listener.get_message(timeout=5)
        found = fired(journal, replace(SLOW, severity="critical"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(failpoints.VARIABLE, "alerts.after_publish:1:raise")
            failpoints.reset()
            with pytest.raises(Injected):
                journal.publish()
        failpoints.reset()
        journal.publish()
        heard = []
        while message := listener.get_message(timeout=0.2):
            heard.append(json.loads(message["data"]))
    assert [one["transition_id"] for one in heard] == [t.transition_id for t in found]
    assert heard[0]["actual"] == 60.0
    assert len(listed(client)) == 2


def test_what_the_platform_writes_itself_is_left_to_it(client: redis.Redis) -> None:
    """publish.skip: no list, or no messages; nothing piles up, and each message says whose it is."""
    for skip, lists, messages in ((["alerts_performance"], 0, 2), (["channel_alerts_critical"], 2, 0)):
        client.flushall()
        quiet = Journal(client, KEYS, skip=skip)
        with client.pubsub() as listener:
            listener.subscribe("alerts:critical")
            listener.get_message(timeout=5)
            fired(quiet, replace(SLOW, severity="critical"))
            assert quiet.publish() == 2
            heard = []
            while message := listener.get_message(timeout=0.2):
                heard.append(json.loads(message["data"]))
        assert (len(listed(client)), len(heard)) == (lists, messages)
        assert {one["source"] for one in [*heard, *listed(client)]} == {"metrics-pipeline"}
        assert quiet.publish() == 0


def test_warnings_are_not_published_on_the_critical_channel(journal: Journal, client: redis.Redis) -> None:
    """Only the severity critical goes to alerts:critical."""
    with client.pubsub() as listener:
        listener.subscribe("alerts:critical")
        listener.get_message(timeout=5)
        fired(journal)
        journal.publish()
        assert listener.get_message(timeout=0.1) is None


def rows(store: Store) -> list[tuple[Any, ...]]:
    """What stands in the table, physically: without FINAL, doubles would show."""
    return store.rows(
        "SELECT transition_id, from_state, to_state, labels['page'], value, threshold, toUnixTimestamp64Milli(at), "
        "evidence FROM alerts ORDER BY at, to_state SETTINGS final = 0"
    )


def test_transitions_stand_in_the_table_once(journal: Journal, store: Store) -> None:
    """The table has each transition with its numbers, and the outbox is empty; flushing again adds nothing."""
    firing, resolved = fired(journal)
    assert table.flush(journal, store) == 2
    assert table.flush(journal, store) == 0
    found = rows(store)
    assert [row[:7] for row in found] == [
        (firing.transition_id, "pending", "firing", "login page", 60.0, 50.0, T0 + 2 * MINUTE_MS),
        (resolved.transition_id, "firing", "resolved", "login page", 10.0, 50.0, T0 + 3 * MINUTE_MS),
    ]
    assert json.loads(found[0][7])["samples"] == 1


@pytest.mark.parametrize("place", ["alerts.before_insert", "alerts.after_insert", "alerts.after_table"])
def test_a_flush_that_was_interrupted_is_finished_without_doubles(
    journal: Journal, store: Store, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Wherever it stopped, the next flush leaves every transition in the table exactly once, physically."""
    fired(journal)
    monkeypatch.setenv(failpoints.VARIABLE, f"{place}:1:raise")
    failpoints.reset()
    with pytest.raises(Injected):
        table.flush(journal, store)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    table.flush(journal, store)
    assert [row[2] for row in rows(store)] == ["firing", "resolved"]


def test_no_data_is_written_as_nan_and_null(journal: Journal, store: Store) -> None:
    """A resolution for lack of data has no number: NaN in the table, null in JSON."""
    fired(journal, a=[60, 60, None])
    table.flush(journal, store)
    journal.publish()
    last = store.rows("SELECT isNaN(value) FROM alerts WHERE to_state = 'resolved'")
    assert last == [(1,)]
