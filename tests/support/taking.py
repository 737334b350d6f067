"""Drains a buffer into a dictionary: the whole way of a chunk without ClickHouse, for what happens in Redis alone."""

from collections.abc import Iterable, Sequence
from typing import Any

from drain_parts import buffer_on, push

from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk

Taken = dict[tuple[str, int], bytes]
"""Segment and position to the item that was delivered under it: what ClickHouse would hold."""


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def filled(url: str, count: int, **options: Any) -> Buffer:
    """A buffer in which ``count`` numbered items wait, number 0 the oldest."""
    buffer = buffer_on(url, **options)
    push(buffer.client, numbered(count))
    return buffer


def claimed(buffer: Buffer) -> Chunk:
    chunk = buffer.claim()
    assert chunk is not None
    return chunk


def acknowledge(
    buffer: Buffer, chunk: Chunk, dead: int = 0, minutes: Sequence[int] = (60,), record: str = "{}"
) -> None:
    buffer.ack(chunk, stored=chunk.rows - dead, dead_lettered=dead, minutes=[*minutes], record=record)


def store(taken: Taken, chunk: Chunk, items: Iterable[bytes]) -> None:
    """As a drainer stores: what is there already is read back and not inserted again."""
    for position, item in zip(range(chunk.last - 1, chunk.first - 1, -1), items, strict=True):
        place = (chunk.segment, position)
        assert chunk.doubtful or place not in taken, f"{place} is delivered twice"
        taken.setdefault(place, item)


def take_one(buffer: Buffer, taken: Taken) -> bool:
    """Claim, read, store and acknowledge one chunk; False when there is none."""
    chunk = buffer.claim()
    if chunk is None:
        return False
    found = buffer.read_or_recover(chunk)
    if found is not None:
        store(taken, *found)
        acknowledge(buffer, found[0])
    return True


def take_all(buffer: Buffer, taken: Taken | None = None, chunk_rows: int = 10, patience: int = 1_000) -> Taken:
    """Drain until nothing is left, mending as a drainer does; an outage is tried again."""
    taken = {} if taken is None else taken
    for _ in range(patience):
        try:
            buffer.tidy_after_restart()
            buffer.seal(chunk_rows)
            if not take_one(buffer, taken) and not buffer.waiting():
                return taken
        except (RedisOutage, LeaseLost):
            continue
    raise AssertionError("the buffer is never empty")


def balanced(buffer: Buffer) -> Books:
    """The books, when nothing is left in flight and nothing is unexplained."""
    books = buffer.books()
    assert (books.waiting, books.in_flight, books.unaccounted) == (0, 0, 0), books
    return books
