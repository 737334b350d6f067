"""The ledger: what each acknowledged chunk put where, and a digest of the rows as the drainer decoded them.

The digest is a sum over rows, so it does not depend on their order, and every row is weighted
by its position, so that a row deleted, doubled, altered or swapped with another changes it. It is
computed here from Arrow columns and in ClickHouse by ``DIGEST_SQL``; both must agree, which is how
``audit`` knows that what was decoded is what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base import failpoints, log
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk
from pipeline.metric import DECODER_VERSION, DIMENSIONS, RUN_FIELDS
from pipeline.store.client import Store
from pipeline.store.partitions import by_days

_log = log.get(__name__)

Words = npt.NDArray[np.uint64]

# Odd 64-bit constants (the golden ratio's fraction, multiplied on): odd so that no information is
# lost modulo 2^64, unrelated so that values cannot trade places between columns.
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_FACTORS = {
    name: (_GOLDEN * (2 * index + 1)) & _MASK | 1
    for index, name in enumerate(("timestamp", "value", *DIMENSIONS, *RUN_FIELDS))
}
# New fields are appended: a row that has none of them keeps the digest it had before they existed.
_TEXTS = (*DIMENSIONS, *(name for name in RUN_FIELDS if name != "attempt"))
_TAG_NAME, _TAG_VALUE = ((_GOLDEN * k) & _MASK | 1 for k in (101, 103))

ROW_SQL = (
    "(toUInt64(toUnixTimestamp64Milli(timestamp)) * {timestamp} + reinterpretAsUInt64(value) * {value}".format(
        **{name: f"toUInt64('{_FACTORS[name]}')" for name in ("timestamp", "value")}
    )
    + "".join(f" + toUInt64(CRC32({name})) * toUInt64('{_FACTORS[name]}')" for name in _TEXTS if name != "run_id")
    # A row that an earlier version stored has its run only as a tag, and ClickHouse shows it in the column too.
    + f" + toUInt64(CRC32(run_id)) * toUInt64('{_FACTORS['run_id']}') * (NOT mapContains(tags, 'run_id'))"
    + f" + toUInt64(attempt) * toUInt64('{_FACTORS['attempt']}')"
    + " + arraySum(arrayMap((name, text) -> "
    f"(toUInt64(CRC32(name)) + (name = '')) * toUInt64('{_TAG_NAME}') * "
    f"(toUInt64(CRC32(text)) * toUInt64('{_TAG_VALUE}') + 1), "
    "mapKeys(tags), mapValues(tags))))"
)
"""ClickHouse's side of ``row_words``."""

DIGEST_SQL = f"sum({ROW_SQL} * (2 * toUInt64(position) + 1))"
"""ClickHouse's side of ``digest``: an aggregate over rows of ``metrics``."""


FLUSH_RECORDS = 1_000

SETTLED_MS = 5_000
"""Younger records stay in Redis. A power cut that takes back a seal so takes its records too, and the audit sees rows
of a segment that Redis does not know; in the table they would vouch for rows whose items came again."""

_LEDGER = {
    "segment": pa.string(),
    "chunk": pa.uint32(),
    "chunk_rows": pa.uint32(),
    "rows": pa.uint32(),
    "stored": pa.uint32(),
    "dead_lettered": pa.uint32(),
    "digest": pa.uint64(),
    "sealed_at": pa.int64(),
    "acked_at": pa.int64(),
    "min_timestamp": pa.int64(),
    "max_timestamp": pa.int64(),
}


def digest(rows: pa.Table) -> int:
    """The digest of decoded rows (schema ``columns.COLUMNS``), an unsigned 64-bit number; 0 for no rows."""
    if not rows.num_rows:
        return 0
    weights = rows["position"].to_numpy().astype(np.uint64) * np.uint64(2) + np.uint64(1)
    return int((row_words(rows) * weights).sum(dtype=np.uint64))


def row_words(rows: pa.Table) -> Words:
    """A number for each row (at least one) by its content; rows that differ have different ones but by rare chance."""
    total = rows["timestamp"].cast(pa.int64()).to_numpy().view(np.uint64) * np.uint64(_FACTORS["timestamp"])
    total += rows["value"].to_numpy().view(np.uint64) * np.uint64(_FACTORS["value"])
    for name in _TEXTS:
        column = _one(rows[name])
        hashes = _checksums(column.dictionary) * np.uint64(_FACTORS[name])
        if not hashes.any():
            continue
        of_rows = hashes[column.indices.to_numpy()] if len(hashes) > 1 else np.full(rows.num_rows, hashes[0])
        if name == "run_id":
            of_rows *= ~_has_tag(_one(rows["tags"]), "run_id", rows.num_rows)
        total += of_rows
    attempts = rows["attempt"].to_numpy()
    if attempts.any():
        total += attempts.astype(np.uint64) * np.uint64(_FACTORS["attempt"])
    total += _tag_hashes(_one(rows["tags"]), rows.num_rows)
    words: Words = total
    return words


@dataclass(frozen=True)
class Record:
    """One acknowledged chunk: what went where. Times in epoch milliseconds."""

    segment: str
    chunk: int
    chunk_rows: int
    rows: int
    stored: int
    dead_lettered: int
    digest: int
    sealed_at: int
    min_timestamp: int
    max_timestamp: int
    acked_at: int = 0


@dataclass(frozen=True)
class ChunkTally:
    """What the ledger keeps of a chunk's rows. Times in epoch milliseconds, minutes in epoch seconds, ascending."""

    digest: int
    min_timestamp: int
    max_timestamp: int
    minutes: list[int]

    @classmethod
    def of(cls, rows: pa.Table) -> ChunkTally:
        """Tally decoded rows (schema ``columns.COLUMNS``)."""
        if not rows.num_rows:
            return cls(0, 0, 0, [])
        stamps = rows["timestamp"].cast(pa.int64()).to_numpy()
        minutes: list[int] = (np.unique(stamps // 60_000) * 60).tolist()
        return cls(digest(rows), int(stamps.min()), int(stamps.max()), minutes)


def is_decoded_alike(segment: str) -> bool:
    """Whether the version that sealed a segment decodes items as this one does.

    If not, some rows of a chunk may have been stored by the other version in its own form: such a chunk is audited
    by its counts, and its digest is 0.
    """
    _, _, version = segment.partition(".")
    return version == str(DECODER_VERSION)


def record(chunk: Chunk, tally: ChunkTally, *, stored: int, dead_lettered: int) -> str:
    """A chunk's record as JSON; the ack appends its own time to it."""
    fields = asdict(
        Record(
            segment=chunk.segment,
            chunk=chunk.number,
            chunk_rows=chunk.chunk_rows,
            rows=stored + dead_lettered,
            stored=stored,
            dead_lettered=dead_lettered,
            digest=tally.digest if is_decoded_alike(chunk.segment) else 0,
            sealed_at=chunk.sealed_at_ms,
            min_timestamp=tally.min_timestamp,
            max_timestamp=tally.max_timestamp,
        )
    )
    del fields["acked_at"]
    return json.dumps(fields, separators=(",", ":"))


def pending_records(buffer: Buffer, most: int = 100_000) -> list[Record]:
    """Records of acknowledged chunks that are not in the ``ledger`` table yet, the oldest first."""
    return [record for text in reversed(buffer.acked_records(most)) if (record := _parse(text))]


def flush(buffer: Buffer, store: Store, *, settled_ms: int = SETTLED_MS) -> int:
    """Move the records of acknowledged chunks from Redis to the ``ledger`` table; the number of them.

    A record is removed from Redis only after its row stands; a crash in between writes the row again,
    and the table keeps one of both. What is no record, or one of a later version, is moved aside, and said.
    """
    moved = 0
    while True:
        now_ms = buffer.now_ms()
        settled = _settled(buffer.acked_records(FLUSH_RECORDS), now_ms, settled_ms)
        if not settled:
            return moved
        records = [asdict(record) for _, record in settled if record is not None]
        if records:
            columns = {name: pa.array([fields[name] for fields in records], kind) for name, kind in _LEDGER.items()}
            for name in ("sealed_at", "acked_at", "min_timestamp", "max_timestamp"):
                columns[name] = columns[name].cast(pa.timestamp("ms", tz="UTC"))
            columns["buffer"] = pa.array([buffer.key] * len(records), pa.string())
            for part in by_days(pa.table(columns), "sealed_at"):
                store.insert("ledger", part)
        failpoints.hit("ledger.after_insert")
        junk = [place for place, (_, record) in enumerate(settled) if record is None]
        buffer.drop_acked([text for text, _ in reversed(settled)], junk)
        if junk:
            _log.error(
                "entries that are no records of this version moved aside: another program or version wrote them",
                key=buffer.keys.acked,
                entries=len(junk),
                moved_to=buffer.keys.acked_junk,
            )
        moved += len(records)


def _settled(texts: Sequence[bytes], now_ms: int, settled_ms: int) -> list[tuple[bytes, Record | None]]:
    """What may leave Redis, the oldest first; None for what is no record. ``texts``: the newest first.

    They leave by their number from the oldest on, so the first that has to stay keeps all younger ones. The time of a
    clock that was ahead keeps none.
    """

    def may_leave(one: tuple[bytes, Record | None]) -> bool:
        record = one[1]
        return record is None or record.acked_at <= now_ms - settled_ms or record.acked_at > now_ms

    return list(takewhile(may_leave, ((text, _parse(text)) for text in reversed(texts))))


_LAST_MS = (1 << 32) * 1000
_LIMITS = {
    name: {pa.uint32(): 1 << 32, pa.uint64(): 1 << 64, pa.int64(): _LAST_MS}[kind]
    for name, kind in _LEDGER.items()
    if kind != pa.string()
}


def _parse(text: bytes) -> Record | None:
    """A record as the script of the ack wrote it; None for anything else."""
    fields, _, acked_at = text.rpartition(b" ")
    try:
        record = Record(**json.loads(fields), acked_at=int(acked_at))
        record.segment.encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    given = vars(record)
    is_whole = all(type(given[name]) is int and 0 <= given[name] < limit for name, limit in _LIMITS.items())
    return record if is_whole else None


def _one(column: pa.ChunkedArray) -> Any:
    from pipeline.decode.columns import one_array  # a compiler; those who only look at records never come here

    return column.chunk(0) if column.num_chunks == 1 else one_array(column.chunks, column.type)


def _has_tag(tags: pa.MapArray, name: str, count: int) -> npt.NDArray[np.bool_]:
    """Which rows have a tag of this name."""
    offsets = tags.offsets.to_numpy()
    matches = pc.equal(tags.keys.slice(offsets[0], offsets[-1] - offsets[0]), name).to_numpy(zero_copy_only=False)
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(matches)])
    found: npt.NDArray[np.bool_] = np.diff(running[offsets - offsets[0]]) > 0
    return found if len(found) else np.zeros(count, np.bool_)


def _tag_hashes(tags: pa.MapArray, count: int) -> Words:
    offsets = tags.offsets.to_numpy().astype(np.int64)
    names = tags.keys.slice(offsets[0], offsets[-1] - offsets[0])
    if not len(names):
        return np.zeros(count, np.uint64)
    # The CRC of no bytes is 0: a tag without a name would not count.
    unnamed = pc.equal(names, "").to_numpy(zero_copy_only=False).astype(np.uint64)
    name_hashes = (_checksums(names) + unnamed) * np.uint64(_TAG_NAME)
    text_hashes = _checksums(tags.items.slice(offsets[0], offsets[-1] - offsets[0])) * np.uint64(_TAG_VALUE)
    text_hashes += np.uint64(1)
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(name_hashes * text_hashes, dtype=np.uint64)])
    sums: Words = np.diff(running[offsets - offsets[0]])
    return sums


def _checksums(texts: pa.StringArray) -> Words:
    from pipeline.decode.checksums import checksums  # a compiler; those who only look at records never come here

    return checksums(texts)
