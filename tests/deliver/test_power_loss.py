"""Power cuts: Redis's append-only file loses up to its last second, while a drainer is at work.

What a cut may leave is the file up to any byte, but not less than what is known to be on disk, and not less than what
was written a second ago. What stands in the file afterwards is what Redis durably accepted: exactly that must stand in
ClickHouse, each item once.
"""

import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import children
import kill_child
import pytest
import redis
from append_only_file import LOST_S, AppendOnlyFile, wait_until_written
from conftest import RedisServer, effort
from drain_parts import Whereabouts, assert_books_agree, bad, buffer_on, drainer_on, good, push, wait_until

from pipeline.base.errors import RedisOutage
from pipeline.buffer.buffer import Buffer
from pipeline.deliver import ledger
from pipeline.operate.audit import AuditReport, audit_delivery
from pipeline.store.client import Store

CUTS = effort({"local": 4, "everysec": 2}, {"local": 8, "everysec": 4}, {"local": 160, "everysec": 80})
"""For each redis-server that is there; two of them make 12, 24 with --thorough, 480 with --long."""

MOST_ROWS = 300
"""A producer that is faster than the drainer would only make the end of the test longer."""

ROWS = 200

_databases = itertools.count(1)


@pytest.fixture(scope="module")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with children.clickhouse(tmp_path_factory.mktemp("clickhouse") / "engine") as url:
        yield url


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(appendonly=True)


@pytest.fixture
def database(clickhouse_url: str) -> dict[str, str]:
    """Where a child finds a database with the drain's tables."""
    place = {"dsn": clickhouse_url, "database": f"power_{os.getpid()}_{next(_databases)}"}
    children.run(kill_child.set_up, **place, statements=kill_child.NO_TOKENS)
    return place


@contextmanager
def producing(url: str) -> Iterator[None]:
    """A producer pushes a few items every few milliseconds, whether Redis is there or not; rests while much waits."""
    buffer = buffer_on(url)
    ended = threading.Event()

    def work() -> None:
        numbers = itertools.count()
        while not ended.wait(0.004):
            with suppress(RedisOutage, redis.RedisError):
                books = buffer.books()
                if books.waiting + books.in_flight < MOST_ROWS:
                    batch = itertools.islice(numbers, 10)
                    push(buffer.client, [bad(number) if number % 20 == 7 else good(number) for number in batch])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", list(CUTS))
def test_power_cuts_lose_and_double_nothing(
    policy: str,
    request: pytest.FixtureRequest,
    redis_server: Callable[..., RedisServer],
    database: dict[str, str],
    tmp_path: Path,
) -> None:
    """Whatever was cut off, and whether the drainer died too: each item that the file kept stands once, no other does.

    ``local`` drainers sync the file themselves, ``everysec`` ones wait until Redis has.
    """
    cuts = CUTS[policy]
    chance = random.Random(request.node.name)
    # No process may rewrite the file that is watched; a torn script, which a rewrite would end, is removed here.
    server = redis_server(appendonly=True, options=["--rename-command", "BGREWRITEAOF", ""])
    place = database | {"redis_url": server.url}
    fsync_log = tmp_path / "fsyncs"
    fsync_log.touch()
    aof_dir = server.dir if policy == "local" else None
    buffer = buffer_on(server.url)
    hit: Counter[str] = Counter()
    lost_kinds: Counter[str] = Counter()
    child = None
    with producing(server.url), AppendOnlyFile(server.dir) as file:
        number = 0
        while number < cuts or not hit["seal"]:
            number += 1
            assert number < 5 * cuts, "no cut takes back a seal"
            if child is None:
                child = children.start(kill_child.drain, **place, aof_dir=aof_dir, fsync_log=fsync_log, batch_rows=50)
            _wait_for_more(buffer, "stored")
            time.sleep(chance.uniform(0.0, 0.3))
            _wait_for_more(buffer, "sealed")
            # A seal that is synced at once can only be taken back at once.
            time.sleep(chance.uniform(0.0, 0.02 if policy == "local" else 0.8 * LOST_S))
            hit["in flight"] += bool(buffer.books().in_flight)
            killed_at = time.monotonic()
            server.kill()
            if number % 2:
                children.kill(child)
                child = None
            lost = file.cut_at_random(chance, killed_at, _last_number(fsync_log))
            file.mend()
            server.start()
            kinds = Counter(command.kind for command in lost if command.kind)
            hit.update(kinds.keys())
            lost_kinds += kinds
    if child:
        children.kill(child)
    print(f"{policy}: {number} cuts, with a chunk in flight or taking back: {dict(hit)}; in all {dict(lost_kinds)}")
    children.run(kill_child.drain, **place, until_empty=True, aof_dir=server.dir)
    kept = [item for command in file.commands() if command.kind == "push" for item in command.words[2:]]
    bad_items = [item for item in kept if item.startswith(b"bad")]
    numbers = [int(json.loads(item)["test_id"]) for item in kept if not item.startswith(b"bad")]
    children.run(kill_child.verify, **place, good=numbers, bad=bad_items)
    assert hit["in flight"] > cuts // 3


@pytest.mark.parametrize(
    "flushed",
    [
        pytest.param(False, id="records in Redis"),
        pytest.param(
            True,
            id="records in the ledger table",
        ),
    ],
)
def test_with_the_protection_off_a_cut_is_detected(flushed: bool, server: RedisServer, store: Store) -> None:
    """Rows whose seal a power cut took back stand twice, and the audit names the unknown segment."""
    buffer = buffer_on(server.url)
    push(buffer.client, map(good, range(ROWS)))
    drainer_on(buffer, store, durable_seal=False).drain_until_empty()
    if flushed:
        ledger.flush(buffer, store)
    _kill(server, buffer)
    file = AppendOnlyFile(server.dir)
    (seal,) = [command for command in file.commands() if command.kind == "seal"]
    assert Counter(command.kind for command in file.cut(seal.start))["seal"] == 1
    server.start()
    assert buffer.waiting() == ROWS
    drainer_on(buffer, store, durable_seal=False).drain_until_empty()
    assert Whereabouts(store).stored == Counter(dict.fromkeys(range(ROWS), 2))
    report = _audit(buffer, store)
    assert (report.ok, report.unknown, report.books.unaccounted) == (False, ROWS, 0)
    assert [finding.where for finding in report.findings] == [f"segment {seal.words[2].decode().rpartition(':')[2]}"]


def test_a_torn_script_stays_undone_at_the_next_start(server: RedisServer, store: Store) -> None:
    """A power cut leaves half of an ack: Redis undoes it, and nothing of it comes back when Redis starts once more.

    Redis removes a torn command but not the transaction it is in: what is written next would be read as its rest.
    """
    buffer = buffer_on(server.url)
    push(buffer.client, map(good, range(ROWS)))
    drainer_on(buffer, store, batch_rows=ROWS, lease_s=1).drain_until_empty()
    _kill(server, buffer)
    file = AppendOnlyFile(server.dir)
    (ack,) = [command for command in file.commands() if command.kind == "ack"]
    file.cut(ack.end - len("*1|$4|EXEC||||") - 1)
    server.start()
    drainer_on(buffer, store, batch_rows=ROWS, lease_s=1).drain_until_empty()
    push(buffer.client, map(good, range(ROWS, 2 * ROWS)))
    wait_until(lambda: not buffer.client.info("persistence")["aof_rewrite_in_progress"], "the file is rewritten")
    _kill(server, buffer)
    server.start()
    drainer_on(buffer, store, lease_s=1).drain_until_empty()
    Whereabouts(store).assert_each_once(range(2 * ROWS))
    assert_books_agree(buffer, store)


def test_a_restarted_redis_is_waited_for_anew(server: RedisServer) -> None:
    """A seal of long ago may be not on disk yet when Redis died since: its successor has a second to sync it."""
    buffer = buffer_on(server.url)
    push(buffer.client, map(good, range(ROWS)))
    buffer.seal(ROWS)
    chunk = buffer.claim()
    assert chunk is not None
    _kill(server, buffer)
    server.start()
    begun = time.monotonic()
    buffer.make_durable(replace(chunk, sealed_at_ms=chunk.sealed_at_ms - 10_000))
    assert time.monotonic() - begun >= LOST_S


def _kill(server: RedisServer, buffer: Buffer) -> None:
    wait_until_written(buffer.client)
    server.kill()


def _audit(buffer: Buffer, store: Store) -> AuditReport:
    return audit_delivery(store, [buffer], full=True, now_ms=time.time_ns() // 1_000_000)


def _wait_for_more(buffer: Buffer, what: str) -> None:
    before = getattr(buffer.books(), what)
    wait_until(lambda: getattr(buffer.books(), what) > before, f"more is {what}")


def _last_number(log: Path) -> int:
    return int((log.read_text().split() or ["0"])[-1])
