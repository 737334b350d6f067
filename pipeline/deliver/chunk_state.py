"""What the delivery protocol knows of a chunk: its phase, what it may meet there, and all that the next step needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.deliver.steps import Fault

MAX_BLAMED_ROWS = 16
"""Fewer rows that ClickHouse refuses one by one say nothing about the schema, whatever their share."""


class Route(StrEnum):
    """Where a chunk goes."""

    DRAIN = "from Redis to ClickHouse"
    SPILL = "from Redis to a file"
    UNSPILL = "from a file to ClickHouse"


class Phase(StrEnum):
    """What is being done about a chunk; the last six are ends."""

    CLAIM = "claim"
    READ = "read"
    SYNC_SEAL = "sync_seal"
    WRITE_FILE = "write_file"
    LET_GO = "let_go"
    DECODE = "decode"
    READ_BACK = "read_back"
    INSERT_LETTERS = "insert_letters"
    INSERT_ROWS = "insert_rows"
    SETTLE = "settle"
    PAUSE = "pause"
    READ_BACK_RANGE = "read_back_range"
    INSERT_RANGE = "insert_range"
    BURY = "bury"
    ACK = "ack"
    SET_ASIDE = "set_aside"
    GIVE_BACK = "give_back"
    IDLE = "idle"
    DELIVERED = "delivered"
    SPILLED = "spilled"
    FENCED = "fenced"
    GIVEN_BACK = "given_back"
    WAITS_FOR_A_PERSON = "waits_for_a_person"


ENDS = frozenset({Phase.IDLE, Phase.DELIVERED, Phase.SPILLED, Phase.FENCED, Phase.GIVEN_BACK, Phase.WAITS_FOR_A_PERSON})
WORKING = tuple(phase for phase in Phase if phase not in ENDS)
HOLDING = tuple(phase for phase in WORKING if phase not in (Phase.CLAIM, Phase.GIVE_BACK))
"""Phases with a chunk in hand: in each of them the lease may turn out lost, and the drainer may be told to stop."""


class Outcome(StrEnum):
    """What an event means in a phase: the labels of the drawing's arrows."""

    NOTHING = "nothing to claim"
    CLAIMED = "claimed"
    LAPSED_TOO_OFTEN = "its drainers died too often"
    READ = "read"
    DAMAGED = "items are gone or unreadable"
    DURABLE = "seal is on disk"
    DURABLE_TO_SPILL = "seal is on disk, ClickHouse is away"
    WRITTEN = "file is on disk"
    LET_GO = "Redis let go"
    NEVER_TRIED = "decoded, never tried before"
    TRIED_BEFORE = "decoded, tried before"
    COMPLETE = "nothing is missing"
    MISSING = "rows are missing"
    STILL_MISSING = "missing although accepted: next token"
    ACCEPTED = "accepted"
    PROVED = "accepted, first attempt"
    UNPROVED = "accepted, in doubt"
    ROWS_REFUSED = "rows refused"
    UNKNOWN = "unknown"
    WAITED = "waited"
    HALVED = "rows to try"
    NARROWER = "refused ranges left"
    FAULTS_FOUND = "rows at fault found"
    NO_FAULTS = "no row at fault"
    MOST_REFUSED = "most rows refused"
    ACKED = "acknowledged"
    ASIDE = "set aside"
    GAVE_BACK = "given back"
    LEASE_LOST = "lease lost"
    GIVE_UP = "told to stop"


@dataclass(frozen=True)
class Range:
    """Positions ``first`` to ``last - 1``: refused for a reason, or still to be tried."""

    first: int
    last: int
    rows: int
    reason: str = ""
    is_probe: bool = False


@dataclass(frozen=True)
class ChunkState:
    """Everything that the next step depends on."""

    phase: Phase
    route: Route
    max_bad_share: float = 0.5
    name: str = ""
    first: int = 0
    last: int = 0
    is_doubtful: bool = False
    """Whether rows may be stored already: then nothing is inserted that was not read back first."""
    is_read_back: bool = False
    """Whether what is missing is known by reading back, with no insert since."""
    rows: int = 0
    letters: int = 0
    """What is to be inserted: everything, or what was missing when it was read back."""
    is_unproved: bool = False
    """Whether the letters were accepted without proof."""
    is_accepted: bool = False
    """Whether ClickHouse accepted all that was missing, so that nothing may be missing now."""
    missing_when_refused: int = -1
    tokens_spent: int = 0
    failures: int = 0
    """Attempts in a row whose outcome is unknown."""
    ranges: tuple[Range, ...] = ()
    """Where rows at fault are looked for, the next one last: refused ranges, and probes."""
    halves: tuple[Range, ...] = ()
    """What is inserted next in the search, all of it read back before."""
    faults: tuple[Fault, ...] = ()
    cleared: int = 0
    """Rows that were accepted in the search."""
    is_probed: bool = False
    probes_refused: int = 0
    reason: str = ""
    """Why it is set aside, or why the drainer halts."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase in ENDS

    @property
    def token(self) -> str:
        """Under which everything that is missing is inserted."""
        return self.name + (f".{self.tokens_spent}" if self.tokens_spent else "")

    @property
    def is_hopeless(self) -> bool:
        """Whether most of what was tried is refused row by row."""
        faults = len(self.faults)
        if faults <= MAX_BLAMED_ROWS:
            return False
        tried = self.last - self.first if self.is_probed else faults + self.cleared
        return faults > tried * self.max_bad_share
