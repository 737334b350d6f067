"""The schema as our migration files have it, held against the one that the database has.

That a migration is recorded does not prove that its tables are still there. ``differences`` compares every
table, column, type and view; each difference comes with its fix. Columns that a person added are no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.base.config import ClickHouseSettings, Settings
from pipeline.base.errors import ConfigError
from pipeline.store.client import Store
from pipeline.store.migrate import Dialect, Migration, check, migrations, view_statements

_CREATE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)\.(\w+)\s*(ON CLUSTER '[^']*')?\s*\(", re.IGNORECASE)
_CREATE_AS = re.compile(
    r"CREATE TABLE IF NOT EXISTS (\w+)\.(\w+)\s*(?:ON CLUSTER '[^']*')?\s*AS \w+\.(\w+)", re.IGNORECASE
)
_ALTER = re.compile(r"ALTER TABLE (\w+)\.(\w+)\s*(?:ON CLUSTER '[^']*')?\s+(.*)", re.IGNORECASE | re.DOTALL)
_ADD = re.compile(r"ADD COLUMN (?:IF NOT EXISTS )?(.*)", re.IGNORECASE | re.DOTALL)
_MODIFY = re.compile(r"MODIFY COLUMN (?:IF EXISTS )?(.*)", re.IGNORECASE | re.DOTALL)
_DROP = re.compile(r"DROP COLUMN (?:IF EXISTS )?(\w+)", re.IGNORECASE)
_RENAME = re.compile(r"RENAME COLUMN (?:IF EXISTS )?(\w+) TO (\w+)", re.IGNORECASE)
_NO_COLUMN = re.compile(r"(INDEX|PROJECTION|CONSTRAINT|PRIMARY KEY)\b", re.IGNORECASE)
_BY_MIGRATE = "run 'pipeline migrate', which makes it anew, empty"


@dataclass
class Table:
    """A table as the files have it: each column's type, and its whole definition, in order."""

    types: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)

    def put(self, definition: str) -> None:
        """Add a column, or change it."""
        name, _, rest = definition.strip().partition(" ")
        self.types[name] = _type_of(rest.strip())
        self.definitions[name] = " ".join(definition.split())


@dataclass(frozen=True)
class SchemaDifference:
    """What the database lacks or has otherwise, and what to do about it. ``column`` is empty for a whole table."""

    table: str
    column: str
    text: str
    fix: str


def expected(dialect: Dialect, files: Iterable[Migration]) -> dict[str, Table]:
    """Every table that the migrations leave behind."""
    tables: dict[str, Table] = {}
    for file in files:
        for statement in dialect.statements(file.text):
            _apply(statement, tables)
    return tables


def table_names(store: Store) -> list[str]:
    """Every table that holds metrics or what is computed of them; on a cluster the local ones too."""
    return list(expected(_dialect(store), migrations()))


def view_names(store: Store) -> list[str]:
    """Every view for analysts."""
    return list(view_statements(_dialect(store)))


def differences(store: Store) -> list[SchemaDifference]:
    """What is not as it should be. Needs no more than the right to read; raises ``StoreOutage``."""
    dialect = _dialect(store)
    found: dict[str, dict[str, str]] = {}
    for table, name, kind in store.rows(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase()"
    ):
        found.setdefault(table, {})[name] = kind
    # A view with parameters has no columns to show.
    there = {name for (name,) in store.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")}
    missing_views = [
        SchemaDifference(view, "", f"view {view} is missing", "run 'pipeline migrate'")
        for view in view_statements(dialect)
        if view not in there
    ]
    return [*_compare(expected(dialect, migrations()), found, store.database), *missing_views]


def _compare(wanted: dict[str, Table], found: dict[str, dict[str, str]], database: str) -> Iterator[SchemaDifference]:
    for name, table in wanted.items():
        if name not in found:
            yield SchemaDifference(name, "", f"table {name} is missing", _BY_MIGRATE)
            continue
        for column, kind in table.types.items():
            has = found[name].get(column)
            if has is None:
                yield SchemaDifference(name, column, f"column {name}.{column} is missing", _BY_MIGRATE)
            elif _squeezed(has) != _squeezed(kind):
                yield SchemaDifference(
                    name, column, f"column {name}.{column} is {has}, not {kind}",
                    f"ALTER TABLE {database}.{name} MODIFY COLUMN {column} {kind}",
                )  # fmt: skip


def check_schema(store: Store) -> None:
    """Make sure that migrations and tables are those that this version expects, with no more than the right to read.

    Raises ``ConfigError`` with the fix, ``MigrationError`` when an applied migration has changed.
    """
    check(store)
    wrong = differences(store)
    if wrong:
        more = f" (and {len(wrong) - 1} more: see 'pipeline doctor')" if len(wrong) > 1 else ""
        raise ConfigError(f"ClickHouse's schema is damaged: {wrong[0].text}{more}; {wrong[0].fix}")


def repairs(store: Store, wrong: Iterable[SchemaDifference]) -> Iterator[tuple[str, str]]:
    """Statements that bring back what is missing, each with its name; a wrong type is left to a person."""
    dialect = _dialect(store)
    files = migrations()
    tables = expected(dialect, files)
    gone = {one.table for one in wrong if not one.column}
    for file in files:
        for statement in dialect.statements(file.text):
            if (named := _subject(statement)) in gone:
                yield named, statement
    for one in wrong:
        if one.column and "is missing" in one.text:
            columns = list(tables[one.table].definitions)
            place = columns.index(one.column)
            where = f"AFTER {columns[place - 1]}" if place else "FIRST"
            table = dialect.fill("{database}." + one.table + " {on_cluster}")
            definition = tables[one.table].definitions[one.column]
            yield f"{one.table}.{one.column}", f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {definition} {where}"


# Reading our own SQL


def _apply(statement: str, tables: dict[str, Table]) -> None:
    if found := _CREATE.match(statement):
        table = tables.setdefault(found[2], Table())
        for part in _split(statement[found.end() : _closing(statement, found.end())]):
            if not _NO_COLUMN.match(part):
                table.put(part)
    elif found := _CREATE_AS.match(statement):
        like = tables[found[3]]
        tables.setdefault(found[2], Table(dict(like.types), dict(like.definitions)))
    elif found := _ALTER.match(statement):
        for action in _split(found[3]):
            _alter(tables.setdefault(found[2], Table()), action)


def _alter(table: Table, action: str) -> None:
    if found := _ADD.match(action) or _MODIFY.match(action):
        table.put(re.sub(r"\s+(AFTER \w+|FIRST)$", "", found[1].strip(), flags=re.IGNORECASE))
    elif found := _DROP.match(action):
        table.types.pop(found[1], None)
        table.definitions.pop(found[1], None)
    elif found := _RENAME.match(action):
        definition = table.definitions.pop(found[1])
        table.types.pop(found[1])
        table.put(found[2] + definition.removeprefix(found[1]))


def _subject(statement: str) -> str:
    found = _CREATE.match(statement) or _CREATE_AS.match(statement) or _ALTER.match(statement)
    return found[2] if found else ""


def _split(text: str) -> Iterator[str]:
    """The parts between commas that stand in no parentheses and no quotes."""
    part = ""
    for character, outside in _walk(text):
        if character == "," and outside:
            yield part.strip()
            part = ""
        else:
            part += character
    if part.strip():
        yield part.strip()


def _type_of(text: str) -> str:
    """What stands before the first blank that is outside of parentheses: ``Map(String, UInt64) DEFAULT …``."""
    kind = ""
    for character, outside in _walk(text):
        if character.isspace() and outside:
            break
        kind += character
    return kind


def _closing(text: str, start: int) -> int:
    """Where the parenthesis is closed that was opened before ``start``."""
    for place, (character, outside) in enumerate(_walk(text[start:])):
        if character == ")" and outside:
            return start + place
    raise ConfigError(f"a statement closes no parenthesis: {text[:60]}")


def _walk(text: str) -> Iterator[tuple[str, bool]]:
    """Each character, and whether it stands outside of parentheses and quotes; a surplus ")" stands outside."""
    depth, quoted = 0, False
    for character in text:
        if character == "'":
            quoted = not quoted
        if character == ")" and not quoted and depth:
            depth -= 1
            yield character, False
            continue
        yield character, depth == 0 and not quoted and character != "'"
        if character == "(" and not quoted:
            depth += 1


def _squeezed(kind: str) -> str:
    return "".join(kind.split())


def _dialect(store: Store) -> Dialect:
    clickhouse = ClickHouseSettings(dsn="embedded", database=store.database, cluster=store.cluster)
    return Dialect(Settings(clickhouse=clickhouse))
