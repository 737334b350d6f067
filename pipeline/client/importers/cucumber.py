"""Cucumber's JSON and its messages (NDJSON): an execution for each scenario, named as its JUnit report names it.

A scenario passed when its steps and hooks did. A step that is undefined, ambiguous or pending fails it, as in JUnit.
Messages tell of attempts too. An error outside of any scenario is a failed execution of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE, Failure, failure, typed_by
from pipeline.client.identity import RUN
from pipeline.client.importers.cucumber_names import CUCUMBER, Titles
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node, lines_of
from pipeline.client.importers.report import Context, Report
from pipeline.client.importers.times import when
from pipeline.status_words import FAILED, INTERRUPTED, PASSED, SKIPPED, status_word

_NS_TO_MS = 1e-6
_MESSAGES = frozenset({"meta", "source", "gherkinDocument", "pickle", "parseError", "testRunStarted", "attachment"})


def is_messages(head: bytes) -> bool:
    """Whether the first line is one of Cucumber's messages."""
    try:
        value = json.loads(head.lstrip().split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(value, dict)
        and len(value) == 1
        and all(name in _MESSAGES and isinstance(value[name], dict) for name in value)
    )


# JSON


def cucumber(report: Node) -> Report:
    """Executions of the features of a JSON report, which keeps the last attempt alone."""
    titles = Titles()
    found = [
        _named(titles, _suite(feature), element.get("name").text(), [attempt], report.context)
        for feature in report.items()
        for element, attempt in _scenarios(feature)
    ]
    return Report("cucumber", CUCUMBER, found)


def is_behave(feature: Any) -> bool:
    """Whether a feature is one of Python's behave, which writes seconds, and the status of a scenario too."""
    return isinstance(feature, dict) and "location" in feature and "uri" not in feature


def _suite(feature: Node) -> str:
    """The feature's name; of behave with the file before it, as its JUnit report has it."""
    name = feature.get("name").text()
    if not is_behave(feature.value):
        return name
    path = PurePosixPath(feature.get("location").text().rpartition(":")[0].replace("\\", "/"))
    return ".".join([*(part for part in path.with_suffix("").parts if part != "features"), name])


def _scenarios(feature: Node) -> Iterable[tuple[Node, Attempt]]:
    background: list[Node] = []
    for element in feature.get("elements").items():
        results = _results(element)
        if element.get("type").text() == "background":  # of Ruby and Java: before each scenario that it is part of
            background = results
            continue
        results, background = [*background, *results], []
        unit_ms = _NS_TO_MS
        if is_behave(feature.value):  # a step that did not run has no result there, and that is no failure
            unit_ms, results = 1000.0, [result for result in results if result]
        durations = [result.get("duration").duration_ms(unit_ms) or 0.0 for result in results]
        errors = [(result.get("status").text(), _error(result)) for result in results]
        if status_word(own := element.get("status").text()) != PASSED and own:  # of behave: its hooks are no steps
            errors.append((own, NO_FAILURE))
        yield element, Attempt(*_judged(errors, sum(durations), element.get("start_timestamp").time_ms()))


def _results(element: Node) -> list[Node]:
    """Of steps and hooks, in their order; Java's hooks stand beside the steps, also inside of them."""
    steps = element.get("steps").items()
    inside = [one for step in steps for one in (*step.get("before").items(), step, *step.get("after").items())]
    return [one.get("result") for one in (*element.get("before").items(), *inside, *element.get("after").items())]


def _error(result: Node) -> Failure:
    """Of behave a list of lines."""
    told = result.get("error_message")
    return failure("\n".join(told.texts()) or told.text()) if isinstance(told.value, list) else failure(told.text())


# Messages


@dataclass
class _Case:
    pickle: str
    attempts: dict[str, list[tuple[str, Failure]]] = field(default_factory=dict)
    """Id of an attempt to the status and failure of each step."""
    begun: dict[str, int | None] = field(default_factory=dict)
    ended: dict[str, int | None] = field(default_factory=dict)


def cucumber_messages(content: bytes, context: Context) -> Report:
    """Executions of a stream of messages. One that breaks off before the run ended did not pass."""
    features: dict[str, str] = {}
    pickles: dict[str, tuple[str, str]] = {}
    cases: dict[str, _Case] = {}
    case_of: dict[str, _Case] = {}
    run: list[Failure] = []
    has_ended = has_passed = False
    for message in lines_of(content, context):
        kind = next(iter(message.value), "")
        told = message.get(kind)
        if kind == "gherkinDocument":
            features[told.get("uri").text()] = told.get("feature", "name").text()
        elif kind == "pickle":
            pickles[told.get("id").text()] = told.get("uri").text(), told.get("name").text()
        elif kind == "testCase":
            cases[told.get("id").text()] = _Case(told.get("pickleId").text())
        elif kind == "testCaseStarted" and (case := cases.get(told.get("testCaseId").text())):
            attempt = told.get("id").text()
            case.attempts[attempt], case.begun[attempt], case_of[attempt] = [], _time_ms(told), case
        elif kind == "testStepFinished" and (case := case_of.get(attempt := told.get("testCaseStartedId").text())):
            case.attempts[attempt].append(_of_message(told.get("testStepResult")))
        elif kind == "testCaseFinished" and (case := case_of.get(attempt := told.get("testCaseStartedId").text())):
            case.ended[attempt] = _time_ms(told)
        elif kind == "testRunHookFinished" and told.get("result", "status").text() not in ("PASSED", "SKIPPED"):
            run.append(_of_message(told.get("result"))[1])
        elif kind == "parseError":
            run.append(failure(told.get("message").text()))
        elif kind == "testRunFinished":
            has_ended, has_passed = True, told.get("success").value is not False
            run += [told.failure()] if told.get("message") else []
    titles = Titles()
    found = []
    for case in cases.values():
        uri, title = pickles.get(case.pickle, ("", ""))
        attempts = [_attempt_of(case, attempt) for attempt in case.attempts]
        if attempts:
            found.append(_named(titles, features.get(uri, uri), title, attempts, context))
    has_failed = any(one.attempts[-1].status in (FAILED, INTERRUPTED) for one in found)
    if not has_passed and not has_failed and not run:
        run.append(failure("the run failed" if has_ended else "the report ends before the run does"))
    if run:
        found.insert(0, Execution(RUN, RUN, "", [Attempt(FAILED, 0.0, None, run[0])]))
    return Report("cucumber-messages", CUCUMBER, found)


def _attempt_of(case: _Case, attempt: str) -> Attempt:
    begun = case.begun[attempt]
    if attempt not in case.ended:
        return Attempt(INTERRUPTED, None, begun)
    ended = case.ended[attempt]
    duration_ms = None if begun is None or ended is None else max(0, ended - begun)
    return Attempt(*_judged(case.attempts[attempt], duration_ms, ended))


def _of_message(result: Node) -> tuple[str, Failure]:
    exception = result.get("exception")
    told = exception.failure(exception.get("type").text()) if exception else NO_FAILURE
    message = result.get("message").text()
    return result.get("status").text(), told if told != NO_FAILURE else typed_by(failure(message), message)


def _time_ms(of: Node) -> int | None:
    told = of.get("timestamp", "seconds")
    begun = when(told.text(), told.place, of.context)
    nanoseconds = min(of.get("timestamp", "nanos").count(), 999_999_999)
    return None if begun is None else begun + nanoseconds // 1_000_000


# Both


def _judged(
    results: Iterable[tuple[str, Failure]], duration_ms: float | None, timestamp_ms: int | None
) -> tuple[str, float | None, int | None, Failure]:
    """What the results of all steps come to; a scenario without any did not run."""
    told = [(status.lower(), error) for status, error in results]
    for status, error in told:
        if status not in (PASSED, SKIPPED):
            return FAILED, duration_ms, timestamp_ms, error if error != NO_FAILURE else failure(f"a step is {status}")
    is_passed = bool(told) and all(status == PASSED for status, _ in told)
    return PASSED if is_passed else SKIPPED, duration_ms, timestamp_ms, NO_FAILURE


def _named(titles: Titles, feature: str, title: str, attempts: list[Attempt], context: Context) -> Execution:
    name = titles.next(feature, title)
    return Execution(*identity(CUCUMBER, "cucumber", context, name=name, suite=feature), attempts)
