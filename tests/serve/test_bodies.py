"""Bodies of requests: never unpacked beyond their bound, never more of them than their common budget."""

import gzip
import zlib

import pytest

from pipeline.serve.bodies import BodyRefused, Budget, unpacked


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


def test_all_bodies_share_a_budget() -> None:
    """What does not fit now is refused with status 503 and fits once others are done."""
    budget = Budget(10)
    budget.take(8)
    with pytest.raises(BodyRefused, match="try again") as refusal:
        budget.take(3)
    assert refusal.value.status == 503
    budget.give_back(8)
    budget.take(10)
