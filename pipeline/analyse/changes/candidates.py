"""Places where a change of level is worth a look: two neighbouring windows of the same length differ most there.

Each row is worked on alone, by compiled loops: as arrays of numpy this took a third of the detector's time.
"""

from __future__ import annotations

import numpy as np

from pipeline.analyse.changes.models import SHORTEST_SEGMENT
from pipeline.analyse.changes.series import Block, Floats, Ints
from pipeline.compiling import compiled

_SCAN_AUTOCORRELATION = 0.4
_SCAN_WINDOWS = ((6, 6), (12, 6), (24, 6), (48, 4), (96, 3), (192, 2))
"""Points on either side, and how many places at least one window apart each of them may propose per 400 points."""
_SCAN_STATISTIC = 2.4
_MOST_CANDIDATES = 16
"""Per 400 points."""


def candidates(block: Block) -> Ints:
    """Places (rows, candidates) where a change is worth a look, ascending, ``width`` where there are fewer."""
    # A series' own length decides how many it may have, not that of its neighbours in the block.
    share = -(-block.size // 400)
    sizes = [(window, count) for window, count in _SCAN_WINDOWS if window < block.width]
    window = np.array([*(window for window, _ in sizes), block.width])
    count = np.stack([*(count * share for _, count in sizes), np.ones_like(share)], axis=1)
    most = _MOST_CANDIDATES * share
    chosen = np.full((block.rows, most.max(initial=0)), block.width)
    _propose(block.y, block.total, block.size, window, count, most, chosen)
    return np.sort(chosen, axis=1)


def splits_beside_lines(block: Block) -> tuple[Ints, Floats]:
    """The place of the best step beside a line of one slope, and what is left of the squares, (rows,) each."""
    split, rest = np.full(block.rows, block.width), np.full(block.rows, np.inf)
    _split(block.y, block.total, block.squares, block.size, split, rest)
    return split, rest


def prepare() -> None:
    """Compile what numba does not have in its cache yet."""
    size = np.full(1, 3 * SHORTEST_SEGMENT)
    block = Block.of(np.zeros((1, 3 * SHORTEST_SEGMENT)), size, np.ones(1))
    candidates(block)
    splits_beside_lines(block)


@compiled
def _split(y: Floats, total: Floats, squares: Floats, sizes: Ints, split: Ints, least: Floats) -> None:
    """Least squares by running sums: one slope, and a level on either side of each place."""
    for row in range(len(y)):
        size = sizes[row]
        moment = 0.0
        for t in range(size):
            moment += t * y[row, t]
        all_of_it = total[row, size]
        for at in range(SHORTEST_SEGMENT, size - SHORTEST_SEGMENT + 1):
            before, after = float(at), float(size - at)
            left, right = total[row, at], all_of_it - total[row, at]
            # The sum of t y(t), t counted from the middle of either side.
            along = moment - (before - 1.0) / 2.0 * left - (before + size - 1.0) / 2.0 * right
            weight = (before * (before * before - 1.0) + after * (after * after - 1.0)) / 12.0
            rest = squares[row, size] - left * left / before - right * right / after - along * along / weight
            if rest < least[row]:
                split[row], least[row] = at, rest


@compiled
def _propose(y: Floats, total: Floats, size: Ints, windows: Ints, counts: Ints, most: Ints, chosen: Ints) -> None:
    """Fill in ``chosen`` (rows, most of them); ``counts`` (rows, windows) is how many each window may propose."""
    width = y.shape[1]
    places = max(width - 2 * SHORTEST_SEGMENT + 1, 0)
    contrast = np.empty(places)
    place, value = np.empty(counts.sum(axis=1).max(), np.int64), np.empty(counts.sum(axis=1).max())
    for row in range(len(y)):
        last = min(places, size[row] - 2 * SHORTEST_SEGMENT + 1)
        proposed = 0
        for one in range(len(windows)):
            _scan(y[row], total[row], size[row], windows[one], contrast[:last])
            for _ in range(counts[row, one]):
                best = _largest(contrast[:last])
                if best < 0 or contrast[best] < _SCAN_STATISTIC:
                    break
                place[proposed], value[proposed] = best + SHORTEST_SEGMENT, contrast[best]
                proposed += 1
                contrast[max(best - windows[one] + 1, 0) : min(best + windows[one], last)] = 0.0
        for column in range(most[row]):
            best = _largest(value[:proposed])
            if best < 0 or value[best] <= 0.0:
                break
            chosen[row, column] = place[best]
            for other in range(proposed):
                if abs(place[other] - place[best]) < SHORTEST_SEGMENT:
                    value[other] = 0.0


@compiled
def _scan(y: Floats, total: Floats, size: int, window: int, contrast: Floats) -> None:
    """The generalised least-squares contrast of up to ``window`` points before and after each place."""
    rho = _SCAN_AUTOCORRELATION
    away = 1.0 - rho
    for number in range(len(contrast)):
        at = number + SHORTEST_SEGMENT
        # Beyond a series' end its last point is repeated.
        begin, end = max(at - window, 0), min(at + window, len(y))
        after = float(max(min(end, size) - at, 1))
        both = after + (at - begin)
        right = total[end] - total[at]
        last = rho * y[min(end, size) - 1]
        along_level = away * (right + (total[at] - total[begin])) + rho * y[begin] + last
        common = away * away * after + rho * away
        weight = away * (away * both + 2.0 * rho)
        share = common / weight
        along = away * (away * right + last) + rho * (y[at] - y[at - 1]) - share * away * along_level
        contrast[number] = abs(along) / np.sqrt(common + rho - share * common)


@compiled
def _largest(values: Floats) -> int:
    """The first place of the largest value; -1 where there is none."""
    best = -1
    for number in range(len(values)):
        if best < 0 or values[number] > values[best]:
            best = number
    return best
