"""Looks for lasting changes of level in every series and writes the new ones to ``change_points``.

A point of a series is the median of a final 5-minute window (``speed_p50``: passed executions of the wanted branches):
of a test that runs now and then that is the execution itself, of a metric that comes by the thousand a figure quiet
enough to show a small change. The newest ``changes.max_points`` of the last ``changes.days`` count.

A turn searches the series that got a point since the last one, and all of them once an hour and after a start. A change
found again, at most a few points away from where it is stored, is the same change and is not written again; so a
turn that died, or two at once, write nothing twice. Of what is new, so much is written that
``changes.false_discovery_rate`` bounds the expected share of false changes, over all series searched. A change that is
new must also be there in the series without its newest points: what one late point makes or breaks waits for the next.

Daily and weekly cycles (``jobs/cycles.py``) are taken out before. A drift is written as such, and again every
``RENEW_DRIFT_MS`` while it lasts, under the time it was first dated. Of a series that drifts and steps either is told
with its own part.

When ClickHouse is away the outage is raised; the next turn looks at the same series.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.analyse.changes.points import (
    LEAST_POINTS,
    MIN_CHANGE_PCT,
    Changes,
    Drifts,
    direction,
    examine,
)
from pipeline.analyse.changes.report import adjusted, is_news, too_short_for
from pipeline.analyse.changes.series import Floats, Ints
from pipeline.analyse.cycles import KINDS, Cycles, explain
from pipeline.analyse.dimensions import SERIES
from pipeline.base.errors import Stopped
from pipeline.base.failpoints import hit
from pipeline.jobs.cycles import SPEED_WINDOWS, Cycle, KnownCycles, cycles_of

if TYPE_CHECKING:
    from pipeline.base.config import Settings
    from pipeline.store.client import Store

TABLE = "change_points"

RENEW_DRIFT_MS = 4 * 3_600_000
"""A rule over six hours sees a drift for as long as it lasts."""

WINDOW_S = 300
_DAY_MS = 86_400_000
_ALL_EVERY_MS = 3_600_000

_OVERLAP_MS = 60_000
"""A window is computed before it is written: one that was on its way during the last turn is read by this one."""

_SERIES_AT_ONCE = 20_000
"""Of 400 points each they take a third of a gigabyte."""

_RECENT_WINDOWS = 1.5
"""Times ``max_points``: a series with that many windows in this span needs no older ones."""

_DIMENSIONS = ", ".join(SERIES)

_SERIES = f"cityHash64({_DIMENSIONS})"

_DUE = f"""
SELECT DISTINCT {_SERIES} FROM metrics_5min
WHERE {SPEED_WINDOWS} AND computed_at >= fromUnixTimestamp64Milli({{since_ms:Int64}}, 'UTC')
"""

_COUNT = f"SELECT count() FROM ({_DUE})"

# Of a busy series only the newest points leave the server, which has thousands of them. GLOBAL lets the text run on a
# cluster. A window never moves to another partition, so partitions need not be merged with each other.
_READ = f"""
SELECT {_DIMENSIONS}, groupArray(toUnixTimestamp(window_start)) AS starts_s, groupArray(speed_p50) AS medians
FROM metrics_5min
WHERE {SPEED_WINDOWS}
  AND {_SERIES} % {{shards:UInt32}} = {{shard:UInt32}}
  AND {_SERIES} GLOBAL IN ({_DUE})
  AND (window_start >= toDateTime({{recent_s:UInt32}}, 'UTC') OR {_SERIES} GLOBAL NOT IN (
      SELECT {_SERIES} FROM metrics_5min
      WHERE {SPEED_WINDOWS} AND window_start >= toDateTime({{recent_s:UInt32}}, 'UTC')
      GROUP BY {_DIMENSIONS} HAVING count() >= {{max_points:UInt32}}
  ))
GROUP BY {_DIMENSIONS}
HAVING count() >= {LEAST_POINTS}
SETTINGS do_not_merge_across_partitions_select_final = 1
"""

_STORED = f"""
SELECT {_DIMENSIONS}, toUnixTimestamp64Milli(changed_at), level_after > level_before
FROM change_points
WHERE kind != 'drift' AND changed_at >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')
"""

_STORED_DRIFTS = f"""
SELECT {_DIMENSIONS}, level_after > level_before, toUnixTimestamp64Milli(argMax(changed_at, detected_at)),
       toUnixTimestamp64Milli(max(detected_at))
FROM change_points
WHERE kind = 'drift' AND detected_at >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')
GROUP BY {_DIMENSIONS}, level_after > level_before
"""

Series = tuple[str, ...]


@dataclass
class ChangesReport:
    """What one turn did: series searched, changes and drifts found in them, what was new and written, cycles known."""

    searched: int = 0
    found: int = 0
    written: int = 0
    drifts: int = 0
    cycles: int = 0


@dataclass(frozen=True)
class _Searched:
    """Some series and the changes in them; ``changed_ms`` (changes,) says when the first window of each began."""

    names: Sequence[Series]
    changes: Changes
    changed_ms: Ints
    is_new: np.ndarray[Any, np.dtype[np.bool_]]
    drifts: Drifts
    spans_ms: Ints
    """Of each drift (drifts, 2): when the first and the last window began."""
    lengths_s: Floats
    """Of each series, from its first to its last window, those that are no longer searched included."""
    cycles: Cycles


@dataclass
class ChangesJob:
    """Changes out of the windows in ``store``, and into it."""

    store: Store
    settings: Settings
    stop: threading.Event = field(default_factory=threading.Event)
    _last_ms: int | None = field(default=None)
    _last_all_ms: int = field(default=0)
    _known_cycles: KnownCycles = field(init=False)

    def __post_init__(self) -> None:
        self._known_cycles = KnownCycles(self.store, self.settings, self.stop)

    def run(self, now_ms: int) -> ChangesReport:
        """Search what is due as of ``now_ms`` and write the changes that are new. Raises ``StoreOutage``."""
        everything = self._last_ms is None or now_ms - self._last_all_ms >= _ALL_EVERY_MS
        since_ms = 0 if everything or self._last_ms is None else self._last_ms - _OVERLAP_MS
        cycles = self._known_cycles.learn(now_ms)
        parts = list(self._search(since_ms, now_ms, cycles))
        searched = sum(len(part.names) for part in parts)
        report = ChangesReport(searched, sum(len(part.changes) for part in parts), cycles=len(cycles))
        report.drifts = sum(len(part.drifts) for part in parts)
        report.written = self._write(parts, searched, now_ms)
        self._last_ms = now_ms
        if everything:
            self._last_all_ms = now_ms
        return report

    def _search(self, since_ms: int, now_ms: int, known_cycles: Mapping[Series, Cycle]) -> Iterator[_Searched]:
        from_ms = now_ms - int(self.settings.changes.days * _DAY_MS)
        span = {"from_s": max(from_ms, 0) // 1000, "to_s": now_ms // 1000, "since_ms": since_ms}
        due = int(self.store.rows(_COUNT, span)[0][0])
        stored = self._stored(from_ms) if due else {}
        shards = -(-due // _SERIES_AT_ONCE)
        most = self.settings.changes.max_points
        span |= {"max_points": most, "recent_s": max(span["to_s"] - int(_RECENT_WINDOWS * most * WINDOW_S), 0)}
        for shard in range(shards):
            if self.stop.is_set():
                raise Stopped("the search for changes was stopped between two batches of series")
            points = self.store.query(_READ, span | {"shards": shards, "shard": shard})
            names: list[Series] = list(zip(*(points.column(name).to_pylist() for name in SERIES), strict=True))
            starts_s, medians = _newest(points.column("starts_s"), points.column("medians"), most)
            least_pct = self._least_pct(names)
            cycles = cycles_of(names, known_cycles)
            found = examine(medians, starts_s, cycles=cycles, min_change_pct=least_pct)
            changes, drifts = found.changes, found.drifts
            changed_ms = (starts_s[changes.series, changes.position] * 1000).astype(np.int64)
            known = [stored.get(name, []) for name in names]
            begins_s = self._begins(names, starts_s)
            is_new = is_news(medians, starts_s, changes, known, cycles, least_pct, begins_s)
            last = np.isfinite(starts_s[drifts.series]).sum(axis=1) - 1
            ends = np.stack([np.zeros_like(last), last], axis=1)
            spans_ms = (starts_s[drifts.series[:, None], ends] * 1000).astype(np.int64)
            lengths_s = starts_s[np.arange(len(names)), np.isfinite(starts_s).sum(axis=1) - 1] - begins_s
            yield _Searched(names, changes, changed_ms, is_new, drifts, spans_ms, lengths_s, cycles)

    def _begins(self, names: Sequence[Series], starts_s: Floats) -> Floats:
        """When each series began; the search for cycles looks back farther than that for changes."""
        begins = np.array([self._known_cycles.begins_s.get(name, np.inf) for name in names], np.float64)
        return np.minimum(begins, starts_s[:, 0]) if names else begins

    def _least_pct(self, names: Sequence[Series]) -> Floats:
        """The least change of each series that is reported."""
        by_metric = {name.lower(): pct for name, pct in self.settings.changes.min_change_pct.items()}
        default = by_metric.get("default", MIN_CHANGE_PCT)
        return np.array([by_metric.get(name[0].lower(), default) for name in names], dtype=np.float64)

    def _stored(self, from_ms: int) -> dict[Series, list[tuple[float, bool]]]:
        """The stored changes of each series: when (seconds), and whether the level rose."""
        stored: dict[Series, list[tuple[float, bool]]] = {}
        for *names, changed_ms, rose in self.store.rows(_STORED, {"from_ms": max(from_ms - _DAY_MS, 0)}):
            stored.setdefault(tuple(names), []).append((changed_ms / 1000, bool(rose)))
        return stored

    def _write(self, parts: Sequence[_Searched], searched: int, now_ms: int) -> int:
        fresh = [part.changes.take(part.is_new) for part in parts]
        false_shares = adjusted(fresh, searched)
        significant = false_shares <= self.settings.changes.false_discovery_rate
        rows: list[dict[str, Any]] = []
        place = 0
        for part, changes in zip(parts, fresh, strict=True):
            for index, changed_ms in enumerate(part.changed_ms[part.is_new]):
                if significant[place]:
                    names = part.names[changes.series[index]]
                    row = _row(names, changes, index, int(changed_ms), 1.0 - float(false_shares[place]), now_ms)
                    series = int(changes.series[index])
                    words = _step_in_words(row, too_short_for(float(part.lengths_s[series])))
                    rows.append(row | _cycle_columns(part.cycles, series, words))
                place += 1
        rows += self._drift_rows(parts, now_ms)
        hit("changes.before_insert")
        if rows:
            self.store.insert(TABLE, pa.Table.from_pylist(rows, schema=_SCHEMA))
        return len(rows)

    def _drift_rows(self, parts: Sequence[_Searched], now_ms: int) -> list[dict[str, Any]]:
        """The drifts that are not stored yet, or long ago."""
        if not any(len(part.drifts) for part in parts):
            return []
        from_ms = max(now_ms - int(self.settings.changes.days * _DAY_MS), 0)
        stored = {
            (tuple(names), bool(rose)): (changed_ms, detected_ms)
            for *names, rose, changed_ms, detected_ms in self.store.rows(_STORED_DRIFTS, {"from_ms": from_ms})
        }
        rows = []
        for part in parts:
            for index, series in enumerate(part.drifts.series.tolist()):
                names = part.names[series]
                first_ms, last_ms = part.spans_ms[index].tolist()
                rose = bool(part.drifts.level_after[index] > part.drifts.level_before[index])
                changed_ms, detected_ms = stored.get((names, rose), (first_ms, None))
                if detected_ms is None or now_ms - detected_ms >= RENEW_DRIFT_MS:
                    row = _drift_row(names, part.drifts, index, (last_ms - first_ms) / _DAY_MS)
                    row |= {"changed_at": changed_ms, "detected_at": now_ms}
                    steps = int(np.count_nonzero(part.changes.series == series))
                    rows.append(row | _cycle_columns(part.cycles, series, _drift_in_words(row, steps)))
        return rows


_TIME = pa.timestamp("ms", "UTC")
_FIGURES = ("level_before", "level_after", "change_pct", "effect_spreads", "p_value")
_CHANCES = ("p_value", "confidence")
_SLOPES = ("slope_pct_per_day", "slope_low", "slope_high")
_SCHEMA = pa.schema(
    [("changed_at", _TIME), ("detected_at", _TIME)]
    + [(name, pa.string()) for name in (*SERIES, "direction", "kind", "cycle", "explanation")]
    + [(name, pa.float64()) for name in (*_FIGURES, "confidence", *_SLOPES, "cycle_share")]
    + [(name, pa.uint32()) for name in ("points_before", "points_after")]
)


def _row(
    names: Series, changes: Changes, index: int, changed_ms: int, confidence: float, now_ms: int
) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(SERIES, names, strict=True))
    row |= {name: float(getattr(changes, name)[index]) for name in _FIGURES}
    row |= {name: int(getattr(changes, name)[index]) for name in ("points_before", "points_after")}
    row["direction"] = direction(row["metric_type"], row["level_before"], row["level_after"])
    row |= {"kind": "step", **dict.fromkeys(_SLOPES, math.nan)}
    return row | {"confidence": confidence, "changed_at": changed_ms, "detected_at": now_ms}


def _drift_row(names: Series, drifts: Drifts, index: int, days: float) -> dict[str, Any]:
    """A drift over so many days; its slope is told a day."""
    row: dict[str, Any] = dict(zip(SERIES, names, strict=True))
    row |= {
        name: float(getattr(drifts, name)[index])
        for name in ("level_before", "level_after", "change_pct", "effect_spreads")
    }
    points = int(drifts.points[index])
    a_day = (points - 1) / days
    slopes = (float(getattr(drifts, name)[index]) * a_day for name in ("slope_pct", "slope_low", "slope_high"))
    row |= dict(zip(_SLOPES, slopes, strict=True))
    row["direction"] = direction(row["metric_type"], row["level_before"], row["level_after"])
    # Thresholds decide about a drift, no test with a p-value.
    return row | {"kind": "drift", **dict.fromkeys(_CHANCES, math.nan), "points_before": 0, "points_after": points}


def _cycle_columns(cycles: Cycles, series: int, sentence: str) -> dict[str, Any]:
    kind = int(cycles.kind[series])
    words = explain(kind, cycles.effects[series], is_factor=bool(cycles.is_factor[series]))
    return {
        "cycle": KINDS[kind],
        "cycle_share": float(cycles.share[series]),
        "explanation": f"{sentence} {words}." if words else sentence,
    }


def _step_in_words(row: Mapping[str, Any], unknown_cycle: str) -> str:
    before, after = f"{row['level_before']:.4g}", f"{row['level_after']:.4g}"
    words = f"The level moved from {before} to {after} ({row['change_pct']:+.1f} %)."
    if not unknown_cycle:
        return words
    span = {"daily": "days", "weekly": "weeks"}[unknown_cycle]
    return f"{words} Less than three {span} of history: a {unknown_cycle} cycle cannot be told from a change yet."


def _drift_in_words(row: Mapping[str, Any], steps: int) -> str:
    slope, low, high = (f"{row[name]:+.2g}" for name in _SLOPES)
    beside = f", beside {steps} step{'s' * (steps > 1)}" if steps else "; it did not step"
    return f"The level drifts by {slope} % a day ({low} to {high} %), {row['change_pct']:+.1f} % so far{beside}."


def _newest(starts_s: pa.ChunkedArray, medians: pa.ChunkedArray, most: int) -> tuple[Floats, Floats]:
    """Starts and medians of the newest windows of each series, oldest first, NaN at the end where there are fewer."""
    lists = starts_s.combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    series = np.repeat(np.arange(len(lengths)), lengths)
    starts, values = lists.flatten().to_numpy(), medians.combine_chunks().flatten().to_numpy()
    order = np.lexsort((starts, series))
    kept = np.minimum(lengths, most)
    # Place among the newest of its series; negative for those that are too old.
    place = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - kept, lengths)
    wanted = place >= 0
    shape = (len(lengths), int(kept.max(initial=0)))
    matrices = np.full(shape, np.nan), np.full(shape, np.nan)
    for matrix, column in zip(matrices, (starts, values), strict=True):
        matrix[series[wanted], place[wanted]] = column[order[wanted]]
    return matrices
