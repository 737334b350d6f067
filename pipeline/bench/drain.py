"""``pipeline bench drain``: how fast the way from Redis to ClickHouse is, beside what it costs at least.

Fills a private Redis with realistic metrics, drains them into a private embedded store with everything
switched on, and checks count and uniqueness. The *floor* is measured in the same run on the same rows:
one thread reads the list while another inserts the rows, prepared beforehand as Arrow tables; nothing is
decoded, checked or acknowledged. Floor and drain take turns, and the medians are told.
"""

from __future__ import annotations

import gc
import resource
import shutil
import statistics
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

from pipeline.base import config
from pipeline.base.redis_link import RedisLink
from pipeline.bench import run_columns
from pipeline.buffer.buffer import Buffer, open_buffers
from pipeline.buffer.chunk import Chunk
from pipeline.decode.columns import decode_chunk
from pipeline.deliver.delivery import identified
from pipeline.deliver.drainer import Drainer
from pipeline.metric import Limits
from pipeline.operate import process
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

PUSH_ROWS = 1_000
FLOOR_PAGE_ROWS = 5_000
"""The floor reads as fast as redis-py can: that many items a call."""

SPREAD_MS = 1_800_000
REFUSED_SHARE = 0.001

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
    refused = np.random.default_rng(seed).choice(rows, max(1, int(rows * REFUSED_SHARE)), replace=False)
    for index in refused:
        items[index] = items[index][: len(items[index]) // 2]
    return items


def attempt_items(rows: int, seed: int) -> list[bytes]:
    """Attempts as the pytest plugin and ``push`` send them: 500 tests in 40 runs of 4 jobs; 5 % were tried again."""
    draws = _Draws(rows, seed)
    attempts = ((b'"retried","error_type":"AssertionError"', 1), *[(b'"passed"', 1)] * 18, (b'"flaky"', 2))
    return [
        b'{"timestamp":%d,"metric_type":"duration","value":%d,"status":%s,"attempt":%d,"test_id":"tests/shop/test_%03d.py'
        b'::test_pays","test_name":"test_pays","test_suite":"tests.shop.test_%03d","environment":"staging",'
        b'"browser":"%s","run_id":"github-171042%04d-1","job":"e2e-%d","commit":"%040x","branch":"%s"}'
        % (stamp, value, *attempts[drawn], test, test, browser, run, job, run * 0x9E3779B97F4A7C15, branch)
        for stamp, value, drawn, test, browser, run, job, branch in zip(
            draws.stamps_ms(), draws.values(), draws.numbers(len(attempts)), draws.numbers(500),
            draws.words("chromium", "firefox", "webkit", "msedge"), draws.numbers(40), draws.numbers(4),
            draws.words("main", "main", "feature/cart"),
            strict=True,
        )
    ]  # fmt: skip


MIXES: dict[str, Maker] = {"plain": plain_items, "full": full_items, "attempts": attempt_items}


class _Draws:
    """Seeded columns of values, as bytes where they are text."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows = rows
        self._random = np.random.default_rng(seed)

    def times(self) -> list[bytes]:
        stamps = np.datetime_as_string(np.array(self.stamps_ms()).astype("datetime64[ms]"), unit="ms")
        return [stamp.encode() + b"Z" for stamp in stamps.tolist()]

    def stamps_ms(self) -> list[int]:
        now_ms = time.time_ns() // 1_000_000
        stamps: list[int] = (now_ms - self._random.integers(0, SPREAD_MS, self._rows)).tolist()
        return stamps

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


def warm_up(bench: Bench) -> None:
    """A first small drain brings in what any service has loaded and compiled; it is not what is measured."""
    bench.push(plain_items(bench.settings.drainer.batch_rows, 3))
    bench.drainer().drain_until_empty()


def run(settings: config.Settings, rows: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Drain ``rows`` metrics of each mix, ``rounds`` times in turn with the floor.

    And what the columns of runs and attempts cost the two mixes that do not fill them.
    """
    with private(settings) as bench:
        warm_up(bench)
        told = {mix: _run_mix(bench, mix, rows, rounds, say) for mix in MIXES}
        bench.clear()
        for mix in ("plain", "full"):
            told[f"run columns, {mix}"] = run_columns.measure(
                bench.store, _prepared(bench, MIXES[mix](rows, 1)), rounds, say
            )
        return told


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
    activity = drainer.drain_until_empty()
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    count, distinct, segments = bench.store.rows(
        "SELECT count(), uniqExact(segment, position), uniqExact(segment) FROM metrics"
    )[0]
    books = bench.buffer.books()
    if count != distinct or count + activity.dead_lettered != rows or books.unaccounted or books.in_flight:
        raise AssertionError(f"{rows} pushed, {count} stored, {distinct} distinct, in {segments} segments, {books}")
    stages = {name: seconds for name, seconds in vars(activity.stages).items() if name != "rows"}
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "stages": stages,
        "stored": activity.stored,
        "dead_lettered": activity.dead_lettered,
    }


# What people notice
