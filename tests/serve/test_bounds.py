"""How much of a server one client may take, and for how long."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline.serve.bodies import Budget, read_body
from pipeline.serve.bounds import Bounds, ConnectionState, overdue, to_displace, too_much_unsent
from pipeline.serve.server import HttpServer

PATIENCE_S = 60
QUICK = Bounds(connections=20, connections_by_address=15, headers_s=1, body_s=1, idle_s=1, sending_s=1, closing_s=1)


async def echo(request: Request) -> Response:
    """Says how long the body was."""
    async with read_body(request, 1 << 20, Budget(1 << 20)) as body:
        return PlainTextResponse(f"{len(body)}")


async def slow(_: Request) -> Response:
    """Takes its time."""
    await asyncio.sleep(4)
    return PlainTextResponse("slow")


async def large(_: Request) -> Response:
    """More than fits between two sockets."""
    return Response(bytes(64 << 20))


async def unread(_: Request) -> Response:
    """Answers whatever the body is."""
    return PlainTextResponse("unread")


APP = Starlette(
    routes=[
        Route("/", echo, methods=["GET", "POST"]),
        Route("/slow", slow),
        Route("/large", large),
        Route("/unread", unread, methods=["POST"]),
    ]
)


@pytest.fixture
def serve() -> Iterator[Callable[[Bounds], HttpServer]]:
    """``serve(bounds)`` starts a server."""
    with contextlib.ExitStack() as open_servers:

        def start(bounds: Bounds) -> HttpServer:
            server = HttpServer("127.0.0.1", 0, name="test-server", bounds=bounds)
            open_servers.callback(server.close)
            server.serve(APP)
            return server

        yield start


def connect(server: HttpServer, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
    connection.sendall(sent)
    return connection


def told(connection: socket.socket) -> bytes:
    """Everything until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    return found


def told_bytes(connection: socket.socket) -> int:
    """How much comes until the server ends the connection."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while piece := len(connection.recv(1 << 20)):
            count += piece
    return count


def asked(server: HttpServer, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") -> bytes:
    with connect(server, request) as connection:
        return told(connection)


# Deciding


@pytest.mark.parametrize(
    ("phase", "since_s", "moved", "expected"),
    [
        ("headers", 9, 0, False),
        ("headers", 11, 1 << 30, True),
        ("idle", 61, 0, True),
        ("body", 19, 0, False),
        ("body", 21, 0, True),
        ("body", 21, 65536 * 2, False),
        ("body", 23, 65536 * 2, True),
        ("sending", 31, 0, True),
        ("sending", 31, 65536 * 2, False),
        ("closing", 6, 1 << 30, True),
        ("working", 1e6, 0, False),
    ],
)
def test_each_phase_has_its_time(phase: str, since_s: float, moved: int, expected: bool) -> None:
    """Dripping header bytes buys no time, a body or an answer that moves does, work is not timed here."""
    assert overdue(ConnectionState(phase, "a", 100.0, moved), 100.0 + since_s, Bounds()) is expected  # type: ignore[arg-type]


CONNECTIONS = st.lists(
    st.builds(
        ConnectionState,
        st.sampled_from(["idle", "headers", "body", "sending", "closing", "working"]),
        st.sampled_from(["a", "b", "c"]),
        st.floats(0, 100),
    ),
    max_size=8,
)


@given(CONNECTIONS, st.sampled_from(["a", "d"]))
def test_a_newcomer_displaces_whoever_is_owed_least(connections: list[ConnectionState], address: str) -> None:
    """Never a request at work; never one of another address for one that has its share; and only when full."""
    bounds = Bounds(connections=6, connections_by_address=3)
    mine = [seen for seen in connections if seen.address == address]
    goes = to_displace(connections, address, bounds)
    if len(connections) < 6 and len(mine) < 3:
        assert goes is None
    elif goes == "refuse":
        assert all(seen.phase == "working" for seen in (mine if len(mine) >= 3 else connections))
    else:
        assert goes is not None
        assert connections[goes].phase != "working"
        assert len(mine) < 3 or connections[goes].address == address


def test_within_one_address_the_longest_waiting_goes_first() -> None:
    """Half a header before half a body, half a body before an idle connection, of equals the oldest."""
    bounds = Bounds(connections=4, connections_by_address=4)
    full = [
        ConnectionState("idle", "a", 1),
        ConnectionState("body", "a", 2),
        ConnectionState("headers", "a", 4),
        ConnectionState("headers", "a", 3),
    ]
    assert to_displace(full, "a", bounds) == 3
    assert to_displace(full[:2] * 2, "a", bounds) == 1


# Doing


def test_half_sent_headers_cost_others_nothing(serve: Callable[[Bounds], HttpServer]) -> None:
    """Five times as many half requests as there are places: the next client is answered, and they are refused."""
    server = serve(QUICK)
    floods = [connect(server, b"GET / HTTP/1.1\r\nHost: a\r\nX-Sl") for _ in range(100)]
    for _ in range(5):
        assert asked(server).startswith(b"HTTP/1.1 200")
    answers = [told(connection) for connection in floods]
    assert {answer.partition(b"\r\n")[0] for answer in answers} <= {b"", b"HTTP/1.1 408 Request Timeout"}
    assert any(answers)
    for connection in floods:
        connection.close()


def test_dripping_is_no_way_to_stay(serve: Callable[[Bounds], HttpServer]) -> None:
    """A header or a body that comes byte by byte is cut off, however steadily it comes."""
    server = serve(QUICK)
    for opening in (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n",
    ):
        with connect(server, opening) as connection:
            give_up = time.monotonic() + PATIENCE_S
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < give_up:
                    connection.sendall(b"x")
                    time.sleep(0.05)
            assert time.monotonic() < give_up, "still open"


def test_nothing_sent_at_all_is_cut_off_too(serve: Callable[[Bounds], HttpServer]) -> None:
    """Neither before the first request nor after one does silence hold a place for ever."""
    server = serve(QUICK)
    with connect(server) as silent, connect(server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") as kept:
        assert told(silent) == b""
        assert told(kept).startswith(b"HTTP/1.1 200")


def test_who_does_not_read_the_answer_is_cut_off(serve: Callable[[Bounds], HttpServer]) -> None:
    """An answer that is not read does not stay in memory."""
    server = serve(QUICK)
    with connect(server, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n") as connection:
        give_up = time.monotonic() + PATIENCE_S
        gate = server._server.config.gate
        while not gate.connections and time.monotonic() < give_up:
            time.sleep(0.05)
        while gate.connections and time.monotonic() < give_up:
            time.sleep(0.05)
        assert not gate.connections
        assert len(told(connection)) < 64 << 20


def test_of_unread_answers_the_longest_waiting_of_the_greediest_address_go_first() -> None:
    """As many as it takes, never the last one."""
    bounds = Bounds(unsent_bytes=100)
    greedy = [ConnectionState("sending", "a", since, 0, 60) for since in (2.0, 1.0, 3.0)]
    modest = ConnectionState("sending", "b", 0.0, 0, 40)
    assert too_much_unsent([modest, *greedy], bounds) == [2, 1]
    assert too_much_unsent([modest, greedy[0]], bounds) == []
    assert too_much_unsent([ConnectionState("sending", "a", 0.0, 0, 1000)], bounds) == []


def test_unread_answers_take_bounded_memory(serve: Callable[[Bounds], HttpServer]) -> None:
    """Ten clients that read nothing wait for 64 MB each: all but a few are ended at once, and who reads is answered."""
    server = serve(Bounds(unsent_bytes=150 << 20, sending_s=1000))
    silent = [connect(server, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") for _ in range(10)]
    asked(server)  # who comes later is let in later
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s and len(server._server._gate.connections) > 2:
        time.sleep(0.1)
    with connect(server, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as reader:
        assert told(reader).endswith(b"slow")
    assert [told_bytes(one) > 64 << 20 for one in silent].count(True) == 2


def test_an_answer_after_which_the_connection_closes_gets_its_time(serve: Callable[[Bounds], HttpServer]) -> None:
    """A client that asked for ``Connection: close`` and reads slowly reads all of it."""
    server = serve(replace(QUICK, sending_s=1000))
    with connect(server, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as reader:
        first = reader.recv(1000)
        time.sleep(3)  # longer than an idle, closing or half-sent connection may last here
        assert len(first) + told_bytes(reader) > 64 << 20


def test_a_request_at_work_keeps_its_place(serve: Callable[[Bounds], HttpServer]) -> None:
    """A flood displaces no client that waits for an answer; when all places work, one more is refused at once."""
    server = serve(Bounds(connections=3, connections_by_address=3))
    request = b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    waiting = [connect(server, request) for _ in range(2)]
    gate = server._server.config.gate
    give_up = time.monotonic() + PATIENCE_S
    while sum(one._now_in() == "working" for one in gate.connections) < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    floods = [connect(server, b"GET / HT") for _ in range(20)]
    assert [told(connection)[-4:] for connection in waiting] == [b"slow", b"slow"]
    for connection in (*waiting, *floods):
        connection.close()


def test_idle_connections_are_no_threads(serve: Callable[[Bounds], HttpServer]) -> None:
    """A thousand of them leave the number of threads as it is, and places for others."""
    server = serve(Bounds())
    before = threading.active_count()
    idle = [connect(server) for _ in range(400)]
    assert threading.active_count() <= before
    assert asked(server).startswith(b"HTTP/1.1 200")
    assert len(server._server.config.gate.connections) <= Bounds().connections
    for connection in idle:
        connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1\r\n\r\nabc",
        b"Content-Length: +1\r\n\r\na",
        b"Content-Length: 1_0\r\n\r\na",
        b"Content-Length: 0x1\r\n\r\na",
        b"Content-Length: 1, 2\r\n\r\na",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip\r\n\r\nabc",
        b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"X: " + b"x" * (600 << 10) + b"\r\n\r\n",
        b"Bad\x00Name: a\r\n\r\n",
        b"No colon\r\n\r\n",
    ],
    ids=lambda head: head[:40].decode("latin-1").replace("\r\n", " "),
)
def test_lengths_and_headers_that_are_none(serve: Callable[[Bounds], HttpServer], head: bytes) -> None:
    """400 or 413 or 501, at once; the server goes on."""
    server = serve(Bounds())
    answer = asked(server, b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + head)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 413 ", b"HTTP/1.1 431 ", b"HTTP/1.1 501 ", b""), answer[:200]
    assert asked(server).startswith(b"HTTP/1.1 200")


def test_a_broken_body_that_nobody_reads_is_no_mistake_of_ours(
    serve: Callable[[Bounds], HttpServer], caplog: pytest.LogCaptureFixture
) -> None:
    """The application answers while 400 goes out already: no sender fills the log with that."""
    server = serve(Bounds())
    for _ in range(5):
        head = b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert asked(server, head + b"-1\r\nabc").startswith(b"HTTP/1.1 400")
    assert asked(server).startswith(b"HTTP/1.1 200")
    assert not caplog.records


def test_a_taken_port_is_an_error(serve: Callable[[Bounds], HttpServer]) -> None:
    """The caller decides what to do about it."""
    server = serve(Bounds())
    with pytest.raises(OSError, match="in use"):
        HttpServer(server.host, server.port, name="second")


def test_a_request_that_comes_before_the_application_waits() -> None:
    """The first request after a start is answered, not met with an error: it may come as soon as the port is bound."""
    server = HttpServer("127.0.0.1", 0, name="early")
    with contextlib.closing(server), connect(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as early:
        server.serve(APP)
        assert early.recv(100).startswith(b"HTTP/1.1 200")
    HttpServer("127.0.0.1", server.port, name="never served").close()


def test_closing_takes_seconds(serve: Callable[[Bounds], HttpServer]) -> None:
    """With connections of every kind open, the server's thread has ended when ``close`` returns."""
    server = serve(Bounds())
    kinds = (b"", b"GET / HT", b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    open_ones = [connect(server, sent) for sent in kinds]
    server.close()
    assert not server._thread.is_alive()
    for connection in open_ones:
        connection.close()
