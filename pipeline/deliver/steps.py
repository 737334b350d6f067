"""What the delivery protocol may ask for, and what may come of it: the vocabulary of ``protocol``.

A step names one thing to do with one neighbour; an event is its outcome as a value. Nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """Lease a chunk. Answered by ``Claimed`` or ``Nothing``."""


@dataclass(frozen=True)
class Read:
    """Fetch its items from Redis. Answered by ``Fetched`` or ``Damaged``."""


@dataclass(frozen=True)
class SyncSeal:
    """Wait until a power cut of Redis cannot undo the seal; its rows would come again under another name."""


@dataclass(frozen=True)
class WriteFile:
    """Write the items to a file, and have it on disk."""


@dataclass(frozen=True)
class LetGo:
    """Have Redis remove the items, because the file is what counts from now on."""


@dataclass(frozen=True)
class Decode:
    """Items to rows and dead letters, a pure function. Answered by ``Decoded``."""


@dataclass(frozen=True)
class ReadBack:
    """Ask ClickHouse which positions of the chunk stand in either table. Answered by ``Found`` or ``Unknown``."""


@dataclass(frozen=True)
class ReadBackRange:
    """The same for the rows of a refused range; answered by ``FoundInRange``: a refused insert may store some days."""

    first: int
    last: int


@dataclass(frozen=True)
class Insert:
    """Check the lease, then insert what is missing of ``first`` to ``last - 1`` into ``metrics``.

    More days than one insert may touch go in several inserts, under one token: tokens are remembered by the day.
    Answered by ``Accepted``, ``Refused`` or ``Unknown``.
    """

    token: str
    first: int
    last: int


@dataclass(frozen=True)
class InsertLetters:
    """Check the lease, then insert the missing dead letters. A refusal blames no row: it is ``Unknown``."""

    token: str


@dataclass(frozen=True)
class Fault:
    """A row that ClickHouse refuses by itself."""

    position: int
    reason: str


@dataclass(frozen=True)
class Bury:
    """Check the lease, then insert these rows into the dead letters."""

    token: str
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Settle:
    """Wait: an insert that ClickHouse has logged but not yet shown gets this long before it is taken for lost."""


@dataclass(frozen=True)
class Pause:
    """Wait for ClickHouse, longer with each failure in a row, keeping the lease."""

    failures: int


@dataclass(frozen=True)
class Ack:
    """Have Redis remove the items, if the lease still holds: every row stands in ClickHouse."""


@dataclass(frozen=True)
class SetAside:
    """Put the chunk away for a person to look at, loudly."""

    reason: str


@dataclass(frozen=True)
class GiveBack:
    """End the lease at once, so that others can claim the chunk; a ``reason`` halts the drainer."""

    reason: str


@dataclass(frozen=True)
class End:
    """Nothing is left to do."""


Step = (
    Claim | Read | SyncSeal | WriteFile | LetGo | Decode | ReadBack | ReadBackRange | Insert | InsertLetters | Bury
    | Settle | Pause | Ack | SetAside | GiveBack | End
)  # fmt: skip


@dataclass(frozen=True)
class Nothing:
    """There is no chunk to claim."""


@dataclass(frozen=True)
class Claimed:
    """A chunk, leased."""

    name: str
    first: int
    last: int
    doubtful: bool
    """Whether some of its rows may be stored: it was tried before, or Redis restarted since it was sealed."""
    lapses: int = 0
    """How often a lease ended without a word before any insert."""


@dataclass(frozen=True)
class Done:
    """The step succeeded."""


@dataclass(frozen=True)
class Fetched:
    """The items from ``first`` to ``last - 1`` are at hand: the chunk, or what is left of it in a damaged segment.

    Of a damaged segment it is not known what was done with it before.
    """

    first: int
    last: int
    is_whole: bool = True


@dataclass(frozen=True)
class Damaged:
    """Nothing of the chunk can be read, and never will be: the buffer set it aside."""

    reason: str


@dataclass(frozen=True)
class Decoded:
    """How many rows and dead letters the chunk has."""

    rows: int
    letters: int


@dataclass(frozen=True)
class Found:
    """How many rows and dead letters are missing in ClickHouse."""

    rows: int
    letters: int


@dataclass(frozen=True)
class FoundInRange:
    """How many rows are missing in the lower and in the upper half of a range; a single row is in the upper one."""

    low: int
    high: int


@dataclass(frozen=True)
class Accepted:
    """ClickHouse wrote every row that was sent, or dropped them because it knows the token."""

    is_proved: bool = True
    """Whether it counts exactly the rows that were sent; where materialized views take part it counts more."""


@dataclass(frozen=True)
class Refused:
    """ClickHouse wrote nothing (or some days) and blames the rows."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """No proof either way: no answer, an answer of something else, or a refusal that blames no row."""

    reason: str


@dataclass(frozen=True)
class Fenced:
    """Another holds the chunk, or finished it."""


@dataclass(frozen=True)
class ToldToStop:
    """The drainer is to end, or cannot go on."""


Event = (
    Nothing | Claimed | Done | Fetched | Damaged | Decoded | Found | FoundInRange | Accepted | Refused | Unknown
    | Fenced | ToldToStop
)  # fmt: skip
