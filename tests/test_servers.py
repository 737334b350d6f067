"""What the compose file's containers run, run here.

The shell lines by a shell, redis.conf by real redis-servers. ``operate/test_clickhouse_users.py`` and
``operate/test_redis_users.py`` try the users.
"""

import hashlib
import os
import re
import subprocess
import time
from pathlib import Path
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


def test_clickhouse_starts_with_hashed_passwords(tmp_path: Path) -> None:
    """The container's entry point gives clickhouse-server the hashes of the passwords and not the passwords."""
    stand_in = tmp_path / "clickhouse-server"
    stand_in.write_text('#!/bin/sh\nenv > environment\necho "$@" > arguments\n')
    stand_in.chmod(0o755)
    given = {key: f"{key.lower()}-$(x)" for key in SERVICES["clickhouse"]["environment"] if key.endswith("PASSWORD")}
    subprocess.run(
        [interpolated(part) for part in SERVICES["clickhouse"]["entrypoint"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **given},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "arguments").read_text() == "--config-file=/etc/clickhouse-server/config.xml\n"
    environment = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert not set(given.values()) & set(environment.values())
    for key, password in given.items():
        assert environment[f"{key}_SHA256"] == hashlib.sha256(password.encode()).hexdigest()


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
