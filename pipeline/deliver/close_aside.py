"""A person decides about what was set aside: it is pushed to the buffer again, or saved to a file and given up.

Rows that ClickHouse holds already, from an attempt before the chunk was set aside, are found there, by position or,
where that is not known, by content; they count as stored and are never pushed. A crash in between leaves the record
with what is still undecided.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.set_aside import STEP_ITEMS, SetAsideRecord, find
from pipeline.deliver.ledger import is_decoded_alike
from pipeline.deliver.measure_aside import measure, pages, stored_already
from pipeline.store.client import Store


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
    if record.first is not None:
        decisions = _by_position(buffer, record, store, record.first)
    else:
        _demand_comparable(store, record, allow_duplicates)
        if not record.is_exact and measure(buffer, store):
            _, record = find([buffer], record.name)
        known = stored_already(buffer, store, record)
        decisions = "".join("k" if is_stored else "p" for is_stored in known)
    _decide(buffer, record, decisions)
    pushed, dead_lettered = decisions.count("p"), decisions.count("d")
    stored = decisions.count("s") + decisions.count("k")
    return Closed(record.name, pushed=pushed, stored=stored, dead_lettered=dead_lettered, lost=record.lost)


def _by_position(buffer: Buffer, record: SetAsideRecord, store: Store, first: int) -> str:
    places = range(first, first + buffer.aside_length(record.name))
    stored, dead = _places(store, record, "metrics"), _places(store, record, "dead_letters")
    return "".join("s" if place in stored else "d" if place in dead else "p" for place in places)


def _demand_comparable(store: Store, record: SetAsideRecord, allow_duplicates: bool) -> None:
    """Rows of another version need not look as this one would have written them."""
    if is_decoded_alike(record.segment) or allow_duplicates:
        return
    if rows := len(_places(store, record, "metrics")):
        raise UsageError(
            f"ClickHouse has {rows} rows of segment {record.segment}, which another version of the pipeline wrote, so "
            "that they cannot be compared with the kept items: some would be stored twice. Close it without --push, "
            "which saves the items to a file, or accept that with --allow-duplicates"
        )


def save_and_give_up(buffer: Buffer, record: SetAsideRecord, directory: Path, store: Store | None = None) -> Closed:
    """Write what is kept to a file, one item a line, the oldest first; then it counts as dropped.

    Where nothing proves the items' positions, those that ClickHouse has are left out. Raises ``UsageError`` when that
    cannot be known, because ``store`` is away.
    """
    decisions = "x" * buffer.aside_length(record.name)
    if decisions and record.first is None and is_decoded_alike(record.segment):
        if store is None:
            raise UsageError(
                "ClickHouse cannot be reached, and some of the items kept under "
                f"{record.name} may be stored there: close it when ClickHouse is back"
            )
        if not record.is_exact and measure(buffer, store):
            _, record = find([buffer], record.name)
        decisions = "".join("k" if is_stored else "x" for is_stored in stored_already(buffer, store, record))
    file, saved = "", decisions.count("x")
    if saved:
        path = directory / (record.name.replace(":", "-").replace("/", "-") + ".ndjson")
        _save(buffer, record, decisions, path)
        file = str(path)
    _decide(buffer, record, decisions)
    return Closed(record.name, saved=saved, stored=decisions.count("k"), lost=record.lost, file=file)


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


def _save(buffer: Buffer, record: SetAsideRecord, decisions: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        items = itertools.chain.from_iterable(pages(buffer, record.name))
        for decision, item in zip(decisions, items, strict=False):
            if decision == "x":
                # Between the tokens of JSON a line break means as much as a space.
                file.write(item.replace(b"\n", b" ") + b"\n")
        file.flush()
        os.fsync(file.fileno())
