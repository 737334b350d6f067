"""What the doctor looks at on Redis: version, role, eviction, persistence, memory, connections, clock and rights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import redis

from pipeline.base.config import Settings
from pipeline.base.errors import Outage, PipelineError, RedisDenied
from pipeline.base.redis_link import IS_REPLICA, RedisLink, is_replica, outages
from pipeline.buffer.redis_disk import FSYNC_WAIT_S
from pipeline.operate.findings import Finding, clock_finding, version_of
from pipeline.operate.redis_rights import missing_rights, needs, needs_to_collect

_MOST_NAMED = 8
"""Entries that one finding names."""

MIN_REDIS = (6, 2)
SESSIONS = 10_000
"""Sessions at once that the platform's schema document plans for."""

LOOK_AT_DISK = "look at the disk of Redis: full, read-only or broken"


def redis_findings(link: RedisLink) -> Iterator[Finding]:
    """Version, eviction, persistence, memory and clock of Redis."""
    info = link.server_info()
    shown = str(info["redis_version"])
    if "valkey_version" in info:
        shown = f"Valkey {info['valkey_version']}, which calls itself Redis {shown}"
    if version_of(info["redis_version"]) < MIN_REDIS:
        yield Finding("redis version", "bad", shown, "install Redis 6.2 or later, or Valkey")
    else:
        yield Finding("redis version", "ok", shown)
    if is_replica(info):
        fix = "name the master in 'redis.url'; or make this server the master: REPLICAOF NO ONE"
        yield Finding("redis role", "bad", IS_REPLICA.partition(";")[0], fix)
    yield _eviction(info)
    yield _persistence(link, info)
    yield _memory(link, info)
    yield _connections(link, info)
    before_s = time.time()
    with outages():
        seconds, microseconds = link.database("metrics").time()
    yield clock_finding("redis clock", seconds + microseconds / 1e6, before_s)


def rights_finding(settings: Settings, link: RedisLink) -> Finding:
    """Whether the user of redis.url may do what the service does."""
    refused = missing_rights(link, needs(settings))
    if not refused:
        return Finding("redis rights", "ok", "the user may do all that the service needs")
    return Finding(
        "redis rights", "bad", f"the user of redis.url may not: {', '.join(refused)}",
        "give it the rights of 'service' in config/redis-users.acl, or start the service with that user",
    )  # fmt: skip


def collecting_finding(settings: Settings, link: RedisLink) -> Finding:
    """Whether the user of redis.url may read what is collected; what it may not read, the service leaves out."""
    wanted = needs_to_collect(settings)
    if not wanted:
        return Finding("redis rights to collect", "ok", "collect.enabled is off")
    refused = [name for name, need in wanted.items() if missing_rights(link, [need])]
    if not refused:
        return Finding("redis rights to collect", "ok", "the user may read all that is collected")
    more = f" and {len(refused) - _MOST_NAMED} more" if len(refused) > _MOST_NAMED else ""
    return Finding(
        "redis rights to collect", "warn",
        f"the user of redis.url may not read {', '.join(refused[:_MOST_NAMED])}{more}: these are not collected",
        "start the service as 'service-collecting' (Redis 6.2: 'service-collecting-6') of config/redis-users.acl, or "
        "set collect.enabled: false, or name them in collect.skip",
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
            check, "bad", "the last write to the append-only file failed: Redis refuses producers", LOOK_AT_DISK,
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
