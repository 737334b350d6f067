"""A histogram that merges exactly and answers any quantile within 1 %.

Buckets grow geometrically by ``GAMMA`` (DDSketch: Masson, Rim and Lee, PVLDB 12, 2019), so a
value is known to within (γ - 1) / (γ + 1) = 0.0202 / 2.0202 < 0.01 of itself, whatever its size.
Merging adds counts, in any order, and loses nothing: a histogram of five merged minutes *is* the
histogram of the five minutes.

The key of a bucket is a signed 32-bit integer, and keys order as values do:

====================  =======================================================  ====================
key                   holds the values v with                                  stands for
====================  =======================================================  ====================
k > 0                 γ^(k - 1 - ORIGIN) < v <= γ^(k - ORIGIN)                 2 γ^(k - ORIGIN) / (γ + 1)
0                     ``|v| <= γ^-ORIGIN`` (3.5e-308)                          0
k < 0                 the mirror image of -k                                   minus that of -k
====================  =======================================================  ====================

γ = 1.0202 and ORIGIN = 35,400, so 1.0 has the key 35,400; the largest finite float has 70,892.
In SQL a key k stands for::

    sign(k) * least(pow(1.0202, abs(k) - 35400) * (2 / 2.0202), 1.7976931348623157e308)

(``least`` matters in the topmost bucket only, whose upper edge no float can hold). ``pow`` and
the table used here differ by less than 1e-11 of the value, which the bound has room for.

A quantile of a histogram is numpy's ``linear`` definition over the values its buckets stand for:
with n values and h = q * (n - 1), interpolate by h - floor(h) between the values of the buckets that
hold the ranks floor(h) and floor(h) + 1. Each end is within 1 % of the true one, so where both have
one sign the result is within 1 % of the exact percentile of the rows; where they do not, within 1 %
of the larger end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.analyse.quantiles import QUANTILES, Float64Array, Grouped, IndexArray, lerp

GAMMA = 1.0202
ORIGIN = 35_400
RELATIVE_ERROR = (GAMMA - 1) / (GAMMA + 1)
"""The proven bound, 0.00999901."""

KeyArray = NDArray[np.int32]


def _upper_edges() -> Float64Array:
    """Upper edge of bucket 0, 1, 2, …, the last one infinite.

    Built by repeated multiplication and division, each a single IEEE operation in a fixed order:
    the edges are the same bits on every machine, which ``pow`` and ``log`` of different C libraries
    are not. The accumulated rounding stays below 1e-11 of an edge.
    """
    with np.errstate(over="ignore"):
        rising = np.multiply.accumulate(np.concatenate(([1.0], np.full(ORIGIN + 92, GAMMA))))
    falling = np.divide.accumulate(np.concatenate(([1.0], np.full(ORIGIN, GAMMA))))
    edges = np.concatenate((falling[:0:-1], rising))
    return edges[: int(np.argmax(np.isinf(edges))) + 1]


_UPPER = _upper_edges()
_LARGEST_KEY = len(_UPPER) - 1
_VALUES = np.minimum(_UPPER * (2 / (GAMMA + 1)), np.finfo(np.float64).max)
_VALUES[0] = 0.0


_SLOT_SHIFT = 52 - 7
"""A slot is what floats with the same exponent and the same first seven bits have in common: 0.8 % of a value."""


@cache
def _keys_of_slots() -> KeyArray:
    """The key of the least float of every slot."""
    least = np.arange((0x7FF << 52) >> _SLOT_SHIFT, dtype=np.int64) << _SLOT_SHIFT
    return np.searchsorted(_UPPER, least.view(np.float64)).astype(np.int32)


@dataclass(frozen=True)
class Histograms:
    """One histogram per group, laid end to end: group ``g`` owns [``offsets[g]``, ``offsets[g + 1]``).

    Keys ascend within a group; counts are positive.
    """

    offsets: IndexArray
    keys: KeyArray
    counts: IndexArray


def bucket_key(values: ArrayLike) -> KeyArray:
    """The key of each value's bucket; same shape as ``values``, which must be finite."""
    given = np.asarray(values, dtype=np.float64)
    magnitude = np.maximum(np.abs(given), _UPPER[0])
    # A slot is narrower than a bucket, so it holds one edge at most: comparing with that edge itself decides.
    key = _keys_of_slots()[magnitude.view(np.int64) >> _SLOT_SHIFT]
    key += magnitude > _UPPER[key]
    mirrored: KeyArray = np.where(given < 0, -key, key)
    return mirrored


def bucket_value(keys: ArrayLike) -> Float64Array:
    """What a bucket stands for: within ``RELATIVE_ERROR`` of every value it holds. Same shape as ``keys``."""
    key = np.asarray(keys, dtype=np.int64)
    return np.sign(key) * _VALUES[np.abs(key)]


def grouped_histograms(grouped: Grouped) -> Histograms:
    """The histogram of every group; an empty group has an empty one."""
    keys = bucket_key(grouped.values)
    # Values ascend within a group, so equal keys stand together: a bucket begins where the key changes,
    # or the group.
    begins = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    begins[grouped.starts[:-1][grouped.sizes > 0]] = True
    first = np.flatnonzero(begins)
    counts = np.diff(first, append=len(keys))
    return Histograms(np.searchsorted(first, grouped.starts).astype(np.int64), keys[first], counts)


def merge(keys: ArrayLike, counts: ArrayLike) -> tuple[KeyArray, IndexArray]:
    """Add up buckets of any number of histograms laid end to end: ascending keys and their counts."""
    merged, where = np.unique(np.asarray(keys, dtype=np.int32), return_inverse=True)
    total = np.zeros(len(merged), dtype=np.int64)
    np.add.at(total, where, np.asarray(counts, dtype=np.int64))
    return merged, total


def histogram_quantile(keys: ArrayLike, counts: ArrayLike, quantiles: Sequence[float] = QUANTILES) -> Float64Array:
    """Quantiles of one histogram (buckets in any order, even repeated), shape (quantiles,); NaN when it is empty."""
    q = np.asarray(quantiles, dtype=np.float64)
    if ((q < 0) | (q > 1)).any():
        raise ValueError(f"quantiles must lie in [0, 1], not {list(quantiles)}")
    bucket, count = merge(keys, counts)
    cumulative = np.cumsum(count)
    if not len(cumulative) or cumulative[-1] == 0:
        return np.full(len(q), np.nan)
    last = cumulative[-1] - 1
    rank = last * q
    below = np.minimum(np.floor(rank).astype(np.int64), last)
    above = np.minimum(below + 1, last)
    low = bucket_value(bucket[np.searchsorted(cumulative, below, side="right")])
    high = bucket_value(bucket[np.searchsorted(cumulative, above, side="right")])
    return lerp(low, high, rank - below)
