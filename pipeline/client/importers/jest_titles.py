"""What jest and vitest call a test, whichever of their reporters writes it down.

The file, and all titles with blanks between them: jest's full name, the only one that each of its reporters gives.
Pure functions; ``jest_json``, ``junit`` and ``ctrf`` read the reports.
"""

from __future__ import annotations

from pipeline.client.identity import SUITE

JEST_JUNIT = "jest-junit"
VITEST_JUNIT = "vitest-junit"

_NOT_RUN = "Test suite failed to run"
"""jest-junit's class name for a file that ended before its tests; the name is the file's."""
_HOOK_FAILED = "Test execution failure: could be caused by test hooks like 'afterAll'."
"""Its name for what ran before or after all tests of a file and failed."""


def vitest_title(name: str) -> str:
    """The titles of ``cart > adds``, as vitest's JUnit and CTRF reporters write them."""
    return name.replace(" > ", " ")


def jest_junit_names(name: str, classname: str, file: str, suite: str) -> tuple[str, str]:
    """(titles, file) of a test; the titles of a file that ended before its tests are ``(suite)``.

    Class name and name are all titles each (the default), or their own part of them. The file is an attribute with
    ``addFileAttribute``, the suite's name with ``suiteNameTemplate: {filepath}``. By default jest-junit names no file;
    then the outermost title stands for it.
    """
    name, classname = name.strip(), classname.strip()
    if classname == _NOT_RUN:
        return SUITE, file or name
    if name.endswith(_HOOK_FAILED):
        return SUITE, file or suite
    if name != classname and not name.startswith(f"{classname} "):
        name = f"{classname} {name}".strip()
    return name, file or suite
