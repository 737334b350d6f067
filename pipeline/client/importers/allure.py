"""Allure results: one ``*-result.json`` for each attempt of a test; a folder of them is one report.

Tests of runners whose own reports are read too are named as those name them: Allure's ``fullName`` holds what it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, Failure
from pipeline.client.identity import RUN
from pipeline.client.importers.cucumber_names import CUCUMBER, Titles
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, PASSED, SKIPPED, status_word

_SUITE_LABELS = ("parentSuite", "suite", "subSuite")
_CUCUMBERJS = "cucumberjs"
_FILE_ENDS = {"jest": "#", "vitest": "#", "mocha": ": ", "playwright": " › "}
"""What stands between the file and the titles in the ``fullName`` that these runners' reporters write."""


def allure(files: Iterable[Node]) -> Report:
    """Executions of all results: those of one history are attempts, in the order in which they began.

    ``files`` may hold containers, which tell of fixtures and hooks that failed, and errors of the run.
    """
    results: list[Node] = []
    containers: list[Node] = []
    run: list[Failure] = []
    for file in files:
        if isinstance(file.get("children").value, list):
            containers.append(file)
        elif file.get("status") or file.get("name"):
            results.append(file)
        else:
            run += [error.failure() for error in file.get("errors").items()]
    results.sort(key=_start)
    attempts = _attempts(results, containers)
    titles = Titles()
    executions = sorted(_executions(results, attempts), key=lambda told: _start(told[0]))
    found = [_execution(last, tried, titles) for last, tried in executions]
    if run and not any(attempt.status == FAILED for attempt in attempts):
        found.append(Execution(RUN, RUN, "", [Attempt(FAILED, 0.0, None, run[0])]))
    return Report("allure", "allure", found)


def _executions(results: list[Node], attempts: list[Attempt]) -> Iterator[tuple[Node, list[Attempt]]]:
    """The last result of each execution, and its attempts.

    What passed is not tried again, unless its runner counts the tries: a second one is another test of that name.
    """
    tests: dict[str, list[tuple[Node, Attempt]]] = {}
    for result, attempt in zip(results, attempts, strict=True):
        key = result.get("historyId").text() or result.get("uuid").text() or result.get("fullName").text()
        before = tests.setdefault(key, [])
        if before and before[-1][1].status == PASSED and not _is_retry(result):
            yield before[-1][0], [one for _, one in before]
            before.clear()
        before.append((result, attempt))
    for tried in tests.values():
        yield tried[-1][0], [one for _, one in tried]


def _is_retry(result: Node) -> bool:
    return any(parameter.get("name").text() == "Retry" for parameter in result.get("parameters").items())


def _execution(last: Node, attempts: list[Attempt], titles: Titles) -> Execution:
    labels = _labels(last)
    # Allure itself leaves an excluded one out of a test's history: the number of a retry.
    parameters = [
        (parameter.get("name").text(), parameter.get("value").text())
        for parameter in last.get("parameters").items()
        if parameter.get("excluded").value is not True
    ]
    if labels.get("framework") == _CUCUMBERJS:
        feature = labels.get("feature", "")
        name = titles.next(feature, last.get("name").text())
        named = identity(CUCUMBER, "allure", last.context, name=name, suite=feature)
    else:
        named = _identity(last, labels, parameters)
    browser = labels.get("browser", "")
    if not browser and labels.get("framework") == "playwright":
        browser = dict(parameters).get("Project", "")
    return Execution(*named, attempts, browser)


def _labels(result: Node) -> dict[str, str]:
    return {label.get("name").text(): label.get("value").text() for label in result.get("labels").items()}


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


def _attempts(results: list[Node], containers: list[Node]) -> list[Attempt]:
    """An attempt for each result. A fixture or hook that failed, which no test of it shows, fails the last of them."""
    attempts = [_attempt(result) for result in results]
    places = {result.get("uuid").text(): place for place, result in enumerate(results)}
    for container in containers:
        fixtures = [*container.get("befores").items(), *container.get("afters").items()]
        failed = [one for one in fixtures if status_word(one.get("status").text()) == FAILED]
        inside = [places[uuid] for uuid in container.get("children").texts() if uuid in places]
        if failed and inside and not any(attempts[place].status == FAILED for place in inside):
            last = attempts[max(inside)]
            last.status, last.failure = FAILED, failed[0].get("statusDetails").failure()
    return attempts


def _attempt(result: Node) -> Attempt:
    status, details = result.get("status").status(), result.get("statusDetails")
    if status == PASSED and _labels(result).get("framework") == _CUCUMBERJS:
        status, details = _of_steps(result)
    start, stop = result.get("start").number(), result.get("stop").number()
    duration_ms = None if start is None or stop is None else max(0.0, stop - start)
    error = details.failure() if status == FAILED else NO_FAILURE
    return Attempt(status, duration_ms, int(stop) if stop else None, error)


def _of_steps(result: Node) -> tuple[str, Node]:
    """Cucumber's reporter writes scenarios as passed whose steps are not defined, pending or skipped."""
    steps = [
        (status_word(step.get("status").text()), step.get("statusDetails")) for step in result.get("steps").items()
    ]
    undefined = next((details for status, details in steps if not status), None)
    if undefined is not None:
        return FAILED, undefined
    return SKIPPED if any(status == SKIPPED for status, _ in steps) else PASSED, result.get("statusDetails")


def _start(result: Node) -> float:
    return result.get("start").number() or 0.0
