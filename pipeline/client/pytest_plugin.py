"""pytest plugin: ``pytest --pipeline-metrics`` pushes the duration and status of every test.

One execution is one ``duration`` metric: the milliseconds of setup, call and teardown together, as the
JUnit report has them by default; failed when any of the three failed, skipped also for xfail, failed for a
strict xpass. What could not even be collected counts as failed (or skipped), again like JUnit.
Two things differ: a test that fails in its call and again in its teardown is one execution (JUnit writes
two), and of subtests only the test they belong to counts (JUnit adds their time twice).

A test run never fails or waits because of this: while Redis is away metrics queue up, at the end they have
a few seconds to leave, and the summary says what was sent and what was dropped. Under pytest-xdist only the
controller sends. Without the option nothing beyond this file is imported.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pipeline.client.producer import MetricsClient

CLOSE_TIMEOUT_S = 2.0
_REPORTER_NAME = "pipeline-metrics-reporter"
_PLAYWRIGHT_BROWSERS = frozenset({"chromium", "firefox", "webkit"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; where Redis is comes from --pipeline-redis-url or the PIPELINE_ settings."""
    group = parser.getgroup("pipeline", "metrics pipeline")
    group.addoption(
        "--pipeline-metrics", action="store_true", help="push each test's duration and status to the metrics pipeline"
    )
    group.addoption("--pipeline-redis-url", metavar="URL", help="Redis to push to (default: the pipeline's settings)")
    group.addoption("--pipeline-suite", metavar="NAME", help="test_suite of all metrics (default: the test's module)")
    group.addoption("--pipeline-environment", metavar="NAME", default="", help="environment of all metrics")
    group.addoption(
        "--pipeline-browser",
        metavar="NAME",
        help="browser of all metrics (default: what pytest-playwright wrote into the test's id)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start reporting, in the controller only."""
    if config.getoption("--pipeline-metrics") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(config), _REPORTER_NAME)


@dataclass
class Execution:
    """What is known so far of one test under way."""

    duration_s: float = 0.0
    status: str = "passed"
    phase: str = "call"
    retries: int = 0
    worker: str = ""
    ended_s: float = field(default_factory=time.time)

    def take(self, report: Any) -> None:
        """Add the report of one phase; a failed phase outweighs a skipped one, which outweighs passed ones."""
        self.duration_s += getattr(report, "duration", 0.0)
        self.ended_s = getattr(report, "stop", None) or time.time()
        if report.outcome not in ("passed", "failed", "skipped"):
            # The plugins that rerun failing tests have outcomes of their own ("rerun", "retried").
            self.retries += 1
        elif (report.failed and self.status != "failed") or (report.skipped and self.status == "passed"):
            self.status = report.outcome
            self.phase = report.when or ""


class Reporter:
    """Turns the reports of a session into metrics."""

    def __init__(self, config: pytest.Config) -> None:
        self._suite: str | None = config.getoption("--pipeline-suite")
        self._browser: str | None = config.getoption("--pipeline-browser")
        self._environment: str = config.getoption("--pipeline-environment")
        self._running: dict[tuple[str, str], Execution] = {}
        self._client: MetricsClient | None = None
        self._trouble = ""
        try:
            from pipeline import MetricsClient

            # Quiet: log lines of a sending thread would turn up in what the tests capture.
            self._client = MetricsClient(config.getoption("--pipeline-redis-url"), quiet=True)
        except Exception as error:  # whatever it is, the tests come first; the summary tells
            self._trouble = f"{type(error).__name__}: {error}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect one phase of one test; after the last one, push."""
        if hasattr(report, "context"):
            return  # a subtest; the report of its test follows
        key = (report.nodeid, _worker(report))
        execution = self._running.setdefault(key, Execution(worker=key[1]))
        execution.take(report)
        if report.when == "teardown":
            self._push(report.nodeid, self._running.pop(key))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Push what could not be collected."""
        if not report.passed:
            self._push(report.nodeid, Execution(status=report.outcome, phase="collect"))

    def pytest_sessionfinish(self) -> None:
        """Push tests that never reported their end (their worker died), then give everything a few seconds."""
        for (nodeid, _), execution in self._running.items():
            self._push(nodeid, execution)
        self._running.clear()
        if self._client is not None:
            self._client.close(CLOSE_TIMEOUT_S)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line: what was sent, what was not."""
        if self._client is None:
            terminalreporter.write_line(f"pipeline metrics: none sent ({self._trouble})", yellow=True)
            return
        stats = self._client.stats()
        line = f"pipeline metrics: {stats.pushed} sent, {stats.dropped} dropped"
        if stats.in_doubt:
            line += f", {stats.in_doubt} in doubt"
        lost = stats.dropped + stats.in_doubt
        if lost and self._client.trouble:
            line += f" ({self._client.trouble})"
        terminalreporter.write_line(line, yellow=bool(lost))

    def _push(self, nodeid: str, execution: Execution) -> None:
        if self._client is None:
            return
        module, name = _module_and_name(nodeid)
        tags = {"phase": execution.phase}
        if execution.worker:
            tags["worker"] = execution.worker
        if execution.retries:
            tags["retries"] = str(execution.retries)
        self._client.push(
            "duration",
            # JUnit has three decimals of a second; a tenth of a microsecond is noise in any clock.
            round(execution.duration_s * 1000, 4),
            timestamp=int(execution.ended_s * 1000),
            test_id=nodeid,
            test_name=name,
            test_suite=self._suite or module,
            environment=self._environment,
            browser=self._browser or _browser_in(name),
            status=execution.status,
            tags=tags,
        )


def _worker(report: Any) -> str:
    node = getattr(report, "node", None)  # set by xdist in the controller
    return str(node.gateway.id) if node is not None else ""


def _module_and_name(nodeid: str) -> tuple[str, str]:
    """("tests.login.test_form", "TestForm::test_empty[chromium]"); a file that is not collected has its own name."""
    path, _, name = nodeid.partition("::")
    module = path.removesuffix(".py").replace("/", ".")
    return module, name or module


def _browser_in(name: str) -> str:
    """The browser pytest-playwright put into the parameters, as in ``test_login[chromium-mobile]``; else empty."""
    parameters = name.partition("[")[2].removesuffix("]").split("-")
    return next((part for part in parameters if part in _PLAYWRIGHT_BROWSERS), "")
