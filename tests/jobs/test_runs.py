"""Runs and executions on the real engine: every attempt counted once, whatever order and version it came in."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rollup_fakes import MemoryBuffer
from test_rollup import SETTINGS, T0

from pipeline.base import config, failpoints, resources
from pipeline.buffer.chunk import Chunk
from pipeline.decode.columns import decode_chunk
from pipeline.deliver.delivery import identified
from pipeline.deliver.ledger import DIGEST_SQL, digest
from pipeline.jobs.rollup import RollupJob
from pipeline.jobs.runs import RunsJob
from pipeline.metric import Limits
from pipeline.operate import clickhouse_findings
from pipeline.store.client import Store
from pipeline.store.migrate import migrate, migrations

GRACE_S = 1800.0


def item(**fields: Any) -> bytes:
    """One attempt as a producer sends it."""
    at = fields.pop("at", 0)
    plain = {"timestamp": T0 + at, "metric_type": "duration", "value": 1000, "test_suite": "shop", "status": "passed"}
    return json.dumps(plain | fields).encode()


def chunk_of(segment: str, rows: int) -> Chunk:
    """A whole segment as one chunk."""
    return Chunk(segment, 0, 0, rows, rows, rows, T0 * 1000, attempts=1, doubtful=False)


def store_items(store: Store, items: list[bytes], segment: str = "s") -> pa.Table:
    """Store items as the drainer does; the decoded rows."""
    positions = np.arange(len(items), dtype=np.int64)
    rows = decode_chunk(items, positions, (T0 + 3600) * 1000, Limits()).rows
    store.insert("metrics", identified(rows, chunk_of(segment, len(items))))
    return rows


def runs(store: Store, where: str = "1") -> list[dict[str, Any]]:
    """The rows of ``runs`` as a reader sees them."""
    found: list[dict[str, Any]] = store.query(f"SELECT * FROM runs WHERE {where} ORDER BY run_id").to_pylist()
    return found


ATTEMPTS = [
    item(run_id="github-1-1", job="a", test_id="t1", attempt=1, status="retried", value=30_000, error_type="Timeout"),
    item(run_id="github-1-1", job="a", test_id="t1", attempt=2, status="flaky", value=3000, at=31),
    item(run_id="github-1-1", job="a", test_id="t2", attempt=1, status="passed", commit="abc", branch="main", at=5),
    item(run_id="github-1-1", job="b", test_id="t3", attempt=1, status="failed", error_type="AssertionError", at=6),
    item(run_id="github-1-1", job="b", test_id="t4", attempt=1, status="skipped", value=0, at=7),
    item(run_id="github-1-1", job="b", test_id="t5", attempt=1, status="retried", at=8),
    item(run_id="github-1-2", job="a", test_id="t1", attempt=1, status="passed", at=40),
]


def test_a_run_counts_each_execution_once(store: Store) -> None:
    """Two sessions of one run are one row: verdicts by execution, retried attempts beside them, jobs named."""
    store_items(store, ATTEMPTS)
    assert RunsJob(store, GRACE_S).write({"github-1-1", "github-1-2"}, (T0 + 60) * 1000) == 2
    first, second = runs(store)
    counts = ("executions", "passed", "flaky", "failed", "skipped", "interrupted", "retried", "raw_rows")
    assert {name: first[name] for name in counts} == {
        "executions": 3, "passed": 2, "flaky": 1, "failed": 1, "skipped": 1, "interrupted": 0, "retried": 2,
        "raw_rows": 6,
    }  # fmt: skip
    assert (first["jobs"], first["commit"], first["branch"]) == (["a", "b"], "abc", "main")
    assert (first["retried_ms"], first["test_ms"], first["duration_ms"]) == (31_000.0, 36_000.0, 31_000.0)
    assert dict(first["error_types"]) == {"Timeout": 1, "AssertionError": 1}
    assert (second["executions"], second["passed"], second["is_final"]) == (1, 1, False)


def test_a_job_that_dies_before_its_insert_is_made_good(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written by halves: the run's row comes whole with the next try."""
    store_items(store, ATTEMPTS)
    monkeypatch.setenv(failpoints.VARIABLE, "runs.before_insert:1:raise")
    failpoints.reset()
    with pytest.raises(failpoints.Injected):
        RunsJob(store, GRACE_S).write({"github-1-1"}, (T0 + 60) * 1000)
    assert runs(store) == []
    assert RunsJob(store, GRACE_S).write({"github-1-1"}, (T0 + 60) * 1000) == 1
    assert runs(store)[0]["executions"] == 3


def test_an_execution_without_a_verdict_is_interrupted_once_its_run_is_final(store: Store) -> None:
    """While rows may still come it is no execution yet; after the grace it is one, interrupted, and stays so."""
    store_items(store, ATTEMPTS)
    job = RunsJob(store, GRACE_S)
    job.write({"github-1-1"}, (T0 + 60) * 1000)
    later_ms = store.rows("SELECT toUnixTimestamp64Milli(max(ingested_at)) FROM metrics")[0][0] + 1_801_000
    assert job.run(later_ms).finished == 1
    (run,) = runs(store)
    assert (run["is_final"], run["executions"], run["interrupted"]) == (True, 4, 1)
    assert job.run(later_ms + 60_000).finished == 0
    store_items(store, [item(run_id="github-1-1", job="b", test_id="t5", attempt=2, status="flaky", at=50)], "late")
    job.write({"github-1-1"}, later_ms + 120_000)
    (run,) = runs(store)
    assert (run["is_final"], run["executions"], run["interrupted"], run["flaky"]) == (True, 4, 0, 2)


def test_the_rollup_writes_the_runs_that_its_windows_touch(store: Store) -> None:
    """A run is written with the windows of its rows, and again when a late row comes, whatever was written before."""
    buffer = MemoryBuffer()
    rollup = RollupJob(store, [buffer], SETTINGS, runs=RunsJob(store, GRACE_S), branches=["", "main"])
    store_items(store, ATTEMPTS)
    buffer.touch([{"timestamp_ms": T0 * 1000}])
    rollup.run((T0 + 400) * 1000)
    assert [run["run_id"] for run in runs(store)] == ["github-1-1", "github-1-2"]
    store_items(store, [item(run_id="github-1-2", job="a", test_id="t9", status="failed", at=41)], "late")
    buffer.touch([{"timestamp_ms": T0 * 1000}])
    rollup.run((T0 + 410) * 1000)
    assert runs(store, "run_id = 'github-1-2'")[0]["failed"] == 1


def test_windows_count_flaky_and_retried_and_leave_retried_durations_out(store: Store) -> None:
    """A timeout that was tried again spoils neither average nor percentiles of its window."""
    buffer = MemoryBuffer()
    store_items(store, ATTEMPTS)
    buffer.touch([{"timestamp_ms": T0 * 1000}])
    RollupJob(store, [buffer], SETTINGS).run((T0 + 400) * 1000)
    found = store.query("SELECT * FROM metrics_5min WHERE test_id = 't1'").to_pylist()[0]
    figures = ("samples", "total", "passed", "failed", "flaky", "retried", "max", "speed_samples")
    assert {name: found[name] for name in figures} == {
        "samples": 2, "total": 2, "passed": 2, "failed": 0, "flaky": 1, "retried": 1, "max": 3000.0, "speed_samples": 2,
    }  # fmt: skip


def test_the_view_of_executions_has_one_row_for_each(store: Store) -> None:
    """Verdict, attempts and durations of every execution; a row without a run is an execution of its own."""
    store_items(store, [*ATTEMPTS, item(test_id="alone"), item(test_id="alone", status="retried")])
    found = store.query("SELECT * FROM executions ORDER BY run_id, test_id").to_pylist()
    verdicts = {(row["run_id"], row["test_id"]): (row["verdict"], row["attempts"], row["duration_ms"]) for row in found}
    assert verdicts == {
        ("", "alone"): ("passed", 1, 1000.0),
        ("github-1-1", "t1"): ("flaky", 2, 3000.0),
        ("github-1-1", "t2"): ("passed", 1, 1000.0),
        ("github-1-1", "t3"): ("failed", 1, 1000.0),
        ("github-1-1", "t4"): ("skipped", 1, 0.0),
        ("github-1-1", "t5"): ("running", 1, 1000.0),
        ("github-1-2", "t1"): ("passed", 1, 1000.0),
    }


def test_asking_for_one_run_reads_little_of_the_table(store: Store) -> None:
    """The skip index on run_id leaves most granules out; EXPLAIN shows it."""
    for number in range(4):
        store_items(store, [item(run_id=f"r{number}", test_id=f"t{n}", at=n % 60) for n in range(9000)], f"s{number}")
    explained = store.rows("EXPLAIN indexes = 1 SELECT count() FROM metrics WHERE run_id = 'r2'")
    text = "\n".join(line for (line,) in explained)
    assert "run_id_index" in text
    granules = [line.split(":")[1] for line in text.splitlines() if "Granules" in line]
    read, of = (int(part) for part in granules[-1].split("/"))
    assert read <= of / 2


# Across versions


def test_what_is_absent_is_not_sent_and_changes_no_digest(store: Store) -> None:
    """Items without the new fields insert no column for them, and the audit's digest is what it was before."""
    plain = [item(test_id="a"), item(test_id="b", tags={"k": "v"})]
    rows = store_items(store, plain)
    sent = identified(rows, chunk_of("s", 2)).column_names
    assert not {"run_id", "job", "commit", "branch", "attempt", "error_type"} & set(sent)
    assert store.rows(f"SELECT {DIGEST_SQL} FROM metrics")[0][0] == digest(rows)


@pytest.mark.parametrize(
    "fields",
    [
        {"run_id": "r", "job": "j", "commit": "c", "branch": "b", "attempt": 2, "error_type": "E"},
        {"run_id": "r", "tags": {"run_id": "r"}},
        {"tags": {"run_id": "only a tag"}},
        {"attempt": 1.5, "run_id": {"nested": 1}},
        {"attempt": "3"},
        {"attempt": 70_000},
    ],
    ids=str,
)
def test_the_digest_knows_every_new_field(store: Store, fields: dict[str, Any]) -> None:
    """What was decoded and what ClickHouse stores have the same digest, with fields, with tags, and with both."""
    rows = store_items(store, [item(**fields), item(test_id="x")])
    assert store.rows(f"SELECT {DIGEST_SQL} FROM metrics")[0][0] == digest(rows)


def test_a_store_of_the_version_before_is_upgraded(
    make_settings: Callable[..., config.Settings], _open_engine: None
) -> None:
    """Rows stored before keep their digest and their run, which is read from the tag; no part is rewritten."""
    settings = make_settings()
    with Store.open(settings) as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.store.migrate.migrations", lambda: migrations()[:2])
            patch.setattr("pipeline.store.migrate._create_views", lambda *_: None)
            patch.setattr("pipeline.store.migrate._repair", lambda *_: [])
            patch.setattr("pipeline.store.migrate._verify", lambda *_: None)
            migrate(store, settings)
        old = [item(test_id="t", tags={"run_id": "r-old"}), item(test_id="u")]
        rows = decode_chunk(old, np.arange(2), (T0 + 3600) * 1000, Limits()).rows
        store_items(store, old)
        before = store.rows(
            "SELECT name FROM system.parts WHERE table = 'metrics' AND active AND database = currentDatabase()"
        )
        migrate(store, settings)
        assert (
            store.rows(
                "SELECT name FROM system.parts WHERE table = 'metrics' AND active AND database = currentDatabase()"
            )
            == before
        )
        assert store.rows(f"SELECT {DIGEST_SQL} FROM metrics")[0][0] == digest(rows)
        assert store.rows("SELECT test_id, run_id FROM metrics ORDER BY test_id") == [("t", "r-old"), ("u", "")]
        assert store.rows("SELECT verdict FROM executions WHERE run_id = 'r-old'") == [("passed",)]
        store.command(f"DROP DATABASE {store.database} SYNC")


def test_a_run_that_was_fed_in_two_ways_is_found(store: Store, settings: config.Settings) -> None:
    """The same executions in two jobs, to JUnit's millisecond, are told by doctor; shards and legs of a matrix not."""

    def attempts(run: str, job: str, first: int, more_ms: float) -> list[bytes]:
        return [
            item(run_id=run, job=job, test_id=f"t{n}", value=100 + 7 * n + more_ms, attempt=1)
            for n in range(first, first + 10)
        ]

    store_items(store, attempts("twice", "unit#a", 0, 0.3) + attempts("twice", "unit#report", 0, 0), "one")
    store_items(store, attempts("shards", "1", 0, 0) + attempts("shards", "2", 10, 0), "two")
    store_items(store, attempts("matrix", "linux", 0, 0) + attempts("matrix", "macos", 0, 4), "three")
    RunsJob(store, GRACE_S).write({"twice", "shards", "matrix"}, (T0 + 60) * 1000)
    (finding,) = [one for one in clickhouse_findings.clickhouse_findings(settings, store) if one.check == "runs"]
    assert (finding.severity, "unit#a and unit#report of twice have 10" in finding.detail) == ("warn", True)
    assert store.rows(resources.queries("sql/page.sql")["run_twins"].sql, {"run": "matrix"}) == []
