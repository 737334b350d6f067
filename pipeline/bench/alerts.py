"""``pipeline bench alerts``: what one tick of many rules over many series costs on one core.

Writes the 1-minute windows of every series into a private embedded store and judges a tick as the
service does: one query, arrays, states, transitions with their evidence. Three ticks are told: a *quiet*
one, where nothing is beyond its threshold; a *loud* one, where every series is beyond every threshold
and begins to fire; and a *steady* one after it, where all that still fires. The process is bound to one
core while it measures, where the system can.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.alerts.judge.evaluation import Alerts, judge
from pipeline.alerts.judge.sources import Batch, StoreSource
from pipeline.alerts.rules.rule import MINUTE_MS, Rule
from pipeline.analyse.series import SERIES
from pipeline.analyse.windows import roll_up, stamp
from pipeline.base import config
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

MINUTES = 5
SAMPLES = 20
"""Values of a series in a minute."""
REPEATS = 3

_TEST = ("test_suite", "test_id", "browser")
_RULES: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("p95", _TEST, 5),
    ("avg", _TEST, 5),
    ("p99", _TEST, 5),
    ("failure_rate", _TEST, 5),
    ("max", _TEST, 1),
    ("p50", _TEST, 1),
    ("p95", ("test_suite", "browser"), 5),
    ("count", ("test_suite",), 5),
    ("avg", ("test_suite", "test_id"), 2),
    ("p75", ("test_suite", "test_id"), 5),
)


def run(series: int, rule_count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Judge ``series`` series by ``rule_count`` rules; medians of three.

    ``quiet_s``, ``loud_s`` and ``steady_s`` are reading and judging together; ``…_read_s`` is the reading in them.
    Seconds are those the processor spent on this process, whatever else the machine was doing.
    """
    with tempfile.TemporaryDirectory(prefix="bench-alerts-") as directory, one_core() as cores:
        settings = config.Settings(clickhouse=config.ClickHouseSettings(dsn=f"chdb://{Path(directory).resolve()}"))
        with Store.open(settings) as store:
            migrate(store, settings)
            say(f"writing {MINUTES} minutes of {series} series")
            tick_ms = _fill(store, series)
            figures: dict[str, Any] = {"series": series, "rules": rule_count, "cores": cores}
            say("judging a quiet tick")
            figures |= _measure("quiet", store, rules(rule_count, beyond=False), tick_ms, {})
            say("judging a loud tick, and a steady one after it")
            firing: dict[str, Alerts] = {}
            figures |= _measure("loud", store, rules(rule_count, beyond=True), tick_ms, firing)
            figures |= _measure("steady", store, rules(rule_count, beyond=True), tick_ms, firing)
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return figures


def rules(count: int, *, beyond: bool) -> Sequence[Rule]:
    """Rules of every kind; all their thresholds are exceeded by everything, or by nothing."""
    found = []
    for number in range(count):
        statistic, by, minutes = _RULES[number % len(_RULES)]
        threshold = -1.0 if beyond else 1e9
        rule = Rule(f"rule_{number}", threshold, metrics=("duration",), statistic=statistic, by=by)
        found.append(replace(rule, window_ms=minutes * MINUTE_MS, clears_at=threshold, when_unsure="fire"))
    return found


@contextlib.contextmanager
def one_core() -> Iterator[int]:
    """Run on a single core where the system allows it; how many it is."""
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield 1
    finally:
        os.sched_setaffinity(0, before)


def _measure(
    name: str, store: Store, judged: Sequence[Rule], tick_ms: int, alerts: dict[str, Alerts]
) -> dict[str, Any]:
    """Judge from the same ``alerts`` three times; the last result is left in it."""
    whole, reading, transitions = [], [], 0
    before, after = {rule.name: alerts.get(rule.name, {}) for rule in judged}, {}
    for _ in range(REPEATS):
        after = {rule: dict(held) for rule, held in before.items()}
        began = time.process_time()
        batch = Batch(StoreSource(store), judged, tick_ms, tick_ms, {})
        read = time.process_time()
        transitions = sum(len(judge(rule, [tick_ms], batch.view_at(rule), after[rule.name])) for rule in judged)
        whole.append(time.process_time() - began)
        reading.append(read - began)
    alerts |= after
    return {
        f"{name}_s": round(statistics.median(whole), 3),
        f"{name}_read_s": round(statistics.median(reading), 3),
        f"{name}_transitions": transitions,
    }


def _fill(store: Store, series: int) -> int:
    """Windows of the last minutes; the tick (epoch milliseconds) at which they have just ended."""
    tick_ms = time.time_ns() // 1_000_000 // (5 * MINUTE_MS) * (5 * MINUTE_MS)
    chance = np.random.default_rng(1)
    per_minute = series * SAMPLES
    number = np.tile(np.arange(series), SAMPLES)
    names = {
        "metric_type": np.full(per_minute, "duration"),
        "environment": np.full(per_minute, "staging"),
        "browser": np.array(["chromium", "firefox", "webkit", "msedge"])[number % 4],
        "test_suite": np.char.add("suite-", (number // 400).astype(str)),
        "test_id": np.char.add("test-", (number // 4).astype(str)),
    }
    for minute in range(MINUTES):
        start_ms = tick_ms - (MINUTES - minute) * MINUTE_MS
        columns: dict[str, Any] = {
            name: pa.array(names.get(name, np.full(per_minute, ""))).dictionary_encode() for name in SERIES
        }
        columns["status"] = pa.array(np.where(chance.random(per_minute) < 0.02, "failed", "passed"))
        columns["timestamp_ms"] = pa.array(np.full(per_minute, start_ms))
        columns["value"] = pa.array(1000 * chance.lognormal(0, 0.3, per_minute))
        store.insert("metrics_1min", stamp(roll_up(pa.table(columns), 60), tick_ms, 120))
    return tick_ms
