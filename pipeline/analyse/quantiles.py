"""Exact percentiles of many groups at once, as numpy's ``linear`` method defines them.

Every percentile this product writes down has one definition: the value at rank
``(n - 1) * q`` of the sorted sample, linearly interpolated (Hyndman and Fan's type 7,
``np.quantile(..., method="linear")``), and equals numpy's to the last bit. Nothing here
depends on the order in which values arrived: groups are sorted first, and every result is
a function of the sorted values alone.

Pure: arrays in, arrays out. Non-finite values are refused by ``ingest.metric`` and have no
meaning here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

METHOD = "linear"
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
"""The percentiles of every window: p50 p75 p90 p95 p99."""

Float64Array = NDArray[np.float64]
IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class Grouped:
    """Values sorted by (group, value): group ``g`` is ``values[starts[g] : starts[g + 1]]``, ascending.

    ``values`` has shape (n,), ``starts`` shape (groups + 1,); a group may be empty. Zeros are all +0.0.
    """

    values: Float64Array
    starts: IndexArray

    @property
    def sizes(self) -> IndexArray:
        """Values per group, shape (groups,)."""
        return np.diff(self.starts)


def group_sorted(values: ArrayLike, group_ids: ArrayLike, groups: int) -> Grouped:
    """Sort ``values`` (n,) within their groups; ``group_ids`` (n,) are integers in [0, groups).

    -0.0 becomes +0.0: the two compare equal, so which of them came first would otherwise
    show through. Raises ``ValueError`` for a value that is not finite or an id out of range.
    """
    # Adding +0.0 turns -0.0 into +0.0 and nothing else into anything.
    flat = np.asarray(values, dtype=np.float64) + 0.0
    ids = np.asarray(group_ids, dtype=np.int64)
    if flat.shape != ids.shape or flat.ndim != 1:
        raise ValueError(f"values {flat.shape} and group_ids {ids.shape} must be one-dimensional and equally long")
    if not np.isfinite(flat).all():
        raise ValueError("values must be finite")
    if len(ids) and (ids.min() < 0 or ids.max() >= groups):
        raise ValueError(f"group_ids must lie in [0, {groups})")
    starts = np.zeros(groups + 1, dtype=np.int64)
    np.cumsum(np.bincount(ids, minlength=groups), out=starts[1:])
    return Grouped(_sort_within_groups(flat, ids, starts), starts)


def grouped_quantiles(grouped: Grouped, quantiles: Sequence[float] = QUANTILES) -> Float64Array:
    """Quantiles of every group, shape (groups, quantiles); NaN where a group is empty.

    Bit for bit ``np.quantile(group, quantiles, method="linear")`` for finite values, except that
    where numpy's ``b - a`` overflows to infinity the finite, correct value is given.
    """
    q = np.asarray(quantiles, dtype=np.float64)
    if ((q < 0) | (q > 1)).any():
        raise ValueError(f"quantiles must lie in [0, 1], not {list(quantiles)}")
    result = np.full((len(grouped.sizes), len(q)), np.nan)
    filled = np.flatnonzero(grouped.sizes)
    last = grouped.sizes[filled, None] - 1
    first = grouped.starts[filled, None]
    rank = last * q
    below = np.minimum(np.floor(rank).astype(np.int64), last)
    above = np.minimum(below + 1, last)
    result[filled] = lerp(grouped.values[first + below], grouped.values[first + above], rank - below)
    return result


def lerp(low: Float64Array, high: Float64Array, fraction: Float64Array) -> Float64Array:
    """Between ``low`` and ``high`` (finite, low <= high) as numpy interpolates, to the last bit.

    numpy (``numpy.lib._function_base_impl._lerp``) works from the nearer end, so that the result is
    monotone and meets both ends exactly. Where ``high - low`` overflows, both ends are weighed instead.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        step = high - low
        result = np.where(fraction >= 0.5, high - step * (1 - fraction), low + step * fraction)
    overflown = np.isinf(step)
    if overflown.any():
        result = np.where(overflown, low * (1 - fraction) + high * fraction, result)
    return result


def grouped_sums(grouped: Grouped) -> tuple[Float64Array, Float64Array]:
    """Sum and mean of every group, each of shape (groups,); 0 and NaN where a group is empty.

    The sum is the float nearest to the *exact* sum of the values (Shewchuk's algorithm, ``math.fsum``).
    That is a definition without an order of addition in it: every machine, every numpy and any reader with
    exact arithmetic gets the same digits, which plain sums (80 % of groups differ under another order)
    and ``np.add.reduceat`` (46 % differ from ``np.sum``) do not give. The mean is the sum divided by the
    number of values. Where the exact sum exceeds the largest float the sum is infinite and the mean is
    the float nearest to the exact mean.
    """
    return _sums(grouped.values, grouped.sizes)


def group_sums(values: Float64Array, group_ids: IndexArray, groups: int) -> tuple[Float64Array, Float64Array]:
    """As ``grouped_sums``, of unsorted values (n,): an exact sum does not depend on the order."""
    return _sums(values[_partition(group_ids, groups)], np.bincount(group_ids, minlength=groups))


def _sums(values: Float64Array, sizes: IndexArray) -> tuple[Float64Array, Float64Array]:
    remaining = iter(values.tolist())
    try:
        sums = np.array([math.fsum(islice(remaining, size)) for size in sizes.tolist()], dtype=np.float64)
    except OverflowError:
        return _overflowing_sums(values, sizes)
    with np.errstate(invalid="ignore"):
        return sums, sums / sizes


def _overflowing_sums(values: Float64Array, sizes: IndexArray) -> tuple[Float64Array, Float64Array]:
    """As ``_sums``, where some group's partial sums overflow: that group is added in rational numbers."""
    sums = np.zeros(len(sizes))
    means = np.full(len(sizes), np.nan)
    remaining = iter(values.tolist())
    for group, size in enumerate(sizes.tolist()):
        members = list(islice(remaining, size))
        if not members:
            continue
        try:
            sums[group] = math.fsum(members)
            means[group] = sums[group] / size
        except OverflowError:
            sums[group], means[group] = _rational_sum(members)
    return sums, means


def _rational_sum(members: list[float]) -> tuple[float, float]:
    exact = sum(map(Fraction, members), Fraction(0))
    try:
        total = float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf, float(exact / len(members))
    return total, total / len(members)


def _sort_within_groups(values: Float64Array, ids: IndexArray, starts: IndexArray) -> Float64Array:
    """Partition by group, then sort all groups of one size together as the rows of a matrix.

    Twice to three times as fast as sorting packed (group, rank) keys, and exact for every float: partitioning is
    a radix sort of 16-bit digits, and short rows sort in registers. It also does not lean on numpy's long
    vectorised sorts, which run at a quarter of their speed where AVX-512 stores are slow (AMD Zen 4).
    """
    result = values[_partition(ids, len(starts) - 1)]
    sizes = np.diff(starts)
    by_size = np.argsort(sizes, kind="stable")
    distinct, first = np.unique(sizes[by_size], return_index=True)
    bounds = [*first.tolist(), len(sizes)]
    # At most sqrt(2 n) different sizes exist, so this loop is short even for a million values.
    for place, size in enumerate(distinct.tolist()):
        if size < 2:
            continue
        groups = by_size[bounds[place] : bounds[place + 1]]
        if len(groups) == 1:
            result[starts[groups[0]] : starts[groups[0]] + size].sort()
        else:
            where = starts[groups, None] + np.arange(size)
            rows = result[where]
            rows.sort(axis=1)
            result[where] = rows
    return result


def _partition(ids: IndexArray, groups: int) -> IndexArray:
    """An order that brings equal ids together, ascending: least significant 16-bit digit first."""
    order = np.argsort(ids.astype(np.uint16), kind="stable")
    for shift in range(16, max(groups - 1, 0).bit_length(), 16):
        digit = (ids >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order
