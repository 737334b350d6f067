"""Web Vitals against web-vitals' boundaries, Lighthouse's published scores, numpy, and a plain-Python model."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analyse import vitals
from pipeline.analyse.histogram import RELATIVE_ERROR, histogram_quantile
from pipeline.analyse.intervals import order_statistic_ranks

ALIASES = {"chromium": "chrome", "webkit": "safari", "MSEdge": "edge"}


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Raw metrics from what differs from one plain LCP each."""
    columns = {
        "metric_type": ("lcp", pa.string()),
        "environment": ("", pa.string()),
        "browser": ("chrome", pa.string()),
        "page": ("/", pa.string()),
        "value": (1000.0, pa.float64()),
        "timestamp": (0, pa.timestamp("ms", "UTC")),
        "id": ("", pa.string()),
        "segment": ("s", pa.string()),
        "position": (0, pa.uint32()),
    }
    return pa.table(
        {name: pa.array([row.get(name, default) for row in rows], kind) for name, (default, kind) in columns.items()}
    )


def assess(rows: Sequence[dict[str, Any]], **keywords: Any) -> list[dict[str, Any]]:
    """The assessment of ``rows`` as Python rows."""
    found: list[dict[str, Any]] = vitals.assess(table(rows), ALIASES, **keywords).to_pylist()
    return found


def of_values(values: Sequence[float], metric_type: str = "lcp") -> dict[str, Any]:
    """The assessment of one group."""
    (found,) = assess([{"metric_type": metric_type, "value": value} for value in values])
    return found


# Rating


@pytest.mark.parametrize(
    ("name", "good", "poor"),
    [
        # GoogleChrome/web-vitals, test/unit/lib/getMetricRatingThresholds-test.js.
        ("cls", 0.1, 0.25),
        ("fcp", 1800, 3000),
        ("fid", 100, 300),
        ("inp", 200, 500),
        ("lcp", 2500, 4000),
        ("ttfb", 800, 1800),
    ],
)
def test_boundaries_are_those_of_web_vitals_and_inclusive(name: str, good: float, poor: float) -> None:
    """A value on a boundary belongs to the better side; the next float does not."""
    steps = [0.0, good, math.nextafter(good, math.inf), poor, math.nextafter(poor, math.inf), 1e308]
    ratings = [of_values([value], name)["rating"] for value in steps]
    assert ratings == ["good", "good", "needs_improvement", "needs_improvement", "poor", "poor"]


@pytest.mark.parametrize(
    ("value", "rating"),
    # GoogleChrome/web-vitals, test/unit/bindReporter-test.js, with the thresholds of CLS.
    [(0, 0), (0.05, 0), (0.15, 1), (0.3, 2), (0.101, 1), (0.251, 2)],
)
def test_ratings_of_web_vitals_own_tests(value: float, rating: int) -> None:
    """The library's own examples are rated as the library rates them."""
    cls = vitals.VITALS["cls"]
    assert vitals.rate(np.array([value]), cls.good, cls.poor).tolist() == [rating]


@pytest.mark.parametrize("samples", range(1, 200))
def test_the_rated_p75_is_numpys_inverted_cdf(samples: int) -> None:
    """For every size, in whole numbers, without a rounding error in 0.75 n."""
    values = np.arange(samples, dtype=np.float64)
    expected = np.quantile(values, 0.75, method="inverted_cdf")
    assert values[int(vitals.inverted_cdf_rank(samples))] == expected


around_the_boundaries = st.sampled_from([0.0, 0.1, 0.10000000000000002, 0.2, 0.25, 0.25000000000000006, 3.0])


@given(st.lists(around_the_boundaries, min_size=1, max_size=40))
def test_good_means_at_least_three_quarters_good(values: list[float]) -> None:
    """The rating and the counts can never contradict each other, in either direction, for either boundary."""
    found = of_values(values, "cls")
    counts = [found["good"], found["needs_improvement"], found["poor"]]
    assert counts == [
        sum(v <= 0.1 for v in values),
        sum(0.1 < v <= 0.25 for v in values),
        sum(v > 0.25 for v in values),
    ]
    assert sum(counts) == found["samples"] == len(values)
    assert (found["rating"] == "good") == (4 * counts[0] >= 3 * len(values))
    assert (found["rating"] == "poor") == (4 * (counts[0] + counts[1]) < 3 * len(values))


def test_shown_and_rated_p75_may_differ() -> None:
    """Three of four page views are good: so is the page, although the linear p75 lies above the boundary."""
    found = of_values([100, 100, 200, 300], "inp")
    assert (found["p75"], found["p75_rated"], found["rating"]) == (225.0, 200.0, "good")


# What is computed of a group


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_statistics_are_numpys_and_do_not_depend_on_order(values: list[float], random: Any) -> None:
    """Percentiles are numpy's linear ones, and shuffled rows give the same bits."""
    found = of_values(values)
    shuffled = list(values)
    random.shuffle(shuffled)
    assert repr(of_values(shuffled)) == repr(found)
    expected = np.quantile(np.array(values) + 0.0, [0.5, 0.75, 0.9, 0.95, 0.99], method="linear")
    assert [found[name] for name in ("p50", "p75", "p90", "p95", "p99")] == expected.tolist()
    assert found["avg"] == pytest.approx(math.fsum(values) / len(values), rel=1e-15)


def test_the_histogram_answers_percentiles_within_one_percent() -> None:
    """What a later question merges is the distribution of the samples themselves."""
    values = np.random.default_rng(4).lognormal(7, 1, 500)
    found = of_values(values.tolist())
    keys, counts = zip(*found["histogram"], strict=True)
    assert sum(counts) == 500
    assert histogram_quantile(keys, counts, [0.75])[0] == pytest.approx(found["p75"], rel=RELATIVE_ERROR)


@pytest.mark.parametrize(
    ("samples", "p75_is_bounded", "p95_is_bounded"),
    [(1, False, False), (12, False, False), (13, True, False), (71, True, False), (72, True, True)],
)
def test_too_few_samples_give_no_bounds_and_say_so(samples: int, p75_is_bounded: bool, p95_is_bounded: bool) -> None:
    """Bounds are samples; below 13 (p75) and 72 (p95) there are none and confidence is low."""
    found = of_values([float(value) for value in range(1, samples + 1)])
    assert found["low_confidence"] is not p75_is_bounded
    assert found["p95_low_confidence"] is not p95_is_bounded
    for name, quantile, is_bounded in (("p75", 0.75, p75_is_bounded), ("p95", 0.95, p95_is_bounded)):
        bounds = found[f"{name}_low"], found[f"{name}_high"]
        if is_bounded:
            # The k-th smallest sample is k.
            assert bounds == tuple(map(int, order_statistic_ranks(samples, quantile)))
        else:
            assert all(map(math.isnan, bounds))


def test_bounds_hold_the_true_percentile_as_often_as_they_say() -> None:
    """Of 2,000 groups of an exponential distribution at least 95 % hold its p75 (and p95) between the bounds."""
    samples, groups = 90, 2000
    values = np.random.default_rng(20250111).exponential(1000, samples * groups)
    rows = table([{}]).take(pa.array(np.zeros(samples * groups, dtype=np.int64)))
    rows = rows.set_column(rows.column_names.index("value"), "value", pa.array(values))
    pages = pa.array(np.repeat(np.arange(groups), samples).astype(str))
    found = vitals.assess(rows.set_column(rows.column_names.index("page"), "page", pages), {})
    for quantile, name in ((0.75, "p75"), (0.95, "p95")):
        truth = -1000 * math.log(1 - quantile)
        low, high = (found.column(f"{name}_{side}").to_numpy() for side in ("low", "high"))
        held = float(np.mean((low <= truth) & (truth <= high)))
        # Three standard deviations of a share of 0.95 among 2,000 are 0.015; ranks are whole, so coverage is above.
        assert 0.95 - 0.015 <= held <= 0.999


# Who belongs together


def test_names_are_compared_without_letter_case_and_reported_once() -> None:
    """Every spelling of a vital and a browser meets in one group; what is no vital is passed over."""
    found = assess(
        [
            {"metric_type": "LCP", "browser": "chromium"},
            {"metric_type": "Lcp", "browser": "Chrome"},
            {"metric_type": "lcp", "browser": "CHROMIUM"},
            {"metric_type": "FID", "browser": "msedge", "value": 20.0},
            {"metric_type": "lcp_element", "browser": "chrome"},
            {"metric_type": "duration", "browser": "chrome"},
        ]
    )
    assert [(row["vital"], row["browser"], row["samples"], row["is_legacy"]) for row in found] == [
        ("fid", "edge", 1, True),
        ("lcp", "chrome", 3, False),
    ]


def test_groups_are_environment_browser_and_page_unless_told_otherwise() -> None:
    """A window tells pages and environments apart; the rolling figures of a browser take them together."""
    rows = [
        {"page": page, "environment": environment, "value": 100.0 * n}
        for n, (page, environment) in enumerate([("/", "prod"), ("/a", "prod"), ("/", "staging"), ("/", "prod")])
    ]
    keys = [(row["environment"], row["page"], row["samples"]) for row in assess(rows)]
    assert keys == [("prod", "/", 2), ("prod", "/a", 1), ("staging", "/", 1)]
    (together,) = assess(rows, dimensions=("browser",))
    assert (together["samples"], together["avg"]) == (4, 150.0)
    assert "page" not in together


def test_no_views_are_an_empty_table_of_the_same_columns() -> None:
    """Nothing to assess is not an error."""
    nothing = vitals.assess(table([{"metric_type": "duration"}]), ALIASES)
    assert nothing.num_rows == 0
    assert nothing.column_names == vitals.assess(table([{}]), ALIASES).column_names


# Repeated reports of one page view

reports = st.fixed_dictionaries(
    {
        "metric_type": st.sampled_from(["lcp", "CLS"]),
        "browser": st.sampled_from(["chromium", "chrome", "firefox"]),
        "id": st.sampled_from(["", "v1", "v2"]),
        "timestamp": st.integers(0, 3),
        "segment": st.sampled_from(["a", "b"]),
        "position": st.integers(0, 3),
        "value": st.integers(0, 50).map(float),
    }
)


@given(st.lists(reports, max_size=25, unique_by=lambda row: (row["segment"], row["position"])))
def test_a_page_view_counts_once_with_its_last_value(rows: list[dict[str, Any]]) -> None:
    """The same as sorting by (timestamp, segment, position) and letting a later report overwrite an earlier one."""
    views: dict[tuple[Any, ...], dict[object, float]] = {}
    for row in sorted(rows, key=lambda row: (row["timestamp"], row["segment"], row["position"])):
        group = row["metric_type"].lower(), ALIASES.get(row["browser"], row["browser"])
        views.setdefault(group, {})[row["id"] or object()] = row["value"]
    expected = {group: (len(values), math.fsum(values.values())) for group, values in views.items()}
    found = {(row["vital"], row["browser"]): (row["samples"], row["avg"] * row["samples"]) for row in assess(rows)}
    assert found.keys() == expected.keys()
    for group, (samples, total) in expected.items():
        assert found[group] == (samples, pytest.approx(total))


# Lighthouse


def test_scores_of_lighthouses_own_curve() -> None:
    """shared/test/statistics-test.js: median 7300, p10 3785; control points exactly, the others to 0.01."""
    values = [0, 1000, 2500, 3785, 5000, 7300, 7500, 10000, 30000, 1_000_000]
    scores = vitals.lighthouse_score(values, 3785, 7300)
    assert scores == pytest.approx([1, 1.00, 0.98, 0.9, 0.77, 0.5, 0.48, 0.27, 0.00, 0], abs=0.01)
    assert (scores[0], scores[3], scores[5]) == (1.0, 0.9, 0.5)
    assert vitals.lighthouse_score([-100_000, -1, 0], 500, 1000).tolist() == [1, 1, 1]


def shown(score: float) -> float:
    """Two digits as Lighthouse's ``computeLogNormalScore`` shows them."""
    if score > 0.9:
        score += 0.05 * (score - 0.9)
    return math.floor(score * 100) / 100


@pytest.mark.parametrize(
    ("value", "p10", "median", "score"),
    [
        # core/test/results/sample_v2.json of Lighthouse 13.4: FCP, LCP, Speed Index.
        (6795.362, 1800, 3000, 0.02),
        (10884.681, 2500, 4000, 0.0),
        (8296, 3387, 5800, 0.19),
        # core/test/audits/metrics: LCP on mobile and desktop, FCP of two traces.
        (1121.711, 2500, 4000, 1.0),
        (1121.711, 1200, 2400, 0.92),
        (167.323, 1800, 3000, 1.0),
        (5668.275, 1800, 3000, 0.05),
    ],
)
def test_scores_of_lighthouses_published_reports(value: float, p10: float, median: float, score: float) -> None:
    """Values and scores that Lighthouse's own reports and audit tests print."""
    assert shown(float(vitals.lighthouse_score(value, p10, median))) == score


@pytest.mark.parametrize(
    ("p10", "median"),
    # shared/test/statistics-test.js: ordinary pairs, and pairs at the edges of what floats can hold.
    [
        (200, 600),
        (3387, 5800),
        (0.1, 0.25),
        (28 * 1024, 128 * 1024),
        (5e-324, 1e-323),
        (5e-324, 21.239999999999977),
        (99.56000000000073, 99.56000000000074),
        (math.nextafter(1.7976931348623157e308, 0), 1.7976931348623157e308),
        (5e-324, 1.7976931348623157e308),
    ],
)
def test_scores_stay_on_the_right_side_of_the_control_points(p10: float, median: float) -> None:
    """One float worse than a control point always shows in the score, as in Lighthouse's own test."""

    def score(value: float) -> float:
        return float(vitals.lighthouse_score(value, p10, median))

    assert score(0) == 1
    assert score(5e-324) <= 1
    assert score(math.nextafter(p10, 0)) >= 0.9
    assert score(p10) == pytest.approx(0.9, abs=1e-15) and score(p10) >= 0.9
    assert score(math.nextafter(p10, math.inf)) < 0.9
    assert score(math.nextafter(median, 0)) >= 0.5
    assert score(median) == 0.5
    assert score(math.nextafter(median, math.inf)) < 0.5
    assert min(score(value) for value in (1e9, 2**53 - 1, 1.7976931348623157e308)) >= 0


@pytest.mark.parametrize("name", ["lcp", "inp", "cls", "fcp"])
def test_score_and_rating_tell_the_same_story(name: str) -> None:
    """With the mobile control points, 0.9 and better is good, below 0.5 poor, at the very boundary too."""
    vital = vitals.VITALS[name]
    for value in (vital.good, math.nextafter(vital.good, math.inf), vital.poor, math.nextafter(vital.poor, math.inf)):
        found = of_values([value], name)
        by_score = "good" if found["lighthouse_score"] >= 0.9 else "needs_improvement"
        assert found["rating"] == ("poor" if found["lighthouse_score"] < 0.5 else by_score)


def test_vitals_without_a_score_have_none() -> None:
    """Lighthouse scores neither TTFB nor FID; neither do we."""
    assert math.isnan(of_values([100], "ttfb")["lighthouse_score"])
    assert math.isnan(of_values([100], "fid")["lighthouse_score"])


def test_desktop_scores_by_environment() -> None:
    """The control points are those of the environment's form factor, and the row names it; the rating stays."""
    rows = [{"metric_type": "lcp", "value": 1200.0, "environment": name} for name in ("desk", "phone")]
    aliased = vitals.assess(table(rows), ALIASES, form_factors=vitals.FormFactors("mobile", {"desk": "desktop"}))
    desk, phone = aliased.to_pylist()
    assert (desk["form_factor"], phone["form_factor"]) == ("desktop", "mobile")
    assert desk["lighthouse_score"] == pytest.approx(0.9)
    assert phone["lighthouse_score"] > 0.98
    assert desk["rating"] == phone["rating"] == "good"


@pytest.mark.parametrize(("name", "value"), [("tbt", 200.0), ("Speed_Index", 2300.0)])
def test_what_only_laboratories_measure_is_rated_as_lighthouse_colours_it(name: str, value: float) -> None:
    """TBT and Speed Index are good up to the p10 of their form factor and poor above its median, to the last bit."""
    rows = [
        {"metric_type": name, "value": one, "environment": place}
        for place in ("desk", "phone")
        for one in (value, math.nextafter(value, math.inf))
    ]
    found = vitals.assess(table(rows), ALIASES, form_factors=vitals.FormFactors("mobile", {"desk": "desktop"}))
    desk, phone = found.to_pylist()
    counts = [[row[rating] for rating in vitals.RATINGS] for row in (desk, phone)]
    assert counts == ([[0, 2, 0], [1, 1, 0]] if name == "tbt" else [[0, 1, 1], [2, 0, 0]])
    assert desk["lighthouse_score"] < phone["lighthouse_score"]
