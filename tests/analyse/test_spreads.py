"""A step against a wider spread: the sums against covariance matrices written out, and what must not matter."""

import math

import numpy as np
import pytest

from pipeline.analyse import spreads
from pipeline.analyse.changes.models import AUTOCORRELATIONS, PRIOR
from pipeline.analyse.changes.series import prepare
from pipeline.bench.changes import ar1

WIDER = (1.5, 2.0, 3.0)


def likelihood(y: np.ndarray, levels: np.ndarray, scale: np.ndarray, rho: float) -> float:
    """The log of the restricted likelihood of AR(1) noise times ``scale`` around ``levels`` (points, k), variance
    unknown; what depends on the points alone is left out as in the code, by the weight without autocorrelation."""
    at = np.arange(len(y))
    covariance = rho ** np.abs(np.subtract.outer(at, at)) / (1.0 - rho**2) if rho else np.eye(len(y))
    inverse = np.linalg.inv(covariance * np.outer(scale, scale))
    weight = levels.T @ inverse @ levels
    plain = levels.T @ np.diag(1.0 / scale**2) @ levels
    height = np.linalg.solve(weight, levels.T @ inverse @ y)
    residual = y @ inverse @ y - height @ weight @ height
    determinants = 0.5 * math.log(1.0 - rho**2) - np.log(scale).sum()
    of_weight = 0.5 * (np.linalg.slogdet(plain)[1] - np.linalg.slogdet(weight)[1])
    return float(determinants + of_weight - 0.5 * (len(y) - levels.shape[1]) * math.log(residual))


def evidence(y: np.ndarray, places: range) -> tuple[float, int]:
    """By loops over places, ratios and autocorrelations."""
    at, one = np.arange(len(y)), np.ones(len(y))
    steps, wider = [], []
    for place in places:
        is_after = at >= place
        two = np.stack([~is_after, is_after], axis=1).astype(float)
        for rho, prior in zip(AUTOCORRELATIONS, np.exp(PRIOR), strict=True):
            steps.append(prior * math.exp(likelihood(y, two, one, rho)))
            for ratio in WIDER:
                scale = np.where(is_after, ratio, 1.0)
                wider.append(prior * math.exp(likelihood(y, one[:, None], scale, rho)))
    best = int(np.argmax(steps)) // len(AUTOCORRELATIONS)
    return 2.0 * math.log(np.mean(steps) / np.mean(wider)), places[best]


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_sums_agree_with_matrices(rho: float) -> None:
    """For series with a step, with a wider spread and with neither."""
    noise = ar1(np.random.default_rng(3), 3, 30, rho)
    noise[0, 22:] += 4.0
    noise[1, 20:] *= 3.0
    block = prepare(100.0 + noise, np.full(3, 30), math.inf)
    found, place, _ = spreads.step_over_spread(block, np.arange(14, 26))
    for row in range(3):
        expected = evidence(block.y[row], range(14, 26))
        assert (found[row], place[row]) == (pytest.approx(expected[0], rel=1e-9), expected[1])


def test_a_row_does_not_depend_on_the_others() -> None:
    """Also where more rows are asked than are reckoned at a time, faster and slower ones mixed."""
    noise = ar1(np.random.default_rng(4), 150, 40, 0.3)
    runs = 100.0 + 5.0 * noise
    runs[:75, 30:] += 15.0
    runs[75:, 30:] -= 15.0
    told = spreads.is_step(runs, 20, 5)
    assert told[:75].mean() > 0.5 < told[75:].mean()
    assert [bool(spreads.is_step(runs[row : row + 1], 20, 5)[0]) for row in range(150)] == told.tolist()


@pytest.mark.parametrize("level", [1.02, 0.98])
def test_steady_runs_that_step_have_stepped(level: float) -> None:
    """Where there is no noise at all there is nothing to be wider."""
    runs = np.append(np.full(20, 1000.0), np.full(5, 1000.0 * level))[None, :]
    assert spreads.is_step(runs, 12, 5).all()


@pytest.mark.parametrize("base", [0.0, -1000.0])
def test_runs_need_not_be_positive(base: float) -> None:
    """Levels at and below zero are compared as they are."""
    runs = base + 10.0 * ar1(np.random.default_rng(5), 20, 40, 0.0)
    assert spreads.is_step(runs + np.where(np.arange(40) < 30, 0.0, 100.0), 20, 5).all()
