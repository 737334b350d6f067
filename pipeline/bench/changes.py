"""``pipeline bench changes``: how good the change detector is, beside what is simple and common, at one setting.

Series are simulated: a level of 100, noise of 5 % of the level, and for the share that is found a step after
60 points. *independent*: normal noise. *autocorrelated*: AR(1), 0.6, whose standard deviation as one sees it in the
series is the 5 %. *outliers*: independent, and of each point with a chance of 2 % a spike of 3 to 10 times the level.
*autocorrelated, innovations*: the other reading of "5 %", in which it is what each point adds (6.25 % in the series).

Told are false alarms per 1,000 points in series without a step (of 60, 120 and 400 points), and the share of steps
found within 3 points of their place: *offline* with 60 points on either side; *12 after* in the series cut off 12
points after the step; *within 12* when the series is looked at after each of the first 12 points. ``watched`` looks at
series without a step after every point, as the job does, and counts every false alarm ever raised. ``fleet`` puts
5 % of series with a step among those without and bounds the false discovery rate, again as the job does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.confirm import confirm
from pipeline.analyse.changes.models import SHORTEST_SEGMENT
from pipeline.analyse.changes.points import LITTLE_AUTOCORRELATION, PENALTY, find_changes, p_value
from pipeline.analyse.changes.search import search
from pipeline.analyse.changes.series import pack, prepare
from pipeline.bench import baselines, shapes

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Detector = Callable[[Floats], Flags]
"""Series (series, points) to where a change is reported, of the same shape."""

BEFORE, AFTER, SOON, TOLERANCE = 60, 60, 12, 3
NOISE = 0.05
STEPS = (0.10, 0.15, -0.10, -0.15)
NULL_POINTS = (60, 120, 400)
WATCHED_FROM, WATCHED_TO = 30, 240
SPEED_SHAPE = (10_000, 400)
FLEET = 1_000

_BACK = 30
"""Points before that the simple detectors take for normal."""


@dataclass(frozen=True)
class Noise:
    """A kind of noise; ``draw(generator, series, points)`` has a standard deviation of 1 where ``scale`` is 1."""

    autocorrelation: float = 0.0
    outliers: float = 0.0
    scale: float = 1.0

    def series(self, generator: np.random.Generator, count: int, levels: Floats) -> Floats:
        """``count`` series around ``levels`` (points,)."""
        noise = self.scale * ar1(generator, count, len(levels), self.autocorrelation)
        values = levels * (1.0 + NOISE * noise)
        spikes = generator.random(values.shape) < self.outliers
        return np.where(spikes, values * generator.uniform(3.0, 10.0, values.shape), values)


NOISES = {
    "independent": Noise(),
    "autocorrelated": Noise(autocorrelation=0.6),
    "outliers": Noise(outliers=0.02),
    "autocorrelated, innovations": Noise(autocorrelation=0.6, scale=1.25),
}


def ar1(generator: np.random.Generator, count: int, points: int, autocorrelation: float) -> Floats:
    """Stationary AR(1) noise (count, points) of standard deviation 1."""
    noise = generator.standard_normal((count, points))
    fresh = np.sqrt(1.0 - autocorrelation**2)
    for t in range(1, points):
        noise[:, t] = autocorrelation * noise[:, t - 1] + fresh * noise[:, t]
    return noise


def detect(values: Floats) -> Flags:
    """The detector of this product."""
    found = find_changes(values)
    flags = np.zeros(values.shape, dtype=bool)
    flags[found.series, found.position] = True
    return flags


def fixed_threshold(values: Floats) -> Flags:
    """More than 20 % from the median of the 30 points before."""
    centre = np.median(_before(values), axis=2)
    return _episodes(np.abs(values[:, _BACK:] - centre) > 0.2 * centre)


def mad_z(values: Floats) -> Flags:
    """More than 3.5 robust standard deviations from the median of the 30 points before."""
    before = _before(values)
    centre = np.median(before, axis=2)
    spread = 1.4826 * np.median(np.abs(before - centre[:, :, None]), axis=2)
    return _episodes(np.abs(values[:, _BACK:] - centre) > 3.5 * spread)


def welch_t(values: Floats) -> Flags:
    """Twelve points before and twelve after differ by a t above 7, and most around there (Mozilla's Perfherder)."""
    windows = np.lib.stride_tricks.sliding_window_view(values, SOON, axis=1)
    mean, variance = windows.mean(axis=2), windows.var(axis=2, ddof=1)
    t = np.abs(mean[:, SOON:] - mean[:, :-SOON]) / np.sqrt((variance[:, SOON:] + variance[:, :-SOON]) / SOON)
    padded = np.pad(t, ((0, 0), (SOON, SOON)))
    largest = np.lib.stride_tricks.sliding_window_view(padded, 2 * SOON + 1, axis=1).max(axis=2)
    flags = np.zeros(values.shape, dtype=bool)
    flags[:, SOON : SOON + t.shape[1]] = (t > 7.0) & (t == largest)
    return flags


DETECTORS: dict[str, Detector] = {
    "pipeline": detect,
    "fixed +-20 %": fixed_threshold,
    "MAD z > 3.5": mad_z,
    "Welch t > 7": welch_t,
}


def run(seeds: int, say: Callable[[str], None], *, full: bool = False) -> dict[str, Any]:
    """Measure; ``seeds`` series a figure (200 take some minutes), the same ones every time.

    ``full`` adds what takes long: series that are watched point by point, and the fleet. Shares of 200
    series are good to 0.06, of 2,000 to 0.02 (two standard errors).
    """
    result: dict[str, Any] = {"seeds": seeds, "speed_s": speed()}
    say(f"{SPEED_SHAPE[0]:,} series of {SPEED_SHAPE[1]} points: {result['speed_s']:.2f} s of one core")
    for name, noise in NOISES.items():
        for detector_name, detector in DETECTORS.items():
            title = name if detector is detect else f"{name}: {detector_name}"
            result[title] = figures(detector, noise, seeds, within=detector is detect)
            say(f"{title}: {result[title]}")
    peers = {"fixed +-20 %": fixed_threshold, "Perfherder's t-test": welch_t}
    result["shapes"] = shapes.measure(max(seeds // 4, 1), peers, say)
    result["replayed"] = shapes.replayed(max(seeds // 20, 1), say)
    result["baselines"] = baselines.measure(20 * seeds, say)
    if full:
        for name, noise in NOISES.items():
            result[f"watched: {name}"] = watched(noise, max(seeds // 10, 1))
            result[f"fleet: {name}"] = fleet(noise)
            say(f"{name}: watched {result[f'watched: {name}']}, fleet {result[f'fleet: {name}']}")
    return result


def figures(detector: Detector, noise: Noise, seeds: int, *, within: bool) -> dict[str, float]:
    """False alarms per 1,000 points by length of series, and the shares of steps found."""
    told: dict[str, float] = {}
    for points in NULL_POINTS:
        # As many points at every length: 120 for every seed, twice.
        flags = detector(_null(noise, 240 * seeds // points, points))
        told[f"false alarms per 1000, {points} points"] = round(1000 * float(flags.mean()), 3)
    for step in STEPS:
        values = _stepped(noise, seeds, step)
        told[f"{step:+.0%} offline"] = _share(_hits(detector(values)))
        told[f"{step:+.0%} 12 after"] = _share(_hits(detector(values[:, : BEFORE + SOON])))
        if within:
            cuts = range(BEFORE + SHORTEST_SEGMENT, BEFORE + SOON + 1)
            hits = [_hits(detector(values[:, :cut])) for cut in cuts]
            told[f"{step:+.0%} within 12"] = _share(np.any(hits, axis=0))
    return told


def watched(noise: Noise, count: int) -> dict[str, float]:
    """False alarms of series that are searched after every point, per 1,000 points: without a step all are false."""
    values = _null(noise, count, WATCHED_TO)
    raised = np.zeros(values.shape, dtype=bool)
    for points in range(WATCHED_FROM, WATCHED_TO + 1):
        found = find_changes(values[:, :points])
        for series, position in zip(found.series, found.position, strict=True):
            first = max(position - TOLERANCE, 0)
            if not raised[series, first : position + TOLERANCE + 1].any():
                raised[series, position] = True
    return {"false alarms per 1000": round(1000 * float(raised.mean()), 3)}


def fleet(noise: Noise, rate: float = 0.01) -> dict[str, float]:
    """A step in 5 % of ``FLEET`` series and a bounded false discovery rate: what is found, and how much is false."""
    told: dict[str, float] = {}
    stepped = FLEET // 20
    for step in (0.10, 0.15):
        for name, points in (("offline", BEFORE + AFTER), ("12 after", BEFORE + SOON)):
            values = np.concatenate([_stepped(noise, stepped, step), _null(noise, FLEET - stepped, BEFORE + AFTER)])
            found = find_changes(values[:, :points], false_discovery_rate=rate)
            told[f"{step:+.0%} {name} detected"] = round(
                len(np.unique(found.series[found.series < stepped])) / stepped, 3
            )
            told[f"{step:+.0%} {name} false"] = int((found.series >= stepped).sum())
    return told


def speed() -> float:
    """Processor seconds for 10,000 series of 400 hours, cycles looked for, a step in every twentieth."""
    generator = np.random.default_rng(7)
    times = 1_700_438_400 + 3600.0 * np.arange(SPEED_SHAPE[1])
    values = NOISES["independent"].series(generator, SPEED_SHAPE[0], np.full(SPEED_SHAPE[1], 100.0))
    values[::20, 250:] *= 1.15
    find_changes(values[:100], times)
    started = time.process_time()
    find_changes(values, times)
    return round(time.process_time() - started, 3)


def null_tail(points: int, series: int, autocorrelation: float = 0.6) -> dict[str, float]:
    """What ``changepoints._NULL_TAIL`` says of series of so many points, found anew in so many series without a change.

    How often one shows a change with an evidence of ``PENALTY``, whatever was found and where little autocorrelation
    was, and how fast that falls. The tail is watched from a little below, where there is more of it. The first chance
    is worst at the autocorrelation of 0.6, the second one between 0.15 and 0.45.
    """
    least = PENALTY - 0.7
    noise = ar1(np.random.default_rng([points, round(100 * autocorrelation)]), series, points, autocorrelation)
    values = 100.0 * (1.0 + NOISE * noise)
    strongest, strongest_if_little = np.zeros(series), np.zeros(series)
    for first in range(0, series, 256):
        packed, size = pack(values[first : first + 256])
        found = search(prepare(packed, size), np.full(len(packed), least))
        for confirmed, _ in confirm(packed, size, found, np.zeros(len(packed)), np.zeros(len(packed))):
            little = confirmed.take(confirmed.autocorrelation < LITTLE_AUTOCORRELATION)
            np.maximum.at(strongest, first + confirmed.row, confirmed.evidence)
            np.maximum.at(strongest_if_little, first + little.row, little.evidence)
    tail = strongest[strongest > 0]
    decay = 1.0 / float(np.mean(tail - least)) if len(tail) else np.nan
    fallen = float(np.exp(-decay * (PENALTY - least)))
    return {
        "points": points,
        "chance": len(tail) / series * fallen,
        "chance_if_little": np.count_nonzero(strongest_if_little) / series * fallen,
        "decay": decay,
        "chance_in_use": float(p_value(PENALTY, points)),
        "chance_if_little_in_use": float(p_value(PENALTY, points, 0.0)),
    }


def _null(noise: Noise, count: int, points: int) -> Floats:
    return noise.series(np.random.default_rng([points, 0]), count, np.full(points, 100.0))


def _stepped(noise: Noise, count: int, step: float) -> Floats:
    levels = np.where(np.arange(BEFORE + AFTER) < BEFORE, 100.0, 100.0 * (1.0 + step))
    return noise.series(np.random.default_rng([BEFORE, round(1000 * (1 + step))]), count, levels)


def _hits(flags: Flags) -> Flags:
    """Which series (rows) report a change near the step."""
    return np.asarray(flags[:, BEFORE - TOLERANCE : BEFORE + TOLERANCE + 1].any(axis=1))


def _share(hits: Flags) -> float:
    return round(float(hits.mean()), 3)


def _before(values: Floats) -> Floats:
    """The ``_BACK`` points before each point from there on: (series, points - _BACK, _BACK)."""
    return np.lib.stride_tricks.sliding_window_view(values[:, :-1], _BACK, axis=1)


def _episodes(beyond: Flags) -> Flags:
    """The first of every run of points beyond a threshold, set back among all points."""
    first = beyond.copy()
    first[:, 1:] &= ~beyond[:, :-1]
    return np.pad(first, ((0, 0), (_BACK, 0)))
