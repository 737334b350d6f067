"""Pauses between retries: growing, jittered, capped. One definition for every loop that retries.

Pure: the caller keeps the number of failures in a row, waits by its own stop event, and passes the random number
in where a test wants to know the pause.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CHANCE = random.SystemRandom()
"""Not the module's own generator: its state belongs to the program, whose tests may seed and watch it, and forked
processes draw the same from it."""

MAX_DOUBLINGS = 40
"""Beyond this a power of two says nothing more: every cap is reached, and floats stay finite."""


@dataclass(frozen=True)
class Backoff:
    """Doubles ``first_s`` with every failure in a row up to ``max_s``, then takes off up to ``jitter`` of it.

    Jitter keeps clients that lost the same server from returning in step.
    """

    first_s: float
    max_s: float
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.first_s <= 0 or self.max_s <= 0 or not 0 <= self.jitter < 1:
            raise ValueError(f"not a backoff: {self}")

    def ceiling_s(self, failures: int) -> float:
        """The longest pause after so many failures in a row (1 after the first)."""
        return min(self.first_s * 2.0 ** min(max(failures - 1, 0), MAX_DOUBLINGS), self.max_s)

    def pause_s(self, failures: int, chance: float | None = None) -> float:
        """The pause after so many failures in a row; ``chance`` from 0 (longest) to 1 (shortest), random if absent."""
        chance = CHANCE.random() if chance is None else chance
        return self.ceiling_s(failures) * (1 - self.jitter * chance)
