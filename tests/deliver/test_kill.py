"""kill -9 at random, under load: of drainers, of Redis, of both at once. Every row stands once, whatever died."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import children
import kill_child
import pytest
from append_only_file import wait_until_written
from conftest import RedisServer, effort
from drain_parts import Whereabouts, assert_books_agree, buffer_on, good, push, wait_until

from pipeline.base import config
from pipeline.bench.drain import plain_items
from pipeline.deliver.drainer import Drainer
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.metric import Limits
from pipeline.store.client import Store

ROWS_A_ROUND = 900
KILLS = effort(
    {"drainer": 8, "redis": 3, "both": 2},
    {"drainer": 26, "redis": 8, "both": 6},
    {"drainer": 650, "redis": 200, "both": 150},
)
"""For each redis-server that is there; two of them make 26 kills, 80 with --thorough, 2,000 with --long."""


@pytest.fixture
def clickhouse(store: Store) -> Iterator[ClickHouseHttp]:
    with ClickHouseHttp(store, writable=True) as server:
        yield server


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", list(KILLS))
def test_random_kills_lose_and_double_nothing(
    victim: str,
    redis_server: Callable[..., RedisServer],
    clickhouse: ClickHouseHttp,
    store: Store,
    settings: config.Settings,
) -> None:
    """After every kill and a plain restart, and at the end: pushed = stored + dead-lettered, each identity once."""
    kills = KILLS[victim]
    server = redis_server(appendonly=True)
    chance = random.Random(kills)
    buffer = buffer_on(server.url)
    items = plain_items(ROWS_A_ROUND, 1)
    items[::300] = [b"not json"] * len(items[::300])
    surroundings = {"redis_url": server.url, "dsn": clickhouse.url, "database": store.database}
    pushed = hit = stored = 0
    for number in range(kills):
        if number % 2 == 0:
            buffer.client.lpush(buffer.key, *items)
            pushed += len(items)
            wait_until_written(buffer.client)
        child = children.start(kill_child.drain, **surroundings, aof_dir=server.dir, batch_rows=150)
        begun = time.monotonic()
        while time.monotonic() < begun + 3 and buffer.books().stored == stored and buffer.waiting():
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.06))
        books = buffer.books()
        stored = books.stored
        hit += bool(books.in_flight)
        if victim != "drainer":
            server.kill()
        if victim != "redis":
            children.kill(child)
        if victim != "drainer":
            time.sleep(0.02)
            server.start()
            # Killed while it rewrites its file, Redis leaves a child that keeps connections open and answers no client.
            buffer.client.connection_pool.disconnect()
        if victim == "redis":
            children.kill(child)
    assert hit > kills // 20, f"only {hit} of {kills} kills hit a chunk in flight"
    Drainer(buffer, store, config.DrainerSettings(batch_rows=150), Limits.of(settings)).drain_until_empty()
    bad = pushed // len(items) * len(items[::300])
    books = buffer.books()
    assert (books.waiting, books.in_flight, books.unaccounted) == (0, 0, 0)
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(pushed - bad, pushed - bad)]
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM dead_letters") == [(bad, bad)]
    print(f"{victim}: {kills} kills, {hit} with a chunk in flight, {pushed} items")


def test_processes_share_a_buffer_and_who_wakes_late_is_fenced_off(
    redis_url: str, clickhouse: ClickHouseHttp, store: Store
) -> None:
    """One of four is stopped just before it inserts; the others finish its chunk too; then it goes on."""
    buffer = buffer_on(redis_url)
    push(buffer.client, [good(number) for number in range(2_000)])
    options = {"redis_url": redis_url, "dsn": clickhouse.url, "database": store.database, "until_empty": True}
    options |= {"batch_rows": 50, "lease_s": 1, "durable_seal": False}
    late = children.start(kill_child.drain, **options, failpoint="drainer.before_insert:2:pause=5")
    assert late.pid is not None
    wait_until(lambda: buffer.books().stored, "its first chunk is done and it has the second in hand")
    os.kill(late.pid, signal.SIGSTOP)
    others = [children.start(kill_child.drain, **options) for _ in range(3)]
    assert [children.exit_code(other) for other in others] == [0, 0, 0]
    assert buffer.books().in_flight == 0
    os.kill(late.pid, signal.SIGCONT)
    assert children.exit_code(late) == 0
    Whereabouts(store).assert_each_once(range(2_000))
    assert_books_agree(buffer, store)
