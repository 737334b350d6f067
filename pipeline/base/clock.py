"""Time: the clock, and how a moment is written and read.

Decisions take ``now`` as an argument; the jobs get it from a ``Clock``. ``demo`` walks through
half an hour of simulated platform with a ``ManualClock`` before it goes on live.
"""

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from pipeline.base import durations


class Clock(Protocol):
    """Tells the time of day, in milliseconds since the epoch, UTC."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = ((1 << 32) - 1) * 1000
"""The last second of ClickHouse's DateTime."""


def iso(moment_ms: int) -> str:
    """A moment as people write it: ISO-8601 in UTC with milliseconds and ``Z``; ``5 ms`` beyond the calendar."""
    try:
        moment = _EPOCH + timedelta(milliseconds=moment_ms)
    except OverflowError:
        return f"{moment_ms} ms"
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def iso_short(moment_ms: int) -> str:
    """The same, with milliseconds only where there are any: ``2025-01-11T12:00:00Z``."""
    return iso(moment_ms).replace(".000Z", "Z")


def iso_seconds(moment_ms: int) -> str:
    """The same without the fraction of a second: ``2025-01-11T12:00:00Z``."""
    return iso(moment_ms // 1000 * 1000).replace(".000Z", "Z")


def from_iso(text: str, zone: tzinfo = UTC) -> int:
    """Milliseconds since the epoch of an ISO-8601 time, in ``zone`` unless it names one. Raises ``ValueError``."""
    moment = datetime.fromisoformat(text.strip())
    # Not by timestamp(): its float lands below the millisecond it means.
    return ((moment if moment.tzinfo else moment.replace(tzinfo=zone)) - _EPOCH) // timedelta(milliseconds=1)


def moment_ms(text: str, now_ms: int) -> int:
    """A time as people write it: ``now``, a span back from now such as ``7d``, ISO-8601, epoch seconds.

    Raises ``ValueError`` with a sentence.
    """
    text = text.strip()
    if text == "now":
        return now_ms
    try:
        is_number = text.isascii() and text.isdigit() and len(text) <= 11
        moment = int(text) * 1000 if is_number else now_ms - durations.parse_ms(text)
    except ValueError:
        try:
            moment = from_iso(text)
        except (ValueError, OverflowError):
            raise ValueError(f"{text!r} is neither an ISO-8601 time nor a span back from now such as 6h") from None
    if moment < 0:
        raise ValueError(f"{text!r} goes back beyond the year 1970")
    if moment > _LAST_MS:
        raise ValueError(f"{text!r} lies beyond the year 2106")
    return moment


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
