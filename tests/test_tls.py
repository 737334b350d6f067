"""TLS to Redis and ClickHouse: certificates by settings, and what is said when they do not fit."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import free_port, missing, redis_executables, running_redis
from tls_server import Certificates, Pair, tls_door

from pipeline import MetricsClient
from pipeline.base import config
from pipeline.base.config import RedisSettings, Settings
from pipeline.base.errors import ConfigError, PipelineError, RedisOutage, StoreOutage
from pipeline.base.redis_link import RedisLink, outages
from pipeline.base.text import masked
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.client import Store


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One set of certificates for all tests here."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def redis_tls(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., int]]:
    """``redis_tls(pair, clients=True)``: the TLS port of a real redis-server with that certificate."""
    executable = redis_executables().get("7.0") or missing("no redis-server with TLS is installed")
    opened = []

    def start(pair: Pair, *, clients: bool = False) -> int:
        port = free_port()
        arguments = [
            *("--save", "", "--tls-port", str(port), "--tls-cert-file", pair.cert, "--tls-key-file", pair.key),
            *("--tls-ca-cert-file", certificates.ca, "--tls-auth-clients", "yes" if clients else "no"),
        ]
        server = running_redis(executable, tmp_path_factory.mktemp("redis"), *arguments)
        server.__enter__()
        opened.append(server)
        return port

    yield start
    for server in opened:
        server.__exit__(None, None, None)


def ping(port: int, host: str = "127.0.0.1", timeout_ms: int = 20_000, **tls: Any) -> None:
    """Open Redis as the service does."""
    pool = {"connection_timeout_ms": timeout_ms}
    link = RedisLink.open(
        Settings(redis=RedisSettings.model_validate({"url": f"rediss://{host}:{port}", "tls": tls, "pool": pool}))
    )
    try:
        with outages():
            link.database("metrics").ping()
    finally:
        link.close()


def test_redis_over_tls(certificates: Certificates, redis_tls: Callable[..., int]) -> None:
    """With the right CA a real server is reached by TLS; without, or with a wrong one, the sentence says which."""
    port = redis_tls(certificates.server)
    ping(port, ca_file=certificates.ca)
    for wrong in ({}, {"ca_file": certificates.other_ca}):
        with pytest.raises(RedisOutage, match=r"CA that is not trusted here: name the CA in redis\.tls\.ca_file"):
            ping(port, **wrong)
    with MetricsClient(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates.ca}") as client:
        client.push("duration", 1)
        assert client.flush(30)


def test_redis_wants_a_client_certificate(certificates: Certificates, redis_tls: Callable[..., int]) -> None:
    """A client certificate by settings is accepted; a missing one and one of a wrong CA are named."""
    port = redis_tls(certificates.server, clients=True)
    pair = certificates.client
    ping(port, ca_file=certificates.ca, cert_file=pair.cert, key_file=pair.key)
    with pytest.raises(RedisOutage, match=r"asks for a client certificate.*redis\.tls\.cert_file"):
        ping(port, ca_file=certificates.ca)
    stranger = certificates.stranger
    with pytest.raises(RedisOutage, match=r"redis\.tls\.cert_file"):
        ping(port, ca_file=certificates.ca, cert_file=stranger.cert, key_file=stranger.key)


def test_redis_shows_a_wrong_certificate(certificates: Certificates, redis_tls: Callable[..., int]) -> None:
    """An expired certificate and one for another host are named as what they are; the host check can be turned off."""
    with pytest.raises(RedisOutage, match="has expired: renew it on the server"):
        ping(redis_tls(certificates.expired), ca_file=certificates.ca)
    port = redis_tls(certificates.elsewhere)
    with pytest.raises(RedisOutage, match=r"made for another address.*redis\.tls\.check_hostname"):
        ping(port, ca_file=certificates.ca)
    with pytest.raises(RedisOutage, match="made for another host name"):
        ping(port, "localhost", ca_file=certificates.ca)
    ping(port, ca_file=certificates.ca, check_hostname=False)


def test_tls_to_a_port_without(redis_server: Callable[..., Any], certificates: Certificates) -> None:
    """A server that speaks no TLS on its port is named as the matter."""
    server = redis_server()
    with pytest.raises(RedisOutage, match=r"speaks TLS on this port"):
        ping(server.port, timeout_ms=500, ca_file=certificates.ca)


@pytest.mark.parametrize("section", ["redis", "clickhouse"])
@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "{}.tls.ca_file names '/nowhere/ca.pem', which cannot be read: No such file"),
        ({"ca_file": "{dir}"}, "cannot be read: Is a directory"),
        ({"ca_file": "{key}"}, "holds no PEM certificate"),
        ({"cert_file": "{cert}", "key_file": "{other}"}, "does not belong to the certificate in {}.tls.cert_file"),
        ({"cert_file": "{cert}"}, "do not hold a PEM certificate and its PEM key"),
        ({"cert_file": "{key}", "key_file": "{key}"}, "do not hold a PEM certificate and its PEM key"),
        ({"key_file": "{key}"}, "{}.tls.key_file is set, but {}.tls.cert_file, its certificate, is not"),
    ],
)
def test_files_are_checked_before_they_are_used(
    section: str, tls: dict[str, str], said: str, certificates: Certificates, tmp_path: Path
) -> None:
    """A file that is missing, no file, no certificate or another's key is one sentence that names setting and file."""
    names = {
        "{dir}": str(tmp_path),
        "{cert}": certificates.client.cert,
        "{key}": certificates.client.key,
        "{other}": certificates.server.key,
    }
    tls = {name: names.get(value, value) for name, value in tls.items()}
    address = {"redis": {"url": "rediss://127.0.0.1:1"}, "clickhouse": {"dsn": "https://127.0.0.1:1"}}[section]
    settings = Settings.model_validate({section: {**address, "tls": tls}})
    with pytest.raises(ConfigError) as stopped:
        RedisLink.open(settings) if section == "redis" else Store.open(settings)
    assert said.replace("{}", section) in str(stopped.value)


def test_a_file_that_the_url_names_is_named(tmp_path: Path) -> None:
    """A certificate in an option of ``redis.url`` is no secret: the sentence says which file is missing."""
    settings = config.load(None, {"PIPELINE_REDIS__URL": f"rediss://u:hunter2Xy@h:1?ssl_ca_certs={tmp_path}/no.pem"})
    with pytest.raises(ConfigError) as stopped:
        RedisLink.open(settings)
    assert masked(str(stopped.value)) == (
        f"redis.tls.ca_file names '{tmp_path}/no.pem', which cannot be read: No such file or directory"
    )


def over_tls(settings: Settings, port: int, host: str = "127.0.0.1", login: str = "", **tls: Any) -> Settings:
    """The same, but ClickHouse behind a TLS port."""
    update = {"dsn": f"https://{login}{host}:{port}", "tls": tls, "connect_timeout_s": 20}
    return Settings.model_validate(settings.model_dump() | {"clickhouse": settings.clickhouse.model_dump() | update})


def test_clickhouse_over_tls(store: Store, settings: Settings, certificates: Certificates) -> None:
    """An https:// address means TLS on every port: rows go in and come back, and wrong certificates are named."""
    # The proxy's port is not the server's own: its names stand in web.names.
    web = settings.web.model_copy(update={"names": ["127.0.0.1"]})
    with ClickHouseHttp(store, limits=web, writable=True) as server:
        inner = server.port
        pair = certificates.client
        with tls_door(inner, certificates.server, client_ca=certificates.ca) as port:
            right = {"ca_file": certificates.ca, "cert_file": pair.cert, "key_file": pair.key}
            with Store.open(over_tls(settings, port, **right)) as store:
                store.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
                store.insert("t", pa.table({"n": pa.array([1, 2], pa.uint64())}))
                assert store.rows("SELECT sum(n) FROM t") == [(3,)]
            for tls, said in (
                ({}, "not trusted here: name the CA in clickhouse.tls.ca_file"),
                ({"ca_file": certificates.other_ca}, "not trusted here: name the CA in clickhouse.tls.ca_file"),
                ({"ca_file": certificates.ca}, "clickhouse.tls.cert_file"),
            ):
                with pytest.raises(StoreOutage) as refused:
                    Store.open(over_tls(settings, port, **tls))
                assert said in str(refused.value)
        for wrong, said in (
            (certificates.expired, "has expired"),
            (certificates.elsewhere, "made for another address"),
        ):
            with tls_door(inner, wrong) as port, pytest.raises(StoreOutage, match=said):
                Store.open(over_tls(settings, port, ca_file=certificates.ca))


@contextmanager
def tunnel() -> Iterator[tuple[int, list[bytes]]]:
    """The port of a proxy that joins its clients to whatever they CONNECT to, and what they asked for."""
    asked: list[bytes] = []

    class Joined(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline())
            while self.rfile.readline().strip():
                pass
            host, _, port = asked[-1].split()[1].decode().partition(":")
            with socket.create_connection((host, int(port))) as there:
                self.wfile.write(b"HTTP/1.1 200 joined\r\n\r\n")
                back = threading.Thread(target=_copied, args=(there, self.connection), daemon=True)
                back.start()
                _copied(self.connection, there)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Joined) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def _copied(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := one.recv(65_536):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)


def test_clickhouse_over_tls_through_a_proxy(
    store: Store, settings: Settings, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is used as everywhere; an answer is believed, and a row written, as without it."""
    web = settings.web.model_copy(update={"names": ["127.0.0.1"]})
    with (
        ClickHouseHttp(store, limits=web, writable=True) as server,
        tls_door(server.port, certificates.server) as port,
        tunnel() as (proxy, asked),
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        with Store.open(over_tls(settings, port, ca_file=certificates.ca)) as through:
            through.command("CREATE TABLE p (n UInt64) ENGINE = MergeTree ORDER BY n")
            through.insert("p", pa.table({"n": pa.array([1, 2], pa.uint64())}))
            assert through.rows("SELECT sum(n) FROM p") == [(3,)]
        assert asked and asked[0].startswith(f"CONNECT 127.0.0.1:{port} ".encode())


def test_no_password_goes_out_unencrypted(settings: Settings) -> None:
    """Whatever listens behind an https:// address gets a TLS greeting first, on any port, and never the password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        got: list[bytes] = []

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    got.append(connection.recv(65_536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        with pytest.raises(PipelineError, match="does not speak TLS"):
            Store.open(over_tls(settings, listener.getsockname()[1], login="writer:hunter2@"))
    assert {greeting[:1] for greeting in got} == {b"\x16"}
    assert not any(word in greeting for greeting in got for word in (b"Authorization", b"hunter2"))
