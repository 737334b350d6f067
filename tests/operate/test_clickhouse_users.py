"""The shipped ClickHouse users, and the cluster form of everything: each role can do its work, and no more.

The real engine runs in a process of its own and is met over HTTP as a server (``clickhouse_server``). Its one user has
the rights and the profile of a shipped role, in turn the migrator's, the writer's and the analyst's.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_server as server
import pytest
from conftest import RedisServer, missing, redis_executables
from every_job import Played, ask_everything, play

from pipeline.base import config
from pipeline.base.errors import StoreRefused
from pipeline.collect.catalogue import shipped
from pipeline.operate import clickhouse_findings, process
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

ACCESS_DENIED, READONLY, TOO_MANY_ROWS, CONSTRAINT = 497, 164, 396, 452
REDIS_USERS = Path(__file__).parents[2] / "config/redis-users.acl"


@dataclass(frozen=True)
class Place:
    """Where the engine has its data, and the cluster that it takes itself for."""

    directory: Path
    cluster: str

    def settings(self, url: str, **more: Any) -> config.Settings:
        return config.Settings(clickhouse={"dsn": url, "cluster": self.cluster}, **more)

    def users(self, role: str) -> str:
        """The configuration under which the engine knows no user but ``role``."""
        if not self.cluster:
            return server.users_xml(role)
        filters = server.shard_filters(server.sharding_keys(self.settings("http://nowhere")))
        return server.users_xml(role, others=server.clusters_xml(self.cluster), filters=filters)


def refused(store: Store, sql: str) -> int:
    """ClickHouse's number of the refusal; 0 when there is none."""
    try:
        store.command(sql)
    except StoreRefused as refusal:
        return refusal.code
    return 0


FORMS = [pytest.param("two shards", marks=pytest.mark.thorough), pytest.param("one server", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=FORMS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The cluster form with --thorough; with --long the plain one too, whose rights are a part of those."""
    return Place(tmp_path_factory.mktemp("clickhouse"), "two_shards" if request.param == "two shards" else "")


@pytest.fixture(scope="module")
def migrated(place: Place) -> dict[str, int]:
    """``place``, migrated by the migrator; by statement, how what it must not do was refused."""
    with server.running(place.directory, place.users("pipeline_migrator")) as url:
        settings = place.settings(url)
        with Store.open(settings) as store:
            assert migrate(store, settings)
            assert migrate(store, settings) == []
            statements = (
                "CREATE DATABASE other", "CREATE USER u", "DROP DATABASE pipeline", "TRUNCATE TABLE pipeline.runs",
                "OPTIMIZE TABLE pipeline.runs", "SYSTEM FLUSH LOGS",
                "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a Int8')",
            )  # fmt: skip
            return {sql: refused(store, sql) for sql in statements}


@dataclass(frozen=True)
class Round:
    """What the service did under the writer's rights, what Redis refused it, and what the writer was refused."""

    played: Played
    denied_by_redis: list[str]
    written_to_redis: set[str]
    refused: dict[str, int]


@pytest.fixture(scope="module")
def played(place: Place, migrated: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    """The whole service, once, as the shipped users of both servers."""
    version = "7.0" if place.cluster else "6.2"
    executable = redis_executables().get(version) or missing(f"redis-server {version} is not installed")
    directory = tmp_path_factory.mktemp("service")
    redis = RedisServer(executable, directory, appendonly=True, options=["--maxclients", "20000"]).start()
    role = shipped_redis_users(redis, version)
    as_in_the_document(redis)
    with pytest.MonkeyPatch.context() as patch:
        # This is for a process that is the service and nothing else.
        patch.setattr(process, "share_memory", lambda: None)
        with server.running(place.directory, place.users("pipeline_writer")) as url:
            settings = place.settings(
                url,
                redis={"url": redis.url.replace("://", f"://{role}:secret@")},
                data_dir=directory / "data",
                web={"port": 0},
                collect={"enabled": version != "6.2"},
            )
            came = play(settings)
            with Store.open(settings) as store:
                table = "dead_letters_local" if place.cluster else "dead_letters"
                statements = (
                    f"DROP TABLE pipeline.{table}", f"ALTER TABLE pipeline.{table} DROP COLUMN payload",
                    f"DELETE FROM pipeline.{table} WHERE 1", "CREATE TABLE pipeline.t (a Int8) ORDER BY a",
                    "CREATE FUNCTION f AS (a) -> a", "CREATE DATABASE other",
                )  # fmt: skip
                refusals = {sql: refused(store, sql) for sql in statements}
    with redis.client() as client:
        denied = [f"{entry['reason']} {entry['object']}" for entry in client.acl_log()]
    written = {key.decode() for db in (2, 3, 6) for key in redis.client(db).scan_iter(count=10_000)}
    yield Round(came, denied, written, refusals)
    redis.kill()


def shipped_redis_users(redis: RedisServer, version: str) -> str:
    """Give the server the shipped users; the name of the one for a service."""
    with redis.client() as client:
        for line in REDIS_USERS.read_text().splitlines():
            if line.startswith("user ") and not (version == "6.2" and "%R~" in line):
                client.execute_command("ACL", "SETUSER", *line.replace("CHANGE-ME", "secret").split()[1:])
    return "service" if version == "6.2" else "service-collecting"


def as_in_the_document(server: RedisServer) -> None:
    """The platform's own keys, so that collectors find something."""
    numbers = config.RedisDatabases()
    for entry in shipped():
        if entry.example and entry.type != "channel":
            with server.client(getattr(numbers, entry.database)) as client:
                client.execute_command(*shlex.split(entry.example))


def test_the_migrator_migrates_and_no_more(migrated: dict[str, int]) -> None:
    """Every migration, function and view, twice; it can neither drop the database nor reach beyond it."""
    assert set(migrated.values()) == {ACCESS_DENIED}


def test_the_writer_does_all_that_the_service_does(played: Round) -> None:
    """Drain, a lost reply, every job, every query, dead letters, audit: under the writer's grants, without an error."""
    came = played.played
    assert came.failed == {}
    assert len(came.steps) > 70
    assert came.retries >= 1, "the reply was not lost"
    assert all(came.rows.values()), came.rows
    assert came.letters >= 4
    for check in ("clickhouse rights", "canary insert", "insert settings", "redis rights", "schema"):
        assert came.findings[check].severity == "ok", came.findings[check]
    assert "ALTER TABLE" in came.findings["clickhouse rights to migrate"].detail


def test_the_books_balance_over_two_shards(played: Round) -> None:
    """Of rows that lie on two shards the audit finds each once: none missing, doubled, altered or unknown."""
    assert [report.ok for report in played.played.audits] == [True, True], played.played.audits
    books, rows = played.played.books, played.played.rows
    assert (books.stored, books.dead_lettered) == (rows["metrics"], rows["dead_letters"])


def test_the_writer_may_do_no_more(played: Round) -> None:
    """It can neither drop nor alter nor delete nor create."""
    assert set(played.refused.values()) == {ACCESS_DENIED}, played.refused


def test_redis_refuses_the_shipped_service_nothing(played: Round) -> None:
    """Redis's log of refusals is empty afterwards, and every kind of key that the product writes is there."""
    # What the driver tells of itself it may not (CLIENT SETINFO), and nothing comes of that.
    assert set(played.denied_by_redis) <= {"command client", "command client|setinfo"}
    # On a busy machine a job begins late, which is trouble of another kind.
    assert [said for said in played.played.trouble if "is overdue" not in said] == []
    for pattern in (
        r"metrics:1min:\d+", r"metrics:5min:\d+", r"cwv:\w+:lcp", "compat:scores", "baseline:auth", "test:stats:.+",
        "test:history:.+", "failure:pattern:.+", "failure:analysis", "alerts:performance", "cleanup:status",
    ):  # fmt: skip
        assert any(re.fullmatch(pattern, key) for key in played.written_to_redis), pattern


def test_the_analyst_reads_within_limits(place: Place, played: Round) -> None:
    """Every view, named query and figure; limits can be tightened and not lifted; nothing else is reached."""
    with server.running(place.directory, place.users("pipeline_analyst")) as url:
        settings = place.settings(url)
        with Store.open(settings, role="reader") as store:
            asked = Played()
            ask_everything(asked, store)
            assert asked.failed == {}
            assert len(asked.steps) > 30
            assert store.rows("SELECT toInt8(getSetting('final'))") == [(1,)]
            assert refused(store, "SELECT 1 SETTINGS max_execution_time = 5, max_threads = 1") == 0
            lifted = {
                refused(store, f"SELECT 1 SETTINGS {setting}")
                for setting in (
                    "max_execution_time = 31", "max_execution_time = 0", "max_memory_usage = 0", "max_result_rows = 0",
                    "result_overflow_mode = 'break'",
                )
            }  # fmt: skip
            assert lifted == {CONSTRAINT}
            assert refused(store, "SELECT 1 SETTINGS readonly = 0") == READONLY
            assert refused(store, "SELECT number FROM numbers(2000000)") == TOO_MANY_ROWS
            for sql in (
                "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a Int8')", "SELECT * FROM system.users",
                "INSERT INTO pipeline.metrics (value) SELECT 1", "DROP TABLE pipeline.metrics",
            ):  # fmt: skip
                assert refused(store, sql) in (ACCESS_DENIED, READONLY), sql
            # What the doctor says when the service was started as the analyst.
            found = {finding.check: finding for finding in clickhouse_findings.clickhouse_rights_findings(store)}
    assert found["clickhouse rights"].severity == "bad"
    assert re.search(r"lacks INSERT ON pipeline\.\w+", found["clickhouse rights"].detail)
