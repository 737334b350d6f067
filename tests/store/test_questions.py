"""The ten questions that analysts ask of a week of data, each as one named query."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import resources
from pipeline.base.config import Settings
from pipeline.base.errors import StoreRefused, UsageError
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

DAY_S = 86_400
NOW_S = int(time.time()) // DAY_S * DAY_S + DAY_S // 2
"""Noon, so that a day of the data is a day of the calendar."""

QUESTIONS = (
    *("slower_tests", "flakiest_tests", "run_against_main", "worst_pages", "one_test_by_day"),
    *("broken_since", "pass_rate_by_day", "test_time", "slowest_browser", "time_to_resolve"),
)

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def shop(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A migrated store that the tests here share, with a fortnight of data that they do not change."""
    ours = Settings(clickhouse={"dsn": f"chdb://{engine_path}", "database": "questions"})
    with Store.open(ours) as store:
        migrate(store, ours)
        _seed(store)
        yield store
        store.command("DROP DATABASE questions SYNC")


def _seed(store: Store) -> None:
    def days_ago(days: float) -> str:
        return f"toDateTime64({NOW_S - round(days * DAY_S)}, 3, 'UTC')"

    # "search" takes 40 % longer in the last week; "steady" does not. Firefox takes 1.3 times as long as Chrome.
    store.command(
        "INSERT INTO metrics_5min (window_start, metric_type, environment, browser, test_suite, test_id, samples, "
        "total, passed, failed, flaky, retried, sum, avg, min, max, p50, histogram, revision, speed_samples, "
        "speed_p50) "
        f"SELECT toDateTime({NOW_S} - {DAY_S} * day, 'UTC'), 'duration', 'staging', browser, 'shop', test, 10, 10, "
        "10, 0, if(test = 'wobbly', 2, 0), if(test = 'wobbly', 2, 0), 10 * ms, ms, ms, ms, ms, "
        "map(toInt32(35710), toUInt64(10)), 1, 10, ms "
        "FROM (SELECT arrayJoin(range(1, 14)) AS day, arrayJoin(['chromium', 'firefox']) AS browser, "
        "arrayJoin(['search', 'steady', 'wobbly']) AS test, 1000 * if(test = 'search' AND day <= 7, 1.4, 1) "
        "* if(browser = 'firefox', 1.3, 1) AS ms)"
    )
    store.command(
        "INSERT INTO web_vitals (window_start, vital, environment, browser, page, samples, good, needs_improvement, "
        f"poor, histogram, revision) SELECT toDateTime({NOW_S} - {DAY_S}, 'UTC'), 'lcp', 'staging', 'chrome', page, "
        "100, "
        "if(page = '/cart', 20, 90), 10, if(page = '/cart', 70, 0), "
        "map(toInt32(if(page = '/cart', 35825, 35770)), toUInt64(100)), 1 "
        "FROM (SELECT arrayJoin(['/', '/cart']) AS page)"
    )
    # "login" failed first five days ago, passed two days ago, and fails since yesterday. "old" never passed.
    rows = ", ".join(
        f"({days_ago(days)}, 'duration', 'staging', 'Chromium', 'shop', '{test}', '{status}', {value}, '{run}', "
        f"'s', {n})"
        for n, (days, test, status, value, run) in enumerate(
            [
                (5, "login", "failed", 3_600_000, ""), (2, "login", "passed", 3_600_000, ""),
                (1, "login", "FAILED", 3_600_000, "r9"), (0.9, "login", "timed out", 3_600_000, ""),
                (3, "old", "failed", 1000, ""), (1, "search", "passed", 2000, "r9"),
                (1, "wobbly", "retried", 1000, "r9"), (0.99, "wobbly", "flaky", 1000, "r9"),
                (1, "new", "passed", 1000, "r9"),
            ]
        )
    )  # fmt: skip
    store.command(
        "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, status, value, "
        f"run_id, segment, position) VALUES {rows}"
    )
    store.command(
        "INSERT INTO baselines (computed_at, test_suite, environment, browser, test_id, centre, spread, success_rate, "
        f"runs, state) SELECT {days_ago(1)}, 'shop', 'staging', 'Chromium', test, 1000, 50, 1, 20, 'ok' "
        "FROM (SELECT arrayJoin(['login', 'search', 'wobbly']) AS test)"
    )
    alerts = [
        ("a", 3, "firing", 3, ""), ("a", 2.75, "resolved", 3, "below 500"),
        ("b", 2, "firing", 2, ""), ("b", 1.99, "resolved", 2, "its rule was removed from the rules"),
        ("c", 1, "firing", 1, ""),
    ]  # fmt: skip
    rows = ", ".join(
        f"({days_ago(at)}, 'slow', '{alert}', '{alert}{state}', '{state}', {days_ago(fired)}, '{reason}')"
        for alert, at, state, fired, reason in alerts
    )
    store.command(f"INSERT INTO alerts (at, rule, alert_id, transition_id, to_state, fired_at, reason) VALUES {rows}")


@pytest.fixture
def ask(shop: Store) -> Ask:
    """``ask("slower_tests", since="7d")``: the rows, judged at noon."""

    def asked(name: str, **given: str) -> list[dict[str, Any]]:
        query = resources.queries()[name]
        found: list[dict[str, Any]] = shop.query(query.sql, query.values(given, NOW_S * 1000)).to_pylist()
        return found

    return asked


def test_all_ten_are_there() -> None:
    """Each question is a named query that takes a span, except that of one run."""
    for name in QUESTIONS:
        names = {one.name for one in resources.queries()[name].parameters}
        assert {"since", "until"} <= names or name == "run_against_main"


def test_which_got_slower(ask: Ask) -> None:
    """The test whose median rose against the week before, and no other; both browsers of it."""
    found = ask("slower_tests")
    assert [(row["test_id"], row["browser_name"], row["change_pct"]) for row in found] == [
        ("search", "chrome", 40.0),
        ("search", "firefox", 40.0),
    ]
    assert ask("slower_tests", since="2d") == []


def test_which_are_flaky(ask: Ask) -> None:
    """Those that passed after a retry; one that broke and was mended in between is none."""
    assert {row["test_id"] for row in ask("flakiest_tests")} == {"wobbly"}


def test_a_broken_test_is_not_flaky(ask: Ask, shop: Store) -> None:
    """Back and forth on one commit and saved by retries is flaky; failing from one commit on, or between, is not."""
    rows = []
    for n in range(20):
        rows.append((n, "broken", "failed" if n >= 10 else "passed", f"c{n}"))
        rows.append((n, "torn", "failed" if n % 2 else "passed", "same"))
        rows.append((n, "moody", "failed" if n % 2 else "passed", f"c{n}"))
        rows += [(n, "saved", "retried", "same")] * (n % 2) + [(n + 0.5, "saved", "passed", "same")]
    for named in (True, False):
        values = ", ".join(
            f"(toDateTime64({NOW_S - DAY_S} + {60 * n}, 3, 'UTC'), 'duration', 'lab', 'edge', 'flaky', '{test}', "
            f"'{status}', 1000, '{commit}', '{f'lab{int(n)}' if named else ''}', 'named {named}', {at})"
            for at, (n, test, status, commit) in enumerate(rows)
        )
        shop.command(
            "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, status, value, "
            f"commit, run_id, segment, position) VALUES {values}"
        )
        try:
            found = {row["test_id"]: row for row in ask("flakiest_tests", suite="flaky")}
        finally:
            shop.command("ALTER TABLE metrics DELETE WHERE test_suite = 'flaky' SETTINGS mutations_sync = 2")
        assert set(found) == {"torn", "saved"}
        assert (found["torn"]["executions"], found["torn"]["changes_on_one_commit"]) == (20, 19)
        assert (found["saved"]["retried_attempts"], found["saved"]["passed_after_retry"]) == (10, 10)


def test_attempts_that_a_producer_calls_failed_are_saved_by_the_one_that_passed(ask: Ask, shop: Store) -> None:
    """Not only attempts called ``retried``: in one run first failed, then passed, is flaky; the reverse failed."""
    rows = [(n, "mended", "failed") for n in range(3)] + [(n + 0.5, "mended", "passed") for n in range(10)]
    rows += [(n, "gave in", "passed") for n in range(2)] + [(n + 0.5, "gave in", "failed") for n in range(2)]
    values = ", ".join(
        f"(toDateTime64({NOW_S - DAY_S} + {60 * n}, 3, 'UTC'), 'duration', 'lab', 'plain', '{test}', '{status}', 1000, "
        f"'c{int(n)}', 'plain{int(n)}', 'plain', {at})"
        for at, (n, test, status) in enumerate(rows)
    )
    shop.command(
        "INSERT INTO metrics (timestamp, metric_type, environment, test_suite, test_id, status, value, commit, run_id, "
        f"segment, position) VALUES {values}"
    )
    try:
        (found,) = ask("flakiest_tests", suite="plain")
    finally:
        shop.command("ALTER TABLE metrics DELETE WHERE test_suite = 'plain' SETTINGS mutations_sync = 2")
    named = ("test_id", "executions", "failures", "passed_after_retry", "retried_attempts", "flakiness")
    assert tuple(found[name] for name in named) == ("mended", 10, 0, 3, 3, 0.3)


def test_is_this_run_worse_than_main(ask: Ask) -> None:
    """Each execution of the run is judged by what is normal on main; the worst stands first, one row an execution."""
    found = {row["test"]: row for row in ask("run_against_main", run_id="r9")}
    assert [(test, row["judgement"]) for test, row in found.items()] == [
        ("login", "fails here, passes on main"),
        ("search", "slower than on main"),
        ("wobbly", "needed a retry"),
        ("new", "unknown on main"),
    ]
    assert found["search"]["slower_pct"] == 100.0
    assert found["new"]["normal_ms"] is None


def test_which_page_has_the_worst_lcp(ask: Ask) -> None:
    """The slowest page first, rated by its counts, its p75 between its bounds."""
    worst, other = ask("worst_pages")
    assert (worst["page"], worst["rating"], other["page"], other["rating"]) == ("/cart", "poor", "/", "good")
    assert worst["p75_low"] <= worst["p75"] <= worst["p75_high"]
    assert ask("worst_pages", browser="Chromium") == ask("worst_pages", browser="chrome") == [worst, other]


def test_one_test_by_day(ask: Ask) -> None:
    """A row for each day and browser."""
    found = ask("one_test_by_day", test_id="search")
    assert len(found) == 26
    assert {row["pass_rate"] for row in found} == {1.0}


def test_since_when_is_it_broken(ask: Ask) -> None:
    """Since it last passed, not since it first failed; one that never passed in the span says so, first."""
    never, login = ask("broken_since")
    assert (never["test"], never["last_passed"]) == ("old", None)
    assert (login["test"], login["last_passed"].timestamp()) == ("login", NOW_S - 2 * DAY_S)
    assert login["first_failed_after"].timestamp() == NOW_S - DAY_S
    assert login["failures_since"] == 2


def test_pass_rate_by_day(ask: Ask) -> None:
    """One row for each day and suite."""
    found = ask("pass_rate_by_day", since="7d", until="1d")
    assert len(found) == 6
    assert {(row["executions"], row["pass_rate"]) for row in found} == {(60, 1.0)}


def test_where_test_time_goes(ask: Ask) -> None:
    """Hours with retries in them, and their share, which add up to one."""
    found = ask("test_time")
    assert (found[0]["test_id"], found[0]["hours"], found[0]["hours_failed"]) == ("login", 4.0, 3.0)
    assert sum(row["share"] for row in found) == pytest.approx(1, abs=0.01)


def test_which_browser_is_slowest(ask: Ask) -> None:
    """By the ratio on the same tests, not by a mix of tests, with bounds around it."""
    slow, fast = ask("slowest_browser")
    assert (slow["browser_name"], fast["browser_name"]) == ("firefox", "chrome")
    assert slow["times_the_mean"] / fast["times_the_mean"] == pytest.approx(1.3)
    assert slow["low"] <= slow["times_the_mean"] <= slow["high"]


def test_how_long_until_alerts_resolve(ask: Ask) -> None:
    """From firing to resolved; a rule that was removed resolves nothing, and what still fires is counted."""
    (row,) = ask("time_to_resolve")
    assert (row["resolved"], row["p50_minutes"], row["longest_minutes"]) == (1, 360.0, 360.0)
    assert (row["still_firing"], row["rule_removed_or_changed"]) == (1, 1)


def test_browsers_join_under_one_name(ask: Ask, shop: Store) -> None:
    """Tests of chromium and vitals of chrome are one row; so is it in views."""
    found = {row["browser_name"]: row for row in ask("tests_and_vitals_by_browser")}
    assert (found["chrome"]["executions"], found["chrome"]["page_views"]) == (210, 200)
    assert set(found) == {"chrome", "firefox"}
    shop.rows("SELECT count() FROM pass_rate_by_suite AS t JOIN vitals_by_browser_and_page AS v USING (browser_name)")
    assert shop.rows(
        "SELECT browserName('Chromium'), browserName('msedge'), browserName('Opera'), browserName('')"
    ) == [("chrome", "edge", "opera", "")]


def test_the_alias_trap_is_named(shop: Store) -> None:
    """The error that it ends in says what to write instead."""
    with pytest.raises(StoreRefused, match="Name it otherwise"):
        shop.query("SELECT sum(passed) AS passed, sum(passed) / sum(total) FROM metrics_5min")


def test_parameters_are_named_in_errors() -> None:
    """A missing, an unknown and an unreadable parameter each end in a sentence."""
    query = resources.queries()["run_against_main"]
    with pytest.raises(UsageError, match="needs the parameter 'run_id'"):
        query.values({}, 0)
    with pytest.raises(UsageError, match="no parameter 'runid'"):
        query.values({"runid": "x"}, 0)
    with pytest.raises(UsageError, match="'last tuesday' is neither"):
        resources.queries()["test_time"].values({"since": "last tuesday"}, 0)
