"""Removing a chunk from Redis: acknowledged (its rows stand in ClickHouse) or let go (its items lie in a file).

Each is one script that checks the lease. An ack whose reply was lost is answered ``LeaseLost``.
"""

from __future__ import annotations

import contextlib

from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.buffer.chunk import Chunk, chunk_name
from pipeline.buffer.commands import MINUTES_PER_ACK, BufferCommands

TRIM_STEPS = 10
"""A chunk is freed in so many steps: each took 0.4 ms at 100,000 rows of 143 bytes."""


class Acking(BufferCommands):
    """How a chunk leaves Redis."""

    def ack(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str = "") -> None:
        """Acknowledge a chunk whose rows all stand in ClickHouse.

        ``minutes`` are the minutes (epoch seconds) its rows touched; ``record`` goes to the ledger table.
        Raises ``LeaseLost`` when another drainer has the chunk by now, or has finished it; also when the chunk was
        not read back and Redis restarted since it was claimed: a power cut may have undone another's attempt, and
        with it what would have made the chunk doubtful. It is given back then.
        """
        keys = self.keys
        self._touch(minutes[MINUTES_PER_ACK:])
        done = self._run(
            "ack",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.dirty, keys.ledger, keys.acked, keys.scratch),
            ],
            [
                *(chunk.segment, chunk.number, self._lease(chunk), stored, dead_lettered, record),
                *(int(chunk.doubtful), chunk.gone, chunk.why_gone, *minutes[:MINUTES_PER_ACK]),
            ],
        )
        self._done(chunk, done)

    def _done(self, chunk: Chunk, done: int) -> None:
        if not done:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is held by another drainer")
        self._trim(chunk)

    def spill(self, chunk: Chunk) -> None:
        """Let go of a chunk whose items lie in a file; raises ``LeaseLost`` when another drainer has it by now."""
        keys = self.keys
        done = self._run(
            "spill",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.spilled, keys.ledger, keys.scratch),
            ],
            [chunk.segment, chunk.number, self._lease(chunk), chunk.rows, chunk.gone, chunk.why_gone],
        )
        self._done(chunk, done)

    def unspill(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str) -> bool:
        """Acknowledge a spilled chunk whose rows all stand in ClickHouse; False when that was done before."""
        keys = self.keys
        self._touch(minutes[MINUTES_PER_ACK:])
        return bool(
            self._run(
                "unspill",
                [keys.spilled, keys.dirty, keys.ledger, keys.acked, keys.set_aside, keys.scratch],
                [chunk_name(chunk), chunk.rows, stored, dead_lettered, record, *minutes[:MINUTES_PER_ACK]],
            )
        )

    def is_spilled(self, chunk: Chunk) -> bool:
        """Whether the file of this chunk is what counts; a file that is not registered is a left-over."""
        keys = self.keys
        names = [keys.spilled, keys.segments, keys.ledger, keys.scratch]
        return bool(self._run("is_spilled", names, [chunk_name(chunk), chunk.rows, chunk.segment]))

    def _trim(self, chunk: Chunk) -> None:
        """Free what is finished, in steps that do not hold Redis up; what an outage leaves, the next ack frees."""
        keys = [self.keys.segment(chunk.segment), self.keys.sealed, self.keys.scratch]
        with contextlib.suppress(RedisOutage):
            while self._run("trim", keys, [chunk.segment, max(1, chunk.chunk_rows // TRIM_STEPS)]):
                pass
