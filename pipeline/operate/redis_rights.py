"""What the user of ``redis.url`` may not do although the service needs it.

Each command is queued in a transaction that is then discarded: Redis checks the user's rights when it queues a
command, and nothing is executed.
"""

from __future__ import annotations

import redis

from pipeline.base import keys as names
from pipeline.base.config import Settings
from pipeline.base.keys import BufferKeys, FleetKeys
from pipeline.base.redis_link import RedisLink, outages

Need = tuple[str, tuple[str, ...]]
"""A database by its name, and a command."""


def needs(settings: Settings) -> list[Need]:
    """One command for each right that ``pipeline run`` needs; shipped as config/redis-users.acl."""
    found: list[Need] = []
    for key in settings.buffer.keys:
        own = BufferKeys(key)
        found += [
            ("metrics", ("LLEN", key)),
            ("metrics", ("RENAME", key, own.segment("x"))),
            ("metrics", ("EVAL", "return 1", "1", own.scratch)),
            ("metrics", ("HSET", own.ledger, "x", "1")),
            ("metrics", ("ZADD", own.segments, "1", "x")),
            ("metrics", ("LTRIM", own.segment("x"), "0", "1")),
            ("metrics", ("UNLINK", own.segment("x"))),
            ("metrics", ("MEMORY", "USAGE", key)),
        ]
    fleet = FleetKeys(settings.fleet.name)
    found += [
        ("metrics", ("SET", fleet.scheduler, "x")),
        ("metrics", ("HSET", fleet.alerts + ":state", "x", "1")),
        ("metrics", ("HSET", names.window_1min(0), "x", "1")),
        ("metrics", ("HSET", names.window_5min(0), "x", "1")),
        ("metrics", ("HSET", names.cwv("x", "lcp"), "x", "1")),
        ("metrics", ("HSET", names.COMPAT_SCORES, "x", "1")),
        ("metrics", ("LPUSH", names.ALERTS_PERFORMANCE, "x")),
        ("metrics", ("ZREMRANGEBYSCORE", names.RESOURCE_CPU, "0", "1")),
        ("metrics", ("PUBLISH", names.CHANNEL_ALERTS_CRITICAL, "x")),
        ("metrics", ("PUBLISH", names.CHANNEL_DASHBOARD_UPDATE, "x")),
        ("metrics", ("TIME",)),
        ("metrics", ("INFO",)),
        ("results", ("HSET", names.baseline("x"), "x", "1")),
        ("results", ("HSET", names.test_stats("x"), "x", "1")),
        ("environment", ("HGET", names.RETENTION_PERFORMANCE_METRICS, "ttl_hours")),
        ("environment", ("HSET", names.CLEANUP_STATUS, "x", "1")),
    ]
    return found


def missing_rights(link: RedisLink, wanted: list[Need]) -> list[str]:
    """The commands that are refused, each with its key. Raises ``RedisOutage``."""
    refused = []
    for database in dict.fromkeys(name for name, _ in wanted):
        client = link.database(database)
        for _, command in [need for need in wanted if need[0] == database]:
            if _is_refused(client, command):
                refused.append(" ".join(command[: 3 if command[0] == "MEMORY" else 2]))
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
