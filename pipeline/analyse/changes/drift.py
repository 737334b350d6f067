"""Drifts: series that climb or fall slowly, as against series that step.

A straight line and the steps that were found compete by BIC, both under the noise that the search knows (AR(1), also
seen through white noise): steps are reported when they beat the line. A line that wins, and one in a series without
steps, is a drift when its slope is certain under the autocorrelation that its own residual has.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.models import fitted_steps
from pipeline.analyse.changes.search import FoundSplits, noise_likelihood
from pipeline.analyse.changes.series import Block, Floats, Ints

LEAST_POINTS = 30
"""A drift needs longer than a step to show."""

LEAST_T = 4.5
"""Slope in standard errors, these widened by the autocorrelation."""
LEAST_GAIN = 10.0
"""What the line must add to twice the log-likelihood, against wandering noise."""
LEAST_SPREADS = 0.9
"""From its begin to its end, in spreads of what is left."""
CERTAIN = 1.96
"""Standard errors on either side of a slope that hold 95 %."""


@dataclass(frozen=True)
class Lines:
    """Straight lines through the series of a block, in its units; all arrays are (rows,).

    ``slope`` a point, ``error`` its standard error, ``middle`` the level halfway, ``spread`` of the residual.
    """

    slope: Floats
    error: Floats
    middle: Floats
    spread: Floats

    def take(self, which: Ints | NDArray[np.bool_]) -> Lines:
        """The lines of some rows."""
        return Lines(*(getattr(self, column.name)[which] for column in fields(self)))

    def values(self, size: Ints, width: int) -> Floats:
        """The lines without their middle, as series (rows, width)."""
        return self.slope[:, None] * (np.arange(width) - (size[:, None] - 1) / 2)

    def could_be_drifts(self, size: Ints) -> NDArray[np.bool_]:
        """Which slopes are certain and large enough."""
        rise = np.abs(self.slope) * size
        is_certain = np.abs(self.slope) > LEAST_T * self.error
        return np.asarray((size >= LEAST_POINTS) & is_certain & (rise > LEAST_SPREADS * self.spread))


def fit_lines(block: Block) -> Lines:
    """Least squares, with standard errors for AR(1) residuals where the slope may be certain."""
    size = block.size.astype(np.float64)
    each = np.arange(block.rows)
    total, squares = block.total[each, block.size], block.squares[each, block.size]
    # The sum of t y(t) is a sum of prefix sums; beyond its end a series is zero.
    moment = block.width * total - block.total[:, 1:].sum(axis=1) - (size - 1.0) / 2.0 * total
    weight = size * (size * size - 1.0) / 12.0
    slope = moment / weight
    rest = np.maximum(squares - total * total / size - slope * moment, block.floor * size)
    lines = Lines(slope, np.sqrt(rest / (size - 2.0) / weight), total / size, np.sqrt(rest / (size - 2.0)))
    rows = np.flatnonzero(np.abs(slope) > LEAST_T * lines.error)
    lines.error[rows] *= _inflation(block, rows, lines.take(rows))
    return lines


def _inflation(block: Block, rows: Ints, lines: Lines) -> Floats:
    """By how much the autocorrelation around the lines of ``rows`` widens their errors."""
    size = block.size[rows]
    flat = block.y[rows] - lines.middle[:, None] - lines.values(size, block.width)
    rest = np.where(np.arange(block.width) < size[:, None], flat, 0.0)
    lagged = (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.maximum((rest * rest).sum(axis=1), 1e-300)
    # What is left around a fitted line looks less autocorrelated than the noise is.
    rho = np.clip(lagged + (2.0 + 4.0 * np.maximum(lagged, 0.0)) / size, 0.0, 0.97)
    return np.asarray(np.sqrt((1.0 + rho) / (1.0 - rho)))


def weigh(block: Block, found: FoundSplits, lines: Lines) -> tuple[Ints, NDArray[np.bool_]]:
    """By which degree of trend the steps found in each row are beaten, 0 where they stand; and which rows are drifts.

    Both (rows,). Steps compete with straight lines and cubic curves, a drift is a line against wandering noise.
    """
    size = block.size
    steps = np.bincount(found.row, minlength=block.rows)
    degree, is_drift = np.zeros(block.rows, np.int64), np.zeros(block.rows, bool)
    could_drift = lines.could_be_drifts(size)
    rows = np.flatnonzero(could_drift | ((steps > 0) & (size >= LEAST_POINTS)))
    if not len(rows):
        return degree, is_drift
    freedom = (size[rows] - np.maximum(steps[rows], 1) - 1).astype(np.float64)
    price = np.log(size[rows])

    def likelihood(of: Ints, flat: Floats) -> Floats:
        return 2.0 * noise_likelihood(block.with_values(rows[of], flat), freedom[of], walks=True)

    every = np.arange(len(rows))
    of_trend = {one: likelihood(every, without_trend(block, rows, one)) - one * price for one in DEGREES}
    of_level = likelihood(every, block.y[rows])
    of_steps = np.full(len(rows), -np.inf)
    for count in np.unique(steps[rows][steps[rows] > 0]):
        here = np.flatnonzero(steps[rows] == count)
        cuts = found.position[np.isin(found.row, rows[here])].reshape(len(here), count)
        stepped = block.y[rows[here]] - fitted_steps(block, rows[here], cuts)
        # A step has a height and a place.
        of_steps[here] = likelihood(here, stepped) - 2.0 * count * price[here]
    best = np.where(of_trend[1] >= of_trend[3], 1, 3)
    beaten = np.maximum(of_trend[1], of_trend[3]) > of_steps
    degree[rows] = np.where(beaten & (steps[rows] > 0), best, 0)
    is_drift[rows] = could_drift[rows] & (of_trend[1] > of_steps) & (of_trend[1] - of_level >= LEAST_GAIN)
    return degree, is_drift


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
