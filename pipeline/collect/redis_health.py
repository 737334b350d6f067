"""How Redis is: what INFO and SLOWLOG say, as the plain numbers that rules watch.

``facts`` is pure: two looks at the server in, numbers out. What needs two looks (rates, misses) is
not there at the first. When Redis does not answer, ``RedisHealth.look`` raises ``RedisOutage``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from pipeline.alerts.judge.facts import Facts, Readings
from pipeline.base.redis_link import outages

SLOW_WINDOW_S = 60
"""Slow commands of the last minute count; older ones were told already."""
_SLOWLOG_ENTRIES = 128
"""What Redis keeps by default."""
_MIN_LOOKUPS_PER_S = 1_000
"""A share of fewer look-ups says nothing of the platform: hundreds a second are this product's own."""


@dataclass(frozen=True)
class HealthLook:
    """One look at a server: when (monotonic seconds), INFO, and (epoch seconds, microseconds) of slow commands."""

    at_s: float
    info: Mapping[str, Any]
    slow: Sequence[tuple[int, int]] = ()
    server_time_s: int = 0
    commands: tuple[int, int] = (0, 0)
    """Commands since the server started, and the microseconds they took together."""


def facts(now: HealthLook, before: HealthLook | None = None) -> dict[str, float | Readings]:
    """The numbers of a look; rates are those since ``before``. What the server does not say is left out."""
    info = now.info
    found: dict[str, float | Readings] = {"redis_slow_query_avg_ms": _slow_ms(now)}
    limit = _number(info, "maxmemory") or _number(info, "total_system_memory")
    if limit:
        found["redis_memory_pct"] = 100 * _number(info, "used_memory") / limit
    if "used_memory" in info:
        found["redis_memory_bytes"] = _number(info, "used_memory")
    if "mem_fragmentation_ratio" in info:
        found["redis_fragmentation_ratio"] = _number(info, "mem_fragmentation_ratio")
    if "connected_clients" in info:
        found["redis_connections"] = _number(info, "connected_clients")
        if most := _number(info, "maxclients"):
            found["redis_connections_pct"] = 100 * _number(info, "connected_clients") / most
    found |= _databases(info)
    if replicas := _replicas(info):
        found["redis_replication_lag_s"] = replicas
    if before is not None and now.at_s > before.at_s and _same_server(now, before):
        found |= _rates(now, before)
    return found


def _slow_ms(now: HealthLook) -> float:
    recent = [micros for at_s, micros in now.slow if at_s > now.server_time_s - SLOW_WINDOW_S]
    return sum(recent) / len(recent) / 1000 if recent else 0.0


def _databases(info: Mapping[str, Any]) -> dict[str, float | Readings]:
    """What INFO keyspace says of each database that has keys."""
    found: dict[str, float | Readings] = {}
    lines = {name[2:]: line for name, line in info.items() if name.startswith("db") and name[2:].isdigit()}
    for name, field_name, scale in (
        ("redis_db_keys", "keys", 1),
        ("redis_db_expires", "expires", 1),
        ("redis_db_avg_ttl_s", "avg_ttl", 1000),
    ):
        told = [
            ({"database": number}, _number(line, field_name) / scale)
            for number, line in sorted(lines.items(), key=lambda one: int(one[0]))
            if isinstance(line, Mapping)
        ]
        if told:
            found[name] = told
    return found


def _replicas(info: Mapping[str, Any]) -> list[tuple[dict[str, str], float]]:
    """Of a primary, how long ago each replica was heard of; of a replica, how long ago its primary was."""
    if info.get("role") == "slave":
        down = _number(info, "master_link_down_since_seconds")
        return [({"replica": "this server"}, max(down, _number(info, "master_last_io_seconds_ago")))]
    found = []
    for name, replica in info.items():
        # slave0:ip=…,port=…,state=online,offset=…,lag=0; not slave_expires_tracked_keys
        if name.removeprefix("slave").isdigit() and isinstance(replica, Mapping):
            found.append(({"replica": f"{replica.get('ip')}:{replica.get('port')}"}, float(replica.get("lag", 0))))
    return found


def _rates(now: HealthLook, before: HealthLook) -> dict[str, float]:
    seconds = now.at_s - before.at_s

    def grown(name: str) -> float:
        return _number(now.info, name) - _number(before.info, name)

    found = {
        "redis_expired_keys_per_s": grown("expired_keys") / seconds,
        "redis_network_bytes_per_s": (grown("total_net_input_bytes") + grown("total_net_output_bytes")) / seconds,
    }
    calls, micros = (after - then for after, then in zip(now.commands, before.commands, strict=True))
    if calls > 0 and micros >= 0:  # otherwise CONFIG RESETSTAT was between
        found["redis_command_avg_ms"] = micros / calls / 1000
    lookups = grown("keyspace_hits") + grown("keyspace_misses")
    if lookups >= _MIN_LOOKUPS_PER_S * seconds:
        found["redis_keyspace_miss_pct"] = 100 * grown("keyspace_misses") / lookups
        found["redis_keyspace_hit_pct"] = 100 * grown("keyspace_hits") / lookups
    return found


def _same_server(now: HealthLook, before: HealthLook) -> bool:
    """A restarted server counts from zero again."""
    return now.info.get("run_id") == before.info.get("run_id")


def _number(info: Mapping[str, Any], name: str) -> float:
    value = info.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def _commands(stats: Mapping[str, Any]) -> tuple[int, int]:
    """Calls and microseconds of all commands; a script's time is its own, not counted again for what it calls."""
    counted = [one for one in stats.values() if isinstance(one, Mapping)]
    return int(sum(_number(one, "calls") for one in counted)), int(sum(_number(one, "usec") for one in counted))


@dataclass
class RedisHealth:
    """Looks at a server now and then and remembers the look before."""

    client: redis.Redis
    _before: HealthLook | None = field(default=None)

    def look(self) -> Facts:
        """The numbers now. Raises ``RedisOutage``; a server that forbids SLOWLOG has no slow commands."""
        with outages():
            info = self.client.info()
            commands = _commands(self.client.info("commandstats"))
            seconds, _ = self.client.time()
            slow = self._slow_commands()
        now = HealthLook(time.monotonic(), info, slow, int(seconds), commands)
        found, self._before = facts(now, self._before), now
        return found

    def _slow_commands(self) -> list[tuple[int, int]]:
        try:
            entries = self.client.slowlog_get(_SLOWLOG_ENTRIES)
        except redis.ResponseError:  # hosted Redis often forbids it
            return []
        return [(int(entry["start_time"]), int(entry["duration"])) for entry in entries]
