"""A list that slides: producers push at the head, the tail is cut off; which elements are new?

The old list is looked for in the new one by the smallest shift that fits. An element is known by its fingerprint, so
that what is remembered of a list is small whatever it holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

Fingerprints = tuple[int, ...]

LEAST_OVERLAP = 3
"""A shorter overlap at the edge could be chance; then a gap is reported beside what is new."""


def fingerprints(elements: Sequence[bytes]) -> Fingerprints:
    """One 32-bit number an element, newest first."""
    return tuple(zlib.crc32(element) for element in elements)


def new_elements(before: Fingerprints, now: Fingerprints) -> tuple[int, bool]:
    """How many elements at the head of ``now`` are new since ``before`` (both newest first), and whether some between
    the two looks may have been lost.

    The smallest shift at which all overlapping elements agree counts. Without one, everything is new and there is
    a gap; an empty ``before`` has no gap.
    """
    if not before:
        return len(now), False
    for shift in range(len(now)):
        overlap = min(len(before), len(now) - shift)
        if overlap < min(LEAST_OVERLAP, len(before)):
            break
        if now[shift : shift + overlap] == before[:overlap]:
            return shift, False
    return len(now), bool(now)


def pack(known: Fingerprints) -> bytes:
    """Four bytes an element, for the state in Redis."""
    return b"".join(one.to_bytes(4, "big") for one in known)


def unpack(text: bytes) -> Fingerprints:
    """The inverse of ``pack``."""
    return tuple(int.from_bytes(text[at : at + 4], "big") for at in range(0, len(text) - 3, 4))
