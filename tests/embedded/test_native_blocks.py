"""ClickHouse's compressed blocks, held against another implementation of them."""

import struct
from collections.abc import Callable
from io import BytesIO

import pytest
from clickhouse_cityhash.cityhash import CityHash128
from clickhouse_driver.compression import get_compressor_cls, get_decompressor_cls
from clickhouse_driver.reader import read_binary_uint8, read_binary_uint128
from clickhouse_driver.writer import write_binary_uint8, write_binary_uint128
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedded.native_blocks import BrokenBlocks, compressed, decompressed

LIMIT = 8 << 20


class Reader:
    """Bytes as clickhouse-driver reads them."""

    def __init__(self, body: bytes) -> None:
        self._body = BytesIO(body)
        self.size = len(body)

    def read(self, count: int) -> bytes:
        """The next bytes."""
        return self._body.read(count)

    def read_one(self) -> int:
        """The next byte."""
        return self._body.read(1)[0]

    @property
    def is_at_end(self) -> bool:
        """Whether all was read."""
        return self._body.tell() == self.size


def as_the_driver_reads(body: bytes) -> bytes:
    reader, plain = Reader(body), b""
    while not reader.is_at_end:
        checksum, method = read_binary_uint128(reader), read_binary_uint8(reader)
        plain += get_decompressor_cls(method)(reader).get_decompressed_data(method, checksum, 1)
    return plain


def as_the_driver_writes(plain: bytes, kind: str) -> bytes:
    compressor = get_compressor_cls(kind)()
    compressor.write(plain)
    content = BytesIO()
    write_binary_uint8(compressor.method_byte, content)
    content.write(compressor.get_compressed_data(1))
    block = BytesIO()
    write_binary_uint128(CityHash128(content.getvalue()), block)
    return block.getvalue() + content.getvalue()


@given(st.binary(max_size=2000), st.integers(0, 1200))
def test_another_decoder_reads_what_we_write(piece: bytes, times: int) -> None:
    """Empty, short, and more than one block."""
    plain = piece * times
    assert as_the_driver_reads(compressed(plain)) == plain


@pytest.mark.parametrize("kind", ["lz4", "zstd"])
def test_we_read_what_another_encoder_writes(kind: str) -> None:
    """One block and several, each method that clients use."""
    plain = bytes(range(256)) * 5000
    assert decompressed(as_the_driver_writes(plain, kind) * 2, LIMIT) == plain * 2


def _cut(block: bytes) -> bytes:
    return block[:-1]


def _other_checksum(block: bytes) -> bytes:
    return bytes([block[0] ^ 1]) + block[1:]


def _other_size(block: bytes) -> bytes:
    content = block[16:21] + struct.pack("<I", 17) + block[25:]
    return _signed(content)


def _unknown_method(block: bytes) -> bytes:
    return _signed(b"\x91" + block[17:])


def _garbage(block: bytes) -> bytes:
    return _signed(block[16:25] + bytes(len(block) - 25))


def _signed(content: bytes) -> bytes:
    number = CityHash128(content)
    return struct.pack("<QQ", number >> 64, number & (1 << 64) - 1) + content


@pytest.mark.parametrize("spoil", [_cut, _other_checksum, _other_size, _unknown_method, _garbage, lambda b: b + b"x"])
def test_broken_blocks_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    """Cut off, of another checksum, size or method, or followed by something: never taken for data."""
    with pytest.raises(BrokenBlocks):
        decompressed(spoil(compressed(b"abc" * 1000)), LIMIT)


def test_a_bomb_is_not_unpacked() -> None:
    """What says it is larger than the limit is refused by its header."""
    with pytest.raises(BrokenBlocks, match="more than"):
        decompressed(compressed(bytes(3 << 20)), 2 << 20)
