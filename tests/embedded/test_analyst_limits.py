"""A stranger on the read-only interface reaches tables and nothing else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.config import Settings, WebSettings
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

ANY = urllib3.PoolManager(retries=False)
# Nothing listens there: who tried it would report a refused connection, or try again for minutes.
AWAY = "http://127.0.0.1:1/bucket/key"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no statement may read."""
    path = tmp_path / "secret.txt"
    path.write_text("s3cr3t")
    return path


@pytest.fixture(scope="module")
def shop(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A migrated store that all tests here share: none of them can change it."""
    ours = Settings(clickhouse={"dsn": f"chdb://{engine_path}", "database": "strangers"})
    with Store.open(ours) as store:
        migrate(store, ours)
        yield store
        store.command("DROP DATABASE strangers SYNC")


@pytest.fixture(scope="module")
def ask(shop: Store) -> Iterator[Callable[[str], Any]]:
    """Asks the read-only server over ``shop``, in its database."""
    with ClickHouseHttp(shop, limits=WebSettings(query_max_s=5)) as server:
        yield lambda sql: ANY.request("POST", f"{server.url}/?database=strangers", body=sql.encode(), timeout=20)


READS = [
    "SELECT file('{secret}')",
    "SELECT `file` ('{secret}')",
    "SELECT \"file\"('{secret}')",
    "SELECT fi/**/le('{secret}')",
    "SELECT * APPLY file FROM (SELECT '{secret}')",
    "SELECT * APPLY(file) FROM (SELECT '{secret}')",
    "SELECT COLUMNS('p') APPLY (p -> file(p)) FROM (SELECT '{secret}' AS p)",
    "SELECT arrayMap(p -> file(p), ['{secret}'])",
    "SELECT * REPLACE (file(p) AS p) FROM (SELECT '{secret}' AS p)",
    "SELECT * FROM view(SELECT file('{secret}'))",
    "WITH (SELECT file('{secret}')) AS x SELECT x",
    "SELECT 1 WHERE 'x' IN (SELECT file('{secret}'))",
    "EXPLAIN SELECT file('{secret}')",
    "SELECT * FROM file('{secret}', 'LineAsString')",
    "SELECT * FROM `{secret}`",
    "SELECT * FROM default.`{secret}`",
    "DESCRIBE default.`{secret}`",
    "EXISTS TABLE default.`{secret}`",
    "EXISTS default.`{secret}`",
    "EXISTS `default` . `{secret}`",
    'SHOW CREATE TABLE "default".`{secret}`',
    "SELECT hasColumnInTable('default', '{secret}', 'a')",
    "EXPLAIN QUERY TREE SELECT * FROM default.`{secret}`",
    "SELECT 1 WHERE 'x' IN file('{secret}', 'LineAsString')",
    "DESCRIBE file('{secret}', 'CSV')",
    "DESC TABLE file('{secret}', 'CSV')",
    "DESCRIBE (SELECT * FROM file('{secret}', 'CSV'))",
    "EXPLAIN SELECT * FROM file('{secret}', 'LineAsString')",
    "EXPLAIN TABLE OVERRIDE file('{secret}') COLUMNS (a Int8)",
    "SELECT * FROM eval('SELECT file(''{secret}'')')",
    "SELECT * FROM executable('cat {secret}', 'LineAsString', 'a String')",
    "SELECT * FROM sqlite('{secret}', 'x')",
    "SELECT * FROM filesystem('{secret}')",
    "SELECT * FROM Python(answer)",
    "SELECT * FROM python(answer)",
    "DESCRIBE Python(answer)",
]
WRITES = [
    "SELECT 1 INTO OUTFILE '{out}'",
    "SELECT 1 INTO/**/OUTFILE '{out}' FORMAT CSV",
    "SELECT 1 into outfile '{out}' truncate",
    "SELECT 1 INTO OUTFILE '{out}' AND STDOUT",
    "SHOW TABLES INTO OUTFILE '{out}'",
    "DESCRIBE metrics INTO OUTFILE '{out}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{out}'",
    "EXISTS TABLE metrics INTO OUTFILE '{out}'",
    "INSERT INTO FUNCTION file('{out}', 'CSV', 'a Int8') SELECT 1",
    "SELECT 1; SELECT 1 INTO OUTFILE '{out}'",
    "BACKUP TABLE metrics TO File('{out}')",
    "INSERT INTO metrics (timestamp) VALUES (now())",
    "INSERT INTO metrics (timestamp) SELECT now()",
    "INSERT INTO metrics FROM INFILE '{secret}' FORMAT CSV",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a Int8)",
    "CREATE DATABASE x",
    "CREATE FUNCTION x AS a -> a",
    "CREATE VIEW x AS SELECT 1",
    "CREATE USER x",
    "GRANT ALL ON *.* TO default",
    "DROP TABLE metrics",
    "DROP FUNCTION histogramQuantile",
    "TRUNCATE TABLE metrics",
    "ALTER TABLE metrics DELETE WHERE 1",
    "DELETE FROM metrics WHERE 1",
    "UPDATE metrics SET value = 1 WHERE 1",
    "OPTIMIZE TABLE metrics",
    "RENAME TABLE metrics TO x",
    "DETACH TABLE metrics",
    "ATTACH TABLE metrics",
    "UNDROP TABLE x",
    "KILL QUERY WHERE 1",
    "KILL MUTATION WHERE 1",
    "SYSTEM STOP MERGES",
    "SYSTEM SHUTDOWN",
    "SYSTEM FLUSH LOGS",
    "SYSTEM DROP MARK CACHE",
    "CHECK TABLE metrics",
    "SET readonly = 0",
    "SET max_memory_usage = 0",
    "SET ROLE DEFAULT",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
    "EXPLAIN SELECT 1 SETTINGS max_memory_usage = 0",
    "SELECT 1; DROP TABLE metrics",
    "SELECT 1; SET readonly = 0; DROP TABLE metrics",
    "SELECT 1 PARALLEL WITH DROP TABLE metrics",
    "BEGIN TRANSACTION",
    "EXECUTE AS default DROP TABLE metrics",
]
REACHES_OUT = [
    f"SELECT * FROM url('{AWAY}', 'LineAsString')",
    f"SELECT * FROM url('{AWAY}')",
    f"DESCRIBE url('{AWAY}', 'CSV')",
    f"DESCRIBE s3('{AWAY}', 'CSV')",
    f"DESCRIBE (SELECT * FROM url('{AWAY}'))",
    f"SELECT * FROM s3('{AWAY}', 'CSV', 'a Int8')",
    f"SELECT * FROM view(SELECT * FROM url('{AWAY}'))",
    f"BACKUP TABLE metrics TO S3('{AWAY}')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT aiGenerate('x', map('endpoint', 'http://127.0.0.1:1/'))",
]
REFUSALS = {"62", "164", "452", "497"}
UNKNOWN_TABLE = "60"


@pytest.mark.parametrize("sql", READS)
def test_files_are_not_read(ask: Callable[[str], Any], secret: Path, sql: str) -> None:
    """No statement shows a file of the machine, or says anything about it."""
    answer = ask(sql.replace("{secret}", str(secret)))
    assert answer.status != 200
    assert b"s3cr3t" not in answer.data
    assert answer.headers["X-ClickHouse-Exception-Code"] in REFUSALS | {UNKNOWN_TABLE}, answer.data


def test_nobody_learns_which_files_exist(shop: Store, secret: Path) -> None:
    """In the engine's database ``default`` files look like tables; for analysts it is the pipeline's database."""
    with ClickHouseHttp(shop) as server:
        for sql in ("EXISTS `{path}`", "DESCRIBE `{path}`", "SELECT * FROM `{path}`", "SHOW CREATE TABLE `{path}`"):
            answers = [
                ANY.request("POST", f"{server.url}/?database=default", body=sql.replace("{path}", str(path)).encode())
                for path in (secret, secret.with_name("other.txt"))
            ]
            there, not_there = (answer.data.replace(b"other.txt", b"secret.txt") for answer in answers)
            assert there == not_there


def test_nothing_is_written(ask: Callable[[str], Any], shop: Store, secret: Path) -> None:
    """No statement writes a file, a row, a table, a setting, or ends another query; each is refused as READONLY."""
    out = secret.with_name("out")
    before = _everything(shop)
    for sql in WRITES:
        answer = ask(sql.replace("{out}", str(out)).replace("{secret}", str(secret)))
        assert answer.headers.get("X-ClickHouse-Exception-Code") in REFUSALS, (sql, answer.data)
        assert not out.exists(), sql
    assert _everything(shop) == before
    assert ask("SELECT getSetting('readonly'), getSetting('final')").data == b"2\ttrue\n"


def _everything(store: Store) -> list[Any]:
    return [
        store.rows("SELECT name, total_rows FROM system.tables WHERE database = currentDatabase() ORDER BY name"),
        store.rows("SELECT name FROM system.databases ORDER BY name"),
        store.rows("SELECT name FROM system.functions WHERE origin = 'SQLUserDefined' ORDER BY name"),
    ]


@pytest.mark.parametrize("sql", REACHES_OUT)
def test_no_address_is_reached(ask: Callable[[str], Any], sql: str) -> None:
    """No statement opens a connection; each is refused before it could try."""
    answer = ask(sql)
    assert answer.headers.get("X-ClickHouse-Exception-Code") in REFUSALS, answer.data


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count() FROM metrics",
        "SELECT tags['file'], 'file(x) INTO OUTFILE' AS `into outfile` FROM metrics",
        "WITH file AS (SELECT 1) SELECT * FROM file",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SELECT * FROM numbers(3)",
        "SELECT * FROM metrics_over(span_s = 3600)",
        "SHOW TABLES",
        "SHOW SETTINGS LIKE 'final'",
        "SELECT count() AS settings FROM metrics WHERE value = 1",
        "SHOW CREATE TABLE metrics",
        "DESCRIBE metrics",
        "DESCRIBE TABLE metrics",
        "DESCRIBE (SELECT 1)",
        "EXISTS TABLE metrics",
        "EXPLAIN SELECT count() FROM metrics",
        "SELECT name FROM system.columns LIMIT 1",
        "SELECT histogramQuantile(sumMap(histogram), 0.5) FROM metrics_1min",
        "USE strangers",
        "FROM metrics SELECT count()",
        "SELECT $$it's; -- not a comment$$",
    ],
)
def test_questions_are_answered(ask: Callable[[str], Any], sql: str) -> None:
    """What analysts ask goes through, even where it looks like what is refused."""
    answer = ask(sql)
    assert answer.status == 200, answer.data


def test_dress_changes_nothing(ask: Callable[[str], Any], secret: Path) -> None:
    """Comments, odd spaces, other cases and semicolons around a refused statement do not get it through."""
    space = st.sampled_from([" ", "\n", "\t", "/**/", "/*;*/", "-- x\n", "--;\n", "#!\n", "\u00a0", "\x0b", " \r\n"])
    statements = [sql.replace("{secret}", str(secret)) for sql in (READS[0], READS[4], READS[16])]
    statements += [WRITES[0].replace("{out}", str(secret.with_name("out"))), WRITES[23], WRITES[34]]

    @given(
        sql=st.sampled_from(statements),
        spaces=st.lists(space, min_size=6, max_size=6),
        upper=st.booleans(),
        data=st.data(),
    )
    @settings(max_examples=60)
    def refused(sql: str, spaces: list[str], upper: bool, data: Any) -> None:
        words = sql.split(" ")
        dressed = words[0] + "".join(space + word for space, word in zip(spaces * 3, words[1:], strict=False))
        if upper:
            dressed = dressed.replace("SELECT", "sElEcT").replace("INTO", "into")
        dressed = (
            data.draw(space)
            + dressed
            + data.draw(st.sampled_from(["", ";", ";;", " ;\n--", "\x00", "\\G", " FORMAT Null"]))
        )
        answer = ask(dressed)
        assert answer.status != 200
        assert not secret.with_name("out").exists()

    refused()
