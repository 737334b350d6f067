"""Window rows as arrays: what a source reads, and the groups that rules see in it.

Pure: tables in, arrays out. Rows stand in ascending order of (window_start, series), so the sums
of a tick are the same bits whichever range of ticks was read together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.alerts.rules.rule import Rule
from pipeline.analyse.histogram import Histograms
from pipeline.analyse.quantiles import Float64Array, IndexArray
from pipeline.analyse.series import factorise

LabelValues = tuple[str, ...]
"""The values of a rule's ``by``, in its order."""


@dataclass(frozen=True)
class Frame:
    """Rows of one table: when they apply, their dimensions, their numbers, their histograms (possibly none).

    ``starts_s`` (rows,) ascends; ``dimensions`` and every array of ``columns`` have as many rows.
    """

    starts_s: IndexArray
    dimensions: pa.Table
    columns: Mapping[str, Float64Array]
    histograms: Histograms
    width_s: int = 60

    @classmethod
    def of(cls, table: pa.Table, width_s: int = 60) -> Frame:
        """The rows of a query: ``window_start`` in epoch seconds, text columns, number columns, maybe ``histogram``."""
        texts, columns = {}, {}
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                texts[name] = column
            elif name not in ("window_start", "histogram"):
                columns[name] = column.to_numpy().astype(np.float64)
        starts = table.column("window_start").to_numpy().astype(np.int64)
        return cls(starts, _encoded(texts, len(starts)), columns, _histograms(table), width_s)


def empty_frame(dimensions: Sequence[str], columns: Sequence[str], width_s: int = 60) -> Frame:
    """A frame without rows."""
    table: dict[str, Any] = {"window_start": pa.array([], pa.int64())}
    table |= {name: pa.array([], pa.string()) for name in dimensions}
    table |= {name: pa.array([], pa.float64()) for name in columns}
    return Frame.of(pa.table(table), width_s)


@dataclass(frozen=True)
class Selection:
    """The rows that a rule looks at, each with the number of its group.

    ``rows`` (selected,) indexes the frame, ascending; ``group_of`` (selected,) lies in [0, groups).
    ``last_seen_s`` (groups,) is the start of the last window before the frame in which the group had
    samples, -1 where none is known. A rule without ``by`` has one group, whether or not it has rows.
    """

    frame: Frame
    rows: IndexArray
    group_of: IndexArray
    labels: pa.Table
    last_seen_s: IndexArray

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.last_seen_s)

    @cached_property
    def starts_s(self) -> IndexArray:
        """Window start of each selected row."""
        return self.frame.starts_s[self.rows]

    @cached_property
    def _label_values(self) -> list[LabelValues]:
        if not self.labels.column_names:
            return [()]
        return list(zip(*(column.to_pylist() for column in self.labels.columns), strict=True))

    @cached_property
    def _numbers(self) -> dict[LabelValues, int]:
        return {values: number for number, values in enumerate(self._label_values)}

    def number(self, values: LabelValues) -> int:
        """The group with these label values; -1 when it has no rows and is not remembered."""
        return self._numbers.get(values, -1)

    def label_values(self, groups: IndexArray) -> list[LabelValues]:
        """The label values of these groups."""
        known = self._label_values
        return [known[group] for group in groups.tolist()]


def select(frame: Frame, rule: Rule, last_seen: Frame | None = None) -> Selection:
    """Choose and group the rows of ``frame`` that concern ``rule``.

    ``last_seen`` has one row per series that had data before the frame begins, its last window as start.
    """
    rows = np.flatnonzero(_mask(frame, rule))
    earlier = np.flatnonzero(_mask(last_seen, rule)) if last_seen is not None else np.empty(0, np.int64)
    if not rule.by:
        last = int(last_seen.starts_s[earlier].max()) if last_seen is not None and len(earlier) else -1
        return Selection(frame, rows, np.zeros(len(rows), np.int64), pa.table({}), np.array([last], np.int64))
    parts = [frame.dimensions.select(rule.by).take(pa.array(rows))]
    if last_seen is not None:
        parts.append(last_seen.dimensions.select(rule.by).take(pa.array(earlier)))
    grouped = factorise(pa.concat_tables(parts).unify_dictionaries(), rule.by)
    newest_s = np.full(grouped.groups, -1, np.int64)
    if last_seen is not None:
        np.maximum.at(newest_s, grouped.ids[len(rows) :], last_seen.starts_s[earlier])
    return Selection(frame, rows, grouped.ids[: len(rows)], grouped.keys, newest_s)


def selection_key(rule: Rule) -> tuple[Any, ...]:
    """Rules with equal keys (over the same frames) share one selection."""
    return rule.metrics, tuple(sorted(rule.where.items())), rule.by, needs_memory(rule)


def needs_memory(rule: Rule) -> bool:
    """Whether the rule asks about series that have no rows now."""
    return rule.no_data == "alert" or rule.statistic == "age"


def _mask(frame: Frame, rule: Rule) -> NDArray[np.bool_]:
    mask = np.ones(len(frame.starts_s), dtype=bool)
    if "samples" in frame.columns:  # a window of nothing but retried attempts has no numbers
        mask &= frame.columns["samples"] > 0
    if rule.metrics and "metric_type" in frame.dimensions.column_names:
        mask &= _is_one_of(frame.dimensions.column("metric_type"), rule.metrics, lower=True)
    for name, values in rule.where.items():
        mask &= _is_one_of(frame.dimensions.column(name), values, lower=False)
    return mask


def _is_one_of(column: pa.ChunkedArray, wanted: Sequence[str], *, lower: bool) -> NDArray[np.bool_]:
    encoded = column.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        return np.zeros(0, dtype=bool)
    values = pc.utf8_lower(encoded.dictionary) if lower else encoded.dictionary
    chosen = pc.is_in(values, pa.array(wanted, values.type)).to_numpy(zero_copy_only=False).astype(bool)
    found: NDArray[np.bool_] = chosen[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _encoded(texts: Mapping[str, pa.ChunkedArray], rows: int) -> pa.Table:
    if not texts:
        return pa.table({"": pa.nulls(rows)}).select([])
    return pa.table(
        {
            name: column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            for name, column in texts.items()
        }
    ).unify_dictionaries()


def _histograms(table: pa.Table) -> Histograms:
    if "histogram" not in table.column_names or not table.num_rows:
        none = np.zeros(table.num_rows + 1, np.int64)
        return Histograms(none, np.empty(0, np.int32), np.empty(0, np.int64))
    maps = table.column("histogram").combine_chunks()
    if isinstance(maps, pa.ChunkedArray):
        maps = maps.chunk(0)
    offsets = maps.offsets.to_numpy().astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    return Histograms(
        offsets - first,
        maps.keys.to_numpy()[first:last].astype(np.int32),
        maps.items.to_numpy()[first:last].astype(np.int64),
    )
