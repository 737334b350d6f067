"""The service while a neighbour is away or hangs: what needs only Redis goes on, and a stop is obeyed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import RedisServer, free_port, redis_executables

from pipeline.base import config
from pipeline.base.keys import BufferKeys
from pipeline.bench.drain import plain_items

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
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "pipeline.embedded.http_interface", "--writable", "--port", str(self.port)]
        self.process = subprocess.Popen([*command, "--path", str(self.directory)], stdout=subprocess.PIPE)
        assert self.process.stdout
        assert json.loads(self.process.stdout.readline())["pid"] == self.process.pid

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout
            self.process.stdout.close()
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
            "PIPELINE_LOG__FORMAT": "json",
            **overrides,
        }
        self.log = directory / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run"], env=self.environment, stdout=log, stderr=log
            )

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

    def asked(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "pipeline", *arguments, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.said()}"
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
        return answer

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
    deployment.asked("migrate")
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
    deployment.wait_until(lambda: deployment.client().hlen(BufferKeys(BUFFERS[0]).services), "it is seen")
    assert deployment.asked("status", "--live")["live"]
    status = deployment.asked("status", code=1)
    assert status["spilled"] > 0 and status["rows"] is None and status["unaccounted"] == 0
    assert [said["role"] for said in status["services"]] == ["run"]
    assert any("ClickHouse" in trouble for trouble in status["trouble"])
    assert status["oldest_s"] > 0

    deployment.clickhouse.start()
    for buffer in BUFFERS:
        deployment.wait_until(lambda buffer=buffer: deployment.counted("stored", buffer) == 4000, "all is stored")
    rows = deployment.asked("query", "SELECT count() AS n, uniqExact(segment, position) AS once FROM metrics")["rows"]
    assert rows == [{"n": 8000, "once": 8000}]
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
        said = deployment.client().hvals(BufferKeys(BUFFERS[0]).services)
        return " ".join(json.loads(text)["trouble"] for text in said)

    deployment.wait_until(lambda: "pipeline migrate" in trouble(), "the fix is told")
    deployment.asked("migrate")
    deployment.wait_until(lambda: deployment.counted("stored") == 10, "all is stored")
    deployment.terminate()


def test_a_damaged_schema_stops_the_start_with_its_fix(deploy: Callable[..., Deployment]) -> None:
    """A table was dropped: ``run`` ends with one sentence, ``doctor`` finds it bad, ``migrate`` makes it anew."""
    deployment = migrated(deploy())
    deployment.asked("query", "SELECT 1")
    _command(deployment.clickhouse, "DROP TABLE pipeline.metrics_1min")
    refused = subprocess.run(
        [sys.executable, "-m", "pipeline", "run"], env=deployment.environment, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "metrics_1min is missing" in refused.stderr and "pipeline migrate" in refused.stderr
    assert "Traceback" not in refused.stderr
    found = {finding["check"]: finding for finding in deployment.asked("doctor", code=1)["findings"]}
    assert (found["schema"]["level"], "metrics_1min" in found["schema"]["seen"]) == ("bad", True)
    deployment.asked("migrate")
    assert deployment.asked("query", "SELECT count() AS n FROM metrics_1min")["rows"] == [{"n": 0}]


def _command(clickhouse: ClickHouse, sql: str) -> None:
    import urllib.request

    with contextlib.closing(urllib.request.urlopen(clickhouse.url, data=sql.encode())) as answer:
        answer.read()


@pytest.mark.parametrize("frozen", ["redis", "clickhouse", "both"])
def test_sigterm_ends_the_service_while_a_neighbour_hangs(frozen: str, deploy: Callable[..., Deployment]) -> None:
    """Redis, ClickHouse or both frozen under load: the process ends by itself, exit code 0, and nothing is lost."""
    deployment = migrated(deploy())
    deployment.start()
    deployment.push(2000)
    deployment.wait_until(lambda: deployment.counted("stored") >= 500, "it drains")
    assert deployment.redis._process is not None and deployment.clickhouse.process is not None
    hung = [deployment.redis._process] if frozen in ("redis", "both") else []
    hung += [deployment.clickhouse.process] if frozen in ("clickhouse", "both") else []
    if "redis" not in frozen:
        deployment.push(3000)
    for process in hung:
        process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # every loop has met the one that hangs
    deployment.terminate()
    for process in hung:
        process.send_signal(signal.SIGCONT)
    done = deployment.asked("drain", "--until-empty")
    assert (done["waiting"], done["in_flight"], done["unaccounted"]) == (0, 0, 0)
    assert done["sealed"] == (2000 if "redis" in frozen else 5000) or frozen == "both"


def test_sigterm_ends_a_start_that_waits(deploy: Callable[..., Deployment]) -> None:
    """Redis hangs from the beginning: the process that waits for it ends all the same."""
    deployment = deploy()
    assert deployment.redis._process is not None
    deployment.redis._process.send_signal(signal.SIGSTOP)
    deployment.start()
    live = Path(deployment.environment["PIPELINE_DATA_DIR"]) / "live"
    deployment.wait_until(lambda: list(live.glob("*.json")), "it has begun")
    assert deployment.asked("status", "--live")["live"], "waiting for a neighbour is no reason to be restarted"
    deployment.terminate()


def test_drain_until_empty_empties_every_buffer(deploy: Callable[..., Deployment]) -> None:
    """Two buffers, one command."""
    deployment = migrated(deploy())
    for buffer in BUFFERS:
        deployment.push(700, buffer)
    done = deployment.asked("drain", "--until-empty")
    assert (done["stored"], done["waiting"], done["in_flight"]) == (1400, 0, 0)
    assert [deployment.counted("stored", buffer) for buffer in BUFFERS] == [700, 700]


def test_rollup_beside_a_service_is_done_by_it(deploy: Callable[..., Deployment]) -> None:
    """``pipeline rollup`` reaches the service that holds the schedule, beside a drainer that never holds it; without an
    answer it ends with exit code 1."""
    deployment = migrated(deploy(PIPELINE_ROLLUPS__INTERVAL_S="3600"))
    drainer = subprocess.Popen([sys.executable, "-m", "pipeline", "drain"], env=deployment.environment)
    try:
        deployment.wait_until(lambda: deployment.client().hlen(BufferKeys(BUFFERS[0]).services), "the drainer runs")
        deployment.start()
        deployment.wait_until(lambda: deployment.client().exists(BufferKeys(BUFFERS[0]).scheduler), "it schedules")
        deployment.push(100)
        deployment.wait_until(lambda: deployment.counted("stored") == 100, "all is stored")
        windows = "SELECT sum(samples) AS n FROM metrics_1min"
        assert deployment.asked("rollup", "--from", "365d")["windows_1min"] > 0
        assert deployment.asked("query", windows)["rows"] == [{"n": 100}]
        assert deployment.asked("rollup")["jobs"][0] == "rollup"
    finally:
        drainer.kill()
        drainer.wait()
    assert deployment.process is not None
    deployment.process.send_signal(signal.SIGSTOP)
    try:
        assert "no answer for 30 s" in deployment.asked("rollup", code=1)["error"]
    finally:
        deployment.process.send_signal(signal.SIGCONT)
    deployment.terminate()
