"""The ledger: what each acknowledged chunk put where, and a digest of the rows as the drainer decoded them.

The digest is a sum over rows, so it does not depend on their order, and every row is weighted
by its position, so that a row deleted, doubled, altered or swapped with another changes it. It is
computed here from Arrow columns and in ClickHouse by ``DIGEST_SQL``; both must agree, which is how
``audit`` knows that what was decoded is what is stored.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ingest.buffer import Chunk
from pipeline.ingest.metric import DIMENSIONS

Words = npt.NDArray[np.uint64]

# Odd 64-bit constants (the golden ratio's fraction, multiplied on): odd so that no information is
# lost modulo 2^64, unrelated so that values cannot trade places between columns.
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_FACTORS = {
    name: (_GOLDEN * (2 * index + 1)) & _MASK | 1 for index, name in enumerate(("timestamp", "value", *DIMENSIONS))
}
_TAG_NAME, _TAG_VALUE = ((_GOLDEN * k) & _MASK | 1 for k in (101, 103))

DIGEST_SQL = (
    "sum((toUInt64(toUnixTimestamp64Milli(timestamp)) * {timestamp} + reinterpretAsUInt64(value) * {value}".format(
        **{name: f"toUInt64('{_FACTORS[name]}')" for name in ("timestamp", "value")}
    )
    + "".join(f" + toUInt64(CRC32({name})) * toUInt64('{_FACTORS[name]}')" for name in DIMENSIONS)
    + " + arraySum(arrayMap((name, text) -> "
    f"toUInt64(CRC32(name)) * toUInt64('{_TAG_NAME}') * (toUInt64(CRC32(text)) * toUInt64('{_TAG_VALUE}') + 1), "
    "mapKeys(tags), mapValues(tags)))"
    ") * (2 * toUInt64(position) + 1))"
)
"""ClickHouse's side of ``digest``: an aggregate over rows of ``metrics``."""


def digest(rows: pa.Table) -> int:
    """The digest of decoded rows (schema ``columns.COLUMNS``), an unsigned 64-bit number; 0 for no rows."""
    if not rows.num_rows:
        return 0
    total = rows["timestamp"].cast(pa.int64()).to_numpy().view(np.uint64) * np.uint64(_FACTORS["timestamp"])
    total += rows["value"].to_numpy().view(np.uint64) * np.uint64(_FACTORS["value"])
    for name in DIMENSIONS:
        column = _one(rows[name])
        hashes = _crc32(column.dictionary) * np.uint64(_FACTORS[name])
        total += hashes[column.indices.to_numpy()] if len(hashes) > 1 else hashes[0]
    total += _tag_hashes(_one(rows["tags"]), rows.num_rows)
    total *= rows["position"].to_numpy().astype(np.uint64) * np.uint64(2) + np.uint64(1)
    return int(total.sum(dtype=np.uint64))


def record(chunk: Chunk, rows: pa.Table, dead_lettered: int) -> str:
    """A chunk's line for the ``ledger`` table, as JSON; the ack appends its own time to it."""
    stamps = rows["timestamp"].cast(pa.int64()).to_numpy() if rows.num_rows else np.zeros(1, np.int64)
    return json.dumps(
        {
            "segment": chunk.segment,
            "chunk": chunk.number,
            "chunk_rows": chunk.chunk_rows,
            "rows": chunk.rows,
            "stored": rows.num_rows,
            "dead_lettered": dead_lettered,
            "digest": digest(rows),
            "sealed_at": chunk.sealed_at_ms,
            "min_timestamp": int(stamps.min()),
            "max_timestamp": int(stamps.max()),
        },
        separators=(",", ":"),
    )


def _one(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()


def _crc32(texts: pa.Array) -> Words:
    return np.fromiter((zlib.crc32(text.encode()) for text in texts.to_pylist()), np.uint64, len(texts))


def _tag_hashes(tags: pa.MapArray, count: int) -> Words:
    offsets = tags.offsets.to_numpy().astype(np.int64)
    names = tags.keys.slice(offsets[0], offsets[-1] - offsets[0]).dictionary_encode()
    texts = tags.items.slice(offsets[0], offsets[-1] - offsets[0]).dictionary_encode()
    if not len(names):
        return np.zeros(count, np.uint64)
    name_hashes = (_crc32(names.dictionary) * np.uint64(_TAG_NAME))[names.indices.to_numpy()]
    text_hashes = (_crc32(texts.dictionary) * np.uint64(_TAG_VALUE) + np.uint64(1))[texts.indices.to_numpy()]
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(name_hashes * text_hashes, dtype=np.uint64)])
    sums: Words = np.diff(running[offsets - offsets[0]])
    return sums
