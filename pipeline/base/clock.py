"""The one place that reads the wall clock.

Decisions take ``now`` as an argument; the jobs get it from a ``Clock``. ``demo`` walks through
half an hour of simulated platform with a ``ManualClock`` before it goes on live.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day, in milliseconds since the epoch, UTC."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


def iso(moment_ms: int) -> str:
    """A moment as people write it: ISO-8601 in UTC with milliseconds and ``Z``."""
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment_ms % 1000:03d}Z"


class WallClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that stands still until told otherwise, or released; for tests, replays and ``demo``."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._released = False

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return WallClock().now_ms() if self._released else self._now_ms

    def release(self) -> None:
        """Follow the machine's clock from here on."""
        self._released = True

    def set_ms(self, now_ms: int) -> None:
        """Move the clock to ``now_ms``."""
        self._now_ms = now_ms

    def advance_s(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now_ms += int(seconds * 1000)
