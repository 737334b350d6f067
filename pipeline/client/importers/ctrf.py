"""CTRF, the Common Test Report Format: one JSON format that reporters exist for in most runners."""

from __future__ import annotations

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, failure, typed_by
from pipeline.client.importers.identities import identity
from pipeline.client.importers.jest_titles import vitest_title
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, PASSED, SYNONYMS, status_word

_MOST_RETRIES = 100
_PRODUCERS = {"pytest": "pytest", "pytest-json-ctrf": "pytest"}
_NAMED_BY_PRODUCER = frozenset({"pytest", "playwright", "jest", "vitest", "mocha"})
"""Their tests have the names that other reports of the same runner give them."""


def ctrf(report: Node) -> Report:
    """Executions of ``results.tests``."""
    results = report.get("results")
    tool = results.get("tool", "name").text().lower()
    producer = _PRODUCERS.get(tool, tool)
    environment = results.get("environment", "testEnvironment").text()
    found = [_test(test, producer, environment) for test in results.get("tests").items()]
    return Report("ctrf", producer, found)


def _test(test: Node, producer: str, environment: str) -> Execution:
    parts = [part for text in test.get("suite").texts() for part in text.split(" > ")]
    name, file, browser = test.get("name").text(), test.get("filePath").text(), test.get("browser").text()
    if producer == "playwright" and len(parts) > 1 and file.replace("\\", "/").endswith(parts[1]):
        # Project, file and titles, as its JSON report names them.
        browser, file, parts, name = browser or parts[0], parts[1], [], " › ".join([*parts[2:], name])
    if producer == "vitest":
        name = vitest_title(name)
    suite = " > ".join(parts)
    nodeid = {"nodeid": _node_id(name, suite, file)} if producer == "pytest" else {}
    test_id, test_name, test_suite = identity(
        producer if producer in _NAMED_BY_PRODUCER and (file or producer == "pytest") else "ctrf",
        "ctrf",
        test.context,
        name=name,
        suite=suite or file,
        file=file,
        **nodeid,
    )
    return Execution(test_id, test_name, test_suite, _attempts(test), browser, environment)


def _attempts(test: Node) -> list[Attempt]:
    last = _attempt(test)
    earlier = [_attempt(attempt) for attempt in test.get("retryAttempts").items()]
    retries = min(test.get("retries").count(), _MOST_RETRIES)
    if earlier and retries and len(earlier) > retries:
        earlier = earlier[:-1]  # some reporters list the last attempt too
    if not earlier:
        missing = retries or (1 if test.get("flaky").value is True and last.status == PASSED else 0)
        earlier = [Attempt(FAILED, None, last.timestamp_ms) for _ in range(missing)]
    for attempt in earlier:
        attempt.timestamp_ms = last.timestamp_ms if attempt.timestamp_ms is None else attempt.timestamp_ms
    return [*earlier, last]


def _attempt(test: Node) -> Attempt:
    raw = status_word(test.get("rawStatus").text())
    # "other" is CTRF's word for what it has no word for.
    status = raw if test.get("status").text() == "other" and raw in SYNONYMS else test.get("status").status()
    duration_ms = test.get("duration").duration_ms()
    stopped, started = test.get("stop").time_ms(), test.get("start").time_ms()
    if stopped is None and started is not None:
        stopped = started + int(duration_ms or 0)
    error = typed_by(failure(test.get("message").text() or test.get("trace").text()), test.get("trace").text())
    return Attempt(status, duration_ms, stopped, error if status == FAILED else NO_FAILURE)


def _node_id(name: str, suite: str, file: str) -> str:
    """pytest's reporters put the node id into the name; older ones split it."""
    if "::" in name or not (file or suite):
        return name
    return f"{file or suite}::{name}"
