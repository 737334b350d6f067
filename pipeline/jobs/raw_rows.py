"""Reads the raw rows of windows in pieces that fit into memory.

A piece is one query: the ranges of time of some 5-minute frames, together not more than ``PIECE_ROWS`` rows.
A frame that has more by itself is read in several shards of whole series, so that percentiles stay
exact. Raises ``StoreOutage`` when ClickHouse is away; nothing has happened then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.windows import ROW_COLUMNS
from pipeline.store.arrow import AS_DICTIONARIES

if TYPE_CHECKING:
    from pipeline.store.client import Store

MINUTE_S = 60
FRAME_S = 300
"""A frame is the span of one 5-minute window, and of the 1-minute windows in it."""

PIECE_ROWS = 1_000_000
"""Raw rows held at once: about 60 bytes each as they come, three times that while they are worked on."""

# One insert may touch at most 100 partitions (days), and frames far apart lie in different ones.
_PIECE_FRAMES = 100

_SELECTED = ", ".join(("toUnixTimestamp64Milli(timestamp) AS timestamp_ms", *ROW_COLUMNS[1:], "run_id"))
# One thread and one block: a third less work in all than many small ones, each with dictionaries of its own.
_AT_ONCE = f"{AS_DICTIONARIES}, max_threads = 1, max_block_size = {PIECE_ROWS}, preferred_block_size_bytes = 0"
_SHARD = f"cityHash64({', '.join(SERIES)})"


@dataclass(frozen=True)
class Piece:
    """Ranges [start, end) in epoch seconds by frame start, and into how many shards of series their rows are cut."""

    ranges: Mapping[int, tuple[int, int]]
    shards: int = 1


def pieces(store: Store, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Piece]:
    """Cut ``ranges`` (frame start to the part of it that is wanted) into pieces, in the order given."""
    frames = list(ranges)
    for first in range(0, len(frames), _PIECE_FRAMES):
        batch = {frame: ranges[frame] for frame in frames[first : first + _PIECE_FRAMES]}
        yield from _packed(batch, _count(store, batch))


def read(store: Store, piece: Piece, shard: int) -> pa.Table:
    """Raw rows of one shard of a piece, as ``windows.roll_up`` wants them, and the ``run_id`` of each."""
    # The drainer lets no other value in; one written by hand must not stop every window after it.
    condition = f"({_within(piece.ranges)}) AND isFinite(value)"
    if piece.shards > 1:
        condition += f" AND {_SHARD} % {piece.shards} = {shard}"
    return store.query(f"SELECT {_SELECTED} FROM metrics WHERE {condition} {_AT_ONCE}")


def _count(store: Store, ranges: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    counted = store.rows(
        f"SELECT intDiv(toUnixTimestamp(timestamp), {FRAME_S}) * {FRAME_S} AS frame, count() "
        f"FROM metrics WHERE {_within(ranges)} GROUP BY frame"
    )
    return {int(frame): int(rows) for frame, rows in counted}


def _packed(ranges: Mapping[int, tuple[int, int]], rows: Mapping[int, int]) -> Iterator[Piece]:
    packed: dict[int, tuple[int, int]] = {}
    held = 0
    for frame, span in ranges.items():
        found = rows.get(frame, 0)
        # Order is kept, so that the caller may note how far it has come.
        if packed and held + found > PIECE_ROWS:
            yield Piece(packed)
            packed, held = {}, 0
        packed[frame] = span
        held += found
        if held > PIECE_ROWS:
            yield Piece(packed, -(-held // PIECE_ROWS))
            packed, held = {}, 0
    if packed:
        yield Piece(packed)


def _within(ranges: Mapping[int, tuple[int, int]]) -> str:
    return " OR ".join(
        f"(timestamp >= fromUnixTimestamp64Milli({start * 1000}, 'UTC')"
        f" AND timestamp < fromUnixTimestamp64Milli({end * 1000}, 'UTC'))"
        for start, end in _joined(ranges)
    )


def _joined(ranges: Mapping[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring ranges as one: a shorter statement, and fewer ranges for the index to weigh."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges.values()):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
