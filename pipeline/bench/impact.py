"""``pipeline bench freshness``, ``producers``, ``backlog`` and ``spill``: what people notice of the drain.

How soon a row can be queried, how long a push takes while a backlog drains, how much memory the drainer takes for
it, and what an outage of ClickHouse takes on disk. Each on private engines, like ``pipeline bench drain``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import config
from pipeline.base.clock import iso
from pipeline.bench.drain import PUSH_ROWS, Bench, plain_items, private, warm_up
from pipeline.deliver.overflow import Overflow
from pipeline.deliver.spill import Spill
from pipeline.metric import Limits
from pipeline.store.client import Store


def freshness(settings: config.Settings, rate: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Push ``rate`` rows a second for ``seconds``; measure how long single rows take until they can be queried."""
    with private(settings) as bench:
        warm_up(bench)
        say(f"pushing {rate:,} rows/s for {seconds:g} s")
        with _draining(bench):
            return _freshness(bench, rate, seconds)


def _freshness(bench: Bench, rate: int, seconds: float) -> dict[str, Any]:
    with bench.store.clone() as probe:
        waits: list[float] = []
        chance = random.Random(1)
        done = threading.Event()
        pusher = threading.Thread(target=_push_steadily, args=(bench, rate, done), daemon=True)
        pusher.start()
        ends = time.monotonic() + seconds
        number = 0
        while time.monotonic() < ends:
            number += 1
            # At any moment between two seals; straight after the last row came through would be the longest wait.
            time.sleep(chance.uniform(0, bench.settings.drainer.flush_interval_s))
            waits.append(_one_row(bench, probe, f"probe-{number}"))
        done.set()
        pusher.join()
        single = [_one_row(bench, probe, f"alone-{index}") for index in range(10)]
    return {
        "rate": rate,
        "probes": len(waits),
        "p50_s": round(float(np.quantile(waits, 0.5)), 3),
        "p99_s": round(float(np.quantile(waits, 0.99)), 3),
        "alone_max_s": round(max(single), 3),
    }


def producers(settings: config.Settings, rows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """How long one LPUSH takes while ``rows`` waiting rows are drained, and how long our scripts hold Redis up.

    The producer is a process of its own: in this process it would wait for the interpreter, not for Redis.
    """
    # Started first: afterwards they would be as nice to Redis as we are.
    idle, producer = Producer(), Producer()
    with private(settings) as bench:
        say(f"pushing a backlog of {rows:,} rows")
        warm_up(bench)
        _fill(bench, rows)
        client = bench.link.database("metrics")
        idle.push_to(bench.link.url(), "other:list")
        time.sleep(2)
        idle_waits = idle.waits()
        client.delete("other:list")
        client.config_set("slowlog-log-slower-than", 1000)
        client.config_set("slowlog-max-len", 10_000)
        client.slowlog_reset()
        client.config_resetstat()
        producer.push_to(bench.link.url(), bench.buffer.key)
        with _draining(bench):
            while bench.buffer.books().in_flight or bench.buffer.waiting() > 100:
                time.sleep(0.01)
            waits = producer.waits()
        usual = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
        slow = [entry for entry in client.slowlog_get(10_000) if not entry["command"].startswith(b"LPUSH")]
    return {
        "backlog_rows": rows,
        "pushes": len(waits),
        "idle_p99_ms": round(float(np.quantile(idle_waits, 0.99)) * 1000, 3),
        "p50_ms": round(float(np.quantile(waits, 0.5)) * 1000, 3),
        "p99_ms": round(float(np.quantile(waits, 0.99)) * 1000, 3),
        "longest_read_ms": longest_ms(slow, b"LRANGE"),
        "mean_claim_or_ack_ms": round(usual / 1000, 3),
        "longest_claim_or_ack_ms": longest_ms(slow, b"EVAL"),
    }


def longest_ms(slow: list[dict[str, Any]], command: bytes) -> float | str:
    """The longest of these commands by Redis's own clock, which runs on while Redis itself waits for a core."""
    longest = max((entry["duration"] for entry in slow if entry["command"].startswith(command)), default=0)
    return round(longest / 1000, 2) if longest else "below 1"


_PRODUCER = """
import json, redis, sys, threading, time
url, key, item = json.loads(sys.stdin.readline())
client = redis.Redis.from_url(url)
client.ping()
waits, stop = [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
print("ready", flush=True)
while not stop.is_set():
    began = time.perf_counter()
    client.lpush(key, item)
    waits.append(time.perf_counter() - began)
    time.sleep(0.001)
print(json.dumps(waits))
"""


class Producer:
    """A process that pushes one item a millisecond and notes how long each push takes, in seconds."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _PRODUCER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def push_to(self, url: str, key: str) -> None:
        """Begin; returns when the first push is about to be made."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([url, key, plain_items(1, 2)[0].decode()]) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def waits(self) -> list[float]:
        """Stop it; how long each push took."""
        told, _ = self._process.communicate()
        waits: list[float] = json.loads(told)
        return waits

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()


def backlog(settings: config.Settings, rows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Memory of the drainer above the empty service while ``rows`` waiting rows are drained."""
    with private(settings) as bench:
        say(f"pushing a backlog of {rows:,} rows")
        warm_up(bench)
        _fill(bench, rows)
        empty_mb = _rss_mb()
        peak_mb = empty_mb
        with _draining(bench):
            while bench.buffer.books().in_flight or bench.buffer.waiting():
                peak_mb = max(peak_mb, _rss_mb())
                time.sleep(0.01)
    return {"backlog_rows": rows, "empty_mb": empty_mb, "peak_mb": peak_mb, "above_empty_mb": peak_mb - empty_mb}


def spill(settings: config.Settings, rows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """ClickHouse is away while ``rows`` rows come in: what lies on disk, and what Redis needs meanwhile.

    No drainer runs until all has come; what is more than a fifth of the rows goes to disk. Then ClickHouse
    is back, and everything is drained and counted.
    """
    limit_rows = max(1, rows // 5)
    guarded = settings.model_copy(
        update={"buffer": settings.buffer.model_copy(update={"overflow": "spill", "high_water_rows": limit_rows})}
    )
    with private(guarded) as bench:
        warm_up(bench)
        client = bench.link.database("metrics")
        drainer = bench.drainer()
        limits = Limits.of(bench.settings)
        files = Spill(bench.settings.data_dir / "spill", bench.buffer, bench.store, bench.settings.drainer, limits)
        overflow = Overflow(bench.buffer, drainer, bench.settings.buffer, files)
        drainer.activity.trouble = "ClickHouse is away"
        say(f"pushing {rows:,} rows while ClickHouse is away")
        redis_mb: list[float] = []
        spill_s = 0.0
        for start in range(0, rows, PUSH_ROWS * 50):
            bench.push(plain_items(min(PUSH_ROWS * 50, rows - start), start))
            spill_s += _timed(lambda: _until_nothing_moves(overflow))
            redis_mb.append(client.info("memory")["used_memory"] / 2**20)
        figures = files.figures()
        say(f"{figures.rows:,} rows lie on disk; ClickHouse is back")
        drainer.activity.trouble = ""
        drain_s = _timed(drainer.drain_until_empty) + _timed(lambda: _until_nothing_moves(overflow))
        ((count, distinct),) = bench.store.rows("SELECT count(), uniqExact(segment, position) FROM metrics")
        books = bench.buffer.books()
    pushed = rows + bench.settings.drainer.batch_rows  # those of the warm-up
    if count != distinct or count != pushed or books.unaccounted or books.spilled:
        raise AssertionError(f"{pushed} pushed, {count} stored, {distinct} distinct, {books}")
    return {
        "rows": rows,
        "spilled_rows": figures.rows,
        "bytes_per_spilled_row": round(figures.bytes / max(1, figures.rows), 1),
        "spilled_rows_per_s": round(figures.rows / spill_s),
        "redis_peak_mb": round(max(redis_mb)),
        "redis_mb_by_fifth": [round(redis_mb[len(redis_mb) * fifth // 5 - 1]) for fifth in range(1, 6)],
        "drained_rows_per_s": round(rows / drain_s),
        "stored": rows,
    }


def _until_nothing_moves(overflow: Overflow) -> None:
    while overflow.step():
        pass


def _fill(bench: Bench, rows: int) -> None:
    for start in range(0, rows, 500_000):
        bench.push(plain_items(min(500_000, rows - start), start))


@contextmanager
def _draining(bench: Bench) -> Iterator[None]:
    stop = threading.Event()
    drainer = bench.drainer()
    thread = threading.Thread(target=drainer.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _push_steadily(bench: Bench, rate: int, done: threading.Event) -> None:
    client = bench.link.database("metrics")
    items = plain_items(min(rate, 100_000), 4)
    step = max(1, rate // 50)
    due = time.monotonic()
    at = 0
    while not done.is_set():
        batch = items[at : at + step]
        client.lpush(bench.buffer.key, *batch)
        at = (at + step) % (len(items) - step or 1)
        due += len(batch) / rate
        time.sleep(max(0.0, due - time.monotonic()))


def _one_row(bench: Bench, probe: Store, name: str) -> float:
    item = {"timestamp": iso(time.time_ns() // 1_000_000), "metric_type": "probe", "value": 1, "test_id": name}
    started = time.perf_counter()
    bench.link.database("metrics").lpush(bench.buffer.key, json.dumps(item))
    while not probe.rows(
        "SELECT 1 FROM metrics WHERE metric_type = 'probe' AND test_id = {name:String} LIMIT 1", {"name": name}
    ):
        time.sleep(0.002)
    return time.perf_counter() - started


def _timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _rss_mb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0
