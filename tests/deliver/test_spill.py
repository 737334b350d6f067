"""Overflow: spilled chunks come back once, whatever dies; dropped items are counted; Redis memory stays flat."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import failpoints
from pipeline.base.config import BufferSettings, DrainerSettings
from pipeline.base.errors import StoreOutage
from pipeline.base.failpoints import Injected
from pipeline.bench.drain import plain_items
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk, chunk_name
from pipeline.deliver import spill
from pipeline.deliver.drainer import Drainer
from pipeline.deliver.overflow import Overflow
from pipeline.deliver.spill import Spill
from pipeline.metric import Limits
from pipeline.store.client import Store

ROWS = 3000
LEASE_S = 1.0
"""A chunk that a crash left leased is taken over this much later."""

SETTINGS = DrainerSettings(batch_rows=500, flush_interval_s=0.05, durable_seal=False)


@pytest.fixture
def buffer(redis_server: Callable[..., object]) -> Buffer:
    return Buffer(redis_server().client(3))  # type: ignore[attr-defined]


def _overflow(buffer: Buffer, store: Store, directory: Path, rule: str, mark: int = 1000) -> Overflow:
    settings = BufferSettings(overflow=rule, high_water_rows=mark)  # type: ignore[arg-type]
    spill = Spill(directory, Buffer(buffer.client, lease_s=LEASE_S), store, SETTINGS, Limits())
    return Overflow(buffer, Drainer(buffer, store, SETTINGS, Limits()), settings, spill)


def _push(buffer: Buffer, rows: int) -> None:
    items = plain_items(rows, 1)
    items[7] = b"not json"
    buffer.client.lpush(buffer.key, *items)


def _assert_all_once(buffer: Buffer, store: Store, rows: int) -> None:
    books = buffer.books()
    assert (books.waiting, books.in_flight, books.spilled, books.unaccounted) == (0, 0, 0, 0)
    assert (books.stored, books.dead_lettered) == (rows - 1, 1)
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(rows - 1, rows - 1)]
    assert store.rows("SELECT count() FROM dead_letters") == [(1,)]


def test_spilled_rows_come_back_once(buffer: Buffer, store: Store, tmp_path: Path) -> None:
    """Above the mark chunks go to disk until Redis is below it; afterwards all of them are stored, each row once."""
    _push(buffer, ROWS)
    overflow = _overflow(buffer, store, tmp_path, "spill")
    while overflow.step():
        pass
    books = buffer.books()
    assert books.waiting + books.in_flight <= 1000
    assert books.spilled == overflow.spill.figures().rows >= ROWS - 1000
    assert books.unaccounted == 0
    assert store.rows("SELECT count() FROM metrics") == [(0,)]
    overflow.drainer.drain_until_empty()
    while overflow.step():
        pass
    assert overflow.spill.files() == []
    _assert_all_once(buffer, store, ROWS)
    touched = store.rows("SELECT DISTINCT toUnixTimestamp(toStartOfMinute(timestamp)) FROM metrics")
    assert set(buffer.dirty_minutes()) == {minute for (minute,) in touched}


@pytest.mark.parametrize("place", ["spill.after_write", "spill.after_let_go", "spill.after_drain"])
def test_a_crash_while_spilling_loses_and_doubles_nothing(
    place: str, buffer: Buffer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dying after the file, after Redis let go, or after the drain: the next process ends with every row once."""
    _push(buffer, ROWS)
    monkeypatch.setenv(failpoints.VARIABLE, f"{place}:2:raise")
    failpoints.reset()
    overflow = _overflow(buffer, store, tmp_path, "spill")
    with pytest.raises(Injected):
        while overflow.step():
            pass
        overflow.drainer.drain_until_empty()
        while overflow.step():
            pass
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    again = _overflow(buffer, store, tmp_path, "spill")
    again.drainer.drain_until_empty()
    while again.spill.drain_one():
        pass
    assert again.spill.files() == []
    _assert_all_once(buffer, store, ROWS)


def test_a_power_cut_after_a_drain_is_made_good(buffer: Buffer, store: Store, tmp_path: Path) -> None:
    """Redis asks again for a chunk whose rows stand: its file is still there, the books end with none spilled."""
    _push(buffer, ROWS)
    overflow = _overflow(buffer, store, tmp_path, "spill")
    while overflow.step():
        pass
    on_disk = {key: buffer.client.dump(key) for key in buffer.client.scan_iter()}
    assert overflow.spill.drain_one()
    buffer.client.flushdb()
    for key, value in on_disk.items():
        buffer.client.restore(key, 0, value)
    overflow.drainer.drain_until_empty()
    while overflow.step():
        pass
    assert overflow.spill.files() == []
    _assert_all_once(buffer, store, ROWS)


def test_a_file_is_kept_until_redis_s_disk_knows_of_its_drain(
    buffer: Buffer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With durable seals on, no file is removed before the disk was waited for, once for several files."""
    _push(buffer, ROWS)
    _overflow(buffer, store, tmp_path, "spill").spill.spill_one()
    files_at_sync: list[int] = []
    spill = Spill(tmp_path, buffer, store, SETTINGS.model_copy(update={"durable_seal": True}), Limits())
    monkeypatch.setattr(Buffer, "wait_for_disk", lambda self: files_at_sync.append(len(spill.files())))
    while spill.spill_one():
        pass
    files_at_sync.clear()
    files = len(spill.files())
    while spill.drain_one():
        pass
    assert (files_at_sync, spill.files()) == ([files], [])
    _assert_all_once(buffer, store, ROWS)


def test_who_loses_a_chunk_while_spilling_goes_on(
    buffer: Buffer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was slow, the lease ran out, a drainer finished the chunk: the next one is spilled."""
    _push(buffer, ROWS)
    overflow = _overflow(buffer, store, tmp_path, "spill")
    write = Spill._write
    late: list[Chunk] = []

    def slow_write(self: Spill, chunk: Chunk, items: list[bytes]) -> None:
        write(self, chunk, items)
        if not late:
            late.append(chunk)
            self._buffer.release(chunk)  # as if its lease had run out
            assert Buffer(buffer.client).claim() is not None

    monkeypatch.setattr(Spill, "_write", slow_write)
    stop = threading.Event()
    thread = threading.Thread(target=overflow.run, args=(stop,))
    thread.start()
    while thread.is_alive() and not buffer.books().spilled:
        pass
    stop.set()
    thread.join()
    assert late and buffer.books().spilled
    assert not buffer.client.hexists(buffer.keys.spilled, chunk_name(late[0]))


def test_dropped_items_are_the_oldest_and_counted(buffer: Buffer, store: Store, tmp_path: Path) -> None:
    """`drop_oldest` keeps the newest up to the mark; what is gone is counted, and the books balance."""
    buffer.client.lpush(buffer.key, *(b"%d" % number for number in range(2500)))
    overflow = _overflow(buffer, store, tmp_path, "drop_oldest")
    while overflow.step():
        pass
    assert buffer.client.lrange(buffer.key, 0, 0) == [b"2499"]
    assert buffer.client.lrange(buffer.key, -1, -1) == [b"1500"]
    books = buffer.books()
    assert (books.waiting, books.dropped, books.sealed, books.unaccounted) == (1000, 1500, 1500, 0)


def test_refuse_touches_nothing(buffer: Buffer, store: Store, tmp_path: Path) -> None:
    """`refuse` leaves everything where it is, however much waits."""
    _push(buffer, ROWS)
    overflow = _overflow(buffer, store, tmp_path, "refuse")
    assert overflow.step() == 0
    assert buffer.waiting() == ROWS


@pytest.mark.parametrize("at", [3, -5], ids=["head", "items"])
def test_a_damaged_file_is_kept_and_told_and_stops_no_other(
    buffer: Buffer, store: Store, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose bytes changed is named and kept, the others are drained; mended, it is drained like them."""
    _push(buffer, ROWS)
    overflow = _overflow(buffer, store, tmp_path, "spill")
    while overflow.step():
        pass
    path, *others = overflow.spill.files()
    assert others
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    stop = threading.Event()
    guard = threading.Thread(target=overflow.run, args=(stop,))
    overflow.drainer.drain_until_empty()
    guard.start()
    _wait_until(lambda: buffer.books().spilled == SETTINGS.batch_rows and path.name in overflow.trouble)
    assert path.read_bytes() == damaged
    path.write_bytes(whole)
    monkeypatch.setattr(spill, "RETRY_DAMAGED_S", 0.0)
    _wait_until(lambda: not overflow.spill.files() and not overflow.trouble)
    stop.set()
    guard.join()
    _assert_all_once(buffer, store, ROWS)


def test_a_spilled_file_of_which_clickhouse_refuses_most_stays_and_is_told(
    buffer: Buffer, store: Store, tmp_path: Path
) -> None:
    """It is the schema, not the data: the file lies where it is until the table is mended, and nothing is buried."""
    _push(buffer, 100)
    files = Spill(tmp_path, Buffer(buffer.client, lease_s=LEASE_S), store, SETTINGS, Limits())
    assert files.spill_one() == 100
    store.command("ALTER TABLE metrics ADD CONSTRAINT small CHECK value < 0")
    overflow = _overflow(buffer, store, tmp_path, "spill")
    stop = threading.Event()
    guard = threading.Thread(target=overflow.run, args=(stop,))
    guard.start()
    _wait_until(lambda: "refuses most rows" in overflow.trouble)
    stop.set()
    guard.join()
    assert len(files.files()) == 1
    books = buffer.books()
    assert (books.spilled, books.stored, books.unaccounted) == (100, 0, 0)
    store.command("ALTER TABLE metrics DROP CONSTRAINT small")
    assert files.drain_one() == 100
    _assert_all_once(buffer, store, 100)


def _wait_until(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until, "not within its time"
        time.sleep(0.02)


def test_memory_stays_flat_while_clickhouse_is_away(buffer: Buffer, store: Store, tmp_path: Path) -> None:
    """With ClickHouse away and producers going on, spilling holds Redis at its mark; a row on disk takes few bytes."""

    class Away:
        def insert(self, *_: object, **__: object) -> None:
            raise StoreOutage("away")

        query = insert

        def every_replica(self, table: str) -> str:
            return table

    overflow = _overflow(buffer, store, tmp_path, "spill", mark=5000)
    overflow.drainer.store = Away()  # type: ignore[assignment]
    stop = threading.Event()
    threads = [
        threading.Thread(target=overflow.run, args=(stop,)),
        threading.Thread(target=overflow.drainer.run, args=(stop,)),
    ]
    for thread in threads:
        thread.start()
    highest = 0
    pushed = 0
    for _ in range(25):
        buffer.client.lpush(buffer.key, *plain_items(1000, 1))
        pushed += 1000
        while (held := buffer.books().waiting + buffer.books().in_flight) > 7000:
            highest = max(highest, held)
    stop.set()
    for thread in threads:
        thread.join()
    figures = overflow.spill.figures()
    assert figures.rows > 15_000
    assert figures.bytes / figures.rows < 40
    books = buffer.books()
    assert books.unaccounted == 0
    assert books.waiting + books.in_flight + books.spilled == pushed
    overflow.drainer = Drainer(buffer, store, SETTINGS, Limits())
    overflow.drainer.drain_until_empty()
    while overflow.step():
        pass
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(pushed, pushed)]
