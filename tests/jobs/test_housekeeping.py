"""Housekeeping and retention: what is trimmed and forgotten, what the platform may say, junk included."""

import json
import time

import pytest
import redis

from pipeline.base import config, keys
from pipeline.base.redis_link import RedisLink
from pipeline.jobs.housekeeping import RESOURCE_AGE_MS, RESOURCES, SILENT_MS, Housekeeping
from pipeline.jobs.retention import MAX_HOURS, read_hours, retention_hours
from pipeline.operate.fleet import Fleet

NOW_MS = int(time.time()) * 1000
DAY_S = 86_400


@pytest.fixture
def link(redis_url: str) -> RedisLink:
    return RedisLink.open(config.Settings(redis=config.RedisSettings(url=redis_url)))


@pytest.fixture
def housekeeping(link: RedisLink) -> Housekeeping:
    return Housekeeping(link, Fleet(link.database("metrics"), "services"), 300)


def test_resources_are_trimmed_to_a_day(housekeeping: Housekeeping, link: RedisLink) -> None:
    """Of all three sorted sets what is older than 24 hours goes, what is exactly as old stays; old member form too."""
    metrics = link.database("metrics")
    oldest_s = NOW_MS // 1000 - DAY_S
    for key in RESOURCES:
        metrics.zadd(key, {f"{oldest_s - 1}:1": oldest_s - 1, "75.5": oldest_s - DAY_S, f"{oldest_s}:2": oldest_s})
    assert RESOURCE_AGE_MS == DAY_S * 1000
    assert housekeeping.run(NOW_MS) == 6
    assert [metrics.zrange(key, 0, -1) for key in RESOURCES] == [[f"{oldest_s}:2".encode()]] * 3
    status = link.database("environment").hgetall(keys.CLEANUP_STATUS)
    assert status[b"items_cleaned"] == b"6"
    assert status[b"last_run"] < status[b"next_run"]


def test_silent_processes_are_forgotten(housekeeping: Housekeeping, link: RedisLink) -> None:
    """An hour without a word, or a heartbeat that is none: gone; a living one stays."""
    metrics = link.database("metrics")
    said = {"living": NOW_MS - SILENT_MS + 1000, "silent": NOW_MS - SILENT_MS - 1000, "ahead": NOW_MS + 2 * SILENT_MS}
    metrics.hset("services", mapping={name: json.dumps({"at": at}) for name, at in said.items()})
    metrics.hset("services", "junk", b"\xff{")
    housekeeping.run(NOW_MS)
    assert metrics.hkeys("services") == [b"living"]


@pytest.mark.parametrize("name", [*RESOURCES, keys.CLEANUP_STATUS])
def test_a_key_of_the_wrong_type_stops_nothing_else(
    name: str, housekeeping: Housekeeping, link: RedisLink, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named with its fix, and the other keys are cleaned."""
    metrics, environment = link.database("metrics"), link.database("environment")
    for key in RESOURCES:
        metrics.zadd(key, {"1:1": 1})
    (environment if name == keys.CLEANUP_STATUS else metrics).delete(name)
    (environment if name == keys.CLEANUP_STATUS else metrics).set(name, "junk")
    assert housekeeping.run(NOW_MS) == 3 - (name in RESOURCES)
    assert [record for record in caplog.records if "wrong type" in record.getMessage() and name in record.getMessage()]


def test_an_outage_is_raised(redis_server) -> None:
    """The next run does the work."""
    from pipeline.base.errors import RedisOutage

    server = redis_server()
    link = RedisLink.open(config.Settings(redis=config.RedisSettings(url=server.url)))
    housekeeping = Housekeeping(link, Fleet(link.database("metrics"), "services"), 300)
    server.kill()
    with pytest.raises(RedisOutage):
        housekeeping.run(NOW_MS)


# Retention


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        *[("720", 720), ("1", 1), ("36.9", 36), (" 48 ", 48), (str(MAX_HOURS), MAX_HOURS)],
        *[("0", None), ("-5", None), ("0.5", None), (str(MAX_HOURS + 1), None), ("inf", None), ("-inf", None)],
        *[("nan", None), ("1e300", None), ("", None), ("a month", None), (b"\xff", None)],
    ],
)
def test_hours_are_read_as_people_write_them(text: str | bytes, hours: int | None) -> None:
    """Whole hours from one to a hundred years; everything else is no retention."""
    assert read_hours(text) == hours


def test_the_platforms_retention_overrides_the_setting(link: RedisLink) -> None:
    """Without a word of the platform the setting counts; with one, its word."""
    assert retention_hours(link, 720) == 720
    link.database("environment").hset(keys.RETENTION_PERFORMANCE_METRICS, "ttl_hours", "96")
    assert retention_hours(link, 720) == 96


@pytest.mark.parametrize("junk", ["inf", "1e300", "soon"])
def test_junk_as_retention_is_said_and_passed_over(
    junk: str, link: RedisLink, caplog: pytest.LogCaptureFixture
) -> None:
    """The setting counts, and the log names key, value and fix."""
    link.database("environment").hset(keys.RETENTION_PERFORMANCE_METRICS, "ttl_hours", junk)
    assert retention_hours(link, 720) == 720
    (record,) = [record for record in caplog.records if "retention ignored" in record.getMessage()]
    assert keys.RETENTION_PERFORMANCE_METRICS in record.getMessage() and f": '{junk}'" in record.getMessage()


def test_a_retention_of_the_wrong_type_is_said_and_passed_over(
    link: RedisLink, caplog: pytest.LogCaptureFixture
) -> None:
    """A string where the hash should be."""
    environment: redis.Redis = link.database("environment")
    environment.set(keys.RETENTION_PERFORMANCE_METRICS, "720")
    assert retention_hours(link, 100) == 100
    assert [record for record in caplog.records if "retention ignored" in record.getMessage()]
