"""The one place that reads the wall clock.

Decisions take ``now`` as an argument; the jobs get it from a ``Clock``. ``demo``
runs an hour of simulated platform in seconds through ``ScaledClock``.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day, in milliseconds since the epoch, UTC."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


class WallClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


class ScaledClock:
    """A clock that starts ``behind_s`` in the past and runs ``speed`` times faster until it has caught up."""

    def __init__(self, behind_s: float, speed: float) -> None:
        if speed <= 1:
            raise ValueError("a clock that is behind must run faster than the wall clock")
        self._start_s = time.time()
        self._behind_s = behind_s
        self._speed = speed

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC; never ahead of the wall clock."""
        now_s = time.time()
        elapsed_s = now_s - self._start_s
        simulated_s = self._start_s - self._behind_s + elapsed_s * self._speed
        return int(min(simulated_s, now_s) * 1000)

    def caught_up(self) -> bool:
        """Whether simulated time has reached the wall clock."""
        return (time.time() - self._start_s) * (self._speed - 1) >= self._behind_s


class ManualClock:
    """A clock that stands still until told otherwise; for tests and replays."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return self._now_ms

    def set_ms(self, now_ms: int) -> None:
        """Move the clock to ``now_ms``."""
        self._now_ms = now_ms

    def advance_s(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now_ms += int(seconds * 1000)
