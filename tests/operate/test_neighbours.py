"""The service while a neighbour is away or hangs: what needs only Redis goes on, and a stop is obeyed."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children
import pytest
import redis
from conftest import RedisServer, free_port, redis_executables

from pipeline.base import config
from pipeline.base.errors import ConfigError, PipelineError
from pipeline.base.keys import BufferKeys, FleetKeys
from pipeline.base.redis_link import RedisLink
from pipeline.bench.drain import plain_items
from pipeline.buffer.buffer import open_buffers
from pipeline.operate import doctor, liveness, requests, wiring
from pipeline.operate.commands import run_drainer, run_rollup
from pipeline.operate.status import gather
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

PATIENCE_S = 300.0
STOPPED_WITHIN_S = 60.0
"""Generous for a busy machine; on a quiet one it takes less than five seconds."""

pytestmark = pytest.mark.timeout(1200)

BUFFERS = ("metrics:buffer", "metrics:second")


class ClickHouse:
    """ClickHouse's HTTP interface in a process of its own, on a port that stays the same."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: children.Program | None = None

    def start(self) -> None:
        self.process, _ = children.serve_clickhouse(self.directory, self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Deployment:
    """The service beside a Redis and a ClickHouse that are servers of their own."""

    def __init__(self, directory: Path, server: RedisServer, **overrides: str) -> None:
        self.redis = server
        self.clickhouse = ClickHouse(directory / "clickhouse")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")},
            "PIPELINE_DATA_DIR": str(directory / "data"),
            "PIPELINE_REDIS__URL": server.url,
            "PIPELINE_CLICKHOUSE__DSN": self.clickhouse.url,
            "PIPELINE_DRAINER__DURABLE_SEAL": "false",
            "PIPELINE_DRAINER__BATCH_ROWS": "500",
            "PIPELINE_DRAINER__FLUSH_INTERVAL_S": "0.1",
            "PIPELINE_BUFFER__KEY": json.dumps(BUFFERS),
            "PIPELINE_WEB__PORT": "0",
            "PIPELINE_LOG__FORMAT": "json",
            "PIPELINE_COLLECT__ENABLED": "false",  # the books shall hold what a test pushes and nothing else
            **overrides,
        }
        self.log = directory / "service.log"
        self.process: children.Program | None = None

    def start(self) -> None:
        self.process = children.Program("pipeline", ["run"], self.environment, self.log)

    def client(self) -> redis.Redis:
        return self.redis.client(config.Settings().redis.databases.metrics)

    def push(self, count: int, buffer: str = BUFFERS[0]) -> None:
        self.client().lpush(buffer, *plain_items(count, 1))

    def counted(self, name: str, buffer: str = BUFFERS[0]) -> int:
        return int(self.client().hget(BufferKeys(buffer).ledger, name) or 0)

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, f"waited in vain until {what}: {self.said()}"
            assert self.process is None or self.process.poll() is None, self.said()
            time.sleep(0.05)

    def settings(self) -> config.Settings:
        return config.load(environment=self.environment)

    def migrate(self) -> list[str]:
        with Store.open(self.settings()) as store:
            return migrate(store, self.settings())

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with Store.open(self.settings(), role="reader") as store:
            return store.rows(sql)

    def status(self, store_trouble: str = "") -> dict[str, Any]:
        settings = self.settings()
        link = RedisLink.open(settings, start=False)
        try:
            return gather(settings, link, open_buffers(settings, link), None, store_trouble).as_dict()
        finally:
            link.close()

    def lives(self) -> bool:
        found = liveness.look(self.settings().data_dir)
        return bool(found) and not any(life.trouble for life in found)

    def drain_until_empty(self) -> dict[str, Any]:
        return run_drainer(self.settings(), threading.Event(), until_empty=True)

    def roll_up(self, from_ms: int | None = None) -> dict[str, Any]:
        return run_rollup(self.settings(), threading.Event(), from_ms, None, lambda _done, _total: None)

    def said(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def terminate(self) -> float:
        """SIGTERM; the seconds until it has ended well."""
        assert self.process is not None
        started_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOPPED_WITHIN_S) == 0, self.said()
        took_s = time.monotonic() - started_s
        print(f"ended {took_s:.1f} s after SIGTERM")
        return took_s

    def close(self) -> None:
        for process in (self.process, self.clickhouse.process):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        self.clickhouse.kill()


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """``deploy(PIPELINE_BUFFER__OVERFLOW="spill")``: its Redis runs, its ClickHouse does not."""
    executable = list(redis_executables().values())[-1]
    (tmp_path / "redis").mkdir()
    server = RedisServer(executable, tmp_path / "redis", appendonly=True).start()
    made: list[Deployment] = []

    def make(**overrides: str) -> Deployment:
        made.append(Deployment(tmp_path, server, **overrides))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()
    if server._process is not None:
        server._process.send_signal(signal.SIGCONT)
    server.kill()


def migrated(deployment: Deployment) -> Deployment:
    deployment.clickhouse.start()
    deployment.migrate()
    return deployment


def test_started_without_clickhouse_it_seals_spills_and_tells_and_joins_later(
    deploy: Callable[..., Deployment],
) -> None:
    """A restart during an outage keeps the protection: two buffers are spilled, the service is seen alive, its
    trouble is told; once ClickHouse answers, everything is stored, of both buffers, each row once."""
    deployment = migrated(deploy(PIPELINE_BUFFER__OVERFLOW="spill", PIPELINE_BUFFER__HIGH_WATER_ROWS="1000"))
    deployment.clickhouse.kill()
    for buffer in BUFFERS:
        deployment.push(4000, buffer)
    deployment.start()
    deployment.wait_until(lambda: all(deployment.counted("spilled", buffer) for buffer in BUFFERS), "it spills")
    deployment.wait_until(lambda: deployment.client().hlen(FleetKeys("pipeline").services), "it is seen")
    deployment.wait_until(deployment.lives, "it lives")
    status = deployment.status("ClickHouse is away")
    assert status["spilled"] > 0 and status["rows"] is None and status["unaccounted"] == 0
    assert [said["role"] for said in status["services"]] == ["run"]
    assert any("ClickHouse" in trouble for trouble in status["trouble"])
    assert status["oldest_s"] > 0

    deployment.clickhouse.start()
    for buffer in BUFFERS:
        deployment.wait_until(lambda buffer=buffer: deployment.counted("stored", buffer) == 4000, "all is stored")
    assert deployment.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(8000, 8000)]
    deployment.terminate()


def test_a_schema_that_is_wrong_when_clickhouse_joins_is_told_and_waited_for(
    deploy: Callable[..., Deployment],
) -> None:
    """ClickHouse comes up without our tables: nothing is written, ``status`` says what to do, and then it goes on."""
    deployment = deploy()
    deployment.push(10)
    deployment.start()
    deployment.wait_until(lambda: deployment.counted("sealed") == 10, "it seals")
    deployment.clickhouse.start()

    def trouble() -> str:
        said = deployment.client().hvals(FleetKeys("pipeline").services)
        return " ".join(json.loads(text)["trouble"] for text in said)

    deployment.wait_until(lambda: "pipeline migrate" in trouble(), "the fix is told")
    deployment.migrate()
    deployment.wait_until(lambda: deployment.counted("stored") == 10, "all is stored")
    deployment.terminate()


def test_a_damaged_schema_stops_the_start_with_its_fix(deploy: Callable[..., Deployment]) -> None:
    """A table was dropped: ``run`` ends with one sentence, ``doctor`` finds it bad, ``migrate`` makes it anew."""
    deployment = migrated(deploy())
    with Store.open(deployment.settings()) as store:
        store.command("DROP TABLE metrics_1min")
        found = {finding.check: finding for finding in doctor.examine(deployment.settings(), None, store)}
    assert (found["schema"].severity, "metrics_1min is missing" in found["schema"].detail) == ("bad", True)
    assert "pipeline migrate" in found["schema"].fix
    with pytest.raises(ConfigError, match=r"metrics_1min is missing.*pipeline migrate"):
        wiring.build(deployment.settings(), threading.Event())
    assert deployment.migrate() == ["metrics_1min (made anew)"]
    assert deployment.rows("SELECT count() FROM metrics_1min") == [(0,)]


@pytest.mark.parametrize(
    "frozen", [*(pytest.param(one, marks=pytest.mark.thorough) for one in ("redis", "clickhouse")), "both"]
)
def test_sigterm_ends_the_service_while_a_neighbour_hangs(frozen: str, deploy: Callable[..., Deployment]) -> None:
    """Redis, ClickHouse or both frozen under load: the process ends by itself, exit code 0, and nothing is lost."""
    deployment = migrated(deploy())
    deployment.start()
    deployment.push(2000)
    deployment.wait_until(lambda: deployment.counted("stored") >= 500, "it drains")
    assert deployment.redis._process is not None and deployment.clickhouse.process is not None
    hung: list[Any] = [deployment.redis._process] if frozen in ("redis", "both") else []
    hung += [deployment.clickhouse.process] if frozen in ("clickhouse", "both") else []
    if frozen == "clickhouse":
        deployment.push(3000)
    for process in hung:
        process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # every loop has met the one that hangs
    deployment.terminate()
    for process in hung:
        process.send_signal(signal.SIGCONT)
    done = deployment.drain_until_empty()
    assert (done["waiting"], done["in_flight"], done["unaccounted"]) == (0, 0, 0)
    assert done["sealed"] == (5000 if frozen == "clickhouse" else 2000)
    assert deployment.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(done["sealed"],) * 2]


def test_sigterm_ends_a_start_that_waits(deploy: Callable[..., Deployment]) -> None:
    """Redis hangs from the beginning: the process that waits for it ends all the same."""
    deployment = deploy()
    assert deployment.redis._process is not None
    deployment.redis._process.send_signal(signal.SIGSTOP)
    deployment.start()
    live = Path(deployment.environment["PIPELINE_DATA_DIR"]) / "live"
    deployment.wait_until(lambda: list(live.glob("*.json")), "it has begun")
    assert deployment.lives(), "waiting for a neighbour is no reason to be restarted"
    deployment.terminate()


def test_drain_until_empty_empties_every_buffer(deploy: Callable[..., Deployment]) -> None:
    """Two buffers, one command."""
    deployment = migrated(deploy())
    for buffer in BUFFERS:
        deployment.push(700, buffer)
    done = deployment.drain_until_empty()
    assert (done["stored"], done["waiting"], done["in_flight"]) == (1400, 0, 0)
    assert [deployment.counted("stored", buffer) for buffer in BUFFERS] == [700, 700]


@pytest.mark.thorough
def test_rollup_beside_a_service_is_done_by_it(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pipeline rollup`` reaches the service that holds the schedule, beside a drainer that never holds it; without an
    answer it ends with exit code 1."""
    deployment = migrated(deploy(PIPELINE_ROLLUPS__INTERVAL_S="3600"))
    drainer = children.Program("pipeline", ["drain"], deployment.environment, deployment.log)
    try:
        deployment.wait_until(lambda: deployment.client().hlen(FleetKeys("pipeline").services), "the drainer runs")
        deployment.start()
        deployment.wait_until(lambda: deployment.client().exists(FleetKeys("pipeline").scheduler), "it schedules")
        deployment.push(100)
        deployment.wait_until(lambda: deployment.counted("stored") == 100, "all is stored")
        assert deployment.roll_up(from_ms=time.time_ns() // 1_000_000 - 3 * 3_600_000)["windows_1min"] > 0
        # What is of this minute waits for the live job.
        assert deployment.rows("SELECT sum(samples) FROM metrics_1min") >= [(80,)]
        assert deployment.roll_up()["jobs"][0] == "rollup"
    finally:
        drainer.kill()
        drainer.wait()
    assert deployment.process is not None
    deployment.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(requests, "PATIENCE_S", 1.0)
    try:
        with pytest.raises(PipelineError, match="no answer for 1 s"):
            deployment.roll_up()
    finally:
        deployment.process.send_signal(signal.SIGCONT)
    deployment.terminate()
