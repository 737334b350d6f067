"""The search for level changes in a block of series: where they may be, and which of them to keep.

1. *Candidates* (``candidates``): the places where two neighbouring windows of the same length, from 6 points to the
   whole series, differ most.
2. *Thinning* (``models.thin``): the candidate whose removal costs least likelihood goes, until none is
   left; the best stage of this path is kept.
3. What remains is moved to its best place, split where a short level hides behind it, and each segment offers its best
   split; then thinning again.
4. *Choice*: of the stages along the path the one that wins against noise that is AR(1) seen through white noise,
   so that a slow wander under jitter counts as noise too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.changes.candidates import candidates
from pipeline.analyse.changes.models import (
    AUTOCORRELATIONS,
    PRIOR,
    PRIOR_CENTRE,
    PRIOR_SPREAD,
    around,
    autocorrelation,
    best_splits,
    fitted_steps,
    move,
    thin,
)
from pipeline.analyse.changes.noise import innovations
from pipeline.analyse.changes.series import Block, Floats, Ints, fit_level

_ROUNDS = 3
"""Times that segments are split further and thinned; a short level shows once the others stand."""
_LENIENCE = 2.5
"""By how much cheaper a change is while thinning: the choice comes later."""

# Noise for the choice: AR(1) with autocorrelation rho seen through white noise is an ARMA(1, 1) process
# y(t) = rho y(t-1) + e(t) - theta e(t-1) with theta between 0 (no white noise) and rho (nothing else).
_NOISE = np.array(
    [
        *((0.5, 0.25), (0.6, 0.4), (0.7, 0.35), (0.7, 0.55), (0.8, 0.4), (0.8, 0.6), (0.8, 0.7)),
        *((0.9, 0.4), (0.9, 0.6), (0.9, 0.75), (0.95, 0.5), (0.95, 0.75), (0.95, 0.85)),
    ]
)
_WALK = np.array([(0.99, 0.0)])
"""What is left around a trend may also wander freely."""


@dataclass(frozen=True)
class FoundSplits:
    """Changes of a block, one row each, ordered by row and position.

    ``row`` and ``position`` (changes,): the first point of the new level. ``evidence`` (changes,): by how much twice
    the log-likelihood falls at least when the change is given up, ``penalty`` of the row being the least that counts.
    ``autocorrelation`` (changes,) is the noise's that fits the row best, given all its changes.
    """

    row: Ints
    position: Ints
    evidence: Floats
    autocorrelation: Floats

    def take(self, which: Ints | NDArray[np.bool_]) -> FoundSplits:
        """Some of the changes."""
        return FoundSplits(self.row[which], self.position[which], self.evidence[which], self.autocorrelation[which])

    def by_count(self) -> Iterator[tuple[Ints, Ints]]:
        """Rows that have as many changes, and the places of these, (rows, count), for every count there is."""
        rows, of_row = np.unique(self.row, return_counts=True)
        for count in np.unique(of_row):
            here = rows[of_row == count]
            yield here, self.position[np.isin(self.row, here)].reshape(len(here), count)

    def joined(self, more: FoundSplits) -> FoundSplits:
        """These and more, in order."""
        both = FoundSplits(
            np.concatenate([self.row, more.row]),
            np.concatenate([self.position, more.position]),
            np.concatenate([self.evidence, more.evidence]),
            np.concatenate([self.autocorrelation, more.autocorrelation]),
        )
        return both.take(np.lexsort((both.position, both.row)))


def search(block: Block, penalty: Floats, *, walks: bool = False) -> FoundSplits:
    """Find the changes in a block of series; ``penalty`` (rows,) is what a change must gain.

    ``walks``: the noise may also be as good as a random walk.
    """
    worth = penalty - _LENIENCE
    proposed = candidates(block)
    rows = np.flatnonzero((proposed < block.width).any(axis=1))
    cuts, proposed = np.full((block.rows, 1), block.width), proposed[rows]
    for number in range(_ROUNDS):
        if number > 0:
            proposed = best_splits(block, rows, cuts[rows])
        known = cuts[rows]
        kept = _refined(block, rows, np.sort(np.concatenate([known, proposed], axis=1), axis=1), worth[rows])
        most = max(cuts.shape[1], kept.shape[1])
        cuts = _padded(cuts, most, block.width)
        cuts[rows] = kept = _padded(kept, most, block.width)
        is_new = (kept != _padded(known, most, block.width)).any(axis=1)
        rows = rows[is_new & (kept < block.width).any(axis=1)]
        if not len(rows):
            break
    rows = np.flatnonzero((cuts < block.width).any(axis=1))
    if not len(rows):
        return FoundSplits(rows, rows, np.zeros(0), np.zeros(0))
    return _choose(block, rows, cuts[rows], penalty[rows], walks=walks)


def _refined(block: Block, rows: Ints, cuts: Ints, worth: Floats) -> Ints:
    """The cuts (rows, k) worth keeping, each at its best place."""
    path = thin(block, rows, cuts, worth)
    kept = path.cuts_of_best()
    some = np.flatnonzero(path.best > 0)
    rho = path.autocorrelation_of_best()[some]
    kept[some] = move(block, rows[some], kept[some], rho)
    split = around(block, rows[some], kept[some], rho, worth[some])
    kept = _padded(kept, split.shape[1], block.width)
    more = (split < block.width).sum(axis=1) > path.best[some]
    split[more] = move(block, rows[some[more]], split[more], rho[more])
    kept[some] = split
    return kept[:, : max((kept < block.width).sum(axis=1).max(initial=0), 1)]


def _padded(cuts: Ints, columns: int, none: int) -> Ints:
    return np.pad(cuts, ((0, 0), (0, columns - cuts.shape[1])), constant_values=none)


def _choose(block: Block, rows: Ints, cuts: Ints, penalty: Floats, *, walks: bool) -> FoundSplits:
    path = thin(block, rows, cuts, penalty - _LENIENCE)
    rows, penalty = rows[path.best > 0], penalty[path.best > 0]
    path = path.take(path.best > 0)
    most = int(path.best.max(initial=0))
    freedom = (block.size[rows] - path.best - 1).astype(np.float64)
    stage, here = np.nonzero(np.arange(most + 1)[:, None] <= path.best)
    flat = block.y[rows[here]]
    for cuts_left in range(1, most + 1):
        at, which = stage == cuts_left, here[stage == cuts_left]
        flat[at] -= fitted_steps(block, rows[which], path.cuts[which, cuts_left, :cuts_left])
    score = np.full((len(rows), most + 1), -np.inf)
    score[here, stage] = 2.0 * noise_likelihood(block.with_values(rows[here], flat), freedom[here], walks=walks)
    score -= score[:, :1] + penalty[:, None] * np.arange(most + 1)
    best = score.argmax(axis=1)
    each = np.arange(len(rows))
    # Evidence: against the best of the models further down the path, all of which lack the change.
    below = np.maximum.accumulate(score, axis=1)
    evidence = penalty[:, None] + score[each, best][:, None] - below
    chosen = np.full((len(rows), max(most, 1)), block.width)
    strength = np.zeros(chosen.shape)
    for number in range(1, most + 1):
        here = np.flatnonzero(best >= number)
        chosen[here, number - 1] = path.removed[here, number]
        strength[here, number - 1] = evidence[here, number - 1]
    order = np.argsort(chosen, axis=1, kind="stable")
    chosen, strength = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(strength, order, axis=1)
    some = np.flatnonzero(best > 0)
    moved, rho = chosen.copy(), np.zeros(len(rows))
    if len(some):
        moved[some] = move(block, rows[some], chosen[some], autocorrelation(block, rows[some], chosen[some]))
        rho[some] = autocorrelation(block, rows[some], moved[some])
    each, column = np.nonzero(chosen < block.width)
    return FoundSplits(rows[each], moved[each, column], strength[each, column], rho[each])


def noise_likelihood(flat: Block, freedom: Floats, *, walks: bool = False) -> Floats:
    """The log-likelihood of series around one level each, maximised over level, variance and noise.

    Comparable among models of one series that are given the same ``freedom``.
    """
    every, least = np.arange(flat.rows), (flat.floor * flat.size)[:, None]
    level = fit_level(flat, every, np.zeros(flat.rows, np.int64), flat.size, AUTOCORRELATIONS)
    half = 0.5 * freedom[:, None]
    best = np.max(PRIOR + level.log_weight - half * np.log(np.maximum(level.residual, least)), axis=1)
    noise = np.concatenate([_NOISE, _WALK]) if walks else _NOISE
    residual, log_weight = innovations(flat.y, flat.size, noise)
    likelihood = _noise_prior(noise) + log_weight - half * np.log(np.maximum(residual, least))
    return np.asarray(np.maximum(best, likelihood.max(axis=1)))


def _noise_prior(noise: Floats) -> Floats:
    return np.asarray(-0.5 * ((noise[:, 0] - PRIOR_CENTRE) / PRIOR_SPREAD) ** 2 - 1.0)
