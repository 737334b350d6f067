"""``pipeline bench rollup``: what a window costs, beside ClickHouse's own percentiles over the same rows.

Three parts, the first two each the best and the median of a few rounds:

- ``numpy``: values in 50,000 groups, five exact percentiles of each, on one core, nothing but arrays.
- ``minute``: one minute's raw rows in a private embedded store, rolled up end to end by the job itself: read,
  told apart by series, sorted, summed, put into histograms, written. In the same round ClickHouse computes
  ``quantilesExactInclusive`` and the counts over the same rows, and writes nothing. Told are the time by the clock and
  what all threads of the process spent, the engine's too, since it runs in it.
- ``vitals``: four times as many Web Vitals in one hour, and the job that publishes the rolling hour: how long it
  takes, and how much memory the process (the engine is in it) has at its peak above what it had before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.histogram import grouped_histograms
from pipeline.analyse.quantiles import (
    QUANTILES,
    Float64Array,
    IndexArray,
    group_sorted,
    grouped_quantiles,
    grouped_sums,
)
from pipeline.base import config
from pipeline.bench.drain import Bench, private
from pipeline.jobs.raw_rows import FRAME_S, MINUTE_S
from pipeline.jobs.rollup import TABLES, RollupJob
from pipeline.jobs.vitals import VitalsJob
from pipeline.store.arrow import AS_DICTIONARIES
from pipeline.store.client import Store

GROUPS = 50_000
ROUNDS = 5
VITALS_SHARE = 4
"""So many times more Web Vitals stand in the hour than rows in the minute."""

_BY_CLICKHOUSE = (
    f"""
SELECT toStartOfMinute(timestamp) AS minute, {", ".join(SERIES)},
    count(), countIf(status = 'passed'), sum(value), min(value), max(value),
    quantilesExactInclusive(0.5, 0.75, 0.9, 0.95, 0.99)(value)
FROM metrics WHERE timestamp >= toDateTime({{start:UInt32}}, 'UTC') AND timestamp < toDateTime({{end:UInt32}}, 'UTC')
GROUP BY ALL
"""
    + AS_DICTIONARIES
)


def run(settings: config.Settings, rows: int, say: Callable[[str], None], rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure with ``rows`` values; milliseconds unless the key says otherwise."""
    say(f"{rows:,} values in {GROUPS:,} groups, five exact percentiles")
    result: dict[str, Any] = {"rows": rows, "groups": GROUPS, "numpy": _numpy(rows, rounds)}
    with private(settings) as bench:
        say(f"an hour of {VITALS_SHARE * rows:,} Web Vitals")
        result["vitals"] = _vitals(bench, rows)
    say(f"a minute of {rows:,} rows, end to end")
    with private(settings) as bench:
        result["minute"] = _minute(bench.store, bench.settings.rollups, rows, rounds)
    return result


def _numpy(rows: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    kinds = {
        "general floats": rng.lognormal(7, 1, rows),
        "whole milliseconds": np.rint(rng.lognormal(7, 1, rows)),
    }
    ids = rng.integers(0, GROUPS, rows)
    told: dict[str, Any] = {}
    for kind, values in kinds.items():
        percentiles = _timed(partial(_percentiles, values, ids), rounds)
        told |= {f"percentiles_ms, {kind}": min(percentiles), f"percentiles_ms_median, {kind}": _median(percentiles)}
    grouped = group_sorted(kinds["general floats"], ids, GROUPS)
    told["exact_sums_ms"] = min(_timed(lambda: grouped_sums(grouped), rounds))
    told["histograms_ms"] = min(_timed(lambda: grouped_histograms(grouped), rounds))
    told["equal_to_numpy_quantile"] = _equals_numpy(kinds["general floats"], ids)
    return told


def _percentiles(values: Float64Array, ids: IndexArray) -> Float64Array:
    return grouped_quantiles(group_sorted(values, ids, GROUPS))


def _equals_numpy(values: Float64Array, ids: IndexArray) -> bool:
    """Every fiftieth group against ``np.quantile``, bit for bit."""
    found = _percentiles(values, ids)
    checked = range(0, GROUPS, 50)
    return all(
        np.array_equal(found[group], np.quantile(values[ids == group], QUANTILES))
        for group in checked
        if (ids == group).any()
    )


@dataclass
class _OneMinute:
    """A buffer with one dirty minute that is never forgotten."""

    minute: int

    def dirty_minutes(self) -> dict[int, int]:
        return {self.minute: 1}

    def forget_minutes(self, counters: Mapping[int, int]) -> None:
        pass


def _minute(store: Store, settings: config.RollupSettings, rows: int, rounds: int) -> dict[str, Any]:
    minute = int(time.time()) // FRAME_S * FRAME_S - 2 * FRAME_S
    store.insert("metrics", _raw(rows, minute))
    span = {"start": minute, "end": minute + MINUTE_S}
    over_ms = (minute + MINUTE_S) * 1000 + int(settings.delay_s * 1000)
    final_ms = (minute + FRAME_S) * 1000 + int(settings.grace_s * 1000)
    works: dict[str, Callable[[], Any]] = {
        "clickhouse": lambda: store.query(_BY_CLICKHOUSE, span),
        # A job without memory each time: nothing is saved between the rounds.
        "one_window": lambda: RollupJob(store, [_OneMinute(minute)], settings).run(over_ms),
        "both_windows": lambda: RollupJob(store, [_OneMinute(minute)], settings).run(final_ms),
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            spent[name].append(_spent(work))
    told: dict[str, Any] = {}
    for name, times in spent.items():
        clock, cpu = [took for took, _ in times], [used for _, used in times]
        told |= {f"{name}_ms": min(clock), f"{name}_ms_median": _median(clock), f"{name}_cpu_ms_median": _median(cpu)}
    for name in ("one_window", "both_windows"):
        for kind in ("ms", "cpu_ms"):
            ratio = told[f"{name}_{kind}_median"] / told[f"clickhouse_{kind}_median"]
            told[f"{name}_to_clickhouse, {kind.removesuffix('ms').strip('_') or 'clock'}"] = round(ratio, 2)
    told["cpu_us_per_row, both windows"] = round(told["both_windows_cpu_ms_median"] * 1000 / rows, 2)
    told["window_rows"] = store.rows(f"SELECT count() FROM {TABLES[MINUTE_S]}")[0][0]
    told["window_bytes_per_raw_row"] = round(_bytes_on_disk(store, TABLES[MINUTE_S]) / rows, 1)
    return told


def _vitals(bench: Bench, rows: int) -> dict[str, Any]:
    now_s = int(time.time())
    chance = np.random.default_rng(3)
    kinds = pa.array(["lcp", "inp", "cls", "fcp", "ttfb"])
    piece = min(rows, 100_000)  # small ones, so that making them leaves no memory behind
    for number in range(VITALS_SHARE * rows // piece):
        spread = pa.array((now_s - chance.integers(60, 3500, piece)) * 1000, pa.timestamp("ms", "UTC"))
        types = pa.DictionaryArray.from_arrays(np.arange(piece) % 5, kinds)
        raw = _raw(piece, now_s).set_column(0, "timestamp", spread).set_column(1, "metric_type", types)
        place = raw.column_names.index("segment")
        bench.store.insert("metrics", raw.set_column(place, "segment", pa.array([f"vitals-{number}"] * piece)))
    job = VitalsJob(bench.store, bench.link.database("metrics"), bench.settings)
    before_mb = memory_mb("VmRSS", forget_peak=True)
    took = _timed(lambda: job.run(now_s * 1000), 1)
    return {
        "rows": VITALS_SHARE * rows // piece * piece,
        "rolling_hour_ms": took[0],
        "before_mb": before_mb,
        "peak_above_mb": memory_mb("VmHWM") - before_mb,
    }


def memory_mb(what: str, *, forget_peak: bool = False) -> int:
    """A line of Linux's ``/proc/self/status``, 0 elsewhere. ``forget_peak``: ``VmHWM`` begins at what is held now."""
    try:
        if forget_peak:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(what)), 0)


def _raw(rows: int, minute: int) -> pa.Table:
    """A minute of realistic rows: 50,000 series of 5,000 tests in 50 suites, two metric types, five browsers."""
    rng = np.random.default_rng(2)
    series = rng.integers(0, GROUPS, rows)
    test, kind = np.divmod(series, 10)
    texts = {
        "metric_type": (kind % 2, ["duration", "lcp"]),
        "environment": (kind // 2 % 3, ["production", "staging", "testing"]),
        "browser": (kind % 5, ["chrome", "edge", "firefox", "safari", "webkit"]),
        "test_suite": (test % 50, [f"suite-{n:02}" for n in range(50)]),
        "test_id": (test, [f"auth-{n:04}" for n in range(GROUPS // 10)]),
        "test_name": (test, [f"login flow {n}" for n in range(GROUPS // 10)]),
        "page": (test % 100, [f"/page/{n}" for n in range(100)]),
        "endpoint": (test * 0, [""]),
        "node": (test % 8, [f"worker-{n}" for n in range(8)]),
        "status": (rng.integers(0, 4, rows), ["passed", "flaky", "failed", "skipped"]),
        "segment": (test * 0, ["bench"]),
    }
    made = np.full(rows, minute * 1000)
    return pa.table(
        {"timestamp": pa.array(made + rng.integers(0, MINUTE_S * 1000, rows), pa.timestamp("ms", "UTC"))}
        | {
            name: pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words))
            for name, (codes, words) in texts.items()
        }
        | {
            "value": np.round(rng.lognormal(7, 1, rows), 3),
            "tags": pa.MapArray.from_arrays(
                pa.array(np.zeros(rows + 1, np.int32)), pa.array([], pa.string()), pa.array([], pa.string())
            ),
            "position": np.arange(rows, dtype=np.uint32),
            "ingested_at": pa.array(made, pa.timestamp("ms", "UTC")),
        }
    )


def _bytes_on_disk(store: Store, table: str) -> int:
    store.command(f"OPTIMIZE TABLE {table} FINAL")
    found = store.rows(
        "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = {database:String}"
        " AND table = {table:String}",
        {"database": store.database, "table": table},
    )
    return int(found[0][0])


def _spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds by the clock, and of the processor for the whole process."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return (
        round((time.perf_counter() - began) * 1000, 1),
        round((time.process_time() - began_cpu) * 1000, 1),
    )


def _timed(work: Callable[[], Any], rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        took.append(round((time.perf_counter() - begun) * 1000, 1))
    return took


def _median(times: list[float]) -> float:
    return round(statistics.median(times), 1)
