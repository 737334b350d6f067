"""Compares what was set aside with what ClickHouse holds, where nothing else proves which items are which.

When items vanish from the middle of a segment's list, the rest of it waits for a person. It may hold items whose rows
are stored: of chunks that were acknowledged or in hand. Positions are not known any more, but contents are: an item
whose row ClickHouse has, under this segment, is stored. So the books say exactly how many items are kept and how
many are lost. Items of equal content are interchangeable, so it does not matter which of them is meant.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from pipeline.buffer.buffer import Buffer
from pipeline.buffer.set_aside import SetAsideRecord, Unproved, records
from pipeline.decode.columns import decode_chunk
from pipeline.deliver import ledger
from pipeline.deliver.dead_letters import MAX_PAYLOAD_BYTES
from pipeline.deliver.ledger import is_decoded_alike
from pipeline.metric import Limits
from pipeline.store.client import Store

PAGE_ITEMS = 5_000

ANY_LIMITS = Limits(max_item_bytes=1 << 30, max_depth=500, retention_ms=1 << 53, future_ms=1 << 53)
"""What was accepted under other settings is read as it was; what was refused is known by its payload."""

Key = int | tuple[int, int]
"""What an item and its row have in common: a number for the content; of a dead letter the payload's sum and length."""


def measure(buffer: Buffer, store: Store) -> int:
    """Correct the counts of every record that is not exact yet; the number of records. Safe to repeat.

    A record that keeps items waits while some chunk of its segment is in hand or in a spilled file. One that another
    version sealed stays as it is: its rows need not look as this version would have written them. Raises outages.
    """
    waiting = [one for one in records(buffer) if _is_comparable(one) and not one.is_exact]
    if not waiting:
        return 0
    moving = buffer.moving_segments()
    return sum(_measure(buffer, store, one) for one in waiting if not one.kept or one.segment not in moving)


def _is_comparable(record: SetAsideRecord) -> bool:
    return record.unproved is not None and bool(record.unproved.chunks) and is_decoded_alike(record.segment)


def stored_already(buffer: Buffer, store: Store, record: SetAsideRecord) -> list[bool]:
    """For each item that is kept under a record, the oldest first: whether ClickHouse has it.

    Of equal items the newest are those that it has: items are decided about from the oldest on, so that after a kill
    in the middle the rest is judged as before.
    """
    unproved = record.unproved or Unproved(record.at_ms)
    rows = _row_keys(store, record.segment, unproved.since)
    letters = _letter_keys(store, record.segment, unproved.since)
    keys: list[tuple[Key, Key]] = []
    for items in pages(buffer, record.name):
        keys += zip(_keys(items, unproved.sealed_at_ms), map(_payload_key, items), strict=True)
    found: list[bool] = []
    for key, payload_key in reversed(keys):
        held, name = (rows, key) if rows[key] > 0 else (letters, payload_key)
        found.append(held[name] > 0)
        held[name] -= found[-1]
    return found[::-1]


def pages(buffer: Buffer, name: str) -> Iterator[list[bytes]]:
    """The items that are kept under a name, the oldest first."""
    for begin in range(0, buffer.aside_length(name), PAGE_ITEMS):
        yield buffer.aside_items(name, begin, PAGE_ITEMS)


def _measure(buffer: Buffer, store: Store, record: SetAsideRecord) -> int:
    assert record.unproved is not None
    adopted = _unacknowledged(store, record.segment, record.unproved)
    stored, dead = sum(one.stored for one in adopted), sum(one.dead_lettered for one in adopted)
    there = stored_already(buffer, store, record)
    rest = max(0, record.kept + record.lost - stored - dead)
    kept = min(rest, there.count(False))
    _, _, _, text = record.text.split(b" ", 3)
    # Where nothing is lost and nothing kept, a person has nothing to decide.
    known = json.dumps({**json.loads(text), "measured": True}, ensure_ascii=False) if rest or there else ""
    # Their windows were not touched by an ack; touching them twice is harmless.
    buffer.touch(_minutes(store, record.segment, record.unproved) if stored else [])
    counts = (kept, rest - kept, stored, dead)
    return int(buffer.correct_aside(record.name, record.text, counts, known, [_as_json(one) for one in adopted]))


def _as_json(record: ledger.Record) -> str:
    return json.dumps({name: value for name, value in asdict(record).items() if name != "acked_at"})


def _of_chunks(unproved: Unproved) -> str:
    """SQL: the position is in one of the chunks that were taken out."""
    size = unproved.chunk_rows
    ranges = [f"position >= {first * size} AND position < {(last + 1) * size}" for first, last in unproved.chunks]
    return "(" + " OR ".join(ranges) + ")"


def _unacknowledged(store: Store, segment: str, unproved: Unproved) -> list[ledger.Record]:
    """Acknowledgements, by counts, of the rows that an attempt stored before its chunk was taken out."""
    found: dict[int, list[int]] = {}
    for place, table, at in ((0, "metrics", "timestamp"), (1, "dead_letters", "refused_at")):
        for chunk, rows, first_ms, last_ms in store.rows(
            f"SELECT intDiv(position, {unproved.chunk_rows}) AS chunk, uniqExact(position), "
            f"toUnixTimestamp64Milli(min({at})), toUnixTimestamp64Milli(max({at})) FROM {store.every_replica(table)} "
            f"WHERE segment = {{segment:String}} AND {_of_chunks(unproved)} GROUP BY chunk",
            {"segment": segment},
        ):
            facts = found.setdefault(int(chunk), [0, 0, 0, 0])
            facts[place] = int(rows)
            if table == "metrics":
                facts[2:] = int(first_ms), int(last_ms)
    return [
        ledger.Record(
            segment=segment,
            chunk=chunk,
            chunk_rows=unproved.chunk_rows,
            rows=stored + dead,
            stored=stored,
            dead_lettered=dead,
            digest=0,
            sealed_at=unproved.sealed_at_ms,
            min_timestamp=first_ms,
            max_timestamp=last_ms,
        )
        for chunk, (stored, dead, first_ms, last_ms) in sorted(found.items())
    ]


def _minutes(store: Store, segment: str, unproved: Unproved) -> list[int]:
    found = store.rows(
        f"SELECT DISTINCT intDiv(toUnixTimestamp64Milli(timestamp), 60000) * 60 FROM {store.every_replica('metrics')} "
        f"WHERE segment = {{segment:String}} AND {_of_chunks(unproved)}",
        {"segment": segment},
    )
    return sorted(int(minute) for (minute,) in found)


def _row_keys(store: Store, segment: str, since: int) -> Counter[Key]:
    found = store.query(
        f"SELECT any({ledger.ROW_SQL}) AS word FROM {store.every_replica('metrics')} "
        "WHERE segment = {segment:String} AND position >= {since:UInt32} GROUP BY position",
        {"segment": segment, "since": since},
    )
    return Counter(found["word"].to_pylist())


def _letter_keys(store: Store, segment: str, since: int) -> Counter[Key]:
    found = store.rows(
        f"SELECT any(CRC32(payload)), any(payload_bytes) FROM {store.every_replica('dead_letters')} "
        "WHERE segment = {segment:String} AND position >= {since:UInt32} GROUP BY position",
        {"segment": segment, "since": since},
    )
    return Counter((int(checksum), int(length)) for checksum, length in found)


def _payload_key(item: bytes) -> Key:
    return zlib.crc32(item[:MAX_PAYLOAD_BYTES]), len(item)


def _keys(items: list[bytes], sealed_at_ms: int) -> list[Key]:
    """A key for each item: of the row that it decodes to, else of its payload."""
    keys: list[Key] = [_payload_key(item) for item in items]
    rows = decode_chunk(items, np.arange(len(items), dtype=np.int64), sealed_at_ms, ANY_LIMITS).rows
    if rows.num_rows:
        for place, word in zip(rows["position"].to_pylist(), ledger.row_words(rows).tolist(), strict=True):
            keys[place] = word
    return keys
