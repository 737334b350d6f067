"""The schedule: runs each job at its interval, on one process of the fleet.

A lease in Redis decides whose turn it is. It only avoids duplicate work: what jobs write is versioned, so
two schedulers at once do things twice and nothing else. A job works out what is due from stored state,
never from the time it fired, so a missed turn heals at the next. A job that meets an outage is tried again
at its next turn; a job that fails otherwise is logged with its traceback, and the others go on.

Intervals run on the monotonic clock. APScheduler computes from the wall clock, so a thread compares the
two every second and corrects its plan when the wall clock was set.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from pipeline.base import log
from pipeline.base.errors import Outage, PipelineError, Stopped
from pipeline.operate.lease import Lease

_log = log.get(__name__)

CLOCK_CHECK_S = 1.0
MAX_CLOCK_STEP_S = 0.5
"""The plan is corrected when it differs from the monotonic clock by more than this."""

OVERDUE_S = 30.0
"""A job is overdue when it began longer ago than twice its interval and this."""


@dataclass(frozen=True)
class Job:
    """Something to do every ``interval_s``; ``work`` returns facts for the log, or None when nothing was due."""

    name: str
    interval_s: float
    work: Callable[[], dict[str, Any] | None]


@dataclass
class JobState:
    """How a job fares, for ``status``. Times are of the monotonic clock."""

    turns: int = 0
    failures: int = 0
    missed: int = 0
    """Turns that were due while the job still ran."""
    last_took_s: float = 0.0
    trouble: str = ""
    began_s: float = field(default_factory=time.monotonic)
    """When it was last begun; at first, when this process could have begun it."""


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler is not typed
    """Due ``interval_s`` after the last turn, however the wall clock was set meanwhile."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.due_s = time.monotonic()

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        """The next turn on the wall clock of APScheduler. Turns that were missed are not made up for."""
        self.due_s = time.monotonic() + self.interval_s
        return now + timedelta(seconds=self.interval_s)


class Schedule:
    """Jobs on APScheduler; with a lease on one process of the fleet at a time, without one on each."""

    def __init__(self, jobs: Sequence[Job], lease: Lease | None) -> None:
        self.jobs = tuple(jobs)
        self.lease = lease
        self.holds = lease is None
        """Whether it was this process's turn when a job last asked."""
        self.states = {job.name: JobState() for job in jobs}
        self.heartbeat_s = time.monotonic()
        self._locks = {job.name: threading.Lock() for job in jobs}
        self._triggers = {job.name: Every(job.interval_s) for job in jobs}
        self._stop = threading.Event()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max_workers=max(4, len(jobs)))},
            # APScheduler's default silently skips a turn that is more than a second late.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        # It warns of what ``_overrun`` says.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler.add_listener(self._overrun, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Begin to run the jobs, each for the first time at once."""
        for job in self.jobs:
            self.states[job.name].began_s = time.monotonic()
            self._scheduler.add_job(
                self.run_once, self._triggers[job.name], args=[job], id=job.name, next_run_time=datetime.now(UTC)
            )
        self._scheduler.start()
        threading.Thread(target=self._watch_clock, name="schedule-clock", daemon=True).start()

    def stop(self, within_s: float = 10.0) -> bool:
        """Begin no more jobs, wait for the running ones and give the lease back; False if some are still at work."""
        until_s = time.monotonic() + within_s
        self._stop.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        ended = True
        for lock in self._locks.values():
            if lock.acquire(timeout=max(0.0, until_s - time.monotonic())):
                lock.release()
            else:
                ended = False
        if ended and self.lease is not None:
            self.lease.give_back()
        return ended

    def run_once(self, job: Job) -> bool:
        """Run one job if it is this process's turn; True when it succeeded or it was not."""
        state = self.states[job.name]
        with self._locks[job.name]:
            state.began_s = started_s = time.monotonic()
            try:
                if not self._is_our_turn():
                    return True
                facts = job.work()
            except Stopped:
                return False
            except Outage as outage:
                # Said once per outage: the drainer says it in full.
                (_log.info if state.trouble else _log.warning)("job postponed", job=job.name, trouble=str(outage))
                state.failures += 1
                state.trouble = str(outage)
                return False
            except PipelineError as error:
                _log.error("job failed", job=job.name, trouble=str(error))
                state.failures += 1
                state.trouble = str(error)
                return False
            except Exception as error:
                _log.exception("job failed", job=job.name)
                state.failures += 1
                state.trouble = f"{type(error).__name__}: {error}"
                return False
            state.turns += 1
            state.trouble = ""
            state.last_took_s = time.monotonic() - started_s
            if facts:
                _log.debug("job done", job=job.name, took_s=round(state.last_took_s, 3), **facts)
            return True

    def told(self) -> dict[str, dict[str, Any]]:
        """How each job fares, as it goes into the heartbeat; ages instead of times, which no other clock can read."""
        now_s = time.monotonic()
        return {
            job.name: {
                "turns": state.turns,
                "failures": state.failures,
                "missed": state.missed,
                "last_took_s": round(state.last_took_s, 3),
                "trouble": state.trouble,
                "began_s_ago": round(now_s - state.began_s, 1),
                "interval_s": job.interval_s,
                "overdue": self._scheduler.running and self.holds and is_overdue(job.interval_s, now_s - state.began_s),
            }
            for job in self.jobs
            for state in [self.states[job.name]]
        }

    def _is_our_turn(self) -> bool:
        self.holds = self.lease is None or self.lease.hold()
        return self.holds

    def _watch_clock(self) -> None:
        while not self._stop.wait(CLOCK_CHECK_S):
            self.heartbeat_s = time.monotonic()
            self.correct_plan()

    def correct_plan(self) -> None:
        """Plan each job for when it is due by the monotonic clock, if the wall clock was set since it was planned."""
        for name, trigger in self._triggers.items():
            planned = self._scheduler.get_job(name)
            if planned is None or planned.next_run_time is None:
                continue
            now = datetime.now(UTC)
            left_s = max(0.0, trigger.due_s - time.monotonic())
            late_s = (planned.next_run_time - now).total_seconds() - left_s
            # Planned too early needs no correction: APScheduler's waiting itself is by the monotonic clock.
            if late_s > MAX_CLOCK_STEP_S:
                _log.warning("wall clock was set back, schedule corrected", job=name, step_s=round(late_s, 1))
                self._scheduler.modify_job(name, next_run_time=now + timedelta(seconds=left_s))

    def _overrun(self, event: Any) -> None:
        self.states[event.job_id].missed += 1
        _log.info("job still running at its next start time", job=event.job_id)


def is_overdue(interval_s: float, began_s_ago: float) -> bool:
    """Whether a job that should begin every ``interval_s`` began too long ago."""
    return began_s_ago > 2 * interval_s + OVERDUE_S
