"""Whether the newest runs of a suite or a test still keep to their level: a test after each new run.

Two questions, either of which may tell. *Newest against reference*: the newest five runs, and the newest ten and
twenty, against the older half. *Where did it step*: each place in the newer half is tried for a step under AR(1) noise
whose autocorrelation is not known; where noise wanders, a step is known by its edge. What is told must still be there:
the newest five lie away from what was before. And it must be a step rather than a wider spread at the same level
(``spreads.py``).

Pure numpy; a group's result does not depend on the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.models import AUTOCORRELATIONS, PRIOR
from pipeline.analyse.changes.series import Block, Floats, Ints, fit_level, fit_step, prepare
from pipeline.analyse.spreads import is_step

Mask = NDArray[np.bool_]

SPREAD_OF_MAD = 1.4826
"""Times the median absolute deviation of a normal distribution is its standard deviation."""
SPREAD_OF_MEAN_DEVIATION = 1.2533
"""The same for the mean absolute deviation, which stands in when more than half of the runs are equal."""

NEWEST_RUNS = 5
_MORE_RUNS = (10, 20)
"""Where there are as many after the reference, the mean of so many newest runs may tell a shift, too."""
_FAR_SPREADS, _FAR_SHARE = 5.0, 0.1
"""Runs farther away than this say nothing about the noise, as long as they are so few."""
_SHIFT_SPREADS = 1.5
_SHIFT_SHARE = 0.01
"""A level that moved by a hundredth of itself or less has not moved for practical purposes."""

# How far the newest runs must lie from the reference, in standard errors of autocorrelated runs; the shorter the
# reference, the less is known of its autocorrelation. ``pipeline bench changes`` prints what is false and found.
_SHIFT_T, _ENOUGH, _T_PER_RUN_LESS = 4.8, 28, 0.2
_LITTLE_RHO, _T_PER_RHO = 0.45, 4.0
"""Of runs that look more autocorrelated than this the step says more than their mean."""
_CAREFUL = 1.5
"""Standard errors that are added to the measured autocorrelation."""
_MOST_AUTOCORRELATION = 0.9

_STEP_EVIDENCE, _LESS_PER_LENGTH = 18.5, 0.5
"""Twice the log of the Bayes factor that a step needs at 50 runs, and how much less for e times as many."""
_STEP_SPREADS = 1.0
_MOST_PLACES = 60
"""Newest runs among which a step is sought."""


def shifts(durations: Floats, starts: Ints, min_runs: int) -> tuple[Mask, Floats, Floats]:
    """Whether the newest runs of each group left the level of the reference, by how many percent, and the latter's
    autocorrelation; (groups,), NaN where there are too few runs to ask.

    The reference is the older half of the runs, at least ``min_runs``; the newest five, and the newest ten and twenty
    where these are no part of it, are held against it; and a step is sought in the newer half. The newest five must
    lie beyond the noise (1.5 spreads; 1 after a step), and 1 % away; and a step must explain the runs better than a
    spread that has widened.
    """
    sizes = np.diff(starts)
    shifted = np.zeros(len(sizes), bool)
    shift_pct, autocorrelation = np.full(len(sizes), np.nan), np.full(len(sizes), np.nan)
    for size in np.unique(sizes[sizes >= min_runs + NEWEST_RUNS]).tolist():
        here = np.flatnonzero(sizes == size)
        runs = durations[starts[here, None] + np.arange(size)]
        older, last = max(min_runs, size // 2), size - NEWEST_RUNS
        first = max(older, size - _MOST_PLACES)
        told, shift_pct[here], autocorrelation[here] = _against(runs, older, (NEWEST_RUNS, *_MORE_RUNS))
        # All runs before the newest five know more, until the first of a new level are among them.
        told |= _against(runs, last, (NEWEST_RUNS,))[0] | _stepped(runs, first)
        told[told] = is_step(runs[told], min(first, last), NEWEST_RUNS)
        shifted[here] = told
    return shifted, shift_pct, autocorrelation


def _against(runs: Floats, older: int, counts: tuple[int, ...]) -> tuple[Mask, Floats, Floats]:
    """Hold so many newest runs, each of ``counts``, against the ``older`` oldest ones."""
    reference = runs[:, :older]
    centre = np.median(reference, axis=1)
    spread = _spread(np.abs(reference - centre[:, None]))
    # Far runs count as three spreads away, so that one that hung says nothing about the noise.
    drawn_in = np.clip(reference, (centre - 3 * spread)[:, None], (centre + 3 * spread)[:, None])
    level = drawn_in.mean(axis=1)
    rest = drawn_in - level[:, None]
    squares = (rest * rest).sum(axis=1)
    measured = (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.where(squares > 0, squares, 1.0)
    positive = np.clip(measured, 0.0, 1.0)
    careful = _CAREFUL * np.sqrt((1.0 - positive**2) / older) + (1.0 + 4.0 * positive) / older
    rho = np.clip(measured + careful, 0.0, _MOST_AUTOCORRELATION)
    # The spread of few autocorrelated runs is smaller than that of many.
    share = np.maximum(1.0 - _variance_of_mean(older, rho), 0.2)
    deviation = np.sqrt(squares / older / share)
    newest = np.median(runs[:, -NEWEST_RUNS:], axis=1)
    side = np.sign(newest - level)
    furthest = np.zeros(len(runs))
    for count in counts:
        if older + count <= runs.shape[1]:
            error = deviation * np.sqrt(1.1 * _variance_of_mean(count, rho) + _variance_of_mean(older, rho))
            away = side * (_trimmed_mean(runs[:, -count:]) - level)
            furthest = np.maximum(furthest, away / np.maximum(error, 1e-300))
    needed = _SHIFT_T + _T_PER_RUN_LESS * max(_ENOUGH - older, 0) + _T_PER_RHO * np.maximum(rho - _LITTLE_RHO, 0.0)
    is_apart = np.abs(newest - level) > np.maximum(_SHIFT_SPREADS * spread, _SHIFT_SHARE * np.abs(level))
    with np.errstate(invalid="ignore", divide="ignore"):
        shift_pct = np.where(level != 0, 100.0 * (newest - level) / np.abs(level), np.nan)
    return (furthest > needed) & is_apart, shift_pct, np.clip(measured, -1.0, 1.0)


def _stepped(runs: Floats, first: int) -> Mask:
    """Whether a step at one of the places from ``first`` on explains the runs better than wandering noise does, and
    the newest runs still lie beyond it."""
    last = runs.shape[1] - NEWEST_RUNS
    if first > last:  # the newest runs begin in the older half: there is no place for a step
        return np.zeros(len(runs), bool)
    evidence, place = _best_step(prepare(runs, np.full(len(runs), runs.shape[1])), first, last)
    is_before = np.arange(runs.shape[1]) < place[:, None]
    before = np.where(is_before, runs, np.nan)
    centre = np.nanmedian(before, axis=1)
    spread = _spread(np.abs(before - centre[:, None]))
    away = np.abs(np.median(runs[:, -NEWEST_RUNS:], axis=1) - centre)
    is_apart = away > np.maximum(_STEP_SPREADS * spread, _SHIFT_SHARE * np.abs(centre))
    return np.asarray((evidence > _STEP_EVIDENCE - _LESS_PER_LENGTH * np.log(runs.shape[1] / 50)) & is_apart)


def _spread(deviations: Floats) -> Floats:
    """The spread of runs that lie so far from their centre, (rows, runs), NaN where there is none.

    The median absolute deviation, or the mean one where that is larger: of two ways to behave the former may see one
    alone. A tenth of the runs at most, far from all others, are no way to behave.
    """
    spread = SPREAD_OF_MAD * np.nanmedian(deviations, axis=1)
    is_far = deviations > _FAR_SPREADS * spread[:, None]
    are_few = is_far.sum(axis=1) <= _FAR_SHARE * np.isfinite(deviations).sum(axis=1)
    near = np.where(is_far & are_few[:, None], np.nan, deviations)
    return np.asarray(np.maximum(spread, SPREAD_OF_MEAN_DEVIATION * np.nanmean(near, axis=1)))


def _best_step(block: Block, first: int, last: int) -> tuple[Floats, Ints]:
    """How much more likely the runs are with a step at a place from ``first`` to ``last`` (both included) than without
    one, as twice the logarithm of the Bayes factor (every place and autocorrelation has its share in it), and the
    likeliest place."""
    rows = np.arange(block.rows)
    begin, least = np.zeros_like(rows), (block.floor * block.size)[:, None]
    level = fit_level(block, rows, begin, block.size, AUTOCORRELATIONS)
    of_level = PRIOR + level.log_weight
    half = 0.5 * (block.width - 2)
    without = _log_sum(of_level - (half + 0.5) * np.log(np.maximum(level.residual, least)))
    places = np.empty((block.rows, last - first + 1))
    for column, at in enumerate(range(first, last + 1)):
        step = fit_step(block, rows, begin, np.full(block.rows, at), block.size, AUTOCORRELATIONS, level)
        residual = np.maximum(level.residual - step.gain, least)
        places[:, column] = _log_sum(of_level + step.log_weight - half * np.log(residual))
    likelihood = _log_sum(places) - np.log(places.shape[1])
    return 2.0 * (likelihood - without), first + places.argmax(axis=1)


def _log_sum(logarithms: Floats) -> Floats:
    """The logarithm of the sum along the last axis."""
    largest = logarithms.max(axis=-1, keepdims=True)
    return np.asarray(largest[..., 0] + np.log(np.exp(logarithms - largest).sum(axis=-1)))


def _variance_of_mean(count: int, rho: Floats) -> Floats:
    """The variance of the mean of so many AR(1) values of variance 1."""
    away = 1.0 - rho
    return np.asarray(((1.0 + rho) / away - 2.0 * rho * (1.0 - rho**count) / (count * away * away)) / count)


def _trimmed_mean(runs: Floats) -> Floats:
    """The mean without the lowest and the highest fifth."""
    cut = runs.shape[1] // 5
    return np.asarray(np.sort(runs, axis=1)[:, cut : runs.shape[1] - cut].mean(axis=1))
