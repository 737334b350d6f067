"""What the user of ``clickhouse.dsn`` may not do although a role needs it: ``run`` and its kin, or ``migrate``.

ClickHouse is asked by ``CHECK GRANT``, which executes nothing. What is asked for follows from the migrations and
views, so that a new table is asked for too. The shipped roles stand in config/clickhouse/users.d.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.base.errors import StoreRefused
from pipeline.base.sql_text import identifier
from pipeline.store.client import Store
from pipeline.store.schema import table_names, view_names

SYSTEM_TABLES = ("columns", "functions", "mutations", "parts", "settings", "tables")
"""Of ClickHouse's own tables those that the product reads."""

OWN_RECORDS = "schema_migrations"
_SYNTAX_ERROR = 62
_SHOWN = 4


def service_needs(store: Store) -> list[str]:
    """Rights that ``pipeline run``, ``drain`` and ``rollup`` need."""
    tables = table_names(store)
    wanted = [f"SELECT ON {_named(store, name)}" for name in (*tables, OWN_RECORDS, *view_names(store))]
    wanted += [f"INSERT ON {_named(store, name)}" for name in tables]
    wanted += [f"SELECT ON system.{name}" for name in SYSTEM_TABLES]
    if store.cluster:
        # What an insert in doubt left behind is asked of all replicas.
        wanted += ["CREATE TEMPORARY TABLE ON *.*", "REMOTE ON *.*"]
    return wanted


def migration_needs(store: Store) -> list[str]:
    """Rights that ``pipeline migrate`` needs."""
    everything = f"{identifier(store.database)}.*"
    wanted = [
        f"{right} ON {everything}"
        for right in ("SELECT", "INSERT", "ALTER TABLE", "CREATE DATABASE", "CREATE TABLE", "CREATE VIEW")
    ]
    wanted += [f"DROP {what} ON {everything}" for what in ("TABLE", "VIEW")]
    wanted += ["CREATE FUNCTION ON *.*", "DROP FUNCTION ON *.*"]
    wanted += [f"SELECT ON system.{name}" for name in SYSTEM_TABLES]
    if store.cluster:
        wanted += ["CLUSTER ON *.*", "REMOTE ON *.*"]
    return wanted


def missing_rights(store: Store, wanted: Iterable[str]) -> list[str] | None:
    """Those that the user lacks; None when this ClickHouse is too old to be asked. Raises ``StoreOutage``."""
    lacking = []
    for right in wanted:
        try:
            granted = store.is_granted(right)
        except StoreRefused as refused:
            if refused.code == _SYNTAX_ERROR:
                return None
            raise
        if not granted:
            lacking.append(right)
    return lacking


def in_short(rights: Iterable[str]) -> str:
    """``INSERT ON a.b, INSERT ON a.c`` as ``INSERT ON a.b, a.c``, the first few of them."""
    places: dict[str, list[str]] = {}
    for right in rights:
        kind, _, place = right.replace("`", "").partition(" ON ")
        places.setdefault(kind, []).append(place)
    return "; ".join(f"{kind} ON {_first_few(found)}" for kind, found in places.items())


def _first_few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _named(store: Store, name: str) -> str:
    return f"{identifier(store.database)}.{identifier(name)}"
