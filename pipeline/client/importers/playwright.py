"""Playwright's JSON reporter: an execution for each test and project, with its attempts; the file is the suite.

The project is the browser. An attempt passed where it ended as expected (``test.fail`` expects a failure). An error
outside of any test, as a file that does not parse, is a failed execution of the run.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE
from pipeline.client.identity import RUN
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Context, Report
from pipeline.status_words import FAILED, FLAKY, INTERRUPTED, PASSED, SKIPPED

OUTCOMES = {"expected": PASSED, "flaky": FLAKY, "unexpected": FAILED, "skipped": SKIPPED}


def playwright(report: Node) -> Report:
    """Executions of the report."""
    context = report.context
    executions = [
        execution
        for suite in report.get("suites").items()
        for execution in _suite(suite, suite.get("file").text() or suite.get("title").text(), (), context)
    ]
    return Report("playwright", "playwright", [*run_errors(report), *executions])


def run_errors(report: Node) -> list[Execution]:
    """One failed execution of the run for the errors that belong to no test."""
    errors = [error.failure() for error in report.get("errors").items()]
    if not errors:
        return []
    started = report.get("stats", "startTime").time_ms()
    tags = {"errors": str(len(errors))} if len(errors) > 1 else {}
    return [Execution(RUN, RUN, "", [Attempt(FAILED, 0.0, started, errors[0])], tags=tags)]


def _suite(suite: Node, file: str, titles: tuple[str, ...], context: Context) -> Iterator[Execution]:
    for spec in suite.get("specs").items():
        name = " › ".join([*titles, spec.get("title").text()])
        for test in spec.get("tests").items():
            yield _test(test, spec.get("file").text() or file, name, context)
    for inner in suite.get("suites").items():
        yield from _suite(inner, file, (*titles, inner.get("title").text()), context)


def _test(test: Node, file: str, name: str, context: Context) -> Execution:
    expected = test.get("expectedStatus").text() or PASSED
    attempts = [attempt_of(result, expected) for result in test.get("results").items()]
    word = test.get("status").text()
    outcome = OUTCOMES.get(word, "")
    if not outcome:
        context.warnings.add("this status is none of Playwright's; the attempts decide", f"{test.place}.status", word)
    test_id, test_name, suite = identity("playwright", "playwright", context, file=file, name=name)
    browser = test.get("projectName").text()
    return Execution(test_id, test_name, suite, judged(attempts, outcome), browser)


def attempt_of(result: Node, expected: str) -> Attempt:
    """One result; ``expected`` is the status that the test was to have."""
    word = result.get("status").text()
    status = word if word in (SKIPPED, INTERRUPTED) else PASSED if word == expected else FAILED
    duration_ms = result.get("duration").duration_ms()
    started = result.get("startTime").time_ms()
    ended = None if started is None else started + int(duration_ms or 0)
    error = result.get("error") or next(result.get("errors").items(), Node(None, result.context))
    return Attempt(status, duration_ms, ended, error.failure() if status == FAILED and error else NO_FAILURE)


def judged(attempts: list[Attempt], outcome: str) -> list[Attempt]:
    """The attempts with the test's own verdict on the last one.

    Playwright calls a test flaky that failed and then skipped itself; it never passed, so it stays skipped.
    """
    if not attempts:
        return [Attempt(outcome or FAILED, 0.0)]
    last = attempts[-1]
    gave_up = last.status == SKIPPED and outcome == FLAKY
    if last.status != INTERRUPTED and outcome and not gave_up:
        last.status = outcome
    return attempts
