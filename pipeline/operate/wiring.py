"""Wiring: one function builds the service, read from top to bottom."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from pipeline.alerts.alerting import Alerting
from pipeline.base import log
from pipeline.base.backoff import Backoff
from pipeline.base.clock import Clock
from pipeline.base.config import Settings
from pipeline.base.errors import Outage, RedisDenied, Stopped, UsageError
from pipeline.base.keys import FleetKeys
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import open_buffer, open_buffers
from pipeline.collect.build import build_collector
from pipeline.deliver import dead_letters as deadletters
from pipeline.deliver import ledger
from pipeline.deliver.drainer import Drainer
from pipeline.deliver.measure_aside import measure
from pipeline.deliver.overflow import Overflow
from pipeline.deliver.spill import Spill
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.jobs.baselines import BaselinesJob
from pipeline.jobs.changes import ChangesJob
from pipeline.jobs.coarser import CoarserJob
from pipeline.jobs.failures import FailuresJob
from pipeline.jobs.housekeeping import Housekeeping
from pipeline.jobs.publish import Publisher
from pipeline.jobs.retention import retention_hours
from pipeline.jobs.rollup import RollupJob
from pipeline.jobs.runs import RunsJob
from pipeline.jobs.vitals import VitalsJob
from pipeline.metric import Limits
from pipeline.operate import doctor, preflight, process
from pipeline.operate.adopt import adopt
from pipeline.operate.fleet import Fleet, RedisClock
from pipeline.operate.follow_retention import RetentionFollower
from pipeline.operate.joining import ClickHouseGate
from pipeline.operate.lease import Lease
from pipeline.operate.liveness import Heartbeat
from pipeline.operate.schedule import Job, Schedule
from pipeline.operate.service import Service
from pipeline.operate.watch import Watch
from pipeline.store.client import Store, engine_path
from pipeline.store.migrate import migrate
from pipeline.store.schema import check_schema
from pipeline.web.parts import Parts
from pipeline.web.site import Site

_log = log.get(__name__)

LEDGER_INTERVAL_S = 5.0
SCHEMA_INTERVAL_S = 60.0
HOUSEKEEPING_INTERVAL_S = 300.0
COARSER_INTERVAL_S = 30.0

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 15.0

SITE_ROLES = ("run", "demo")
"""Processes that serve the page."""

Built = TypeVar("Built")


def build(
    settings: Settings,
    stop: threading.Event,
    *,
    clock: Clock | None = None,
    role: str = "run",
    any_port: bool = False,
    need_store: bool = False,
) -> Service:
    """Build the service. Waits for Redis as long as it takes, or until ``stop`` is set; then raises ``Stopped``.

    A ClickHouse server that does not answer joins later, unless ``need_store`` has it waited for.
    Raises ``ConfigError`` for what waiting would not mend.
    """
    preflight.check(settings)
    heartbeat = Heartbeat(settings.data_dir, role).start()
    try:
        link = patiently("Redis", lambda: RedisLink.open(settings), stop)
    except BaseException:
        heartbeat.stop()
        raise
    store: Store | None = None
    try:
        patiently("Redis", lambda: doctor.refuse_risky_redis(settings, link), stop)
        default_hours = settings.retention.raw_hours
        settings = patiently("Redis", lambda: with_retention(settings, link), stop)
        process.share_memory()
        process.yield_to_redis()
        store, gate = _open_store(settings, link, stop, need_store)
        clock = clock or RedisClock(link.database("metrics"))
        return _wire(settings, default_hours, clock, link, store, gate, heartbeat, role, any_port)
    except BaseException:
        if store is not None:
            store.close()
        link.close()
        heartbeat.stop()
        raise


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
            _log.warning("waiting for " + neighbour.lower(), trouble=str(outage), pause_s=round(pause_s, 1))
        if stop.wait(pause_s):
            break
    raise Stopped(f"stopped while waiting for {neighbour}")


def with_retention(settings: Settings, link: RedisLink) -> Settings:
    """The settings with the retention that the platform keeps in Redis."""
    hours = retention_hours(link, settings.retention.raw_hours)
    return _keeping(settings, hours)


def _keeping(settings: Settings, raw_hours: int) -> Settings:
    retention = settings.retention.model_copy(update={"raw_hours": raw_hours})
    return settings.model_copy(update={"retention": retention})


def _open_store(
    settings: Settings, link: RedisLink, stop: threading.Event, need_store: bool
) -> tuple[Store, ClickHouseGate | None]:
    """The store, and the gate that opens when ClickHouse joins; no gate when it is there already."""

    def admit() -> Store:
        store = Store.open(settings)
        try:
            _bring_to_schema(store, settings)
        except BaseException:
            store.close()
            raise
        return store

    if engine_path(settings) is not None or need_store:
        store = patiently("ClickHouse", admit, stop)
        _say_findings(settings, link, store)
        return store, None
    gate = ClickHouseGate(admit, lambda store: _say_findings(settings, link, store))
    if not gate.try_now():
        _log.warning("clickhouse unreachable, starting without it", trouble=gate.trouble)
    return Store.later(settings, gate), gate


def _bring_to_schema(store: Store, settings: Settings) -> None:
    """The embedded engine is migrated; on a server that is another user's right, so here it is only checked."""
    if store.is_embedded:
        migrate(store, settings)
    else:
        check_schema(store)


def _say_findings(settings: Settings, link: RedisLink, store: Store) -> None:
    for finding in doctor.examine(settings, link, store):
        if finding.severity != "ok":
            say = _log.error if finding.severity == "bad" else _log.warning
            say("startup check failed", check=finding.check, detail=finding.detail, fix=finding.fix)


def _wire(
    settings: Settings,
    default_hours: int,
    clock: Clock,
    link: RedisLink,
    store: Store,
    gate: ClickHouseGate | None,
    heartbeat: Heartbeat,
    role: str,
    any_port: bool,
) -> Service:
    """Every part, and every scheduled job in the order in which one feeds the next.

    What works for long gets a handle of its own on the store: calls on one handle are serialised.
    """
    handles: list[Store] = []
    stopping = threading.Event()

    def handle() -> Store:
        handles.append(store.clone())
        return handles[-1]

    buffers = open_buffers(settings, link)
    adopt(link.database("metrics"), FleetKeys(settings.fleet.name), settings.buffer.keys[0])
    drainers = [Drainer(buffer, handle(), settings.drainer, Limits.of(settings)) for buffer in buffers]
    overflows = [make_overflow(settings, link, drainer, handle()) for drainer in drainers]
    vitals = VitalsJob(handle(), link.database("metrics"), settings, stopping)
    publisher = Publisher.open(handle(), link, settings.retention.raw_hours, settings.publish.skip)
    runs = RunsJob(handle(), settings.runs.grace_s)
    branches = settings.baselines.branches
    rollup = RollupJob(
        handle(), buffers, settings.rollups, publisher, vitals, runs, branches, stopping,
        CoarserJob(handle(), settings.rollups.delay_s, stopping),
    )  # fmt: skip
    coarser = CoarserJob(handle(), settings.rollups.delay_s, stopping)
    baselines = BaselinesJob(handle(), link.database("results"), settings)
    changes = ChangesJob(handle(), settings, stopping)
    alerting = Alerting(settings, handle(), link, clock=clock)
    fleet_keys = FleetKeys(settings.fleet.name)
    fleet = Fleet(link.database("metrics"), fleet_keys.services)
    housekeeping = Housekeeping(link, fleet, HOUSEKEEPING_INTERVAL_S, settings.publish.skip)
    books = handle()
    failures = FailuresJob(handle(), link.database("results"), settings.publish.skip)
    collector = build_collector(settings, link, handle(), stopping)
    collect_jobs = []
    if collector is not None:
        collect_jobs.append(Job("collect", settings.collect.interval_s, lambda: asdict(collector.run(clock.now_ms()))))
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
            "measured": sum(measure(buffer, books) for buffer in buffers),
            "marks": sum(deadletters.flush_marks(buffer, books) for buffer in buffers),
        }

    jobs = [
        Job("rollup", settings.rollups.interval_s, roll_up),
        Job("vitals", settings.vitals.interval_s, lambda: _tidily(lambda: asdict(vitals.run(clock.now_ms())))),
        Job("coarser", COARSER_INTERVAL_S, lambda: asdict(coarser.fill(clock.now_ms()))),
        *collect_jobs,
        Job("failures", settings.publish.failures_interval_s, lambda: asdict(failures.run(clock.now_ms()))),
        Job("runs", settings.runs.interval_s, lambda: asdict(runs.run(clock.now_ms()))),
        Job("changes", settings.changes.interval_s, lambda: _tidily(lambda: asdict(changes.run(clock.now_ms())))),
        Job("baselines", settings.baselines.interval_s, lambda: _tidily(lambda: asdict(baselines.run(clock.now_ms())))),
        Job("alerts", settings.alerts.interval_s, evaluate),
        Job("ledger", LEDGER_INTERVAL_S, flush),
        Job("schema", SCHEMA_INTERVAL_S, lambda: check_schema(books)),
        Job("housekeeping", HOUSEKEEPING_INTERVAL_S, lambda: {"removed": housekeeping.run(clock.now_ms())}),
    ]
    schedule = Schedule(jobs, Lease(link.database("metrics"), fleet_keys.scheduler))

    def accept(raw_hours: int) -> None:
        publisher.keep(raw_hours)
        limits = Limits.of(_keeping(settings, raw_hours))
        for drainer, overflow in zip(drainers, overflows, strict=True):
            drainer.accept(limits)
            overflow.spill.limits = limits

    # Who opened the embedded engine is the only one who can alter its tables.
    retention = RetentionFollower(
        settings, default_hours, link, handle(), accept, lambda: store.is_embedded or schedule.holds
    )
    return Service(
        settings, clock, link, store, buffers, drainers, overflows, jobs, schedule, alerting, fleet, heartbeat,
        retention, handles, role, gate, stopping=stopping,
        serve=lambda store: serve_engine(settings, store, any_port=any_port),
        serve_site=(lambda service: serve_site(settings, service, any_port=any_port)) if role in SITE_ROLES else None,
    )  # fmt: skip


def _tidily(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do it, and give back the memory that it took."""
    try:
        return work()
    finally:
        process.return_memory()


def make_overflow(settings: Settings, link: RedisLink, drainer: Drainer, store: Store) -> Overflow:
    """The guard of a drainer's buffer, with its own claims and its own directory for spilled chunks."""
    key = drainer.buffer.key
    own = open_buffer(settings, link, key)
    directory = settings.data_dir / "spill" / re.sub(r"[^A-Za-z0-9_.-]", "_", key)
    spill = Spill(directory, own, store, settings.drainer, Limits.of(settings))
    return Overflow(own, drainer, settings.buffer, spill)


def serve_engine(settings: Settings, store: Store, *, any_port: bool = False) -> ClickHouseHttp | None:
    """Answer ClickHouse's HTTP interface when this process opened the engine.

    Raises ``UsageError`` when the port is taken, unless ``any_port`` allows a free one instead.
    """
    if not store.is_embedded:
        return None
    web = settings.web
    return _on_a_port(
        "web.clickhouse_port",
        web.clickhouse_port,
        any_port,
        lambda port: ClickHouseHttp(store, web.host, port, limits=web),
    )


def serve_site(settings: Settings, service: Service, *, any_port: bool = False) -> Site:
    """The page, metrics and health. Raises ``UsageError`` as ``serve_engine`` does."""
    parts = Parts(
        settings,
        service.link,
        service.buffers,
        store=service.store.clone,
        reader=lambda: Store.open(settings, role="reader"),
        drainers={drainer.buffer.key: drainer.activity for drainer in service.drainers},
        loops=service.heartbeat.ages,
        jobs=service.schedule.told,
        beacons=service.role == "demo",
        raw_hours=lambda: service.retention.hours,
    )
    web = settings.web
    return _on_a_port("web.port", web.port, any_port, lambda port: Site(parts, web.host, port))


def _on_a_port(setting: str, wanted: int, any_port: bool, serve: Callable[[int], Built]) -> Built:
    for port in (wanted, 0) if any_port else (wanted,):
        try:
            return serve(port)
        except OSError as error:
            taken = error
    raise UsageError(
        f"setting {setting!r} has the value {wanted}: {taken.strerror or taken}; "
        "choose another port, or 0 for any free one"
    )
