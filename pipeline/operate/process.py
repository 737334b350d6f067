"""How a process behaves towards its machine: niceness, memory, signals, and how it ends.

A signal to stop must be obeyed whatever the process is doing, also while the main thread waits inside a
library for a server that hangs. So the handler does nothing: the C part of the signal handling writes the
number to a pipe, and a thread of its own reads it. The same thread ends the process when the time allowed
for stopping has passed. Ending at any instant is safe: ``kill -9`` is, everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline.base import log

_log = log.get(__name__)

NICENESS = 10
"""Below Redis: with two cores a producer's LPUSH took 6 ms (p99) while a backlog drained, and 4 ms with this."""

STOP_WITHIN_S = 4.0
"""A process that was told to stop has ended after this time, whatever it waits for."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_ARENA_MAX, _MMAP_THRESHOLD = -8, -3  # numbers of glibc's options M_ARENA_MAX and M_MMAP_THRESHOLD
_LARGE_BYTES = 1 << 20


_given_niceness: int | None = None
"""What this process was started with, once it yields."""


def yield_to_redis() -> None:
    """Give way to the Redis on the same machine, and to producers; threads started later do so too.

    Called after Redis was started and before ClickHouse's engine is, whose threads are most of this process's.
    """
    global _given_niceness
    usual = os.nice(0)
    if usual < NICENESS:
        _given_niceness = usual
        os.nice(NICENESS - usual)


def yield_no_longer() -> None:
    """Take the share again that was given, where the system allows it: to root, or by a limit such as ``LimitNICE``.

    Beside busy processes a nice one takes seconds for its last steps, and the system for giving its memory back.
    """
    if _given_niceness is None:
        return
    try:
        # Niceness is each thread's own, the engine's too.
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    except FileNotFoundError:
        tasks = [0]
    for task in tasks:
        try:
            os.setpriority(os.PRIO_PROCESS, task, _given_niceness)
        except ProcessLookupError:
            continue
        except PermissionError:
            return


def share_memory() -> None:
    """Two heaps for all threads instead of one each, of which every one keeps what its largest chunk took.

    A backlog of 5 million rows took 269 MB above the empty service instead of 332 MB. Large pieces come from the
    system one by one and go back at once: among small ones in a heap they would leave holes. Nothing happens where
    the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 2)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def return_memory() -> None:
    """Give freed memory back to the system: glibc keeps it, and each large job would leave its peak behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def stopping(within_s: float | None = None) -> Iterator[threading.Event]:
    """SIGTERM and SIGINT set the event; a second one ends the process at once, with exit code 128 + signal.

    With ``within_s`` the process has ended that long after the first one, with exit code 0, even if the
    block has not. Only for the main thread.
    """
    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers = {number: signal.signal(number, _do_nothing) for number in STOP_SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, stop, within_s), name="signals", daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)
        watcher.join()


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's teardown, which takes 0.6 s of CPU and waits for busy threads."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler must be there, or Python would not tell ``_watch``."""


def _watch(reader: int, stop: threading.Event, within_s: float | None) -> None:
    """Read signals until the other end of the pipe is closed."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    until_s: float | None = None
    try:
        while True:
            timeout_ms = None if until_s is None else max(0.0, 1000 * (until_s - time.monotonic()))
            if not poll.poll(timeout_ms):
                _leave_behind(within_s or 0)
            numbers = os.read(reader, 64)
            if not numbers:
                return
            for number in numbers:
                if number not in STOP_SIGNALS:
                    continue
                if stop.is_set():
                    os._exit(128 + number)
                yield_no_longer()
                stop.set()
                until_s = None if within_s is None else time.monotonic() + within_s
    finally:
        os.close(reader)


def _leave_behind(within_s: float) -> NoReturn:
    """End although threads are still at work; the log may be what hangs, so it is not waited for."""
    busy = sorted(thread.name for thread in threading.enumerate() if thread.name not in ("signals", "MainThread"))

    def say() -> None:
        _log.warning("service stopped before its threads ended", within_s=within_s, threads=busy)

    speaker = threading.Thread(target=say, daemon=True)
    speaker.start()
    speaker.join(0.3)
    os._exit(0)
