"""What the rollup job writes to Redis: the schema's keys, their TTLs, and never an older figure over a newer one."""

import json
import time

import pytest
import redis
from rollup_fakes import MemoryBuffer, Row
from test_rollup import SETTINGS, write_raw

from pipeline.base import keys
from pipeline.jobs.publish import Publisher
from pipeline.jobs.rollup import RollupJob
from pipeline.store.client import Store

NOW = int(time.time())
T0 = NOW // 300 * 300 - 600


def _run(at: int, status: str = "passed", value: float = 100.0, name: str = "login", kind: str = "duration") -> Row:
    return {"timestamp_ms": at * 1000, "metric_type": kind, "test_name": name, "status": status, "value": value}


class Platform:
    """A job over real ClickHouse and real Redis."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.buffer = store, MemoryBuffer()
        self.metrics, self.results, self.notifications, self.coordination = (
            redis.Redis.from_url(url, db=number, decode_responses=True) for number in (3, 2, 5, 1)
        )
        self.job = self.worker()

    def worker(self) -> RollupJob:
        publisher = Publisher(
            self.store, self.metrics, self.results, self.notifications, self.coordination, retained_days=30
        )
        return RollupJob(self.store, [self.buffer], SETTINGS, publisher)

    def arrive(self, *rows: Row) -> None:
        write_raw(self.store, list(rows), segment=str(self.buffer.touches))
        self.buffer.touch(rows)

    def close(self) -> None:
        for client in (self.metrics, self.results, self.notifications, self.coordination):
            client.close()


@pytest.fixture
def platform(store: Store, redis_url: str):
    platform = Platform(store, redis_url)
    yield platform
    platform.close()


def test_windows_stand_under_the_keys_of_the_schema(platform: Platform) -> None:
    """total_tests, passed_tests, avg_duration come first; a skipped test and other metrics count in none of them."""
    platform.arrive(
        *[_run(T0, "passed", 100), _run(T0, "failed", 200), _run(T0, "timed out", 600), _run(T0, "skipped", 0)],
        *[_run(T0 + 70, "passed", 5.5), _run(T0, "passed", 9, kind="lcp"), _run(T0, "passed", 100, kind="Duration")],
    )
    platform.job.run((T0 + 500) * 1000)
    first = platform.metrics.hgetall(keys.window_1min(T0))
    assert list(first.items())[:3] == [("total_tests", "4"), ("passed_tests", "2"), ("avg_duration", "250")]
    assert (first["failed_tests"], first["is_final"], first["revision"]) == ("2", "1", "13")  # timed out is failed
    five = platform.metrics.hgetall(keys.window_5min(T0))
    assert (five["total_tests"], five["passed_tests"], float(five["avg_duration"])) == ("5", "3", 1005.5 / 5)


def test_hashes_expire_an_hour_and_six_hours_after_the_windows_end(platform: Platform) -> None:
    """EXPIREAT counts from the window's end, so writing late prolongs nothing."""
    platform.arrive(_run(T0))
    platform.job.run((T0 + 500) * 1000)
    left = [platform.metrics.ttl(key) for key in (keys.window_1min(T0), keys.window_5min(T0))]
    assert left == [
        pytest.approx(T0 + 60 + 3600 - time.time(), abs=5),
        pytest.approx(T0 + 300 + 21_600 - time.time(), abs=5),
    ]


def test_a_window_past_its_ttl_is_not_written(platform: Platform) -> None:
    """A row two hours late rewrites ClickHouse's windows and the 5-minute hash, not the 1-minute one."""
    late = T0 - 7200
    platform.arrive(_run(late))
    platform.job.run(NOW * 1000)
    assert platform.metrics.keys("metrics:*") == [keys.window_5min(late)]
    assert platform.buffer.minutes == {}


def test_a_stale_worker_does_not_put_back_older_figures(platform: Platform) -> None:
    """A hash is only replaced by a revision that is not lower."""
    platform.arrive(_run(T0), _run(T0))
    platform.job.run((T0 + 62) * 1000)
    newer = platform.metrics.hgetall(keys.window_1min(T0))
    platform.metrics.hset(keys.window_1min(T0), mapping={"revision": 99, "total_tests": 50})
    platform.worker().run((T0 + 62) * 1000)
    assert platform.metrics.hget(keys.window_1min(T0), "total_tests") == "50"
    platform.metrics.hset(keys.window_1min(T0), "revision", 4)
    platform.worker().run((T0 + 62) * 1000)
    assert platform.metrics.hgetall(keys.window_1min(T0)) == newer


def test_the_dashboard_is_told_the_last_hour(platform: Platform) -> None:
    """One message per run that wrote a minute: the sums of the living minute hashes, and how many tests run."""
    for number in range(7):
        platform.coordination.hset(keys_running(number), "status", "executing")
    platform.coordination.set("lock:env:staging:chrome", "worker")
    with platform.notifications.pubsub() as listener:
        listener.subscribe(keys.CHANNEL_DASHBOARD_UPDATE)
        listener.get_message(timeout=5)
        platform.arrive(_run(T0, value=100), _run(T0 + 61, "failed", value=400), _run(T0 + 61, value=100))
        platform.job.run((T0 + 130) * 1000)
        platform.job.run((T0 + 131) * 1000)
        told = [message for message in (listener.get_message(timeout=5), listener.get_message(timeout=0.1)) if message]
    assert [json.loads(message["data"]) for message in told] == [
        {
            "type": "metrics_update",
            "data": {"total_tests": 3, "passed_tests": 2, "running_tests": 7, "avg_duration": 200.0},
            "source": keys.SOURCE,
        }
    ]


def keys_running(number: int) -> str:
    return f"test:running:t{number}"


def test_test_stats_follow_the_retained_days(platform: Platform) -> None:
    """Runs, passes and mean over all retained days; only tests that changed are written again."""
    yesterday = T0 - 86_400
    platform.arrive(
        *[_run(yesterday, "passed", 100), _run(yesterday, "failed", 300), _run(T0, "passed", 200)],
        *[_run(T0 + 299, "skipped", 0, name="menu"), _run(T0, "passed", 50, name="search"), _run(T0, name="")],
    )
    platform.job.run(NOW * 1000)
    assert platform.results.hgetall(keys.test_stats("login")) == {
        "total_runs": "3",
        "passed_runs": "2",
        "failed_runs": "1",
        "avg_duration": "200",
        "success_rate": "66.66666666666667",
        "last_success": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(T0)),
    }
    assert sorted(platform.results.keys("test:stats:*")) == [keys.test_stats("login"), keys.test_stats("search")]
    platform.results.delete(keys.test_stats("search"))
    platform.arrive(_run(yesterday, "failed", 200))
    platform.job.run((NOW + 60) * 1000)
    assert platform.results.hmget(keys.test_stats("login"), "total_runs", "failed_runs") == ["4", "2"]
    assert not platform.results.exists(keys.test_stats("search"))


def test_test_stats_follow_a_retention_that_is_changed(platform: Platform) -> None:
    """Fewer days drop what is older, without any new run; more days count it again."""
    platform.arrive(_run(T0 - 5 * 86_400, "failed"), _run(T0))
    platform.job.run(NOW * 1000)
    runs = [platform.results.hget(keys.test_stats("login"), "total_runs")]
    for number, hours in enumerate((48, 240), 1):
        platform.job.publisher.keep(hours)
        platform.job.run((NOW + 60 * number) * 1000)
        runs.append(platform.results.hget(keys.test_stats("login"), "total_runs"))
    assert runs == ["2", "1", "2"]


def test_what_could_not_be_published_is_published_later(platform: Platform) -> None:
    """While Redis is full the windows are in ClickHouse, the minute stays dirty; then it is published and forgotten."""
    platform.arrive(_run(T0))
    platform.metrics.config_set("maxmemory", 1)
    try:
        platform.job.run((T0 + 500) * 1000)
        assert list(platform.buffer.minutes) == [T0]
        assert not platform.metrics.exists(keys.window_1min(T0))
        assert platform.store.rows("SELECT count() FROM metrics_1min") == [(1,)]
    finally:
        platform.metrics.config_set("maxmemory", 0)
    platform.job.run((T0 + 505) * 1000)
    assert platform.metrics.hget(keys.window_1min(T0), "total_tests") == "1"
    assert platform.buffer.minutes == {}
