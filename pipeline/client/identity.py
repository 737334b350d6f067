"""One test, one identity: what a test is called, whichever way its results come.

The same test has the same ``test_id``, ``test_name`` and ``test_suite`` from a plugin, from a JUnit report and from
CTRF; otherwise changing the way of feeding would split its history. Standard library only.
"""

from __future__ import annotations

import re

RUN = "(run)"
"""``test_id`` of an error of the run itself."""
SUITE = "(suite)"
"""``test_id`` of an error of a suite that belongs to no test of it."""

_DATA_FILE = re.compile(r"^(?P<dirs>(?:.*\.)?)(?P<file>[^.]+\.(?:rst|txt|md|ya?ml|ipynb|feature|robot|toml))$")


def pytest_identity(nodeid: str) -> tuple[str, str, str]:
    """(test_id, test_name, test_suite) of a node id: ``tests/login.py::TestForm::test_empty[chromium]`` is test
    ``TestForm::test_empty[chromium]`` of suite ``tests.login``; a file that is not collected has its own name."""
    if nodeid in (RUN, ""):
        return RUN, RUN, ""
    path, _, name = nodeid.partition("::")
    module = path.removesuffix(".py").replace("/", ".")
    return nodeid, name or module, module


def pytest_node_id(classname: str, name: str, file: str = "") -> str:
    """The node id behind a ``<testcase>`` that pytest wrote.

    JUnit's class name has dots for everything: ``tests.login.TestForm`` was ``tests/login.py::TestForm``. The trailing
    parts that begin with a capital letter are classes; ``file`` (pytest's xunit1 family) settles the module.
    """
    if not classname:
        return _module_path(name)  # a module that could not be collected
    if (classname, name) == ("pytest", "internal"):
        return RUN
    parts = classname.split(".")
    module = file.removesuffix(".py").replace("\\", "/").replace("/", ".")
    if module and (classname == module or classname.startswith(f"{module}.")):
        path, classes = file.replace("\\", "/"), classname[len(module) + 1 :].split(".")
        return "::".join([path, *filter(None, classes), name])
    data_file = _DATA_FILE.match(classname)
    if data_file:
        return f"{data_file['dirs'].replace('.', '/')}{data_file['file']}::{name}"
    count = len(parts)
    while count > 1 and parts[count - 1][:1].isupper():
        count -= 1
    return "::".join([_module_path(".".join(parts[:count])), *parts[count:], name])


def _module_path(module: str) -> str:
    return module.replace(".", "/") + ".py"
