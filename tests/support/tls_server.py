"""Certificates of every kind, and a TLS door in front of any server."""

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    cert: str
    key: str


class Certificates:
    """A CA, another that is not trusted, and what they signed; all as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ca, other = trustme.CA(), trustme.CA()
        self.ca = self._write("ca.pem", ca)
        self.other_ca = self._write("other_ca.pem", other)
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        names = ("localhost", "127.0.0.1")
        self.server = self._pair("server", ca.issue_cert(*names))
        self.elsewhere = self._pair("elsewhere", ca.issue_cert("elsewhere.example"))
        self.expired = self._pair("expired", ca.issue_cert(*names, not_after=past))
        self.client = self._pair("client", ca.issue_cert("client.example"))
        self.stranger = self._pair("stranger", other.issue_cert("client.example"))

    def _write(self, name: str, ca: trustme.CA) -> str:
        ca.cert_pem.write_to_path(self._directory / name)
        return str(self._directory / name)

    def _pair(self, name: str, issued: trustme.LeafCert) -> Pair:
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return Pair(str(cert), str(key))


@contextmanager
def tls_door(target_port: int, pair: Pair, client_ca: str = "") -> Iterator[int]:
    """A port that speaks TLS and hands everything on to ``target_port``; with ``client_ca`` for known clients only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    def serve(plain: socket.socket) -> None:
        with suppress(OSError):
            outside = context.wrap_socket(plain, server_side=True)
            inside = socket.create_connection(("127.0.0.1", target_port))
            threading.Thread(target=copy, args=(inside, outside), daemon=True).start()
            copy(outside, inside)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Everything from one to the other until the end."""
    with suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
