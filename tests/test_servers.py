"""What the compose file's containers run, run here.

The shell lines by a shell, redis.conf by real redis-servers, the users by ClickHouse's own engine, which reads
users.d as a server does.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import redis
from conftest import free_port, missing, redis_executables, running_redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from test_compose import ROOT, SERVICES, interpolated

from pipeline.base import config

CLICKHOUSE_USERS = ROOT / "config/clickhouse/users.d/pipeline.xml"


# Redis


@pytest.mark.parametrize("version", ["6.2", "7.0"])
def test_redis_configuration_keeps_the_buffer(version: str, tmp_path: Path) -> None:
    """A real server starts with config/redis.conf, never evicts, syncs every second and takes no snapshots."""
    executable = redis_executables().get(version)
    if executable is None:
        missing(f"redis-server {version} is not installed")
    wanted = {
        "maxmemory": str(2 * 1024**3),
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "protected-mode": "yes",
    }
    with (
        running_redis(executable, tmp_path, str(ROOT / "config/redis.conf")) as url,
        redis.Redis.from_url(url) as client,
    ):
        told = client.config_get("*")
        assert {key: told[key] for key in wanted} == wanted
        assert set(told["notify-keyspace-events"]) == set("xE")
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            client.lpush("metrics:buffer", "{}")


def test_redis_command_hides_the_password(tmp_path: Path) -> None:
    """The container's command, run by a shell, gives a server with our configuration that wants the password."""
    port = free_port()
    *shell, script = [interpolated(part) for part in SERVICES["redis"]["command"]]
    for told, here in {
        "/usr/local/etc/redis/redis.conf": str(ROOT / "config/redis.conf"),
        "bind * -::*": "bind 127.0.0.1",
        "dir /data": f"dir {tmp_path}\nport {port}",
    }.items():
        assert told in script
        script = script.replace(told, here)
    (tmp_path / "redis-server").symlink_to(next(iter(redis_executables().values())))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDISCLI_AUTH": "secret"}
    server = subprocess.Popen([*shell, script], env=environment, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
        while True:
            try:
                client.ping()
            except redis.AuthenticationError:
                break
            except redis.ConnectionError:
                assert server.poll() is None
                time.sleep(0.02)
        command = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert "redis-server" in command  # exec: signals reach it
        assert "secret" not in command
        with redis.Redis(port=port, password="secret") as insider:
            assert insider.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert insider.config_get("dir") == {"dir": str(tmp_path)}
    finally:
        server.kill()
        server.wait()


# ClickHouse


@pytest.fixture(scope="module")
def server_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the container's entry point starts clickhouse-server."""
    directory = tmp_path_factory.mktemp("entrypoint")
    stand_in = directory / "clickhouse-server"
    stand_in.write_text('#!/bin/sh\nenv > environment\necho "$@" > arguments\n')
    stand_in.chmod(0o755)
    given = {key: f"{key.lower()}-$(x)" for key in SERVICES["clickhouse"]["environment"] if key.endswith("PASSWORD")}
    subprocess.run(
        [interpolated(part) for part in SERVICES["clickhouse"]["entrypoint"]],
        env={"PATH": f"{directory}:{os.environ['PATH']}", **given},
        cwd=directory,
        check=True,
    )
    assert (directory / "arguments").read_text() == "--config-file=/etc/clickhouse-server/config.xml\n"
    environment = dict(line.split("=", 1) for line in (directory / "environment").read_text().splitlines())
    assert not set(given.values()) & set(environment.values())
    for key, password in given.items():
        assert environment[f"{key}_SHA256"] == hashlib.sha256(password.encode()).hexdigest()
    return environment


def run_as(role: str, script: str, directory: Path, environment: dict[str, str]) -> Any:
    """Run ``script`` in a process whose embedded engine gives it the rights and profile of the shipped ``role``.

    The engine reads config.xml of the working directory and merges users.d as a server does, the shipped file
    included. It always logs in as "default", so that user is given what the role has.
    """
    users = directory / "users.d"
    users.mkdir(exist_ok=True)
    (directory / "config.xml").write_text(
        f"<clickhouse><users_config>{directory}/users.xml</users_config></clickhouse>"
    )
    (directory / "users.xml").write_text(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas>"
        "<users><default><password/><profile>default</profile></default></users></clickhouse>"
    )
    shutil.copy(CLICKHOUSE_USERS, users / "pipeline.xml")
    shipped = ElementTree.parse(CLICKHOUSE_USERS).getroot().find(f"users/{role}")
    assert shipped is not None
    rights = "".join(
        ElementTree.tostring(element, "unicode") for element in shipped if element.tag in ("profile", "grants")
    )
    (users / "zz-role.xml").write_text(
        f"<clickhouse><users><default><password/>{rights}</default></users></clickhouse>"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{_PREAMBLE}\n{script}"],
        cwd=directory,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


_PREAMBLE = """
import json
import time
from pathlib import Path
import pyarrow as pa
from pipeline.base import config
from pipeline.base.errors import StoreRefused
from pipeline.store.client import Store
from pipeline.store.migrate import migrate
settings = config.Settings(clickhouse={"dsn": f"chdb://{Path.cwd()}/engine"})
def refused(store, sql):
    try:
        store.command(sql)
    except StoreRefused as refusal:
        return refusal.code
    return 0
store = Store.open(settings)
"""

ACCESS_DENIED, READONLY, TOO_MANY_ROWS, CONSTRAINT = 497, 164, 396, 452


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory, server_environment: dict[str, str]) -> Path:
    """A directory with an engine that the migrator has migrated."""
    directory = tmp_path_factory.mktemp("clickhouse")
    told = run_as(
        "pipeline_migrator",
        """
first, second = migrate(store, settings), migrate(store, settings)
print(json.dumps([first, second, refused(store, "CREATE DATABASE other"), refused(store, "CREATE USER u")]))
""",
        directory,
        server_environment,
    )
    first, *rest = told
    assert first
    assert rest == [[], ACCESS_DENIED, ACCESS_DENIED]
    return directory


def test_migrator_may_migrate_and_no_more(migrated: Path) -> None:
    """pipeline_migrator's rights suffice for every migration, twice; other databases and users are out of reach."""
    assert (migrated / "engine").is_dir()


def test_writer_may_write_and_no_more(migrated: Path, server_environment: dict[str, str]) -> None:
    """pipeline_writer's rights suffice to insert and read; it can neither drop nor alter nor delete."""
    told = run_as(
        "pipeline_writer",
        """
now = pa.array([time.time_ns() // 1_000_000], pa.timestamp("ms", "UTC"))
store.insert("dead_letters", pa.table({
    "refused_at": now, "reason": ["not_json"], "payload": ["{"], "segment": ["s"], "position": pa.array([0], "uint32"),
}))
print(json.dumps({
    "rows": store.rows("SELECT reason, payload FROM dead_letters"),
    "migrations": refused(store, "SELECT * FROM schema_migrations"),
    "drop": refused(store, "DROP TABLE pipeline.dead_letters"),
    "alter": refused(store, "ALTER TABLE pipeline.dead_letters DROP COLUMN payload"),
    "delete": refused(store, "DELETE FROM pipeline.dead_letters WHERE 1"),
    "create": refused(store, "CREATE TABLE pipeline.t (a Int8) ORDER BY a"),
}))
""",
        migrated,
        server_environment,
    )
    assert (told["rows"], told["migrations"]) == ([["not_json", "{"]], 0)
    assert {told[key] for key in ("drop", "alter", "delete", "create")} == {ACCESS_DENIED}


def test_analyst_may_read_within_limits(migrated: Path, server_environment: dict[str, str]) -> None:
    """pipeline_analyst reads one revision of each window, within limits that it can tighten but not lift."""
    told = run_as(
        "pipeline_analyst",
        """
import clickhouse_connect
from pipeline.store.client import analyst_settings
client = clickhouse_connect.get_client(interface="chdb", path=settings.clickhouse.dsn.removeprefix("chdb://"))
store.close()
def code(sql):
    try:
        client.raw_query(sql)
    except Exception as error:
        return error.code
    return 0
print(json.dumps({
    "final": client.command("SELECT toInt8(getSetting('final'))"),
    "read": code("SELECT * FROM pipeline.metrics"),
    "tighten": code("SELECT 1 SETTINGS max_execution_time = 5, max_threads = 1"),
    "own_store": code("SELECT 1 SETTINGS " + ", ".join(
        f"{name} = {value!r}" for name, value in {**analyst_settings(settings.web), "readonly": 2}.items())),
    "lift": [code(f"SELECT 1 SETTINGS {setting}") for setting in (
        "max_execution_time = 31", "max_execution_time = 0", "max_memory_usage = 0", "max_result_rows = 0",
        "result_overflow_mode = 'break'")],
    "readonly": code("SELECT 1 SETTINGS readonly = 0"),
    "rows": code("SELECT number FROM numbers(2000000)"),
    "outside": [code(sql) for sql in (
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a Int8')",
        "SELECT * FROM system.users", "INSERT INTO pipeline.metrics (value) SELECT 1", "DROP TABLE pipeline.metrics")],
}))
""",
        migrated,
        server_environment,
    )
    assert told["final"] == 1
    assert (told["read"], told["tighten"], told["own_store"]) == (0, 0, 0)
    assert set(told["lift"]) == {CONSTRAINT}
    assert told["readonly"] == READONLY
    assert told["rows"] == TOO_MANY_ROWS
    assert set(told["outside"]) <= {ACCESS_DENIED, READONLY}


def test_users_match_the_settings() -> None:
    """The analyst's limits and the database are the defaults of the settings they stand for."""
    root = ElementTree.parse(CLICKHOUSE_USERS).getroot()
    limits = {element.tag: element.text for element in root.iterfind("profiles/pipeline_analyst/*")}
    web = config.load(None, {}).web
    assert float(limits["max_execution_time"] or 0) == web.query_max_s
    assert int(limits["max_memory_usage"] or 0) == web.query_max_memory_bytes
    assert int(limits["max_result_rows"] or 0) == web.query_max_result_rows
    granted = {found for query in root.iter("query") for found in re.findall(r"ON (\w+)\.", query.text or "")}
    assert granted == {config.load(None, {}).clickhouse.database, "system"}


def test_server_configuration_is_xml() -> None:
    """The server's own file is well-formed and opens no port."""
    root = ElementTree.parse(ROOT / "config/clickhouse/config.d/pipeline.xml").getroot()
    ports = [element for element in root if element.tag.endswith("_port")]
    assert root.tag == "clickhouse"
    assert all(element.get("remove") for element in ports)
