"""What is written of tests and their failures to the platform's keys, rebuilt from the raw rows."""

import json
import time
from typing import Any

import pytest
import redis
from test_runs import T0, item, store_items

from pipeline.base import failpoints
from pipeline.jobs.failures import FailuresJob
from pipeline.store.client import Store

NOW_MS = (T0 + 3600) * 1000


@pytest.fixture
def results(redis_url: str) -> Any:
    client = redis.Redis.from_url(redis_url, db=2)
    client.flushall()
    return client


ROWS = [
    item(test_name="login", test_id="t1", status="retried", attempt=1, error_type="Timeout", value=30_000),
    item(test_name="login", test_id="t1", status="flaky", attempt=2, value=3000, at=31),
    item(test_name="login", test_id="t1", status="FAILED", error_type="Timeout", value=9, at=60),
    item(test_name="cart", test_id="t2", status="failed", error_type="AssertionError", at=5),
    item(test_name="cart", test_id="t2", status="passed", at=7, tags={"execution_id": "exec-7"}),
    item(test_name="cart", test_id="t2", status="skipped", at=9),
]


def test_histories_patterns_and_analysis_are_as_the_document_has_them(store: Store, results: Any) -> None:
    """The newest executions first, attempts that were tried again left out; failing tests by error; the analysis."""
    store_items(store, ROWS)
    FailuresJob(store, results).run(NOW_MS)
    history = [json.loads(one) for one in results.lrange("test:history:login", 0, -1)]
    assert [(one["status"], one["duration"]) for one in history] == [("FAILED", 9), ("flaky", 3000)]
    assert history[0]["timestamp"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(T0 + 60))
    cart = [json.loads(one) for one in results.lrange("test:history:cart", 0, -1)]
    assert [one["executionId"] for one in cart if one["status"] == "passed"] == ["exec-7"]
    assert results.smembers("failure:pattern:Timeout") == {b"t1"}
    assert results.smembers("failure:pattern:AssertionError") == {b"t2"}
    analysis = results.hgetall("failure:analysis")
    assert (analysis[b"error_rate"], analysis[b"most_common_error"], analysis[b"flaky_tests"]) == (
        b"50",
        b"Timeout",
        b"1",
    )


def test_a_history_has_the_newest_hundred(store: Store, results: Any) -> None:
    """More executions than the document keeps: the oldest are left out, and a second run changes nothing."""
    store_items(store, [item(test_name="busy", value=n, at=n) for n in range(130)])
    for _ in range(2):
        FailuresJob(store, results).run(NOW_MS)
        durations = [json.loads(one)["duration"] for one in results.lrange("test:history:busy", 0, -1)]
        assert durations == list(range(129, 29, -1))


def test_an_error_that_happens_no_more_is_removed(store: Store, results: Any) -> None:
    """A pattern that an earlier process wrote goes when its last failure is older than a day."""
    results.sadd("failure:pattern:Old", "t9")
    store_items(store, ROWS)
    FailuresJob(store, results).run(NOW_MS)
    assert sorted(results.keys("failure:pattern:*")) == [b"failure:pattern:AssertionError", b"failure:pattern:Timeout"]


def test_a_death_between_two_histories_doubles_nothing(
    store: Store, results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run writes all of them again, each whole."""
    monkeypatch.setattr("pipeline.jobs.failures.TESTS_A_TRANSACTION", 1)
    store_items(store, ROWS)
    monkeypatch.setenv(failpoints.VARIABLE, "failures.between_histories:1:raise")
    failpoints.reset()
    with pytest.raises(failpoints.Injected):
        FailuresJob(store, results).run(NOW_MS)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    FailuresJob(store, results).run(NOW_MS)
    assert (results.llen("test:history:login"), results.llen("test:history:cart")) == (2, 3)


@pytest.mark.parametrize("name", ["test_history", "failure_pattern", "failure_analysis"])
def test_what_the_platform_writes_itself_is_left_alone(store: Store, results: Any, name: str) -> None:
    """``publish.skip`` names an entry of the schema: its keys are not written."""
    store_items(store, ROWS)
    FailuresJob(store, results, [name]).run(NOW_MS)
    written = {key.decode() for key in results.keys("*")}
    of = {
        "test_history": "test:history:",
        "failure_pattern": "failure:pattern:",
        "failure_analysis": "failure:analysis",
    }
    assert not [key for key in written if key.startswith(of[name])]
    assert len(written) >= 2
