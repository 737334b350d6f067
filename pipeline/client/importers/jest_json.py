"""Jest's JSON (``jest --json``), which vitest's json reporter writes too."""

from __future__ import annotations

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, failure
from pipeline.client.identity import SUITE
from pipeline.client.importers.identities import identity, relative
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, SKIPPED, status_word


def jest(report: Node) -> Report:
    """Executions of each file; a file that could not be run is a failed execution of its suite."""
    found: list[Execution] = []
    for suite in report.get("testResults").items():
        file = relative(suite.get("name").text(), report.context.root)
        tests = list(suite.get("assertionResults").items())
        found += [_test(test, file, suite.get("startTime").time_ms()) for test in tests]
        if not tests and status_word(suite.get("status").text()) == FAILED:
            attempt = Attempt(FAILED, 0.0, suite.get("startTime").time_ms(), suite.get("message").failure())
            found.append(Execution(SUITE, SUITE, file, [attempt]))
    return Report("jest", "jest", found)


def _test(test: Node, file: str, started: int | None) -> Execution:
    titles = [*test.get("ancestorTitles").texts(), test.get("title").text()]
    name = " › ".join(filter(None, titles)) or test.get("fullName").text()
    test_id, test_name, suite = identity("jest", "jest", test.context, file=file, name=name)
    status = test.get("status").status()
    begun = test.get("startAt").time_ms() or started
    messages = test.get("failureMessages").texts()
    error = failure(messages[0]) if status == FAILED and messages else NO_FAILURE
    duration_ms = test.get("duration").duration_ms()
    last = Attempt(status, 0.0 if duration_ms is None and status == SKIPPED else duration_ms, begun, error)
    reasons = test.get("retryReasons").texts()
    return Execution(test_id, test_name, suite, [*(Attempt(FAILED, None, begun, failure(r)) for r in reasons), last])
