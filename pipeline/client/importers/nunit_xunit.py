"""The XML of NUnit (2 and 3; Unity and Pester write it too) and of xUnit.net (2 and 3).

A test is a <test-case> or a <test>; suites, assemblies and their <error>s are groups around it. A group that says it
failed, and shows no test that did, is a failed execution of the suite: a teardown, an assembly that was not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, failure
from pipeline.client.identity import RUN, SUITE
from pipeline.client.importers.identities import identity
from pipeline.client.importers.numbers import seconds
from pipeline.client.importers.report import Context, Report, ReportRefused
from pipeline.client.importers.times import when
from pipeline.client.importers.xml_events import parse
from pipeline.status_words import FAILED, INTERRUPTED, PASSED, SKIPPED, SYNONYMS, status_word

NUNIT_ROOTS = frozenset({"test-run", "test-results"})
XUNIT_ROOTS = frozenset({"assemblies"})

_GROUPS = frozenset({"test-run", "test-results", "test-suite", "assemblies", "assembly", "error"})
_TESTS = frozenset({"test-case", "test"})
_OUTCOMES = {"notrunnable": SKIPPED, "warning": PASSED, "cancelled": INTERRUPTED}
_FAILED_GROUP = re.compile(r"fail|error|invalid", re.IGNORECASE)
_CLASS = re.compile(r"(.+?)\.([^.(]+(?:\(.*)?)", re.DOTALL)
"""NUnit 2 names a test with its class before it; values in parentheses may have dots."""
_ASSEMBLY = re.compile(r"^.*[\\/](?=[^\\/]+\.(?:dll|exe)$)", re.IGNORECASE)
"""The path before an assembly, in which machines differ."""
_LONGEST_TEXT = 4_000


@dataclass
class _Group:
    name: str
    time_ms: int | None
    is_failed: bool
    is_of_teardown: bool = False
    holds_failure: bool = False
    message: str = ""
    error_type: str = ""


@dataclass
class _Test:
    execution: Execution
    message: str = ""
    error_type: str = ""


def nunit(stream: IO[bytes], context: Context) -> Report:
    """Executions of NUnit's XML. Raises ``ReportRefused``."""
    return _Reader(context, "nunit", NUNIT_ROOTS).read(stream)


def xunit(stream: IO[bytes], context: Context) -> Report:
    """Executions of xUnit.net's XML. Raises ``ReportRefused``."""
    return _Reader(context, "xunit", XUNIT_ROOTS).read(stream)


class _Reader:
    def __init__(self, context: Context, producer: str, roots: frozenset[str]) -> None:
        self._context, self._producer, self._roots = context, producer, roots
        self._path: list[str] = []
        self._groups: list[_Group] = []
        self._test: _Test | None = None
        self._found: list[Execution] = []

    def read(self, stream: IO[bytes]) -> Report:
        parse(stream, self._context, start=self._start, end=self._end, text=self._text)
        return Report(self._producer, self._producer, self._found)

    def _start(self, element: str, said: dict[str, str], place: str) -> None:
        if not self._path and element not in self._roots:
            raise ReportRefused(f"{place}: <{element}> is not the root of a report of {self._producer}")
        if element in _GROUPS:
            self._groups.append(self._group(element, said, place))
        elif element in _TESTS and self._test is None:
            self._test = self._begun(said, place)
        elif element == "failure" and (told := self._told()):
            told.error_type = said.get("exception-type", "")
            if self._test:
                self._test.execution.attempts[0].status = FAILED
        self._path.append(element)

    def _end(self, element: str) -> None:
        self._path.pop()
        if element in _TESTS and self._test:
            test, self._test = self._test, None
            attempt = test.execution.attempts[0]
            if attempt.status == FAILED:
                attempt.failure = failure(test.message, test.error_type)
                self._groups[-1].holds_failure = True
            self._found.append(test.execution)
        elif element in _GROUPS:
            self._end_group(self._groups.pop())

    def _text(self, text: str) -> None:
        # An assertion of NUnit 3 has a message of its own besides the test's.
        if self._path[-2:] == ["failure", "message"] and (told := self._told()):
            told.message = (told.message + text)[:_LONGEST_TEXT]

    def _told(self) -> _Group | _Test | None:
        """What a failure that stands here is of."""
        return self._test or (self._groups[-1] if self._groups else None)

    def _group(self, element: str, said: Mapping[str, str], place: str) -> _Group:
        time_ms = self._groups[-1].time_ms if self._groups else None
        day = said.get("run-date") or said.get("date")
        if day:
            hour = said.get("run-time") or said.get("start-time") or said.get("time", "")
            time_ms = when(f"{day} {hour}", place, self._context)
        counted = any(seconds(said.get(name, "0")) for name in ("failed", "failures", "errors"))
        is_failed = element == "error" or counted or bool(_FAILED_GROUP.match(said.get("result", "")))
        site, name = said.get("site", ""), _ASSEMBLY.sub("", said.get("name", ""))
        return _Group(name, time_ms, is_failed and site != "Parent", site == "TearDown")

    def _end_group(self, group: _Group) -> None:
        if group.is_failed and (not group.holds_failure or group.is_of_teardown):
            own = SUITE if self._groups else RUN
            error = failure(group.message or "failed, and no test of it did", group.error_type)
            attempt = Attempt(FAILED, 0.0, group.time_ms, error)
            self._found.append(Execution(own, own, group.name, [attempt]))
            group.holds_failure = True
        if self._groups:
            self._groups[-1].holds_failure |= group.holds_failure

    def _begun(self, said: Mapping[str, str], place: str) -> _Test | None:
        status = self._status(said, place)
        if status is None:
            return None
        ended = when(said.get("end-time") or said.get("finish-rtf", ""), place, self._context)
        attempt = Attempt(status, self._duration_ms(said, place), ended or self._groups[-1].time_ms, NO_FAILURE)
        return _Test(Execution(*self._identity(said), [attempt]))

    def _status(self, said: Mapping[str, str], place: str) -> str | None:
        word = re.split(r"[^A-Za-z]", said.get("result", ""), maxsplit=1)[0]
        if said.get("label") == "Cancelled":
            word = "cancelled"
        if not word and said.get("executed"):  # NUnit before 2.5
            passed = PASSED if said.get("success", "true").lower() == "true" else FAILED
            return passed if said["executed"].lower() == "true" else SKIPPED
        if not word:
            self._context.warnings.add("this test has no result, as in a list of tests; left out", place)
            return None
        status = _OUTCOMES.get(word.lower(), status_word(word))
        if status not in SYNONYMS:
            self._context.warnings.add("this result is not known; counted in the total only", place, word)
        return status

    def _duration_ms(self, said: Mapping[str, str], place: str) -> float | None:
        text = said.get("time-rtf") or said.get("duration") or said.get("time", "")
        found = seconds(text) if text else None
        if text and found is None:
            self._context.warnings.add("the time cannot be read as seconds; stored without a duration", place, text)
        return None if found is None else max(0.0, found * 1000)

    def _identity(self, said: Mapping[str, str]) -> tuple[str, str, str]:
        name, classname = said.get("name", ""), said.get("classname") or said.get("type", "")
        own = said.get("description", "")
        if not classname and own and name.endswith(f".{own}"):  # Pester: blocks, a dot, the test
            classname, name = name[: -len(own) - 1], own
        elif not classname and (parts := _CLASS.fullmatch(name)):
            classname, name = parts[1], parts[2]
        name = name.removeprefix(f"{classname}.")
        return identity(self._producer, "trx", self._context, classname=classname, name=name)
