"""The vitals job on a real ClickHouse engine and real Redis servers."""

import itertools
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.vitals import assess
from pipeline.base import failpoints
from pipeline.base.config import Settings
from pipeline.base.errors import RedisOutage
from pipeline.base.failpoints import Injected
from pipeline.jobs.vitals import VitalsJob
from pipeline.store.client import Store

# The start of a window, and recent: the table's TTL goes by the real clock.
NOW_S = int(time.time()) // 300 * 300 - 3600
NOW_MS = NOW_S * 1000

NO_RETRIES = Retry(NoBackoff(), 0)
_positions = itertools.count()


def push(store: Store, rows: Iterable[dict[str, Any]]) -> None:
    """Store raw metrics; what a row leaves out is an LCP of now."""
    given = [{"metric_type": "lcp", "browser": "chromium", "page": "/", "segment": "s"} | row for row in rows]
    columns = {
        name: pa.array([row.get(name, "") for row in given], pa.string()) for name in (*SERIES, "status", "segment")
    }
    times = pa.timestamp("ms", "UTC")
    store.insert(
        "metrics",
        pa.table(
            columns
            | {
                "timestamp": pa.array([row.get("at_ms", NOW_MS) for row in given], times),
                "value": pa.array([float(row.get("value", 1000)) for row in given]),
                "tags": pa.array(
                    [list(row.get("tags", {}).items()) for row in given], pa.map_(pa.string(), pa.string())
                ),
                "position": pa.array([next(_positions) for _ in given], pa.uint32()),
                "ingested_at": pa.array([NOW_MS] * len(given), times),
            }
        ),
    )


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """What a reader of the platform's keys sees, as text."""
    return redis.Redis.from_url(redis_url, decode_responses=True)


@pytest.fixture
def job(store: Store, settings: Settings, redis_url: str) -> VitalsJob:
    return VitalsJob(store, redis.Redis.from_url(redis_url), settings)


def hash_of(client: redis.Redis, key: str) -> dict[Any, Any]:
    return client.hgetall(key)


def keys_of(client: redis.Redis) -> set[Any]:
    return set(client.scan_iter())


class TestWindows:
    """The table ``web_vitals``."""

    @pytest.fixture
    def job(self, store: Store, settings: Settings) -> VitalsJob:
        """Writing windows needs no Redis; this one does not answer."""
        return VitalsJob(store, redis.Redis(port=1, retry=NO_RETRIES), settings)

    def test_a_window_equals_the_assessment_of_its_raw_rows(self, store: Store, job: VitalsJob) -> None:
        """Every column of every window, over random vitals of several pages, browsers, spellings and page views."""
        random = np.random.default_rng(7)
        push(
            store,
            [
                {
                    "metric_type": str(random.choice(["LCP", "lcp", "CLS", "inp", "Ttfb", "FID", "fcp", "duration"])),
                    "browser": str(random.choice(["chromium", "webkit", "Firefox", ""])),
                    "environment": str(random.choice(["prod", ""])),
                    "page": str(random.choice(["/", "/cart"])),
                    "value": float(random.lognormal(7, 1)),
                    "tags": {"id": f"view-{random.integers(40)}"} if random.random() < 0.5 else {"commit": "abc"},
                    "at_ms": NOW_MS + int(random.integers(600_000)),
                }
                for _ in range(800)
            ],
        )
        written = job.write_windows([NOW_S, NOW_S + 300], NOW_MS)
        stored = store.query("SELECT * FROM web_vitals ORDER BY window_start, vital, environment, browser, page")
        assert stored.num_rows == written > 50
        raw = store.query("SELECT *, tags['id'] AS id FROM metrics")
        window = raw.column("timestamp").cast(pa.int64()).to_numpy() // 300_000 * 300
        expected = [
            row | {"window_start": start}
            for start in (NOW_S, NOW_S + 300)
            for row in assess(raw.filter(window == start), job.settings.vitals.browser_aliases).to_pylist()
        ]
        seen = stored.drop_columns(["revision", "is_final", "computed_at"]).to_pylist()
        assert [sorted(map(repr, row.items())) for row in seen] == [sorted(map(repr, row.items())) for row in expected]

    def test_a_late_row_replaces_the_window_whole(self, store: Store, job: VitalsJob) -> None:
        """Readers see one revision of a window; a slower worker that saw fewer rows cannot bring the old one back."""
        push(store, [{"value": 100, "page": page} for page in ("/", "/cart")])
        job.write_windows([NOW_S], NOW_MS)
        of_the_slower_worker = store.query("SELECT * FROM web_vitals")
        push(store, [{"value": 300, "at_ms": NOW_MS + 299_999}])
        job.write_windows([NOW_S], NOW_MS)
        store.insert("web_vitals", of_the_slower_worker)
        found = store.rows("SELECT page, samples, avg, revision FROM web_vitals ORDER BY page")
        assert found == [("/", 2, 200.0, 6), ("/cart", 1, 100.0, 6)]

    def test_a_window_is_final_after_its_grace(self, store: Store, job: VitalsJob) -> None:
        """Two minutes past its end the window says so, under a revision that replaces the unfinished one."""
        push(store, [{}])
        job.write_windows([NOW_S], NOW_MS + 419_999)
        assert store.rows("SELECT is_final, revision FROM web_vitals") == [(False, 2)]
        job.write_windows([NOW_S], NOW_MS + 420_000)
        assert store.rows("SELECT is_final, revision FROM web_vitals") == [(True, 3)]

    def test_windows_far_apart_and_without_vitals(self, store: Store, job: VitalsJob) -> None:
        """Only the windows asked for are written, each with its own rows only; those without vitals leave nothing."""
        starts = [NOW_S - 300 * back for back in (0, 1, 30, 31, 700)]
        push(store, [{"at_ms": start * 1000, "value": start - NOW_S} for start in starts[:-1]])
        push(store, [{"at_ms": starts[-1] * 1000, "metric_type": "duration"}])
        assert job.write_windows([starts[0], starts[2], starts[4]], NOW_MS) == 2
        found = store.rows("SELECT window_start, avg FROM web_vitals ORDER BY window_start")
        assert found == [(starts[2], -9000.0), (starts[0], 0.0)]


class TestPublishing:
    """``cwv:*`` and ``compat:scores``."""

    def test_the_documents_fields_come_first_and_ours_after(
        self, store: Store, job: VitalsJob, client: redis.Redis
    ) -> None:
        """avg and p95 as redis-schema.md has them, then p75, samples, rating; every percentile names its definition."""
        push(store, [{"value": value} for value in range(100, 2200, 100)])
        job.run(NOW_MS)
        found = hash_of(client, "cwv:chrome:lcp")
        assert list(found)[:5] == ["avg", "p95", "p75", "samples", "rating"]
        assert list(found.values())[:5] == ["1100", "2000", "1600", "21", "good"]
        assert found["percentiles"] == "linear"
        assert found["rated_by"] == "p75, inverted CDF"
        assert (found["p75_rated"], found["low_confidence"], found["p95_low_confidence"]) == ("1600", "0", "1")
        assert "p95_low" not in found  # 21 samples bound the p75 only
        assert datetime.strptime(found["last_updated"], "%Y-%m-%dT%H:%M:%S%z") == datetime.fromtimestamp(NOW_S, UTC)
        assert 0 < client.ttl("cwv:chrome:lcp") <= 3600

    def test_figures_are_the_last_hours_over_all_pages(self, store: Store, job: VitalsJob, client: redis.Redis) -> None:
        """The hour ends with now and includes it; one page view reported in several windows counts once."""
        push(
            store,
            [
                {"at_ms": NOW_MS - 3_600_000, "value": 9000},  # a millisecond too old
                {"at_ms": NOW_MS - 3_599_999, "value": 100, "page": "/a", "environment": "prod"},
                {"at_ms": NOW_MS - 900_000, "value": 5000, "tags": {"id": "v"}},
                {"at_ms": NOW_MS, "value": 300, "tags": {"id": "v"}},
                {"at_ms": NOW_MS + 1, "value": 9000},  # not yet
            ],
        )
        job.run(NOW_MS)
        found = hash_of(client, "cwv:chrome:lcp")
        assert (found["avg"], found["samples"]) == ("200", "2")

    def test_fid_is_marked_and_inp_stands_beside_it(self, store: Store, job: VitalsJob, client: redis.Redis) -> None:
        """The legacy vital is accepted, says what replaced it, and CLS keeps its small digits."""
        push(store, [{"metric_type": name, "value": 0.05} for name in ("fid", "inp", "cls")])
        push(store, [{"metric_type": "inp", "browser": ""}])
        push(store, [{"metric_type": "tbt"}, {"metric_type": "speed_index"}])  # no keys of the platform's schema
        job.run(NOW_MS)
        assert keys_of(client) == {"cwv:chrome:fid", "cwv:chrome:inp", "cwv:chrome:cls"}
        fid, inp = hash_of(client, "cwv:chrome:fid"), hash_of(client, "cwv:chrome:inp")
        assert (fid["is_legacy"], fid["successor"]) == ("1", "inp")
        assert inp["is_legacy"] == "0" and "successor" not in inp
        assert "lighthouse_score" in inp and "lighthouse_score" not in fid
        assert hash_of(client, "cwv:chrome:cls")["avg"] == "0.05"

    def test_keys_go_when_their_samples_have_left_the_hour(
        self, store: Store, settings: Settings, client: redis.Redis, job: VitalsJob
    ) -> None:
        """Also when the process that published them is gone, and also single fields of a key that stays."""
        push(store, [{"at_ms": NOW_MS - 1_800_000, "browser": "webkit"}])
        push(store, [{"at_ms": NOW_MS - 1_800_000} for _ in range(13)])
        push(store, [{}, {"metric_type": "duration", "status": "passed"}])
        job.run(NOW_MS)
        assert "p75_low" in hash_of(client, "cwv:chrome:lcp")
        report = VitalsJob(store, job.redis, settings).run(NOW_MS + 1_800_001)
        assert (report.published, report.removed) == (1, 1)
        assert keys_of(client) == {"cwv:chrome:lcp", "compat:scores"}
        assert "p75_low" not in hash_of(client, "cwv:chrome:lcp")
        assert job.run(NOW_MS + 7_200_000).removed == 2
        assert keys_of(client) == set()

    def test_scores_are_the_share_of_executions_that_passed(
        self, store: Store, job: VitalsJob, client: redis.Redis
    ) -> None:
        """Skipped tests do not count, unknown statuses count as not passed, and 100.0 means that nothing failed."""
        statuses = {
            "chromium": ["passed"] * 5 + ["skipped"],
            "CHROME": ["passed"] * 2 + ["failed"] + [""],
            "firefox": ["passed"] * 2999 + ["failed"],
            "webkit": ["passed"] * 2,
            "msedge": ["skipped"],
            "": ["failed"],
        }
        push(
            store,
            [
                {"metric_type": "Duration", "browser": browser, "status": status}
                for browser, executed in statuses.items()
                for status in executed
            ],
        )
        client.hset("compat:scores", "opera", "88.0")
        job.run(NOW_MS)
        assert hash_of(client, "compat:scores") == {"chrome": "77.8", "firefox": "99.9", "safari": "100.0"}

    def test_a_run_that_dies_before_redis_is_made_good_by_the_next(
        self, store: Store, settings: Settings, client: redis.Redis, job: VitalsJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing but the raw rows is needed to publish."""
        push(store, [{}])
        monkeypatch.setenv(failpoints.VARIABLE, "vitals.before_publish:1:raise")
        failpoints.reset()
        with pytest.raises(Injected):
            job.run(NOW_MS)
        assert keys_of(client) == set()
        VitalsJob(store, job.redis, settings).run(NOW_MS)
        assert keys_of(client) == {"cwv:chrome:lcp"}

    def test_a_window_that_was_not_inserted_is_written_whole_by_the_next_try(
        self, store: Store, job: VitalsJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job that dies before its insert leaves nothing behind."""
        push(store, [{}])
        monkeypatch.setenv(failpoints.VARIABLE, "vitals.before_insert:1:raise")
        failpoints.reset()
        with pytest.raises(Injected):
            job.write_windows([NOW_S], NOW_MS)
        assert store.query("SELECT count() FROM web_vitals").to_pylist() == [{"count()": 0}]
        assert job.write_windows([NOW_S], NOW_MS) == 1

    def test_redis_away_is_an_outage(self, store: Store, settings: Settings) -> None:
        """The schedule sees an outage, not an exception of the driver."""
        push(store, [{}])
        with pytest.raises(RedisOutage):
            VitalsJob(store, redis.Redis(port=1, retry=NO_RETRIES), settings).run(NOW_MS)
