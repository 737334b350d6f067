"""Reads a chunk of items into Arrow columns without touching single rows in Python.

Compiled loops (``scan``) read every item they are certain of; all others go to the careful
``metric.decode``, one by one. Nothing is refused here: refusing is ``decode``'s alone, so a row
means the same on either way, which tests hold over any bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.decode import scan
from pipeline.decode.items import Items
from pipeline.metric import DIMENSIONS, FIELDS, RUN_FIELDS, Limits, Metric, Refusal, decode, is_attempt

Ints = npt.NDArray[np.int64]

MAX_JOINED_BYTES = 1 << 28
"""More than this is read in halves: Arrow's text offsets have 31 bits, and everything is copied once."""

TEXT = pa.dictionary(pa.int32(), pa.string())
TAGS = pa.map_(pa.string(), pa.string())
ATTEMPT = pa.uint16()
COLUMNS = pa.schema(
    [
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
        *(pa.field(name, TEXT) for name in DIMENSIONS),
        pa.field("value", pa.float64()),
        pa.field("tags", TAGS),
        pa.field("position", pa.uint32()),
        *(pa.field(name, ATTEMPT if name == "attempt" else TEXT) for name in RUN_FIELDS),
    ]
)
"""What ``decode_chunk`` returns: the columns of ``metrics`` that the item and its place determine."""


@dataclass(frozen=True)
class DecodedChunk:
    """A chunk, read: the accepted rows (schema ``COLUMNS``) and the refused positions with their reasons."""

    rows: pa.Table
    refusals: list[tuple[int, Refusal]]


def prepare() -> None:
    """Compile what numba does not have in its cache yet: some seconds, once after an installation."""
    item = b'{"timestamp":0,"metric_type":"duration","value":1,"tags":{"a":"b"}}'
    scan.split_replies(0, 0, 0, np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 0)
    scan.crc32(0, np.zeros(1, np.int64))
    decode_chunk([item], np.zeros(1, np.int64), 0, Limits())


def decode_chunk(items: Sequence[bytes], positions: Ints, sealed_at_ms: int, limits: Limits) -> DecodedChunk:
    """Read ``items`` (all of one segment); ``positions[i]`` is the place of ``items[i]`` in it.

    Same rows, same refusals and same reasons as ``metric.decode`` item by item.
    """
    if not len(items):
        return DecodedChunk(COLUMNS.empty_table(), [])
    items = Items.of(items)
    if items.ends[-1] - items.starts[0] > MAX_JOINED_BYTES and len(items) > 1:
        half = len(items) // 2
        newer = decode_chunk(items[:half], positions[:half], sealed_at_ms, limits)
        older = decode_chunk(items[half:], positions[half:], sealed_at_ms, limits)
        return DecodedChunk(joined([newer.rows, older.rows]), newer.refusals + older.refusals)
    rows, table = _scan(items, positions, sealed_at_ms, limits)
    if len(rows) == len(items):
        return DecodedChunk(table, [])
    rest = np.ones(len(items), np.bool_)
    rest[rows] = False
    careful, refusals = _read_carefully(items, np.flatnonzero(rest), positions, sealed_at_ms, limits)
    return DecodedChunk(joined([part for part in (table, careful) if part.num_rows]), refusals)


def _scan(items: Items, positions: Ints, sealed_at_ms: int, limits: Limits) -> tuple[Ints, pa.Table]:
    """The indexes of the items that the compiled loops are certain of, and their columns."""
    first = items.starts[0]
    # A copy: escapes are resolved in place, and later readers need an item as it was sent.
    buffer = items.data[first : items.ends[-1] + 1 + scan.PADDING].copy()
    starts, ends = items.starts - first, items.ends - first
    # An object of scalars with tags is two levels deep.
    eligible = (ends - starts <= limits.max_item_bytes) & (limits.max_depth >= 2)
    if buffer.max() >= 0x80 and not _is_utf8(buffer[: ends[-1]]):
        eligible &= ~np.logical_or.reduceat(buffer >= 0x80, starts)
    (
        rows, timestamps, values, inexact, value_starts, value_lengths,
        codes, entry_counts, entry_starts, entry_lengths, tag_counts, tag_codes, tag_starts, tag_lengths,
    ) = scan.scan_items(
        scan.address_of(buffer), starts, ends, eligible, scan.address_of(scan.NAMES),
        sealed_at_ms - limits.retention_ms, sealed_at_ms + limits.future_ms,
    )  # fmt: skip
    if not len(rows):
        return rows, COLUMNS.empty_table()
    if inexact.any():
        rounded = _texts(buffer, value_starts[inexact], value_lengths[inexact]).cast(pa.float64())
        values[inexact] = rounded.to_numpy()
    entries = [
        _texts(buffer, entry_starts[column, :count], entry_lengths[column, :count])
        for column, count in enumerate(entry_counts.tolist())
    ]
    texts = {
        name: pa.DictionaryArray.from_arrays(pa.array(codes[column]), entries[column])
        if len(entries[column])
        else _all_empty(len(rows))
        for column, name in enumerate(FIELDS)
    }
    attempts, is_number = _attempts(texts["attempt"])
    columns = [
        pa.array(timestamps).cast(pa.timestamp("ms", tz="UTC")),
        *(texts[name] for name in DIMENSIONS),
        pa.array(values),
        pa.MapArray.from_arrays(
            pa.array(np.concatenate([np.zeros(1, np.int32), np.cumsum(tag_counts, dtype=np.int32)])),
            entries[-1].take(pa.array(tag_codes)),
            _texts(buffer, tag_starts, tag_lengths),
        ),
        pa.array(positions[rows].astype(np.uint32)),
        *(attempts if name == "attempt" else texts[name] for name in RUN_FIELDS),
    ]
    table = pa.Table.from_arrays(columns, schema=COLUMNS)
    certain = np.isfinite(values) & is_number
    if not certain.all():
        return rows[certain], table.filter(pa.array(certain))
    return rows, table


def is_all_empty(column: pa.ChunkedArray) -> bool:
    """Whether no row of a run field has a value: such a column need not be sent."""
    if pa.types.is_dictionary(column.type):
        return all(len(chunk.dictionary) == 1 and chunk.dictionary[0].as_py() == "" for chunk in column.chunks)
    return not np.any(column.to_numpy())


def _all_empty(count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([""], pa.string()))


def _attempts(texts: pa.DictionaryArray) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The numbers of attempts (rows,), and which rows have one or none at all; the others are read carefully."""
    entries = texts.dictionary.to_pylist()
    valid = np.array([is_attempt(text) for text in entries], np.bool_)
    numbers = np.array([int(text or 0) if good else 0 for text, good in zip(entries, valid, strict=True)], np.uint16)
    codes = texts.indices.to_numpy()
    return pa.array(numbers[codes]), valid[codes]


def _texts(buffer: npt.NDArray[np.uint8], starts: Ints, lengths: Ints) -> pa.StringArray:
    offsets, texts = scan.gather(scan.address_of(buffer), starts, lengths)
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(texts))


def _is_utf8(buffer: npt.NDArray[np.uint8]) -> bool:
    try:
        buffer.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_carefully(
    items: Sequence[bytes], rows: Ints, positions: Ints, sealed_at_ms: int, limits: Limits
) -> tuple[pa.Table, list[tuple[int, Refusal]]]:
    metrics: list[Metric] = []
    kept: list[int] = []
    refusals: list[tuple[int, Refusal]] = []
    for row in rows.tolist():
        position = int(positions[row])
        metric = decode(items[row], sealed_at_ms, limits)
        if isinstance(metric, Refusal):
            refusals.append((position, metric))
        else:
            metrics.append(metric)
            kept.append(position)
    if not metrics:
        return COLUMNS.empty_table(), refusals
    columns = [
        pa.array([metric.timestamp_ms for metric in metrics], pa.int64()).cast(pa.timestamp("ms", tz="UTC")),
        *(numbered(getattr(metric, name) for metric in metrics) for name in DIMENSIONS),
        pa.array([metric.value for metric in metrics], pa.float64()),
        pa.array([list(metric.tags.items()) for metric in metrics], TAGS),
        pa.array(kept, pa.uint32()),
        *(
            pa.array([metric.attempt for metric in metrics], ATTEMPT)
            if name == "attempt"
            else numbered(getattr(metric, name) for metric in metrics)
            for name in RUN_FIELDS
        ),
    ]
    return pa.Table.from_arrays(columns, schema=COLUMNS), refusals


def numbered(texts: Iterable[str]) -> pa.DictionaryArray:
    """The texts, each different one once and a number for each row.

    By Python's table, whose hash has another seed in each process. Arrow's has none: a producer could send texts that
    all meet at one place of its table, where 100,000 of them took half a minute.
    """
    known: dict[str, int] = {}
    codes = np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(known), pa.string()))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table (schema ``COLUMNS``) of one chunk per column, so that an insert is one block."""
    if len(tables) == 1:
        return tables[0]
    columns = [
        one_array([part for table in tables for part in table[field.name].chunks], field.type) for field in COLUMNS
    ]
    return pa.Table.from_arrays(columns, schema=COLUMNS)


def one_array(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.Array:
    """The parts of a column in one piece; dictionaries become one."""
    if kind != TEXT or not parts:
        return pa.concat_arrays(parts) if parts else pa.array([], kind)
    merged = numbered(text for part in parts for text in part.dictionary.to_pylist())
    begins = np.cumsum([0, *(len(part.dictionary) for part in parts)])
    places = merged.indices.to_numpy()
    codes = [places[begin + part.indices.to_numpy()] for begin, part in zip(begins[:-1], parts, strict=True)]
    return pa.DictionaryArray.from_arrays(pa.array(np.concatenate(codes)), merged.dictionary)
