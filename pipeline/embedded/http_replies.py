"""What ClickHouse's HTTP interface says back: headers, statuses, error numbers, compression.

A result is complete before its first byte is sent, so an answer is whole or an error with ClickHouse's
own number, never a 200 that stops half-way. Directories of this machine are left out of errors.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping

import pyarrow as pa
from starlette.responses import Response

from pipeline.embedded import native_blocks
from pipeline.embedded.handles import Answer, EngineError

SYNTAX_ERROR = 62
NOT_IMPLEMENTED = 48
UNKNOWN_COMPRESSION_METHOD = 89
UNKNOWN_SETTING = 115
INCORRECT_DATA = 117
READONLY = 164
REQUIRED_PASSWORD = 194
TOO_MANY_SIMULTANEOUS_QUERIES = 202
QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING = 216
QUERY_IS_TOO_LARGE = 229
CANNOT_DECOMPRESS = 271
SESSION_NOT_FOUND = 372
UNKNOWN_ROLE = 511
AUTHENTICATION_FAILED = 516

_NAMES = {
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    UNKNOWN_COMPRESSION_METHOD: "UNKNOWN_COMPRESSION_METHOD",
    UNKNOWN_SETTING: "UNKNOWN_SETTING",
    INCORRECT_DATA: "INCORRECT_DATA",
    READONLY: "READONLY",
    REQUIRED_PASSWORD: "REQUIRED_PASSWORD",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
    CANNOT_DECOMPRESS: "CANNOT_DECOMPRESS",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    UNKNOWN_ROLE: "UNKNOWN_ROLE",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
}

# The status of an error number is the one ClickHouse's server gives it (exceptionCodeToHTTPStatus.cpp there);
# whatever is not listed, READONLY and limits included, is 500.
_BAD_REQUEST = (6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441)
_NOT_FOUND = (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 372, 511)
_STATUS = {
    **dict.fromkeys(_BAD_REQUEST, 400),
    **dict.fromkeys(_NOT_FOUND, 404),
    48: 501,
    76: 503,
    159: 408,
    194: 401,
    209: 503,
    229: 413,
    271: 400,
    381: 411,
    439: 503,
    497: 403,
    516: 403,
    779: 415,
}

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

_QUERY_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)  # it is said back in a header


def refused(code: int, why: str) -> EngineError:
    """An error of the pipeline in ClickHouse's form."""
    return EngineError(f"Code: {code}. DB::Exception: {why} ({_NAMES[code]})", code)


def reply(status: int, body: bytes, headers: Mapping[str, str], query_id: str = "") -> Response:
    """An answer with what every answer says."""
    common = {"X-ClickHouse-Server-Display-Name": "pipeline", "X-ClickHouse-Timezone": "UTC", **headers}
    if _QUERY_ID.fullmatch(query_id):
        common["X-ClickHouse-Query-Id"] = query_id
    common.setdefault("Content-Type", "text/plain; charset=UTF-8")
    response = Response(body, status, common)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def error_reply(error: EngineError, query_id: str = "", paths: tuple[str, ...] = ()) -> Response:
    """An error with its number in the header and its words in the body."""
    text = presentable(str(error), paths).rstrip().encode(errors="surrogateescape") + b"\n"
    headers = {"X-ClickHouse-Exception-Code": str(error.code)}
    status = _STATUS.get(error.code, 500)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return reply(status, text, headers, query_id)


def presentable(text: str, paths: tuple[str, ...]) -> str:
    """An error text without the directories of this server."""
    for path in paths:
        text = text.replace(path, "…")
    return text


def result_reply(
    answer: Answer, format_name: str | None, parameters: Mapping[str, str], accept_encoding: str, query_id: str
) -> Response:
    """A result in ``format_name`` (None where a statement has none), compressed as asked."""
    summary = _summary(answer)
    headers = {
        "Content-Type": _CONTENT_TYPES.get(format_name or "", "text/plain; charset=UTF-8"),
        "X-ClickHouse-Summary": summary,
    }
    if parameters.get("send_progress_in_http_headers") == "1":
        headers["X-ClickHouse-Progress"] = summary
    if format_name:
        headers["X-ClickHouse-Format"] = format_name
    body = answer.body
    if parameters.get("compress") == "1":
        body = native_blocks.compressed(body)
    elif parameters.get("enable_http_compression") == "1" and (encoding := _best(accept_encoding)):
        body = _PACKERS[encoding](body)
        headers["Content-Encoding"] = encoding
    return reply(200, body, headers, query_id)


def _summary(answer: Answer) -> str:
    found = {
        "read_rows": answer.read_rows,
        "read_bytes": answer.read_bytes,
        "written_rows": answer.written_rows,
        "written_bytes": answer.written_bytes,
        "total_rows_to_read": answer.read_rows,
        "result_rows": answer.result_rows,
        "result_bytes": len(answer.body),
        "elapsed_ns": int(answer.elapsed_s * 1e9),
    }
    return json.dumps({name: str(value) for name, value in found.items()}, separators=(",", ":"))


def _best(accept_encoding: str) -> str | None:
    """The encoding to answer with; None where the client accepts none that is supported."""
    offered = {}
    for token in accept_encoding.lower().split(","):
        name, _, quality = token.strip().partition(";")
        offered[name.strip()] = quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((name for name in _PACKERS if offered.get(name)), None)


def _framed(codec: str) -> Callable[[bytes], bytes]:
    def pack(body: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(body)
        packed: bytes = sink.getvalue().to_pybytes()
        return packed

    return pack


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": _framed("lz4"),
    "zstd": _framed("zstd"),
    "gzip": lambda body: gzip.compress(body, compresslevel=1),
    "br": _framed("brotli"),
    "deflate": lambda body: zlib.compress(body, 1),
}
