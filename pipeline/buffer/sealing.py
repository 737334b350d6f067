"""Waiting items, and sealing: the whole list is renamed to an immutable segment under a name that was never used.

Producers are not held up. A seal whose reply was lost is found again: an open segment.
"""

from __future__ import annotations

import secrets
import time

from pipeline.base import log
from pipeline.base.redis_link import outages
from pipeline.buffer.chunk import Chunk, Segment
from pipeline.buffer.commands import BufferCommands
from pipeline.buffer.damage import ClocksDisagree
from pipeline.metric import DECODER_VERSION

_log = log.get(__name__)

MAX_CHUNK_BYTES = 64 << 20
"""Items that are larger than usual make chunks of fewer rows: a drainer holds three chunks, each some times over."""


MAX_CLOCK_DIFFERENCE_MS = 60_000
"""Redis's clock may differ from this machine's by this much; beyond, sealing asks a third clock, or waits."""


class Sealing(BufferCommands):
    """Waiting items and how they become a segment."""

    def waiting(self) -> int:
        """Items in the buffer that are not sealed yet."""
        with self._typed(self.key):
            return int(self.client.llen(self.key))

    def oldest_waiting(self) -> bytes | None:
        """The item that has waited longest, not sealed yet."""
        with self._typed(self.key):
            item: bytes | None = self.client.lindex(self.key, -1)
        return item

    def push_once(self, items: list[bytes], marker: str, digest: str, answer: str, ttl_s: int) -> tuple[str, str]:
        """Push items as a producer does, and with a ``marker`` only once within ``ttl_s``.

        Returns ("pushed", ``answer``), ("repeated", the answer of the first time), or ("other", "") when the marker
        came with another digest before. Raises ``RedisOutage``.
        """
        name = f"{self.keys.scratch.rpartition(':')[0]}:pushed:{marker}"
        keys = [self.key, *([name] if marker else [])]
        state, *first = self._run("push_once", keys, [digest, answer, ttl_s, *items])
        return state.decode(), first[0].decode() if first else ""

    def peek(self, count: int) -> list[bytes]:
        """The newest items that wait, at most ``count``; consumes nothing."""
        with self._typed(self.key):
            items: list[bytes] = self.client.lrange(self.key, 0, count - 1)
        return items

    def drop_oldest(self, keep_rows: int, most: int) -> int:
        """Drop the oldest waiting items beyond ``keep_rows``, at most ``most``; counted as sealed and dropped."""
        return int(self._run("drop_oldest", [self.keys.buffer, self.keys.ledger, self.keys.scratch], [keep_rows, most]))

    def seal(self, chunk_rows: int) -> Segment | None:
        """Turn all that waits into one segment, cut into chunks of ``chunk_rows``; None when nothing waits.

        Chunks that would take more than about ``MAX_CHUNK_BYTES`` get fewer rows. The sealing time decides whether a
        timestamp is too old or too far ahead. It is Redis's clock while that agrees with this machine's; otherwise
        this machine's when ClickHouse confirms it. Raises ``ClocksDisagree`` while nothing confirms either.
        """
        # Time-ordered for people, random for safety: a counter could be rewound by a power cut and
        # give the same name to other rows. The version tells how its items are decoded, for the audit.
        name = f"{int(time.time()):x}-{secrets.token_hex(8)}.{DECODER_VERSION}"
        rows, sealed_at_ms = self._seal(name, chunk_rows, confirmed=False)
        if rows < 0:
            self._confirm_clock(sealed_at_ms)
            rows, sealed_at_ms = self._seal(name, chunk_rows, confirmed=True)
        return Segment(name, rows, sealed_at_ms) if rows else None

    def _seal(self, name: str, chunk_rows: int, *, confirmed: bool) -> tuple[int, int]:
        keys = self.keys
        rows, sealed_at_ms = self._run(
            "seal",
            [keys.buffer, keys.segment(name), keys.segments, keys.sealed, keys.ledger, keys.scratch],
            [name, chunk_rows, MAX_CHUNK_BYTES, _now_ms(), MAX_CLOCK_DIFFERENCE_MS, int(confirmed)],
        )
        return int(rows), int(sealed_at_ms)

    def _confirm_clock(self, redis_ms: int) -> None:
        """Return when a third clock, that of ClickHouse, says that this machine's is right and Redis's is not.

        Raises ``ClocksDisagree`` while it is not known which of the two is right.
        """
        own_ms = _now_ms()
        third_ms = self.third_clock() if self.third_clock is not None else None
        if third_ms is None or abs(third_ms - own_ms) > MAX_CLOCK_DIFFERENCE_MS:
            raise ClocksDisagree(redis_ms - own_ms)

    def make_durable(self, chunk: Chunk) -> None:
        """Return once the seal of the chunk's segment is on Redis's disk, as far as its configuration allows.

        Without this a power cut could undo the seal after its rows were inserted; the items would
        be sealed again under another name and stored twice.
        """
        if self._durable.get(chunk.segment):
            return
        with outages():
            meta = self.keys.meta(chunk.segment)
            self._disk.wait(lambda server: self._sealed_at_ms(meta, server))
        if len(self._durable) > 10_000:
            self._durable.clear()
        self._durable[chunk.segment] = True

    def _sealed_at_ms(self, meta: str, server: str) -> int:
        """When the server, of this start, wrote the last of a seal, by its own clock."""
        sealed_in, written_at_ms = self.client.hmget(meta, "run", "written_at")
        if sealed_in != server.encode() or not (written_at_ms or b"").isdigit():
            return self._write_now()
        return int(written_at_ms)

    def wait_for_disk(self) -> None:
        """Return once all that was written before the call is on Redis's disk, as far as its configuration allows."""
        with outages():
            self._disk.wait(lambda _server: self._write_now())

    def tidy_after_restart(self) -> None:
        """See ``RedisDisk.tidy_after_restart`` and ``mend``; cheap enough to be called every second."""
        self.mend()
        with outages():
            self._disk.tidy_after_restart(self.keys.checkpoints)

    def mend(self) -> None:
        """Restore those of the buffer's own keys that another program damaged, each from its second copy.

        What cannot be restored is noted for a person (``pipeline segments ls``). Raises ``RedisOutage``.
        """
        keys = self.keys
        done = self._run(
            "mend",
            [
                *(keys.segments, keys.sealed, keys.ledger, keys.dirty, keys.acked, keys.spilled, keys.marks),
                *(keys.set_aside, keys.scratch, keys.checkpoints),
            ],
            [keys.segment(""), keys.aside("")],
        )
        for sentence in done:
            _log.error("damaged redis key repaired", buffer=self.key, what=sentence.decode("utf-8", "backslashreplace"))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
