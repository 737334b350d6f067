"""``pipeline bench client``: what a push costs its caller, and how much goes through one client."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.base import config
from pipeline.base.redis_link import RedisLink
from pipeline.client.producer import MetricsClient

_BLOCK = 500
_BLOCKS = 400
_AT_ONCE = 2_000


def run(settings: config.Settings, rows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Push ``rows`` metrics of five fields through one client into a private Redis."""
    directory = Path(tempfile.mkdtemp(prefix="pipeline-bench-"))
    link = RedisLink.open(config.private(settings, directory))
    try:
        url = link.url("metrics")
        say("what a push costs its caller")
        caller_us = _caller_us(url)
        say(f"pushing {rows:,} metrics through one client")
        single = _throughput(url, rows, _push_each)
        say(f"pushing {rows:,} metrics by lists of {_AT_ONCE:,}")
        many = {f"many_{name}": value for name, value in _throughput(url, rows, _push_lists).items()}
        return {"rows": rows, **caller_us, **single, **many, "buffered": _buffered(link)}
    finally:
        link.close(stop_embedded=True)
        shutil.rmtree(directory, ignore_errors=True)


def _caller_us(url: str) -> dict[str, float]:
    """Each call by itself, the clock's own 0.05 included, in blocks between flushes: the sender sleeps meanwhile, as it
    does beside a program's own work."""
    calls = []
    clock = time.perf_counter_ns
    with MetricsClient(url, flush_interval_s=3600) as client:
        push = client.push
        for _ in range(_BLOCKS):
            client.flush()
            client.push("warm", 1)
            time.sleep(0.001)
            for _ in range(_BLOCK):
                began = clock()
                push(
                    "duration", 2500.5, test_id="auth-001", test_suite="auth", status="passed", browser="chromium",
                    environment="staging",
                )  # fmt: skip
                calls.append(clock() - began)
    p95 = statistics.quantiles(calls, n=20)[-1]
    return {
        "caller_us_median": round(statistics.median(calls) / 1000, 2),
        "caller_us_p95": round(p95 / 1000, 2),
        "call_floor_us_median": _call_floor_us(),
    }


def _call_floor_us() -> float:
    """The same call of a function that only looks whether each argument is there."""

    def push(
        metric_type: str, value: float, *, test_id: str, test_suite: str, status: str, browser: str, environment: str
    ) -> bool:
        return bool(metric_type and value and test_id and test_suite and status and browser and environment)

    calls = []
    clock = time.perf_counter_ns
    for _ in range(_BLOCK * _BLOCKS):
        began = clock()
        push(
            "duration", 2500.5, test_id="auth-001", test_suite="auth", status="passed", browser="chromium",
            environment="staging",
        )  # fmt: skip
        calls.append(clock() - began)
    return round(statistics.median(calls) / 1000, 2)


def _push_each(client: MetricsClient, rows: int) -> None:
    push = client.push
    for number in range(rows):
        push(
            "duration", number, test_id="auth-001", test_suite="auth", status="passed", browser="chromium",
            environment="staging",
        )  # fmt: skip


def _push_lists(client: MetricsClient, rows: int) -> None:
    """The mappings are made on the way, as a program would."""
    for first in range(0, rows, _AT_ONCE):
        client.push_many([
            {
                "metric_type": "duration", "value": number, "test_id": "auth-001", "test_suite": "auth",
                "status": "passed", "browser": "chromium", "environment": "staging",
            }
            for number in range(first, min(first + _AT_ONCE, rows))
        ])  # fmt: skip


def _throughput(url: str, rows: int, push: Callable[[MetricsClient, int], None]) -> dict[str, float]:
    """From the first push to the last one in Redis; a full queue makes the caller wait."""
    with MetricsClient(url, room_timeout_s=60) as client:
        cpu_s = time.process_time()
        began = time.perf_counter()
        push(client, rows)
        client.flush()
        took_s = time.perf_counter() - began
        cpu_s = time.process_time() - cpu_s
    return {"rows_per_s": round(rows / took_s), "cpu_us_per_row": round(cpu_s / rows * 1e6, 2)}


def _buffered(link: RedisLink) -> int:
    return int(link.database("metrics").llen(config.Settings().buffer.keys[0]))
