"""Playwright's blob reports: what shards write to be merged, a zip file with the events of the run.

Each shard's report is read by itself: all name the same tests, and their run is told by the environment.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.client.attempts import Attempt, Execution
from pipeline.client.failures import NO_FAILURE
from pipeline.client.identity import RUN
from pipeline.client.importers.identities import identity
from pipeline.client.importers.json_node import Node, lines_of
from pipeline.client.importers.playwright import judged
from pipeline.client.importers.report import Context, Report, ReportRefused
from pipeline.status_words import FAILED, INTERRUPTED, PASSED, SKIPPED

MAX_EVENT_BYTES = 1 << 30
"""Of all events of a report, unpacked: a zip file of a megabyte may hold far more."""


class _Test:
    def __init__(self, project: str, file: str, titles: tuple[str, ...]) -> None:
        self.project, self.file, self.titles = project, file, titles
        self.results: dict[str, Node] = {}
        self.begun: dict[str, int | None] = {}
        self.expected = PASSED


def blob(content: bytes, context: Context) -> Report:
    """Executions of a blob report, zipped or its ``report.jsonl``. Raises ``ReportRefused``."""
    tests: dict[str, _Test] = {}
    executions: list[Execution] = []
    errors: list[Node] = []
    root = ""
    for event in _events(content, context):
        parameters = event.get("params")
        method = event.get("method").text()
        if method == "onConfigure":
            root = parameters.get("config", "rootDir").text()
        elif method == "onProject":
            project = parameters.get("project")
            for suite in project.get("suites").items():
                _collect(suite, project.get("name").text(), _file_of(suite, root), (), tests)
        elif method == "onTestBegin":
            test = tests.get(parameters.get("testId").text())
            if test is not None:
                result = parameters.get("result")
                test.begun[result.get("id").text()] = result.get("startTime").time_ms()
        elif method == "onTestEnd":
            test = tests.get(parameters.get("test", "testId").text())
            if test is not None:
                test.expected = parameters.get("test", "expectedStatus").text() or PASSED
                test.results[parameters.get("result", "id").text()] = parameters.get("result")
        elif method == "onError":
            errors.append(parameters.get("error"))
    if errors:
        executions.append(Execution(RUN, RUN, "", [Attempt(FAILED, 0.0, None, errors[0].failure())]))
    executions += [_execution(test, context) for test in tests.values() if test.begun or test.results]
    return Report("playwright-blob", "playwright", executions)


def _events(content: bytes, context: Context) -> Iterator[Node]:
    if content.startswith(b"PK"):
        content = _unpacked(content)
    return lines_of(content, context)


def _unpacked(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jsonl")]
            if not names:
                raise ReportRefused("this zip file holds no report.jsonl, as a blob report of Playwright does")
            if sum(archive.getinfo(name).file_size for name in names) > MAX_EVENT_BYTES:
                raise ReportRefused(f"this blob report unpacks to more than {MAX_EVENT_BYTES >> 20} MiB")
            return b"\n".join(archive.read(name) for name in names)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as error:
        raise ReportRefused(f"not a zip file that can be read: {error}") from None


def _file_of(suite: Node, root: str) -> str:
    file = suite.get("location", "file").text() or suite.get("title").text()
    path = PurePosixPath(file.replace("\\", "/"))
    base = PurePosixPath(root.replace("\\", "/"))
    return str(path.relative_to(base)) if root and path.is_relative_to(base) else str(path)


def _collect(suite: Node, project: str, file: str, titles: tuple[str, ...], tests: dict[str, _Test]) -> None:
    for entry in [*suite.get("entries").items(), *suite.get("tests").items(), *suite.get("suites").items()]:
        title = entry.get("title").text()
        test_id = entry.get("testId").text()
        if test_id:
            tests[test_id] = _Test(project, file, (*titles, title))
        else:
            _collect(entry, project, file, (*titles, title), tests)


def _execution(test: _Test, context: Context) -> Execution:
    attempts = []
    for result_id, started in test.begun.items():
        result = test.results.get(result_id)
        if result is None:
            attempts.append(Attempt(INTERRUPTED, None, started))
            continue
        word = result.get("status").text()
        status = word if word in (SKIPPED, INTERRUPTED) else PASSED if word == test.expected else FAILED
        duration_ms = result.get("duration").duration_ms()
        error = next(result.get("errors").items(), None)
        ended = None if started is None else started + int(duration_ms or 0)
        told = error.failure() if error and status == FAILED else NO_FAILURE
        attempts.append(Attempt(status, duration_ms, ended, told))
    test_id, name, suite = identity("playwright", "playwright", context, file=test.file, name=" › ".join(test.titles))
    return Execution(test_id, name, suite, judged(attempts, ""), test.project)
