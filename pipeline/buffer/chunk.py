"""A segment of the buffer, and a chunk of a segment: the unit of work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A sealed piece of the buffer."""

    name: str
    rows: int
    sealed_at_ms: int


@dataclass(frozen=True)
class Chunk:
    """A leased part of a segment: positions ``first`` to ``last - 1``, the oldest item at position 0."""

    segment: str
    number: int
    first: int
    last: int
    segment_rows: int
    chunk_rows: int
    sealed_at_ms: int
    attempts: int
    doubtful: bool
    """Whether some of its rows may be stored already: it was tried before, or Redis restarted since sealing."""
    gone: int = 0
    """Rows at its ends that were removed from the segment's list: those that are not stored by then are lost."""
    why_gone: str = ""
    lapses: int = 0
    """How often a process that held it died before any insert of it began."""

    @property
    def rows(self) -> int:
        """Items in the chunk."""
        return self.last - self.first

    @property
    def sealed(self) -> tuple[int, int]:
        """``first`` and ``last`` as they were when the segment was sealed."""
        first = self.number * self.chunk_rows
        return first, min(first + self.chunk_rows, self.segment_rows)


def chunk_name(chunk: Chunk) -> str:
    """The name of a chunk, in Redis and of its spill file."""
    return f"{chunk.segment}:{chunk.number}"
