"""``retention:performance_metrics``, changed while everything runs: what is accepted, ClickHouse's TTL, and status."""

import json
import threading
import time
from typing import Any

import pytest

from pipeline.base import config, keys
from pipeline.base.errors import StoreRefused
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import open_buffers
from pipeline.deliver.drainer import Drainer
from pipeline.jobs.retention import asked_hours
from pipeline.metric import Limits
from pipeline.operate import follow_retention
from pipeline.operate.follow_retention import RetentionFollower
from pipeline.operate.status import gather
from pipeline.store.client import Store
from pipeline.store.migrate import RAW_TTL_MARGIN_HOURS, kept_hours

PATIENCE_S = 120.0


class Deployment:
    """A drainer that runs, and its follower."""

    def __init__(self, url: str, settings: config.Settings, store: Store) -> None:
        self.settings = settings.model_copy(update={"redis": config.RedisSettings(url=url)})
        self.link = RedisLink.open(self.settings)
        self.buffers = open_buffers(self.settings, self.link)
        self.store = store
        self.drainer = Drainer(self.buffers[0], store, self.settings.drainer, Limits.of(self.settings))
        self.follower = RetentionFollower(self.settings, 720, self.link, store.clone(), self.accept, lambda: True)

    def accept(self, hours: int) -> None:
        retention = self.settings.retention.model_copy(update={"raw_hours": hours})
        self.drainer.accept(Limits.of(self.settings.model_copy(update={"retention": retention})))

    def ask_for(self, hours: object) -> None:
        self.link.database("environment").hset(keys.RETENTION_PERFORMANCE_METRICS, "ttl_hours", str(hours))

    def push(self, name: str, hours_ago: float) -> None:
        at_ms = round((time.time() - 3600 * hours_ago) * 1000)
        text = json.dumps({"timestamp": at_ms, "metric_type": "duration", "value": 1, "test_id": name})
        self.link.database("metrics").lpush(self.buffers[0].key, text)

    def told(self) -> tuple[Any, Any]:
        status = gather(self.settings, self.link, self.buffers, self.store).as_dict()
        return status["retention_h"], status["kept_h"]


@pytest.fixture
def deployment(redis_url: str, settings: config.Settings, store: Store) -> Deployment:
    return Deployment(redis_url, settings, store)


def test_the_platforms_hours_count_while_everything_runs(deployment: Deployment, store: Store) -> None:
    """Shorter hours refuse what is older and shorten ClickHouse's TTL, longer ones the other way; status says both."""
    stop = threading.Event()
    thread = threading.Thread(target=deployment.drainer.run, args=(stop,), daemon=True)
    thread.start()
    try:
        for hours, name in ((24, "refused"), (240, "accepted")):
            deployment.ask_for(hours)
            deployment.follower.look()
            assert deployment.told() == (hours, hours + RAW_TTL_MARGIN_HOURS)
            deployment.push(name, hours_ago=100)
            until = time.monotonic() + PATIENCE_S
            while (books := deployment.buffers[0].books()).in_flight or books.waiting:
                assert time.monotonic() < until
                time.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    assert store.rows("SELECT test_id FROM metrics") == [("accepted",)]
    assert store.rows("SELECT reason FROM dead_letters") == [("timestamp too old",)]


def test_a_clickhouse_that_refuses_keeps_its_ttl_and_says_what_to_do(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No item is accepted that would vanish at once; shorter hours count for what is accepted all the same."""

    def refuse(*_: object) -> None:
        raise StoreRefused("Not enough privileges")

    monkeypatch.setattr(follow_retention, "keep", refuse)
    for hours, accepted in ((1000, 720), (100, 100)):
        deployment.ask_for(hours)
        deployment.follower.look()
        assert deployment.follower.hours == accepted
        assert f"set retention.raw_hours to {hours} and run" in deployment.follower.trouble
    deployment.ask_for(720)
    deployment.follower.look()
    assert (deployment.follower.hours, deployment.follower.trouble) == (720, "")


def test_who_may_not_alter_waits_for_who_may(deployment: Deployment, store: Store) -> None:
    """Of many processes one alters the tables; the others accept older items only when it has."""
    accepted: list[int] = []
    other = RetentionFollower(deployment.settings, 720, deployment.link, store.clone(), accepted.append, lambda: False)
    deployment.ask_for(900)
    other.look()
    assert accepted == []
    deployment.follower.look()
    other.look()
    assert accepted == [900]


def test_junk_is_said_once(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    """Text for a number, look after look: one line in the log, and nothing changes."""
    deployment.ask_for("soon")
    for _ in range(3):
        deployment.follower.look()
    assert len([one for one in caplog.records if "retention ignored" in one.getMessage()]) == 1
    assert deployment.follower.hours == 720


def test_what_is_too_long_for_a_number_is_not_read(deployment: Deployment) -> None:
    """Text of any length may stand there, and is asked for every few seconds: its length alone is told."""
    client = deployment.link.database("environment")
    deployment.ask_for("9" * 5_000_000)
    before = client.info("stats")["total_net_output_bytes"]
    hours, wrong = asked_hours(deployment.link)
    assert (hours, wrong["ttl_hours"]) == (None, "5000000 bytes")
    assert client.info("stats")["total_net_output_bytes"] - before < 100_000


def test_a_refused_look_does_not_end_the_service(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is gone or a right that was taken is told as trouble; the looks go on, and heal."""
    answers = [StoreRefused("table is gone"), StoreRefused("table is gone")]

    def look_at(store: Store) -> int | None:
        if answers:
            raise answers.pop()
        return kept_hours(store)

    monkeypatch.setattr(follow_retention, "kept_hours", look_at)
    monkeypatch.setattr(follow_retention, "INTERVAL_S", 0.01)
    stop, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            deployment.follower.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE_S
    while (answers or deployment.follower.trouble) and not failed and time.monotonic() < until:
        time.sleep(0.001)
    stop.set()
    thread.join()
    assert failed == [] and answers == [] and deployment.follower.trouble == ""
