import contextlib
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import RedisServer
from redis_proxy import redis_proxy

from pipeline.base.addresses import redis_address
from pipeline.base.config import RedisDatabases, RedisPool, RedisSettings, Settings, TlsSettings
from pipeline.base.errors import ConfigError, RedisDenied, RedisOutage, UsageError
from pipeline.base.redis_link import RedisFull, RedisLink, classify, outages
from pipeline.base.redis_pool import url_of
from pipeline.embedded import redis_server as embedded_redis
from pipeline.embedded.redis_server import EmbeddedRedisFailed
from pipeline.operate.fleet import RedisClock


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an embedded Redis in a directory of the test's own, stopped afterwards."""
    settings = Settings(data_dir=tmp_path / "data")
    yield settings
    embedded_redis.EmbeddedRedis(settings.data_dir / "redis").stop()


def link_to(url: str, **pool: int) -> RedisLink:
    return RedisLink.open(Settings(redis=RedisSettings(url=url, pool=RedisPool(**pool))))


def pid_of(settings: Settings) -> int:
    pid: int = json.loads((settings.data_dir / "redis" / "server.json").read_text())["pid"]
    return pid


def servers_in(settings: Settings) -> int:
    """How many living redis-servers work in this directory, by the kernel's account."""
    if not Path("/proc").exists():
        pytest.skip("no /proc to count processes in")
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            in_directory = (process / "cwd").readlink() == (settings.data_dir / "redis").resolve()
            count += in_directory and (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            continue
    return count


def test_the_embedded_server_is_durable_and_refuses_rather_than_evicts(embedded: Settings) -> None:
    """Append-only, synced every second, no snapshots, noeviction, loopback only; bytes in, bytes out."""
    link = RedisLink.open(embedded)
    assert link.is_embedded
    assert link.embedded_dir == embedded.data_dir / "redis"
    assert link.version() >= (6, 2)
    database = link.database("metrics")
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
        "dir": str(embedded.data_dir / "redis"),
    }
    assert {name: database.config_get(name)[name] for name in expected} == expected
    database.lpush("k", "ä")
    assert database.lrange("k", 0, -1) == ["ä".encode()]
    with redis.Redis.from_url(link.url("metrics")) as other:
        assert other.llen("k") == 1


def test_databases_have_the_numbers_of_the_settings(embedded: Settings) -> None:
    """metrics is 3, results 2: a key of one is not seen in another."""
    link = RedisLink.open(embedded)
    for name in RedisDatabases.model_fields:
        link.database(name).set("me", name)
    with redis.Redis.from_url(link.url("results")) as results:
        assert results.get("me") == b"results"
        results.execute_command("SELECT", 3)
        assert results.get("me") == b"metrics"


def test_a_second_opening_joins_the_running_server(embedded: Settings) -> None:
    """Same server, same data; closing one link leaves the other's connections alone."""
    first, second = RedisLink.open(embedded), RedisLink.open(embedded)
    first.database("metrics").set("a", 1)
    assert first.server_info()["process_id"] == second.server_info()["process_id"] == pid_of(embedded)
    first.close()
    assert second.database("metrics").get("a") == b"1"


def test_processes_that_start_at_once_share_one_server(embedded: Settings) -> None:
    """Four processes open the same directory at the same moment: one server, four items in it."""
    script = (
        "import sys; from pathlib import Path; from pipeline.base.config import Settings\n"
        "from pipeline.base.redis_link import RedisLink\n"
        "settings = Settings(data_dir=Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()\n"
        "RedisLink.open(settings).database('metrics').rpush('who', sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(embedded.data_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen([*command, str(i)], **pipes) for i in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert servers_in(embedded) == 1
    assert sorted(RedisLink.open(embedded).database("metrics").lrange("who", 0, -1)) == [b"0", b"1", b"2", b"3"]


def test_nobody_starts_a_second_server_while_the_first_is_on_its_way(
    embedded: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes its time between being started and answering; four that wait for it start it once."""
    slow = tmp_path / "slow-redis-server"
    start = f'(sleep 0.5; {embedded_redis.find_server()} "$@") > /dev/null 2>&1 &'
    slow.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\n{start}\n")
    slow.chmod(0o755)
    monkeypatch.setattr(embedded_redis, "find_server", lambda: str(slow))
    threads = [threading.Thread(target=RedisLink.open, args=(embedded,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "starts").read_text() == "started\n"
    assert servers_in(embedded) == 1


def test_the_server_outlives_a_killed_starter(embedded: Settings) -> None:
    """kill -9 of the whole process group that started it takes nothing away."""
    script = (
        "import sys, time; from pathlib import Path; from pipeline.base.config import Settings\n"
        "from pipeline.base.redis_link import RedisLink\n"
        "link = RedisLink.open(Settings(data_dir=Path(sys.argv[1]))); link.database('metrics').set('a', 1)\n"
        "print('started', flush=True); time.sleep(600)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(embedded.data_dir)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"started\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    before = pid_of(embedded)
    link = RedisLink.open(embedded)
    assert link.database("metrics").get("a") == b"1"
    assert link.server_info()["process_id"] == before


def test_a_subscription_ends_with_an_outage_and_can_be_made_again(embedded: Settings) -> None:
    """The server is killed under a listener: a connection error, then the same listener hears the new server."""
    link = RedisLink.open(embedded)
    client = link.database("notifications")
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.psubscribe("a:*")
    assert listener.get_message(timeout=10) is None
    os.kill(pid_of(embedded), signal.SIGKILL)
    with pytest.raises(redis.ConnectionError):
        while True:
            listener.get_message(timeout=10)
    heard = None
    while heard is None:
        client.publish("a:b", "heard")
        heard = listener.get_message(timeout=0.1)
    assert heard["data"] == b"heard"
    listener.close()


def test_a_killed_server_is_started_again_by_whoever_needs_it_next(embedded: Settings) -> None:
    """Threads that all find it dead start one server, on the old port, with everything it had written."""
    link = RedisLink.open(embedded)
    database, url = link.database("metrics"), link.url()
    database.rpush("k", *range(1000))
    os.kill(pid_of(embedded), signal.SIGKILL)
    lengths: list[int] = []
    threads = [threading.Thread(target=lambda: lengths.append(database.llen("k"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [1000] * 6
    assert link.url() == url
    assert servers_in(embedded) == 1


def test_a_stranger_on_the_old_port_is_not_mistaken_for_our_server(embedded: Settings, tmp_path: Path) -> None:
    """After a crash another Redis has the port: the link starts its own elsewhere and finds its data."""
    link = RedisLink.open(embedded)
    link.database("metrics").set("whose", "ours")
    port = int(link.url().rsplit(":", 1)[1].split("/")[0])
    link.database("metrics").connection_pool.disconnect()
    os.kill(pid_of(embedded), signal.SIGKILL)
    (tmp_path / "stranger").mkdir()
    stranger = RedisServer(embedded_redis.find_server(), tmp_path / "stranger")
    stranger._command[stranger._command.index("--port") + 1] = str(port)
    stranger.port = port
    stranger.start()
    try:
        assert link.database("metrics").get("whose") == b"ours"
        assert f":{port}/" not in link.url()
        with stranger.client(db=3) as client:
            assert client.get("whose") is None
    finally:
        stranger.kill()


def test_a_stopped_server_has_written_everything_and_stays_stopped_until_it_is_opened(embedded: Settings) -> None:
    """close(stop_embedded=True) ends the process, which no older link undoes; a new opening finds the data."""
    link, other = RedisLink.open(embedded), RedisLink.open(embedded)
    database = link.database("metrics")
    database.set("a", 1)
    assert other.database("metrics").get("a") == b"1"
    link.close(stop_embedded=True)
    assert servers_in(embedded) == 0
    for late in (database, other.database("metrics")):
        with pytest.raises(RedisOutage, match="stopped"):
            late.get("a")
    assert servers_in(embedded) == 0
    again = RedisLink.open(embedded)
    assert other.database("metrics").get("a") == b"1"
    assert again.database("metrics").get("a") == b"1"


def test_a_server_that_cannot_start_says_why(embedded: Settings) -> None:
    """A damaged append-only file: the end of the server's log stands in the error."""
    RedisLink.open(embedded).close(stop_embedded=True)
    for file in (embedded.data_dir / "redis").rglob("*.aof"):
        file.write_bytes(b"*1\r\n$3\r\nNONSENSE" * 10)
    with pytest.raises(EmbeddedRedisFailed, match=r"redis\.log ends with: .*append only file"):
        RedisLink.open(embedded)


def test_without_a_redis_server_the_error_says_what_to_install(
    embedded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong use, one sentence, three ways out."""
    monkeypatch.setattr(embedded_redis.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageError, match=r"extra 'embedded'.*valkey-server.*set redis.url"):
        RedisLink.open(embedded)


def test_a_directory_that_cannot_be_made_is_wrong_use(tmp_path: Path) -> None:
    """data_dir below a file: the sentence names the setting and the path."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"data_dir: .*file/redis"):
        RedisLink.open(Settings(data_dir=tmp_path / "file"))


def test_a_command_that_writes_is_never_sent_twice(redis_url: str) -> None:
    """The reply of an LPUSH is lost: an outage for the caller, one element in the list."""
    with redis_proxy(redis_url) as proxy:
        proxy.marked, proxy.lose_replies = b"LPUSH", 1
        link = link_to(proxy.url)
        with pytest.raises(RedisOutage), outages():
            link.database("metrics").lpush("k", "once")
        assert link.database("metrics").llen("k") == 1
        link.close()


@pytest.mark.parametrize(("lost", "survives"), [(0, True), (3, True), (4, False)])
def test_a_command_that_only_reads_is_sent_again_as_often_as_the_settings_say(
    redis_url: str, lost: int, survives: bool
) -> None:
    """retry_attempts is 3: three lost replies are made good, a fourth is an outage."""
    with redis_proxy(redis_url) as proxy:
        link = link_to(proxy.url, retry_attempts=3)
        link.database("metrics").lpush("k", "a")
        proxy.marked, proxy.lose_replies = b"LLEN", lost
        if survives:
            assert link.database("metrics").llen("k") == 1
        else:
            with pytest.raises(RedisOutage), outages():
                link.database("metrics").llen("k")
        link.close()


def test_a_link_opens_while_redis_is_away_and_works_when_it_is_back(redis_server: Callable[..., RedisServer]) -> None:
    """Opening does not connect; a restart heals without help."""
    server = redis_server(appendonly=True)
    server.kill()
    link = link_to(server.url)
    with pytest.raises(RedisOutage), outages():
        link.database("metrics").set("a", 1)
    server.start()
    link.database("metrics").set("a", 1)
    server.kill()
    server.start()
    assert link.database("metrics").get("a") == b"1"
    link.close()


def test_connections_are_limited_and_waited_for(redis_url: str) -> None:
    """Ten threads over two connections: all are served, two connections are open."""
    with redis.Redis.from_url(redis_url) as admin:
        before = {one["id"] for one in admin.client_list()}
    link = link_to(redis_url, max_connections=2, connection_timeout_ms=60_000, socket_timeout_ms=60_000)
    database = link.database("metrics")
    threads = [threading.Thread(target=database.lpush, args=("k", i)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.llen("k") == 10
    with redis.Redis.from_url(redis_url) as admin:
        opened = [one for one in admin.client_list() if one["id"] not in before]
        assert len([one for one in opened if one["name"] == "metrics-pipeline"]) <= 2
    link.close()


def _full(server: RedisServer, link: RedisLink) -> None:
    server.client().config_set("maxmemory", 1)
    link.database("metrics").lpush("k", "a")


def _full_inside_a_script(server: RedisServer, link: RedisLink) -> None:
    server.client().config_set("maxmemory", 1)
    link.database("metrics").eval("return redis.call('LPUSH', KEYS[1], 'a')", 1, "k")


def _read_only(server: RedisServer, link: RedisLink) -> None:
    server.client().replicaof("127.0.0.1", 1)
    link.database("metrics").lpush("k", "a")


def _read_only_inside_a_script(server: RedisServer, link: RedisLink) -> None:
    server.client().replicaof("127.0.0.1", 1)
    link.database("metrics").eval("return redis.call('LPUSH', KEYS[1], 'a')", 1, "k")


def _master_down(server: RedisServer, link: RedisLink) -> None:
    server.client().config_set("replica-serve-stale-data", "no")
    server.client().replicaof("127.0.0.1", 1)
    link.database("metrics").llen("k")


def _busy(server: RedisServer, link: RedisLink) -> None:
    server.client().config_set("lua-time-limit", 1)
    loop = server.client()
    loop.connection_pool.connection_kwargs["socket_timeout"] = 1

    def block() -> None:
        with contextlib.suppress(redis.RedisError):
            loop.eval("while true do end", 0)

    threading.Thread(target=block).start()
    while True:
        try:
            link.database("metrics").llen("k")
        except redis.ResponseError:
            server.kill()
            raise
        time.sleep(0.01)


def _gone(server: RedisServer, link: RedisLink) -> None:
    server.kill()
    link.database("metrics").llen("k")


def _silent(server: RedisServer, link: RedisLink) -> None:
    assert server._process is not None
    link.database("metrics").ping()
    os.kill(server._process.pid, signal.SIGSTOP)
    link.database("metrics").lpush("k", "a")


def _not_enough_replicas(server: RedisServer, link: RedisLink) -> None:
    server.client().config_set("min-replicas-to-write", 1)
    link.database("metrics").lpush("k", "a")


def _password_missing(server: RedisServer, link: RedisLink) -> None:
    server.client().config_set("requirepass", "secret")
    link.database("metrics").llen("k")


def _forbidden(server: RedisServer, link: RedisLink) -> None:
    server.client().execute_command("ACL", "SETUSER", "default", "-lpush")
    link.database("metrics").lpush("k", "a")


def _password_changed(server: RedisServer, link: RedisLink) -> None:
    link.database("metrics").ping()
    server.client().config_set("requirepass", "secret")
    link.database("metrics").connection_pool.disconnect()
    link.database("metrics").connection_pool.connection_kwargs["password"] = "old"
    link.database("metrics").llen("k")


def _forbidden_inside_a_script(server: RedisServer, link: RedisLink) -> None:
    server.client().execute_command("ACL", "SETUSER", "default", "-lpush")
    link.database("metrics").eval("return redis.call('LPUSH', KEYS[1], 'a')", 1, "k")


def _forbidden_key_inside_a_script(server: RedisServer, link: RedisLink) -> None:
    server.client().execute_command("ACL", "SETUSER", "default", "resetkeys", "~other")
    link.database("metrics").eval("return redis.call('LPUSH', 'k', 'a')", 0)


def _wrong_type_inside_a_script(server: RedisServer, link: RedisLink) -> None:
    link.database("metrics").set("k", "a")
    link.database("metrics").eval("return redis.call('LPUSH', KEYS[1], 'a')", 1, "k")


def _wrong_command(server: RedisServer, link: RedisLink) -> None:
    link.database("metrics").execute_command("NOSUCH")


def _wrong_script(server: RedisServer, link: RedisLink) -> None:
    link.database("metrics").eval("return nil + 1", 0)


def _no_such_database(server: RedisServer, link: RedisLink) -> None:
    pool = link.pool("metrics")
    pool.connection_kwargs["db"] = 99
    link.database("metrics").llen("k")


def _wrong_type(server: RedisServer, link: RedisLink) -> None:
    link.database("metrics").set("k", "a")
    link.database("metrics").lpush("k", "a")


@pytest.mark.parametrize(
    ("trouble", "meaning"),
    [
        (_full, RedisFull),
        (_full_inside_a_script, RedisFull),
        (_read_only, RedisOutage),
        (_read_only_inside_a_script, RedisOutage),
        (_master_down, RedisOutage),
        (_busy, RedisOutage),
        (_gone, RedisOutage),
        (_silent, RedisOutage),
        (_not_enough_replicas, RedisOutage),
        (_password_missing, RedisDenied),
        (_password_changed, RedisDenied),
        (_forbidden, RedisDenied),
        (_forbidden_inside_a_script, RedisDenied),
        (_forbidden_key_inside_a_script, RedisDenied),
        (_wrong_type, type(None)),
        (_wrong_type_inside_a_script, type(None)),
        (_wrong_command, RedisDenied),
        (_wrong_script, type(None)),
        (_no_such_database, ConfigError),
    ],
    ids=lambda part: part.__name__.strip("_"),
)
def test_what_a_server_answers_in_trouble(
    trouble: Callable[[RedisServer, RedisLink], None],
    meaning: type[Exception],
    redis_server: Callable[..., RedisServer],
) -> None:
    """Real answers of real servers, told apart into come back later, full, mistake and bug."""
    server = redis_server()
    link = link_to(server.url, socket_timeout_ms=300, retry_attempts=0)
    with pytest.raises(redis.RedisError) as caught:
        trouble(server, link)
    assert type(classify(caught.value)) is meaning
    link.close()


@pytest.mark.parametrize(
    "text",
    [
        "LOADING Redis is loading the dataset in memory",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
        "IOERR error or timeout writing to target instance",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "ERR max number of clients reached",
        "SOMETHINGNEW that no list knows",
        "no upstream host",
    ],
)
def test_answers_hard_to_provoke(text: str) -> None:
    """Texts as servers and proxies have them, through redis-py's own parser; what is unknown is an outage."""
    from redis._parsers.base import BaseParser

    assert type(classify(BaseParser.parse_error(text))) is RedisOutage


def test_an_answer_that_is_not_redis_s_is_an_outage() -> None:
    """Something else listens on the port: it is waited for, not a crash."""
    assert type(classify(redis.InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"))) is RedisOutage


def test_a_redis_that_lacks_a_command_is_one_sentence(redis_server: Callable[..., RedisServer]) -> None:
    """Renamed by its operator, or unknown to a proxy: no traceback, and none of the arguments, which may be secret."""
    server = redis_server(options=["--rename-command", "INFO", "", "--rename-command", "AUTH", ""])
    link = link_to(server.url)
    with pytest.raises(RedisDenied, match=r"lacks a command that the pipeline needs \(unknown command .INFO.\); let"):
        link.server_info()
    with pytest.raises(RedisDenied) as denied, outages():
        link.database("metrics").execute_command("AUTH", "hunter2Xy")
    assert "hunter2Xy" not in str(denied.value)
    link.close()


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text.encode()), text.encode())


@contextlib.contextmanager
def clock_that_says(answer: bytes) -> Iterator[str]:
    """What stands in the place of Redis and answers TIME with this."""

    class Liar(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while asked := self.request.recv(1 << 16):
                for name in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", asked):
                    self.request.sendall({b"TIME": answer, b"PING": b"+PONG\r\n"}.get(name, b"+OK\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Liar) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        *(b"*-1\r\n", b":5\r\n", b"*0\r\n", b"$-1\r\n", b"*2\r\n$-1\r\n$-1\r\n", b"*1\r\n" + bulk("5")),
        *(b"*2\r\n" + bulk(text) + bulk("0") for text in ("x", "1.5", "nan", "-5", "1" + "0" * 18, "9" * 40, "٣")),
    ],
)
def test_a_clock_that_tells_no_time_is_an_outage(answer: bytes) -> None:
    """Well-formed, and still not Redis's: no crash, and no job that counts windows up to the end of the calendar."""
    with clock_that_says(answer) as url:
        link = link_to(url, retry_attempts=0)
        with pytest.raises(RedisOutage):
            RedisClock(link.database("metrics")).now_ms()
        link.close()


@pytest.mark.parametrize("text", ["BUSYGROUP Consumer Group name already exists", "BUSYKEY Target key name exists"])
def test_answers_that_only_look_like_an_outage(text: str) -> None:
    """A code counts as a whole word only."""
    assert classify(redis.ResponseError(text)) is None


def test_database_that_is_not_there(redis_server: Callable[..., RedisServer]) -> None:
    """A number larger than the server has databases is one sentence: which setting, how many there are, what to do."""
    databases = RedisDatabases(results=99, metrics=99)
    link = RedisLink.open(Settings(redis=RedisSettings(url=redis_server().url, databases=databases)))
    with pytest.raises(ConfigError) as stopped, outages():
        link.database("metrics").ping()
    assert str(stopped.value) == (
        "redis.databases.results and redis.databases.metrics are 99, but this Redis has 16 databases (0 to 15). "
        "Choose another number or raise 'databases' in redis.conf."
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", "redis://h:6379/3"),
        ("redis://u:p%2F@h:1", "redis://u:p%2F@h:1/3"),
        ("redis://:p@[::1]:1", "redis://:p@[::1]:1/3"),
        ("rediss://h:1?ssl_ca_certs=/x%20y", None),
        ("unix:///run/r.sock", "unix:///run/r.sock?db=3"),
        ("unix://u:p@/run/r.sock", "unix://u:p@/run/r.sock?db=3"),
    ],
)
def test_address_for_other_processes(url: str, expected: str | None) -> None:
    """The URL of one database says where, who and how; we and redis-py read it the same way."""
    shown = url_of(redis_address(url), 3, TlsSettings())
    assert expected in (None, shown)
    options: dict[str, Any] = redis.connection.parse_url(shown)
    again = redis_address(shown)
    assert options["db"] == again.database == 3
    assert options.get("password") == (again.password or None)
    assert options.get("host", "") == again.host
    assert dict(again.tls).get("ca_file") == options.get("ssl_ca_certs")
