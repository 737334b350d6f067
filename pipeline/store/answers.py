"""Answers over HTTP that are believed: whole, in time, and ClickHouse's own to this very request.

Every request has an id of its own, which ClickHouse says back. So an answer that something else made up, kept from
another request or gave to the wrong one counts for nothing, whatever it says. The timeout of a socket bounds each wait
for the next byte; here the whole request is bounded too, so that no server can hold it by dripping.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager

from pipeline.base.errors import StoreOutage

_OWN_ID = "pipeline-"
_SUCCESS = 200


class Answers(PoolManager):
    """Connections of one handle, which asks one thing at a time."""

    def __init__(self, *arguments: Any, whole_s: float, **options: Any) -> None:
        """``whole_s``: after so long a request is cut off."""
        super().__init__(*arguments, **options)
        self._whole_s = whole_s
        self._socket: socket.socket | None = None
        self._is_over = False
        self.pool_classes_by_scheme = {
            "http": _watched(HTTPConnectionPool, self._hold),
            "https": _watched(HTTPSConnectionPool, self._hold),
        }

    def urlopen(  # type: ignore[override]  # urllib3 has overloads for its own use
        self,
        method: str,
        url: str,
        redirect: bool = True,  # noqa: ARG002  the signature is urllib3's
        **options: Any,
    ) -> BaseHTTPResponse:
        """As urllib3, but no redirect is followed: rows and passwords are for the address of the settings alone.

        Raises ``StoreOutage`` for a success that is not ClickHouse's, and for an answer that does not come to its end.
        """
        asked = f"{_OWN_ID}{secrets.token_hex(16)}" if "?" in url else ""
        url_with_id = f"{url}&query_id={asked}" if asked else url
        self._is_over = False
        _watchdog.watch(self, time.monotonic() + self._whole_s)
        try:
            response = super().urlopen(method, url_with_id, redirect=False, **options)
        except Exception:
            self._demand_in_time()
            raise
        finally:
            _watchdog.forget(self)
        self._demand_in_time()  # for an answer without a length, being cut off looks like its end
        if asked and _SUCCESS <= response.status < 300:
            _demand_clickhouse(response, asked, is_insert="query=INSERT+INTO+" in url)
        return response

    def _hold(self, connected: socket.socket) -> None:
        self._socket = connected

    def cut(self) -> None:
        """End the request, wherever it waits; for another thread."""
        self._is_over = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS, the connection below it

    def _demand_in_time(self) -> None:
        if self._is_over:
            raise StoreOutage(f"ClickHouse gave no whole answer within {self._whole_s:g} s")


class AnswersByProxy(Answers, ProxyManager):
    """The same through a proxy."""


class _Watchdog:
    """One thread for all handles of the process, which cuts off requests whose time is over."""

    _LOOK_S = 0.5

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start with nothing; also in a forked child, whose requests under way, thread and lock are the parent's."""
        self._ends_s: dict[Answers, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, asking: Answers, ends_s: float) -> None:
        with self._lock:
            self._ends_s[asking] = ends_s
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="clickhouse-deadline", daemon=True)
                self._thread.start()

    def forget(self, asking: Answers) -> None:
        with self._lock:
            self._ends_s.pop(asking, None)

    def _run(self) -> None:
        while True:
            time.sleep(self._LOOK_S)
            now_s = time.monotonic()
            with self._lock:
                for asking, ends_s in self._ends_s.items():
                    if ends_s < now_s:
                        asking.cut()


_watchdog = _Watchdog()
# Else a child would cut off what its parent asks: they share the socket.
os.register_at_fork(after_in_child=_watchdog.begin)


def _watched(kind: type[HTTPConnectionPool], hold: Callable[[Any], None]) -> type[HTTPConnectionPool]:
    """A kind of pool that tells of every connection it makes."""

    class Connection(kind.ConnectionCls):  # type: ignore[misc,name-defined]  # a class that is known when it runs
        def connect(self) -> None:
            super().connect()
            hold(self.sock)

    return type(kind.__name__, (kind,), {"ConnectionCls": Connection})


def _demand_clickhouse(response: BaseHTTPResponse, asked: str, *, is_insert: bool) -> None:
    """Raise ``StoreOutage`` unless ClickHouse answered the request with the id ``asked``.

    A proxy may give requests ids of its own (chproxy does), but none that was made here.
    """
    answered = response.headers.get("X-ClickHouse-Query-Id", "")
    if response.status != _SUCCESS or not answered:
        raise StoreOutage(
            f"something that is not ClickHouse answered with status {response.status}; "
            "does clickhouse.dsn lead to something else?"
        )
    if answered != asked and _OWN_ID in answered:
        raise StoreOutage("ClickHouse's answer belongs to another request; is there a proxy that mixes them up?")
    if is_insert and response.data:
        raise StoreOutage("an insert was answered with a text, as ClickHouse does when it fails halfway")
