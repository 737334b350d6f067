"""Setting aside: what cannot be delivered waits for a person, who decides with ``pipeline segments close``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.base import log
from pipeline.base.errors import LeaseLost
from pipeline.base.redis_link import outages
from pipeline.buffer.acking import Acking
from pipeline.buffer.chunk import Chunk, chunk_name
from pipeline.buffer.commands import MEND_ATTEMPTS, text_of
from pipeline.buffer.damage import SegmentDamaged
from pipeline.buffer.reading import Reading

if TYPE_CHECKING:
    from pipeline.decode.items import Items

_log = log.get(__name__)

COPY_STEPS = 400
"""A chunk is copied aside in this many steps: copying 1,000 items in one script holds Redis up for 4 ms."""


class SettingAside(Acking, Reading):
    """What waits for a person."""

    def read_or_recover(self, chunk: Chunk) -> tuple[Chunk, Items] | None:
        """The chunk's items; of a damaged segment what is provably left of them, as a smaller chunk.

        None when nothing of it can be delivered; then the chunk, and where nothing is provable its whole segment, is
        set aside. Raises ``LeaseLost`` when another drainer has the chunk by now.
        """
        for _ in range(MEND_ATTEMPTS):
            try:
                return chunk, self.read(chunk)
            except SegmentDamaged as damaged:
                left = self._left(chunk, damaged)
                if left is None:
                    return None
                chunk = left
        raise LeaseLost(f"segment {chunk.segment} is being changed by another program")

    def _left(self, chunk: Chunk, damaged: SegmentDamaged) -> Chunk | None:
        """The part of the chunk that is provably there; None after what cannot be delivered was set aside."""
        first, last = max(chunk.first, damaged.extent.first), min(chunk.last, damaged.extent.last)
        if first < last:
            gone = chunk.gone + chunk.rows - (last - first)
            return replace(
                chunk,
                first=first,
                last=last,
                doubtful=True,
                gone=gone,
                why_gone=self._record(chunk, damaged.extent.why, chunk.first),
            )
        if damaged.extent.is_proved:
            self._take_out(chunk, damaged.extent.why, is_compared=True)
        else:
            self._set_rest_aside(chunk, damaged.extent.why)
        return None

    def set_aside(self, chunk: Chunk, reason: str) -> None:
        """Take a leased chunk out of delivery: it waits for a person, and no drainer is given it again.

        Its items move to a list of their own, so that the rest of the segment can be freed. What is no longer
        there of them is counted as lost. A crash in between leaves a leased chunk, and the copy is made afresh.
        Raises ``LeaseLost`` when another drainer has the chunk by now.
        """
        self._take_out(chunk, reason)

    def _take_out(self, chunk: Chunk, reason: str, *, is_compared: bool = False) -> None:
        """``is_compared``: some of its rows may be stored, which ``measure_aside`` finds out."""
        keys = self.keys
        first = self._copy_aside(chunk)
        done = self._run(
            "set_aside",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.ledger, keys.aside(chunk_name(chunk)), keys.scratch),
            ],
            [
                *(chunk.segment, chunk.number, self._lease(chunk)),
                _compared(chunk, reason) if is_compared else self._record(chunk, reason, first),
            ],
        )
        self._done(chunk, done)
        _log.error("chunk set aside", segment=chunk.segment, chunk=chunk.number, rows=chunk.rows, reason=reason)

    def _copy_aside(self, chunk: Chunk) -> int:
        """Copy what is there of the chunk; the position of the oldest item copied."""
        found = self._extent(chunk)
        first, last = max(chunk.first, found.first), min(chunk.last, found.last)
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.aside(chunk_name(chunk)), keys.scratch]
        # An empty range starts the copy afresh and leaves it empty.
        ranges = [(-1, -2)] if first >= last else _pages(found.head_index + found.last - last, last - first)
        for number, (begin, end) in enumerate(ranges):
            if self._run("copy_aside", names, [chunk.number, self._lease(chunk), begin, end, int(number == 0)]) < 0:
                raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is held by another drainer")

        return first

    def _set_rest_aside(self, chunk: Chunk, why: str) -> None:
        """Set aside the chunk and every other of its segment that no drainer holds."""
        keys = self.keys
        kept, lost = self._run(
            "set_aside_rest",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.ledger, keys.aside(chunk.segment), keys.scratch),
            ],
            [chunk.segment, chunk.number, self._lease(chunk), why],
        )
        _log.error("segment set aside", segment=chunk.segment, kept=int(kept), lost=int(lost), reason=why)

    @staticmethod
    def _record(chunk: Chunk, reason: str, first: int) -> str:
        known = {
            "first": first,
            "last": chunk.last,
            "sealed_at_ms": chunk.sealed_at_ms,
            "attempts": chunk.attempts,
        }
        return json.dumps({"reason": reason, **known}, ensure_ascii=False)

    def set_aside_names(self) -> list[str]:
        """What waits for a person: the names that ``pipeline segments`` takes. Raises ``RedisOutage``."""
        with self._typed(self.keys.set_aside):
            return sorted(text_of(name) for name in self.client.hkeys(self.keys.set_aside))

    def set_aside_records(self) -> dict[bytes, bytes]:
        """The records of what is set aside, as they stand in Redis; see ``set_aside.records``."""
        with self._typed(self.keys.set_aside):
            found: dict[bytes, bytes] = self.client.hgetall(self.keys.set_aside)
        return found

    def aside_length(self, name: str) -> int:
        """Items that are kept under this name; 0 where the key was overwritten."""
        with outages():
            key = self.keys.aside(name)
            return int(self.client.llen(key)) if self.client.type(key) == b"list" else 0

    def aside_items(self, name: str, begin: int, count: int) -> list[bytes]:
        """Items that are kept under this name, from the oldest on."""
        if count < 1 or not self.aside_length(name):
            return []
        with outages():
            items: list[bytes] = self.client.lrange(self.keys.aside(name), -begin - count, -begin - 1)
        return items[::-1]

    def correct_aside(
        self, name: str, read: bytes, counts: tuple[int, int, int, int], text: str, records: list[str]
    ) -> bool:
        """Give a record other counts (kept, lost, stored, dead-lettered); False when it is not as it was read any more.

        ``records`` go to the ledger table: acknowledgements of rows that turned out to be stored.
        """
        keys = self.keys
        names = [keys.set_aside, keys.ledger, keys.acked, keys.scratch]
        return bool(self._run("measure_aside", names, [name, read, *counts, text, *records]))

    def touch(self, minutes: list[int]) -> None:
        """Note minutes (epoch seconds) that have to be rolled up again."""
        self._touch(minutes)

    def decide_aside(self, name: str, decisions: str, *, end: bool = False) -> int:
        """Carry out decisions about the oldest items, see ``close_aside.lua``; how many are kept then."""
        keys = self.keys
        names = [keys.set_aside, keys.aside(name), keys.ledger, keys.buffer, keys.scratch]
        return int(self._run("close_aside", names, [name, decisions, int(end)]))


def _compared(chunk: Chunk, reason: str) -> str:
    """The record of a chunk whose rows are still to be looked for in ClickHouse."""
    known = {
        "sealed_at_ms": chunk.sealed_at_ms,
        "since": chunk.first,
        "chunk_rows": chunk.chunk_rows,
        "chunks": [[chunk.number, chunk.number]],
    }
    return json.dumps({"reason": reason, **known}, ensure_ascii=False)


def _pages(begin: int, rows: int) -> list[tuple[int, int]]:
    """First and last index of each step in which ``rows`` items are copied."""
    step = -(-rows // COPY_STEPS)
    return [(at, min(at + step, begin + rows) - 1) for at in range(begin, begin + rows, step)]
