"""Something between us and ClickHouse answers 200 to everything: nothing is lost, nothing stands twice."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_proxy import ClickHouseProxy, clickhouse_proxy
from drain_parts import Whereabouts, assert_books_agree, bad, buffer_on, drain_store, drainer_on, good, push
from test_drainer import over_http, url

from pipeline.base import config
from pipeline.base.errors import StoreOutage, StoreRefused
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store
from pipeline.store.refusals import proved_rows, translated

__all__ = ["url"]

NEVER_ARRIVED = (
    *("200", "page", "empty", "text", "redirect:302", "redirect:303", "redirect:307", "redirect:308"),
    *('summary:{"written_rows":"0"}', 'summary:{"written_rows":"29"}', "summary:{}", "summary:[]", "summary:null"),
    *('summary:{"written_rows":null}', 'summary:{"written_rows":"-30"}', 'summary:{"written_rows":"1e9"}', "summary:{"),
)
RIGHT = 'Connection: close\r\nX-ClickHouse-Summary: {"written_rows":"30"}\r\n'
ANOTHERS = "X-ClickHouse-Query-Id: pipeline-0123456789abcdef0123456789abcdef\r\n"
A_PROXYS = "X-ClickHouse-Query-Id: 174D4C4A6DA3EF0F\r\n"
END = "Content-Length: 0\r\n\r\n"
HALFWAY = "Content-Length: 42\r\n\r\nCode: 241. DB::Exception: Memory limit hit"
MADE_UP = (
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{END}",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{ANOTHERS}{END}",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{A_PROXYS}{HALFWAY}",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{A_PROXYS}X-ClickHouse-Exception-Code: 241\r\n{HALFWAY}",
    *(f"raw:HTTP/1.1 {status}\r\n{RIGHT}{A_PROXYS}{END}" for status in ("204 No Content", "206 Partial Content")),
    f"raw:HTTP/1.1 302 Found\r\nLocation: /ping\r\n{RIGHT}{A_PROXYS}{END}",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{RIGHT}{A_PROXYS}{END}",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{A_PROXYS}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{A_PROXYS}Transfer-Encoding: chunked\r\n\r\n5\r\nhal",
    f"raw:HTTP/1.1 200 OK\r\n{RIGHT}{A_PROXYS}Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "raw:" + "HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "raw:HTTP/1.1 200 OK\r\nX-ClickHouse-Progress: {}\r\n",
    'summary:{"written_rows":"30","written_rows":"-1"}',
    f'summary:{{"written_rows":"{"9" * 5000}"}}',
)
"""Answers that look more like ClickHouse's, and the right number in most of them."""

DONE_ALL_THE_SAME = (
    *('done, summary:{"written_rows":"0"}', 'done, summary:{"written_rows":"60"}', "done, summary:junk"),
    *("done, add:Code: 241. DB::Exception: Memory limit", "done, header:X-ClickHouse-Query-Id: pipeline-7"),
    *("done, header:X-ClickHouse-Exception-Code: 241", "done, header:X-ClickHouse-Query-Id: "),
)


@pytest.fixture
def embedded(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables in this process's engine."""
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


ABOUT_DEAD_LETTERS = (
    *MADE_UP[:2],
    "page",
    "redirect:302",
    'summary:{"written_rows":"29"}',
    "done, summary:junk",
    "cut",
)
"""Each kind of lie is told about both tables; with ``--thorough`` each lie."""


def told(lies: Iterable[str]) -> list[Any]:
    """Each of the lies about each of the tables."""
    return [
        pytest.param(table, lie, marks=() if table == "metrics" or lie in ABOUT_DEAD_LETTERS else pytest.mark.thorough)
        for table in ("metrics", "dead_letters")
        for lie in lies
    ]


@pytest.fixture
def proxy(table: str, embedded: Store) -> Iterator[ClickHouseProxy]:
    """A liar about the inserts into one of the tables."""
    with ClickHouseHttp(embedded, writable=True) as server, clickhouse_proxy(server.url, table) as proxy:
        yield proxy


@pytest.mark.parametrize(("table", "lie"), told([*NEVER_ARRIVED, *MADE_UP, *DONE_ALL_THE_SAME]))
def test_an_answer_is_believed_only_when_it_proves_what_was_written(
    url: str, proxy: ClickHouseProxy, embedded: Store, lie: str
) -> None:
    """An insert answered 200 by a page, by nothing, with other numbers or a redirect is in doubt, and read back."""
    buffer = buffer_on(url)
    push(buffer.client, [item for number in range(30) for item in (good(number), bad(number))])
    proxy.plan.extend([lie] * 2)
    with over_http(proxy.url, embedded, timeout_s=20) as far:
        drainer_on(buffer, far, max_retry_pause_s=0.05).drain_until_empty()
    assert proxy.done[:1] == [lie]
    Whereabouts(embedded).assert_each_once(range(30), [bad(number) for number in range(30)])
    assert_books_agree(buffer, embedded)


@pytest.mark.parametrize(
    ("table", "lie"),
    told(
        [
            *("200", "page", "empty", "text", "cut", "redirect:302", "503", *MADE_UP[:4]),
            *("done, header:X-ClickHouse-Query-Id: pipeline-7", "done, add:Code: 241. DB::Exception: Memory limit"),
        ]
    ),
)
def test_a_read_back_that_is_not_clickhouse_s_is_not_believed(
    url: str, proxy: ClickHouseProxy, embedded: Store, lie: str
) -> None:
    """The rows stand, the answer that says so does not come: it is asked again, and no row is sent a second time."""
    buffer = buffer_on(url)
    push(buffer.client, [item for number in range(30) for item in (good(number), bad(number))])
    proxy.plan.append("close after")
    proxy.read_plan.extend([lie] * 3)
    with over_http(proxy.url, embedded, timeout_s=20) as far:
        drainer_on(buffer, far, max_retry_pause_s=0.05).drain_until_empty()
    assert proxy.reads_done == [lie] * 3
    Whereabouts(embedded).assert_each_once(range(30), [bad(number) for number in range(30)])
    assert_books_agree(buffer, embedded)


ROWS = pa.table({"n": pa.array([1, 2], pa.uint64())})


@pytest.mark.parametrize("lie", [*NEVER_ARRIVED, *MADE_UP])
def test_every_table_s_insert_is_proved_or_an_outage(embedded: Store, lie: str) -> None:
    """Windows, alerts, the ledger: the writer learns that the outcome is in doubt, and comes again."""
    embedded.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    with ClickHouseHttp(embedded, writable=True) as server, clickhouse_proxy(server.url, "t") as proxy:
        proxy.always = lie.replace("29", "1").replace("-30", "-2").replace("1e9", "2e0")
        with over_http(proxy.url, embedded) as far:
            with pytest.raises((StoreOutage, StoreRefused)):
                far.insert("t", ROWS)
            proxy.always = ""
            assert far.insert("t", ROWS) == 2
    assert embedded.rows("SELECT count() FROM t") == [(2,)]


@pytest.mark.parametrize("lie", ["200", "page", "empty", "text", "cut"])
def test_an_answer_that_is_no_result_is_an_outage(embedded: Store, lie: str) -> None:
    """A page in place of rows is neither a crash nor an empty result."""
    embedded.command("CREATE TABLE t (position UInt64) ENGINE = MergeTree ORDER BY position")
    with (
        ClickHouseHttp(embedded, writable=True) as server,
        clickhouse_proxy(server.url, "t") as proxy,
        over_http(proxy.url, embedded) as far,
    ):
        proxy.read_plan.append(lie)
        with pytest.raises(StoreOutage):
            far.query("SELECT position FROM t")
        assert far.rows("SELECT position FROM t") == []


def test_more_rows_than_were_sent_prove_that_those_were_written() -> None:
    """Materialized views of the operator count too; fewer rows, and what is no number, prove nothing."""
    assert proved_rows("t", 2, {"written_rows": "2"}) == 2
    assert proved_rows("t", 2, {"written_rows": "4"}) == 4
    for summary in ({}, {"written_rows": "1"}, {"written_rows": "٢"}, {"written_rows": True}, {"written_rows": [2]}):
        with pytest.raises(StoreOutage):
            proved_rows("t", 2, summary)


@pytest.mark.parametrize(
    "lie",
    [
        "drip:HTTP/1.1 200 OK\r\nX-Head: ",
        "drip:HTTP/1.1 200 OK\r\n\r\n",
        "drip:HTTP/1.0 200 OK\r\nContent-Length: 999999\r\n\r\n",
    ],
)
def test_an_answer_that_never_ends_is_given_up(embedded: Store, lie: str) -> None:
    """However steadily it comes: an insert is then in doubt, a question is asked again."""
    embedded.command("CREATE TABLE t (position UInt64) ENGINE = MergeTree ORDER BY position")
    rows = pa.table({"position": pa.array([1, 2], pa.uint64())})
    with ClickHouseHttp(embedded, writable=True) as server, clickhouse_proxy(server.url, "t") as proxy:
        settings = config.ClickHouseSettings(
            dsn=proxy.url, database=embedded.database, connect_timeout_s=1, request_timeout_s=1
        )
        with Store.open(config.Settings(clickhouse=settings)) as far:
            proxy.plan.append(lie)
            proxy.read_plan.append(lie)
            with pytest.raises(StoreOutage, match="no whole answer within 3 s"):
                far.insert("t", rows)
            with pytest.raises(StoreOutage, match="no whole answer within 3 s"):
                far.query("SELECT position FROM t")
            assert far.insert("t", rows) == 2


def test_what_is_not_clickhouse_s_success_is_no_success_of_a_statement(embedded: Store) -> None:
    """DDL too: a page in the place of ClickHouse makes no table."""
    with (
        ClickHouseHttp(embedded, writable=True) as server,
        clickhouse_proxy(server.url, "t") as proxy,
        over_http(proxy.url, embedded) as far,
    ):
        proxy.statement_plan.extend(["page", "empty", MADE_UP[0]])
        for _ in range(3):
            with pytest.raises(StoreOutage, match="not ClickHouse"):
                far.command("CREATE TABLE made (n UInt64) ENGINE = Memory")
        far.command("CREATE TABLE made (n UInt64) ENGINE = Memory")


def test_an_error_in_an_error_is_said_once() -> None:
    """The engine wraps some of its errors in its own form, version and all, up to three times."""
    wrapped = (
        "Code: 73. DB::Exception: Code: 73. DB::Exception: Code: 73. DB::Exception: Unknown format Nonsense. "
        "(UNKNOWN_FORMAT) (version 26.9.2.1). (UNKNOWN_FORMAT) (version 26.9.2.1). (UNKNOWN_FORMAT)"
    )
    with pytest.raises(StoreRefused) as refused, translated("reader"):
        raise DatabaseError(wrapped, code=73)
    assert str(refused.value) == "ClickHouse, code 73: Unknown format Nonsense. (UNKNOWN_FORMAT)"
