"""Whether a step explains runs better than a wider spread at the same level does.

Newest runs whose noise has doubled or tripled stray as far as after a step, and the fewer and the more autocorrelated
they are, the more it looks like one. Both are tried at each place, under AR(1) noise whose autocorrelation is not
known: a step at the spread of before, and one level with a spread from there on that is 1.5 to 3 times as wide.
Where the newest are slower, runs are compared by their logarithms: a level that doubles may double its spread. One that
falls does not widen it, whether the noise is in proportion to the level or not.

Pure numpy; a row's result depends on that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.models import AUTOCORRELATIONS, PRIOR
from pipeline.analyse.changes.series import Block, Floats, Ints, prepare

Mask = NDArray[np.bool_]

_WIDER = np.array([1.5, 2.0, 3.0])
_ROWS = 64
"""At a time: each takes some 2,000 numbers for every sum."""

# Twice the log of the Bayes factor that a step needs: of few runs the spread is not known, and autocorrelated ones
# stray for a while. ``pipeline bench changes`` prints what is false and found.
_EVIDENCE_OF_FEW, _OF_AUTOCORRELATION = (14.0, 19.0), (0.3, 0.7)
_EVIDENCE_OF_MANY, _FEW, _MANY = 12.0, 10, 20
"""The newest runs after the step, from few to many."""


def is_step(runs: Floats, first: int, newest: int) -> Mask:
    """Whether a step explains ``runs`` (rows, runs) better than any wider spread: at a place from ``first`` on, with at
    least ``newest`` runs after it."""
    last = runs.shape[1] - newest
    is_slower = np.median(runs[:, last:], axis=1) > np.median(runs[:, :first], axis=1)
    told = np.zeros(len(runs), bool)
    for which, logarithms_from in ((is_slower, 0.0), (~is_slower, np.inf)):
        rows = np.flatnonzero(which)
        for begin in range(0, len(rows), _ROWS):
            here = rows[begin : begin + _ROWS]
            block = prepare(runs[here], np.full(len(here), runs.shape[1]), logarithms_from)
            told[here] = _is_enough(block, *step_over_spread(block, np.arange(first, last + 1)))
    return told


def _is_enough(block: Block, evidence: Floats, place: Ints, rho: Floats) -> Mask:
    of_few = np.interp(rho, _OF_AUTOCORRELATION, _EVIDENCE_OF_FEW)
    are_many = np.interp(block.width - place, (_FEW, _MANY), (0.0, 1.0))
    return np.asarray(evidence > of_few + are_many * (_EVIDENCE_OF_MANY - of_few))


def step_over_spread(block: Block, places: Ints) -> tuple[Floats, Ints, Floats]:
    """Twice the log of the Bayes factor of a step against a wider spread, the likeliest place of a step, and the
    autocorrelation to be expected with it; (rows,). The series of ``block`` are of one size.
    """
    step = _likelihood_of_step(_Cut.at(block, places, np.ones(1)))[:, :, 0]
    wider = _likelihood_of_level(_Cut.at(block, places, _WIDER))
    place = step.max(axis=2).argmax(axis=1)
    there = step[np.arange(block.rows), place]
    share = np.exp(there - there.max(axis=1, keepdims=True))
    rho = (share * AUTOCORRELATIONS).sum(axis=1) / share.sum(axis=1)
    return 2.0 * (_mean(step, (1, 2)) - _mean(wider, (1, 2, 3))), places[place], rho


@dataclass(frozen=True)
class _Cut:
    """Inner products under AR(1) noise of series that are cut at a place and divided by a ratio from there on.

    (rows, places, ratios, autocorrelations): of the series with itself, and with ``before`` and ``after``, which are
    the levels of either side (1, and 1 divided by the ratio). ``log_ratio`` is what dividing does to a density,
    ``freedom`` the number of points, ``least`` the smallest sum of squares believed.
    """

    itself: Floats
    with_before: Floats
    with_after: Floats
    before: Floats
    after: Floats
    across: Floats
    points: tuple[Floats, Floats]
    log_ratio: Floats
    freedom: int
    least: Floats

    @classmethod
    def at(cls, block: Block, places: Ints, ratios: Floats) -> _Cut:
        """The cuts of every series at every place, by every ratio."""
        rho, size = AUTOCORRELATIONS, block.width
        square, middle = rho * rho, 1.0 + rho * rho
        share = (1.0 / ratios)[:, None]

        def column(values: Floats) -> Floats:
            return values[..., None, None]

        y = block.y
        first, last = column(y[:, :1]), column(y[:, -1:])
        left, right = column(y[:, places - 1]), column(y[:, places])
        total, of_after = column(block.total[:, places]), column(block.total[:, -1:] - block.total[:, places])
        squares = column(block.squares[:, places])
        squares_after = column(block.squares[:, -1:] - block.squares[:, places])
        products = column(block.products[:, places])
        products_after = column(block.products[:, -1:] - block.products[:, places + 1])
        older = column(places.astype(np.float64)[None, :])
        newer = size - older
        neighbours = products + left * right * share + products_after * share**2
        return cls(
            itself=middle * (squares + squares_after * share**2)
            - square * (first**2 + (last * share) ** 2)
            - 2.0 * rho * neighbours,
            with_before=middle * total - square * first - rho * (2.0 * total - first - left + right * share),
            with_after=share
            * (share * (middle * of_after - square * last - rho * (2.0 * of_after - right - last)) - rho * left),
            before=middle * older - square - 2.0 * rho * (older - 1.0),
            after=(middle * newer - square - 2.0 * rho * (newer - 1.0)) * share**2,
            across=-rho * share,
            points=(older, newer * share**2),
            log_ratio=newer * np.log(share),
            freedom=size,
            least=(block.floor * size)[:, None, None, None],
        )


def _likelihood_of_level(cut: _Cut) -> Floats:
    """The log of the restricted likelihood of one level, as ``_Cut``."""
    weight = cut.before + cut.after + 2.0 * cut.across
    along = cut.with_before + cut.with_after
    residual = np.maximum(cut.itself - along * along / weight, cut.least)
    of_weight = 0.5 * np.log((cut.points[0] + cut.points[1]) / weight)
    return _with_prior(cut, of_weight - 0.5 * (cut.freedom - 1) * np.log(residual))


def _likelihood_of_step(cut: _Cut) -> Floats:
    """The same of two levels."""
    weight = cut.before * cut.after - cut.across**2
    gain = cut.with_before**2 * cut.after + cut.with_after**2 * cut.before
    gain = (gain - 2.0 * cut.with_before * cut.with_after * cut.across) / weight
    residual = np.maximum(cut.itself - gain, cut.least)
    of_weight = 0.5 * np.log(cut.points[0] * cut.points[1] / weight)
    return _with_prior(cut, of_weight - 0.5 * (cut.freedom - 2) * np.log(residual))


def _with_prior(cut: _Cut, likelihood: Floats) -> Floats:
    return np.asarray(PRIOR + 0.5 * np.log(1.0 - AUTOCORRELATIONS**2) + cut.log_ratio + likelihood)


def _mean(logarithms: Floats, axis: int | tuple[int, ...]) -> Floats:
    """The logarithm of the mean along axes."""
    largest = logarithms.max(axis=axis, keepdims=True)
    mean = np.exp(logarithms - largest).mean(axis=axis, keepdims=True)
    return np.asarray(np.squeeze(largest + np.log(mean), axis=axis))
