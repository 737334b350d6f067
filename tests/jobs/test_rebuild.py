"""Backfill: resumable, with progress, beside the live job."""

import contextlib
from collections.abc import Collection

import pytest
import redis
from rollup_fakes import MemoryBuffer, MemoryStore, Row, without_time

from pipeline.base import failpoints
from pipeline.base.config import RollupSettings
from pipeline.base.keys import FleetKeys
from pipeline.jobs import raw_rows as rawrows
from pipeline.jobs.rebuild import Checkpoint, RebuildProgress, rebuild
from pipeline.jobs.rollup import TABLES, RollupJob

SETTINGS = RollupSettings(delay_s=2, grace_s=120)
T0 = 1_700_000_100


def _day(every_s: int = 20, hours: int = 2) -> list[Row]:
    return [
        {"timestamp_ms": (T0 + at) * 1000, "metric_type": "duration", "status": "passed", "value": at / 7}
        for at in range(0, hours * 3600, every_s)
    ]


@pytest.fixture
def checkpoint(redis_url: str):
    client = redis.Redis.from_url(redis_url)
    yield Checkpoint(client, FleetKeys("pipeline").checkpoints)
    client.close()


def _rebuilt(store: MemoryStore, now_s: int) -> None:
    for table in TABLES.values():
        found = without_time(store.final(table))
        assert found == without_time(store.expected(table, now_s * 1000, SETTINGS.grace_s))


def test_a_rebuild_computes_every_window_of_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole 5-minute windows around the range, both widths, whatever the pieces; nothing outside."""
    monkeypatch.setattr(rawrows, "PIECE_ROWS", 20)
    store, rows = MemoryStore(), _day()
    store.raw = rows
    report = rebuild(store, (T0 + 301) * 1000, (T0 + 899) * 1000, (T0 + 90_000) * 1000, SETTINGS)
    assert (report.windows_1min, report.windows_5min) == (10, 2)
    store.raw = [row for row in rows if 300 <= row["timestamp_ms"] // 1000 - T0 < 900]
    _rebuilt(store, T0 + 90_000)


@pytest.mark.parametrize("noted", ["junk", b"\xff", str(T0 + 10**9), str(T0 - 10**6), "-1", ""])
def test_a_note_that_is_no_place_of_the_range_leaves_nothing_out(checkpoint: Checkpoint, noted: str | bytes) -> None:
    """The rebuild begins at its beginning."""
    store = MemoryStore()
    store.raw = _day()
    checkpoint.client.hset(checkpoint.key, f"rebuild:{T0}:{T0 + 7200}", noted)
    rebuild(store, T0 * 1000, (T0 + 7200) * 1000, (T0 + 90_000) * 1000, SETTINGS, checkpoint)
    _rebuilt(store, T0 + 90_000)


def test_an_interrupted_rebuild_goes_on_where_it_was(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing a piece and noting it, it repeats that piece only; finished, it starts afresh."""
    monkeypatch.setattr(rawrows, "PIECE_ROWS", 60)
    store = MemoryStore()
    store.raw = _day()
    arguments = (T0 * 1000, (T0 + 7200) * 1000, (T0 + 90_000) * 1000, SETTINGS, checkpoint)
    monkeypatch.setenv(failpoints.VARIABLE, "rebuild.before_checkpoint:4:raise")
    failpoints.reset()
    with contextlib.suppress(failpoints.Injected):
        rebuild(store, *arguments)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    first = len(store.parts["metrics_5min"])
    progress: list[RebuildProgress] = []
    rebuild(store, *arguments, progress.append)
    assert first == 3
    assert len(store.parts["metrics_5min"]) == 3 + 4  # six pieces of four frames, the third one twice
    assert progress[0].reached_s == T0 + 2 * 1200
    assert [step.share for step in progress] == sorted(step.share for step in progress)
    assert progress[-1].share == 1
    _rebuilt(store, T0 + 90_000)
    rebuild(store, *arguments)
    assert len(store.parts["metrics_5min"]) == 7 + 6


def test_a_rebuild_leaves_open_windows_to_the_live_job() -> None:
    """A window that is not over yet is not written, and dirty minutes stay dirty."""
    store, buffer = MemoryStore(), MemoryBuffer()
    store.raw = _day()
    buffer.touch(store.raw)
    now_s = T0 + 400
    rebuild(store, T0 * 1000, (T0 + 7200) * 1000, now_s * 1000, SETTINGS)
    starts = {table: {key[0] - T0 for key in store.final(table)} for table in TABLES.values()}
    assert starts == {"metrics_1min": {0, 60, 120, 180, 240, 300}, "metrics_5min": {0}}
    assert len(buffer.minutes) == 120


def test_a_rebuild_beside_the_live_job_changes_nothing() -> None:
    """What the live job wrote is what the rebuild writes: the same revisions, the same bits."""
    store, buffer = MemoryStore(), MemoryBuffer()
    store.raw = _day()
    buffer.touch(store.raw)
    RollupJob(store, [buffer], SETTINGS).run((T0 + 9000) * 1000)
    before = {table: without_time(store.final(table)) for table in TABLES.values()}
    rebuild(store, T0 * 1000, (T0 + 7200) * 1000, (T0 + 9000) * 1000, SETTINGS)
    assert {table: without_time(store.final(table)) for table in TABLES.values()} == before


def test_a_rebuild_after_expiry_keeps_the_windows_that_saw_all_rows() -> None:
    """Half of a window's raw rows are gone: the rebuilt revision is lower and loses."""
    store = MemoryStore()
    store.raw = _day(hours=1)
    rebuild(store, T0 * 1000, (T0 + 3600) * 1000, (T0 + 9000) * 1000, SETTINGS)
    before = without_time(store.final("metrics_5min"))
    store.raw = [row for row in store.raw if row["timestamp_ms"] > (T0 + 450) * 1000]
    rebuild(store, T0 * 1000, (T0 + 3600) * 1000, (T0 + 9000) * 1000, SETTINGS)
    assert without_time(store.final("metrics_5min")) == before


def test_a_rebuild_has_the_vitals_of_its_windows_written_too() -> None:
    """Every 5-minute window of the range that is over, once, and none that is open."""
    asked: list[int] = []

    class Vitals:
        def write_windows(self, starts_s: Collection[int], now_ms: int) -> int:
            asked.extend(starts_s)
            return 0

    store = MemoryStore()
    store.raw = _day()
    rebuild(store, T0 * 1000, (T0 + 7200) * 1000, (T0 + 1000) * 1000, SETTINGS, vitals=Vitals())
    assert asked == [T0, T0 + 300, T0 + 600]


def test_an_empty_range_is_done_at_once() -> None:
    """Nothing to do is not an error, and is reported as done."""
    progress: list[RebuildProgress] = []
    report = rebuild(MemoryStore(), T0 * 1000, T0 * 1000, (T0 + 1) * 1000, SETTINGS, None, progress.append)
    assert report.raw_rows == 0
    assert progress[-1].share == 1
