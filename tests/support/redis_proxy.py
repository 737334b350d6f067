"""A TCP proxy that loses replies or holds commands back: the failures a network adds to a healthy server."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class RedisProxy:
    """Passes bytes on between clients and one Redis; ``lose_replies`` and ``hold_commands`` are counted down.

    ``ends_with_a_loss``: after a lost reply no connection is let in any more.
    """

    def __init__(self, server_url: str) -> None:
        address = urlsplit(server_url)
        self._server = (address.hostname or "127.0.0.1", address.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.marked = b"EXEC"
        self.lose_replies = 0
        self.hold_commands = 0
        self.ends_with_a_loss = False
        self._is_gone = False
        self.release = threading.Event()
        self.held_was_executed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_gone:
                    client.close()
                    continue
                connection = _Connection(self, client, socket.create_connection(self._server))
                threading.Thread(target=connection.pass_commands, daemon=True).start()
                threading.Thread(target=connection.pass_replies, daemon=True).start()


class _Connection:
    def __init__(self, proxy: RedisProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._loses_reply = False
        self._was_held = False

    def pass_commands(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 20):
                if self._proxy.marked in data:
                    self._apply_failure()
                self._server.sendall(data)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def pass_replies(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(1 << 20):
                if self._was_held:
                    self._proxy.held_was_executed.set()
                if self._loses_reply:
                    break
                self._client.sendall(data)
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def _apply_failure(self) -> None:
        if self._proxy.lose_replies > 0:
            self._proxy.lose_replies -= 1
            self._proxy._is_gone = self._proxy.ends_with_a_loss
            self._loses_reply = True
        elif self._proxy.hold_commands > 0:
            self._proxy.hold_commands -= 1
            self._was_held = True
            self._proxy.release.wait()


@contextlib.contextmanager
def redis_proxy(server_url: str) -> Iterator[RedisProxy]:
    """A proxy in front of the server, closed afterwards."""
    proxy = RedisProxy(server_url)
    try:
        yield proxy
    finally:
        proxy.close()
