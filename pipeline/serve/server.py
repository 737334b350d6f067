"""A server in a thread: uvicorn with bounds, for any ASGI application.

``HttpServer`` binds at once (a taken port raises ``OSError``), answers once it is given the application, and ends
within seconds: open connections get ``CLOSING_S`` to finish.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any

import h11
import uvicorn

from pipeline.base.measures import HTTP_CONNECTIONS
from pipeline.serve.bounds import BoundedConfig, Bounds, Gate

CLOSING_S = 2
"""What is being answered when the server ends may go on for this long."""

_CLOSED_BY_UVICORN = "when role=SERVER and state=MUST_CLOSE"
"""Of h11, when an application answers after uvicorn answered 400 to a body that turned out to be none."""

_SWEEP_S = 0.5
_BACKLOG = 512


class _Server(uvicorn.Server):
    """uvicorn's server, which also sweeps its connections and tells when it listens."""

    def __init__(self, config: BoundedConfig, gate: Gate, listening: threading.Event, name: str) -> None:
        super().__init__(config)
        self._name = name
        self._gate = gate
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()

    async def main_loop(self) -> None:
        sweeping = asyncio.create_task(self._sweep())
        try:
            await super().main_loop()
        finally:
            sweeping.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Connections without a request at work are not waited for.
        for connection in list(self._gate.connections):
            if connection.state(asyncio.get_running_loop().time()).phase != "working":
                connection.transport.abort()
        await super().shutdown(sockets)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._gate.sweep(asyncio.get_running_loop().time())
            HTTP_CONNECTIONS.labels(self._name).set(len(self._gate.connections))


class HttpServer:
    """Serves an application until ``close``."""

    def __init__(self, host: str, port: int, *, name: str, bounds: Bounds | None = None) -> None:
        """Bind; port 0 takes a free one. Raises ``OSError`` when the port is taken.

        What connects already waits for ``serve``: an application may need to know the port before its first request.
        """
        # It warns of every malformed request; what goes wrong in an application it reports as an error.
        said = logging.getLogger("uvicorn.error")
        said.setLevel(logging.ERROR)
        said.addFilter(_is_a_mistake)
        self._socket = _listen(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self._name = name
        self._gate = Gate(bounds or Bounds())
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def serve(self, app: Any) -> None:
        """Answer with ``app`` from now on."""
        config = BoundedConfig(app, self._gate, timeout_graceful_shutdown=CLOSING_S, backlog=_BACKLOG)
        listening = threading.Event()
        self._server = _Server(config, self._gate, listening, self._name)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name=self._name, daemon=True)
        self._thread.start()
        listening.wait(30)

    @property
    def url(self) -> str:
        """Where a process of this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def close(self) -> None:
        """Stop answering. Requests in hand are finished, or cut off after ``CLOSING_S``."""
        if self._server is None or self._thread is None:
            self._socket.close()
            return
        self._server.should_exit = True
        self._thread.join(CLOSING_S + 3)


def _is_a_mistake(record: logging.LogRecord) -> bool:
    """That a request was cut off because the server ends, or was refused while it was being answered, is none."""
    raised = record.exc_info[1] if record.exc_info else None
    is_refused = isinstance(raised, h11.LocalProtocolError) and _CLOSED_BY_UVICORN in str(raised)
    return not (record.msg.startswith("Cancel ") or isinstance(raised, asyncio.CancelledError) or is_refused)


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
