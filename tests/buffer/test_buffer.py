"""The contract of Buffer, on each redis-server of this machine."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import RedisServer
from drain_parts import buffer_on, client_of, push
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_proxy import redis_proxy
from taking import acknowledge, claimed, filled, numbered

from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.base.redis_link import RedisFull
from pipeline.buffer import sealing
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.commands import MINUTES_PER_ACK
from pipeline.buffer.redis_disk import FSYNC_WAIT_S, RedisDisk
from pipeline.metric import DECODER_VERSION

KEY = "metrics:buffer"
MINUTES = [60 * number for number in range(3 * MINUTES_PER_ACK)]

examples_on_one_server = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def emptied(client: redis.Redis) -> None:
    client.flushdb()


def expire(buffer: Buffer, chunk: Chunk) -> None:
    """Let a lease run out without waiting for it: as if the clock had gone on."""
    key = buffer.keys.leases(chunk.segment)
    token, _, attempts = buffer.client.hget(key, chunk.number).split(b" ")
    buffer.client.hset(key, chunk.number, b"%b 1 %b" % (token, attempts))


# Seal


def test_sealing_takes_what_waits_and_nothing_else(redis_url: str) -> None:
    """The whole list becomes one segment under a name of its own; what is pushed afterwards waits for the next."""
    buffer = filled(redis_url, 10)
    first = buffer.seal(4)
    push(buffer.client, numbered(3, start=10))
    assert first is not None and (first.rows, buffer.waiting(), buffer.open_segments()) == (10, 3, 1)
    second = buffer.seal(4)
    assert second is not None and (second.rows, buffer.waiting(), buffer.open_segments()) == (3, 0, 2)
    assert second.sealed_at_ms >= first.sealed_at_ms
    assert buffer.seal(4) is None
    assert (buffer.open_segments(), buffer.books().sealed) == (2, 13)


@pytest.mark.parametrize(
    ("chunk_rows", "item_bytes", "expected"),
    [(100_000, 150, 100_000), (100_000, 60_000, 625), (50_000, 60_000, 625), (64, 60_000, 64), (7, 30_000_000, 1)],
)
def test_large_items_make_smaller_chunks(redis_url: str, chunk_rows: int, item_bytes: int, expected: int) -> None:
    """No chunk takes more than some ten megabytes, and what its rows divided they still divide."""
    buffer = buffer_on(redis_url)
    push(buffer.client, [b"x" * item_bytes] * 5)
    buffer.seal(chunk_rows)
    chunk = claimed(buffer)
    assert chunk.chunk_rows == expected
    assert 1_000_000 % expected == 0 or chunk_rows == expected


def test_one_huge_item_does_not_cut_the_others_to_pieces(redis_url: str) -> None:
    """A hundred megabytes among 60,000 usual items: a few dozen chunks, not tens of thousands."""
    buffer = buffer_on(redis_url)
    push(buffer.client, [b"x" * 1_000] * 60_000)
    push(buffer.client, [b"x" * 100_000_000])
    buffer.seal(100_000)
    assert claimed(buffer).chunk_rows >= 1_000


def test_names_of_segments_are_nonces(redis_url: str) -> None:
    """Two buffers in the same state never give the same name, so that no rewind of Redis can repeat one."""
    names = set()
    for _ in range(20):
        buffer = filled(redis_url, 1)
        segment = buffer.seal(10)
        assert segment is not None
        names.add(segment.name)
        emptied(buffer.client)
    assert len(names) == 20
    assert all(re.fullmatch(rf"[0-9a-f]{{8}}-[0-9a-f]{{16}}\.{DECODER_VERSION}", name) for name in names)


def test_a_name_that_is_taken_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should chance repeat itself, nothing is renamed over."""
    monkeypatch.setattr(sealing.secrets, "token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr(sealing.time, "time", lambda: 1.0)
    buffer = filled(redis_url, 3)
    assert buffer.seal(10) is not None
    push(buffer.client, numbered(2))
    with pytest.raises(redis.ResponseError, match="taken"):
        buffer.seal(10)
    assert buffer.waiting() == 2
    assert len(buffer.read(claimed(buffer))) == 3


LOOKS = {"memory", "memory|usage", "type", "hmget", "lindex"}
"""At a sample of places and at both ends, whatever the list's length."""


def test_sealing_moves_no_item(redis_url: str) -> None:
    """However long the list: one RENAME and a few small writes, so producers are not held up."""
    buffer = filled(redis_url, 20_000)
    buffer.client.config_resetstat()
    buffer.seal(1_000)
    stats = buffer.client.info("commandstats")
    used = {name.removeprefix("cmdstat_").lower(): figures["calls"] for name, figures in stats.items()}
    for bookkeeping in (
        "config|resetstat",
        "config",
        "info",
        "evalsha",
        "script|load",
        "script",
        "select",
        "client|setname",
    ):
        used.pop(bookkeeping, None)
    assert used.pop("rename") == 1
    assert used.keys() <= {
        "del",
        "llen",
        "exists",
        "time",
        "hset",
        "zadd",
        "hincrby",
        "persist",
        "client",
        "client|setinfo",
        *LOOKS,
    }


def test_all_keys_lie_in_the_buffer_s_slot(redis_url: str) -> None:
    """Every sibling carries the buffer's name as hash tag, also for a buffer that brings its own."""
    for key in (KEY, "{site-7}:buffer"):
        buffer = buffer_on(redis_url, key=key)
        emptied(buffer.client)
        push(buffer.client, numbered(10), key)
        buffer.seal(4)
        acknowledge(buffer, claimed(buffer), minutes=MINUTES)
        claimed(buffer)
        tag = b"{site-7}:" if "{" in key else b"{metrics:buffer}:"
        names = set(buffer.client.keys()) - {key.encode()}
        assert len(names) >= 6 and all(name.startswith(tag) for name in names), names


# Chunks


@examples_on_one_server
@given(rows=st.integers(1, 40), chunk_rows=st.integers(1, 45), page_rows=st.integers(1, 15))
def test_chunks_are_fixed_at_sealing(redis_url: str, rows: int, chunk_rows: int, page_rows: int) -> None:
    """Side by side they hold every item once, position 0 the oldest, read in pages of any size."""
    buffer = buffer_on(redis_url, page_rows=page_rows)
    emptied(buffer.client)
    push(buffer.client, numbered(rows))
    segment = buffer.seal(chunk_rows)
    assert segment is not None
    push(buffer.client, numbered(5, start=rows))
    found: dict[int, bytes] = {}
    chunks = []
    while (chunk := buffer.claim()) is not None:
        assert (chunk.segment, chunk.segment_rows, chunk.sealed_at_ms) == (segment.name, rows, segment.sealed_at_ms)
        items = list(buffer.read(chunk))
        found |= dict(zip(range(chunk.last - 1, chunk.first - 1, -1), items, strict=True))
        head = rows - chunk.last
        assert [buffer.read_at(chunk, head + at) for at in range(chunk.rows)] == items
        chunks.append((chunk.first, chunk.last))
    assert chunks == [(first, min(first + chunk_rows, rows)) for first in range(0, rows, chunk_rows)]
    assert found == dict(enumerate(numbered(rows)))


def test_a_claim_by_a_drainer_of_other_size_keeps_the_boundaries(redis_url: str) -> None:
    """What is written at sealing counts, not who claims: a chunk tried again is the same rows."""
    buffer = filled(redis_url, 10)
    buffer.seal(4)
    chunk = claimed(buffer)
    items = list(buffer.read(chunk))
    buffer.release(chunk)
    other = buffer_on(redis_url, page_rows=1)
    again = claimed(other)
    assert (again.segment, again.first, again.last) == (chunk.segment, chunk.first, chunk.last) == (chunk.segment, 0, 4)
    assert list(other.read(again)) == items


def test_a_chunk_has_one_holder(redis_url: str) -> None:
    """Several buffers that claim in turn get each chunk once, the oldest segment first, then nothing."""
    buffers = [filled(redis_url, 10), buffer_on(redis_url), buffer_on(redis_url)]
    first = buffers[0].seal(4)
    push(buffers[0].client, numbered(5))
    second = buffers[0].seal(4)
    assert first is not None and second is not None
    taken = [claimed(buffers[number % 3]) for number in range(5)]
    names = sorted([first, second], key=lambda segment: (segment.sealed_at_ms, segment.name))
    expected = [(name.name, number) for name in names for number in range(-(-name.rows // 4))]
    assert [(chunk.segment, chunk.number) for chunk in taken] == expected
    assert [(chunk.attempts, chunk.doubtful) for chunk in taken] == [(1, False)] * 5
    assert [buffer.claim() for buffer in buffers] == [None, None, None]


# Leases


def test_a_lease_keeps_others_away_until_it_runs_out(redis_url: str) -> None:
    """Then the chunk is the next one's, who is told that it was tried before; a renewed lease does not run out."""
    owner, other = filled(redis_url, 4, lease_s=60), buffer_on(redis_url, lease_s=60)
    owner.seal(10)
    chunk = claimed(owner)
    assert other.claim() is None
    expire(owner, chunk)
    owner.renew(chunk)
    assert other.claim() is None
    expire(owner, chunk)
    taken = claimed(other)
    assert (taken.segment, taken.number) == (chunk.segment, chunk.number)
    assert (taken.attempts, taken.doubtful) == (2, True)


def test_a_lease_runs_out_by_the_clock_of_redis(redis_url: str) -> None:
    """A lease of a few milliseconds is over when they have passed."""
    owner, other = filled(redis_url, 4, lease_s=0.005), buffer_on(redis_url)
    owner.seal(10)
    chunk = claimed(owner)
    deadline = time.monotonic() + 30
    while (taken := other.claim()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert taken.number == chunk.number and taken.doubtful


@pytest.mark.parametrize("act", ["renew", "release", "ack"])
def test_who_lost_a_lease_is_fenced_off(redis_url: str, act: str) -> None:
    """Whatever the late one tries is refused and changes nothing, before and after the new holder has finished."""
    late, owner = filled(redis_url, 4), buffer_on(redis_url)
    late.seal(10)
    chunk = claimed(late)
    expire(late, chunk)
    taken = claimed(owner)
    actions: dict[str, Callable[[], None]] = {
        "renew": lambda: late.renew(chunk),
        "release": lambda: late.release(chunk),
        "ack": lambda: acknowledge(late, chunk, minutes=[0]),
    }
    state = {key: owner.client.dump(key) for key in owner.client.scan_iter()}
    with pytest.raises(LeaseLost):
        actions[act]()
    assert {key: owner.client.dump(key) for key in owner.client.scan_iter()} == state
    owner.renew(taken)
    acknowledge(owner, taken)
    state = {key: owner.client.dump(key) for key in owner.client.scan_iter()}
    with pytest.raises(LeaseLost):
        actions[act]()
    assert {key: owner.client.dump(key) for key in owner.client.scan_iter()} == state


@pytest.mark.parametrize("act", ["renew", "release", "ack"])
def test_a_chunk_that_went_round_and_came_back_is_another_lease(redis_url: str, act: str) -> None:
    """Taken by another and then by the first again: what the first holds of old is fenced off, though it is his own."""
    first, other = filled(redis_url, 4), buffer_on(redis_url)
    first.seal(10)
    old = claimed(first)
    expire(first, old)
    expire(other, claimed(other))
    new = claimed(first)
    assert (new.attempts, new.doubtful, old.doubtful) == (3, True, False)
    with pytest.raises(LeaseLost):
        {"renew": first.renew, "release": first.release, "ack": lambda chunk: acknowledge(first, chunk)}[act](old)
    first.renew(new)
    acknowledge(first, new)
    assert (first.books().stored, first.books().unaccounted) == (4, 0)


def test_an_expired_lease_that_nobody_took_is_still_ours(redis_url: str) -> None:
    """Sleeping long is no harm as long as no other drainer came."""
    buffer = filled(redis_url, 4)
    buffer.seal(10)
    chunk = claimed(buffer)
    expire(buffer, chunk)
    buffer.renew(chunk)
    expire(buffer, chunk)
    acknowledge(buffer, chunk)
    assert (buffer.books().stored, buffer.claim()) == (4, None)


def test_what_is_given_back_is_taken_at_once_and_in_doubt(redis_url: str) -> None:
    """Before the chunks that no drainer had yet, with the attempts counted."""
    buffer = filled(redis_url, 10)
    buffer.seal(2)
    chunks = [claimed(buffer) for _ in range(3)]
    for attempts in (2, 3, 4):
        buffer.release(chunks[1])
        chunks[1] = claimed(buffer)
        assert (chunks[1].number, chunks[1].attempts, chunks[1].doubtful) == (1, attempts, True)
    assert claimed(buffer).number == 3


CLAIM_AND_WAIT = """
import sys
sys.path[:0] = sys.argv[2:]
from drain_parts import buffer_on
buffer = buffer_on(sys.argv[1])
print(buffer.claim().number, flush=True)
sys.stdin.read()
"""


def test_chunks_of_dead_processes_are_given_back(redis_url: str) -> None:
    """Those of this machine's processes that are gone, zombies too; those of living ones and of other machines stay."""
    buffer = filled(redis_url, 10)
    buffer.seal(2)
    command = [sys.executable, "-c", CLAIM_AND_WAIT, redis_url, *sys.path]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    numbers = [int(process.stdout.readline()) for process in processes if process.stdout]
    assert sorted(numbers) == [0, 1]
    mine = claimed(buffer)
    elsewhere = claimed(buffer)
    lease = buffer.client.hget(buffer.keys.leases(elsewhere.segment), elsewhere.number)
    other_token = b"another-machine/1/1/00 " + lease.partition(b" ")[2]
    buffer.client.hset(buffer.keys.leases(elsewhere.segment), elsewhere.number, other_token)
    assert buffer.release_orphans() == 0
    processes[0].kill()
    processes[0].wait()
    assert buffer.release_orphans() == 1
    again = claimed(buffer)
    assert (again.number, again.doubtful) == (numbers[0], True)
    buffer.renew(mine)
    processes[1].kill()
    os.waitid(os.P_PID, processes[1].pid, os.WEXITED | os.WNOWAIT)
    assert buffer.release_orphans() == 1
    assert buffer.release_orphans() == 0
    processes[1].wait()


def test_a_process_number_given_to_another_process_is_an_orphan_s(redis_url: str) -> None:
    """Number and start time together name a process; the same number in another container is not judged."""
    buffer = filled(redis_url, 4)
    buffer.seal(2)
    for token, orphans in (
        (buffer.token.replace(f"/{os.getpid()}/", f"/{os.getpid()}/9"), 1),
        (buffer.token.replace(socket.gethostname(), socket.gethostname() + "pid:[1]"), 0),
    ):
        chunk = claimed(buffer)
        _, expires, attempts = buffer.client.hget(buffer.keys.leases(chunk.segment), chunk.number).split(b" ")
        lease = b"%b %b %b" % (token.encode(), expires, attempts)
        buffer.client.hset(buffer.keys.leases(chunk.segment), chunk.number, lease)
        assert buffer.release_orphans() == orphans


# Acks


@examples_on_one_server
@given(rows=st.integers(1, 30), chunk_rows=st.integers(1, 8), chance=st.randoms(use_true_random=False))
def test_acks_in_any_order_trim_only_what_is_finished(redis_url: str, rows: int, chunk_rows: int, chance: Any) -> None:
    """What is left can be read, the books balance at each step, and at the end no key of the segment is left."""
    buffer = buffer_on(redis_url)
    emptied(buffer.client)
    push(buffer.client, numbered(rows))
    segment = buffer.seal(chunk_rows)
    assert segment is not None
    chunks = []
    while (chunk := buffer.claim()) is not None:
        chunks.append(chunk)
    expected = {chunk.number: list(buffer.read(chunk)) for chunk in chunks}
    order = chance.sample(chunks, len(chunks))
    done: set[int] = set()
    for chunk in order:
        dead = chance.randint(0, chunk.rows)
        acknowledge(buffer, chunk, dead=dead)
        done.add(chunk.number)
        finished = next((chunk.number for chunk in chunks if chunk.number not in done), len(chunks))
        assert buffer.client.llen(buffer.keys.segment(segment.name)) == max(0, rows - finished * chunk_rows)
        for other in chunks:
            if other.number not in done:
                assert list(buffer.read(other)) == expected[other.number]
        books = buffer.books()
        assert (books.sealed, books.unaccounted) == (rows, 0)
        assert books.in_flight == rows - sum(chunk.rows for chunk in chunks if chunk.number in done)
    assert (buffer.open_segments(), buffer.claim()) == (0, None)
    assert not [key for key in buffer.client.scan_iter() if segment.name.encode() in key]


def test_the_books_balance_at_every_step(redis_url: str) -> None:
    """waiting, sealed, in flight, stored, dead-lettered: each item is in exactly one place."""
    buffer = filled(redis_url, 10)

    def figures() -> tuple[int, ...]:
        books = buffer.books()
        assert books.unaccounted == 0
        return (books.waiting, books.sealed, books.in_flight, books.stored, books.dead_lettered, books.segments)

    assert figures() == (10, 0, 0, 0, 0, 0)
    buffer.seal(4)
    assert figures() == (0, 10, 10, 0, 0, 1)
    first, second = claimed(buffer), claimed(buffer)
    push(buffer.client, numbered(3))
    assert figures() == (3, 10, 10, 0, 0, 1)
    acknowledge(buffer, second, dead=1)
    assert figures() == (3, 10, 6, 3, 1, 1)
    acknowledge(buffer, first)
    assert figures() == (3, 10, 2, 7, 1, 1)
    buffer.seal(4)
    assert figures() == (0, 13, 5, 7, 1, 2)
    oldest = buffer.books().oldest_sealed_at_ms
    acknowledge(buffer, claimed(buffer))
    assert figures() == (0, 13, 3, 9, 1, 1)
    assert buffer.books().oldest_sealed_at_ms >= oldest > 0
    acknowledge(buffer, claimed(buffer), dead=3)
    assert figures() == (0, 13, 0, 9, 4, 0)


def test_a_chunk_that_is_gone_cannot_be_read(redis_url: str) -> None:
    """Who reads late, when another has finished, learns that the chunk is not his."""
    buffer = filled(redis_url, 10, page_rows=2)
    buffer.seal(5)
    first, second = claimed(buffer), claimed(buffer)
    acknowledge(buffer, first)
    with pytest.raises(LeaseLost):
        buffer.read(first)
    acknowledge(buffer, second)
    with pytest.raises(LeaseLost):
        buffer.read(second)
    with pytest.raises(LeaseLost):
        buffer.read_at(second, 0)


def test_records_come_in_the_order_of_the_acks(redis_url: str) -> None:
    """Each ack leaves its record with the time Redis gave it."""
    buffer = filled(redis_url, 6)
    buffer.seal(2)
    for number in range(3):
        chunk = claimed(buffer)
        buffer.ack(chunk, stored=2, dead_lettered=0, minutes=[], record=f'{{"chunk":{number}}}')
    records = [record.split(b" ") for record in buffer.client.lrange(buffer.keys.acked, 0, -1)]
    assert [record[0] for record in records] == [b'{"chunk":2}', b'{"chunk":1}', b'{"chunk":0}']
    times = [int(record[1]) for record in records]
    assert times == sorted(times, reverse=True) and times[0] > 1_600_000_000_000


# Records for the ledger


def test_records_are_dropped_once_and_only_those_that_were_read(redis_url: str) -> None:
    """Two processes read the same records; the second drops nothing, so what was not written yet stays."""
    buffer = filled(redis_url, 6)
    buffer.seal(2)
    for number in range(3):
        acknowledge(buffer, claimed(buffer), record=json.dumps({"chunk": number}))
    read_by_one = read_by_another = buffer.acked_records(2)
    assert [json.loads(record.rpartition(b" ")[0])["chunk"] for record in read_by_one] == [1, 0]
    buffer.drop_acked(read_by_one)
    buffer.drop_acked(read_by_another)
    assert [json.loads(record.rpartition(b" ")[0])["chunk"] for record in buffer.acked_records(10)] == [2]


# Touched minutes


def test_touched_minutes_are_remembered_until_forgotten(redis_url: str) -> None:
    """However many one ack touches; a minute that was touched again since it was looked at stays."""
    buffer = filled(redis_url, 6)
    buffer.seal(2)
    acknowledge(buffer, claimed(buffer), minutes=MINUTES)
    seen = buffer.dirty_minutes()
    assert seen.keys() == set(MINUTES)
    acknowledge(buffer, claimed(buffer), minutes=MINUTES[:1] + MINUTES[-1:])
    for _ in range(2):
        buffer.forget_minutes(seen)
        left = buffer.dirty_minutes()
        assert left.keys() == {MINUTES[0], MINUTES[-1]} and min(left.values()) > max(seen.values())
    buffer.forget_minutes(left)
    assert buffer.dirty_minutes() == {}
    acknowledge(buffer, claimed(buffer), minutes=MINUTES[:1])
    buffer.forget_minutes(seen | left)
    assert buffer.dirty_minutes().keys() == {MINUTES[0]}


# A full Redis


def test_a_full_redis_can_be_drained(redis_url: str) -> None:
    """At maxmemory producers are refused; sealing, claiming, acknowledging and forgetting go on and make room."""
    buffer = buffer_on(redis_url)
    push(buffer.client, [b"x" * 1_000] * 20_000)
    buffer.client.config_set("maxmemory", buffer.client.info("memory")["used_memory"] - 1_000_000)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        push(buffer.client, [b"x"])
    segment = buffer.seal(20_000)
    assert segment is not None and segment.rows == 20_000
    chunk = claimed(buffer)
    buffer.release(chunk)
    chunk = claimed(buffer)
    assert len(buffer.read(chunk)) == 20_000
    buffer.renew(chunk)
    acknowledge(buffer, chunk, minutes=MINUTES)
    buffer.forget_minutes(buffer.dirty_minutes())
    assert buffer.dirty_minutes() == {}
    assert buffer.books().unaccounted == 0
    deadline = time.monotonic() + 30  # the items are freed in the background
    while buffer.client.info("memory")["used_memory"] > 10_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    push(buffer.client, [b"x"])


def test_a_script_that_is_refused_for_memory_is_an_outage(redis_url: str) -> None:
    """So that the caller tries again instead of failing."""
    buffer = filled(redis_url, 1)
    buffer.client.config_set("maxmemory", 1)
    buffer._scripts["seal"] = buffer.client.register_script("return redis.call('SET', KEYS[1], 'x')")
    with pytest.raises(RedisFull):
        buffer.seal(10)


# Outages


ASKED: dict[str, Callable[[Buffer, Chunk], Any]] = {
    "waiting": lambda buffer, chunk: buffer.waiting(),
    "seal": lambda buffer, chunk: buffer.seal(10),
    "claim": lambda buffer, chunk: buffer.claim(),
    "renew": lambda buffer, chunk: buffer.renew(chunk),
    "release": lambda buffer, chunk: buffer.release(chunk),
    "release_orphans": lambda buffer, chunk: buffer.release_orphans(),
    "read": lambda buffer, chunk: buffer.read(chunk),
    "read_at": lambda buffer, chunk: buffer.read_at(chunk, 0),
    "make_durable": lambda buffer, chunk: buffer.make_durable(chunk),
    "ack": lambda buffer, chunk: acknowledge(buffer, chunk, minutes=MINUTES),
    "books": lambda buffer, chunk: buffer.books(),
    "dirty_minutes": lambda buffer, chunk: buffer.dirty_minutes(),
    "forget_minutes": lambda buffer, chunk: buffer.forget_minutes({0: 1}),
    "open_segments": lambda buffer, chunk: buffer.open_segments(),
    "peek": lambda buffer, chunk: buffer.peek(1),
}


def test_when_redis_is_away_every_method_says_so(redis_server: Callable[..., RedisServer]) -> None:
    """RedisOutage, whatever was asked; and when it is back all is as it was, but in doubt."""
    server = redis_server(appendonly=True, options=["--appendfsync", "always"])
    buffer = filled(server.url, 4)
    buffer.seal(2)
    chunk = claimed(buffer)
    server.kill()
    for name, ask in ASKED.items():
        with pytest.raises(RedisOutage):
            ask(buffer, chunk)
            pytest.fail(name)
    server.start()
    assert len(buffer.read(chunk)) == 2
    buffer.renew(chunk)
    with pytest.raises(LeaseLost):
        acknowledge(buffer, chunk)  # by a drainer that claimed it before, and so did not read back
    again = claimed(buffer)
    assert (again.number, again.attempts, again.doubtful) == (0, 2, True)
    acknowledge(buffer, again)
    untouched = claimed(buffer)
    assert (untouched.number, untouched.attempts, untouched.doubtful) == (1, 1, True)
    assert buffer.books().unaccounted == 0


def test_a_seal_whose_reply_is_lost_is_found_again(redis_url: str) -> None:
    """The outage changed everything or nothing: the segment is there for the next claim."""
    push(client_of(redis_url), numbered(5))
    with redis_proxy(redis_url) as proxy:
        buffer = buffer_on(proxy.url)
        buffer.books()
        proxy.marked = b"EVALSHA"
        buffer._scripts["seal"].registered_client.script_load(buffer._scripts["seal"].script)
        proxy.lose_replies = 1
        with pytest.raises(RedisOutage):
            buffer.seal(10)
        assert (buffer.waiting(), buffer.open_segments()) == (0, 1)
        assert buffer.seal(10) is None
        assert claimed(buffer).rows == 5


def test_an_ack_whose_reply_is_lost_counts_once(redis_url: str) -> None:
    """Asked again, it answers that the chunk is no longer its own; the books counted it once."""
    push(client_of(redis_url), numbered(5))
    with redis_proxy(redis_url) as proxy:
        buffer = buffer_on(proxy.url)
        buffer.seal(10)
        chunk = claimed(buffer)
        proxy.marked = b"EVALSHA"
        buffer.client.script_load(buffer._scripts["ack"].script)
        proxy.lose_replies = 1
        with pytest.raises(RedisOutage):
            acknowledge(buffer, chunk, minutes=[60])
        with pytest.raises(LeaseLost):
            acknowledge(buffer, chunk, minutes=[60])
        assert (buffer.books().stored, buffer.books().unaccounted, buffer.dirty_minutes().keys()) == (5, 0, {60})
        assert buffer.client.llen(buffer.keys.acked) == 1


# Durability


class Disk:
    """Counts what is synced and slept, and knows which files were meant."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[Path] = []
        self.slept_s: list[float] = []
        fsync, sleep = os.fsync, time.sleep

        def note_fsync(descriptor: int) -> None:
            self.synced.append(Path(f"/proc/self/fd/{descriptor}").resolve())
            fsync(descriptor)

        def note_sleep(seconds: float) -> None:
            self.slept_s.append(seconds)
            sleep(seconds)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(time, "sleep", note_sleep)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def sealed_on(server: RedisServer, **options: Any) -> tuple[Buffer, Chunk]:
    buffer = filled(server.url, 5, **options)
    buffer.seal(10)
    return buffer, claimed(buffer)


def test_our_own_server_s_file_is_synced_by_us(redis_server: Callable[..., RedisServer], disk: Disk) -> None:
    """Once a segment, the file that holds the seal; a file that a rewrite takes away meanwhile is no trouble."""
    server = redis_server(appendonly=True)
    buffer, chunk = sealed_on(server, aof_dir=server.dir)
    (server.dir / "gone.aof").symlink_to(server.dir / "nowhere")
    buffer.make_durable(chunk)
    held_seal = [path for path in disk.synced if path.is_file() and chunk.segment.encode() in path.read_bytes()]
    assert held_seal and server.dir in disk.synced
    disk.synced.clear()
    buffer.make_durable(chunk)
    assert disk.synced == []


def test_without_append_only_file_there_is_nothing_to_wait_for(
    redis_server: Callable[..., RedisServer], disk: Disk
) -> None:
    """A server that keeps nothing is not waited for (and start-up warns about it)."""
    buffer, chunk = sealed_on(redis_server())
    disk.slept_s.clear()
    buffer.make_durable(chunk)
    assert (disk.synced, disk.slept_s) == ([], [])


def test_a_server_that_always_syncs_is_not_waited_for(redis_server: Callable[..., RedisServer], disk: Disk) -> None:
    """appendfsync always: the reply to the seal said it all."""
    buffer, chunk = sealed_on(redis_server(appendonly=True, options=["--appendfsync", "always"]))
    disk.slept_s.clear()
    buffer.make_durable(chunk)
    assert (disk.synced, disk.slept_s) == ([], [])


def test_a_server_that_syncs_every_second_is_given_its_second(redis_server: Callable[..., RedisServer]) -> None:
    """appendfsync everysec: by the server's own clock at least FSYNC_WAIT_S lie between the seal and the return."""
    buffer, chunk = sealed_on(redis_server(appendonly=True, options=["--appendfsync", "everysec"]))
    buffer.make_durable(chunk)
    assert buffer._disk.now_ms() - chunk.sealed_at_ms >= 1000 * FSYNC_WAIT_S
    assert not buffer.client.info("persistence")["aof_pending_bio_fsync"]


def test_a_server_started_since_is_given_its_second_from_now(redis_server: Callable[..., RedisServer]) -> None:
    """What its predecessor wrote before it was killed may not be on disk yet, however long ago it was sealed."""
    server = redis_server(appendonly=True, options=["--appendfsync", "everysec"])
    buffer, _ = sealed_on(server)
    push(buffer.client, numbered(5))
    buffer.seal(10)
    time.sleep(FSYNC_WAIT_S)
    server.kill()
    server.start()
    chunk = claimed(buffer)
    assert chunk.doubtful
    claimed_at_ms = buffer._disk.now_ms()
    buffer.make_durable(chunk)
    assert buffer._disk.now_ms() - claimed_at_ms >= 1000 * FSYNC_WAIT_S


def test_whatever_was_written_last_is_waited_for(redis_server: Callable[..., RedisServer]) -> None:
    """However long ago its segment was sealed: what was acknowledged just now is on the disk when this returns."""
    buffer = filled(redis_server(appendonly=True, options=["--appendfsync", "everysec"]).url, 5)
    buffer.seal(3)
    time.sleep(FSYNC_WAIT_S)
    acknowledge(buffer, claimed(buffer))
    acked_at_ms = buffer._disk.now_ms()
    buffer.wait_for_disk()
    assert buffer._disk.now_ms() - acked_at_ms >= 1000 * FSYNC_WAIT_S


@pytest.mark.parametrize("how", ["make_durable", "wait_for_disk"])
def test_a_server_started_since_is_given_something_to_sync(how: str, redis_server: Callable[..., RedisServer]) -> None:
    """What its predecessor wrote it syncs with a write of its own; there is one, even when memory is full."""
    server = redis_server(appendonly=True, options=["--appendfsync", "everysec"])
    buffer, chunk = sealed_on(server)
    acknowledge(buffer, chunk)
    server.kill()
    server.start()
    client = buffer.client
    client.config_set("maxmemory", 1)
    before = client.info("persistence")["aof_current_size"]
    if how == "make_durable":
        buffer.make_durable(chunk)
    else:
        buffer.wait_for_disk()
    assert client.info("persistence")["aof_current_size"] > before


def test_a_sync_under_way_may_be_older_than_the_seal(
    redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    """So its end is waited for and then another second: that sync began after the seal."""
    buffer, chunk = sealed_on(redis_server(appendonly=True, options=["--appendfsync", "everysec"]))
    answers = iter([True, True, False, True, False])
    monkeypatch.setattr(RedisDisk, "_is_syncing", lambda self: next(answers))
    buffer.make_durable(chunk)
    assert list(answers) == []
    # The first sleep waits for the second after the seal, which may be just as long.
    assert disk.slept_s[1:].count(FSYNC_WAIT_S) == 1


def test_what_is_sealed_before_a_kill_is_there_afterwards(redis_server: Callable[..., RedisServer]) -> None:
    """kill -9 of the server loses nothing that it acknowledged: segment, chunk boundaries, leases, books, minutes."""
    server = redis_server(appendonly=True)
    buffer = filled(server.url, 10)
    buffer.seal(4)
    first, second = claimed(buffer), claimed(buffer)
    acknowledge(buffer, first, dead=1, minutes=[60])
    push(buffer.client, numbered(3))
    before = buffer.books()
    server.kill()
    server.start()
    assert (buffer.books(), buffer.dirty_minutes().keys()) == (before, {60})
    assert list(buffer.read(second)) == [b"7", b"6", b"5", b"4"]
    other = buffer_on(server.url)
    third = claimed(other)
    assert (third.first, third.last, third.attempts, third.doubtful) == (8, 10, 1, True)
    with pytest.raises(LeaseLost):
        acknowledge(buffer, second)
    again = claimed(buffer)
    assert (again.first, again.last, again.doubtful) == (second.first, second.last, True)
    acknowledge(buffer, again)
    acknowledge(other, third)
    assert (buffer.books().unaccounted, buffer.books().in_flight, buffer.books().waiting) == (0, 0, 3)


@pytest.mark.parametrize(("appendfsync", "policy"), [("no", "none"), ("everysec", "everysec"), ("always", "always")])
def test_the_wait_is_what_the_server_is_set_to(
    appendfsync: str, policy: str, redis_server: Callable[..., RedisServer]
) -> None:
    """A sync that never comes is not waited for."""
    server = redis_server(appendonly=True, options=["--appendfsync", appendfsync])
    assert RedisDisk(server.client(3), None).policy() == policy
