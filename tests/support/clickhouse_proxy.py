"""An HTTP proxy in front of ClickHouse that does to inserts what networks, proxies and servers do."""

import contextlib
import http.client
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class ClickHouseProxy:
    """Passes requests on, but for the inserts into one table that ``plan`` says something else about, in turn.

    ``"503"`` or another number    answers with that HTTP status and no word of ClickHouse
    ``"code:241"``                 answers as ClickHouse does when it fails with that code
    ``"close before"``             closes the connection, the insert never arrives
    ``"close after"``              closes the connection when the insert is done
    ``"half a reply"``             the same, in the middle of the answer
    ``"hang before"``              answers nothing until the client has gone, the insert never arrives
    ``"hang after"``               the same, but the insert is done
    ``"late"``                     the insert arrives when ``deliver`` is called, long after the client has gone
    ``"page"``                     answers 200 with a web page
    ``"empty"``                    answers 200 with nothing
    ``"text"``                     answers 200 with an error of ClickHouse's in the body
    ``"summary:…"``                answers 200 with this X-ClickHouse-Summary, the insert never arrives
    ``"done, summary:…"``          the same, but the insert is done
    ``"redirect:302"``             sends the client to a page that answers 200
    ``"cut"``                      passes it on, and cuts the last bytes off the answer's body
    ``"raw:…"``                    answers with exactly these bytes and closes, the insert never arrives
    ``"drip:…"``                   the same, but for ever, a byte at a time
    ``"done, add:…"``              passes it on, and puts a text behind the answer
    ``"done, header:NAME: TEXT"``  passes it on, and changes a header of the answer

    What happens to reading back is ``read_plan``'s to say, and to CREATE ``statement_plan``'s, in the same words.
    """

    def __init__(self, target: str, table: str = "metrics") -> None:
        address = urlsplit(target)
        self.target = (address.hostname or "127.0.0.1", address.port or 8123)
        self.table = table
        self.plan: deque[str] = deque()
        self.read_plan: deque[str] = deque()
        self.statement_plan: deque[str] = deque()
        self.reads_done: list[str] = []
        self.always = ""
        self.inserts = 0
        self.passed = 0
        self.done: list[str] = []
        self.held: list[threading.Event] = []
        self.delivered = threading.Semaphore(0)
        self.closing = threading.Event()
        self._lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def deliver(self) -> None:
        """Let the held inserts through and wait until ClickHouse has answered them."""
        with self._lock:
            held, self.held = self.held, []
        for event in held:
            event.set()
        for _ in held:
            assert self.delivered.acquire(timeout=60)

    def fate(self, is_insert: bool) -> str:
        """What becomes of a request."""
        with self._lock:
            if not is_insert:
                return "pass"
            self.inserts += 1
            fate = self.plan.popleft() if self.plan else self.always or "pass"
            if fate == "pass":
                self.passed += 1
            else:
                self.done.append(fate)
            return fate

    def read_fate(self) -> str:
        """What becomes of a request that reads positions back."""
        with self._lock:
            fate = self.read_plan.popleft() if self.read_plan else "pass"
            if fate != "pass":
                self.reads_done.append(fate)
            return fate

    def hold(self) -> threading.Event:
        """An event that ``deliver`` sets."""
        event = threading.Event()
        with self._lock:
            self.held.append(event)
        return event


class _Handler(BaseHTTPRequestHandler):
    proxy: ClickHouseProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _handle(self, body: bytes) -> None:
        start = (self.path.encode() + b" " + body[:300]).replace(b"+", b" ").replace(b"%20", b" ").replace(b"%60", b"")
        insert = b"INSERT INTO " + self.proxy.table.encode()
        is_insert = insert in start.replace(b"`", b"")
        reads_back = not is_insert and b"SELECT position FROM" in start
        fate = self.proxy.read_fate() if reads_back else self.proxy.fate(is_insert)
        if self.proxy.statement_plan and b"CREATE " in start:
            fate = self.proxy.statement_plan.popleft()
        with contextlib.suppress(ConnectionError):
            self._meet(fate, body)

    def _meet(self, fate: str, body: bytes) -> None:
        if fate == "pass":
            self._reply(*self._forward(body))
        elif fate.isdigit():
            self._reply(int(fate), {}, b"a proxy in front of ClickHouse")
        elif fate == "page":
            self._reply(200, {"Content-Type": "text/html"}, b"<html><body>Please log in</body></html>")
        elif fate == "empty":
            self._reply(200, {}, b"")
        elif fate == "text":
            self._reply(200, {}, b"Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)\n")
        elif fate.startswith("redirect:"):
            self._reply(int(fate.removeprefix("redirect:")), {"Location": "/ping"}, b"")
        elif fate.startswith("summary:"):
            self._reply(200, {"X-ClickHouse-Summary": fate.removeprefix("summary:")}, b"")
        elif fate.startswith("done, summary:"):
            status, headers, answer = self._forward(body)
            self._reply(status, headers | {"X-ClickHouse-Summary": fate.removeprefix("done, summary:")}, answer)
        elif fate.startswith("raw:"):
            self.wfile.write(fate.removeprefix("raw:").encode())
            self._hang_up()
        elif fate.startswith("drip:"):
            self._drip(fate.removeprefix("drip:").encode())
        elif fate.startswith("done, add:"):
            status, headers, answer = self._forward(body)
            self._reply(status, headers, answer + fate.removeprefix("done, add:").encode())
        elif fate.startswith("done, header:"):
            status, headers, answer = self._forward(body)
            name, _, text = fate.removeprefix("done, header:").partition(": ")
            self._reply(
                status, {one: old for one, old in headers.items() if one.lower() != name.lower()} | {name: text}, answer
            )
        elif fate == "cut":
            status, headers, answer = self._forward(body)
            self._reply(status, headers, answer[:-8])
        elif fate.startswith("code:"):
            code = fate.removeprefix("code:")
            text = f"Code: {code}. DB::Exception: made up for a test. (NAME) (version 26.9)".encode()
            self._reply(500, {"X-ClickHouse-Exception-Code": code}, text)
        elif fate == "close before":
            self._hang_up()
        elif fate == "close after":
            self._forward(body)
            self._hang_up()
        elif fate == "half a reply":
            self._forward(body)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            self._hang_up()
        elif fate in ("hang before", "hang after"):
            if fate == "hang after":
                self._forward(body)
            self.rfile.read(1)  # returns when the client has gone
            self._hang_up()
        elif fate == "late":
            self.proxy.hold().wait(120)
            self._forward(body)
            self.proxy.delivered.release()
            self._hang_up()
        else:
            raise AssertionError(f"no such fate: {fate}")

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.proxy.target, timeout=60)
        try:
            skipped = ("transfer-encoding", "content-length", "host", "connection")
            headers = {name: text for name, text in self.headers.items() if name.lower() not in skipped}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        except OSError:
            return 502, {}, b"no server"
        finally:
            connection.close()

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, text in headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, begin: bytes) -> None:
        for byte in itertools.chain(begin, itertools.repeat(ord("x"))):
            self.wfile.write(bytes([byte]))
            if self.proxy.closing.wait(0.01):
                break
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True


@contextmanager
def clickhouse_proxy(target: str, table: str = "metrics") -> Iterator[ClickHouseProxy]:
    """A proxy in front of ``target``, closed afterwards."""
    proxy = ClickHouseProxy(target, table)
    try:
        yield proxy
    finally:
        for event in proxy.held:
            event.set()
        proxy.close()
