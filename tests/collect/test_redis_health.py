"""What INFO and SLOWLOG become."""

import redis

from pipeline.alerts.judge.facts import FACTS
from pipeline.collect.redis_health import HealthLook, RedisHealth, facts

INFO = {"run_id": "r", "used_memory": 950, "maxmemory": 1000, "connected_clients": 81, "mem_fragmentation_ratio": 1.5}


def test_memory_is_a_share_of_the_limit_or_of_the_machine() -> None:
    """Percent of maxmemory; without a limit, of the machine's memory."""
    assert facts(HealthLook(0, INFO))["redis_memory_pct"] == 95.0
    assert facts(HealthLook(0, {**INFO, "maxmemory": 0, "total_system_memory": 3800}))["redis_memory_pct"] == 25.0
    assert "redis_memory_pct" not in facts(HealthLook(0, {"used_memory": 5}))


def test_slow_commands_of_the_last_minute_are_averaged() -> None:
    """Mean milliseconds of what entered the slow log in the last minute; none is 0."""
    slow = [(1000, 12_000), (990, 30_000), (900, 9_000_000)]
    assert facts(HealthLook(0, INFO, slow, 1010))["redis_slow_query_avg_ms"] == 21.0
    assert facts(HealthLook(0, INFO, slow, 9999))["redis_slow_query_avg_ms"] == 0.0


def test_all_commands_are_averaged_between_two_looks() -> None:
    """Mean milliseconds of every command since the look before; few slow ones among many fast ones change little."""
    before, now = HealthLook(10, INFO, commands=(1000, 5_000_000)), HealthLook(20, INFO, commands=(3000, 7_000_000))
    assert facts(now, before)["redis_command_avg_ms"] == 1.0
    assert "redis_command_avg_ms" not in facts(now)
    assert "redis_command_avg_ms" not in facts(HealthLook(20, INFO, commands=(5, 100)), before), "CONFIG RESETSTAT"


def test_each_database_is_told_apart() -> None:
    """Keys, keys that expire and their mean TTL by database, as INFO keyspace says; connections also as a share."""
    info = {**INFO, "maxclients": 100, "db0": {"keys": 5, "expires": 2, "avg_ttl": 3500},
            "db12": {"keys": 1, "expires": 0, "avg_ttl": 0}}  # fmt: skip
    found = facts(HealthLook(0, info))
    assert found["redis_db_keys"] == [({"database": "0"}, 5), ({"database": "12"}, 1)]
    assert found["redis_db_expires"] == [({"database": "0"}, 2), ({"database": "12"}, 0)]
    assert found["redis_db_avg_ttl_s"] == [({"database": "0"}, 3.5), ({"database": "12"}, 0)]
    assert found["redis_connections_pct"] == 81


def test_misses_and_rates_need_two_looks() -> None:
    """Shares and rates are those since the look before, of the same run, and of enough look-ups."""
    before = HealthLook(10, {**INFO, "keyspace_hits": 1000, "keyspace_misses": 9000, "expired_keys": 5})
    grown = {**INFO, "keyspace_hits": 5000, "keyspace_misses": 15_000, "expired_keys": 25, "total_net_input_bytes": 100}
    found = facts(HealthLook(20, grown), before)
    assert (found["redis_keyspace_miss_pct"], found["redis_keyspace_hit_pct"]) == (60.0, 40.0)
    assert found["redis_expired_keys_per_s"] == 2.0
    assert found["redis_network_bytes_per_s"] == 10.0
    assert "redis_keyspace_miss_pct" not in facts(HealthLook(20, grown))
    assert "redis_keyspace_miss_pct" not in facts(HealthLook(20, {**grown, "run_id": "other"}), before)
    own = {**grown, "keyspace_hits": 3000, "keyspace_misses": 16_000}
    assert "redis_keyspace_miss_pct" not in facts(HealthLook(20, own), before), "as many as an idle pipeline makes"


def test_replication_lag_names_the_replica() -> None:
    """A primary tells each replica's lag, a replica how long ago it heard of its primary."""
    primary = {**INFO, "role": "master", "connected_slaves": 2, "slave_expires_tracked_keys": 0}
    primary |= {f"slave{i}": {"ip": f"10.0.0.{i}", "port": 6379, "state": "online", "lag": i} for i in (0, 7)}
    assert facts(HealthLook(0, primary))["redis_replication_lag_s"] == [
        ({"replica": "10.0.0.0:6379"}, 0.0),
        ({"replica": "10.0.0.7:6379"}, 7.0),
    ]
    replica = {**INFO, "role": "slave", "master_last_io_seconds_ago": 3, "master_link_down_since_seconds": -1}
    assert facts(HealthLook(0, replica))["redis_replication_lag_s"] == [({"replica": "this server"}, 3.0)]
    replica["master_link_down_since_seconds"] = 42
    assert facts(HealthLook(0, replica))["redis_replication_lag_s"] == [({"replica": "this server"}, 42.0)]


def test_a_real_server_tells_all_that_rules_watch(redis_url: str) -> None:
    """Two looks at a real server give every fact of Redis but the lag of replicas it does not have."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("slowlog-log-slower-than", 0)
        health = RedisHealth(client)
        health.look()
        with client.pipeline(transaction=False) as pipe:
            for i in range(10_000):
                pipe.get(f"nothing {i}")
            pipe.execute()
        client.set("something", 1, px=90_000)
        found = health.look()
        client.delete("something")
        client.config_set("slowlog-log-slower-than", 10_000)
        client.slowlog_reset()
    expected = {name for name in FACTS if name.startswith("redis_")} - {"redis_replication_lag_s"}
    assert expected - set(found) <= {"redis_connections_pct"}, "Redis 6.2 does not tell maxclients"
    assert set(found) <= expected
    assert found["redis_keyspace_miss_pct"] == 100.0
    assert isinstance(found["redis_slow_query_avg_ms"], float)
    assert found["redis_slow_query_avg_ms"] > 0
