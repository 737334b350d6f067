"""Series as companies have them: cycles, drifts, and noise that is not normal, for ``pipeline bench changes``.

Four weeks of a run an hour around 100 with 5 % of noise. Of each shape: false reports per 1,000 points without a step,
the share of steps of +10 % found within ``TOLERANCE`` points of their place (the middle, moved to a noon), and what is
told beside them, for our detector and beside it for a peer's rule.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.points import examine
from pipeline.analyse.changes.report import watch

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rule = Callable[[Floats], Flags]

MONDAY_S, HOUR_S, DAY_S = 1_700_438_400, 3600, 86_400
TIMES_S = MONDAY_S + HOUR_S * np.arange(672.0)
STEP_AT, STEP, TOLERANCE, NOISE = 348, 1.10, 3, 0.05

_PELT_SERIES = 5
"""PELT in Python takes a second for each."""


def shapes(generator: np.random.Generator, count: int) -> dict[str, Floats]:
    """Series (count, points) of every shape."""

    def normal() -> Floats:
        return generator.standard_normal((count, len(TIMES_S)))

    plain = normal()
    wandering = normal()
    for t in range(1, wandering.shape[1]):
        wandering[:, t] = 0.6 * wandering[:, t - 1] + 0.8 * wandering[:, t]
    is_weekend = (TIMES_S - MONDAY_S) // DAY_S % 7 >= 5
    is_night = (TIMES_S % DAY_S >= 22 * HOUR_S) | (TIMES_S % DAY_S < 6 * HOUR_S)
    share = np.arange(len(TIMES_S)) / len(TIMES_S)
    spikes = np.where(generator.random(plain.shape) < 0.02, generator.uniform(3, 10, plain.shape), 1.0)
    base = 100.0 * (1.0 + NOISE * plain)
    return {
        "independent": base,
        "weekends x 0.8": base * np.where(is_weekend, 0.8, 1.0),
        "nights x 0.8": base * np.where(is_night, 0.8, 1.0),
        "drift of 1 spread": base + 100.0 * NOISE * share,
        "drift of 3 spreads": base + 300.0 * NOISE * share,
        "drift of -3 spreads": base - 300.0 * NOISE * share,
        "2 % outliers": base * spikes,
        "heavy tails": 100.0 * (1.0 + NOISE * generator.standard_t(3, plain.shape) / np.sqrt(3.0)),
        "spread doubles": 100.0 * (1.0 + NOISE * plain * np.where(share < 0.5, 0.7, 1.4)),
        "two peaks": base + 20.0 * (generator.random(plain.shape) < 0.3),
        "autocorrelated": 100.0 * (1.0 + NOISE * wandering),
        # Shared machines are at times slower, for some runs in a row.
        "two states": base + 20.0 * (wandering > 0.6),
    }


def by_pipeline(values: Floats) -> Flags:
    """Our detector, which is told the times."""
    found = examine(values, TIMES_S).changes
    flags = np.zeros(values.shape, dtype=bool)
    flags[found.series, found.position] = True
    return flags


def pelt() -> Rule | None:
    """PELT of ``ruptures`` (l2, BIC penalty), where that is installed."""
    try:
        ruptures = importlib.import_module("ruptures")
    except ImportError:
        return None

    def flag(values: Floats) -> Flags:
        flags = np.zeros(values.shape, dtype=bool)
        for row, series in enumerate(values[:_PELT_SERIES]):
            spread = 1.4826 * np.median(np.abs(np.diff(series))) / np.sqrt(2.0)
            model = ruptures.Pelt(model="l2", min_size=5, jump=3).fit(series)
            flags[row, model.predict(pen=2.0 * np.log(len(series)) * spread**2)[:-1]] = True
        return flags

    return flag


def replayed(series: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What an engineer is told of every shape when it is searched after each new run, up to 150 points after a step.

    Of a step: the share told *once*, the share told *again* under another place (of the same direction, up to 60
    points away), and after how many points. *Others*: reports of anything else, per 1,000 points.
    """
    told: dict[str, Any] = {}
    points = STEP_AT + 150
    levels = np.where(np.arange(points) < STEP_AT, 1.0, STEP)
    for name, values in shapes(np.random.default_rng(12), series).items():
        reports = watch(values[:, :points] * levels, TIMES_S[:points])
        near = [[one for one in of if one.rose and abs(one.position - STEP_AT) <= 60] for of in reports]
        others = sum(len(of) for of in reports) - sum(len(of) for of in near)
        told[name] = {
            "told": round(float(np.mean([len(of) > 0 for of in near])), 3),
            "told again": round(float(np.mean([len(of) > 1 for of in near])), 3),
            "points until then": float(np.median([float(of[0].after - STEP_AT) for of in near if of] or [np.nan])),
            "others per 1000": round(1000.0 * others / (series * points), 2),
        }
        say(f"replayed, {name}: {told[name]}")
    return told


def measure(seeds: int, peers: Mapping[str, Rule], say: Callable[[str], None]) -> dict[str, Any]:
    """False reports and hits of every shape and rule, and what is told beside a step; ``seeds`` series a figure."""
    rules: dict[str, Rule] = {"pipeline": by_pipeline, **peers}
    if (extra := pelt()) is not None:
        rules["ruptures PELT"] = extra
    told: dict[str, Any] = {}
    levels = np.where(np.arange(len(TIMES_S)) < STEP_AT, 1.0, STEP)
    for name, values in shapes(np.random.default_rng(11), seeds).items():
        for title, rule in rules.items():
            count = min(seeds, _PELT_SERIES) if title == "ruptures PELT" else seeds
            quiet, stepped = rule(values)[:count], rule(values * levels)[:count]
            near = stepped[:, STEP_AT - TOLERANCE : STEP_AT + TOLERANCE + 1].any(axis=1)
            figures = {
                "false per 1000": round(1000.0 * float(quiet.mean()), 2),
                "+10% found": round(float(near.mean()), 3),
                "beside it per 1000": round(1000.0 * float(stepped.sum() - near.sum()) / stepped.size, 2),
            }
            if rule is by_pipeline:
                figures["drifts told"] = round(len(examine(values, TIMES_S).drifts) / count, 3)
                both = examine(values * levels, TIMES_S)
                figures["drifts told beside it"] = round(len(both.drifts) / count, 3)
                at_step = np.abs(both.changes.position - STEP_AT) <= TOLERANCE
                figures["its size"] = round(float(np.median(both.changes.change_pct[at_step])), 1)
            told[f"{name}: {title}"] = figures
            say(f"{name}: {title}: {figures}")
    return told
