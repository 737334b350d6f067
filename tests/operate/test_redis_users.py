"""The shipped Redis users: each role can do its work, and no more."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from conftest import RedisServer
from taking import balanced, numbered, push, take_all

from pipeline.alerts import commands
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.silences import Silences
from pipeline.base import config
from pipeline.base.errors import PipelineError
from pipeline.base.keys import BufferKeys, FleetKeys
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import Buffer, open_buffers
from pipeline.client.producer import MetricsClient
from pipeline.jobs.housekeeping import Housekeeping
from pipeline.jobs.retention import retention_hours
from pipeline.operate.adopt import adopt
from pipeline.operate.fleet import Fleet
from pipeline.operate.lease import Lease
from pipeline.operate.redis_findings import durable_seal_finding, redis_findings, rights_finding
from pipeline.operate.redis_rights import missing_rights, needs
from pipeline.operate.status import gather

SHIPPED = Path(__file__).parents[2] / "config/redis-users.acl"


@pytest.fixture
def address(redis_server: Callable[..., RedisServer]) -> Callable[[str], config.Settings]:
    """Settings of a role on a server that has the shipped users, and a default user who may do nothing."""
    server = redis_server(appendonly=True)
    with server.client() as client:
        is_old = str(client.info("server")["redis_version"]).startswith("6.")
        for line in SHIPPED.read_text().splitlines():
            if line.startswith("user ") and not (is_old and "%R~" in line):
                client.execute_command("ACL", "SETUSER", *line.replace("CHANGE-ME", "secret").split()[1:])

    def settings(role: str) -> config.Settings:
        return config.Settings(redis=config.RedisSettings(url=server.url.replace("://", f"://{role}:secret@")))

    return settings


def test_the_producer_pushes_and_reads_no_item(address: Callable[[str], config.Settings]) -> None:
    """The client works under it; items, other keys and administration are refused."""
    settings = address("producer")
    with MetricsClient(settings=settings) as client:
        client.push("duration", 1.0)
        assert client.flush(30)
    link = RedisLink.open(settings)
    metrics = link.database("metrics")
    for command in (("LRANGE", "metrics:buffer", 0, 1), ("DEL", "metrics:buffer"), ("SET", "other", 1), ("FLUSHALL",)):
        with pytest.raises(redis.exceptions.NoPermissionError):
            metrics.execute_command(*command)
    link.close()


def test_the_service_does_its_work_and_touches_no_other_key(address: Callable[[str], config.Settings]) -> None:
    """The buffer's whole contract, schedule, heartbeats, alert state and housekeeping work under it."""
    settings = address("service")
    link = RedisLink.open(settings)
    metrics = link.database("metrics")
    (buffer,) = open_buffers(settings, link)
    push(metrics, numbered(40))
    buffer.seal(10)
    chunk = buffer.claim()
    assert chunk is not None
    buffer.make_durable(chunk)
    buffer.set_aside(chunk, "a test")
    spilled = buffer.claim()
    assert spilled is not None
    buffer.spill(spilled)
    assert buffer.is_spilled(spilled) and buffer.unspill(spilled, stored=10, dead_lettered=0, minutes=[60], record="{}")
    metrics.set(buffer.keys.marks, "junk")
    take_all(buffer)
    assert balanced(buffer).stored == 30
    fleet = FleetKeys("pipeline")
    adopt(metrics, fleet, buffer.key)
    assert Lease(metrics, fleet.scheduler).hold()
    heartbeats = Fleet(metrics, fleet.services)
    heartbeats.say("here/1", {})
    Silences(metrics, AlertKeys.of(settings)).active(0)
    Housekeeping(link, heartbeats, 300).run(heartbeats.now_ms())
    assert retention_hours(link, 7) == 7
    assert rights_finding(settings, link).severity == "ok"
    assert "redis clock" in [finding.check for finding in redis_findings(link)]
    for command in (
        ("SET", "session:test:1", 1),
        ("GET", "session:test:1"),
        ("FLUSHALL",),
        ("CONFIG", "SET", "a", "b"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            metrics.execute_command(*command)
    link.close()


def test_each_right_of_the_service_is_missed(address: Callable[[str], config.Settings]) -> None:
    """Of the shipped rights each that names a key, a channel or a command: without it the doctor says what lacks."""
    settings = address("service")
    (line,) = [one for one in SHIPPED.read_text().splitlines() if one.startswith("user service ")]
    rights = line.replace("CHANGE-ME", "secret").split()[2:]
    # Redis asks for these before a client can send a command, or the commands of a whole group stand for many.
    silent = ("+auth", "+hello", "+multi", "+exec", "+discard", "+@")
    unnoticed = []
    with redis.Redis.from_url(settings.redis.url.replace("service:secret@", "")) as administrator:
        for right in rights:
            if not right.startswith(("~", "&", "+")) or right.startswith(silent):
                continue
            administrator.execute_command(
                "ACL", "SETUSER", "service", "reset", *(one for one in rights if one != right)
            )
            link = RedisLink.open(settings)
            try:
                found = rights_finding(settings, link)
                if found.severity == "ok":
                    unnoticed.append(right)
            except PipelineError:
                pass  # not even that may be asked
            finally:
                link.close()
    assert unnoticed == []


def test_a_command_of_a_group_that_was_taken_away_is_named(address: Callable[[str], config.Settings]) -> None:
    """The shipped user may read lists and hashes; without one command of these the doctor says which."""
    settings = address("service")
    with redis.Redis.from_url(settings.redis.url.replace("service:secret@", "")) as administrator:
        for command in ("LRANGE", "LINDEX", "HMGET", "HINCRBY", "ZRANGE", "HSCAN"):
            administrator.execute_command("ACL", "SETUSER", "service", f"-{command.lower()}")
    link = RedisLink.open(settings)
    assert missing_rights(link, needs(settings)) == [
        f"{command} {BufferKeys('metrics:buffer').scratch}"
        for command in ("HMGET", "LINDEX", "HSCAN", "HINCRBY", "LRANGE", "ZRANGE")
    ]
    link.close()


def test_without_config_and_slowlog_the_doctor_looks_at_all_the_rest(address: Callable[[str], config.Settings]) -> None:
    """Hosted servers forbid both: that is no fault, and no check after it is left out."""
    settings = address("service")
    with redis.Redis.from_url(settings.redis.url.replace("service:secret@", "")) as administrator:
        administrator.execute_command("ACL", "SETUSER", "service", "-config", "-slowlog")
        link = RedisLink.open(settings)
        found = {finding.check: finding for finding in (*redis_findings(link), durable_seal_finding(settings, link))}
        link.close()
    assert found["redis persistence"].detail == "append-only file, appendfsync unknown (CONFIG is forbidden)"
    assert [finding for finding in found.values() if finding.severity == "bad"] == []
    assert found["durable seal"].severity == "ok"


def test_the_reader_looks_and_changes_nothing(address: Callable[[str], config.Settings]) -> None:
    """Status works under it; nothing can be written, and the doctor names what the service would lack."""
    writer, settings = RedisLink.open(address("service")), address("reader")
    push(writer.database("metrics"), numbered(3))
    Buffer(writer.database("metrics")).seal(10)
    link = RedisLink.open(settings)
    status = gather(settings, link, open_buffers(settings, link), None)
    assert status.books is not None and status.books.in_flight == 3
    assert status.trouble == []
    commands.list_alerts(settings, link)
    commands.list_silences(settings, link)
    commands.list_maintenance(link)
    list(redis_findings(link))
    with redis.Redis.from_url(settings.redis.url.replace("reader:secret@", "")) as administrator:
        # What the driver tells of itself it may not (CLIENT SETINFO), and nothing comes of that.
        assert {entry["object"] for entry in administrator.acl_log()} <= {"client", "client|setinfo"}
    for command in (
        ("LPUSH", "metrics:buffer", 1),
        ("DEL", "metrics:buffer"),
        ("HSET", "{metrics:buffer}:ledger", 1, 1),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            link.database("metrics").execute_command(*command)
    finding = rights_finding(settings, link)
    assert finding.severity == "bad" and re.search(
        r"may not: LPUSH metrics:buffer, RENAME metrics:buffer, .*PUBLISH alerts:critical", finding.detail
    )
    assert link.database("metrics").llen("metrics:buffer") == 0
    for opened in (link, writer):
        opened.close()
