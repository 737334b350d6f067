"""pytest-json-report: the phases of each test, named by node id."""

from __future__ import annotations

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, Failure, failure
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, PASSED, RETRIED, SKIPPED, status_word

_PHASES = ("setup", "call", "teardown")


def pytest_json(report: Node) -> Report:
    """Executions of the report, and of what could not be collected."""
    created = report.get("created").time_ms()
    found = [
        _execution(item, [Attempt(FAILED, 0.0, created, _collection_failure(item))])
        for item in report.get("collectors").items()
        if status_word(item.get("outcome").text()) == FAILED
    ]
    found += [_execution(test, _attempts(test, created)) for test in report.get("tests").items()]
    return Report("pytest-json", "pytest", found)


def _execution(item: Node, attempts: list[Attempt]) -> Execution:
    test_id, name, suite = identity("pytest", "junit", item.context, nodeid=item.get("nodeid").text())
    return Execution(test_id, name, suite, attempts)


def _attempts(test: Node, created: int | None) -> list[Attempt]:
    """The one that the report has the phases of, which is the last; after ``rerun`` there was at least one before."""
    status = test.get("outcome").status()
    if status != RETRIED:
        return [_attempt(test, status, created)]
    outcomes = [status_word(test.get(phase, "outcome").text()) for phase in _PHASES]
    last = next((word for word in (FAILED, SKIPPED) if word in outcomes), PASSED)
    return [Attempt(FAILED, None, created), _attempt(test, last, created)]


def _attempt(test: Node, status: str, created: int | None) -> Attempt:
    durations = [test.get(phase, "duration").duration_ms(1000) for phase in _PHASES]
    known = [duration for duration in durations if duration is not None]
    error: Failure = NO_FAILURE
    if status == FAILED:
        crashes = [test.get(phase, "crash", "message").text() for phase in _PHASES]
        error = failure(next(filter(None, crashes), ""))
    return Attempt(status, sum(known) if known else None, created, error)


def _collection_failure(item: Node) -> Failure:
    text = item.get("longrepr").text()
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return failure(errors[-1] if errors else text)
