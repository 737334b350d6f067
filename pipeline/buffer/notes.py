"""What stands in Redis beside the items: counters, touched minutes, records for the ledger, marks, checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from pipeline.base.redis_link import outages
from pipeline.buffer.books import Books
from pipeline.buffer.commands import MINUTES_PER_ACK, BufferCommands, text_of

MARKS = "marks"
"""The field of the checkpoints that changes whenever marks leave Redis for the table."""

MARKS_PER_CALL = 1_000
"""More marks than this are forgotten in calls of their own."""


class Marking(Enum):
    """What came of marking a dead letter."""

    MARKED = "marked"
    BEFORE = "before"
    """Another mark stands in Redis."""
    STALE = "stale"
    """Marks have left Redis since the table was read; this letter's may be among them."""


class Notes(BufferCommands):
    """Counters, records, marks and checkpoints."""

    def books(self) -> Books:
        """The ledger, all figures of one instant."""
        waiting, in_flight, segments, oldest, counted = self._run(
            "books",
            [self.keys.buffer, self.keys.segments, self.keys.sealed, self.keys.ledger],
            [self.keys.segment("")],
        )
        sealed, stored, dead_lettered, spilled, dropped, lost, set_aside = (int(value or 0) for value in counted)
        return Books(
            waiting=int(waiting),
            sealed=sealed,
            in_flight=int(in_flight),
            stored=stored,
            dead_lettered=dead_lettered,
            spilled=spilled,
            dropped=dropped,
            lost=lost,
            set_aside=set_aside,
            segments=int(segments),
            oldest_sealed_at_ms=int(oldest),
        )

    def dirty_minutes(self) -> dict[int, int]:
        """Minutes (epoch seconds) touched by acknowledged chunks, each with the number of its last touch."""
        with self._typed(self.keys.dirty):
            found: dict[bytes, bytes] = self.client.hgetall(self.keys.dirty)
        # What is not a minute was written by another program.
        return {int(minute): int(touch) for minute, touch in found.items() if minute.isdigit() and touch.isdigit()}

    def forget_minutes(self, counters: Mapping[int, int]) -> None:
        """Forget minutes whose counter is still the same; one touched meanwhile stays."""
        pairs = [(minute, counter) for minute, counter in counters.items()]
        for start in range(0, len(pairs), MINUTES_PER_ACK):
            flat = [value for pair in pairs[start : start + MINUTES_PER_ACK] for value in pair]
            self._run("forget", [self.keys.dirty, self.keys.scratch], flat)

    def acked_records(self, most: int) -> list[bytes]:
        """The records of the oldest acknowledged chunks that are not in the ledger table yet, the newest first."""
        with self._typed(self.keys.acked):
            records: list[bytes] = self.client.lrange(self.keys.acked, -most, -1)
        return records

    def acked_count(self) -> int:
        """How many records of acknowledged chunks are not in the ledger table yet."""
        with self._typed(self.keys.acked):
            return int(self.client.llen(self.keys.acked))

    def drop_acked(self, records: list[bytes], junk: Sequence[int] = ()) -> None:
        """Remove ``records``, the oldest of the acknowledged chunks (newest first), unless that happened before.

        ``junk``: the places, counted from the oldest, of those that are no records; they move to ``keys.acked_junk``.
        """
        keys = [self.keys.acked, self.keys.scratch, self.keys.acked_junk]
        self._run("drop_acked", keys, [records[-1], len(records), *junk])

    def mark_dead_letter(self, name: str, mark: str, now_ms: int, payload: bytes = b"", *, as_of: str) -> Marking:
        """Mark a dead letter and push its payload again (when given), both or neither.

        ``as_of`` is what ``marks_as_of`` said before the caller saw that the table has no mark of this letter.
        """
        keys = [self.keys.marks, self.keys.buffer, self.keys.checkpoints]
        return Marking(self._run("mark", keys, [name, f"{mark} {now_ms}", payload, as_of]).decode())

    def marks_as_of(self) -> str:
        """A text that changes whenever marks leave Redis for the table."""
        return self.checkpoint(MARKS) or ""

    def dead_letter_marks(self) -> dict[bytes, bytes]:
        """Marks that are not in the table ``dead_letter_marks`` yet: the letter's name, the mark and its time."""
        with self._typed(self.keys.marks):
            marks: dict[bytes, bytes] = self.client.hgetall(self.keys.marks)
        return marks

    def forget_marks(self, names: Iterable[bytes]) -> None:
        """Remove marks that stand in the table, in pieces, so that no script holds Redis up."""
        keys, rest = [self.keys.marks, self.keys.checkpoints], list(names)
        for start in range(0, len(rest), MARKS_PER_CALL):
            self._run("forget_marks", keys, [secrets.token_hex(8), *rest[start : start + MARKS_PER_CALL]])

    def checkpoint(self, name: str) -> str | None:
        """The text saved under ``name``; None when there is none."""
        with self._typed(self.keys.checkpoints):
            saved: bytes | None = self.client.hget(self.keys.checkpoints, name)
        return None if saved is None else saved.decode(errors="replace")

    def save_checkpoint(self, name: str, text: str) -> None:
        """Keep ``text`` under ``name`` until it is saved again."""
        with self._typed(self.keys.checkpoints):
            self.client.hset(self.keys.checkpoints, name, text)

    def memory_info(self) -> dict[str, Any]:
        """``INFO memory`` of the Redis that holds the buffer."""
        with outages():
            info: dict[str, Any] = self.client.info("memory")
        return info

    def memory_of_items(self, *, with_sealed: bool) -> int:
        """Bytes that waiting items take in Redis, and sealed ones too; estimated from samples (``MEMORY USAGE``)."""
        names: list[bytes] = []
        if with_sealed:
            with self._typed(self.keys.segments):
                names = self.client.zrange(self.keys.segments, 0, -1)
        with outages():
            keys = [self.key, *(self.keys.segment(text_of(name)) for name in names)]
            return sum(int(self.client.memory_usage(key) or 0) for key in keys)

    def spilled_names(self) -> Iterator[bytes]:
        """The names of the chunks that lie in files, in no order."""
        with self._typed(self.keys.spilled):
            yield from (name for name, _ in self.client.hscan_iter(self.keys.spilled, count=500))

    def unfinished_segments(self) -> set[str]:
        """Segments of which some chunk is not acknowledged: open, or spilled or set aside in part."""
        with self._typed(self.keys.segments, self.keys.spilled, self.keys.set_aside):
            names = {text_of(name) for name in self.client.zrange(self.keys.segments, 0, -1)}
            away = [*self.client.hkeys(self.keys.spilled), *self.client.hkeys(self.keys.set_aside)]
            return names | {text_of(name).partition(":")[0] for name in away}

    def moving_segments(self) -> set[str]:
        """Segments of which some chunk is in hand, waits, or lies in a spilled file."""
        with self._typed(self.keys.segments, self.keys.spilled):
            names = {text_of(name) for name in self.client.zrange(self.keys.segments, 0, -1)}
            return names | {text_of(name).partition(":")[0] for name in self.client.hkeys(self.keys.spilled)}

    def open_segments(self) -> int:
        """Sealed segments that are not wholly acknowledged."""
        with self._typed(self.keys.segments):
            return int(self.client.zcard(self.keys.segments))
