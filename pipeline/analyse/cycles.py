"""Daily and weekly cycles of series: found by themselves, described, and taken out.

A company that sleeps at night and on Sundays has quick tests then. That is no change of level, and a Saturday is
compared with Saturdays. A cycle is claimed only when the series spans at least three whole ones, and when the classes
(half hours of the day, days of the week, and their combinations) as learnt from all *other* cycles predict a share of
the variance: ``LEAST_SHARE``, and more where there are few cycles to learn from. Steps and drifts do not look like one,
because everything is measured around the running level of one whole cycle.

Result: what the typical level is multiplied by in each half hour of the week (UTC, from Monday 00:00). Pure numpy,
many series at once; a series' result does not depend on the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

DAY_S, WEEK_S, SLOT_S = 86_400, 604_800, 1800
MONDAY_S = 4 * DAY_S
"""1970-01-05 was a Monday."""
SLOTS = WEEK_S // SLOT_S
SLOTS_A_DAY = DAY_S // SLOT_S

LEAST_CYCLES = 3
LEAST_SHARE = 0.1
"""Of the variance around the running level. A weaker cycle moves a series by less than a third of its noise."""
SHARE_OF_FEW = 0.6
"""Divided by the cycles less one, this is asked on top: three days agree by chance more often than twenty."""
LONGEST_S = 8 * WEEK_S
"""Older points teach nothing about today's cycle."""
LEAST_POINTS = 21

NONE, DAILY, WEEKLY = 0, 1, 2
KINDS = ("", "daily", "weekly")

_WIDTHS_S = ((1800, 40.0), (3600, 12.0), (10_800, 2.0), (DAY_S, 0.0))
"""Width of a class, and the points a day that it takes."""
_FAR = 3.0
"""Values farther than so many spreads from the running level count as just as far."""
_SPREAD_OF_MEAN_DEVIATION = 1.2533
_SIMPLER_BY = 0.02
"""A finer division into classes must explain so much more."""
_ROWS = 256

_DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


@dataclass(frozen=True)
class Cycles:
    """The cycle of each series; arrays are (series,), ``effects`` (series, ``SLOTS``).

    ``kind`` is an index into ``KINDS``. ``share`` of the variance is what other cycles predict, ``cycles`` the whole
    ones in the series. ``is_factor``: effects are logarithms of factors, else offsets. A series without a cycle has
    zeros.
    """

    kind: Ints
    share: Floats
    cycles: Ints
    is_factor: Mask
    effects: Floats

    @classmethod
    def none(cls, series: int) -> Cycles:
        """No cycle in any of so many series."""
        zeros = np.zeros(series, np.int64)
        return cls(zeros, np.zeros(series), zeros.copy(), np.ones(series, bool), np.zeros((series, SLOTS)))

    def take(self, which: Ints) -> Cycles:
        """The cycles of some series."""
        return Cycles(*(getattr(self, column.name)[which] for column in fields(self)))


def slot(times_s: ArrayLike) -> Ints:
    """The half hour of the week of each moment; NaN is in the first."""
    times = np.nan_to_num(np.asarray(times_s, np.float64))
    return np.asarray(((times - MONDAY_S) % WEEK_S // SLOT_S).astype(np.int64))


def without(values: Floats, times_s: Floats, cycles: Cycles) -> Floats:
    """The values (series, points) as they would be at the typical time of the cycle."""
    some = np.flatnonzero(cycles.kind)
    if not len(some):
        return values
    adjusted = values.copy()
    effect = np.take_along_axis(cycles.effects[some], slot(times_s[some]), axis=1)
    is_factor = cycles.is_factor[some, None]
    adjusted[some] = np.where(is_factor, values[some] * np.exp(-effect), values[some] - effect)
    return adjusted


def find_cycles(values: Floats, times_s: Floats) -> Cycles:
    """The cycle of each series of ``values`` (series, points) at ``times_s``, ascending; NaN is no point."""
    found = Cycles.none(len(values))
    is_point = np.isfinite(values) & np.isfinite(times_s)
    count = is_point.sum(axis=1)
    last = np.max(np.where(is_point, times_s, -np.inf), axis=1, initial=-np.inf)
    is_point &= times_s > last[:, None] - LONGEST_S
    first = np.min(np.where(is_point, times_s, np.inf), axis=1, initial=np.inf)
    span_s = np.where(count > 0, last - first, 0.0)
    worth = (count >= LEAST_POINTS) & (span_s >= LEAST_CYCLES * DAY_S - SLOT_S)
    a_day = count / np.maximum(span_s / DAY_S, 1.0)
    width = np.select([a_day >= least for _, least in _WIDTHS_S], [w for w, _ in _WIDTHS_S], DAY_S)
    for width_s, _ in _WIDTHS_S:
        rows = np.flatnonzero(worth & (width == width_s))
        rows = rows[np.argsort(span_s[rows], kind="stable")]
        for begin in range(0, len(rows), _ROWS):
            part = rows[begin : begin + _ROWS]
            _find(found, part, values[part], times_s[part], is_point[part], width_s)
    return found


def _find(found: Cycles, rows: Ints, values: Floats, times_s: Floats, is_point: Mask, width_s: int) -> None:
    """Fill in the cycles of ``rows``, whose classes are ``width_s`` wide."""
    grid, is_factor, span_s = _gridded(values, times_s, is_point, width_s)
    day = DAY_S // width_s
    is_asked = np.zeros(len(rows), bool)
    for period, models in ((7 * day, (1, 0, 2, 3)), (day, (0,))):
        whole = np.floor((span_s + width_s) / (period * width_s))
        asked = np.flatnonzero((whole >= LEAST_CYCLES) & ~is_asked)
        is_asked[asked] = True
        if not len(asked) or period == 1:
            continue
        least = LEAST_SHARE + SHARE_OF_FEW / (whole[asked] - 1.0)
        rest = _around_running_level(grid[asked], period)
        best = np.full(len(asked), -np.inf)
        chosen = np.full(len(asked), -1)
        asked_models = models if day > 1 else models[:1]
        for one, explained in zip(asked_models, _share_predicted(rest, day, asked_models), strict=True):
            better = (explained > best + _SIMPLER_BY * (chosen >= 0)) & (explained >= least)
            best[better], chosen[better] = explained[better], one
        hit = np.flatnonzero(chosen >= 0)
        for one in np.unique(chosen[hit]):
            here = hit[chosen[hit] == one]
            effects = _class_medians(rest[here], _classes(int(one), day))
            full = np.repeat(effects, width_s // SLOT_S, axis=1)
            found.effects[rows[asked[here]]] = full - _typical(full, grid[asked[here]], width_s)
        to = rows[asked[hit]]
        found.kind[to] = np.where(chosen[hit] == 0, DAILY, WEEKLY)
        cycle_s = np.where(chosen[hit] == 0, DAY_S, WEEK_S)
        found.cycles[to] = ((span_s[asked[hit]] + width_s) // cycle_s).astype(np.int64)
        found.share[to] = best[hit]
        found.is_factor[to] = is_factor[asked[hit]]


def _gridded(values: Floats, times_s: Floats, is_point: Mask, width_s: int) -> tuple[Floats, Mask, Floats]:
    """Mean of each class-wide bin (rows, bins), whole weeks from a Monday; NaN where there is no point.

    Positive series in logarithms, in which the effects are factors. Lone outliers are put back to their neighbours.
    """
    is_factor = np.min(np.where(is_point, values, np.inf), axis=1) > 0
    safe = np.where(is_point, values, 1.0)
    x = np.where(is_factor[:, None], np.log(np.where(safe > 0, safe, 1.0)), safe)
    first = np.min(np.where(is_point, times_s, np.inf), axis=1)
    last = np.max(np.where(is_point, times_s, -np.inf), axis=1)
    monday = np.floor((first - MONDAY_S) / WEEK_S) * WEEK_S + MONDAY_S
    weeks = int(np.max((last - monday) // WEEK_S)) + 1
    bins = weeks * (WEEK_S // width_s)
    column = (np.where(is_point, times_s - monday[:, None], 0.0) // width_s).astype(np.int64)
    place = (np.arange(len(x))[:, None] * bins + column)[is_point]
    count = np.bincount(place, minlength=len(x) * bins)
    total = np.bincount(place, x[is_point], len(x) * bins)
    with np.errstate(invalid="ignore"):
        grid = (total / count).reshape(len(x), bins)
    return grid, is_factor, last - first


def _around_running_level(grid: Floats, period: int) -> Floats:
    """The grid less its running mean over one period, far values drawn in; NaN stays NaN."""
    is_point = ~np.isnan(grid)
    here = np.where(is_point, grid, 0.0)
    points = np.concatenate([np.zeros((len(grid), 1)), np.cumsum(is_point, axis=1)], axis=1)
    rest, level, bound = here, np.zeros_like(here), np.full(len(grid), np.inf)
    for _ in range(3):
        # From the second time on what is far has been drawn in, so that an outlier moves no level.
        level = level + _running_mean(rest, points, period)
        rest = np.where(is_point, np.clip(here - level, -bound[:, None], bound[:, None]), 0.0)
        bound = _FAR * _SPREAD_OF_MEAN_DEVIATION * np.abs(rest).sum(axis=1) / points[:, -1]
        rest = np.clip(rest, -bound[:, None], bound[:, None])
    return np.where(is_point, rest, np.nan)


def _running_mean(x: Floats, points: Floats, period: int) -> Floats:
    total = np.cumsum(x, axis=1)
    period = min(period, x.shape[1])
    inner = total[:, period - 1 :].copy()
    inner[:, 1:] -= total[:, :-period]
    inner /= np.maximum(points[:, period:] - points[:, :-period], 1)
    # At the ends the first and the last whole period: half of one would take a part of the cycle for the level.
    level = np.empty_like(x)
    begin = period // 2
    level[:, begin : begin + inner.shape[1]] = inner
    level[:, :begin], level[:, begin + inner.shape[1] :] = inner[:, :1], inner[:, -1:]
    return level


def _classes(model: int, day: int) -> Ints:
    """The class of each bin of a week: 0 by time of day, 1 by day, 2 by time and weekend or not, 3 by both."""
    at = np.arange(7 * day)
    if model == 0:
        return at % day
    if model == 1:
        return at // day
    return at % day + day * (at // day >= 5) if model == 2 else at


def _share_predicted(rest: Floats, day: int, models: tuple[int, ...]) -> list[Floats]:
    """For each model the share of the variance that the classes' means over all other cycles predict, (rows,)."""
    is_point = ~np.isnan(rest)
    x = np.where(is_point, rest, 0.0)
    squares = (x * x).sum(axis=1)
    pair = x, is_point.astype(np.float64)
    shares = []
    for model in models:
        total, points = (_by_cycle_and_class(one, model, day) for one in pair)
        others = points.sum(axis=1, keepdims=True) - points
        mean = (total.sum(axis=1, keepdims=True) - total) / np.maximum(others, 1.0)
        # Squares of x less squares of x - mean, where others have anything to say.
        gain = (mean * (2.0 * total - mean * points)).sum(axis=(1, 2))
        shares.append(gain / np.where(squares > 0, squares, 1.0))
    return shares


def _by_cycle_and_class(x: Floats, model: int, day: int) -> Floats:
    """Sums (rows, cycles, classes) of a grid; see ``_classes``."""
    rows = len(x)
    if model == 0:
        return x.reshape(rows, -1, day)
    of_week = x.reshape(rows, -1, 7, day)
    if model == 1:
        return np.asarray(of_week.sum(axis=3))
    if model == 2:
        return np.concatenate([of_week[:, :, :5].sum(axis=2), of_week[:, :, 5:].sum(axis=2)], axis=2)
    return x.reshape(rows, -1, 7 * day)


def _class_medians(rest: Floats, classes: Ints) -> Floats:
    """The median of each class, set out over the bins of a week (rows, bins)."""
    weeks = rest.shape[1] // len(classes)
    effects = np.zeros((len(rest), len(classes)))
    class_of_bin = np.tile(classes, weeks)
    for one in range(int(classes.max()) + 1):
        ordered = np.sort(rest[:, class_of_bin == one], axis=1)
        points = np.count_nonzero(~np.isnan(ordered), axis=1)
        each = np.arange(len(rest))
        low, high = ordered[each, np.maximum(points - 1, 0) // 2], ordered[each, points // 2 % ordered.shape[1]]
        effects[:, classes == one] = np.where(points > 0, (low + high) / 2, np.nan)[:, None]
    # A class without a point is as the one before it; the week is a circle.
    twice = np.concatenate([effects, effects], axis=1)
    known = np.maximum.accumulate(np.where(np.isnan(twice), 0, np.arange(twice.shape[1])), axis=1)
    return np.asarray(np.nan_to_num(np.take_along_axis(twice, known, axis=1)[:, effects.shape[1] :]))


def _typical(effects: Floats, grid: Floats, width_s: int) -> Floats:
    """The usual effect (rows, 1): the middle of the shortest interval that holds half of the points."""
    by_bin = np.tile(effects[:, :: width_s // SLOT_S], grid.shape[1] // (WEEK_S // width_s))
    ordered = np.sort(np.where(np.isnan(grid), np.nan, by_bin), axis=1)
    points = np.count_nonzero(~np.isnan(ordered), axis=1)
    reach = (points // 2)[:, None]
    at = np.arange(ordered.shape[1])
    end = np.minimum(at + reach, ordered.shape[1] - 1)
    length = np.take_along_axis(ordered, end, axis=1) - ordered
    low = np.where((at + reach < points[:, None]), length, np.inf).argmin(axis=1)[:, None]
    low_effect, high_effect = (np.take_along_axis(ordered, place, axis=1) for place in (low, low + reach))
    return np.asarray((low_effect + high_effect) / 2)


def explain(kind: int, effects: Floats, *, is_factor: bool) -> str:
    """The cycle of one series in words: when it is farthest from typical, and by how much."""
    if kind == NONE:
        return ""
    of_day = effects.reshape(7, SLOTS_A_DAY)
    by_day, by_hour = np.median(of_day, axis=1), np.median(of_day, axis=0).reshape(24, -1).mean(axis=1)
    is_by_day = kind == WEEKLY and np.abs(by_day).max() >= np.abs(by_hour - np.median(by_hour)).max() / 2
    if is_by_day:
        far = int(np.argmax(np.abs(by_day)))
        names = [_DAYS[at] for at in range(7) if by_day[at] * by_day[far] > 0.25 * by_day[far] ** 2]
        when, effect = _listed(names), by_day[far]
    else:
        far = int(np.argmax(np.abs(by_hour)))
        when, effect = _span_of_hours(by_hour, far), by_hour[far]
    return f"{when} {'are' if is_by_day else 'is'} {_size(float(effect), is_factor)}; compared with {when}"


def _size(effect: float, is_factor: bool) -> str:
    if is_factor:
        pct = 100.0 * float(np.expm1(effect))
        return f"{abs(pct):.0f} % {'higher' if pct > 0 else 'lower'} than usual"
    return f"{abs(effect):.4g} {'higher' if effect > 0 else 'lower'} than usual"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _span_of_hours(by_hour: Floats, far: int) -> str:
    """The hours around the farthest one that lie on its side, as "22:00 to 06:00 UTC"."""
    alike = by_hour * by_hour[far] > 0.25 * by_hour[far] ** 2
    first = last = far
    while alike[(first - 1) % 24] and (last - first) < 23:
        first -= 1
    while alike[(last + 1) % 24] and (last - first) < 23:
        last += 1
    return f"{first % 24:02d}:00 to {(last + 1) % 24:02d}:00 UTC"
