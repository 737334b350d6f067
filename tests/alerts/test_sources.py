"""What is read from ClickHouse is what the same rows give in memory; an alert's query gives its number again."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose

from pipeline.alerts.commands import replay
from pipeline.alerts.judge.memory_source import MemorySource
from pipeline.alerts.judge.sources import SourceBatch, StoreSource
from pipeline.alerts.rules.rule import BASELINE_GROUPINGS, MINUTE_MS, Rule
from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.windows import roll_up, stamp
from pipeline.jobs import baselines as baseline_jobs
from pipeline.store.client import Store

from .test_views import T0, raw

RNG = np.random.default_rng(7)


def rows() -> pa.Table:
    """Half an hour of two suites in two browsers with awkward names; one of them slows down and fails."""
    listed = []
    for minute in range(30):
        for suite in ("auth", "it's \\ odd"):
            for browser in ("chromium", "edge"):
                slow = 2.0 if suite != "auth" and 10 <= minute < 20 else 1.0
                for i in range(12):
                    status = "failed" if slow > 1 and i % 3 == 0 else ("skipped" if i == 5 else "passed")
                    value = slow * 1000 * float(RNG.lognormal(0, 0.2))
                    listed.append(
                        {"minute": minute, "value": value, "test_suite": suite, "browser": browser, "status": status}
                    )
    return raw(listed)


ROWS = rows()
RULES = [
    Rule("p95", 1800.0, metrics=("duration",), statistic="p95", by=("test_suite",), clears_at=1700.0),
    Rule("five", 1500.0, metrics=("duration",), statistic="p50", by=("test_suite", "browser"), clears_at=1500.0),
    Rule("mean", 1500.0, metrics=("duration",), statistic="avg", by=("test_suite",), clears_at=1400.0),
    Rule("fails", 10.0, metrics=("duration",), statistic="failure_rate", by=("test_suite",), clears_at=10.0),
    Rule("count", 1.0, direction="below", metrics=("duration",), statistic="count", clears_at=1.0, no_data="alert"),
    Rule("silent", 120.0, metrics=("duration",), statistic="age", by=("test_suite",), clears_at=120.0),
]
RULES[1] = replace(RULES[1], window_ms=5 * MINUTE_MS, every_ms=5 * MINUTE_MS)


@pytest.fixture
def stored(store: Store) -> Iterator[Store]:
    """A store with the raw rows and their windows."""
    table = ROWS.select([*SERIES, "status", "value"]).append_column(
        "timestamp", ROWS.column("timestamp_ms").cast(pa.timestamp("ms", "UTC"))
    )
    count = table.num_rows
    table = table.append_column("tags", pa.array([[]] * count, pa.map_(pa.string(), pa.string())))
    table = table.append_column("segment", pa.array(["s"] * count)).append_column(
        "position", pa.array(np.arange(count, dtype=np.uint32))
    )
    table = table.append_column("ingested_at", table.column("timestamp"))
    store.insert("metrics", table)
    for width_s, name in ((60, "metrics_1min"), (300, "metrics_5min")):
        store.insert(name, stamp(roll_up(ROWS, width_s), T0, 120))
    yield store


def test_stored_windows_tell_the_same_as_windows_in_memory(stored: Store) -> None:
    """A replay over ClickHouse and over the same rows in memory gives equal transitions, evidence included."""
    until_ms = T0 + 40 * MINUTE_MS
    found = replay(stored, RULES, T0, until_ms)
    assert {t.rule for t in found} == {rule.name for rule in RULES}
    assert found == replay(MemorySource(ROWS), RULES, T0, until_ms)


def test_the_evidences_query_gives_the_number_again(stored: Store) -> None:
    """The query of an alert gives its value: exactly for sums and rates, within 1 % for percentiles."""
    checked = set()
    for transition in replay(stored, RULES, T0, T0 + 30 * MINUTE_MS):
        query = transition.evidence.document()["query"]
        samples, value = stored.rows(query)[0]
        exact = transition.rule in ("mean", "fails", "count")
        if not np.isnan(transition.value) and transition.rule != "silent":
            assert_allclose(value, transition.value, rtol=1e-12 if exact else 0.01, err_msg=query)
            if transition.rule != "fails":  # whose samples are executions without the skipped ones
                assert samples == transition.evidence.samples
            checked.add(transition.rule)
    assert checked == {"p95", "five", "mean", "fails"}


def moment(at_ms: int) -> datetime:
    """A time as Arrow takes it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def insert(store: Store, table: str, listed: list[dict[str, Any]]) -> None:
    """Insert rows with all columns of a table; those not given are empty or 0."""
    described = store.rows(
        f"SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = '{table}'"
    )
    columns: dict[str, pa.Array] = {}
    for name, kind in described:
        given = [row.get(name) for row in listed]
        if "String" in kind:
            columns[name] = pa.array([value or "" for value in given], pa.string())
        elif "DateTime64" in kind:
            columns[name] = pa.array([moment(value or T0) for value in given], pa.timestamp("ms", "UTC"))
        elif kind.startswith("Array"):
            columns[name] = pa.array([value or [] for value in given], pa.list_(pa.float32()))
        elif kind == "Float64":
            columns[name] = pa.array([float(value or 0) for value in given], pa.float64())
        else:
            width = {"UInt64": pa.uint64(), "UInt32": pa.uint32()}[kind]
            columns[name] = pa.array([int(value or 0) for value in given], width)
    store.insert(table, pa.table(columns))


def test_baselines_are_read_as_they_were_known(stored: Store) -> None:
    """Of every kind the last baseline before the range and all within it are read; too little history is none."""
    day = 86_400_000
    insert(
        stored,
        "baselines",
        [
            {"computed_at": T0 - 9 * day, "test_suite": "auth", "centre": 1, "state": "ok"},
            {"computed_at": T0 - 2, "test_suite": "auth", "centre": 2, "spread": 1, "samples": 50, "state": "ok"},
            {"computed_at": T0 - 1, "test_suite": "auth", "centre": 3, "spread": 1, "samples": 60, "state": "shifted"},
            {"computed_at": T0 - 1, "test_suite": "auth", "browser": "edge", "centre": 4, "state": "ok"},
            {"computed_at": T0, "test_suite": "new", "centre": 5, "state": "insufficient_history"},
            {"computed_at": T0 + 5, "test_suite": "auth", "centre": 6, "state": "ok"},
            {"computed_at": T0 + 50, "test_suite": "auth", "centre": 7, "state": "ok"},
        ],
    )
    found = StoreSource(stored).baselines(T0, T0 + 10)
    assert [(one.computed_at_ms - T0, one.dimensions["browser"], one.centre) for one in found] == [
        (-1, "", 3.0),
        (-1, "edge", 4.0),
        (5, "", 6.0),
    ]


def test_change_points_are_read(stored: Store) -> None:
    """Changes of the range, with their dimensions and levels."""
    change = {"metric_type": "duration", "test_suite": "auth", "change_pct": 25, "level_before": 4, "level_after": 5}
    insert(
        stored,
        "change_points",
        [
            {**change, "changed_at": T0 + 1, "detected_at": T0 + 7, "points_after": 12},
            {**change, "changed_at": T0 + 100, "detected_at": T0 + 100},
            {**change, "changed_at": T0 - 900, "detected_at": T0 + 9, "kind": "drift", "slope_pct_per_day": 3.0},
        ],
    )
    found, drift = StoreSource(stored).change_points(T0, T0 + 50)
    assert (drift.kind, drift.slope_pct_per_day[0]) == ("drift", 3.0)
    assert (found.changed_at_ms, found.detected_at_ms, found.points) == (T0 + 1, T0 + 7, 12)
    assert (found.dimensions["test_suite"], found.change_pct, found.level_after) == ("auth", 25.0, 5.0)


def test_baseline_rules_know_the_levels_that_are_kept() -> None:
    """A rule may compare with exactly those kinds of baselines that the job computes."""
    assert {frozenset(grouping) for grouping in BASELINE_GROUPINGS} == {
        frozenset(grouping) for grouping in baseline_jobs.GROUPINGS
    }


def test_one_query_per_table_whatever_the_number_of_rules(stored: Store) -> None:
    """Rules and series cost no queries of their own."""

    class Counting(StoreSource):
        asked = 0

        def windows(self, *arguments: Any) -> Any:
            self.asked += 1
            return super().windows(*arguments)

    counting = Counting(stored)
    many = [replace(RULES[0], name=f"r{i}", threshold=float(i)) for i in range(30)]
    batch = SourceBatch(counting, many, T0 + MINUTE_MS, T0 + 5 * MINUTE_MS, {})
    for rule in many:
        batch.view_at(rule)(T0 + 5 * MINUTE_MS)
    assert counting.asked == 1
