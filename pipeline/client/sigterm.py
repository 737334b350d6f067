"""What happens before SIGTERM ends a child of multiprocessing, as leaving ``with Pool()`` ends its workers.

Python runs a signal's handler in the main thread once that comes back to Python code. A signal that arrives right
before the thread waits for something in C is seen only after the wait, which in a worker without a task is never: a
handler alone would keep such a worker alive, and its pool would wait for it. The interpreter's part in C writes each
signal into a socket at once (``signal.set_wakeup_fd``). So a thread listens there, does what is to be done, and repeats
the signal until the process ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

_REPEAT_S = 0.01
_PATIENCE_S = 2.0
"""A main thread that is busy in C for longer is not waited for: nothing is left to be done."""

_ends: list[socket.socket] = []
"""Both ends of the socket, while this process listens."""


def before_sigterm(action: Callable[[], None]) -> None:
    """Have ``action`` called, in a thread, before SIGTERM ends this process.

    Only in a child of multiprocessing, from its main thread, and where the program handles neither this signal nor the
    interpreter's wakeup descriptor itself.
    """
    if (
        multiprocessing.parent_process() is None
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        return
    heard, written = socket.socketpair()
    written.setblocking(False)
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(heard, action), name="metrics-client-sigterm", daemon=True)
    try:
        if before != -1:
            raise RuntimeError("the descriptor is taken")
        thread.start()
    except RuntimeError:  # or the interpreter ends, and starts no threads
        signal.set_wakeup_fd(before)
        heard.close()
        written.close()
        return
    _ends[:] = heard, written
    signal.signal(signal.SIGTERM, _give_way)


def forget_after_fork() -> None:
    """In a forked child: its signals are not its parent's, in whose socket they would be written."""
    if _ends:
        with contextlib.suppress(ValueError):  # forked by another thread than the main one
            signal.set_wakeup_fd(-1)
            if signal.getsignal(signal.SIGTERM) is _give_way:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for end in _ends:
            end.close()
        _ends.clear()


def _give_way(number: int, _frame: object) -> None:
    """The next one ends the process as it would have ended without us.

    The thread is told here too: a handler of the program may have called this one, or taken the descriptor.
    """
    signal.signal(number, signal.SIG_DFL)
    if _ends:
        with contextlib.suppress(OSError):
            _ends[1].send(bytes([number]))


def _listen(heard: socket.socket, action: Callable[[], None]) -> None:
    while arrived := heard.recv(64):
        is_handled = signal.getsignal(signal.SIGTERM) not in (_give_way, signal.SIG_DFL)
        if signal.SIGTERM not in arrived or is_handled:
            continue
        try:
            action()
        finally:
            give_up = time.monotonic() + _PATIENCE_S
            while True:
                os.kill(os.getpid(), signal.SIGTERM if time.monotonic() < give_up else signal.SIGKILL)
                time.sleep(_REPEAT_S)
