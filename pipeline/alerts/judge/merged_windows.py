"""Distributions of many groups at once: their histograms added up, then percentiles, means and their bounds."""

from __future__ import annotations

from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.histogram import GAMMA, RELATIVE_ERROR, Histograms, bucket_value
from pipeline.analyse.intervals import CONFIDENCE, order_statistic_ranks
from pipeline.analyse.quantiles import Float64Array, IndexArray, lerp

_DENSE_CELLS = 4_000_000
"""Groups are merged in portions of at most this many (group, bucket) cells: 32 MB an array."""

# Student's t, 97.5 %, for 1 … 10 degrees of freedom (any statistics table).
_STUDENT = np.array([12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281])


class Merged:
    """The merged histograms of some groups."""

    def __init__(self, histograms: Histograms, rows: IndexArray, into: IndexArray, groups: int) -> None:
        self._groups = groups
        sizes = histograms.offsets[rows + 1] - histograms.offsets[rows]
        entries = _ragged(histograms.offsets[rows], sizes)
        self._counts = histograms.counts[entries]
        self._into = np.repeat(into, sizes)
        self._keys, self._code = _compact(histograms.keys[entries])
        self._values = bucket_value(self._keys)
        self._total = np.bincount(self._into, weights=self._counts, minlength=groups).astype(np.int64)

    def quantile(self, quantile: float) -> tuple[Float64Array, Float64Array, Float64Array]:
        """The quantile of every group (numpy's linear definition) and its bounds; NaN where there is none."""
        last = self._total - 1
        rank = last * quantile
        below = np.floor(rank).astype(np.int64)
        low_rank, high_rank = order_statistic_ranks(self._total, quantile)
        ranks = np.stack([below, np.minimum(below + 1, last), low_rank - 1, high_rank - 1], axis=1)
        found = self._at_ranks(ranks)
        value = lerp(found[:, 0], found[:, 1], rank - below)
        value[self._total == 0] = np.nan
        # A bucket stands for values up to 1 % away on either side; the bounds take the far side.
        reach = 1.0102 * RELATIVE_ERROR * np.abs(found)
        return value, found[:, 2] - reach[:, 2], found[:, 3] + reach[:, 3]

    def mean_half_width(self) -> Float64Array:
        """Half the width of Student's 95 % interval of the mean; NaN below two samples."""
        weight = self._counts.astype(np.float64)
        value = self._values[self._code]
        n = self._total.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(self._into, weights=weight * value, minlength=self._groups) / n
            # Values lie anywhere in their bucket: its width adds the variance of a uniform distribution.
            spread = (value - mean[self._into]) ** 2 + ((GAMMA - 1) * value) ** 2 / 12
            squares = np.bincount(self._into, weights=weight * spread, minlength=self._groups)
            return np.where(n >= 2, student(n - 1) * np.sqrt(squares / (n - 1) / n), np.nan)

    def _at_ranks(self, ranks: IndexArray) -> Float64Array:
        """Values at ranks (groups, any; 0 is the smallest); NaN outside [0, total)."""
        cumulative, code = self._cells
        if not len(code):
            return np.full(ranks.shape, np.nan)
        before = np.cumsum(self._total) - self._total
        place = np.searchsorted(cumulative, ranks + before[:, None], side="right")
        values = self._values[code[np.minimum(place, len(code) - 1)]]
        return np.where((ranks >= 0) & (ranks < self._total[:, None]), values, np.nan)

    @cached_property
    def _cells(self) -> tuple[Float64Array, IndexArray]:
        """Buckets that hold values, group by group: how many values lie up to the end of each, and its code."""
        width = len(self._keys)
        portion = max(1, _DENSE_CELLS // max(width, 1))
        held: list[Float64Array] = [np.empty(0)]
        codes: list[IndexArray] = [np.empty(0, np.int64)]
        for first in range(0, self._groups, portion):
            groups = min(portion, self._groups - first)
            mine: Any = slice(None)
            if groups < self._groups:
                mine = np.flatnonzero((self._into >= first) & (self._into < first + groups))
            cell = (self._into[mine] - first) * width + self._code[mine]
            table = np.bincount(cell, weights=self._counts[mine], minlength=groups * width)
            filled = np.flatnonzero(table)
            held.append(table[filled].astype(np.float64))
            codes.append(filled % max(width, 1))
        return np.cumsum(np.concatenate(held)), np.concatenate(codes)


def student(degrees: Float64Array) -> Float64Array:
    """Student's t at 97.5 %: a table up to 10 degrees of freedom, beyond it Abramowitz and Stegun 26.7.5."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    v = np.maximum(degrees, 11.0)
    expanded = (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
    small = _STUDENT[np.clip(degrees, 1, 10).astype(np.int64) - 1]
    return np.where(degrees <= 10, small, expanded)


def _ragged(starts: IndexArray, sizes: IndexArray) -> IndexArray:
    """The indices of ranges laid end to end: starts[i], …, starts[i] + sizes[i] - 1 for every i."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + sizes, sizes) + np.arange(total)


def _compact(keys: NDArray[np.int32]) -> tuple[NDArray[np.int64], IndexArray]:
    """The distinct keys, ascending, and the place of each key among them; by table, since keys span little."""
    if not len(keys):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first = int(keys.min())
    offset = keys.astype(np.int64) - first
    used = np.zeros(int(offset.max()) + 1, dtype=bool)
    used[offset] = True
    return np.flatnonzero(used) + first, (np.cumsum(used) - 1)[offset]
