"""Bodies of requests: never unpacked beyond their bound, never more of them than their common budget."""

import gzip
import zlib

import pyarrow as pa
import pytest

from pipeline.serve.bodies import CODECS, BodyRefused, Budget, unpacked


@pytest.mark.parametrize(
    ("encoding", "packed"), [("gzip", gzip.compress(b"a" * 900, mtime=0)), ("deflate", zlib.compress(b"a" * 900))]
)
def test_a_body_is_unpacked_up_to_its_bound(encoding: str, packed: bytes) -> None:
    """A body of 900 bytes passes a bound of 900; one byte less, and it is refused with status 413."""
    assert bytes(unpacked(packed, encoding, 900)) == b"a" * 900
    with pytest.raises(BodyRefused, match="larger than 899 bytes") as refusal:
        unpacked(packed, encoding, 899)
    assert refusal.value.status == 413


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 400), ("deflate", 400), ("rot13", 415)])
def test_a_body_that_is_not_what_its_encoding_says(encoding: str, status: int) -> None:
    """Neither a wrong encoding nor an unknown one is guessed."""
    with pytest.raises(BodyRefused, match=encoding) as refusal:
        unpacked(b"plain text", encoding, 900)
    assert refusal.value.status == status


@pytest.mark.parametrize("encoding", ["deflate", *CODECS])
def test_a_body_that_was_cut_short_or_goes_on_behind_its_end_is_refused(encoding: str) -> None:
    """Half of the items would be accepted, and the sender told that all is well."""
    lines = b"".join(b'{"number": %d}\n' % number for number in range(1000))
    packed = zlib.compress(lines) if encoding == "deflate" else _packed(lines, CODECS[encoding])
    assert bytes(unpacked(packed, encoding, 100_000)) == lines
    for damaged in (packed[: len(packed) // 2], packed[:-8], packed[:-1], packed + b"junk"):
        with pytest.raises(BodyRefused, match=encoding) as refusal:
            unpacked(damaged, encoding, 100_000)
        assert refusal.value.status == 400


def _packed(plain: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(plain)
    return sink.getvalue().to_pybytes()


def test_all_bodies_share_a_budget() -> None:
    """What does not fit now is refused with status 503 and fits once others are done."""
    budget = Budget(10)
    budget.take(8)
    with pytest.raises(BodyRefused, match="try again") as refusal:
        budget.take(3)
    assert refusal.value.status == 503
    budget.give_back(8)
    budget.take(10)
