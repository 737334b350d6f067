"""What the columns of runs and attempts cost items that do not carry them.

The same rows go, in turn, into a table like ``metrics`` and into one without these columns. Told are the bytes a row
on disk, indexes included, after all parts were merged into one, and the CPU of an insert.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.metric import RUN_FIELDS
from pipeline.store.client import Store

_WITH, _WITHOUT = "with_run_columns", "without_run_columns"


def measure(store: Store, tables: list[pa.Table], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Insert ``tables`` into both, ``rounds`` times."""
    store.command(f"CREATE TABLE {_WITH} AS metrics")
    store.command(f"CREATE TABLE {_WITHOUT} AS metrics")
    try:
        for (name,) in store.rows(
            "SELECT name FROM system.data_skipping_indices"
            " WHERE database = currentDatabase() AND table = {table:String} AND match(expr, {fields:String})",
            {"table": _WITHOUT, "fields": rf"\b({'|'.join(RUN_FIELDS)})\b"},
        ):
            store.command(f"ALTER TABLE {_WITHOUT} DROP INDEX {name}")
        store.command(f"ALTER TABLE {_WITHOUT} " + ", ".join(f"DROP COLUMN {name}" for name in RUN_FIELDS))
        cpu_us: dict[str, list[float]] = {_WITH: [], _WITHOUT: []}
        for number in range(2 * rounds):
            for name in (_WITH, _WITHOUT) if number % 2 else (_WITHOUT, _WITH):
                cpu_us[name].append(_insert(store, name, tables))
        sizes = {name: _bytes_per_row(store, name) for name in cpu_us}
    finally:
        for name in (_WITH, _WITHOUT):
            store.command(f"DROP TABLE IF EXISTS {name} SYNC")
    cost = {name: statistics.median(taken) for name, taken in cpu_us.items()}
    told = {
        "bytes_per_row": round(sizes[_WITH], 3),
        "bytes_per_row_without": round(sizes[_WITHOUT], 3),
        "bytes_more": round(sizes[_WITH] - sizes[_WITHOUT], 3),
        "insert_cpu_us_per_row": round(cost[_WITH], 3),
        "insert_cpu_us_per_row_without": round(cost[_WITHOUT], 3),
        "insert_cpu_more_percent": round(100 * (cost[_WITH] / cost[_WITHOUT] - 1), 1),
    }
    say(f"columns of runs: {told['bytes_more']} bytes a row, {told['insert_cpu_more_percent']} % of an insert's CPU")
    return told


def _insert(store: Store, name: str, tables: list[pa.Table]) -> float:
    """Empty the table and fill it; microseconds of CPU a row."""
    store.command(f"TRUNCATE TABLE {name}")
    cpu_s = time.process_time()
    for table in tables:
        store.insert(name, table)
    rows: int = sum(table.num_rows for table in tables)
    return (time.process_time() - cpu_s) / rows * 1e6


def _bytes_per_row(store: Store, name: str) -> float:
    store.command(f"OPTIMIZE TABLE {name} FINAL")
    ((size, rows),) = store.rows(
        "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts"
        " WHERE active AND database = currentDatabase() AND table = {table:String}",
        {"table": name},
    )
    return float(size) / float(rows)
