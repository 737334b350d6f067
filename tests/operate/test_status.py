"""Status, lag and watermark: what is said is so, what is not known is null, and looking changes nothing."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import RedisServer

from pipeline.base import config
from pipeline.base.keys import RETENTION_PERFORMANCE_METRICS, FleetKeys
from pipeline.base.redis_link import RedisLink
from pipeline.bench.drain import plain_items
from pipeline.buffer.buffer import open_buffers
from pipeline.buffer.lag import complete_until_ms, lag_s
from pipeline.operate.fleet import Fleet
from pipeline.operate.status import gather, schedule_trouble, service_trouble
from pipeline.operate.watch import Watch
from pipeline.store.client import Store

HOUR_MS = 3_600_000
BOOKS = ("waiting", "sealed", "in_flight", "stored", "dead_lettered", "spilled", "dropped", "lost", "set_aside")


class Pipeline:
    """A buffer on a real Redis, and what is said of it."""

    def __init__(self, url: str) -> None:
        self.settings = config.Settings(redis=config.RedisSettings(url=url), drainer={"durable_seal": False})
        self.link = RedisLink.open(self.settings)
        self.buffers = open_buffers(self.settings, self.link)
        self.buffer = self.buffers[0]
        self.client: redis.Redis = self.buffer.client

    def now_ms(self) -> int:
        return Fleet(self.client, "").now_ms()

    def spill_all(self) -> None:
        """As the overflow guard does it, but for the file."""
        while (chunk := self.buffer.claim()) is not None:
            self.buffer.spill(chunk)

    def status(self, store: Store | None = None) -> dict[str, Any]:
        return gather(self.settings, self.link, self.buffers, store).as_dict()


@pytest.fixture
def pipeline(redis_url: str) -> Pipeline:
    return Pipeline(redis_url)


class _Clock:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


# Lag and watermark


@pytest.mark.parametrize("state", ["in flight", "spilled"])
def test_lag_and_watermark_count_what_is_sealed_and_what_is_spilled(
    state: str, pipeline: Pipeline, store: Store
) -> None:
    """An hour later nothing is stored: the lag is an hour, and nothing counts as complete since then."""
    pipeline.client.lpush(pipeline.buffer.key, *plain_items(10, 1))
    segment = pipeline.buffer.seal(100)
    assert segment is not None
    if state == "spilled":
        pipeline.spill_all()
    books = pipeline.buffer.books()
    assert (books.in_flight, books.spilled) == ((10, 0) if state == "in flight" else (0, 10))
    later_ms = pipeline.now_ms() + HOUR_MS
    assert lag_s(pipeline.buffer, books, later_ms) == pytest.approx(3600, abs=30)
    assert complete_until_ms(pipeline.buffer, books, later_ms) <= segment.sealed_at_ms
    watch = Watch(pipeline.settings, pipeline.link, pipeline.buffers, store, _Clock(later_ms))
    assert watch.complete_until_ms() <= segment.sealed_at_ms
    ((_, told),) = watch.facts({})["drain_lag_s"]  # type: ignore[misc]
    assert told == pytest.approx(3600, abs=30)


def test_what_waits_holds_the_watermark_back(pipeline: Pipeline) -> None:
    """Items that are not sealed count by their own time; an empty buffer is complete up to now."""
    now_ms = pipeline.now_ms()
    assert complete_until_ms(pipeline.buffer, pipeline.buffer.books(), now_ms) == now_ms
    item = {"timestamp": now_ms - 90_000, "metric_type": "duration", "value": 1}
    pipeline.client.lpush(pipeline.buffer.key, json.dumps(item))
    assert complete_until_ms(pipeline.buffer, pipeline.buffer.books(), now_ms) == now_ms - 90_000


def test_what_was_set_aside_is_no_lag(pipeline: Pipeline) -> None:
    """It waits for a person: alerts go on being judged."""
    pipeline.client.lpush(pipeline.buffer.key, *plain_items(10, 1))
    pipeline.buffer.seal(100)
    chunk = pipeline.buffer.claim()
    assert chunk is not None
    pipeline.buffer.set_aside(chunk, "a test")
    later_ms = pipeline.now_ms() + HOUR_MS
    assert lag_s(pipeline.buffer, pipeline.buffer.books(), later_ms) == 0
    assert complete_until_ms(pipeline.buffer, pipeline.buffer.books(), later_ms) == later_ms


# Unknown is unknown


def test_without_redis_everything_of_it_is_unknown(redis_server: Callable[..., RedisServer]) -> None:
    """No zero is printed for what could not be counted; there is trouble."""
    server = redis_server()
    pipeline = Pipeline(server.url)
    server.kill()
    status = pipeline.status()
    assert {name: status[name] for name in BOOKS} == dict.fromkeys(BOOKS)
    for name in ("unaccounted", "oldest_s", "dirty_minutes", "ledger_pending", "redis_memory_bytes", "services"):
        assert status[name] is None, name
    assert any(sentence.startswith("Redis") for sentence in status["trouble"])


def test_one_key_of_the_wrong_type_leaves_the_rest_known(pipeline: Pipeline) -> None:
    """Each of our keys in turn holds junk: a sentence names it, the rest is told, nothing raises."""
    keys = pipeline.buffer.keys
    for key in (FleetKeys("pipeline").services, keys.dirty, keys.acked, keys.ledger, keys.segments, keys.buffer):
        for damage in ("set", "hset"):
            pipeline.client.flushall()
            if damage == "set":
                pipeline.client.set(key, "junk")
            else:
                pipeline.client.hset(key, "junk", "junk")
            status = pipeline.status()
            assert status["redis_memory_bytes"] > 0
            json.dumps(status)
            assert status["trouble"] or damage == "hset", key


@pytest.mark.parametrize("wrong_type", [False, True])
def test_a_retention_that_is_ignored_is_trouble_and_fills_no_log(
    wrong_type: bool, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """However often one looks: a sentence with key, reason and fix; the setting counts."""
    environment = pipeline.link.database("environment")
    if wrong_type:
        environment.set(RETENTION_PERFORMANCE_METRICS, "720")
    else:
        environment.hset(RETENTION_PERFORMANCE_METRICS, "ttl_hours", "500000")
    try:
        status = pipeline.status()
    finally:
        environment.delete(RETENTION_PERFORMANCE_METRICS)
    (said,) = [sentence for sentence in status["trouble"] if RETENTION_PERFORMANCE_METRICS in sentence]
    assert ("make " if wrong_type else "'500000'): set ttl_hours to a number from 1 to ") in said
    assert status["retention_h"] == 720 and not caplog.records


def test_a_missing_view_hides_only_its_own_figure(pipeline: Pipeline, store: Store) -> None:
    """``alerts_now`` was dropped: how many alerts fire is unknown and trouble, the rows are counted."""
    store.command("DROP VIEW alerts_now")
    status = pipeline.status(store)
    assert (status["firing"], status["rows"], status["dead_letters_open"]) == (None, 0, 0)
    assert any("alerts_now" in sentence for sentence in status["trouble"])


# What services say of themselves


def test_services_tell_of_trouble_and_of_jobs_that_are_overdue() -> None:
    """One sentence each, with the service's name; a heartbeat with junk in it is no crash."""
    job = {"overdue": True, "began_s_ago": 95.2, "interval_s": 5}
    told = service_trouble({"name": "ci/7", "trouble": "ClickHouse is away", "jobs": {"rollup": job, "vitals": {}}})
    assert told == [
        "ci/7: ClickHouse is away",
        "ci/7: job rollup is overdue: it began 95 s ago and is to begin every 5 s",
    ]
    assert service_trouble({"name": "ci/7", "jobs": ["junk"], "channels": 5}) == []
    channels = {"pager": {"sent": 1, "failed": 2, "last_error": "HTTP 500"}, "team": {"last_error": ""}}
    (told_of_channel,) = service_trouble({"name": "ci/7", "channels": channels})
    assert "channel pager" in told_of_channel and "HTTP 500" in told_of_channel


def test_it_is_trouble_when_nobody_holds_the_schedule() -> None:
    """Once a service has run for a while, one of them must hold it; drainers never do."""
    settled = {"role": "run", "running_s": 100}
    assert schedule_trouble([settled]) != []
    assert schedule_trouble([{**settled, "schedules": True}, settled]) == []
    assert schedule_trouble([{**settled, "running_s": 5}]) == []
    assert schedule_trouble([{"role": "drain", "running_s": 100}]) == []
    assert schedule_trouble(None) == schedule_trouble([]) == []


def test_a_heartbeat_is_dated_by_redis(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is an hour off is seen alive, and sees others alive."""
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setattr(time, "time_ns", lambda: 10**9)
    fleet = Fleet(pipeline.client, FleetKeys("pipeline").services)
    fleet.say("here/1", {"role": "run"})
    assert [said["name"] for said in pipeline.status()["services"]] == ["here/1"]
    assert fleet.services(pipeline.now_ms() + 16_000) == []


# Looking changes nothing


@pytest.mark.parametrize(
    ("command", "code"),
    [
        *[(("status",), 1), (("status", "--live"), 1), (("doctor",), 1), (("audit",), 1), (("dlq", "ls"), 1)],
        *[(("query", "SELECT 1"), 1), (("top",), 2), (("tap", "--count", "1"), 1), (("alerts", "ls"), 1)],
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else str(part),
)
def test_looking_changes_nothing(
    command: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh directory: one sentence or trouble, no file, no server, no traceback."""
    from pipeline.cli.main import _run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pipeline", *command])
    with pytest.raises(SystemExit) as ended:
        _run()
    assert ended.value.code == code
    assert list(tmp_path.iterdir()) == []
