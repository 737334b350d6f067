"""The rollup job on the real engine, and what it promises about late rows, readers and kills."""

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import effort
from rollup_fakes import MemoryBuffer, MemoryStore, Row, raw_table, without_time

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.windows import roll_up, stamp
from pipeline.base import failpoints
from pipeline.base.config import RollupSettings
from pipeline.jobs import raw_rows as rawrows
from pipeline.jobs.rollup import TABLES, RollupJob, RollupReport
from pipeline.store.client import Store

SETTINGS = RollupSettings(delay_s=2, grace_s=120)
# Recent, or the table's TTL would take the rows away.
T0 = int(time.time()) // 300 * 300 - 7200


def write_raw(store: Store, rows: list[Row], segment: str = "s") -> None:
    """Rows as the drainer stores them."""
    count = len(rows)
    table = raw_table(rows)
    store.insert(
        "metrics",
        pa.table(
            {"timestamp": table.column("timestamp_ms").cast(pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC"))}
            | {name: table.column(name).dictionary_encode() for name in (*SERIES, "status")}
            | {
                "value": table.column("value"),
                "tags": pa.array([[]] * count, pa.map_(pa.string(), pa.string())),
                "segment": pa.array([segment] * count),
                "position": pa.array(range(count), pa.uint32()),
                "ingested_at": pa.array([T0 * 1000] * count, pa.timestamp("ms", "UTC")),
            }
        ),
    )


def final(store: Store, table: str) -> dict[tuple[Any, ...], Row]:
    """What a reader sees, by window and series."""
    rows = store.query(f"SELECT * FROM {table}").to_pylist()
    for row in rows:
        row["histogram"] = sorted(row["histogram"])
    return {tuple(row[name] for name in ("window_start", *SERIES)): row for row in rows}


def expected(rows: list[Row], width_s: int, now_s: int) -> dict[tuple[Any, ...], Row]:
    """The same computation over all raw rows."""
    made = stamp(roll_up(raw_table(rows), width_s), now_s * 1000, SETTINGS.grace_s).to_pylist()
    return {tuple(row[name] for name in ("window_start", *SERIES)): row for row in made}


def some_rows(rng: random.Random, count: int, span_s: int = 700) -> list[Row]:
    return [
        {
            "timestamp_ms": T0 * 1000 + rng.randrange(span_s * 1000),
            "metric_type": rng.choice(["duration", "lcp"]),
            "browser": rng.choice(["chrome", "firefox"]),
            "test_name": rng.choice(["login", "checkout"]),
            "status": rng.choice(["passed", "failed", "skipped"]),
            "value": rng.lognormvariate(7, 1),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", [0, *(pytest.param(one, marks=pytest.mark.thorough) for one in (1, 2))])
def test_on_the_real_engine_windows_equal_all_raw_rows_bit_for_bit(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Rows arriving in random chunks, late and out of order, two workers and outages: the same bits in the end."""
    monkeypatch.setattr(rawrows, "PIECE_ROWS", (40, 1_000_000, 7)[seed])
    rng = random.Random(seed)
    rows = some_rows(rng, 300)
    buffer = MemoryBuffer()
    workers = [RollupJob(store, [buffer], SETTINGS) for _ in range(2)]
    waiting, now_s = list(rows), T0
    while waiting:
        chunk, waiting = waiting[:60], waiting[60:]
        write_raw(store, chunk, segment=str(len(waiting)))
        buffer.touch(chunk)
        now_s += rng.randrange(30, 300)
        rng.choice(workers).run(now_s * 1000)
    now_s += 1000
    report = workers[0].run(now_s * 1000)
    assert buffer.minutes == {}
    assert report.dirty_minutes == 0
    for width_s, table in TABLES.items():
        assert without_time(final(store, table)) == without_time(expected(rows, width_s, now_s))


def test_a_window_too_large_for_memory_is_rolled_up_in_shards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of more rows than are held at once is read by shards of whole series and written by one insert."""
    monkeypatch.setattr(rawrows, "PIECE_ROWS", 11)
    rows = some_rows(random.Random(4), 100, span_s=60)
    write_raw(store, rows)
    buffer = MemoryBuffer()
    buffer.touch(rows)
    RollupJob(store, [buffer], SETTINGS).run((T0 + 500) * 1000)
    assert without_time(final(store, "metrics_1min")) == without_time(expected(rows, 60, T0 + 500))
    parts = store.rows(
        "SELECT count() FROM system.parts WHERE database = {database:String} AND table = 'metrics_1min'",
        {"database": store.database},
    )
    assert parts == [(1,)]


def test_a_reader_never_sees_two_revisions_of_a_window(store: Store) -> None:
    """While a window of 400 series is rewritten again and again, every read with FINAL finds one revision, whole."""
    rows = [
        {"timestamp_ms": T0 * 1000, "metric_type": "duration", "test_name": f"t{n}", "value": 1.0} for n in range(400)
    ]
    write_raw(store, rows)
    buffer, done, reads = MemoryBuffer(), threading.Event(), []

    def poll() -> None:
        with store.clone() as reader:
            while not done.is_set():
                reads.extend(
                    reader.rows(
                        "SELECT uniqExact(revision), count(), sum(samples) * 2 = max(revision) FROM metrics_1min"
                    )
                )

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for turn in range(effort(15, 25)):
            write_raw(store, rows[turn : turn + 1], segment=f"late{turn}")
            buffer.touch(rows)
            # A worker without memory each time, while the window is not final.
            RollupJob(store, [buffer], SETTINGS).run((T0 + 90) * 1000)
    finally:
        done.set()
        poller.join()
    seen = [read for read in reads if read[1]]
    assert len(seen) > 10
    assert set(seen) == {(1, 400, 1)}


def test_a_value_put_there_by_hand_that_is_no_number_stops_nothing(store: Store) -> None:
    """NaN and infinity count in no window; the rows beside them are rolled up."""
    rows = [{"timestamp_ms": T0 * 1000, "metric_type": "duration", "value": value} for value in (1.0, 3.0)]
    bad = [row | {"value": value} for row in rows for value in (math.nan, math.inf)]
    write_raw(store, rows + bad)
    buffer = MemoryBuffer()
    buffer.touch(rows)
    RollupJob(store, [buffer], SETTINGS).run((T0 + 500) * 1000)
    assert without_time(final(store, "metrics_1min")) == without_time(expected(rows, 60, T0 + 500))


def test_a_late_row_costs_its_own_windows() -> None:
    """Of an hour of settled windows one late row rewrites two, and reads the five minutes around it."""
    store, buffer = MemoryStore(), MemoryBuffer()
    store.raw = [
        {"timestamp_ms": (T0 + at) * 1000, "metric_type": "duration", "value": 1.0} for at in range(0, 3600, 10)
    ]
    buffer.touch(store.raw)
    job = RollupJob(store, [buffer], SETTINGS)
    first = job.run((T0 + 5000) * 1000)
    assert (first.windows_1min, first.windows_5min, first.forgotten_minutes) == (60, 12, 60)
    late = {"timestamp_ms": (T0 + 1805) * 1000, "metric_type": "duration", "value": 9.0}
    store.raw.append(late)
    buffer.touch([late])
    second = job.run((T0 + 6000) * 1000)
    assert second == RollupReport(
        windows_1min=1, windows_5min=1, raw_rows=31, written_rows=2, forgotten_minutes=1, dirty_minutes=0
    )
    row = next(row for row in store.final("metrics_1min").values() if row["window_start"] == T0 + 1800)
    assert (row["samples"], row["max"], row["revision"], row["is_final"]) == (7, 9.0, 15, True)


def test_a_run_without_news_reads_and_writes_nothing() -> None:
    """Minutes wait in the dirty set until both windows are final, and cost nothing while they wait."""
    store, buffer = MemoryStore(), MemoryBuffer()
    store.raw = [{"timestamp_ms": T0 * 1000, "metric_type": "duration", "value": 1.0}]
    buffer.touch(store.raw)
    job = RollupJob(store, [buffer], SETTINGS)
    history = []
    for second in (59, 61, 62, 63, 179, 180, 301, 302, 419, 420, 421):
        report = job.run((T0 + second) * 1000)
        history.append((second, report.windows_1min, report.windows_5min, report.raw_rows, report.forgotten_minutes))
    assert history == [
        (59, 0, 0, 0, 0),  # open
        (61, 0, 0, 0, 0),  # over, but delay_s has not passed
        (62, 1, 0, 1, 0),  # the minute is computed
        (63, 0, 0, 0, 0),
        (179, 0, 0, 0, 0),
        (180, 1, 0, 0, 0),  # it becomes final, without another look at the raw rows
        (301, 0, 0, 0, 0),
        (302, 0, 1, 1, 0),  # the five minutes
        (419, 0, 0, 0, 0),
        (420, 0, 1, 0, 1),  # final too: the minute is forgotten
        (421, 0, 0, 0, 0),
    ]


def test_rows_that_expired_in_part_never_replace_the_window_that_saw_them() -> None:
    """Fewer raw rows make a lower revision, by whichever process and however late."""
    store, buffer = MemoryStore(), MemoryBuffer()
    store.raw = [{"timestamp_ms": T0 * 1000 + at, "metric_type": "duration", "value": float(at)} for at in range(10)]
    buffer.touch(store.raw)
    RollupJob(store, [buffer], SETTINGS).run((T0 + 62) * 1000)
    before = without_time(store.final("metrics_1min"))
    del store.raw[3:]
    buffer.touch(store.raw)
    RollupJob(store, [buffer], SETTINGS).run((T0 + 9000) * 1000)
    assert without_time(store.final("metrics_1min")) == before


# Fixed windows of Apache Beam's transcripts (apache_beam/testing/data/trigger_transcripts.yaml of Beam 2.77; the
# scenario's name stands with each), told in our terms: an element's timestamp t is a row 6 t seconds after T0, so
# that their 10-second windows are our minutes; the watermark is the clock. First ("rows", timestamps) and
# ("clock", t) in turn, then what the windows hold, by their start in Beam's terms.
# Where we differ on purpose: fixed_drop_late_data_after_allowed_lateness drops 7, 8, 17 and 18 as too late; we
# accept whatever retention accepts, so those count.
BEAM: dict[str, tuple[list[tuple[str, Any]], dict[int, list[int]]]] = {
    "fixed_default": ([("rows", [1, 2, 3, 10, 11]), ("clock", 25)], {0: [1, 2, 3], 10: [10, 11]}),
    "fixed_default_late_data": (
        [("rows", [1, 2, 3, 10, 11, 25]), ("clock", 100), ("rows", [7]), ("clock", 101)],
        {0: [1, 2, 3, 7], 10: [10, 11], 20: [25]},
    ),
    "fixed_drop_late_data_after_allowed_lateness": (
        [
            *[("rows", [1, 2, 10, 11, 80, 81]), ("clock", 100)],
            *[("rows", [7, 8]), ("clock", 101), ("rows", [17, 18]), ("clock", 102), ("rows", [82]), ("clock", 103)],
        ],
        {0: [1, 2, 7, 8], 10: [10, 11, 17, 18], 80: [80, 81, 82]},
    ),
    "known_late_data_watermark": ([("clock", 5), ("rows", [2, 3, 7, 8]), ("clock", 11)], {0: [2, 3, 7, 8]}),
    "missing_output": ([("rows", [1, 2, 3]), ("clock", 100), ("clock", 200)], {0: [1, 2, 3]}),
}


@pytest.mark.parametrize("scenario", BEAM)
def test_late_data_lands_where_beams_fixed_windows_put_it(scenario: str) -> None:
    """Beam's accumulating fixed windows hold the same elements after every late arrival."""
    events, windows = BEAM[scenario]
    store, buffer = MemoryStore(), MemoryBuffer()
    job = RollupJob(store, [buffer], SETTINGS)
    for kind, at in events:
        if kind == "clock":
            job.run((T0 + 6 * at) * 1000)
            continue
        rows = [{"timestamp_ms": (T0 + 6 * t) * 1000, "metric_type": "lcp", "value": float(t)} for t in at]
        store.raw += rows
        buffer.touch(rows)
    found = {row["window_start"]: row for row in store.final("metrics_1min").values()}
    assert {start: (row["samples"], row["sum"], row["max"]) for start, row in found.items()} == {
        T0 + 6 * start: (len(held), float(sum(held)), float(max(held))) for start, held in windows.items()
    }


@pytest.mark.parametrize(
    "failpoint",
    [
        "rollup.after_insert",
        pytest.param("rollup.before_insert", marks=pytest.mark.long),
        pytest.param("rollup.after_insert:2", marks=pytest.mark.long),
        pytest.param("rollup.before_forget", marks=pytest.mark.long),
    ],
)
def test_kill_9_in_the_middle_of_a_run_is_healed_by_the_next(tmp_path: Path, failpoint: str) -> None:
    """Killed at that place, another process finds the minute still dirty and ends in the same windows."""

    def run(step: str, **environment: str) -> int:
        command = [sys.executable, str(Path(__file__).with_name("rollup_process.py")), step, str(tmp_path), str(T0)]
        found = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(command, env=os.environ | found | environment, timeout=120).returncode

    assert run("store and roll up", **{failpoints.VARIABLE: failpoint}) == -signal.SIGKILL
    assert (tmp_path / "dirty").read_text() == str(T0)
    assert run("roll up and check") == 0
    assert (tmp_path / "dirty").read_text() == ""
