"""Where the level of a series moved, by how much, and how sure that is.

``find_changes`` looks at many series at once and reports every lasting change of level, up or down, with its size in
percent and in spreads of the series' own noise, and with a p-value that holds for independent noise, for
noise with autocorrelation up to 0.6 and under outliers, at the one setting there is. It does not report one or two
outliers, of whatever size; a constant series, ties and gaps are fine. A level needs five points. ``examine`` also tells
drifts (steps must beat a straight line, alone or beside fewer steps) and, given times, takes daily and weekly cycles
out before it looks.

How: ``series`` cleans and scales, ``search`` proposes and chooses, ``drift`` weighs steps against lines, and
``confirm`` looks at the values as they came. A series of more than ``LONGEST`` points is searched in overlapping
pieces, so that what is found at a place depends on what is near it, not on how long the series is. Pure and
deterministic; a series' result does not depend on the others, but for ``confidence``. What it reaches is measured by
``pipeline bench changes``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pipeline.analyse.changes.confirm import confirm
from pipeline.analyse.changes.drift import CERTAIN, DEGREES, Lines, fit_lines, weigh
from pipeline.analyse.changes.models import SHORTEST_SEGMENT
from pipeline.analyse.changes.search import FoundSplits, search
from pipeline.analyse.changes.series import NOISE_FLOOR, Floats, Ints, pack, prepare
from pipeline.analyse.cycles import Cycles, find_cycles, without

LEAST_POINTS = 2 * SHORTEST_SEGMENT
"""A series with fewer is not searched."""

MIN_CHANGE_PCT = 1.0
"""Default: a level that moved by less has not moved for practical purposes."""

PENALTY = 12.2
"""What a change must add to twice the log-likelihood. Chosen so that series of any length under AR(1) noise with
autocorrelation 0.6 show at most 0.5 false changes per 1,000 points: see ``_NULL_TAIL``."""

_NULL_TAIL = np.array(
    [
        # points, chance, chance with little autocorrelation (both times 100,000), decay
        (10, 77, 5, 0.496),
        (12, 252, 8, 0.473),
        (16, 447, 12, 0.485),
        (20, 728, 18, 0.519),
        (30, 1270, 63, 0.549),
        (45, 2040, 108, 0.515),
        (60, 2640, 168, 0.491),
        (90, 3270, 337, 0.451),
        (120, 3690, 374, 0.450),
        (180, 4210, 518, 0.425),
        (260, 4640, 607, 0.417),
        (400, 4610, 667, 0.392),
        (700, 4670, 1030, 0.362),
        (1000, 5240, 1500, 0.351),
        (2000, 5830, 2300, 0.348),
    ]
)
"""By points of the series: how often a series without a change shows one at all, at the autocorrelation up to 0.6 that
is worst for it, once whatever was found and once only where little autocorrelation was; and how fast either
falls with the evidence. From 5,000 to 80,000 series each; ``pipeline.bench.changes.null_tail`` derives it anew."""

LITTLE_AUTOCORRELATION = 0.25
"""Noise found to be below it is hardly ever noise of 0.6: what changes look like there is rarer."""

LONGEST = 1200
"""Points searched at once."""
_PIECE, _PIECE_STEP = 1200, 600
"""Of a longer series: overlapping pieces, of which each answers for its middle half."""

_ERROR_OF_FIFTHS = float(np.sqrt(5 * np.pi / 0.64 / 12))
"""Times the error of the least squares slope is that of the slope between the medians of the outer fifths: their
variances are 12 and 2 * (pi / 2) * 5 / 0.8^2, each times that of the noise over n^3. Of several segments either is the
mean with weights of n^3."""

_BLOCK_ROWS = 256
"""What is worked on at once stays in the processor's cache; measured from 64 to 512."""

Direction = Literal["regression", "improvement", "unchanged"]

UNCHANGED_PCT = 0.1
"""Levels this close are called unchanged."""

_HIGHER_IS_BETTER = (
    *(
        "apdex",
        "availability",
        "coverage",
        "fps",
        "frame_rate",
        "hit_rate",
        "hit_ratio",
        "pass_rate",
        "passed",
        "score",
    ),
    *("success_rate", "success_ratio", "throughput", "uptime", "rps", "qps", "tps"),
    *("bytes_per_second", "frames_per_second", "operations_per_second", "requests_per_second", "rows_per_second"),
)


@dataclass(frozen=True)
class Changes:
    """Changes of level, one row each, ordered by series and position; all arrays are (changes,).

    ``series`` and ``position`` index into what was searched: ``position`` is the first point of the new level.
    ``level_before`` and ``level_after`` are medians up to the neighbouring changes, over ``points_before`` and
    ``points_after`` points; ``change_pct`` is their difference in percent of the first, ``effect_spreads`` in spreads
    (1.4826 median absolute deviations around the two levels; at least 0.05 % of the level). Of a series that drifts the
    levels are those at the change. ``p_value`` is the chance that a series of this length without any change shows one
    as strong anywhere. ``confidence`` is one minus the share of false changes to expect among this one and the stronger
    ones, given how many series were searched.
    """

    series: Ints
    position: Ints
    level_before: Floats
    level_after: Floats
    change_pct: Floats
    effect_spreads: Floats
    p_value: Floats
    confidence: Floats
    points_before: Ints
    points_after: Ints

    def __len__(self) -> int:
        return len(self.series)

    def take(self, which: ArrayLike) -> Changes:
        """The changes at these indices, or where this mask is true."""
        return Changes(*(getattr(self, column.name)[which] for column in fields(self)))

    @classmethod
    def joined(cls, parts: list[Changes]) -> Changes:
        """All of several, in order."""
        none = [np.zeros(0, np.int64 if column.type == "Ints" else np.float64) for column in fields(cls)]
        columns: Any = zip(none, *([getattr(part, c.name) for c in fields(cls)] for part in parts), strict=True)
        whole = cls(*(np.concatenate(column) for column in columns))
        return whole.take(np.lexsort((whole.position, whole.series)))


@dataclass(frozen=True)
class Drifts:
    """Slow, lasting climbs and falls, one row each, ordered by series; all arrays are (drifts,).

    A drift runs from the first to the last point of its series. ``level_before`` and ``level_after`` are the ends of
    its line, as if the series had not stepped; ``slope_pct`` is percent of the first a point, ``slope_low`` and
    ``slope_high`` its 95 % bounds.
    """

    series: Ints
    level_before: Floats
    level_after: Floats
    change_pct: Floats
    slope_pct: Floats
    slope_low: Floats
    slope_high: Floats
    effect_spreads: Floats
    points: Ints

    def __len__(self) -> int:
        return len(self.series)

    def take(self, which: ArrayLike) -> Drifts:
        """The drifts at these indices, or where this mask is true."""
        return Drifts(*(getattr(self, column.name)[which] for column in fields(self)))

    @classmethod
    def joined(cls, parts: list[Drifts]) -> Drifts:
        """All of several, in order."""
        none = [np.zeros(0, np.int64 if column.type == "Ints" else np.float64) for column in fields(cls)]
        columns: Any = zip(none, *([getattr(part, c.name) for c in fields(cls)] for part in parts), strict=True)
        whole = cls(*(np.concatenate(column) for column in columns))
        order = np.argsort(whole.series, kind="stable")
        return cls(*(getattr(whole, column.name)[order] for column in fields(cls)))


@dataclass(frozen=True)
class Examination:
    """What was found in many series: steps, drifts, and the cycles that were taken out before."""

    changes: Changes
    drifts: Drifts
    cycles: Cycles


def examine(
    values: ArrayLike,
    times_s: ArrayLike | None = None,
    *,
    cycles: Cycles | None = None,
    min_change_pct: ArrayLike = MIN_CHANGE_PCT,
) -> Examination:
    """Find changes of level, drifts and cycles in many series.

    ``values`` (series, points), oldest point first. NaN and infinity are no points, wherever they stand: pad shorter
    series with NaN. A series of fewer than ``LEAST_POINTS`` points has no changes. ``times_s`` (series, points), epoch
    seconds, or one row for all; without them no cycle is looked for. ``cycles`` are those known from a longer
    history. ``min_change_pct`` is one for all or one for each series.
    """
    values = np.ascontiguousarray(np.atleast_2d(np.asarray(values, dtype=np.float64)))
    least_pct = np.broadcast_to(np.asarray(min_change_pct, np.float64), (len(values),))
    if times_s is None:
        cycles = Cycles.none(len(values))
    else:
        times = np.broadcast_to(np.asarray(times_s, np.float64), values.shape)
        cycles = find_cycles(values, times) if cycles is None else cycles
        values = without(values, times, cycles)
    searched = np.flatnonzero(np.isfinite(values).sum(axis=1) >= LEAST_POINTS)
    is_long = np.isfinite(values[searched]).sum(axis=1) > LONGEST
    short = searched[~is_long]
    parts = [_search_block(values, rows, least_pct[rows]) for rows in _blocks(values, short)]
    parts += [_search_long(values, int(row), float(least_pct[row])) for row in searched[is_long]]
    found = Changes.joined([changes for changes, _ in parts])
    # One hypothesis a series, and one more for every further change in it.
    adjusted = benjamini_hochberg(found.p_value, len(searched) + len(found) - len(np.unique(found.series)))
    return Examination(
        replace(found, confidence=1.0 - adjusted), Drifts.joined([drifts for _, drifts in parts]), cycles
    )


def find_changes(
    values: ArrayLike,
    times_s: ArrayLike | None = None,
    *,
    min_change_pct: ArrayLike = MIN_CHANGE_PCT,
    false_discovery_rate: float | None = None,
) -> Changes:
    """Find the changes of level in many series; see ``examine``.

    With a ``false_discovery_rate`` only changes are reported of which, over all these series, at most this share is
    expected to be false.
    """
    found = examine(values, times_s, min_change_pct=min_change_pct).changes
    return found if false_discovery_rate is None else found.take(1.0 - found.confidence <= false_discovery_rate)


def find_changes_in(values: ArrayLike, *, min_change_pct: float = MIN_CHANGE_PCT) -> Changes:
    """Find the changes of level in one series (points,), oldest point first; see ``find_changes``."""
    return find_changes(np.asarray(values, dtype=np.float64)[None, :], min_change_pct=min_change_pct)


def p_value(evidence: ArrayLike, points: ArrayLike, autocorrelation: ArrayLike = 1.0) -> Floats:
    """The chance that a series of so many ``points`` without any change shows one with this ``evidence`` anywhere.

    ``autocorrelation`` is what was found beside the change. From the tail seen in simulations of AR(1) noise with
    autocorrelations up to 0.6 (``_NULL_TAIL``). Meaningful from ``PENALTY`` on, which is what a change must reach.
    """
    size, chance, chance_if_little, decay = _NULL_TAIL.T
    place = np.log(np.asarray(points, dtype=np.float64))
    little = np.asarray(autocorrelation) < LITTLE_AUTOCORRELATION
    start = 1e-5 * np.where(
        little, np.interp(place, np.log(size), chance_if_little), np.interp(place, np.log(size), chance)
    )
    beyond = np.asarray(evidence, dtype=np.float64) - PENALTY
    return np.asarray(np.minimum(1.0, start * np.exp(-np.interp(place, np.log(size), decay) * beyond)))


def benjamini_hochberg(p_values: ArrayLike, tests: int | None = None) -> Floats:
    """Adjusted p-values: reporting those up to q keeps the expected share of false ones among the reported at q.

    ``tests`` is how many hypotheses were tested; those not listed count as p = 1. By default as many as are listed.
    Benjamini and Hochberg, J. R. Statist. Soc. B 57 (1995), 289-300.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[::-1]
    rank = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(np.minimum(p[order] * (len(p) if tests is None else tests) / rank, 1.0))
    return adjusted


def direction(metric_type: str, level_before: float, level_after: float) -> Direction:
    """Whether the metric got better or worse by moving from one level to another.

    >>> direction("duration", 100, 120), direction("lighthouse_score", 60, 80)
    ('regression', 'improvement')
    """
    if abs(level_after - level_before) <= UNCHANGED_PCT / 100 * max(abs(level_before), abs(level_after)):
        return "unchanged"
    return "improvement" if (level_after > level_before) == higher_is_better(metric_type) else "regression"


def higher_is_better(metric_type: str) -> bool:
    """Whether a metric of this type is better when it grows, as its last words tell; lower is better otherwise.

    ``score``, ``Lighthouse-Score`` and ``successRate`` are; ``duration``, ``lcp`` and ``error_rate`` are not.
    """
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric_type).lower()).strip("_")
    return any(words == name or words.endswith("_" + name) for name in _HIGHER_IS_BETTER)


def _blocks(values: Floats, searched: Ints) -> Iterator[Ints]:
    """Rows in blocks of like length, so that little of a block is padding."""
    size = np.isfinite(values[searched]).sum(axis=1)
    ordered = searched[np.argsort(size, kind="stable")]
    for first in range(0, len(ordered), _BLOCK_ROWS):
        yield ordered[first : first + _BLOCK_ROWS]


def _search_block(values: Floats, rows: Ints, min_change_pct: Floats) -> tuple[Changes, Drifts]:
    packed, size = pack(values[rows])
    packed = np.ascontiguousarray(packed[:, : size.max()])
    block = prepare(packed, size)
    found = search(block, np.full(len(rows), PENALTY))
    trends = weigh(block, found)
    found = found.take(trends.degree[found.row] == 0)
    for degree in DEGREES:
        # Steps on a slope: what is left around the trend is searched like any series.
        there = np.flatnonzero(trends.degree == degree)
        if len(there):
            flat = block.with_values(there, trends.without(block, there, degree))
            more = search(flat, np.full(len(there), PENALTY), walks=True)
            found = found.joined(replace(more, row=there[more.row]))
    lines = trends.lines
    for there, cuts in found.take(trends.degree[found.row] == 1).by_count():
        lines = lines.replaced(there, fit_lines(block, there, cuts))
    raw = _raw_lines(packed, size, found, np.flatnonzero(trends.is_drift | (trends.degree == 1)))
    slopes = np.where(trends.degree == 1, raw[:, 1], 0.0)
    parts = []
    for confirmed, measured in confirm(packed, size, found, min_change_pct, slopes):
        row, points_so_far = confirmed.row, np.cumsum(np.isfinite(values[rows[confirmed.row]]), axis=1)
        p = p_value(confirmed.evidence, size[row], confirmed.autocorrelation)
        parts.append(
            Changes(
                series=rows[row],
                position=np.argmax(points_so_far > confirmed.position[:, None], axis=1),
                level_before=measured.level_before,
                level_after=measured.level_after,
                change_pct=measured.change_pct,
                effect_spreads=measured.effect_spreads,
                p_value=p,
                confidence=1.0 - p,
                points_before=measured.points_before,
                points_after=measured.points_after,
            )
        )
    drifts = _drifts(raw, size, lines, np.flatnonzero(trends.is_drift), min_change_pct)
    return Changes.joined(parts), replace(drifts, series=rows[drifts.series])


def _raw_lines(packed: Floats, size: Ints, found: FoundSplits, which: Ints) -> Floats:
    """Of the rows ``which`` the level at the first point and the slope a point, (rows, 2), in the units of the values.

    Between the steps the slope is that between the medians of the outer fifths: no outlier moves it.
    """
    raw = np.zeros((len(packed), 2))
    for row in which:
        x = packed[row, : size[row]]
        edges = [0, *found.position[found.row == row], len(x)]
        at = np.arange(len(x), dtype=np.float64)
        slopes, weights = [], []
        for begin, end in pairwise(edges):
            fifth = max((end - begin) // 5, 3)
            first, last = slice(begin, begin + fifth), slice(end - fifth, end)
            rise = np.median(x[last]) - np.median(x[first])
            slopes.append(rise / (at[last].mean() - at[first].mean()))
            weights.append(float(end - begin) ** 3)
        slope = np.average(slopes, weights=weights)
        raw[row] = np.median((x - slope * at)[: edges[1]]), slope
    return raw


def _drifts(raw: Floats, size: Ints, lines: Lines, which: Ints, min_change_pct: Floats) -> Drifts:
    """The drifts among the rows ``which``, in the units of the values as they came."""
    which = which[raw[which, 1] * lines.slope[which] > 0]
    before, rise = raw[which, 0], raw[which, 1] * (size[which] - 1)
    fitted = np.abs(lines.slope[which])
    base = np.maximum(np.abs(before), NOISE_FLOOR * (np.abs(before) + np.abs(rise)))
    change_pct = 100.0 * rise / np.where(base > 0, base, 1.0)
    per_point = change_pct / (size[which] - 1)
    margin = np.abs(per_point) * CERTAIN * _ERROR_OF_FIFTHS * lines.error[which] / fitted
    drifts = Drifts(
        series=which,
        level_before=before,
        level_after=before + rise,
        change_pct=change_pct,
        slope_pct=per_point,
        slope_low=per_point - margin,
        slope_high=per_point + margin,
        effect_spreads=fitted * (size[which] - 1) / lines.spread[which],
        points=size[which],
    )
    return drifts.take(np.abs(change_pct) >= min_change_pct[which])


def _search_long(values: Floats, row: int, min_change_pct: float) -> tuple[Changes, Drifts]:
    """One series of more than ``LONGEST`` points, in overlapping pieces of it."""
    points = np.flatnonzero(np.isfinite(values[row]))
    last = len(points) - _PIECE
    starts = [*range(0, last, _PIECE_STEP), last]
    pieces = values[row][points[np.array(starts)[:, None] + np.arange(_PIECE)]]
    least = np.full(len(pieces), min_change_pct)
    found, _ = _search_block(pieces, np.arange(len(pieces)), least)
    margin = (_PIECE - _PIECE_STEP) // 2
    begin = np.array([start + margin if start else 0 for start in starts])
    begin[-1] = min(begin[-1], starts[-2] + _PIECE - margin)
    end = np.append(begin[1:], len(points))
    place = np.array(starts)[found.series] + found.position
    mine = (place >= begin[found.series]) & (place < end[found.series])
    found = replace(found, series=np.full(len(found), row), position=points[place]).take(mine)
    return found, Drifts.joined([])
