"""Failures that a JSON report counts, or an exit code tells of, and that no test in it shows.

They are stored as one failure of the run, as the JUnit reader does by itself: a failed run never looks like one that
passed, or like one without tests.
"""

from __future__ import annotations

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import failure
from pipeline.client.identity import RUN
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report
from pipeline.status_words import FAILED, INTERRUPTED, status_word

_COUNTS = {
    "ctrf": (("results", "summary", "failed"),),
    "jest": (("numFailedTests",), ("numRuntimeErrorTestSuites",)),
    "mocha": (("stats", "failures"),),
    "mochawesome": (("stats", "failures"),),
    "cypress": (("totalFailed",), ("failures",)),
    "playwright": (("stats", "unexpected"),),
    "pytest-json": (("summary", "failed"), ("summary", "error")),
}
"""Format to where it counts what failed."""
_HARMLESS_EXITS = ("", "0", "5")
"""Of pytest: passed, or nothing collected, which is warned of."""


def add_counted_failures(report: Node, found: Report) -> None:
    """Add a failed execution of the run where the report tells of failures, and ``found`` holds none."""
    if any(one.attempts[-1].status in (FAILED, INTERRUPTED) for one in found.executions):
        return
    reason = _reason(report, found.format)
    if reason:
        report.context.warnings.add("the report tells of failures, and no test failed: stored as one of the run")
        found.executions.insert(0, Execution(RUN, RUN, "", [Attempt(FAILED, 0.0, None, failure(reason))]))


def _reason(report: Node, format: str) -> str:
    if any(report.get(*path).count() for path in _COUNTS.get(format, ())):
        return report.get("message").text() or "the report counts failures, and holds no test that failed"
    if format == "jest" and report.get("success").value is False and not _is_given_to_reporters(report):
        return "the report says success: false, and holds no test that failed"
    exit_code = report.get("exitcode").text() if format == "pytest-json" else ""
    is_failed_cypress = format == "cypress" and status_word(report.get("status").text()) == FAILED
    if is_failed_cypress or exit_code not in _HARMLESS_EXITS:
        return report.get("message").text() or f"the session ended with exit code {exit_code}"
    return ""


def _is_given_to_reporters(report: Node) -> bool:
    """Jest gives its results to reporters before it decides whether they are a success."""
    return any("testFilePath" in file.value for file in report.get("testResults").items())
