"""ClickHouse's HTTP interface on the engine inside this process.

Grafana, a notebook, ``curl`` and every ClickHouse driver can ask the embedded store as they would
ask a server. Answers are whole or an error with ClickHouse's own number, never a 200 that stops
half-way: a result is complete in memory, within the limits, before its first byte is sent.

By default strangers only ask: time, memory and rows are limited, rows that replace each other are
read as FINAL, and what would reach beyond the tables is refused (see ``query_guard``). Who may ask is
decided by ``serve.access``, how much of the server one client may take by ``serve.bounds``.

``writable=True`` lifts the limits on statements. It is for development and tests, where it stands in
for a server:
    python -m pipeline.embedded.http_interface --path DIR --port 0 --writable
"""

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.base.config import WebSettings
from pipeline.base.errors import EngineBusy
from pipeline.embedded import engine, local_secret
from pipeline.embedded import http_replies as replies
from pipeline.embedded.handles import AnalystHandles
from pipeline.embedded.http_query import Interface, ok
from pipeline.serve.access import Access, AccessRefusal, Credentials, Names, require_credentials
from pipeline.serve.bounds import Bounds
from pipeline.serve.counted import RequestCounter
from pipeline.serve.server import HttpServer
from pipeline.store.client import Store

_AT_ONCE = 8
"""Of a writable server."""


class ClickHouseHttp:
    """Serves one engine until ``close``. ``where`` is an open embedded ``Store``, or the engine's directory."""

    def __init__(
        self,
        where: Store | Path,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limits: WebSettings | None = None,
        writable: bool = False,
        bounds: Bounds | None = None,
    ) -> None:
        """Bind and answer from now on; port 0 takes a free one.

        Raises ``OSError`` when the port is taken, ``ConfigError`` when other machines could ask without credentials.
        """
        limits = limits or WebSettings()
        limits = limits.model_copy(update={"host": host})
        require_credentials(limits)
        self._hold = _hold_of(where)
        at_once = _AT_ONCE if writable else limits.query_max_at_once
        # What drivers call "default" is our database to analysts, who so find the tables unnamed.
        home = "" if writable else where.database if isinstance(where, Store) else "pipeline"
        self._handles = AnalystHandles(self._hold.path, at_once, home)
        self._interface = Interface(
            self._handles,
            self._hold.path,
            limits=limits,
            at_once=at_once,
            database=home or "default",
            writable=writable,
        )
        secret = local_secret.issue(self._hold.path)
        try:
            self._server = HttpServer(host, port, name="clickhouse", bounds=bounds)
        except BaseException:
            self._handles.close()
            self._hold.release()
            raise
        self.host = host
        self.port = self._server.port
        names = Names(limits.host, self.port, limits.names)
        self._server.serve(_app(self._interface, Credentials.of(limits, secret), lambda: names))
        self._hold.announce(self.host, self.port)

    @property
    def url(self) -> str:
        """Where it answers; also a ``clickhouse.dsn``."""
        return self._server.url

    def close(self) -> None:
        """Stop answering; statements still at work are ended."""
        self._hold.announce("", 0)
        self._interface.close()
        self._server.close()
        self._handles.close()
        self._hold.release()

    def __enter__(self) -> "ClickHouseHttp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _app(interface: Interface, credentials: Credentials, names: Callable[[], Names]) -> Starlette:
    async def alive(_: Request) -> Response:
        return ok()

    async def nowhere(request: Request, _: Exception) -> Response:
        return replies.reply(404, f"There is no handle {request.url.path[:200]}\n".encode(), {})

    async def options(_: Request) -> Response:
        return replies.reply(204, b"", {"Allow": "GET, HEAD, POST, OPTIONS"})

    routes = [
        *(Route(path, alive, methods=["GET"]) for path in ("/ping", "/replicas_status")),
        *(Route(path, options, methods=["OPTIONS"]) for path in ("/", "/query")),
        *(Route(path, interface, methods=["GET", "HEAD", "POST"]) for path in ("/", "/query")),
    ]
    access = Middleware(
        Access, port="clickhouse", credentials=credentials, explain=_explained, names=names, parameters=True
    )
    counted = Middleware(RequestCounter, port="clickhouse")
    return Starlette(routes=routes, middleware=[counted, access], exception_handlers={404: nowhere})


def _explained(refusal: AccessRefusal) -> Response:
    """A refusal as ClickHouse's clients expect it."""
    code = {"unknown": replies.REQUIRED_PASSWORD, "malformed": replies.INCORRECT_DATA}.get(
        refusal.kind, replies.AUTHENTICATION_FAILED
    )
    return replies.error_reply(replies.refused(code, refusal.why))


def _hold_of(where: Store | Path) -> engine.Hold:
    if isinstance(where, Path):
        return engine.hold(where, "writer", ["pipeline"])
    if where.hold is None:
        raise ValueError("only an embedded store can be served; a ClickHouse server serves itself")
    return where.hold.share()


def main() -> int:
    """Serve a directory until killed; prints {"url", "pid"} as one line of JSON once it answers."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.embedded.http_interface", description=main.__doc__)
    parser.add_argument("--path", type=Path, required=True, help="directory of the embedded engine")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123, help="0 takes a free one")
    parser.add_argument("--writable", action="store_true", help="accept inserts, DDL and settings (development only)")
    arguments = parser.parse_args()
    try:
        server = ClickHouseHttp(arguments.path, arguments.host, arguments.port, writable=arguments.writable)
    except (EngineBusy, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    with server:
        print(json.dumps({"url": server.url, "pid": os.getpid()}), flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
