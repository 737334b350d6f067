"""Processes to kill: a server that has imported everything forks them, each in some ten milliseconds.

``target`` is a function of ``kill_child``. What a child says, its traceback too, is among the test's captured output.
"""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PATIENCE_S = 60


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


@contextmanager
def clickhouse(directory: Path) -> Iterator[str]:
    """ClickHouse's HTTP interface in a process of its own, its files in ``directory``; yields the URL."""
    command = [sys.executable, "-m", "pipeline.embedded.http_interface", "--port", "0", "--writable"]
    process = subprocess.Popen([*command, "--path", str(directory)], stdout=subprocess.PIPE)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@functools.cache
def _nursery() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_child"])
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
