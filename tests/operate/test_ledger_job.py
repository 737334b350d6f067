"""What the ledger job carries from Redis to ClickHouse: acknowledged chunks, and what became of dead letters."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import redis

from pipeline.base.errors import StoreOutage
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.notes import MARKS_PER_CALL, Marking
from pipeline.deliver import dead_letters, ledger
from pipeline.metric import Refusal
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
        assert buffer.mark_dead_letter(name, mark, NOW_MS, as_of="") is Marking.MARKED
    assert dead_letters.flush_marks(buffer, store) == 3
    assert marks(store) == [("a", 3, "replayed"), ("a", 4, "dropped"), ("b-1", 0, "replayed")]
    (at_ms,) = {at for (at,) in store.rows("SELECT toUnixTimestamp64Milli(marked_at) FROM dead_letter_marks")}
    assert at_ms == NOW_MS
    assert not buffer.client.exists(buffer.keys.marks)
    assert dead_letters.flush_marks(buffer, store) == 0


def test_many_marks_move_in_pieces(buffer: Buffer, store: Store) -> None:
    """All of them reach the table, and none is left in Redis, though no call forgets more than a thousand."""
    count = 2 * MARKS_PER_CALL + 1
    buffer.client.hset(buffer.keys.marks, mapping={f"a:{number}": f"dropped {NOW_MS}" for number in range(count)})
    with buffer.client.monitor() as monitor:
        assert dead_letters.flush_marks(buffer, store) == count
        buffer.client.echo("end")
        calls = 0
        for said in monitor.listen():
            if said["command"] == "ECHO end":
                break
            calls += said["command"].startswith("EVALSHA")
    assert calls >= 3
    assert not buffer.client.exists(buffer.keys.marks)
    assert store.rows("SELECT count() FROM dead_letter_marks") == [(count,)]


class _Away:
    """A store that does not answer."""

    def insert(self, *_: object, **__: object) -> None:
        raise StoreOutage("away")


def test_marks_stay_in_redis_while_clickhouse_is_away(buffer: Buffer, store: Store) -> None:
    """An outage, or a crash between the two steps, loses no mark: it is written again, and one of both is kept."""
    buffer.mark_dead_letter("a:3", "replayed", NOW_MS, as_of="")
    with pytest.raises(StoreOutage):
        dead_letters.flush_marks(buffer, _Away())  # type: ignore[arg-type]
    pending = buffer.client.hgetall(buffer.keys.marks)
    assert dead_letters.flush_marks(buffer, store) == 1
    buffer.client.hset(buffer.keys.marks, mapping=pending)
    assert dead_letters.flush_marks(buffer, store) == 1
    assert marks(store) == [("a", 3, "replayed")]


class _Busy:
    """A store beside which other commands work: right after each of the first answers one of them acts."""

    def __init__(self, store: Store, *acts: Callable[[], object]) -> None:
        self.store = store
        self.acts = list(acts)

    def rows(self, *asked: Any) -> list[tuple[Any, ...]]:
        answer = self.store.rows(*asked)
        if self.acts:
            self.acts.pop(0)()
        return answer


def refused(buffer: Buffer, store: Store, count: int) -> list[dead_letters.Letter]:
    """So many open dead letters, as ``dlq ls`` finds them."""
    chunk = Chunk("s", 0, 0, count, count, count, NOW_MS, 1, doubtful=False)
    refusal = Refusal("missing field", "timestamp is missing")
    made = [dead_letters.DeadLetter(position, refusal, b"{%d" % position) for position in range(count)]
    store.insert("dead_letters", dead_letters.as_table(made, chunk, buffer.key))
    return dead_letters.letters(store, [buffer])


@pytest.mark.parametrize("act", [dead_letters.replay, dead_letters.drop])
def test_a_letter_is_marked_once_however_marks_move_meanwhile(
    buffer: Buffer, store: Store, act: Callable[..., int]
) -> None:
    """Another replay marks it, and the job carries that mark to the table, between our look and our mark: let be."""
    (letter,) = refused(buffer, store, 1)

    def other() -> None:
        assert dead_letters.replay(store, [buffer], [letter], NOW_MS) == 1
        assert dead_letters.flush_marks(buffer, store) == 1

    assert act(_Busy(store, other), [buffer], [letter], NOW_MS) == 0
    assert act(store, [buffer], [letter], NOW_MS) == 0
    assert buffer.client.lrange(buffer.key, 0, -1) == [letter.payload]
    assert marks(store) == [(letter.segment, letter.position, "replayed")]


def test_a_replay_goes_on_after_marks_moved(buffer: Buffer, store: Store) -> None:
    """Marks that move in the middle cost a second look, and no letter."""
    letters = refused(buffer, store, 3)
    busy = _Busy(store, *[lambda: buffer.forget_marks([b"x:1"])] * 3)
    assert dead_letters.replay(busy, [buffer], letters, NOW_MS) == 3  # type: ignore[arg-type]
    assert not busy.acts
    assert sorted(buffer.client.lrange(buffer.key, 0, -1)) == sorted(letter.payload for letter in letters)


def test_a_mark_is_seen_on_its_way_to_the_table(buffer: Buffer, store: Store) -> None:
    """While the mark leaves Redis for the table, the letter is never shown as open; nor twice, when written twice."""
    first, _ = refused(buffer, store, 2)
    assert dead_letters.replay(store, [buffer], [first], NOW_MS) == 1
    for look in (
        lambda seen: dead_letters.letter(seen, [buffer], first.name).mark,
        lambda seen: [
            one.mark for one in dead_letters.letters(seen, [buffer], include_marked=True) if one.name == first.name
        ],
    ):
        pending = buffer.client.hgetall(buffer.keys.marks)
        assert look(_Busy(store, lambda: dead_letters.flush_marks(buffer, store))) in ("replayed", ["replayed"])
        assert look(store) in ("replayed", ["replayed"])
        buffer.client.hset(buffer.keys.marks, mapping=pending)


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
        buffer.client.lpush(buffer.keys.acked, _record_text(facts, chunk=chunk))
    with pytest.raises(StoreOutage):
        ledger.flush(buffer, _Away())  # type: ignore[arg-type]
    assert buffer.client.llen(buffer.keys.acked) == 3
    assert ledger.flush(buffer, store) == 3
    assert ledger.flush(buffer, store) == 0
    assert store.rows("SELECT chunk, stored, buffer FROM ledger ORDER BY chunk") == [
        (chunk, 9, "metrics:buffer") for chunk in range(3)
    ]


def _record_text(facts: Mapping[str, object], **others: object) -> str:
    return f"{json.dumps({**facts, **others})} {NOW_MS - 60_000}"


JUNK = [
    *(b"", b"{}", b"\xff\xfe", b"junk", b"[] 1", b"null 1", b"1 1", b"{} x", b"[" * 5000 + b" 1"),
    *({"chunk": "x"}, {"chunk": None}, {"chunk": -1}, {"chunk": 1 << 32}, {"rows": 1.5}, {"rows": True}, {"other": 1}),
    *({"segment": 7}, {"segment": "\ud800"}, {"digest": 1 << 64}, {"sealed_at": 1 << 62}, {"min_timestamp": -1}),
]


def test_what_another_program_put_among_the_records_is_moved_aside_and_said(
    buffer: Buffer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Junk of any kind, or a record of a later version, stops no record: those before and behind it are flushed, one
    line names the keys, and nothing is destroyed."""
    facts = dict.fromkeys(
        ("chunk", "chunk_rows", "rows", "stored", "dead_lettered", "digest", "sealed_at", "min_timestamp"), NOW_MS
    ) | {"segment": "s", "chunk_rows": 1, "rows": 1, "stored": 1, "dead_lettered": 0, "max_timestamp": NOW_MS}
    junk = [one if isinstance(one, bytes) else _record_text({**facts, "chunk": 1}, **one) for one in JUNK]
    buffer.client.lpush(buffer.keys.acked, _record_text(facts, chunk=1), *junk, _record_text(facts, chunk=2), b"junk")
    assert [record.chunk for record in ledger.pending_records(buffer)] == [1, 2]
    assert ledger.flush(buffer, store, settled_ms=0) == 2
    assert store.rows("SELECT chunk FROM ledger ORDER BY chunk") == [(1,), (2,)]
    assert buffer.client.exists(buffer.keys.acked) == 0
    assert buffer.keys.acked_junk in caplog.text
    kept = [one if isinstance(one, bytes) else one.encode() for one in (*junk, b"junk")]
    assert buffer.client.lrange(buffer.keys.acked_junk, 0, -1) == kept[::-1]
    buffer.client.lpush(buffer.keys.acked, b"more junk")
    assert ledger.flush(buffer, store) == 0
    assert buffer.client.lindex(buffer.keys.acked_junk, 0) == b"more junk"


def test_junk_among_young_records_takes_none_of_them_along(buffer: Buffer, store: Store) -> None:
    """Records leave Redis by their number: junk between young ones waits for the older of them."""
    now_ms = buffer.now_ms()
    facts = dict.fromkeys(("chunk_rows", "rows", "stored", "dead_lettered", "digest"), 1) | {"segment": "s"}
    facts |= dict.fromkeys(("sealed_at", "min_timestamp", "max_timestamp"), now_ms)

    def push(chunk: int, acked_at_ms: int) -> None:
        buffer.client.lpush(buffer.keys.acked, f"{json.dumps({**facts, 'chunk': chunk})} {acked_at_ms}")

    push(0, now_ms + 3_600_000)  # the clock was an hour ahead
    push(1, now_ms - 3_600_000)
    push(2, now_ms)
    buffer.client.lpush(buffer.keys.acked, b"junk")
    push(3, now_ms)
    assert ledger.flush(buffer, store, settled_ms=1_800_000) == 2
    assert [record.chunk for record in ledger.pending_records(buffer)] == [2, 3]
    assert buffer.client.llen(buffer.keys.acked) == 3
    assert store.rows("SELECT chunk FROM ledger ORDER BY chunk") == [(0,), (1,)]
