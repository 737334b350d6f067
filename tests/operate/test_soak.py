"""A soak: the service under load for minutes or an hour takes no more memory, threads, files or keys at its end.

``make test ARGS=--soak`` runs it for an hour, ``--soak=150`` for two and a half minutes, as CI does.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import free_port

from pipeline.base import config
from pipeline.base.redis_link import RedisLink
from pipeline.demo.simulator import SimulatedPlatform

RATE = 300
"""Metrics a second."""

SAMPLES = 60
OPEN_FILES = 1024
"""``ulimit -n`` of the service."""

MEASURES = ("memory_mb", "descriptors", "threads", "files", "keys")


@dataclass(frozen=True)
class Bound:
    """How much a measure may grow: a step once (caches, the engine's threads), and so much a minute."""

    step: float
    per_minute: float


BOUNDS = {
    # The rolling hour fills, the allocators and the engine's caches settle: most of it within ten minutes.
    "memory_mb": Bound(step=60, per_minute=3),
    "descriptors": Bound(step=80, per_minute=0.5),
    "threads": Bound(step=25, per_minute=0.2),
    # Parts are merged and outdated ones removed in saw-teeth of some minutes; each has a dozen files.
    "files": Bound(step=3000, per_minute=20),
    # A hash a minute and one each five minutes, which expire; tests and vitals are finite.
    "keys": Bound(step=40, per_minute=2),
}


def slope(seconds: np.ndarray, values: np.ndarray) -> float:
    """The median of the slopes between all pairs of points (Theil and Sen), a minute: one outlier moves nothing."""
    first, second = np.triu_indices(len(seconds), 1)
    return float(np.median((values[second] - values[first]) / (seconds[second] - seconds[first])) * 60)


def growth_allowed(bound: Bound, minutes: float) -> float:
    return bound.step + bound.per_minute * minutes


@pytest.mark.parametrize(
    ("values", "wanted"), [([5, 5, 5, 900, 5, 5], 0), ([0, 10, 20, 30, 40, 50], 10), ([0, 10, 900, 30, 40, 50], 10)]
)
def test_a_slope_is_robust(values: list[float], wanted: float) -> None:
    """An outlier changes nothing, a steady growth is found."""
    assert slope(np.arange(6) * 60.0, np.array(values, dtype=float)) == pytest.approx(wanted, abs=0.5)


class Soak:
    """A service in a process of its own, its producer, and what it takes of the machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")},
            "PIPELINE_DATA_DIR": str(directory / "data"),
            "PIPELINE_WEB__CLICKHOUSE_PORT": str(free_port()),
            "PIPELINE_WEB__PORT": "0",
            "PIPELINE_LOG__FORMAT": "json",
        }
        settings = config.load(environment=self.environment)
        self.link = RedisLink.open(settings)
        self.buffer_key = settings.buffer.keys[0]
        self.log = (directory / "service.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run"],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES)),
        )
        self.platform = SimulatedPlatform(seed=11)
        self.pushed = 0

    def push(self, from_ms: int, to_ms: int) -> None:
        batch = self.platform.batch(from_ms, to_ms, RATE)
        if batch.items:
            self.link.database("metrics").lpush(self.buffer_key, *batch.items)
        self.pushed += len(batch.items)

    def sample(self) -> list[float]:
        place = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        info = self.link.database("metrics").info("keyspace")
        return [
            int(status["RssAnon"].split()[0]) / 1024,
            len(list((place / "fd").iterdir())),
            int(status["Threads"]),
            sum(len(files) for _, _, files in os.walk(self.directory / "data")),
            sum(database["keys"] for database in info.values()),
        ]

    def asked(self, *arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "pipeline", *arguments, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=3600)
        assert done.stdout, done.stderr
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.link.close(stop_embedded=True)


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    made = Soak(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(0)
def test_soak(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Under load, with 1,024 open files allowed: what is taken settles; the books balance; SIGTERM ends it."""
    seconds = request.config.getoption("--soak")
    if not seconds:
        pytest.skip("a soak of minutes or an hour, run with --soak")
    soak: Soak = request.getfixturevalue("soak")
    samples = observe(soak, float(seconds))
    report = judged(samples)
    print(json.dumps(report))
    said = (tmp_path / "service.log").read_text()
    assert "Traceback" not in said and "Too many open files" not in said, said[-4000:]
    assert {name: line for name, line in report.items() if line["grown"] > line["allowed"]} == {}
    soak.process.send_signal(signal.SIGTERM)
    assert soak.process.wait(60) == 0
    done = soak.asked("drain", "--until-empty")
    assert (done["sealed"], done["unaccounted"], done["waiting"]) == (soak.pushed, 0, 0)
    audit = soak.asked("audit", "--full")
    assert audit["ok"], audit


def observe(soak: Soak, seconds: float) -> np.ndarray:
    """Push as time goes by and look now and then: rows of seconds and ``MEASURES``."""
    started_s = pushed_s = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    samples: list[list[float]] = []
    while (since_s := time.monotonic() - started_s) < seconds:
        assert soak.process.poll() is None, (soak.directory / "service.log").read_text()[-4000:]
        passed_ms = int((time.monotonic() - pushed_s) * 1000)
        soak.push(now_ms, now_ms + passed_ms)
        now_ms, pushed_s = now_ms + passed_ms, pushed_s + passed_ms / 1000
        if since_s >= len(samples) * seconds / SAMPLES:
            samples.append([since_s, *soak.sample()])
        time.sleep(0.2)
    return np.array(samples)


def judged(samples: np.ndarray) -> dict[str, dict[str, float]]:
    """By measure, how much it grew by its robust slope after the first half, and how much it may."""
    late = samples[len(samples) // 2 :]
    minutes = (late[-1, 0] - late[0, 0]) / 60
    return {
        name: {
            "first": round(float(late[0, column]), 1),
            "last": round(float(late[-1, column]), 1),
            "grown": round(slope(late[:, 0], late[:, column]) * minutes, 1),
            "allowed": round(growth_allowed(BOUNDS[name], minutes), 1),
        }
        for column, name in enumerate(MEASURES, start=1)
    }
