"""What is set aside: chunks and segments that no drainer is given any more, and counters that had to be restored.

Each is one field of a hash ("time kept lost {reason, …}"); the items that are kept lie in a list of their own. They
stay until a person closes the record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.base.clock import iso
from pipeline.base.errors import UsageError
from pipeline.buffer.buffer import Buffer

STEP_ITEMS = 200
"""Items that one script decides about: so few do not hold Redis up."""


@dataclass(frozen=True)
class Unproved:
    """What a record says where nothing proves which items are kept."""

    sealed_at_ms: int
    since: int = 0
    """The kept items are of this position or later ones."""
    chunk_rows: int = 0
    chunks: tuple[tuple[int, int], ...] = ()
    """First and last of the chunks that were taken out of delivery; empty where that is unknown."""
    is_measured: bool = False
    """Whether the items were compared with what ClickHouse holds."""


@dataclass(frozen=True)
class SetAsideRecord:
    """One record."""

    name: str
    buffer: str
    at_ms: int
    kept: int
    """Items that wait in Redis."""
    lost: int
    """Items that are gone."""
    reason: str
    first: int | None = None
    """The position of the oldest item that is kept; None where nothing proves it."""
    last: int | None = None
    attempts: int = 0
    unproved: Unproved | None = None
    text: bytes = b""
    """The record as it stands in Redis."""

    @property
    def is_exact(self) -> bool:
        """If not, up to ``kept`` fewer are kept, and as many more are lost or stored."""
        return self.unproved is None or self.unproved.is_measured

    @property
    def segment(self) -> str:
        """The segment that it belongs to."""
        return self.name.partition(":")[0]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        shown = {name: value for name, value in vars(self).items() if name not in ("text", "unproved")}
        return {**shown, "at_ms": None, "at": iso(self.at_ms), "segment": self.segment, "exact": self.is_exact}


def records(buffer: Buffer) -> list[SetAsideRecord]:
    """What is set aside of a buffer, the oldest first. Raises ``RedisOutage``."""
    found = [_parsed(buffer.key, name, text) for name, text in buffer.set_aside_records().items()]
    return sorted(found, key=lambda record: (record.at_ms, record.name))


def find(buffers: Sequence[Buffer], name: str) -> tuple[Buffer, SetAsideRecord]:
    """One record by its name, and its buffer. Raises ``UsageError`` when there is none."""
    for buffer in buffers:
        for record in records(buffer):
            if record.name == name:
                return buffer, record
    raise UsageError(f"nothing is set aside under the name {name!r}: 'pipeline segments ls' prints the names")


def _parsed(key: str, name: bytes, text: bytes) -> SetAsideRecord:
    """A record that another program overwrote is shown as it stands."""
    at, kept, lost, rest = (text.split(b" ", 3) + [b""] * 4)[:4]
    shown = name.decode("utf-8", "backslashreplace")
    try:
        known = json.loads(rest)
        positions = {field: int(known[field]) for field in ("first", "last", "attempts") if field in known}
        return SetAsideRecord(
            shown, key, int(at), int(kept), int(lost), str(known["reason"]), **positions,
            unproved=_unproved(known, int(at)), text=text,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = "its record was overwritten: " + text.decode("utf-8", "backslashreplace")
        return SetAsideRecord(shown, key, 0, 0, 0, reason)


def _unproved(known: dict[str, Any], at_ms: int) -> Unproved | None:
    if "chunks" in known:
        return Unproved(
            sealed_at_ms=int(known["sealed_at_ms"]),
            since=int(known["since"]),
            chunk_rows=int(known["chunk_rows"]),
            chunks=tuple((int(first), int(last)) for first, last in known["chunks"]),
            is_measured=bool(known.get("measured")),
        )
    return Unproved(at_ms) if known.get("unproved") else None
