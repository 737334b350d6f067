"""Benchmarks run through on small numbers; their figures are for a quiet machine."""

import time

import numpy as np

from pipeline.base.config import Settings
from pipeline.bench import client, collect, drain, run_columns
from pipeline.buffer.chunk import Chunk
from pipeline.decode.columns import decode_chunk
from pipeline.deliver.delivery import identified
from pipeline.metric import RUN_FIELDS, Limits
from pipeline.store.client import Store


def test_every_item_of_every_mix_is_what_it_says() -> None:
    """Nothing of a mix is refused but what is cut off on purpose; the third fills the columns of runs."""
    now_ms = time.time_ns() // 1_000_000 + 1_000
    for mix, make in drain.MIXES.items():
        decoded = decode_chunk(make(2_000, 1), np.arange(2_000), now_ms, Limits())
        assert len(decoded.refusals) == (2 if mix == "full" else 0)
        filled = {name for name in RUN_FIELDS if set(decoded.rows[name].to_pylist()) - {"", 0}}
        assert filled == (set(RUN_FIELDS) if mix == "attempts" else set())


def test_the_columns_of_runs_are_measured_against_a_table_without_them(store: Store) -> None:
    """Bytes and CPU a row of both are told, and nothing of it stays behind."""
    before = store.rows("SHOW TABLES")
    rows = 20_000
    decoded = decode_chunk(drain.plain_items(rows, 1), np.arange(rows), time.time_ns() // 1_000_000 + 1_000, Limits())
    table = identified(decoded.rows, Chunk("s", 0, 0, rows, rows, rows, 0, 1, False))
    told = run_columns.measure(store, [table], 1, lambda _: None)
    assert told["bytes_per_row_without"] > 0 and abs(told["bytes_more"]) < 1
    assert told["insert_cpu_us_per_row"] > 0
    assert store.rows("SHOW TABLES") == before


def test_the_client_s_benchmark_counts_what_arrived() -> None:
    """Every metric that it pushed, alone and in lists, is in the buffer; a caller's cost and both rates are told."""
    told = client.run(Settings(), 3_000, lambda _: None)
    assert told["buffered"] == 2 * 3_000 + 400 * 501
    assert 0 < told["caller_us_min"] <= told["caller_us_median"]
    assert min(told["rows_per_s"], told["many_rows_per_s"]) > 0


def test_the_collectors_benchmark_sees_every_key() -> None:
    """All keys of the platform's shape, foreign ones among them, without trouble."""
    told = collect.run(Settings(), 2_000, lambda _: None)
    assert told["keys"] >= 2_000
    assert told["trouble"] == []
    # Six numbers of each page's performance, and the gauges.
    assert told["items"] >= 5 * 20
    assert told["push_p99_ms"] > 0
