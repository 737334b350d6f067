"""ClickHouse's HTTP interface of the embedded store, as its clients meet it."""

import gzip
import http.client
import json
import re
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import clickhouse_connect
import pyarrow as pa
import pytest
import urllib3
from conftest import missing

from pipeline.base.config import Settings, WebSettings
from pipeline.base.errors import ConfigError
from pipeline.embedded import local_secret
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store

ANY = urllib3.PoolManager(retries=False)
LIMITS = WebSettings(query_max_s=2, query_max_memory_bytes=200_000_000, query_max_result_rows=5000)


@pytest.fixture(scope="module")
def data(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A database ``shop`` with a table of 10 rows, and one whose row was written twice."""
    settings = Settings(clickhouse={"dsn": f"chdb://{engine_path}", "database": "shop"})
    with Store.open(settings) as store:
        store.command("CREATE DATABASE shop")
        store.command("CREATE TABLE t (n UInt64, s LowCardinality(String)) ENGINE = MergeTree ORDER BY n")
        store.command("INSERT INTO t SELECT number, toString(number) FROM numbers(10)")
        store.command("CREATE TABLE r (k UInt8, v UInt8) ENGINE = ReplacingMergeTree(v) ORDER BY k")
        store.command("SYSTEM STOP MERGES r")
        store.command("INSERT INTO r VALUES (1, 1)")
        store.command("INSERT INTO r VALUES (1, 2)")
        yield store
        store.command("DROP DATABASE shop SYNC")


@pytest.fixture(scope="module")
def server(data: Store) -> Iterator[ClickHouseHttp]:
    """The server as analysts find it."""
    with ClickHouseHttp(data, limits=LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def writable(data: Store) -> Iterator[ClickHouseHttp]:
    """The server for development and tests."""
    with ClickHouseHttp(data, writable=True) as server:
        yield server


def ask(server: ClickHouseHttp, sql: str | bytes, method: str = "POST", headers: Any = None, **parameters: str) -> Any:
    query = "&".join(f"{name}={quote(value)}" for name, value in {"database": "shop", **parameters}.items())
    return ANY.request(method, f"{server.url}/?{query}", body=sql, headers=headers)


def test_signs_of_life(server: ClickHouseHttp) -> None:
    """``/ping`` and ``/`` say Ok; an unknown path is 404; HEAD has no body; other origins get no permission."""
    for path in ("/ping", "/", "/replicas_status"):
        assert (ANY.request("GET", server.url + path).status, ANY.request("GET", server.url + path).data) == (
            200,
            b"Ok.\n",
        )
    assert ANY.request("GET", server.url + "/nowhere").status == 404
    assert ANY.request("HEAD", server.url + "/ping").data == b""
    options = ANY.request("OPTIONS", server.url + "/")
    assert options.status == 204
    assert not [name for name in options.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    ("url", "body", "headers", "expected"),
    [
        ("/?query=SELECT%201%2B1", None, {}, b"2\n"),
        ("/", b"SELECT 1+1", {}, b"2\n"),
        ("/?query=SELECT%201", b"+1", {}, b"2\n"),
        ("/?query=SELECT%202&default_format=JSONEachRow", None, {}, b'{"2":2}\n'),
        ("/", b"SELECT 2", {"X-ClickHouse-Format": "CSV"}, b"2\n"),
        ("/?default_format=CSV", b"SELECT 2, 'a' FORMAT TSV", {}, b"2\ta\n"),
        ("/?param_a=x%27y&param_b=3", b"SELECT {a:String}, {b:UInt8}", {}, b"x\\'y\t3\n"),
        ("/?database=shop", b"SELECT count() FROM t", {}, b"10\n"),
        ("/", b"SELECT count() FROM t", {"X-ClickHouse-Database": "shop"}, b"10\n"),
        ("/?user=reader&password=secret", b"SELECT 2", {"Authorization": "Basic YTpi"}, b"2\n"),
        ("/", b"query=SELECT+2", {"Content-Type": "application/x-www-form-urlencoded"}, b"2\n"),
        ("/", b"SELECT 2 -- said; done\n;", {}, b"2\n"),
    ],
)
def test_where_a_question_may_stand(
    server: ClickHouseHttp, url: str, body: bytes | None, headers: dict[str, str], expected: bytes
) -> None:
    """In the address, in the body, or in both; format, database and parameters as ClickHouse takes them."""
    answer = ANY.request("POST" if body else "GET", server.url + url, body=body, headers=headers)
    assert (answer.status, answer.data) == (200, expected)


def test_a_multipart_form_may_hold_the_question(server: ClickHouseHttp) -> None:
    """Drivers send long parameters as form fields."""
    fields = {"query": "SELECT length({a:String})", "param_a": "x" * 5000}
    assert ANY.request("POST", server.url, fields=fields).data == b"5000\n"
    refused = ANY.request("POST", server.url, fields={"query": "SELECT 1", "t": ("t.csv", b"1")})
    assert refused.headers["X-ClickHouse-Exception-Code"] == "48"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("lz4", lambda data: pa.compress(data, "lz4", asbytes=True)),
        ("zstd", lambda data: pa.compress(data, "zstd", asbytes=True)),
        ("br", lambda data: pa.compress(data, "brotli", asbytes=True)),
    ],
)
def test_bodies_may_be_compressed(server: ClickHouseHttp, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """Every Content-Encoding that ClickHouse takes and drivers use."""
    if encoding == "lz4":  # frames; pa.compress makes bare blocks
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "lz4") as stream:
            stream.write(b"SELECT 5")
        body = sink.getvalue().to_pybytes()
    else:
        body = pack(b"SELECT 5")
    assert ask(server, body, headers={"Content-Encoding": encoding}).data == b"5\n"
    for broken in ({"Content-Encoding": encoding}, {"Content-Encoding": "rot13"}):
        assert ask(server, b"SELECT 5", headers=broken).status in (400, 500)


def test_bodies_may_come_in_chunks_and_connections_are_kept(server: ClickHouseHttp) -> None:
    """Many questions on one connection, chunked or not, and an error in between does not end it."""
    connection = http.client.HTTPConnection(server.host, server.port)
    for body, chunked in ((b"SELECT 1", False), ([b"SEL", b"ECT 2"], True), (b"SELECT x", False), (b"SELECT 3", False)):
        connection.request(
            "POST", "/", body=body, encode_chunked=chunked, headers={"Transfer-Encoding": "chunked"} if chunked else {}
        )
        answer = connection.getresponse()
        told = answer.read()
        assert told[:2] in (b"1\n", b"2\n", b"3\n", b"Co")
        assert not answer.will_close
    connection.close()


def test_a_body_without_bounds_is_refused(server: ClickHouseHttp) -> None:
    """A bomb is not unpacked, and what announces itself too large is not read."""
    bomb = gzip.compress(b" " * (20 << 20))
    assert ask(server, bomb, headers={"Content-Encoding": "gzip"}).status == 413
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nquery=\xff",
        b"GET //[ HTTP/1.1\r\n\r\n",
        b"GET /?query=%FF%00 HTTP/1.1\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_so(server: ClickHouseHttp, request_text: bytes) -> None:
    """Rubbish gets a 4xx or 5xx, never silence, and the server goes on."""
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(request_text)
        told = connection.recv(65536)
    assert re.match(rb"(HTTP/1.[01] |<!DOCTYPE|Code: )", told)
    assert b" 200 " not in told[:15]
    assert ask(server, b"SELECT 1").data == b"1\n"


def test_clients_that_go_away_leave_no_trace(server: ClickHouseHttp, capfd: pytest.CaptureFixture[str]) -> None:
    """A connection cut in the middle of a body or before the answer is nothing to report."""
    for length in (1000, 8):
        with socket.create_connection((server.host, server.port)) as connection:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\nSELECT 1" % length)
    assert ask(server, b"SELECT 1").data == b"1\n"
    assert capfd.readouterr().err == ""


def test_what_an_answer_says_about_itself(server: ClickHouseHttp) -> None:
    """Format, cost, query id and timezone stand in the headers."""
    answer = ask(server, b"SELECT n FROM t FORMAT JSONCompact", query_id="mine")
    headers = answer.headers
    assert headers["X-ClickHouse-Format"] == "JSONCompact"
    assert headers["Content-Type"].startswith("application/json")
    assert headers["X-ClickHouse-Query-Id"] == "mine"
    assert headers["X-ClickHouse-Timezone"] == "UTC"
    assert headers["X-ClickHouse-Server-Display-Name"]
    assert json.loads(headers["X-ClickHouse-Summary"])["read_rows"] == "10"
    assert len(json.loads(answer.data)["data"]) == 10
    split = ask(server, b"SELECT 1", query_id="a\r\nX-Evil: 1")
    assert "X-Evil" not in split.headers
    for format_name in ("ArrowTable", "DataFrame", "CSV INTO OUTFILE 'x'", "CSV\r\nX-Evil: 1"):
        assert ask(server, b"SELECT 1", default_format=format_name).headers["X-ClickHouse-Exception-Code"] == "73"
    empty = ask(server, b"SELECT n FROM t WHERE n > 99")
    assert (empty.data, empty.headers["X-ClickHouse-Format"]) == (b"", "TabSeparated")
    zipped = ask(server, b"SELECT 1", headers={"Accept-Encoding": "gzip"}, enable_http_compression="1")
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert zipped.data == b"1\n"


@pytest.mark.parametrize(
    ("sql", "code", "status"),
    [
        ("SELEC 1", 62, 400),
        ("SELECT 1; SELECT 2", 62, 400),
        ("", 62, 400),
        ("SELECT x FROM t", 47, 404),
        ("SELECT * FROM nowhere", 60, 404),
        ("SELECT path FROM system.parts", 497, 403),
        ("SELECT 1 FORMAT Nonsense", 73, 404),
        ("SELECT 1 FORMAT ArrowTable", 73, 404),
        ("SELECT nonsense(1)", 46, 404),
        ("SELECT toUInt8('x')", 6, 400),
        ("SELECT {missing:UInt8}", 456, 500),
        ("SELECT throwIf(number = 900) FROM numbers(1000)", 395, 500),
    ],
)
def test_errors_carry_clickhouses_number(server: ClickHouseHttp, sql: str, code: int, status: int) -> None:
    """The number in the header, the words in the body, the status that a server gives; never a 200."""
    if not sql:
        sql = " \n;"
    answer = ask(server, sql.encode())
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.status == status
    assert answer.data.startswith(f"Code: {code}. DB::Exception: ".encode())


def test_an_unknown_database_is_an_error(server: ClickHouseHttp) -> None:
    """Not the answer from another one; whether there is one that analysts may not read is not said."""
    answer = ask(server, b"SELECT 1", database="nowhere")
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "497")


@pytest.mark.parametrize("name", ["param_a", "database", "default_format", "query_id"])
def test_parameters_are_text(server: ClickHouseHttp, name: str) -> None:
    """Bytes that are not UTF-8 in the address: one sentence, and nothing of the engine's insides."""
    answer = ask(server, b"SELECT 1", **{name: b"\xff"})
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "117")
    assert (
        answer.data == f"Code: 117. DB::Exception: The parameter {name} is not valid UTF-8. (INCORRECT_DATA)\n".encode()
    )


def test_an_error_in_the_middle_is_an_error(server: ClickHouseHttp) -> None:
    """Rows computed before the error are not sent as if they were the answer."""
    sql = b"SELECT number, throwIf(number = 999) FROM numbers(1000) SETTINGS max_block_size = 10"
    answer = ask(server, sql.partition(b" SETTINGS")[0])
    assert answer.status == 500
    assert answer.data.startswith(b"Code: 395.")


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM numbers(5001)", 396),
        ("SELECT count() FROM numbers(1e12) WHERE NOT ignore(sipHash64(number))", 159),
        ("SELECT length(groupArray(number)) FROM numbers(100000000)", 241),
    ],
    ids=["rows", "time", "memory"],
)
def test_limits(server: ClickHouseHttp, sql: str, code: int) -> None:
    """Rows, time and memory of a question are limited."""
    answer = ask(server, sql.encode())
    assert answer.status != 200
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)


def test_one_revision_is_seen(server: ClickHouseHttp) -> None:
    """Rows that replace each other are read as FINAL."""
    assert ask(server, b"SELECT k, v FROM r").data == b"1\t2\n"


@pytest.mark.parametrize("name", ["nonsense_setting", "max_memory_usage_for_user", "NONSENSE", "a b", "role"])
def test_settings_that_are_not_listed_are_errors(server: ClickHouseHttp, name: str) -> None:
    """Nothing is ignored without a word; the number is ClickHouse's own."""
    answer = ask(server, b"SELECT 1", **{name: "1"})
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "115")


def test_settings_in_the_address_work(server: ClickHouseHttp) -> None:
    """Listed ones do what they say, limits can be lowered and not raised, and no request leaves one behind."""
    joined = b"SELECT b.n FROM (SELECT 1 AS n) AS a LEFT JOIN (SELECT 2 AS n) AS b USING n"
    typed = b"SELECT toTypeName(b.m) FROM (SELECT 1 AS n) AS a LEFT JOIN (SELECT 2 AS n, 3 AS m) AS b USING n"
    assert ask(server, joined).status == 200
    assert ask(server, typed, join_use_nulls="1").data == b"Nullable(UInt8)\n"
    assert ask(server, typed).data == b"UInt8\n"
    noon = b"SELECT toString(toDateTime('2026-01-01 12:00:00', 'UTC')), timezone()"
    assert ask(server, noon, session_timezone="Asia/Tokyo").data.endswith(b"Asia/Tokyo\n")
    assert ask(server, b"SELECT getSetting('max_execution_time')", max_execution_time="1").data == b"1\n"
    raised = ask(server, b"SELECT 1", max_execution_time="600")
    assert (raised.status, raised.headers["X-ClickHouse-Exception-Code"]) == (500, "452")
    assert ask(server, b"SELECT 1", session_id="s", session_timeout="60", wait_end_of_query="1").data == b"1\n"


def test_a_question_leaves_nothing_behind(server: ClickHouseHttp) -> None:
    """USE of one request does not move the next one, on the same connection or another."""
    assert ask(server, b"USE system").status == 200
    assert ask(server, b"SELECT currentDatabase()").data == b"shop\n"
    for url in (server.url, f"{server.url}/?database=default"):  # what drivers call default is the pipeline's database
        assert ANY.request("POST", url, body=b"SELECT count() FROM t").data == b"10\n"


def test_many_at_once_get_their_own_answers(server: ClickHouseHttp) -> None:
    """Twelve clients, ten questions each, one of them slow: no answer is empty or another client's."""
    wrong: list[Any] = []

    def work(worker: int) -> None:
        for turn in range(10):
            sql = f"SELECT {worker}, {turn}, count() FROM t" + (" WHERE NOT sleepEachRow(0.01)" if worker == 0 else "")
            answer = ask(server, sql.encode())
            if answer.data != f"{worker}\t{turn}\t10\n".encode():
                wrong.append((worker, turn, answer.data))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_who_waits_too_long_is_told_so(data: Store) -> None:
    """More questions at once than handles: those that do not get one in time are refused, not left hanging."""
    with ClickHouseHttp(data, limits=WebSettings(query_max_s=0.2)) as server:
        with server._handles.take((), 1):
            taken = [server._handles.take((), 1) for _ in range(WebSettings().query_max_at_once - 1)]
            for one in taken:
                one.__enter__()
            answer = ask(server, b"SELECT 1")
            for one in taken:
                one.__exit__(None, None, None)
        assert answer.headers["X-ClickHouse-Exception-Code"] == "202"
        assert ask(server, b"SELECT 1").data == b"1\n"


def test_the_driver_reads(server: ClickHouseHttp) -> None:
    """clickhouse-connect's ways to ask all work on the read-only server."""
    client = clickhouse_connect.get_client(host=server.host, port=server.port, database="shop")
    assert client.query("SELECT count() FROM t WHERE n < {n:UInt8}", {"n": 3}).result_rows == [(3,)]
    assert client.command("SELECT count() FROM t") == 10
    assert client.query_arrow("SELECT n FROM t ORDER BY n")["n"].to_pylist() == list(range(10))
    assert client.query_np("SELECT n FROM t ORDER BY n").ravel().tolist() == list(range(10))
    assert client.raw_query("SELECT 1", fmt="CSV") == b"1\n"
    assert client.query("SELECT n FROM t WHERE n > 99").result_rows == []
    assert client.query("SELECT n FROM t LIMIT 1", settings={"max_threads": 1, "join_use_nulls": 1}).row_count == 1
    with pytest.raises(clickhouse_connect.driver.exceptions.Error):
        client.query("SELECT 1", settings={"nonsense_setting": 1})
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError) as refused:
        client.command("DROP TABLE t")
    assert refused.value.code == 164
    client.close()


def test_the_driver_writes(writable: ClickHouseHttp) -> None:
    """clickhouse-connect's ways to insert, DDL and settings all work on the writable one."""
    client = clickhouse_connect.get_client(host=writable.host, port=writable.port, database="shop")
    client.command("CREATE TABLE w (a UInt32, s String) ENGINE = MergeTree ORDER BY a")
    assert client.insert("w", [[1, "x;y"], [2, "й'\n"]], column_names=["a", "s"]).written_rows == 2
    rows = pa.table({"a": pa.array([3, 4], pa.uint32()), "s": ["", "\\"]})
    assert client.insert_arrow("w", rows).written_rows == 2
    client.raw_insert("w", ["a", "s"], b'{"a":5,"s":"{;}"}\n', fmt="JSONEachRow", settings={"async_insert": 0})
    client.raw_insert("w", ["a", "s"], gzip.compress(b"6,z\n"), fmt="CSV", compression="gzip")
    client.command("INSERT INTO w VALUES (7, 'FORMAT CSV')")
    client.command("INSERT INTO w SELECT 8, 'q'")
    expected = [(1, "x;y"), (2, "й'\n"), (3, ""), (4, "\\"), (5, "{;}"), (6, "z"), (7, "FORMAT CSV"), (8, "q")]
    assert client.query("SELECT a, s FROM w ORDER BY a").result_rows == expected
    assert client.command("SELECT getSetting('max_block_size')", settings={"max_block_size": 1234}) == 1234
    assert client.command("SELECT getSetting('max_block_size')") != 1234
    client.command("DROP TABLE w")
    client.close()


def test_nothing_set_in_a_request_outlives_it(writable: ClickHouseHttp) -> None:
    """There are no sessions: SET lasts as long as its request."""
    for _ in range(20):
        assert ask(writable, b"SET max_block_size = 4321").status == 200
        assert ask(writable, b"SELECT getSetting('max_block_size')").data != b"4321\n"


def test_an_insert_may_be_large(writable: ClickHouseHttp) -> None:
    """300,000 rows in one body, statement in the address, count in the summary."""
    ask(writable, b"CREATE TABLE big (n UInt64) ENGINE = MergeTree ORDER BY n")
    body = b"\n".join(b"%d" % n for n in range(300_000))
    answer = ask(writable, body, query="INSERT INTO big FORMAT TSV")
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "300000"
    assert ask(writable, b"SELECT count(), max(n) FROM big").data == b"300000\t299999\n"
    native = ask(writable, b"SELECT n FROM big FORMAT Native").data
    assert ask(writable, b"INSERT INTO big FORMAT Native\n" + native).status == 200
    assert ask(writable, b"SELECT count(), sum(n) FROM big").data == b"600000\t%d\n" % (2 * sum(range(300_000)))
    ask(writable, b"DROP TABLE big")


def test_curl(server: ClickHouseHttp) -> None:
    """The one-liner of every ClickHouse tutorial."""
    if shutil.which("curl") is None:
        missing("curl is not installed")
    command = ["curl", "-sS", "--fail", f"{server.url}/?database=shop", "-d", "SELECT sum(n) FROM t"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"45\n"


def test_a_taken_port_is_an_error(server: ClickHouseHttp, data: Store) -> None:
    """The caller decides what to do about it; the store stays usable."""
    with pytest.raises(OSError, match="in use"):
        ClickHouseHttp(data, port=server.port)
    assert data.rows("SELECT count() FROM t") == [(10,)]


def test_a_store_on_a_server_cannot_be_served(make_settings: Callable[..., Settings], writable: ClickHouseHttp) -> None:
    """A server serves itself."""
    with (
        Store.open(make_settings(clickhouse={"dsn": writable.url})) as store,
        pytest.raises(ValueError, match="embedded"),
    ):
        ClickHouseHttp(store)


# Compression of ClickHouse's own


def test_compressed_blocks_both_ways(server: ClickHouseHttp, writable: ClickHouseHttp) -> None:
    """``decompress=1`` reads what ``compress=1`` writes; broken blocks are an error with ClickHouse's number."""
    from pipeline.embedded.native_blocks import compressed, decompressed

    question = b"SELECT n, s FROM t ORDER BY n"
    plain = ask(server, question).data
    answer = ask(server, compressed(question), decompress="1", compress="1")
    assert decompressed(answer.data, 1 << 20) == plain
    broken = ask(server, compressed(question)[:-1], decompress="1")
    assert (broken.status, broken.headers["X-ClickHouse-Exception-Code"]) == (400, "271")
    ask(writable, b"CREATE TABLE blocks (n UInt64) ENGINE = MergeTree ORDER BY n")
    inserted = ask(writable, compressed(b"1\n2\n3\n"), query="INSERT INTO blocks FORMAT TSV", decompress="1")
    assert json.loads(inserted.headers["X-ClickHouse-Summary"])["written_rows"] == "3"
    ask(writable, b"DROP TABLE blocks")


# Running


def test_a_statement_without_a_client_is_ended(server: ClickHouseHttp, data: Store) -> None:
    """A client that goes away takes its query with it, long before the limit on time."""
    question = b"SELECT count() FROM numbers(1e13) WHERE NOT ignore(sipHash64(number), 'runaway')"
    looking = "SELECT count() FROM system.processes WHERE query LIKE '%runaway%' AND query NOT LIKE '%processes%'"
    with ClickHouseHttp(data, limits=WebSettings(query_max_s=600)) as patient:
        with socket.create_connection((patient.host, patient.port)) as connection:
            head = f"POST / HTTP/1.1\r\nHost: localhost:{patient.port}\r\nContent-Length: {len(question)}\r\n\r\n"
            connection.sendall(head.encode() + question)
            until(lambda: data.rows(looking)[0][0] == 1)
        until(lambda: data.rows(looking)[0][0] == 0)
        assert ask(patient, b"SELECT 1").data == b"1\n"


def test_an_id_names_one_query_at_a_time(server: ClickHouseHttp) -> None:
    """A second query under the id of one that runs is refused with ClickHouse's number."""
    answers: list[Any] = []
    question = b"SELECT count() FROM t WHERE NOT sleepEachRow(0.1)"
    threads = [
        threading.Thread(target=lambda: answers.append(ask(server, question, query_id="same"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 500}
    refused = [answer for answer in answers if answer.status == 500]
    assert [answer.headers["X-ClickHouse-Exception-Code"] for answer in refused] == ["216"] * len(refused)
    assert ask(server, question, query_id="same").status == 200


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


# Credentials


@pytest.fixture
def guarded(data: Store) -> Iterator[ClickHouseHttp]:
    """A server with credentials."""
    with ClickHouseHttp(data, limits=WebSettings(user="ann", password="s3cret", token="t0ken")) as server:
        yield server


def test_clients_show_credentials_their_way(guarded: ClickHouseHttp) -> None:
    """clickhouse-connect with a password and with a token, curl's URL parameters; anything else is told to."""
    for shown in ({"username": "ann", "password": "s3cret"}, {"access_token": "t0ken"}):
        client = clickhouse_connect.get_client(host=guarded.host, port=guarded.port, database="shop", **shown)
        assert client.command("SELECT count() FROM t") == 10
        client.close()
    assert ask(guarded, b"SELECT 1", user="ann", password="s3cret").data == b"1\n"
    assert ask(guarded, b"SELECT 1", headers={"X-ClickHouse-User": "ann", "X-ClickHouse-Key": "s3cret"}).data == b"1\n"
    missing_ones = ask(guarded, b"SELECT 1")
    assert (missing_ones.status, missing_ones.headers["X-ClickHouse-Exception-Code"]) == (401, "194")
    assert missing_ones.headers["WWW-Authenticate"].startswith("Basic")
    wrong = ask(guarded, b"SELECT 1", user="ann", password="s3cre")
    assert (wrong.status, wrong.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    assert ANY.request("GET", guarded.url + "/ping").status == 401


def test_beyond_loopback_it_refuses_to_start(data: Store) -> None:
    """Without credentials nothing is bound, and the store stays usable."""
    with pytest.raises(ConfigError, match=r"web\.host.*web\.token"):
        ClickHouseHttp(data, host="0.0.0.0")
    with ClickHouseHttp(data, host="0.0.0.0", limits=WebSettings(token="t0ken")) as server:
        assert ANY.request("GET", server.url + "/?query=SELECT+1").status == 401
        bearer = {"Authorization": "Bearer t0ken"}
        assert ANY.request("GET", server.url + "/?query=SELECT+1", headers=bearer).data == b"1\n"
    assert data.rows("SELECT count() FROM t") == [(10,)]


def test_commands_of_this_machine_need_no_password(guarded: ClickHouseHttp, engine_path: Path) -> None:
    """They show the secret that stands beside the engine's lock, which only the same user can read."""
    secret = local_secret.read(engine_path)
    file = engine_path.with_name(engine_path.name + ".secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    client = clickhouse_connect.get_client(host=guarded.host, port=guarded.port, access_token=secret, database="shop")
    assert client.command("SELECT count() FROM t") == 10
    client.close()
    assert ask(guarded, b"SELECT 1", headers={"Authorization": f"Bearer {secret}x"}).status == 403
