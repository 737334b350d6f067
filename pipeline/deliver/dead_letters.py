"""Dead letters: items that are not metrics, kept with the reason, the payload and their identity.

They are written by the drainer like any row: exactly once, verified by reading back when in doubt.
Replaying sends the payload to the buffer again; the old row stays and is marked.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.base.clock import iso
from pipeline.base.errors import UsageError
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.notes import Marking
from pipeline.metric import Refusal
from pipeline.store.client import Store

DEAD_LETTERS = "dead_letters"

MAX_PAYLOAD_BYTES = 1_048_576
"""A larger payload is cut; ``payload_bytes`` tells its whole size."""


LETTERS_PER_LOOK = 500
"""So many letters are marked after one look at the table, which may be out of date by then."""


@dataclass(frozen=True)
class DeadLetter:
    """One refused item on its way to the table."""

    position: int
    refusal: Refusal
    payload: bytes


def as_table(letters: list[DeadLetter], chunk: Chunk, buffer_key: str) -> pa.Table:
    """The letters as rows of ``dead_letters``; ``refused_at`` is the sealing time, so that a retry writes the same."""
    count = len(letters)
    moment = pa.timestamp("ms", tz="UTC")
    return pa.table(
        {
            "refused_at": pa.array([chunk.sealed_at_ms] * count, pa.int64()).cast(moment),
            "reason": pa.array([letter.refusal.reason for letter in letters], pa.string()).dictionary_encode(),
            "detail": pa.array([letter.refusal.detail for letter in letters], pa.string()),
            "payload": pa.array([letter.payload[:MAX_PAYLOAD_BYTES] for letter in letters], pa.binary()),
            "payload_bytes": pa.array([len(letter.payload) for letter in letters], pa.uint32()),
            "buffer": pa.array([buffer_key] * count, pa.string()).dictionary_encode(),
            "segment": pa.array([chunk.segment] * count, pa.string()).dictionary_encode(),
            "position": pa.array([letter.position for letter in letters], pa.uint32()),
            "ingested_at": pa.array([time.time_ns() // 1_000_000] * count, pa.int64()).cast(moment),
        }
    )


@dataclass(frozen=True)
class Letter:
    """A dead letter as it stands in the table."""

    refused_at_ms: int
    reason: str
    detail: str
    payload: bytes
    payload_bytes: int
    buffer: str
    segment: str
    position: int
    attempts: int
    """How many dead letters carry this very payload: 1, and one more for every replay that was refused again."""
    mark: str
    """Empty while open, else ``replayed`` or ``dropped``."""

    @property
    def name(self) -> str:
        """What ``dlq show`` takes."""
        return f"{self.segment}:{self.position}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; a payload that is not text is shown in Python's escapes."""
        return {
            "name": self.name,
            "refused_at": iso(self.refused_at_ms),
            "reason": self.reason,
            "detail": self.detail,
            "attempts": self.attempts,
            "mark": self.mark,
            "payload_bytes": self.payload_bytes,
            "payload": self.payload.decode("utf-8", "backslashreplace"),
        }


def letters(
    store: Store, buffers: Sequence[Buffer], *, reason: str = "", include_marked: bool = False, most: int = 100
) -> list[Letter]:
    """The newest dead letters first; with ``reason`` those whose reason or detail contains it."""
    # Redis first: a mark leaves it only after it stands in the table.
    pending = _pending_marks(buffers)
    found = store.rows(
        "WITH attempts AS (SELECT cityHash64(payload) AS hash, count() AS attempts FROM dead_letters GROUP BY hash) "
        "SELECT toUnixTimestamp64Milli(letter.refused_at), letter.reason, letter.detail, base64Encode(letter.payload), "
        "letter.payload_bytes, letter.buffer, letter.segment, letter.position, attempts.attempts, marks.mark "
        "FROM dead_letters AS letter "
        "GLOBAL LEFT JOIN attempts ON attempts.hash = cityHash64(letter.payload) "
        "GLOBAL LEFT JOIN (SELECT segment, position, argMax(mark, marked_at) AS mark FROM dead_letter_marks "
        "GROUP BY segment, position) AS marks "
        "ON marks.segment = letter.segment AND marks.position = letter.position "
        "WHERE ({marked:UInt8} OR marks.mark = '') "
        "AND ({reason:String} = '' "
        "OR positionCaseInsensitive(concat(letter.reason, ' ', letter.detail), {reason:String}) > 0) "
        "ORDER BY letter.refused_at DESC, letter.segment, letter.position LIMIT {most:UInt32}",
        {"marked": int(include_marked), "reason": reason, "most": most},
    )
    result = [_letter(row, pending) for row in found]
    return [letter for letter in result if include_marked or not letter.mark]


def letter(store: Store, buffers: Sequence[Buffer], name: str) -> Letter:
    """One dead letter by its name (``segment:position``). Raises ``UsageError`` when there is none."""
    segment, _, position = name.partition(":")
    if not position.isdigit():
        raise UsageError(f"a dead letter is named SEGMENT:POSITION, as 'dlq ls' prints it, not {name!r}")
    pending = _pending_marks(buffers)
    found = store.rows(
        "SELECT toUnixTimestamp64Milli(refused_at), reason, detail, base64Encode(payload), payload_bytes, buffer, "
        "segment, position, (SELECT count() FROM dead_letters WHERE payload = (SELECT any(payload) FROM dead_letters "
        "WHERE segment = {segment:String} AND position = {position:UInt32})), "
        "(SELECT any(mark) FROM dead_letter_marks WHERE segment = {segment:String} AND position = {position:UInt32}) "
        "FROM dead_letters WHERE segment = {segment:String} AND position = {position:UInt32}",
        {"segment": segment, "position": int(position)},
    )
    if not found:
        raise UsageError(f"there is no dead letter {name!r}")
    return _letter(found[0], pending)


def replay(store: Store, buffers: Sequence[Buffer], chosen: Sequence[Letter], now_ms: int) -> int:
    """Push the payloads again and mark the letters; the number of those pushed.

    Push and mark are one step in Redis: a crash in between neither loses nor doubles one, and a letter
    that is marked already, also by another command at the same time, is left alone. Payloads that were cut on arrival
    cannot be replayed.
    """
    whole = [one for one in chosen if len(one.payload) == one.payload_bytes]
    return _mark(store, buffers, whole, "replayed", now_ms)


def drop(store: Store, buffers: Sequence[Buffer], chosen: Sequence[Letter], now_ms: int) -> int:
    """Mark letters as of no further interest; the rows stay until their retention ends."""
    return _mark(store, buffers, chosen, "dropped", now_ms)


def flush_marks(buffer: Buffer, store: Store) -> int:
    """Write the marks made in Redis to ``dead_letter_marks``; the number of them. Safe to repeat."""
    pending = buffer.dead_letter_marks()
    if not pending:
        return 0
    names = [name.decode().rpartition(":") for name in pending]
    marks = [mark.decode().partition(" ") for mark in pending.values()]
    store.insert(
        "dead_letter_marks",
        pa.table(
            {
                "segment": pa.array([segment for segment, _, _ in names], pa.string()),
                "position": pa.array([int(position) for _, _, position in names], pa.uint32()),
                "mark": pa.array([mark for mark, _, _ in marks], pa.string()),
                "marked_at": pa.array([int(at) for _, _, at in marks], pa.int64()).cast(pa.timestamp("ms", tz="UTC")),
            }
        ),
    )
    buffer.forget_marks(pending)
    return len(pending)


def _mark(store: Store, buffers: Sequence[Buffer], chosen: Sequence[Letter], mark: str, now_ms: int) -> int:
    count = 0
    for start in range(0, len(chosen), LETTERS_PER_LOOK):
        piece = chosen[start : start + LETTERS_PER_LOOK]
        for buffer in buffers:
            mine = [one for one in piece if _buffer_of(one, buffers) is buffer and not one.mark]
            count += _mark_in(store, buffer, mine, mark, now_ms)
    return count


def _mark_in(store: Store, buffer: Buffer, rest: list[Letter], mark: str, now_ms: int) -> int:
    """Mark what has no mark in the table, nor in Redis; look again whenever marks went from the one to the other."""
    count = 0
    while rest:
        as_of = buffer.marks_as_of()
        stored = _stored_marks(store, rest)
        rest = [one for one in rest if one.name not in stored]
        while rest:
            payload = rest[0].payload if mark == "replayed" else b""
            came = buffer.mark_dead_letter(rest[0].name, mark, now_ms, payload, as_of=as_of)
            if came is Marking.STALE:
                break
            count += came is Marking.MARKED
            del rest[0]
    return count


def _stored_marks(store: Store, chosen: Sequence[Letter]) -> set[str]:
    found = store.rows(
        "SELECT segment, position FROM dead_letter_marks WHERE segment IN {segments:Array(String)}",
        {"segments": sorted({one.segment for one in chosen})},
    )
    return {f"{segment}:{position}" for segment, position in found}


def _buffer_of(one: Letter, buffers: Sequence[Buffer]) -> Buffer:
    return next((buffer for buffer in buffers if buffer.key == one.buffer), buffers[0])


def _pending_marks(buffers: Sequence[Buffer]) -> dict[str, str]:
    pending: dict[str, str] = {}
    for buffer in buffers:
        marks = buffer.dead_letter_marks()
        pending |= {name.decode(): mark.decode().partition(" ")[0] for name, mark in marks.items()}
    return pending


def _letter(row: tuple[Any, ...], pending: dict[str, str]) -> Letter:
    refused_at_ms, reason, detail, payload, payload_bytes, buffer, segment, position, attempts, mark = row
    return Letter(
        refused_at_ms=refused_at_ms,
        reason=reason,
        detail=detail,
        payload=base64.b64decode(payload),
        payload_bytes=payload_bytes,
        buffer=buffer,
        segment=segment,
        position=position,
        attempts=attempts,
        mark=pending.get(f"{segment}:{position}", "") or mark or "",
    )
