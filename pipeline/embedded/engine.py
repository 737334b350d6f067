"""Who holds the embedded engine.

The engine locks its directory to one process. A process that opens it takes a lock file first and
writes down beside it who it is and, once it serves ClickHouse's HTTP interface, where: a second
writer can then be refused with a sentence naming the first, and readers find their way.
The lock is the kernel's (``flock``): it ends with the process, ``kill -9`` included, so what a
dead owner left in the file is never believed.
"""

import fcntl
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.base.errors import EngineBusy
from pipeline.embedded import engine_config

Role = Literal["writer", "reader"]

# A reader holds the engine for one question, and a writer serves a moment after it opened it: that long
# the other one waits.
_PATIENCE_S = 5.0
# ``owner`` holds the lock for an instant to see whether it is free; what a dead writer left may then look alive.
_BLINK_S = 0.3
_POLL_S = 0.05


@dataclass(frozen=True)
class Owner:
    """The process that holds an engine; ``http_port`` is 0 while it does not serve."""

    pid: int
    command: str
    role: Role
    http_host: str = ""
    http_port: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"

    @property
    def url(self) -> str:
        """Where a process of the same machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(self.http_host, self.http_host)
        return f"http://{host}:{self.http_port}"


class Hold:
    """This process's hold on an engine; shared by all its handles, given up by the last ``release``."""

    def __init__(self, path: Path, role: Role, databases: Sequence[str]) -> None:
        self.path = path
        self.role: Role = role
        self._descriptor = _lock(path)
        self._users = 1
        engine_config.write(path, databases)
        self._write(Owner(os.getpid(), _command(), role))

    def announce(self, host: str, port: int) -> None:
        """Write down where this process answers ClickHouse's HTTP interface; port 0 takes it back."""
        self._write(Owner(os.getpid(), _command(), self.role, host, port))

    def share(self) -> "Hold":
        """One more handle on the same engine."""
        with _registry_lock:
            self._users += 1
        return self

    def release(self) -> None:
        """One handle less; the last one lets other processes in."""
        with _registry_lock:
            self._users -= 1
            if self._users:
                return
            _registry.pop(self.path, None)
            _owner_file(self.path).unlink(missing_ok=True)
            os.close(self._descriptor)

    def _write(self, owner: Owner) -> None:
        file = _owner_file(self.path)
        scratch = file.with_name(file.name + ".new")
        scratch.write_text(json.dumps(asdict(owner)), encoding="utf-8")
        scratch.replace(file)  # readers never see half a file


_registry_lock = threading.RLock()
_registry: dict[Path, Hold] = {}


def hold(path: Path, role: Role, databases: Sequence[str] = ()) -> Hold:
    """Take the engine at ``path`` for this process, or share the hold it already has.

    Analysts read ``databases``, as the first hold of the process names them: the engine learns it when it starts.

    Waits a moment for a reader of another process to finish; raises ``EngineBusy``, naming the
    owner, if a writer holds it.
    """
    path = path.resolve()
    with _registry_lock:
        held = _registry.get(path)
        if held is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = _registry[path] = Hold(path, role, databases)
        else:
            held.share()
            if role == "writer" and held.role == "reader":
                held.role = "writer"
                held.announce("", 0)
        return held


def owner(path: Path) -> Owner | None:
    """Who holds the engine at ``path`` now; None if no process does, whatever an old file says."""
    path = path.resolve()
    lock_file = _lock_file(path)
    if not lock_file.exists():
        return None
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read(path)
    finally:
        os.close(descriptor)


def serving_owner(path: Path) -> Owner | None:
    """The owner, once it says where it serves; None if it does not say so soon (it serves right after opening)."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        first = owner(path)
        if first is None or first.http_port:
            return first
        if time.monotonic() > give_up:
            return None
        time.sleep(_POLL_S)


def _lock(path: Path) -> int:
    descriptor = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            first = _read(path)
            patience_s = _BLINK_S if first.role == "writer" else _PATIENCE_S
            if time.monotonic() - began > patience_s:
                os.close(descriptor)
                raise EngineBusy(
                    f"the embedded ClickHouse at {path} is held by {first}; stop that process, "
                    "or use its HTTP interface, or set clickhouse.dsn to a server"
                ) from None
        time.sleep(_POLL_S)


def _read(path: Path) -> Owner:
    """What the owner wrote; an owner between locking and writing has not said who it is yet."""
    try:
        return Owner(**json.loads(_owner_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Owner(0, "starting or ending", "reader")


def _owner_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])[:200]
