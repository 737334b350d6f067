"""A server that is away, goes away, or hides behind a proxy that misbehaves."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pytest
import urllib3
from children import serve_clickhouse
from conftest import free_port

from pipeline.base.config import Settings
from pipeline.base.errors import StoreOutage, StoreRefused
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store

ROWS = pa.table({"n": pa.array([1, 2], pa.uint64())})


def test_a_store_outlives_its_server(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """While the server is away every call is an outage, and the same handle works again once it is back."""
    port = free_port()
    settings = make_settings(clickhouse={"dsn": f"http://127.0.0.1:{port}", "connect_timeout_s": 1})
    with pytest.raises(StoreOutage, match="refused"):
        Store.open(settings)
    server, _ = serve_clickhouse(tmp_path / "engine", port)
    store = Store.open(settings)
    try:
        store.command(f"CREATE DATABASE {store.database}")
        store.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
        store.insert("t", ROWS)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        for call in (lambda: store.insert("t", ROWS), lambda: store.query("SELECT 1"), store.clone):
            with pytest.raises(StoreOutage):
                call()
        server, _ = serve_clickhouse(tmp_path / "engine", port)
        assert store.rows("SELECT count() FROM t") == [(2,)]
        store.insert("t", ROWS)
        assert store.rows("SELECT count() FROM t") == [(4,)]
    finally:
        store.close()
        server.kill()
        server.wait()


class Proxy:
    """In front of a server: passes everything on, except that ``misbehave`` answers inserts when it is set."""

    def __init__(self, target: str) -> None:
        self.inserts = 0
        self.misbehave: Callable[[BaseHTTPRequestHandler], None] | None = None
        upstream = urllib3.PoolManager()

        class Pass(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805  ``self`` is the proxy
                body = _body(handler)
                if self.misbehave is not None and b"INSERT" in handler.path.encode() + body[:2000]:
                    self.inserts += 1
                    self.misbehave(handler)
                    return
                headers = {k: v for k, v in handler.headers.items() if k.startswith(("X-", "Content-Type"))}
                answer = upstream.request("POST", target + handler.path, body=body, headers=headers)
                handler.send_response(answer.status)
                for name in ("X-ClickHouse-Exception-Code", "X-ClickHouse-Summary", "X-ClickHouse-Query-Id"):
                    if name in answer.headers:
                        handler.send_header(name, answer.headers[name])
                handler.send_header("Content-Length", str(len(answer.data)))
                handler.end_headers()
                handler.wfile.write(answer.data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Pass)
        self.url = f"http://user:secret@127.0.0.1:{self.server.server_address[1]}"


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    pieces = []
    while size := int(handler.rfile.readline(), 16):
        pieces.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(pieces)


@contextmanager
def running(proxy: Proxy) -> Iterator[Proxy]:
    thread = Thread(target=proxy.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


@pytest.fixture
def proxy(engine_path: Path, _open_engine: None) -> Iterator[Proxy]:
    with ClickHouseHttp(engine_path, writable=True) as server, running(Proxy(server.url)) as proxy:
        yield proxy


@pytest.fixture
def behind_proxy(proxy: Proxy, make_settings: Callable[..., Settings]) -> Iterator[Store]:
    with Store.open(make_settings(clickhouse={"dsn": proxy.url, "request_timeout_s": 0.5})) as store:
        store.command(f"CREATE DATABASE {store.database}")
        store.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
        yield store
        store.command(f"DROP DATABASE {store.database} SYNC")


def answer(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "5")
        handler.end_headers()
        handler.wfile.write(b"proxy")

    return send


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def test_an_insert_whose_connection_breaks_is_sent_once_and_in_doubt(proxy: Proxy, behind_proxy: Store) -> None:
    """The driver would send it again by itself; no reader could tell whether it counted once or twice."""
    proxy.misbehave = hang_up
    with pytest.raises(StoreOutage) as outage:
        behind_proxy.insert("t", ROWS)
    assert proxy.inserts == 1
    assert "secret" not in str(outage.value)
    proxy.misbehave = None
    behind_proxy.insert("t", ROWS)
    assert behind_proxy.rows("SELECT count() FROM t") == [(2,)]


def test_an_answer_that_does_not_come_is_an_outage(proxy: Proxy, behind_proxy: Store) -> None:
    """After ``clickhouse.request_timeout_s`` the outcome is in doubt."""
    release = Event()

    def never(handler: BaseHTTPRequestHandler) -> None:
        release.wait()
        hang_up(handler)

    proxy.misbehave = never
    try:
        with pytest.raises(StoreOutage, match="timed out"):
            behind_proxy.insert("t", ROWS)
    finally:
        release.set()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (408, StoreOutage),
        (429, StoreOutage),
        (500, StoreOutage),
        (502, StoreOutage),
        (503, StoreOutage),
        (504, StoreOutage),
        (413, StoreRefused),
        (403, StoreRefused),
    ],
)
def test_answers_that_are_not_clickhouses(
    proxy: Proxy, behind_proxy: Store, status: int, error: type[Exception]
) -> None:
    """A proxy's 5xx, 408 and 429 ask to come back; its other refusals would be the same again."""
    proxy.misbehave = answer(status)
    with pytest.raises(error):
        behind_proxy.insert("t", ROWS)
    assert proxy.inserts == 1


def test_a_handle_that_connects_later_meets_an_outage_in_every_call(settings: Settings) -> None:
    """No server listens, or the gate is closed: each call, the first one too, is an outage, not a driver's error."""
    away = settings.clickhouse.model_copy(update={"dsn": f"http://127.0.0.1:{free_port()}"})
    rows = pa.table({"segment": ["s"]})
    reason = [""]

    def gate() -> None:
        if reason[0]:
            raise StoreOutage(reason[0])

    with Store.later(settings.model_copy(update={"clickhouse": away}), gate) as store:
        for reason[0] in ("", "not yet"):
            for call in (
                lambda: store.insert("metrics", rows, token="t"),
                lambda: store.insert_settings("t"),
                lambda: store.query("SELECT 1"),
                lambda: store.raw("SELECT 1", None, "CSV"),
                lambda: store.command("SELECT 1"),
            ):
                with pytest.raises(StoreOutage, match=reason[0] or "ClickHouse"):
                    call()
