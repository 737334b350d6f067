"""JUnit XML: pytest, Playwright, Surefire, Gradle, googletest, nextest, jest-junit, mocha, TestNG, PHPUnit and others.

``time`` is seconds. <failure> and <error> are failed; <skipped>, <disabled> and <ignored> are skipped, and so is what
an attribute says was not run. A suite's <error> outside of any test is a failed execution of the suite. Attempts that
were repeated (<flakyFailure>, <rerunFailure> and pytest's repeated elements) are attempts of one execution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import IO

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, Failure, failure
from pipeline.client.identity import RUN, SUITE
from pipeline.client.importers import browser_suites, jest_titles, mocha_junit, node_titles
from pipeline.client.importers.cucumber_names import CUCUMBER, Titles, junit_title
from pipeline.client.importers.identities import identity, relative
from pipeline.client.importers.junit_case import Case
from pipeline.client.importers.junit_messages import is_failed_skip, message_of, type_of
from pipeline.client.importers.numbers import seconds
from pipeline.client.importers.report import Context, Report, ReportRefused
from pipeline.client.importers.times import when
from pipeline.client.importers.xml_events import parse
from pipeline.status_words import FAILED, FLAKY, INTERRUPTED, PASSED, RETRIED, SKIPPED, SYNONYMS, status_word

ROOTS = frozenset({"testsuites", "testsuite", "testrun"})

_FAILURES = frozenset({"failure", "error"})
_SKIPS = frozenset({"skipped", "disabled", "ignored", "skip", "todo", "pending"})
_REPEATS = frozenset({"flakyFailure", "flakyError", "rerunFailure", "rerunError"})
_LONGEST_TEXT = 4_000
_LONGEST_END = 1_000
"""Of a longer text, whose end is kept too: what a traceback ends with."""
_LONGEST_PROPERTY = 256

RUN_PROPERTIES = re.compile(
    r"(?:git|ci|vcs|build|github|gitlab|jenkins)?[._-]?"
    r"(?:commit|branch|build|revision|sha|run|job|version|tag|pull_?request|pr)(?:[._-]?(?:id|number|name|sha|hash|url))?",
    re.IGNORECASE,
)
"""Properties that name the run; others are kept only where ``--property`` asks. A class path has 97 KB, some are
secrets."""
_FIELDS = ("browser", "environment")

_TIME_IN_NAME = re.compile(r"(?<=.)-20\d{12}$", re.ASCII)
"""unittest-xml-reporting puts the time of the run behind a suite's name: a suite of its own each time."""

_NODE_TAP = "node-tap"
_BUN = "bun"
_OF_BROWSERS = (browser_suites.KARMA, browser_suites.TESTCAFE)
_PRODUCERS = (
    # What <testsuites>, or else the first <testsuite>, is called.
    (re.compile(r"pytest tests|pytest"), "pytest"),
    (re.compile(r"nextest-run"), "nextest"),
    (re.compile(r"jest tests"), jest_titles.JEST_JUNIT),
    (re.compile(r"vitest tests"), jest_titles.VITEST_JUNIT),
    (re.compile(r"Mocha Tests|Root Suite"), mocha_junit.MOCHA),
    (re.compile(r"Cucumber"), CUCUMBER),
    (re.compile(r"AllTests"), "googletest"),
    (re.compile(r"TAP Tests"), _NODE_TAP),
    (re.compile(r"bun test"), _BUN),
    (browser_suites.TESTCAFE_SUITE, browser_suites.TESTCAFE),
)


@dataclass
class _Suite:
    name: str = ""
    start_ms: int | None = None
    properties: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    place: str = ""
    file: str = ""
    told: dict[str, str] = field(default_factory=dict)
    """Properties that name its tests rather than the run."""
    declared: int = 0
    """Failures and errors that its attributes count."""
    failed: int = 0
    """Tests inside of which an attempt failed, and suites; those of inner suites included."""
    failure: Failure | None = None
    is_run: bool = False


def junit(stream: IO[bytes], context: Context) -> Report:
    """Executions of a JUnit report. Raises ``ReportRefused``."""
    reader = _Reader(context)
    parse(stream, context, start=reader.start, end=reader.end, text=reader.text)
    return reader.report()


class _Reader:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._root = ""
        self._producer = ""
        self._is_playwright = False
        self._is_anonymous = False
        self._suites = [_Suite()]
        self._case: Case | None = None
        self._cases: list[Case] = []
        self._failed_suites: list[_Suite] = []
        self._text: list[str] | None = None
        self._text_length = 0
        self._text_end = ""
        self._failing: tuple[str, dict[str, str]] | None = None
        self._property = ""
        self._file = ""

    def report(self) -> Report:
        self._check_counts(self._suites[0])
        executions = [self._suite_execution(suite) for suite in self._failed_suites]
        executions += [self._execution(case) for case in self._with_attempts()]
        return Report("junit", self._producer, executions)

    # Elements

    def start(self, element: str, attributes: dict[str, str], place: str) -> None:
        if not self._root:
            self._start_root(element, attributes, place)
        elif element == "testsuite":
            self._start_suite(attributes, place)
        elif element == "testcase":
            self._start_case(attributes, place)
        elif element == "property":
            self._property = attributes.get("name", "")
            self._listen()
            if "value" in attributes:
                self._take_property(self._property, attributes["value"])
                self._property = ""
        elif element in _FAILURES or element in _REPEATS:
            self._failing = (element, attributes)
            self._listen()
            if element in _REPEATS:
                self._repeated(element, attributes, place)
        elif element == "system-err" and self._case is not None and self._producer == mocha_junit.WDIO:
            self._listen()
        elif element in _SKIPS and self._case is not None and self._case.attempt.status != FAILED:
            self._case.attempt.status = SKIPPED
            if is_failed_skip(attributes):
                self._case.attempt.status, self._case.attempt.failure = FAILED, failure(attributes["message"])
            # node --test writes of a test that is still to be written how it failed too, and passes its run.
            self._case.is_todo = "todo" in (element, attributes.get("type"))

    def end(self, element: str) -> None:
        if element == "testsuite":
            self._end_suite()
        elif element == "testcase" and self._case is not None:
            case, self._case = self._case, None
            if case.attempt.status not in SYNONYMS:
                word = case.attempt.status
                self._context.warnings.add("this status is not known; counted in the total only", case.place, word)
            self._cases.append(case)
            self._suites[-1].failed += bool(
                case.attempt.status == FAILED or case.earlier or case.later or case.error_output or case.is_todo
            )
        elif element == "property" and self._property:
            self._take_property(self._property, self._heard())
            self._property = ""
        elif (element in _FAILURES or element in _REPEATS) and self._failing is not None:
            self._failed(*self._failing, self._heard())
            self._failing = None
        elif element == "system-err" and self._text is not None and self._case is not None:
            self._case.error_output = self._heard()

    def text(self, text: str) -> None:
        if self._text is not None and self._text_length < _LONGEST_TEXT:
            self._text.append(text[:_LONGEST_TEXT])
            self._text_length += len(text)
            text = text[_LONGEST_TEXT:]
        if self._text is not None and text and self._text_length >= _LONGEST_TEXT:
            self._text_end = (self._text_end + text[-_LONGEST_END:])[-_LONGEST_END:]

    def _listen(self) -> None:
        self._text, self._text_length, self._text_end = [], 0, ""

    def _heard(self) -> str:
        heard, self._text = "".join(self._text or ()), None
        return f"{heard}\n{self._text_end}".strip() if self._text_end else heard.strip()

    def _start_root(self, element: str, attributes: dict[str, str], place: str) -> None:
        if element not in ROOTS:
            raise ReportRefused(f"{place}: <{element}> is not the root of a JUnit report")
        self._root = element
        self._is_anonymous = not attributes
        self._is_playwright = "id" in attributes and "name" in attributes and element == "testsuites"
        self._notice(attributes.get("name", ""))
        if element == "testsuite":
            self._start_suite(attributes, place)
            return
        run = self._suites[0]
        run.is_run, run.place, run.declared = True, place, _declared(attributes)
        if attributes.get("timestamp"):
            run.start_ms = when(attributes["timestamp"], place, self._context)

    def _notice(self, name: str) -> None:
        if not self._producer:
            self._producer = next((producer for known, producer in _PRODUCERS if known.fullmatch(name)), "")
            if self._producer == mocha_junit.MOCHA and self._root == "testsuite":
                self._producer = mocha_junit.XUNIT

    # Suites

    def _start_suite(self, attributes: dict[str, str], place: str) -> None:
        outer = self._suites[-1]
        if len(self._suites) == 1:
            self._notice(attributes.get("name", ""))
        suite = _Suite(
            _TIME_IN_NAME.sub("", attributes.get("name", "")) or outer.name,
            outer.start_ms,
            dict(outer.properties),
            attributes.get("hostname", ""),
            place,
            attributes.get("file") or outer.file,
            declared=_declared(attributes),
        )
        if attributes.get("timestamp"):
            suite.start_ms = when(attributes["timestamp"], place, self._context)
        if self._producer == mocha_junit.MOCHA:  # Cypress names the file at the first suite of it alone
            suite.file = self._file = suite.file or self._file
        self._suites.append(suite)

    def _end_suite(self) -> None:
        if len(self._suites) == 1:
            return
        suite = self._suites.pop()
        self._check_counts(suite)
        self._suites[-1].failed += suite.failed

    def _check_counts(self, suite: _Suite) -> None:
        """What a suite, or the run, counts as failed and holds nowhere is stored as one failure of its own."""
        if suite.failure is None and suite.declared > 0 and not suite.failed:
            self._context.warnings.add("failures are counted here and no test failed: stored as one", suite.place)
            suite.failure = failure("the report counts failures, and holds no test that failed")
        if suite.failure is not None:
            self._failed_suites.append(suite)
            suite.failed += 1

    def _suite_execution(self, suite: _Suite) -> Execution:
        attempt = Attempt(FAILED, 0.0, suite.start_ms, suite.failure or failure(""))
        own = RUN if suite.is_run else SUITE
        tags = dict(suite.properties)
        fields = {name: tags.pop(name, "") for name in _FIELDS}
        name = suite.name
        if self._producer in _OF_BROWSERS:
            name, fields["browser"] = "", browser_suites.browser_of(name)
        return Execution(own, own, name, [attempt], tags=tags, **fields)

    # Tests

    def _start_case(self, attributes: dict[str, str], place: str) -> None:
        suite = self._suites[-1]
        name, classname = attributes.get("name", ""), attributes.get("classname", attributes.get("class", ""))
        start_ms = suite.start_ms
        if attributes.get("timestamp"):
            start_ms = when(attributes["timestamp"], place, self._context)
        status = _attribute_status(attributes)
        if self._producer == "pytest" and status == PASSED and not name:
            status = INTERRUPTED  # pytest leaves this of the test in which the run was broken off
        attempt = Attempt(status, self._duration_ms(attributes, place), start_ms)
        browser = suite.hostname if self._is_playwright and classname == suite.name else ""
        self._producer = self._producer or ("playwright" if browser else "")
        properties = dict(suite.properties)
        file = attributes.get("file") or suite.file
        titles = [one.name for one in self._suites[1:]]
        if not self._producer and self._is_anonymous and node_titles.is_node(classname, file, titles):
            self._producer = node_titles.NODE
        if self._producer == node_titles.NODE:
            name, file = node_titles.names(name, file, titles)
        elif self._producer == _BUN:
            name = " ".join([*titles[1:], name])  # its outermost suite is the file
        self._case = Case(name, classname, file, suite.name, browser, attempt, properties, suite.told, place)

    def _duration_ms(self, attributes: dict[str, str], place: str) -> float | None:
        text = attributes.get("time", attributes.get("duration", "")).strip()
        if not text:
            return None
        found = seconds(text)
        if found is None:
            self._context.warnings.add("the time cannot be read as seconds; stored without a duration", place, text)
        elif found < 0:
            self._context.warnings.add("a negative time is taken as 0", place, text)
            found = 0.0
        return None if found is None else found * 1000

    def _failed(self, element: str, attributes: dict[str, str], text: str) -> None:
        error = failure(message_of(self._producer, attributes, text), type_of(attributes))
        case = self._case
        if case is None:
            suite = self._suites[-1]
            suite.failure = suite.failure or error
        elif element in _REPEATS:
            attempts = case.earlier if element.startswith("flaky") else case.later
            attempts[-1].failure = error
        elif case.attempt.failure == NO_FAILURE and not case.is_todo:
            case.attempt.status, case.attempt.failure = FAILED, error

    def _repeated(self, element: str, attributes: dict[str, str], place: str) -> None:
        """An attempt besides the one of the test's own: before it where it passed in the end, else after it."""
        if self._case is None:
            return
        start_ms = when(attributes.get("timestamp", ""), place, self._context)
        duration_ms = self._duration_ms(attributes, place) if attributes.get("time") else None
        attempt = Attempt(FAILED, duration_ms, self._case.attempt.timestamp_ms if start_ms is None else start_ms)
        (self._case.earlier if element.startswith("flaky") else self._case.later).append(attempt)

    def _execution(self, case: Case) -> Execution:
        test_id, test_name, suite = self._identity(case)
        tags = dict(case.properties)
        fields = {field: tags.pop(field, "") for field in _FIELDS}
        fields["browser"] = fields["browser"] or case.browser
        return Execution(test_id, test_name, suite, [*case.earlier, case.attempt, *case.later], tags=tags, **fields)

    def _identity(self, case: Case) -> tuple[str, str, str]:
        if not case.name and not case.classname:
            own = SUITE if case.suite else RUN
            return own, own, case.suite
        producer, name, file = self._producer, case.name, case.file
        if producer == node_titles.NODE and not name:
            return (relative(file, self._context.root),) * 3
        if producer == mocha_junit.XUNIT:
            name = f"{case.classname} {name}".strip()
        elif producer == mocha_junit.MOCHA:
            name, file = mocha_junit.full_title(name, case.classname), file or case.suite
        elif producer == mocha_junit.WDIO:
            name, file = mocha_junit.wdio_title(name, case.classname, case.told), mocha_junit.wdio_file(case.told)
            case.browser = mocha_junit.wdio_browser(case.told)
        elif producer == jest_titles.JEST_JUNIT:
            name, file = jest_titles.jest_junit_names(name, case.classname, file, case.suite)
            if name == SUITE:
                return SUITE, SUITE, relative(file, self._context.root)
        elif producer == jest_titles.VITEST_JUNIT:
            name, file = jest_titles.vitest_title(name), file or case.classname
        elif producer in _OF_BROWSERS:
            case.browser = browser_suites.browser_of(case.suite)
            case.classname = case.suite = browser_suites.class_of(case.classname, case.suite)
        elif case.browser:
            producer, file = "playwright", case.classname
        return identity(
            producer, "junit", self._context, classname=case.classname, name=name, suite=case.suite, file=file
        )

    def _with_attempts(self) -> list[Case]:
        """The tests, each once, where their producer writes an element for each attempt."""
        if self._producer == "pytest":
            return self._merged()
        if self._producer == CUCUMBER:
            titles = Titles()
            for case in self._cases:
                case.suite, case.name = case.classname, titles.next(case.classname, junit_title(case.name))
        return mocha_junit.wdio_attempts(self._cases) if self._producer == mocha_junit.WDIO else self._cases

    def _merged(self) -> list[Case]:
        """pytest writes an element for each attempt that it repeats, and a second one for a failed teardown."""
        found: dict[tuple[str, ...], Case] = {}
        for place, case in enumerate(self._cases):
            # What has no name, as a test in which a worker died, is no attempt of another one.
            key = (case.classname, case.name) if case.name else (str(place),)
            first = found.setdefault(key, case)
            if first is case:
                continue
            last = first.later[-1] if first.later else first.attempt
            if last.status == FAILED and case.attempt.status == FAILED:
                last.duration_ms = (last.duration_ms or 0.0) + (case.attempt.duration_ms or 0.0)
            else:
                # Without a word of its own, and there again: it was tried again, which is done after a failure.
                last.status = FAILED
                first.later.append(case.attempt)
        return list(found.values())

    # Properties

    def _take_property(self, name: str, value: str) -> None:
        properties = self._suites[-1].properties if self._case is None else self._case.properties
        if self._case and self._producer == _NODE_TAP and name in _SKIPS and self._case.attempt.status == PASSED:
            self._case.attempt.status = SKIPPED  # it writes no element for that
        if self._case is None and name == browser_suites.KARMA_PROPERTY:
            self._producer = self._producer or browser_suites.KARMA
        if self._case is None and name in mocha_junit.WDIO_PROPERTIES:
            self._suites[-1].told[name] = value[:_LONGEST_TEXT]
            self._producer = self._producer or (mocha_junit.WDIO if name == "specId" else "")
        if name in _FIELDS or name in self._context.properties or RUN_PROPERTIES.fullmatch(name):
            properties[name] = value.encode()[:_LONGEST_PROPERTY].decode(errors="ignore")


def _declared(attributes: dict[str, str]) -> int:
    return sum(int(seconds(attributes.get(name, "0")) or 0) for name in ("errors", "failures"))


_SAYS_NOTHING = frozenset({"", "run", "completed", "complete", "finished", "done", "executed", "ran"})
"""Of googletest, Bazel and others: that a test ran, not how it ended."""


def _attribute_status(attributes: dict[str, str]) -> str:
    """What attributes say where no child does: googletest, ctest and others write no element for it."""
    words = [status_word(attributes.get(name, "")) for name in ("status", "result")]
    if "suppressed" in words:  # googletest's word for a test that a filter left out
        return SKIPPED
    for status in (FAILED, INTERRUPTED, SKIPPED, RETRIED, FLAKY):
        if status in words:
            return status
    if attributes.get("executed", "").lower() == "false":
        return SKIPPED
    if any(attributes.get(name, "").lower() == "false" for name in ("success", "passed")):
        return FAILED
    return next((word for word in words if word not in SYNONYMS and word not in _SAYS_NOTHING), PASSED)
