"""Inserts that touch many days go in several: ClickHouse takes so many partitions in one block, and not more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PARTITIONS = 100
"""What one insert may touch (``max_partitions_per_insert_block``); each costs ClickHouse a part and a millisecond."""

DAY_MS = 86_400_000


def by_days(rows: pa.Table, column: str, most: int = MAX_PARTITIONS) -> Iterator[pa.Table]:
    """The rows in as few tables as possible, each with at most ``most`` days (UTC) of a timestamp column.

    A day lies in one of them whole, so that an insert stays atomic by the day. Nothing for no rows.
    """
    import numpy as np
    import pyarrow as pa

    if not rows.num_rows:
        return
    days = rows[column].cast(pa.int64()).to_numpy() // DAY_MS
    first, last = int(days.min()), int(days.max())
    if last - first < most:
        yield rows
        return
    distinct = np.unique(days)
    for start in range(0, len(distinct), most):
        group = distinct[start : start + most]
        yield rows.filter(pa.array((days >= group[0]) & (days <= group[-1])))
