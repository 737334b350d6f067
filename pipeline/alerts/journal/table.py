"""The ``alerts`` table: each transition stands there once.

The outbox names what may be missing; what is missing is inserted and read back before it leaves
the outbox. A row that was written twice by two processes at once is one row: the table replaces
rows of the same transition, and their content is the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.alerts.journal.journal import Journal
from pipeline.base import log
from pipeline.base.errors import StoreOutage
from pipeline.base.failpoints import hit
from pipeline.store.client import Store

_log = log.get(__name__)

_ROWS_AT_ONCE = 500

_TIME = pa.timestamp("ms", "UTC")
_SCHEMA = pa.schema(
    [
        ("at", _TIME),
        *((name, pa.string()) for name in ("rule", "alert_id", "transition_id", "from_state", "to_state")),
        *((name, pa.string()) for name in ("severity", "type")),
        ("labels", pa.map_(pa.string(), pa.string())),
        *((name, pa.float64()) for name in ("value", "threshold")),
        *((name, pa.string()) for name in ("reason", "message", "evidence")),
        *((name, _TIME) for name in ("active_since", "fired_at", "written_at")),
    ]
)


def flush(journal: Journal, store: Store) -> int:
    """Bring the outbox into the table; how many rows left the outbox.

    Raises ``StoreOutage`` or ``RedisOutage``; what was not confirmed stays in the outbox.
    """
    flushed = 0
    while waiting := journal.rows(_ROWS_AT_ONCE):
        rows = {row["transition_id"]: row for row in map(_row, waiting) if row is not None}
        missing = _missing(store, list(rows.values())) if rows else []
        if missing:
            hit("alerts.before_insert")
            store.insert("alerts", _arrow([rows[identity] for identity in missing]))
            hit("alerts.after_insert")
            if _missing(store, [rows[identity] for identity in missing]):
                raise StoreOutage("alerts that were inserted cannot be read back yet")
        journal.remove_rows(waiting)
        hit("alerts.after_table")
        flushed += len(waiting)
    return flushed


def _row(item: bytes) -> dict[str, Any] | None:
    """A row of the outbox; nothing of what another program put there, which is said and leaves the outbox."""
    try:
        row: dict[str, Any] = json.loads(item)
        _arrow([row])
        return row
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, pa.ArrowException) as error:
        _log.error("unreadable row removed", outbox="table", item=repr(item[:200]), error=str(error))
        return None


def _missing(store: Store, rows: Sequence[dict[str, Any]]) -> list[str]:
    identities = [row["transition_id"] for row in rows]
    found = store.rows(
        "SELECT DISTINCT transition_id FROM alerts WHERE at >= fromUnixTimestamp64Milli({from:Int64}) "
        "AND at <= fromUnixTimestamp64Milli({to:Int64}) AND transition_id IN {ids:Array(String)}",
        {"from": min(row["at"] for row in rows), "to": max(row["at"] for row in rows), "ids": identities},
    )
    there = {identity for (identity,) in found}
    return [identity for identity in identities if identity not in there]


def _arrow(rows: Sequence[dict[str, Any]]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in _SCHEMA.names}
    columns["labels"] = [list(labels.items()) for labels in columns["labels"]]
    columns["value"] = [math.nan if value is None else value for value in columns["value"]]
    return pa.table(columns, schema=_SCHEMA)
