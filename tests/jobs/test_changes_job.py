"""The changes job on a real ClickHouse engine: what is a point to it, what it writes, and that it writes it once."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analyse.changes.points import find_changes, find_changes_in
from pipeline.analyse.dimensions import SERIES
from pipeline.base import failpoints
from pipeline.base.config import Settings
from pipeline.base.errors import StoreOutage
from pipeline.base.failpoints import Injected
from pipeline.bench.changes import NOISES
from pipeline.jobs.changes import ChangesJob
from pipeline.store.client import Store

WINDOW_S = 300
# The start of a window, and recent: the tables' TTL goes by the real clock.
NOW_S = int(time.time()) // WINDOW_S * WINDOW_S - 3600
NOW_MS = NOW_S * 1000
HOUR_MS = 3_600_000

_FIGURES = ("sum", "avg", "min", "max", "p50", "p75", "p90", "p95", "p99")


def write_windows(store: Store, windows: Iterable[dict[str, Any]]) -> None:
    """Store 5-minute windows; what one leaves out is a final window of one passed test, computed when it was final."""
    plain = {"metric_type": "duration", "test_suite": "checkout", "test_id": "t1", "total": 1, "is_final": True}
    given = [plain | window for window in windows]
    starts = [window["start_s"] for window in given]
    computed = [window.get("computed_ms", (window["start_s"] + WINDOW_S + 120) * 1000) for window in given]
    store.insert(
        "metrics_5min",
        pa.table(
            {name: pa.array([window.get(name, "") for window in given]) for name in SERIES}
            | {name: pa.array([float(window["value"]) for window in given]) for name in _FIGURES}
            | {name: pa.array([window["total"] for window in given], pa.uint64()) for name in ("total", "passed")}
            | {
                "samples": pa.array([1] * len(given), pa.uint64()),
                "revision": pa.array([window.get("revision", 1) for window in given], pa.uint64()),
                "failed": pa.array([0] * len(given), pa.uint64()),
                "window_start": pa.array(starts, pa.uint32()),
                "is_final": pa.array([window["is_final"] for window in given]),
                "computed_at": pa.array(computed, pa.timestamp("ms", "UTC")),
            }
        ),
    )


def in_a_row(values: Iterable[float], last_s: int = NOW_S - 900, every_s: int = WINDOW_S, **fields: Any) -> Any:
    """Windows one after the other, of which the last begins at ``last_s``."""
    listed = list(values)
    first_s = last_s - (len(listed) - 1) * every_s
    return [{"value": value, "start_s": first_s + n * every_s} | fields for n, value in enumerate(listed)]


def series(*segments: tuple[int, float], noise: str = "independent", seed: int = 0) -> Any:
    """Values around levels."""
    levels = np.concatenate([np.full(points, level) for points, level in segments])
    return NOISES[noise].series(np.random.default_rng(seed), 1, levels)[0]


def noise_values(count: int, seed: int = 0) -> Any:
    """Series of 100 points of autocorrelated noise, (count, 100)."""
    return NOISES["autocorrelated"].series(np.random.default_rng(seed), count, np.full(100, 1000.0))


def noisy(values: Any) -> list[dict[str, Any]]:
    """Their windows."""
    return [window for number, row in enumerate(values) for window in in_a_row(row, test_id=f"noise{number}")]


def written(store: Store) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.query("SELECT * FROM change_points ORDER BY test_id, changed_at").to_pylist()
    return rows


@pytest.fixture
def job(store: Store, settings: Settings) -> ChangesJob:
    return ChangesJob(store, settings)


def test_a_change_is_written_with_all_that_is_known_of_it(store: Store, job: ChangesJob) -> None:
    """Among quiet series the one that moved: when its first window of the new level began, sizes and direction."""
    moved = series((60, 1000.0), (20, 1300.0))
    write_windows(store, in_a_row(moved, browser="chrome", page="/cart", node="worker-1"))
    for number in range(10):
        write_windows(store, in_a_row(series((80, 1000.0), seed=number + 1), test_id=f"quiet{number}"))
    report = job.run(NOW_MS)
    (row,) = written(store)
    expected = find_changes_in(moved)
    assert (report.searched, report.found, report.written) == (11, 1, 1)
    assert {name: row[name] for name in SERIES} == dict.fromkeys(SERIES, "") | {
        "metric_type": "duration",
        "test_suite": "checkout",
        "test_id": "t1",
        "browser": "chrome",
        "page": "/cart",
        "node": "worker-1",
    }
    assert row["changed_at"] == datetime.fromtimestamp(NOW_S - 900 - 19 * WINDOW_S, UTC)
    assert row["detected_at"] == datetime.fromtimestamp(NOW_S, UTC)
    assert row["direction"] == "regression"
    for name in ("level_before", "level_after", "change_pct", "effect_spreads", "p_value"):
        assert row[name] == getattr(expected, name)[0]
    assert (row["points_before"], row["points_after"]) == (60, 20)
    assert 0.99 < row["confidence"] <= 1
    assert row["explanation"].endswith(
        "Less than three days of history: a daily cycle cannot be told from a change yet."
    )


def test_direction_goes_by_the_metric(store: Store, job: ChangesJob) -> None:
    """A score that rises got better, a duration that falls too, an LCP that rises got worse."""
    for metric_type, after in (("score", 80.0), ("duration", 40.0), ("lcp", 80.0)):
        write_windows(store, in_a_row(series((40, 60.0), (20, after)), metric_type=metric_type))
    job.run(NOW_MS)
    directions = {row["metric_type"]: row["direction"] for row in written(store)}
    assert directions == {"score": "improvement", "duration": "improvement", "lcp": "regression"}


class TestPoints:
    """What counts as a point of a series."""

    def test_windows_that_are_not_final_and_tests_that_were_skipped_do_not_count(
        self, store: Store, job: ChangesJob
    ) -> None:
        """A jump that only such windows show is none; other metric types have no executions and count all the same."""
        values = series((40, 1000.0), (12, 2000.0))
        for fields in ({"is_final": False}, {"total": 0}):
            test_id = next(iter(fields))
            windows = in_a_row(values, test_id=test_id)
            write_windows(store, windows[:40] + [window | fields for window in windows[40:]])
        write_windows(store, in_a_row(values, metric_type="lcp", test_id="vital", total=0))
        job.run(NOW_MS)
        assert [row["test_id"] for row in written(store)] == ["vital"]

    def test_only_the_newest_points_of_the_last_days_count(self, store: Store, settings: Settings) -> None:
        """Neither what lies beyond ``max_points`` is seen, nor what is older than ``days``, nor the future."""
        limits = settings.changes.model_copy(update={"max_points": 30, "days": 2.0})
        job = ChangesJob(store, settings.model_copy(update={"changes": limits}))
        write_windows(store, in_a_row(series((40, 1000.0), (35, 2000.0)), test_id="beyond"))
        write_windows(store, in_a_row(series((20, 1000.0), (25, 2000.0)), every_s=7200, test_id="old"))
        write_windows(store, in_a_row(series((20, 1000.0), (20, 2000.0)), last_s=NOW_S + 19 * 300, test_id="future"))
        write_windows(store, in_a_row(series((15, 1000.0), (15, 2000.0)), every_s=3600, test_id="seen"))
        write_windows(store, in_a_row(series((40, 1000.0), (20, 2000.0)), test_id="busy"))
        job.run(NOW_MS)
        assert {row["test_id"]: row["points_before"] for row in written(store)} == {"seen": 15, "busy": 10}

    def test_a_window_counts_once_by_its_last_revision(self, store: Store, job: ChangesJob) -> None:
        """A window that was computed again replaces itself."""
        windows = in_a_row(series((60, 1000.0)))
        write_windows(store, windows)
        assert job.run(NOW_MS).found == 0
        again = {"revision": 2, "computed_ms": NOW_MS + 1000}
        write_windows(store, [window | again | {"value": 1.5 * window["value"]} for window in windows[40:]])
        job.run(NOW_MS + 60_000)
        assert [(row["points_before"], row["points_after"]) for row in written(store)] == [(40, 20)]


class TestOnce:
    """The same change is written once, by whichever process searches again, and however often."""

    def test_series_without_new_points_are_not_searched_again(self, store: Store, job: ChangesJob) -> None:
        """The next run searches only what got a point; after an hour, and after a restart, everything."""
        write_windows(store, in_a_row(series((60, 1000.0), (20, 1300.0))))
        write_windows(store, in_a_row(series((80, 1000.0), seed=1), test_id="other"))
        assert job.run(NOW_MS).searched == 2
        assert job.run(NOW_MS + 2 * HOUR_MS // 60).searched == 0
        later_ms = NOW_MS + 10 * HOUR_MS // 60
        write_windows(store, in_a_row([1290.0], last_s=NOW_S, computed_ms=later_ms - 1000))
        assert job.run(later_ms).searched == 1
        assert job.run(NOW_MS + HOUR_MS).searched == 2
        assert ChangesJob(store, job.settings).run(NOW_MS + HOUR_MS).searched == 2
        assert len(written(store)) == 1

    def test_the_same_change_a_few_points_off_is_not_written_again(self, store: Store, job: ChangesJob) -> None:
        """Up to three points, and farther if it is found there no more: more points tell the place better."""
        write_windows(store, in_a_row(series((60, 1000.0), (20, 1300.0))))
        job.run(NOW_MS)
        for shift in (-3, 2, 3, 9, -12):
            (row,) = written(store)
            store.command("TRUNCATE TABLE change_points")
            moved = pa.Table.from_pylist([row | {"changed_at": _window(60 + shift, 80)}])
            store.insert("change_points", moved)
            assert ChangesJob(store, job.settings).run(NOW_MS).written == 0

    @pytest.mark.parametrize("what", ["opposite", "far", "other series"])
    def test_another_change_is_written(self, store: Store, job: ChangesJob, what: str) -> None:
        """One in the other direction at the same place, one farther away, one of another series: not this one."""
        write_windows(store, in_a_row(series((60, 1000.0), (20, 1300.0))))
        job.run(NOW_MS)
        (row,) = written(store)
        store.command("TRUNCATE TABLE change_points")
        different = {
            "opposite": {"level_before": 1300.0, "level_after": 1000.0},
            "far": {"changed_at": _window(40, 80)},
            "other series": {"environment": "staging"},
        }[what]
        store.insert("change_points", pa.Table.from_pylist([row | different]))
        assert ChangesJob(store, job.settings).run(NOW_MS).written == 1

    def test_the_next_change_of_a_series_is_written_beside_the_first(self, store: Store, job: ChangesJob) -> None:
        """There and back, the second while the first is known."""
        values = series((60, 1000.0), (30, 1300.0), (20, 1000.0))
        windows = in_a_row(values)
        write_windows(store, windows[:85])
        job.run(NOW_MS - 20 * WINDOW_S * 1000)
        write_windows(store, windows[85:])
        job.run(NOW_MS)
        rows = written(store)
        assert [row["direction"] for row in rows] == ["regression", "improvement"]
        assert [row["changed_at"] for row in rows] == [_window(60, 110), _window(90, 110)]
        assert rows[1]["detected_at"] > rows[0]["detected_at"]

    def test_a_run_that_died_before_it_wrote_is_made_good(
        self, store: Store, job: ChangesJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next run of the same process, and of another one, finds the same work."""
        write_windows(store, in_a_row(series((60, 1000.0), (20, 1300.0))))
        monkeypatch.setenv(failpoints.VARIABLE, "changes.before_insert:1:raise")
        failpoints.reset()
        with pytest.raises(Injected):
            job.run(NOW_MS)
        assert not written(store)
        assert job.run(NOW_MS + 1000).written == 1

    def test_an_outage_is_raised_and_forgets_nothing(
        self, store: Store, job: ChangesJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the insert is refused for now, the run after it writes."""
        write_windows(store, in_a_row(series((60, 1000.0), (20, 1300.0))))
        with monkeypatch.context() as patched:

            def away(*_: Any) -> None:
                raise StoreOutage("away")

            patched.setattr(store, "insert", away)
            with pytest.raises(StoreOutage):
                job.run(NOW_MS)
        assert job.run(NOW_MS + 1000).written == 1


def test_noise_of_many_series_is_not_written(store: Store, job: ChangesJob) -> None:
    """Among 300 series of autocorrelated noise some would look like changes alone; together none is significant."""
    write_windows(store, noisy(noise_values(300)))
    report = job.run(NOW_MS)
    assert report.searched == 300
    assert report.found >= 5
    assert report.written == 0


def test_known_changes_make_no_room_for_doubtful_ones(store: Store, job: ChangesJob) -> None:
    """Forty certain changes that are known already do not lower what the noise of other series has to show."""
    certain = [series((60, 1000.0), (40, 1500.0), seed=number) for number in range(40)]
    for number, values in enumerate(certain):
        write_windows(store, in_a_row(values, test_id=f"moved{number}"))
    assert job.run(NOW_MS).written == 40
    doubtful = noise_values(300, seed=9)
    write_windows(store, noisy(doubtful))
    together = find_changes(np.concatenate([certain, doubtful]), false_discovery_rate=0.01)
    assert (together.series >= 40).any()
    report = job.run(NOW_MS + 2 * HOUR_MS)
    assert (report.searched, report.written) == (340, 0)
    assert report.found >= 50


class TestCycles:
    """Nights and weekends are no changes."""

    def windows(self, step_pct: float, **fields: Any) -> list[dict[str, Any]]:
        """A window an hour over four weeks, weekends a fifth faster, and a step in the last three days."""
        starts = NOW_S - 900 - 3600 * np.arange(672)[::-1]
        is_weekend = (starts // 86_400 + 3) % 7 >= 5
        values = series((600, 1000.0), (72, 1000.0 + 10 * step_pct), seed=len(str(fields)))
        values = np.where(is_weekend, 0.8 * values, values)
        pairs = zip(values.tolist(), starts.tolist(), strict=True)
        return [{"value": value, "start_s": start} | fields for value, start in pairs]

    def test_weekends_are_taken_out_and_told(self, store: Store, job: ChangesJob) -> None:
        """No Saturday is reported, a step among them is, and the evidence names the cycle."""
        write_windows(store, [*self.windows(0, test_id="steady"), *self.windows(12, test_id="moved")])
        report = job.run(NOW_MS)
        assert (report.cycles, report.written) == (2, 1)
        (row,) = written(store)
        assert (row["test_id"], row["cycle"], row["kind"]) == ("moved", "weekly", "step")
        assert row["change_pct"] == pytest.approx(12, abs=3)
        assert "compared with Saturdays and Sundays" in row["explanation"]
        assert "Less than" not in row["explanation"], "the search for cycles looked back farther"
        kept = store.rows("SELECT test_id, kind, share, length(factors) FROM cycles ORDER BY test_id")
        assert [(one[0], one[1], one[2] > 0.5, one[3]) for one in kept] == [
            ("moved", "weekly", True, 336),
            ("steady", "weekly", True, 336),
        ]
        assert ChangesJob(store, job.settings).run(NOW_MS).written == 0

    def test_a_search_that_dies_before_it_keeps_cycles_is_made_good(
        self, store: Store, job: ChangesJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next run learns the cycle again and keeps it once."""
        write_windows(store, self.windows(0))
        monkeypatch.setenv(failpoints.VARIABLE, "cycles.before_insert:1:raise")
        failpoints.reset()
        with pytest.raises(Injected):
            job.run(NOW_MS)
        assert store.rows("SELECT count() FROM cycles") == [(0,)]
        assert ChangesJob(store, job.settings).run(NOW_MS).cycles == 1
        assert store.rows("SELECT kind FROM cycles") == [("weekly",)]

    def test_a_cycle_that_ended_is_forgotten(self, store: Store, job: ChangesJob, settings: Settings) -> None:
        """A series whose weekends are like its weeks has no cycle any more, and the table says so."""
        write_windows(store, self.windows(0))
        assert job.run(NOW_MS).cycles == 1
        later_s = NOW_S + 40 * 86_400
        steady = in_a_row(series((700, 1000.0)), last_s=later_s - 900, every_s=3600)
        write_windows(store, steady)
        assert ChangesJob(store, settings).run(later_s * 1000).cycles == 0
        assert store.rows("SELECT kind FROM cycles FINAL") == [("",)]


def test_a_drift_is_written_as_one_and_kept(store: Store, job: ChangesJob) -> None:
    """A slow climb has a slope with bounds a day; it is written again only after some hours, under its first date."""
    levels = np.linspace(1000.0, 1300.0, 240)
    values = NOISES["independent"].series(np.random.default_rng(3), 1, levels)[0]
    write_windows(store, in_a_row(values, every_s=3600))
    assert job.run(NOW_MS).drifts == 1
    assert job.run(NOW_MS + HOUR_MS).written == 0
    assert ChangesJob(store, job.settings).run(NOW_MS + 13 * HOUR_MS).written == 1
    rows = store.rows("SELECT kind, slope_low < 3.0, slope_high > 3.0, direction, explanation FROM change_points FINAL")
    assert [row[:4] for row in rows] == [("drift", True, True, "regression")]
    assert "drifts by +3" in rows[0][4]


def test_a_drift_and_a_step_in_it_are_two_findings(store: Store, job: ChangesJob) -> None:
    """Each has its own size: the climb of 15 % is no part of the step, and the step none of the climb."""
    levels = np.linspace(1000.0, 1150.0, 500) * np.where(np.arange(500) < 260, 1.0, 1.12)
    write_windows(store, in_a_row(NOISES["independent"].series(np.random.default_rng(5), 1, levels)[0], every_s=1800))
    assert (job.run(NOW_MS).written, job.run(NOW_MS + HOUR_MS).written) == (2, 0)
    rows = {row["kind"]: row for row in written(store)}
    assert rows["step"]["change_pct"] == pytest.approx(12, abs=2)
    assert abs(rows["step"]["points_after"] - 240) <= 3
    assert rows["drift"]["change_pct"] == pytest.approx(15, abs=3)
    assert rows["drift"]["explanation"].endswith("% so far, beside 1 step.")


def test_small_changes_are_left_out_by_metric(store: Store, settings: Settings) -> None:
    """A change of 1.5 % of a quiet series is below the default of 2 %, and reported where 1 % is asked for."""
    quiet = [1000.0 + n % 7 * 0.2 for n in range(60)] + [1015.0 + n % 7 * 0.2 for n in range(20)]
    write_windows(store, [*in_a_row(quiet, metric_type="load_time"), *in_a_row(quiet, metric_type="lcp")])
    limits = settings.changes.model_copy(update={"min_change_pct": {"default": 2.0, "LCP": 1.0}})
    ChangesJob(store, settings.model_copy(update={"changes": limits})).run(NOW_MS)
    assert [row["metric_type"] for row in written(store)] == ["lcp"]


def test_nothing_stored_nothing_found(job: ChangesJob) -> None:
    """An empty store, and series too short to say anything."""
    assert job.run(NOW_MS).searched == 0
    write_windows(job.store, in_a_row([1.0] * 9))
    assert job.run(NOW_MS + HOUR_MS).searched == 0


def _window(position: int, points: int) -> datetime:
    """When the window at ``position`` of ``points`` in a row began."""
    return datetime.fromtimestamp(NOW_S - 900 - (points - 1 - position) * WINDOW_S, UTC)
