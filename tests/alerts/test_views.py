"""The numbers that rules see: against numpy over the raw values, and against the product's own histograms."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from pipeline.alerts.judge.entry_views import Baseline, ChangePoint
from pipeline.alerts.judge.memory_source import MemorySource
from pipeline.alerts.judge.merged_windows import student
from pipeline.alerts.judge.sources import SourceBatch
from pipeline.alerts.judge.views import ObservedSeries, View
from pipeline.alerts.rules.rule import MINUTE_MS, Rule
from pipeline.analyse.cycles import slot
from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.histogram import bucket_key, histogram_quantile
from pipeline.analyse.intervals import order_statistic_ranks, wilson

T0 = 2_524_608_000_000
"""2050-01-01: no table's TTL has passed by then."""


def raw(rows: list[dict[str, Any]]) -> pa.Table:
    """Raw rows: minute (from T0), value and whatever dimensions differ from nothing."""
    columns: dict[str, Any] = {
        name: pa.array([row.get(name, "duration" if name == "metric_type" else "") for row in rows], pa.string())
        for name in (*SERIES, "status")
    }
    columns["timestamp_ms"] = pa.array([T0 + row["minute"] * MINUTE_MS + 1 for row in rows], pa.int64())
    columns["value"] = pa.array([float(row["value"]) for row in rows], pa.float64())
    return pa.table(columns)


def view(source: MemorySource, rule: Rule, minute: int) -> View:
    """What the rule sees at a minute."""
    tick_ms = T0 + minute * MINUTE_MS
    return SourceBatch(source, [rule], tick_ms, tick_ms, {}).view_at(rule)(tick_ms)


def observed(source: MemorySource, rule: Rule, minute: int, labels: tuple[str, ...] = ()) -> ObservedSeries:
    """The observation of one group."""
    seen = view(source, rule, minute)
    return seen.observe(rule, np.array([seen.number(labels)]))


def rule(statistic: str, **fields: Any) -> Rule:
    """A rule over durations."""
    return Rule("r", 0.0, metrics=("duration",), statistic=statistic, **fields)


RNG = np.random.default_rng(20250111)
VALUES = RNG.lognormal(7, 0.5, 600)
BROWSERS = ("chrome", "edge", "safari")
ROWS = raw(
    [
        {"minute": i % 5, "value": v, "browser": BROWSERS[i % 3], "status": "passed" if i % 7 else "failed"}
        for i, v in enumerate(VALUES)
    ]
)
SOURCE = MemorySource(ROWS)
FIVE = {"window_ms": 5 * MINUTE_MS}


@pytest.mark.parametrize("statistic", ["avg", "max", "p95", "sum"])
def test_a_window_of_retried_attempts_has_no_number(statistic: str) -> None:
    """A minute in which every attempt was tried again says nothing, and takes nothing from the minutes around it."""
    slow = [{"minute": 0, "value": 60.0, "status": "passed"}] * 5
    retried = [{"minute": 1, "value": 9.0, "status": "retried"}] * 3
    found = [
        observed(MemorySource(raw(rows)), rule(statistic, window_ms=2 * MINUTE_MS), 2).value[0]
        for rows in (slow, slow + retried)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("avg", VALUES.mean()),
        ("sum", VALUES.sum()),
        ("min", VALUES.min()),
        ("max", VALUES.max()),
        ("count", 600),
        ("failure_rate", 100 * len(VALUES[::7]) / 600),
    ],
)
def test_sums_and_rates_are_exact_over_windows_and_series(statistic: str, expected: float) -> None:
    """What adds up is what numpy gives over the raw values, across windows and series."""
    seen = observed(SOURCE, rule(statistic, **FIVE), 5)
    assert_allclose(seen.value, expected, rtol=1e-12)
    assert seen.samples[0] == 600


@pytest.mark.parametrize("level", ["p50", "p75", "p90", "p95", "p99", "p99.9"])
def test_merged_percentiles_are_within_one_percent(level: str) -> None:
    """A percentile over windows and series is that of the merged histogram, within 1 % of numpy's over the values."""
    found = observed(SOURCE, rule(level, **FIVE), 5).value[0]
    quantile = float(level[1:]) / 100
    assert_allclose(found, np.quantile(VALUES, quantile), rtol=0.01)
    assert found == histogram_quantile(bucket_key(VALUES), np.ones(600, np.int64), [quantile])[0]


def test_one_stored_window_gives_its_exact_percentile() -> None:
    """A group that is a single window of a single series has the exact percentile, not the histogram's."""
    one = MemorySource(raw([{"minute": 0, "value": v} for v in VALUES]))
    assert observed(one, rule("p95"), 1).value[0] == np.quantile(VALUES, 0.95)


def test_groups_are_told_apart_by_their_labels() -> None:
    """Each group sees the rows with its labels and no others."""
    by_browser = rule("avg", by=("browser",), **FIVE)
    for i, browser in enumerate(BROWSERS):
        assert_allclose(observed(SOURCE, by_browser, 5, (browser,)).value, VALUES[i::3].mean(), rtol=1e-12)


def test_windows_outside_the_range_are_not_seen() -> None:
    """A window belongs to a tick if it begins at most ``window`` before it and has ended by it."""
    expected = VALUES.reshape(-1, 5)[:, 2:4].mean()
    assert_allclose(observed(SOURCE, rule("avg", window_ms=2 * MINUTE_MS), 4).value, expected, rtol=1e-12)


def test_where_and_metric_choose_rows_in_any_letter_case_of_the_metric() -> None:
    """``where`` restricts dimensions; metric types are compared without regard to case."""
    source = MemorySource(
        raw(
            [
                {"minute": 0, "value": 1, "metric_type": "Duration", "environment": "staging"},
                {"minute": 0, "value": 3, "metric_type": "duration", "environment": "staging"},
                {"minute": 0, "value": 100, "environment": "production"},
                {"minute": 0, "value": 100, "metric_type": "lcp", "environment": "staging"},
            ]
        )
    )
    assert observed(source, rule("avg", where={"environment": ("staging",)}), 1).value[0] == 2


@given(st.integers(2, 400), st.sampled_from([0.5, 0.75, 0.95]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_percentile_bounds_enclose_the_order_statistics(samples: int, quantile: float, seed: int) -> None:
    """Bounds lie on the far side of the order statistics, at most 2.1 % away, and surround the value."""
    values = np.sort(np.random.default_rng(seed).lognormal(5, 1, samples))
    source = MemorySource(raw([{"minute": 0, "value": v} for v in values]))
    seen = observed(source, rule(f"p{quantile * 100:g}"), 1)
    low, high = (int(rank[0]) for rank in order_statistic_ranks(np.array([samples]), quantile))
    if low >= 1:
        assert values[low - 1] * 0.979 <= seen.low[0] <= min(values[low - 1], seen.value[0])
    else:
        assert np.isnan(seen.low[0])
    if high <= samples:
        assert max(values[high - 1], seen.value[0]) <= seen.high[0] <= values[high - 1] * 1.021
    else:
        assert np.isnan(seen.high[0])


def test_mean_bounds_are_students() -> None:
    """The interval of a mean is Student's, to the width of a bucket; with one sample there is none."""
    seen = observed(SOURCE, rule("avg", **FIVE), 5)
    half = 1.9639 * VALUES.std(ddof=1) / np.sqrt(600)
    assert_allclose(seen.high - seen.value, half, rtol=0.02)
    assert_allclose(seen.value - seen.low, half, rtol=0.02)
    alone = MemorySource(raw([{"minute": 0, "value": 5}]))
    assert np.isnan(observed(alone, rule("avg"), 1).low[0])
    two = observed(MemorySource(raw([{"minute": 0, "value": 10}, {"minute": 0, "value": 20}])), rule("avg"), 1)
    assert_allclose(two.low, 15 - 12.7062 * 5, rtol=0.03)
    equal = observed(MemorySource(raw([{"minute": 0, "value": 10}] * 3)), rule("avg"), 1)
    assert (equal.low[0], equal.high[0]) == (10, 10)


def test_students_t() -> None:
    """Quantiles of Student's distribution agree with published tables."""
    table = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 11: 2.201, 20: 2.086, 30: 2.042, 120: 1.980, 100_000: 1.960}
    assert_allclose(student(np.array(list(table), dtype=float)), list(table.values()), atol=0.0006)


def test_failure_rate_bounds_are_wilsons() -> None:
    """The bounds of a failure rate are Wilson's over the executions that count; skipped ones do not."""
    rows = [{"minute": 0, "value": 1, "status": s} for s in ["failed"] * 3 + ["passed"] * 16 + [""] + ["skipped"] * 9]
    seen = observed(MemorySource(raw(rows)), rule("failure_rate"), 1)
    low, high = wilson(3, 20)
    assert (seen.value[0], seen.samples[0]) == (15.0, 20)
    assert_allclose([seen.low[0], seen.high[0]], [100 * low, 100 * high])


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_candidates_are_a_superset_of_the_breaches(data: st.DataObject) -> None:
    """Whatever lies beyond the threshold is among the groups that arrays pick out."""
    rows = [
        {"minute": minute, "value": data.draw(st.floats(0, 100)), "page": page}
        for page in ("a", "b", "c")
        for minute in range(data.draw(st.integers(1, 3)))
    ]
    source = MemorySource(raw(rows))
    for statistic in ("avg", "p50", "p99", "max", "count"):
        for direction in ("above", "below"):
            judged = replace(
                rule(statistic, by=("page",), **FIVE), threshold=data.draw(st.floats(0, 100)), direction=direction
            )
            seen = view(source, judged, 5)
            values = seen.observe(judged, np.arange(3)).value
            beyond = {g for g in range(3) if judged.beyond(values[g], active=False)}
            assert beyond <= set(seen.groups_beyond(judged).tolist())


def test_age_is_the_time_since_the_last_window() -> None:
    """Age counts from the end of the last window with samples, also across what one batch reads."""
    source = MemorySource(raw([{"minute": 0, "value": 1, "page": "a"}, {"minute": 9, "value": 1, "page": "b"}]))
    age = rule("age", by=("page",), remember_ms=60 * MINUTE_MS)
    seen = view(source, age, 12)
    groups = np.array([seen.number(("a",)), seen.number(("b",))])
    assert seen.observe(age, groups).value.tolist() == [11 * 60.0, 2 * 60.0]
    assert observed(source, replace(age, by=()), 30).value[0] == 20 * 60.0


def test_a_series_is_missing_until_it_is_forgotten() -> None:
    """With no_data: alert a series that was seen within ``remember`` is missing; before and after it is unknown."""
    source = MemorySource(raw([{"minute": 0, "value": 1, "page": "a"}]))
    watched = rule("avg", by=("page",), no_data="alert", remember_ms=30 * MINUTE_MS)
    missing = [minute for minute in range(1, 40) if len(view(source, watched, minute).groups_missing(watched))]
    assert missing == list(range(2, 31))


def test_poor_share_counts_what_web_vitals_rates_poor() -> None:
    """poor_share is the exact share of values above the poor limit, browsers by their reported names."""
    rows = [
        {"minute": 0, "value": v, "metric_type": "LCP", "browser": b, "page": "/"}
        for v, b in [(1000, "chromium"), (4000, "chrome"), (4001, "chromium"), (9000, "chrome")]
    ]
    source = MemorySource(raw(rows), browser_aliases={"chromium": "chrome"})
    poor = Rule("r", 25.0, metrics=("lcp",), statistic="poor_share", by=("browser",), window_ms=5 * MINUTE_MS)
    seen = observed(source, poor, 5, ("chrome",))
    assert (seen.value[0], seen.samples[0]) == (50.0, 4)
    p75 = replace(poor, statistic="vital_p75")
    assert observed(source, p75, 5, ("chrome",)).value[0] == np.quantile([1000, 4000, 4001, 9000], 0.75)


def test_change_is_measured_against_the_baseline_known_when_the_window_began() -> None:
    """The newest baseline of exactly these dimensions counts, but none computed during the window."""
    source = MemorySource(
        raw([{"minute": m, "value": 130, "test_suite": s} for m in range(10) for s in ("a", "b") for _ in range(3)]),
        baselines=[
            Baseline(T0 - 2, {"test_suite": "a"}, 50.0, 5.0, 99),
            Baseline(T0 - 1, {"test_suite": "a"}, 100.0, 10.0, 99),
            Baseline(T0 - 1, {"test_suite": "a", "browser": "edge"}, 130.0, 10.0, 99),
            Baseline(T0 + 8 * MINUTE_MS, {"test_suite": "a"}, 130.0, 10.0, 99),
        ],
    )
    change = rule("change_pct", by=("test_suite",), window_ms=5 * MINUTE_MS)
    assert observed(source, change, 10, ("a",)).value[0] == pytest.approx(30)
    assert observed(source, replace(change, statistic="change_spreads"), 10, ("a",)).value[0] == pytest.approx(3)
    assert not observed(source, change, 10, ("b",)).present[0]
    assert view(source, change, 10).context(change, 0) == {"baseline": 100.0, "spread": 10.0}


def test_a_change_point_is_seen_once_it_was_found_and_for_a_window() -> None:
    """A change counts from when it was found until it is ``window`` old; of several the furthest beyond counts."""
    labels = {"metric_type": "duration", "test_suite": "a"}
    changes = [
        ChangePoint(T0, T0 + 3 * MINUTE_MS, labels, 20.0, 12, 100.0, 120.0),
        ChangePoint(T0, T0 + 3 * MINUTE_MS, labels, 40.0, 12, 100.0, 140.0),
        ChangePoint(T0, T0, {"metric_type": "lcp", "test_suite": "a"}, 90.0, 12, 1.0, 1.9),
    ]
    source = MemorySource(raw([]), change_points=changes)
    moved = replace(rule("change_point", by=("test_suite",), window_ms=10 * MINUTE_MS), threshold=15.0)
    seen = {m: view(source, moved, m).groups_beyond(moved).size for m in range(1, 12)}
    assert [m for m, size in seen.items() if size] == list(range(3, 10))
    assert observed(source, moved, 5, ("a",)).value[0] == 40.0


def test_a_night_is_compared_with_nights() -> None:
    """A baseline with a cycle is what is usual at that time: a fifth quicker at night is no change, at noon it is."""
    rows = [{"minute": m, "value": 80, "test_suite": "a"} for m in range(10) for _ in range(3)]
    usual = [1.0] * 336
    usual[int(slot((T0 + 7 * MINUTE_MS) / 1000))] = 0.8
    change = rule("change_pct", by=("test_suite",), window_ms=5 * MINUTE_MS)
    seen = {}
    for factors in ((), tuple(usual)):
        baseline = Baseline(T0 - 1, {"test_suite": "a"}, 100.0, 10.0, 99, "daily" if factors else "", factors)
        source = MemorySource(raw(rows), baselines=[baseline])
        seen[bool(factors)] = observed(source, change, 10, ("a",)).value[0]
        context = view(source, change, 10).context(change, 0)
    assert seen == {False: pytest.approx(-20), True: pytest.approx(0)}
    assert context == {"baseline": pytest.approx(80), "spread": pytest.approx(8), "cycle": "daily"}


def test_a_drift_has_a_statistic_of_its_own() -> None:
    """A drift is percent a week, is seen for a window after it was found, and is no change point."""
    labels = {"metric_type": "duration", "test_suite": "a"}
    drift = ChangePoint(
        *(T0 - 9_000_000, T0 + 2 * MINUTE_MS, labels, 20.0, 99, 100.0, 120.0),
        kind="drift",
        slope_pct_per_day=(1.0, 0.5, 1.5),
        explanation="It drifts.",
    )
    source = MemorySource(raw([]), change_points=[drift])
    drifts = replace(rule("drift", by=("test_suite",), window_ms=10 * MINUTE_MS), threshold=2.0)
    assert [m for m in range(1, 14) if view(source, drifts, m).groups_beyond(drifts).size] == list(range(2, 12))
    assert observed(source, drifts, 5, ("a",)).value[0] == pytest.approx(7.0)
    assert view(source, drifts, 5).context(drifts, 0)["explanation"] == "It drifts."
    moved = replace(drifts, statistic="change_point")
    assert not view(source, moved, 5).groups_beyond(moved).size
