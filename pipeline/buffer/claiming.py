"""Claiming: a chunk is leased to one drainer, and the lease is renewed, given back, or runs out.

Leases only avoid duplicate work; correctness comes from the lease check before each insert and from the insert token.
"""

from __future__ import annotations

from pipeline.base.errors import LeaseLost
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.commands import MEND_ATTEMPTS, text_of
from pipeline.buffer.damage import KeyDamaged
from pipeline.buffer.process_names import is_orphan
from pipeline.buffer.sealing import Sealing

LONGEST_LEASE_MS = 600_000
"""A lease that ends later than this (or ten lease times) from now was taken while Redis ran ahead: it is over."""


class Claiming(Sealing):
    """Leases of chunks."""

    def claim(self) -> Chunk | None:
        """Lease the next chunk, or one whose lease ran out; None when there is none."""
        lease_ms = int(self.lease_s * 1000)
        for _ in range(MEND_ATTEMPTS):
            found = self._run(
                "claim",
                [self.keys.segments, self.keys.sealed, self.keys.scratch],
                [self.keys.segment(""), self.token, lease_ms, max(LONGEST_LEASE_MS, 10 * lease_ms)],
            )
            if not found:
                return None
            if found[0] != b"damaged":
                break
            self.mend()
        else:
            raise KeyDamaged(self.keys.segment(found[1].decode("utf-8", "backslashreplace")), "junk", "a segment")
        name, number, rows, chunk_rows, sealed_at, attempts, same_server, lapses = found
        first = int(number) * int(chunk_rows)
        return Chunk(
            segment=name.decode(),
            number=int(number),
            first=first,
            last=min(first + int(chunk_rows), int(rows)),
            segment_rows=int(rows),
            chunk_rows=int(chunk_rows),
            sealed_at_ms=int(sealed_at),
            attempts=int(attempts),
            doubtful=int(attempts) > 1 or not int(same_server),
            lapses=int(lapses),
        )

    def renew(self, chunk: Chunk, *, before_insert: bool = False) -> None:
        """Prolong the lease; raises ``LeaseLost`` when another drainer has the chunk by now.

        ``before_insert``: the chunk could be read, and is no longer blamed when its holder dies.
        """
        self._set_lease(chunk, int(self.lease_s * 1000), begun=before_insert)

    def release(self, chunk: Chunk) -> None:
        """Give a chunk back at once; the next claim reads back what was stored of it."""
        self._set_lease(chunk, 0)

    def release_orphans(self) -> int:
        """Give back the chunks of processes of this machine that died; the number of them.

        Saves the restart after a crash from waiting until the leases run out.
        """
        released = 0
        with self._typed(self.keys.segments):
            names: list[bytes] = self.client.zrange(self.keys.segments, 0, 99)
        for name in names:
            key = self.keys.leases(text_of(name))
            with self._typed(key):
                leases: dict[bytes, bytes] = self.client.hgetall(key)
            for number, lease in leases.items():
                token, _, held = text_of(lease).partition(" ")
                if is_orphan(token) and not held.startswith(("0 ", "1 ")):
                    keys = [key, self.keys.scratch, self.keys.meta(text_of(name))]
                    released += int(self._run("renew", keys, [number, token, -1, 0]))
        return released

    def _set_lease(self, chunk: Chunk, lease_ms: int, *, begun: bool = False) -> None:
        held = self._run(
            "renew",
            [self.keys.leases(chunk.segment), self.keys.scratch, self.keys.meta(chunk.segment)],
            [chunk.number, self._lease(chunk), lease_ms, int(begun)],
        )
        if not held:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is no longer held by this drainer")
