"""What analysts find in the database: percentile functions, views, named queries."""

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analyse.dimensions import VITALS
from pipeline.analyse.histogram import bucket_key, bucket_value, histogram_quantile
from pipeline.analyse.vitals import RATINGS, rate
from pipeline.base import resources
from pipeline.base.config import Settings
from pipeline.status_words import SYNONYMS, status_word
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

NOW_MS = 1_764_300_000_000
HISTOGRAM = "mapFromArrays({k:Array(Int32)}, {c:Array(UInt64)})"


def test_a_bucket_stands_for_the_same_in_sql(store: Store) -> None:
    """Over all keys, from the least to the greatest, SQL and Python agree to 1e-10."""
    last = int(bucket_key([np.finfo(np.float64).max])[0])
    found = store.query(f"SELECT histogramBucketValue(toInt32(number) - {last}) AS v FROM numbers({2 * last + 1})")
    np.testing.assert_allclose(found["v"].to_numpy(), bucket_value(np.arange(-last, last + 1)), rtol=1e-10, atol=0)


def test_quantiles_agree_with_pythons(store: Store) -> None:
    """``histogramQuantile`` over any values at any level is ``histogram_quantile``; so is one over merged parts."""

    @given(
        values=st.lists(st.floats(-1e12, 1e12).filter(lambda v: v == 0 or abs(v) > 1e-12), min_size=1, max_size=60),
        level=st.floats(0, 1),
        cut=st.integers(0, 60),
    )
    @settings(max_examples=40)
    def agree(values: list[float], level: float, cut: int) -> None:
        keys, counts = np.unique(bucket_key(values), return_counts=True)
        parts = [np.unique(bucket_key(part), return_counts=True) for part in (values[:cut], values[cut:])]
        found = store.rows(
            f"SELECT histogramQuantile({HISTOGRAM}, {{q:Float64}}), histogramCount({HISTOGRAM}), "
            "histogramQuantile(sumMap(h), {q:Float64}) FROM (SELECT arrayJoin([mapFromArrays({k1:Array(Int32)}, "
            "{c1:Array(UInt64)}), mapFromArrays({k2:Array(Int32)}, {c2:Array(UInt64)})]) AS h)",
            {
                "q": level,
                "k": keys.tolist(),
                "c": counts.tolist(),
                **{f"k{i}": part[0].tolist() for i, part in enumerate(parts, 1)},
                **{f"c{i}": part[1].tolist() for i, part in enumerate(parts, 1)},
            },
        )[0]
        expected = histogram_quantile(keys, counts, [level])[0]
        scale = max(abs(v) for v in values)
        assert found[0] == pytest.approx(expected, rel=1e-9, abs=scale * 1e-9)
        assert found[1] == len(values)
        assert found[2] == pytest.approx(expected, rel=1e-9, abs=scale * 1e-9)

    agree()


def test_an_empty_histogram_has_no_quantile(store: Store) -> None:
    """NaN, as numpy says, not an error and not 0."""
    found = store.rows(f"SELECT histogramQuantile({HISTOGRAM}, 0.5)", {"k": [], "c": []})
    assert math.isnan(found[0][0])


def test_every_view_says_what_it_is_for(store: Store) -> None:
    """The first line of a view's file is one sentence, and ClickHouse shows it as the view's comment."""
    sentences = {}
    for file in resources.path("sql/views").glob("*.sql"):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert re.fullmatch(r"-- [A-Z].*\.", first), file.name
        sentences[file.stem] = first.removeprefix("-- ")
    found = store.rows("SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND engine = 'View'")
    assert dict(found) == sentences


def test_every_named_query_runs(store: Store) -> None:
    """Each query of ``sql/queries.sql`` has a sentence and runs on a migrated database; none is overlooked."""
    queries = resources.queries()
    assert len(queries) == resources.text("sql/queries.sql").count(";\n") > 5
    for query in queries.values():
        assert re.fullmatch(r"[A-Z].*\.", query.sentence)
        store.query(query.sql, query.values({one.name: "x" for one in query.parameters if one.default is None}, NOW_MS))


def test_every_table_view_and_column_says_what_it_means(store: Store) -> None:
    """No table, view or column is without a comment, and those of a database of an earlier version get theirs."""

    def silent() -> list[tuple[Any, ...]]:
        return store.rows(
            "SELECT name, '' FROM system.tables WHERE database = currentDatabase() AND comment = '' UNION ALL "
            "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND comment = ''"
        )

    assert silent() == []
    store.command("ALTER TABLE ledger COMMENT COLUMN digest '', MODIFY COMMENT ''")
    assert len(silent()) == 2
    migrate(store, Settings(clickhouse={"dsn": "embedded", "database": store.database}))
    assert silent() == []


def test_columns_of_views_are_those_of_their_queries(store: Store) -> None:
    """A view's file names every column of its query with the type that the query gives it."""
    for file in resources.path("sql/views").glob("*.sql"):
        lines = file.read_text(encoding="utf-8").splitlines()
        named = [tuple(line.removeprefix("--   ").split(" ", 1)) for line in lines if line.startswith("--   ")]
        if file.stem in ("metrics_over", "windows_of", "suites_of", "vitals_of"):  # views with parameters
            assert not named
            continue
        select = "\n".join(line for line in lines if not line.startswith("--"))
        assert named == [row[:2] for row in store.rows(f"DESCRIBE ({select})")], file.name


# What the views show


def window(**values: Any) -> dict[str, Any]:
    """A row of metrics_5min of the last hour."""
    row: dict[str, Any] = {
        "metric_type": "duration",
        **dict.fromkeys(
            ("environment", "browser", "test_suite", "test_id", "test_name", "page", "endpoint", "node"), ""
        ),
        **dict.fromkeys(("samples", "total", "passed", "failed", "revision"), 1),
        **dict.fromkeys(("sum", "avg", "min", "max", "p50", "p75", "p90", "p95", "p99"), 1.0),
        "histogram": {},
        "is_final": True,
    }
    return row | values


def insert(store: Store, table: str, rows: list[dict[str, Any]], **times: str) -> None:
    """Rows into ``table``; ``times`` are SQL expressions for columns that all rows share."""
    histograms = [list(row.pop("histogram", {}).items()) for row in rows]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    if any(histograms):
        columns["histogram"] = pa.array(histograms, pa.map_(pa.int32(), pa.uint64()))
    for name, expression in times.items():
        at = store.query(f"SELECT toDateTime64({expression}, 3, 'UTC') AS at")["at"].combine_chunks()
        columns[name] = pa.concat_arrays([at] * len(rows)).cast(pa.timestamp("ms", "UTC"))
    store.insert(table, pa.table(columns))


def histogram_of(values: list[float]) -> dict[int, int]:
    keys, counts = np.unique(bucket_key(values), return_counts=True)
    return dict(zip(keys.tolist(), counts.tolist(), strict=True))


def test_coarser_windows_are_merged_from_the_newest_revisions(store: Store) -> None:
    """``metrics_over`` counts a rewritten window once and has the percentiles of the merged histogram."""
    early, late = [100.0, 200.0, 300.0], [400.0, 500.0]
    recent = "toStartOfHour(now() - INTERVAL 1 DAY)"
    insert(
        store, "metrics_5min", [window(samples=9, revision=1, histogram=histogram_of([1.0] * 9))], window_start=recent
    )
    rows = [window(samples=3, sum=600.0, max=300.0, revision=2, histogram=histogram_of(early))]
    insert(store, "metrics_5min", rows, window_start=recent)
    rows = [window(samples=2, sum=900.0, max=500.0, histogram=histogram_of(late))]
    insert(store, "metrics_5min", rows, window_start=f"{recent} + INTERVAL 10 MINUTE")
    found = store.rows("SELECT samples, sum, avg, max, p50, p95, window_start FROM metrics_over(span_s = 3600)")
    assert len(found) == 1
    samples, total, mean, largest, p50, p95, start = found[0]
    assert (samples, total, mean, largest) == (5, 1500.0, 300.0, 500.0)
    assert start % 3600 == 0
    assert p50 == pytest.approx(300, rel=0.01)
    assert p95 == pytest.approx(np.quantile(early + late, 0.95), rel=0.01)


def test_slowest_tests_and_pass_rates(store: Store) -> None:
    """The slowest test and the worst suite come first; metric types other than duration have no say."""
    now = "now() - INTERVAL 1 HOUR"
    insert(
        store,
        "metrics_5min",
        [
            window(
                test_suite="a",
                test_id="fast",
                total=10,
                passed=10,
                failed=0,
                histogram=histogram_of([10.0] * 10),
                min=10.0,
                max=10.0,
            ),
            window(
                test_suite="b",
                test_id="slow",
                total=4,
                passed=3,
                failed=1,
                histogram=histogram_of([900.0] * 4),
                min=900.0,
                max=900.0,
            ),
            window(test_suite="c", test_id="x", metric_type="lcp", histogram=histogram_of([9000.0])),
            window(test_suite="d", test_id="skipped", metric_type="DURATION", total=0, passed=0, failed=0),
        ],
        window_start=now,
    )
    slowest = store.rows("SELECT test_id, p95 FROM slowest_tests WHERE test_id != 'skipped'")
    assert [row[0] for row in slowest] == ["slow", "fast"]
    assert slowest[0][1] == pytest.approx(900, rel=0.01)
    rates = store.rows("SELECT test_suite, total, success_rate FROM pass_rate_by_suite")
    assert rates == [("b", 4, 0.75), ("a", 10, 1.0)]


def test_a_rating_never_contradicts_its_counts(store: Store) -> None:
    """Ratings of the views are those of ``web_vitals`` rating one window with the same counts: good at exactly 75 %."""
    rows = []
    for page, (good, middle, poor) in {"/75": (75, 25, 0), "/74": (74, 26, 0), "/bad": (10, 64, 26)}.items():
        lcp = VITALS["lcp"]
        values = [lcp.good] * good + [lcp.poor] * middle + [lcp.poor * 2] * poor
        counts = {"good": good, "needs_improvement": middle, "poor": poor, "samples": len(values)}
        rows.append(
            {
                "vital": "lcp",
                "page": page,
                "browser": "chrome",
                "histogram": histogram_of(values),
                "p75": float(np.quantile(values, 0.75)),
                "revision": 1,
                **counts,
            }
        )
    insert(store, "web_vitals", rows, window_start="now() - INTERVAL 2 HOUR")
    for view in ("vitals_by_browser_and_page", "page_assessment_28d"):
        found = store.rows(f"SELECT page, rating, p75 FROM {view} ORDER BY page")
        assert [row[:2] for row in found] == [("/74", "needs_improvement"), ("/75", "good"), ("/bad", "poor")]
        assert found[1][2] == 2500.0, "what rates is the least value that three quarters do not exceed"


def test_a_merged_p75_lies_on_the_side_of_its_rating(store: Store) -> None:
    """At the border of a bound, where the histogram's 1 % could put it on the other side, it follows the counts."""
    chance = np.random.default_rng(7)
    rows, expected = [], {}
    for number in range(60):
        vital = list(VITALS.values())[number % len(VITALS)]
        bound = vital.good if number % 2 else vital.poor
        values = bound * (1 + chance.integers(-3, 4, size=int(chance.integers(1, 9))) * 0.002)
        counts = np.bincount(rate(values, vital.good, vital.poor), minlength=3).tolist()
        expected[f"/{number}"] = vital
        row = {"vital": vital.name, "page": f"/{number}", "browser": "chrome", "histogram": histogram_of([*values])}
        rows.append(row | {"revision": 1, "samples": len(values), **dict(zip(RATINGS, counts, strict=True))})
    insert(store, "web_vitals", rows, window_start="now() - INTERVAL 2 HOUR")
    found = store.rows("SELECT page, rating, p75 FROM vitals_by_browser_and_page")
    assert len(found) == 60
    for page, rating, p75 in found:
        vital = expected[page]
        assert RATINGS[int(rate(np.array([p75]), vital.good, vital.poor)[0])] == rating, (page, p75)
    for vital in VITALS.values():
        assert store.rows("SELECT vitalGood({v:String}), vitalPoor({v:String})", {"v": vital.name}) == [
            (vital.good, vital.poor)
        ]


def test_open_dead_letters_are_those_without_a_mark(store: Store) -> None:
    """A letter that was replayed or dropped is no longer open; one with the same position elsewhere is."""
    letters = [{"segment": s, "position": p, "reason": "r"} for s, p in (("a", 1), ("a", 2), ("b", 1))]
    insert(store, "dead_letters", letters, refused_at="now()")
    insert(store, "dead_letter_marks", [{"segment": "a", "position": 1, "mark": "replayed"}], marked_at="now()")
    assert store.rows("SELECT segment, position FROM dead_letters_open ORDER BY ALL") == [("a", 2), ("b", 1)]


def test_current_baselines_are_the_last_ones(store: Store) -> None:
    """Of each suite the baseline computed last, of whatever state."""
    insert(
        store,
        "baselines",
        [{"test_suite": "a", "centre": 1.0}, {"test_suite": "b", "centre": 5.0}],
        computed_at="now() - 100",
    )
    insert(store, "baselines", [{"test_suite": "a", "centre": 2.0}], computed_at="now()")
    assert store.rows("SELECT test_suite, centre FROM current_baselines ORDER BY test_suite") == [
        ("a", 2.0),
        ("b", 5.0),
    ]


def test_alerts_now_are_those_whose_last_transition_leads_there(store: Store) -> None:
    """A resolved alert is gone; a written-twice transition counts once."""
    for age, alert, state in ((30, "a", "pending"), (20, "a", "firing"), (20, "b", "firing"), (10, "b", "resolved")):
        row = {"rule": "r", "alert_id": alert, "transition_id": f"{alert}{state}", "to_state": state}
        for _ in range(2):
            insert(
                store, "alerts", [dict(row)], at=f"toDateTime('2030-01-01 00:00:00', 'UTC') - {age}", written_at="now()"
            )
    assert store.rows("SELECT alert_id, to_state FROM alerts_now") == [("a", "firing")]


def test_what_regressed_leaves_out_improvements(store: Store) -> None:
    """Only regressions of the last week, the clearest first."""
    rows = [
        {"test_suite": "a", "direction": "regression", "effect_spreads": 2.0},
        {"test_suite": "b", "direction": "improvement", "effect_spreads": -9.0},
        {"test_suite": "c", "direction": "regression", "effect_spreads": 7.0},
    ]
    insert(store, "change_points", rows, changed_at="now() - INTERVAL 1 DAY", detected_at="now()")
    insert(store, "change_points", [rows[0]], changed_at="now() - INTERVAL 9 DAY", detected_at="now()")
    assert store.rows("SELECT test_suite FROM what_regressed") == [("c",), ("a",)]


def test_status_words_agree_with_pythons(store: Store) -> None:
    """``statusWord`` folds case, separators and synonyms as Python does, for every known word and for others."""
    words = [word for words in SYNONYMS.values() for word in words]
    sent = [*words, *(word.upper() for word in words), "Timed Out", "not-run", " ok ", "", "Weird Word"]
    found = store.rows("SELECT arrayMap(s -> statusWord(s), {sent:Array(String)})", {"sent": sent})[0][0]
    assert found == [status_word(word) for word in sent]


def test_merged_percentiles_stay_within_the_values(store: Store) -> None:
    """A percentile of merged windows lies between their minimum and maximum; of one sample it is that one."""
    keys = [int(key) for key in bucket_key([2500.0, 2500.0, 1.0])]
    found = store.rows(
        "SELECT histogramQuantileBetween(mapFromArrays([{one:Int32}], [toUInt64(1)]), 0.95, 2500, 2500), "
        "histogramQuantile(mapFromArrays([{one:Int32}], [toUInt64(1)]), 0.95) = 2500, "
        "isNaN(histogramQuantileBetween(mapFromArrays(emptyArrayInt32(), emptyArrayUInt64()), 0.5, nan, nan))",
        {"one": keys[0]},
    )
    assert found == [(2500.0, 0, 1)]
    store.command(
        "INSERT INTO metrics_5min (window_start, metric_type, test_id, samples, min, max, histogram) "
        f"SELECT toStartOfFiveMinutes(now()) - number * 300, 'duration', 't', 1, 2500, 2500, map({keys[0]}, 1) "
        "FROM numbers(3)"
    )
    ends = store.rows("SELECT min(p50), max(p99) FROM metrics_over(span_s = 86400)")
    assert ends == [(2500.0, 2500.0)]
    assert store.rows("SELECT p50, p95 FROM slowest_tests") == [(2500.0, 2500.0)]
