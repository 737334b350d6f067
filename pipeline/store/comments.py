"""What tables and columns mean: ``sql/comments.yaml``, put into the statements that create them.

A table that is there already, from an earlier version, is brought up to date by ``pipeline migrate``. Comments in the
migrations themselves win.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import yaml

from pipeline.base import resources
from pipeline.base.sql_text import identifier, literal
from pipeline.store.client import Store

_CREATE = re.compile(r"CREATE (?:OR REPLACE )?TABLE (?:IF NOT EXISTS )?\w+\.(?P<table>\w+)")
_COLUMN = re.compile(r"^ {4}(?P<name>\w+) +[A-Z][^\n]*?(?P<comma>,?)$", re.MULTILINE)


@cache
def _known() -> dict[str, dict[str, str]]:
    read: dict[str, dict[str, str]] = yaml.safe_load(resources.text("sql/comments.yaml"))
    return read


def of_table(table: str) -> str:
    """What one row of it is; empty when nothing is said."""
    return _known()["tables"].get(table.removesuffix("_local"), "")


def of_column(table: str, column: str) -> str:
    """What a column means; empty when nothing is said."""
    own: dict[str, str] = _known()["of_table"].get(table.removesuffix("_local"), {})  # type: ignore[assignment]
    return own.get(column, _known()["columns"].get(column, ""))


def commented(statement: str) -> str:
    """A statement that creates a table, with comments; any other as it is."""
    created = _CREATE.match(statement)
    if created is None:
        return statement
    table = created["table"]

    def with_comment(line: re.Match[str]) -> str:
        text = of_column(table, line["name"])
        if not text or " COMMENT " in line[0]:
            return line[0]
        return f"{line[0].removesuffix(',')} COMMENT {literal(text)}{line['comma']}"

    about = f"\nCOMMENT {literal(of_table(table))}" if of_table(table) else ""
    return _COLUMN.sub(with_comment, statement) + about


def missing(store: Store) -> Iterator[tuple[str, str]]:
    """By table: what of an ALTER TABLE gives tables and columns the comments that they lack or have otherwise."""
    changes: dict[str, list[str]] = defaultdict(list)
    tables = store.rows(
        "SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND engine NOT LIKE '%View'"
    )
    for table, comment in tables:
        if (text := of_table(table)) and text != comment:
            changes[table].append(f"MODIFY COMMENT {literal(text)}")
    columns = store.rows(
        "SELECT table, name, comment FROM system.columns "
        "WHERE database = currentDatabase() AND table IN {t:Array(String)}",
        {"t": [name for name, _ in tables]},
    )
    for table, column, comment in columns:
        if not comment and (text := of_column(table, column)):
            changes[table].append(f"COMMENT COLUMN {identifier(column)} {literal(text)}")
    for table, actions in changes.items():
        yield table, ", ".join(actions)
