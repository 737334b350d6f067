"""The baselines job on a real ClickHouse engine and real Redis servers."""

import itertools
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.analyse.baselines import baselines, history
from pipeline.analyse.dimensions import SERIES
from pipeline.base import failpoints
from pipeline.base.config import Settings
from pipeline.base.errors import RedisOutage
from pipeline.base.failpoints import Injected
from pipeline.jobs.baselines import GROUPINGS, BaselinesJob
from pipeline.store.client import Store

# Recent: the tables' TTL goes by the real clock.
NOW_MS = int(time.time()) // 60 * 60_000 - 3_600_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000
TIMES = pa.timestamp("ms", "UTC")

_positions = itertools.count()


def push(store: Store, rows: Iterable[dict[str, Any]]) -> None:
    """Store raw metrics; what a row leaves out is a passed test of now that took a second."""
    plain = {"metric_type": "duration", "test_suite": "checkout", "test_id": "t1", "status": "passed", "segment": "s"}
    given = [plain | row for row in rows]
    columns = {name: pa.array([row.get(name, "") for row in given]) for name in (*SERIES, "status", "segment")}
    tags = [list(row.get("tags", {}).items()) for row in given]
    store.insert(
        "metrics",
        pa.table(
            columns
            | {
                "timestamp": pa.array([row.get("at_ms", NOW_MS) for row in given], TIMES),
                "value": pa.array([float(row.get("value", 1000)) for row in given]),
                "tags": pa.array(tags, pa.map_(pa.string(), pa.string())),
                "position": pa.array([next(_positions) for _ in given], pa.uint32()),
                "ingested_at": pa.array([NOW_MS] * len(given), TIMES),
            }
        ),
    )


def confirm_change(store: Store, changed_at_ms: int, **series: str) -> None:
    """Note that a series' level moved."""
    texts = {"metric_type": "duration", "test_suite": "checkout", "direction": "regression"} | series
    figures = ("level_before", "level_after", "change_pct", "effect_spreads", "p_value", "confidence")
    store.insert(
        "change_points",
        pa.table(
            {name: pa.array([texts.get(name, "")]) for name in (*SERIES, "direction")}
            | {name: pa.array([1.0]) for name in figures}
            | {name: pa.array([20], pa.uint32()) for name in ("points_before", "points_after")}
            | {name: pa.array([changed_at_ms], TIMES) for name in ("changed_at", "detected_at")}
        ),
    )


def every_minute(values: Iterable[float], end_ms: int = NOW_MS, **fields: Any) -> list[dict[str, Any]]:
    """Executions a minute apart, the last one at ``end_ms``."""
    listed = list(values)
    first_ms = end_ms - (len(listed) - 1) * MINUTE_MS
    return [{"value": value, "at_ms": first_ms + n * MINUTE_MS} | fields for n, value in enumerate(listed)]


@pytest.fixture
def job(store: Store, settings: Settings, redis_url: str) -> BaselinesJob:
    return BaselinesJob(store, redis.Redis.from_url(redis_url), settings)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """What a reader of the platform's keys sees, as text."""
    return redis.Redis.from_url(redis_url, decode_responses=True)


class TestTable:
    """``baselines`` and its history; Redis does not answer here."""

    @pytest.fixture
    def run(self, store: Store, settings: Settings) -> Callable[[int], Any]:
        """One run of one process; the outage of Redis comes after the table was written."""
        nowhere = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
        job = BaselinesJob(store, nowhere, settings)

        def run(now_ms: int = NOW_MS, job: BaselinesJob = job) -> BaselinesJob:
            with pytest.raises(RedisOutage):
                job.run(now_ms)
            return job

        return run

    def test_every_level_equals_the_pure_computation(
        self, store: Store, settings: Settings, run: Callable[..., Any]
    ) -> None:
        """Suites, environments, browsers and tests; what the query leaves out does not count anyway."""
        random = np.random.default_rng(11)
        rows: list[dict[str, Any]] = [
            {
                "metric_type": str(random.choice(["duration", "Duration", "lcp"])),
                "test_suite": str(random.choice(["checkout", "search", ""])),
                "environment": str(random.choice(["prod", "staging", ""])),
                "browser": str(random.choice(["chromium", "webkit", ""])),
                "test_id": str(random.choice(["t1", "t2", ""])),
                "test_name": str(random.choice(["pays", "finds", ""])),
                "status": str(random.choice(["passed", "passed", "failed", "skipped", ""])),
                "node": str(random.choice(["n1", "n2"])),
                "value": float(random.lognormal(7, 0.3)),
                # Few different times, so that many are equal where the newest fifty begin.
                "at_ms": NOW_MS - int(random.integers(200)) * 3 * MINUTE_MS * 16,
                "tags": {"run_id": f"r{random.integers(30)}"} if random.random() < 0.3 else {},
            }
            for _ in range(12_000)
        ]
        push(store, rows)
        changed_at_ms = NOW_MS - DAY_MS
        change = {"test_id": "t1", "test_name": "pays", "environment": "prod", "browser": "chromium", "node": "n1"}
        confirm_change(store, changed_at_ms, **change)
        confirm_change(store, changed_at_ms - DAY_MS, **change)
        run()

        counted = [
            row
            for row in rows
            if row["metric_type"].lower() == "duration" and NOW_MS - 7 * DAY_MS <= row["at_ms"] <= NOW_MS
        ]
        changed = {"test_suite": "checkout"} | change
        is_changed = [all(row[name] == text for name, text in changed.items()) for row in counted]
        texts = ("test_suite", "environment", "browser", "test_id", "test_name", "status")
        executions = pa.table(
            {name: pa.array([row[name] for row in counted]) for name in texts}
            | {
                "value": pa.array([row["value"] for row in counted]),
                "timestamp_ms": pa.array([row["at_ms"] for row in counted]),
                "run_id": pa.array([row["tags"].get("run_id", "") for row in counted]),
                "since_ms": pa.array([changed_at_ms * found for found in is_changed]),
            }
        )
        past = history(executions, settings.baselines.max_runs)
        expected = {}
        for by in GROUPINGS:
            for row in baselines(past, by, max_runs=settings.baselines.max_runs, min_runs=12).to_pylist():
                row |= {name: 0.0 for name in ("shift_pct", "autocorrelation") if row[name] != row[name]}
                if all(row[name] for name in by[1:]):
                    expected[
                        tuple(row.pop(name, "") for name in ("test_suite", "environment", "browser", "test_id"))
                    ] = row
        unlike = "computed_at, cycle, cycle_factors"
        stored = store.query(f"SELECT * EXCEPT({unlike}) FROM baselines").to_pylist()
        found = {
            tuple(row.pop(name) for name in ("test_suite", "environment", "browser", "test_id")): row for row in stored
        }
        for row in found.values():
            row |= {name: 0.0 for name in ("shift_pct", "autocorrelation") if row[name] != row[name]}
        assert len(stored) == len(found) > 30
        assert found == expected

    def test_seven_days_up_to_now(self, store: Store, run: Callable[..., Any]) -> None:
        """Older executions and those of the future do not count; both ends do."""
        for at_ms in (NOW_MS - 7 * DAY_MS - 1, NOW_MS - 7 * DAY_MS, NOW_MS, NOW_MS + 1):
            push(store, [{"at_ms": at_ms}])
        run()
        assert store.rows("SELECT samples FROM baselines WHERE test_id = ''") == [(2,)]

    def test_what_did_not_change_is_not_written_again(
        self, store: Store, settings: Settings, run: Callable[..., Any]
    ) -> None:
        """Neither by this process nor by another one; a single new execution writes only where it belongs."""
        push(store, every_minute([1000.0] * 20, environment="prod"))
        push(store, every_minute([1000.0] * 20, test_suite="search"))
        run(NOW_MS)
        run(NOW_MS + MINUTE_MS)
        run(NOW_MS + 2 * MINUTE_MS, BaselinesJob(store, redis.Redis(port=1, retry=Retry(NoBackoff(), 0)), settings))
        assert store.rows("SELECT count(), uniq(computed_at) FROM baselines") == [(5, 1)]
        push(store, [{"environment": "prod", "at_ms": NOW_MS + MINUTE_MS}])
        run(NOW_MS + 3 * MINUTE_MS)
        written = store.rows(
            "SELECT test_suite, environment, test_id FROM baselines "
            "WHERE computed_at = (SELECT max(computed_at) FROM baselines) ORDER BY environment, test_id"
        )
        assert written == [("checkout", "", ""), ("checkout", "", "t1"), ("checkout", "prod", "")]

    def test_one_can_ask_what_was_normal_then(self, store: Store, run: Callable[..., Any]) -> None:
        """The newest row up to a time is the baseline of that time, whatever has become normal since."""
        last_tuesday_ms = NOW_MS - 5 * DAY_MS
        push(store, every_minute([1000.0] * 20, end_ms=last_tuesday_ms))
        run(last_tuesday_ms)
        push(store, every_minute([3000.0] * 50, end_ms=NOW_MS))
        run(NOW_MS)
        normal = (
            "SELECT centre, runs FROM baselines WHERE test_suite = 'checkout' AND test_id = '' "
            "AND computed_at <= fromUnixTimestamp64Milli({then:Int64}, 'UTC') ORDER BY computed_at DESC LIMIT 1"
        )
        assert store.rows(normal, {"then": last_tuesday_ms + DAY_MS}) == [(1000.0, 20)]
        assert store.rows(normal, {"then": NOW_MS}) == [(3000.0, 70)]

    def test_history_begins_at_the_last_confirmed_change(self, store: Store, run: Callable[..., Any]) -> None:
        """What was before it is another level; the execution at the change belongs to the new one."""
        push(store, every_minute([1000.0] * 20 + [2000.0] * 15))
        confirm_change(store, NOW_MS - 14 * MINUTE_MS, test_id="t1")
        run()
        figures = "SELECT centre, runs, state, since FROM baselines WHERE test_id = 't1'"
        since = datetime.fromtimestamp((NOW_MS - 14 * MINUTE_MS) / 1000, UTC)
        assert store.rows(figures) == [(2000.0, 15, "ok", since)]

    def test_an_insert_in_doubt_is_looked_up(
        self, store: Store, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that does not know whether its rows are in the table asks before it writes them again."""
        push(store, [{}])
        job = run()
        push(store, [{"at_ms": NOW_MS + MINUTE_MS}])
        monkeypatch.setenv(failpoints.VARIABLE, "baselines.after_insert:1:raise")
        failpoints.reset()
        with pytest.raises(Injected):
            job.run(NOW_MS + MINUTE_MS)
        run(NOW_MS + 2 * MINUTE_MS)
        assert store.rows("SELECT count(), uniq(computed_at) FROM baselines") == [(4, 2)]


class TestRedis:
    """``baseline:{test_suite}``."""

    def test_the_documents_fields_come_first_and_ours_after(
        self, store: Store, job: BaselinesJob, client: redis.Redis
    ) -> None:
        """avg_duration, p95_duration, success_rate in percent, last_updated; then what makes them believable."""
        durations = [1000.0 + 100 * (7 * n % 20) for n in range(20)]
        push(store, every_minute(durations))
        push(store, every_minute([2000.0], status="failed", test_id="t2"))
        report = job.run(NOW_MS)
        assert (report.executions, report.baselines, report.written, report.published) == (21, 3, 3, 1)
        found: dict[Any, Any] = client.hgetall("baseline:checkout")
        assert list(found)[:4] == ["avg_duration", "p95_duration", "success_rate", "last_updated"]
        assert float(found["avg_duration"]) == pytest.approx(np.mean(durations))
        assert float(found["p95_duration"]) == np.quantile(durations, 0.95)
        assert float(found["success_rate"]) == pytest.approx(100 * 20 / 21)
        assert datetime.strptime(found["last_updated"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() == (
            NOW_MS // 1000
        )
        assert float(found["success_rate_low"]) < float(found["success_rate"]) < float(found["success_rate_high"])
        assert (found["samples"], found["runs"], found["state"], found["percentiles"]) == ("21", "20", "ok", "linear")

    def test_percentages_are_written_as_people_write_them(
        self, store: Store, job: BaselinesJob, client: redis.Redis
    ) -> None:
        """57 of 100 is 57 and 124 of 125 is 99.2, without the noise of binary fractions."""
        push(
            store,
            [{"status": status, "test_id": f"t{n}"} for n, status in enumerate(["passed"] * 57 + ["failed"] * 43)],
        )
        push(
            store,
            [{"test_suite": "search", "test_id": f"t{n}", "status": "passed" if n else "failed"} for n in range(125)],
        )
        job.run(NOW_MS)
        assert client.hget("baseline:checkout", "success_rate") == "57"
        assert client.hget("baseline:search", "success_rate") == "99.2"

    def test_a_metric_without_a_suite_makes_no_key(self, store: Store, job: BaselinesJob, client: redis.Redis) -> None:
        """It has its baseline in the table all the same."""
        push(store, [{"test_suite": ""}, {"test_suite": "search"}])
        assert job.run(NOW_MS).published == 1
        assert list(client.scan_iter()) == ["baseline:search"]
        assert store.rows("SELECT count() FROM baselines WHERE test_suite = ''") == [(2,)]

    def test_a_run_that_died_between_table_and_redis_is_made_good(
        self, store: Store, settings: Settings, job: BaselinesJob, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next run publishes what the table already has, and writes nothing there."""
        push(store, every_minute([1000.0] * 20))
        monkeypatch.setenv(failpoints.VARIABLE, "baselines.before_publish:1:raise")
        failpoints.reset()
        with pytest.raises(Injected):
            job.run(NOW_MS)
        assert store.rows("SELECT count() FROM baselines") == [(2,)]
        assert list(client.scan_iter()) == []
        report = BaselinesJob(store, job.redis, settings).run(NOW_MS + MINUTE_MS)
        assert (report.written, report.published) == (0, 1)
        assert client.hget("baseline:checkout", "avg_duration") == "1000"

    def test_limits_are_settings(
        self,
        store: Store,
        make_settings: Callable[..., Settings],
        settings: Settings,
        job: BaselinesJob,
        client: redis.Redis,
    ) -> None:
        """Days, runs and the least history come from the configuration."""
        push(store, every_minute([1000.0] * 20 + [500.0] * 10))
        limits = {"days": 0.01, "max_runs": 8, "min_runs": 3}
        BaselinesJob(store, job.redis, make_settings(baselines=limits)).run(NOW_MS)
        assert client.hmget("baseline:checkout", "runs", "avg_duration", "state") == ["8", "500", "ok"]
        limits = {"days": 0.003, "max_runs": 11, "min_runs": 6}
        BaselinesJob(store, job.redis, make_settings(baselines=limits)).run(NOW_MS)
        assert client.hmget("baseline:checkout", "runs", "state") == ["5", "insufficient_history"]
