"""Where a statement stands in a request: in the address, in the body, in both, or in a form.

``param_x`` fills ``{x:Type}``; what is neither that nor a parameter of the transport is a setting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from pipeline.embedded import native_blocks
from pipeline.embedded.http_replies import CANNOT_DECOMPRESS, INCORRECT_DATA, NOT_IMPLEMENTED, refused
from pipeline.serve.bodies import unpacked

# Parameters of the transport, which are no settings.
TRANSPORT = frozenset(
    {
        *("query", "query_id", "database", "default_format", "user", "password", "quota_key", "stacktrace"),
        *("session_id", "session_timeout", "session_check", "close_session", "compress", "decompress", "buffer_size"),
        # A statement ends with its client whatever is asked.
        *("cancel_http_readonly_queries_on_client_close",),
        *("wait_end_of_query", "enable_http_compression", "http_zlib_compression_level", "add_http_cors_header"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms", "client_protocol_version"),
    }
)
_NAMING = frozenset({"database", "default_format", "query_id"})
_MAX_FIELDS = 1000


def read_statement(
    query_string: bytes, headers: Headers, body: bytes | bytearray, limit: int
) -> tuple[bytes | bytearray, dict[str, str]]:
    """The statement with its data, and all parameters. Raises ``EngineError``, ``BodyRefused`` or ``ValueError``."""
    parameters = _fields(query_string.decode("latin-1"))
    body = unpacked(body, headers.get("content-encoding", ""), limit)
    if parameters.get("decompress") == "1":
        try:
            body = native_blocks.decompressed(body, limit)
        except native_blocks.BrokenBlocks as broken:
            raise refused(CANNOT_DECOMPRESS, f"Cannot decompress the body: {broken}.") from None
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parameters |= asyncio.run(_form(headers, bytes(body), limit))
        body = b""
    elif kind == "application/x-www-form-urlencoded" and body.startswith(b"query="):
        parameters |= _fields(body.decode())
        body = b""
    for name, text in parameters.items():
        if name.startswith("param_") or name in _NAMING:
            _demand_utf8(name, text)
    query = parameters.get("query", "").encode(errors="surrogateescape")
    return (query + b"\n" + body if query and body else query or body), parameters


def fills(parameters: Mapping[str, str]) -> dict[str, str]:
    """What fills the placeholders of the statement."""
    return {name.removeprefix("param_"): text for name, text in parameters.items() if name.startswith("param_")}


def query_settings(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters that are settings."""
    return {k: v for k, v in parameters.items() if k not in TRANSPORT and not k.startswith("param_")}


def _demand_utf8(name: str, text: str) -> None:
    try:
        (name + text).encode()
    except UnicodeEncodeError:
        shown = name if name.isascii() else "of that name"
        raise refused(INCORRECT_DATA, f"The parameter {shown} is not valid UTF-8.") from None


def _fields(text: str) -> dict[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MAX_FIELDS))


async def _form(headers: Headers, body: bytes, limit: int) -> dict[str, str]:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(headers, pieces(), max_files=0, max_fields=_MAX_FIELDS, max_part_size=limit)
    try:
        form = await parser.parse()
    except MultiPartException as broken:
        if "Too many files" in broken.message:
            raise refused(NOT_IMPLEMENTED, "External tables are not supported here.") from None
        raise refused(INCORRECT_DATA, f"Malformed form: {broken.message}") from None
    except (FormParserError, LookupError):
        raise refused(INCORRECT_DATA, "Malformed form.") from None
    return {name: value for name, value in form.items() if isinstance(value, str)}
