"""Any schedule of arrivals, late rows, crashes, outages and two workers at once ends in the right windows.

The promise: after catching up, every window equals the same computation over all raw rows, bit for bit; and at
no moment does a reader with FINAL see two revisions of one window.
"""

import contextlib
from collections.abc import Callable

import pytest
from conftest import effort
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rollup_fakes import MemoryBuffer, MemoryStore, Row, Steps, without_time

from pipeline.base.config import RollupSettings
from pipeline.base.errors import StoreOutage
from pipeline.jobs import raw_rows as rawrows
from pipeline.jobs.rebuild import rebuild
from pipeline.jobs.rollup import TABLES, RollupJob

SETTINGS = RollupSettings(delay_s=2, grace_s=120)
START_S = 1_700_000_100

# Seconds relative to now: mostly fresh, some minutes late, some an hour; a little ahead.
ARRIVALS = st.lists(
    st.tuples(
        st.integers(-90, 5) | st.integers(-900, 0) | st.integers(-3600, 0),
        st.sampled_from(["login", "checkout", "search"]),
        st.sampled_from(["passed", "failed", "skipped"]),
        st.sampled_from([0.1, 0.2, 0.3, 1e16, -0.0, 2500.0]) | st.floats(-1e9, 1e9),
    ),
    min_size=1,
    max_size=4,
)
STEP = st.integers(1, 12)


class Crash(Exception):
    """The worker died here."""


class Rollups(RuleBasedStateMachine):
    """Two workers over one store and two buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = Steps()
        self.store = MemoryStore(self.steps)
        self.buffers = [MemoryBuffer(self.steps), MemoryBuffer(self.steps)]
        self.workers = [self.worker(), self.worker()]
        self.unacknowledged: list[tuple[int, list[Row]]] = []
        self.now_s = START_S

    def worker(self) -> RollupJob:
        return RollupJob(self.store, self.buffers, SETTINGS)  # type: ignore[arg-type]

    def stored(self, arrivals: list[tuple[int, str, str, float]]) -> list[Row]:
        rows = [
            {
                "timestamp_ms": (self.now_s + offset_s) * 1000 + 500,
                "metric_type": "duration",
                "test_name": name,
                "status": status,
                "value": value,
            }
            for offset_s, name, status, value in arrivals
        ]
        self.store.raw.extend(rows)
        return rows

    @initialize(small=st.booleans())
    def pieces(self, small: bool) -> None:
        rawrows.PIECE_ROWS = 3 if small else 1_000_000

    @rule(arrivals=ARRIVALS, buffer=st.integers(0, 1))
    def a_chunk_is_stored_and_acknowledged(self, arrivals, buffer) -> None:
        self.buffers[buffer].touch(self.stored(arrivals))

    @rule(arrivals=ARRIVALS, buffer=st.integers(0, 1))
    def a_chunk_is_stored_and_not_acknowledged_yet(self, arrivals, buffer) -> None:
        self.unacknowledged.append((buffer, self.stored(arrivals)))

    @rule()
    def chunks_are_acknowledged(self) -> None:
        for buffer, rows in self.unacknowledged:
            self.buffers[buffer].touch(rows)
        self.unacknowledged.clear()

    @rule(seconds=st.integers(1, 20) | st.integers(30, 130) | st.integers(200, 600))
    def time_passes(self, seconds) -> None:
        self.now_s += seconds

    @rule(worker=st.integers(0, 1))
    def a_run_completes(self, worker) -> None:
        self.workers[worker].run(self.now_s * 1000)

    @rule(worker=st.integers(0, 1), step=STEP, loses_memory=st.booleans())
    def a_run_dies_or_meets_an_outage(self, worker, step, loses_memory) -> None:
        def fail() -> None:
            raise Crash if loses_memory else StoreOutage("gone")

        self._interrupted(worker, step, fail)
        if loses_memory:
            self.workers[worker] = self.worker()

    @rule(worker=st.integers(0, 1), step=STEP)
    def the_other_worker_runs_in_the_middle(self, worker, step) -> None:
        self._interrupted(worker, step, lambda: self.a_run_completes(1 - worker))

    @rule(worker=st.integers(0, 1), step=STEP, arrivals=ARRIVALS)
    def rows_arrive_in_the_middle_and_the_other_worker_runs(self, worker, step, arrivals) -> None:
        def meanwhile() -> None:
            self.a_chunk_is_stored_and_acknowledged(arrivals, 0)
            self.now_s += 130
            self.a_run_completes(1 - worker)

        self._interrupted(worker, step, meanwhile)

    @rule(step=STEP)
    def a_rebuild_runs_and_dies(self, step) -> None:
        def fail() -> None:
            raise Crash

        self.steps.plan(step, fail)
        with contextlib.suppress(Crash):
            rebuild(self.store, (START_S - 3600) * 1000, self.now_s * 1000, self.now_s * 1000, SETTINGS)  # type: ignore[arg-type]
        self.steps.action = None

    def _interrupted(self, worker: int, step: int, action: Callable[[], None]) -> None:
        now_ms = self.now_s * 1000
        self.steps.plan(step, action)
        with contextlib.suppress(Crash, StoreOutage):
            self.workers[worker].run(now_ms)
        self.steps.action = None

    @invariant()
    def readers_see_one_revision_of_a_window(self) -> None:
        for table in TABLES.values():
            seen: dict[int, set[int]] = {}
            samples: dict[int, int] = {}
            for row in self.store.final(table).values():
                seen.setdefault(row["window_start"], set()).add(row["revision"])
                samples[row["window_start"]] = samples.get(row["window_start"], 0) + row["samples"]
            for start, revisions in seen.items():
                assert len(revisions) == 1, (table, start, revisions)
                assert revisions.pop() // 2 == samples[start]

    def teardown(self) -> None:
        self.chunks_are_acknowledged()
        self.now_s += 4000
        # One worker is enough, whichever it is and whatever it remembers.
        self.workers[self.now_s % 2].run(self.now_s * 1000)
        assert [buffer.minutes for buffer in self.buffers] == [{}, {}]
        for table in TABLES.values():
            found = without_time(self.store.final(table))
            assert found == without_time(self.store.expected(table, self.now_s * 1000, SETTINGS.grace_s))
        self.readers_see_one_revision_of_a_window()


def _run(examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rawrows, "PIECE_ROWS", rawrows.PIECE_ROWS)
    run_state_machine_as_test(
        Rollups,
        settings=settings(
            max_examples=examples,
            stateful_step_count=14,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_schedule_ends_in_the_windows_of_all_raw_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty schedules; sixty with --thorough, ten thousand with --long."""
    _run(effort(20, 60), monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ten_thousand_schedules_end_in_the_windows_of_all_raw_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, ten thousand of them."""
    _run(10_000, monkeypatch)
