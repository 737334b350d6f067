"""The delivery protocol: what becomes of one chunk, as a table of states without any I/O.

``next_step(state, event)`` is the whole protocol. ``delivery`` does what a step says and reports what came of it as
an event; ``drainer`` and ``spill`` only decide which thread does it. ``README.md`` beside this file shows the table
as a drawing.

Where could a metric be lost, or stand twice? Only at these four places, and this is what stands in the way:

1. *Insert.* ClickHouse may have stored all, some partitions or nothing of an insert whose outcome is unknown, and may
   know its token without having its rows. Every row carries its identity (segment, position); once anything is unknown,
   a chunk is read back before each insert, only missing rows are sent, and it is read back again afterwards. An
   insert is accepted only when ClickHouse proves it (rows written = rows sent). Rows are blamed only when
   ClickHouse names them as the reason, and only single rows are buried.
2. *Ack* (and *LetGo*, which lets a spilled chunk leave Redis) removes items from Redis. It is reached only when every
   row stands in ``metrics`` or ``dead_letters`` (or in a file on disk), and Redis checks the lease in the same script.
3. *Insert by a drainer that lost its lease*, or an insert that the network delivers late. The lease is checked before
   each insert. For what slips through: all who work on a chunk use the same tokens in the same order,
   and the next token only when rows are missing although the one before was accepted. So the late insert comes
   under a token that ClickHouse knows by then, and is dropped.
4. *Scripts that remove items from Redis.* There are five, in ``buffer/lua``. ``trim`` and ``segment`` free what is
   acknowledged. ``return_extra`` removes what it has just copied to the buffer. ``drop_oldest`` (only with
   ``buffer.overflow`` set to drop_oldest) and ``close_aside`` (a person decides) drop items and count each as dropped.
   Items that another program removed count as ``lost``; see ``damage``.

What happens when ClickHouse hangs in the middle of an insert? The request times out (``clickhouse.request_timeout_s``):
the outcome is *unknown*. The drainer pauses (growing, jittered), keeps the lease, reads back what is there and inserts
what is missing under the same token, for ever. Told to stop meanwhile, it gives the chunk back; the next holder
finds that it was tried, and reads back first. A ``kill -9`` at any step is the same with a lease that runs out.

Redis being away is not an event: every step that asks Redis is safe to repeat and is repeated until Redis answers.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.deliver.steps import (
    Accepted,
    Ack,
    Bury,
    Claim,
    Claimed,
    Damaged,
    Decode,
    Decoded,
    Done,
    End,
    Event,
    Fault,
    Fenced,
    Fetched,
    Found,
    FoundInRange,
    GiveBack,
    Insert,
    InsertLetters,
    LetGo,
    Nothing,
    Pause,
    Read,
    ReadBack,
    ReadBackRange,
    Refused,
    SetAside,
    Settle,
    Step,
    SyncSeal,
    ToldToStop,
    Unknown,
    WriteFile,
)  # fmt: skip

MAX_BLAMED_ROWS = 16
"""Fewer rows that ClickHouse refuses one by one say nothing about the schema, whatever their share."""

PROBES = 16
"""When most rows tried so far are refused, so many rows all over the chunk are tried before the schema is blamed.

It is blamed when clearly more of them are refused than ``max_bad_share``; else every row is tried."""

MAX_LAPSES = 20
"""A chunk whose drainers died this often before they reached ClickHouse is set aside, so that others go on."""


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


TABLE: dict[tuple[Phase, Outcome], Phase] = {
    (Phase.CLAIM, Outcome.NOTHING): Phase.IDLE,
    (Phase.CLAIM, Outcome.CLAIMED): Phase.READ,
    (Phase.CLAIM, Outcome.LAPSED_TOO_OFTEN): Phase.SET_ASIDE,
    (Phase.CLAIM, Outcome.GIVE_UP): Phase.IDLE,
    (Phase.READ, Outcome.READ): Phase.SYNC_SEAL,
    (Phase.READ, Outcome.DAMAGED): Phase.WAITS_FOR_A_PERSON,
    (Phase.SYNC_SEAL, Outcome.DURABLE): Phase.DECODE,
    (Phase.SYNC_SEAL, Outcome.DURABLE_TO_SPILL): Phase.WRITE_FILE,
    (Phase.WRITE_FILE, Outcome.WRITTEN): Phase.LET_GO,
    (Phase.LET_GO, Outcome.LET_GO): Phase.SPILLED,
    (Phase.DECODE, Outcome.NEVER_TRIED): Phase.INSERT_LETTERS,
    (Phase.DECODE, Outcome.TRIED_BEFORE): Phase.READ_BACK,
    (Phase.READ_BACK, Outcome.COMPLETE): Phase.ACK,
    (Phase.READ_BACK, Outcome.MISSING): Phase.INSERT_LETTERS,
    (Phase.READ_BACK, Outcome.STILL_MISSING): Phase.SETTLE,
    (Phase.READ_BACK, Outcome.UNKNOWN): Phase.PAUSE,
    (Phase.INSERT_LETTERS, Outcome.ACCEPTED): Phase.INSERT_ROWS,
    (Phase.INSERT_LETTERS, Outcome.UNKNOWN): Phase.PAUSE,
    (Phase.INSERT_ROWS, Outcome.PROVED): Phase.ACK,
    (Phase.INSERT_ROWS, Outcome.UNPROVED): Phase.READ_BACK,
    (Phase.INSERT_ROWS, Outcome.ROWS_REFUSED): Phase.READ_BACK_RANGE,
    (Phase.INSERT_ROWS, Outcome.UNKNOWN): Phase.PAUSE,
    (Phase.SETTLE, Outcome.WAITED): Phase.READ_BACK,
    (Phase.PAUSE, Outcome.WAITED): Phase.READ_BACK,
    (Phase.READ_BACK_RANGE, Outcome.HALVED): Phase.INSERT_RANGE,
    (Phase.READ_BACK_RANGE, Outcome.NARROWER): Phase.READ_BACK_RANGE,
    (Phase.READ_BACK_RANGE, Outcome.FAULTS_FOUND): Phase.BURY,
    (Phase.READ_BACK_RANGE, Outcome.NO_FAULTS): Phase.READ_BACK,
    (Phase.READ_BACK_RANGE, Outcome.MOST_REFUSED): Phase.GIVE_BACK,
    (Phase.READ_BACK_RANGE, Outcome.UNKNOWN): Phase.PAUSE,
    (Phase.INSERT_RANGE, Outcome.HALVED): Phase.INSERT_RANGE,
    (Phase.INSERT_RANGE, Outcome.NARROWER): Phase.READ_BACK_RANGE,
    (Phase.INSERT_RANGE, Outcome.FAULTS_FOUND): Phase.BURY,
    (Phase.INSERT_RANGE, Outcome.NO_FAULTS): Phase.READ_BACK,
    (Phase.INSERT_RANGE, Outcome.MOST_REFUSED): Phase.GIVE_BACK,
    (Phase.INSERT_RANGE, Outcome.UNKNOWN): Phase.PAUSE,
    (Phase.BURY, Outcome.ACCEPTED): Phase.READ_BACK,
    (Phase.BURY, Outcome.UNKNOWN): Phase.PAUSE,
    (Phase.ACK, Outcome.ACKED): Phase.DELIVERED,
    (Phase.SET_ASIDE, Outcome.ASIDE): Phase.WAITS_FOR_A_PERSON,
    (Phase.GIVE_BACK, Outcome.GAVE_BACK): Phase.GIVEN_BACK,
    **{(phase, Outcome.LEASE_LOST): Phase.FENCED for phase in HOLDING},
    **{(phase, Outcome.GIVE_UP): Phase.GIVE_BACK for phase in HOLDING},
}
"""The whole protocol: from one phase, by what came of it, to the next."""


# The state


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


def start(route: Route, max_bad_share: float = 0.5) -> tuple[ChunkState, Step]:
    """Before anything is claimed."""
    return ChunkState(Phase.CLAIM, route, max_bad_share), Claim()


def start_from_file(name: str, first: int, last: int, max_bad_share: float = 0.5) -> tuple[ChunkState, Step]:
    """With the items of a spilled chunk at hand; whatever was tried with it before, its rows are read back first."""
    state = ChunkState(Phase.DECODE, Route.UNSPILL, max_bad_share, name, first, last, is_doubtful=True)
    return state, Decode()


def next_step(state: ChunkState, event: Event) -> tuple[ChunkState, Step]:
    """What the event makes of the state, and what is to be done now. Raises ``KeyError`` for what cannot happen."""
    outcome, changed = _meaning(state, event)
    after = replace(changed, phase=TABLE[state.phase, outcome])
    if after.phase in (Phase.READ_BACK, Phase.PAUSE):
        after = replace(after, ranges=(), halves=(), faults=(), cleared=0, is_probed=False, probes_refused=0)
    _check(state, after)
    return after, _step(after)


def _check(before: ChunkState, after: ChunkState) -> None:
    """What must hold whatever happened; a violation is a bug in the pipeline and stops the drainer before any harm."""
    if after.phase in (Phase.INSERT_ROWS, Phase.INSERT_LETTERS):
        if after.is_doubtful and not after.is_read_back:
            raise AssertionError(f"an insert in doubt without reading back: {after}")
        if after.rows + after.letters > after.last - after.first:
            raise AssertionError(f"more rows than the chunk has places: {after}")
    if after.phase is Phase.ACK:
        proved = before.phase is Phase.READ_BACK or not after.is_doubtful
        if not proved:
            raise AssertionError(f"an ack without proof: {after}")
    if after.tokens_spent not in (before.tokens_spent, before.tokens_spent + 1):
        raise AssertionError(f"tokens out of order: {after}")
    if after.phase is Phase.BURY and not after.faults:
        raise AssertionError(f"nothing to bury: {after}")


def _step(state: ChunkState) -> Step:
    match state.phase:
        case Phase.CLAIM:
            return Claim()
        case Phase.READ:
            return Read()
        case Phase.SYNC_SEAL:
            return SyncSeal()
        case Phase.WRITE_FILE:
            return WriteFile()
        case Phase.LET_GO:
            return LetGo()
        case Phase.DECODE:
            return Decode()
        case Phase.READ_BACK:
            return ReadBack()
        case Phase.INSERT_LETTERS:
            return InsertLetters(state.token)
        case Phase.INSERT_ROWS:
            return Insert(state.token, state.first, state.last)
        case Phase.READ_BACK_RANGE:
            return ReadBackRange(state.ranges[-1].first, state.ranges[-1].last)
        case Phase.INSERT_RANGE:
            half = state.halves[0]
            # Cuts lie at fixed positions, so that every drainer uses the same token for the same range.
            return Insert(f"{state.token}:{half.first}-{half.last}", half.first, half.last)
        case Phase.BURY:
            return Bury(f"{state.token}:fault", state.faults)
        case Phase.SETTLE:
            return Settle()
        case Phase.PAUSE:
            return Pause(state.failures)
        case Phase.ACK:
            return Ack()
        case Phase.SET_ASIDE:
            return SetAside(state.reason)
        case Phase.GIVE_BACK:
            return GiveBack(state.reason)
        case _:
            return End()


# What an event means


def _meaning(state: ChunkState, event: Event) -> tuple[Outcome, ChunkState]:
    match event:
        case Fenced():
            return Outcome.LEASE_LOST, state
        case ToldToStop():
            return Outcome.GIVE_UP, state
        case Unknown():
            return Outcome.UNKNOWN, _unknown(state)
        case Nothing():
            return Outcome.NOTHING, state
        case Claimed():
            return _claimed(state, event)
        case Fetched():
            return Outcome.READ, replace(state, first=event.first, last=event.last)
        case Damaged():
            return Outcome.DAMAGED, replace(state, reason=event.reason)
        case Decoded():
            outcome = Outcome.TRIED_BEFORE if state.is_doubtful else Outcome.NEVER_TRIED
            return outcome, replace(state, rows=event.rows, letters=event.letters)
        case Found():
            return _found(state, event)
        case FoundInRange():
            return _found_in_range(state, event)
        case Accepted() | Refused():
            return _inserted(state, event)
        case Done():
            return _done(state)


def _unknown(state: ChunkState) -> ChunkState:
    doubtful = replace(state, is_doubtful=True, is_read_back=False, failures=state.failures + 1)
    # A search for rows at fault that was cut short says nothing about the token.
    return replace(doubtful, missing_when_refused=-1) if state.phase in _SEARCHING else doubtful


_SEARCHING = (Phase.READ_BACK_RANGE, Phase.INSERT_RANGE, Phase.BURY)
_DONE = {
    Phase.WRITE_FILE: Outcome.WRITTEN,
    Phase.LET_GO: Outcome.LET_GO,
    Phase.PAUSE: Outcome.WAITED,
    Phase.ACK: Outcome.ACKED,
    Phase.SET_ASIDE: Outcome.ASIDE,
    Phase.GIVE_BACK: Outcome.GAVE_BACK,
}


def _done(state: ChunkState) -> tuple[Outcome, ChunkState]:
    if state.phase is Phase.SYNC_SEAL:
        return (Outcome.DURABLE_TO_SPILL if state.route is Route.SPILL else Outcome.DURABLE), state
    if state.phase is Phase.SETTLE:
        spent = replace(state, tokens_spent=state.tokens_spent + 1, is_read_back=False)
        return Outcome.WAITED, spent
    return _DONE[state.phase], state


def _claimed(state: ChunkState, event: Claimed) -> tuple[Outcome, ChunkState]:
    state = replace(state, name=event.name, first=event.first, last=event.last, is_doubtful=event.doubtful)
    if event.lapses >= MAX_LAPSES:
        reason = f"{event.lapses} drainers died or hung while they read it"
        return Outcome.LAPSED_TOO_OFTEN, replace(state, reason=reason)
    return Outcome.CLAIMED, state


def _found(state: ChunkState, event: Found) -> tuple[Outcome, ChunkState]:
    missing = event.rows + event.letters
    found = replace(state, rows=event.rows, letters=event.letters, is_read_back=True)
    if not missing:
        return Outcome.COMPLETE, found
    if state.is_accepted or missing == state.missing_when_refused:
        # ClickHouse knows this token without having the rows. A refused one it does not know: that is spent only if
        # the search for rows at fault changed nothing.
        return Outcome.STILL_MISSING, replace(found, is_accepted=False, missing_when_refused=-1)
    return Outcome.MISSING, found


def _inserted(state: ChunkState, event: Accepted | Refused) -> tuple[Outcome, ChunkState]:
    match state.phase, event:
        case Phase.INSERT_RANGE, _:
            return _tried_half(state, event)
        case ((Phase.INSERT_LETTERS | Phase.BURY), Refused()):
            return _meaning(state, Unknown(event.reason))
        case Phase.INSERT_LETTERS, Accepted():
            return Outcome.ACCEPTED, replace(state, is_unproved=not event.is_proved)
        case Phase.BURY, _:
            return Outcome.ACCEPTED, replace(state, is_doubtful=True, is_read_back=False)
        case _, Refused():
            whole = Range(state.first, state.last, state.rows, event.reason)
            missing = state.rows + state.letters
            refused = replace(state, is_doubtful=True, is_read_back=False, missing_when_refused=missing)
            return Outcome.ROWS_REFUSED, replace(refused, ranges=(whole,))
        case _, Accepted():
            is_proved = event.is_proved and not state.is_unproved and not state.is_doubtful
            accepted = replace(state, is_accepted=True, is_read_back=False, is_unproved=False)
            return (Outcome.PROVED if is_proved else Outcome.UNPROVED), replace(accepted, is_doubtful=not is_proved)
    raise AssertionError(f"not an insert: {state}")


# Rows at fault: a refused insert is halved until single rows are refused; the others are stored on the way


def _found_in_range(state: ChunkState, event: FoundInRange) -> tuple[Outcome, ChunkState]:
    *others, tried = state.ranges
    state = replace(state, ranges=tuple(others))
    if tried.is_probe:
        return _narrowed(replace(state, halves=(tried,) if event.high else ()))
    if tried.last - tried.first == 1:
        fault = (Fault(tried.first, tried.reason),) if event.high else ()
        return _narrowed(replace(state, faults=state.faults + fault))
    middle = (tried.first + tried.last) // 2
    halves = (Range(tried.first, middle, event.low), Range(middle, tried.last, event.high))
    return _narrowed(replace(state, halves=tuple(half for half in halves if half.rows)))


def _tried_half(state: ChunkState, event: Accepted | Refused) -> tuple[Outcome, ChunkState]:
    half, *others = state.halves
    state = replace(state, halves=tuple(others))
    if half.is_probe:
        state = replace(state, probes_refused=state.probes_refused + isinstance(event, Refused))
    elif isinstance(event, Refused):
        state = replace(state, ranges=(*state.ranges, replace(half, reason=event.reason)))
    else:
        state = replace(state, cleared=state.cleared + half.rows)
    return _narrowed(state)


def _narrowed(state: ChunkState) -> tuple[Outcome, ChunkState]:
    """What is to be tried next."""
    if state.halves:
        return Outcome.HALVED, state
    is_probing = any(one.is_probe for one in state.ranges)
    if state.is_hopeless and not state.is_probed:
        state = replace(state, ranges=state.ranges + _probes(state), is_probed=True)
    elif not is_probing and (state.is_hopeless or state.probes_refused > PROBES * (1 + state.max_bad_share) / 2):
        return Outcome.MOST_REFUSED, replace(state, reason=state.faults[0].reason)
    if state.ranges:
        return Outcome.NARROWER, state
    return (Outcome.FAULTS_FOUND if state.faults else Outcome.NO_FAULTS), state


def _probes(state: ChunkState) -> tuple[Range, ...]:
    """Single rows all over the chunk, the same for every drainer; what is found so far may be a bad neighbourhood."""
    rows = state.last - state.first
    places = [state.first + zlib.crc32(f"{state.name}/{number}".encode()) % rows for number in range(PROBES)]
    return tuple(Range(place, place + 1, 1, is_probe=True) for place in places)


# The drawing


def drawing() -> str:
    """The table as a mermaid state diagram; what may happen in every phase with a chunk in hand is drawn once."""
    arrows = [(*key, to) for key, to in TABLE.items() if key[0] not in HOLDING or key[1] not in _ANYWHERE]
    inside = [(phase, outcome, to) for phase, outcome, to in arrows if phase in HOLDING and to in HOLDING]
    lines = ["stateDiagram-v2", "    [*] --> claim", "    state in_hand {"]
    lines += [f"        {phase} --> {to}: {outcome}" for phase, outcome, to in inside]
    lines += ["    }"]
    lines += [f"    {phase} --> {to}: {outcome}" for phase, outcome, to in arrows if (phase, outcome, to) not in inside]
    lines += [f"    in_hand --> {TABLE[Phase.READ, outcome]}: {outcome}" for outcome in _ANYWHERE]
    lines += [f"    {end} --> [*]" for end in Phase if end in ENDS]
    return "\n".join(lines)


_ANYWHERE = (Outcome.LEASE_LOST, Outcome.GIVE_UP)

if __name__ == "__main__":
    print(drawing())
