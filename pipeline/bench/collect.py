"""``pipeline bench collect``: collecting from many keys of the platform's shape.

On a private Redis, seeded by Redis itself: the longest single command that collecting caused (by Redis's own slow
log, whose clock runs on while Redis waits for a core: the floor shows how much that is), keys a second beside the floor
(the same databases gone through by redis-py's SCAN alone, nothing read or counted), and how long a producer's LPUSH
takes meanwhile, beside the same producer before.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import config
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import RedisLink
from pipeline.bench.impact import Producer
from pipeline.collect.catalogue import catalogue
from pipeline.collect.collector import DATABASES, SCAN_COUNT, SHARE, Collector
from pipeline.operate import process

_AT_ONCE = 10_000
_SLOW_US = 1_000
"""What is shorter does not enter the slow log, so that the log costs nothing itself."""
_OFTEN = 100
_SHAPE: tuple[tuple[str, float, str], ...] = (
    ("sessions", 0.15, """'SET', 'session:test:' .. i,
        '{"userId":"u' .. i .. '","role":"admin","environment":"staging","browser":"chromium"}', 'EX', 3600"""),
    ("sessions", 0.05, "'SET', 'rate:login:' .. i, i % 7, 'EX', 3600"),
    ("coordination", 0.05, """'HSET', 'test:running:t' .. i, 'executor', 'worker-' .. i % 20, 'startTime',
        '2026-01-11T12:00:00Z', 'timeout', 300"""),
    ("results", 0.39, """'HSET', 'test:result:e' .. i, 'testId', 'auth-' .. i % 500, 'status', 'passed',
        'duration', 2500, 'browser', 'chromium', 'environment', 'staging'"""),
    ("results", 0.01, """'HSET', 'perf:auth-' .. i .. ':login', 'load_time', 1200, 'first_paint', 800,
        'largest_paint', 1500, 'cumulative_shift', 0.05, 'time_to_interactive', 2000"""),
    ("ai", 0.10, """'SET', 'foreign:response:' .. i, 'x', 'EX', 3600"""),
    ("temporary", 0.25, "'SET', 'foreign:artifact:' .. i, i, 'EX', 3600"),
)  # fmt: skip


def run(settings: config.Settings, keys: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Collect from ``keys`` keys once, without pauses between the shares of an interval."""
    producers = Producer(), Producer(), Producer()
    directory = Path(tempfile.mkdtemp(prefix="pipeline-bench-"))
    link = RedisLink.open(config.private(settings, directory))
    process.yield_to_redis()  # as the service does
    try:
        seeded = _seed(link, keys, say)
        say("a producer alone")
        quiet = _waits_while(link, producers[0], lambda: time.sleep(min(3.0, keys / 100_000)))
        say(f"collecting from {seeded:,} keys beside a producer")
        link.database("metrics").config_set("slowlog-log-slower-than", _SLOW_US)
        link.database("metrics").slowlog_reset()
        link.database("metrics").config_resetstat()
        told: dict[str, Any] = {}
        busy = _waits_while(link, producers[1], lambda: told.update(_collect(link, settings)))
        slow = _longest_ms(link)
        usual = link.database("metrics").info("commandstats")
        say("the floor: SCAN alone, beside a producer")
        floor: dict[str, Any] = {}
        link.database("metrics").slowlog_reset()
        _waits_while(link, producers[2], lambda: floor.update(_scan_alone(link)))
        floor_slow = _longest_ms(link)
    finally:
        for producer in producers:
            producer.stop()
        link.close(stop_embedded=True)
        shutil.rmtree(directory, ignore_errors=True)
    share = SHARE * settings.collect.interval_s
    return {
        **told,
        **floor,
        "ratio": round(floor["floor_keys_per_s"] / told["keys_per_s"], 1),
        "mean_command_us": _means(usual),
        "longest_command_ms": max(slow.values(), default=f"below {_SLOW_US / 1000:g}"),
        "longest_by_command_ms": slow,
        "floor_longest_by_command_ms": floor_slow,
        "push_p99_ms": busy,
        "push_p99_alone_ms": quiet,
        "rounds_for_10_million_keys": round(10_000_000 / told["keys_per_s"] / share),
        "most_cpu_share": SHARE,
    }


def _seed(link: RedisLink, keys: int, say: Callable[[str], None]) -> int:
    say(f"making {keys:,} keys")
    seeded = 0
    for name, part, command in _SHAPE:
        script = link.database(name).register_script(
            f"for i = ARGV[1], ARGV[2] do redis.call({command}) end return redis.call('DBSIZE')"
        )
        count = int(keys * part)
        for first in range(0, count, _AT_ONCE):
            script(args=[first, min(first + _AT_ONCE, count) - 1])
        seeded += count
    return seeded


def _waits_while(link: RedisLink, producer: Producer, work: Callable[[], Any]) -> float:
    producer.push_to(link.url(), "other:list")
    work()
    return round(float(np.quantile(producer.waits(), 0.99)) * 1000, 2)


def _collect(link: RedisLink, settings: config.Settings) -> dict[str, Any]:
    collector = Collector(
        link.database,
        settings.redis.databases.model_dump(),
        BufferKeys(settings.buffer.keys[0]),
        catalogue(),
        settings.collect.interval_s,
    )
    cpu_s, began = time.process_time(), time.perf_counter()
    report = collector.run(time.time_ns() // 1_000_000, budget_s=float("inf"))
    took_s = time.perf_counter() - began
    return {
        "keys": report.keys,
        "keys_per_s": round(report.keys / took_s),
        "cpu_us_per_key": round((time.process_time() - cpu_s) / report.keys * 1e6, 2),
        "items": report.items,
        "trouble": report.trouble,
    }


def _scan_alone(link: RedisLink) -> dict[str, Any]:
    cpu_s, began, keys = time.process_time(), time.perf_counter(), 0
    for name in DATABASES:
        keys += sum(1 for _ in link.database(name).scan_iter(count=SCAN_COUNT))
    took_s = time.perf_counter() - began
    return {
        "floor_keys_per_s": round(keys / took_s),
        "floor_cpu_us_per_key": round((time.process_time() - cpu_s) / keys * 1e6, 2),
    }


def _longest_ms(link: RedisLink) -> dict[str, float]:
    """The longest of each command that took a millisecond and more; what the producer beside it sends is left out."""
    found: dict[str, float] = {}
    for entry in link.database("metrics").slowlog_get(1000):
        name = entry["command"].split(b" ", 1)[0].decode().lower()
        if name != "lpush":
            found[name] = max(found.get(name, 0.0), round(int(entry["duration"]) / 1000, 2))
    return found


def _means(stats: Mapping[str, Any]) -> dict[str, float]:
    """Mean microseconds of each command that collecting sent often, by Redis's own clock."""
    counted = {name.removeprefix("cmdstat_").partition("|")[0]: one for name, one in stats.items()}
    return {
        name: one["usec_per_call"]
        for name, one in sorted(counted.items())
        if one["calls"] >= _OFTEN and name not in ("lpush", "ping", "select")
    }
