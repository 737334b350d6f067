"""What the pytest plugin does once it is asked to: watches a session and pushes each attempt.

Nothing here raises into a session: a hook of the plugin that fails costs a line in the summary.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.client import pytest_attempts, run_context
from pipeline.client.attempts import Attempt, Execution, row
from pipeline.client.pytest_plugin import FIELDS, variable_of

CLOSE_TIMEOUT_S = 2.0
"""At the end, where Redis answers."""
TROUBLED_CLOSE_TIMEOUT_S = 0.1
"""At the end, where Redis is known not to answer, it is not waited for."""
TROUBLE_PATIENCE_S = 0.5
"""At the end, where Redis turns out not to answer only then: a connection that was idle is opened anew meanwhile."""

_PLAYWRIGHT_BROWSERS = frozenset({"chromium", "firefox", "webkit"})
_NOTED_CHARACTERS = 4_000
_OUTCOMES = ("passed", "failed", "skipped")


def register(config: pytest.Config) -> None:
    """Observe in every process that runs tests, report in the one that sees them all."""
    config.pluginmanager.register(Observer(), "pipeline-metrics-observer")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(config), "pipeline-metrics-reporter")


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Under -W error a library's warning would be an exception here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _never_raises(hook: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(hook)
    def guarded(self: Reporter, *arguments: Any, **options: Any) -> None:
        try:
            with _quiet_warnings():
                hook(self, *arguments, **options)
        except Exception as error:  # whatever it is, the tests come first; the summary tells
            self.trouble = self.trouble or _told(error)

    return guarded


def _told(error: Exception) -> str:
    from pipeline.base.text import masked, printable

    return masked(printable(f"{type(error).__name__}: {error}"))


class Observer:
    """Runs where the tests run: notes what their reports leave out."""

    def __init__(self) -> None:
        self._phases: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, None]:
        """Note each phase, and attach all of them to the teardown's report."""
        outcome = yield
        try:
            self._note(item, outcome.get_result())
        except Exception:  # the report stays as it is
            self._phases.clear()

    def _note(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._phases.clear()
        phases = self._phases.setdefault(report.nodeid, {})
        if report.when == "teardown":
            setattr(report, pytest_attempts.PHASES_ATTRIBUTE, dict(phases))
            setattr(report, pytest_attempts.BROWSER_ATTRIBUTE, _browser_of(item))
            self._phases.clear()
        elif report.outcome in _OUTCOMES:
            phases[str(report.when)] = {
                "outcome": report.outcome,
                "duration": float(report.duration),
                "message": pytest_attempts.message_of(report)[:_NOTED_CHARACTERS],
            }


class Reporter:
    """Turns the reports of a session into metrics."""

    def __init__(self, config: pytest.Config) -> None:
        self.trouble = ""
        self._no_answer = ""
        self._config = config
        self._client: Any = None
        self._start()

    @_never_raises
    def _start(self) -> None:
        self._attempts = pytest_attempts.Attempts(self._push)
        self._suite: str = self._config.getoption("--pipeline-suite") or ""
        self._browser: str = self._config.getoption("--pipeline-browser") or ""
        self._environment: str = self._config.getoption("--pipeline-environment") or ""
        run = self._run()
        from pipeline import MetricsClient  # heavy, and what it needs may be missing

        # Quiet: log lines of a sending thread would turn up in what the tests capture.
        client = MetricsClient(
            self._config.getoption("--pipeline-redis-url"),
            quiet=True,
            run=run,
        )
        if client._pool is not None:
            client._pool.make_connection()  # type: ignore[no-untyped-call]  # connects to nothing; an unknown option in the URL shows here
        self._client = client

    def _run(self) -> run_context.RunContext:
        environ = dict(os.environ)
        for field in FIELDS:
            if told := self._config.getoption(f"--pipeline-{field}"):
                environ[variable_of(field)] = told
        return run_context.session(environ)

    @_never_raises
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        distributed = self._config.pluginmanager.hasplugin("dsession")
        self._attempts.started(nodeid, time.time(), None if distributed else "")

    @_never_raises
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        self._attempts.reported(report, _worker(report), time.time())

    @_never_raises
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Push what could not be collected."""
        if not report.passed:
            self._attempts.not_collected(report, time.time())

    @_never_raises
    def pytest_internalerror(self, excinfo: Any) -> None:
        """The session itself failed."""
        self._attempts.broke(str(excinfo.exconly()), time.time())

    @_never_raises
    def pytest_sessionfinish(self) -> None:
        """Push tests that never ended, then give everything a moment to leave."""
        self._attempts.finished(time.time())
        if self._client is not None:
            self._leave()

    def _leave(self) -> None:
        """Wait for what is queued, but not for a Redis that is dead."""
        wait_s = TROUBLED_CLOSE_TIMEOUT_S
        end_s = time.monotonic() + (wait_s if self._client.trouble else CLOSE_TIMEOUT_S)
        while not self._client.flush(wait_s) and time.monotonic() < end_s:
            if self._client.trouble:
                end_s = min(end_s, time.monotonic() + TROUBLE_PATIENCE_S)
                wait_s = max(0.0, end_s - time.monotonic())
        self._no_answer = "" if self._client.trouble else f"Redis did not answer within {CLOSE_TIMEOUT_S:g} s"
        self._client.close(TROUBLED_CLOSE_TIMEOUT_S)

    @_never_raises
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line: what was sent, what was not."""
        if self._client is None:
            terminalreporter.write_line(f"pipeline metrics: none sent ({self.trouble})", yellow=True)
            return
        stats = self._client.stats()
        line = f"pipeline metrics: {stats.pushed} sent, {stats.dropped} dropped"
        if stats.in_doubt:
            line += f", {stats.in_doubt} in doubt"
        lost = stats.dropped + stats.in_doubt
        trouble = (self._no_answer or self._client.trouble if lost else "") or self.trouble
        if trouble:
            line += f" ({trouble})"
        terminalreporter.write_line(line, yellow=bool(lost or trouble))

    def _push(self, execution: Execution, attempt: Attempt, status: str, number: int) -> None:
        if self._client is None:
            return
        execution.test_suite = self._suite or execution.test_suite
        execution.environment = self._environment
        execution.browser = self._browser or execution.browser or _browser_in(execution.test_name)
        self._client.push_many([row(execution, attempt, status, number, 0)])


def _worker(report: Any) -> str:
    node = getattr(report, "node", None)  # set by xdist in the controller
    return str(node.gateway.id) if node is not None else ""


def _browser_of(item: Any) -> str:
    """The browser that pytest-playwright, or a parameter of its name, gave to the test."""
    callspec = getattr(item, "callspec", None)
    chosen = (callspec.params if callspec is not None else {}).get("browser_name")
    return chosen if isinstance(chosen, str) else ""


def _browser_in(name: str) -> str:
    """The browser in the parameters of a test's name, as in ``test_login[chromium-mobile]``; else empty."""
    parameters = name.partition("[")[2].removesuffix("]").split("-")
    return next((part for part in parameters if part in _PLAYWRIGHT_BROWSERS), "")
