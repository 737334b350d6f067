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

from dataclasses import replace

from pipeline.deliver.chunk_state import ENDS, HOLDING, ChunkState, Outcome, Phase, Range, Route
from pipeline.deliver.fault_search import found_in_range, tried_half
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

MAX_LAPSES = 20
"""A chunk whose drainers died this often before they reached ClickHouse is set aside, so that others go on."""


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
            doubtful = state.is_doubtful or not event.is_whole
            return Outcome.READ, replace(state, first=event.first, last=event.last, is_doubtful=doubtful)
        case Damaged():
            return Outcome.DAMAGED, replace(state, reason=event.reason)
        case Decoded():
            outcome = Outcome.TRIED_BEFORE if state.is_doubtful else Outcome.NEVER_TRIED
            return outcome, replace(state, rows=event.rows, letters=event.letters)
        case Found():
            return _found(state, event)
        case FoundInRange():
            return found_in_range(state, event)
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
            return tried_half(state, event)
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
