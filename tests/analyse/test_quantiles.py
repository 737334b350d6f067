"""Percentiles and sums against numpy, exact rational arithmetic and ClickHouse."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.analyse.quantiles import QUANTILES, group_sorted, group_sums, grouped_quantiles, grouped_sums
from pipeline.store.client import Store

FINITE = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
# Where the difference of two of them cannot overflow; beyond it numpy's own quantile gives inf or nan.
NUMPY_SAFE = st.floats(min_value=-8e307, max_value=8e307, allow_nan=False, allow_subnormal=True)
EDGES = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.0, 1.0 + 2**-52, 0.1, 1e16, 8e307, -8e307]
ROWS = st.lists(st.tuples(st.integers(0, 6), NUMPY_SAFE | st.sampled_from(EDGES)), max_size=60)
ALL_QUANTILES = (0.0, 0.001, 0.1, 0.25, 1 / 3, *QUANTILES, 0.999, 1.0)


def _bits(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values, dtype=np.float64).view(np.uint64).ravel().tolist()


def _by_numpy(rows: list[tuple[int, float]], groups: int, quantiles: tuple[float, ...]) -> np.ndarray:
    members = [[value + 0.0 for group, value in rows if group == wanted] for wanted in range(groups)]
    return np.array([np.quantile(group, quantiles) if group else [np.nan] * len(quantiles) for group in members])


@pytest.mark.parametrize("kind", ["lognormal", "whole", "ties", "tiny", "denormal", "huge", "mixed signs"])
def test_every_group_size_gives_numpys_quantile_to_the_last_bit(kind: str) -> None:
    """For groups of 0 to 300 values at once each percentile has the very bits of ``np.quantile``."""
    rng = np.random.default_rng(11)
    sizes = np.arange(301)
    ids = rng.permutation(np.repeat(np.arange(301), sizes))
    n = len(ids)
    values = {
        "lognormal": lambda: rng.lognormal(7, 1.5, n),
        "whole": lambda: rng.integers(0, 5000, n).astype(float),
        "ties": lambda: rng.choice([1.5, 2.5, 2.5000000000000004, -0.0, 0.0], n),
        "tiny": lambda: rng.random(n) * 1e-300,
        "denormal": lambda: rng.integers(-1000, 1000, n) * 5e-324,
        "huge": lambda: rng.uniform(-8.9e307, 8.9e307, n),
        "mixed signs": lambda: rng.normal(0, 1e-3, n) * 10.0 ** rng.integers(-200, 200, n),
    }[kind]()
    got = grouped_quantiles(group_sorted(values, ids, 301), ALL_QUANTILES)
    assert np.isnan(got[0]).all()
    for size in range(1, 301):
        expected = np.quantile(values[ids == size] + 0.0, ALL_QUANTILES)
        assert _bits(got[size]) == _bits(expected), size


@settings(deadline=None)
@given(ROWS)
@example([(0, -0.0), (0, 0.0)])
@example([(3, 5e-324), (3, 1e-323), (3, 5e-324)])
def test_any_finite_values_give_numpys_quantile_to_the_last_bit(rows: list[tuple[int, float]]) -> None:
    """Ties, both zeros, denormals, neighbours and magnitudes apart included."""
    grouped = group_sorted([value for _, value in rows], [group for group, _ in rows], 7)
    assert _bits(grouped_quantiles(grouped, ALL_QUANTILES)) == _bits(_by_numpy(rows, 7, ALL_QUANTILES))


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=40))
@example([-1.7e308, 1.7e308])
def test_where_numpy_overflows_the_result_is_finite_and_between_its_neighbours(values: list[float]) -> None:
    """At ±1.7e308 numpy's ``b - a`` is infinite; this one stays within the sample, monotone in the quantile."""
    got = grouped_quantiles(group_sorted(values, [0] * len(values), 1), ALL_QUANTILES)[0]
    assert np.isfinite(got).all()
    assert min(values) <= got[0] <= got[-1] <= max(values)


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_arrival_leaves_no_trace(rows: list[tuple[int, float]], random) -> None:
    """Sorted values, percentiles, sums and means keep every bit under any permutation of the rows."""

    def results(some: list[tuple[int, float]]) -> list[list[int]]:
        grouped = group_sorted([value for _, value in some], [group for group, _ in some], 7)
        return [_bits(part) for part in (grouped.values, grouped_quantiles(grouped), *grouped_sums(grouped))]

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert results(rows) == results(shuffled)


@pytest.mark.parametrize("groups", [1, 2, 65_536, 65_537, 200_000])
def test_ids_beyond_sixteen_bits_are_told_apart(groups: int) -> None:
    """Partitioning by 16-bit digits equals numpy's lexicographic sort, whatever the number of groups."""
    rng = np.random.default_rng(groups)
    ids = np.append(rng.integers(0, groups, 5000), groups - 1)
    values = np.round(rng.normal(size=len(ids)), 1) + 0.0
    grouped = group_sorted(values, ids, groups)
    assert np.array_equal(grouped.values, values[np.lexsort((values, ids))])
    assert np.array_equal(grouped.sizes, np.bincount(ids, minlength=groups))


@settings(deadline=None)
@given(st.lists(FINITE, max_size=50))
@example([1e16, 1.0, -1e16])
@example([1.7e308, 1.7e308])
@example([1.7e308, 1.7e308, -1.7e308, 1e-300])
@example([-1.7e308, -1.7e308, 1.0])
@example([0.1] * 10)
def test_a_sum_is_the_float_nearest_to_the_exact_sum(values: list[float]) -> None:
    """Sum and mean equal rational arithmetic rounded once, also where partial sums overflow."""
    sums, means = grouped_sums(group_sorted(values, [1] * len(values), 2))
    exact = sum(map(Fraction, values), Fraction(0))
    try:
        total = float(exact)
        mean = total / len(values) if values else math.nan
    except OverflowError:
        total, mean = math.inf if exact > 0 else -math.inf, float(exact / len(values))
    assert sums[0] == 0
    assert math.isnan(means[0])
    assert sums[1] == total
    assert means[1] == mean or (not values and math.isnan(means[1]))


KINDS = ("milliseconds", "alternating", "half units", "tiny", "huge", "zeros")


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_many_groups_and_of_large_ones_are_those_of_fsum(kind: str) -> None:
    """Adding by columns and by halves gives the last bit of ``math.fsum``, ties and underflow included."""
    chance = np.random.default_rng(KINDS.index(kind))
    sizes = np.concatenate([chance.integers(0, 12, 600), [25_001]])
    count = int(sizes.sum())
    values = {
        "milliseconds": lambda: np.round(chance.lognormal(7, 1, count), 3),
        "alternating": lambda: chance.choice([1e16, 1.0, -1e16, 2.0**-30], count),
        "half units": lambda: chance.choice([2.0**53, 1.0, 0.5, -0.5, 2.0**-60], count),
        "tiny": lambda: chance.choice([5e-324, 1e-310, -1e-310, 2.3e-308], count),
        "huge": lambda: chance.choice([1e305, -1e305, 1e289], count),
        "zeros": lambda: chance.choice([0.0, -0.0], count),
    }[kind]()
    ids = np.repeat(np.arange(len(sizes)), sizes)
    sums, means = grouped_sums(group_sorted(values, ids, len(sizes)))
    members = np.split(values, np.cumsum(sizes)[:-1])
    exact = np.array([math.fsum(group.tolist()) + 0.0 for group in members])
    assert _bits(sums) == _bits(exact)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(means, exact / sizes, equal_nan=True)
    assert [group_sums(group, np.zeros(len(group), np.int64), 1)[0][0] for group in members[-1:]] == [exact[-1]]


def test_clickhouse_gives_the_same_answers_over_the_same_rows(store: Store) -> None:
    """``quantilesExactInclusive``, sum, min, max and count of ClickHouse agree (its arithmetic rounds elsewhere)."""
    rng = np.random.default_rng(5)
    n, groups = 20_000, 700
    ids, values = rng.integers(0, groups, n), np.round(rng.lognormal(7, 1, n), 3)
    store.command("CREATE TABLE sample (id UInt32, value Float64) ENGINE = MergeTree ORDER BY id")
    store.insert("sample", pa.table({"id": pa.array(ids.astype(np.uint32)), "value": values}))
    found = store.rows(
        "SELECT id, quantilesExactInclusive(0.5, 0.75, 0.9, 0.95, 0.99)(value),"
        " sum(value), min(value), max(value), count() FROM sample GROUP BY id ORDER BY id"
    )
    grouped = group_sorted(values, ids, groups)
    quantiles, (sums, _) = grouped_quantiles(grouped), grouped_sums(grouped)
    assert [row[0] for row in found] == np.flatnonzero(grouped.sizes).tolist()
    for group, expected, total, low, high, count in found:
        assert quantiles[group] == pytest.approx(expected, rel=1e-13)
        assert sums[group] == pytest.approx(total, rel=1e-13)
        assert (grouped.values[grouped.starts[group]], grouped.values[grouped.starts[group + 1] - 1]) == (low, high)
        assert grouped.sizes[group] == count


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    """Nothing non-finite can have been stored; if it was, that is loud."""
    with pytest.raises(ValueError, match="finite"):
        group_sorted([1.0, bad], [0, 0], 1)


@pytest.mark.parametrize("ids", [[0, 2], [-1, 0]])
def test_a_group_out_of_range_is_refused(ids: list[int]) -> None:
    """An id that was not counted would be lost silently otherwise."""
    with pytest.raises(ValueError, match="group_ids"):
        group_sorted([1.0, 2.0], ids, 2)


@pytest.mark.parametrize("quantile", [-0.1, 1.1])
def test_a_quantile_outside_zero_to_one_is_refused(quantile: float) -> None:
    """95 for 0.95 is a mistake, not a percentile."""
    with pytest.raises(ValueError, match="quantiles"):
        grouped_quantiles(group_sorted([1.0], [0], 1), [quantile])
