"""The doctor at real servers: each thing that is wrong is found, with its severity and its fix."""

import json
import os
import re
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from children import run_pipeline
from conftest import RedisServer, free_port, redis_executables

from pipeline.base import config, keys, resources
from pipeline.base.errors import ConfigError, RedisOutage
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import open_buffers
from pipeline.cli import console
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.operate import doctor, wiring
from pipeline.operate.doctor import examine
from pipeline.operate.findings import Finding, version_of
from pipeline.operate.status import gather
from pipeline.store.client import Store
from pipeline.store.migrate import RAW_TTL_MARGIN_HOURS, migrate

GOOD_REDIS = ("--maxmemory", "100mb", "--maxclients", "20000")
NO_SERVER = "redis://127.0.0.1:1"


def settings_of(url: str, **overrides: Any) -> config.Settings:
    return config.Settings(redis=config.RedisSettings(url=url), **overrides)


def by_check(findings: Sequence[Finding]) -> dict[str, Finding]:
    """Findings by name; each has a detail, and what is not well has a fix, what is well none."""
    for finding in findings:
        assert finding.detail
        assert bool(finding.fix) == (finding.severity != "ok"), finding
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def redis_severities(url: str, **overrides: Any) -> dict[str, str]:
    """What is said of the Redis at ``url``, but for what is well."""
    settings = settings_of(url, **overrides)
    found = by_check(examine(settings, RedisLink.open(settings), None))
    return {check: finding.severity for check, finding in found.items() if finding.severity != "ok"}


def clickhouse_findings(settings: config.Settings, store: Store, link: RedisLink | None = None) -> dict[str, Finding]:
    return by_check([finding for finding in examine(settings, link, store) if finding.check != "disk"])


def severities(findings: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.severity for check, finding in findings.items() if finding.severity != "ok"}


@pytest.fixture
def redis_with(redis_server: Callable[..., RedisServer]) -> Callable[..., str]:
    """``redis_with("--appendfsync", "no")``: the URL of a server with an append-only file and a memory limit."""
    return lambda *options, appendonly=True: redis_server(appendonly=appendonly, options=[*GOOD_REDIS, *options]).url


# Redis


def test_a_replica_and_a_changed_password_are_told_in_a_sentence(redis_with: Callable[..., str]) -> None:
    """A master that became a replica, and a user whose password changed: bad, with what to do; status is trouble."""
    url = redis_with()
    settings = settings_of(url)
    link = RedisLink.open(settings)
    client, buffers = link.database("metrics"), open_buffers(settings, link)
    client.replicaof("127.0.0.1", 1)
    found = by_check(examine(settings, link, None))
    assert found["redis role"].severity == "bad"
    assert found["redis role"].detail == "this Redis is a read-only replica, so that nothing can be written"
    trouble = "this Redis is a read-only replica, so that nothing can be written; let redis.url name the master"
    assert trouble in gather(settings, link, buffers, None).trouble
    with pytest.raises(RedisOutage) as refused:
        buffers[0].seal(10)
    assert str(refused.value) == trouble  # and nothing of scripts
    client.replicaof("NO", "ONE")
    assert "redis role" not in by_check(examine(settings, link, None))
    client.config_set("requirepass", "changed")
    client.connection_pool.disconnect()
    (denied,) = (one for one in examine(settings, link, None) if one.check == "redis")
    assert (denied.severity, "redis-users.acl" in denied.fix, "see that it runs" in denied.fix) == ("bad", True, False)


def test_a_good_redis_is_found_good(redis_with: Callable[..., str]) -> None:
    """Append-only file, noeviction, a limit: nothing but ``ok``, for every check of Redis."""
    settings = settings_of(redis_with())
    found = by_check(examine(settings, RedisLink.open(settings), None))
    assert {"redis version", "redis eviction", "redis persistence", "redis memory limit"} <= found.keys()
    assert {"redis clock", "durable seal", "disk"} <= found.keys()
    assert severities(found) == {}


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_policy_that_evicts_the_buffer_is_bad_and_stops_the_start(
    policy: str, redis_with: Callable[..., str]
) -> None:
    """``allkeys-*``: bad; the service refuses to start with a sentence that names the policy, unless told to accept."""
    url = redis_with("--maxmemory-policy", policy)
    assert redis_severities(url) == {"redis eviction": "bad"}
    settings = settings_of(url)
    with pytest.raises(ConfigError, match=f"{policy}.*noeviction.*redis.accept_eviction_risk"):
        wiring.build(settings, threading.Event())
    accepting = config.Settings(redis=config.RedisSettings(url=url, accept_eviction_risk=True))
    doctor.refuse_risky_redis(accepting, RedisLink.open(accepting))


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-ttl"])
def test_a_policy_that_spares_the_buffer_is_well(policy: str, redis_with: Callable[..., str]) -> None:
    """The buffer has no TTL, so ``volatile-*`` never takes it."""
    url = redis_with("--maxmemory-policy", policy)
    assert redis_severities(url) == {}
    doctor.refuse_risky_redis(settings_of(url), RedisLink.open(settings_of(url)))


def test_without_an_append_only_file_the_buffer_is_lost_with_redis(redis_with: Callable[..., str]) -> None:
    """No append-only file is bad, and the seal is not protected either."""
    assert redis_severities(redis_with(appendonly=False)) == {"redis persistence": "bad", "durable seal": "warn"}


def test_appendfsync_no_is_warned_of(redis_with: Callable[..., str]) -> None:
    """A power cut may take half a minute, and the seal, although switched on, is not protected; the fix mends both."""
    url = redis_with("--appendfsync", "no")
    assert redis_severities(url) == {"redis persistence": "warn", "durable seal": "warn"}
    RedisLink.open(settings_of(url)).database("metrics").config_set("appendfsync", "everysec")
    assert redis_severities(url) == {}


@pytest.mark.parametrize("policy", ["always", "everysec"])
def test_a_seal_that_is_switched_off_is_warned_of(policy: str, redis_with: Callable[..., str]) -> None:
    """``drainer.durable_seal`` false: whatever Redis does, it is not waited for."""
    off = config.DrainerSettings(durable_seal=False)
    assert redis_severities(redis_with("--appendfsync", policy), drainer=off) == {"durable seal": "warn"}


def test_a_redis_without_a_memory_limit_is_warned_of(redis_server: Callable[..., RedisServer]) -> None:
    """Without ``maxmemory`` a long outage of ClickHouse ends with the kernel."""
    assert redis_severities(redis_server(appendonly=True, options=GOOD_REDIS[2:]).url) == {"redis memory limit": "warn"}


@pytest.mark.parametrize("version", sorted(redis_executables()))
def test_a_failed_write_of_the_append_only_file_is_bad(version: str, tmp_path: Path) -> None:
    """The disk is full (here: the file may not grow): producers are refused, and the doctor says where to look."""
    small = tmp_path / "small-redis"
    small.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 100\nexec {redis_executables()[version]} \"$@\"\n")
    small.chmod(small.stat().st_mode | stat.S_IXUSR)
    server = RedisServer(str(small), tmp_path, appendonly=True, options=GOOD_REDIS).start()
    settings = settings_of(server.url)
    link = RedisLink.open(settings)
    try:
        assert link.server_info()["aof_last_write_status"] == "ok"
        with server.client(3) as client:
            client.lpush("metrics:buffer", b"x" * 500_000)
            # Redis puts the write off while it syncs, up to two seconds.
            give_up = time.monotonic() + 60
            while client.info("persistence")["aof_last_write_status"] == "ok" and time.monotonic() < give_up:
                time.sleep(0.01)
        afterwards = examine(settings, RedisLink.open(settings), None)
        found = examine(settings, link, None)
    finally:
        server.kill()
    # A new connection is refused before it can ask; one that was there before is told more.
    assert severities(by_check(afterwards)) == severities(by_check(found)) == {"redis persistence": "bad"}
    assert {"redis eviction"} & by_check(found).keys() and "disk" in by_check(found)["redis persistence"].fix


def test_a_redis_that_forbids_config_is_judged_by_the_rest(redis_with: Callable[..., str]) -> None:
    """Hosted servers often forbid CONFIG: no error, no false alarm, and ``unknown`` where the policy would stand."""
    settings = settings_of(redis_with("--rename-command", "CONFIG", ""))
    found = by_check(examine(settings, RedisLink.open(settings), None))
    assert severities(found) == {}
    assert "unknown" in found["redis persistence"].detail


def test_a_user_without_rights_is_a_finding(redis_with: Callable[..., str]) -> None:
    """A user who may do next to nothing: bad, in Redis's words, and the doctor goes on."""
    url = redis_with()
    RedisLink.open(settings_of(url)).database("metrics").acl_setuser(
        "guest", enabled=True, passwords=["+secret"], keys=["*"], commands=["+ping", "+select"]
    )
    settings = settings_of(url.replace("redis://", "redis://guest:secret@"))
    found = by_check(examine(settings, RedisLink.open(settings), None))
    assert severities(found) == {"redis": "bad"}
    assert "secret" not in found["redis"].detail
    assert "disk" in found


def test_a_redis_that_is_away_is_a_finding() -> None:
    """No server answers: one finding for Redis, which names the setting, and the rest is still looked at."""
    settings = settings_of(NO_SERVER)
    found = by_check(examine(settings, RedisLink.open(settings), None))
    assert severities(found) == {"redis": "bad"}
    assert "redis.url" in found["redis"].fix
    assert "disk" in found


def test_an_old_redis_is_bad(redis_with: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Older than what is needed is bad, whatever a vendor appends to its version."""
    url = redis_with()
    monkeypatch.setattr("pipeline.operate.redis_findings.MIN_REDIS", (99, 0))
    assert redis_severities(url) == {"redis version": "bad"}
    assert version_of("7.2.4-rc1") == (7, 2) == version_of("v7.2")


@pytest.mark.parametrize("off_s", [-3.0, 3.0])
def test_clocks_that_differ_are_warned_of(
    off_s: float, redis_with: Callable[..., str], settings: config.Settings, store: Store, monkeypatch: Any
) -> None:
    """Redis and ClickHouse against this machine, two seconds to either side."""
    url = redis_with()
    shifted = SimpleNamespace(time=lambda: time.time() - off_s, time_ns=time.time_ns)
    for module in ("findings", "redis_findings", "clickhouse_findings"):
        monkeypatch.setattr(f"pipeline.operate.{module}.time", shifted)
    assert redis_severities(url) == {"redis clock": "warn"}
    found = clickhouse_findings(settings, store)
    assert severities(found) == {"clickhouse clock": "warn"}
    assert ("ahead" if off_s > 0 else "behind") in found["clickhouse clock"].detail


# ClickHouse


def test_a_good_clickhouse_is_found_good(settings: config.Settings, store: Store, http_store: Store) -> None:
    """Inside and over HTTP; a writer puts a row in and reads it back, with its own settings in force."""
    for one in (store, http_store):
        found = clickhouse_findings(settings, one)
        assert {"clickhouse version", "clickhouse clock", "schema", "retention", "parts"} <= found.keys()
        assert {"deduplication window", "insert settings", "canary insert"} <= found.keys()
        assert severities(found) == {}
    assert store.rows("SELECT count() FROM dead_letter_marks WHERE mark = 'canary'") == [(2,)]


def test_a_reader_writes_nothing(settings: config.Settings, store: Store) -> None:
    """What only a writer can try is left out for a reader, and no row is left behind."""
    store.role = "reader"
    found = clickhouse_findings(settings, store)
    assert severities(found) == {}
    assert not {"insert settings", "canary insert"} & found.keys()
    assert store.rows("SELECT count() FROM dead_letter_marks") == [(0,)]


@pytest.fixture
def server(store: Store, settings: config.Settings) -> Iterator[config.Settings]:
    """Settings of a ClickHouse server, on which there is no database yet."""
    with ClickHouseHttp(store, writable=True) as http:
        clickhouse = config.ClickHouseSettings(dsn=http.url, database=f"{store.database}_new")
        yield settings.model_copy(update={"clickhouse": clickhouse})
    store.command(f"DROP DATABASE IF EXISTS {store.database}_new SYNC")


def test_a_server_without_the_schema_is_bad(server: config.Settings, store: Store) -> None:
    """No database, or a database without our tables: bad on a server, and `pipeline migrate` mends it."""
    with Store.open(server) as far:
        found = clickhouse_findings(server, far)
        assert severities(found) == {"schema": "bad"}
        assert "pipeline migrate" in found["schema"].fix
        store.command(f"CREATE DATABASE {server.clickhouse.database}")
        assert severities(clickhouse_findings(server, far)) == {"schema": "bad"}
        migrate(far, server)
        assert severities(clickhouse_findings(server, far)) == {}


def test_an_engine_without_the_schema_is_no_trouble(store: Store) -> None:
    """Our own engine gets its tables when the service starts: a fresh installation is not called bad."""
    store.database = store._connected.database = "nothing_here"
    settings = config.Settings()
    assert severities(clickhouse_findings(settings, store)) == {"schema": "warn"}


def test_a_schema_of_a_newer_version_is_bad(settings: config.Settings, store: Store) -> None:
    """A migration that this version does not know: bad, in the migration's words."""
    store.command("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, '9999_later', 'x')")
    found = clickhouse_findings(settings, store)
    assert severities(found) == {"schema": "bad"}
    assert "9999_later" in found["schema"].detail


def test_a_table_that_forgets_tokens_soon_is_a_warning(settings: config.Settings, store: Store) -> None:
    """A window shorter than the settings ask for is told with SQL that mends it."""
    store.command("ALTER TABLE metrics MODIFY SETTING non_replicated_deduplication_window = 10")
    found = clickhouse_findings(settings, store)
    assert severities(found) == {"deduplication window": "warn"}
    store.command(found["deduplication window"].fix)
    assert severities(clickhouse_findings(settings, store)) == {}


def test_a_redis_that_takes_too_few_clients_is_a_warning(redis_with: Callable[..., str]) -> None:
    """The platform plans for 10,000 sessions; the shipped redis.conf takes more."""
    assert redis_severities(redis_with("--maxclients", "9000")) == {"redis connections": "warn"}
    shipped = resources.text("config/redis.conf")
    assert re.search(r"^maxclients 20000$", shipped, re.MULTILINE)


@pytest.mark.parametrize("table", ["metrics", "dead_letters"])
def test_a_table_that_forgets_tokens_is_bad(table: str, settings: config.Settings, store: Store) -> None:
    """Without a deduplication window an insert that arrives late doubles its rows; the fix is SQL that works."""
    store.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0")
    found = clickhouse_findings(settings, store)
    assert severities(found) == {"deduplication window": "bad"}
    store.command(found["deduplication window"].fix)
    assert severities(clickhouse_findings(settings, store)) == {}


def test_a_user_who_may_not_write_is_bad(settings: config.Settings, store: Store) -> None:
    """A profile that is read-only refuses our settings and our rows: two findings that say what the user needs."""
    with store.clone() as narrow:
        narrow.command("SET readonly = 1")
        found = clickhouse_findings(settings, narrow)
    assert severities(found) == {"insert settings": "bad", "canary insert": "bad"}
    assert "readonly" in found["insert settings"].detail
    assert "users.d" in found["insert settings"].fix


def test_an_insert_setting_that_is_not_taken_is_bad(
    settings: config.Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not know one of our settings, or puts another value in its place, is named with it."""
    monkeypatch.setattr(store, "insert_settings", lambda token="": {"async_insert": 0, "no_such_setting": 1})
    found = clickhouse_findings(settings, store)
    assert found["insert settings"].severity == "bad"
    assert "no_such_setting" in found["insert settings"].detail
    monkeypatch.setattr(store, "insert_settings", lambda token="": {"max_threads": 0})
    found = clickhouse_findings(settings, store)
    assert re.fullmatch(r"max_threads is \S+, not 0", found["insert settings"].detail)


def test_a_row_that_does_not_come_back_is_bad(settings: config.Settings, store: Store) -> None:
    """Something swallows what is inserted: the canary says so; that its table is gone, the schema says."""
    store.command("DROP TABLE dead_letter_marks SYNC")
    gone = clickhouse_findings(settings, store)
    assert severities(gone) == {"schema": "bad"}
    assert "dead_letter_marks" in gone["schema"].detail
    text = "LowCardinality(String)"
    columns = f"segment {text}, position UInt32, mark {text}, marked_at DateTime64(3, 'UTC')"
    store.command(f"CREATE TABLE dead_letter_marks ({columns}) ENGINE = Null")
    found = clickhouse_findings(settings, store)
    assert severities(found) == {"canary insert": "bad"}
    assert found["canary insert"].detail == "one row went in, 0 came back"


def test_too_many_parts_are_warned_of(settings: config.Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges that do not keep up are seen before ClickHouse refuses inserts."""
    monkeypatch.setattr("pipeline.operate.clickhouse_findings.MAX_PARTS", 3)
    store.command("SYSTEM STOP MERGES metrics")
    for position in range(4):
        assert severities(clickhouse_findings(settings, store)) == {}
        store.command(f"INSERT INTO metrics (timestamp, segment, position) VALUES (now(), 's', {position})")
    assert severities(clickhouse_findings(settings, store)) == {"parts": "warn"}


def test_an_old_clickhouse_is_warned_of(
    settings: config.Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older than what this was tried with."""
    monkeypatch.setattr("pipeline.operate.clickhouse_findings.MIN_CLICKHOUSE", (99, 1))
    found = clickhouse_findings(settings, store)
    assert severities(found) == {"clickhouse version": "warn"}
    assert "99.1" in found["clickhouse version"].fix


def test_rows_that_vanish_too_early_are_bad(redis_url: str, server: config.Settings, store: Store) -> None:
    """The platform accepts older items than the table keeps: bad on a server, and the fix mends it."""
    settings = server.model_copy(update={"redis": config.RedisSettings(url=redis_url)})
    link = RedisLink.open(settings)
    with Store.open(settings) as far:
        migrate(far, settings)
        assert clickhouse_findings(settings, far, link)["retention"].severity == "ok"
        link.database("environment").hset(keys.RETENTION_PERFORMANCE_METRICS, "ttl_hours", "1000")
        found = clickhouse_findings(settings, far, link)
        assert found["retention"].severity == "bad"
        assert "retention.raw_hours to 1000" in found["retention"].fix
        longer = settings.model_copy(update={"retention": config.RetentionSettings(raw_hours=1000)})
        migrate(far, longer)
        found = clickhouse_findings(longer, far, link)
        assert found["retention"].severity == "ok"
        assert f"{1000 + RAW_TTL_MARGIN_HOURS:,} h" in found["retention"].detail


def test_a_clickhouse_that_is_away_is_a_finding(server: config.Settings, store: Store) -> None:
    """No server answers at the start, or any more: bad, with the setting to look at; Redis is still looked at."""
    port = free_port()
    away = config.Settings(
        redis=config.RedisSettings(url=NO_SERVER),
        clickhouse=config.ClickHouseSettings(dsn=f"http://127.0.0.1:{port}", connect_timeout_s=1),
    )
    link, nothing, findings = doctor.open_for_doctor(away)
    assert (link is not None, nothing) == (True, None)
    found = by_check(findings)
    assert severities(found) == {"clickhouse": "bad"}
    assert "clickhouse.dsn" in found["clickhouse"].fix
    with ClickHouseHttp(store, writable=True) as http:
        there = server.model_copy(update={"clickhouse": config.ClickHouseSettings(dsn=http.url)})
        leaving = Store.open(there)
    with leaving:
        leaving._client.close_connections()
        found = clickhouse_findings(there, leaving)
    assert severities(found) == {"clickhouse": "bad"}
    assert "clickhouse.dsn" in found["clickhouse"].fix


# The machine, and what people see


def test_little_room_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk under ``data_dir`` is looked at even before the directory is there."""
    settings = config.Settings(data_dir=tmp_path / "not" / "yet")
    assert severities(by_check(examine(settings, None, None))) == {}
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 62)
    assert severities(by_check(examine(settings, None, None))) == {"disk": "warn"}


def test_what_is_wrong_is_printed_with_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check with level and sight, the fixes below, brackets as they are, and the sum at the end."""
    console.print_findings(
        [
            Finding("one", "ok", "as it should be"),
            Finding("two", "warn", "[not] quite", "do [this]"),
            Finding("three", "bad", "wrong", "do that"),
        ]
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "ok one as it should be",
        "warn two [not] quite",
        "fix: do [this]",
        "bad three wrong",
        "fix: do that",
        "1 bad, 1 to be warned of: a promise cannot be kept",
    ]
    console.print_findings([Finding("one", "ok", "as it should be")])
    assert capsys.readouterr().out.splitlines()[-1] == "nothing bad"


def asked(settings: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    environment |= {f"PIPELINE_{name}": value for name, value in settings.items()}
    return run_pipeline(["doctor", *arguments], environment)


def test_the_command_tells_by_its_exit_code(
    redis_with: Callable[..., str], server: config.Settings, store: Store, tmp_path: Path
) -> None:
    """`pipeline doctor --json`: one object; exit 0 while nothing is bad, 1 when a promise cannot be kept."""
    migrated = {"CLICKHOUSE__DSN": server.clickhouse.dsn, "CLICKHOUSE__DATABASE": store.database}
    surroundings = {"REDIS__URL": redis_with(), "DATA_DIR": str(tmp_path / "data"), **migrated}
    done = asked(surroundings, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], done.stderr) == (0, True, "")
    assert {finding["severity"] for finding in report["findings"]} == {"ok"}
    assert set(report["findings"][0]) == {"check", "severity", "detail", "fix"}

    RedisLink.open(settings_of(surroundings["REDIS__URL"])).database("metrics").config_set("appendfsync", "no")
    done = asked(surroundings, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True), "what only weakens a promise is no failure"
    assert "warn" in {finding["severity"] for finding in report["findings"]}

    done = asked(surroundings | {"REDIS__URL": NO_SERVER, "CLICKHOUSE__DATABASE": "other"}, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], done.stderr) == (1, False, "")
    bad = [finding for finding in report["findings"] if finding["severity"] == "bad"]
    assert [finding["check"] for finding in bad] == ["redis", "schema"]
    assert all(finding["fix"] for finding in bad)

    done = asked(surroundings | {"REDIS__URL": NO_SERVER})
    assert done.returncode == 1
    assert "fix: see that it runs, and that 'redis.url' is its address" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_service_says_at_its_start_what_is_not_well(
    redis_server: Callable[..., RedisServer],
    make_settings: Callable[..., config.Settings],
    _open_engine: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every finding that is not ok is logged once, with its detail and its fix; what is well is not."""
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 62)
    settings = make_settings(redis={"url": redis_server().url})
    built = wiring.build(settings, threading.Event())
    try:
        said = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        told = {one["check"]: one for one in said if one["event"] == "startup check failed"}
        assert {"redis persistence", "redis memory limit", "durable seal", "disk"} <= told.keys()
        severities_of = {record.msg.get("check"): record.levelname for record in caplog.records if record.msg in said}
        assert (severities_of["redis persistence"], severities_of["durable seal"]) == ("ERROR", "WARNING")
        assert all(one["detail"] and one["fix"] for one in told.values())
        assert "redis eviction" not in told and "schema" not in told
    finally:
        built.store.command(f"DROP DATABASE {settings.clickhouse.database} SYNC")
        built.stop()


def test_an_engine_that_is_named_by_its_path_is_looked_at_beside_its_service(
    make_settings: Callable[..., config.Settings], _open_engine: None, redis_url: str
) -> None:
    """``chdb:///path``: the doctor reads as it does with ``embedded``, and takes the engine from no other process."""
    link, store, findings = doctor.open_for_doctor(make_settings(redis={"url": redis_url}))
    assert link is not None and store is not None
    with store:
        assert (store.role, findings) == ("reader", [])
