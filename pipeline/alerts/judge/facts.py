"""What the pipeline knows about itself and its Redis: the numbers that rules may ask for by name.

Facts have no history. They are handed to each evaluation as they are at that moment, so a rule
over a fact is judged now or never, and is left out of replays.
"""

from collections.abc import Mapping, Sequence

Labels = Mapping[str, str]
Readings = Sequence[tuple[Labels, float]]
Facts = Mapping[str, float | Readings]
"""Name to a number, or to several numbers told apart by labels."""

FACTS: dict[str, str] = {
    "redis_memory_pct": "used memory of Redis, percent of maxmemory (of the machine's memory when no limit is set)",
    "redis_memory_bytes": "used memory of Redis",
    "redis_fragmentation_ratio": "memory Redis holds for each byte it uses",
    "redis_connections": "clients connected to Redis",
    "redis_connections_pct": "clients connected to Redis, percent of maxclients (Redis 7.0 and later say it)",
    "redis_command_avg_ms": "mean duration of all commands since the last look (INFO commandstats)",
    "redis_slow_query_avg_ms": "mean duration of the commands that entered the slow log in the last minute",
    "redis_keyspace_miss_pct": "look-ups of keys that were not there since the last look, percent",
    "redis_keyspace_hit_pct": "look-ups of keys that were there since the last look, percent",
    "redis_db_keys": "keys of a database; labels: database",
    "redis_db_expires": "keys of a database that have a TTL; labels: database",
    "redis_db_avg_ttl_s": "their mean time to live, as Redis estimates it; labels: database",
    "redis_replication_lag_s": "seconds since the slowest replica was heard of; labels: replica",
    "redis_expired_keys_per_s": "keys that expired, per second since the last look",
    "redis_network_bytes_per_s": "bytes in and out, per second since the last look",
    "clickhouse_unreachable": "1 while ClickHouse does not answer, else 0",
    "buffer_waiting": "items waiting in a buffer and not yet sealed; labels: buffer",
    "buffer_high_water_pct": "items waiting and in flight, percent of buffer.high_water_rows; labels: buffer",
    "drain_lag_s": "age of the oldest item that is not stored yet; labels: buffer",
    "dead_letters_5min": "items refused in the last five minutes",
    "unaccounted": "how far the books are from balancing, without sign: anything but 0 is a loss or a doubling",
    "segments_set_aside": "damaged segments and chunks that wait for `pipeline segments close`; labels: buffer",
    "rollup_lag_s": "age of the oldest minute that was touched and not rolled up again",
    "jobs_failing": "scheduled jobs whose last turn failed",
}
"""Every fact by name, with its meaning and unit."""


def readings(facts: Facts, name: str) -> list[tuple[dict[str, str], float]]:
    """The numbers of one fact; empty when it is not known at the moment."""
    known = facts.get(name)
    if known is None:
        return []
    if isinstance(known, int | float):
        return [({}, float(known))]
    return [(dict(labels), float(value)) for labels, value in known]
