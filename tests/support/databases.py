"""Migrated databases that tests hand on: migrating takes most of a second of CPU, emptying a few hundredths.

A database is given back as a migration leaves it. Tables that ever held a part are made anew, so that no row, mutation,
remembered token or stopped merge is left; where a definition or the noted migrations differ, the database is dropped.
"""

from typing import Any

from pipeline.base.config import Settings
from pipeline.base.errors import PipelineError
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

_DEFINITIONS = (
    "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name",
    "SELECT * FROM schema_migrations ORDER BY ALL",
)
_USED = (
    "SELECT DISTINCT table FROM (SELECT table FROM system.parts WHERE database = currentDatabase() "
    "UNION ALL SELECT table FROM system.mutations WHERE database = currentDatabase()) "
    "WHERE table != 'schema_migrations'"
)


class LentDatabases:
    """The databases of one process: those that are free, and how each looked when it was migrated."""

    def __init__(self) -> None:
        self._free: list[str] = []
        self._lent: set[str] = set()
        self._migrated: dict[str, list[Any]] = {}

    def take(self, new: str) -> str:
        """The name of a free database, or ``new`` when there is none."""
        name = self._free.pop() if self._free else new
        self._lent.add(name)
        return name

    def prepare(self, store: Store, settings: Settings) -> None:
        """Migrate the database, unless it was and is still there."""
        if store.database in self._migrated:
            try:
                store.rows("SELECT count() FROM schema_migrations")
            except PipelineError:  # a test that shared it has dropped it
                pass
            else:
                return
        migrate(store, settings)
        self._migrated[store.database] = _looks_like(store)

    def give_back(self, store: Store) -> None:
        """Empty the database for the next test; drop it when it is not as it was, or has settings of its own."""
        try:
            is_sound = store.database in self._lent and self._migrated.get(store.database) == _looks_like(store)
            if is_sound:
                definitions = dict(self._migrated[store.database][0])
                for (table,) in store.rows(_USED):
                    store.command(f"DROP TABLE {table} SYNC")
                    store.command(definitions[table])
        except Exception:
            is_sound = False
        self._lent.discard(store.database)
        if is_sound:
            self._free.append(store.database)
        else:
            self._migrated.pop(store.database, None)
            store.command(f"DROP DATABASE IF EXISTS {store.database} SYNC")


def _looks_like(store: Store) -> list[Any]:
    return [store.rows(question) for question in _DEFINITIONS]
