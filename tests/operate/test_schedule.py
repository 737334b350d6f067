"""The schedule: intervals by the monotonic clock, one holder of the lease, jobs that fail, stop or are overdue."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any

import apscheduler.schedulers.base as apscheduler_base
import pytest
import redis

from pipeline.base import resources
from pipeline.base.errors import RedisOutage, Stopped
from pipeline.operate import schedule as schedule_
from pipeline.operate.lease import Lease
from pipeline.operate.schedule import Job, Schedule, is_overdue

PATIENCE_S = 60.0
HOUR_S = 3600


class WallClock:
    """Stands in for ``datetime`` where APScheduler and the schedule read the wall clock; ``step_s`` sets it."""

    step_s = 0.0

    @classmethod
    def now(cls, zone: tzinfo | None = None) -> datetime:
        return datetime.now(zone) + timedelta(seconds=cls.step_s)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> type[WallClock]:
    clock = type("SetClock", (WallClock,), {})
    monkeypatch.setattr(apscheduler_base, "datetime", clock)
    monkeypatch.setattr(schedule_, "datetime", clock)
    monkeypatch.setattr(schedule_, "CLOCK_CHECK_S", 0.05)
    return clock


class Counted:
    """A job that counts its runs."""

    def __init__(self, interval_s: float = 0.05) -> None:
        self.runs = 0
        self.more = threading.Semaphore(0)
        self.job = Job("counted", interval_s, self.run)

    def run(self) -> dict[str, Any] | None:
        self.runs += 1
        self.more.release()
        return None

    def wait_for(self, runs: int) -> None:
        for _ in range(runs):
            assert self.more.acquire(timeout=PATIENCE_S), f"it ran {self.runs} times"


@pytest.fixture
def started() -> Iterator[Callable[..., Schedule]]:
    """``started(job, lease)``: a schedule that runs, ended after the test."""
    made: list[Schedule] = []

    def start(job: Job, lease: Lease | None = None) -> Schedule:
        made.append(Schedule([job], lease))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        assert one.stop(PATIENCE_S)


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S, 20 * 365 * 24 * HOUR_S], ids=["back", "ahead", "20 years ahead"])
def test_setting_the_wall_clock_does_not_disturb_the_intervals(
    step_s: float, wall_clock: type[WallClock], started: Callable[..., Schedule]
) -> None:
    """Jobs go on at their interval after the wall clock was set back an hour, ahead an hour or ahead by years."""
    counted = Counted()
    started(counted.job)
    counted.wait_for(2)
    wall_clock.step_s = step_s
    counted.wait_for(5)


def test_a_long_interval_is_kept_when_the_wall_clock_jumps_ahead(
    wall_clock: type[WallClock], started: Callable[..., Schedule]
) -> None:
    """A jump ahead may run a job once early; the missed turns are not made up for."""
    counted = Counted(interval_s=HOUR_S)
    schedule = started(counted.job)
    counted.wait_for(1)
    wall_clock.step_s = 1000 * HOUR_S
    schedule._scheduler.wakeup()
    counted.wait_for(1)
    schedule._scheduler.wakeup()
    time.sleep(0.3)
    assert counted.runs == 2


def test_what_the_page_shows_of_a_job_is_told() -> None:
    """Each field that the view Now reads of a job is one that the schedule tells."""
    read = set(re.findall(r"\bjob\.(\w+)", resources.package_text("web/static/views/now.js")))
    told = Schedule([Job("rollup", 10, lambda: None)], lease=None).told()["rollup"]
    assert "turns" in read and read <= set(told)


def test_an_overdue_job_is_told() -> None:
    """Overdue is what began longer ago than twice its interval and half a minute; only the holder's jobs can be, and
    none before the schedule begins: the demo plays its history without it."""
    assert [is_overdue(5, age) for age in (0, 39, 41)] == [False, False, True]
    assert [is_overdue(300, age) for age in (310, 620, 640)] == [False, False, True]
    counted = Counted(HOUR_S)
    schedule = Schedule([counted.job], lease=None)
    schedule.states["counted"].began_s -= 3 * HOUR_S
    assert not schedule.told()["counted"]["overdue"]
    schedule.start()
    try:
        counted.wait_for(1)
        assert not schedule.told()["counted"]["overdue"]
        schedule.states["counted"].began_s -= 3 * HOUR_S
        assert schedule.told()["counted"]["overdue"]
        schedule.holds = False
        assert not schedule.told()["counted"]["overdue"]
    finally:
        schedule.stop()


def test_a_job_that_is_stopped_or_meets_an_outage_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    """Stopped leaves no trouble behind, an outage does until the next success, a bug is logged with its traceback."""
    errors: list[Exception] = [Stopped("between two pieces"), RedisOutage("away"), ValueError("a bug")]

    def run() -> None:
        if errors:
            raise errors.pop(0)

    job = Job("job", 1, run)
    schedule = Schedule([job], lease=None)
    told = [(schedule.run_once(job), schedule.states["job"].trouble) for _ in range(4)]
    assert told == [(False, ""), (False, "away"), (False, "ValueError: a bug"), (True, "")]
    assert [record.exc_info is not None for record in caplog.records if "job failed" in record.getMessage()] == [True]


def test_stop_waits_for_a_running_job_only_so_long(started: Callable[..., Schedule]) -> None:
    """A job that hangs does not hold the stop up; the schedule says that something was left behind."""
    entered, release = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(PATIENCE_S)

    schedule = started(Job("hangs", HOUR_S, hang))
    assert entered.wait(PATIENCE_S)
    assert not schedule.stop(within_s=0.1)
    release.set()


# The lease


def test_one_process_of_the_fleet_runs_the_jobs(redis_url: str) -> None:
    """The first one holds the lease and renews it; the others' jobs do nothing until it is given back."""
    client = redis.Redis.from_url(redis_url)
    counts = [Counted(), Counted()]
    schedules = [Schedule([counted.job], Lease(client, "lease")) for counted in counts]
    for _ in range(3):
        assert all(schedule.run_once(counted.job) for schedule, counted in zip(schedules, counts, strict=True))
    assert [counted.runs for counted in counts] == [3, 0]
    assert [schedule.holds for schedule in schedules] == [True, False]
    assert 0 < client.pttl("lease") <= 15_000
    schedules[0].stop()
    assert schedules[1].run_once(counts[1].job)
    assert counts[1].runs == 1


def test_a_lease_runs_out_with_its_holder(redis_url: str) -> None:
    """A dead holder's lease ends by itself; a living one's is not taken."""
    client = redis.Redis.from_url(redis_url)
    first, second = Lease(client, "lease", seconds=0.2), Lease(client, "lease", seconds=0.2)
    assert first.hold() and not second.hold()
    give_up = time.monotonic() + PATIENCE_S
    while not second.hold():
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert not first.hold()


@pytest.mark.parametrize("left_ms", [86_400_000, None], ids=["a day", "for ever"])
def test_a_lease_that_holds_too_long_is_taken_over(left_ms: int | None, redis_url: str) -> None:
    """Taken while Redis's clock ran ahead, or without an end: no clock can stop the schedule."""
    client = redis.Redis.from_url(redis_url)
    client.set("lease", "another", px=left_ms)
    assert Lease(client, "lease").hold()


def test_only_its_holder_gives_a_lease_back(redis_url: str) -> None:
    """A process that lost its lease does not take it away from the next one."""
    client = redis.Redis.from_url(redis_url)
    lease = Lease(client, "lease")
    assert lease.hold()
    client.set("lease", "another")
    lease.give_back()
    assert client.get("lease") == b"another"


def test_a_lease_of_another_type_is_named_with_its_fix(redis_url: str) -> None:
    """Another program made a list of it: the jobs wait, the sentence says what to do, and then they run."""
    client = redis.Redis.from_url(redis_url)
    client.lpush("lease", "junk")
    counted = Counted()
    schedule = Schedule([counted.job], Lease(client, "lease"))
    assert not schedule.run_once(counted.job)
    assert "lease holds a list instead of a string" in schedule.states["counted"].trouble
    client.rename("lease", "lease:old")
    assert schedule.run_once(counted.job)
    assert counted.runs == 1
