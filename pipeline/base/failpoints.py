"""Named places in the code where a test lets the process die.

``PIPELINE_FAILPOINT=drainer.after_insert`` kills the process with SIGKILL, exactly as a power cut
would, the first time it comes by that place; ``drainer.after_insert:3`` the third time. For tests
inside one process there are ``drainer.after_insert:3:raise``, which raises ``Injected``, and
``drainer.after_insert:3:pause=0.5``, which holds the thread half a second. Only the N-th hit acts.

Unset, as it is in production, a failpoint costs one comparison.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, field

from pipeline.base.errors import ConfigError

VARIABLE = "PIPELINE_FAILPOINT"


class Injected(Exception):
    """The failure a test asked for. Not a ``PipelineError``: nothing may mistake it for an outage."""


@dataclass
class _Failpoint:
    name: str
    nth: int = 1
    action: str = "kill"
    pause_s: float = 0.0
    hits: int = 0
    pausing: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(self) -> None:
        with self.lock:
            self.hits += 1
            if self.hits != self.nth:
                return
        if self.action == "raise":
            raise Injected(f"{self.name}, hit {self.nth}")
        if self.action == "pause":
            self.pausing += 1
            time.sleep(self.pause_s)
            self.pausing -= 1
        else:
            os.kill(os.getpid(), signal.SIGKILL)


_lock = threading.Lock()
_read = False
_point: _Failpoint | None = None


def hit(name: str) -> None:
    """Pass the place ``name``; does not return if the environment says that the process dies here.

    Raises ``Injected`` where ``raise`` was asked for, ``ConfigError`` if the variable cannot be read.
    """
    if not _read:
        _read_environment()
    if _point is not None and _point.name == name:
        _point.strike()


def is_pausing() -> bool:
    """Whether a thread is held at a failpoint now: a test that pauses one thread means a process that sleeps."""
    return _point is not None and _point.pausing > 0


def reset() -> None:
    """Forget counts and read the environment again at the next hit; for tests."""
    global _read, _point
    with _lock:
        _read, _point = False, None


def _read_environment() -> None:
    global _read, _point
    with _lock:
        if not _read:
            _point = _parse(os.environ.get(VARIABLE, ""))
            _read = True


def _parse(text: str) -> _Failpoint | None:
    if not text:
        return None
    name, _, rest = text.partition(":")
    nth, _, action = rest.partition(":")
    action, _, pause_s = action.partition("=")
    try:
        point = _Failpoint(name, int(nth or 1), action or "kill", float(pause_s or 0))
    except ValueError:
        point = None
    if point is None or point.nth < 1 or point.action not in ("kill", "raise", "pause") or point.pause_s < 0:
        raise ConfigError(f"{VARIABLE} is {text!r}: expected name, name:N, name:N:raise or name:N:pause=SECONDS")
    return point
