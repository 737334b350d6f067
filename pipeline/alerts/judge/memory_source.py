"""Numbers out of memory: raw values rolled up by the product's own functions, for unit tests of rules and the bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.alerts.judge.entry_views import Baseline, ChangePoint
from pipeline.alerts.judge.frames import Frame, empty_frame
from pipeline.alerts.judge.sources import COLUMNS, DIMENSIONS, WIDTH_S, Table
from pipeline.analyse.dimensions import SERIES, WINDOW_DIMENSIONS
from pipeline.analyse.vitals import assess
from pipeline.analyse.windows import roll_up


@dataclass(frozen=True)
class Ended:
    """A series that was declared ``stale``: from ``at_s`` on, its windows before that are not read any more."""

    dimensions: Mapping[str, str]
    at_s: int


class MemorySource:
    """The windows of some raw rows.

    ``rows`` has the columns timestamp_ms (int64), value, status and the dimensions of a series.
    """

    def __init__(
        self,
        rows: pa.Table,
        *,
        ended: Sequence[Ended] = (),
        baselines: Sequence[Baseline] = (),
        change_points: Sequence[ChangePoint] = (),
        browser_aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._ended = ended
        self._baselines = sorted(baselines, key=lambda baseline: baseline.computed_at_ms)
        self._changes = sorted(change_points, key=lambda change: change.changed_at_ms)
        self._tables: dict[Table, pa.Table] = {}
        if rows.num_rows:
            self._tables = {
                "metrics_1min": roll_up(rows, WIDTH_S["metrics_1min"]).rows,
                "metrics_5min": roll_up(rows, WIDTH_S["metrics_5min"]).rows,
                "web_vitals": _vitals(rows, browser_aliases or {}),
            }

    @property
    def has_ended(self) -> bool:
        """Whether some series has ended, so that a window is not read for ever."""
        return bool(self._ended)

    def windows(
        self, table: Table, metrics: Sequence[str], dimensions: Sequence[str], histograms: bool, from_s: int, to_s: int
    ) -> Frame:
        """Windows that begin in [from, to) and have not ended for good before ``to``."""
        found = self._range(table, metrics, from_s, to_s)
        if found is None:
            return empty_frame(dimensions, COLUMNS[table], WIDTH_S[table])
        names = ["window_start", *dimensions, *COLUMNS[table], *(["histogram"] if histograms else [])]
        return Frame.of(found.select(names), WIDTH_S[table])

    def last_seen(
        self, table: Table, metrics: Sequence[str], dimensions: Sequence[str], from_s: int, to_s: int
    ) -> Frame:
        """The last window of every series in [from, to)."""
        found = self._range(table, metrics, from_s, to_s)
        if found is None:
            return empty_frame(dimensions, (), WIDTH_S[table])
        last = found.select(["window_start", *dimensions]).group_by(dimensions).aggregate([("window_start", "max")])
        return Frame.of(last.rename_columns([*dimensions, "window_start"]).sort_by("window_start"), WIDTH_S[table])

    def baselines(self, from_ms: int, to_ms: int) -> Sequence[Baseline]:  # noqa: ARG002  as Source has it
        """All until ``to``; a test brings a handful."""
        return [baseline for baseline in self._baselines if baseline.computed_at_ms <= to_ms]

    def change_points(self, from_ms: int, to_ms: int) -> Sequence[ChangePoint]:
        """Changes that happened in (from, to]."""
        return [
            change
            for change in self._changes
            if from_ms < (change.detected_at_ms if change.kind == "drift" else change.changed_at_ms) <= to_ms
        ]

    def _range(self, table: Table, metrics: Sequence[str], from_s: int, to_s: int) -> pa.Table | None:
        rows = self._tables.get(table)
        if rows is None:
            return None
        starts = rows.column("window_start").to_numpy().astype(np.int64)
        wanted = (starts >= from_s) & (starts < to_s)
        types = pc.utf8_lower(rows.column("metric_type").cast(pa.string()))
        wanted &= pc.is_in(types, pa.array(metrics, pa.string())).to_numpy()
        for ended in self._ended:
            if ended.at_s <= to_s:
                wanted &= ~((starts < ended.at_s) & self._is_series(rows, ended.dimensions))
        return rows.filter(pa.array(wanted))

    @staticmethod
    def _is_series(rows: pa.Table, dimensions: Mapping[str, str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        matches = np.ones(rows.num_rows, dtype=bool)
        for name in set(SERIES) & set(rows.column_names):
            matches &= pc.equal(rows.column(name).cast(pa.string()), dimensions.get(name, "")).to_numpy()
        return matches


def _vitals(rows: pa.Table, browser_aliases: Mapping[str, str]) -> pa.Table:
    width_s = WIDTH_S["web_vitals"]
    starts = rows.column("timestamp_ms").to_numpy() // (width_s * 1000) * width_s
    views = rows.append_column("window_start", pa.array(starts.astype(np.int64)))
    views = views.append_column("timestamp", rows.column("timestamp_ms"))
    nothing = pa.array([""] * rows.num_rows, pa.string())
    views = views.append_column("id", nothing).append_column("segment", nothing)
    views = views.append_column("position", pa.array(np.arange(rows.num_rows)))
    assessed = assess(views, browser_aliases, ("window_start", *WINDOW_DIMENSIONS))
    named = {"metric_type" if name == "vital" else name: assessed.column(name) for name in assessed.column_names}
    texts = {name: named[name].cast(pa.string()) for name in DIMENSIONS["web_vitals"]}
    order = [(name, "ascending") for name in ("window_start", *DIMENSIONS["web_vitals"])]
    return pa.table(named | texts).sort_by(order)
