"""``pipeline bench drain``: how fast the way from Redis to ClickHouse is, beside what it costs at least.

Fills a private Redis with realistic metrics, drains them into a private embedded store with everything
switched on, and checks count and uniqueness. The *floor* is measured in the same run on the same rows:
one thread reads the list while another inserts the rows, prepared beforehand as Arrow tables; nothing is
decoded, checked or acknowledged. Floor and drain take turns, and the medians are told.

``freshness``, ``producers``, ``backlog`` and ``spill`` measure what people notice: how soon a row can be queried,
how long a push takes while a backlog drains, how much memory the drainer takes for it, and what an outage of
ClickHouse takes on disk.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import config, process
from pipeline.clock import iso
from pipeline.ingest.buffer import Buffer, Chunk, open_buffers
from pipeline.ingest.columns import decode_chunk
from pipeline.ingest.drainer import Drainer, identified
from pipeline.ingest.metric import Limits
from pipeline.ingest.overflow import Overflow
from pipeline.ingest.spill import Spill
from pipeline.redis_link import RedisLink
from pipeline.store.clickhouse import Store
from pipeline.store.migrate import migrate

PUSH_ROWS = 1_000
FLOOR_PAGE_ROWS = 5_000
"""The floor reads as fast as redis-py can: that many items a call."""

SPREAD_MS = 1_800_000
BAD_SHARE = 0.001

Maker = Callable[[int, int], list[bytes]]


def plain_items(rows: int, seed: int) -> list[bytes]:
    """``rows`` items of six fields, about 143 bytes: 500 tests, times spread over the last half hour."""
    draws = _Draws(rows, seed)
    return [
        b'{"timestamp":"%s","test_id":"auth-%03d","metric_type":"duration","value":%d,'
        b'"environment":"%s","browser":"%s"}' % fields
        for fields in zip(
            draws.times(), draws.numbers(500), draws.values(),
            draws.words("staging", "testing", "production"), draws.words("chromium", "firefox", "webkit", "msedge"),
            strict=True,
        )
    ]  # fmt: skip


def full_items(rows: int, seed: int) -> list[bytes]:
    """Items with all optional fields, tags, an unknown field and 0.1 % that are cut off in the middle."""
    draws = _Draws(rows, seed)
    items = [
        b'{"timestamp":"%s","test_id":"auth-%03d","test_name":"login-flow-%03d","test_suite":"suite-%02d",'
        b'"metric_type":"duration","value":%d,"environment":"%s","browser":"%s","page":"/page/%02d",'
        b'"endpoint":"/api/v1/%02d","node":"worker-%02d","status":"%s",'
        b'"tags":{"branch":"%s","retry":%d},"build":"build-%03d"}' % fields
        for fields in zip(
            draws.times(), draws.numbers(500), draws.numbers(500), draws.numbers(20), draws.values(),
            draws.words("staging", "testing", "production"), draws.words("chromium", "firefox", "webkit", "msedge"),
            draws.numbers(50), draws.numbers(20), draws.numbers(8),
            draws.words("passed", "passed", "failed", "skipped"),
            draws.words("main", "release", "feature"), draws.numbers(3), draws.numbers(200),
            strict=True,
        )
    ]  # fmt: skip
    bad = np.random.default_rng(seed).choice(rows, max(1, int(rows * BAD_SHARE)), replace=False)
    for index in bad:
        items[index] = items[index][: len(items[index]) // 2]
    return items


MIXES: dict[str, Maker] = {"plain": plain_items, "full": full_items}


class _Draws:
    """Seeded columns of values, as bytes where they are text."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows = rows
        self._random = np.random.default_rng(seed)

    def times(self) -> list[bytes]:
        now_ms = time.time_ns() // 1_000_000
        offsets = self._random.integers(0, SPREAD_MS, self._rows)
        stamps = np.datetime_as_string((now_ms - offsets).astype("datetime64[ms]"), unit="ms")
        return [stamp.encode() + b"Z" for stamp in stamps.tolist()]

    def values(self) -> list[int]:
        drawn: list[int] = self._random.lognormal(7.5, 0.5, self._rows).astype(np.int64).tolist()
        return drawn

    def numbers(self, below: int) -> list[int]:
        drawn: list[int] = self._random.integers(0, below, self._rows).tolist()
        return drawn

    def words(self, *choices: str) -> list[bytes]:
        encoded = [choice.encode() for choice in choices]
        return [encoded[index] for index in self._random.integers(0, len(encoded), self._rows).tolist()]


@dataclass
class Bench:
    """A private Redis and a private store, gone afterwards."""

    settings: config.Settings
    link: RedisLink
    store: Store
    buffer: Buffer

    def push(self, items: list[bytes]) -> None:
        """LPUSH all of them, 1,000 a command."""
        client = self.link.database("metrics")
        for start in range(0, len(items), PUSH_ROWS):
            client.lpush(self.buffer.key, *items[start : start + PUSH_ROWS])

    def drainer(self) -> Drainer:
        """A drainer with everything switched on."""
        return Drainer(self.buffer, self.store, self.settings.drainer, Limits.of(self.settings))

    def clear(self) -> None:
        """Empty both sides."""
        self.link.database("metrics").flushall()
        for table in ("metrics", "dead_letters", "floor"):
            self.store.command(f"TRUNCATE TABLE IF EXISTS {table}")


@contextmanager
def private(settings: config.Settings) -> Iterator[Bench]:
    """Engines of one's own in a temporary directory."""
    directory = Path(tempfile.mkdtemp(prefix="pipeline-bench-"))
    settings = config.private(settings, directory)
    link = RedisLink.open(settings)
    process.share_memory()
    process.yield_to_redis()
    try:
        with Store.open(settings) as store:
            migrate(store, settings)
            yield Bench(settings, link, store, open_buffers(settings, link)[0])
    finally:
        link.close(stop_embedded=True)
        shutil.rmtree(directory, ignore_errors=True)


def run(settings: config.Settings, rows: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Drain ``rows`` metrics of each mix, ``rounds`` times in turn with the floor."""
    with private(settings) as bench:
        warm_up(bench)
        return {mix: _run_mix(bench, mix, rows, rounds, say) for mix in MIXES}


def _run_mix(bench: Bench, mix: str, rows: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"{mix}: making {rows:,} items")
    items = MIXES[mix](rows, 1)
    tables = _prepared(bench, items)
    bench.store.command("CREATE TABLE IF NOT EXISTS floor AS metrics")
    floors, drains = [], []
    for number in range(1, rounds + 1):
        bench.clear()
        bench.push(items)
        gc.collect()
        gc.freeze()  # the items made above are not the drainer's: its collections shall not count them
        floors.append(_floor(bench, rows, tables))
        bench.store.command("TRUNCATE TABLE floor")
        drains.append(_drain(bench, rows))
        say(
            f"{mix}: round {number} of {rounds}: {rows / drains[-1]['seconds']:,.0f} rows/s, "
            f"floor {rows / floors[-1]['seconds']:,.0f} rows/s"
        )
    drain_s = statistics.median(drain["seconds"] for drain in drains)
    floor_s = statistics.median(floor["seconds"] for floor in floors)
    chosen = min(drains, key=lambda drain: abs(drain["seconds"] - drain_s))
    return {
        "rows": rows,
        "item_bytes": round(sum(map(len, items)) / rows, 1),
        "rows_per_s": round(rows / drain_s),
        "floor_rows_per_s": round(rows / floor_s),
        "ratio": round(drain_s / floor_s, 2),
        "best_ratio": round(min(d["seconds"] / f["seconds"] for d, f in zip(drains, floors, strict=True)), 2),
        "cpu_us_per_row": round(statistics.median(drain["cpu_s"] for drain in drains) / rows * 1e6, 2),
        "floor_cpu_us_per_row": round(statistics.median(floor["cpu_s"] for floor in floors) / rows * 1e6, 2),
        "stages": {name: round(seconds / rows * 1e6, 3) for name, seconds in chosen["stages"].items()},
        "stored": chosen["stored"],
        "dead_lettered": chosen["dead_lettered"],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _prepared(bench: Bench, items: list[bytes]) -> list[pa.Table]:
    size = bench.settings.drainer.batch_rows
    limits = Limits.of(bench.settings)
    now_ms = time.time_ns() // 1_000_000
    tables = []
    for number, start in enumerate(range(0, len(items), size)):
        part = items[start : start + size]
        decoded = decode_chunk(part, np.arange(start, start + len(part)), now_ms, limits)
        chunk = Chunk("floor", number, start, start + len(part), len(items), size, now_ms, 1, False)
        tables.append(identified(decoded.rows, chunk))
    return tables


def _floor(bench: Bench, rows: int, tables: list[pa.Table]) -> dict[str, Any]:
    client, key = bench.link.database("metrics"), bench.buffer.key

    def read() -> None:
        for start in range(0, rows, FLOOR_PAGE_ROWS):
            client.lrange(key, start, start + FLOOR_PAGE_ROWS - 1)

    reader = threading.Thread(target=read)
    started, cpu = time.perf_counter(), time.process_time()
    reader.start()
    for table in tables:
        bench.store.insert("floor", table)
    reader.join()
    return {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


def _drain(bench: Bench, rows: int) -> dict[str, Any]:
    drainer = bench.drainer()
    started, cpu = time.perf_counter(), time.process_time()
    progress = drainer.drain_until_empty()
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    count, distinct, segments = bench.store.rows(
        "SELECT count(), uniqExact(segment, position), uniqExact(segment) FROM metrics"
    )[0]
    books = bench.buffer.books()
    if count != distinct or count + progress.dead_lettered != rows or books.unaccounted or books.in_flight:
        raise AssertionError(f"{rows} pushed, {count} stored, {distinct} distinct, in {segments} segments, {books}")
    stages = {name: seconds for name, seconds in vars(progress.stages).items() if name != "rows"}
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "stages": stages,
        "stored": progress.stored,
        "dead_lettered": progress.dead_lettered,
    }


# What people notice


def freshness(settings: config.Settings, rate: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Push ``rate`` rows a second for ``seconds`` and measure how long a marked row takes until it can be queried."""
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

    The producer is a process of its own, as producers are: in ours it would wait for the interpreter, not for Redis.
    """
    # Started first: afterwards they would be as nice to Redis as we are.
    idle, producer = _Producer(), _Producer()
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
        "longest_read_ms": _longest_ms(slow, b"LRANGE"),
        "mean_claim_or_ack_ms": round(usual / 1000, 3),
        "longest_claim_or_ack_ms": _longest_ms(slow, b"EVAL"),
    }


def _longest_ms(slow: list[dict[str, Any]], command: bytes) -> float | str:
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


class _Producer:
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


def warm_up(bench: Bench) -> None:
    """A first small drain brings in what any service has loaded and compiled; it is not what is measured."""
    bench.push(plain_items(bench.settings.drainer.batch_rows, 3))
    bench.drainer().drain_until_empty()


def spill(settings: config.Settings, rows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """ClickHouse is away while ``rows`` rows come in: what lies on disk, and what Redis needs meanwhile.

    Nobody drains until all has come; what runs over the mark of a fifth of the rows goes to disk. Then ClickHouse
    is back, and everything is drained and counted.
    """
    mark = max(1, rows // 5)
    guarded = settings.model_copy(
        update={"buffer": settings.buffer.model_copy(update={"overflow": "spill", "high_water_rows": mark})}
    )
    with private(guarded) as bench:
        warm_up(bench)
        client = bench.link.database("metrics")
        drainer = bench.drainer()
        limits = Limits.of(bench.settings)
        files = Spill(bench.settings.data_dir / "spill", bench.buffer, bench.store, bench.settings.drainer, limits)
        overflow = Overflow(bench.buffer, drainer, bench.settings.buffer, files)
        drainer.progress.trouble = "ClickHouse is away"
        say(f"pushing {rows:,} rows while ClickHouse is away")
        redis_mb: list[float] = []
        spill_s = 0.0
        for start in range(0, rows, PUSH_ROWS * 50):
            bench.push(plain_items(min(PUSH_ROWS * 50, rows - start), start))
            spill_s += _timed(lambda: _until_nothing_moves(overflow))
            redis_mb.append(client.info("memory")["used_memory"] / 2**20)
        figures = files.figures()
        say(f"{figures.rows:,} rows lie on disk; ClickHouse is back")
        drainer.progress.trouble = ""
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
