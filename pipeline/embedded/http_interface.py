"""ClickHouse's HTTP interface on the engine inside this process.

Grafana, a notebook, ``curl`` and every ClickHouse driver can ask the embedded store as they would
ask a server. Answers are whole or an error with ClickHouse's own number, never a 200 that stops
half-way: a result is complete in memory, within the limits, before its first byte is sent.

By default strangers only ask: time, memory and rows are limited, rows that replace each other are
read as FINAL, settings that clients send are ignored (``readonly=1`` would refuse all of them), and
what would reach beyond the tables is refused (see ``strangers``). There are no users: name and
password are accepted and ignored, so the address to listen on decides who may ask.

``writable=True`` lifts all that. It is for development and tests, where it stands in for a server:
    python -m pipeline.embedded.http_interface --path DIR --port 0 --writable
"""

import argparse
import json
import os
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.base.config import WebSettings
from pipeline.base.errors import EngineBusy
from pipeline.embedded import engine
from pipeline.embedded.handles import Handles, settings_tuple
from pipeline.embedded.http_request import Handler
from pipeline.store.client import Store, analyst_settings

_AT_ONCE = 8


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else is a bug of ours and is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


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
    ) -> None:
        """Bind and answer from now on; port 0 takes a free one. Raises ``OSError`` when the port is taken."""
        self._hold = _hold_of(where)
        limits = limits or WebSettings()
        home = "" if writable else where.database if isinstance(where, Store) else "pipeline"
        self._handles = Handles(self._hold.path, _AT_ONCE if writable else limits.query_max_at_once, home)
        try:
            handler = type(
                "BoundHandler",
                (Handler,),
                {
                    "handles": self._handles,
                    "writable": writable,
                    "settings": () if writable else settings_tuple(analyst_settings(limits)),
                    # What drivers call "default" is our database to analysts, who so find the tables unnamed.
                    "database": home or "default",
                    "limits": limits,
                    "patience_s": limits.query_max_s,
                },
            )
            self._server = _Server((host, port), handler)
        except BaseException:
            self._hold.release()
            raise
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="clickhouse-http", daemon=True
        )
        self._thread.start()
        self._hold.announce(self.host, self.port)

    @property
    def url(self) -> str:
        """Where it answers; also a ``clickhouse.dsn``."""
        return f"http://{self.host}:{self.port}"

    def close(self) -> None:
        """Stop answering; requests being answered are cut off when the process ends."""
        self._hold.announce("", 0)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._handles.close()
        self._hold.release()

    def __enter__(self) -> "ClickHouseHttp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
