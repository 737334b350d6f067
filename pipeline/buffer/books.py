"""The books: what became of every item that was ever sealed.

sealed = stored + dead_lettered + in_flight + spilled + dropped + lost + set_aside; ``unaccounted`` is the
difference, and it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Books:
    """The books of one buffer, or of several together, at one instant."""

    waiting: int = 0
    sealed: int = 0
    in_flight: int = 0
    stored: int = 0
    dead_lettered: int = 0
    spilled: int = 0
    dropped: int = 0
    """By the overflow rule, or by a person who closed what was set aside."""
    lost: int = 0
    """Items of damaged segments that are gone: neither in Redis nor in ClickHouse."""
    set_aside: int = 0
    """Items that no drainer is given any more: they wait for ``pipeline segments close``."""
    segments: int = 0
    oldest_sealed_at_ms: int = 0

    @property
    def unaccounted(self) -> int:
        """What the books cannot explain; 0 unless something is wrong."""
        gone = self.stored + self.dead_lettered + self.dropped + self.lost
        return self.sealed - gone - self.in_flight - self.spilled - self.set_aside

    def __add__(self, other: Books) -> Books:
        names = [field.name for field in fields(self) if field.name != "oldest_sealed_at_ms"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        oldest = min(filter(None, (self.oldest_sealed_at_ms, other.oldest_sealed_at_ms)), default=0)
        return Books(**sums, oldest_sealed_at_ms=oldest)

    def as_dict(self, *, pushed: int | None = None) -> dict[str, int | None]:
        """The keys that ``status``, ``audit`` and ``demo`` print; ``pushed`` only who counted it knows."""
        counted = {name: getattr(self, name) for name in BOOKS_KEYS if name != "pushed"}
        return {"pushed": pushed, **counted}


BOOKS_KEYS = (
    *("pushed", "waiting", "sealed", "in_flight", "stored", "dead_lettered"),
    *("spilled", "dropped", "lost", "set_aside", "unaccounted"),
)
"""The keys of the books in JSON, in this order."""

UNKNOWN: dict[str, int | None] = dict.fromkeys(BOOKS_KEYS)
"""What is printed when Redis cannot be asked."""
