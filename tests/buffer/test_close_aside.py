"""A person decides about what is set aside; what ClickHouse has already is never pushed again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from drain_parts import Whereabouts, buffer_on, drainer_on, good, make_tables, push
from taking import acknowledge, balanced, claimed

from pipeline.base import config
from pipeline.base.errors import UsageError
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.set_aside import find, records
from pipeline.deliver import close_aside, ledger
from pipeline.deliver.close_aside import push_again, save_and_give_up
from pipeline.deliver.measure_aside import measure
from pipeline.operate.audit import audit_delivery
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


@pytest.fixture
def store(settings: config.Settings) -> Iterator[Store]:
    store = Store.open(settings)
    make_tables(store, settings)
    yield store
    store.command(f"DROP DATABASE {settings.clickhouse.database} SYNC")
    store.close()


def test_items_of_unknown_position_are_known_by_their_contents(buffer: Buffer, store: Store, tmp_path: Path) -> None:
    """Nothing proves which positions they have; what ClickHouse has is counted once and never pushed, the rest is."""
    first, second = claimed(buffer), claimed(buffer)
    stored_before(buffer, store, first.segment, ITEMS[:14])  # the second chunk's insert came through in part
    buffer.client.lrem(buffer.keys.segment(first.segment), 1, ITEMS[15])
    assert buffer.read_or_recover(second) is None
    acknowledge(buffer, first)  # it was in hand: its rows are stored, its items lie among those that are kept
    (record,) = records(buffer)
    assert (record.kept, record.lost, record.first, record.is_exact) == (20, 0, None, False)
    assert measure(buffer, store) == 1
    (record,) = records(buffer)
    assert (record.kept, record.lost, record.is_exact) == (15, 1, True)
    books = balanced(buffer)
    assert (books.stored, books.set_aside, books.lost) == (14, 15, 1)
    assert measure(buffer, store) == 0
    with pytest.raises(UsageError, match="ClickHouse cannot be reached, and some of the items kept under"):
        save_and_give_up(buffer, record, tmp_path)
    closed = push_again(buffer, record, store)
    assert (closed.pushed, closed.stored) == (15, 14)
    drainer_on(buffer, store).drain_until_empty()
    Whereabouts(store).assert_each_once(set(range(30)) - {15})
    assert (balanced(buffer).stored, balanced(buffer).lost, records(buffer)) == (29, 1, [])


def test_rows_that_were_stored_and_never_acknowledged_pass_the_audit(buffer: Buffer, store: Store) -> None:
    """An insert came through before its chunk was taken out: compared, its rows count as stored and are rolled up."""
    chunk = claimed(buffer)
    stored_before(buffer, store, chunk.segment, ITEMS[:10])
    buffer.client.lrem(buffer.keys.segment(chunk.segment), 1, ITEMS[15])
    assert buffer.read_or_recover(chunk) is None
    for minute, touch in buffer.dirty_minutes().items():
        buffer.forget_minutes({minute: touch})
    measure(buffer, store)
    books = balanced(buffer)
    assert (books.stored, books.set_aside, books.lost) == (10, 19, 1)
    report = audit_delivery(store, [buffer], full=True, now_ms=buffer.now_ms())
    mine = [finding for finding in report.findings if chunk.segment in finding.where]
    assert (mine, report.missing) == ([], 0)
    assert set(buffer.dirty_minutes()) == {int(json.loads(item)["timestamp"]) // 60 * 60 for item in ITEMS[:10]}


def test_alike_items_are_interchangeable(redis_url: str, store: Store, tmp_path: Path) -> None:
    """Of five alike items two are stored and one vanished: two are kept, and one is lost."""
    buffer = buffer_on(redis_url)
    push(buffer.client, [ITEMS[1]] * 5 + ITEMS[2:4])
    buffer.seal(2)
    first = claimed(buffer)
    stored_before(buffer, store, first.segment, [ITEMS[1]] * 2)
    second = claimed(buffer)
    buffer.client.lrem(buffer.keys.segment(first.segment), 1, ITEMS[1])
    buffer.client.lrem(buffer.keys.segment(first.segment), 1, ITEMS[2])
    assert buffer.read_or_recover(second) is None
    acknowledge(buffer, first)
    measure(buffer, store)
    (record,) = records(buffer)
    assert (record.kept, record.lost) == (3, 2)
    closed = save_and_give_up(buffer, record, tmp_path, store)
    assert (closed.saved, closed.stored) == (3, 2)
    assert sorted(Path(closed.file).read_bytes().splitlines()) == sorted([ITEMS[1], ITEMS[1], ITEMS[3]])
    assert (balanced(buffer).dropped, balanced(buffer).lost, balanced(buffer).set_aside) == (3, 2, 0)


def decided_in_part(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """From now on a decision is killed after so many steps, of two items each."""
    decide, left = Buffer.decide_aside, [steps]

    def killed(self: Buffer, name: str, decisions: str, *, end: bool = False) -> int:
        if not left[0]:
            raise RuntimeError("killed")
        left[0] -= 1
        return decide(self, name, decisions, end=end)

    monkeypatch.setattr(close_aside, "STEP_ITEMS", 2)
    monkeypatch.setattr(Buffer, "decide_aside", killed)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_push_killed_between_two_steps_goes_on_where_it_stopped(
    buffer: Buffer, store: Store, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """What is left keeps its positions: nothing that is stored is pushed, and nothing else is taken for stored."""
    chunk = claimed(buffer)
    buffer.set_aside(chunk, "tried too often")
    name = f"{chunk.segment}:0"
    stored_before(buffer, store, chunk.segment, ITEMS[:3])
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        decided_in_part(patched, steps)
        push_again(buffer, find([buffer], name)[1], store)
    push_again(buffer, find([buffer], name)[1], store)
    drainer_on(buffer, store).drain_until_empty()
    Whereabouts(store).assert_each_once(range(30))
    assert (balanced(buffer).stored, balanced(buffer).lost, records(buffer)) == (30, 0, [])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_alike_items_are_told_apart_after_a_kill(
    redis_url: str, store: Store, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Of seven alike items two are stored; wherever the push of the others is killed, five of them arrive."""
    buffer = buffer_on(redis_url)
    push(buffer.client, [ITEMS[1]] * 8)
    buffer.seal(2)
    first = claimed(buffer)
    stored_before(buffer, store, first.segment, [ITEMS[1]] * 2)
    second = claimed(buffer)
    buffer.client.lrem(buffer.keys.segment(first.segment), 1, ITEMS[1])
    assert buffer.read_or_recover(second) is None
    acknowledge(buffer, first)
    measure(buffer, store)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        decided_in_part(patched, steps)
        push_again(buffer, find([buffer], first.segment)[1], store)
    push_again(buffer, find([buffer], first.segment)[1], store)
    drainer_on(buffer, store).drain_until_empty()
    assert (balanced(buffer).stored, balanced(buffer).lost, records(buffer)) == (7, 1, [])


def test_items_under_an_overwritten_record_are_known_by_their_contents(buffer: Buffer, store: Store) -> None:
    """Their positions stood in the record: no item is taken for another one that is stored."""
    chunk = claimed(buffer)
    buffer.set_aside(chunk, "tried too often")
    name = f"{chunk.segment}:0"
    buffer.client.ltrim(buffer.keys.aside(name), 0, -4)  # the oldest three are gone
    stored_before(buffer, store, chunk.segment, ITEMS[:3])
    buffer.client.hset(buffer.keys.set_aside, name, b"junk")
    closed = push_again(buffer, find([buffer], name)[1], store)
    assert (closed.pushed, closed.stored) == (7, 0)
    drainer_on(buffer, store).drain_until_empty()
    Whereabouts(store).assert_each_once(range(30))


def test_what_another_version_sealed_is_not_called_exact(
    buffer: Buffer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may look otherwise: the counts stay bounds, and pushing asks for consent."""
    chunk = claimed(buffer)
    stored_before(buffer, store, chunk.segment, ITEMS[:10])
    buffer.client.lrem(buffer.keys.segment(chunk.segment), 1, ITEMS[15])
    assert buffer.read_or_recover(chunk) is None
    monkeypatch.setattr(ledger, "DECODER_VERSION", 0)
    assert measure(buffer, store) == 0
    (record,) = records(buffer)
    assert (record.is_exact, record.as_dict()["exact"]) == (False, False)
    with pytest.raises(UsageError, match="which another version of the pipeline wrote"):
        push_again(buffer, record, store)


def test_a_drainer_gives_up_only_the_chunk_it_asks_for(buffer: Buffer) -> None:
    """Another chunk that the same drainer has in hand is not taken out of delivery under its writer."""
    first, second = claimed(buffer), claimed(buffer)
    buffer.client.lrem(buffer.keys.segment(first.segment), 1, ITEMS[15])
    assert buffer.read_or_recover(second) is None
    assert buffer.books().in_flight == first.rows
    acknowledge(buffer, first)
    assert (balanced(buffer).stored, balanced(buffer).in_flight) == (10, 0)


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
