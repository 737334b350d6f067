"""Web Vitals of busy spans are read in pieces: memory is bounded and every figure stays the same."""

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from test_vitals_job import NOW_MS, NOW_S, push

from pipeline.base.config import Settings
from pipeline.base.errors import Stopped
from pipeline.jobs import vitals_rows
from pipeline.jobs.vitals import VitalsJob
from pipeline.store.client import Store

PIECE_ROWS = 40


def rows(count: int) -> list[dict[str, Any]]:
    """Vitals of several browsers and pages; most page views report more than once, some spellings differ."""
    random = np.random.default_rng(3)
    return [
        {
            "metric_type": str(random.choice(["LCP", "lcp", "CLS", "inp"])),
            "browser": str(random.choice(["chromium", "chrome", "webkit"])),
            "environment": str(random.choice(["prod", ""])),
            "page": str(random.choice(["/", "/cart"])),
            "value": float(random.lognormal(7, 1)),
            "tags": {"id": f"view-{random.integers(60)}"} if random.random() < 0.7 else {},
            "at_ms": NOW_MS + int(random.integers(280_000)),
            "segment": str(random.choice(["a", "b"])),
        }
        for _ in range(count)
    ]


@pytest.fixture
def read_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each read brought."""
    sizes: list[int] = []
    read = vitals_rows.read

    def counting(*arguments: Any, **options: Any) -> pa.Table:
        found = read(*arguments, **options)
        sizes.append(found.num_rows)
        return found

    monkeypatch.setattr(vitals_rows, "read", counting)
    return sizes


def test_figures_do_not_depend_on_the_pieces(
    store: Store, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch, read_sizes: list[int]
) -> None:
    """The rolling hour and a window, read at once and in pieces: the same hashes, the same rows, in bounded reads."""
    push(store, rows(600))
    client = redis.Redis.from_url(redis_url)
    seen = []
    for piece_rows in (1_000_000, PIECE_ROWS):
        monkeypatch.setattr(vitals_rows, "PIECE_ROWS", piece_rows)
        client.flushall()
        store.command("TRUNCATE TABLE web_vitals")
        read_sizes.clear()
        job = VitalsJob(store, client, settings)
        published = job.run(NOW_MS + 300_000)
        hashes = {key: client.hgetall(key) for key in client.keys("cwv:*")}
        assert published.published == len(hashes) > 4
        written = job.write_windows([NOW_S], NOW_MS + 900_000)
        table = store.query("SELECT * EXCEPT computed_at FROM web_vitals ORDER BY vital, environment, browser, page")
        assert table.num_rows == written > 20
        seen.append((hashes, table))
    (whole_hashes, whole), (hashes, table) = seen
    assert hashes == whole_hashes
    assert str(table.to_pylist()) == str(whole.to_pylist()), "NaN is not equal to itself"
    assert len(read_sizes) > 10
    assert max(read_sizes) < 3 * PIECE_ROWS, "shards are of whole page views and so not all alike"


def test_a_backfill_reads_busy_windows_alone(
    store: Store, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch, read_sizes: list[int]
) -> None:
    """Quiet neighbours share a read, together at most a piece."""
    monkeypatch.setattr(vitals_rows, "PIECE_ROWS", PIECE_ROWS)
    quiet = [row | {"at_ms": row["at_ms"] + 300_000 * number} for number in range(1, 5) for row in rows(12)]
    push(store, rows(100) + quiet)
    job = VitalsJob(store, redis.Redis.from_url(redis_url), settings)
    starts = [NOW_S + 300 * number for number in range(8)]
    assert job.write_windows(starts, NOW_MS + 10_000_000) > 5
    counted = store.rows(
        "SELECT window_start, any(revision) FROM web_vitals GROUP BY window_start ORDER BY window_start"
    )
    assert [revision // 2 for _, revision in counted] == [100, 12, 12, 12, 12]
    assert sum(size == 36 for size in read_sizes) == 1, "three windows of 12 rows make a piece of at most 40"


def test_reading_stops_between_two_pieces(
    store: Store, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch, read_sizes: list[int]
) -> None:
    """A process that is to end does not read the rest of the hour."""
    monkeypatch.setattr(vitals_rows, "PIECE_ROWS", PIECE_ROWS)
    push(store, rows(200))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        VitalsJob(store, redis.Redis.from_url(redis_url), settings, stop).run(NOW_MS + 300_000)
    assert read_sizes == []


def test_a_value_that_is_not_finite_stops_nothing(store: Store, settings: Settings, redis_url: str) -> None:
    """Written by hand behind our back: it is passed over."""
    push(store, [{"value": float("nan")}, {"value": float("inf")}, {"value": 5}])
    client = redis.Redis.from_url(redis_url)
    VitalsJob(store, client, settings).run(NOW_MS + 1000)
    assert client.hget("cwv:chrome:lcp", "samples") == b"1"
