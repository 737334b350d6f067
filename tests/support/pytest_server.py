"""Sessions of pytest, each in a fork of one process that has imported already what every session needs.

Starting Python, pytest and the client costs more than three seconds of CPU, a fork costs nothing. A session in a fork
is a session of its own: arguments, directory, environment, packages of PYTHONPATH, output and exit code.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Ends when this process does: its standard input closes."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PIPELINE_")}
    return subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ours
    )


def run_in_fork(directory: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What ``python -m pytest ARGUMENTS`` in ``directory`` comes to."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept, "out"), Path(kept, "err")
        request = {"directory": str(directory), "arguments": arguments, "environment": environment}
        server.stdin.write(json.dumps(request | {"out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        told = [path.read_text(errors="replace") for path in (out, err)]
    return subprocess.CompletedProcess(arguments, code, *told)


def serve() -> None:
    """Read requests, fork for each, and answer with its exit code."""
    import pytest  # noqa: F401  # imported here for all forks

    import pipeline.client.producer
    import pipeline.client.pytest_reporter  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _session(request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _session(request: dict[str, Any]) -> NoReturn:
    import pytest

    for path, number in ((os.devnull, 0), (request["out"], 1), (request["err"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for the life of the process
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    paths = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [request["directory"], *filter(None, paths)]
    sys.exit(pytest.main(request["arguments"]))


if __name__ == "__main__":
    serve()
