"""Items vanish from a segment's list, or are replaced, at each stage of a chunk's way: what is stored is not lost."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from drain_parts import buffer_on, client_of, drain_store, drainer_on, good, push
from test_drainer import url

from pipeline.base import failpoints
from pipeline.base.config import DrainerSettings
from pipeline.base.failpoints import Injected
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.set_aside import records
from pipeline.deliver.measure_aside import measure
from pipeline.deliver.spill import Spill
from pipeline.metric import Limits
from pipeline.operate.audit import audit_delivery
from pipeline.store.client import Store

__all__ = ["url"]

ROWS, CHUNK_ROWS = 60, 20

Act = Callable[[redis.Redis, str], object]


def middle(client: redis.Redis, key: str) -> bytes:
    found: bytes = client.lindex(key, client.llen(key) // 2)
    return found


def other_type(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.set(key, "junk")


ACTS: dict[str, Act] = {
    "taken at the old end": lambda client, key: client.rpop(key, 5),
    "taken at the new end": lambda client, key: client.lpop(key, 5),
    "trimmed by more than a chunk": lambda client, key: client.ltrim(key, 0, 29),
    "trimmed at the new end": lambda client, key: client.ltrim(key, 25, -1),
    "taken at both ends": lambda client, key: client.ltrim(key, 3, -4),
    "removed": lambda client, key: client.delete(key),
    "renamed": lambda client, key: client.rename(key, "elsewhere"),
    "of another type": other_type,
    "one removed in the middle": lambda client, key: client.lrem(key, 1, middle(client, key)),
    "one inserted in the middle": lambda client, key: client.linsert(key, "AFTER", middle(client, key), good(900)),
    "one moved": lambda client, key: client.linsert(key, "BEFORE", client.lindex(key, 5), client.rpop(key)),
    "pushed to": lambda client, key: (client.rpush(key, good(901)), client.lpush(key, good(902))),
}

PLACES = ["drainer.after_claim", "drainer.after_read", "drainer.after_decode", "drainer.before_insert"]
PLACES += ["drainer.after_insert", "drainer.before_ack", "drainer.after_ack"]


@pytest.fixture
def store(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables in this process's engine."""
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


def end_leases(buffer: Buffer) -> None:
    """As if the time of all leases were over."""
    for key in buffer.client.scan_iter("{metrics:buffer}:segment:*:leases"):
        for chunk, lease in buffer.client.hgetall(key).items():
            if lease != b"done":
                holder, _, attempts = lease.split(b" ")
                buffer.client.hset(key, chunk, b" ".join([holder, b"1", attempts]))


def drained(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, act: Act, place: str, nth: int, *, dies: bool
) -> Buffer:
    """One segment; at the place another program acts, and the drainer dies there or goes on; then all is drained."""
    client, buffer = client_of(url), buffer_on(url)
    push(client, [good(number, days_ago=number % 2) for number in range(ROWS)])
    segment = buffer.seal(CHUNK_ROWS)
    assert segment is not None
    hits = itertools.count(1)

    def hit(name: str) -> None:
        if name == place and next(hits) == nth:
            if client.exists(buffer.keys.segment(segment.name)):
                act(client, buffer.keys.segment(segment.name))
            if dies:
                raise Injected(place)

    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "hit", hit)
        try:
            drainer_on(buffer_on(url), store, batch_rows=CHUNK_ROWS).drain_until_empty()
        except Injected:
            end_leases(buffer)
    drainer_on(buffer_on(url), store, batch_rows=CHUNK_ROWS).drain_until_empty()
    return buffer


def check(buffer: Buffer, store: Store, said: str) -> None:
    """What is stored counts as stored, once; what is neither stored nor kept is lost; the audit finds nothing."""
    measure(buffer, store)  # as the ledger's job does
    stored = [int(name) for (name,) in store.rows("SELECT test_id FROM metrics")]
    kept = [
        int(item.partition(b'"test_id":"')[2].partition(b'"')[0])
        for key in buffer.client.scan_iter("{metrics:buffer}:aside:*", _type="list")
        for item in buffer.client.lrange(key, 0, -1)
    ]
    books = buffer.books().as_dict()
    said = f"{said}: {len(stored)} stored, {len(kept)} kept, {books}"
    assert len(stored) == len(set(stored)), said
    assert (books["unaccounted"], books["in_flight"], books["waiting"]) == (0, 0, 0), said
    assert books["stored"] == len(stored), said
    mine = set(range(ROWS))
    assert books["lost"] == len(mine - set(stored) - set(kept)), said
    assert all(record.is_exact for record in records(buffer)), said
    report = audit_delivery(store, [buffer], full=True, now_ms=buffer.now_ms())
    assert (report.findings, report.missing) == ([], 0), said


@pytest.mark.parametrize("what", ["taken at the old end", "taken at the new end", "trimmed by more than a chunk"])
def test_what_was_stored_before_its_items_vanished_is_not_lost(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The drainer dies between insert and ack, and the list loses items: they stand in ClickHouse, and count so."""
    nth = 3 if "new" in what else 1
    buffer = drained(url, store, monkeypatch, ACTS[what], "drainer.before_ack", nth, dies=True)
    check(buffer, store, what)
    assert (buffer.books().lost, buffer.books().stored) == (
        10 if "more" in what else 0,
        ROWS - (10 if "more" in what else 0),
    )


def test_a_spilled_chunk_whose_rows_were_stored_before_is_not_lost(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stored, then items vanish, then the rest goes to a file: when that comes back, nothing of it is lost."""
    client, buffer = client_of(url), buffer_on(url)
    push(client, [good(number) for number in range(ROWS)])
    segment = buffer.seal(CHUNK_ROWS)
    assert segment is not None

    def hit(name: str) -> None:
        if name == "drainer.before_ack":
            raise Injected(name)

    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "hit", hit)
        with pytest.raises(Injected):
            drainer_on(buffer_on(url), store, batch_rows=CHUNK_ROWS).drain_until_empty()
    client.rpop(buffer.keys.segment(segment.name), 5)
    end_leases(buffer)
    settings = DrainerSettings(batch_rows=CHUNK_ROWS, durable_seal=False)
    spill = Spill(tmp_path, buffer, store, settings, Limits())
    while spill.spill_one():
        pass
    assert (buffer.books().spilled, buffer.books().lost, buffer.books().unaccounted) == (ROWS - 5, 5, 0)
    while spill.drain_one():
        pass
    assert (buffer.books().stored, buffer.books().lost, records(buffer)) == (ROWS, 0, [])
    check(buffer, store, "spilled")


@pytest.mark.long
@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ACTS)
def test_items_vanish_at_each_stage(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, what: str, place: str, dies: bool
) -> None:
    """Whatever is done to the list, and wherever the chunks are then: nothing twice, books exact, audit content."""
    for nth in (1, 2, 3):
        buffer = drained(url, store, monkeypatch, ACTS[what], place, nth, dies=dies)
        check(buffer, store, f"{what}, {place}, {nth}")
        buffer.client.flushdb()
        store.command("TRUNCATE TABLE metrics")
        store.command("TRUNCATE TABLE dead_letters")
