"""Another program writes to the buffer's keys: nothing else is lost, nothing is stored twice, the books say what is."""

import contextlib
import time
from collections.abc import Callable

import pytest
from drain_parts import buffer_on, push
from taking import acknowledge, balanced, claimed, filled, numbered, store, take_all

from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.base.keys import BufferKeys
from pipeline.buffer import sealing
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.damage import ClocksDisagree, KeyDamaged, ListLook, SegmentDamaged, extent

ROWS = 40


def damaged(url: str, damage: Callable[[Buffer, str], None]) -> tuple[Buffer, dict[tuple[str, int], bytes], str]:
    """Two segments of 40 items in chunks of 10. Of the first, chunk 1 is done and chunk 2 held when it is damaged."""
    buffer = filled(url, ROWS)
    taken: dict[tuple[str, int], bytes] = {}
    segment = buffer.seal(10)
    assert segment is not None
    push(buffer.client, numbered(ROWS, start=ROWS))
    time.sleep(0.002)  # segments of the same millisecond may be drained in any order
    assert buffer.seal(10) is not None
    chunks = [claimed(buffer) for _ in range(3)]
    buffer.release(chunks[0])
    store(taken, chunks[1], buffer.read(chunks[1]))
    acknowledge(buffer, chunks[1])
    items = buffer.read(chunks[2])
    damage(buffer, segment.name)
    store(taken, chunks[2], items)
    with contextlib.suppress(LeaseLost):  # then it is claimed again and read back
        try:
            acknowledge(buffer, chunks[2])
        except RedisOutage:
            buffer.mend()
            acknowledge(buffer, chunks[2])
    return buffer, take_all(buffer, taken), segment.name


def delivered(taken: dict[tuple[str, int], bytes]) -> list[int]:
    return sorted(int(item) for item in taken.values())


# Damage to the list of a segment: what is gone is counted, the rest is delivered


GONE: dict[str, tuple[Callable[[Buffer, str], object], int]] = {
    "list deleted": (lambda b, name: b.client.delete(b.keys.segment(name)), 20),
    "list renamed": (lambda b, name: b.client.rename(b.keys.segment(name), "elsewhere"), 20),
    "list of another type": (lambda b, name: b.client.set(b.keys.segment(name), "x"), 20),
    "newest items removed": (lambda b, name: b.client.ltrim(b.keys.segment(name), 3, -1), 3),
    "oldest items removed": (lambda b, name: b.client.ltrim(b.keys.segment(name), 0, -4), 3),
    "one item popped": (lambda b, name: b.client.rpop(b.keys.segment(name)), 1),
    "all but one removed": (lambda b, name: b.client.ltrim(b.keys.segment(name), 0, 0), 19),
}


@pytest.mark.parametrize("kind", GONE)
def test_items_removed_from_a_segment_are_lost_and_nothing_else(redis_url: str, kind: str) -> None:
    """What is provably left is delivered under its own position, also of the other segment; the books name the rest."""
    damage, lost = GONE[kind]
    buffer, taken, name = damaged(redis_url, lambda b, segment: damage(b, segment) and None)
    books = balanced(buffer)
    assert (books.sealed, books.stored, books.lost, books.set_aside) == (2 * ROWS, 2 * ROWS - lost, lost, 0)
    assert len(taken) == 2 * ROWS - lost
    first = {position: int(item) for (segment, position), item in taken.items() if segment == name}
    assert all(position == number for position, number in first.items())
    assert buffer.set_aside_names() and all(one.startswith(name) for one in buffer.set_aside_names())
    assert buffer.open_segments() == 0


def test_reading_a_damaged_chunk_says_so(redis_url: str) -> None:
    """``read`` gives the whole chunk or none of it, and names the segment."""
    buffer = filled(redis_url, ROWS)
    segment = buffer.seal(10)
    assert segment is not None
    chunk = claimed(buffer)
    buffer.client.ltrim(buffer.keys.segment(segment.name), 0, -4)
    with pytest.raises(SegmentDamaged, match=segment.name):
        buffer.read(chunk)


def test_items_removed_from_the_middle_wait_for_a_person(redis_url: str) -> None:
    """Nothing proves which items are where, so what no drainer holds is kept under the segment's name."""
    buffer, taken, name = damaged(
        redis_url, lambda b, segment: b.client.lrem(b.keys.segment(segment), 1, b"5") and None
    )
    books = balanced(buffer)
    assert delivered(taken) == [*range(10, 30), *range(ROWS, 2 * ROWS)]
    assert (books.set_aside, books.lost) == (20, 0)
    assert buffer.client.llen(buffer.keys.aside(name)) == 39


SHIFTED: dict[str, Callable[[Buffer, str], object]] = {
    "one removed": lambda b, key: b.client.lrem(key, 1, "25"),
    "one inserted": lambda b, key: b.client.linsert(key, "BEFORE", "25", "inserted"),
    "the oldest moved": lambda b, key: b.client.linsert(key, "BEFORE", "25", b.client.rpop(key)),
}


@pytest.mark.parametrize("kind", SHIFTED)
def test_an_ack_does_not_hide_that_the_middle_was_changed(redis_url: str, kind: str) -> None:
    """What an ack frees is counted from the newest item: with the middle changed, others would take their places."""
    buffer, taken = filled(redis_url, ROWS), {}
    segment = buffer.seal(10)
    assert segment is not None
    chunk = claimed(buffer)
    store(taken, chunk, buffer.read(chunk))
    SHIFTED[kind](buffer, buffer.keys.segment(segment.name))
    acknowledge(buffer, chunk)
    assert len(set(delivered(take_all(buffer, taken)))) == len(taken) == 10
    books = balanced(buffer)
    assert (books.stored, books.set_aside + books.lost) == (10, 30)


@pytest.mark.parametrize("end", ["lpush", "rpush"])
def test_items_pushed_onto_a_segment_are_moved_to_the_buffer(redis_url: str, end: str) -> None:
    """They were meant for the buffer; the segment's own items keep their positions."""

    def append(buffer: Buffer, name: str) -> None:
        getattr(buffer.client, end)(buffer.keys.segment(name), b"1000", b"1001")

    buffer, taken, name = damaged(redis_url, append)
    assert delivered(taken) == [*range(2 * ROWS), 1000, 1001]
    assert {position: int(item) for (segment, position), item in taken.items() if segment == name} == {
        number: number for number in range(ROWS)
    }
    assert (balanced(buffer).stored, buffer.set_aside_names()) == (2 * ROWS + 2, [])


# Damage to what is known of a segment: restored from its second copy, nothing is lost


def setting(field: str, value: str) -> Callable[[Buffer, str], object]:
    return lambda b, name: b.client.hset(b.keys.meta(name), field, value)


RESTORED: dict[str, Callable[[Buffer, str], object]] = {
    "meta deleted": lambda b, name: b.client.delete(b.keys.meta(name)),
    "meta of another type": lambda b, name: b.client.set(b.keys.meta(name), "x") and None,
    "meta half": lambda b, name: b.client.hdel(b.keys.meta(name), "rows", "next"),
    "leases deleted": lambda b, name: b.client.delete(b.keys.leases(name)),
    "leases of another type": lambda b, name: b.client.set(b.keys.leases(name), "x"),
    "lease junk": lambda b, name: b.client.hset(b.keys.leases(name), "0", "junk"),
    "lease done without an ack": lambda b, name: b.client.hset(b.keys.leases(name), "0", "done"),
    "lease of no chunk": lambda b, name: b.client.hset(b.keys.leases(name), "99", "x#1 0 1"),
    "lease for ever": lambda b, name: b.client.hset(b.keys.leases(name), "0", "x#1 99999999999999 1"),
    "segments deleted": lambda b, name: b.client.delete(b.keys.segments),
    "segments of another type": lambda b, name: b.client.set(b.keys.segments, "x"),
    "segments member removed": lambda b, name: b.client.zrem(b.keys.segments, name),
    "segments junk member": lambda b, name: b.client.zadd(b.keys.segments, {b"\xff junk": 1}),
    "sealed deleted": lambda b, name: b.client.delete(b.keys.sealed),
    "sealed of another type": lambda b, name: b.client.set(b.keys.sealed, "x"),
    "sealed junk": lambda b, name: b.client.hset(b.keys.sealed, name, "junk"),
    "time to live": lambda b, name: [b.client.expire(key, 1000) for key in b.client.scan_iter()],
    **{
        f"{field} {value}": setting(field, value)
        for field in (
            "rows",
            "chunk_rows",
            "next",
            "trimmed",
            "done",
            "acked_rows",
            "freed",
            "sealed_at",
            "run",
            "head",
        )
        for value in ("junk", "5", "-1", "1e300", "")
    },
}


@pytest.mark.parametrize("kind", RESTORED)
def test_what_is_known_of_a_segment_is_restored(redis_url: str, kind: str) -> None:
    """Every item is delivered once and the books balance, as if nothing had happened."""
    buffer, taken, _ = damaged(redis_url, lambda b, name: RESTORED[kind](b, name) and None)
    assert delivered(taken) == list(range(2 * ROWS))
    books = balanced(buffer)
    assert (books.stored, books.lost, books.set_aside) == (2 * ROWS, 0, 0)
    # Only what was moved away is left, and it expires by itself.
    assert not [key for key in buffer.client.scan_iter() if buffer.client.ttl(key) > 0]


# Damage to the keys of the whole buffer


TYPED = ("ledger", "dirty", "acked", "spilled", "marks", "set_aside", "checkpoints")


@pytest.mark.parametrize("key", TYPED)
def test_a_key_of_the_wrong_type_is_moved_away_and_said(redis_url: str, key: str) -> None:
    """Its content is kept under another name, delivery goes on, the books balance, and a person is told."""
    buffer, taken, _ = damaged(redis_url, lambda b, name: b.client.set(getattr(b.keys, key), "precious") and None)
    assert delivered(taken) == list(range(2 * ROWS))
    balanced(buffer)
    (place,) = [name for name in buffer.client.scan_iter() if b":junk-" in name]
    assert buffer.client.get(place) == b"precious"
    if key not in ("set_aside", "checkpoints"):
        assert buffer.set_aside_names() == [key]


def test_two_keys_of_the_wrong_type_are_mended_at_once(redis_url: str) -> None:
    """Also when the second is the one that takes the note about the first."""

    def damage(buffer: Buffer, _name: str) -> None:
        for key in (buffer.keys.dirty, buffer.keys.set_aside):
            buffer.client.set(key, "precious")

    buffer, taken, _ = damaged(redis_url, damage)
    assert delivered(taken) == list(range(2 * ROWS))
    balanced(buffer)
    assert buffer.set_aside_names() == ["dirty"]


@pytest.mark.parametrize("field", ["sealed", "stored", "dead_lettered", "spilled", "dropped", "lost", "set_aside"])
@pytest.mark.parametrize("value", ["junk", "1e300", "-3"])
def test_a_counter_that_is_not_a_number_is_restored(redis_url: str, field: str, value: str) -> None:
    """The other counters being right, it is the one that makes the books balance; a person is told."""
    buffer, taken, _ = damaged(redis_url, lambda b, name: b.client.hset(b.keys.ledger, field, value) and None)
    assert delivered(taken) == list(range(2 * ROWS))
    books = balanced(buffer)
    assert (books.sealed, books.stored, books.dropped, books.lost) == (2 * ROWS, 2 * ROWS, 0, 0)
    assert buffer.set_aside_names() == ["ledger"]


@pytest.mark.parametrize("touches", ["junk", "inf", "nan", "1e300", "-5", ""])
def test_junk_among_the_touches_does_not_stop_an_ack(redis_url: str, touches: str) -> None:
    """The next stamp is the time again."""
    buffer, taken, _ = damaged(redis_url, lambda b, name: b.client.hset(b.keys.ledger, "touches", touches) and None)
    assert delivered(taken) == list(range(2 * ROWS))
    assert 1e15 < buffer.dirty_minutes()[60] < 1e17


def test_a_buffer_that_is_not_a_list_is_named(redis_url: str) -> None:
    """What needs it waits with a sentence that names key, type and fix; sealed segments are drained meanwhile."""
    buffer = filled(redis_url, 10)
    buffer.seal(10)
    buffer.client.set(buffer.key, "x")
    for ask in (buffer.waiting, lambda: buffer.peek(1), lambda: buffer.seal(10), buffer.books):
        with pytest.raises(KeyDamaged, match=r"metrics:buffer holds a string instead of a list.*RENAME metrics:buffer"):
            ask()
    chunk = claimed(buffer)
    found = buffer.read_or_recover(chunk)
    assert found is not None and len(found[1]) == 10
    acknowledge(buffer, chunk)
    buffer.client.delete(buffer.key)
    assert balanced(buffer).stored == 10


def test_segments_sealed_before_there_were_second_copies_are_drained(redis_url: str) -> None:
    """An update finds the segments of the version before it."""
    buffer = filled(redis_url, 25)
    segment = buffer.seal(10)
    assert segment is not None
    buffer.client.delete(buffer.keys.sealed, buffer.keys.meta(segment.name))
    fields = {"rows": 25, "chunk_rows": 10, "sealed_at": segment.sealed_at_ms, "run": "before", "next": 2}
    buffer.client.hset(buffer.keys.meta(segment.name), mapping=fields)
    buffer.client.hset(buffer.keys.leases(segment.name), mapping={"0": "done", "1": "x#1 0 1"})
    buffer.client.hset(buffer.keys.ledger, "stored", 10)
    taken = take_all(buffer)
    assert delivered(taken) == list(range(10, 25))
    assert balanced(buffer).stored == 25


def test_a_spilled_file_whose_entry_was_removed_still_counts(redis_url: str) -> None:
    """A file is a left-over only if no rows are missing from the hash of spilled chunks."""
    buffer = filled(redis_url, 20)
    buffer.seal(10)
    chunks = [claimed(buffer), claimed(buffer)]
    assert not buffer.is_spilled(chunks[0])
    for chunk in chunks:
        buffer.spill(chunk)
    buffer.client.delete(buffer.keys.spilled)
    assert buffer.is_spilled(chunks[0]) and buffer.is_spilled(chunks[1])
    for chunk in chunks:
        assert buffer.unspill(chunk, stored=10, dead_lettered=0, minutes=[], record="{}")
        assert not buffer.is_spilled(chunk)
    assert balanced(buffer).stored == 20


def test_a_lease_taken_while_the_clock_was_ahead_does_not_hold_for_a_day(redis_url: str) -> None:
    """A lease that ends later than any lease would is over."""
    buffer, other = filled(redis_url, 10, lease_s=60), buffer_on(redis_url, lease_s=60)
    buffer.seal(10)
    chunk = claimed(buffer)
    key = buffer.keys.leases(chunk.segment)
    token, expires, attempts = buffer.client.hget(key, chunk.number).split(b" ")
    buffer.client.hset(key, chunk.number, b"%b %d %b" % (token, int(expires) + 86_400_000, attempts))
    assert claimed(other).doubtful


# The decision


CASES = [
    # rows 10; kind, length, freed, head, tail, head behind extra, tail before extra; first, last, index of the newest
    (ListLook("list", 10, 0, True, True, True, True), (0, 10, 0), ""),
    (ListLook("list", 6, 4, True, True, True, True), (4, 10, 0), ""),
    (ListLook("list", 7, 0, True, False, False, False), (3, 10, 0), "3 items of its list were removed"),
    (ListLook("list", 7, 0, False, True, False, False), (0, 7, 0), "3 items of its list were removed"),
    (ListLook("list", 4, 4, False, True, False, False), (4, 8, 0), "2 items of its list were removed"),
    (
        ListLook("list", 9, 0, True, True, False, False),
        (10, 10, 0),
        "1 items of its list were removed, and nothing proves",
    ),
    (ListLook("list", 9, 0, False, False, False, False), (10, 10, 0), "1 items of its list were removed, and nothing"),
    (ListLook("list", 12, 0, True, False, False, True), (0, 10, 0), ""),
    (ListLook("list", 12, 0, False, True, True, False), (0, 10, 2), ""),
    (ListLook("list", 10, 0, True, False, True, False), (10, 10, 0), "items of its list were replaced"),
    (ListLook("none", 0, 0, False, False, False, False), (10, 10, 0), "its list was removed"),
    (ListLook("hash", 0, 0, False, False, False, False), (10, 10, 0), "its key holds a hash instead of a list"),
]


@pytest.mark.parametrize(("look", "where", "why"), CASES)
def test_what_is_left_of_a_list(look: ListLook, where: tuple[int, int, int], why: str) -> None:
    """One end that is as it was proves the positions of the rest; two of them and a missing item prove nothing."""
    found = extent(look, 10)
    assert (found.first, found.last, found.head_index) == where
    assert found.why.startswith(why) and bool(found.why) == bool(why)


def test_an_outage_is_not_taken_for_damage() -> None:
    """Keys are named as they are documented."""
    assert issubclass(KeyDamaged, RedisOutage)
    assert BufferKeys("metrics:buffer").sealed == "{metrics:buffer}:sealed"


# Clocks


def test_sealing_waits_while_nothing_says_which_clock_is_right(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sealing time decides what is too old or too far ahead, so an hour between the clocks is said, not guessed."""
    buffer = filled(redis_url, 10)
    hour = 3_600_000
    own_ms = sealing._now_ms()
    monkeypatch.setattr(sealing, "_now_ms", lambda: own_ms + hour)
    for third in (None, lambda: None, lambda: own_ms, lambda: own_ms - hour):
        buffer.third_clock = third
        with pytest.raises(ClocksDisagree, match=r"clock of Redis is 3,\d\d\d s behind this machine's.*NTP"):
            buffer.seal(10)
    assert (buffer.waiting(), buffer.open_segments()) == (10, 0)


def test_a_third_clock_that_agrees_with_ours_decides(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis's clock is wrong then: items are judged by the right time, the disk is waited for by Redis's own."""
    buffer = filled(redis_url, 10)
    own_ms = sealing._now_ms() + 3_600_000
    monkeypatch.setattr(sealing, "_now_ms", lambda: own_ms)
    buffer.third_clock = lambda: own_ms + 1_000
    segment = buffer.seal(10)
    assert segment is not None and segment.sealed_at_ms == own_ms == claimed(buffer).sealed_at_ms
    written_at = int(buffer.client.hget(buffer.keys.meta(segment.name), "written_at"))
    assert abs(own_ms - 3_600_000 - written_at) < 600_000
