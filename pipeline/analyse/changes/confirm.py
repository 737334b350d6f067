"""What the values as they came say about changes that the search has found.

The search works on cleaned values under a model of the noise; here nothing is cleaned or modelled. Before and after are
compared by ranks (Wilcoxon), levels are medians: what shows here does not hang on a few values, however large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.search import FoundSplits
from pipeline.analyse.changes.series import NOISE_FLOOR, Floats, Ints

MIN_RANK_Z = 3.3
"""Rank sum in standard deviations that independent noise would need luck of 1 in 1,000 for."""

MIN_SHARE_BEYOND = 0.7
"""Chance that a value from after the change lies beyond one from before it; 0.74 spreads of normal noise make 0.7."""

_SPREAD_OF_MAD = 1.4826

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """Changes as the raw values show them, between the neighbouring changes; all arrays are (changes,).

    ``beyond`` is the share of pairs in which the value after lies on the far side of the one before, ties counting
    half; ``rank_z`` the rank sum in standard deviations (uncorrected for ties, which would only raise it), and
    ``most_rank_z`` what it would be if before and after were wholly apart.
    """

    level_before: Floats
    level_after: Floats
    change_pct: Floats
    effect_spreads: Floats
    points_before: Ints
    points_after: Ints
    beyond: Floats
    rank_z: Floats
    most_rank_z: Floats

    def take(self, which: Mask) -> Measured:
        """Some of the changes."""
        return Measured(*(getattr(self, column.name)[which] for column in fields(self)))


def confirm(
    packed: Floats, size: Ints, found: FoundSplits, min_change_pct: Floats, slope: Floats
) -> Iterator[tuple[FoundSplits, Measured]]:
    """The changes that the raw values bear out, with their measures, each series in one piece.

    ``packed`` (rows, width) holds ``size`` points a row, ``min_change_pct`` (rows,) is what a change must reach, and
    ``slope`` (rows,) by how much a series drifts a point beside its changes. Of a series with changes that fail the
    weakest of those goes, and the others are measured anew: without it, its neighbours have longer segments to show for
    themselves.
    """
    while len(found.row):
        measured = measure(packed, size, found.row, found.position, slope[found.row])
        fails = _fails(measured, min_change_pct[found.row])
        unsettled = np.isin(found.row, found.row[fails])
        yield found.take(~unsettled), measured.take(~unsettled)
        weakest = np.lexsort((found.evidence, ~fails, found.row))
        starts = np.concatenate([[True], found.row[weakest][1:] != found.row[weakest][:-1]])
        unsettled[weakest[starts]] = False
        found = found.take(unsettled)


def _fails(measured: Measured, min_change_pct: Floats) -> Mask:
    # Few points cannot reach the z that many must: they have to be nearly as far apart as they can be.
    apart = measured.rank_z >= np.minimum(MIN_RANK_Z, 0.97 * measured.most_rank_z)
    large = np.abs(measured.change_pct) >= min_change_pct
    return np.asarray(~(apart & large & (measured.beyond >= MIN_SHARE_BEYOND)))


def measure(packed: Floats, size: Ints, row: Ints, position: Ints, slope: Floats) -> Measured:
    """Measure changes, ordered by row and position, each on its own segment and the one before it.

    Where the series drifts, by ``slope`` (changes,) a point, levels are those it has at the change.
    """
    # Powers of two keep every digit, and differences finite.
    exponent = np.frexp(np.max(np.abs(packed[row]), axis=1))[1]
    at = np.arange(packed.shape[1])
    drift = np.ldexp(slope, -exponent)[:, None] * (at - position[:, None])
    x = np.ldexp(packed[row], -exponent[:, None]) - drift
    starts = np.concatenate([[True], row[1:] != row[:-1]])
    begin = np.where(starts, 0, np.roll(position, 1))
    end = np.where(np.roll(starts, -1), size[row], np.roll(position, -1))
    is_before = (at >= begin[:, None]) & (at < position[:, None])
    is_after = (at >= position[:, None]) & (at < end[:, None])
    points_before, points_after = position - begin, end - position
    before, after = _medians(x, is_before, points_before), _medians(x, is_after, points_after)
    rest = np.abs(x - np.where(is_before, before[:, None], after[:, None]))
    least = NOISE_FLOOR * np.maximum(np.abs(before), np.abs(after))
    spread = np.maximum(_SPREAD_OF_MAD * _medians(rest, is_before | is_after, end - begin), least)
    # A level of zero has no percents of its own.
    base = np.maximum(np.abs(before), least)
    pairs = (points_before * points_after).astype(np.float64)
    in_order = _pairs_in_order(x, is_before, is_after)
    beyond = np.where(after >= before, in_order, pairs - in_order)
    deviation = np.sqrt(pairs * (end - begin + 1) / 12.0)
    return Measured(
        np.ldexp(before, exponent),
        np.ldexp(after, exponent),
        100.0 * (after - before) / np.where(base > 0, base, 1.0),
        np.abs(after - before) / np.where(spread > 0, spread, 1.0),
        points_before,
        points_after,
        beyond / pairs,
        (beyond - pairs / 2) / deviation,
        pairs / 2 / deviation,
    )


def _medians(x: Floats, which: Mask, count: Ints) -> Floats:
    """Median per row of the values at ``which``; ``count`` of them, at least one."""
    ordered = np.sort(np.where(which, x, np.inf), axis=1)
    each = np.arange(len(x))
    low, high = ordered[each, (count - 1) // 2], ordered[each, count // 2]
    return np.asarray((low + high) / 2)


def _pairs_in_order(x: Floats, is_before: Mask, is_after: Mask) -> Floats:
    """Pairs per row (one value before, one after) in which the one before is smaller; equal ones count half."""
    masked = np.where(is_before | is_after, x, np.inf)
    # A stable sort keeps equal values in the order they stand: once before first, once after first.
    smaller_or_equal, has_ties = _ordered_pairs(masked, is_before, is_after)
    if not has_ties:
        return smaller_or_equal
    smaller, _ = _ordered_pairs(masked[:, ::-1], is_before[:, ::-1], is_after[:, ::-1])
    return (smaller + smaller_or_equal) / 2


def _ordered_pairs(masked: Floats, is_before: Mask, is_after: Mask) -> tuple[Floats, bool]:
    order = np.argsort(masked, axis=1, kind="stable")
    before, after = np.take_along_axis(is_before, order, axis=1), np.take_along_axis(is_after, order, axis=1)
    ordered = np.take_along_axis(masked, order, axis=1)
    has_ties = bool(((ordered[:, 1:] == ordered[:, :-1]) & (before | after)[:, 1:]).any())
    return np.where(after, np.cumsum(before, axis=1), 0).sum(axis=1).astype(np.float64), has_ties
