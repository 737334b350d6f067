"""What the ledger job carries from Redis to ClickHouse: acknowledged chunks, and what became of dead letters."""

import json
import time

import pytest
import redis

from pipeline.base.errors import StoreOutage
from pipeline.buffer.buffer import Buffer
from pipeline.deliver import dead_letters, ledger
from pipeline.store.client import Store

NOW_MS = int(time.time()) * 1000


@pytest.fixture
def buffer(redis_url: str) -> Buffer:
    return Buffer(redis.Redis.from_url(redis_url))


def marks(store: Store) -> list[tuple[object, ...]]:
    return store.rows("SELECT segment, position, mark FROM dead_letter_marks ORDER BY segment, position")


def test_marks_of_dead_letters_are_written_and_then_forgotten(buffer: Buffer, store: Store) -> None:
    """Each mark stands in ``dead_letter_marks`` with its name and time before Redis lets go of it; once is enough."""
    for name, mark in (("a:3", "replayed"), ("a:4", "dropped"), ("b-1:0", "replayed")):
        assert buffer.mark_dead_letter(name, mark, NOW_MS)
    assert dead_letters.flush_marks(buffer, store) == 3
    assert marks(store) == [("a", 3, "replayed"), ("a", 4, "dropped"), ("b-1", 0, "replayed")]
    (at_ms,) = {at for (at,) in store.rows("SELECT toUnixTimestamp64Milli(marked_at) FROM dead_letter_marks")}
    assert at_ms == NOW_MS
    assert not buffer.client.exists(buffer.keys.marks)
    assert dead_letters.flush_marks(buffer, store) == 0


class _Away:
    """A store that does not answer."""

    def insert(self, *_: object, **__: object) -> None:
        raise StoreOutage("away")


def test_marks_stay_in_redis_while_clickhouse_is_away(buffer: Buffer, store: Store) -> None:
    """An outage, or a crash between the two steps, loses no mark: it is written again, and one of both is kept."""
    buffer.mark_dead_letter("a:3", "replayed", NOW_MS)
    with pytest.raises(StoreOutage):
        dead_letters.flush_marks(buffer, _Away())  # type: ignore[arg-type]
    pending = buffer.client.hgetall(buffer.keys.marks)
    assert dead_letters.flush_marks(buffer, store) == 1
    buffer.client.hset(buffer.keys.marks, mapping=pending)
    assert dead_letters.flush_marks(buffer, store) == 1
    assert marks(store) == [("a", 3, "replayed")]


def test_acknowledged_chunks_are_flushed_oldest_first_and_only_once(buffer: Buffer, store: Store) -> None:
    """Records leave Redis when they stand in ``ledger``; those of an outage stay."""
    facts = {
        "segment": "s",
        "chunk_rows": 10,
        "rows": 10,
        "stored": 9,
        "dead_lettered": 1,
        "digest": 7,
        "sealed_at": NOW_MS,
        "min_timestamp": NOW_MS,
        "max_timestamp": NOW_MS,
    }
    for chunk in range(3):
        buffer.client.lpush(buffer.keys.acked, f"{json.dumps({**facts, 'chunk': chunk})} {NOW_MS - 60_000}")
    with pytest.raises(StoreOutage):
        ledger.flush(buffer, _Away())  # type: ignore[arg-type]
    assert buffer.client.llen(buffer.keys.acked) == 3
    assert ledger.flush(buffer, store) == 3
    assert ledger.flush(buffer, store) == 0
    assert store.rows("SELECT chunk, stored, buffer FROM ledger ORDER BY chunk") == [
        (chunk, 9, "metrics:buffer") for chunk in range(3)
    ]
