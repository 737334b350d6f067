"""Jest's JSON (``jest --json``), which vitest's json reporter writes too, and what jest gives its own reporters."""

from __future__ import annotations

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, failure
from pipeline.client.identity import SUITE
from pipeline.client.importers.identities import identity, relative
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, PASSED, SKIPPED, status_word


def jest(report: Node) -> Report:
    """Executions of each file. A file that failed although none of its tests did, as by what runs before or after all
    of them, is a failed execution of its suite."""
    found: list[Execution] = []
    for suite in report.get("testResults").items():
        # Reporters such as jest-stare keep what jest gives them, which has other names than what jest writes.
        given = suite.get("testResults")
        file = relative(suite.get("testFilePath" if given.value is not None else "name").text(), report.context.root)
        started = suite.get("startTime").time_ms() or suite.get("perfStats", "start").time_ms()
        tests = [_test(test, file, started) for test in (given or suite.get("assertionResults")).items()]
        found += tests
        has_failed = any(test.attempts[-1].status == FAILED for test in tests)
        message = suite.get("message").text() or suite.get("failureMessage").text()
        if not has_failed and (status_word(suite.get("status").text()) == FAILED or suite.get("testExecError")):
            found.append(Execution(SUITE, SUITE, file, [Attempt(FAILED, 0.0, started, failure(_message(message)))]))
    return Report("jest", "jest", found)


def _test(test: Node, file: str, started: int | None) -> Execution:
    titles = [*test.get("ancestorTitles").texts(), test.get("title").text()]
    name = " ".join(filter(None, titles)) or test.get("fullName").text().strip()
    test_id, test_name, suite = identity("jest", "jest", test.context, file=file, name=name)
    status = test.get("status").status()
    begun = test.get("startAt").time_ms() or started
    messages = test.get("failureMessages").texts()
    error = failure(messages[0]) if status == FAILED and messages else NO_FAILURE
    duration_ms = test.get("duration").duration_ms()
    last = Attempt(status, 0.0 if duration_ms is None and status == SKIPPED else duration_ms, begun, error)
    # vitest tells of a test that passed after a retry what its attempts before failed of.
    reasons = test.get("retryReasons").texts() or (messages if status == PASSED else [])
    return Execution(test_id, test_name, suite, [*(Attempt(FAILED, None, begun, failure(r)) for r in reasons), last])


def _message(text: str) -> str:
    """Without the heading that jest draws over it."""
    return text.strip().removeprefix("● Test suite failed to run").strip()
