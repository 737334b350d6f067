"""Allure results: one ``*-result.json`` for each attempt of a test; a folder of them is one report."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED

_SUITE_LABELS = ("parentSuite", "suite", "subSuite")


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
    suite = " > ".join(filter(None, (labels.get(name, "") for name in _SUITE_LABELS))) or labels.get("package", "")
    name = last.get("name").text()
    full = last.get("fullName").text() or f"{suite}::{name}"
    parameters = [parameter.get("value").text() for parameter in last.get("parameters").items()]
    if parameters:
        full += f"[{', '.join(parameters)}]"
    test_id, test_name, test_suite = identity("allure", "allure", last.context, fullname=full, name=name, suite=suite)
    return Execution(
        test_id, test_name, test_suite, [_attempt(result) for result in results], labels.get("browser", "")
    )


def _attempt(result: Node) -> Attempt:
    status = result.get("status").status()
    start, stop = result.get("start").number(), result.get("stop").number()
    duration_ms = None if start is None or stop is None else max(0.0, stop - start)
    error = result.get("statusDetails").failure() if status == FAILED else NO_FAILURE
    return Attempt(status, duration_ms, int(stop) if stop else None, error)
