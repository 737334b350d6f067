"""ClickHouse in memory, as far as the drainer leans on it: partitions, tokens, one constraint, reading back.

``test_model.py`` holds it against the real engine in exactly these points.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import pyarrow as pa

from pipeline.base.errors import StoreRefused
from pipeline.decode.columns import COLUMNS
from pipeline.metric import RUN_FIELDS

DAY_OF = {"metrics": "timestamp", "dead_letters": "refused_at"}
"""The column whose day is the partition."""

DEFAULTS = {"metrics": {name: 0 if name == "attempt" else "" for name in RUN_FIELDS}, "dead_letters": {}}
"""What a column that was not sent holds."""

VIOLATED_CONSTRAINT = 469

_SELECT = re.compile(r"SELECT (?P<columns>[\w, ]+) FROM (?P<table>\w+)( WHERE (?P<where>.*))?", re.DOTALL)
_CONDITIONS = {
    "segment = {segment:String}": lambda row, given: row["segment"] == given["segment"],
    "position >= {first:UInt32}": lambda row, given: row["position"] >= given["first"],
    "position < {last:UInt32}": lambda row, given: row["position"] < given["last"],
    "position IN {positions:Array(UInt32)}": lambda row, given: row["position"] in given["positions"],
}

Row = dict[str, Any]


class ClickHouseDouble:
    """Two tables. The caller of ``land`` decides what lands of an insert and what is remembered of it."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Row]] = {table: [] for table in DAY_OF}
        self.tokens: set[tuple[str, date, str]] = set()
        self.remembers = True
        """Whether tokens are remembered."""
        self.most: float | None = None
        """The constraint of ``metrics``: values above it are refused."""

    def insert(self, table: str, rows: pa.Table, *, token: str = "") -> int:
        """As ``Store.insert`` on a table that remembers tokens."""
        self.check(table, rows)
        self.land(table, rows, token)
        return rows.num_rows

    def check(self, table: str, rows: pa.Table) -> None:
        """Refuse the whole insert for one row that violates the constraint; its token is not remembered."""
        if table == "metrics" and self.most is not None and max(rows["value"].to_pylist()) > self.most:
            raise StoreRefused("Constraint `small` is violated", VIOLATED_CONSTRAINT)

    def land(
        self,
        table: str,
        rows: pa.Table,
        token: str,
        days: Iterable[date] | None = None,
        *,
        remembered: bool = True,
        shown: bool = True,
    ) -> int:
        """Each day's rows whole or, if its token is known there, not at all; the number of rows that landed."""
        landed = 0
        for day in self.days(table, rows) if days is None else days:
            if (table, day, token) in self.tokens:
                continue
            if token and remembered and self.remembers:
                self.tokens.add((table, day, token))
            if shown:
                there = [DEFAULTS[table] | row for row in rows.to_pylist() if row[DAY_OF[table]].date() == day]
                self.tables[table] += there
                landed += len(there)
        return landed

    def days(self, table: str, rows: pa.Table) -> list[date]:
        """The partitions that an insert touches."""
        return sorted({moment.date() for moment in rows[DAY_OF[table]].to_pylist()})

    def every_replica(self, table: str) -> str:
        """There is one."""
        return table

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The few questions that reading back asks; any other fails."""
        asked = _SELECT.fullmatch(sql)
        assert asked is not None, f"the double does not know {sql!r}"
        conditions = [_CONDITIONS[text] for text in (asked["where"] or "").split(" AND ") if text]
        names = asked["columns"].split(", ")
        rows = [
            {name: row[name] for name in names}
            for row in self.tables[asked["table"]]
            if all(holds(row, parameters) for holds in conditions)
        ]
        return pa.Table.from_pylist(rows, pa.schema([_field(name) for name in names]))


def _field(name: str) -> pa.Field:
    """As ``Store.query`` returns it: texts are plain strings."""
    kinds = {field.name: field.type for field in COLUMNS} | {"segment": pa.string(), "payload": pa.binary()}
    return pa.field(name, pa.string() if pa.types.is_dictionary(kinds[name]) else kinds[name])
