"""Learns the daily or weekly cycle of every series from its windows and keeps it in the table ``cycles``.

The search for changes takes cycles out, and so do baselines and the alerts that compare with them. A cycle is learnt
from the medians of half hours over the last ``changes.cycle_days``, anew every six hours. Stored is every cycle found,
and once more a series that has lost its own, with an empty kind. When ClickHouse is away the outage is raised.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.analyse.cycles import KINDS, NONE, SLOT_S, SLOTS, Cycles, explain, find_cycles
from pipeline.analyse.dimensions import SERIES
from pipeline.base.errors import Stopped
from pipeline.base.failpoints import hit

if TYPE_CHECKING:
    from pipeline.analyse.changes.series import Floats
    from pipeline.base.config import Settings
    from pipeline.store.client import Store

TABLE = "cycles"
LEARN_EVERY_MS = 6 * 3_600_000

_DAY_MS = 86_400_000
_SERIES_AT_ONCE = 5_000
"""Of 1,344 half hours each they take a tenth of a gigabyte."""

_DIMENSIONS = ", ".join(SERIES)
_SERIES = f"cityHash64({_DIMENSIONS})"
SPEED_WINDOWS = """
    is_final AND speed_samples > 0 AND (lower(metric_type) != 'duration' OR total > 0)
    AND window_start >= toDateTime({from_s:UInt32}, 'UTC') AND window_start <= toDateTime({to_s:UInt32}, 'UTC')
"""
"""The windows that say something about a series' speed, as a condition on ``metrics_5min``."""

_COUNT = f"SELECT uniqExact({_SERIES}) FROM metrics_5min WHERE {SPEED_WINDOWS}"

_READ = f"""
SELECT {_DIMENSIONS}, groupArray(begin_s) AS starts_s, groupArray(middle) AS medians
FROM (
    SELECT {_DIMENSIONS}, intDiv(toUnixTimestamp(window_start), {SLOT_S}) * {SLOT_S} AS begin_s,
           quantileExactInclusive(0.5)(speed_p50) AS middle
    FROM metrics_5min
    WHERE {SPEED_WINDOWS} AND {_SERIES} % {{shards:UInt32}} = {{shard:UInt32}}
    GROUP BY {_DIMENSIONS}, begin_s
)
GROUP BY {_DIMENSIONS}
HAVING count() >= 21
SETTINGS do_not_merge_across_partitions_select_final = 1
"""

_KNOWN = f"""
SELECT {_DIMENSIONS}, kind, share, cycles, scale = 'factor', factors FROM cycles
WHERE kind != '' AND length(factors) = {SLOTS}
"""

Series = tuple[str, ...]


@dataclass(frozen=True)
class Cycle:
    """The cycle of one series; see ``analyse.cycles.Cycles``."""

    kind: int
    share: float
    cycles: int
    is_factor: bool
    effects: Floats

    @property
    def explanation(self) -> str:
        """The cycle in words."""
        return explain(self.kind, self.effects, is_factor=self.is_factor)


@dataclass
class KnownCycles:
    """What is known of cycles, out of the windows in ``store`` and into its table."""

    store: Store
    settings: Settings
    stop: threading.Event = field(default_factory=threading.Event)
    begins_s: dict[Series, float] = field(default_factory=dict)
    """When the history of each series began, as far as it was looked back when cycles were learnt last."""
    _known: dict[Series, Cycle] | None = field(default=None)
    _learnt_ms: int | None = field(default=None)

    def learn(self, now_ms: int) -> Mapping[Series, Cycle]:
        """The cycles as of ``now_ms``, learnt anew when the last time is long ago. Raises ``StoreOutage``."""
        if self._known is None:
            self._known = self._stored()
        if self._learnt_ms is None or not 0 <= now_ms - self._learnt_ms < LEARN_EVERY_MS:
            before, found = self._known, self._find(now_ms)
            self._write(found, before.keys() - found.keys(), now_ms)
            self._known, self._learnt_ms = found, now_ms
        return self._known

    def _stored(self) -> dict[Series, Cycle]:
        known: dict[Series, Cycle] = {}
        for *names, kind, share, cycles, is_factor, factors in self.store.rows(_KNOWN):
            numbers = np.asarray(factors, np.float64)
            effects = np.log(numbers) if is_factor else numbers
            known[tuple(names)] = Cycle(KINDS.index(kind), share, cycles, bool(is_factor), effects)
        return known

    def _find(self, now_ms: int) -> dict[Series, Cycle]:
        from_ms = max(now_ms - int(self.settings.changes.cycle_days * _DAY_MS), 0)
        span = {"from_s": from_ms // 1000, "to_s": max(now_ms // 1000, 0)}
        shards = -(-int(self.store.rows(_COUNT, span)[0][0]) // _SERIES_AT_ONCE)
        found: dict[Series, Cycle] = {}
        begins_s: dict[Series, float] = {}
        for shard in range(shards):
            if self.stop.is_set():
                raise Stopped("the search for cycles was stopped between two batches of series")
            rows = self.store.query(_READ, span | {"shards": shards, "shard": shard})
            names: list[Series] = list(zip(*(rows.column(name).to_pylist() for name in SERIES), strict=True))
            times, values = _in_order(rows.column("starts_s"), rows.column("medians"))
            cycles = find_cycles(values, times)
            for series in np.flatnonzero(cycles.kind != NONE):
                found[names[series]] = _one(cycles, int(series))
            begins_s.update(zip(names, times[:, 0].tolist(), strict=True) if names else ())
        self.begins_s = begins_s
        return found

    def _write(self, found: Mapping[Series, Cycle], lost: set[Series], now_ms: int) -> None:
        none = Cycle(NONE, 0.0, 0, is_factor=True, effects=np.zeros(SLOTS))
        rows = [_row(names, cycle, now_ms) for names, cycle in found.items()]
        rows += [_row(names, none, now_ms) for names in sorted(lost)]
        hit("cycles.before_insert")
        if rows:
            self.store.insert(TABLE, pa.Table.from_pylist(rows, schema=_SCHEMA))


_SCHEMA = pa.schema(
    [("fitted_at", pa.timestamp("ms", "UTC"))]
    + [(name, pa.string()) for name in (*SERIES, "kind", "scale", "explanation")]
    + [("share", pa.float64()), ("cycles", pa.uint32()), ("factors", pa.list_(pa.float32()))]
)


def _one(cycles: Cycles, series: int) -> Cycle:
    return Cycle(
        int(cycles.kind[series]),
        float(cycles.share[series]),
        int(cycles.cycles[series]),
        bool(cycles.is_factor[series]),
        cycles.effects[series],
    )


def _row(names: Series, cycle: Cycle, now_ms: int) -> dict[str, Any]:
    is_none = cycle.kind == NONE
    return dict(zip(SERIES, names, strict=True)) | {
        "fitted_at": now_ms,
        "kind": KINDS[cycle.kind],
        "share": cycle.share,
        "cycles": cycle.cycles,
        "scale": "factor" if cycle.is_factor else "offset",
        "factors": [] if is_none else (np.exp(cycle.effects) if cycle.is_factor else cycle.effects).tolist(),
        "explanation": cycle.explanation,
    }


def _in_order(starts_s: pa.ChunkedArray, medians: pa.ChunkedArray) -> tuple[Floats, Floats]:
    """Starts and medians (series, half hours), ascending, NaN at the end where there are fewer."""
    lists = starts_s.combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    shape = (len(lengths), int(lengths.max(initial=0)))
    times, values = np.full(shape, np.nan), np.full(shape, np.nan)
    within = np.arange(shape[1]) < lengths[:, None]
    series = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((lists.flatten().to_numpy(), series))
    times[within] = lists.flatten().to_numpy()[order]
    values[within] = medians.combine_chunks().flatten().to_numpy()[order]
    return times, values


def cycles_of(names: Sequence[Series], known: Mapping[Series, Cycle]) -> Cycles:
    """What is known of these series, as one."""
    cycles = Cycles.none(len(names))
    for series, name in enumerate(names):
        if (cycle := known.get(name)) is not None:
            cycles.kind[series], cycles.share[series] = cycle.kind, cycle.share
            cycles.cycles[series], cycles.is_factor[series] = cycle.cycles, cycle.is_factor
            cycles.effects[series] = cycle.effects
    return cycles
