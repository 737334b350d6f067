"""What the observations of a tick say, for all groups at once: ``state.judge`` by arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.judge.state import BREACH, CLEAR, HELD, INSUFFICIENT, NO_DATA, UNSURE, Verdict
from pipeline.alerts.rules.rule import Rule
from pipeline.analyse.quantiles import Float64Array, IndexArray


@dataclass(frozen=True)
class ObservedSeries:
    """Observations of some groups, all arrays (groups,). ``present`` says where there were any data."""

    present: NDArray[np.bool_]
    value: Float64Array
    samples: IndexArray
    low: Float64Array
    high: Float64Array


def judge_all(active: NDArray[np.bool_], series: ObservedSeries, rule: Rule) -> list[Verdict]:
    """``judge`` for many alerts at once; ``active`` says which of them are pending or firing."""
    bound = np.where(active, rule.clears_at, rule.threshold)
    is_above = rule.direction == "above"
    with np.errstate(invalid="ignore"):
        met = series.value > bound if is_above else series.value < bound
        beyond = series.value > rule.threshold if is_above else series.value < rule.threshold
        sure = (series.low > rule.threshold) | (series.high < rule.threshold) | (rule.when_unsure != "wait")
    found = np.select(
        [~series.present, series.samples < rule.min_samples, ~met, ~sure, beyond], [0, 1, 2, 3, 4], default=5
    )
    return [_VERDICTS[code] for code in found.tolist()]


_VERDICTS = (NO_DATA, INSUFFICIENT, CLEAR, UNSURE, BREACH, HELD)
