"""When to end: what is in hand is finished within a few seconds, and no neighbour is waited for any more."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

GRACE_S = 2.0
"""A chunk in hand may be finished this long after the request to stop; then it is given back."""


TICK_S = 0.05
"""A waiting thread notices within this that its work is over."""


class Interrupted(Exception):
    """The drainer is to end while it waits for a neighbour."""


@dataclass
class Stop:
    """A request to stop, and since when it is known here. Shared by the threads of one drainer.

    ``asked`` belongs to the caller and is only looked at: a drainer that ends by itself stops no other.
    """

    asked: threading.Event = field(default_factory=threading.Event)
    grace_s: float = GRACE_S
    _is_over: bool = False
    _set_at_s: float | None = None

    def set(self) -> None:
        """End this work."""
        self._is_over = True

    def is_set(self) -> bool:
        """Whether the work is to end."""
        if not (self._is_over or self.asked.is_set()):
            return False
        if self._set_at_s is None:
            self._set_at_s = time.monotonic()
        return True

    def is_overdue(self) -> bool:
        """Whether it was to end so long ago that nothing more is begun."""
        return self.is_set() and self._set_at_s is not None and time.monotonic() - self._set_at_s >= self.grace_s

    def sleep(self, pause_s: float) -> bool:
        """Wait; True at once when the work is to end."""
        until_s = time.monotonic() + pause_s
        while not self.is_set():
            if (left_s := until_s - time.monotonic()) <= 0:
                return False
            self.asked.wait(min(left_s, TICK_S))
        return True

    def wait(self, pause_s: float) -> None:
        """Wait for a neighbour; raises ``Interrupted`` at once when the work is to end."""
        if self.sleep(pause_s):
            raise Interrupted
