"""Hours and days equal the windows and the raw rows they are made of, late ones and kills included."""

import random
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from conftest import effort
from rollup_fakes import MemoryBuffer, Row, raw_table
from test_rollup import SETTINGS, write_raw

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.windows import roll_up
from pipeline.base import failpoints
from pipeline.base.config import Settings
from pipeline.jobs.coarser import COARSE_TABLES, DAY_S, HOUR_S, PASS_EVERY_MS, CoarserJob, FillReport
from pipeline.jobs.coarser_check import wrong_spans
from pipeline.jobs.rebuild import rebuild
from pipeline.jobs.rollup import RollupJob
from pipeline.jobs.vitals import VitalsJob
from pipeline.store.client import Store
from pipeline.store.migrate import migrate, migrations

TODAY = int(time.time()) // DAY_S * DAY_S
FIRST = TODAY - DAY_S
SPAN_S = DAY_S + 5 * HOUR_S
NOW_S = FIRST + SPAN_S

COUNTS = ("samples", "total", "passed", "failed", "flaky", "retried")


def some_rows(rng: random.Random, count: int) -> list[Row]:
    """Rows of a day and five hours, most of them in a few hours; some attempts were retried."""
    hours = [rng.randrange(SPAN_S // HOUR_S) for _ in range(3)] + [SPAN_S // HOUR_S - 1]
    return [
        {
            "timestamp_ms": (FIRST + rng.choice(hours) * HOUR_S) * 1000 + rng.randrange(HOUR_S * 1000),
            "metric_type": rng.choice(["duration", "Duration", "lcp", "queue_depth"]),
            "environment": "staging",
            "browser": rng.choice(["chrome", "firefox"]),
            "test_suite": rng.choice(["auth", "shop"]),
            "test_id": rng.choice(["t1", "t2"]),
            "page": "/cart",
            "status": rng.choice(["passed", "failed", "skipped", "retried", "flaky"]),
            "value": rng.lognormvariate(7, 1),
        }
        for _ in range(count)
    ]


def a_job(store: Store, settings: Settings, buffer: MemoryBuffer) -> RollupJob:
    vitals = VitalsJob(store, cast(Any, None), settings)
    return RollupJob(store, [buffer], SETTINGS, vitals=vitals, coarser=CoarserJob(store, SETTINGS.delay_s))


def merged(store: Store, table: str, keys: tuple[str, ...], sums: tuple[str, ...], width_s: int, only: str) -> Any:
    """Everything of ``table`` that can be added up, by span and key."""
    chosen = ", ".join(f"sum(w.{name})" for name in sums)
    return store.rows(
        f"SELECT intDiv(toUnixTimestamp(w.window_start), {width_s}) AS span, {', '.join(f'w.{key}' for key in keys)}, "
        f"{chosen}, sumMap(w.histogram) FROM {table} AS w WHERE {only} "
        f"GROUP BY span, {', '.join(f'w.{key}' for key in keys)} ORDER BY ALL"
    )


def hold_levels_to_windows(store: Store, until_s: int) -> None:
    """Every hour and day that is over is there, and is the sum of its windows."""
    for coarse in COARSE_TABLES:
        sums = ("samples", "good", "poor") if "vital" in coarse.keys else COUNTS
        base = "web_vitals" if "vital" in coarse.keys else "metrics_5min"
        over = f"intDiv(toUnixTimestamp(w.window_start), {coarse.width_s}) < {until_s // coarse.width_s}"
        wanted = merged(store, base, coarse.keys, sums, coarse.width_s, f"{over} AND {coarse.only}")
        assert merged(store, coarse.table, coarse.keys, sums, coarse.width_s, "1") == wanted, coarse.table
        assert wanted


def hold_to_raw(store: Store, rows: list[Row], width_s: int, table: str, until_s: int) -> None:
    """Counts, extremes and histograms are those of the raw rows; sums but for their last bits."""
    made = {
        tuple(row[name] for name in ("window_start", *SERIES)): row
        for row in roll_up(raw_table(rows), width_s).rows.to_pylist()
        if row["window_start"] + width_s <= until_s
    }
    found = store.query(f"SELECT * FROM {table}").to_pylist()
    assert len(found) == len(made)
    for row in found:
        wanted = made[tuple(row[name] for name in ("window_start", *SERIES))]
        assert [row[name] for name in COUNTS] == [wanted[name] for name in COUNTS]
        assert sorted(row["histogram"]) == sorted(wanted["histogram"])
        for name in ("sum", "avg", "min", "max"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-12, nan_ok=True)
        assert row["is_final"]


def test_hours_and_days_are_the_sum_of_their_rows(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows late by days, jobs that die at any insert: in the end every coarse is what windows and raw rows give."""
    rng = random.Random(1)
    rows = some_rows(rng, 160)
    buffer = MemoryBuffer()
    job = a_job(store, settings, buffer)
    now_s = FIRST
    for turn in range(4):
        chunk = rows[turn * 40 : turn * 40 + 40]
        write_raw(store, chunk, segment=str(turn))
        buffer.touch(chunk)
        now_s += SPAN_S // 3
        place = rng.choice(["coarser.before_insert", "coarser.after_insert"])
        monkeypatch.setenv(failpoints.VARIABLE, f"{place}:{rng.randrange(1, 6)}:raise")
        failpoints.reset()
        try:
            job.run(now_s * 1000)
        except failpoints.Injected:
            job = a_job(store, settings, buffer)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    job.run((NOW_S + 1000) * 1000)
    assert buffer.minutes == {}
    hold_levels_to_windows(store, NOW_S)
    hold_to_raw(store, rows, HOUR_S, "metrics_1h", NOW_S + 1000)
    hold_to_raw(store, rows, DAY_S, "metrics_1d", NOW_S + 1000)


def test_a_changed_hour_or_day_is_found(store: Store, settings: Settings) -> None:
    """An hour with another count, a missing row, a day that claims more than its hours hold: each is named."""
    rows = some_rows(random.Random(3), 60)
    buffer = MemoryBuffer()
    write_raw(store, rows)
    buffer.touch(rows)
    a_job(store, settings, buffer).run((NOW_S + 1000) * 1000)
    first = int(store.rows("SELECT toUnixTimestamp(min(window_start)) FROM metrics_1h")[0][0])
    # What is older expires, and is not held against it.
    store.command(
        "INSERT INTO metrics_1h (window_start, metric_type, samples, revision) "
        f"SELECT toDateTime({FIRST - 5 * DAY_S}, 'UTC'), 'old', 1, 1"
    )
    assert wrong_spans(store, 0, NOW_S) == []
    at_first = f"window_start = toDateTime({first}, 'UTC')"
    done = "SETTINGS mutations_sync = 2"
    store.command(f"ALTER TABLE suites_1h UPDATE failed = failed + 1 WHERE {at_first} {done}")
    store.command(f"ALTER TABLE metrics_1h DELETE WHERE {at_first} AND lower(metric_type) = 'duration' {done}")
    store.command(f"INSERT INTO metrics_1d SELECT * REPLACE (revision + 7 AS revision) FROM metrics_1d {done}")
    found = {(span.table, span.start_s) for span in wrong_spans(store, 0, NOW_S)}
    assert {("suites_1h", first), ("metrics_1h", first), ("metrics_1d", FIRST)} <= found


def test_a_store_of_an_earlier_version_is_filled(settings: Settings, store: Store) -> None:
    """Windows written without hours get them by turns, each bounded; until then readers take the windows themselves."""
    rows = some_rows(random.Random(7), 150)
    buffer = MemoryBuffer()
    write_raw(store, rows)
    buffer.touch(rows)
    RollupJob(store, [buffer], SETTINGS, vitals=VitalsJob(store, cast(Any, None), settings)).run((NOW_S + 1000) * 1000)
    for coarse in COARSE_TABLES:
        assert store.rows(f"SELECT count() FROM {coarse.table}") == [(0,)]
    whole = read(store, "windows_of", FIRST, NOW_S, DAY_S)
    job = CoarserJob(store, SETTINGS.delay_s)
    assert job.fill((NOW_S + 1000) * 1000).written > 0
    while job._next_day is not None:
        job.fill((NOW_S + 1000) * 1000)
    hold_levels_to_windows(store, NOW_S)
    assert read(store, "windows_of", FIRST, NOW_S, DAY_S) == whole
    # All is there: nothing is written again.
    assert CoarserJob(store, SETTINGS.delay_s).fill((NOW_S + 1000) * 1000).written == 0


def test_the_past_is_looked_through_once_an_hour(settings: Settings, store: Store) -> None:
    """Between two passes a turn asks about today and yesterday alone; a hole that came since is filled by the next."""
    rows = some_rows(random.Random(8), 60)
    write_raw(store, rows)
    rebuild(store, FIRST * 1000, NOW_S * 1000, (NOW_S + 1000) * 1000, SETTINGS)
    job, now_ms = CoarserJob(store, SETTINGS.delay_s), (NOW_S + 3 * DAY_S) * 1000
    oldest = job._oldest_day()
    assert job.fill(now_ms).day == oldest
    store.command("TRUNCATE TABLE metrics_1d")
    yesterday = now_ms // 1000 // DAY_S * DAY_S - DAY_S
    assert job.fill(now_ms + PASS_EVERY_MS - 1) == FillReport(day=yesterday)
    again = job.fill(now_ms + PASS_EVERY_MS)
    assert again.day == oldest and again.written > 0


def read(store: Store, view: str, from_s: int, to_s: int, step_s: int) -> Any:
    return store.rows(
        f"SELECT sum(w.samples), sumMap(w.histogram) FROM {view}"
        "(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = {step:UInt32}) AS w",
        {"from": from_s, "to": to_s, "step": step_s},
    )


def test_any_span_is_read_once_whatever_it_is_read_from(store: Store, settings: Settings) -> None:
    """Whole and broken spans, before and after hours exist for all of it: always what the windows alone give."""
    rng = random.Random(5)
    rows = some_rows(rng, 150)
    write_raw(store, rows)
    rebuild(
        store, FIRST * 1000, NOW_S * 1000, (NOW_S + 1000) * 1000, SETTINGS,
        vitals=VitalsJob(store, cast(Any, None), settings), coarser=CoarserJob(store, SETTINGS.delay_s),
    )  # fmt: skip
    hold_levels_to_windows(store, NOW_S)
    # A hole in the hours, as after an upgrade: the day covers it, or the windows do.
    store.command(f"DELETE FROM metrics_1d WHERE window_start = toDateTime({FIRST}, 'UTC')")
    until = f"toDateTime({FIRST + DAY_S}, 'UTC')"
    store.command(f"DELETE FROM metrics_1h WHERE toHour(window_start) % 2 = 0 AND window_start < {until}")
    bases = {"windows_of": ("metrics_5min", "1"), "vitals_of": ("web_vitals", "1")}
    bases["suites_of"] = ("metrics_5min", "lower(w.metric_type) = 'duration'")
    for _ in range(effort(2, 4)):
        from_s = FIRST + rng.randrange(DAY_S)
        to_s = rng.choice([from_s + rng.randrange(1, DAY_S), NOW_S, NOW_S - rng.randrange(HOUR_S)])
        for view, (table, only) in bases.items():
            wanted = store.rows(
                f"SELECT sum(w.samples), sumMap(w.histogram) FROM {table} AS w WHERE {only} "
                f"AND w.window_start >= toDateTime({from_s}, 'UTC') AND w.window_start <= toDateTime({to_s}, 'UTC')"
            )
            for step_s in (300, HOUR_S, DAY_S):
                assert read(store, view, from_s, to_s, step_s) == wanted, (view, from_s, to_s, step_s)


def test_an_upgrade_brings_the_tables(
    make_settings: Callable[..., Settings], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of the version before is migrated: the coarse tables are empty, and the views read them."""
    settings = make_settings(clickhouse={"database": "before_hours"})
    with store.clone() as other:
        other.command("DROP DATABASE IF EXISTS before_hours SYNC")
    with Store.open(settings) as old:
        monkeypatch.setattr("pipeline.store.migrate._verify", lambda _: None)
        monkeypatch.setattr("pipeline.store.migrate._repair", lambda _: [])
        monkeypatch.setattr("pipeline.store.migrate._create_views", lambda *_: None)
        monkeypatch.setattr("pipeline.store.migrate.migrations", lambda: migrations()[:5])
        migrate(old, settings)
        monkeypatch.undo()
        assert "0006_coarser" in migrate(old, settings)
        assert read(old, "windows_of", FIRST, NOW_S, DAY_S) == [(0, {})]
        old.command("DROP DATABASE before_hours SYNC")
