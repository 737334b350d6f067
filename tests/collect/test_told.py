"""What people see of collecting: the health of each database, and the gaps of each collector."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from conftest import RedisServer
from test_collector import collected, now_ms

from pipeline.base import config, failpoints
from pipeline.base.errors import KeyDamaged
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import open_buffers
from pipeline.cli.console import print_status
from pipeline.collect.build import build_collector
from pipeline.operate.status import Status, gather
from pipeline.store.client import Store
from pipeline.web.telemetry import of_platform


class Platform:
    """A platform's Redis, what collects from it, and how it is seen."""

    def __init__(self, server: RedisServer, settings: config.Settings, store: Store) -> None:
        self.server, self.store = server, store
        self.settings = settings.model_copy(update={"redis": config.RedisSettings(url=server.url)})
        self.link = RedisLink.open(self.settings)

    def collect(self, after_ms: int = 0) -> None:
        """A run of a collector that has just been started."""
        collector = build_collector(self.settings, self.link, self.store)
        assert collector is not None
        try:
            collector.run(now_ms() + after_ms, budget_s=60)
        finally:
            collector.close()

    def slide_too_far(self) -> None:
        with self.server.client(2) as client:
            client.lpush("api:response_times:orders", *range(5000, 6500))
            client.ltrim("api:response_times:orders", 0, 999)

    def status(self) -> Status:
        return gather(self.settings, self.link, open_buffers(self.settings, self.link), None)


@pytest.fixture
def platform(redis_server: Callable[..., RedisServer], settings: config.Settings, store: Store) -> Iterator[Platform]:
    made = Platform(redis_server(), settings, store)
    yield made
    made.link.close()


def test_health_per_database_and_gaps_are_in_status_and_metrics(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys, TTLs and names of each database, the server's figures, and of each collector keys, items and gaps."""
    with platform.server.client(2) as client:
        client.lpush("api:response_times:orders", *range(1000))
        client.set("system:metrics:node-1", "no hash")
    with platform.server.client(0) as client:
        client.set("mfa:code:u", "123456", ex=300)
    platform.collect()
    platform.slide_too_far()
    platform.collect(15_000)

    status = platform.status()
    told = json.loads(json.dumps(status.as_dict()))
    sessions, results = told["redis_health"]["databases"][0], told["redis_health"]["databases"][2]
    assert (sessions["names"], sessions["keys"], sessions["expires"]) == (["sessions"], 1, 1)
    assert 0 < sessions["avg_ttl_s"] <= 300
    assert (results["keys"], results["expires"]) == (2, 0)
    assert {"memory_pct", "fragmentation_ratio", "connections", "slow_query_avg_ms"} <= set(
        told["redis_health"]["figures"]
    )
    times = told["collect"]["api_response_times"]
    assert (times["keys"], times["items"], times["gaps"]) == (1, 1001, 1)  # the gap is a metric too
    assert abs(times["last_gap_ms"] - now_ms()) < 300_000
    assert told["collect"]["channel_test_status"]["gaps"] == 0

    print_status(status)
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()}
    assert lines["0"][:4] == ["0", "sessions", "1", "1"]
    assert lines["api_response_times"][2:] == ["1", "1,001", "1"]
    assert "it is not a hash (1 keys)" in " ".join(lines["system_metrics"])

    measured = of_platform(status.as_dict())
    assert measured["pipeline_redis_db_keys"]["0",] == 1
    assert measured["pipeline_redis_figure"]["connections",] > 0
    assert measured["pipeline_collect_gaps_total"]["api_response_times",] == 1
    assert measured["pipeline_collect_troubled_keys"]["system_metrics",] == 1


@pytest.mark.parametrize("place", ["collect.before_push", "collect.after_push"])
def test_a_gap_is_counted_once_through_a_death(platform: Platform, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that pushes it counts it: a collector that dies before or after neither loses nor doubles it."""
    with platform.server.client(2) as client:
        client.lpush("api:response_times:orders", *range(1000))
    platform.collect()
    platform.slide_too_far()
    monkeypatch.setenv(failpoints.VARIABLE, f"{place}:1:raise")
    failpoints.reset()
    with pytest.raises(failpoints.Injected):
        platform.collect(15_000)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    platform.collect(30_000)
    assert [one.metric_type for one in collected(platform.server)].count("collect_gaps") == 1
    states = platform.status().collect
    assert states is not None
    assert states["api_response_times"]["gaps"] == 1


def test_without_collecting_the_health_is_asked_for(platform: Platform) -> None:
    """Figures that INFO says at once are there; rates are not made up."""
    health = platform.status().redis_health
    assert health is not None
    assert health["figures"]["connections"] > 0
    assert not {"keyspace_hit_pct", "slow_query_avg_ms", "expired_keys_per_s"} & set(health["figures"])
    assert [one["keys"] for one in health["databases"]] == [0] * 8


@pytest.mark.parametrize("damage", ["set", "lpush", "fields"])
def test_another_program_wrote_to_the_collectors_key(platform: Platform, damage: str) -> None:
    """Of another type: one sentence names the key. With junk in its fields: it is collected on, and told."""
    key = BufferKeys("metrics:buffer").collected
    platform.slide_too_far()
    platform.collect()
    with platform.server.client(3) as client:
        if damage == "fields":
            assert client.hlen(key)
            client.hset(key, mapping=dict.fromkeys(client.hkeys(key), b"\xff junk"))
        else:
            client.delete(key)
            getattr(client, damage)(key, "junk")
    if damage == "fields":
        platform.collect(60_000)
        assert platform.status().as_dict()["collect"]
        return
    with pytest.raises(KeyDamaged, match=re.escape(key)):
        platform.collect(60_000)
    platform.status()
