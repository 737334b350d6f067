"""One request of ClickHouse's HTTP interface: read it, run it, answer it.

The protocol is ClickHouse's documented HTTP interface: the statement stands in ``query``, in the
body, or begins in the one and ends in the other; ``param_x`` fills ``{x:Type}``; other parameters
are settings. Errors carry their number in ``X-ClickHouse-Exception-Code`` and the status a server
would give.
"""

import gzip
import json
import re
import tempfile
import uuid
import zlib
from collections.abc import Iterator, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from pipeline.base.config import WebSettings
from pipeline.embedded import query_guard
from pipeline.embedded.handles import Answer, EngineError, Handle, Handles, Settings, literal

# A question is text; inserts (development only) may be as large as a drainer's largest batch.
_MAX_QUESTION_BYTES = 16 << 20
_MAX_INSERT_BYTES = 2 << 30
_IDLE_S = 30.0

# Parameters of the transport, which are no settings.
_TRANSPORT = frozenset(
    {
        *("query", "query_id", "database", "default_format", "user", "password", "quota_key", "role", "stacktrace"),
        *("session_id", "session_timeout", "session_check", "close_session", "compress", "decompress", "buffer_size"),
        *("wait_end_of_query", "enable_http_compression", "http_zlib_compression_level", "add_http_cors_header"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms", "client_protocol_version"),
    }
)

# The status of an error number is the one ClickHouse's server gives it (exceptionCodeToHTTPStatus.cpp there);
# whatever is not listed, READONLY and limits included, is 500.
_BAD_REQUEST = (6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441)
_NOT_FOUND = (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511)
_STATUS = {
    **dict.fromkeys(_BAD_REQUEST, 400),
    **dict.fromkeys(_NOT_FOUND, 404),
    48: 501,
    76: 503,
    159: 408,
    209: 503,
    229: 413,
    381: 411,
    439: 503,
    497: 403,
    779: 415,
}
_NOT_IMPLEMENTED = 48
_UNKNOWN_COMPRESSION_METHOD = 89
_INCORRECT_DATA = 117
_QUERY_IS_TOO_LARGE = 229

_NAMES = {
    _NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    _UNKNOWN_COMPRESSION_METHOD: "UNKNOWN_COMPRESSION_METHOD",
    _INCORRECT_DATA: "INCORRECT_DATA",
    query_guard.READONLY: "READONLY",
    _QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
}
_CODECS = {"gzip": "gzip", "lz4": "lz4", "zstd": "zstd", "br": "brotli"}

_INSERT = re.compile(rb"\A(?:\s|--[^\n]*\n|/\*.*?\*/)*INSERT\b", re.IGNORECASE | re.DOTALL)
# A statement piece by piece as far as its data: quoted things and parentheses are one piece each.
_PIECE = re.compile(
    rb"""'(?:[^'\\]|\\.)*' | `(?:[^`\\]|\\.)*` | "(?:[^"\\]|\\.)*" | \([^()]*\)
       | (?P<source>\b(?:SELECT|WITH|VALUES)\b)
       | (?P<settings>\bSETTINGS\b)
       | \bFORMAT\s+(?P<format>\w+)[ \t\r]*\n?
       | \w+ | .""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_QUERY_ID = re.compile(r"[\w.:-]{1,200}")  # it is said back in a header
_NO_RESULT = re.compile(rb"(?!SELECT|WITH|\(|SHOW|DESCRIBE|EXISTS|EXPLAIN|CHECK|KILL|OPTIMIZE)")
_FORMAT = re.compile(rb"\bFORMAT (\w+)\s*\Z")
_SET = re.compile(rb"(?:\A|;)\s*SET\b", re.IGNORECASE)

_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Arrow": "application/vnd.apache.arrow.file",
    "ArrowStream": "application/vnd.apache.arrow.stream",
    "Parquet": "application/vnd.apache.parquet",
    "Native": "application/octet-stream",
}


class Handler(BaseHTTPRequestHandler):
    """Bound to an engine by ``ClickHouseHttp``; one instance per connection."""

    handles: ClassVar[Handles]
    writable: ClassVar[bool]
    settings: ClassVar[Settings]
    database: ClassVar[str]
    limits: ClassVar[WebSettings]
    patience_s: ClassVar[float]

    protocol_version = "HTTP/1.1"
    server_version = "ClickHouse"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """A statement in the address, a sign of life, or nothing."""
        self._answer()

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._answer()

    def do_POST(self) -> None:
        """A statement in the body, or data for the one in the address."""
        self._answer()

    def do_OPTIONS(self) -> None:
        """No permission for pages of other origins."""
        self._send(204, b"", {"Allow": "GET, HEAD, POST, OPTIONS"})

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not log lines."""

    def _answer(self) -> None:
        self._query_id = ""
        try:
            body = self._read_body()
            target = urlsplit(self.path)
            parameters = dict(parse_qsl(target.query, keep_blank_values=True))
            statement, parameters = _statement(parameters, body, self.headers.get("Content-Type", ""))
            given = parameters.get("query_id", "")
            self._query_id = given if _QUERY_ID.fullmatch(given) else str(uuid.uuid4())
            is_idle = target.path == "/" and self.command != "POST" and not statement.strip()
            if is_idle or target.path in ("/ping", "/replicas_status"):
                self._send(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
            elif target.path not in ("/", "/query"):
                self._send(404, f"There is no handle {target.path}\n".encode(), {"Content-Type": "text/plain"})
            else:
                self._send_answer(*self._run(statement, parameters), parameters)
        except EngineError as error:
            self._send_error(error)
        except ValueError as error:  # an address, a length or a form that is none
            self.close_connection = True
            self._send_error(_refused(_INCORRECT_DATA, f"Malformed request: {error}."))

    def _run(self, statement: bytes, parameters: Mapping[str, str]) -> tuple[Answer, str | None]:
        """The answer, and the format it is in (None where there is no result)."""
        default_format = parameters.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        database = parameters.get("database") or self.headers.get("X-ClickHouse-Database") or "default"
        if database == "default":
            database = self.database
        values = {name.removeprefix("param_"): text for name, text in parameters.items() if name.startswith("param_")}
        with self.handles.take(self._settings(parameters), self.patience_s) as handle:
            handle.use(database)
            if self.writable and _INSERT.match(statement):
                return _insert(handle, statement, values), None
            if self.writable:
                canonical = _canonical(handle, statement)
                handle.is_spoilt = _SET.search(statement) is not None  # no sessions: it ends with the request
                answer = handle.run(statement, default_format, values)
                named = _FORMAT.search(canonical)
                return answer, None if _NO_RESULT.match(canonical) else (named[1].decode() if named else default_format)
            checked = query_guard.checked(handle, statement, values, self.limits)
            answer = handle.run(checked.text, default_format, values)
            return answer, (checked.format or default_format) if checked.returns_rows else None

    def _settings(self, parameters: Mapping[str, str]) -> Settings:
        if not self.writable:
            return self.settings
        return tuple(
            sorted((k, v) for k, v in parameters.items() if k not in _TRANSPORT and not k.startswith("param_"))
        )

    # Reading

    def _read_body(self) -> bytes:
        limit = _MAX_INSERT_BYTES if self.writable else _MAX_QUESTION_BYTES
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = b"".join(self._chunks(limit))
        else:
            length = int(self.headers.get("Content-Length") or 0)
            if length > limit:
                self.close_connection = True  # the body is not read
                raise _too_large(limit)
            body = self.rfile.read(length)
        encoding = self.headers.get("Content-Encoding", "identity").lower()
        return _decoded(body, encoding, limit)

    def _chunks(self, limit: int) -> Iterator[bytes]:
        """The pieces of a chunked body (RFC 9112, 7.1); trailers are read and dropped."""
        total = 0
        while True:
            try:
                size = int(self.rfile.readline(1024).split(b";")[0], 16)
            except ValueError:
                self.close_connection = True
                raise _refused(_INCORRECT_DATA, "The body has a malformed chunk.") from None
            total += size
            if total > limit:
                self.close_connection = True
                raise _too_large(limit)
            if size == 0:
                while self.rfile.readline(65536) not in (b"\r\n", b"\n", b""):
                    pass
                return
            yield self.rfile.read(size)
            self.rfile.readline(3)

    # Answering

    def _send_answer(self, answer: Answer, format_name: str | None, parameters: Mapping[str, str]) -> None:
        summary = {
            "read_rows": answer.read_rows,
            "read_bytes": answer.read_bytes,
            "written_rows": answer.written_rows,
            "written_bytes": answer.written_bytes,
            "result_bytes": len(answer.body),
            "elapsed_ns": int(answer.elapsed_s * 1e9),
        }
        headers = {
            "Content-Type": _CONTENT_TYPES.get(format_name or "", "text/plain; charset=UTF-8"),
            "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()}),
        }
        if format_name:
            headers["X-ClickHouse-Format"] = format_name
        body = answer.body
        if parameters.get("enable_http_compression") == "1" and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        self._send(200, body, headers)

    def _send_error(self, error: EngineError) -> None:
        self._send(
            _STATUS.get(error.code, 500),
            str(error).rstrip().encode(errors="surrogateescape") + b"\n",
            {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(error.code)},
        )

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("X-ClickHouse-Server-Display-Name", "pipeline")
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if self._query_id:
            self.send_header("X-ClickHouse-Query-Id", self._query_id)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and body:
            self.wfile.write(body)

    _query_id: str = ""


def _statement(parameters: dict[str, str], body: bytes, content_type: str) -> tuple[bytes, dict[str, str]]:
    """The statement, and all parameters: the body may be a form that holds either."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parameters = parameters | _form_fields(body, content_type)
        body = b""
    elif kind == "application/x-www-form-urlencoded" and body.startswith(b"query="):
        parameters = parameters | dict(parse_qsl(body.decode(), keep_blank_values=True))
        body = b""
    query = parameters.get("query", "").encode(errors="surrogateescape")
    return (query + b"\n" + body if query and body else query or body), parameters


def _form_fields(body: bytes, content_type: str) -> dict[str, str]:
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise _refused(_NOT_IMPLEMENTED, "External tables are not supported here.")
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        fields[str(name)] = content.decode() if isinstance(content, bytes) else ""
    return fields


def _insert(handle: Handle, statement: bytes, values: Mapping[str, str]) -> Answer:
    """The engine reads data behind a statement only as far as it looks like text; a file it reads to its end."""
    settings_at = None
    for piece in _PIECE.finditer(statement):
        if piece["source"] or (piece["format"] or b"").lower() == b"values":
            return handle.run(statement, parameters=values)
        if piece["settings"]:
            settings_at = piece.start()
        if piece["format"]:
            break
    else:
        return handle.run(statement, parameters=values)
    into_ends = piece.start() if settings_at is None else settings_at
    with tempfile.NamedTemporaryFile(prefix="pipeline-insert-") as file:
        file.write(memoryview(statement)[piece.end() :])
        file.flush()
        source = b" FROM INFILE " + literal(file.name).encode() + b" "
        settings = statement[into_ends : piece.start()]
        return handle.run(statement[:into_ends] + source + settings + b" FORMAT " + piece["format"], parameters=values)


def _canonical(handle: Handle, statement: bytes) -> bytes:
    """The one statement in ``statement`` as the engine itself writes it. Raises ``EngineError`` 62 if it is none."""
    text = literal(statement.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    formatted = handle.run(b"SELECT formatQuery(" + text + b")", "TabSeparatedRaw").body
    return formatted.removesuffix(b"\n")


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding; more than ``limit`` bytes are refused before they are unpacked."""
    if encoding in ("", "identity"):
        return body
    try:
        if encoding == "deflate":
            plain = zlib.decompressobj().decompress(body, limit + 1)
        elif codec := _CODECS.get(encoding):
            plain = pa.CompressedInputStream(pa.BufferReader(body), codec).read(limit + 1)
        else:
            raise _refused(_UNKNOWN_COMPRESSION_METHOD, f"Unknown Content-Encoding {encoding}.")
    except (zlib.error, OSError) as error:
        raise _refused(_INCORRECT_DATA, f"Cannot decompress the body: {error}.") from None
    if len(plain) > limit:
        raise _too_large(limit)
    return plain


def _too_large(limit: int) -> EngineError:
    return _refused(_QUERY_IS_TOO_LARGE, f"The body is larger than {limit} bytes.")


def _refused(code: int, why: str) -> EngineError:
    """An error of ours in ClickHouse's form."""
    return EngineError(f"Code: {code}. DB::Exception: {why} ({_NAMES[code]})", code)
