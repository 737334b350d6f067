"""Core Web Vitals: which values are good, how a group of page views rates, and how sure that is.

Every percentile of a vital is exact and named: ``p50`` … ``p99`` are numpy's *linear* definition, as
everywhere in this product. The rating alone stands on another one, ``p75_rated``, the *inverted CDF*: the
least value that at least 75 % of the samples do not exceed. With it "p75 is good" and "at least 75 % are
good" are one statement; with the linear p75 they disagree in 2.7 % of small groups.

Pure: tables in, tables out, and the same rows in any order give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pipeline.analyse.dimensions import VITALS, WINDOW_DIMENSIONS, Vital
from pipeline.analyse.histogram import grouped_histograms
from pipeline.analyse.intervals import order_statistic_ranks
from pipeline.analyse.quantiles import (
    METHOD,
    Float64Array,
    Grouped,
    IndexArray,
    group_sorted,
    grouped_quantiles,
    grouped_sums,
)
from pipeline.analyse.series import factorise, ranked

RATINGS = ("good", "needs_improvement", "poor")
PERCENTILES = ("p50", "p75", "p90", "p95", "p99")
PERCENTILE_DEFINITION = METHOD
RATED_BY = "p75, inverted CDF"


@dataclass(frozen=True)
class FormFactors:
    """Whose control points score: ``default``, or what ``by_environment`` says."""

    default: str = "mobile"
    by_environment: Mapping[str, str] = field(default_factory=dict)

    def of(self, environment: str) -> str:
        """``mobile`` or ``desktop``."""
        return self.by_environment.get(environment, self.default)


MOBILE = FormFactors()


def assess(
    views: pa.Table,
    browser_aliases: Mapping[str, str],
    dimensions: Sequence[str] = WINDOW_DIMENSIONS,
    form_factors: FormFactors = MOBILE,
) -> pa.Table:
    """Assess every vital within every combination of ``dimensions``; one row each, sorted by (vital, *dimensions).

    ``views`` are raw metrics with the columns metric_type, browser, value, timestamp, id, segment, position
    and ``dimensions``; rows of other metric types are passed over. Letter case of metric types does not
    count, browsers go by their ``reported_browser``. Rows of one group that share a non-empty ``id`` report
    one page view, of which the last value counts: by timestamp, then (segment, position).

    The result has the columns of the table ``web_vitals`` but those that say when it was computed.
    Bounds are NaN where there are too few samples for them (``low_confidence``, ``p95_low_confidence``),
    ``lighthouse_score`` where Lighthouse has none.
    """
    return assess_reports(last_reports(views, browser_aliases, dimensions), dimensions, form_factors)


def last_reports(
    views: pa.Table, browser_aliases: Mapping[str, str], dimensions: Sequence[str] = WINDOW_DIMENSIONS
) -> pa.Table:
    """The reports that count, with the columns vital, value and ``dimensions``: what ``assess`` is made of.

    Reports of one page view must come in one call; then the results of several calls can be concatenated.
    """
    named = _canonical(views, browser_aliases)
    groups = factorise(named, ("vital", *dimensions))
    last = _last_reports(named, groups.ids)
    return named.select(["vital", *dimensions, "value"]).take(pa.array(last))


def assess_reports(
    reports: pa.Table, dimensions: Sequence[str] = WINDOW_DIMENSIONS, form_factors: FormFactors = MOBILE
) -> pa.Table:
    """Assess what ``last_reports`` found."""
    groups = factorise(reports, ("vital", *dimensions))
    grouped = group_sorted(reports.column("value").to_numpy(), groups.ids, groups.groups)
    vitals = [VITALS[name] for name in groups.keys.column("vital").to_pylist()]
    columns = {name: groups.keys.column(name) for name in groups.keys.column_names}
    environments = columns["environment"].to_pylist() if "environment" in columns else [""] * len(vitals)
    factors = [form_factors.of(environment) for environment in environments]
    return pa.table(columns | _statistics(grouped) | _verdict(grouped, vitals, factors) | _bounds(grouped))


def reported_browser(sent: str, browser_aliases: Mapping[str, str]) -> str:
    """The name under which a browser is reported: its alias, whatever its letter case, or else itself in lower case."""
    lowered = sent.lower()
    return next((alias for name, alias in browser_aliases.items() if name.lower() == lowered), lowered)


def rate(values: Float64Array, good: ArrayLike, poor: ArrayLike) -> IndexArray:
    """0 (good), 1 (needs improvement) or 2 (poor) for each value, an index into ``RATINGS``; both limits inclusive."""
    above_good = np.greater(values, np.asarray(good, dtype=np.float64))
    above_poor = np.greater(values, np.asarray(poor, dtype=np.float64))
    return above_good.astype(np.int64) + above_poor


def inverted_cdf_rank(samples: ArrayLike) -> NDArray[np.int64]:
    """Position (0 is the smallest) of the rated p75 in ``samples`` sorted values, ceil(3 n / 4) - 1, in whole numbers.

    ``np.quantile(..., 0.75, method="inverted_cdf")``; the value at it is good if and only if at least 75 %
    of the values are.
    """
    return (3 * np.asarray(samples, dtype=np.int64) + 3) // 4 - 1


def lighthouse_score(values: ArrayLike, p10: ArrayLike, median: ArrayLike) -> Float64Array:
    """Lighthouse's score of each value, in [0, 1]: the share of a log-normal distribution that is worse.

    The distribution has the given median (score 0.5) and 10th percentile (score 0.9), hence
    erfc(z) / 2 with z = ln(value / median) / ln(median / p10) * erfc⁻¹(0.2); Lighthouse's
    shared/statistics.js approximates erfc to 1.5e-7, here it is exact. As there, a value on the better
    side of a control point, itself included, never scores below it, and one on the worse side always does.
    Values up to 0 score 1. Lighthouse shows scores rounded down to two digits after a small bonus above
    0.9; this is the score before that. NaN control points give NaN.
    """
    value, p10_, median_ = np.broadcast_arrays(
        *(np.asarray(given, dtype=np.float64) for given in (values, p10, median))
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # A ratio that underflows to 0 would become infinite and then NaN.
        distance = np.log(np.maximum(np.maximum(value, 0) / median_, _TINIEST))
        spread = -np.log(np.maximum(p10_ / median_, _TINIEST))
        z = distance / spread * _ERFC_INVERSE_OF_ONE_FIFTH
    score = np.fromiter((math.erfc(each) / 2 for each in z.flat), np.float64, z.size).reshape(z.shape)
    least = np.select([value <= 0, value <= p10_, value <= median_], [1.0, 0.9, 0.5], 0.0)
    most = np.select([value <= p10_, value <= median_], [1.0, np.nextafter(0.9, 0)], np.nextafter(0.5, 0))
    return np.where(np.isnan(z), np.nan, np.clip(score, least, most))


_TINIEST = 5e-324
_ERFC_INVERSE_OF_ONE_FIFTH = 0.9061938024368232


def _canonical(views: pa.Table, browser_aliases: Mapping[str, str]) -> pa.Table:
    """Only the vitals, under their names in ``VITALS``, and browsers under the names to report."""
    types = ranked(views.column("metric_type"))
    names = [text.lower() for text in types.values.to_pylist()]
    is_vital = np.array([name in VITALS for name in names], dtype=bool)[types.ranks]
    browsers = ranked(views.column("browser"))
    reported = [reported_browser(text, browser_aliases) for text in browsers.values.to_pylist()]
    renamed = views.append_column("vital", _spelt(types.ranks, names))
    renamed = renamed.set_column(views.column_names.index("browser"), "browser", _spelt(browsers.ranks, reported))
    return renamed.filter(pa.array(is_vital))


def _spelt(ranks: NDArray[np.integer], names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(ranks.astype(np.int32)), pa.array(names, pa.string()))


def _last_reports(views: pa.Table, group_ids: IndexArray) -> IndexArray:
    """Which rows count: all without an ``id``, and of those that share group and id the last."""
    has_id = pc.not_equal(views.column("id"), "").to_numpy()
    reports = np.flatnonzero(has_id)
    if not len(reports):
        return np.arange(views.num_rows)
    named = views.select(["timestamp", "id", "segment", "position"]).take(pa.array(reports))
    view = factorise(named.append_column("group", pa.array(group_ids[reports])), ("group", "id")).ids
    timestamp = named.column("timestamp").cast(pa.int64()).to_numpy()
    in_order = np.lexsort((named.column("position").to_numpy(), ranked(named.column("segment")).ranks, timestamp, view))
    is_last = np.append(view[in_order][1:] != view[in_order][:-1], True)
    return np.sort(np.concatenate((np.flatnonzero(~has_id), reports[in_order[is_last]])))


def _statistics(grouped: Grouped) -> dict[str, pa.Array]:
    percentiles = grouped_quantiles(grouped)
    histograms = grouped_histograms(grouped)
    buckets = pa.MapArray.from_arrays(
        pa.array(histograms.offsets.astype(np.int32)), pa.array(histograms.keys), _unsigned(histograms.counts)
    )
    columns = {"samples": _unsigned(grouped.sizes), "avg": pa.array(grouped_sums(grouped)[1])}
    columns |= {name: pa.array(percentiles[:, column]) for column, name in enumerate(PERCENTILES)}
    return columns | {"histogram": buckets}


def _verdict(grouped: Grouped, vitals: list[Vital], form_factors: list[str]) -> dict[str, pa.Array]:
    pairs = list(zip(vitals, form_factors, strict=True))
    good, poor = np.array([vital.limits(one) for vital, one in pairs], np.float64).reshape(-1, 2).T
    control_points = np.array([vital.control_points(one) or (np.nan, np.nan) for vital, one in pairs], np.float64)
    p10, median = control_points.reshape(-1, 2).T
    group = np.repeat(np.arange(len(vitals)), grouped.sizes)
    ratings = rate(grouped.values, good[group], poor[group])
    counts = np.bincount(group * len(RATINGS) + ratings, minlength=len(vitals) * len(RATINGS)).reshape(-1, len(RATINGS))
    rated = grouped.values[grouped.starts[:-1] + inverted_cdf_rank(grouped.sizes)]
    columns = {name: _unsigned(counts[:, rating]) for rating, name in enumerate(RATINGS)}
    return columns | {
        "rating": pa.array(np.array(RATINGS)[rate(rated, good, poor)].tolist(), pa.string()),
        "p75_rated": pa.array(rated),
        "lighthouse_score": pa.array(lighthouse_score(rated, p10, median)),
        "is_legacy": pa.array([vital.is_legacy for vital in vitals], pa.bool_()),
        "form_factor": pa.array(form_factors, pa.string()),
    }


def _bounds(grouped: Grouped) -> dict[str, pa.Array]:
    p75_low, p75_high = _order_statistics(grouped, 0.75)
    p95_low, p95_high = _order_statistics(grouped, 0.95)
    return {
        "p75_low": pa.array(p75_low),
        "p75_high": pa.array(p75_high),
        "p95_low": pa.array(p95_low),
        "p95_high": pa.array(p95_high),
        "low_confidence": pa.array(np.isnan(p75_low)),
        "p95_low_confidence": pa.array(np.isnan(p95_low)),
    }


def _order_statistics(grouped: Grouped, quantile: float) -> tuple[Float64Array, Float64Array]:
    """The samples that bound the quantile, NaN for both where one of them does not exist."""
    low, high = order_statistic_ranks(grouped.sizes, quantile)
    is_bounded = (low >= 1) & (high <= grouped.sizes)
    bounds = np.full((2, len(low)), np.nan)
    for bound, ranks in zip(bounds, (low, high), strict=True):
        bound[is_bounded] = grouped.values[(grouped.starts[:-1] + ranks - 1)[is_bounded]]
    return bounds[0], bounds[1]


def _unsigned(counts: IndexArray) -> pa.Array:
    return pa.array(counts.astype(np.uint64))
