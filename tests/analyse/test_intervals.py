"""Intervals against published tables and against exact rational arithmetic."""

from fractions import Fraction
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analyse import intervals

Z_95 = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score, without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_published_bounds(successes: int, total: int, low: float, high: float) -> None:
    """The four worked examples of the paper come out to the digits printed there."""
    got = intervals.wilson(successes, total)
    assert [round(float(bound), 4) for bound in got] == [low, high]


@given(st.integers(1, 100_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_inverts_the_score_test(case: tuple[int, int]) -> None:
    """At each bound the observed share is exactly 1.96 standard errors away, the error being that of the bound."""
    successes, total = case
    low, high = intervals.wilson(successes, total)
    share = successes / total
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        distance = abs(share - bound)
        assert distance**2 * total == pytest.approx(Z_95**2 * bound * (1 - bound), rel=1e-6, abs=1e-9)


def test_wilson_of_nothing_is_nan() -> None:
    """A share of no executions has no bounds, and does not disturb its neighbours."""
    low, high = intervals.wilson([0, 8], [0, 8])
    assert np.isnan([low[0], high[0]]).all()
    assert high[1] == 1.0


def exact_ranks(samples: int, quantile: Fraction) -> tuple[int, int]:
    """The definition, word for word, in integers: all masses times the common denominator."""
    below, denominator = quantile.numerator, quantile.denominator
    mass = [comb(samples, k) * below**k * (denominator - below) ** (samples - k) for k in range(samples + 1)]
    tail = Fraction(denominator**samples, 40)
    less = list(accumulate(mass, initial=0))  # less[r] is P(B < r)
    low = max(rank for rank in range(samples + 1) if less[rank] <= tail)
    high = min(rank for rank in range(1, samples + 2) if less[-1] - less[rank] <= tail)
    return low, high


@pytest.mark.parametrize("quantile", ["0.5", "0.75", "0.95"])
def test_ranks_equal_exact_binomial_sums(quantile: str) -> None:
    """Up to 120 samples, every pair of ranks is the one that exact rational arithmetic gives."""
    samples = np.arange(121)
    low, high = intervals.order_statistic_ranks(samples, float(quantile))
    expected = [exact_ranks(int(n), Fraction(quantile)) for n in samples]
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == expected


@pytest.mark.parametrize(("samples", "quantile"), [(500, "0.95"), (1000, "0.75"), (1200, "0.99")])
def test_ranks_of_large_samples_equal_exact_sums(samples: int, quantile: str) -> None:
    """The part of the distribution that is left out does not move a rank."""
    low, high = intervals.order_statistic_ranks(samples, float(quantile))
    assert (int(low), int(high)) == exact_ranks(samples, Fraction(quantile))


@pytest.mark.parametrize("quantile", [0.75, 0.95])
def test_ranks_of_ten_million_follow_the_normal_limit(quantile: float) -> None:
    """For very many samples the ranks are n q ± 1.96 sqrt(n q (1 - q)), to within one."""
    samples = 10_000_000
    low, high = intervals.order_statistic_ranks(samples, quantile)
    reach = Z_95 * np.sqrt(samples * quantile * (1 - quantile))
    assert float(low) == pytest.approx(samples * quantile - reach, abs=1.5)
    assert float(high) == pytest.approx(samples * quantile + reach, abs=1.5)


@pytest.mark.parametrize(("quantile", "fewest"), [(0.5, 6), (0.75, 13), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_fewest_samples_that_allow_both_bounds(quantile: float, fewest: int) -> None:
    """The published minima; one sample fewer leaves the upper bound open."""
    assert intervals.minimum_samples(quantile) == fewest
    low, high = intervals.order_statistic_ranks([fewest - 1, fewest], quantile)
    assert low[1] >= 1
    assert high.tolist() == [fewest, fewest]


def test_ranks_keep_the_shape_they_were_asked_in() -> None:
    """Sizes come as they are, repeated and in any order, and no sample at all is no bound."""
    low, high = intervals.order_statistic_ranks([[100, 0], [13, 100]], 0.75)
    assert low.shape == high.shape == (2, 2)
    assert low[0, 0] == low[1, 1]
    assert (low[0, 1], high[0, 1]) == (0, 1)
