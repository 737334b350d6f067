"""Fuzz: whatever lies in the list ends in ClickHouse as the careful reading of its bytes says, or as a dead letter."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import effort
from drain_parts import assert_books_agree, buffer_on, drain_store, drainer_on, push, running
from items import Maker, metric

from pipeline.buffer.buffer import Buffer
from pipeline.deliver import ledger
from pipeline.deliver.dead_letters import MAX_PAYLOAD_BYTES
from pipeline.metric import DIMENSIONS, Limits, Reason, Refusal, decode
from pipeline.store.client import Store

REASONS = set(get_args(Reason)) - {"refused by ClickHouse"}
TAGS = pa.map_(pa.string(), pa.string())
METRICS = (
    "SELECT position, toUnixTimestamp64Milli(timestamp) AS timestamp_ms, reinterpretAsInt64(value) AS value_bits, "
    f"{', '.join(DIMENSIONS)}, mapSort(tags) AS tags FROM metrics WHERE segment = {{segment:String}} ORDER BY position"
)
LETTERS = (
    "SELECT position, toUnixTimestamp64Milli(refused_at) AS refused_at_ms, reason, detail, payload, payload_bytes, "
    "buffer FROM dead_letters WHERE segment = {segment:String} ORDER BY position"
)
HUGE = (MAX_PAYLOAD_BYTES - 1, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, 2 * MAX_PAYLOAD_BYTES)
SURE = (
    *(b"no JSON", b"[]", b"\xff", b"[" * 100, b'{"value":1}', metric(0, "true"), metric(0, '"now"'), metric(0, "1")),
    *(metric(0, "99999999999"), metric(0, "1700000000").replace(b"1.5", b"1e999")),
)
"""One item for every reason but the size: the others are a matter of chance."""


@pytest.fixture
def store(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables in this process's engine."""
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


@pytest.mark.parametrize("seed", effort([1], [1, 2]))
def test_every_item_ends_as_its_careful_reading_says(seed: int, redis_url: str, store: Store) -> None:
    """10,000 items, pushed while the drainer drains: rows, refusals, payloads and books to the bit and byte."""
    assert_all_accounted_for(seed, 10_000, redis_url, store, batch_rows=700, sent_at_once=500)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_million_items_end_as_their_careful_reading_says(seed: int, redis_url: str, store: Store) -> None:
    """The same for ten times 100,000 items, in chunks as large as a service's."""
    assert_all_accounted_for(seed, 100_000, redis_url, store, batch_rows=50_000, sent_at_once=1_000)


def assert_all_accounted_for(
    seed: int, count: int, redis_url: str, store: Store, *, batch_rows: int, sent_at_once: int
) -> None:
    items = stream(seed, count)
    buffer = buffer_on(redis_url)
    # Most of a chunk may be bad here, which a drainer otherwise takes for a mistake in the schema.
    drainer = drainer_on(buffer, store, batch_rows=batch_rows, max_bad_share=1.0)
    with running(drainer):
        for start in range(0, count, sent_at_once):
            push(buffer.client, items[start : start + sent_at_once])
    drainer.drain_until_empty()
    assert_books_agree(buffer, store)
    refused: set[str] = set()
    accepted = end = 0
    for segment, sealed_at_ms, rows in segments_of(buffer):
        start, end = end, end + rows
        metrics, letters = careful_reading(items[start:end], sealed_at_ms, buffer.key)
        assert_same(metrics, store.query(METRICS, {"segment": segment}), items[start:end])
        assert_same(letters, store.query(LETTERS, {"segment": segment}), items[start:end])
        refused |= set(letters["reason"].to_pylist())
        accepted += metrics.num_rows
    assert end == count
    assert refused == REASONS
    assert count / 3 < accepted < count * 9 / 10, "a fuzz of hardly any good or hardly any bad items shows little"


def stream(seed: int, count: int) -> list[bytes]:
    """``count`` items, the oldest first, some longer than a dead letter keeps; every reason to refuse one occurs."""
    chance = Random(seed)
    items = Maker(chance, now_ms=time.time_ns() // 1_000_000).stream(count)
    huge = [b'{"note":"%s"}' % chance.randbytes(size - len('{"note":""}')) for size in HUGE]
    placed = [*huge, *SURE]
    for at, item in zip(chance.sample(range(count), len(placed)), placed, strict=True):
        items[at] = item
    return items


def segments_of(buffer: Buffer) -> list[tuple[str, int, int]]:
    """Name, sealing time and rows of every segment, in the order of sealing: each holds what came after the last."""
    found: dict[str, tuple[int, int]] = {}
    for record in ledger.pending_records(buffer):
        found[record.segment] = (record.sealed_at, found.get(record.segment, (0, 0))[1] + record.rows)
    return [(name, sealed_at, rows) for name, (sealed_at, rows) in sorted(found.items(), key=lambda one: one[1][0])]


def careful_reading(items: Sequence[bytes], sealed_at_ms: int, buffer_key: str) -> tuple[pa.Table, pa.Table]:
    """What ``metrics`` and ``dead_letters`` are to hold of a segment's items, as the queries above show it."""
    limits = Limits()
    read = [decode(item, sealed_at_ms, limits) for item in items]
    metrics = [(position, one) for position, one in enumerate(read) if not isinstance(one, Refusal)]
    letters = [(position, one) for position, one in enumerate(read) if isinstance(one, Refusal)]
    payloads = [items[position] for position, _ in letters]
    return (
        pa.table(
            {
                "position": pa.array([position for position, _ in metrics], pa.uint32()),
                "timestamp_ms": pa.array([one.timestamp_ms for _, one in metrics], pa.int64()),
                "value_bits": np.array([one.value for _, one in metrics], np.float64).view(np.int64),
                **{name: pa.array([getattr(one, name) for _, one in metrics], pa.string()) for name in DIMENSIONS},
                "tags": pa.array([sorted(one.tags.items()) for _, one in metrics], TAGS),
            }
        ),
        pa.table(
            {
                "position": pa.array([position for position, _ in letters], pa.uint32()),
                "refused_at_ms": pa.array([sealed_at_ms] * len(letters), pa.int64()),
                "reason": pa.array([one.reason for _, one in letters], pa.string()),
                "detail": pa.array([one.detail for _, one in letters], pa.string()),
                "payload": pa.array([payload[:MAX_PAYLOAD_BYTES] for payload in payloads], pa.binary()),
                "payload_bytes": pa.array([len(payload) for payload in payloads], pa.uint32()),
                "buffer": pa.array([buffer_key] * len(letters), pa.string()),
            }
        ),
    )


def assert_same(wanted: pa.Table, found: pa.Table, items: Sequence[bytes]) -> None:
    """Column by column; the first item that differs is shown."""
    assert found["position"].to_pylist() == wanted["position"].to_pylist()
    for name in wanted.column_names:
        one, other = plain(wanted[name]), plain(found[name])
        if one.equals(other):
            continue
        at = next(row for row in range(len(one)) if one[row] != other[row])
        item = items[wanted["position"][at].as_py()]
        raise AssertionError(f"{name}: {other[at].as_py()!r} instead of {one[at].as_py()!r} of {item[:2_000]!r}")


def plain(column: pa.ChunkedArray) -> Any:
    """One array; maps as lists of pairs, whose names of fields and nullability do not count."""
    joined = column.combine_chunks()
    if pa.types.is_map(joined.type):
        return pa.MapArray.from_arrays(
            joined.offsets, pc.cast(joined.keys, pa.string()), pc.cast(joined.items, pa.string())
        )
    return joined.cast(pa.binary()) if pa.types.is_string(joined.type) else joined
