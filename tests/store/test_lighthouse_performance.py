"""Lighthouse's performance score against the real ``lighthouse`` package of npm, and what the view shows of it."""

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from side_packages import npm_package_alone
from store.test_analyst_sql import histogram_of, insert

from pipeline.analyse.dimensions import VITALS
from pipeline.analyse.vitals import lighthouse_score
from pipeline.base import resources
from pipeline.store.client import Store

AUDITS = {
    "fcp": "first-contentful-paint",
    "lcp": "largest-contentful-paint",
    "tbt": "total-blocking-time",
    "cls": "cumulative-layout-shift",
    "speed_index": "speed-index",
}
"""In the order of Lighthouse's configuration, which is that of the sum."""
WEIGHTS = {"fcp": 10, "speed_index": 10, "lcp": 25, "tbt": 30, "cls": 25}
ERF_APPROXIMATION = 1.5e-7
"""How far the package's own erf (Abramowitz and Stegun 7.1.26) is from the exact one, at most."""
SCORING = """
import {Util} from './shared/util.js';
import {ReportScoring} from './core/scoring.js';
import {getLogNormalScore} from './shared/statistics.js';
import {readFileSync} from 'node:fs';
const cases = JSON.parse(readFileSync(process.argv[1]));
console.log(JSON.stringify(cases.map((metrics) => ({
  raw: metrics.map(({points: [p10, median], value}) => getLogNormalScore({p10, median}, value)),
  performance: ReportScoring.arithmeticMean(metrics.map(({points: [p10, median], value, weight}) =>
    ({score: Util.computeLogNormalScore({p10, median}, value), weight}))),
}))));
"""


@pytest.fixture(scope="module")
def lighthouse() -> Path:
    """The files of Lighthouse, whose scoring needs nothing else."""
    return npm_package_alone("lighthouse@13.5.0")


def scored(lighthouse: Path, cases: list[list[dict[str, Any]]], file: Path) -> list[dict[str, Any]]:
    """What the package makes of each case: its scores before rounding, and the performance score, 0 to 1."""
    file.write_text(json.dumps(cases))
    command = ["node", "--input-type=module", "--eval", SCORING, str(file)]
    done = subprocess.run(command, cwd=lighthouse, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_control_points_and_weights_are_lighthouses(lighthouse: Path, store: Store) -> None:
    """Control points of both form factors, in Python and in SQL, and the weights are those in Lighthouse's source."""
    inp = {"inp": "interaction-to-next-paint"}
    for name, audit in (AUDITS | inp).items():
        source = (lighthouse / "core/audits/metrics" / f"{audit}.js").read_text()
        pairs = re.findall(r"p10: ([\d.]+),\s+median: ([\d.]+)", source)
        assert len(pairs) == (1 if name in ("cls", "inp") else 2), "mobile first, then desktop"
        for form_factor, published in zip(("mobile", "desktop"), (pairs[0], pairs[-1]), strict=True):
            points = tuple(float(number) for number in published)
            assert VITALS[name].control_points(form_factor) == points
            in_sql = "SELECT lighthouseP10({v:String}, {f:String}), lighthouseMedian({v:String}, {f:String})"
            assert store.rows(in_sql, {"v": name, "f": form_factor}) == [points]
    config = (lighthouse / "core/config/default-config.js").read_text()
    for name, audit in AUDITS.items():
        assert re.findall(rf"id: '{audit}', weight: (\d+), group: 'metrics'", config) == [str(WEIGHTS[name])]


@pytest.mark.parametrize("form_factor", ["mobile", "desktop"])
def test_scores_are_the_packages(lighthouse: Path, store: Store, tmp_path: Path, form_factor: str) -> None:
    """1,000 pages: each score within 1.5e-7 of the package's, the performance score equal.

    (Where one score lies so near a hundredth that the package's approximation of erf decides: within a point.)
    """
    random = np.random.default_rng(5)
    points = {name: VITALS[name].control_points(form_factor) or (math.nan, math.nan) for name in AUDITS}
    values = {name: p10 * np.exp(random.normal(0.3, 0.8, 1000)) for name, (p10, _) in points.items()}
    for name, (p10, median) in points.items():
        values[name][:3] = 0, p10, median
    cases = [
        [{"points": points[name], "value": values[name][row], "weight": WEIGHTS[name]} for name in AUDITS]
        for row in range(1000)
    ]
    package = scored(lighthouse, cases, tmp_path / "cases.json")
    theirs = np.array([one["raw"] for one in package]).T
    ours = np.array([lighthouse_score(values[name], *points[name]) for name in AUDITS])
    assert np.abs(ours - theirs).max() <= ERF_APPROXIMATION
    columns = ", ".join(f"{{{name}:Array(Float64)}} AS {name}_" for name in AUDITS)
    each = ", ".join(f"{name}_[n]" for name in ("fcp", "speed_index", "lcp", "tbt", "cls"))
    by_metric = ", ".join(f"lighthouseScore({name}_[n], '{name}', {{f:String}})" for name in AUDITS)
    told = store.rows(
        f"SELECT lighthousePerformance({each}, {{f:String}}), {by_metric} FROM "
        f"(SELECT {columns}, arrayJoin(range(1, 1001)) AS n) ORDER BY n",
        {"f": form_factor, **{name: list_.tolist() for name, list_ in values.items()}},
    )
    np.testing.assert_allclose([row[1:] for row in told], ours.T, rtol=1e-13, atol=1e-13)
    hundredths = 100 * (theirs + 0.05 * np.maximum(0, theirs - 0.9))
    is_near = (np.abs(hundredths - np.round(hundredths)) < 200 * ERF_APPROXIMATION).any(axis=0)
    for row, found, is_undecided in zip(told, package, is_near, strict=True):
        assert abs(row[0] - round(100 * found["performance"])) <= int(is_undecided)
    assert is_near.sum() < 30, "few are that near"


def rows_of(page: str, values: dict[str, list[float]], **more: Any) -> list[dict[str, Any]]:
    """Windows as the vitals job writes them, as far as the view reads them."""
    rows = []
    for vital, of_vital in values.items():
        good, poor = VITALS[vital].limits(more.get("form_factor", "mobile"))
        counts = {
            "good": sum(value <= good for value in of_vital),
            "needs_improvement": sum(good < value <= poor for value in of_vital),
            "poor": sum(value > poor for value in of_vital),
        }
        rated = float(np.quantile(of_vital, 0.75, method="inverted_cdf"))
        more = {"form_factor": "mobile", "browser": "chrome", **more}
        row = {"vital": vital, "page": page, "p75_rated": rated, "histogram": histogram_of(of_vital), **more}
        rows.append(row | {"samples": len(of_vital), "revision": 1, **counts})
    return rows


def test_the_view_scores_pages_that_sent_all_five(store: Store) -> None:
    """A page has a score when all five metrics were sent; otherwise none, and the row names what is missing."""
    # Lighthouse 13's own sample report: FCP 6795 ms, SI 8296 ms, LCP 10885 ms; its TBT and CLS are replaced.
    whole = {"fcp": [6795.362], "speed_index": [8296.0], "lcp": [10884.681], "tbt": [200.0], "cls": [0.1]}
    fast = {"fcp": [500.0], "speed_index": [600.0], "lcp": [700.0], "tbt": [0.0], "cls": [0.0]}
    partial = {"lcp": [100.0, 9000.0], "cls": [0.0]}
    rows = rows_of("/whole", whole) + rows_of("/fast", fast) + rows_of("/partial", partial)
    insert(store, "web_vitals", rows, window_start="now() - INTERVAL 2 HOUR")
    found = store.rows("SELECT page, performance_score, missing, weights_of, lcp, tbt FROM lighthouse_performance")
    assert found == [
        ("/fast", 100, [], "Lighthouse 10 to 13", 700.0, 0.0),
        ("/partial", None, ["fcp", "speed_index", "tbt"], "Lighthouse 10 to 13", 9000.0, None),
        # 10 * .02 + 10 * .19 + 25 * 0 + 30 * .9 + 25 * .9
        ("/whole", 52, [], "Lighthouse 10 to 13", 10884.681, 200.0),
    ]
    query = resources.queries()["performance_scores"]
    named = store.query(query.sql, query.values({}, 1_000 * int(store.rows("SELECT toUnixTimestamp(now())")[0][0])))
    assert [(row["page"], row["performance_score"]) for row in named.to_pylist()] == [
        ("/whole", 52),
        ("/fast", 100),
        ("/partial", None),
    ]


def test_a_score_over_many_windows_is_within_two_points(store: Store) -> None:
    """Merged percentiles are within 1 %, scores out of them within two points; each page by its form factor."""
    random = np.random.default_rng(6)
    rows: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    expected = {}
    for number in range(30):
        form_factor = "desktop" if number % 2 else "mobile"
        points = {name: VITALS[name].control_points(form_factor) or (1, 1) for name in AUDITS}
        values = {
            name: p10 * np.exp(random.normal(random.normal(0.3, 0.5), 0.4, 40)) for name, (p10, _) in points.items()
        }
        rated = {name: float(np.quantile(of, 0.75, method="inverted_cdf")) for name, of in values.items()}
        score = {name: float(lighthouse_score(rated[name], *points[name])) for name in AUDITS}
        shown = {name: math.floor((one + max(0, one - 0.9) * 0.05) * 100) for name, one in score.items()}
        expected[f"/{number}"] = sum(WEIGHTS[name] * shown[name] for name in AUDITS) / 100
        for window in rows:
            half = {name: of[20 * window : 20 * window + 20].tolist() for name, of in values.items()}
            rows[window] += rows_of(f"/{number}", half, form_factor=form_factor)
    for window, of_window in rows.items():
        insert(store, "web_vitals", of_window, window_start=f"now() - INTERVAL {window + 1} HOUR")
    found = dict(store.rows("SELECT page, performance_score FROM lighthouse_performance"))
    assert found.keys() == expected.keys()
    assert max(abs(found[page] - expected[page]) for page in found) <= 2
