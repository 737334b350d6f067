"""What cannot be delivered is set aside: it waits for a person, everything else is drained on, the books balance."""

import json

import pytest
from drain_parts import buffer_on, push

from pipeline.base.errors import LeaseLost
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk, chunk_name


def filled(url: str, count: int) -> Buffer:
    buffer = buffer_on(url)
    push(buffer.client, [b"%d" % number for number in range(count)])
    return buffer


def claimed(buffer: Buffer) -> Chunk:
    chunk = buffer.claim()
    assert chunk is not None
    return chunk


def acknowledge(buffer: Buffer, chunk: Chunk) -> None:
    buffer.ack(chunk, stored=chunk.rows, dead_lettered=0, minutes=[], record="{}")


def test_a_chunk_set_aside_is_never_claimed_again_and_keeps_its_items(redis_url: str) -> None:
    """It leaves the segment, its items in a list of their own; the chunks around it are delivered, memory is freed."""
    buffer = filled(redis_url, 25)
    buffer.seal(10)
    chunks = [claimed(buffer) for _ in range(3)]
    buffer.set_aside(chunks[1], "tried 20 times")
    acknowledge(buffer, chunks[0])
    acknowledge(buffer, chunks[2])
    assert buffer.claim() is None
    books = buffer.books()
    assert (books.sealed, books.stored, books.in_flight, books.set_aside, books.lost) == (25, 15, 0, 10, 0)
    assert (books.unaccounted, buffer.open_segments()) == (0, 0)
    name = chunk_name(chunks[1])
    assert buffer.set_aside_names() == [name]
    assert buffer.client.lrange(buffer.keys.aside(name), 0, -1) == [b"%d" % number for number in range(19, 9, -1)]
    assert not buffer.client.exists(buffer.keys.segment(chunks[0].segment))
    at_ms, kept, lost, record = buffer.client.hget(buffer.keys.set_aside, name).split(b" ", 3)
    assert (int(at_ms) >= chunks[1].sealed_at_ms, int(kept), int(lost)) == (True, 10, 0)
    assert json.loads(record)["reason"] == "tried 20 times"


def test_only_the_holder_of_a_chunk_sets_it_aside(redis_url: str) -> None:
    """Who lost the lease changes nothing, and a copy begun by a predecessor is made afresh."""
    buffer = filled(redis_url, 10)
    buffer.seal(10)
    late = claimed(buffer)
    buffer.release(late)
    chunk = claimed(buffer)
    buffer.client.rpush(buffer.keys.aside(chunk_name(chunk)), "left over")
    with pytest.raises(LeaseLost):
        buffer.set_aside(late, "too late")
    assert buffer.set_aside_names() == []
    buffer.set_aside(chunk, "in time")
    assert buffer.client.llen(buffer.keys.aside(chunk_name(chunk))) == buffer.books().set_aside == 10
