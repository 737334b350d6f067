"""Bodies of requests: bounded one by one and all together, and unpacked no further than their bound."""

from __future__ import annotations

import threading
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pyarrow as pa
from starlette.requests import Request

CODECS = {"gzip": "gzip", "x-gzip": "gzip", "lz4": "lz4", "zstd": "zstd", "br": "brotli"}
"""Content-Encoding to Arrow's name; deflate is zlib's."""


class BodyRefused(Exception):
    """This body is not taken: ``status`` 400, 413, 415 or 503, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Budget:
    """Bytes that all bodies in hand may take together."""

    def __init__(self, total_bytes: int) -> None:
        self._free = total_bytes
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Raise ``BodyRefused`` 503 when there is not so much left."""
        with self._lock:
            if size > self._free:
                raise BodyRefused(503, "Too many large requests at once; try again in a moment.")
            self._free -= size

    def give_back(self, size: int) -> None:
        """These bytes are free again."""
        with self._lock:
            self._free += size


@asynccontextmanager
async def read_body(request: Request, limit: int, budget: Budget) -> AsyncIterator[bytearray]:
    """The body as it was sent, counted against the budget as long as the block lasts.

    Raises ``BodyRefused`` before reading what is announced larger than ``limit``, and while reading what becomes so.
    """
    announced = int(request.headers.get("content-length") or 0)
    if announced > limit:
        raise too_large(limit)
    body, taken = bytearray(), 0
    try:
        async for piece in request.stream():
            if len(body) + len(piece) > limit:
                raise too_large(limit)
            budget.take(len(piece))
            taken += len(piece)
            body += piece
        yield body
    finally:
        budget.give_back(taken)


def unpacked(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """The body without its Content-Encoding; more than ``limit`` bytes are refused before they are unpacked."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    try:
        if encoding == "deflate":
            plain = _inflated(body, limit + 1)
        elif codec := CODECS.get(encoding):
            plain = pa.CompressedInputStream(pa.BufferReader(body), codec).read(limit + 1)
        else:
            raise BodyRefused(
                415, f"Unknown Content-Encoding {encoding[:40]}; known are {', '.join((*CODECS, 'deflate'))}."
            )
    except (zlib.error, OSError, pa.ArrowException):
        raise BodyRefused(400, f"The body is not what its Content-Encoding {encoding} says.") from None
    if len(plain) > limit:
        raise too_large(limit)
    return plain


def too_large(limit: int) -> BodyRefused:
    """What is said of a body beyond its bound."""
    return BodyRefused(413, f"The body is larger than {limit:,} bytes.")


def _inflated(body: bytes | bytearray, limit: int) -> bytes:
    """At most ``limit`` bytes of what zlib packed. Raises ``zlib.error`` for more or less than one whole stream."""
    stream = zlib.decompressobj()
    plain = stream.decompress(body, limit)
    if len(plain) < limit and body and (stream.unused_data or not stream.eof):
        raise zlib.error("not one whole stream")
    return plain
