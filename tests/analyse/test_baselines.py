"""Baselines against a model in plain Python, exact enumeration, and simulated histories."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import effort
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analyse import baselines
from pipeline.analyse.intervals import wilson
from pipeline.analyse.shifts import NEWEST_RUNS, shifts
from pipeline.bench import baselines as bench
from pipeline.bench.changes import ar1

SUITE = ("test_suite",)
TEST = ("test_suite", "test_id")
BROWSER = ("test_suite", "environment", "browser")


def table(executions: Sequence[dict[str, Any]]) -> pa.Table:
    """Executions from what differs from one plain passed test each; each a second after the one before."""
    defaults = {"test_suite": "s", "status": "passed", "value": 1000.0, "timestamp_ms": 0, "since_ms": 0}
    kinds = {"value": pa.float64(), "timestamp_ms": pa.int64(), "since_ms": pa.int64()}
    return pa.table(
        {
            name: pa.array(
                [
                    ({"timestamp_ms": 1000 * second} | execution).get(name, defaults.get(name, ""))
                    for second, execution in enumerate(executions)
                ],
                kinds.get(name, pa.string()),
            )
            for name in baselines.COLUMNS
        }
    )


def baseline_rows(
    executions: Sequence[dict[str, Any]], by: Sequence[str] = SUITE, max_runs: int = 50, min_runs: int = 12
) -> list[dict[str, Any]]:
    past = baselines.history(table(executions), max_runs)
    rows: list[dict[str, Any]] = baselines.baselines(past, by, max_runs=max_runs, min_runs=min_runs).to_pylist()
    return rows


def of_durations(durations: Sequence[float], **keywords: Any) -> dict[str, Any]:
    """The baseline of one test whose executions took ``durations``, oldest first."""
    (found,) = baseline_rows([{"test_id": "t", "value": duration} for duration in durations], **keywords)
    return found


def noise(runs: int, seed: int = 1) -> list[float]:
    """Durations around 1000 with 5 % of noise."""
    drawn: list[float] = np.random.default_rng(seed).normal(1000, 50, runs).tolist()
    return drawn


# The rules, written down a second time


def model(executions: list[dict[str, Any]], by: Sequence[str], max_runs: int) -> dict[tuple[str, ...], Any]:
    """Samples, runs, success, centre, spread, average and p95 by group, in loops and dictionaries."""

    def name(execution: dict[str, Any], dimension: str) -> str:
        if dimension == "test_id":
            return str(execution["test_id"] or execution["test_name"])
        return str(execution[dimension])

    tests: dict[Any, list[dict[str, Any]]] = {}
    for execution in executions:
        if execution["status"] != "skipped" and execution["timestamp_ms"] >= execution["since_ms"]:
            test = tuple(execution[d] for d in ("test_suite", "environment", "browser", "test_id", "test_name"))
            tests.setdefault(test, []).append(execution)
    groups: dict[Any, dict[Any, list[dict[str, Any]]]] = {}
    for executed in tests.values():
        executed.sort(key=lambda e: (-e["timestamp_ms"], -e["value"]))
        kept = executed[:max_runs]
        timed = [e["value"] for e in kept if e["status"] != "failed"]
        usual = statistics.median(timed) if timed else math.nan
        for turn, execution in enumerate(kept):
            group = tuple(name(execution, dimension) for dimension in by)
            run = ("id", execution["run_id"]) if execution["run_id"] else ("turn", turn)
            if "test_id" in by:
                run = ("execution", id(execution))
            groups.setdefault(group, {}).setdefault(run, []).append(execution | {"usual": usual})
    return {group: model_of_group(runs, max_runs) for group, runs in groups.items()}


def model_of_group(runs: dict[Any, list[dict[str, Any]]], max_runs: int) -> dict[str, Any]:
    def age(run: Any) -> Any:
        newest = max(e["timestamp_ms"] for e in runs[run])
        # Of runs that ended together: named ones are newer than unnamed ones; then by name, or by turn.
        order = (1, run[1]) if run[0] == "id" else (0, -run[1] if run[0] == "turn" else 0)
        return newest, order

    newest = sorted(runs, key=age)[-max_runs:]
    everything = [e for run in newest for e in runs[run]]
    counted = {
        "samples": len(everything),
        "runs": len(newest),
        "success_rate": sum(e["status"] == "passed" for e in everything) / len(everything),
    }
    # A timeout says nothing about speed.
    runs = {run: timed for run, found in runs.items() if (timed := [e for e in found if e["status"] != "failed"])}
    if not runs:
        return counted | dict.fromkeys(("centre", "spread", "avg_duration", "p95_duration"), math.nan)
    newest = sorted(runs, key=age)[-max_runs:]
    level = statistics.fmean(e["usual"] for run in newest for e in runs[run])
    durations = []
    for run in newest:
        mean = statistics.fmean(e["value"] for e in runs[run])
        usual = statistics.fmean(e["usual"] for e in runs[run])
        durations.append(mean * level / usual)
    centre = statistics.median(durations)
    deviations = [abs(duration - centre) for duration in durations]
    spread = 1.4826 * statistics.median(deviations)
    equal = 1e-9 * centre
    reach = 5 * (spread if spread > equal else 1.2533 * statistics.fmean(deviations))
    # A hair further, so that a run at the very edge is on the same side here as there.
    far = {
        run for run, deviation in zip(newest, deviations, strict=True) if deviation > max(reach, equal) * (1 + 1e-12)
    }
    if len(far) > max(1, len(newest) / 10):
        far = set()
    values = [e["value"] for run in newest if run not in far for e in runs[run]]
    return counted | {
        "centre": centre,
        "spread": spread,
        "avg_duration": statistics.fmean(values),
        "p95_duration": float(np.quantile(values, 0.95, method="linear")),
    }


def executions_of(run_ids: list[str]) -> Any:
    one = st.fixed_dictionaries(
        {
            "test_suite": st.sampled_from(["s", "s", "u"]),
            "environment": st.sampled_from(["prod", "dev"]),
            "browser": st.sampled_from(["chromium", "webkit"]),
            "test_id": st.sampled_from(["a", "b", ""]),
            "test_name": st.sampled_from(["a", "name"]),
            "status": st.sampled_from(["passed", "passed", "failed", "skipped", ""]),
            "value": st.integers(100, 5000).map(float),
            "run_id": st.sampled_from(run_ids),
            "since_ms": st.sampled_from([0, 0, 0, 7000]),
        }
    )
    # Times differ, so that the order of runs is the same in the model and the code.
    return st.lists(one, min_size=1, max_size=60).map(
        lambda many: [execution | {"timestamp_ms": 1000 * second} for second, execution in enumerate(many)]
    )


@pytest.mark.parametrize("by", [SUITE, ("test_suite", "environment"), BROWSER, TEST], ids="x".join)
@pytest.mark.parametrize("run_ids", [[""], ["r1", "r2", "r3"], ["", "r1", "r2"]], ids=["unnamed", "named", "mixed"])
@settings(max_examples=effort(15, 40))
@given(data=st.data())
def test_the_rules_as_written_down_a_second_time(by: tuple[str, ...], run_ids: list[str], data: Any) -> None:
    """What counts, what a run is and what is computed of it agree with loops over dictionaries."""
    executions = data.draw(executions_of(run_ids))
    expected = model(executions, by, max_runs=4)
    found = {tuple(row[name] for name in by): row for row in baseline_rows(executions, by, max_runs=4)}
    assert found.keys() == expected.keys()
    for group, figures in expected.items():
        for name, figure in figures.items():
            assert found[group][name] == pytest.approx(figure, rel=1e-9, abs=1e-9, nan_ok=True), (group, name)


@settings(max_examples=effort(25, 50))
@given(executions_of(["", "r1", "r2"]), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_show(executions: list[dict[str, Any]], random: Any) -> None:
    """Shuffled executions give the same bits, also where times and values are equal."""
    executions = [execution | {"timestamp_ms": execution["timestamp_ms"] // 9000} for execution in executions]
    shuffled = list(executions)
    random.shuffle(shuffled)
    for by in (SUITE, BROWSER, TEST):
        assert repr(baseline_rows(shuffled, by, max_runs=5)) == repr(baseline_rows(executions, by, max_runs=5))


@given(st.permutations(range(8)))
def test_executions_of_one_moment_have_one_order(order: list[int]) -> None:
    """Which of them are the newest is decided by what they are, not by which came first."""
    executions = [{"test_id": "t", "timestamp_ms": 5, "value": 100.0 * place} for place in order]
    (found,) = baseline_rows(executions, TEST, max_runs=3)
    assert (found["samples"], found["centre"]) == (3, 600.0)


# What a baseline withstands


def test_one_extreme_run_changes_next_to_nothing() -> None:
    """A run that hung for eleven days moves neither average nor p95, nor centre and spread, but it did not pass."""
    calm = of_durations(noise(30))
    executions = [{"test_id": "t", "value": value} for value in noise(30)]
    executions.insert(20, {"test_id": "t", "value": 1e9, "status": "failed"})
    (shaken,) = baseline_rows(executions)
    for name in ("avg_duration", "p95_duration", "centre"):
        assert shaken[name] == pytest.approx(calm[name], rel=0.01)
    assert shaken["spread"] == pytest.approx(calm["spread"], rel=0.1)
    assert shaken["state"] == "ok"
    assert (shaken["samples"], shaken["runs"]) == (31, 31)
    assert shaken["success_rate"] == 30 / 31


def test_the_extreme_run_of_a_steady_test_is_left_out_too() -> None:
    """Also where all other runs are equal and their spread is nothing."""
    found = of_durations([1000.0] * 15 + [60_000.0])
    assert (found["avg_duration"], found["p95_duration"], found["spread"]) == (1000.0, 1000.0, 0.0)


def test_a_second_way_to_behave_is_not_an_accident() -> None:
    """A test that is slow every fifth time (a cold cache) is averaged as it is."""
    found = of_durations([3000.0 if n % 5 == 0 else 1000.0 + n for n in range(40)])
    assert found["avg_duration"] == pytest.approx(1417, rel=0.01)
    assert found["p95_duration"] == 3000.0
    assert found["state"] == "ok"


def test_a_confirmed_change_starts_a_new_history() -> None:
    """Executions before their own series' change count no more; other series keep theirs."""
    moved = [{"test_id": "moved", "value": v, "since_ms": 40_000} for v in [1000.0] * 40 + [2000.0] * 13]
    still = [{"test_id": "still", "timestamp_ms": 1000 * n} for n in range(53)]
    found = {row["test_id"]: row for row in baseline_rows([*moved, *still], TEST)}
    assert (found["moved"]["centre"], found["moved"]["runs"], found["moved"]["state"]) == (2000.0, 13, "ok")
    assert found["moved"]["since"].timestamp() == 40
    assert found["still"]["runs"] == 50


def test_rerunning_what_failed_is_no_outlier() -> None:
    """Runs of one slow test only, under their own run_id, look like any other run of the suite."""
    executions = []
    for run in range(20):
        executions += [{"test_id": "fast", "value": 100.0 + run % 3, "run_id": f"r{run}"}] * 9
        executions += [{"test_id": "slow", "value": 9000.0 + run % 3, "run_id": f"r{run}"}]
    executions += [{"test_id": "slow", "value": 9001.0, "run_id": f"rerun{n}"} for n in range(5)]
    (found,) = baseline_rows(executions)
    assert found["state"] == "ok"
    assert found["spread"] < 0.01 * found["centre"]
    assert found["runs"] == 25


def test_a_test_that_runs_more_often_outweighs_none() -> None:
    """Without run_id: hourly and daily tests of one suite do not look like a shift, whatever their durations."""
    hourly = [{"test_id": "h", "value": 1000.0 + n % 7, "timestamp_ms": 3_600_000 * n} for n in range(24 * 7)]
    daily = [{"test_id": "d", "value": 60_000.0 + n % 5, "timestamp_ms": 86_400_000 * n} for n in range(7)]
    (found,) = baseline_rows([*hourly, *daily])
    assert (found["runs"], found["samples"], found["state"]) == (50, 57, "ok")
    assert found["spread"] < 0.01 * found["centre"]


def test_only_the_newest_runs_count() -> None:
    """Of sixty runs the ten oldest are forgotten."""
    found = of_durations([9999.0] * 10 + [1000.0] * 50)
    assert (found["runs"], found["p95_duration"], found["since"].timestamp()) == (50, 1000.0, 10)


def test_success_counts_like_everywhere_and_has_wilsons_bounds() -> None:
    """Skipped and retried ones are none; an unknown status counts as executed, not as passed; flaky is passed."""
    statuses = ["passed"] * 16 + ["flaky"] + ["failed"] * 2 + ["weird", "skipped", "retried"]
    (found,) = baseline_rows([{"test_id": "t", "status": status} for status in statuses])
    assert (found["samples"], found["success_rate"]) == (20, 0.85)
    assert (found["success_rate_low"], found["success_rate_high"]) == tuple(map(float, wilson(17, 20)))


@pytest.mark.parametrize(("runs", "state"), [(1, "insufficient_history"), (11, "insufficient_history"), (12, "ok")])
def test_twelve_runs_make_a_history(runs: int, state: str) -> None:
    """Before that nothing is claimed."""
    assert of_durations(noise(runs))["state"] == state


def test_nothing_executed_is_no_baseline() -> None:
    """A suite whose tests were all skipped has no row, and nothing fails."""
    assert baseline_rows([]) == []
    assert baseline_rows([{"status": "skipped"}]) == []


# Shifted


@pytest.mark.parametrize("factor", [1.25, 0.75])
@pytest.mark.parametrize("before", [20, 45])
def test_five_runs_at_another_level_are_a_shift(before: int, factor: float) -> None:
    """Slower or faster by a quarter, with 5 % of noise; three runs of five are not enough."""
    quantiles = [statistics.NormalDist(1000, 50).inv_cdf((n + 0.5) / before) for n in range(before)]
    durations = np.random.default_rng(before).permutation(quantiles).tolist()
    newest = [factor * duration for duration in (1010.0, 940.0, 1050.0, 990.0, 1000.0)]
    assert of_durations(durations + newest)["state"] == "shifted"
    assert of_durations(durations + newest)["shift_pct"] == pytest.approx(100 * factor - 100, abs=3)
    assert of_durations([*durations, 1000.0, 1000.0, *newest[:2], 1000.0])["state"] == "ok"


def test_a_shift_lasts_until_the_old_level_is_back() -> None:
    """Twenty runs after a step of 15 % it is still said; five runs of the old level end it."""
    slower = [1.15 * duration for duration in noise(20, seed=3)]
    assert of_durations([*noise(30), *slower])["state"] == "shifted"
    assert of_durations([*noise(30), *slower, *noise(5, seed=4)])["state"] == "ok"


def test_too_few_runs_since_a_change_are_learning() -> None:
    """A confirmed change cut the history off: that is not the same as no history."""
    rows = [{"value": duration, "since_ms": 1, "timestamp_ms": n + 1} for n, duration in enumerate(noise(14))]
    for count, state in ((11, "learning"), (12, "ok")):
        past = baselines.history(table(rows[:count]), 50)
        found = baselines.baselines(past, ["test_suite"], max_runs=50, min_runs=12)
        assert found.column("state").to_pylist() == [state]


def test_weekends_are_no_shift() -> None:
    """Runs three times a day over four weeks, weekends a third faster: Monday is compared with weekdays."""
    day_ms = 86_400_000
    monday_ms = 1_700_438_400_000
    times = [monday_ms + n * day_ms // 3 for n in range(84)]
    values = [
        duration * (0.7 if (at // day_ms + 3) % 7 >= 5 else 1.0) for duration, at in zip(noise(84), times, strict=True)
    ]
    for until in range(70, 85):
        rows = [{"value": value, "timestamp_ms": at} for value, at in zip(values[:until], times[:until], strict=True)]
        found = baselines.baselines(baselines.history(table(rows), 84), ["test_id"], max_runs=84, min_runs=12)
        assert found.column("state").to_pylist() == ["ok"]


def test_factors_of_the_time_of_week_are_taken_out_of_speed() -> None:
    """With the factor of each execution given, what is left is compared, and the average stays what was measured."""
    rows = [{"value": value * (0.7 if n >= 25 else 1.0)} for n, value in enumerate(noise(30))]
    factors = pa.array([0.7 if n >= 25 else 1.0 for n in range(30)])
    executions = table(rows).append_column("factor", factors)
    past = baselines.history(executions, 50)
    (found,) = baselines.baselines(past, ["test_id"], max_runs=50, min_runs=12).to_pylist()
    assert found["state"] == "ok"
    assert found["centre"] == pytest.approx(1000, rel=0.03)
    assert found["avg_duration"] == pytest.approx(950, rel=0.03)


@pytest.mark.parametrize(("rho", "runs"), [(0.0, 100), (0.6, 100), (0.8, 17), (0.8, 25), (0.8, 50), (0.8, 100)])
def test_runs_that_depend_on_each_other_are_seldom_a_shift(rho: float, runs: int) -> None:
    """Of 4,000 autocorrelated histories without a change at most 0.5 % are said to have shifted (and chance)."""
    values = 1000.0 * (1.0 + 0.05 * ar1(np.random.default_rng([7, runs]), 4000, runs, rho))
    shifted, _, _ = shifts(values.ravel(), np.arange(4001) * runs, 12)
    assert shifted.mean() <= 0.005 + 2 * math.sqrt(0.005 / 4000)


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.99), (0.3, 0.97), (0.6, 0.89), (0.8, 0.88)])
def test_a_shift_is_still_said_after_twenty_runs(rho: float, least: float) -> None:
    """Three spreads higher for 20 of 100 runs: found in nine of ten, however much the runs depend on each other."""
    noise = ar1(np.random.default_rng(8), 2000, 100, rho)
    noise[:, 80:] += 3.0
    shifted, shift_pct, _ = shifts((1000.0 * (1.0 + 0.05 * noise)).ravel(), np.arange(2001) * 100, 12)
    assert shifted.mean() >= least
    assert np.median(shift_pct) == pytest.approx(15, abs=2)


@pytest.mark.parametrize("ratio", [2, 3])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.8])
def test_a_wider_spread_is_seldom_a_shift(rho: float, ratio: float) -> None:
    """Of 8,000 histories whose level stays while the spread doubles or triples about 0.5 % are said to have shifted."""
    values = 1000.0 * (1.0 + 0.05 * bench.wider(8000, rho, ratio, seed=20))
    shifted, _, _ = shifts(values.ravel(), np.arange(8001) * bench.RUNS, 12)
    assert shifted.mean() <= 0.006 + 2 * math.sqrt(0.006 / 8000)


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.99), (0.6, 0.89), (0.8, 0.87)])
def test_runs_that_hung_do_not_hide_a_shift(rho: float, least: float) -> None:
    """With a run in fifty that takes 3 to 10 times as long, a shift is found as well as without."""
    noise = ar1(np.random.default_rng(10), 2000, 100, rho)
    noise[:, 80:] += 3.0
    values = 1000.0 * (1.0 + 0.05 * bench.with_outliers(noise, seed=10))
    shifted, _, _ = shifts(values.ravel(), np.arange(2001) * 100, 12)
    assert shifted.mean() >= least


@pytest.mark.parametrize("level", [1.5, 2.0, 3.0, 0.5])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.8])
def test_a_level_whose_noise_moves_in_proportion_has_shifted(rho: float, level: float) -> None:
    """A spread that widens with the level does not hide the step: eight runs tell it."""
    values = 1000.0 * (1.0 + 0.05 * ar1(np.random.default_rng(9), 500, 100, rho))
    values[:, 92:] *= level
    shifted, _, _ = shifts(values.ravel(), np.arange(501) * 100, 12)
    assert shifted.mean() >= 0.99


def test_nothing_finds_more_than_what_knows_the_noise() -> None:
    """The bound that is printed beside what is reached is above it, and it is nearly everything here."""
    told = bench.measure(500, lambda line: None)
    assert set(told) == {"autocorrelation 0.0", "autocorrelation 0.6", "autocorrelation 0.8"}
    for figures in told.values():
        assert figures["+15% found after 20 runs"] <= figures["possible"]
        assert figures["possible"] >= 0.95


@pytest.mark.parametrize("min_runs", [2, 3, 4, 5, 12, 30])
def test_every_length_of_history_is_judged(min_runs: int) -> None:
    """From the shortest one that may be asked on, also where the newest runs begin in the older half."""
    for runs in range(1, 80):
        values = 1000.0 * (1.0 + 0.05 * ar1(np.random.default_rng(runs), 3, runs, 0.0))
        shifted, shift_pct, _ = shifts(values.ravel(), np.arange(4) * runs, min_runs)
        assert np.isfinite(shift_pct).all() == (runs >= min_runs + NEWEST_RUNS)
        assert not shifted.any()


def test_a_slow_run_alone_is_no_shift() -> None:
    """Nor are two of the newest five."""
    assert of_durations([*noise(30), 5000.0])["state"] == "ok"
    assert of_durations([*noise(27), 5000.0, *noise(2, seed=2), 6000.0])["state"] == "ok"


def test_a_level_that_moved_by_less_than_a_hundredth_has_not_moved() -> None:
    """Steady durations make the smallest step significant; it still does not matter."""
    assert of_durations([1000.0] * 20 + [1005.0] * 5)["state"] == "ok"
    assert of_durations([1000.0] * 20 + [1020.0] * 5)["state"] == "shifted"


@pytest.mark.parametrize("runs", [12, 20, 50])
@pytest.mark.parametrize("kind", ["normal", "outliers", "log-normal", "two peaks"])
def test_noise_is_seldom_taken_for_a_shift(kind: str, runs: int) -> None:
    """Of 4,000 histories without any change less than 1 % are reported."""
    random = np.random.default_rng([20250111, runs, len(kind)])
    histories = 4000
    drawn = random.normal(1000, 50, (histories, runs))
    if kind == "outliers":
        drawn[random.random(drawn.shape) < 0.02] *= 3
    elif kind == "log-normal":
        drawn = 1000 * np.exp(random.normal(0, 0.5, drawn.shape))
    elif kind == "two peaks":
        drawn += random.choice([0, 1000], drawn.shape)
    count = drawn.size
    executions = table([{}]).take(pa.array(np.zeros(count, dtype=np.int64)))
    columns = {
        "value": pa.array(drawn.ravel()),
        "test_id": pa.array(np.repeat(np.arange(histories), runs).astype(str)),
        "timestamp_ms": pa.array(np.tile(np.arange(runs), histories)),
    }
    for name, column in columns.items():
        executions = executions.set_column(executions.column_names.index(name), name, column)
    past = baselines.history(executions, 50)
    states = baselines.baselines(past, TEST, max_runs=50, min_runs=12).column("state").to_pylist()
    assert states.count("shifted") < 0.01 * histories
    assert "insufficient_history" not in states
