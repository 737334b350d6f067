"""The schedule: runs each job at its interval, on one process of the fleet.

A lease in Redis decides whose turn it is; it saves work, it protects nothing: what jobs write is
versioned, so that two schedulers at once only do things twice. A job works out what is due from
stored state, never from the time it fired, so a missed run heals at the next. A job that meets an
outage is tried again at its next turn; a job that fails otherwise is logged with its traceback,
and the others go on.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from pipeline.base import log
from pipeline.base.errors import Outage
from pipeline.base.redis_link import outages
from pipeline.buffer.buffer import Buffer

_log = log.get(__name__)

LEASE_S = 15
"""Another process takes the schedule over this long after its holder died."""

_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Job:
    """Something to do every ``interval_s``; ``run`` returns facts for the log, or None when nothing was due."""

    name: str
    interval_s: float
    run: Callable[[], dict[str, Any] | None]
    everywhere: bool = False
    """Whether every process runs it, not only the one that holds the schedule."""


@dataclass
class JobState:
    """How a job fares, for ``status``."""

    runs: int = 0
    failures: int = 0
    last_run_ms: int = 0
    last_took_s: float = 0.0
    trouble: str = ""


@dataclass
class Schedule:
    """Jobs on APScheduler, one scheduler of the fleet at a time."""

    jobs: Sequence[Job]
    buffer: Buffer
    states: dict[str, JobState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._locks = {job.name: threading.Lock() for job in self.jobs}
        self.states = {job.name: JobState() for job in self.jobs}
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max_workers=max(4, len(self.jobs)))},
            # APScheduler's default silently skips a run that is more than a second late.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._overrun, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Begin to run the jobs, each for the first time at once."""
        for job in self.jobs:
            self._scheduler.add_job(
                self.run_once,
                "interval",
                args=[job],
                seconds=job.interval_s,
                id=job.name,
                next_run_time=datetime.now(UTC),
            )
        self._scheduler.start()

    def stop(self) -> None:
        """Let running jobs finish and give the lease back."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        try:
            with outages():
                self.buffer.client.eval(_RELEASE, 1, self.buffer.keys.scheduler, self._token)
        except Outage:
            return  # it runs out by itself

    def run_once(self, job: Job) -> bool:
        """Run one job if it is this process's turn; True when it succeeded or it was not."""
        state = self.states[job.name]
        with self._locks[job.name]:
            started = time.perf_counter()
            try:
                if not job.everywhere and not self.is_ours():
                    return True
                facts = job.run()
            except Outage as outage:
                # Said once per outage: the drainer says it in full.
                (_log.info if state.trouble else _log.warning)("job postponed", job=job.name, trouble=str(outage))
                state.failures += 1
                state.trouble = str(outage)
                return False
            except Exception as error:
                _log.exception("job failed", job=job.name)
                state.failures += 1
                state.trouble = f"{type(error).__name__}: {error}"
                return False
            state.runs += 1
            state.trouble = ""
            state.last_run_ms = time.time_ns() // 1_000_000
            state.last_took_s = time.perf_counter() - started
            if facts:
                _log.debug("job done", job=job.name, took_s=round(state.last_took_s, 3), **facts)
            return True

    def is_ours(self) -> bool:
        """Whether this process holds the schedule; takes it when nobody does."""
        with outages():
            return bool(
                self.buffer.client.eval(_RENEW, 1, self.buffer.keys.scheduler, self._token, int(LEASE_S * 1000))
            )

    def _overrun(self, event: Any) -> None:
        _log.info("job still running at its next turn", job=event.job_id)
