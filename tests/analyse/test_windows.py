"""Windows against a plain computation in Python, row by row, and against ClickHouse."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.histogram import bucket_key
from pipeline.analyse.quantiles import QUANTILES
from pipeline.analyse.series import factorise
from pipeline.analyse.windows import Executions, is_final, merge_series, revision, roll_up, stamp, widen
from pipeline.status_words import status_word
from pipeline.store.client import Store

T0 = 1_700_000_100
"""A whole number of five minutes."""

VALUE = st.floats(-1e12, 1e12, allow_nan=False) | st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, 1e16, 5e-324])
ROW = st.fixed_dictionaries(
    {
        "timestamp_ms": st.integers(T0 * 1000, (T0 + 660) * 1000),
        "metric_type": st.sampled_from(["duration", "Duration", "lcp"]),
        "browser": st.sampled_from(["chrome", "firefox"]),
        "test_name": st.sampled_from(["", "login", "checkout"]),
        "status": st.sampled_from(
            ["passed", "failed", "skipped", "", "Passed", "timed out", "retried", "flaky", "weird"]
        ),
        "branch": st.sampled_from(["", "main", "feature"]),
        "value": VALUE,
    }
)
ROWS = st.lists(ROW, max_size=40)


def table(rows: list[dict[str, Any]], encode: bool = True) -> pa.Table:
    """Raw rows as they come from the store; dimensions not named are empty."""
    text = {name: pa.array([row.get(name, "") for row in rows], pa.string()) for name in (*SERIES, "status", "branch")}
    return pa.table(
        {"timestamp_ms": pa.array([row["timestamp_ms"] for row in rows], pa.int64())}
        | {name: column.dictionary_encode() if encode else column for name, column in text.items()}
        | {"value": pa.array([row["value"] for row in rows], pa.float64())}
    )


BRANCHES = ("", "main")
NAN_ROW = dict.fromkeys(("avg", "min", "max", "p50", "p75", "p90", "p95", "p99"), "nan")


def without_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that compare equal where both are NaN."""
    return [{name: "nan" if value != value else value for name, value in row.items()} for row in rows]


def words(rows: list[dict[str, Any]]) -> list[str]:
    """What the statuses of executions mean."""
    return [status_word(row["status"]) for row in rows if row["metric_type"].lower() == "duration"]


def is_attempt_tried_again(row: dict[str, Any]) -> bool:
    """Such a row is in no statistic of durations."""
    return row["metric_type"].lower() == "duration" and status_word(row["status"]) == "retried"


def says_how_fast(row: dict[str, Any]) -> bool:
    """Whether speed is judged by it: of a wanted branch and, if it is an execution, passed or without a verdict."""
    is_timed = row["metric_type"].lower() != "duration" or status_word(row["status"]) in (
        "passed",
        "flaky",
        "",
        "weird",
    )
    return is_timed and row.get("branch", "") in BRANCHES


def by_hand(rows: list[dict[str, Any]], window_s: int) -> list[dict[str, Any]]:
    """The definition, one series and window at a time."""
    members: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        start = row["timestamp_ms"] // 1000 // window_s * window_s
        members[start, *(row.get(name, "") for name in SERIES)].append(row)
    result = []
    for key, found in sorted(members.items()):
        values = [row["value"] + 0.0 for row in found if not is_attempt_tried_again(row)]
        meant = words(found)
        speeds = [row["value"] + 0.0 for row in found if says_how_fast(row)]
        percentiles = np.quantile(values, QUANTILES).tolist() if values else []
        result.append(
            dict(zip(("window_start", *SERIES), key, strict=True))
            | {
                "samples": len(values),
                "total": sum(word not in ("skipped", "retried") for word in meant),
                "passed": meant.count("passed") + meant.count("flaky"),
                "failed": meant.count("failed"),
                "flaky": meant.count("flaky"),
                "retried": meant.count("retried"),
                "sum": math.fsum(values),
            }
            | NAN_ROW
            | ({"avg": math.fsum(values) / len(values), "min": min(values), "max": max(values)} if values else {})
            | dict(zip(("p50", "p75", "p90", "p95", "p99"), percentiles, strict=False))
            | {"speed_samples": len(speeds), "speed_p50": float(np.quantile(speeds, 0.5)) if speeds else "nan"}
            | {"histogram": sorted(Counter(bucket_key(values).tolist()).items())}
        )
    return result


@pytest.mark.parametrize("window_s", [60, 300])
@settings(deadline=None)
@given(rows=ROWS, encode=st.booleans())
def test_a_window_is_what_its_definition_says(window_s: int, rows: list[dict[str, Any]], encode: bool) -> None:
    """Every column of every window and series, computed by hand from the same rows, to the last digit."""
    found = roll_up(table(rows, encode), window_s, branches=BRANCHES).rows.to_pylist()
    assert without_nan(found) == by_hand(rows, window_s)


@settings(deadline=None)
@given(rows=ROWS, encode=st.booleans(), branches=st.sampled_from([None, BRANCHES]))
def test_wider_windows_take_from_narrow_ones_what_is_the_same(
    rows: list[dict[str, Any]], encode: bool, branches: Any
) -> None:
    """Five minutes made with the help of their minutes are the bytes of five minutes made from the rows."""
    raw = table(rows, encode)
    series = factorise(raw)
    alone = roll_up(raw, 300, series, branches)
    helped = widen(roll_up(raw, 60, series, branches), raw, 300, series, branches)
    assert _bytes(stamp(helped, 0, 120)) == _bytes(stamp(alone, 0, 120))
    assert helped.executions == alone.executions


@pytest.mark.parametrize("window_s", [60, 300])
@settings(deadline=None)
@given(rows=ROWS, random=st.randoms(use_true_random=False))
def test_order_of_arrival_leaves_no_trace(window_s: int, rows: list[dict[str, Any]], random: Any) -> None:
    """The same rows in another order, other dictionaries and chunks give the same bytes."""
    shuffled = list(rows)
    random.shuffle(shuffled)
    cut = random.randint(0, len(rows))
    pieces = pa.concat_tables([table(shuffled[:cut]), table(shuffled[cut:])])
    one, other = (stamp(roll_up(rows_, window_s), 0, 120) for rows_ in (table(rows), pieces))
    assert _bytes(one) == _bytes(other)


@settings(deadline=None)
@given(rows=ROWS, random=st.randoms(use_true_random=False))
def test_shards_of_series_put_together_are_the_whole(rows: list[dict[str, Any]], random: Any) -> None:
    """A window too large to be read at once gives the same bytes and the same counts from shards."""
    series = factorise(table(rows))
    shards = [random.randint(0, 2) for _ in range(series.groups)]
    parts = [[row for row, group in zip(rows, series.ids, strict=True) if shards[group] == n] for n in range(3)]
    merged = merge_series([roll_up(table(part), 300) for part in parts])
    whole = roll_up(table(rows), 300)
    assert _bytes(merged.rows) == _bytes(whole.rows)
    counted = [{start: (e.total, e.passed, e.failed) for start, e in w.executions.items()} for w in (merged, whole)]
    assert counted[0] == counted[1]


@settings(deadline=None)
@given(rows=ROWS)
def test_executions_of_a_window_count_all_series(rows: list[dict[str, Any]]) -> None:
    """Over duration metrics of any letter case: all but skipped and retried; their durations are summed exactly."""
    for start, found in roll_up(table(rows), 300).executions.items():
        runs = [
            row
            for row in rows
            if row["timestamp_ms"] // 300_000 * 300 == start and row["metric_type"].lower() == "duration"
        ]
        meant = words(runs)
        executed = [row["value"] for row in runs if status_word(row["status"]) not in ("skipped", "retried")]
        assert found == Executions(
            len(executed),
            meant.count("passed") + meant.count("flaky"),
            meant.count("failed"),
            meant.count("flaky"),
            meant.count("retried"),
            math.fsum(executed),
        )
        assert found.avg_duration == (math.fsum(executed) / len(executed) if executed else 0.0)


def test_a_window_holds_its_first_millisecond_and_not_its_end() -> None:
    """Half-open, in UTC, at the millisecond."""
    rows = [{"timestamp_ms": at, "metric_type": "lcp", "value": 1.0} for at in (T0 * 1000, T0 * 1000 + 59_999)]
    rows.append({"timestamp_ms": (T0 + 60) * 1000, "metric_type": "lcp", "value": 2.0})
    found = roll_up(table(rows), 60).rows
    assert found.column("window_start").to_pylist() == [T0, T0 + 60]
    assert found.column("samples").to_pylist() == [2, 1]


def test_only_keeps_the_windows_named() -> None:
    """Rows and executions of the others are gone."""
    rows = [{"timestamp_ms": (T0 + at) * 1000, "metric_type": "duration", "value": 1.0} for at in (0, 60, 120)]
    found = roll_up(table(rows), 60).only({T0 + 60, T0 + 999})
    assert found.rows.column("window_start").to_pylist() == [T0 + 60]
    assert found.counts() == {T0 + 60: 1}
    assert list(found.executions) == [T0 + 60]


def test_a_revision_grows_with_the_rows_seen_and_with_finality() -> None:
    """More rows beat fewer, final beats not final, and all series of a window carry the same revision."""
    assert revision(1, False) < revision(1, True) < revision(2, False)
    rows = [{"timestamp_ms": T0 * 1000, "metric_type": name, "value": 1.0} for name in ("a", "a", "b")]
    rows.append({"timestamp_ms": (T0 + 60) * 1000, "metric_type": "a", "value": 1.0})
    early = stamp(roll_up(table(rows), 60), (T0 + 179) * 1000 + 999, 120)
    assert early.column("revision").to_pylist() == [6, 6, 2]
    assert early.column("is_final").to_pylist() == [False, False, False]
    later = stamp(roll_up(table(rows), 60), (T0 + 180) * 1000, 120)
    assert later.column("revision").to_pylist() == [7, 7, 2]
    assert later.column("is_final").to_pylist() == [True, True, False]


@pytest.mark.parametrize(("now_s", "final"), [(419, False), (419.999, False), (420, True), (9e9, True)])
def test_a_window_is_final_once_its_grace_is_over(now_s: float, final: bool) -> None:
    """Two minutes after its end, and not a millisecond before."""
    assert is_final(T0, 300, int((T0 + now_s) * 1000), 120) is final


def test_clickhouse_computes_the_same_windows(store: Store) -> None:
    """Over the same stored rows ClickHouse's own aggregates agree: counts and extremes exactly, the rest to 1e-12."""
    rng = np.random.default_rng(9)
    n = 6000
    rows = [
        {
            "timestamp_ms": int(at),
            "metric_type": ("duration", "lcp")[kind],
            "browser": f"b{browser}",
            "test_name": f"t{test}",
            "status": ("passed", "failed", "skipped", "")[status],
            "value": float(value),
        }
        for at, kind, browser, test, status, value in zip(
            T0 * 1000 + rng.integers(0, 900_000, n),
            *(rng.integers(0, limit, n) for limit in (2, 3, 9, 4)),
            np.round(rng.lognormal(7, 1, n), 2),
            strict=True,
        )
    ]
    raw = table(rows)
    store.command(
        "CREATE TABLE sample (timestamp_ms Int64, metric_type String, browser String, test_name String, status String,"
        " value Float64) ENGINE = MergeTree ORDER BY timestamp_ms"
    )
    store.insert("sample", raw.select(["timestamp_ms", "metric_type", "browser", "test_name", "status", "value"]))
    for window_s in (60, 300):
        found = store.rows(
            f"SELECT toUInt32(intDiv(timestamp_ms, {window_s * 1000}) * {window_s}) AS start,"
            " metric_type, browser, test_name, count(),"
            " countIf(metric_type = 'duration' AND status != 'skipped'),"
            " countIf(metric_type = 'duration' AND status = 'passed'),"
            " countIf(metric_type = 'duration' AND status = 'failed'),"
            " min(value), max(value), sum(value), avg(value),"
            " quantilesExactInclusive(0.5, 0.75, 0.9, 0.95, 0.99)(value)"
            " FROM sample GROUP BY start, metric_type, browser, test_name"
            " ORDER BY start, metric_type, browser, test_name"
        )
        ours = roll_up(raw, window_s).rows.to_pylist()
        exact = ("window_start", "metric_type", "browser", "test_name", "samples", "total", "passed", "failed")
        rounded = ("sum", "avg", "p50", "p75", "p90", "p95", "p99")
        assert [tuple(row[name] for name in (*exact, "min", "max")) for row in ours] == [row[:10] for row in found]
        for mine, theirs in zip(ours, found, strict=True):
            assert [mine[name] for name in rounded] == pytest.approx([*theirs[10:12], *theirs[12]], rel=1e-12)


def _bytes(rows: pa.Table) -> bytes:
    """Every bit of a table's content, whatever its dictionaries and chunks are."""
    plain = {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    }
    sink = pa.BufferOutputStream()
    content = pa.table(plain).combine_chunks()
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content)
    return bytes(sink.getvalue())
