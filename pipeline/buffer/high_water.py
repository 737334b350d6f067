"""High-water marks: how much a buffer holds, how long the oldest of it has waited, how full its Redis is.

Each stands in ``pipeline status``; passing one raises an alarm: a line in the service's log, trouble (and exit
code 1) in ``status``, an alert. Which of them the overflow rule acts on is the rule's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.base.config import BufferSettings
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer

Name = Literal["rows", "age_s", "memory_pct"]


@dataclass(frozen=True)
class Fill:
    """How full the buffer is by one of the three, and the limit from the settings."""

    name: Name
    value: float
    limit: float

    @property
    def is_passed(self) -> bool:
        """Standing at the limit is not passing it."""
        return self.value > self.limit

    @property
    def pct(self) -> float:
        """Percent of the limit."""
        return 100 * self.value / self.limit

    def __str__(self) -> str:
        """What passing it means, in words, with the setting's name."""
        words = {
            "rows": f"{self.value:,.0f} items are not stored yet",
            "age_s": f"the oldest item has waited for {self.value:,.0f} s",
            "memory_pct": f"Redis uses {self.value:.1f} % of its memory",
        }
        return f"{words[self.name]}, more than buffer.high_water_{self.name} {self.limit:,.10g}"


def fills_of(settings: BufferSettings, books: Books, age_s: float, memory_pct: float) -> list[Fill]:
    """How full a buffer is, by rows, age and memory."""
    return [
        Fill("rows", books.waiting + books.in_flight, settings.high_water_rows),
        Fill("age_s", age_s, settings.high_water_age_s),
        Fill("memory_pct", memory_pct, settings.high_water_memory_pct),
    ]


def sealed_age_s(books: Books, now_ms: int) -> float:
    """How long the oldest item in flight has waited since it was sealed; whatever waits unsealed is younger."""
    return max(0.0, (now_ms - books.oldest_sealed_at_ms) / 1000) if books.oldest_sealed_at_ms else 0.0


def spilled_age_s(buffer: Buffer, now_ms: int) -> float:
    """How long the oldest spilled item has waited since it was sealed, to the second; 0 when nothing is spilled.

    A day's outage leaves tens of thousands of names, so they are read in pieces. Raises ``RedisOutage``.
    """
    # Names of segments begin with the time of sealing (see Buffer.seal).
    sealed_s = [int(name.partition(b"-")[0], 16) for name in buffer.spilled_names()]
    return max(0.0, now_ms / 1000 - min(sealed_s)) if sealed_s else 0.0


def memory(info: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes used and the limit, as INFO has them: ``maxmemory``, and without one the machine's memory (0: unknown)."""
    return int(info.get("used_memory", 0)), int(info.get("maxmemory") or info.get("total_system_memory") or 0)
