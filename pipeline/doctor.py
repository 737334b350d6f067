"""The doctor: looks at the surroundings the promises rest on, and names the fix for what is wrong.

``bad`` breaks a promise, ``warn`` weakens one. The service refuses to start on what would lose data
for certain (an eviction policy that deletes the buffer), and logs the rest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pipeline.config import Settings
from pipeline.errors import ConfigError, PipelineError
from pipeline.redis_link import RedisLink, outages
from pipeline.store.clickhouse import Store

Level = Literal["ok", "warn", "bad"]

MAX_CLOCK_DIFFERENCE_S = 2.0
MIN_REDIS = (6, 2)
MIN_CLICKHOUSE = (24, 8)
MIN_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One check: how it came out, what was seen, and what to do about it."""

    check: str
    level: Level
    seen: str
    fix: str = ""


def examine(settings: Settings, link: RedisLink | None, store: Store | None) -> list[Finding]:
    """All checks that can be made with what could be opened."""
    findings: list[Finding] = []
    if link is not None:
        findings += _attempt("redis", lambda: redis_findings(link))
    if store is not None:
        findings += _attempt("clickhouse", lambda: clickhouse_findings(store))
    findings += disk_findings(settings)
    return findings


def refuse_risky_redis(settings: Settings, link: RedisLink) -> None:
    """Raise ``ConfigError`` when Redis may evict the buffer itself, unless the risk was accepted."""
    policy = str(link.server_info().get("maxmemory_policy", ""))
    if policy.startswith("allkeys-") and not settings.redis.accept_eviction_risk:
        raise ConfigError(
            f"Redis has the eviction policy {policy!r}, which deletes the buffer itself when memory is short; set "
            "maxmemory-policy to noeviction (or volatile-lru on a shared server), or accept the loss with the "
            "setting 'redis.accept_eviction_risk' true"
        )


def redis_findings(link: RedisLink) -> Iterator[Finding]:
    """Version, eviction, persistence, memory and clock of Redis."""
    info = link.server_info()
    version = tuple(int(part) for part in str(info["redis_version"]).split("."))
    shown = ".".join(map(str, version))
    if version[:2] < MIN_REDIS:
        yield Finding("redis version", "bad", shown, "Redis 6.2 or later, or Valkey, is needed")
    else:
        yield Finding("redis version", "ok", shown)
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy.startswith("allkeys-"):
        yield Finding("redis eviction", "bad", policy, "CONFIG SET maxmemory-policy noeviction, and in redis.conf")
    else:
        yield Finding("redis eviction", "ok", policy)
    yield _persistence(link, info)
    if not info.get("maxmemory"):
        yield Finding(
            "redis memory limit", "warn", "none: a long outage of ClickHouse ends with the kernel killing Redis",
            "set maxmemory; with noeviction producers are then refused in time, and the drainer still drains",
        )  # fmt: skip
    else:
        yield Finding("redis memory limit", "ok", f"{int(info['maxmemory']) >> 20} MiB")
    with outages():
        seconds, microseconds = link.database("metrics").time()
    difference_s = seconds + microseconds / 1e6 - time.time()
    yield _clock("redis clock", difference_s)


def _persistence(link: RedisLink, info: dict[str, Any]) -> Finding:
    if not info.get("aof_enabled"):
        return Finding(
            "redis persistence", "bad", "no append-only file: a restart of Redis loses the buffer",
            "CONFIG SET appendonly yes, and in redis.conf",
        )  # fmt: skip
    try:
        with outages():
            policy = link.database("metrics").config_get("appendfsync").get("appendfsync", "unknown")
    except Exception:
        policy = "unknown (CONFIG is forbidden)"
    if policy == "no":
        return Finding(
            "redis persistence",
            "warn",
            "appendfsync no: a power cut loses up to 30 s",
            "CONFIG SET appendfsync everysec",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("redis persistence", "bad", "the last write to the append-only file failed", "look at the disk")
    return Finding("redis persistence", "ok", f"append-only file, appendfsync {policy}")


def clickhouse_findings(store: Store) -> Iterator[Finding]:
    """Version, clock and schema of ClickHouse; as a writer also a row written and read back."""
    text, now_ms = store.rows("SELECT version(), toUnixTimestamp64Milli(now64(3))")[0]
    version = tuple(int(part) for part in text.split(".")[:2])
    if version < MIN_CLICKHOUSE:
        yield Finding("clickhouse version", "warn", text, "24.8 or later is what this is built for")
    else:
        yield Finding("clickhouse version", "ok", text)
    yield _clock("clickhouse clock", now_ms / 1000 - time.time())
    tables = store.rows("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'metrics'")
    if not tables[0][0]:
        yield Finding("schema", "bad", "the tables do not exist", "run 'pipeline migrate'")
        return
    applied = store.rows("SELECT max(version) FROM schema_migrations")[0][0]
    yield Finding("schema", "ok", f"migration {applied}")
    parts = store.rows(
        "SELECT max(n) FROM (SELECT count() AS n FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table LIKE 'metrics%' GROUP BY table, partition)"
    )[0][0]
    if parts and parts > 1000:
        yield Finding("parts", "warn", f"{parts} in one partition", "merges do not keep up: raise drainer.batch_rows")
    if store.role == "writer":
        yield _canary(store)


def _canary(store: Store) -> Finding:
    """A row goes in and comes back: rights, disk and insert settings in one."""
    name = f"canary-{time.time_ns():x}"
    row = pa.table({"segment": [name], "position": pa.array([0], pa.uint32()), "mark": ["canary"]})
    row = row.append_column("marked_at", pa.array([time.time_ns() // 1_000_000]).cast(pa.timestamp("ms", tz="UTC")))
    store.insert("dead_letter_marks", row)
    found = store.rows("SELECT count() FROM dead_letter_marks WHERE segment = {name:String}", {"name": name})[0][0]
    if found != 1:
        return Finding(
            "canary insert", "bad", f"one row went in, {found} came back", "look for async_insert or a lagging replica"
        )
    return Finding("canary insert", "ok", "one row in, one row back")


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """Room for the embedded engines and for spilled segments."""
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        yield Finding("disk", "warn", f"{free >> 20} MiB free under {settings.data_dir}", "make room or move data_dir")
    else:
        yield Finding("disk", "ok", f"{free >> 30} GiB free under {settings.data_dir}")


def _clock(check: str, difference_s: float) -> Finding:
    shown = f"{abs(difference_s):.2f} s {'ahead of' if difference_s > 0 else 'behind'} this machine's"
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        return Finding(check, "warn", shown, "run NTP on both: timestamps are judged by these clocks")
    return Finding(check, "ok", shown)


def _attempt(check: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except PipelineError as error:
        return [Finding(check, "bad", str(error), "see that it runs and that its address in the settings is right")]
