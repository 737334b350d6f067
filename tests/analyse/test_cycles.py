"""Daily and weekly cycles: found, described, taken out, and not imagined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.analyse.changes.points import find_changes
from pipeline.analyse.cycles import DAILY, NONE, WEEKLY, Cycles, explain, find_cycles, slot, without
from pipeline.bench.changes import ar1

MONDAY_S = 1_700_438_400
"""2023-11-20 00:00 UTC, a Monday."""


def drawn(days: float, every_s: float, count: int = 20, rho: float = 0.0, seed: int = 0) -> tuple[Any, Any]:
    """Series around 100 with 5 % of noise, and their times."""
    times = MONDAY_S + np.arange(0, days * 86_400, every_s)
    noise = ar1(np.random.default_rng(seed), count, len(times), rho)
    return 100.0 * (1.0 + 0.05 * noise), np.tile(times, (count, 1))


def weekend(times: Any) -> Any:
    return (times - MONDAY_S) // 86_400 % 7 >= 5


def night(times: Any) -> Any:
    return (times % 86_400 >= 22 * 3600) | (times % 86_400 < 6 * 3600)


@pytest.mark.parametrize(("every_s", "rho"), [(3600, 0.0), (3600, 0.6), (28_800, 0.0), (86_400, 0.0)])
def test_weekends_are_found_and_taken_out(every_s: float, rho: float) -> None:
    """Weekends a fifth lower are a weekly cycle in every series, and what is left has the noise's spread."""
    values, times = drawn(28, every_s, rho=rho)
    cycles = find_cycles(np.where(weekend(times), 0.8 * values, values), times)
    assert (cycles.kind == WEEKLY).all()
    assert (cycles.share > 0.3).all()
    left = without(np.where(weekend(times), 0.8 * values, values), times, cycles)
    assert left.std(axis=1).mean() == pytest.approx(values.std(axis=1).mean(), rel=0.1)
    assert explain(WEEKLY, cycles.effects[0], is_factor=True).endswith("compared with Saturdays and Sundays")


def test_nights_are_a_daily_cycle() -> None:
    """Two weeks of nights are enough, and the hours are named."""
    values, times = drawn(14, 1800)
    cycles = find_cycles(np.where(night(times), 0.8 * values, values), times)
    assert (cycles.kind == DAILY).all()
    assert explain(DAILY, cycles.effects[0], is_factor=True).startswith("22:00 to 06:00 UTC is ")


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("every_s", [3600, 28_800])
def test_noise_has_no_cycle(every_s: float, rho: float) -> None:
    """Of a hundred series without a cycle at most three show one."""
    cycles = find_cycles(*drawn(28, every_s, count=100, rho=rho))
    assert np.count_nonzero(cycles.kind) <= 3


def test_less_than_three_weeks_are_no_weekly_cycle() -> None:
    """Two weekends prove nothing."""
    values, times = drawn(17, 3600)
    assert not (find_cycles(np.where(weekend(times), 0.8 * values, values), times).kind == WEEKLY).any()


def test_a_step_is_not_mistaken_for_a_cycle() -> None:
    """A level that moves once, and one that drifts, have none."""
    values, times = drawn(28, 3600)
    values[:10, 300:] *= 1.5
    values[10:] *= np.linspace(1.0, 1.5, values.shape[1])
    assert (find_cycles(values, times).kind == NONE).all()


def test_outliers_and_gaps_do_not_hide_a_cycle() -> None:
    """With 2 % of spikes and a third of the points missing weekends are still seen."""
    values, times = drawn(28, 3600)
    values = np.where(weekend(times), 0.8 * values, values)
    generator = np.random.default_rng(1)
    values[generator.random(values.shape) < 0.02] *= 6.0
    values[generator.random(values.shape) < 0.33] = np.nan
    assert (find_cycles(values, times).kind == WEEKLY).all()


def test_values_that_cross_zero_have_offsets() -> None:
    """A series that is not positive is compared by differences."""
    values, times = drawn(28, 3600)
    values = values - 100.0 + np.where(weekend(times), -20.0, 0.0)
    cycles = find_cycles(values, times)
    assert (cycles.kind == WEEKLY).all()
    assert not cycles.is_factor.any()
    assert without(values, times, cycles).std() == pytest.approx(5.0, rel=0.1)


def test_a_step_among_weekends_is_found_and_weekends_are_not() -> None:
    """With times a step of 10 % is found in most series; without a step nothing is reported."""
    values, times = drawn(28, 3600, count=40)
    values = np.where(weekend(times), 0.8 * values, values)
    assert len(find_changes(values[:, -400:])) > 40
    cycles_known = find_changes(values, times)
    assert len(cycles_known) <= 1
    values[:, 400:] *= 1.1
    found = find_changes(values, times)
    assert len(np.unique(found.series[np.abs(found.position - 400) <= 3])) >= 38
    assert len(found) <= 42


def test_a_series_does_not_depend_on_others() -> None:
    """The same series alone, among others and of any padding has the same cycle."""
    values, times = drawn(28, 3600, count=5)
    values = np.where(weekend(times), 0.8 * values, values)
    alone = find_cycles(values[2:3], times[2:3])
    padded = np.full((1, 300), np.nan)
    among = find_cycles(np.hstack([values, np.tile(padded, (5, 1))]), np.hstack([times, np.tile(padded, (5, 1))]))
    assert (among.effects[2] == alone.effects[0]).all()
    assert Cycles.none(3).take(np.array([1])).kind.tolist() == [NONE]


def test_slots_begin_on_monday() -> None:
    """Half hours of the week, from Monday 00:00 UTC."""
    assert slot([MONDAY_S, MONDAY_S + 1799, MONDAY_S + 1800, MONDAY_S - 1]).tolist() == [0, 0, 1, 335]
