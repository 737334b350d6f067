"""``pipeline bench alerts``: what one tick of many rules over many series costs on one core.

Writes the 1-minute windows of every series into a private embedded store and judges a tick as the
service does: one query, arrays, states, transitions with their evidence. Three ticks are told: a *quiet*
one, where nothing is beyond its threshold; a *loud* one, where every series is beyond every threshold
and begins to fire; and a *steady* one after it, where all that still fires. The process is bound to one
core while it judges, where the system can.

Then the transitions of the loud tick are committed to a private Redis and published, while a producer in a
process of its own pushes an item every millisecond: how long that takes, which script held Redis up longest, and
how long the producer's pushes took.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal
from pipeline.alerts.journal.rule_state import RuleState
from pipeline.alerts.judge.evaluation import Alerts, Transition, judge
from pipeline.alerts.judge.sources import SourceBatch, StoreSource
from pipeline.alerts.rules.rule import MINUTE_MS, Rule
from pipeline.analyse.dimensions import SERIES
from pipeline.analyse.windows import roll_up, stamp
from pipeline.base import config
from pipeline.bench.drain import Bench, private
from pipeline.bench.impact import Producer, longest_ms
from pipeline.store.client import Store

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


def run(settings: config.Settings, series: int, rule_count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Judge ``series`` series by ``rule_count`` rules; medians of three. Then commit the storm once.

    ``quiet_s``, ``loud_s`` and ``steady_s`` are reading and judging together; ``…_read_s`` is the reading in them.
    Seconds are those the processor spent on this process, whatever else the machine was doing; those of the commit
    are by the clock, since it waits for Redis.
    """
    producer = Producer()  # first: afterwards it would be as nice to Redis as we are
    figures: dict[str, Any] = {"series": series, "rules": rule_count}
    with private(settings) as bench:
        say(f"writing {MINUTES} minutes of {series} series")
        tick_ms = _fill(bench.store, series)
        loud = rules(rule_count, beyond=True)
        with one_core() as cores:
            figures["cores"] = cores
            say("judging a quiet tick")
            figures |= _measure("quiet", bench.store, rules(rule_count, beyond=False), tick_ms, {})
            say("judging a loud tick, and a steady one after it")
            firing: dict[str, Alerts] = {}
            figures |= _measure("loud", bench.store, loud, tick_ms, firing)
            figures |= _measure("steady", bench.store, loud, tick_ms, firing)
        say("committing the loud tick while a producer pushes")
        figures |= _commit(bench, loud, tick_ms, producer)
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return figures


def _commit(bench: Bench, loud: Sequence[Rule], tick_ms: int, producer: Producer) -> dict[str, Any]:
    """Commit what begins to fire in one tick, for the table, Redis and one channel, and publish it."""
    batch = SourceBatch(StoreSource(bench.store), loud, tick_ms, tick_ms, {})
    changed: dict[str, RuleState | None] = {}
    found: list[Transition] = []
    for rule in loud:
        alerts: Alerts = {}
        found += judge(rule, [tick_ms], batch.view_at(rule), alerts)
        changed[rule.name] = RuleState(tick_ms, rule.by, alerts)
    client = bench.link.database("metrics")
    journal = Journal(client, AlertKeys.of(bench.settings), ["bench"])
    client.config_set("slowlog-log-slower-than", 500)
    client.config_set("slowlog-max-len", 10_000)
    client.slowlog_reset()
    producer.push_to(bench.link.url(), bench.buffer.key)
    began = time.monotonic()
    journal.commit(journal.load(), changed, found, tick_ms)
    committed = time.monotonic()
    journal.publish()
    published = time.monotonic()
    waits = producer.waits()
    slow = [entry for entry in client.slowlog_get(10_000) if not entry["command"].startswith(b"LPUSH")]
    return {
        "commit_s": round(committed - began, 3),
        "publish_s": round(published - committed, 3),
        "longest_script_ms": longest_ms(slow, b"EVAL"),
        "lpush_p99_ms": round(float(np.quantile(waits, 0.99)) * 1000, 3),
        "pushes": len(waits),
    }


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
        batch = SourceBatch(StoreSource(store), judged, tick_ms, tick_ms, {})
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
