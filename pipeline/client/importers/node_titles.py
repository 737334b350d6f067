"""What ``node --test`` calls a test in its JUnit report: the file, and all titles with blanks between them.

Its <testsuites> has no attributes, and suites stand in suites. Node 20 gives every test the class name ``test`` and no
file; since 22 the class name is the titles of the suites with dots between them, and the file is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NODE = "node-test"

_SCRIPT = re.compile(r".*\.[cm]?[jt]sx?")


def is_node(classname: str, file: str, suites: Sequence[str]) -> bool:
    """Whether a test of this class name, in these suites (the outermost first), was written by ``node --test``."""
    if _SCRIPT.fullmatch(file):
        return classname == (".".join(suites) or "test")
    return not file and classname == "test"


def names(name: str, file: str, suites: Sequence[str]) -> tuple[str, str]:
    """(titles, file) of a test; where no file is told, the outermost title stands for it."""
    if not suites and not file and _SCRIPT.fullmatch(name):
        return "", name  # a file that ended before its tests
    return " ".join([*suites, name]), file or (suites[0] if suites else "")
