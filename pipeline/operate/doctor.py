"""The doctor: checks what the promises rest on (Redis, ClickHouse, this machine), and names the fix for what is wrong.

``bad`` breaks a promise, ``warn`` weakens one. The service refuses to start on what would lose data
for certain (an eviction policy that deletes the buffer), and logs the rest.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import redis

from pipeline.base import resources
from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError, MigrationError, Outage, PipelineError, RedisDenied, StoreRefused
from pipeline.base.redis_link import IS_REPLICA, RedisLink, is_replica, outages
from pipeline.buffer.redis_disk import FSYNC_WAIT_S
from pipeline.jobs.retention import retention_hours
from pipeline.operate import clickhouse_rights, preflight
from pipeline.operate.redis_rights import missing_rights, needs
from pipeline.store.client import Store, engine_path
from pipeline.store.migrate import (
    DEDUP_WINDOW_S,
    PLAIN_DEDUP_WINDOW_BLOCKS,
    RAW_TTL_MARGIN_HOURS,
    check,
    dedup_window_blocks,
    engine_of,
    kept_hours,
)
from pipeline.store.schema import differences

Severity = Literal["ok", "warn", "bad"]

MAX_CLOCK_DIFFERENCE_S = 2.0
MIN_REDIS = (6, 2)
MIN_CLICKHOUSE = (24, 8)
MIN_FREE_BYTES = 2 << 30
MAX_PARTS = 1_000
"""Parts in one partition from which on ClickHouse slows inserts down; at three times as many it refuses them."""

SHOWN_DIFFERENCES = 5
SESSIONS = 10_000
"""Sessions at once that the platform's schema document plans for."""

_UNKNOWN_DATABASE = 81
_LOOK_AT_DISK = "look at the disk of Redis: full, read-only or broken"
_RIGHTS = "give the user of clickhouse.dsn the rights and the profile that config/clickhouse/users.d has for it"


@dataclass(frozen=True)
class Finding:
    """One check: how it came out, the detail, and the fix."""

    check: str
    severity: Severity
    detail: str
    fix: str = ""


def open_for_doctor(settings: Settings) -> tuple[RedisLink | None, Store | None, list[Finding]]:
    """Open Redis and ClickHouse; what cannot be opened is a finding. Nothing is started or created."""
    findings = []
    link: RedisLink | None = None
    store: Store | None = None
    try:
        link = RedisLink.open(settings, start=False)
    except PipelineError as error:
        findings.append(Finding("redis", "bad", str(error), "see 'redis.url' in the settings"))
    path = engine_path(settings)
    if path is not None and not path.exists():
        findings.append(Finding("schema", "warn", f"there is no {path} yet", "start 'pipeline run', which makes it"))
        return link, None, findings
    try:
        store = Store.open(settings, role="reader" if path is not None else "writer")
    except PipelineError as error:
        findings.append(Finding("clickhouse", "bad", str(error), "see 'clickhouse.dsn' in the settings"))
    return link, store, findings


def examine(settings: Settings, link: RedisLink | None, store: Store | None) -> list[Finding]:
    """All checks that can be made with what could be opened."""

    def redis_side(link: RedisLink) -> Iterator[Finding]:
        yield from redis_findings(link)
        yield rights_finding(settings, link)
        yield durable_seal_finding(settings, link)

    def clickhouse_side(store: Store) -> Iterator[Finding]:
        for finding in clickhouse_findings(settings, store):
            yield finding
            if (finding.check, finding.severity) == ("schema", "ok"):
                yield retention_finding(settings, link, store)

    findings: list[Finding] = []
    if link is not None:
        findings += _attempt("redis", redis_side(link))
    if store is not None:
        findings += _attempt("clickhouse", clickhouse_side(store))
    findings += disk_findings(settings)
    findings += [Finding("encryption", "warn", *warning.split("; ", 1)) for warning in preflight.warnings(settings)]
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


# Redis


def redis_findings(link: RedisLink) -> Iterator[Finding]:
    """Version, eviction, persistence, memory and clock of Redis."""
    info = link.server_info()
    shown = str(info["redis_version"])
    if "valkey_version" in info:
        shown = f"Valkey {info['valkey_version']}, which calls itself Redis {shown}"
    if _version(info["redis_version"]) < MIN_REDIS:
        yield Finding("redis version", "bad", shown, "install Redis 6.2 or later, or Valkey")
    else:
        yield Finding("redis version", "ok", shown)
    if is_replica(info):
        fix = "name the master in 'redis.url', or REPLICAOF NO ONE where this one is to be it"
        yield Finding("redis role", "bad", IS_REPLICA.partition(";")[0], fix)
    yield _eviction(info)
    yield _persistence(link, info)
    yield _memory(link, info)
    yield _connections(link, info)
    before_s = time.time()
    with outages():
        seconds, microseconds = link.database("metrics").time()
    yield _clock("redis clock", seconds + microseconds / 1e6, before_s)


def rights_finding(settings: Settings, link: RedisLink) -> Finding:
    """Whether the user of redis.url may do what the service does."""
    refused = missing_rights(link, needs(settings))
    if not refused:
        return Finding("redis rights", "ok", "the user may do all that the service needs")
    return Finding(
        "redis rights", "bad", f"the user of redis.url may not: {', '.join(refused)}",
        "give it the rights of 'service' in config/redis-users.acl, or start the service with that user",
    )  # fmt: skip


def _eviction(info: dict[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", ""))
    if not policy:
        return Finding(
            "redis eviction", "warn", "the server does not tell its policy",
            "see to it that it is noeviction or volatile-*: an allkeys policy deletes the buffer itself",
        )  # fmt: skip
    if policy.startswith("allkeys-"):
        return Finding(
            "redis eviction", "bad", f"{policy}: when memory is short, Redis deletes the buffer itself",
            "CONFIG SET maxmemory-policy noeviction (volatile-lru on a shared server), and in redis.conf",
        )  # fmt: skip
    return Finding("redis eviction", "ok", policy)


def _persistence(link: RedisLink, info: dict[str, Any]) -> Finding:
    check = "redis persistence"
    if not info.get("aof_enabled"):
        return Finding(
            check, "bad", "no append-only file: a restart of Redis loses the buffer",
            "CONFIG SET appendonly yes, and in redis.conf",
        )  # fmt: skip
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            check, "bad", "the last write to the append-only file failed: Redis refuses producers", _LOOK_AT_DISK,
        )  # fmt: skip
    policy = _appendfsync(link)
    if policy == "no":
        return Finding(
            check, "warn", "appendfsync no: a power cut loses up to 30 s of what producers sent",
            "CONFIG SET appendfsync everysec, and in redis.conf",
        )  # fmt: skip
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        return Finding(
            check, "warn", "the last rewrite of the append-only file failed: it grows until the disk is full",
            "see the log of Redis; it needs room for a second file and memory for a fork",
        )  # fmt: skip
    return Finding(check, "ok", f"append-only file, appendfsync {policy or 'unknown (CONFIG is forbidden)'}")


def _connections(link: RedisLink, info: dict[str, Any]) -> Finding:
    """Every session of the platform holds a connection or more; beyond ``maxclients`` Redis refuses all newcomers."""
    limit = int(info.get("maxclients") or 0)
    if link.is_embedded or not limit or limit > SESSIONS:
        return Finding("redis connections", "ok", f"at most {limit or 'unknown'}")
    return Finding(
        "redis connections", "warn", f"maxclients {limit:,}: the platform plans for {SESSIONS:,} sessions",
        "CONFIG SET maxclients 20000, and in redis.conf; the server's limit of open files (ulimit -n) must allow it",
    )  # fmt: skip


def _memory(link: RedisLink, info: dict[str, Any]) -> Finding:
    limit = int(info.get("maxmemory") or 0)
    if limit:
        return Finding("redis memory limit", "ok", f"{limit >> 20:,} MiB")
    if link.is_embedded:
        return Finding("redis memory limit", "ok", "none: the embedded server may take what the machine has")
    return Finding(
        "redis memory limit", "warn", "none: a long outage of ClickHouse ends with the kernel killing Redis",
        "set maxmemory; with noeviction producers are then refused in time, and the drainer still drains",
    )  # fmt: skip


def durable_seal_finding(settings: Settings, link: RedisLink) -> Finding:
    """Whether a power cut may make rows be stored twice: the drainer waits for the disk, if Redis lets it."""
    check = "durable seal"
    if not settings.drainer.durable_seal:
        return Finding(
            check, "warn", "off: after a power cut up to a second of rows may be stored twice",
            "set drainer.durable_seal true",
        )  # fmt: skip
    info = link.server_info()
    policy = _appendfsync(link)
    if not info.get("aof_enabled") or policy == "no":
        cause = "appendfsync is no" if info.get("aof_enabled") else "there is no append-only file"
        return Finding(
            check, "warn", f"on, but {cause}, so it protects nothing: a power cut may lose rows or store them twice",
            "CONFIG SET appendonly yes, CONFIG SET appendfsync everysec, and in redis.conf",
        )  # fmt: skip
    if link.is_embedded:
        return Finding(check, "ok", "on: the drainer syncs the file itself")
    if policy == "always":
        return Finding(check, "ok", "on: Redis syncs every write")
    return Finding(check, "ok", f"on: a segment waits {FSYNC_WAIT_S:g} s for the disk")


def _appendfsync(link: RedisLink) -> str:
    """The policy; empty where CONFIG is forbidden, as on most hosted servers."""
    try:
        with outages():
            return str(link.database("metrics").config_get("appendfsync").get("appendfsync", ""))
    except RedisDenied:
        return ""
    except Outage:
        raise
    except (PipelineError, redis.ResponseError):
        return ""


# ClickHouse


def clickhouse_findings(settings: Settings, store: Store) -> Iterator[Finding]:
    """Version, clock and schema of ClickHouse; as a writer also its settings, and a row written and read back."""
    before_s = time.time()
    try:
        text, now_ms = store.rows("SELECT version(), toUnixTimestamp64Milli(now64(3))")[0]
    except StoreRefused as refused:
        if refused.code != _UNKNOWN_DATABASE:
            raise
        yield _no_schema(store, f"there is no database {store.database!r} yet")
        return
    if _version(text) < MIN_CLICKHOUSE:
        oldest = ".".join(map(str, MIN_CLICKHOUSE))
        yield Finding("clickhouse version", "warn", text, f"install {oldest} or later: nothing older was tried")
    else:
        yield Finding("clickhouse version", "ok", text)
    yield _clock("clickhouse clock", now_ms / 1000, before_s)
    if store.role == "writer" and not store.is_embedded:
        yield from clickhouse_rights_findings(store)
    try:
        check(store)
    except ConfigError as missing:
        yield _no_schema(store, str(missing).partition(": run")[0])
        return
    except MigrationError as changed:
        yield Finding("schema", "bad", str(changed), "run the version of the pipeline that the database belongs to")
        return
    wrong = differences(store)
    if wrong:
        detail = "; ".join(one.text for one in wrong[:SHOWN_DIFFERENCES])
        more = f"; and {len(wrong) - SHOWN_DIFFERENCES} more" if len(wrong) > SHOWN_DIFFERENCES else ""
        yield Finding("schema", "bad", detail + more, "; ".join(dict.fromkeys(one.fix for one in wrong)))
        return
    yield Finding("schema", "ok", f"migration {store.rows('SELECT max(version) FROM schema_migrations')[0][0]}")
    yield _deduplication(settings, store)
    yield _runs(store)
    yield _parts(store)
    if store.role == "writer":
        yield _insert_settings(store)
        yield _canary(store)


def clickhouse_rights_findings(store: Store) -> Iterator[Finding]:
    """What the user of clickhouse.dsn may do as the service, and whether it could migrate, which a service need not."""
    lacking = clickhouse_rights.missing_rights(store, clickhouse_rights.service_needs(store))
    if lacking is None:
        yield Finding("clickhouse rights", "ok", "this version cannot be asked (CHECK GRANT); the canary insert tells")
        return
    if lacking:
        yield Finding(
            "clickhouse rights", "bad", f"the user of clickhouse.dsn lacks {clickhouse_rights.in_short(lacking)}",
            f"{_RIGHTS}: there, pipeline_writer is for the service",
        )  # fmt: skip
    else:
        yield Finding("clickhouse rights", "ok", "the user may do all that the service needs")
    lacking = clickhouse_rights.missing_rights(store, clickhouse_rights.migration_needs(store))
    if lacking:
        short = clickhouse_rights.in_short(lacking)
        detail = f"not with this user, as it should be for a service: it lacks {short}"
    else:
        detail = "this user may, which is more than a service needs"
    yield Finding("clickhouse rights to migrate", "ok", detail)


def _no_schema(store: Store, detail: str) -> Finding:
    if store.is_embedded:
        return Finding("schema", "warn", detail, "start 'pipeline run', which makes it, or run 'pipeline migrate'")
    return Finding("schema", "bad", detail, "run 'pipeline migrate'")


def _deduplication(settings: Settings, store: Store) -> Finding:
    """An insert that arrives late, after its chunk was taken over, is told by its token, if the table remembers it."""
    wanted = {
        # Replicated tables remember 10,000 blocks unless told otherwise, others none.
        "non_replicated_deduplication_window": (0, PLAIN_DEDUP_WINDOW_BLOCKS),
        "replicated_deduplication_window": (10_000, dedup_window_blocks(settings)),
        "replicated_deduplication_window_seconds": (3600, DEDUP_WINDOW_S),
    }
    forgetful: list[str] = []
    short: list[str] = []
    for table in ("metrics", "dead_letters"):
        engine = engine_of(store, table)
        local = f"{table}_local" if store.cluster else table
        for setting, (default, least) in wanted.items():
            if setting.startswith("non_") is not engine.startswith("MergeTree"):
                continue
            window = re.search(rf"\b{setting} = (\d+)", engine)
            blocks = int(window[1] if window else default)
            if blocks < least:
                change = f"ALTER TABLE {store.database}.{local} MODIFY SETTING {setting} = {least}"
                (short if blocks else forgetful).append(change)
    if forgetful:
        return Finding(
            "deduplication window", "bad", "an insert that arrives late is not recognised, and its rows are doubled",
            "; ".join(forgetful + short),
        )  # fmt: skip
    if short:
        return Finding(
            "deduplication window", "warn", "an insert that arrives hours late may not be recognised",
            "; ".join(short),
        )  # fmt: skip
    return Finding("deduplication window", "ok", "the tables remember the tokens of inserts")


def _parts(store: Store) -> Finding:
    parts = store.rows(
        "SELECT max(n) FROM (SELECT count() AS n FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table LIKE 'metrics%' GROUP BY table, partition)"
    )[0][0]
    if parts > MAX_PARTS:
        return Finding(
            "parts", "warn", f"{parts:,} in one partition: merges do not keep up, and inserts are slowed down",
            "raise drainer.batch_rows or drainer.flush_interval_s, or give ClickHouse a faster disk",
        )  # fmt: skip
    return Finding("parts", "ok", f"{parts:,} in the fullest partition")


def _runs(store: Store) -> Finding:
    """A run whose jobs hold the same executions was fed in two ways, and counts them twice."""
    found = store.rows(resources.queries("sql/page.sql")["run_twins"].sql, {"run": ""})
    if not found:
        return Finding("runs", "ok", "none of the newest with several jobs was fed twice")
    run_id, job, other, tests = found[0]
    return Finding(
        "runs",
        "warn",
        f"{len(found)} pairs of jobs hold the same executions, so their runs count them twice: {job} and {other} of "
        f"{run_id} have {tests:,} in common",
        "feed a run in one way: by the plugin or the reporter, or by 'pipeline push' of its reports",
    )


def _insert_settings(store: Store) -> Finding:
    """What goes with our inserts must be in force: a profile may hold settings fast."""
    sent = {name: str(value) for name, value in store.insert_settings("canary").items()}
    clause = ", ".join(f"{name} = '{value}'" for name, value in sent.items())
    try:
        found = dict(
            store.rows(
                f"SELECT name, value FROM system.settings WHERE name IN {{names:Array(String)}} SETTINGS {clause}",
                {"names": list(sent)},
            )
        )
    except (StoreRefused, Outage) as refused:  # a user who may only read is told to come back later
        return Finding("insert settings", "bad", str(refused), _RIGHTS)
    others = [
        f"{name} is {found.get(name, 'unknown')}, not {value}"
        for name, value in sent.items()
        if found.get(name) != value
    ]
    if others:
        return Finding("insert settings", "bad", "; ".join(others), _RIGHTS)
    return Finding("insert settings", "ok", f"all {len(sent)} are taken as sent, async_insert = 0 among them")


def _canary(store: Store) -> Finding:
    """A row goes in and comes back: rights and disk in one."""
    name = f"canary-{time.time_ns():x}"
    row = pa.table({"segment": [name], "position": pa.array([0], pa.uint32()), "mark": ["canary"]})
    row = row.append_column("marked_at", pa.array([time.time_ns() // 1_000_000]).cast(pa.timestamp("ms", tz="UTC")))
    try:
        store.insert("dead_letter_marks", row, token=name)
        found = store.rows("SELECT count() FROM dead_letter_marks WHERE segment = {name:String}", {"name": name})[0][0]
    except StoreRefused as refused:
        return Finding("canary insert", "bad", str(refused), _RIGHTS)
    except Outage as outage:
        return Finding(
            "canary insert", "bad", str(outage), "free what it says is short; until then everything stays in Redis"
        )
    if found != 1:
        return Finding(
            "canary insert", "bad", f"one row went in, {found} came back", "look for a proxy or a replica that lags"
        )
    return Finding("canary insert", "ok", "one row in, one row back")


def retention_finding(settings: Settings, link: RedisLink | None, store: Store) -> Finding:
    """Rows must be kept longer than items may be old, and what is accepted the platform may change in Redis."""
    accepted = settings.retention.raw_hours
    if link is not None:
        with contextlib.suppress(Outage):  # which is said elsewhere
            accepted = retention_hours(link, accepted)
    kept = kept_hours(store)
    if kept is None:
        return Finding("retention", "ok", f"items of the last {accepted:,} h are accepted, rows kept for ever")
    detail = f"items of the last {accepted:,} h are accepted, rows kept for {kept:,} h"
    if kept >= accepted + RAW_TTL_MARGIN_HOURS:
        return Finding("retention", "ok", detail)
    if engine_path(settings) is not None:
        return Finding("retention", "warn", detail, "start 'pipeline run' again: it adapts the tables")
    return Finding(
        "retention", "bad", f"{detail}: the oldest vanish",
        f"set retention.raw_hours to {accepted} and run 'pipeline migrate'",
    )  # fmt: skip


# The machine


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """Room for the embedded engines and for spilled segments."""
    place = settings.data_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        yield Finding(
            "disk", "warn", f"{free >> 20:,} MiB free under {settings.data_dir}", "make room or move data_dir"
        )
    else:
        yield Finding("disk", "ok", f"{free >> 30:,} GiB free under {settings.data_dir}")


def _clock(check: str, there_s: float, before_s: float) -> Finding:
    """The other's clock against the middle of the time it took to ask."""
    difference_s = there_s - (before_s + time.time()) / 2
    shown = f"{abs(difference_s):.2f} s {'ahead of' if difference_s > 0 else 'behind'} this machine's"
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        return Finding(check, "warn", shown, "run NTP on both: what is too old or too new is judged by these clocks")
    return Finding(check, "ok", shown)


def _version(text: Any) -> tuple[int, ...]:
    """Major and minor, whatever a vendor appends."""
    return tuple(int(part) for part in re.findall(r"\d+", str(text))[:2])


def _attempt(side: str, findings: Iterator[Finding]) -> list[Finding]:
    """What can be found out; what cannot is itself a finding."""
    found = []
    try:
        for finding in findings:
            found.append(finding)  # noqa: PERF402  what came before the error stays
    except RedisDenied as denied:
        found.append(Finding(side, "bad", str(denied), "see 'redis.url', and config/redis-users.acl for its rights"))
    except Outage as outage:
        if "MISCONF" in str(outage):  # said even to those who only read
            if any(one.check == "redis persistence" for one in found):
                return found
            return [*found, Finding("redis persistence", "bad", str(outage), _LOOK_AT_DISK)]
        found.append(Finding(side, "bad", str(outage), f"see that it runs, and that {_ADDRESSES[side]} is its address"))
    except StoreRefused as refused:
        found.append(Finding(side, "bad", str(refused), _RIGHTS))
    except (PipelineError, redis.RedisError) as error:
        found.append(Finding(side, "bad", str(error), f"see {_ADDRESSES[side]} and what its user may do"))
    return found


_ADDRESSES = {"redis": "'redis.url'", "clickhouse": "'clickhouse.dsn'"}
