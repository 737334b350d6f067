"""What belongs to the fleet lies under its own name; the first start takes over what lay beside the first buffer."""

import redis
from drain_parts import client_of

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.base import config
from pipeline.base.keys import FleetKeys
from pipeline.operate.adopt import adopt

FLEET = FleetKeys("pipeline")


def of_before(client: redis.Redis) -> None:
    """As an older version kept it beside the buffer."""
    client.set("{metrics:buffer}:scheduler", "another", px=60_000)
    client.hset("{metrics:buffer}:services", "here/1", "{}")
    client.hset("{metrics:buffer}:checkpoints", "rebuild", "60")
    client.hset("{metrics:buffer}:alerts:state", "rule:slow", "firing")
    client.hset("{metrics:buffer}:alerts:silences", "a", "silence")
    client.rpush("{metrics:buffer}:alerts:outbox:table", "one", "two")
    client.hset("{metrics:buffer}:alerts:channel:team:told", "group", "told")


def test_the_first_start_copies_what_lay_beside_the_first_buffer(redis_url: str) -> None:
    """Schedule, heartbeats, checkpoints and every key of the alerts are found under the fleet's name, TTL included."""
    client = client_of(redis_url)
    of_before(client)
    assert adopt(client, FLEET, "metrics:buffer") == 7
    alerts = AlertKeys.of(config.Settings())
    assert client.get(FLEET.scheduler) == b"another" and client.pttl(FLEET.scheduler) > 0
    assert client.hget(FLEET.services, "here/1") == b"{}"
    assert client.hget(FLEET.checkpoints, "rebuild") == b"60"
    assert client.hget(alerts.state, "rule:slow") == b"firing"
    assert client.hget(alerts.silences, "a") == b"silence"
    assert client.lrange(alerts.table_outbox, 0, -1) == [b"one", b"two"]
    assert client.hget(alerts.told("team"), "group") == b"told"


def test_it_is_copied_once_whatever_the_order_of_the_buffers(redis_url: str) -> None:
    """What the fleet wrote since is never overwritten, and a reordered buffer.key changes nothing."""
    client = client_of(redis_url)
    of_before(client)
    client.hset("{other}:alerts:state", "rule:slow", "of another buffer")
    adopt(client, FLEET, "metrics:buffer")
    before = config.Settings(buffer=config.BufferSettings(key=["metrics:buffer", "other"]))
    after = config.Settings(buffer=config.BufferSettings(key=["other", "metrics:buffer"]))
    client.hset(AlertKeys.of(before).state, "rule:slow", "resolved")
    assert adopt(client, FLEET, "other") == 0
    assert client.hget(AlertKeys.of(after).state, "rule:slow") == b"resolved"


def test_a_fleet_that_begins_anew_copies_nothing(redis_url: str) -> None:
    """And is not asked again; two fleets on one Redis do not see each other."""
    client = client_of(redis_url)
    assert adopt(client, FLEET, "metrics:buffer") == 0
    of_before(client)
    assert adopt(client, FLEET, "metrics:buffer") == 0
    assert client.exists(FLEET.services) == 0
    assert AlertKeys.of(config.Settings(fleet=config.FleetSettings(name="b"))).state == "{b}:alerts:state"
