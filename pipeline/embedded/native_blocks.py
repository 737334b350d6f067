"""ClickHouse's own compression of HTTP bodies: ``compress=1`` for answers, ``decompress=1`` for requests.

A body is a row of blocks, each 16 bytes of CityHash128 (ClickHouse's version, 1.0.2) over what follows,
one byte for the method, four for the size with these nine bytes, four for the size unpacked, and the data.
"""

import struct

import pyarrow as pa
from clickhouse_cityhash.cityhash import CityHash128

_BLOCK_BYTES = 1 << 20
_MAX_BLOCK_BYTES = 1 << 30
_HEADER = struct.Struct("<BII")
_CHECKSUM = struct.Struct("<QQ")
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
_CODECS = {_LZ4: "lz4_raw", _ZSTD: "zstd"}


class BrokenBlocks(Exception):
    """The bytes are no such blocks; the text says what is wrong with them."""


def compressed(body: bytes) -> bytes:
    """``body`` as LZ4 blocks."""
    view, blocks = memoryview(body), []
    for start in range(0, len(body), _BLOCK_BYTES):
        plain = view[start : start + _BLOCK_BYTES]
        data = pa.compress(plain, "lz4_raw", asbytes=True)
        content = _HEADER.pack(_LZ4, len(data) + _HEADER.size, len(plain)) + data
        blocks += [_checksum(content), content]
    return b"".join(blocks)


def decompressed(body: bytes | bytearray, limit: int) -> bytearray:
    """What the blocks hold. Raises ``BrokenBlocks``; sizes are checked before anything is unpacked."""
    plain, view, at = bytearray(), memoryview(body), 0
    while at < len(body):
        start = at + _CHECKSUM.size
        if start + _HEADER.size > len(body):
            raise BrokenBlocks("the last block is cut off")
        method, size, plain_size = _HEADER.unpack_from(body, start)
        at = start + size
        if size < _HEADER.size or at > len(body) or plain_size > _MAX_BLOCK_BYTES:
            raise BrokenBlocks("a block's size is wrong")
        if len(plain) + plain_size > limit:
            raise BrokenBlocks(f"it unpacks to more than {limit:,} bytes")
        if _checksum(bytes(view[start:at])) != view[start - _CHECKSUM.size : start]:
            raise BrokenBlocks("a block's checksum is wrong")
        plain += _unpacked(method, view[start + _HEADER.size : at], plain_size)
    return plain


def _unpacked(method: int, data: memoryview, size: int) -> bytes:
    if method == _NONE:
        plain = bytes(data)
    elif codec := _CODECS.get(method):
        try:
            plain = pa.decompress(data, decompressed_size=size, codec=codec, asbytes=True)
        except (OSError, pa.ArrowException):
            raise BrokenBlocks("a block cannot be unpacked") from None
    else:
        raise BrokenBlocks(f"a block has the unknown method {method:#x}")
    if len(plain) != size:
        raise BrokenBlocks("a block unpacks to another size than it says")
    return plain


def _checksum(content: bytes) -> bytes:
    number = CityHash128(content)
    return _CHECKSUM.pack(number >> 64, number & (1 << 64) - 1)
