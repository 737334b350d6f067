"""The demo: the real service on the embedded engines, and a simulated platform in front of it.

It first lives through the last half hour of the platform in a few seconds: the simulator pushes minute
after minute, the service drains them, and the jobs run as they would have run then. Part of the way
through, one suite and one page become slow, later they recover; the alerts fire and resolve while one
watches. Then it goes on live, at ``rate`` metrics a second, until ``seconds`` have passed or Ctrl-C.

Everything lives in a directory of its own that is removed at the end.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.base import config
from pipeline.base.clock import ManualClock, iso
from pipeline.base.errors import Outage, PipelineError
from pipeline.client.producer import MetricsClient
from pipeline.demo.simulator import REGRESSED_PAGE, REGRESSED_SUITE, SimulatedPlatform
from pipeline.operate import wiring
from pipeline.operate.process import stopping

HISTORY_MINUTES = 30
STEP_MINUTES = 1
REGRESSION_AT = (0.40, 0.70)
"""Which part of the history is slow: late enough for a baseline, early enough to see it resolved."""

LIVE_REGRESSION_S = (30, 150)
"""When, in seconds after going live, it is slow again."""

HISTORY_RATE = 40
"""Metrics a second of simulated time; live, the rate is what was asked for."""

DRAIN_TIMEOUT_S = 300.0
"""The first start compiles the reader of items, which took 71 s on two cores that eight others shared."""

SETTLE_MS = 15_000
"""A simulated minute is evaluated this long after its end, as it would be live: rollup and alert delays lie before."""


HISTORY_JOBS = ("rollup", "alerts")
"""Run after every simulated step; the others after every ``SLOW_EVERY``-th and at the end."""

SLOW_JOBS = ("vitals", "baselines", "changes", "ledger")
SLOW_EVERY = 10

SHOWN_ALERTS = 8


@dataclass
class _Tally:
    """What the demo counted itself, to hold against the books."""

    offered: int = 0
    malformed: int = 0
    late: int = 0


class _Demo:
    """The service, the platform in front of it, and what is shown of both."""

    def __init__(self, settings: config.Settings, stop: threading.Event, rate: float, seed: int) -> None:
        self.stop = stop
        self.rate = rate
        now_ms = time.time_ns() // 1_000_000
        self.start_ms = (now_ms // 60_000 - HISTORY_MINUTES) * 60_000
        span_ms = HISTORY_MINUTES * 60_000
        slow_from, slow_to = (self.start_ms + int(share * span_ms) for share in REGRESSION_AT)
        self.platform = SimulatedPlatform(seed=seed, regressions=[(slow_from, slow_to)])
        self.clock = ManualClock(self.start_ms)
        self.service = wiring.build(settings, stop, clock=self.clock, role="demo", any_port=True)
        self.client = MetricsClient(self.service.link.url("metrics"), key=settings.buffer.keys[0], room_timeout_s=60)
        self.tally = _Tally()
        self.phase = "starting"
        self.started_s = time.monotonic()
        self.shown: list[str] = []

    # The two acts

    def live_through_history(self) -> None:
        """Push, drain and evaluate the last half hour, step by step, as fast as it goes."""
        step_ms = STEP_MINUTES * 60_000
        for number in range(HISTORY_MINUTES // STEP_MINUTES):
            from_ms = self.start_ms + number * step_ms
            self.phase = f"the last {HISTORY_MINUTES} minutes, now at {iso(from_ms)[11:16]}" + self._slowness(from_ms)
            self.push(from_ms, from_ms + step_ms, HISTORY_RATE)
            self.drain()
            self.clock.set_ms(from_ms + step_ms + SETTLE_MS)
            self._run(HISTORY_JOBS)
            if number % SLOW_EVERY == SLOW_EVERY - 1:
                self._run(SLOW_JOBS)
            if self.stop.is_set():
                return

    def go_live(self, until_s: float | None) -> None:
        """Push as time goes by, jobs on their schedule, until ``until_s`` (monotonic) or a signal."""
        self.clock.release()
        now_ms = self.clock.now_ms()
        slow_from_s, slow_to_s = LIVE_REGRESSION_S
        self.platform.regressions.append((now_ms + slow_from_s * 1000, now_ms + slow_to_s * 1000))
        self.service.schedule.start()
        # Where the history ended, so that no minute is without metrics.
        at_ms = self.start_ms + HISTORY_MINUTES * 60_000
        while not self.stop.is_set() and (until_s is None or time.monotonic() < until_s):
            now_ms = self.clock.now_ms()
            self.phase = "live" + self._slowness(now_ms)
            if now_ms > at_ms:
                self.push(at_ms, now_ms, HISTORY_RATE if now_ms - at_ms > 10_000 else self.rate)
                at_ms = now_ms
            self.stop.wait(0.05)

    def finish(self) -> None:
        """Everything that was pushed is drained, rolled up and evaluated."""
        self.phase = "finishing"
        self.client.close(30)
        self.drain()
        self.service.schedule.stop()
        self._run((*HISTORY_JOBS, *SLOW_JOBS))

    def push(self, from_ms: int, to_ms: int, rate: float) -> None:
        """Offer what the platform sends in a span of time."""
        batch = self.platform.batch(from_ms, to_ms, rate)
        for item in batch.items:
            self.client.push_raw(item)
        self.tally.offered += len(batch.items)
        self.tally.malformed += batch.refused.total()
        self.tally.late += batch.late

    def drain(self) -> None:
        """Wait until all that was offered has been stored or refused."""
        self.client.flush(DRAIN_TIMEOUT_S)
        until = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < until:
            books = self.service.books()
            if not books.waiting and not books.in_flight:
                return
            time.sleep(0.01)
        raise Outage(f"not drained within {DRAIN_TIMEOUT_S:.0f} s: {self.service.trouble() or 'no trouble known'}")

    def _run(self, names: Sequence[str]) -> None:
        for name in names:
            self.service.run_job(name)

    def _slowness(self, at_ms: int) -> str:
        slow = any(begin <= at_ms < end for begin, end in self.platform.regressions)
        return f" (suite {REGRESSED_SUITE!r} and page {REGRESSED_PAGE!r} are slow)" if slow else ""

    # What is told

    def summary(self) -> dict[str, Any]:
        """The object that ``pipeline demo --json`` prints."""
        store = self.service.store
        stats = self.client.stats()
        books = self.service.books()
        windows = store.rows("SELECT (SELECT count() FROM metrics_1min) + (SELECT count() FROM metrics_5min)")[0][0]
        alerts = store.rows("SELECT countIf(to_state = 'firing'), countIf(to_state = 'resolved') FROM alerts")[0]
        return {
            **books.as_dict(pushed=stats.pushed),
            "windows": windows,
            "alerts": alerts[0],
            "alerts_resolved": alerts[1],
            "malformed": self.tally.malformed,
            "late": self.tally.late,
            "dropped_by_client": stats.dropped,
            "seconds": round(time.monotonic() - self.started_s, 1),
        }

    def screen(self) -> Group:
        """The live view."""
        books = self.service.books()
        store = self.service.store
        figures = Table(box=None, show_header=False, pad_edge=False)
        figures.add_row("phase", self.phase)
        for name, value in books.as_dict(pushed=self.client.stats().pushed).items():
            figures.add_row(name, Text(f"{value:,}", style="red" if name == "unaccounted" and value else ""))
        windows = store.rows("SELECT (SELECT count() FROM metrics_1min) + (SELECT count() FROM metrics_5min)")[0][0]
        figures.add_row("windows", f"{windows:,}")
        if self.service.site is not None:
            figures.add_row("page", Text(self.service.site.address, overflow="fold"))
        if self.service.http is not None:
            figures.add_row("ask", f"curl '{self.service.http.url}/?query=SELECT+*+FROM+pipeline.slowest_tests'")
        suites = Table(box=None, pad_edge=False, title="suites, last window", title_justify="left")
        for heading in ("suite", "runs", "passed", "p95 ms"):
            suites.add_column(heading, justify="left" if heading == "suite" else "right")
        for suite, total, passed, p95 in store.rows(_SUITES):
            share = f"{100 * passed / total:.1f} %" if total else ""
            suites.add_row(suite, f"{total:,}", share, f"{p95:,.0f}")
        told = [
            Text(f"{iso(at)[11:19]} {state:<9} {message}", style="red" if state == "firing" else "green")
            for at, state, message in store.rows(_ALERTS, {"most": SHOWN_ALERTS})
        ]
        return Group(
            Panel(figures, title="pipeline demo", title_align="left"),
            Panel(suites),
            Panel(Group(*told) if told else Text("none yet", style="dim"), title="alerts", title_align="left"),
        )


_SUITES = """
SELECT test_suite, sum(total), sum(passed), histogramQuantileBetween(sumMap(histogram), 0.95, min(min), max(max))
FROM metrics_1min
WHERE metric_type = 'duration' AND window_start = (SELECT max(window_start) FROM metrics_1min)
GROUP BY test_suite ORDER BY test_suite
"""

_ALERTS = """
SELECT toUnixTimestamp64Milli(at), to_state, message FROM alerts ORDER BY at DESC, message LIMIT {most:UInt32}
"""


def run_demo(
    settings: config.Settings, *, seconds: float | None, rate: float, seed: int, quiet: bool
) -> dict[str, Any]:
    """Run the demo; the summary that ``pipeline demo --json`` prints. ``quiet`` shows nothing live."""
    directory = Path(tempfile.mkdtemp(prefix="pipeline-demo-"))
    try:
        with stopping() as stop:
            return _play(config.private(settings, directory), stop, seconds, rate, seed, quiet)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _play(
    settings: config.Settings, stop: threading.Event, seconds: float | None, rate: float, seed: int, quiet: bool
) -> dict[str, Any]:
    demo = _Demo(settings, stop, rate, seed)
    try:
        demo.service.start(scheduled=False)
        until_s = time.monotonic() + seconds if seconds is not None else None
        with _shown(demo, quiet=quiet):
            demo.live_through_history()
            demo.go_live(until_s)
            demo.finish()
        return demo.summary()
    finally:
        demo.client.close(0)
        demo.service.stop(stop_embedded=True)


@contextmanager
def _shown(demo: _Demo, *, quiet: bool) -> Iterator[None]:
    """Show the live view on a terminal; in a pipe, one line a phase."""
    console = Console(stderr=True)
    if quiet:
        yield
        return
    ended = threading.Event()
    view: Live | contextlib.nullcontext[None]
    if console.is_terminal:
        live = Live(console=console, auto_refresh=False, transient=False)
        view = live

        def refresh() -> None:
            live.update(demo.screen(), refresh=True)

    else:
        view = contextlib.nullcontext()
        told: list[str] = []
        if demo.service.site is not None:
            console.print(f"page: {demo.service.site.address}", highlight=False, soft_wrap=True)

        def refresh() -> None:
            if demo.phase not in told:
                told.append(demo.phase)
                console.print(demo.phase, highlight=False, soft_wrap=True)

    def keep_showing() -> None:
        while not ended.wait(0.5):
            with contextlib.suppress(PipelineError):
                refresh()

    with view:
        thread = threading.Thread(target=keep_showing, name="screen", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(PipelineError):
                refresh()
