"""Brings the database to the schema this version expects; safe to run again, at once, and after a crash.

Numbered files in ``sql/migrations`` are applied once, in order, and recorded with the checksum of
their statements: a file that changed after it was applied, or a record of a file we do not have, stops
everything. Every statement can be run twice (``IF NOT EXISTS``), so a crash between two of them
needs no repair, and two migrators at once do no harm. Functions and views carry no data and are
created anew each time; so is what follows from settings (TTL). When ClickHouse is away,
``StoreOutage`` comes through; the caller tries again.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.base import log, resources
from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError, MigrationError, StoreRefused
from pipeline.base.sql_text import literal
from pipeline.store import comments
from pipeline.store.client import Store

_log = log.get(__name__)

# Nothing may expire while it can still be verified or rolled up: two days more than the oldest
# timestamp accepted, and an hour because TTLs count whole hours.
RAW_TTL_MARGIN_HOURS = 49

_FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")
_PLACEHOLDER = re.compile(
    r"\{(database|on_cluster|cluster|dedup_window|hashed_from|raw_ttl_hours|rollup_ttl_days|browsers_as_sent|"
    r"browsers_as_reported|(?:engine|local):[^{}]*)\}"
)
_VIEW_COLUMN = re.compile(r"--   (\w+) (.+)")
_ONLY_ON_CLUSTER = "-- cluster"
_TTL = re.compile(r"CREATE TABLE IF NOT EXISTS \w+\.(\w+).*\nTTL ([^\n]+)", re.DOTALL)
_TTL_LENGTH = re.compile(r"\bTTL\b.*?\btoInterval(\w+)\((\d+)\)")
_HOURS = {"Hour": 1, "Day": 24, "Week": 168, "Month": 28 * 24, "Quarter": 90 * 24, "Year": 365 * 24}
"""By the unit of a TTL, which may have been changed by hand; the least that it can be."""
_TTL_LENGTH_WRITTEN = re.compile(r"INTERVAL (\d+) (\w+)")

_RECORDS = """CREATE TABLE IF NOT EXISTS {database}.schema_migrations {on_cluster}
(
    version    UInt32,
    name       String,
    checksum   FixedString(64),
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine:ReplacingMergeTree:schema_migrations:applied_at}
ORDER BY version
"""


DEDUP_WINDOW_S = 7 * 86_400
"""An insert that arrives late is known by its token for a week; as long may an outage last."""

PLAIN_DEDUP_WINDOW_BLOCKS = 1000
"""Tokens that a table without replicas remembers for each partition."""

_MIN_DEDUP_WINDOW_BLOCKS = 10_000
_MAX_DEDUP_WINDOW_BLOCKS = 1_000_000
_LATE_INSERT_S = 6 * 3600
"""For this long a drainer may have slept, or a request have hung, before its insert arrives."""


def dedup_window_blocks(settings: Settings) -> int:
    """How many blocks a replicated table remembers, so that the token of an insert six hours late is known still.

    A drainer inserts once every ``drainer.flush_interval_s`` when little comes, and about as often when much does;
    each insert is a block for every day that its rows belong to, two as a rule. Keeper holds some 100 bytes for each.
    """
    buffers = 1 if isinstance(settings.buffer.key, str) else len(settings.buffer.key)
    blocks = 2 * buffers * _LATE_INSERT_S / settings.drainer.flush_interval_s
    return min(max(math.ceil(blocks), _MIN_DEDUP_WINDOW_BLOCKS), _MAX_DEDUP_WINDOW_BLOCKS)


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's statements, in hexadecimal; comments and line breaks do not count."""
        statements = [[one.only_on_cluster, " ".join(one.text.split())] for one in split(self.text)]
        return hashlib.sha256(json.dumps(statements).encode()).hexdigest()


# Earlier versions recorded the checksum of the whole text of these.
_OF_WHOLE_TEXTS = {
    1: "49ed9cfade0d068eba5ca86de2a04a1159f63efcf5f175dc0c84c7ad10b4c5f4",
    2: "a04ae6ea3f7120d955d8def5c168fe8c85dea5919d667ef386ef889db87300a7",
    3: "4bb458392c6f0753d8c6026aad7ee1ffc337e25f4c481512068e7a6d9cf5da54",
}


@dataclass(frozen=True)
class Statement:
    """A statement of a migration file, its placeholders not filled."""

    text: str
    only_on_cluster: bool


def split(text: str) -> Iterator[Statement]:
    """The statements of a file: each ends with a semicolon at the end of a line."""
    comments: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("--"):
            comments.append(line.strip())
            continue
        if line.strip() or lines:
            lines.append(line)
        if line.rstrip().endswith(";"):
            yield Statement("\n".join(lines).strip().removesuffix(";"), _ONLY_ON_CLUSTER in comments)
            comments, lines = [], []
    if lines:
        raise MigrationError(f"a statement has no semicolon at its end: {lines[0]}")


class Dialect:
    """Fills the placeholders of our SQL files for one set of settings."""

    def __init__(self, settings: Settings, raw_hours: int | None = None, hashed_from: int = 0) -> None:
        self._database = settings.clickhouse.database
        self._cluster = settings.clickhouse.cluster
        self._values = {
            "database": self._database,
            "cluster": self._cluster,
            "on_cluster": f"ON CLUSTER '{self._cluster}'" if self._cluster else "",
            "dedup_window": (
                f"replicated_deduplication_window = {dedup_window_blocks(settings)}, "
                f"replicated_deduplication_window_seconds = {DEDUP_WINDOW_S}"
                if self._cluster
                else f"non_replicated_deduplication_window = {PLAIN_DEDUP_WINDOW_BLOCKS}"
            ),
            "hashed_from": str(hashed_from),
            "raw_ttl_hours": str((raw_hours or settings.retention.raw_hours) + RAW_TTL_MARGIN_HOURS),
            "rollup_ttl_days": str(settings.retention.rollup_days),
            "browsers_as_sent": _array(name.lower() for name in settings.vitals.browser_aliases),
            "browsers_as_reported": _array(settings.vitals.browser_aliases.values()),
        }

    def statements(self, text: str) -> Iterator[str]:
        """The statements of a file that are meant for these settings, ready to run."""
        for statement in split(text):
            if self._cluster or not statement.only_on_cluster:
                yield self.fill(statement.text)

    def fill(self, text: str) -> str:
        """``text`` with every placeholder replaced."""
        return _PLACEHOLDER.sub(self._replacement, text)

    def _replacement(self, found: re.Match[str]) -> str:
        kind, *arguments = found.group(1).split(":")
        if kind == "local":
            return f"{arguments[0]}_local" if self._cluster else arguments[0]
        if kind == "engine":
            return self._engine(*arguments)
        return self._values[kind]

    def _engine(self, name: str, table: str, *arguments: str) -> str:
        if not self._cluster:
            return f"{name}({', '.join(arguments)})"
        # {shard} and {replica} are the server's own macros.
        path, replica = f"/clickhouse/tables/{{shard}}/{self._database}/{table}", "{replica}"
        if table == "schema_migrations":  # the same on every node, so one table without shards
            path, replica = f"/clickhouse/tables/{self._database}/{table}", "{shard}-{replica}"
        return f"Replicated{name}({', '.join((repr(path), repr(replica), *arguments))})"


def _array(texts: Iterable[str]) -> str:
    """An array of strings; the empty one stands for itself, so that the array is never without a type."""
    return f"[{', '.join(literal(text) for text in ('', *texts))}]"


def migrate(store: Store, settings: Settings, *, raw_hours: int | None = None) -> list[str]:
    """Apply what is missing; returns the names of the migrations applied now.

    ``raw_hours`` overrides ``retention.raw_hours`` (Redis may, see the platform's schema).
    Raises ``MigrationError`` naming the file when an applied one has changed, is unknown here, or fails.
    """
    dialect = Dialect(settings, raw_hours)
    store.command(dialect.fill("CREATE DATABASE IF NOT EXISTS {database} {on_cluster}"))
    store.command(comments.commented(dialect.fill(_RECORDS)))
    available = migrations()
    applied = _applied(store)
    dialect = Dialect(settings, raw_hours, _hashed_from(store))
    _check(available, applied)
    missing = [migration for migration in available if migration.version not in applied]
    for migration in missing:
        _apply(store, dialect, migration)
    repaired = _repair(store)
    _apply_ttl(store, dialect, available)
    _apply_comments(store, dialect)
    _create_functions(store, dialect)
    _create_views(store, dialect)
    _verify(store)
    return [migration.name for migration in missing] + repaired


def _repair(store: Store) -> list[str]:
    """Bring back tables and columns that were removed since; a wrong type is left to a person.

    What was in them is gone: rows read as empty values, and ``pipeline audit`` says which are missing.
    """
    from pipeline.store import schema  # which reads our files by what is here

    repaired = []
    for name, statement in schema.repairs(store, schema.differences(store)):
        _log.warning("schema repaired", made_anew=name)
        _run(store, comments.commented(statement), name)
        repaired.append(f"{name} (made anew)")
    return list(dict.fromkeys(repaired))


def _verify(store: Store) -> None:
    """Raise ``MigrationError`` with the fix when the database is still not as it should be."""
    from pipeline.store import schema

    left = schema.differences(store)
    if left:
        raise MigrationError(f"{left[0].text}; {left[0].fix}")


def check(store: Store) -> None:
    """Make sure that the schema is the one this version expects, with no more than the right to read.

    Raises ``ConfigError`` when migrations are missing, ``MigrationError`` when an applied one has changed.
    """
    available = migrations()
    try:
        applied = _applied(store)
    except StoreRefused:
        applied = {}  # neither database nor records
    _check(available, applied)
    missing = [migration.name for migration in available if migration.version not in applied]
    if missing:
        raise ConfigError(f"ClickHouse lacks the schema ({', '.join(missing)}): run 'pipeline migrate' first")


def engine_of(store: Store, name: str) -> str:
    """Engine, TTL and settings of the table that holds the rows, as SQL; empty when there is no such table."""
    table = f"{name}_local" if store.cluster else name
    sql = "SELECT any(engine_full) FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"
    return str(store.rows(sql, {"table": table})[0][0])


def kept_hours(store: Store) -> int | None:
    """How long ``metrics`` keeps its rows now, whatever was configured since; ``None`` is for ever."""
    kept = _TTL_LENGTH.search(engine_of(store, "metrics"))
    return int(kept[2]) * _HOURS[kept[1]] if kept else None


def migrations() -> list[Migration]:
    """The files we have, in order."""
    found = []
    for file in sorted(resources.path("sql/migrations").glob("*.sql")):
        name = _FILE_NAME.fullmatch(file.name)
        if name is None:
            raise MigrationError(f"{file.name}: a migration is named 0001_what_it_does.sql")
        found.append(Migration(int(name[1]), file.stem, file.read_text(encoding="utf-8")))
    return found


def _applied(store: Store) -> dict[int, tuple[str, str]]:
    rows = store.rows("SELECT version, name, toString(checksum) FROM schema_migrations ORDER BY version")
    return {version: (name, checksum) for version, name, checksum in rows}


def _check(available: list[Migration], applied: dict[int, tuple[str, str]]) -> None:
    known = {migration.version: migration for migration in available}
    for version, (name, checksum) in applied.items():
        if version not in known:
            raise MigrationError(f"the database was migrated by a newer version: it has {name}, which is unknown here")
        if checksum not in (known[version].checksum, _OF_WHOLE_TEXTS.get(version)):
            raise MigrationError(
                f"{known[version].name}.sql was changed after it was applied; put it back and write a new migration"
            )


def _hashed_from(store: Store) -> int:
    """The first window, in epoch seconds, that is placed by a hash of its start; see ``0004_sharding.sql``."""
    tables = ("metrics_1min", "metrics_5min", "web_vitals")
    there = {
        name
        for (name,) in store.rows(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND name IN {tables:Array(String)}",
            {"tables": list(tables)},
        )
    }
    newest = [store.rows(f"SELECT toUnixTimestamp(max(window_start)) FROM {name}")[0][0] for name in sorted(there)]
    last = int(max(newest, default=0))
    return last + 86_400 if last else 0


def _apply(store: Store, dialect: Dialect, migration: Migration) -> None:
    for statement in dialect.statements(migration.text):
        _run(store, comments.commented(statement), f"{migration.name}.sql")
    store.command(
        "INSERT INTO schema_migrations (version, name, checksum) "
        f"VALUES ({migration.version}, '{migration.name}', '{migration.checksum}')"
    )


def _apply_ttl(store: Store, dialect: Dialect, available: list[Migration]) -> None:
    """Retention is a setting: where a table's TTL differs from it, the table follows."""
    wanted = {
        found[1]: found[2]
        for migration in available
        for statement in dialect.statements(migration.text)
        if (found := _TTL.match(statement))
    }
    present = dict(store.rows("SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"))
    for table, ttl in wanted.items():
        length, unit = _TTL_LENGTH_WRITTEN.findall(ttl)[0]
        is_now = _TTL_LENGTH.search(present.get(table, ""))
        if is_now and (is_now[1].lower(), is_now[2]) != (unit.lower(), length):
            store.command(dialect.fill(f"ALTER TABLE {{database}}.{table} {{on_cluster}} MODIFY TTL {ttl}"))


def keep(store: Store, settings: Settings, raw_hours: int) -> None:
    """Change how long raw rows are kept, while everything runs; nothing is done where it is so already.

    Raises ``StoreRefused`` when the user may not alter tables.
    """
    _apply_ttl(store, Dialect(settings, raw_hours, _hashed_from(store)), migrations())


def _apply_comments(store: Store, dialect: Dialect) -> None:
    """Tables of earlier versions get the comments that they lack; those made now have them."""
    for table, changes in comments.missing(store):
        _run(store, dialect.fill(f"ALTER TABLE {{database}}.{table} {{on_cluster}} ") + changes, "comments.yaml")


def _create_functions(store: Store, dialect: Dialect) -> None:
    for statement in dialect.statements(resources.text("sql/functions.sql")):
        _run(store, statement, "functions.sql")


def _create_views(store: Store, dialect: Dialect) -> None:
    for name, statement in view_statements(dialect).items():
        _run(store, statement, f"views/{name}.sql")


def view_statements(dialect: Dialect) -> dict[str, str]:
    """By view: its file is a sentence, which becomes the view's comment, a line for each column, and a SELECT.

    A view with parameters names no columns: ClickHouse knows them only when it is asked.
    """
    statements = {}
    for file in sorted(resources.path("sql/views").glob("*.sql")):
        sentence, *lines = file.read_text(encoding="utf-8").rstrip().split("\n")
        columns = [found.groups() for line in lines if (found := _VIEW_COLUMN.fullmatch(line))]
        select = "\n".join(lines[len(columns) :])
        shown = ", ".join(
            f"{name} {kind} COMMENT {literal(comments.of_column(file.stem, name))}" for name, kind in columns
        )
        head = dialect.fill(f"CREATE OR REPLACE VIEW {{database}}.{file.stem} {{on_cluster}}")
        statements[file.stem] = (
            f"{head} {f'({shown}) ' if shown else ''}AS {select} COMMENT {literal(sentence.removeprefix('-- '))}"
        )
    return statements


def _run(store: Store, statement: str, name: str) -> None:
    try:
        store.command(statement)
    except StoreRefused as refusal:
        raise MigrationError(f"{name} failed: {refusal}") from refusal
