"""Statements against the two checks of the embedded engine: the guard alone, the role alone, and both."""

import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import effort

from pipeline.base import resources
from pipeline.base.config import Settings, WebSettings
from pipeline.embedded import query_guard
from pipeline.embedded.handles import EngineError, Handle, as_query_settings
from pipeline.embedded.statement_lists import SYSTEM, allowed_functions
from pipeline.store.client import Store, analyst_settings
from pipeline.store.migrate import migrate

LIMITS = WebSettings(query_max_s=5, query_max_memory_bytes=400_000_000)
HOME = "strangers"
SECRET = "s3cr3t-of-this-machine"


class Guarded:
    """A handle whose every statement passes the guard first; ``role`` says whether the engine's role is under it."""

    def __init__(self, path: Path, role: bool) -> None:
        settings = as_query_settings(analyst_settings(LIMITS))
        self.handle = Handle(path, settings, HOME) if role else Handle(path, settings)
        self.handle.use(HOME)
        self.handle.home = HOME

    def ask(self, sql: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """The answer of a statement that the guard lets through. Raises ``EngineError`` for others."""
        checked = query_guard.checked(self.handle, sql.encode(errors="surrogateescape"), parameters or {}, LIMITS)
        try:
            return self.handle.run(checked.text, checked.format or "TabSeparated", parameters).body
        except EngineError as error:
            raise query_guard.as_asked(self.handle, error) from None


@dataclass
class Trap:
    """A file that no statement may read, and a port that none may call."""

    path: Path
    port: int
    calls: list[object]


@pytest.fixture(scope="module")
def home(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A migrated store that all tests here share."""
    settings = Settings(clickhouse={"dsn": f"chdb://{engine_path}", "database": HOME})
    with Store.open(settings) as store:
        migrate(store, settings)
        store.command("CREATE TABLE words (w String, n UInt8, a Array(String)) ENGINE = MergeTree ORDER BY w")
        store.command("INSERT INTO words VALUES ('a', 1, ['x']), ('b', 2, ['y'])")
        yield store
        store.command(f"DROP DATABASE {HOME} SYNC")


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trap]:
    """The planted file and the listening socket."""
    path = tmp_path_factory.mktemp("trap") / "secret.csv"
    path.write_text(SECRET + "\n")
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                calls.append(address)
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield Trap(path, server.getsockname()[1], calls)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(scope="module")
def both(home: Store, engine_path: Path) -> Iterator[Guarded]:
    """The guard, and the engine's role under it: what analysts have."""
    guarded = Guarded(engine_path, role=True)
    yield guarded
    guarded.handle.close()


@pytest.fixture(scope="module")
def guard_alone(home: Store, engine_path: Path) -> Iterator[Guarded]:
    """The guard over a handle that may do everything."""
    guarded = Guarded(engine_path, role=False)
    yield guarded
    guarded.handle.close()


# Where an expression can stand. Each runs with lower('a') in it.
EXPRESSIONS = [
    "SELECT {e}",
    "SELECT 1 AS x, {e} AS y, 2",
    "SELECT w FROM words WHERE {e} != ''",
    "SELECT w FROM words PREWHERE {e} != ''",
    "SELECT w FROM words GROUP BY w HAVING {e} != ''",
    "SELECT w FROM words GROUP BY w, {e}",
    "SELECT w FROM words GROUP BY GROUPING SETS ((w), ({e}))",
    "SELECT w FROM words ORDER BY {e}",
    "SELECT w FROM words ORDER BY n WITH FILL TO length({e})",
    "SELECT w FROM words LIMIT 1 BY {e}",
    "SELECT w FROM words QUALIFY {e} != ''",
    "SELECT count() OVER (PARTITION BY {e}) FROM words",
    "SELECT count() OVER o FROM words WINDOW o AS (ORDER BY {e})",
    "WITH {e} AS z SELECT z",
    "WITH z AS (SELECT {e} AS q) SELECT q FROM z",
    "WITH RECURSIVE z AS (SELECT {e} AS q UNION ALL SELECT q FROM z WHERE 0) SELECT q FROM z",
    "SELECT (SELECT {e})",
    "SELECT * FROM (SELECT {e})",
    "SELECT exists(SELECT {e})",
    "SELECT 'x' IN (SELECT {e})",
    "SELECT 'x' IN ({e}, 'y')",
    "SELECT * FROM words AS l JOIN words AS r ON l.w = r.w AND {e} != ''",
    "SELECT q FROM words ARRAY JOIN [{e}] AS q",
    "SELECT CASE WHEN 1 THEN {e} ELSE '' END",
    "SELECT if(1, {e}, '')",
    "SELECT [1, 2][length({e})]",
    "SELECT ({e}, 1).1",
    "SELECT {e}::String",
    "SELECT CAST({e} AS String)",
    "SELECT 'x' || {e}",
    "SELECT map('k', {e})['k']",
    "SELECT arrayMap(v -> {e}, [1])",
    "SELECT arrayFilter((v, u) -> {e} != '', [1], [2])",
    "SELECT groupArray({e}) FROM words",
    "SELECT groupArrayIf({e}, 1) FROM words",
    "SELECT count() FILTER (WHERE {e} != '') FROM words",
    "SELECT * REPLACE ({e} AS w) FROM words",
    "SELECT COLUMNS('w') APPLY (v -> {e}) FROM words",
    "SELECT * EXCEPT (n, a) REPLACE ({e} AS w) FROM words",
    "SELECT 1 UNION ALL SELECT length({e})",
    "SELECT 1 EXCEPT SELECT length({e})",
    "SELECT * FROM view(SELECT {e})",
    "SELECT * FROM numbers(length({e}))",
    "SELECT * FROM values('v String', ({e}))",
    "SELECT * FROM metrics_over(span_s = length({e}))",
    "EXPLAIN SELECT {e}",
    "EXPLAIN SYNTAX SELECT {e}",
    "EXPLAIN QUERY TREE SELECT {e}",
    "EXPLAIN PIPELINE SELECT {e}",
    "DESCRIBE (SELECT {e})",
    "SELECT 1 LIMIT length({e})",
    "SELECT 1 OFFSET length({e})",
    "SELECT toIntervalDay(length({e}))",
    "SELECT multiIf(1, {e}, 0, 'x', 'y')",
    "SELECT quantile(0.5)(length({e})) FROM words",
    "SELECT histogramQuantile(map(toInt32(length({e})), toUInt64(1)), 0.5)",
]
# Where a table can stand. Each runs with words in it.
TABLES = [
    "SELECT * FROM {t}",
    "SELECT count() FROM {t} AS q",
    "SELECT * FROM words AS l CROSS JOIN {t} AS r",
    "SELECT * FROM words AS l, {t} AS r",
    "SELECT * FROM (SELECT * FROM {t})",
    "WITH z AS (SELECT * FROM {t}) SELECT * FROM z",
    "SELECT (SELECT count() FROM {t})",
    "SELECT exists(SELECT 1 FROM {t})",
    "SELECT * FROM view(SELECT * FROM {t})",
    "SELECT 1 UNION ALL SELECT count() FROM {t}",
    "EXPLAIN SELECT * FROM {t}",
    "EXPLAIN PIPELINE SELECT * FROM {t}",
    "EXPLAIN QUERY TREE SELECT * FROM {t}",
    "EXPLAIN ESTIMATE SELECT * FROM {t}",
    "DESCRIBE {t}",
    "DESCRIBE (SELECT * FROM {t})",
    "FROM {t} SELECT *",
    "SELECT COLUMNS('.') FROM {t}",
]
NAMED_TABLES = [
    "EXISTS {t}",
    "EXISTS TABLE {t}",
    "SHOW CREATE TABLE {t}",
    "SHOW COLUMNS FROM {t}",
    "SHOW INDEXES FROM {t}",
    "SELECT (1, 2, []) IN {t}",
    "SELECT (1, 2, []) GLOBAL NOT IN {t}",
]
FUNCTIONS = [
    *("file", "hasColumnInTable", "dictGet", "dictHas", "joinGet", "evalMLMethod", "catboostEvaluate"),
    *("aiGenerate", "aiEmbed", "AIGenerate", "FQDN", "hostName", "getMacro", "getServerPort", "getServerSetting"),
    *("getOSKernelVersion", "filesystemAvailable", "showCertificate", "addressToLine", "logTrace", "serverUUID"),
    *("generateSerialID", "fuzzQuery", "regionToName", "mergeTreePartInfo", "formatRow", "__getScalar", "eval"),
    *("url", "executable", "python", "redis", "remote", "transactionID", "currentRequestURL", "getClientHTTPHeader"),
]
CALLS = [
    "{f}('{path}')",
    "{f} ('{path}')",
    "`{f}`('{path}')",
    "\"{f}\"('{path}')",
    "{f}/**/('{path}')",
    "(({f}('{path}')))",
    "arrayMap({f}, ['{path}'])[1]",
    "arrayMap(`{f}`, ['{path}'])[1]",
    "arrayMap(v -> {f}(v), ['{path}'])[1]",
    "arrayFold((s, v) -> {f}(v), ['{path}'], '')",
    "arraySort({f}, ['{path}'])[1]",
    "if(1, {f}('{path}'), '')",
    "(SELECT * APPLY {f} FROM (SELECT '{path}'))",
    "(SELECT COLUMNS('p') APPLY {f} FROM (SELECT '{path}' AS p))",
    "(WITH {f} AS g SELECT arrayMap(g, ['{path}'])[1])",
    "(WITH v -> {f}(v) AS g SELECT g('{path}'))",
    "(WITH '{path}' AS p SELECT {f}(p))",
    "{f}(concat('{path}', ''))",
    "{f}({{p:String}})",
    "{f}()",
    "{f}If('{path}', 1)",
    "initializeAggregation('{f}', '{path}')",
    "{f}('{path}') OVER ()",
    "{f}('{path}')('{path}')",
]
TABLE_SOURCES = [
    *("default.`{path}`", 'default."{path}"', "`default`.`{path}`", "`{path}`", "default . `{path}`"),
    "{{d:Identifier}}.`{path}`",
    "{{p:Identifier}}",
    *(f"system.{name}" for name in ("disks", "processes", "server_settings", "query_log", "clusters", "users")),
    *(f"system.{name}" for name in ("detached_parts", "parts_columns", "named_collections", "zookeeper", "grants")),
    *(f"system.{name}" for name in ("settings_profiles", "build_options", "warnings", "metrics", "stack_trace")),
    *("file('{path}', 'LineAsString')", "file('{path}')", "`file`('{path}', 'CSV')", "loop(file('{path}'))"),
    *("url('http://127.0.0.1:{port}/x', 'LineAsString')", "urlCluster('c', 'http://127.0.0.1:{port}/', 'CSV')"),
    *("remote('127.0.0.1:{port}', system.one)", "remoteSecure('127.0.0.1:{port}', system.one)"),
    *("cluster('default', system.one)", "clusterAllReplicas('default', system.one)"),
    "redis('127.0.0.1:{port}', 'k', 'k String')",
    "mysql('127.0.0.1:{port}', 'd', 't', 'u', 'p')",
    "postgresql('127.0.0.1:{port}', 'd', 't', 'u', 'p')",
    "mongodb('127.0.0.1:{port}', 'd', 'c', 'u', 'p', 'a String')",
    "s3('http://127.0.0.1:{port}/b/k', 'CSV', 'a String')",
    "gcs('http://127.0.0.1:{port}/b/k', 'CSV', 'a String')",
    "hdfs('hdfs://127.0.0.1:{port}/x', 'CSV', 'a String')",
    "azureBlobStorage('http://127.0.0.1:{port}', 'c', 'k', 'a', 'b', 'CSV', 'auto', 'a String')",
    "iceberg('http://127.0.0.1:{port}/b')",
    "deltaLake('http://127.0.0.1:{port}/b')",
    "jdbc('http://127.0.0.1:{port}', 'd', 't')",
    "executable('cat {path}', 'LineAsString', 'a String')",
    *("python(SECRET)", "Python(SECRET)", "sqlite('{path}', 't')", "filesystem('{path}')", "eval('SELECT 1')"),
    *("dictionary('d')", "merge('default', '.*')", "merge('system', 'disks')", "input('a String')"),
    *("fileCluster('c', '{path}')", "viewExplain('EXPLAIN', '', (SELECT 1))", "mergeTreeIndex('x', 'words')"),
    *("icebergLocal('{path}')", "deltaLakeLocal('{path}')", "format('CSV', '1')", "fuzzQuery('SELECT 1')"),
]
STATEMENTS = [
    *("SELECT 1 INTO OUTFILE '{out}'", "SHOW TABLES INTO OUTFILE '{out}'", "DESCRIBE words INTO OUTFILE '{out}'"),
    *("SELECT 1 INTO OUTFILE '{out}' AND STDOUT FORMAT CSV", "EXISTS words INTO OUTFILE '{out}'"),
    *("SYSTEM FLUSH LOGS", "SYSTEM SHUTDOWN", "SYSTEM STOP MERGES", "SYSTEM RELOAD USERS", "KILL QUERY WHERE 1"),
    *("SET ROLE owner", "SET ROLE ALL", "SET ROLE DEFAULT", "EXECUTE AS default SELECT 1", "SET readonly = 0"),
    *("SELECT 1 PARALLEL WITH SELECT 2", "EXPLAIN AST SELECT 1; SELECT file('{path}')", "SELECT 1; SELECT 2"),
    *("INSERT INTO FUNCTION file('{out}', 'CSV', 'a Int8') SELECT 1", "INSERT INTO words SELECT 'c', 1, []"),
    *("INSERT INTO words FROM INFILE '{path}' FORMAT CSV", "CREATE TABLE x (a Int8) ENGINE = File(CSV, '{path}')"),
    *("CREATE TEMPORARY TABLE x (a Int8)", "CREATE VIEW x AS SELECT 1", "CREATE FUNCTION x AS v -> file(v)"),
    *("BACKUP TABLE words TO File('{out}')", "ATTACH TABLE x FROM '{path}' (a Int8) ENGINE = Memory"),
    *("EXPLAIN TABLE OVERRIDE file('{path}') COLUMNS (a Int8)", "SHOW PROCESSLIST", "SHOW GRANTS", "SHOW USERS"),
    *("SHOW CLUSTERS", "SHOW MERGES", "SHOW CREATE USER default", "SHOW ACCESS", "CHECK TABLE words"),
    *("DROP TABLE words", "TRUNCATE words", "OPTIMIZE TABLE words", "ALTER TABLE words DELETE WHERE 1"),
    *("SELECT 1 SETTINGS output_format_schema = '{out}'", "SELECT 1 SETTINGS format_template_row = '{path}'"),
    *("SELECT 1 SETTINGS dialect = 'kusto'", "SELECT 1 SETTINGS param_p = 1", "SELECT 1 SETTINGS readonly = 0"),
    *("SELECT 1 SETTINGS allow_introspection_functions = 1", "SELECT 1 SETTINGS max_memory_usage = 0"),
    *("SELECT 1 FORMAT Template", "SELECT 1 FORMAT Protobuf", "SELECT 1 FORMAT DataFrame", "USE default"),
    *("SHOW TABLES FROM default", "EXISTS DATABASE default", "SHOW CREATE DATABASE default", "BEGIN TRANSACTION"),
    *("GRANT owner TO default", "MOVE ROLE x TO y", "WATCH words", "DETACH TABLE words", "UNDROP TABLE words"),
    *("EXISTS DICTIONARY x", "SHOW CREATE DICTIONARY x", "EXISTS TABLE {{d:Identifier}}.{{p:Identifier}}"),
]
SPACES = [
    " ",
    "\n",
    "\t",
    "/**/",
    " /* ' */ ",
    '-- "x\n',
    "--;\n",
    "#!x\n",
    "\u00a0",
    "\u2003",
    "\x0b",
    " \r\n",
    "\u200b ",
]
ENDS = ["", "", "", ";", " ;", "\n--", "\x00", " FORMAT Null", " FORMAT JSON", "\\G", ")", "; SELECT 1"]
ENDS += [" SETTINGS max_threads = 1", " LIMIT 1"]
KEYWORDS = re.compile(r"\b(SELECT|FROM|WITH|INTO|EXPLAIN|AS)\b")


def dressed(sql: str, rng: random.Random) -> str:
    """The same statement in other clothes: spaces, comments, letters' case of keywords, ends, escapes in names."""
    if rng.random() < 0.5:
        sql = re.sub(r" ", lambda _: rng.choice(SPACES) if rng.random() < 0.3 else " ", sql)
    if rng.random() < 0.3:
        sql = re.sub(
            r"\b(SELECT|FROM|WITH|INTO|EXPLAIN|AS)\b",
            lambda found: rng.choice([found[0].lower(), found[0].title()]),
            sql,
        )
    if rng.random() < 0.3:
        sql = re.sub(r"`(\w)(\w+)`", lambda found: f"`\\x{ord(found[1]):02x}{found[2]}`", sql)
    if rng.random() < 0.2:
        sql = sql.replace("file", rng.choice(["ｆile", "fіle", "FILE", "File", "`fil\\145`"]))
    return rng.choice(["", "", "(", " "]) + sql + rng.choice(ENDS)


def statements(trap: Trap, count: int, seed: int) -> Iterator[str]:
    """``count`` generated statements with something forbidden in each, and then every position once."""
    rng = random.Random(seed)
    out = trap.path.with_name("out")
    fill = {"path": trap.path, "port": trap.port, "out": out}

    def one() -> str:
        kind = rng.random()
        if kind < 0.55:
            call = rng.choice(CALLS).format(f=rng.choice(FUNCTIONS), **fill)
            sql = rng.choice(EXPRESSIONS).replace("{e}", call)
        elif kind < 0.9:
            source = rng.choice(TABLE_SOURCES).format(**fill)
            place = rng.choice(TABLES + NAMED_TABLES)
            sql = place.replace("{t}", source)
        else:
            sql = rng.choice(STATEMENTS).format(**fill)
        return dressed(sql, rng) if rng.random() < 0.7 else sql

    yield from (one() for _ in range(count))
    yield from (sql.format(**fill) for sql in STATEMENTS)
    yield from (place.replace("{e}", f"file('{trap.path}')") for place in EXPRESSIONS)
    yield from (call.format(f="file", **fill).join(("SELECT ", "")) for call in CALLS)
    yield from (f"SELECT * FROM {source}".format(**fill) for source in TABLE_SOURCES)


def assert_never_reached(
    ask: Callable[[str, Mapping[str, str]], bytes], trap: Trap, home: Store, count: int, seed: int
) -> dict[int, int]:
    """No answer shows the file, no call arrives, nothing is written; returns the refusals by their code."""
    parameters = {"d": "default", "p": str(trap.path)}
    codes: dict[int, int] = {}
    engine_path = str(home.hold.path) if home.hold else "?"
    for sql in statements(trap, count, seed):
        try:
            body = ask(sql, parameters)
        except EngineError as error:
            codes[error.code] = codes.get(error.code, 0) + 1
            assert SECRET not in str(error), sql
            assert "parseQueryToJSON" not in str(error), sql
            continue
        codes[0] = codes.get(0, 0) + 1
        assert SECRET.encode() not in body, sql
        assert engine_path.encode() not in body, sql
    assert not trap.calls
    assert not trap.path.with_name("out").exists()
    assert home.rows("SELECT count() FROM words") == [(2,)]
    assert home.rows("SELECT currentRoles()") == [(["analyst", "owner"],)]
    return codes


def test_every_place_of_the_fuzz_is_real(both: Guarded) -> None:
    """The same statements with something harmless in the same place run; so what the fuzz refuses is its content."""
    for place in EXPRESSIONS:
        both.ask(place.replace("{e}", "lower('A')"))
    for place in TABLES + NAMED_TABLES:
        both.ask(place.replace("{t}", "words"))


@pytest.mark.timeout(3600)  # --long on a busy machine
def test_nothing_forbidden_is_reached(both: Guarded, trap: Trap, home: Store) -> None:
    """Thousands of statements that hold a forbidden name: no file is read, no address called, nothing written."""
    count = effort(60, 120, 5_000)
    codes = assert_never_reached(both.ask, trap, home, count, seed=1)
    assert codes[497] > sum(codes.values()) / 4


@pytest.mark.timeout(3600)
def test_the_guard_alone_holds(guard_alone: Guarded, trap: Trap, home: Store) -> None:
    """The same without the engine's role: on a handle that may do everything the guard is enough."""
    count = effort(60, 120, 5_000)
    assert_never_reached(guard_alone.ask, trap, home, count, seed=2)


def test_the_role_alone_holds_back_tables(both: Guarded, trap: Trap, home: Store) -> None:
    """Without the guard the engine's role still refuses files, addresses and other tables as tables, and writing."""
    fill = {"path": trap.path, "port": trap.port, "out": trap.path.with_name("out")}
    beyond = (
        "system.",
        "values",
        "format(",
        "python(",
        "Python(",
        "dictionary",
        "fuzzQuery",
        "eval(",
        "viewExplain",
        "input(",
    )
    sources = [source for source in TABLE_SOURCES if not source.startswith(beyond) and "merge" not in source]
    asked = [f"SELECT * FROM {source}" for source in sources] + [
        "INSERT INTO words SELECT 'c', 1, []",
        "INSERT INTO FUNCTION file('{out}', 'CSV', 'a Int8') SELECT 1",
        "CREATE TABLE x (a Int8) ENGINE = File(CSV, '{path}')",
        "DROP TABLE words",
        "EXISTS TABLE default.`{path}`",
    ]
    for sql in asked:
        with pytest.raises(EngineError) as refused:
            both.handle.run(sql.format(**fill).encode(), parameters={"d": "default", "p": str(trap.path)})
        assert SECRET not in str(refused.value)
    assert not trap.calls
    assert home.rows("SELECT count() FROM words") == [(2,)]


PATHS = [
    "SELECT data_paths FROM system.tables",
    "SELECT * FROM system.tables",
    "SELECT t.* FROM system.tables AS t",
    "SELECT COLUMNS('path') FROM system.tables",
    "SELECT tuple(*) FROM system.tables",
    "SELECT * EXCEPT (name) FROM system.tables",
    "SELECT * APPLY toString FROM system.tables",
    "SELECT toString(tuple(t.*)) FROM (SELECT * FROM system.tables) AS t",
    "WITH t AS (SELECT * FROM system.tables) SELECT * FROM t",
    "SELECT * FROM view(SELECT * FROM system.tables)",
    "SELECT name FROM system.tables ORDER BY data_paths",
    "SELECT name FROM system.tables WHERE has(data_paths, '/')",
    "SELECT `metadata_path` FROM system.tables",
    "SELECT system.tables.data_paths FROM system.tables",
    "SELECT tables.data_paths FROM system.tables",
    "SELECT * FROM words AS w JOIN system.tables AS t ON 1 = 1",
    "SELECT * FROM system.tables AS a JOIN system.tables AS b USING (data_paths)",
    "SELECT data_path, metadata_path FROM system.databases",
    "SELECT * FROM system.databases",
    "SELECT path FROM system.parts",
    "SELECT * FROM system.parts",
    "SELECT any(path) FROM system.parts",
    "SELECT path FROM system.parts AS p ARRAY JOIN [p.path] AS path",
    "SELECT * FROM system.mutations",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM INFORMATION_SCHEMA.COLUMNS",
    "SELECT * FROM system.settings",
    "SELECT * FROM system.columns",
    "SELECT * FROM system.functions",
    "SHOW TABLES FROM system",
    "SHOW CREATE TABLE words",
    "SHOW CREATE DATABASE strangers",
    "EXPLAIN actions = 1, indexes = 1 SELECT * FROM words",
    "EXPLAIN QUERY TREE SELECT * FROM system.tables",
    "SELECT 1 IN (SELECT data_paths FROM system.tables)",
    "SELECT 'x' IN system.tables",
]


def test_no_path_of_the_engine_is_shown(guard_alone: Guarded, home: Store) -> None:
    """Tables of ``system`` have no columns with paths: by name they are closed, and a star leaves them out."""
    assert home.hold
    directory = str(home.hold.path).encode()
    for sql in PATHS:
        try:
            body = guard_alone.ask(sql)
        except EngineError as error:
            assert error.code in (36, 47, 51, 53, 497), (sql, str(error))
            continue
        assert directory not in body, sql
        assert b"store/" not in body, sql


CLOSED = [
    "SELECT {column} FROM system.{table}",
    "SELECT any(x.{column}) FROM system.{table} AS x",
    "SELECT system.{table}.{column} FROM system.{table}",
    "DESCRIBE (SELECT 1 FROM words WHERE w IN (SELECT {column} FROM system.{table}))",
]


@pytest.mark.parametrize("table", [table for table, columns in SYSTEM.items() if columns])
def test_a_closed_column_is_called_closed(both: Guarded, home: Store, table: str) -> None:
    """One sentence names the column, wherever it stands: nothing of what the guard puts in the table's place."""
    listed = SYSTEM[table] or ()
    columns = f"SELECT name FROM system.columns WHERE database = 'system' AND table = '{table}' AND default_kind = ''"
    closed = [name for (name,) in home.rows(columns) if name not in listed]
    assert closed
    for column in closed:
        for form in CLOSED if column == closed[0] else CLOSED[:1]:
            with pytest.raises(EngineError) as refused:
                both.ask(form.format(column=column, table=table))
            assert str(refused.value) == (
                f"Code: 497. DB::Exception: Not enough privileges: the column system.{table}.{column} is not one that "
                "analysts may read. (ACCESS_DENIED)"
            )
    assert both.ask(f"SELECT system.{table}.{listed[0]}, system.{table}.* FROM system.{table} LIMIT 0") == b""


def test_columns_of_system_tables_are_there(home: Store) -> None:
    """Every column that the list of ``system`` tables names exists, and none of them holds a path."""
    for table, columns in SYSTEM.items():
        found = {
            name
            for (name,) in home.rows(f"SELECT name FROM system.columns WHERE database = 'system' AND table = '{table}'")
        }
        assert found
        assert set(columns or ()) <= found
        assert not {name for name in columns or found if re.search("path|^disk", name)}, table


def test_listed_functions_are_the_engines(home: Store) -> None:
    """Each listed function exists, and no name that differs from a listed one by case alone is another function.

    A function of a newer engine is refused until it is listed in ``allowed_functions.txt``.
    """
    canonical = dict(home.rows("SELECT name, if(alias_to = '', name, alias_to) FROM system.functions"))
    assert {name for name in allowed_functions() if name not in {one.lower() for one in canonical}} == set()
    by_lower: dict[str, set[str]] = {}
    for name, means in canonical.items():
        by_lower.setdefault(name.lower(), set()).add(means.lower())
    assert {name for name in allowed_functions() if len(by_lower[name]) > 1} == set()
    outside = re.compile(
        r"(?i)^(ai[A-Z]\w*|file|eval|dict\w*|joinGet\w*|hasColumnInTable|getServer\w*|getMacro|__\w+)$"
    )
    assert {name for name in allowed_functions() if outside.fullmatch(name)} == set()


ASKED_BY_CLIENTS = [
    # clickhouse-connect
    "SELECT version(), timezone()",
    "SELECT name, value, readonly as readonly FROM system.settings LIMIT 10000",
    "SELECT name FROM system.databases",
    "DESCRIBE TABLE `strangers`.`words`",
    "SELECT * FROM words LIMIT 0",
    # clickhouse-driver and clickhouse-client
    "SELECT currentDatabase(), currentUser(), uptime(), timezone()",
    # Grafana's plugin
    "SHOW DATABASES",
    "SHOW TABLES FROM strangers",
    'DESC TABLE "strangers"."words"',
    "SELECT name, database, table FROM system.columns WHERE database = 'strangers'",
    "SELECT name, database, table FROM system.tables WHERE database IN ('strangers')",
    "SELECT toStartOfInterval(toDateTime(timestamp), INTERVAL 60 second) as time, count() FROM metrics "
    "WHERE ( timestamp >= toDateTime(1700000000) AND timestamp <= toDateTime(1700003600) ) GROUP BY time ORDER BY time",
    'SELECT "timestamp" as "time", "value" FROM "strangers"."metrics" WHERE ( time >= $__from ) LIMIT 1000'.replace(
        "$__from", "fromUnixTimestamp64Milli(1700000000000)"
    ),
    # JDBC: DBeaver, Metabase
    "select null as TABLE_CAT, t.database as TABLE_SCHEM, t.name as TABLE_NAME, if(t.engine like '%View', 'VIEW', "
    "'TABLE') as TABLE_TYPE, t.comment as REMARKS from system.tables t inner join system.databases d "
    "on t.database = d.name where t.database like '%' and t.name like '%' order by t.database, t.name",
    "SELECT database, table, name, type, default_kind, comment, position, is_in_primary_key FROM system.columns "
    "WHERE database = 'strangers' AND table = 'words' ORDER BY position",
    "select name, case_insensitive, alias_to from system.data_type_families",
    "select name as FUNCTION_NAME from system.functions where is_aggregate",
    "SELECT table, sum(rows) AS table_rows, sum(bytes_on_disk) AS table_size, max(modification_time) AS latest "
    "FROM system.parts WHERE database = 'strangers' AND active GROUP BY table",
    "SELECT * FROM information_schema.columns WHERE table_schema = 'strangers'",
    "SHOW CREATE TABLE strangers.words",
    "SELECT 1 AS x FORMAT JSONCompactEachRowWithNamesAndTypes",
    "SELECT 1 SETTINGS session_timezone = 'Europe/Berlin', output_format_json_quote_64bit_integers = 0",
    "EXPLAIN indexes = 1 SELECT count() FROM metrics WHERE metric_type = 'duration'",
    "WITH (v -> v + 1) AS next SELECT next(1)",
    "SELECT sumMapMergeState(m) FROM (SELECT sumMapState(map(1, 2)) AS m)",
    "SELECT * FROM words WHERE w IN ('a', 'b') AND n BETWEEN 1 AND 2 AND NOT has(a, 'q')",
    "SELECT statusWord('OK'), histogramQuantile(sumMap(histogram), 0.95) FROM metrics_5min GROUP BY ALL",
    "SELECT * FROM strangers.metrics_over(span_s = 3600)",
]


@pytest.mark.parametrize("sql", ASKED_BY_CLIENTS)
def test_clients_are_understood(both: Guarded, sql: str) -> None:
    """What drivers, Grafana and JDBC tools ask by themselves, and what analysts commonly write, is answered."""
    both.ask(sql)


def test_parameters_are_values(both: Guarded) -> None:
    """Parameters of every type of value are filled in; one that would name a table is refused."""
    assert both.ask(
        "SELECT {n:UInt8} + 1, {s:String}, {a:Array(Nullable(String))}", {"n": "1", "s": "x'", "a": "['q']"}
    )
    assert both.ask("SELECT {t:DateTime64(3, 'UTC')}, {e:Enum8('a' = 1)}", {"t": "2026-01-01 00:00:00", "e": "a"})
    for sql in (
        "SELECT * FROM {t:Identifier}",
        "SELECT * FROM strangers.{t:Identifier}",
        "SELECT {t:Identifier}",
        "SELECT {t:identifier}",
        "SELECT {t:Dynamic}",
    ):
        with pytest.raises(EngineError, match="parameter of the type") as refused:
            both.ask(sql, {"t": "words"})
        assert refused.value.code == 497
    with pytest.raises(EngineError, match="parameter's name"):
        both.ask("SELECT 1", {"x y": "1"})


def test_views_named_queries_and_functions_run(both: Guarded) -> None:
    """Everything that ``sql/`` ships for analysts runs within the walls."""
    for query in resources.queries().values():
        given = {one.name: "x" for one in query.parameters if one.default is None}
        both.ask(query.sql, query.values(given, 1_764_300_000_000))
    for view in resources.path("sql/views").glob("*.sql"):
        parameters = {"metrics_over": "(span_s = 3600)"}
        parameters |= dict.fromkeys(
            ("windows_of", "suites_of", "vitals_of"), "(from_s = 1700000000, to_s = 1700600000, step_s = 86400)"
        )
        both.ask(f"SELECT * FROM {view.stem}{parameters.get(view.stem, '')}")


def test_what_a_failed_result_left_is_not_answered(both: Guarded) -> None:
    """A result that fails half-way leaves nothing in front of the next answer."""
    for sql in ("SELECT number FROM numbers(2000000)", "SELECT throwIf(number = 999999) FROM numbers(1000000)"):
        with pytest.raises(EngineError):
            both.ask(sql + " SETTINGS max_block_size = 100")
        assert both.ask("SELECT 'next'") == b"next\n"


def test_a_failed_query_of_a_store_leaves_nothing(home: Store) -> None:
    """The same for a store in this process: the answer after a failure is the answer to its question."""
    with pytest.raises(Exception, match="395"):
        home.query("SELECT throwIf(number = 999999) AS n FROM numbers(1000000) SETTINGS max_block_size = 100")
    assert home.rows("SELECT 'next'") == [("next",)]


HEAVY = """
import sys, threading
from pathlib import Path
from pipeline.base.config import WebSettings
from pipeline.embedded import engine
from pipeline.embedded.handles import EngineError, Handle, as_query_settings
from pipeline.store.client import analyst_settings

def peak_mb():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024

path = Path(sys.argv[1])
hold = engine.hold(path, "writer", ["pipeline"])
Handle(path, ()).run(b"CREATE DATABASE pipeline")
limits = WebSettings(query_max_s=20, query_max_at_once=4, query_max_memory_bytes=100_000_000)
before = peak_mb()

def ask(sql):
    handle = Handle(path, as_query_settings(analyst_settings(limits)), "pipeline")
    try:
        handle.run(sql.encode(), "JSONEachRow")
        print("answered", flush=True)
    except EngineError as error:
        print(error.code, flush=True)
    assert handle.run(b"SELECT 1").body == b"1\\n"

threads = [threading.Thread(target=ask, args=(sql,)) for sql in sys.argv[2:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("grew", peak_mb() - before, flush=True)
"""


def test_heavy_queries_share_one_budget(tmp_path: Path) -> None:
    """Four queries at once that would each take gigabytes, as rows or as text, end as errors; the process lives on
    and has grown by little more than what all of them may take together."""
    name = "n" * 1000
    heavy = [
        "SELECT groupArray(number) FROM numbers(1000000000)",
        "SELECT repeat('x', 1000000) FROM numbers(300)",
        f"SELECT number AS `{name}` FROM numbers(400000)",
        "SELECT uniqExact(number, number + 1) FROM numbers(1000000000)",
    ]
    command = [sys.executable, "-c", HEAVY, str(tmp_path / "clickhouse"), *heavy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *codes, grew = done.stdout.splitlines()
    assert codes == ["241"] * 4
    assert int(grew.split()[1]) < 400


def test_errors_speak_of_what_was_asked(both: Guarded) -> None:
    """An error shows the statement of its author, never the one that the guard asked about it."""
    for sql in ("SELEC 1", "SELECT ?", "SELECT 'a", "SELECT 1; SELECT 2", "SELECT x FROM words", "DESCRIBE nothing"):
        with pytest.raises(EngineError) as refused:
            both.ask(sql)
        assert not re.search("formatQuery|parseQueryToJSON|JSON", str(refused.value)), str(refused.value)
    for sql in (
        "SELECT nonsense FROM system.tables",
        "SELECT name + 1 FROM system.parts",
        "SELECT t.x FROM system.databases AS t",
    ):
        with pytest.raises(EngineError) as refused:
            both.ask(sql)
        assert f"In scope {sql}. (" in str(refused.value)
    for sql, said in (
        ("SELECT name FROM system.tables SAMPLE 1 / 2", "not supported for system.tables"),
        ("SELECT 1 SETTINGS max_threads = DEFAULT", "DEFAULT as the value of a setting is not allowed"),
        ("SHOW CLUSTERS", "SHOW TABLES with clusters is not allowed"),
        ("EXPLAIN CURRENT TRANSACTION", "EXPLAIN CURRENT TRANSACTION is not allowed"),
        (
            "SELECT {p:Array(Tuple(a String))}",
            "the type Array(Tuple(a String)) is not allowed; pass a text and convert",
        ),
        ("SYSTEM RELOAD CONFIG", "only questions are answered here"),
    ):
        with pytest.raises(EngineError) as refused:
            both.ask(sql, {"p": "1"})
        assert said in str(refused.value)
        assert not re.search("Query|_settings|SELECT database", str(refused.value)), str(refused.value)


def test_bytes_that_are_not_utf8_may_stand_in_a_statement(both: Guarded) -> None:
    """A quoted text may hold any bytes, which are compared unchanged; such bytes open no function that is closed."""
    assert both.ask("SELECT hex('\udcff\udcfe'), hex('a\\xff')") == b"FFFE\t61FF\n"
    assert both.ask("SELECT count() FROM words WHERE w = '\udc80'") == b"0\n"
    with pytest.raises(EngineError, match="ACCESS_DENIED"):
        both.ask("SELECT file('\udcff')")


def test_settings_have_limits() -> None:
    """Settings within their limits pass as they are; others are refused with ClickHouse's number."""
    for name, value in [
        *(("max_execution_time", "5"), ("max_execution_time", "0.5"), ("max_threads", "1"), ("join_use_nulls", "1")),
        *(("max_result_rows", "10"), ("session_timezone", "Europe/Berlin"), ("session_timezone", "")),
        *(("output_format_json_quote_64bit_integers", "0"), ("readonly", "2"), ("log_comment", "x"), ("limit", "7")),
    ]:
        assert query_guard.allowed_setting(name, value, LIMITS) == value
    for name, value, code in [
        *(("max_execution_time", "0", 452), ("max_execution_time", "6", 452), ("max_execution_time", "nan", 452)),
        *(("max_execution_time", "-1", 452), ("max_memory_usage", "0", 452), ("max_memory_usage", "400000000", 452)),
        *(("max_threads", "0", 452), ("max_threads", "4096", 452), ("max_threads", "²", 452), ("readonly", "0", 164)),
        *(("session_timezone", "../../etc/passwd", 452), ("session_timezone", "/etc/passwd", 452)),
        *(("nonsense_setting", "1", 115), ("output_format_schema", "x", 115), ("dialect", "prql", 115)),
        *(("output_format_json_pretty_print", "a/b", 452), ("", "1", 115), ("a b\n", "1", 115)),
        *(("format_template_row", "x", 115), ("allow_experimental_analyzer", "0", 115), ("enable_analyzer", "0", 115)),
    ]:
        with pytest.raises(EngineError) as refused:
            query_guard.allowed_setting(name, value, LIMITS)
        assert refused.value.code == code, (name, value)
        assert "\n" not in str(refused.value)
