"""Reads the raw rows of Web Vitals in pieces that fit into memory, and keeps of each what counts.

A row comes with its page view's id, segment and position, some 100 bytes; what counts of it are its value and
the group it belongs to, 16 bytes. So a span of time is read one vital after the other, and a vital with many
rows in several shards of whole page views, of which only the last report counts. Every figure stays exact.
Raises ``StoreOutage`` when ClickHouse is away; nothing has happened then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.analyse.dimensions import VITALS
from pipeline.analyse.vitals import last_reports
from pipeline.base.errors import Stopped
from pipeline.store.arrow import AS_DICTIONARIES

if TYPE_CHECKING:
    from pipeline.store.client import Store

PIECE_ROWS = 250_000
"""Raw rows held at once."""

_WITHIN = """
metric_type IN {types:Array(String)} AND isFinite(value)
  AND timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
"""
"""The drainer lets no value in that is not finite; one written by hand must not stop every window after it."""

_COUNT = """
SELECT metric_type, intDiv(toUnixTimestamp(timestamp), {width_s:UInt32}) * {width_s:UInt32} AS start, count()
FROM metrics
WHERE lower(metric_type) IN {vitals:Array(String)} AND isFinite(value)
  AND timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
GROUP BY metric_type, start
"""

_SHARD = """
  AND if(empty(tags['id']), cityHash64(segment, position), cityHash64(tags['id'])) % {shards:UInt32} = {shard:UInt32}
"""


@dataclass(frozen=True)
class Span:
    """Rows of the vitals in [from_ms, to_ms): ``rows`` by spelling of the metric type."""

    from_ms: int
    to_ms: int
    rows: Mapping[str, int]

    @property
    def total(self) -> int:
        """Rows of all vitals."""
        return sum(self.rows.values())


def count(store: Store, from_ms: int, to_ms: int, width_s: int) -> dict[int, dict[str, int]]:
    """Rows by start of a window of ``width_s`` (epoch seconds) and spelling of the metric type."""
    counted: dict[int, dict[str, int]] = {}
    span = {"vitals": list(VITALS), "from_ms": from_ms, "to_ms": to_ms, "width_s": width_s}
    for metric_type, start, rows in store.rows(_COUNT, span):
        counted.setdefault(int(start), {})[metric_type] = int(rows)
    return counted


def span_of(store: Store, from_ms: int, to_ms: int) -> Span:
    """One span of any length, its rows counted."""
    rows: dict[str, int] = {}
    for of_window in count(store, from_ms, to_ms, 3600).values():
        for metric_type, found in of_window.items():
            rows[metric_type] = rows.get(metric_type, 0) + found
    return Span(from_ms, to_ms, rows)


def read(
    store: Store, span: Span, dimensions: Sequence[str], *, types: Sequence[str] = (), shards: int = 1, shard: int = 0
) -> pa.Table:
    """Raw rows of a span, as ``analyse.vitals`` wants them; of some spellings only, and of one shard."""
    columns = dict.fromkeys(("metric_type", "browser", *dimensions, "value", "timestamp"))
    given: dict[str, Any] = {"types": list(types or span.rows), "from_ms": span.from_ms, "to_ms": span.to_ms}
    sql = f"SELECT {', '.join(columns)}, tags['id'] AS id, segment, position FROM metrics WHERE {_WITHIN}"
    if shards > 1:
        sql += _SHARD
        given |= {"shards": shards, "shard": shard}
    return store.query(sql + AS_DICTIONARIES, given)


def reports(
    store: Store,
    span: Span,
    browser_aliases: Mapping[str, str],
    dimensions: Sequence[str],
    stop: threading.Event,
) -> Iterator[pa.Table]:
    """The reports that count: each table holds all of one or several vitals, ready to be assessed."""
    for types, rows in _pieces(span.rows):
        shards = max(1, -(-rows // PIECE_ROWS))
        parts = []
        for shard in range(shards):
            if stop.is_set():
                raise Stopped("reading web vitals was stopped between two pieces")
            piece = read(store, span, dimensions, types=types, shards=shards, shard=shard)
            parts.append(last_reports(piece, browser_aliases, dimensions))
        yield pa.concat_tables(parts).unify_dictionaries()


def _pieces(rows: Mapping[str, int]) -> Iterator[tuple[list[str], int]]:
    """Spellings that are read together, and how many rows they have; all spellings of a vital stay together."""
    spelt: dict[str, list[str]] = {}
    for metric_type in sorted(rows):
        spelt.setdefault(metric_type.lower(), []).append(metric_type)
    types: list[str] = []
    held = 0
    for spellings in spelt.values():
        found = sum(rows[spelling] for spelling in spellings)
        if types and held + found > PIECE_ROWS:
            yield types, held
            types, held = [], 0
        types = [*types, *spellings]
        held += found
    if types:
        yield types, held
