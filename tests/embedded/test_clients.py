"""ClickHouse clients of other projects read the same through the HTTP interface as the engine itself says."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pyarrow as pa
import pytest
import urllib3
from clickhouse_connect.driver.exceptions import DatabaseError
from conftest import missing
from side_packages import side_npm_packages, side_packages

from pipeline.base.config import Settings, WebSettings
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store

ROWS = 20_000
SQL = "SELECT n, s, at, ratio, tags, list, maybe FROM shelf.t ORDER BY n LIMIT 500"
COUNT = "SELECT count(), sum(n) FROM shelf.t"
_CHILD_S = 120


@pytest.fixture(scope="module")
def shelf(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A database with rows of the types that our tables have."""
    settings = Settings(clickhouse={"dsn": f"chdb://{engine_path}", "database": "shelf"})
    with Store.open(settings) as store:
        store.command("CREATE DATABASE shelf")
        store.command(
            "CREATE TABLE t (n UInt64, s LowCardinality(String), at DateTime64(3, 'UTC'), ratio Float64, "
            "tags Map(LowCardinality(String), String), list Array(UInt32), maybe Nullable(String)) "
            "ENGINE = MergeTree ORDER BY n COMMENT 'One row is a book.'"
        )
        store.command(
            "INSERT INTO t SELECT number, concat('ünï-', toString(number % 7)), "
            "toDateTime64(1700000000.5 + number, 3), "
            "number / 3, map('k', toString(number)), range(number % 4), if(number % 2 = 0, NULL, 'x\\ty') "
            f"FROM numbers({ROWS})"
        )
        yield store
        store.command("DROP DATABASE shelf SYNC")


@pytest.fixture(scope="module")
def server(shelf: Store) -> Iterator[ClickHouseHttp]:
    """The interface as analysts find it, with a password."""
    limits = WebSettings(user="analyst", password="p4ss-word", query_max_s=20, query_max_result_rows=100_000)
    with ClickHouseHttp(shelf, limits=limits) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ClickHouseHttp) -> Iterator[Any]:
    """clickhouse-connect over HTTP."""
    with clickhouse_connect.get_client(
        host="127.0.0.1", port=server.port, username="analyst", password="p4ss-word", database="shelf"
    ) as client:
        yield client


def told(text: bytes | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def child(server: ClickHouseHttp, *command: str, **environment: str) -> dict[str, Any]:
    """What a program printed as JSON, told where the interface is."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_CHILD_S,
        check=False,
        env={
            **os.environ,
            "CLICKHOUSE_HOST": "127.0.0.1",
            "CLICKHOUSE_PORT": str(server.port),
            "CLICKHOUSE_USER": "analyst",
            "CLICKHOUSE_PASSWORD": "p4ss-word",
            "CLICKHOUSE_DATABASE": "shelf",
            "CLICKHOUSE_SECURE": "false",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return told(done.stdout.strip().splitlines()[-1])


def test_clickhouse_connect(client: Any, shelf: Store) -> None:
    """Rows, a data frame, Arrow, streams and parameters are what the engine says; an insert is refused."""
    wanted = shelf.query(SQL)
    rows = client.query(SQL)
    assert rows.column_names == tuple(wanted.column_names)
    assert [row[:2] for row in rows.result_rows] == shelf.rows("SELECT n, s FROM t ORDER BY n LIMIT 500")
    arrow = client.query_arrow(SQL, use_strings=True)
    for name in ("n", "at", "ratio", "maybe"):
        assert arrow[name].to_pylist() == wanted[name].to_pylist()
    frame = client.query_df(SQL)
    assert frame["n"].tolist() == wanted["n"].to_pylist()
    assert frame["ratio"].tolist() == wanted["ratio"].to_pylist()
    with client.query_row_block_stream("SELECT n FROM t ORDER BY n") as blocks:
        assert [row[0] for block in blocks for row in block] == list(range(ROWS))
    with client.query_arrow_stream("SELECT n FROM t") as batches:
        assert sum(batch.num_rows for batch in batches) == ROWS
    bound = client.query("SELECT s FROM t WHERE n = {n:UInt64} AND s = {s:String}", {"n": 3, "s": "ünï-3"})
    assert bound.result_rows == [("ünï-3",)]
    with pytest.raises(DatabaseError, match=r"READONLY|ACCESS_DENIED"):
        client.insert("t", [[1, "x"]], ["n", "s"])
    with pytest.raises(DatabaseError):
        client.command("CREATE TABLE x (a Int8) ENGINE = Memory")
    assert client.query(COUNT).result_rows == shelf.rows(COUNT)


def test_a_session_says_that_there_is_none_to_write_in(client: Any) -> None:
    """A client with a session reads; temporary tables, which a session would be for, are refused."""
    assert client.query("SELECT 1", settings={"session_id": "s1", "session_timeout": 60}).result_rows == [(1,)]
    with pytest.raises(DatabaseError):
        client.command("CREATE TEMPORARY TABLE x (a Int8)", settings={"session_id": "s1"})


def test_sqlalchemy(server: ClickHouseHttp, shelf: Store) -> None:
    """SQLAlchemy's engine of clickhouse-connect: text with bound values, reflection, a select that it writes itself."""
    program = """
import json, os, sqlalchemy as sa
engine = sa.create_engine("clickhousedb://{CLICKHOUSE_USER}:{CLICKHOUSE_PASSWORD}@127.0.0.1:{CLICKHOUSE_PORT}/shelf"
                          .format(**os.environ))
with engine.connect() as connection:
    counted = list(connection.execute(sa.text("SELECT count(), sum(n) FROM t")).one())
    bound = connection.execute(sa.text("SELECT s FROM t WHERE n = :n"), {"n": 3}).scalar()
    table = sa.Table("t", sa.MetaData(), autoload_with=engine)
    written = [list(row) for row in connection.execute(sa.select(table.c.n).where(table.c.n < 3).order_by(table.c.n))]
print(json.dumps({"count": counted, "bound": bound, "columns": [c.name for c in table.columns], "written": written,
                  "tables": sa.inspect(engine).get_table_names()}))
"""
    found = child(server, sys.executable, "-c", program, PYTHONPATH=str(side_packages("sqlalchemy>=2,<3")))
    assert found["count"] == list(shelf.rows(COUNT)[0])
    assert (found["bound"], found["written"], found["tables"]) == ("ünï-3", [[0], [1], [2]], ["t"])
    assert found["columns"] == shelf.query(SQL).column_names


def test_mcp_clickhouse(server: ClickHouseHttp, shelf: Store) -> None:
    """The MCP server of ClickHouse lists databases and tables with their comments, and answers a query."""
    program = """
import asyncio, json
from fastmcp import Client
from mcp_clickhouse.mcp_server import mcp
async def main():
    async with Client(mcp) as client:
        async def call(name, **arguments):
            return (await client.call_tool(name, arguments)).content[0].text
        return {
            "databases": await call("list_databases"),
            "tables": await call("list_tables", database="shelf"),
            "rows": await call("run_query", query="SELECT count() AS c, sum(n) AS s FROM shelf.t"),
        }
print(json.dumps(asyncio.run(main())))
"""
    packages = side_packages("mcp-clickhouse>=0.4,<1", with_what_they_need=True)
    found = child(server, sys.executable, "-c", program, PYTHONPATH=str(packages))
    assert "shelf" in found["databases"]
    assert "One row is a book." in found["tables"]
    assert all(str(number) in found["rows"] for number in shelf.rows(COUNT)[0])


def test_the_javascript_client(server: ClickHouseHttp, shelf: Store) -> None:
    """@clickhouse/client: rows as JSON, a stream, parameters, and an insert that is refused with its number."""
    directory = side_npm_packages("@clickhouse/client")
    program = """
const {createClient} = require('@clickhouse/client');
const {env} = process;
(async () => {
  const client = createClient({url: `http://127.0.0.1:${env.CLICKHOUSE_PORT}`, username: env.CLICKHOUSE_USER,
    password: env.CLICKHOUSE_PASSWORD, database: 'shelf'});
  const pinged = (await client.ping()).success;
  const all = await (await client.query({query: env.SQL, format: 'JSONEachRow'})).json();
  let streamed = 0;
  const stream = (await client.query({query: 'SELECT n FROM t', format: 'JSONEachRow'})).stream();
  for await (const rows of stream) streamed += rows.length;
  const bound = await (await client.query({query: 'SELECT s FROM t WHERE n = {n:UInt64}', query_params: {n: 3},
    format: 'JSONEachRow'})).json();
  let refused = '';
  try { await client.insert({table: 't', values: [{n: 1}], format: 'JSONEachRow'}); } catch (e) { refused = e.code; }
  await client.close();
  console.log(JSON.stringify({pinged, all, streamed, bound, refused}));
})().catch((e) => { console.error(e); process.exit(1); });
"""
    found = child(
        server, shutil.which("node") or missing("node is not installed"), "-e", program,
        NODE_PATH=str(directory / "node_modules"), SQL=SQL,
    )  # fmt: skip
    direct = shelf.raw(SQL, None, "JSONEachRow")
    assert found["all"] == [json.loads(line) for line in direct.splitlines()]
    assert (found["pinged"], found["streamed"], found["bound"]) == (True, ROWS, [{"s": "ünï-3"}])
    assert found["refused"] in ("164", "497")


@pytest.mark.parametrize(
    "output",
    [
        *("CSV", "CSVWithNames", "TSV", "TSVWithNames", "TSVWithNamesAndTypes", "JSON", "JSONCompact", "JSONEachRow"),
        *("JSONCompactEachRow", "Values", "Vertical", "Pretty", "PrettyCompact", "Markdown", "XML", "RowBinary"),
        *("Native", "Arrow", "ArrowStream", "Parquet", "ORC", "Avro", "MsgPack"),
    ],
)
def test_every_common_format(server: ClickHouseHttp, shelf: Store, output: str) -> None:
    """What arrives over HTTP is to the byte what the engine writes; where a format tells times or ids, to the row."""
    sql = "SELECT n, s, ratio FROM shelf.t ORDER BY n LIMIT 20"
    answer = ANY.request(
        "POST", f"{server.url}/?default_format={output}", body=sql, headers=urllib3.make_headers(basic_auth=LOGIN)
    )
    assert answer.status == 200, answer.data
    direct = shelf.raw(sql, None, output)
    if output in ("JSON", "JSONCompact"):
        assert told(answer.data)["data"] == told(direct)["data"]
    elif output == "XML":
        assert answer.data.partition(b"<statistics>")[0] == direct.partition(b"<statistics>")[0]
    elif output == "Avro":
        assert abs(len(answer.data) - len(direct)) <= 16, "its sync marker is drawn by lot"
    elif output in ("Arrow", "ArrowStream"):
        read = pa.ipc.open_file if output == "Arrow" else pa.ipc.open_stream
        assert read(answer.data).read_all().to_pylist() == read(direct).read_all().to_pylist()
    else:
        assert answer.data == direct


ANY = urllib3.PoolManager(retries=False)
LOGIN = "analyst:p4ss-word"


def test_statistics_and_progress_stand_in_the_headers(server: ClickHouseHttp) -> None:
    """Rows and bytes read as a summary, progress where it is asked for, and the query's id."""
    parameters = "send_progress_in_http_headers=1&query_id=mine&wait_end_of_query=1"
    answer = ANY.request(
        "POST", f"{server.url}/?{parameters}", body=COUNT, headers=urllib3.make_headers(basic_auth=LOGIN)
    )
    summary = told(answer.headers["X-ClickHouse-Summary"])
    assert (int(summary["read_rows"]), int(summary["result_rows"])) == (ROWS, 1)
    assert int(summary["read_bytes"]) > 0
    assert told(answer.headers["X-ClickHouse-Progress"])["read_rows"]
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"


def test_who_hangs_up_frees_the_handle(server: ClickHouseHttp) -> None:
    """curl that gives up takes its statement with it: more of them than there are handles, and the next is answered."""
    curl = shutil.which("curl") or missing("curl is not installed")
    endless = "SELECT count() FROM numbers(100000000000) WHERE cityHash64(number) = 1"
    given_up = [
        subprocess.Popen([curl, "-sS", "-m", "1", "-u", LOGIN, server.url, "--data-binary", endless],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(6)
    ]  # fmt: skip
    assert {process.wait(timeout=60) for process in given_up} == {28}
    began = time.monotonic()
    done = subprocess.run(
        [curl, "-sS", "-u", LOGIN, server.url, "--data-binary", COUNT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(ROWS), str(ROWS * (ROWS - 1) // 2)]
    assert time.monotonic() - began < 18, "the statements would have run for query_max_s"
