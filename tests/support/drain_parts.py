"""What the drain's tests share: real servers, a database with the drain's tables, and where every item went."""

import itertools
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from items import metric

from pipeline.base import config, resources
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import Buffer
from pipeline.deliver import ledger
from pipeline.deliver.drainer import Drainer
from pipeline.metric import Limits
from pipeline.store.client import Store
from pipeline.store.migrate import Dialect

_numbers = itertools.count(1)


def client_of(url: str) -> redis.Redis:
    """A client as the service makes them, but patient: never resends, answers in bytes."""
    patient = config.RedisPool(socket_timeout_ms=60_000, connection_timeout_ms=60_000)
    return RedisLink.open(config.Settings(redis=config.RedisSettings(url=url, pool=patient))).database("metrics")


def buffer_on(url: str, **options: Any) -> Buffer:
    """A buffer with a client and a lease token of its own."""
    return Buffer(client_of(url), **options)


def make_tables(store: Store, settings: config.Settings) -> None:
    """The tables a drainer needs, in a fresh database: the first migration, and what later ones did to its tables."""
    dialect = Dialect(settings)
    store.command(dialect.fill("CREATE DATABASE IF NOT EXISTS {database}"))
    first, *later = sorted(resources.path("sql/migrations").glob("*.sql"))
    for statement in dialect.statements(first.read_text(encoding="utf-8")):
        store.command(statement)
    tables = {name for (name,) in store.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")}
    for file in later:
        for statement in dialect.statements(file.read_text(encoding="utf-8")):
            altered = re.match(r"ALTER TABLE \w+\.(\w+)", statement)
            if altered and altered[1] in tables:
                store.command(statement)


@contextmanager
def drain_store(dsn: str) -> Iterator[Store]:
    """A store on a database of its own, with the drain's tables, dropped afterwards."""
    database = f"drain_{os.getpid()}_{next(_numbers)}"
    settings = config.Settings(clickhouse=config.ClickHouseSettings(dsn=dsn, database=database, request_timeout_s=20))
    store = Store.open(settings)
    try:
        make_tables(store, settings)
        yield store
        store.command(f"DROP DATABASE {database} SYNC")
    finally:
        store.close()


def drainer_on(buffer: Buffer, store: Store, *, limits: Limits | None = None, **settings: Any) -> Drainer:
    """A drainer with small batches and short pauses; a lease may be shorter here than the settings allow."""
    quick = {"batch_rows": 100, "flush_interval_s": 0.05, "max_retry_pause_s": 0.2, "lease_s": 5, "durable_seal": False}
    own = config.DrainerSettings().model_copy(update=quick | settings)
    buffer.lease_s = own.lease_s
    return Drainer(buffer, store, own, limits or Limits())


def now_s() -> int:
    return int(time.time())


def good(number: int, *, days_ago: int = 0) -> bytes:
    """A valid item that is known by its number."""
    return metric(number, str(now_s() - 86_400 * days_ago - number % 600))


def bad(number: int) -> bytes:
    """An item that is refused, known by its number."""
    return b"bad %d" % number


def push(client: redis.Redis, items: Iterable[bytes], key: str = "metrics:buffer") -> None:
    """LPUSH, as producers do: the first item is the oldest."""
    source = iter(items)
    while batch := list(itertools.islice(source, 1_000)):
        client.lpush(key, *batch)


class Whereabouts:
    """Where the items with numbers went, as ClickHouse tells it."""

    def __init__(self, store: Store) -> None:
        self.stored = Counter(int(number) for (number,) in store.rows("SELECT test_id FROM metrics"))
        self.buried = Counter(bytes.fromhex(hexed) for (hexed,) in store.rows("SELECT hex(payload) FROM dead_letters"))
        self.places = Counter(
            store.rows("SELECT segment, position FROM metrics UNION ALL SELECT segment, position FROM dead_letters")
        )

    def assert_each_once(self, good_numbers: Iterable[int], bad_items: Iterable[bytes] = ()) -> None:
        """Every good item stands once in ``metrics``, every bad one once in ``dead_letters``, each in its own place."""
        wanted, wanted_bad = set(good_numbers), Counter(bad_items)
        lost = wanted - self.stored.keys()
        doubled = {number: count for number, count in self.stored.items() if count > 1}
        strange = self.stored.keys() - wanted
        assert (len(lost), doubled, strange) == (0, {}, set()), f"lost {len(lost)}: {sorted(lost)[:5]}"
        assert self.buried == wanted_bad, (self.buried - wanted_bad, wanted_bad - self.buried)
        assert not [place for place, count in self.places.items() if count > 1]


def assert_books_agree(buffer: Buffer, store: Store) -> None:
    """Nothing waits or is in flight, the ledger counts what the tables hold, every chunk's digest is its rows'."""
    books = buffer.books()
    ((stored,), (buried,)) = store.rows("SELECT count() FROM metrics"), store.rows("SELECT count() FROM dead_letters")
    assert (books.waiting, books.in_flight, books.unaccounted) == (0, 0, 0), books
    assert (books.stored, books.dead_lettered) == (*stored, *buried), books
    records = ledger.pending_records(buffer)
    for chunk_rows in {record.chunk_rows for record in records}:
        found = {
            (segment, chunk): (rows, digest)
            for segment, chunk, rows, digest in store.rows(
                "SELECT segment, intDiv(position, {chunk_rows:UInt32}) AS chunk, count(), "
                f"{ledger.DIGEST_SQL} FROM metrics GROUP BY segment, chunk",
                {"chunk_rows": chunk_rows},
            )
        }
        for record in records:
            if record.chunk_rows == chunk_rows:
                assert found.get((record.segment, record.chunk), (0, 0)) == (record.stored, record.digest), record


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = 300) -> Any:
    """Poll until the condition holds; the patience is for a machine that is busy, no test depends on speed."""
    give_up = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < give_up, f"waited {patience_s} s in vain until {what}"
        time.sleep(0.01)
    return found


@contextmanager
def running(drainer: Drainer) -> Iterator[threading.Event]:
    """The drainer at work in a thread of its own; stopped afterwards, its failure raised."""
    stop = threading.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            drainer.run(stop)
        except BaseException as error:  # raised again below, in the test's own thread
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the drainer does not end"
    if failure:
        raise failure[0]


def directory_of(url: str) -> Path:
    """Where the Redis at ``url`` keeps its files."""
    with redis.Redis.from_url(url) as client:
        return Path(os.fsdecode(client.config_get("dir")["dir"]))
