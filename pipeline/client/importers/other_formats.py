"""Formats of tests that are known and not read: what each is, and how its runner writes one that is read."""

from __future__ import annotations

import json
import re
from typing import Any

_GO = "the output of go test; gotestsum --junitfile, or go-junit-report, makes JUnit"
ROOTS = {
    "testng-results": "TestNG's own results; push the JUnit reports beside them (junitreports/, Surefire's TEST-*.xml)",
    "robot": "Robot Framework's output; `robot --xunit FILE` writes JUnit, `rebot --xunit FILE` makes it of this",
    "Site": "CTest's dashboard file; `ctest --output-junit junit.xml` writes JUnit",
    "TestLog": "Boost.Test's log; `--log_format=JUNIT` writes JUnit",
    "TestResult": "Boost.Test's report; `--log_format=JUNIT` writes JUnit",
    "Catch2TestRun": "Catch2's XML; `--reporter junit` writes JUnit",
    "Catch": "Catch2's XML; `--reporter junit` writes JUnit",
    "doctest": "doctest's XML; `--reporters=junit` writes JUnit",
    "TestCase": "Qt Test's XML; `-o junit.xml,junitxml` writes JUnit",
    "testExecutions": "SonarQube's generic test data; push the runner's JUnit report",
    "test-suite": "Allure 1; the results of Allure 2 are read",
    "assembly": "perhaps xUnit.net 1; versions 2 and 3 are read",
    "execution": "JUnit's Open Test Reporting; push the JUnit XML of Surefire or Gradle",
    "events": "JUnit's Open Test Reporting; push the JUnit XML of Surefire or Gradle",
}
"""Root element to what it is."""

_MEMBERS = (
    ({"examples", "summary", "version"}, "RSpec's JSON; the gem rspec_junit_formatter writes JUnit"),
    ({"generator", "suite", "statistics"}, "Robot Framework's output; `rebot --xunit junit.xml FILE` makes JUnit"),
    ({"children", "befores"}, "an Allure container; push the directory it is in"),
    ({"children", "afters"}, "an Allure container; push the directory it is in"),
)
_LINES = (
    ({"Action", "Package"}, _GO),
    ({"Action", "ImportPath"}, _GO),
    ({"protocolVersion", "runnerVersion"}, "the machine output of Dart or Flutter; tojunit of junitreport makes JUnit"),
    ({"type", "event", "test_count"}, "the JSON of Rust's libtest; cargo nextest writes JUnit"),
)
_TAP = re.compile(rb"(?:TAP version 1[34]\s|1\.\.\d+\s|(?:not )?ok 1\b)")


def named_by_members(value: Any) -> str:
    """What a JSON document is; empty where it is not known."""
    return _known(value, _MEMBERS)


def named_by_beginning(head: bytes) -> str:
    """What a file is that holds lines; empty where it is not known."""
    if head.startswith(b"=== RUN "):
        return _GO
    if _TAP.match(head):
        return "TAP; `node --test-reporter=junit`, `prove --formatter TAP::Formatter::JUnit` and others write JUnit"
    try:
        return _known(json.loads(head.lstrip().split(b"\n", 1)[0]), _LINES)
    except (ValueError, RecursionError):
        return ""


def _known(value: Any, table: tuple[tuple[set[str], str], ...]) -> str:
    if not isinstance(value, dict):
        return ""
    return next((told for members, told in table if members <= value.keys()), "")
