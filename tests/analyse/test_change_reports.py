"""What an engineer is told of histories that are replayed point by point: the reporting rule of the job."""

from typing import Any

import numpy as np
import pytest

from pipeline.analyse.changes import points, report
from pipeline.analyse.changes.points import find_changes
from pipeline.analyse.changes.report import Told, too_short_for, watch
from pipeline.analyse.cycles import Cycles
from pipeline.bench.changes import NOISES
from pipeline.bench.shapes import MONDAY_S

HOUR_S, DAY_S = 3600, 86_400


def stepped(seed: int, *segments: tuple[int, float], noise: str = "independent") -> np.ndarray:
    """One series around levels."""
    levels = np.concatenate([np.full(points, level) for points, level in segments])
    return NOISES[noise].series(np.random.default_rng(seed), 1, levels)


def near(told: list[Told], position: int, *, rose: bool) -> list[Told]:
    """Reports of a change about there."""
    return [one for one in told if one.rose == rose and abs(one.position - position) <= 12]


@pytest.mark.parametrize("noise", ["independent", "outliers"])
@pytest.mark.parametrize("seed", range(2))
def test_a_step_is_told_once_and_soon(noise: str, seed: int) -> None:
    """A step of 15 % is one report, within 12 points, and nothing else is told before or after."""
    (told,) = watch(stepped(seed, (60, 100.0), (45, 115.0), noise=noise), first_look=45)
    assert len(told) == 1
    assert near(told, 60, rose=True) and told[0].after <= 72


def test_up_and_down_again_are_two_reports() -> None:
    """Each change of level is told once, whatever comes after it."""
    (told,) = watch(stepped(4, (50, 100.0), (30, 120.0), (40, 100.0)), first_look=45)
    assert [(one.rose, abs(one.position - place) <= 3) for one, place in zip(told, (50, 80), strict=True)] == [
        (True, True),
        (False, True),
    ]


def test_a_step_on_a_drift_is_told_once_and_nothing_else() -> None:
    """Run by run a series that climbs by 15 % steps by 12 %: the step is told, soon, and the climb is no staircase."""
    levels = np.linspace(100.0, 115.0, 400) * np.where(np.arange(400) < 300, 1.0, 1.12)
    values = NOISES["independent"].series(np.random.default_rng(3), 4, levels)
    reports = watch(values, first_look=260)
    assert [len(told) for told in reports] == [1] * 4
    assert all(near(told, 300, rose=True) and told[0].after <= 315 for told in reports)


def test_what_is_seen_late_must_be_seen_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change must also be found without the newest two points; one that happened 80 points ago without fifteen."""
    values, times = np.ones((1, 100)), np.arange(100.0)[None, :]
    found = find_changes(stepped(0, (20, 100.0), (60, 120.0), (20, 140.0))).take([0, 1])
    assert found.position[0] == 20 and abs(found.position[1] - 80) <= 1
    searched: list[int] = []

    def examine(shorter: Any, *_: Any, **__: Any) -> Any:
        searched.extend(np.isfinite(shorter).sum(axis=1).tolist())
        return points.examine(shorter)

    monkeypatch.setattr(report, "examine", examine)
    news = report.is_news(values, times, found, [[]], Cycles.none(1), np.ones(1), np.zeros(1))
    assert searched == [100 - 15, 100 - 2]
    assert not news.any(), "nothing is found in ones"


def test_a_young_history_is_told_of_its_first_weekend_only() -> None:
    """Before three weeks a weekend looks like a change; the next ones, a week later to the hour, are not told again."""
    times = MONDAY_S + 6 * HOUR_S * np.arange(4 * 18.0)
    weekend = (times - MONDAY_S) // DAY_S % 7 >= 5
    values = stepped(1, (len(times), 100.0)) * np.where(weekend, 0.75, 1.0)
    (told,) = watch(values, times, first_look=18)
    assert [one.rose for one in told] == [False, True]
    (unaware,) = watch(values, first_look=18)
    assert len(unaware) > 2, "as it was without the times"


@pytest.mark.parametrize(
    ("days", "unknown"), [(0.5, "daily"), (2.9, "daily"), (3, "weekly"), (20.9, "weekly"), (21, "")]
)
def test_which_cycle_a_history_is_too_short_for(days: float, unknown: str) -> None:
    """Three whole cycles are needed to know one."""
    assert too_short_for(days * DAY_S) == unknown
