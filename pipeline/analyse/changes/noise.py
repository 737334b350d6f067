"""Innovations of ARMA(1, 1) noise around a level: a recursion along each series, compiled on first use.

As numpy it took half of the detector's time.
"""

from __future__ import annotations

import numpy as np

from pipeline.analyse.changes.series import Floats, Ints
from pipeline.compiling import compiled


def innovations(flat: Floats, size: Ints, noise: Floats) -> tuple[Floats, Floats]:
    """Sum of squared innovations around the best level, and ``log_weight``, for each noise: (rows, noises).

    ``flat`` (rows, width) holds ``size`` points from the left; ``noise`` (noises, 2) is rho and theta of
    y(t) = rho y(t-1) + e(t) - theta e(t-1).
    """
    rho, theta = noise[:, 0], noise[:, 1]
    variance = (1.0 - 2.0 * rho * theta + theta * theta) / (1.0 - rho * rho)
    squares, along, weight = _sums(np.ascontiguousarray(flat), size, rho.copy(), theta.copy(), 1.0 / np.sqrt(variance))
    log_weight = -0.5 * np.log(variance) - 0.5 * np.log(weight / size[:, None])
    return squares - along * along / weight, log_weight


def prepare() -> None:
    """Compile what numba does not have in its cache yet."""
    innovations(np.ones((1, 2)), np.full(1, 2), np.zeros((1, 2)))


@compiled
def _sums(flat: Floats, size: Ints, rho: Floats, theta: Floats, first: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each row and noise: squared innovations, their product with the level's, and the level's squares."""
    shape = (len(flat), len(rho))
    squares, along, weight = np.empty(shape), np.empty(shape), np.empty(shape)
    for row in range(len(flat)):
        for one in range(len(rho)):
            level = first[one]
            innovation = flat[row, 0] * level
            of_squares, of_along, of_weight = innovation * innovation, innovation * level, level * level
            for t in range(1, size[row]):
                level = 1.0 - rho[one] + theta[one] * level
                innovation = flat[row, t] - rho[one] * flat[row, t - 1] + theta[one] * innovation
                of_squares += innovation * innovation
                of_along += innovation * level
                of_weight += level * level
            squares[row, one], along[row, one], weight[row, one] = of_squares, of_along, of_weight
    return squares, along, weight
