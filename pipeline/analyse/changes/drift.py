"""Drifts: series that climb or fall slowly, as against series that step.

A straight line, the steps that were found, and a line beside some of them (or beside the step that it hides) compete
by BIC, all under the noise that the search knows (AR(1), also seen through white noise): steps alone are reported when
they beat the lines. A line that wins, and one in a series without steps, is a drift when its slope is certain under the
autocorrelation that its own residual has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.candidates import splits_beside_lines
from pipeline.analyse.changes.models import fitted_steps
from pipeline.analyse.changes.search import FoundSplits, noise_likelihood
from pipeline.analyse.changes.series import Block, Floats, Ints

LEAST_POINTS = 30
"""A drift needs longer than a step to show."""

LEAST_T = 4.5
"""Slope in standard errors, these widened by the autocorrelation."""
LEAST_GAIN = 10.0
"""What the line must add to twice the log-likelihood, against wandering noise."""
LEAST_MARGIN = 2.0
"""By how much a line beside steps must beat all that is simpler, in units of BIC."""
LEAST_SPREADS = 0.9
"""From its begin to its end, in spreads of what is left."""
CERTAIN = 1.96
"""Standard errors on either side of a slope that hold 95 %."""


Mask = NDArray[np.bool_]
Likelihood = Callable[[Ints, Floats], Floats]
"""Of rows and as many series: twice the log-likelihood of each around a level."""


@dataclass(frozen=True)
class Lines:
    """Straight lines through the series of a block, beside whatever steps; in its units, all arrays are (rows,).

    ``slope`` a point, ``error`` its standard error, ``spread`` and ``residual`` (a sum of squares) of what is left.
    """

    slope: Floats
    error: Floats
    spread: Floats
    residual: Floats

    def values(self, size: Ints, width: int) -> Floats:
        """The lines around the middle of each series, (rows, width)."""
        return self.slope[:, None] * (np.arange(width) - (size[:, None] - 1) / 2)

    def could_be_drifts(self, size: Ints) -> Mask:
        """Which slopes are certain and large enough."""
        rise = np.abs(self.slope) * size
        is_certain = np.abs(self.slope) > LEAST_T * self.error
        return np.asarray((size >= LEAST_POINTS) & is_certain & (rise > LEAST_SPREADS * self.spread))

    def take(self, which: Ints | Mask) -> Lines:
        """The lines of some rows."""
        return Lines(*(getattr(self, column.name)[which] for column in fields(self)))

    def replaced(self, which: Ints | Mask, others: Lines) -> Lines:
        """These with ``others`` at the rows ``which``."""
        columns = {column.name: getattr(self, column.name).copy() for column in fields(self)}
        for name, values in columns.items():
            values[which] = getattr(others, name)
        return Lines(**columns)


def fit_lines(block: Block, rows: Ints, cuts: Ints) -> Lines:
    """Least squares: one slope for each of ``rows``, and a level of its own from each of its ``cuts`` (rows, k) on.

    Standard errors are those under AR(1) residuals where the slope may be certain.
    """
    row, size = rows[:, None], block.size[rows].astype(np.float64)
    edges = np.concatenate([np.zeros((len(rows), 1), np.int64), cuts, block.size[row]], axis=1)
    points = np.diff(edges).astype(np.float64)
    total = np.diff(block.total[row, edges])
    # The sum of t y(t) of each segment, t counted from its middle.
    moments = np.zeros((len(rows), block.width + 1))
    np.cumsum(block.y[rows] * np.arange(block.width), axis=1, out=moments[:, 1:])
    moment = np.diff(np.take_along_axis(moments, edges, axis=1)) - (edges[:, :-1] + edges[:, 1:] - 1) / 2 * total
    weight = (points * (points * points - 1.0)).sum(axis=1) / 12.0
    slope = moment.sum(axis=1) / weight
    rest = block.squares[rows, block.size[rows]] - (total * total / points).sum(axis=1) - slope * moment.sum(axis=1)
    rest = np.maximum(rest, block.floor[rows] * size)
    variance = rest / (size - cuts.shape[1] - 2.0)
    lines = Lines(slope, np.sqrt(variance / weight), np.sqrt(variance), rest)
    here = np.flatnonzero(np.abs(slope) > LEAST_T * lines.error)
    lines.error[here] *= _inflation(block, rows[here], edges[here], slope[here])
    return lines


def _inflation(block: Block, rows: Ints, edges: Ints, slope: Floats) -> Floats:
    """By how much the autocorrelation around the lines of ``rows`` widens their errors."""
    size, at = block.size[rows], np.arange(block.width)
    flat = block.y[rows] - slope[:, None] * (at - (size[:, None] - 1) / 2)
    rest = np.zeros_like(flat)
    for begin, end in zip(edges.T[:-1, :, None], edges.T[1:, :, None], strict=True):
        within = (at >= begin) & (at < end)
        level = np.where(within, flat, 0.0).sum(axis=1, keepdims=True) / (end - begin)
        rest += np.where(within, flat - level, 0.0)
    lagged = (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.maximum((rest * rest).sum(axis=1), 1e-300)
    # What is left around a fitted line looks less autocorrelated than the noise is.
    rho = np.clip(lagged + (2.0 + 4.0 * np.maximum(lagged, 0.0)) / size, 0.0, 0.97)
    return np.asarray(np.sqrt((1.0 + rho) / (1.0 - rho)))


@dataclass(frozen=True)
class Trends:
    """What beats the steps found in each row; all arrays are (rows,).

    ``degree`` of the trend that does, 0 where the steps stand; ``lines`` to take out where it is 1, ``is_drift`` where
    they are told.
    """

    degree: Ints
    is_drift: Mask
    lines: Lines

    def without(self, block: Block, rows: Ints, degree: int) -> Floats:
        """The series of ``rows`` less their trend of this degree, (rows, width)."""
        if degree == 1:
            return np.asarray(block.y[rows] - self.lines.take(rows).values(block.size[rows], block.width))
        return without_trend(block, rows, degree)


def weigh(block: Block, found: FoundSplits) -> Trends:
    """Steps compete with straight lines, with cubic curves, and with a straight line beside some of them.

    A drift is a line against wandering noise.
    """
    size = block.size
    lines = fit_lines(block, np.arange(block.rows), np.zeros((block.rows, 0), np.int64))
    steps = np.bincount(found.row, minlength=block.rows)
    degree, is_drift = np.zeros(block.rows, np.int64), np.zeros(block.rows, bool)
    could_drift = lines.could_be_drifts(size)
    hidden = _hidden_steps(block, np.flatnonzero((steps == 0) & (size >= LEAST_POINTS)))
    steps_beside = found.take(size[found.row] >= LEAST_POINTS).joined(hidden)
    rows = np.union1d(np.flatnonzero(could_drift), steps_beside.row)
    if not len(rows):
        return Trends(degree, is_drift, lines)
    freedom = (size - np.maximum(steps, 1) - 1).astype(np.float64)
    price = np.log(size)

    def likelihood(of: Ints, flat: Floats) -> Floats:
        return 2.0 * noise_likelihood(block.with_values(of, flat), freedom[of], walks=True)

    of_trend = {one: likelihood(rows, without_trend(block, rows, one)) - one * price[rows] for one in DEGREES}
    of_level = likelihood(rows, block.y[rows])
    of_steps = np.full(block.rows, -np.inf)
    of_both, beside = np.full(block.rows, -np.inf), lines
    for here, cuts in steps_beside.by_count():
        # A step has a height and a place.
        stepped = block.y[here] - fitted_steps(block, here, cuts)
        of_steps[here] = likelihood(here, stepped) - 2.0 * cuts.shape[1] * price[here]
        of_both[here], best_lines = _beside_lines(block, here, cuts, likelihood, price[here])
        beside = beside.replaced(here, best_lines)
    of_steps[hidden.row] = -np.inf
    of_steps = of_steps[rows]
    best = np.where(of_trend[1] >= of_trend[3], 1, 3)
    of_best = np.maximum(np.maximum(of_trend[1], of_trend[3]), of_steps)
    degree[rows] = np.where((of_best > of_steps) & (steps[rows] > 0), best, 0)
    is_drift[rows] = could_drift[rows] & (of_trend[1] > of_steps) & (of_trend[1] - of_level >= LEAST_GAIN)
    beats_all = (of_both[rows] > of_best + LEAST_MARGIN) & (of_both[rows] - of_level >= LEAST_GAIN)
    both = rows[beats_all & beside.could_be_drifts(size)[rows]]
    degree[both], is_drift[both] = 1, True
    return Trends(degree, is_drift, lines.replaced(both, beside.take(both)))


def _hidden_steps(block: Block, rows: Ints) -> FoundSplits:
    """In each of these rows the step that a drift of the other direction may hide: with both they seem level."""
    split, rest = splits_beside_lines(block)
    size = block.size[rows]
    level = block.squares[rows, size] - block.total[rows, size] ** 2 / size
    gain = size * np.log(np.maximum(level, block.floor[rows] * size) / np.maximum(rest[rows], block.floor[rows] * size))
    rows = rows[gain > 3.0 * np.log(size)]
    rows = rows[fit_lines(block, rows, split[rows, None]).could_be_drifts(block.size[rows])]
    return FoundSplits(rows, split[rows], np.zeros(len(rows)), np.zeros(len(rows)))


def _beside_lines(block: Block, rows: Ints, cuts: Ints, likelihood: Likelihood, price: Floats) -> tuple[Floats, Lines]:
    """The best penalised likelihood of a straight line beside some of the steps at ``cuts`` (rows, k), and the lines.

    A line makes steps superfluous that stood in for it: whichever leaves least behind when it goes, goes first.
    """
    best, best_lines = np.full(len(rows), -np.inf), fit_lines(block, rows, cuts)
    every = np.arange(len(rows))
    for left in range(cuts.shape[1], 0, -1):
        if left < cuts.shape[1]:
            fewer = np.stack([np.delete(cuts, column, axis=1) for column in range(left + 1)])
            weakest = np.argmin([fit_lines(block, rows, one).residual for one in fewer], axis=0)
            cuts = fewer[weakest, every]
        lines = fit_lines(block, rows, cuts)
        flat = block.with_values(rows, block.y[rows] - lines.values(block.size[rows], block.width))
        score = likelihood(rows, flat.y - fitted_steps(flat, every, cuts)) - (2.0 * left + 1.0) * price
        better = score > best
        best, best_lines = np.maximum(best, score), best_lines.replaced(better, lines.take(better))
    return best, best_lines


DEGREES = (1, 3)


def without_trend(block: Block, rows: Ints, degree: int) -> Floats:
    """The series of ``rows`` less their best polynomial of this degree, (rows, width)."""
    size = block.size[rows][:, None].astype(np.float64)
    at = np.arange(block.width)
    u = np.where(at < size, (2.0 * at - size + 1.0) / size, 0.0)
    within = np.where(at < size, 1.0, 0.0)
    rest = block.y[rows] * within
    basis: list[Floats] = []
    for power in range(degree + 1):
        one = u**power * within
        for other in basis:
            one = one - (one * other).sum(axis=1, keepdims=True) * other
        one = one / np.sqrt((one * one).sum(axis=1, keepdims=True))
        basis.append(one)
        rest = rest - (rest * one).sum(axis=1, keepdims=True) * one
    return rest
