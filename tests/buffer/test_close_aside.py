"""A person decides about what is set aside; what ClickHouse has already is never pushed again."""

from pathlib import Path

import pytest
from drain_parts import Whereabouts, buffer_on, drainer_on, good, make_tables, push
from taking import acknowledge, balanced, claimed

from pipeline.base import config
from pipeline.base.errors import UsageError
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.set_aside import find, records
from pipeline.deliver.close_aside import push_again, save_and_give_up
from pipeline.store.client import Store

ITEMS = [good(number) for number in range(30)]


@pytest.fixture
def buffer(redis_url: str) -> Buffer:
    buffer = buffer_on(redis_url)
    push(buffer.client, ITEMS)
    buffer.seal(10)
    return buffer


def stored_before(buffer: Buffer, store: Store, segment: str, items: list[bytes]) -> None:
    """As if an attempt before had stored the oldest items of a segment."""
    push(buffer.client, items, key="other")
    other = Buffer(buffer.client, key="other")
    sealed = other.seal(10)
    assert sealed is not None
    drainer_on(other, store).drain_until_empty()
    store.command(f"INSERT INTO metrics SELECT * REPLACE ('{segment}' AS segment) FROM metrics")
    store.command(f"ALTER TABLE metrics DELETE WHERE segment = '{sealed.name}' SETTINGS mutations_sync = 1")


def test_what_is_kept_is_saved_to_a_file_and_given_up(buffer: Buffer, tmp_path: Path) -> None:
    """One item a line, the oldest first; the record is gone, the items count as dropped."""
    chunk = claimed(buffer)
    buffer.set_aside(chunk, "cannot be stored")
    (record,) = records(buffer)
    assert (record.kept, record.lost, record.reason, record.first, record.last) == (10, 0, "cannot be stored", 0, 10)
    closed = save_and_give_up(buffer, record, tmp_path / "set_aside")
    assert Path(closed.file).read_bytes().splitlines() == ITEMS[:10]
    assert records(buffer) == [] and not buffer.client.exists(buffer.keys.aside(record.name))
    assert (buffer.books().dropped, buffer.books().set_aside, buffer.books().unaccounted) == (10, 0, 0)


def test_rows_that_are_stored_are_not_pushed_again(buffer: Buffer, settings: config.Settings, redis_url: str) -> None:
    """ClickHouse is asked which positions it has; the others are delivered under new ones, each item once."""
    store = Store.open(settings)
    make_tables(store, settings)
    try:
        chunk = claimed(buffer)
        buffer.set_aside(chunk, "tried too often")
        _, record = find([buffer], f"{chunk.segment}:0")
        stored_before(buffer, store, chunk.segment, ITEMS[:3])
        closed = push_again(buffer, record, store)
        assert (closed.pushed, closed.stored) == (7, 3)
        drainer_on(buffer, store).drain_until_empty()
        Whereabouts(store).assert_each_once(range(30))
        books = balanced(buffer)
        assert (books.sealed, books.stored, books.set_aside, records(buffer)) == (30, 30, 0, [])
    finally:
        store.command(f"DROP DATABASE {settings.clickhouse.database} SYNC")
        store.close()


def test_items_of_unknown_position_are_pushed_only_if_none_is_stored(buffer: Buffer, settings: config.Settings) -> None:
    """Nothing proves which of them ClickHouse has, so --push is refused unless duplicates are accepted."""
    store = Store.open(settings)
    make_tables(store, settings)
    try:
        chunk = claimed(buffer)
        stored_before(buffer, store, chunk.segment, ITEMS[:10])
        acknowledge(buffer, chunk)
        buffer.client.lrem(buffer.keys.segment(chunk.segment), 1, ITEMS[15])
        drainer_on(buffer, store).drain_until_empty()
        (record,) = records(buffer)
        assert (record.kept, record.lost, record.first) == (19, 1, None)
        with pytest.raises(UsageError, match=r"ClickHouse has 10 rows of segment .*--allow-duplicates"):
            push_again(buffer, record, store)
        push_again(buffer, record, store, allow_duplicates=True)
        drainer_on(buffer, store).drain_until_empty()
        Whereabouts(store).assert_each_once(set(range(30)) - {15})
        assert balanced(buffer).lost == 1
    finally:
        store.command(f"DROP DATABASE {settings.clickhouse.database} SYNC")
        store.close()


def test_a_record_that_was_overwritten_is_shown_and_closed(buffer: Buffer, tmp_path: Path) -> None:
    """Junk under our own keys is named, not raised."""
    buffer.client.hset(buffer.keys.set_aside, "x", b"\xff junk")
    buffer.client.set(buffer.keys.aside("x"), "junk")
    _, record = find([buffer], "x")
    assert record.reason == r"its record was overwritten: \xff junk"
    save_and_give_up(buffer, record, tmp_path)
    assert records(buffer) == []
    with pytest.raises(UsageError, match="nothing is set aside under the name 'x'"):
        find([buffer], "x")
