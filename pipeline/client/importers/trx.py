"""TRX, the results of Visual Studio and ``dotnet test``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, failure
from pipeline.client.identity import RUN
from pipeline.client.importers.identities import identity
from pipeline.client.importers.numbers import seconds
from pipeline.client.importers.report import Context, Report, ReportRefused
from pipeline.client.importers.times import when
from pipeline.client.importers.xml_events import parse
from pipeline.status_words import FAILED, INTERRUPTED, PASSED, SKIPPED, SYNONYMS, status_word

ROOTS = frozenset({"TestRun"})
_RESULTS = frozenset({"UnitTestResult", "TestResult", "WebTestResult", "GenericTestResult", "ManualTestResult"})
"""Not a <TestResultAggregation>: an ordered test is a list, whose tests count themselves."""
_OUTCOMES = {
    "inconclusive": SKIPPED,
    "notrunnable": SKIPPED,
    "disconnected": FAILED,
    "warning": PASSED,
    "passedbutrunaborted": PASSED,
    "inprogress": INTERRUPTED,
}
_LONGEST_TEXT = 4_000


@dataclass
class _Result:
    test_id: str
    name: str
    attempt: Attempt
    message: str = ""


def trx(stream: IO[bytes], context: Context) -> Report:
    """Executions of a TRX file. Raises ``ReportRefused``."""
    reader = _Reader(context)
    parse(stream, context, start=reader.start, end=reader.end, text=reader.text)
    return reader.report()


class _Reader:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._path: list[str] = []
        self._results: list[_Result] = []
        self._open: list[_Result] = []
        self._inner: set[int] = set()
        self._classes: dict[str, str] = {}
        self._unit = ""
        self._run_outcome = ""
        self._run_message = ""

    def report(self) -> Report:
        executions = [self._execution(result) for result in self._results]
        failed_run = status_word(self._run_outcome) in (FAILED, INTERRUPTED)
        if failed_run and not any(result.attempt.status in (FAILED, INTERRUPTED) for result in self._results):
            attempt = Attempt(FAILED, 0.0, None, failure(self._run_message or f"the run ended as {self._run_outcome}"))
            executions.insert(0, Execution(RUN, RUN, "", [attempt]))
        return Report("trx", "trx", executions)

    def start(self, element: str, attributes: dict[str, str], place: str) -> None:
        if not self._path and element not in ROOTS:
            raise ReportRefused(f"{place}: <{element}> is not the root of a TRX file")
        if element in _RESULTS and not self._open:
            self._open.append(self._result(attributes, place))
        elif element in _RESULTS:
            self._open.append(self._open[-1])  # rows of a data-driven test: their parent counts
        elif element == "UnitTest":
            self._unit = attributes.get("id", "")
        elif element == "TestMethod" and self._unit:
            self._classes[self._unit] = attributes.get("className", "").split(",")[0]
        elif element == "ResultSummary":
            self._run_outcome = attributes.get("outcome", "")
        self._path.append(element)

    def end(self, element: str) -> None:
        self._path.pop()
        if element in _RESULTS and self._open:
            result = self._open.pop()
            if not self._open:
                if result.attempt.status == FAILED:
                    result.attempt.failure = failure(result.message)
                self._results.append(result)

    def text(self, text: str) -> None:
        if self._path[-2:] == ["ErrorInfo", "Message"] and self._open:
            result = self._open[-1]
            result.message = (result.message + text)[:_LONGEST_TEXT]
        elif "RunInfo" in self._path and self._path[-1] == "Text" and len(self._run_message) < _LONGEST_TEXT:
            self._run_message += text

    def _result(self, attributes: dict[str, str], place: str) -> _Result:
        duration = seconds(attributes["duration"]) if attributes.get("duration") else None
        if duration is not None and duration < 0:
            self._context.warnings.add("a negative duration is taken as 0", place, attributes["duration"])
            duration = 0.0
        word = attributes.get("outcome", "")
        status = _OUTCOMES.get(word.lower(), status_word(word)) if word else FAILED
        if status not in SYNONYMS:
            self._context.warnings.add("this outcome is not known; counted in the total only", place, word)
        ended = when(attributes.get("endTime", ""), place, self._context)
        attempt = Attempt(status, None if duration is None else duration * 1000, ended, NO_FAILURE)
        return _Result(attributes.get("testId", ""), attributes.get("testName", ""), attempt)

    def _execution(self, result: _Result) -> Execution:
        classname = self._classes.get(result.test_id, "")
        name = result.name.removeprefix(f"{classname}.") if classname else result.name
        test_id, test_name, suite = identity("trx", "trx", self._context, classname=classname, name=name)
        return Execution(test_id, test_name, suite, [result.attempt])
