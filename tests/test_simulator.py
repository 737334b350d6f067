from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from pipeline.demo.simulator import MALFORMED, Malformed, SimulatedBatch, SimulatedPlatform
from pipeline.metric import Limits, Metric, Refusal, decode

NOON_MS = 1_736_596_800_000
MINUTE_MS = 60_000


def decoded(batch: SimulatedBatch, at_ms: int) -> tuple[list[Metric], Counter[str]]:
    """What the pipeline makes of a batch: metrics, and refusals by reason."""
    read = [decode(item, at_ms, Limits()) for item in batch.items]
    metrics = [metric for metric in read if isinstance(metric, Metric)]
    return metrics, Counter(refusal.reason for refusal in read if isinstance(refusal, Refusal))


def medians(metrics: list[Metric], metric_type: str, dimension: str) -> dict[str, float]:
    values = defaultdict(list)
    for metric in metrics:
        if metric.metric_type == metric_type and metric.status in ("", "passed"):
            values[getattr(metric, dimension)].append(metric.value)
    return {name: float(np.median(found)) for name, found in values.items()}


@pytest.fixture(scope="module")
def hour() -> tuple[list[Metric], list[Metric]]:
    """Metrics before and during a regression, 30 simulated minutes each."""
    middle, end = NOON_MS + 30 * MINUTE_MS, NOON_MS + 60 * MINUTE_MS
    platform = SimulatedPlatform(seed=7, regressions=[(middle, end)])
    before, _ = decoded(platform.batch(NOON_MS, middle, rate=30), middle)
    during, _ = decoded(platform.batch(middle, end, rate=30), end)
    return before, [metric for metric in during if metric.timestamp_ms >= middle]


def test_what_it_says_it_pushed_is_what_the_pipeline_finds() -> None:
    """Valid, late and refused items, by reason, are exactly those that decode finds."""
    end = NOON_MS + 10_000
    # With this seed three of the malformed would have been late.
    batch = SimulatedPlatform(seed=1).batch(NOON_MS, end, rate=5_000)
    metrics, refused = decoded(batch, end)
    assert len(batch.items) == 50_000
    assert batch.valid == len(metrics)
    assert batch.refused == refused
    assert batch.late == sum(metric.timestamp_ms < NOON_MS for metric in metrics)
    assert 0.001 < refused.total() / 50_000 < 0.003
    assert 0.003 < batch.late / 50_000 < 0.007


@pytest.mark.parametrize("kind", MALFORMED, ids=lambda kind: kind.name)
def test_each_malformed_kind_is_refused_for_its_reason(kind: Malformed) -> None:
    """Spoilt items of every metric type get the reason the demo counts them under."""
    good = SimulatedPlatform().metrics(NOON_MS, NOON_MS + 1000, 200)
    types = {}
    for item in good:
        metric = decode(item, NOON_MS + 1000, Limits())
        if isinstance(metric, Metric):
            types[metric.metric_type] = item
    assert len(types) >= 6
    for item in types.values():
        found = decode(kind.spoil(item), NOON_MS + 1000, Limits())
        assert isinstance(found, Refusal), found
        assert found.reason == kind.reason


def test_a_span_depends_on_its_arguments_alone() -> None:
    """Same seed, span and rate: same bytes, whatever was asked before; another seed: other bytes."""
    first, second = SimulatedPlatform(seed=5), SimulatedPlatform(seed=5)
    second.metrics(0, 1000, 50)
    span = (NOON_MS, NOON_MS + 2_000, 100.0)
    assert first.metrics(*span) == second.metrics(*span)
    assert first.metrics(*span) != SimulatedPlatform(seed=6).metrics(*span)


@pytest.mark.parametrize("rate", [0.3, 7, 1234.5])
def test_adjacent_spans_bring_the_items_of_the_whole(rate: float) -> None:
    """However finely time is cut, the rate is kept."""
    platform = SimulatedPlatform()
    whole = len(platform.metrics(NOON_MS, NOON_MS + 9_000, rate))
    cuts = range(NOON_MS, NOON_MS + 9_001, 90)
    assert sum(len(platform.metrics(a, b, rate)) for a, b in pairwise(cuts)) == whole
    assert whole == pytest.approx(9 * rate, abs=1)


def test_it_looks_like_a_browser_test_platform(hour: tuple[list[Metric], list[Metric]]) -> None:
    """Tests, browsers and environments; slower browsers are slower; Safari reports no layout shifts, many are 0."""
    before, _ = hour
    tests = {metric.test_id for metric in before if metric.metric_type == "duration"}
    assert 60 <= len(tests) <= 200
    assert {m.browser for m in before} == {"", "chromium", "firefox", "webkit", "msedge"}
    assert {m.environment for m in before} == {"", "staging", "testing", "production"}
    assert {m.metric_type for m in before} >= {"duration", "lcp", "inp", "cls", "fcp", "ttfb", "fid"}
    lcp = medians(before, "lcp", "browser")
    assert lcp["chromium"] < lcp["firefox"] < lcp["webkit"]
    shifts = [m for m in before if m.metric_type == "cls"]
    assert "webkit" not in {m.browser for m in shifts}
    assert 0.3 < sum(m.value == 0 for m in shifts) / len(shifts) < 0.5


def test_a_regression_slows_one_suite_and_one_page_and_nothing_else(hour: tuple[list[Metric], list[Metric]]) -> None:
    """checkout × 1.8, LCP of /checkout × 1.7 in chromium alone, more failures in checkout; the rest as before."""
    before, during = hour
    durations = {
        suite: after / medians(before, "duration", "test_suite")[suite]
        for suite, after in medians(during, "duration", "test_suite").items()
    }
    assert durations.pop("checkout") == pytest.approx(1.8, rel=0.1)
    assert all(factor == pytest.approx(1, rel=0.15) for factor in durations.values())

    def on_page(metrics: list[Metric]) -> dict[str, float]:
        return medians([m for m in metrics if m.page == "/checkout"], "lcp", "browser")

    paints = {browser: after / on_page(before)[browser] for browser, after in on_page(during).items()}
    assert paints.pop("chromium") == pytest.approx(1.7, rel=0.15)
    assert all(factor == pytest.approx(1, rel=0.25) for factor in paints.values())

    def failures(metrics: list[Metric], suite: str) -> float:
        found = [m.status for m in metrics if m.metric_type == "duration" and m.test_suite == suite]
        return found.count("failed") / len(found)

    assert failures(before, "checkout") < 0.04 < 0.10 < failures(during, "checkout")
    assert failures(during, "auth") < 0.04


@pytest.mark.parametrize("step_ms", [60_000, 730])
def test_a_run_of_the_ci_executes_each_test_once(step_ms: int) -> None:
    """One execution a test, browser and run: an attempt, or one that was retried and one that decides; never later."""
    platform, end = SimulatedPlatform(seed=3), NOON_MS + 6 * MINUTE_MS
    cuts = [*range(NOON_MS, end, step_ms), end]
    items = [item for a, b in pairwise(cuts) for item in platform.metrics(a, b, rate=60)]
    read = [metric for item in items if isinstance(metric := decode(item, end, Limits()), Metric)]
    executions: dict[tuple[str, ...], list[Metric]] = defaultdict(list)
    runs: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for metric in read:
        if metric.run_id:
            executions[metric.run_id, metric.job, metric.test_id, metric.browser].append(metric)
            runs[metric.run_id].add((metric.test_id, metric.browser))
    assert len(runs) == 3
    assert all(len(tests) > 570 for tests in runs.values())
    assert {m.environment for attempts in executions.values() for m in attempts} == {"testing"}
    assert len({m.commit for attempts in executions.values() for m in attempts}) == 3
    told = Counter(tuple((m.attempt, m.status) for m in attempts) for attempts in executions.values())
    whole = {((1, "passed"),), ((1, "skipped"),), ((1, "retried"), (2, "flaky")), ((1, "retried"), (2, "failed"))}
    # Where one of two attempts was malformed, the other one stands alone.
    assert told.keys() <= whole | {((1, "retried"),), ((2, "flaky"),), ((2, "failed"),)}
    assert min(told[one] for one in whole) > 0
    for metric in read:
        if metric.status in ("failed", "retried"):
            assert (
                metric.error_type == "TimeoutError" if metric.value >= 30_000 else metric.error_type.endswith("Error")
            )
