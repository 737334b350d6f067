"""The service as an operator meets it: processes, signals, kills, ports, and the commands beside it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children
import pytest
from conftest import effort, free_port

from pipeline.base import config
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import Buffer
from pipeline.demo.simulator import SimulatedPlatform

START_TIMEOUT_S = 300.0
DRAIN_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
"""On a quiet machine it takes less than five seconds."""

KILLS = effort(2, 4, 20)

pytestmark = pytest.mark.timeout(1200)


class Deployment:
    """An embedded deployment in a directory: the service as processes, and the commands."""

    def __init__(self, directory: Path, **overrides: str) -> None:
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")},
            "PIPELINE_DATA_DIR": str(directory / "data"),
            "PIPELINE_WEB__CLICKHOUSE_PORT": str(free_port()),
            "PIPELINE_WEB__PORT": "0",
            "PIPELINE_LOG__FORMAT": "json",
            "PIPELINE_COLLECT__ENABLED": "false",  # the books shall hold what a test pushes and nothing else
            **overrides,
        }
        self.url = f"http://127.0.0.1:{self.environment['PIPELINE_WEB__CLICKHOUSE_PORT']}"
        self.log = directory / "service.log"
        self.process: children.Program | subprocess.Popen[bytes] | None = None
        self.doctor_before: subprocess.CompletedProcess[str] | None = None

    def settings(self) -> config.Settings:
        return config.load(environment=self.environment)

    def start(self) -> None:
        self.process = children.Program("pipeline", ["run"], self.environment, self.log)

    def start_as_an_operator_does(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "pipeline", "run"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def wait_until_running(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/ping", timeout=2) as answer:
                assert answer.read() == b"Ok.\n"
                return
            time.sleep(0.05)
        raise AssertionError(f"not running: {self.said()}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(10) == -signal.SIGKILL

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def command(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = children.run_pipeline(arguments, self.environment)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.said()}"
        return done

    def asked(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command(*arguments, "--json").stdout)
        return answer

    def said(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        data = config.load(environment={"PIPELINE_DATA_DIR": self.environment["PIPELINE_DATA_DIR"]})
        RedisLink.open(data).close(stop_embedded=True)


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    made: list[Deployment] = []

    def make(**overrides: str) -> Deployment:
        made.append(Deployment(tmp_path, **overrides))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One that runs, for tests that leave it running; ``doctor_before`` is what the doctor said before it ran."""
    deployment = Deployment(tmp_path_factory.mktemp("running"), PIPELINE_DRAINER__FLUSH_INTERVAL_S="0.1")
    deployment.doctor_before = deployment.command("doctor", "--json", check=False)
    deployment.start()
    deployment.wait_until_running()
    yield deployment
    deployment.close()


def _wait_until_empty(buffer: Buffer, deployment: Deployment) -> None:
    until = time.monotonic() + DRAIN_TIMEOUT_S
    while time.monotonic() < until:
        books = buffer.books()
        if not books.waiting and not books.in_flight:
            return
        time.sleep(0.1)
    raise AssertionError(f"not drained: {buffer.books()}\n{deployment.said()}")


@pytest.mark.timeout(1200)
def test_kills_under_load_lose_and_double_nothing(deploy: Callable[..., Deployment]) -> None:
    """`pipeline run` killed with -9 again and again under load: the books balance, no row stands twice."""
    deployment = deploy(PIPELINE_DRAINER__FLUSH_INTERVAL_S="0.1", PIPELINE_DRAINER__BATCH_ROWS="2000")
    link = RedisLink.open(deployment.settings())
    buffer = Buffer(link.database("metrics"))
    platform = SimulatedPlatform(seed=5)
    chance = random.Random(5)
    pushed = refused = killed_in_flight = 0
    for _ in range(KILLS):
        deployment.start()
        deployment.wait_until_running()
        kill_at = time.monotonic() + chance.uniform(0.1, 1.0)
        while time.monotonic() < kill_at:
            now_ms = time.time_ns() // 1_000_000
            batch = platform.batch(now_ms - 1000, now_ms, 500)
            link.database("metrics").lpush(buffer.key, *batch.items)
            pushed += len(batch.items)
            refused += batch.refused.total()
            time.sleep(0.02)
        books = buffer.books()
        killed_in_flight += bool(books.in_flight or books.waiting)
        deployment.kill()
    assert killed_in_flight, "no kill hit anything in flight"
    deployment.start()
    deployment.wait_until_running()
    _wait_until_empty(buffer, deployment)
    audit = deployment.asked("audit", "--full")
    assert audit["ok"]
    assert audit["sealed"] == pushed == audit["stored"] + audit["dead_lettered"]
    assert audit["dead_lettered"] == refused
    assert audit["unaccounted"] == audit["missing"] == audit["duplicated"] == audit["unknown"] == 0
    counted = deployment.asked("query", "SELECT count() AS rows, uniqExact(segment, position) AS once FROM metrics")
    assert counted["rows"] == [{"rows": pushed - refused, "once": pushed - refused}]
    assert deployment.terminate() == 0
    link.close()


def test_sigterm_ends_within_seconds_and_gives_back_what_is_claimed(deploy: Callable[..., Deployment]) -> None:
    """SIGTERM under load: the process ends by itself, nothing stays leased, and a later drain finishes the rest."""
    deployment = deploy()
    link = RedisLink.open(deployment.settings())
    buffer = Buffer(link.database("metrics"))
    deployment.start_as_an_operator_does()
    deployment.wait_until_running()
    now_ms = time.time_ns() // 1_000_000
    items = SimulatedPlatform(seed=3).metrics(now_ms - 60_000, now_ms, 2000)
    for start in range(0, len(items), 1000):
        link.database("metrics").lpush(buffer.key, *items[start : start + 1000])
    assert deployment.terminate() == 0
    done = deployment.asked("drain", "--until-empty")
    assert done["waiting"] == done["in_flight"] == done["unaccounted"] == 0
    audit = deployment.asked("audit")
    assert audit["ok"]
    assert audit["stored"] + audit["dead_lettered"] == len(items)
    link.close()


def test_second_service_is_told_who_is_first(running: Deployment) -> None:
    """A second writer on the same embedded store ends with one sentence that names the first process."""
    second = running.command("run", check=False)
    assert second.returncode == 1
    assert running.process is not None
    assert str(running.process.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_taken_port_ends_the_start_with_its_setting(deploy: Callable[..., Deployment]) -> None:
    """A taken `web.clickhouse_port`: exit 2, and a sentence with setting and value."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = deploy(PIPELINE_WEB__CLICKHOUSE_PORT=str(port)).command("run", check=False)
    assert done.returncode == 2
    assert "web.clickhouse_port" in done.stderr and str(port) in done.stderr


def test_bad_setting_ends_the_start_with_the_nearest_name(deploy: Callable[..., Deployment]) -> None:
    """A misspelt setting: exit 2, and one sentence with key, value and the nearest valid name."""
    done = deploy(PIPELINE_DRAINER__BATCH_ROW="5").command("run", check=False)
    assert done.returncode == 2
    assert "drainer.batch_row" in done.stderr and "drainer.batch_rows" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_rows_arrive_and_commands_tell_of_them(running: Deployment) -> None:
    """With the service running: pushed metrics can be queried, a bad one is a dead letter that can be replayed."""
    deployment = running
    link = RedisLink.open(deployment.settings())
    buffer = Buffer(link.database("metrics"))
    now_ms = time.time_ns() // 1_000_000
    good = {"timestamp": now_ms, "metric_type": "duration", "value": 12.5, "test_id": "t1", "status": "passed"}
    link.database("metrics").lpush(buffer.key, json.dumps(good), b'{"timestamp": 1, "value": "no"}')
    _wait_until_empty(buffer, deployment)
    assert deployment.asked("query", "SELECT value FROM metrics WHERE test_id = 't1'")["rows"] == [{"value": 12.5}]
    letters = deployment.asked("dlq", "ls")["dead_letters"]
    assert [letter["reason"] for letter in letters] == ["missing field"]
    assert letters[0]["payload"] == '{"timestamp": 1, "value": "no"}'
    assert deployment.asked("dlq", "show", letters[0]["name"])["detail"] == letters[0]["detail"]
    assert deployment.asked("dlq", "replay", "--reason", "missing", "--dry-run") == {
        "chosen": 1, "replayed": 0, "dry_run": True,
    }  # fmt: skip
    assert deployment.asked("dlq", "replay", letters[0]["name"])["replayed"] == 1
    assert deployment.asked("dlq", "replay", letters[0]["name"])["replayed"] == 0, "marked, so not sent twice"
    _wait_until_empty(buffer, deployment)
    again = deployment.asked("dlq", "ls")["dead_letters"]
    assert len(again) == 1
    assert (again[0]["name"] != letters[0]["name"], again[0]["attempts"]) == (True, 2)
    status = deployment.asked("status")
    assert status["stored"] == 1 and status["dead_lettered"] == 2 and status["rows"] == 1
    assert [service["role"] for service in status["services"]] == ["run"]
    link.close()


def test_doctor_finds_nothing_bad_once_the_service_runs(running: Deployment) -> None:
    """`doctor` on a fresh embedded deployment: nothing is bad while it runs; before, it says what starts it."""
    before = running.doctor_before
    assert before is not None and before.returncode == 1
    assert "'pipeline run' starts it" in before.stdout
    report = running.asked("doctor")
    assert report["ok"]
    checks = {finding["check"]: finding["severity"] for finding in report["findings"]}
    assert checks["redis eviction"] == checks["schema"] == "ok"


def test_risky_eviction_stops_the_start(deploy: Callable[..., Deployment]) -> None:
    """Redis with an allkeys policy may delete the buffer: the service refuses, unless told to accept the risk."""
    deployment = deploy()
    link = RedisLink.open(deployment.settings())
    link.database("metrics").config_set("maxmemory-policy", "allkeys-lru")
    refused = deployment.command("run", check=False)
    assert refused.returncode == 2
    assert "allkeys-lru" in refused.stderr and "redis.accept_eviction_risk" in refused.stderr
    link.close()
