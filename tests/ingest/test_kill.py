"""kill -9 at random, under load: of drainers, of Redis, of both at once. Every row stands once, whatever died."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from ingest.kill_child import drain_for_ever

from pipeline import config
from pipeline.bench.drain import plain_items
from pipeline.ingest.buffer import Buffer
from pipeline.ingest.drainer import Drainer
from pipeline.ingest.metric import Limits
from pipeline.serve.clickhouse_http import ClickHouseHttp
from pipeline.store.clickhouse import Store

ROWS_A_ROUND = 900
KILLS = {"drainer": 75, "redis": 15, "both": 10}
"""For each redis-server that is there; two of them make 200."""

LONG_FACTOR = 10


@pytest.fixture(scope="module")
def forkserver() -> ForkServerContext:
    """Starts a child in some ten milliseconds: the imports are done once, before any thread exists."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ingest.kill_child"])
    # The server is a fresh interpreter and has to find the tests; it says nothing when it does not.
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), before]))
    try:
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    finally:
        os.environ["PYTHONPATH"] = before
    return context


@pytest.fixture
def clickhouse(store: Store) -> Iterator[ClickHouseHttp]:
    with ClickHouseHttp(store, writable=True) as server:
        yield server


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", list(KILLS))
def test_random_kills_lose_and_double_nothing(
    victim: str,
    request: pytest.FixtureRequest,
    redis_server: Callable[..., "object"],
    clickhouse: ClickHouseHttp,
    store: Store,
    settings: config.Settings,
    forkserver: ForkServerContext,
) -> None:
    """After every kill and a plain restart, and at the end: pushed = stored + dead-lettered, each identity once."""
    kills = KILLS[victim] * (LONG_FACTOR if request.config.getoption("--long") else 1)
    server = redis_server(appendonly=True)
    chance = random.Random(kills)
    buffer = Buffer(server.client())  # type: ignore[attr-defined]
    items = plain_items(ROWS_A_ROUND, 1)
    items[::300] = [b"not json"] * len(items[::300])
    arguments = (server.url, clickhouse.url, store.database, str(server.dir))  # type: ignore[attr-defined]
    pushed = hit = stored = 0
    for number in range(kills):
        if number % 2 == 0:
            buffer.client.lpush(buffer.key, *items)
            pushed += len(items)
            _wait_until_written(buffer)
        child = forkserver.Process(target=drain_for_ever, args=arguments, daemon=True)
        child.start()
        begun = time.monotonic()
        while time.monotonic() < begun + 3 and buffer.books().stored == stored and buffer.waiting():
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.06))
        books = buffer.books()
        stored = books.stored
        hit += bool(books.in_flight)
        if victim != "drainer":
            server.kill()  # type: ignore[attr-defined]
        if victim != "redis":
            _kill(child.pid)
        if victim != "drainer":
            time.sleep(0.02)
            server.start()  # type: ignore[attr-defined]
        if victim == "redis":
            _kill(child.pid)
        child.join(10)
    assert hit > kills // 20, f"only {hit} of {kills} kills hit a chunk in flight"
    Drainer(buffer, store, config.DrainerSettings(batch_rows=150), Limits.of(settings)).drain_until_empty()
    bad = pushed // len(items) * len(items[::300])
    books = buffer.books()
    assert (books.waiting, books.in_flight, books.unaccounted) == (0, 0, 0)
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(pushed - bad, pushed - bad)]
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM dead_letters") == [(bad, bad)]
    print(f"{victim}: {kills} kills, {hit} with a chunk in flight, {pushed} items")


def _wait_until_written(buffer: Buffer) -> None:
    """Redis answers before it writes while an fsync runs in the background; what a kill takes then is its own loss."""
    while buffer.client.info("persistence")["aof_buffer_length"]:
        time.sleep(0.01)


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
