"""Mocha's and Cypress's JSON: mocha's own reporter, mochawesome, and what ``cypress.run()`` gives back."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE
from pipeline.client.identity import SUITE
from pipeline.client.importers.identities import identity, relative
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, PASSED, SKIPPED, status_word

_MOST_RETRIES = 100


def mocha(report: Node) -> Report:
    """Executions of mocha's JSON reporter: a test's list says how it ended, a failed hook is a failed test.

    Tests of one file may share a title; then there are as many executions, and as many of them failed.
    """
    started = report.get("stats", "start").time_ms()
    listed: dict[tuple[str, str], list[tuple[Node, str]]] = {}
    for name, status in _LISTS:
        for test in report.get(name).items():
            listed.setdefault(_key(test), []).append((test, status))
    found, named = [], set()
    for test in report.get("tests").items():
        key = _key(test)
        named.add(key)
        ends = listed.get(key)
        # Of a test that is in two lists (it failed after it had passed) the first counts.
        node, status = ends.pop(0) if ends else (test, FAILED if test.get("err").value else PASSED)
        found.append(_mocha_test(node, status, started))
    hooks = [end for key, ends in listed.items() if key not in named for end in ends]
    return Report("mocha", "mocha", found + [_mocha_test(node, status, started) for node, status in hooks])


_LISTS = (("failures", FAILED), ("pending", SKIPPED), ("passes", PASSED))


def _key(test: Node) -> tuple[str, str]:
    return test.get("file").text(), test.get("fullTitle").text()


def _mocha_test(test: Node, status: str, started: int | None) -> Execution:
    name = test.get("fullTitle").text() or test.get("title").text()
    test_id, test_name, suite = identity("mocha", "mocha", test.context, file=test.get("file").text(), name=name)
    error = test.get("err").failure() if status == FAILED else NO_FAILURE
    duration_ms = test.get("duration").duration_ms()
    last = Attempt(status, 0.0 if duration_ms is None and status == SKIPPED else duration_ms, started, error)
    retries = min(test.get("currentRetry").count(), _MOST_RETRIES)
    return Execution(test_id, test_name, suite, [*(Attempt(FAILED, None, started) for _ in range(retries)), last])


def mochawesome(report: Node) -> Report:
    """Executions of mochawesome, which Cypress projects use; before version 4 its one suite stands in ``suites``."""
    started = report.get("stats", "start").time_ms()
    roots = [*report.get("results").items(), report.get("suites")]
    found = [execution for root in roots for execution in _mochawesome_suite(root, "", started)]
    return Report("mochawesome", "mocha", found)


def _mochawesome_suite(suite: Node, file: str, started: int | None) -> Iterator[Execution]:
    file = _mochawesome_file(suite) or file
    hooks = [hook for name in ("beforeHooks", "afterHooks") for hook in suite.get(name).items()]
    tests = [*suite.get("tests").items(), *(hook for hook in hooks if hook.get("fail").value is True)]
    for test in tests:
        word = status_word(test.get("state").text())
        if test.get("fail").value is True:
            word = FAILED
        elif test.get("pending").value is True or test.get("skipped").value is True:
            word = SKIPPED
        elif test.get("pass").value is True:
            word = PASSED
        name = test.get("fullTitle").text() or test.get("title").text()
        test_id, test_name, test_suite = identity("mocha", "mocha", test.context, file=file, name=name)
        error = test.get("err").failure() if word == FAILED else NO_FAILURE
        attempt = Attempt(word or SKIPPED, test.get("duration").duration_ms(), started, error)
        yield Execution(test_id, test_name, test_suite, [attempt])
    for inner in suite.get("suites").items():
        yield from _mochawesome_suite(inner, file, started)


def _mochawesome_file(suite: Node) -> str:
    """``file`` is ``fullFile`` without the directory in which mocha ran, so that it begins with a slash."""
    file, full = suite.get("file").text(), suite.get("fullFile").text()
    if not file or file == full or relative(full, suite.context.root) != full:
        return full or file
    return file.lstrip("/\\")


def cypress(report: Node) -> Report:
    """Executions of the result of ``cypress.run()``; its attempts are kept."""
    found = []
    browser = report.get("browserName").text()
    for run in report.get("runs").items():
        file = run.get("spec", "relative").text() or run.get("spec", "name").text()
        started = run.get("stats", "startedAt").time_ms() or run.get("stats", "wallClockStartedAt").time_ms()
        for test in run.get("tests").items():
            name = " ".join(test.get("title").texts())
            test_id, test_name, suite = identity("cypress", "cypress", test.context, file=file, name=name)
            found.append(Execution(test_id, test_name, suite, _cypress_attempts(test, started), browser))
        if run.get("error"):  # the spec could not be loaded
            attempt = Attempt(FAILED, 0.0, started, run.get("error").failure())
            found.append(Execution(SUITE, SUITE, relative(file, report.context.root), [attempt], browser))
    return Report("cypress", "cypress", found)


def _cypress_attempts(test: Node, started: int | None) -> list[Attempt]:
    state = status_word(test.get("state").text())
    attempts = []
    for attempt in test.get("attempts").items():
        status = status_word(attempt.get("state").text())
        duration_ms = attempt.get("duration").duration_ms()
        if duration_ms is None:
            duration_ms = attempt.get("wallClockDuration").duration_ms()
        begun = attempt.get("startedAt").time_ms() or attempt.get("wallClockStartedAt").time_ms() or started
        error = attempt.get("error").failure() if status == FAILED else NO_FAILURE
        attempts.append(Attempt(status, duration_ms, begun, error))
    if not attempts:
        attempts = [Attempt(state, None, started)]
    last = attempts[-1]
    last.status = state or last.status
    if len(attempts) == 1 and last.duration_ms is None:
        last.duration_ms = test.get("duration").duration_ms()
    if last.status == FAILED and last.failure == NO_FAILURE:
        last.failure = test.get("displayError").failure()
    return attempts
