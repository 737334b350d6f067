"""From the reports of a pytest session to attempts of tests: pure, one method for each thing that pytest tells.

An attempt is one pass through setup, call and teardown. It ends where a phase comes again. Every plugin that repeats
tests looks like that, whether it reports a teardown for each attempt (pytest-rerunfailures from 16.6 on), none for
those it repeats (before), only calls (pytest-retry), or keeps a failed call to itself (``flaky``). So an attempt is
known to be the last one when its worker reports another test, or at the end.

The last attempt of a test that never ended is ``interrupted``. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.client.attempts import Attempt, Execution, verdict
from pipeline.client.failures import NO_FAILURE, Failure, failure, whole_characters
from pipeline.client.identity import pytest_identity
from pipeline.status_words import FAILED, INTERRUPTED, PASSED, RETRIED, SKIPPED

PHASES_ATTRIBUTE = "pipeline_phases"
"""A teardown's report carries under this name what no report said: xdist sends it on to the controller."""
BROWSER_ATTRIBUTE = "pipeline_browser"

_ORDER = {"setup": 0, "call": 1, "teardown": 2}
_OUTCOMES = (PASSED, FAILED, SKIPPED)
_SEVERITY = {PASSED: 0, SKIPPED: 1, FAILED: 2}

Emit = Callable[[Execution, Attempt, str, int], None]
"""Takes a test, one of its attempts, the attempt's status and its number."""


@dataclass
class _Try:
    """One attempt under way."""

    outcome: str = PASSED
    phase: str = "call"
    duration_s: float = 0.0
    began_s: float = 0.0
    ended_s: float = 0.0
    failure: Failure = NO_FAILURE
    phases: set[str] = field(default_factory=set)
    is_repeated: bool = False
    """A plugin said that it will try again."""
    is_over: bool = False

    def take(self, when: str, outcome: str, error: Failure) -> None:
        """A failed phase outweighs a skipped one, which outweighs passed ones."""
        if _SEVERITY[outcome] > _SEVERITY[self.outcome]:
            self.outcome, self.phase = outcome, when
        if outcome == FAILED and self.failure == NO_FAILURE:
            self.failure = error


@dataclass
class _Test:
    """One test under way on one worker."""

    nodeid: str
    worker: str
    browser: str = ""
    tries: list[_Try] = field(default_factory=list)
    emitted: int = 0

    @property
    def current(self) -> _Try:
        if not self.tries:
            self.tries.append(_Try())
        return self.tries[-1]


class Attempts:
    """Follows a session; calls ``emit`` for each attempt as soon as its status is certain."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._tests: dict[tuple[str, str], _Test] = {}
        self._running: dict[str, tuple[str, str]] = {}
        """Which test each worker reported last."""
        self._started: dict[str, float] = {}
        """Tests that began and of which nothing was reported yet."""
        self._uncollected: set[str] = set()

    def started(self, nodeid: str, now_s: float, worker: str | None) -> None:
        """A test begins; ``worker`` is None in a controller of workers, which is not told."""
        self._started[nodeid] = now_s
        if worker is not None:
            self._finish_others(worker, nodeid)

    def reported(self, report: Any, worker: str, now_s: float) -> None:
        """One phase of a test, one subtest, or a crash (phase ``???``)."""
        self._started.pop(report.nodeid, None)
        self._finish_others(worker, report.nodeid)
        test = self._test_of(report, worker)
        when = report.when or ""
        if hasattr(report, "context"):
            # A subtest: its test counts, with the time of its own. One that was skipped makes it skipped, as pytest's
            # JUnit report has it, which names no subtest that passed.
            if report.outcome in (FAILED, SKIPPED):
                self._begin_phase(test, "call", again=False).take("call", report.outcome, failure_of(report))
            return
        attempt = self._begin_phase(test, when, again=True)
        phase = when if when in _ORDER else "crash"
        self._add_unreported(attempt, getattr(report, PHASES_ATTRIBUTE, None) or {})
        attempt.phases.add(when)
        attempt.duration_s += getattr(report, "duration", 0.0) or 0.0
        attempt.ended_s = getattr(report, "stop", None) or now_s
        attempt.began_s = attempt.began_s or getattr(report, "start", None) or now_s
        test.browser = test.browser or getattr(report, BROWSER_ATTRIBUTE, "") or ""
        if report.outcome in _OUTCOMES:
            attempt.take(phase, report.outcome, failure_of(report))
        else:
            # "rerun", "retried": plugins that repeat failing tests have outcomes of their own.
            attempt.take(phase, FAILED, failure_of(report))
            attempt.is_repeated = True
        attempt.is_over = attempt.is_over or when == "teardown" or when not in _ORDER
        if when not in _ORDER and not attempt.is_repeated:
            self._finish((test.nodeid, worker))  # the worker died: nothing more will come

    def not_collected(self, report: Any, now_s: float) -> None:
        """A file that could not be collected, once, however many workers say so."""
        nodeid = whole_characters(report.nodeid)
        if nodeid in self._uncollected:
            return
        self._uncollected.add(nodeid)
        error = failure_of(report) if report.outcome == FAILED else NO_FAILURE
        self._emit_single(nodeid, report.outcome, "collect", error, now_s)

    def broke(self, text: str, now_s: float) -> None:
        """pytest itself, or a plugin, failed: the run's own error."""
        self._emit_single("(run)", FAILED, "run", failure(text), now_s)

    def finished(self, now_s: float) -> None:
        """The session ends: whatever did not end before was interrupted."""
        for key in list(self._tests):
            self._interrupt(self._tests[key].current, now_s)
            self._finish(key)
        for nodeid, began_s in self._started.items():
            test = _Test(nodeid, "")
            test.current.duration_s = max(0.0, now_s - began_s)
            test.current.ended_s = now_s
            test.current.phase = "setup"
            self._emit_try(test, test.current, INTERRUPTED)
        self._started.clear()

    @staticmethod
    def _interrupt(attempt: _Try, now_s: float) -> None:
        """An attempt that is not over at the end was interrupted in its next phase."""
        if attempt.is_over or attempt.is_repeated:
            return
        if attempt.outcome == PASSED:
            attempt.phase = "teardown" if "call" in attempt.phases else "call"
        attempt.duration_s = max(attempt.duration_s, now_s - (attempt.began_s or now_s))
        attempt.ended_s = now_s

    def _test_of(self, report: Any, worker: str) -> _Test:
        key = (report.nodeid, worker)
        if key not in self._tests:
            # After a crash another worker may try again what a dead one began.
            adopted = next(
                (other for other in self._tests if other[0] == report.nodeid and self._running.get(other[1]) is None),
                None,
            )
            self._tests[key] = self._tests.pop(adopted) if adopted else _Test(report.nodeid, worker)
            self._tests[key].worker = worker
        self._running[worker] = key
        test = self._tests[key]
        if report.when not in _ORDER and report.when != "":
            self._running.pop(worker, None)
        return test

    def _begin_phase(self, test: _Test, when: str, *, again: bool) -> _Try:
        """The attempt that this phase belongs to: a new one where the phase is not later than those before it."""
        current = test.current
        latest = max((_ORDER[phase] for phase in current.phases if phase in _ORDER), default=-1)
        is_new = current.is_over or (again and when in _ORDER and _ORDER[when] <= latest)
        if not is_new:
            return current
        if current.outcome != FAILED and not current.is_repeated:
            # Nothing failed, so it was not tried again: the same test stands twice in this run.
            self._emit_last(test)
            test.tries.clear()
            test.emitted = 0
            return test.current
        self._emit_try(test, current, RETRIED)
        test.tries.append(_Try())
        return test.current

    @staticmethod
    def _add_unreported(attempt: _Try, phases: dict[str, Any]) -> None:
        """What a plugin kept to itself: a phase that ran and was not reported was a try it repeats."""
        for when, told in phases.items():
            if when in attempt.phases:
                continue
            attempt.phases.add(when)
            attempt.duration_s += told["duration"]
            attempt.is_repeated = True
            attempt.take(when, told["outcome"], failure(told["message"]) if told["message"] else NO_FAILURE)

    def _finish_others(self, worker: str, nodeid: str) -> None:
        running = self._running.get(worker)
        if running is not None and running[0] != nodeid:
            self._finish(running)

    def _finish(self, key: tuple[str, str]) -> None:
        test = self._tests.pop(key, None)
        if self._running.get(key[1]) == key:
            del self._running[key[1]]
        if test is not None:
            self._emit_last(test)

    def _emit_last(self, test: _Test) -> None:
        last = test.current
        if last.is_repeated and not last.is_over:
            status = RETRIED  # it was to be tried again, and the session ended before
        elif not last.is_over and last.outcome != FAILED:
            status = INTERRUPTED
        elif last.outcome == PASSED and "call" not in last.phases:
            status = SKIPPED  # as with --setup-plan: it was set up and torn down, and never called
        else:
            status = verdict([Attempt(attempt.outcome) for attempt in test.tries])
        self._emit_try(test, last, status)

    def _emit_try(self, test: _Test, attempt: _Try, status: str) -> None:
        test.emitted += 1
        tags = {"phase": attempt.phase}
        if test.worker:
            tags["worker"] = test.worker
        test_id, name, suite = pytest_identity(whole_characters(test.nodeid))
        execution = Execution(test_id, name, suite, [], test.browser)
        told = Attempt(status, attempt.duration_s * 1000, int(attempt.ended_s * 1000), attempt.failure, tags)
        self._emit(execution, told, status, test.emitted)

    def _emit_single(self, nodeid: str, status: str, phase: str, error: Failure, now_s: float) -> None:
        test = _Test(nodeid, "")
        test.current.outcome, test.current.phase, test.current.ended_s = status, phase, now_s
        test.current.failure = error
        self._emit_try(test, test.current, status)


def failure_of(report: Any) -> Failure:
    """Type and first line of a failed phase, from the same text that pytest's JUnit report has as its message."""
    return failure(message_of(report))


def message_of(report: Any) -> str:
    """What pytest says in one place about a failed phase; empty where nothing failed."""
    if report.outcome in (PASSED, SKIPPED):
        return ""
    longrepr = getattr(report, "longrepr", None)
    crash = getattr(longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    text = str(getattr(longrepr, "longrepr", longrepr) or "")
    # A module that cannot be imported: the error stands in the last line that pytest marks with E.
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return errors[-1] if errors else text
