"""One deadline for a whole request, from the connect to the last byte.

The timeout of a socket only bounds each wait for the next byte: a server that drips one byte at a
time keeps such a request open for ever. A ``Deadline`` watches the sockets that are opened through it
and shuts them down when its time is over, which ends every wait on them, TLS handshakes included.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import smtplib
import socket
import ssl
import threading
import time
import urllib.request
from types import TracebackType
from typing import Any


class Deadline:
    """A span of time after which everything that was opened through it is cut off. A context manager."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.is_over = False
        self._ends_s = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []
        self._timer = threading.Timer(timeout_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            for watched in self._watched:
                watched.close()
            self._watched.clear()

    @property
    def left_s(self) -> float:
        """Seconds until it is over; never 0, which a socket would take for ever."""
        return max(0.001, self._ends_s - time.monotonic())

    def connect(self, address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        """A connection that ends with the deadline, whatever reads from it. Raises ``OSError``."""
        connection = socket.create_connection(address, self.left_s)
        # A duplicate: shutting it down ends the connection, also after TLS took the socket over.
        with self._lock:
            self._watched.append(connection.dup())
            if self.is_over:
                self._shut_down()
        return connection

    def _cut(self) -> None:
        with self._lock:
            self.is_over = True
            self._shut_down()

    def _shut_down(self) -> None:
        for watched in self._watched:
            with contextlib.suppress(OSError):  # the server was quicker
                watched.shutdown(socket.SHUT_RDWR)


def http_opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    """Opens URLs under a deadline, through the proxies of the environment, and follows no redirect."""
    return urllib.request.build_opener(_NoRedirects, _Http(deadline), _Https(deadline))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A followed redirect becomes a GET without the body, and would look delivered."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _connection(kind: Any, deadline: Deadline, *arguments: Any, **options: Any) -> http.client.HTTPConnection:
    connection: http.client.HTTPConnection = kind(*arguments, **options)
    connection._create_connection = deadline.connect  # type: ignore[attr-defined]  # how the library opens sockets
    return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._opens = functools.partial(_connection, http.client.HTTPConnection, deadline)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._opens, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._opens = functools.partial(_connection, http.client.HTTPSConnection, deadline)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._opens, req, context=ssl.create_default_context())


class Smtp(smtplib.SMTP):
    """SMTP under a deadline."""

    def __init__(self, deadline: Deadline, host: str, port: int) -> None:
        self._deadline = deadline
        super().__init__(host, port, timeout=deadline.left_s)

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        return self._deadline.connect((host, port))


class SmtpOverTls(smtplib.SMTP_SSL):
    """SMTP over TLS under a deadline."""

    def __init__(self, deadline: Deadline, host: str, port: int) -> None:
        self._deadline = deadline
        self._tls = ssl.create_default_context()
        super().__init__(host, port, timeout=deadline.left_s, context=self._tls)

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        return self._tls.wrap_socket(self._deadline.connect((host, port)), server_hostname=host)


def in_thread(action: Any, timeout_s: float, name: str) -> None:
    """Do ``action`` in a thread of its own and raise what it raises, or ``TimeoutError`` after ``timeout_s``.

    For libraries whose sockets cannot be watched. A second call under the same name while the first is
    still stuck raises ``TimeoutError`` at once, so that at most one thread is left behind for each name.
    """
    stuck = next((thread for thread in threading.enumerate() if thread.name == name), None)
    if stuck is not None:
        raise TimeoutError("the attempt before has not ended yet")
    raised: list[BaseException] = []

    def work() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(f"not done within {timeout_s:g} s")
    if raised:
        raise raised[0]
