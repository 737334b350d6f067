"""The service: the life of everything that ``wiring`` builds.

Outputs start first (the HTTP interface, notifications), inputs last (the drainers); they stop the other way
round. Redis is needed to begin; ClickHouse joins when it answers (``joining``). A stop sets one event that
every loop looks at: chunks in hand are finished or given back. What has not ended when the time is up is left
behind, since ending at any instant is safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.alerts.alerting import RELOADABLE, Alerting
from pipeline.base import log
from pipeline.base.clock import Clock
from pipeline.base.config import Settings, changed_settings
from pipeline.base.errors import Outage, PipelineError, SchemaMismatch, UsageError
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.deliver import ledger
from pipeline.deliver.drainer import Drainer
from pipeline.deliver.measure_aside import measure
from pipeline.deliver.overflow import Overflow
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.operate.fleet import HEARTBEAT_S, Fleet, own_name
from pipeline.operate.follow_retention import RetentionFollower
from pipeline.operate.joining import ClickHouseGate
from pipeline.operate.liveness import Heartbeat
from pipeline.operate.requests import RequestDesk
from pipeline.operate.schedule import Job, Schedule
from pipeline.store.client import Store
from pipeline.web.site import Site

_log = log.get(__name__)

SCHEMA_PAUSE_S = 30.0
"""A drainer that stopped because most of a chunk was refused looks again this often."""

STOP_S = 3.0
"""Parts that have not ended this long after a stop are left behind; see ``process.STOP_WITHIN_S``."""


@dataclass
class Service:
    """Everything that runs, wired."""

    settings: Settings
    clock: Clock
    link: RedisLink
    store: Store
    buffers: list[Buffer]
    drainers: list[Drainer]
    overflows: list[Overflow]
    jobs: list[Job]
    schedule: Schedule
    alerting: Alerting
    fleet: Fleet
    heartbeat: Heartbeat
    retention: RetentionFollower
    handles: list[Store] = field(default_factory=list)
    role: str = "run"
    gate: ClickHouseGate | None = None
    """Set while ClickHouse may still have to join."""
    desk: RequestDesk | None = None
    serve: Callable[[Store], ClickHouseHttp | None] = lambda _store: None
    http: ClickHouseHttp | None = None
    serve_site: Callable[[Service], Site] | None = None
    site: Site | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    _drainer_stops: dict[str, threading.Event] = field(default_factory=dict)
    settings_as_read: Settings | None = None
    """The settings as the service was started with, before what the platform keeps in Redis was added."""
    read_settings: Callable[[], Settings] | None = None
    """Reads the settings again when the service is asked to reload."""
    _reload: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _failure: BaseException | None = None

    def start(self, *, scheduled: bool = True) -> None:
        """Start everything; ``scheduled=False`` leaves the jobs to the caller."""
        self.http = self.serve(self.store)
        self.site = self.serve_site(self) if self.serve_site is not None else None
        self.alerting.start()
        if scheduled:
            self.schedule.start()
            self.heartbeat.loops["schedule"] = lambda: self.schedule.heartbeat_s
        self._start_thread("heartbeat", self._beat)
        self._start_thread("retention", lambda: self.retention.run(self.stopping))
        if self.gate is not None:
            gate = self.gate
            self._start_thread("clickhouse-joins", lambda: gate.run(self.stopping))
        if self.desk is not None:
            desk = self.desk
            self._start_thread("requests", lambda: desk.run(self.stopping))
        for drainer in self.drainers:
            self._start_thread(f"drain-{drainer.buffer.key}", lambda drainer=drainer: self._drain(drainer))  # type: ignore[misc]
        for overflow in self.overflows:
            self._start_thread(
                f"overflow-{overflow.buffer.key}",
                lambda overflow=overflow: overflow.run(self.stopping),  # type: ignore[misc]
            )

    def stop(self, *, stop_embedded: bool = False, within_s: float = 30.0) -> None:
        """Stop inputs first, outputs last. What has not ended ``within_s`` from now is left behind, and said."""
        until_s = time.monotonic() + within_s
        self.ask_to_stop()
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        if not self.schedule.stop(max(0.0, until_s - time.monotonic())):
            left.append("schedule")
        for name, part in (
            ("site", self._close_site),
            ("alerting", self.alerting.close),
            ("ledger", self._flush_ledger),
            ("connections", lambda: self._close(stop_embedded)),
        ):
            # Closing waits until no thread uses a connection: nothing is closed under a thread that hangs.
            if left or not _done_within(until_s, part, name):
                left.append(name)
        self.heartbeat.stop()
        if left:
            _log.warning("service stopped before all threads ended", left_behind=left, within_s=within_s)

    def ask_to_stop(self) -> None:
        """Set the event of every loop."""
        self.stopping.set()
        for stop in list(self._drainer_stops.values()):
            stop.set()

    def wait(self, stop: threading.Event) -> None:
        """Until ``stop`` is set or a thread failed; raises what it failed with. Reloads rules when asked to."""
        while not stop.wait(0.2):
            if self._failure is not None:
                raise self._failure
            if self._reload.is_set():
                self._reload.clear()
                self._reload_settings()

    def drain_until_empty(self, stop: threading.Event) -> None:
        """Drain all buffers and what was spilled of them, one after the other, until they are empty."""
        self.http = self.serve(self.store)
        self._start_thread("heartbeat", self._beat)
        self._start_thread("retention", lambda: self.retention.run(self.stopping))
        if self.gate is not None:
            gate = self.gate
            self._start_thread("clickhouse-joins", lambda: gate.run(self.stopping))
        self._start_thread("drain-until-empty", self._drain_all)
        thread = self._threads[-1]
        while thread.is_alive() and not stop.wait(0.02):
            pass
        if stop.is_set():
            self.ask_to_stop()
        elif self._failure is not None:
            raise self._failure

    def ask_reload(self) -> None:
        """Have the rules read again; safe to call from a signal handler."""
        self._reload.set()

    def http_url(self) -> str:
        """Where ClickHouse's HTTP interface answers; empty when another process serves it."""
        return self.http.url if self.http is not None else ""

    def run_job(self, name: str) -> bool:
        """Run one job now."""
        return self.schedule.run_once(next(job for job in self.jobs if job.name == name))

    def books(self) -> Books:
        """The ledger of all buffers."""
        return sum((buffer.books() for buffer in self.buffers), Books())

    def trouble(self) -> str:
        """What is being waited for, in words; empty when all is well."""
        joins = [self.gate.trouble] if self.gate is not None and self.gate.trouble else []
        drains = [drainer.activity.trouble for drainer in self.drainers if drainer.activity.trouble]
        drains += [overflow.trouble for overflow in self.overflows if overflow.trouble]
        drains += [self.retention.trouble] if self.retention.trouble else []
        jobs: dict[str, list[str]] = {}
        for name, state in self.schedule.states.items():
            if state.trouble and state.trouble not in drains:  # what the drainer waits for, the jobs wait for too
                jobs.setdefault(state.trouble, []).append(name)
        told = [f"{', '.join(names)}: {trouble}" for trouble, names in jobs.items()]
        return "; ".join(dict.fromkeys([*joins, *drains, *told]))

    # Threads

    def _start_thread(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                _log.exception("thread failed", thread=name)
                self._failure = self._failure or error

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _drain(self, drainer: Drainer) -> None:
        """Drain until told to stop. A chunk that ClickHouse mostly refuses is an error; it is tried again later."""
        key, activity = drainer.buffer.key, drainer.activity
        unborn_s = activity.heartbeat_s
        # Compiling the reader takes its time; until then the loop has not begun.
        self.heartbeat.loops[f"drain {key}"] = lambda: (
            None if activity.heartbeat_s == unborn_s else activity.heartbeat_s
        )
        while not self.stopping.is_set():
            # A drainer sets its event when it fails: it must not stop the others.
            stop = self._drainer_stops[key] = threading.Event()
            if self.stopping.is_set():
                return
            try:
                drainer.run(stop)
            except SchemaMismatch as mismatch:
                activity.trouble = str(mismatch)
                _log.error("draining stopped", reason=str(mismatch), retry_s=SCHEMA_PAUSE_S)
                until_s = time.monotonic() + SCHEMA_PAUSE_S
                while time.monotonic() < until_s and not self.stopping.wait(min(1.0, SCHEMA_PAUSE_S)):
                    activity.heartbeat_s = time.monotonic()

    def _drain_all(self) -> None:
        for drainer, overflow in zip(self.drainers, self.overflows, strict=True):
            stop = self._drainer_stops[drainer.buffer.key] = threading.Event()
            if self.stopping.is_set():
                return
            drainer.run(stop, until_empty=True)
            while not self.stopping.is_set() and overflow.spill.drain_one(self.stopping):
                pass

    def _beat(self) -> None:
        """Say every second what this process does, where ``status`` finds it."""
        name = own_name()
        started_s = time.monotonic()
        said = ""
        while not self.stopping.is_set():
            try:
                self.fleet.say(name, self._told(time.monotonic() - started_s))
                said = ""
            except Outage as outage:
                (_log.debug if said == str(outage) else _log.warning)("heartbeat not written", trouble=str(outage))
                said = str(outage)
            self.stopping.wait(HEARTBEAT_S)
        try:
            self.fleet.leave(name)
        except Outage:
            return

    def _told(self, running_s: float) -> dict[str, Any]:
        activity = [drainer.activity for drainer in self.drainers]
        return {
            "running_s": round(running_s, 1),
            "role": self.role,
            "trouble": self.trouble(),
            "stored": sum(one.stored for one in activity),
            "fenced": sum(one.fenced for one in activity),
            "retries": sum(one.retries for one in activity),
            "schedules": self.schedule.lease is not None and self.schedule.holds,
            "jobs": self.schedule.told(),
            "channels": self.alerting.figures(),
        }

    def site_url(self) -> str:
        """Where the page answers; empty where there is none."""
        return self.site.url if self.site is not None else ""

    def _reload_settings(self) -> None:
        """Read rules and settings again; what is wrong with them is said, and everything stays as it was."""
        try:
            settings = self.read_settings() if self.read_settings is not None else None
            self.alerting.reload(settings)
        except UsageError as error:
            _log.error("settings not reloaded: invalid rules or channels", reason=str(error))
            return
        if settings is not None:
            reloaded = {f"alerts.{name}" for name in RELOADABLE}
            later = [
                name for name in changed_settings(self.settings_as_read or settings, settings) if name not in reloaded
            ]
            if later:
                _log.warning("changed settings take effect after a restart", settings=later)

    # The end

    def _flush_ledger(self) -> None:
        try:
            for buffer in self.buffers:
                ledger.flush(buffer, self.store)
                measure(buffer, self.store)
        except PipelineError as error:
            _log.info("ledger not flushed, or set-aside items not compared", trouble=str(error))

    def _close_site(self) -> None:
        if self.site is not None:
            self.site.close()

    def _close(self, stop_embedded: bool) -> None:
        if self.http is not None:
            self.http.close()
        for handle in self.handles:
            handle.close()
        self.store.close()
        self.link.close(stop_embedded=stop_embedded)


def _done_within(until_s: float, action: Callable[[], None], name: str) -> bool:
    """Do it in a thread of its own and wait until ``until_s`` (monotonic); whether it is done."""

    def guarded() -> None:
        try:
            action()
        except Exception:
            _log.exception("component failed to stop", part=name)

    thread = threading.Thread(target=guarded, name=f"stop-{name}", daemon=True)
    thread.start()
    thread.join(max(0.0, until_s - time.monotonic()))
    return not thread.is_alive()
