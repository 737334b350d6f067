"""Models of a series that is cut into levels: what a cut is worth, which to give up, and where it belongs.

The noise is AR(1) and runs on across a cut. Every model has its own best autocorrelation: a series that wanders is not
cut to pieces, because without the cuts it may be more autocorrelated instead. Likelihoods are restricted ones (REML),
which removes most of the bias towards too little autocorrelation, and autocorrelation has a prior, since
noise of machines that other jobs share is moderately autocorrelated.

Cuts are positions of the first point of a level, (rows, k) ascending; ``block.width`` stands for "none" and comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.series import Block, Floats, Ints, fit_level, fit_step

SHORTEST_SEGMENT = 5
"""Points: two outliers of five do not make a level."""

AUTOCORRELATIONS = np.arange(0.0, 0.91, 0.1)
PRIOR_CENTRE, PRIOR_SPREAD = 0.5, 0.2
PRIOR = -0.5 * ((AUTOCORRELATIONS - PRIOR_CENTRE) / PRIOR_SPREAD) ** 2
"""Log density. At equal false alarms a wider prior finds fewer steps under autocorrelation, a narrower one fewer
steps where there is none."""


@dataclass(frozen=True)
class Path:
    """Thinning, from all cuts of a row to none.

    ``cuts[:, k]`` (rows, k_max) are the k cuts left at one stage, ``removed[:, k]`` the one that went next,
    ``autocorrelation[:, k]`` what fits best with them, and ``best`` (rows,) the number of cuts with the best penalised
    likelihood.
    """

    cuts: Ints
    removed: Ints
    autocorrelation: Floats
    best: Ints

    def take(self, which: NDArray[np.bool_]) -> Path:
        """The paths of some rows."""
        return Path(self.cuts[which], self.removed[which], self.autocorrelation[which], self.best[which])

    def cuts_of_best(self) -> Ints:
        """The cuts of the best stage, (rows, most of them), at least one column."""
        most = max(int(self.best.max(initial=0)), 1)
        return np.asarray(self.cuts[np.arange(len(self.best)), self.best][:, :most])

    def autocorrelation_of_best(self) -> Floats:
        """What fits best with the cuts of the best stage, (rows,)."""
        return np.asarray(self.autocorrelation[np.arange(len(self.best)), self.best])


def thin(block: Block, rows: Ints, cuts: Ints, penalty: Floats) -> Path:
    """Give up the cut that is worth least, again and again; ``penalty`` (rows,) is what a cut must be worth."""
    none = block.width
    count, most = cuts.shape
    stages = np.full((count, most + 1, most), none)
    removed = np.full((count, most + 1), -1)
    rho = np.zeros((count, most + 1))
    score = np.zeros((count, most + 1))
    left, now = (cuts < none).sum(axis=1), cuts.copy()
    for stage in range(most, 0, -1):
        here = np.flatnonzero(left == stage)
        if not len(here):
            continue
        at = now[here, :stage]
        stages[here, stage, :stage] = at
        loss, which_rho = losses(block, rows[here], at)
        rho[here, stage] = AUTOCORRELATIONS[which_rho[:, 0]]
        weakest = loss.argmin(axis=1)
        each = np.arange(len(here))
        removed[here, stage] = at[each, weakest]
        score[here, stage] = loss[each, weakest]
        now[here] = none
        now[here, : stage - 1] = _without(at, weakest)
        left[here] -= 1
    total = np.cumsum(score[:, 1:] - penalty[:, None], axis=1)
    best = np.where(total.max(axis=1) > 0, total.argmax(axis=1) + 1, 0)
    return Path(stages, removed, rho, best)


def _without(cuts: Ints, column: Ints) -> Ints:
    keep = np.arange(cuts.shape[1]) != column[:, None]
    left: Ints = cuts[keep].reshape(len(cuts), cuts.shape[1] - 1)
    return left


def losses(block: Block, rows: Ints, cuts: Ints) -> tuple[Floats, Ints]:
    """What each cut is worth: the fall of twice the log-likelihood without it, and the best autocorrelation with all.

    ``cuts`` (rows, k) all exist. The second is an index into ``AUTOCORRELATIONS``, (rows, k).
    """
    size = block.size[rows]
    row = rows[:, None]
    edges = np.concatenate([np.zeros((len(rows), 1), np.int64), cuts, size[:, None]], axis=1)
    segment = fit_level(block, row, edges[:, :-1], edges[:, 1:], AUTOCORRELATIONS)
    merged = fit_level(block, row, edges[:, :-2], edges[:, 2:], AUTOCORRELATIONS)
    step = fit_step(block, row, edges[:, :-2], cuts, edges[:, 2:], AUTOCORRELATIONS, merged)
    others = segment.residual.sum(axis=1, keepdims=True) - segment.residual[:, :-1] - segment.residual[:, 1:]
    prior = segment.log_weight.sum(axis=1, keepdims=True) - segment.log_weight[:, :-1] - segment.log_weight[:, 1:]
    prior = prior + merged.log_weight + PRIOR
    least = (block.floor[rows] * size)[:, None, None]
    freedom = (size - cuts.shape[1] - 1)[:, None, None]
    without = np.maximum(others + merged.residual, least)
    with_it = np.maximum(others + merged.residual - step.gain, least)
    likelihood = prior + step.log_weight - 0.5 * freedom * np.log(with_it)
    null = prior - 0.5 * freedom * np.log(without)
    return 2.0 * (likelihood.max(axis=2) - null.max(axis=2)), likelihood.argmax(axis=2)


def autocorrelation(block: Block, rows: Ints, cuts: Ints) -> Floats:
    """The best autocorrelation of each row given its cuts."""
    rho = np.zeros(len(rows))
    for k, here in _grouped(cuts, block.width):
        _, best = losses(block, rows[here], cuts[here, :k])
        rho[here] = AUTOCORRELATIONS[best[:, 0]]
    return rho


def fitted_steps(block: Block, rows: Ints, cuts: Ints) -> Floats:
    """The sum of the fitted steps at ``cuts`` (rows, k), as series (rows, width)."""
    _, best = losses(block, rows, cuts)
    row, size = rows[:, None], block.size[rows][:, None]
    rho = AUTOCORRELATIONS[best[:, :1]][:, :, None]
    edges = np.concatenate([np.zeros((len(rows), 1), np.int64), cuts, size], axis=1)
    level = fit_level(block, row, edges[:, :-2], edges[:, 2:], rho)
    height = fit_step(block, row, edges[:, :-2], cuts, edges[:, 2:], rho, level).height[..., 0]
    at = np.arange(block.width)
    total = np.zeros((len(rows), block.width))
    for column in range(cuts.shape[1]):
        total += height[:, column, None] * (at >= cuts[:, column, None])
    return total


def _best_split(block: Block, rows: Ints, begin: Ints, end: Ints, rho: Floats) -> Ints:
    """The best place (rows,) for one step in [begin, end); ``width`` where both sides would not fit."""
    at = np.arange(block.width)
    fits = (at >= begin[:, None] + SHORTEST_SEGMENT) & (at <= end[:, None] - SHORTEST_SEGMENT)
    each, place = np.nonzero(fits)
    level = fit_level(block, rows, begin, end, rho[:, None]).take(each)
    step = fit_step(block, rows[each], begin[each], place, end[each], rho[each, None], level)
    gain = np.full(fits.shape, -1.0)
    gain[each, place] = step.gain[:, 0]
    return np.where(fits.any(axis=1), gain.argmax(axis=1), block.width)


def move(block: Block, rows: Ints, cuts: Ints, rho: Floats) -> Ints:
    """Each cut in turn goes to its best place between its neighbours. ``rho`` (rows,): the noise's autocorrelation."""
    moved = cuts.copy()
    for column in range(cuts.shape[1]):
        here = np.flatnonzero(moved[:, column] < block.width)
        begin = moved[here, column - 1] if column else np.zeros(len(here), np.int64)
        end = moved[here, column + 1] if column + 1 < cuts.shape[1] else np.full(len(here), block.width)
        moved[here, column] = _best_split(block, rows[here], begin, np.minimum(end, block.size[rows[here]]), rho[here])
    return moved


def best_splits(block: Block, rows: Ints, cuts: Ints) -> Ints:
    """The best further split of every segment, (rows, segments)."""
    rho = autocorrelation(block, rows, cuts)
    size = block.size[rows]
    begin = np.concatenate([np.zeros((len(rows), 1), np.int64), cuts], axis=1)
    end = np.concatenate([cuts, np.full((len(rows), 1), block.width)], axis=1)
    found = np.full(begin.shape, block.width)
    for column in range(begin.shape[1]):
        here = np.flatnonzero(begin[:, column] < size)
        last = np.minimum(end[here, column], size[here])
        found[here, column] = _best_split(block, rows[here], begin[here, column], last, rho[here])
    return found


def around(block: Block, rows: Ints, cuts: Ints, rho: Floats, worth: Floats) -> Ints:
    """The cuts, (rows, 2 k), with two in the place of one where these gain at least ``worth`` (rows,).

    A level between two others that is too short to be split off on either side hides behind a cut in its middle.
    ``rho`` (rows,) is the noise's autocorrelation.
    """
    size = block.size[rows]
    edges = np.concatenate([np.zeros((len(rows), 1), np.int64), cuts, size[:, None]], axis=1)
    edges = np.minimum(edges, size[:, None])
    least = block.floor[rows] * size
    rest = np.maximum(_residuals(block, rows, edges, rho), least)
    freedom = size - (cuts < block.width).sum(axis=1) - 1
    each, column = np.nonzero(cuts < block.width)
    ends, saved = _best_short_level(block, rows[each], edges[each[:, None], column[:, None] + np.arange(3)], rho[each])
    gain = freedom[each] * (np.log(rest[each]) - np.log(np.maximum(rest[each] - saved, least[each])))
    gains = gain > worth[each]
    # Of two neighbours that would cross the first one is split.
    crosses = (each[1:] == each[:-1]) & gains[:-1] & (ends[1:, 0] < ends[:-1, 1] + SHORTEST_SEGMENT)
    gains[1:] &= ~crosses
    both = np.stack([cuts, np.full_like(cuts, block.width)], axis=2)
    both[each[gains], column[gains]] = ends[gains]
    return np.sort(both.reshape(len(rows), 2 * cuts.shape[1]), axis=1)


def _best_short_level(block: Block, rows: Ints, edges: Ints, rho: Floats) -> tuple[Ints, Floats]:
    """Both ends (rows, 2) of the best short level around the cut in the middle of ``edges`` (rows, 3).

    Also by how much what is left of the squares falls; not at all where there is no room.
    """
    begin, cut, end = edges.T
    longest = 2 * SHORTEST_SEGMENT - 1
    before, points = np.meshgrid(np.arange(1, longest), np.arange(SHORTEST_SEGMENT, longest + 1))
    before, points = before[before < points], points[before < points]
    first = cut[:, None] - before
    fits = (first >= begin[:, None] + SHORTEST_SEGMENT) & (first + points <= end[:, None] - SHORTEST_SEGMENT)
    each, which = np.nonzero(fits)
    first = first[each, which]
    levels = np.stack([begin[each], first, first + points[which], end[each]], axis=1)
    saved = np.zeros(fits.shape)
    saved[each, which] = _residuals(block, rows, edges, rho)[each] - _residuals(block, rows[each], levels, rho[each])
    best = saved.argmax(axis=1)
    first = cut - before[best]
    return np.stack([first, first + points[best]], axis=1), saved[np.arange(len(rows)), best]


def _residuals(block: Block, rows: Ints, edges: Ints, rho: Floats) -> Floats:
    """What levels between ``edges`` (rows, k + 1) leave of the squares, (rows,)."""
    # An edge that repeats the end of the series has no level.
    begin = np.minimum(edges[:, :-1], block.size[rows, None] - 1)
    rest = fit_level(block, rows[:, None], begin, np.maximum(edges[:, 1:], begin + 1), rho[:, None, None]).residual
    return np.asarray(np.where(edges[:, 1:] > edges[:, :-1], rest[..., 0], 0.0).sum(axis=1))


def _grouped(cuts: Ints, none: int) -> list[tuple[int, Ints]]:
    """Rows by their number of cuts."""
    count = (cuts < none).sum(axis=1)
    return [(int(k), np.flatnonzero(count == k)) for k in np.unique(count) if k > 0]
