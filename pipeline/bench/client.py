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
from pipeline.client.producer import MANY_ITEMS, MetricsClient

_BLOCK = 500
_BLOCKS = 400


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
        say(f"pushing {rows:,} metrics in lists of {MANY_ITEMS:,}")
        many = {f"many_{name}": figure for name, figure in _throughput(url, rows, _push_lists).items()}
        return {"rows": rows, **caller_us, **single, **many, "buffered": _buffered(link)}
    finally:
        link.close(stop_embedded=True)
        shutil.rmtree(directory, ignore_errors=True)


def _caller_us(url: str) -> dict[str, float]:
    """Blocks of pushes between flushes: the sender sleeps meanwhile, as it does beside a program's own work.

    The floor is the same call of a function that only looks whether each argument is there.
    """
    blocks, floors = [], []
    with MetricsClient(url, flush_interval_s=3600) as client:
        for _ in range(_BLOCKS):
            client.flush()
            client.push("warm", 1)
            time.sleep(0.001)
            blocks.append(_block_us(client.push))
            floors.append(_block_us(_look))
    return {
        "caller_us_median": round(statistics.median(blocks), 2),
        "caller_us_min": round(min(blocks), 2),
        "call_floor_us_median": round(statistics.median(floors), 2),
    }


def _block_us(push: Callable[..., object]) -> float:
    """The mean of a block of calls."""
    began = time.perf_counter_ns()
    for _ in range(_BLOCK):
        push(
            "duration", 2500.5, test_id="auth-001", test_suite="auth", status="passed", browser="chromium",
            environment="staging",
        )  # fmt: skip
    return (time.perf_counter_ns() - began) / _BLOCK / 1000


def _look(
    metric_type: str, value: float, *, test_id: str, test_suite: str, status: str, browser: str, environment: str
) -> bool:
    return bool(metric_type and value and test_id and test_suite and status and browser and environment)


def _throughput(url: str, rows: int, push_all: Callable[[MetricsClient, int], None]) -> dict[str, float]:
    """From the first push to the last one in Redis; a full queue makes the caller wait."""
    with MetricsClient(url, room_timeout_s=60) as client:
        cpu_s = time.process_time()
        began = time.perf_counter()
        push_all(client, rows)
        client.flush()
        took_s = time.perf_counter() - began
        cpu_s = time.process_time() - cpu_s
    return {"rows_per_s": round(rows / took_s), "cpu_us_per_row": round(cpu_s / rows * 1e6, 2)}


def _push_each(client: MetricsClient, rows: int) -> None:
    push = client.push
    for number in range(rows):
        push(
            "duration", number, test_id="auth-001", test_suite="auth", status="passed", browser="chromium",
            environment="staging",
        )  # fmt: skip


def _push_lists(client: MetricsClient, rows: int) -> None:
    for first in range(0, rows, MANY_ITEMS):
        client.push_many(
            [
                {
                    "metric_type": "duration", "value": number, "test_id": "auth-001", "test_suite": "auth",
                    "status": "passed", "browser": "chromium", "environment": "staging",
                }
                for number in range(first, min(first + MANY_ITEMS, rows))
            ]
        )  # fmt: skip


def _buffered(link: RedisLink) -> int:
    return int(link.database("metrics").llen(config.Settings().buffer.keys[0]))
