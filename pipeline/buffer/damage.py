"""What is left of a segment whose list another program changed, and which positions that is: pure decisions.

A segment notes at its sealing what its newest and its oldest item look like, and how many items acks have freed since.
So a list from which items vanished at one end still proves, by its other end, where the rest stands. Where both ends
are right and the length is not, items vanished from the middle, and nothing is proved.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.errors import KeyDamaged as KeyDamaged
from pipeline.base.errors import PipelineError, RedisOutage


class ClocksDisagree(RedisOutage):
    """Redis's clock and this machine's differ, and it is not known which is right: nothing is sealed meanwhile."""

    def __init__(self, difference_ms: int) -> None:
        direction = "ahead of" if difference_ms > 0 else "behind"
        super().__init__(
            f"the clock of Redis is {abs(difference_ms) / 1000:,.0f} s {direction} this machine's, so sealing waits: "
            "it decides which timestamps are too old or too far ahead. Run NTP on both machines"
        )


def damage_in(text: str) -> KeyDamaged | None:
    """What a script of ``lua/`` says about a damaged key: "DAMAGED found expected key"; None for other errors."""
    _, marker, rest = text.partition("DAMAGED ")
    if not marker:
        return None
    found, expected, key = rest.split(" ", 2)
    if expected == "integer":
        return KeyDamaged(key, f"a {found} that is not a number", "a count")
    if found == "junk":
        return KeyDamaged(key, f"{expected} that do not agree with their second copy", f"the {expected} of a segment")
    return KeyDamaged(key, f"a {found}", f"a {expected}")


@dataclass(frozen=True)
class ListLook:
    """A segment's list as Redis sees it at one instant (``look.lua``)."""

    kind: str
    length: int
    freed: int
    head_is_right: bool
    tail_is_right: bool
    head_behind_extra: bool
    """The newest item stands behind as many others as there are too many."""
    tail_before_extra: bool


@dataclass(frozen=True)
class Extent:
    """The positions ``first`` to ``last - 1`` of a segment are in its list, and where."""

    first: int
    last: int
    head_index: int
    """Index of position ``last - 1``, counted from the head."""
    extra_newer: int = 0
    """Items that another program pushed in front of the segment's own."""
    extra_older: int = 0
    why: str = ""
    """What is missing, in words; empty when the segment is whole."""
    is_proved: bool = True


def extent(look: ListLook, rows: int) -> Extent:
    """Which positions of a segment of ``rows`` items are there."""
    if look.kind != "list":
        what = "its list was removed" if look.kind == "none" else f"its key holds a {look.kind} instead of a list"
        return Extent(rows, rows, 0, why=what, is_proved=False)
    excess = look.length - (rows - look.freed)
    if excess >= 0:
        return _grown(look, rows, excess)
    why = f"{-excess} items of its list were removed"
    if look.head_is_right and not look.tail_is_right:
        return Extent(rows - look.length, rows, 0, why=why)
    if look.tail_is_right and not look.head_is_right:
        return Extent(look.freed, look.freed + look.length, 0, why=why)
    return Extent(rows, rows, 0, why=f"{why}, and nothing proves which", is_proved=False)


def _grown(look: ListLook, rows: int, excess: int) -> Extent:
    if look.head_is_right and look.tail_before_extra:
        return Extent(look.freed, rows, 0, extra_older=excess)
    if look.tail_is_right and look.head_behind_extra:
        return Extent(look.freed, rows, excess, extra_newer=excess)
    return Extent(rows, rows, 0, why="items of its list were replaced, and nothing proves which", is_proved=False)


class SegmentDamaged(PipelineError):
    """Items of a segment were removed; ``extent`` tells what is left of it."""

    def __init__(self, segment: str, extent: Extent) -> None:
        super().__init__(f"segment {segment} is damaged: {extent.why}")
        self.extent = extent
