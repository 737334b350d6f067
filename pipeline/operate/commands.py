"""What ``pipeline run``, ``drain`` and ``rollup`` do, from their start to their end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pipeline.base import log
from pipeline.base.config import Settings
from pipeline.base.errors import PipelineError, RedisOutage, Stopped
from pipeline.base.keys import FleetKeys
from pipeline.base.redis_link import RedisLink
from pipeline.jobs.coarser import CoarserJob
from pipeline.jobs.rebuild import Checkpoint, RebuildProgress, rebuild
from pipeline.jobs.runs import RunsJob
from pipeline.jobs.vitals import VitalsJob
from pipeline.operate.fleet import Fleet
from pipeline.operate.lease import Lease
from pipeline.operate.requests import PATIENCE_S, Advance, RequestDesk, ask
from pipeline.operate.schedule import Schedule
from pipeline.operate.service import STOP_S, Service
from pipeline.operate.wiring import build

_log = log.get(__name__)

ROLLUP_JOBS = ("rollup", "coarser", "vitals", "runs", "changes", "baselines", "ledger")
"""What ``pipeline rollup`` runs, in the order in which one feeds the next."""


def run_service(settings: Settings, stop: threading.Event, read_settings: Callable[[], Settings] | None = None) -> None:
    """``pipeline run``: until ``stop`` is set. SIGHUP reads the alert rules, and the settings by ``read_settings``."""
    try:
        service = build(settings, stop)
    except Stopped:
        return
    service.settings_as_read, service.read_settings = settings, read_settings
    signal.signal(signal.SIGHUP, lambda *_: service.ask_reload())
    keys = FleetKeys(settings.fleet.name)
    service.desk = RequestDesk(
        service.link.database("metrics"),
        keys.requests,
        keys.answer,
        is_ours=lambda: service.schedule.holds,
        actions={"rollup": lambda request, advance: roll_up(service, request, advance)},
    )
    try:
        service.start()
        _log.info(
            "service started",
            buffers=settings.buffer.keys,
            data_dir=str(settings.data_dir),
            page=service.site_url(),
            clickhouse_http=service.http_url(),
        )
        service.wait(stop)
    finally:
        service.stop(within_s=STOP_S)
        _log.info("service stopped")


def run_drainer(settings: Settings, stop: threading.Event, *, until_empty: bool) -> dict[str, Any]:
    """``pipeline drain``: the drainers alone; the books at the end and what this process did.

    With ``until_empty`` it ends when all buffers, their segments and their spilled files are empty.
    """
    service = build(settings, stop, role="drain", any_port=until_empty)
    # The ledger is flushed by every drainer, without a lease: one that held it would keep the others from rolling up.
    service.schedule = Schedule([job for job in service.jobs if job.name == "ledger"], lease=None)
    try:
        if until_empty:
            service.drain_until_empty(stop)
        else:
            service.start()
            service.wait(stop)
        activity = [drainer.activity for drainer in service.drainers]
        return {
            **service.books().as_dict(),
            "stored": sum(one.stored for one in activity),
            "dead_lettered": sum(one.dead_lettered for one in activity),
            "fenced": sum(one.fenced for one in activity),
            "retries": sum(one.retries for one in activity),
        }
    finally:
        service.stop(within_s=STOP_S)


def run_rollup(
    settings: Settings, stop: threading.Event, from_ms: int | None, to_ms: int | None, advance: Advance
) -> dict[str, Any]:
    """``pipeline rollup``: every job that computes, once; with a range, the windows of it anew.

    The process that holds the schedule does it, when there is one; else this process. Raises ``PipelineError``
    when that process does not answer, or a job failed.
    """
    request = {"what": "rollup", "from_ms": from_ms, "to_ms": to_ms}
    answered = _asked(settings, stop, request, advance)
    if answered is not None:
        return answered
    service = build(settings, stop, role="rollup", need_store=True)
    try:
        _take_schedule(service, stop)
        return roll_up(service, request, advance)
    finally:
        service.stop(within_s=STOP_S)


def roll_up(service: Service, request: dict[str, Any], advance: Advance) -> dict[str, Any]:
    """What a request for a rollup asks for, done by ``service``. Raises what its jobs could not do."""
    if request["from_ms"] is None:
        failed = [name for name in ROLLUP_JOBS if not service.run_job(name)]
        if failed:
            raise PipelineError(f"{', '.join(failed)} failed: {service.trouble()}")
        return {"jobs": list(ROLLUP_JOBS)}

    def tell(progress: RebuildProgress) -> None:
        advance(progress.reached_s - progress.from_s, progress.to_s - progress.from_s)

    client = service.link.database("metrics")
    now_ms = service.clock.now_ms()
    with service.store.clone() as store:
        vitals = VitalsJob(store, client, service.settings, service.stopping)
        report = rebuild(
            store,
            int(request["from_ms"]),
            int(request["to_ms"] or now_ms),
            now_ms,
            service.settings.rollups,
            Checkpoint(client, FleetKeys(service.settings.fleet.name).checkpoints),
            tell,
            vitals,
            RunsJob(store, service.settings.runs.grace_s),
            service.settings.baselines.branches,
            service.stopping,
            CoarserJob(store, service.settings.rollups.delay_s, service.stopping),
        )
    return asdict(report)


def _asked(
    settings: Settings, stop: threading.Event, request: dict[str, Any], advance: Advance
) -> dict[str, Any] | None:
    """What the process that holds the schedule answers; None when there is none."""
    link = RedisLink.open(settings, start=False)
    try:
        client, keys = link.database("metrics"), FleetKeys(settings.fleet.name)
        fleet = Fleet(client, keys.services)
        until_s = time.monotonic() + PATIENCE_S
        try:
            while not any(said.get("schedules") for said in fleet.services(fleet.now_ms())):
                # A lease without a heartbeat: its holder has just started, or has just died.
                if not Lease(client, keys.scheduler).is_held() or time.monotonic() > until_s:
                    return None
                if stop.wait(0.5):
                    raise Stopped("stopped while waiting for the process that holds the schedule")
        except RedisOutage:
            return None  # building the service waits for Redis
        return ask(client, keys.requests, keys.answer, request, advance, stop=stop)
    finally:
        link.close()


def _take_schedule(service: Service, stop: threading.Event) -> None:
    """Hold the lease, waiting for one that a dead process left. Raises ``PipelineError`` when another keeps it."""
    lease = service.schedule.lease
    assert lease is not None
    until_s = time.monotonic() + PATIENCE_S
    while not lease.hold():
        if stop.wait(0.5):
            raise Stopped("stopped while waiting for the schedule")
        if time.monotonic() > until_s:
            raise PipelineError(
                f"another process holds the schedule (key {lease.key}) but shows no heartbeat; "
                "see 'pipeline status' for what runs"
            )
