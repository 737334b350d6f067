"""The product's two programs in a process forked from one that has imported all of them, but ClickHouse's engine.

That engine starts threads when it is imported, and a fork would lose them.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

import pipeline.operate.commands
import pipeline.operate.wiring  # noqa: F401  # imported here for all forks
from pipeline.base import failpoints
from pipeline.cli import main as command_line
from pipeline.embedded import http_interface

PROGRAMS = {"pipeline": command_line.main, "pipeline.embedded.http_interface": http_interface.main}


def program(module: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> NoReturn:
    """What ``python -m MODULE ARGUMENTS`` does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for the life of the process
    os.environ.clear()
    os.environ.update(environment)
    failpoints.reset()
    sys.argv = [module, *arguments]
    sys.exit(PROGRAMS[module]())
