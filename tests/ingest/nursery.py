"""Processes that start in milliseconds: a server that has imported everything forks them, before any thread exists.

    with Nursery() as nursery:
        child = nursery.start("drain", redis_url=..., failpoint="drainer.before_ack:2")
        assert child.wait() == -signal.SIGKILL

Functions are those of ``drain_child``. A child that fails by an exception ends with 1 and leaves it in ``log``.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


class Child:
    """A forked process."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._ended = threading.Event()
        self._status = 0

    @property
    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def kill(self) -> bool:
        """SIGKILL; whether it was still alive."""
        if not self.is_alive:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait(self, patience_s: float = 120) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        assert self._ended.wait(patience_s), f"a child does not end: {self.text()}"
        return self._status

    def text(self) -> str:
        """What it said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def end(self, status: int) -> None:
        self._status = status
        self._ended.set()


class Nursery:
    """Starts children; kills those that are left when it closes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: dict[int, Child] = {}
        self._born = threading.Semaphore(0)
        self._last_pid = 0
        self._count = 0
        environment = os.environ | {
            # Threads do not survive a fork, and OpenBLAS would start some.
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path])),
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._born.acquire(timeout=120), "the nursery does not open"

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def start(self, function: str, **arguments: Any) -> Child:
        """Run ``drain_child.<function>(**arguments)`` in a process of its own."""
        assert self._server.stdin
        self._count += 1
        log = self._directory / f"child-{self._count}.log"
        self._server.stdin.write(json.dumps([function, arguments, str(log)]).encode() + b"\n")
        self._server.stdin.flush()
        assert self._born.acquire(timeout=60), "the nursery is dead"
        child = self._children[self._last_pid]
        child.log = log
        return child

    def run(self, function: str, **arguments: Any) -> None:
        """Start and wait; fails with what the child said unless it ended well."""
        child = self.start(function, **arguments)
        assert child.wait() == 0, child.text()

    def _listen(self) -> None:
        assert self._server.stdout
        for line in self._server.stdout:
            kind, pid, status = json.loads(line)
            if kind == "ended":
                self._children.pop(pid).end(status)
            else:
                if kind == "born":
                    self._last_pid = pid
                    self._children[pid] = Child(pid, Path())
                self._born.release()


def _serve() -> None:
    import drain_child

    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    _say("open", os.getpid(), 0)
    unread = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap(children)
        if 0 in readable:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    _live(drain_child, *json.loads(line))
                children.add(pid)
                _say("born", pid, 0)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.remove(pid)
        _say("ended", pid, os.waitstatus_to_exitcode(status))


def _live(functions: Any, name: str, arguments: dict[str, Any], log: str) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    status = 1
    try:
        getattr(functions, name)(**arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(kind: str, pid: int, status: int) -> None:
    os.write(1, json.dumps([kind, pid, status]).encode() + b"\n")


if __name__ == "__main__":
    _serve()
