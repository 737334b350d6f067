"""Allure results: one ``*-result.json`` for each attempt of a test; a folder of them is one report.

Tests of runners whose own reports are read too are named as those name them: Allure's ``fullName`` holds what it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED

_SUITE_LABELS = ("parentSuite", "suite", "subSuite")
_FILE_ENDS = {"jest": "#", "vitest": "#", "mocha": ": ", "playwright": " › "}
"""What stands between the file and the titles in the ``fullName`` that these runners' reporters write."""


def allure(results: Iterable[Node]) -> Report:
    """Executions of all results: those of one history are attempts, in the order in which they began."""
    tests: dict[str, list[Node]] = {}
    for result in results:
        key = result.get("historyId").text() or result.get("uuid").text() or result.get("fullName").text()
        tests.setdefault(key, []).append(result)
    found = []
    for attempts in tests.values():
        attempts.sort(key=lambda result: result.get("start").number() or 0)
        found.append(_execution(attempts))
    return Report("allure", "allure", found)


def _execution(results: list[Node]) -> Execution:
    last = results[-1]
    labels = {label.get("name").text(): label.get("value").text() for label in last.get("labels").items()}
    # Allure itself leaves an excluded one out of a test's history: the number of a retry.
    parameters = [
        (parameter.get("name").text(), parameter.get("value").text())
        for parameter in last.get("parameters").items()
        if parameter.get("excluded").value is not True
    ]
    test_id, test_name, test_suite = _identity(last, labels, parameters)
    browser = labels.get("browser", "")
    if not browser and labels.get("framework") == "playwright":
        browser = dict(parameters).get("Project", "")
    return Execution(test_id, test_name, test_suite, [_attempt(result) for result in results], browser)


def _identity(result: Node, labels: Mapping[str, str], parameters: Sequence[tuple[str, str]]) -> tuple[str, str, str]:
    name, full, framework = result.get("name").text(), result.get("fullName").text(), labels.get("framework", "")
    if framework == "pytest" and "#" in full:
        classname, _, function = full.partition("#")
        if name != function and not name.startswith(f"{function}["):  # a title that the test was given
            values = "-".join(value.strip("'") for _, value in parameters)
            name = f"{function}[{values}]" if parameters else function
        file = labels.get("package", "").replace(".", "/")
        file = f"{file}.py" if file else ""
        return identity("pytest", "allure", result.context, classname=classname, name=name, file=file)
    file_end = _FILE_ENDS.get(framework)
    if file_end and file_end in full:
        path, _, titles = full.partition(file_end)
        # The package's name may stand before the file, which is relative to it.
        file = path.rpartition(":")[2]
        titles = titles.replace(" > ", " ") if framework == "mocha" else titles
        return identity(framework, "allure", result.context, name=titles, file=file)
    suite = " > ".join(filter(None, (labels.get(name, "") for name in _SUITE_LABELS))) or labels.get("package", "")
    full = full or f"{suite}::{name}"
    if parameters:
        full += f"[{', '.join(value for _, value in parameters)}]"
    return identity("allure", "allure", result.context, fullname=full, name=name, suite=suite)


def _attempt(result: Node) -> Attempt:
    status = result.get("status").status()
    start, stop = result.get("start").number(), result.get("stop").number()
    duration_ms = None if start is None or stop is None else max(0.0, stop - start)
    error = result.get("statusDetails").failure() if status == FAILED else NO_FAILURE
    return Attempt(status, duration_ms, int(stop) if stop else None, error)
