"""What the user of ``redis.url`` may not do although the service needs it.

Each command is queued in a transaction that is then discarded: Redis checks the user's rights when it queues a
command, and nothing is executed.
"""

from __future__ import annotations

import re

import redis

from pipeline.base import keys as names
from pipeline.base.config import Settings
from pipeline.base.keys import BufferKeys, FleetKeys
from pipeline.base.redis_link import RedisLink, outages
from pipeline.collect.build import checked_catalogue

Need = tuple[str, tuple[str, ...]]
"""A database by its name, and a command."""

_WITH_SUBCOMMAND = ("MEMORY", "CONFIG", "SCRIPT", "SLOWLOG", "CLIENT")


def needs(settings: Settings) -> list[Need]:
    """One command for each right that ``pipeline run`` needs; shipped as config/redis-users.acl."""
    found = [need for key in settings.buffer.keys for need in _of_buffer(BufferKeys(key))]
    found += _of_fleet(FleetKeys(settings.fleet.name))
    found += [need for entry, need in _PUBLISHED if entry not in settings.publish.skip]
    return found + [("metrics", command) for command in _of_groups(BufferKeys(settings.buffer.keys[0]).scratch)]


def _of_buffer(own: BufferKeys) -> list[Need]:
    commands: tuple[tuple[str, ...], ...] = (
        ("LLEN", own.buffer),
        ("LPUSH", own.buffer, "x"),
        ("RENAME", own.buffer, own.segment("x")),
        ("EVAL", "return 1", "1", own.scratch),
        ("EVALSHA", "x", "1", own.scratch),
        ("HSET", own.ledger, "x", "1"),
        ("ZADD", own.segments, "1", "x"),
        ("LTRIM", own.segment("x"), "0", "1"),
        ("UNLINK", own.segment("x")),
        ("DEL", own.scratch),
        ("EXISTS", own.meta("x")),
        ("TYPE", own.buffer),
        ("PERSIST", own.aside("x")),
        ("PTTL", own.aside("x")),
        ("TTL", own.aside("x")),
        ("PEXPIRE", own.aside("x"), "1"),
        ("MEMORY", "USAGE", own.buffer),
    )
    return [("metrics", command) for command in commands]


def _of_groups(key: str) -> list[tuple[str, ...]]:
    """The commands that the shipped user is given by group (@hash, @list, …), for a user to whom one was refused."""
    plain = ("HGETALL", "HKEYS", "HVALS", "HLEN", "LPOP", "RPOP", "ZCARD", "GET", "STRLEN")
    with_field = ("HGET", "HMGET", "HDEL", "HEXISTS", "LINDEX", "ZSCORE", "ZREM")
    with_two = ("HINCRBY", "HSETNX", "LRANGE", "LREM", "ZRANGE", "ZRANGEBYSCORE")
    return [
        *((name, key) for name in plain),
        *((name, key, "0") for name in (*with_field, "RPUSH", "HSCAN")),
        *((name, key, "0", "0") for name in with_two),
    ]


def _of_fleet(fleet: FleetKeys) -> list[Need]:
    commands: tuple[tuple[str, ...], ...] = (
        ("SELECT", "0"),
        ("CLIENT", "SETNAME", "x"),
        ("PING",),
        ("TIME",),
        ("INFO",),
        ("CONFIG", "GET", "x"),
        ("SLOWLOG", "GET", "1"),
        ("BGREWRITEAOF",),
        ("SCRIPT", "LOAD", "return 1"),
        ("SCRIPT", "EXISTS", "x"),
        ("SCAN", "0"),
        ("SET", fleet.scheduler, "x"),
        ("COPY", fleet.checkpoints, fleet.checkpoints + "x"),
        ("SADD", fleet.alerts + ":x", "1"),
        ("HSET", fleet.alerts + ":state", "x", "1"),
    )
    return [("metrics", command) for command in commands]


_PUBLISHED: tuple[tuple[str, Need], ...] = (
    ("window_1min", ("metrics", ("EXPIRE", names.window_1min(0), "1"))),
    ("window_5min", ("metrics", ("EXPIREAT", names.window_5min(0), "1"))),
    ("web_vitals", ("metrics", ("HSET", names.cwv("x", "lcp"), "x", "1"))),
    ("compat_scores", ("metrics", ("HSET", names.COMPAT_SCORES, "x", "1"))),
    ("alerts_performance", ("metrics", ("LPUSH", names.ALERTS_PERFORMANCE, "x"))),
    ("alerts_performance", ("metrics", ("DEL", names.ALERTS_PERFORMANCE_SCRATCH))),
    ("", ("metrics", ("ZREMRANGEBYSCORE", names.RESOURCE_CPU, "0", "1"))),
    ("channel_alerts_critical", ("metrics", ("PUBLISH", names.CHANNEL_ALERTS_CRITICAL, "x"))),
    ("channel_dashboard_update", ("metrics", ("PUBLISH", names.CHANNEL_DASHBOARD_UPDATE, "x"))),
    ("baseline", ("results", ("HSET", names.baseline("x"), "x", "1"))),
    ("test_stats", ("results", ("HSET", names.test_stats("x"), "x", "1"))),
    ("test_history", ("results", ("RPUSH", names.test_history("x"), "1"))),
    ("failure_pattern", ("results", ("SADD", names.failure_pattern("x"), "1"))),
    ("failure_analysis", ("results", ("HSET", names.FAILURE_ANALYSIS, "x", "1"))),
    ("", ("environment", ("HSTRLEN", names.RETENTION_PERFORMANCE_METRICS, "ttl_hours"))),
    ("", ("environment", ("HGET", names.RETENTION_PERFORMANCE_METRICS, "ttl_hours"))),
    ("", ("environment", ("GET", names.maintenance("x")))),
    ("cleanup_status", ("environment", ("HSET", names.CLEANUP_STATUS, "x", "1"))),
)
"""By the entry of ``publish.skip`` that makes it needless, what is written to the platform's keys or read from them."""


_READ: dict[str, tuple[str, ...]] = {
    "string": ("GETRANGE", "0", "1"),
    "json": ("GETRANGE", "0", "1"),
    "hash": ("HMGET", "x"),
    "list": ("LRANGE", "0", "1"),
    "set": ("SCARD",),
    "zset": ("ZRANGE", "0", "1"),
}
"""By type the command that reads a key, and what follows the key."""


def needs_to_collect(settings: Settings) -> dict[str, Need]:
    """What collecting needs, by the name of the entry; nothing when it is off. Raises ``ConfigError``."""
    if not settings.collect.enabled:
        return {}
    found: dict[str, Need] = {}
    for entry in checked_catalogue(settings).entries:
        if entry.metrics and entry.writer == "platform" and entry.name not in settings.collect.skip:
            if entry.type == "channel":
                found[entry.name] = entry.database, ("PSUBSCRIBE", entry.glob)
            else:
                name, *rest = _READ[entry.type]
                found[entry.name] = entry.database, (name, re.sub(r"\{\w+\}", "x", entry.pattern), *rest)
    return found


def missing_rights(link: RedisLink, wanted: list[Need]) -> list[str]:
    """The commands that are refused, each with its key. Raises ``RedisOutage``."""
    refused = []
    for database in dict.fromkeys(name for name, _ in wanted):
        client = link.database(database)
        for _, command in [need for need in wanted if need[0] == database]:
            if _is_refused(client, command):
                refused.append(" ".join(command[: 3 if command[0] in _WITH_SUBCOMMAND else 2]))
    return refused


def _is_refused(client: redis.Redis, command: tuple[str, ...]) -> bool:
    with outages():
        connection = client.connection_pool.get_connection()
        try:
            for words in (("MULTI",), command, ("DISCARD",)):
                connection.send_command(*words)  # type: ignore[no-untyped-call]
                try:
                    connection.read_response()
                except redis.ResponseError as error:
                    if words == ("MULTI",):
                        raise
                    if words == command:
                        refused = isinstance(error, redis.exceptions.NoPermissionError)
                        refused = refused or "NOPERM" in str(error)
                else:
                    if words == command:
                        refused = False
            return refused
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            client.connection_pool.release(connection)
