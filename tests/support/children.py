"""Processes to kill: a server that has imported everything forks them, each in some ten milliseconds.

``target`` is a function of ``kill_child``. What a child says, its traceback too, is among the test's captured output.
A ``Program`` is forked too: most of the CPU of starting the service as an operator does goes into imports.
"""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PATIENCE_S = 240
"""Long enough for a busy machine; a child that hangs is still found."""

START_WITHIN_S = 300


def start(target: Callable[..., None], **arguments: Any) -> ForkServerProcess:
    """Run ``target(**arguments)`` in a process of its own, which ends with the caller's at the latest."""
    child = _nursery().Process(target=target, kwargs=arguments, daemon=True)
    child.start()
    return child


def run(target: Callable[..., None], **arguments: Any) -> None:
    """The same, waited for; fails unless it ended well."""
    assert exit_code(start(target, **arguments)) == 0, f"{target.__name__} failed, see what it said"


def kill(child: ForkServerProcess) -> None:
    """SIGKILL to one that lives."""
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL


def exit_code(child: ForkServerProcess) -> int:
    """What it ended with, a signal's number as a negative one; waits for its end."""
    child.join(PATIENCE_S)
    code = child.exitcode
    if code is None:
        child.kill()  # it would work on what the next test looks at
        child.join()
    child.close()
    assert code is not None, "a child does not end"
    return code


class Program:
    """``python -m MODULE ARGUMENTS`` as a process of its own, with what tests use of ``Popen``."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path | None = None
    ) -> None:
        import pipeline_child

        said = {"out": out, "err": err or out}
        self._child = start(
            pipeline_child.program, module=module, arguments=list(arguments), environment=environment, **said
        )
        assert self._child.pid is not None
        self.pid: int = self._child.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, a signal's number as a negative one."""
        return self._child.exitcode

    def poll(self) -> int | None:
        return self._child.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        self._child.join(timeout_s)
        code = self._child.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a child", timeout_s or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_pipeline(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """``pipeline ARGUMENTS``, waited for: what it wrote, and its exit code."""
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept, "out"), Path(kept, "err")
        child = Program("pipeline", arguments, environment, out, err)
        try:
            code = child.wait(600)
        finally:
            child.kill()
        return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())


def serve_clickhouse(directory: Path, port: int = 0) -> tuple[Program, str]:
    """ClickHouse's HTTP interface, its files in ``directory``, and its URL; it answers by then."""
    arguments = ["--path", str(directory), "--port", str(port), "--writable"]
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept, "out"), Path(kept, "err")
        server = Program("pipeline.embedded.http_interface", arguments, dict(os.environ), out, err)
        until_s = time.monotonic() + START_WITHIN_S
        while not (out.exists() and out.read_text().endswith("\n")):
            assert server.poll() is None and time.monotonic() < until_s, err.read_text() if err.exists() else ""
            time.sleep(0.02)
        told = json.loads(out.read_text())
    assert told["pid"] == server.pid
    return server, told["url"]


@contextmanager
def clickhouse(directory: Path) -> Iterator[str]:
    """The same, until the end of the block; yields the URL."""
    server, url = serve_clickhouse(directory)
    try:
        yield url
    finally:
        server.kill()
        server.wait()


@functools.cache
def _nursery() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_child", "pipeline_child"])
    # The server is a fresh interpreter and has to find the tests; it says nothing when it does not.
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    finally:
        os.environ["PYTHONPATH"] = before
    return context
