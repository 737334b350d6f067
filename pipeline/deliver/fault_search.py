"""Which rows does ClickHouse refuse? A refused insert is halved until single rows are refused; the others are stored.

When most of the rows tried so far are refused, single rows all over the chunk are tried: are they refused too, the
schema is at fault and not the rows.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from pipeline.deliver.chunk_state import ChunkState, Outcome, Range
from pipeline.deliver.steps import Accepted, Fault, FoundInRange, Refused

PROBES = 16
"""When most rows tried so far are refused, so many rows all over the chunk are tried before the schema is blamed.

It is blamed when clearly more of them are refused than ``max_bad_share``; else every row is tried."""


def found_in_range(state: ChunkState, event: FoundInRange) -> tuple[Outcome, ChunkState]:
    """What is still missing of the range looked at: its halves are tried, a single row is at fault."""
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


def tried_half(state: ChunkState, event: Accepted | Refused) -> tuple[Outcome, ChunkState]:
    """A half was inserted, or is refused and is searched in its turn."""
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
