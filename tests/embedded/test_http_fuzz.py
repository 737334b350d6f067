"""Whatever bytes come in, the interface answers or hangs up, stays within its memory, and serves the next one."""

import contextlib
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.config import Settings, WebSettings
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.serve.bounds import Bounds
from pipeline.store.client import Store

MAX_GROWTH_BYTES = 300 << 20
BOUNDS = Bounds(connections=24, connections_by_address=24, headers_s=2, body_s=2, idle_s=2, sending_s=2, closing_s=1)


@pytest.fixture(scope="module")
def server(engine_path: Path, _open_engine: None) -> Iterator[ClickHouseHttp]:
    """The server as analysts find it, with short deadlines."""
    with (
        Store.open(Settings(clickhouse={"dsn": f"chdb://{engine_path}", "database": "shop"})) as store,
        ClickHouseHttp(store, limits=WebSettings(query_max_s=5), bounds=BOUNDS) as server,
    ):
        store.command("CREATE DATABASE shop")
        yield server
        store.command("DROP DATABASE shop SYNC")


TOKEN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
METHOD = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "CONNECT", "TRACE", "get", "P\x00ST", ""])
TARGET = st.one_of(
    st.sampled_from(["/", "/ping", "/?query=SELECT+1", "*", "http://a/", "//", "/%2e%2e/%00", "/?", "/?query=%FF", ""]),
    TOKEN.map(lambda text: "/" + text),
    st.builds(lambda name, value: f"/?{name}={value}", TOKEN, TOKEN),
    st.sampled_from(["/?compress=1&query=SELECT+1", "/?decompress=1", "/?nonsense_setting=1", "/?param_=1", "/?&&==&"]),
)
LENGTH = st.one_of(
    st.sampled_from(["-1", "+1", "0x10", "1e9", "9" * 20, "", " ", "1,1", "٣", "1_0", "18446744073709551616"]),
    st.integers(-(2**70), 2**70).map(str),
    st.integers(0, 64).map(str),
)
HEADER = st.one_of(
    st.builds("Content-Length: {}".format, LENGTH),
    st.builds("Transfer-Encoding: {}".format, st.sampled_from(["chunked", "gzip", "chunked, chunked", "CHUNKED", "x"])),
    st.builds("Content-Encoding: {}".format, st.sampled_from(["gzip", "lz4", "zstd", "br", "deflate", "rot13", ","])),
    st.builds(
        "Content-Type: {}".format,
        st.sampled_from(
            ["application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=a", "\xff"]
        ),
    ),
    st.builds("Host: {}".format, st.sampled_from(["localhost", "evil", "localhost:99999", "[::1", "a\x00b", ""])),
    st.builds("Authorization: {}".format, st.sampled_from(["Basic", "Basic ====", "Bearer \xff", "Digest a", ""])),
    st.builds("{}: {}".format, TOKEN, TOKEN),
    st.sampled_from(["Expect: 100-continue", "Upgrade: websocket", "Connection: Upgrade", " folded", ":", "a", "\x00"]),
    st.integers(1, 4000).map(lambda size: "X: " + "x" * size),
)
CHUNK = st.one_of(
    st.binary(max_size=40).map(lambda data: b"%x\r\n%s\r\n" % (len(data), data)),
    st.sampled_from([b"-1\r\n", b"zz\r\n", b"fffffffffffffffff\r\n", b"1;a=b\r\nx\r\n", b"0\r\n\r\n", b" 1\r\nx\r\n"]),
)
BODY = st.one_of(
    st.binary(max_size=200),
    st.lists(CHUNK, max_size=6).map(b"".join),
    st.sampled_from([b"SELECT 1", b"query=SELECT 1"]),
)


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    """A request that is nearly one, in the pieces in which it is sent."""
    head = [f"{draw(METHOD)} {draw(TARGET)} {draw(st.sampled_from(['HTTP/1.1', 'HTTP/1.0', 'HTTP/2', 'HTTQ', '']))}"]
    head += draw(st.lists(HEADER, max_size=5)) + draw(st.sampled_from([[], ["Host: localhost"]]))
    ending = draw(st.sampled_from(["\r\n", "\r\n", "\n"]))
    sent = (ending.join(head) + ending * 2).encode("latin-1", "replace") + draw(BODY)
    sent = sent * draw(st.sampled_from([1, 1, 1, 3]))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


def play(server: ClickHouseHttp, pieces: list[bytes]) -> bytes:
    """What is answered to these pieces; the connection is then cut."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((server.host, server.port), 60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        while got := connection.recv(65536):
            answer += got
    return answer


def check(server: ClickHouseHttp, pieces: list[bytes]) -> None:
    answer = play(server, pieces)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer[:100]
    assert b"Traceback" not in answer
    assert b"Internal Server Error" not in answer
    assert b" 500 " not in answer[:14] or b"x-clickhouse-exception-code" in answer.lower()


@settings(max_examples=60)
@given(requests())
def test_nearly_requests(server: ClickHouseHttp, pieces: list[bytes]) -> None:
    """Methods, targets, lengths, chunk sizes, encodings, headers and cuts: an HTTP answer or none, never a crash."""
    check(server, pieces)


@pytest.mark.long
@pytest.mark.timeout(0)  # beside other work 5000 examples take many minutes
@settings(max_examples=5000)
@given(requests())
def test_nearly_requests_exhaustively(server: ClickHouseHttp, pieces: list[bytes]) -> None:
    """The same, for long."""
    check(server, pieces)


def test_hostile_senders_cost_bounded_memory(server: ClickHouseHttp) -> None:
    """Lengths and bodies without end, many at once: memory stays where it was, and the next client is answered."""
    before = _resident_bytes()
    announced = [b"-1", b"1099511627776", b"9" * 300]
    endings = [b"Content-Length: %b\r\n\r\n" % length for length in announced] + [b"Transfer-Encoding: chunked\r\n\r\n"]
    junk = random.Random(1).randbytes(1 << 20)
    open_ones = []
    for number in range(60):
        connection = socket.create_connection((server.host, server.port), 60)
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + endings[number % len(endings)])
            for _ in range(3):
                chunk = b"%x\r\n%b\r\n" % (len(junk), junk) if number % len(endings) == 3 else junk
                connection.sendall(chunk)
        open_ones.append(connection)
    assert _resident_bytes() - before < MAX_GROWTH_BYTES
    with urllib3.PoolManager() as client:
        assert client.request("GET", server.url + "/?query=SELECT+1").data == b"1\n"
    for connection in open_ones:
        connection.close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
