"""Errors about the engine's own tables, in the words of the statement that was asked.

Of such a table analysts read the listed columns alone: ``statement_tree`` puts a subquery of them in its place. An
error of the engine shows that subquery, and of a column that is closed it says that there is none. Pure.
"""

import re
from collections.abc import Iterable, Mapping

from pipeline.embedded import statement_lists as lists

_IDENTIFIER = re.compile(r"[Ii]dentifier [`']([^`']+)[`']")


def _selected(table: str, columns: Iterable[str]) -> re.Pattern[str]:
    """The subquery of ``columns`` as the engine writes it, keywords in backquotes; its alias too where that is the
    table's own name."""
    names = ", ".join(f"`?{name}`?" for name in columns)
    select = rf"SELECT {names} FROM system\.`?{table}`?"
    return re.compile(rf"(?:subquery )?\({select}\)(?: AS {table}\b)?|subquery {select}")


_SELECTED = {table: _selected(table, columns) for table, columns in lists.SYSTEM.items() if columns}


def tables_in(error: str) -> frozenset[str]:
    """The tables of ``system`` with closed columns that the statement of an error reads."""
    return frozenset(table for table, pattern in _SELECTED.items() if pattern.search(error))


def as_asked(error: str) -> str:
    """The text of an error with the tables in the places of their subqueries."""
    for table, pattern in _SELECTED.items():
        error = pattern.sub(f"system.{table}", error)
    return error


def closed_column(error: str, columns: Mapping[str, Iterable[str]]) -> str:
    """The column that the engine did not find because it is closed, as ``system.tables.data_paths``; else empty.

    ``error`` says that an identifier is unknown; ``columns`` has all columns of the tables of ``tables_in``.
    """
    found = _IDENTIFIER.search(error)
    asked = f".{found[1]}." if found else ""
    closed = (
        f"system.{table}.{column}"
        for table, all_columns in columns.items()
        for column in all_columns
        if column not in (lists.SYSTEM[table] or ()) and f".{column}." in asked
    )
    return next(closed, "")
