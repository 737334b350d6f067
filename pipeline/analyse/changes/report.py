"""Which of the changes found in a series are news: the reporting rule of the job, as pure functions.

A series is searched again and again as it grows. A change found again near where it was told is the one that is known;
one that is new must also be there without the newest points, so that what one late point makes or breaks waits for the
next. Before three whole days or weeks a night or a weekend looks like a change: its first edges are told, those that
repeat them a day or a week later are not. ``watch`` plays a history point by point and says what an engineer would
have been told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.analyse.changes.points import LEAST_POINTS, MIN_CHANGE_PCT, Changes, benjamini_hochberg, examine
from pipeline.analyse.changes.series import Floats
from pipeline.analyse.cycles import DAY_S, LEAST_CYCLES, SLOT_S, WEEK_S, Cycles

Mask = NDArray[np.bool_]
Known = Sequence[tuple[float, bool]]
"""What was told of a series: when the new level began, in the unit of its times, and whether the level rose."""

SAME_WITHIN_POINTS = 3
"""A change this near to a known one of the same direction is that one."""

MOVED_WITHIN_POINTS = 12
"""A known change that is no longer found where it was has moved to the nearest of its direction, if not farther away:
where autocorrelated noise hides the place, more points after the change tell it better."""

HELD_BACK, SOON, HELD_BACK_OF_LATE = 2, 20, 0.25
"""Points: a new change must be found without them too; of one that is seen only long after it happened, without a
quarter of the points since, less twenty. A step under way can make others appear far before it, for a while."""


PERIODS = (("daily", DAY_S), ("weekly", WEEK_S))


def is_news(
    values: Floats,
    starts: Floats,
    changes: Changes,
    known: Sequence[Known],
    cycles: Cycles,
    least_pct: Floats,
    begins: Floats,
) -> Mask:
    """Which of ``changes``, found in ``values`` (series, points) at ``starts``, are news beside what is ``known``.

    ``begins`` (series,) says when each series began, which may be long before what is searched of it.
    """
    news = np.ones(len(changes), dtype=bool)
    for series in np.unique(changes.series).tolist():
        here = np.flatnonzero(changes.series == series)
        if known[series]:
            news[here] = ~_is_known(changes.take(here), starts[series], known[series])
    news &= _is_settled(values, starts, changes, news, cycles, least_pct)
    for index in np.flatnonzero(news).tolist():
        series = int(changes.series[index])
        rose = bool(changes.level_after[index] > changes.level_before[index])
        news[index] = not _repeats(
            int(changes.position[index]), rose, starts[series], known[series], float(begins[series])
        )
    return news


def too_short_for(span_s: float) -> str:
    """The cycle that a history of this length cannot be told from a change: ``daily``, ``weekly`` or none of them."""
    return next((name for name, period_s in PERIODS if span_s < LEAST_CYCLES * period_s - SLOT_S), "")


def _repeats(position: int, rose: bool, starts: Floats, known: Known, begin: float) -> bool:
    """Whether a known change of the same direction lies whole days or weeks before, of which there are too few yet to
    know a cycle."""
    starts = starts[np.isfinite(starts)]
    span_s, at_s = float(starts[-1]) - begin, float(starts[position])
    for _, period_s in PERIODS:
        if span_s >= LEAST_CYCLES * period_s - SLOT_S:
            continue
        for changed_s, went_up in known:
            turns = round((at_s - changed_s) / period_s)
            if went_up == rose and turns >= 1:
                place = int(np.searchsorted(starts, changed_s + turns * period_s))
                if abs(place - position) <= SAME_WITHIN_POINTS:
                    return True
    return False


def adjusted(news: Iterable[Changes], searched: int) -> Floats:
    """The share of false changes to expect among each of the new ones and the stronger ones, in their order.

    Known changes have no part in it: their certainty must not make room for doubtful new ones.
    """
    parts = list(news)
    p_values = np.concatenate([changes.p_value for changes in parts]) if parts else np.zeros(0)
    series_with_any = sum(len(np.unique(changes.series)) for changes in parts)
    return benjamini_hochberg(p_values, searched + len(p_values) - series_with_any)


def _is_known(changes: Changes, starts: Floats, known: Known) -> Mask:
    """Which changes of one series (ascending) are known already; ``starts`` (points,) may end in NaN."""
    rose = changes.level_after > changes.level_before
    found = np.zeros(len(changes), dtype=bool)
    starts = starts[np.isfinite(starts)]
    moved: list[tuple[int, bool]] = []
    for changed, went_up in known:
        if changed < starts[0]:
            continue
        place = int(np.searchsorted(starts, changed))
        near = (np.abs(changes.position - place) <= SAME_WITHIN_POINTS) & (rose == went_up)
        found |= near
        if not near.any():
            moved.append((place, went_up))
    for place, went_up in moved:
        distance = np.where((rose == went_up) & ~found, np.abs(changes.position - place), len(starts))
        nearest = int(distance.argmin())
        if distance[nearest] <= MOVED_WITHIN_POINTS:
            found[nearest] = True
    return found


def _is_settled(
    values: Floats, starts: Floats, changes: Changes, is_new: Mask, cycles: Cycles, least_pct: Floats
) -> Mask:
    """Which changes are also found in their series without its newest points; known ones are not asked."""
    settled = ~is_new
    which = np.flatnonzero(is_new)
    if not len(which):
        return settled
    rows, position = changes.series[which], changes.position[which]
    shorter = values[rows].copy()
    size = np.isfinite(starts[rows]).sum(axis=1)
    held_back = np.maximum(HELD_BACK, (HELD_BACK_OF_LATE * (size - position - SOON)).astype(np.int64))
    shorter[np.arange(shorter.shape[1]) >= (size - held_back)[:, None]] = np.nan
    again = examine(shorter, starts[rows], cycles=cycles.take(rows), min_change_pct=least_pct[rows]).changes
    rose = changes.level_after[which] > changes.level_before[which]
    near = np.abs(again.position - position[again.series]) <= SAME_WITHIN_POINTS
    alike = (again.level_after > again.level_before) == rose[again.series]
    settled[which[again.series[near & alike]]] = True
    return settled


@dataclass(frozen=True)
class Told:
    """One report of a replayed history: after how many points, where the new level begins, and whether it rose."""

    after: int
    position: int
    rose: bool


def watch(
    values: ArrayLike,
    times_s: ArrayLike | None = None,
    *,
    false_discovery_rate: float = 0.01,
    min_change_pct: float = MIN_CHANGE_PCT,
    first_look: int = LEAST_POINTS,
) -> list[list[Told]]:
    """Of each of the ``values`` (series, points) what is told when it is searched after every new point, from
    ``first_look`` points on.

    Each series as if it were alone: in a fleet less is told, by ``false_discovery_rate``. No points are missing.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    shape = values.shape
    places = np.broadcast_to(np.arange(shape[1], dtype=np.float64), shape)
    least = np.full(shape[0], min_change_pct)
    told: list[list[Told]] = [[] for _ in range(shape[0])]
    for points in range(max(first_look, LEAST_POINTS), shape[1] + 1):
        now = values[:, :points]
        times = None if times_s is None else np.asarray(times_s, np.float64)[..., :points]
        found = examine(now, times, min_change_pct=min_change_pct)
        if times is not None:
            starts = np.ascontiguousarray(np.broadcast_to(times, now.shape))
            cycles = found.cycles
        else:
            starts, cycles = np.ascontiguousarray(places[:, :points]), Cycles.none(len(now))
        known = [
            [(float(starts[series, one.position]), one.rose) for one in told[series]] for series in range(len(now))
        ]
        changes = found.changes
        fresh = changes.take(is_news(now, starts, changes, known, cycles, least, starts[:, 0]))
        for series in np.unique(fresh.series).tolist():
            alone = fresh.take(fresh.series == series)
            for index in np.flatnonzero(adjusted([alone], 1) <= false_discovery_rate).tolist():
                rose = bool(alone.level_after[index] > alone.level_before[index])
                told[series].append(Told(points, int(alone.position[index]), rose))
    return told
