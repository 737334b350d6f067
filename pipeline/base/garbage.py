"""Python's cycle collector, which looks for objects that refer to each other in a circle."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_pauses = 0


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Let the collector rest while very many objects without circles are made, at most some seconds.

    It would look at all of them again and again: at 130,000 alerts an eighth of the time. Threads may pause it at
    the same time; it goes on after the last. Where the program has switched it off, it stays off.
    """
    global _pauses
    with _lock:
        if _pauses or gc.isenabled():
            _pauses += 1
            is_mine = True
            gc.disable()
        else:
            is_mine = False
    try:
        yield
    finally:
        with _lock:
            _pauses -= is_mine
            if is_mine and not _pauses:
                gc.enable()
