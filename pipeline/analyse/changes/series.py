"""Series made ready for the search for changes, and how well a level explains a stretch of one.

``prepare`` packs a block of series (gaps closed), takes logarithms where a series spans more than a factor,
puts lone outliers back to their surroundings and scales what is left, so that everything after it is a question of
sums: a stretch is described by a handful of prefix sums, and its fit by a level under AR(1) noise is a closed form
for any autocorrelation. Pure numpy; a row's result depends on that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NOISE_FLOOR = 0.0005
"""Spreads below 0.05 % of the level are not believed: two equal runs, or counts, say nothing about the noise."""

OUTLIER_SPREADS = 5.0
"""Farther than this from the median of the seven points around it, a point is replaced by that median."""

_SPAN_FOR_LOGARITHMS = 1.5
"""From a tenth of the values to nine tenths of them; beyond it noise grows with the level rather than not."""

# The median of seven by comparing and swapping pairs: after these the middle one stands at place 3.
_MEDIAN_OF_7 = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))

_RESIDUAL_QUANTILE = 0.8
_RESIDUAL_FACTOR = 1.21
"""Of independent normal noise, 80 % lies within this many standard deviations of the running median of seven."""


@dataclass(frozen=True)
class Block:
    """Series of one block, cleaned and in units of their noise.

    ``y`` (rows, width) holds ``size`` (rows,) points from the left, zeros beyond. ``total``, ``squares`` and
    ``products`` (rows, width + 1) are prefix sums of y, of y² and of y times its predecessor. ``floor`` (rows,) is the
    smallest variance believed.
    """

    y: Floats
    size: Ints
    floor: Floats
    total: Floats
    squares: Floats
    products: Floats

    @classmethod
    def of(cls, y: Floats, size: Ints, floor: Floats) -> Block:
        """The block of these series; ``y`` is zero beyond ``size``."""
        return cls(y, size, floor, _sums(y), _sums(y * y), _sums(y[:, 1:] * y[:, :-1], 2))

    def with_values(self, rows: Ints, y: Floats) -> Block:
        """A block of other values ``y`` for these rows; what lies beyond a series' end does not matter."""
        size = self.size[rows]
        return Block.of(np.where(np.arange(self.width) < size[:, None], y, 0.0), size, self.floor[rows])

    @property
    def rows(self) -> int:
        """Number of series."""
        return len(self.y)

    @property
    def width(self) -> int:
        """Points of the longest series; as a position it means "none"."""
        return int(self.y.shape[1])


def _sums(x: Floats, leading: int = 1) -> Floats:
    """Prefix sums along the rows, after so many leading zeros."""
    return np.concatenate([np.zeros((len(x), leading)), np.cumsum(x, axis=1)], axis=1)


def pack(values: Floats) -> tuple[Floats, Ints]:
    """Close the gaps: finite values (rows, width) from the left, their last one repeated; and how many there are."""
    finite = np.isfinite(values)
    size = finite.sum(axis=1)
    if finite.all():
        return values, size
    within = np.arange(values.shape[1]) < size[:, None]
    packed = np.zeros_like(values)
    packed[within] = values[finite]
    last = packed[np.arange(len(values)), np.maximum(size - 1, 0)]
    return np.where(within, packed, last[:, None]), size


def prepare(packed: Floats, size: Ints, logarithms_from: float = _SPAN_FOR_LOGARITHMS) -> Block:
    """Clean and scale a block of series of at least seven points each, as ``pack`` returns them.

    Positive series that span more than a factor of ``logarithms_from`` are taken by their logarithms.
    """
    width = packed.shape[1]
    within = np.arange(width) < size[:, None]
    # Powers of two keep every digit and everything below finite.
    largest = np.max(np.abs(packed), axis=1)
    scaled = np.ldexp(packed, -np.frexp(largest)[1][:, None])
    low, middle, high = _order_statistics(scaled, within, size, (0.1, 0.5, 0.9))
    smallest = np.min(scaled, axis=1)
    spans = (smallest > 0) & (high > logarithms_from * low)
    if spans.any():
        scaled[spans] = np.log(scaled[spans])
        middle[spans] = np.log(middle[spans])
    # Counts that are mostly zero have their largest values for a level.
    level = np.maximum(np.abs(low), np.abs(high))
    floor = NOISE_FLOOR * np.where(level > 0, level, np.max(np.abs(scaled), axis=1))
    floor[spans] = NOISE_FLOOR
    floor[floor == 0] = 1.0
    y, spread = _without_outliers(scaled, within, size, floor)
    y = np.where(within, (y - middle[:, None]) / spread[:, None], 0.0)
    return Block.of(y, size, 0.5 * (floor / spread) ** 2)


def _without_outliers(x: Floats, within: NDArray[np.bool_], size: Ints, floor: Floats) -> tuple[Floats, Floats]:
    around = _running_median(x, size)
    distance = np.abs(x - around)
    (spread,) = _order_statistics(distance, within, size, (_RESIDUAL_QUANTILE,))
    spread = np.maximum(spread / _RESIDUAL_FACTOR, floor)
    return np.where(distance > OUTLIER_SPREADS * spread[:, None], around, x), spread


def _running_median(x: Floats, size: Ints) -> Floats:
    """Median of the seven points around each; the first and last four share the first and last full seven."""
    width = x.shape[1]
    window = [x[:, offset : width - 6 + offset] for offset in range(7)]
    for a, b in _MEDIAN_OF_7:
        window[a], window[b] = np.minimum(window[a], window[b]), np.maximum(window[a], window[b])
    centre = np.clip(np.arange(width), 3, np.maximum(size - 4, 3)[:, None]) - 3
    return np.take_along_axis(window[3], centre, axis=1)


def _order_statistics(
    x: Floats, within: NDArray[np.bool_], size: Ints, shares: tuple[float, ...]
) -> tuple[Floats, ...]:
    """Per row the element below which about each share of its ``size`` points lies."""
    places = [np.minimum((share * size).astype(np.int64), size - 1) for share in shares]
    padded = x if within.all() else np.where(within, x, np.inf)
    kth = np.unique(np.concatenate(places))
    ordered = np.partition(padded, kth, axis=1) if len(kth) <= 8 else np.sort(padded, axis=1)
    return tuple(ordered[np.arange(len(x)), place] for place in places)


@dataclass(frozen=True)
class Fit:
    """Stretches fitted by one level each under AR(1) noise; arrays broadcast over (stretches…, autocorrelations).

    ``residual`` is the sum of squared innovations that remains; ``along`` and ``weight`` are the level's inner products
    with the series and with itself; ``log_weight`` is what restricted likelihood needs of how autocorrelation
    shrinks the weight.
    """

    residual: Floats
    along: Floats
    weight: Floats
    log_weight: Floats

    def take(self, which: Ints) -> Fit:
        """The fits of some stretches."""
        return Fit(self.residual[which], self.along[which], self.weight[which], self.log_weight[which])


def fit_level(block: Block, row: Ints, begin: Ints, end: Ints, rho: Floats) -> Fit:
    """Fit stretches [begin, end) of ``row`` by a level each; ``rho`` in [0, 1) broadcasts on a last axis of its own."""
    place = row * (block.width + 1)
    first, last = _at(block.y, row * block.width + begin), _at(block.y, row * block.width + end - 1)
    total = _at(block.total, place + end) - _at(block.total, place + begin)
    squares = _at(block.squares, place + end) - _at(block.squares, place + begin)
    products = _at(block.products, place + end) - _at(block.products, place + begin + 1)
    points = (end - begin).astype(np.float64)[..., None]
    away = 1.0 - rho
    along = away * (away * total + rho * (first + last))
    weight = away * (away * points + 2.0 * rho)
    residual = (1.0 + rho * rho) * squares - rho * rho * (first * first + last * last) - 2.0 * rho * products
    log_weight = 0.5 * np.log((1.0 - rho * rho) * points / weight)
    return Fit(residual - along * along / weight, along, weight, log_weight)


@dataclass(frozen=True)
class Step:
    """What a step inside a fitted stretch adds: the fall of the residual, its height, and its weight.

    ``plain_weight`` is what the weight would be without autocorrelation.
    """

    gain: Floats
    height: Floats
    weight: Floats
    plain_weight: Floats

    @property
    def log_weight(self) -> Floats:
        """The step's part in restricted likelihood, as a level's."""
        return np.asarray(-0.5 * np.log(self.weight / self.plain_weight))


def fit_step(block: Block, row: Ints, begin: Ints, at: Ints, end: Ints, rho: Floats, level: Fit) -> Step:
    """Add a step at ``at`` to stretches [begin, end) fitted by ``level``; the noise runs on across the step."""
    place = row * (block.width + 1)
    y_place = row * block.width
    total = _at(block.total, place + end) - _at(block.total, place + at)
    jump = _at(block.y, y_place + at) - _at(block.y, y_place + at - 1)
    last = _at(block.y, y_place + end - 1)
    points = (end - at).astype(np.float64)[..., None]
    away = 1.0 - rho
    along = away * (away * total + rho * last) + rho * jump
    common = away * (away * points + rho)
    share = common / level.weight
    weight = common + rho - common * share
    along = along - share * level.along
    height = along / weight
    return Step(along * height, height, weight, points * (1.0 - points / (end - begin)[..., None]))


def _at(values: Floats, place: Ints) -> Floats:
    return values.ravel().take(place)[..., None]
