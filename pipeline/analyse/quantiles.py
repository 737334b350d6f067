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

import numpy as np
from numpy.typing import ArrayLike, NDArray

METHOD = "linear"
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
"""The percentiles of every window: p50 p75 p90 p95 p99."""

Float64Array = NDArray[np.float64]
IndexArray = NDArray[np.int64]

_FEW_GROUPS = 200
"""Fewer groups than this are not worth a step of numpy's for each of their values."""
_MANY_VALUES = 10_000
"""Fewer values than this are added faster one by one."""


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

    The sum is the float nearest to the *exact* sum of the values, as ``math.fsum`` gives it; ``fsum`` itself is asked
    where arrays cannot be certain of the last bit.
    That is a definition without an order of addition in it: every machine, every numpy and any reader with
    exact arithmetic gets the same digits, which plain sums (80 % of groups differ under another order)
    and ``np.add.reduceat`` (46 % differ from ``np.sum``) do not give. The mean is the sum divided by the
    number of values. Where the exact sum exceeds the largest float the sum is infinite and the mean is
    the float nearest to the exact mean.
    """
    return _sums(grouped.values, grouped.sizes)


def group_sums(values: Float64Array, group_ids: IndexArray, groups: int) -> tuple[Float64Array, Float64Array]:
    """As ``grouped_sums``, of unsorted values (n,): an exact sum does not depend on the order."""
    if groups == 1:
        return _sums(values, np.array([len(values)]))
    return _sums(values[_partition(group_ids, groups)], np.bincount(group_ids, minlength=groups))


def _sums(values: Float64Array, sizes: IndexArray) -> tuple[Float64Array, Float64Array]:
    starts = np.cumsum(sizes) - sizes
    sums = _sums_by_column(values, starts, sizes)
    with np.errstate(invalid="ignore"):
        means = sums / sizes
    for group in np.flatnonzero(np.isnan(sums)).tolist():
        sums[group], means[group] = _sum_of(values[starts[group] : starts[group] + sizes[group]])
    return sums, means


def _sums_by_column(values: Float64Array, starts: IndexArray, sizes: IndexArray) -> Float64Array:
    """The sums of all groups but the largest, their first values together, then their second …; NaN: not certain."""
    by_size = np.argsort(-sizes, kind="stable")
    place, held = starts[by_size], sizes[by_size]
    width = int(held[_FEW_GROUPS - 1]) if len(sizes) >= _FEW_GROUPS else 0
    total, error, reach = (np.zeros(len(sizes)) for _ in range(3))
    with np.errstate(over="ignore", invalid="ignore"):
        for column in range(width):
            count = int(np.searchsorted(-held, -column))  # groups with more values than that
            total[:count], lost = _two_sum(total[:count], values[place[:count] + column])
            error[:count] += lost
            reach[:count] += np.abs(lost)
        sums = np.empty(len(sizes))
        sums[by_size] = np.where(held <= width, _rounded(total, error, reach, held), np.nan)
    return sums


def _sum_of(members: Float64Array) -> tuple[float, float]:
    """Sum and mean of one group: by halves where it is large and that is certain, else value by value."""
    if not len(members):
        return 0.0, math.nan
    total = _sum_by_halves(members) if len(members) > _MANY_VALUES else math.nan
    if math.isnan(total):
        values = members.tolist()
        try:
            total = math.fsum(values)
        except OverflowError:  # of a partial sum
            return _rational_sum(values)
    return total, total / len(members)


def _sum_by_halves(members: Float64Array) -> float:
    """The sum of one half added to the other until one value is left; NaN where that is not certain."""
    count = np.array([len(members)])
    error, reach = np.zeros(1), np.zeros(1)
    with np.errstate(over="ignore", invalid="ignore"):
        while len(members) > 1:
            half = len(members) // 2
            added, lost = _two_sum(members[:half], members[half : 2 * half])
            error += lost.sum()
            reach += np.abs(lost).sum()
            members = np.concatenate([added, members[2 * half :]])
        return float(_rounded(members, error, reach, count)[0])


def _two_sum(one: Float64Array, other: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The rounded sum, and what rounding took from it, exactly (Knuth); not finite where the sum overflows."""
    added = one + other
    theirs = added - one
    return added, (one - (added - theirs)) + (other - theirs)


def _rounded(total: Float64Array, error: Float64Array, reach: Float64Array, count: IndexArray) -> Float64Array:
    """``total`` plus the exact sum of fewer than ``count`` errors, rounded once; NaN where that is not certain.

    ``error`` is their rounded sum and ``reach`` that of their magnitudes, in any order, so the exact one lies within
    ``count * 2**-53 * reach`` of ``error``. Twice that is added on either side, and the smallest normal number for what
    underflows: where both sides round to the same float, so does everything between them.
    """
    bound = np.where(reach > 0, count * 2.0**-52 * reach + np.finfo(np.float64).tiny, 0.0)
    low, high = total + (error - bound), total + (error + bound)
    found: Float64Array = np.where((low == high) & np.isfinite(low), low, np.nan)
    return found


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
