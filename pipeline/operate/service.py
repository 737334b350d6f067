"""The service: one wiring function, and the life of what it builds.

Outputs start first (store, its HTTP interface, notifications), inputs last (the drainers); they stop
the other way round. A neighbour that is away at the start is waited for, visibly; one that goes away
later is the drainer's and the jobs' business. SIGTERM sets a flag that everybody looks at: chunks in
hand are finished or given back, and the process ends within seconds; a second signal ends it at once.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from pipeline.alerts.alerting import Alerting
from pipeline.base import log
from pipeline.base.backoff import Backoff
from pipeline.base.clock import Clock, WallClock
from pipeline.base.config import Settings
from pipeline.base.errors import Outage, PipelineError, RedisDenied, RuleError, SchemaMismatch, UsageError
from pipeline.base.redis_link import RedisLink, outages
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer, open_buffer, open_buffers
from pipeline.deliver import dead_letters as deadletters
from pipeline.deliver import ledger
from pipeline.deliver.drainer import Drainer
from pipeline.deliver.overflow import Overflow
from pipeline.deliver.spill import Spill
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.jobs.baselines import BaselinesJob
from pipeline.jobs.changes import ChangesJob
from pipeline.jobs.housekeeping import Housekeeping, retention_hours
from pipeline.jobs.publish import Publisher
from pipeline.jobs.rebuild import Checkpoint, RebuildProgress, rebuild
from pipeline.jobs.rollup import RollupJob
from pipeline.jobs.runs import RunsJob
from pipeline.jobs.vitals import VitalsJob
from pipeline.metric import Limits
from pipeline.operate import doctor, process
from pipeline.operate.schedule import Job, Schedule
from pipeline.operate.status import Watch
from pipeline.store.client import Store, engine_path
from pipeline.store.migrate import check, migrate

_log = log.get(__name__)

HEARTBEAT_S = 1.0
LEDGER_INTERVAL_S = 5.0
HOUSEKEEPING_INTERVAL_S = 300.0
SCHEMA_PAUSE_S = 30.0
"""A drainer that stopped because most of a chunk was refused looks again this often."""

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 15.0

Built = TypeVar("Built")


def open_for_doctor(settings: Settings) -> tuple[RedisLink | None, Store | None, list[doctor.Finding]]:
    """What can be opened of the surroundings; what cannot is a finding."""
    findings = []
    link: RedisLink | None = None
    store: Store | None = None
    try:
        link = RedisLink.open(settings)
    except PipelineError as error:
        findings.append(doctor.Finding("redis", "bad", str(error), "see 'redis.url' in the settings"))
    try:
        store = Store.open(settings, role="reader" if engine_path(settings) is not None else "writer")
    except PipelineError as error:
        findings.append(doctor.Finding("clickhouse", "bad", str(error), "see 'clickhouse.dsn' in the settings"))
    return link, store, findings


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
    handles: list[Store] = field(default_factory=list)
    role: str = "run"
    http: ClickHouseHttp | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _reload: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _failure: BaseException | None = None

    def start(self, *, scheduled: bool = True, any_port: bool = False) -> None:
        """Start everything; ``scheduled=False`` leaves the jobs to the caller."""
        self.http = serve_engine(self.settings, self.store, any_port=any_port)
        self.alerting.start()
        if scheduled:
            self.schedule.start()
        self._start_thread("heartbeat", self._beat)
        for drainer in self.drainers:
            self._start_thread(f"drain-{drainer.buffer.key}", lambda drainer=drainer: self._drain(drainer))  # type: ignore[misc]
        for overflow in self.overflows:
            self._start_thread(f"overflow-{overflow.buffer.key}", lambda overflow=overflow: overflow.run(self._stop))  # type: ignore[misc]

    def stop(self, *, stop_embedded: bool = False) -> None:
        """Stop inputs first, outputs last; returns when all has ended. ``stop_embedded``: Redis too."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        self.schedule.stop()
        self.alerting.close()
        try:
            for buffer in self.buffers:
                ledger.flush(buffer, self.store)
        except PipelineError as error:
            _log.info("ledger not flushed", trouble=str(error))
        if self.http is not None:
            self.http.close()
        for handle in self.handles:
            handle.close()
        self.store.close()
        self.link.close(stop_embedded=stop_embedded)

    def wait(self, stop: threading.Event) -> None:
        """Until ``stop`` is set or a thread failed; raises what it failed with. Reloads rules when asked to."""
        while not stop.wait(0.2):
            if self._failure is not None:
                raise self._failure
            if self._reload.is_set():
                self._reload.clear()
                self._reload_rules()

    def ask_reload(self) -> None:
        """Have the rules read again; safe to call from a signal handler."""
        self._reload.set()

    def http_url(self) -> str:
        """Where ClickHouse's HTTP interface answers; empty when it is not ours."""
        return self.http.url if self.http is not None else ""

    def _reload_rules(self) -> None:
        try:
            self.alerting.reload()
        except RuleError as error:
            _log.error("alert rules refused, the old ones stay", reason=str(error))

    def run_job(self, name: str) -> bool:
        """Run one job now."""
        return self.schedule.run_once(next(job for job in self.jobs if job.name == name))

    def books(self) -> Books:
        """The ledger of all buffers."""
        return sum((buffer.books() for buffer in self.buffers), Books())

    def trouble(self) -> str:
        """What is being waited for, in words; empty when all is well."""
        drains = [drainer.progress.trouble for drainer in self.drainers if drainer.progress.trouble]
        drains += [overflow.trouble for overflow in self.overflows if overflow.trouble]
        jobs = [f"{name}: {state.trouble}" for name, state in self.schedule.states.items() if state.trouble]
        return "; ".join([*drains, *jobs])

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
        """Drain until told to stop; a mostly bad chunk stops the drainer, loudly, and it looks again later."""
        while not self._stop.is_set():
            try:
                drainer.run(self._stop_for(drainer))
            except SchemaMismatch as mismatch:
                drainer.progress.trouble = str(mismatch)
                _log.error("draining stopped", reason=str(mismatch), looks_again_in_s=SCHEMA_PAUSE_S)
                self._stop.wait(SCHEMA_PAUSE_S)

    def _stop_for(self, drainer: Drainer) -> threading.Event:
        """A drainer ends by its own event, so that one that fails does not stop the others."""
        stop = threading.Event()

        def forward() -> None:
            self._stop.wait()
            stop.set()

        threading.Thread(target=forward, name=f"stop-{drainer.buffer.key}", daemon=True).start()
        return stop

    def _beat(self) -> None:
        """Say every second what this process does, where ``status`` finds it."""
        name = f"{socket.gethostname()}/{os.getpid()}"
        started_ms = time.time_ns() // 1_000_000
        while not self._stop.wait(HEARTBEAT_S):
            said = {
                "at": time.time_ns() // 1_000_000,
                "started": started_ms,
                "role": self.role,
                "trouble": self.trouble(),
                "stored": sum(drainer.progress.stored for drainer in self.drainers),
                "fenced": sum(drainer.progress.fenced for drainer in self.drainers),
                "retries": sum(drainer.progress.retries for drainer in self.drainers),
                "jobs": {name: asdict(state) for name, state in self.schedule.states.items()},
            }
            keys = self.buffers[0].keys
            try:
                with outages():
                    self.buffers[0].client.hset(keys.services, name, json.dumps(said))
            except Outage:
                continue  # the drainer says so already
        try:
            with outages():
                self.buffers[0].client.hdel(self.buffers[0].keys.services, name)
        except Outage:
            return


def build(settings: Settings, stop: threading.Event, *, clock: Clock | None = None, role: str = "run") -> Service:
    """Wire the service. Waits for Redis and ClickHouse as long as it takes, or until ``stop`` is set.

    Raises ``ConfigError`` for what waiting would not mend.
    """
    clock = clock or WallClock()
    link = patiently("Redis", lambda: RedisLink.open(settings), stop)
    try:
        patiently("Redis", lambda: doctor.refuse_risky_redis(settings, link), stop)
        settings = patiently("Redis", lambda: _with_retention(settings, link), stop)
        process.share_memory()
        process.yield_to_redis()
        store = patiently("ClickHouse", lambda: Store.open(settings), stop)
    except BaseException:
        link.close()
        raise
    try:
        patiently("ClickHouse", lambda: _bring_to_schema(store, settings), stop)
        for finding in doctor.examine(settings, link, store):
            if finding.level != "ok":
                say = _log.error if finding.level == "bad" else _log.warning
                say("surroundings", check=finding.check, seen=finding.seen, fix=finding.fix)
        return _wire(settings, clock, link, store, role)
    except BaseException:
        store.close()
        link.close()
        raise


def _bring_to_schema(store: Store, settings: Settings) -> None:
    """Our own engine is migrated; on a server that is another user's right, so here it is only checked."""
    if store.is_embedded:
        migrate(store, settings)
    else:
        check(store)


def _wire(settings: Settings, clock: Clock, link: RedisLink, store: Store, role: str) -> Service:
    """Every part, and every scheduled job in the order in which one feeds the next.

    Whoever works for long gets a handle of its own on the store: calls on one handle are serialised.
    """
    handles: list[Store] = []

    def handle() -> Store:
        handles.append(store.clone())
        return handles[-1]

    buffers = open_buffers(settings, link)
    drainers = [Drainer(buffer, handle(), settings.drainer, Limits.of(settings)) for buffer in buffers]
    overflows = [make_overflow(settings, link, drainer, handle()) for drainer in drainers]
    vitals = VitalsJob(handle(), link.database("metrics"), settings)
    publisher = Publisher.open(handle(), link, settings.retention.raw_hours)
    runs = RunsJob(handle(), settings.runs.grace_s)
    branches = settings.baselines.branches
    rollup = RollupJob(handle(), buffers, settings.rollups, publisher, vitals, runs, branches)
    baselines = BaselinesJob(handle(), link.database("results"), settings)
    changes = ChangesJob(handle(), settings)
    alerting = Alerting(settings, handle(), link, clock=clock)
    housekeeping = Housekeeping(link, buffers, HOUSEKEEPING_INTERVAL_S)
    books = handle()
    watch = Watch(settings, link, buffers, handle(), clock)
    rolled_up_ms = 0

    def roll_up() -> dict[str, Any]:
        nonlocal rolled_up_ms
        now_ms = clock.now_ms()
        report = asdict(rollup.run(now_ms))
        rolled_up_ms = now_ms - int(settings.rollups.delay_s * 1000)
        return report

    def evaluate() -> dict[str, Any]:
        # Windows and vitals are complete as far as the last rollup came, and what is on its way allows.
        until_ms = min(rolled_up_ms, watch.complete_until_ms())
        report = alerting.run_once(watch.facts(schedule.states), {"windows": until_ms, "vitals": until_ms})
        return {"ticks": report.evaluation.ticks, "firing": report.evaluation.firing, "stored": report.stored}

    def flush() -> dict[str, Any]:
        return {
            "chunks": sum(ledger.flush(buffer, books) for buffer in buffers),
            "marks": sum(deadletters.flush_marks(buffer, books) for buffer in buffers),
        }

    jobs = [
        Job("rollup", settings.rollups.interval_s, roll_up),
        Job("vitals", settings.vitals.interval_s, lambda: asdict(vitals.run(clock.now_ms()))),
        Job("runs", settings.runs.interval_s, lambda: asdict(runs.run(clock.now_ms()))),
        Job("changes", settings.changes.interval_s, lambda: asdict(changes.run(clock.now_ms()))),
        Job("baselines", settings.baselines.interval_s, lambda: asdict(baselines.run(clock.now_ms()))),
        Job("alerts", settings.alerts.interval_s, evaluate),
        Job("ledger", LEDGER_INTERVAL_S, flush),
        Job("housekeeping", HOUSEKEEPING_INTERVAL_S, lambda: {"removed": housekeeping.run(clock.now_ms())}),
    ]
    schedule = Schedule(jobs, buffers[0])
    return Service(settings, clock, link, store, buffers, drainers, overflows, jobs, schedule, alerting, handles, role)


def make_overflow(settings: Settings, link: RedisLink, drainer: Drainer, store: Store) -> Overflow:
    """The guard of a drainer's buffer, with its own claims and its own directory for spilled chunks."""
    key = drainer.buffer.key
    own = open_buffer(settings, link, key)
    directory = settings.data_dir / "spill" / re.sub(r"[^A-Za-z0-9_.-]", "_", key)
    spill = Spill(directory, own, store, settings.drainer, Limits.of(settings))
    return Overflow(own, drainer, settings.buffer, spill)


def serve_engine(settings: Settings, store: Store, *, any_port: bool = False) -> ClickHouseHttp | None:
    """Answer ClickHouse's HTTP interface when the engine is ours.

    Raises ``UsageError`` when the port is taken, unless ``any_port`` allows a free one instead.
    """
    if not store.is_embedded:
        return None
    web = settings.web
    for port in (web.clickhouse_port, 0) if any_port else (web.clickhouse_port,):
        try:
            return ClickHouseHttp(store, web.host, port, limits=web)
        except OSError as error:
            taken = error
    raise UsageError(
        f"setting 'web.clickhouse_port' has the value {web.clickhouse_port}: {taken.strerror or taken}; "
        "choose another port, or 0 for any free one"
    )


def patiently(neighbour: str, action: Callable[[], Built], stop: threading.Event) -> Built:
    """Do it; while the neighbour is away, try again with growing pauses. Raises ``Stopped`` when told to stop."""
    backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
    for failures in itertools.count(1):
        try:
            return action()
        except RedisDenied as denied:
            raise UsageError(str(denied)) from denied  # at the start it is a setting; later it is an outage
        except Outage as outage:
            pause_s = backoff.pause_s(failures)
            _log.warning("waiting for " + neighbour, trouble=str(outage), pause_s=round(pause_s, 1))
        if stop.wait(pause_s):
            break
    raise Stopped


class Stopped(PipelineError):
    """The process was told to end while it waited for a neighbour."""


# What the commands call


def run_service(settings: Settings, stop: threading.Event) -> None:
    """``pipeline run``: until ``stop`` is set."""
    try:
        service = build(settings, stop)
    except Stopped:
        return
    reload_on_hangup(service)
    try:
        service.start()
        _log.info(
            "running", buffers=settings.buffer.keys, data_dir=str(settings.data_dir), clickhouse_http=service.http_url()
        )
        service.wait(stop)
    finally:
        service.stop()
        _log.info("ended")


def run_drainer(settings: Settings, stop: threading.Event, *, until_empty: bool) -> dict[str, Any]:
    """``pipeline drain``: the drainers alone; the books at the end and what this process did."""
    service = build(settings, stop, role="drain")
    service.schedule = Schedule([job for job in service.jobs if job.name == "ledger"], service.buffers[0])
    try:
        if until_empty:
            service.http = serve_engine(settings, service.store, any_port=True)
            for drainer in service.drainers:
                drainer.run(stop, until_empty=True)
            for overflow in service.overflows:
                while not stop.is_set() and overflow.spill.drain_one(stop):
                    pass
        else:
            service.start()
            service.wait(stop)
        progress = [drainer.progress for drainer in service.drainers]
        return {
            **service.books().as_dict(),
            "stored": sum(one.stored for one in progress),
            "dead_lettered": sum(one.dead_lettered for one in progress),
            "fenced": sum(one.fenced for one in progress),
            "retries": sum(one.retries for one in progress),
        }
    finally:
        service.stop()


def run_rollup(
    settings: Settings, from_ms: int | None, to_ms: int | None, advance: Callable[[int, int], None]
) -> dict[str, Any]:
    """``pipeline rollup``: every job that computes, once; with a range, the windows of it anew."""
    stop = threading.Event()
    service = build(settings, stop, role="rollup")
    now_ms = service.clock.now_ms()
    try:
        if from_ms is None:
            jobs = ("rollup", "vitals", "runs", "changes", "baselines", "ledger")
            failed = [name for name in jobs if not service.run_job(name)]
            if failed:
                raise PipelineError(f"{', '.join(failed)} failed: {service.trouble()}")
            return {"jobs": list(jobs)}

        def tell(progress: RebuildProgress) -> None:
            advance(progress.reached_s - progress.from_s, progress.to_s - progress.from_s)

        keys = service.buffers[0].keys
        checkpoint = Checkpoint(service.link.database("metrics"), keys.checkpoints)
        vitals = VitalsJob(service.store, service.link.database("metrics"), settings)
        report = rebuild(
            service.store,
            from_ms,
            to_ms or now_ms,
            now_ms,
            settings.rollups,
            checkpoint,
            tell,
            vitals,
            RunsJob(service.store, settings.runs.grace_s),
            settings.baselines.branches,
        )
        return asdict(report)
    finally:
        service.stop()


def reload_on_hangup(service: Service) -> None:
    """SIGHUP reads the alert rules again; bad ones are refused and the old ones stay."""
    signal.signal(signal.SIGHUP, lambda *_: service.ask_reload())


def _with_retention(settings: Settings, link: RedisLink) -> Settings:
    """The settings with the retention that the platform keeps in Redis."""
    hours = retention_hours(link, settings.retention.raw_hours)
    retention = settings.retention.model_copy(update={"raw_hours": hours})
    return settings.model_copy(update={"retention": retention})
