"""The mergeable histogram: its bound, its merging, its edges, its SQL formula."""

import hashlib
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from ddsketch import DDSketch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.analyse import histogram
from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.histogram import (
    ORIGIN,
    RELATIVE_ERROR,
    bucket_key,
    bucket_value,
    grouped_histograms,
    histogram_quantile,
    merge,
)
from pipeline.analyse.quantiles import group_sorted
from pipeline.analyse.windows import roll_up, stamp
from pipeline.store.client import Store

EDGES_SHA256 = "0a565f871f0e21ed2b653f5638c6f80f7e418d598ae012216f5994de0fc84da8"

# What lies within the zero bucket has no relative bound; see the module's table.
TRACKED = st.floats(min_value=3.6e-308, max_value=float(np.finfo(float).max)).map(float)
VALUES = TRACKED | TRACKED.map(lambda value: -value) | st.just(0.0)

# The accuracy grid of the ddsketch package's own tests (DataDog/sketches-py, tests/test_ddsketch.py): these shapes,
# sizes and quantiles.
GRID_QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)
GRID_SIZES = (3, 5, 10, 100, 1000)
_RNG = np.random.default_rng(1)
SHAPES: dict[str, Callable[[int], np.ndarray]] = {
    "uniform forward": lambda n: np.arange(n, dtype=float),
    "uniform backward": lambda n: np.arange(n, 0, -1, dtype=float),
    "negative uniform": lambda n: -np.arange(n, dtype=float),
    "number line": lambda n: np.arange(n, dtype=float) - n // 2,
    "constant": lambda n: np.full(n, 42.0),
    "exponential": lambda n: _RNG.exponential(100, n),
    "lognormal": lambda n: _RNG.lognormal(0, 2, n) / 100,
    "normal": lambda n: _RNG.normal(37.4, 1, n),
    "laplace": lambda n: _RNG.laplace(11278, 100, n),
    "bimodal": lambda n: np.where(_RNG.random(n) < 0.5, _RNG.laplace(17.3, 1, n), _RNG.normal(-2, 3, n)),
    "integers": lambda n: np.rint(_RNG.normal(4, 2, n)),
    "layout shift": lambda n: np.where(_RNG.random(n) < 0.4, 0.0, _RNG.exponential(0.05, n)),
}


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    made = grouped_histograms(group_sorted(values, np.zeros(len(values), int), 1))
    return made.keys, made.counts


@pytest.mark.parametrize("size", GRID_SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_accuracy_grid_of_ddsketch_holds(shape: str, size: int) -> None:
    """On each shape, size and quantile of the grid the estimate is within 1 % of the exact percentile's ends.

    The ddsketch package, over the same values, answers for the lower end and agrees within both errors.
    """
    values = SHAPES[shape](size)
    estimates = histogram_quantile(*_histogram(values), GRID_QUANTILES)
    peer = DDSketch(0.01)
    for value in values.tolist():
        peer.add(value)
    ordered = np.sort(values)
    for q, estimate in zip(GRID_QUANTILES, estimates, strict=True):
        rank = q * (size - 1)
        low, high = ordered[int(rank)], ordered[min(int(rank) + 1, size - 1)]
        weight = rank - int(rank)
        allowed = RELATIVE_ERROR * ((1 - weight) * abs(low) + weight * abs(high)) * (1 + 1e-9) + 1e-300
        assert abs(estimate - np.quantile(values, q)) <= allowed
        (ours,) = histogram_quantile(*_histogram(np.array([low])), [0.5])
        assert abs(ours - peer.get_quantile_value(q)) <= 0.0201 * abs(low)


@settings(deadline=None)
@given(VALUES)
@example(float(np.finfo(float).max))
@example(2.2250738585072014e-308)
@example(5e-324)
@example(1.0)
def test_a_bucket_stands_for_its_values_within_one_percent(value: float) -> None:
    """|bucket_value - value| <= 1 % of the value, by exact arithmetic; what is smaller counts as zero."""
    stands_for = Fraction(float(bucket_value(bucket_key([value]))[0]))
    error = abs(stands_for - Fraction(value))
    assert error <= Fraction(1, 100) * abs(Fraction(value)) or (stands_for == 0 and abs(value) < 3.6e-308)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_keys_order_as_values_do(one: float, other: float) -> None:
    """A smaller value never has the larger key; a value and its negative have opposite keys."""
    low, high = sorted((one, other))
    keys = bucket_key([low, high, -low, -high]).tolist()
    assert keys[0] <= keys[1]
    assert keys[2:] == [-keys[0], -keys[1]]


def test_the_documented_keys() -> None:
    """The numbers that SQL relies on: 0 for zero, 35,400 for 1.0, 70,892 for the largest float, mirrored below."""
    largest = float(np.finfo(float).max)
    assert bucket_key([0.0, -0.0, 1.0, 1.01, -1.0, largest, -largest]).tolist() == [
        *(0, 0, 35_400, 35_401, -35_400),
        *(70_892, -70_892),
    ]
    assert bucket_key([]).dtype == np.int32


def test_edges_are_the_same_numbers_on_every_machine() -> None:
    """Each upper edge is γ^i within 1e-11, and all of them together have a digest that may never change.

    A stored histogram means nothing under other edges: a changed digest is a changed format.
    """
    edges = histogram._UPPER[:-1]
    gamma = Fraction(10_202, 10_000)
    for power in (-35_400, -12_345, -100, -1, 0, 1, 2, 100, 12_345, 35_491):
        exact = gamma**power
        assert abs(Fraction(float(edges[power + ORIGIN])) / exact - 1) < Fraction(1, 10**11)
    assert hashlib.sha256(edges.astype("<f8").tobytes()).hexdigest() == EDGES_SHA256


def test_values_at_an_edge_and_beside_it_fall_on_the_right_side() -> None:
    """For every one of the 70,892 edges: the edge itself belongs below, the next float above."""
    edges = histogram._UPPER[:-1]
    keys = np.arange(len(edges))
    assert np.array_equal(bucket_key(edges), keys)
    assert np.array_equal(bucket_key(np.nextafter(edges, np.inf)), keys + 1)
    assert np.array_equal(bucket_key(-edges), -keys)


@settings(deadline=None)
@given(st.lists(st.lists(VALUES, max_size=20), max_size=5), st.randoms(use_true_random=False))
def test_merged_histograms_are_the_histogram_of_all_values(groups: list[list[float]], random) -> None:
    """Adding counts, in any order, gives exactly what one histogram over everything would hold."""
    together = [value for group in groups for value in group]
    ids = [place for place, group in enumerate(groups) for _ in group]
    parts = grouped_histograms(group_sorted(together, ids, len(groups)))
    order = list(range(len(parts.keys)))
    random.shuffle(order)
    keys, counts = merge(parts.keys[order], parts.counts[order])
    expected_keys, expected_counts = _histogram(np.array(together))
    assert keys.tolist() == expected_keys.tolist()
    assert counts.tolist() == expected_counts.tolist()
    assert np.array_equal(parts.offsets[1:] - parts.offsets[:-1], [len(set(bucket_key(g).tolist())) for g in groups])


def test_merging_five_minutes_beats_averaging_their_percentiles() -> None:
    """The p95 of five merged minutes is within 1 % of the exact one; the mean of their p95s misses by far."""
    rng = np.random.default_rng(2)
    minutes = [
        rng.lognormal(7 + shift, 0.5, size) for shift, size in ((0, 900), (0.2, 50), (1.5, 30), (0, 800), (2, 20))
    ]
    exact = np.quantile(np.concatenate(minutes), 0.95)
    parts = [_histogram(minute) for minute in minutes]
    keys, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert histogram_quantile(keys, counts, [0.95])[0] == pytest.approx(exact, rel=RELATIVE_ERROR)
    averaged = np.mean([np.quantile(minute, 0.95) for minute in minutes])
    assert averaged != pytest.approx(exact, rel=0.25)


def test_an_empty_histogram_has_no_quantile() -> None:
    """NaN, not zero: nothing was measured."""
    assert np.isnan(histogram_quantile([], [], [0.5, 0.95])).all()


def test_the_formula_given_for_sql_is_what_python_computes(store: Store) -> None:
    """ClickHouse, from the documented formula alone, gives every bucket's value within 1e-11."""
    keys = np.unique(np.concatenate([np.arange(-70_892, 70_893, 97), [0, 1, -1, 35_400, 70_891, 70_892]]))
    store.command("CREATE TABLE sample (k Int32) ENGINE = MergeTree ORDER BY k")
    store.insert("sample", pa.table({"k": pa.array(keys.astype(np.int32))}))
    found = store.query(
        "SELECT sign(k) * least(pow(1.0202, abs(k) - 35400) * (2 / 2.0202), 1.7976931348623157e308) AS value"
        " FROM sample ORDER BY k"
    )
    assert found.column("value").to_numpy() == pytest.approx(bucket_value(keys), rel=1e-11)


def test_one_line_of_sql_merges_windows_and_stays_within_one_percent(store: Store) -> None:
    """``histogramQuantile(sumMap(histogram), q)`` over windows is Python's answer, and that of the raw rows to 1 %."""
    rng = np.random.default_rng(3)
    start_s, count = int(time.time()) // 300 * 300 - 3600, 4000
    values = np.where(rng.random(count) < 0.1, 0.0, rng.lognormal(7, 1.5, count)) * rng.choice([1, 1, 1, -1], count)
    rows = {name: pa.array([""] * count) for name in (*SERIES, "status")}
    rows |= {
        "timestamp_ms": pa.array(start_s * 1000 + rng.integers(0, 1_500_000, count)),
        "browser": pa.array(rng.choice(["chrome", "firefox"], count)),
        "value": pa.array(values),
    }
    windows = roll_up(pa.table(rows), 60)
    store.insert("metrics_1min", stamp(windows, start_s * 1000, 120))
    ((sql_levels,),) = store.rows(
        "SELECT arrayMap(q -> histogramQuantile((SELECT sumMap(histogram) FROM metrics_1min), q),"
        " [0., .1, .5, .95, 1.])"
    )
    histograms = windows.rows.column("histogram").combine_chunks()
    quantiles = (0, 0.1, 0.5, 0.95, 1)
    merged = histogram_quantile(histograms.keys.to_numpy(), histograms.items.to_numpy(), quantiles)
    assert windows.rows.num_rows > 40
    assert sql_levels == pytest.approx(merged.tolist(), rel=1e-9)
    assert merged == pytest.approx(np.quantile(values, quantiles), rel=RELATIVE_ERROR)
