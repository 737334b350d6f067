"""How sure a number is: confidence intervals that assume nothing about the shape of the data.

Two kinds, both at 95 % unless said otherwise: Wilson's interval for a share (a success rate), and
bounds for a percentile taken from the ordered samples themselves. Pure functions; no clock, no I/O.
"""

from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def wilson(successes: npt.ArrayLike, total: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
    """Lower and upper bound of the share ``successes / total``, each shaped as the arguments broadcast.

    The score interval without continuity correction: E. B. Wilson, Probable inference (JASA 22, 1927),
    method 3 of R. G. Newcombe, Statistics in Medicine 17 (1998). Where ``total`` is 0 both are NaN.
    """
    successes_, total_ = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(total, np.float64))
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(total_ > 0, successes_ / total_, np.nan)
        centre = (successes_ + z2 / 2) / (total_ + z2)
        half = np.sqrt(z2 * (share * (1 - share) * total_ + z2 / 4)) / (total_ + z2)
    # Rounding must not push a bound past the share it surrounds: 0 of n reaches down to 0 exactly.
    return np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0)


def order_statistic_ranks(samples: npt.ArrayLike, quantile: float, confidence: float = CONFIDENCE) -> tuple[Ints, Ints]:
    """Ranks (1 is the smallest sample) between which the population's ``quantile`` lies.

    Whatever continuous distribution the samples come from, the number of them below its quantile is
    binomial. So ``low`` is the greatest rank with P(B < low) <= (1 - confidence) / 2 and ``high`` the
    least with P(B >= high) <= (1 - confidence) / 2, B ~ Binomial(samples, quantile); see H. A. David and
    H. N. Nagaraja, Order Statistics, section 7.1. ``low`` is 0 or ``high`` is ``samples`` + 1 where no
    sample can serve as that bound: fewer than ``minimum_samples``.
    """
    counts, where = np.unique(np.asarray(samples, np.int64), return_inverse=True)
    ranks = np.array([_ranks(int(n), quantile, confidence) for n in counts], dtype=np.int64).reshape(-1, 2)
    found = ranks[where.reshape(np.shape(samples))]
    return found[..., 0], found[..., 1]


def minimum_samples(quantile: float, confidence: float = CONFIDENCE) -> int:
    """The fewest samples of which two can bound the quantile on both sides: 13 for p75, 72 for p95."""
    samples = 1
    while not _has_both_bounds(samples, quantile, confidence):
        samples += 1
    return samples


def _has_both_bounds(samples: int, quantile: float, confidence: float) -> bool:
    low, high = _ranks(samples, quantile, confidence)
    return low >= 1 and high <= samples


@lru_cache(maxsize=65_536)  # window sizes recur; two integers each
def _ranks(samples: int, quantile: float, confidence: float) -> tuple[int, int]:
    if samples <= 0:
        return 0, 1
    tail = (1 - confidence) / 2
    first, mass = _binomial_mass(samples, quantile)
    at_most = np.cumsum(mass)  # P(B <= first + i)
    at_least = np.cumsum(mass[::-1])[::-1]  # P(B >= first + i), summed from its own small end
    low = first + int(np.searchsorted(at_most, tail, side="right"))
    high = first + int(np.count_nonzero(at_least > tail))
    return low, high


def _binomial_mass(samples: int, quantile: float) -> tuple[int, Floats]:
    """The binomial distribution where it has any weight: the first count and the mass of it and those after it.

    Built from the ratio of neighbours, (n - k) / (k + 1) * q / (1 - q), whose logarithms are summed: no
    factorial overflows and no large numbers cancel. Beyond twelve standard deviations and forty counts
    the mass is below 1e-30 and is left out.
    """
    mean = samples * quantile
    reach = int(12 * np.sqrt(mean * (1 - quantile))) + 40
    first = max(0, int(mean) - reach)
    last = min(samples, int(mean) + reach)
    k = np.arange(first, last, dtype=np.float64)
    log_mass = np.concatenate(([0.0], np.cumsum(np.log((samples - k) / (k + 1)) + np.log(quantile / (1 - quantile)))))
    mass = np.exp(log_mass - log_mass.max())
    return first, mass / mass.sum()
