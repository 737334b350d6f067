"""How often a baseline says ``shifted`` without a change and with one, beside what is possible at all.

A look is one evaluation of a history of runs, 5 % of noise. *False*: of histories of 25 and 100 runs without a change.
*Found*: of 100 runs, the newest 20 of which are 15 % slower. *Possible*: the same by a test that knows spread and
autocorrelation of the noise (the likelihood ratio, best over all places of a step, at 0.005 false a look), which a test
has to learn that does not. *In proportion*: the noise grows with the level, too. *Outliers*: a run in fifty takes 3 to
10 times as long. *Spread*: the level stays, and the noise of the newest 5, 10, 20 or 40 of 100 runs (a quarter of the
looks each) is two or three times as wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.shifts import NEWEST_RUNS, shifts

Floats = NDArray[np.float64]

RUNS, SHORT, AFTER, STEP_SPREADS, NOISE, MIN_RUNS = 100, 25, 20, 3.0, 0.05, 12
AUTOCORRELATIONS = (0.0, 0.6, 0.8)
FALSE_A_LOOK = 0.005
OUTLIERS = 0.02
WIDER, WIDER_FOR = (2, 3), (5, 10, 20, 40)


def measure(looks: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it for each autocorrelation; a share near 0.005 of 4,000 looks is good to 0.002 (two standard errors)."""
    told: dict[str, Any] = {}
    for rho in AUTOCORRELATIONS:
        quiet, noise = _noise(looks, RUNS, rho, seed=1), _noise(looks, RUNS, rho, seed=2)
        step = np.where(np.arange(RUNS) < RUNS - AFTER, 0.0, STEP_SPREADS)
        stepped = noise + step
        figures = {
            f"false a look, {RUNS} runs": _share(quiet),
            f"false a look, {SHORT} runs": _share(_noise(looks, SHORT, rho, seed=3)),
            f"+15% found after {AFTER} runs": _share(stepped),
            "possible": round(possible(quiet, stepped, rho), 3),
            "in proportion": _share(noise * (1.0 + NOISE * step) + step),
            "2 % outliers": _share(with_outliers(stepped, seed=4)),
        }
        for ratio in WIDER:
            figures[f"false a look, spread x {ratio}"] = _share(wider(looks, rho, ratio, seed=4 + ratio))
        told[f"autocorrelation {rho}"] = figures
        say(f"baselines, autocorrelation {rho}: {figures}")
    return told


def possible(quiet: Floats, stepped: Floats, rho: float) -> float:
    """The share of ``stepped`` that the test which knows the noise finds at ``FALSE_A_LOOK`` of ``quiet``."""
    runs = quiet.shape[1]
    at = np.arange(runs)
    inverse = np.linalg.inv(rho ** np.abs(np.subtract.outer(at, at))) if rho else np.eye(runs)

    def strongest(noise: Floats) -> Floats:
        best = np.zeros(len(noise))
        for place in range(MIN_RUNS, runs - NEWEST_RUNS + 1):
            model = np.stack([np.ones(runs), (at >= place).astype(float)], axis=1)
            covariance = np.linalg.inv(model.T @ inverse @ model)
            height = (noise @ (inverse @ model) @ covariance)[:, 1]
            best = np.maximum(best, np.abs(height) / np.sqrt(covariance[1, 1]))
        return best

    return float((strongest(stepped) > np.quantile(strongest(quiet), 1.0 - FALSE_A_LOOK)).mean())


def with_outliers(noise: Floats, *, seed: int) -> Floats:
    """``noise`` in which a run in fifty takes 3 to 10 times as long as it would."""
    generator = np.random.default_rng(seed)
    factor = np.where(generator.random(noise.shape) < OUTLIERS, generator.uniform(3.0, 10.0, noise.shape), 1.0)
    return ((1.0 + NOISE * noise) * factor - 1.0) / NOISE


def wider(looks: int, rho: float, ratio: float, *, seed: int) -> Floats:
    """Noise (looks, runs) that from one of ``WIDER_FOR`` newest runs on is ``ratio`` times as wide."""
    noise = _noise(looks, RUNS, rho, seed=seed)
    since = RUNS - np.resize(WIDER_FOR, looks)
    return np.where(np.arange(RUNS) < since[:, None], noise, ratio * noise)


def _share(noise: Floats) -> float:
    looks, runs = noise.shape
    found, _, _ = shifts((100.0 * (1.0 + NOISE * noise)).ravel(), np.arange(looks + 1) * runs, MIN_RUNS)
    return round(float(found.mean()), 4)


def _noise(looks: int, runs: int, rho: float, *, seed: int) -> Floats:
    from pipeline.bench.changes import ar1

    return ar1(np.random.default_rng([runs, round(100 * rho), seed]), looks, runs, rho)
