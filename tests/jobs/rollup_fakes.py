"""A store and a buffer in memory, for the many schedules that the real ones are too slow for.

They keep the promises the job builds on and no others: a query sees the rows present at that instant, an
insert lands whole, readers with FINAL see the highest revision of a key, a dirty minute's counter
grows with every touch and never returns to a value it had. Each operation passes ``before``, where a test dies, or lets
another process act.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.windows import ROW_COLUMNS, roll_up, stamp
from pipeline.jobs.rollup import TABLES

Row = dict[str, Any]

_RANGE = re.compile(
    r"fromUnixTimestamp64Milli\((\d+), 'UTC'\) AND timestamp < fromUnixTimestamp64Milli\((\d+), 'UTC'\)"
)
_SHARD = re.compile(r"% (\d+) = (\d+)")


def raw_table(rows: Iterable[Row]) -> pa.Table:
    """Raw rows with the columns that ``roll_up`` wants."""
    rows = list(rows)
    kinds = {"timestamp_ms": pa.int64(), "value": pa.float64()}
    return pa.table(
        {
            name: pa.array([row.get(name, "") for row in rows], kinds.get(name, pa.string()))
            for name in (*ROW_COLUMNS, "run_id")
        }
    )


@dataclass
class Steps:
    """Counts operations and, at a chosen one, does something else first."""

    at: int = 0
    action: Callable[[], None] | None = None

    def plan(self, at: int, action: Callable[[], None]) -> None:
        self.at, self.action = at, action

    def before(self) -> None:
        self.at -= 1
        if self.at == 0 and self.action is not None:
            action, self.action = self.action, None
            action()


@dataclass
class MemoryStore:
    """Raw rows and parts of the window tables."""

    steps: Steps = field(default_factory=Steps)
    raw: list[Row] = field(default_factory=list)
    parts: dict[str, list[pa.Table]] = field(default_factory=lambda: {table: [] for table in TABLES.values()})

    def insert(self, table: str, rows: pa.Table) -> None:
        self.steps.before()
        if rows.num_rows:
            self.parts[table].append(rows)
        # Dying here is an insert that landed and whose answer was lost.
        self.steps.before()

    def query(self, sql: str) -> pa.Table:
        self.steps.before()
        found = list(self._within(sql))
        shard = _SHARD.search(sql)
        if shard:
            shards, wanted = int(shard[1]), int(shard[2])
            found = [row for row in found if hash(tuple(row.get(name, "") for name in SERIES)) % shards == wanted]
        return raw_table(found)

    def rows(self, sql: str) -> list[tuple[int, int]]:
        counts: dict[int, int] = {}
        for row in self._within(sql):
            frame = row["timestamp_ms"] // 300_000 * 300
            counts[frame] = counts.get(frame, 0) + 1
        return list(counts.items())

    def _within(self, sql: str) -> Iterable[Row]:
        ranges = [(int(start), int(end)) for start, end in _RANGE.findall(sql)]
        return (row for row in self.raw if any(start <= row["timestamp_ms"] < end for start, end in ranges))

    def final(self, table: str) -> dict[tuple[Any, ...], Row]:
        """What a reader with FINAL sees: of each window and series the highest revision, the last written of equals."""
        best: dict[tuple[Any, ...], Row] = {}
        for part in self.parts[table]:
            for row in part.to_pylist():
                key = tuple(row[name] for name in ("window_start", *SERIES))
                if key not in best or row["revision"] >= best[key]["revision"]:
                    best[key] = row
        return best

    def expected(self, table: str, now_ms: int, grace_s: float) -> dict[tuple[Any, ...], Row]:
        """The same computation over all raw rows."""
        width_s = {name: width for width, name in TABLES.items()}[table]
        rows = stamp(roll_up(raw_table(self.raw), width_s), now_ms, grace_s).to_pylist()
        return {tuple(row[name] for name in ("window_start", *SERIES)): row for row in rows}


@dataclass
class MemoryBuffer:
    """The dirty minutes of one buffer."""

    steps: Steps = field(default_factory=Steps)
    minutes: dict[int, int] = field(default_factory=dict)
    touches: int = 0

    def touch(self, rows: Iterable[Row]) -> None:
        """An acknowledged chunk."""
        for minute in {row["timestamp_ms"] // 60_000 * 60 for row in rows}:
            self.touches += 1
            self.minutes[minute] = self.touches

    def dirty_minutes(self) -> dict[int, int]:
        self.steps.before()
        return dict(self.minutes)

    def forget_minutes(self, seen: Mapping[int, int]) -> None:
        self.steps.before()
        for minute, counter in seen.items():
            if self.minutes.get(minute) == counter:
                del self.minutes[minute]
        self.steps.before()


def without_time(rows: Mapping[tuple[Any, ...], Row]) -> dict[tuple[Any, ...], Row]:
    """Everything but when it was computed, floats as their bits."""
    return {
        key: {
            name: value.hex() if isinstance(value, float) else value
            for name, value in row.items()
            if name != "computed_at"
        }
        for key, row in rows.items()
    }
