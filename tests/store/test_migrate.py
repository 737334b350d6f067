"""Migrations: applied once, in order, checked, and safe to be interrupted."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import effort

from pipeline.base import resources
from pipeline.base.config import Settings
from pipeline.base.errors import MigrationError, StoreOutage
from pipeline.jobs.coarser import COARSE_TABLES
from pipeline.store import migrate as migrating
from pipeline.store.client import Store
from pipeline.store.migrate import Dialect, kept_hours, migrate, migrations

TABLES = {
    *("metrics", "metrics_1min", "metrics_5min", "web_vitals", "baselines", "change_points", "alerts", "runs"),
    *("dead_letters", "dead_letter_marks", "ledger", "schema_migrations", "cycles"),
    *(coarse.table for coarse in COARSE_TABLES),
}


@pytest.fixture
def fresh(settings: Settings, _open_engine: None) -> Iterator[Store]:
    """A store whose database does not exist yet."""
    with Store.open(settings) as store:
        yield store
        store.command(f"DROP DATABASE IF EXISTS {store.database} SYNC")


def schema(store: Store) -> dict[str, str]:
    """Every table and view with its definition, without the database's name."""
    found = store.rows(
        "SELECT name, create_table_query FROM system.tables WHERE database = {db:String}", {"db": store.database}
    )
    return {name: definition.replace(f"{store.database}.", "") for name, definition in found}


def test_the_files_in_order_make_the_tables(fresh: Store, settings: Settings) -> None:
    """From nothing to every table of the design; doing it again does nothing."""
    assert migrate(fresh, settings) == [file.stem for file in sorted(resources.path("sql/migrations").glob("*.sql"))]
    first = schema(fresh)
    assert {name for name, definition in first.items() if not definition.startswith("CREATE VIEW")} == TABLES
    assert migrate(fresh, settings) == []
    assert schema(fresh) == first


def test_what_was_applied_is_written_down(store: Store) -> None:
    """Each migration stands in ``schema_migrations`` with the checksum of its statements."""
    expected = [(migration.version, migration.name, migration.checksum) for migration in migrations()]
    assert store.rows("SELECT version, name, toString(checksum) FROM schema_migrations ORDER BY version") == expected


def test_a_file_changed_after_it_was_applied_stops_everything(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file; nothing is run."""
    first, *others = migrations()
    changed = replace(first, text=first.text + "\nDROP DATABASE {database};\n")
    monkeypatch.setattr(migrating, "migrations", lambda: [changed, *others])
    with pytest.raises(MigrationError, match=first.name):
        migrate(store, settings)
    assert store.rows("SELECT count() FROM metrics") == [(0,)]


def test_comments_may_change(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration whose comments and line breaks differ is the same one; what runs only on a cluster is part of it."""
    first, *others = migrations()
    commented = replace(first, text="-- Another word.\n" + first.text.replace("ENGINE =", "ENGINE\n  ="))
    monkeypatch.setattr(migrating, "migrations", lambda: [commented, *others])
    assert migrate(store, settings) == []
    assert replace(first, text=first.text.replace("-- cluster\n", "")).checksum != first.checksum


def test_checksums_of_earlier_versions_are_accepted(store: Store, settings: Settings) -> None:
    """Earlier versions recorded the checksum of the whole text of their first migrations."""
    for version, former in migrating._OF_WHOLE_TEXTS.items():
        store.command(
            f"ALTER TABLE schema_migrations UPDATE checksum = '{former}' WHERE version = {version} "
            "SETTINGS mutations_sync = 2"
        )
    assert migrate(store, settings) == []


def test_a_database_of_a_newer_version_is_left_alone(store: Store, settings: Settings) -> None:
    """A migration that we do not have was made by a newer version; its name is in the error."""
    store.command(f"INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, '9999_later', '{'0' * 64}')")
    with pytest.raises(MigrationError, match="9999_later"):
        migrate(store, settings)


def test_a_migration_that_fails_is_named(fresh: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and carries ClickHouse's words; the migration counts as not applied."""
    broken = migrating.Migration(7777, "7777_broken", "CREATE TABLE {database}.x (a Nonsense) ENGINE = Memory;\n")
    monkeypatch.setattr(migrating, "migrations", lambda: [*migrations(), broken])
    with pytest.raises(MigrationError, match=r"7777_broken\.sql.*Nonsense"):
        migrate(fresh, settings)
    assert (7777,) not in fresh.rows("SELECT version FROM schema_migrations")


class Interrupted(Store):
    """A store that dies before its n-th statement."""

    left: int

    def command(self, *args: object, **kwargs: object) -> None:
        if self.left == 0:
            raise StoreOutage("gone")
        self.left -= 1
        super().command(*args, **kwargs)  # type: ignore[arg-type]


def test_a_crash_between_any_two_statements_is_survived(make_settings: Callable[..., Settings], store: Store) -> None:
    """Interrupted before its first, second, … statement and run again, a migration ends in the same schema."""
    complete = schema(store)
    statement = 0
    while True:
        settings = make_settings()
        with Interrupted.open(settings) as interrupted:
            assert isinstance(interrupted, Interrupted)
            interrupted.left = statement
            try:
                migrate(interrupted, settings)
                finished = True
            except StoreOutage:
                finished = False
            interrupted.left = -1
            if not finished:
                migrate(interrupted, settings)
            assert schema(interrupted) == complete
            interrupted.command(f"DROP DATABASE {interrupted.database}")
        if finished:
            break
        statement += effort(13, 7)
    assert statement > len(TABLES)


def test_two_migrators_at_once_do_no_harm(make_settings: Callable[..., Settings], store: Store) -> None:
    """All succeed, and the result is that of one."""
    failures: list[BaseException] = []
    settings = make_settings()
    fresh = Store.open(settings)

    def work() -> None:
        try:
            with fresh.clone() as mine:
                migrate(mine, settings)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert schema(fresh) == schema(store)
    fresh.command(f"DROP DATABASE {fresh.database} SYNC")
    fresh.close()


def test_retention_follows_the_settings(store: Store, make_settings: Callable[..., Settings]) -> None:
    """A changed retention changes the tables' TTL, without a new migration, and touches no other table."""

    def ttl(table: str) -> str:
        engine = store.rows(
            "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {t:String}",
            {"t": table},
        )
        return str(engine[0][0]).partition(" TTL ")[2].partition(" SETTINGS")[0]

    assert ttl("metrics") == "toDateTime(timestamp) + toIntervalHour(769)"
    assert ttl("metrics_1min") == "window_start + toIntervalDay(400)"
    before = schema(store)
    longer = make_settings(clickhouse={"database": store.database}, retention={"raw_hours": 1000})
    assert migrate(store, longer) == []
    assert ttl("metrics") == "toDateTime(timestamp) + toIntervalHour(1049)"
    changed = {name for name, definition in schema(store).items() if definition != before[name]}
    assert changed == {"metrics", "dead_letters", "dead_letter_marks", "ledger"}
    migrate(store, longer, raw_hours=48)
    assert ttl("dead_letters") == "toDateTime(refused_at) + toIntervalHour(97)"
    assert kept_hours(store) == 97
    store.command("ALTER TABLE metrics MODIFY TTL toDateTime(timestamp) + INTERVAL 5 DAY")
    assert kept_hours(store) == 120
    store.command("ALTER TABLE metrics REMOVE TTL")
    assert kept_hours(store) is None


def test_a_row_lives_longer_than_its_timestamp_is_accepted(settings: Settings) -> None:
    """Between "too old to be accepted" and "expired" lie at least two days."""
    filled = Dialect(settings).fill("{raw_ttl_hours}")
    assert int(filled) >= settings.retention.raw_hours + 48


# On a cluster


@pytest.fixture
def on_cluster(make_settings: Callable[..., Settings]) -> Dialect:
    return Dialect(make_settings(clickhouse={"cluster": "two-shards", "database": "pipeline"}))


def all_statements(dialect: Dialect) -> list[str]:
    files = [migration.text for migration in migrations()]
    return [
        dialect.fill(migrating._RECORDS),
        *(
            statement
            for text in [*files, resources.text("sql/functions.sql")]
            for statement in dialect.statements(text)
        ),
        *migrating.view_statements(dialect).values(),
    ]


def test_every_statement_for_a_cluster_is_clickhouse_sql(store: Store, on_cluster: Dialect) -> None:
    """No cluster runs here, but the engine's own parser reads every statement made for one, and says it back."""
    statements = all_statements(on_cluster)
    assert len(statements) > 2 * len(TABLES)
    for statement in statements:
        said_back = store.rows("SELECT formatQuery({s:String})", {"s": statement})[0][0]
        assert "ON CLUSTER `two-shards`" in said_back, said_back


def test_on_a_cluster_every_table_is_replicated_and_has_a_distributed_one(store: Store, on_cluster: Dialect) -> None:
    """Rows live in ``…_local``, each with a path of its own; in front stands a table of the plain name."""
    made = [statement for statement in all_statements(on_cluster) if statement.startswith("CREATE TABLE")]
    local = {s.split()[5].removeprefix("pipeline."): s for s in made if "Distributed(" not in s}
    distributed = {s.split()[5].removeprefix("pipeline."): s for s in made if "Distributed(" in s}
    assert set(distributed) == TABLES - {"schema_migrations"}
    assert set(local) == {f"{name}_local" for name in distributed} | {"schema_migrations"}
    assert all("ENGINE = Replicated" in statement for statement in local.values())
    paths = [statement.split("'/clickhouse/tables/")[1].split("'")[0] for statement in local.values()]
    assert len(set(paths)) == len(paths)
    assert all("{shard}/pipeline/" in path for path in paths if "schema_migrations" not in path)
    for table in ("metrics_local", "dead_letters_local"):
        assert "replicated_deduplication_window = " in local[table].replace("non_replicated", "")


_DISTRIBUTED = re.compile(
    r"TABLE (?:IF NOT EXISTS )?pipeline\.(\w+) .*Distributed\('[^']+', '[^']+', '\w+',(.*)\)$", re.DOTALL
)


def test_windows_spread_over_all_shards(store: Store, on_cluster: Dialect) -> None:
    """With 2 to 64 shards the fullest one holds at most 1.2 times the mean; every table is spread by a hash."""
    made = [_DISTRIBUTED.search(statement) for statement in all_statements(on_cluster)]
    keys = {found[1]: found[2] for found in made if found}
    assert set(keys) == TABLES - {"schema_migrations"}
    assert all("cityHash64(" in key for key in keys.values())
    widths = {"metrics_1min": 60, "metrics_5min": 300, "web_vitals": 300, "metrics_1h": 3600, "metrics_1d": 86_400}
    for table, step in widths.items():
        worst = store.rows(
            "SELECT max(fullest / mean) FROM (SELECT shards, max(windows) AS fullest, 26000 / shards AS mean FROM ("
            f"SELECT shards, ({keys[table]}) % shards AS shard, count() AS windows FROM (SELECT toDateTime("
            f"1700000100 + number * {step}, 'UTC') AS window_start, arrayJoin(range(2, 65)) AS shards "
            "FROM numbers(26000)) GROUP BY shards, shard) GROUP BY shards)"
        )[0][0]
        assert worst <= 1.2, (table, worst)


def test_a_window_keeps_its_shard_when_the_key_changes(make_settings: Callable[..., Settings], store: Store) -> None:
    """What was placed by its start before stays where it was; what comes later goes by the hash."""
    dialect = Dialect(make_settings(clickhouse={"cluster": "c", "database": "pipeline"}), hashed_from=1_700_000_040)
    made = [_DISTRIBUTED.search(one) for one in dialect.statements(resources.text("sql/migrations/0004_sharding.sql"))]
    for key in {found[2] for found in made if found}:
        found = store.rows(
            f"SELECT ({key}) = toUnixTimestamp(window_start), ({key}) = cityHash64(window_start) FROM "
            "(SELECT toDateTime(arrayJoin([1699999980, 1700000040]), 'UTC') AS window_start) ORDER BY window_start"
        )
        assert found == [(1, 0), (0, 1)]
    assert migrating._hashed_from(store) == 0
    now_s = int(time.time())
    store.command(f"INSERT INTO metrics_1min (window_start) VALUES ({now_s})")
    assert migrating._hashed_from(store) == now_s + 86_400


def test_tokens_are_remembered_for_hours(make_settings: Callable[..., Settings]) -> None:
    """A replicated table remembers as many blocks as six hours of inserts make, within what Keeper should hold."""

    def window(**drainer: float) -> int:
        return migrating.dedup_window_blocks(make_settings(drainer=drainer))

    assert window(flush_interval_s=0.5) == 2 * 6 * 3600 / 0.5
    assert window(flush_interval_s=60) == 10_000
    assert window(flush_interval_s=0.01) == 1_000_000
    filled = Dialect(make_settings(clickhouse={"cluster": "c"})).fill("{dedup_window}")
    assert filled == "replicated_deduplication_window = 86400, replicated_deduplication_window_seconds = 604800"


# Where the files are


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_files_are_found_in_a_checkout_and_in_a_wheel(tmp_path: Path, layout: str) -> None:
    """Beside the package in a checkout, inside it once installed, and never in another project's ``sql`` next to it."""
    package = tmp_path / "pipeline"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base").mkdir()
    (package / "base" / "__init__.py").touch()
    shutil.copy(resources.__file__, package / "base" / "resources.py")
    ours = tmp_path / "sql" if layout == "checkout" else package / "_data" / "sql"
    shutil.copytree(resources.path("sql"), ours)
    if layout == "checkout":
        (tmp_path / "pyproject.toml").touch()
    else:
        (tmp_path / "sql" / "migrations").mkdir(parents=True)
    code = (
        "from pipeline.base import resources; print(resources.path('sql/migrations')); print(len(resources.queries()))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(ours / "migrations"), str(len(resources.queries()))]
