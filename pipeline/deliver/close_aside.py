"""A person decides about what was set aside: it is pushed to the buffer again, or saved to a file and given up.

Rows that ClickHouse holds already, from an attempt before the chunk was set aside, are found there and counted as
stored; they are never pushed. A crash in between leaves the record with what is still undecided.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.set_aside import STEP_ITEMS, SetAsideRecord
from pipeline.store.client import Store

PAGE_ITEMS = 5_000


@dataclass(frozen=True)
class Closed:
    """What became of a record."""

    name: str
    pushed: int = 0
    stored: int = 0
    dead_lettered: int = 0
    saved: int = 0
    lost: int = 0
    file: str = ""


def push_again(buffer: Buffer, record: SetAsideRecord, store: Store, *, allow_duplicates: bool = False) -> Closed:
    """Push what is kept to the buffer, but for rows that ClickHouse has. Raises ``UsageError`` when that is unknown."""
    length = buffer.aside_length(record.name)
    stored, dead = _places(store, record, "metrics"), _places(store, record, "dead_letters")
    if record.first is None and (stored or dead) and not allow_duplicates:
        raise UsageError(
            f"ClickHouse has {len(stored) + len(dead)} rows of segment {record.segment}, and nothing proves which of "
            "the kept items they are: some would be stored twice. Close it without --push, which saves the items to a "
            "file, or accept that with --allow-duplicates"
        )
    first = record.first
    if first is None:
        decisions = "p" * length
    else:
        decisions = "".join(
            "s" if place in stored else "d" if place in dead else "p" for place in range(first, first + length)
        )
    _decide(buffer, record, decisions)
    pushed, there, dead_lettered = (decisions.count(decision) for decision in "psd")
    return Closed(record.name, pushed=pushed, stored=there, dead_lettered=dead_lettered, lost=record.lost)


def save_and_give_up(buffer: Buffer, record: SetAsideRecord, directory: Path) -> Closed:
    """Write what is kept to a file, one item a line, the oldest first; then it counts as dropped."""
    length = buffer.aside_length(record.name)
    file = ""
    if length:
        path = directory / (record.name.replace(":", "-").replace("/", "-") + ".ndjson")
        _save(buffer, record, path)
        file = str(path)
    _decide(buffer, record, "x" * length)
    return Closed(record.name, saved=length, lost=record.lost, file=file)


def _decide(buffer: Buffer, record: SetAsideRecord, decisions: str) -> None:
    for begin in range(0, len(decisions), STEP_ITEMS):
        buffer.decide_aside(record.name, decisions[begin : begin + STEP_ITEMS])
    buffer.decide_aside(record.name, "", end=True)


def _places(store: Store, record: SetAsideRecord, table: str) -> set[int]:
    found = store.rows(
        f"SELECT position FROM {store.every_replica(table)} WHERE segment = {{segment:String}} "
        "AND position >= {first:UInt32} AND position < {last:UInt32}",
        {"segment": record.segment, "first": record.first or 0, "last": record.last or 4_294_967_295},
    )
    return {int(position) for (position,) in found}


def _save(buffer: Buffer, record: SetAsideRecord, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for items in _pages(buffer, record.name):
            # Between the tokens of JSON a line break means as much as a space.
            file.writelines(item.replace(b"\n", b" ") + b"\n" for item in items)
        file.flush()
        os.fsync(file.fileno())


def _pages(buffer: Buffer, name: str) -> list[list[bytes]]:
    length = buffer.aside_length(name)
    return [buffer.aside_items(name, begin, PAGE_ITEMS) for begin in range(0, length, PAGE_ITEMS)]
