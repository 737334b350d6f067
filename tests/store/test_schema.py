"""The schema held against the database: what was removed or changed behind our back is found and mended."""

import pytest

from pipeline.base import config
from pipeline.base.errors import ConfigError, MigrationError
from pipeline.store import schema
from pipeline.store.client import Store
from pipeline.store.migrate import Dialect, Migration, migrate, migrations
from pipeline.store.schema import check_schema, differences, expected


def test_a_migrated_database_has_no_differences(store: Store) -> None:
    """Every table, column, type and view is as the files say."""
    assert differences(store) == []
    check_schema(store)


def test_what_the_files_say_is_what_clickhouse_makes_of_them(store: Store, settings: config.Settings) -> None:
    """Reading our SQL gives exactly the columns that the database has, in its order."""
    tables = expected(Dialect(settings), migrations())
    assert len(tables) > 8
    for name, table in tables.items():
        found = store.rows(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
            "ORDER BY position",
            {"table": name},
        )
        assert [(column, kind.replace(" ", "")) for column, kind in found] == [
            (column, kind.replace(" ", "")) for column, kind in table.types.items()
        ], name


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        ("DROP TABLE metrics_1min", "table metrics_1min is missing"),
        ("ALTER TABLE dead_letters DROP COLUMN detail", "column dead_letters.detail is missing"),
        ("ALTER TABLE metrics DROP COLUMN value", "column metrics.value is missing"),
        ("DROP VIEW slowest_tests", "view slowest_tests is missing"),
    ],
)
def test_what_is_missing_is_found_and_made_anew(
    damage: str, seen: str, store: Store, settings: config.Settings
) -> None:
    """The check refuses with the fix in its sentence, ``migrate`` brings it back at its place, and says so."""
    order = "SELECT name FROM system.columns WHERE database = currentDatabase() ORDER BY table, position"
    before = store.rows(order)
    store.command(damage)
    with pytest.raises(ConfigError, match=f"{seen}.*pipeline migrate"):
        check_schema(store)
    made = migrate(store, settings)
    assert differences(store) == []
    assert store.rows(order) == before
    assert bool(made) == (not seen.startswith("view"))  # views are made anew each time
    assert migrate(store, settings) == []


def test_a_type_that_was_changed_is_left_to_a_person(store: Store, settings: config.Settings) -> None:
    """The statement that mends it is said; nothing is altered on its own."""
    store.command("ALTER TABLE ledger MODIFY COLUMN stored UInt64")
    with pytest.raises(ConfigError, match=r"ledger\.stored is UInt64, not UInt32.*MODIFY COLUMN stored UInt32"):
        check_schema(store)
    with pytest.raises(MigrationError, match="MODIFY COLUMN stored UInt32"):
        migrate(store, settings)
    (wrong,) = differences(store)
    store.command(wrong.fix)
    assert migrate(store, settings) == []


def test_columns_of_a_person_are_no_difference(store: Store) -> None:
    """A column that an operator adds to a table stays."""
    store.command("ALTER TABLE metrics ADD COLUMN note String")
    assert differences(store) == []


def test_all_forms_of_our_sql_are_read() -> None:
    """CREATE, CREATE AS, and every ALTER that changes columns; quotes and commas in comments and types."""
    text = """
CREATE TABLE IF NOT EXISTS {database}.{local:t} {on_cluster}
(
    a DateTime64(3, 'UTC') COMMENT 'first, (of all)',
    b Map(LowCardinality(String), String) DEFAULT map('x, y', '('),
    c UInt8,
    INDEX i a TYPE minmax
)
ENGINE = {engine:MergeTree:t}
ORDER BY a;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.t {on_cluster} AS {database}.t_local
ENGINE = Distributed('{cluster}', '{database}', 't_local', rand());

ALTER TABLE {database}.{local:t} {on_cluster}
    ADD COLUMN IF NOT EXISTS d Nullable(Float64) DEFAULT 0 AFTER a, DROP COLUMN IF EXISTS c,
    RENAME COLUMN b TO e, MODIFY COLUMN a DateTime('UTC'), ADD INDEX IF NOT EXISTS j d TYPE minmax;
"""
    files = [Migration(1, "0001_t", text)]
    alone = expected(Dialect(config.Settings()), files)
    columns = {"a": "DateTime('UTC')", "d": "Nullable(Float64)", "e": "Map(LowCardinality(String), String)"}
    assert {name: table.types for name, table in alone.items()} == {"t": columns}
    assert alone["t"].definitions["e"] == "e Map(LowCardinality(String), String) DEFAULT map('x, y', '(')"
    cluster = config.Settings(clickhouse=config.ClickHouseSettings(cluster="c"))
    spread = expected(Dialect(cluster), files)
    assert spread["t_local"].types == columns
    assert spread["t"].types.keys() == {"a", "b", "c"}
    assert schema._squeezed("Map(String, UInt8)") == "Map(String,UInt8)"
