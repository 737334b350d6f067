"""High-water marks: rows, age and memory are visible and alarmed under every rule; what each rule does about them."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import run_pipeline
from conftest import RedisServer

from pipeline.base import config
from pipeline.base.config import BufferSettings, DrainerSettings
from pipeline.base.errors import StoreOutage
from pipeline.base.keys import FleetKeys
from pipeline.base.redis_link import RedisLink
from pipeline.bench.drain import plain_items
from pipeline.buffer.buffer import Buffer, open_buffers
from pipeline.cli import console
from pipeline.deliver.drainer import Drainer
from pipeline.deliver.overflow import Overflow
from pipeline.deliver.spill import Spill
from pipeline.metric import Limits
from pipeline.operate.status import Status, gather
from pipeline.store.client import Store

RULES = ("refuse", "drop_oldest", "spill")
QUICK = DrainerSettings(batch_rows=500, flush_interval_s=0.05, durable_seal=False, lease_s=1)
LIMIT_MB = 20
MARK_BYTES = LIMIT_MB * (1 << 20) * 80 // 100


def heavy_items(count: int) -> list[bytes]:
    """Metrics of a kilobyte each; the first is the oldest."""
    return [item[:-1] + b',"note":"%s"}' % (b"x" * 850) for item in plain_items(count, 1)]


class Deployment:
    """A buffer on a Redis of 20 MB, its status and its guard."""

    def __init__(self, url: str, directory: Path, store: Store, rule: str, **marks: Any) -> None:
        self.settings = config.Settings(
            redis=config.RedisSettings(url=url), buffer=BufferSettings(overflow=rule, **marks), drainer=QUICK
        )
        self.link = RedisLink.open(self.settings)
        self.buffers = open_buffers(self.settings, self.link)
        self.buffer = self.buffers[0]
        self.client = self.buffer.client
        self.drainer = Drainer(self.buffer, store, QUICK, Limits())
        spill = Spill(directory, Buffer(self.client, lease_s=1), store, QUICK, Limits())
        self.overflow = Overflow(self.buffer, self.drainer, self.settings.buffer, spill)

    def push(self, items: list[bytes]) -> None:
        for start in range(0, len(items), 500):
            self.client.lpush(self.buffer.key, *items[start : start + 500])

    def guard(self) -> None:
        """Let the guard do what it would do, until there is nothing more to be done."""
        while self.overflow.step():
            pass

    def status(self) -> Status:
        return gather(self.settings, self.link, self.buffers, None)

    def passed(self) -> set[str]:
        """Marks that the status shows as passed; each of them is trouble, and in words."""
        status = self.status()
        shown = status.as_dict()["fills"][self.buffer.key]
        passed = {name for name, level in shown.items() if level["passed"]}
        assert len(status.high_water) == len(passed)
        assert set(status.high_water) <= set(status.trouble)
        assert all(f"buffer.high_water_{name}" in " ".join(status.high_water) for name in passed)
        return passed

    def used(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def fill_by_others(self, more: int) -> None:
        """Another program's key, up to the limit of memory and ``more`` bytes."""
        while self.used() < MARK_BYTES + more:
            self.client.lpush("another program's", *[b"x" * 10_000] * 10)


@pytest.fixture
def deploy(redis_server: Callable[..., RedisServer], store: Store, tmp_path: Path) -> Callable[..., Deployment]:
    """``deploy("spill", high_water_rows=1000)``: an empty one."""
    server = redis_server(options=["--maxmemory", f"{LIMIT_MB}mb"])
    return lambda rule="refuse", **marks: Deployment(server.url, tmp_path / "spill", store, rule, **marks)


def wait_until(condition: Callable[[], Any], what: str) -> None:
    give_up = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.01)


def alive(deployment: Deployment, role: str = "run", trouble: str = "") -> None:
    """A service says that it runs."""
    said = {"at": time.time_ns() // 1_000_000, "role": role, "trouble": trouble}
    deployment.client.hset(FleetKeys("pipeline").services, "somewhere/1", json.dumps(said))


# Visible and alarmed


def test_below_its_marks_a_buffer_is_no_trouble(deploy: Callable[..., Deployment]) -> None:
    """All three are shown with their limits; standing at a limit is not passing it."""
    deployment = deploy(high_water_rows=100)
    alive(deployment)
    deployment.push(plain_items(100, 1))
    assert deployment.passed() == set()
    fills = deployment.status().as_dict()["fills"]["metrics:buffer"]
    assert fills["rows"] == {"value": 100, "limit": 100, "passed": False}
    assert (fills["age_s"]["limit"], fills["memory_pct"]["limit"]) == (300, 80)
    assert 0 < fills["memory_pct"]["value"] < 50
    assert deployment.status().trouble == []


@pytest.mark.parametrize("rule", RULES)
def test_rows_are_alarmed_waiting_and_in_flight(rule: str, deploy: Callable[..., Deployment]) -> None:
    """What waits and what is in flight count together."""
    deployment = deploy(rule, high_water_rows=100)
    alive(deployment)
    deployment.push(plain_items(60, 1))
    deployment.buffer.seal(50)
    deployment.push(plain_items(40, 2))
    assert deployment.passed() == set()
    deployment.push(plain_items(1, 3))
    assert deployment.passed() == {"rows"}
    assert "101 items" in deployment.status().high_water[0]


@pytest.mark.parametrize("rule", RULES)
def test_age_is_alarmed_from_the_sealing_on(rule: str, deploy: Callable[..., Deployment]) -> None:
    """ClickHouse is away, nothing waits unsealed: the oldest item in flight is what grows old."""
    deployment = deploy(rule, high_water_age_s=0.2)
    alive(deployment)
    deployment.push(plain_items(10, 1))
    deployment.buffer.seal(10)
    wait_until(lambda: deployment.passed() == {"age_s"}, "the age is alarmed")
    assert deployment.status().oldest_s > 0.2


def test_items_that_nobody_seals_are_as_old_as_their_own_time(deploy: Callable[..., Deployment]) -> None:
    """Without a service everything waits: how long, only the items can tell, and that is alarmed."""
    deployment = deploy()
    hour_ago = b'{"timestamp":%d,"metric_type":"lcp","value":1}' % (time.time() - 3600)
    deployment.push([hour_ago])
    assert deployment.passed() == {"age_s"}
    assert deployment.status().oldest_s == pytest.approx(3600, abs=60)
    alive(deployment, "rollup")
    assert deployment.passed() == {"age_s"}, "one that does not drain is none"


@pytest.mark.parametrize("role", ["run", "drain"])
def test_old_measurements_are_no_old_items(role: str, deploy: Callable[..., Deployment]) -> None:
    """While a drainer runs, an import of last week's results waits for half a second, and no alarm is raised."""
    deployment = deploy()
    alive(deployment, role)
    deployment.push([b'{"timestamp":%d,"metric_type":"lcp","value":1}' % (time.time() - 7 * 86_400)])
    assert deployment.passed() == set()
    assert deployment.status().oldest_waiting_s > 86_400, "shown all the same"


@pytest.mark.parametrize("rule", RULES)
def test_memory_is_alarmed(rule: str, deploy: Callable[..., Deployment]) -> None:
    """Redis is fuller than the mark, whichever program fills it: one alarm, in percent of ``maxmemory``."""
    deployment = deploy(rule)
    alive(deployment)
    deployment.fill_by_others(1 << 20)
    assert deployment.passed() == {"memory_pct"}
    assert 80 < deployment.status().redis_memory_pct < 95


def test_without_a_limit_memory_is_measured_by_the_machine(deploy: Callable[..., Deployment]) -> None:
    """``maxmemory`` 0: what the machine has is the limit, so that the mark is there before the kernel comes."""
    deployment = deploy(high_water_memory_pct=0.001)
    deployment.client.config_set("maxmemory", 0)
    alive(deployment)
    assert deployment.passed() == {"memory_pct"}
    machine = deployment.client.info("memory")["total_system_memory"]
    assert deployment.status().redis_memory_pct < 100 * (LIMIT_MB << 20) / machine


def test_of_several_buffers_the_one_is_named(deploy: Callable[..., Deployment]) -> None:
    """Marks are each buffer's own; the memory, which all share, is said once."""
    deployment = deploy(key=["one", "two"], high_water_rows=10, high_water_memory_pct=1)
    alive(deployment)
    deployment.client.lpush("one", *plain_items(9, 1))
    deployment.client.lpush("two", *plain_items(11, 1))
    status = deployment.status()
    rows = [sentence for sentence in status.high_water if "items" in sentence]
    memory = [sentence for sentence in status.high_water if "memory" in sentence]
    assert (len(rows), len(memory), len(status.high_water)) == (1, 1, 2)
    assert rows[0].startswith("two: 11 items")
    assert set(status.as_dict()["fills"]) == {"one", "two"}
    assert status.highest()[0].value == 11


@pytest.mark.parametrize("rule", RULES)
def test_each_mark_is_logged_once_when_passed_and_once_when_not(
    rule: str, deploy: Callable[..., Deployment], caplog: pytest.LogCaptureFixture
) -> None:
    """A warning with the mark, what was seen and the rule; later a line that it is over; no line in between."""
    caplog.set_level("INFO", "pipeline")
    deployment = deploy(rule, high_water_rows=100, high_water_age_s=0.1)
    deployment.push(plain_items(101, 1))
    # In flight and held by another drainer, so that no rule can do anything about it.
    deployment.buffer.seal(101)
    chunk = deployment.buffer.claim()
    assert chunk is not None
    deployment.fill_by_others(1 << 20)

    def said(event: str) -> list[str]:
        messages = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        return [message["by"] for message in messages if message["event"] == event]

    def look() -> list[str]:
        deployment.overflow.step()
        deployment.buffer.renew(chunk)
        return sorted(said("buffer above its high-water mark"))

    wait_until(lambda: look() == ["age_s", "memory_pct", "rows"], "all three are said")
    for _ in range(3):
        look()
    warned = [record for record in caplog.records if "above its high-water mark" in str(record.msg)]
    assert [record.levelname for record in warned] == ["WARNING"] * 3
    assert {record.msg["rule"] for record in warned} == {rule}  # type: ignore[index]
    assert said("buffer below its high-water mark") == []
    deployment.buffer.ack(chunk, stored=101, dead_lettered=0, minutes=[])
    deployment.client.delete("another program's")
    deployment.overflow.step()
    deployment.overflow.step()
    assert sorted(said("buffer below its high-water mark")) == ["age_s", "memory_pct", "rows"]
    assert len(said("buffer above its high-water mark")) == 3


def test_the_command_shows_the_marks_and_ends_with_1(deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    """`pipeline status`: above a mark exit 1, in words for people and in ``fills`` for programs."""
    deployment = deploy()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")} | {
        "PIPELINE_REDIS__URL": deployment.settings.redis.url,
        "PIPELINE_CLICKHOUSE__DSN": "http://127.0.0.1:1",
        "PIPELINE_DATA_DIR": str(tmp_path / "data"),
        "PIPELINE_BUFFER__HIGH_WATER_ROWS": "10",
        "PIPELINE_BUFFER__HIGH_WATER_AGE_S": "86400",
    }

    def asked(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run_pipeline(["status", *arguments], environment)

    deployment.push(plain_items(11, 1))
    alive(deployment)
    done = asked("--json")
    shown = json.loads(done.stdout)
    assert done.returncode == 1
    assert shown["high_water"] == ["11 items are not stored yet, more than buffer.high_water_rows 10"]
    assert shown["fills"]["metrics:buffer"]["rows"] == {"value": 11, "limit": 10, "passed": True}
    alive(deployment)
    done = asked()
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "items not stored 11 110 % of buffer.high_water_rows" in lines
    assert any(line.startswith("oldest item not stored") and "% of buffer.high_water_age_s" in line for line in lines)
    assert any(line.startswith("redis memory in use") and "% of buffer.high_water_memory_pct" in line for line in lines)
    assert "trouble 11 items are not stored yet, more than buffer.high_water_rows 10" in lines


def test_a_status_without_redis_is_still_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is known of the marks then; the trouble is what is shown."""
    settings = config.Settings(redis=config.RedisSettings(url="redis://127.0.0.1:1"))
    link = RedisLink.open(settings)
    status = gather(settings, link, open_buffers(settings, link), None)
    assert len(status.trouble) == 1
    console.print_status(status)
    assert "Redis: " in capsys.readouterr().out
    assert status.as_dict()["fills"] == {}


# What the rules do about it


@pytest.mark.parametrize("rule", RULES)
def test_age_alone_makes_no_rule_act(rule: str, deploy: Callable[..., Deployment]) -> None:
    """Neither dropping nor a file would make anything younger: everything stays where it is."""
    deployment = deploy(rule, high_water_age_s=0.1)
    deployment.push(plain_items(50, 1))
    deployment.buffer.seal(25)
    deployment.push(plain_items(50, 2))
    wait_until(lambda: deployment.passed() == {"age_s"}, "the age is alarmed")
    deployment.guard()
    books = deployment.buffer.books()
    assert (books.waiting, books.in_flight, books.dropped, books.spilled) == (50, 50, 0, 0)


def test_refuse_does_nothing_but_alarm(deploy: Callable[..., Deployment]) -> None:
    """Over rows and memory: nothing is moved."""
    deployment = deploy("refuse", high_water_rows=1_000)
    deployment.push(heavy_items(17_000))
    assert {"rows", "memory_pct"} <= deployment.passed()
    deployment.guard()
    assert deployment.buffer.books().waiting == 17_000


def test_drop_oldest_gives_memory_back(deploy: Callable[..., Deployment]) -> None:
    """Far below the mark of rows, above that of memory: the oldest go, as few as bring Redis below, and are counted."""
    deployment = deploy("drop_oldest")
    alive(deployment)
    items = heavy_items(18_000)
    deployment.push(items)
    assert deployment.passed() == {"memory_pct"}
    deployment.guard()
    assert deployment.passed() == set()
    assert 0.9 * MARK_BYTES < deployment.used() <= MARK_BYTES, "and no more than that"
    books = deployment.buffer.books()
    assert books.dropped == books.sealed == 18_000 - books.waiting > 0
    assert books.unaccounted == 0
    assert deployment.client.lindex(deployment.buffer.key, 0) == items[-1]
    assert deployment.client.lindex(deployment.buffer.key, -1) == items[books.dropped]


def test_drop_oldest_spares_the_buffer_when_others_fill_redis(deploy: Callable[..., Deployment]) -> None:
    """Dropping all of it would not bring Redis below its mark: nothing is dropped."""
    deployment = deploy("drop_oldest")
    deployment.push(heavy_items(100))
    deployment.fill_by_others(1 << 20)
    deployment.guard()
    books = deployment.buffer.books()
    assert (books.waiting, books.dropped) == (100, 0)


def test_drop_oldest_keeps_the_newest_whatever_is_in_flight(deploy: Callable[..., Deployment]) -> None:
    """More is in flight than the mark allows, which cannot be dropped: what waits keeps a tenth of it, the newest."""
    deployment = deploy("drop_oldest", high_water_rows=100)
    deployment.push(plain_items(150, 1))
    deployment.buffer.seal(50)
    items = plain_items(60, 2)
    deployment.push(items)
    deployment.guard()
    books = deployment.buffer.books()
    assert (books.in_flight, books.waiting, books.dropped, books.unaccounted) == (150, 10, 50, 0)
    assert deployment.client.lrange(deployment.buffer.key, 0, -1) == items[:-11:-1]


def test_where_memory_cannot_be_asked_for_it_counts_as_the_buffers(deploy: Callable[..., Deployment]) -> None:
    """A user who may not call MEMORY USAGE: the guard goes on, and drops what fills Redis."""
    deployment = deploy("drop_oldest")
    deployment.push(heavy_items(18_000))
    deployment.client.acl_setuser(
        "narrow", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"], commands=["-memory"]
    )
    url = deployment.settings.redis.url.replace("redis://", "redis://narrow:secret@")
    settings = deployment.settings.model_copy(update={"redis": config.RedisSettings(url=url)})
    deployment.overflow.buffer = open_buffers(settings, RedisLink.open(settings))[0]
    deployment.guard()
    assert 0.8 * MARK_BYTES < deployment.used() <= MARK_BYTES
    assert deployment.buffer.books().dropped > 0


def test_spill_gives_memory_back(deploy: Callable[..., Deployment], store: Store) -> None:
    """Far below the mark of rows, above that of memory: chunks go to disk until Redis is below, and come back once."""
    deployment = deploy("spill")
    alive(deployment)
    deployment.push(heavy_items(18_000))
    assert deployment.passed() == {"memory_pct"}
    deployment.overflow.drainer.activity.trouble = "ClickHouse is away"
    deployment.guard()
    assert deployment.passed() == set()
    books = deployment.buffer.books()
    assert 500 <= books.spilled <= 6_000, "and no more than needed"
    assert books.spilled + books.in_flight + books.waiting == 18_000
    deployment.drainer.activity.trouble = ""
    deployment.drainer.drain_until_empty()
    deployment.guard()
    books = deployment.buffer.books()
    assert (books.stored, books.spilled, books.in_flight, books.unaccounted) == (18_000, 0, 0, 0)
    assert store.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [(18_000, 18_000)]


def test_spill_leaves_the_buffer_to_clickhouse_when_others_fill_redis(
    deploy: Callable[..., Deployment], store: Store
) -> None:
    """Redis is full of others' keys and ClickHouse takes everything: nothing takes the way round by the disk,
    and what lies there comes back."""
    deployment = deploy("spill")
    deployment.push(heavy_items(1_000))
    deployment.drainer.activity.trouble = "ClickHouse is away"
    deployment.fill_by_others(2 << 20)
    deployment.guard()
    assert deployment.buffer.books().spilled == 1_000, "while ClickHouse is away, room is worth more"
    deployment.drainer.activity.trouble = ""
    deployment.push(heavy_items(100))
    deployment.guard()
    books = deployment.buffer.books()
    assert (books.waiting, books.in_flight, books.spilled, books.stored) == (100, 0, 0, 1_000)
    assert deployment.passed() == {"memory_pct"} | ({"age_s"} & deployment.passed())
    assert store.rows("SELECT count() FROM metrics") == [(1_000,)]


def test_what_was_spilled_grows_old_too(deploy: Callable[..., Deployment], caplog: pytest.LogCaptureFixture) -> None:
    """The oldest items are the first on disk: their age stays visible and alarmed until they are stored."""
    deployment = deploy("spill", high_water_rows=100, high_water_age_s=3)
    alive(deployment)

    class Away:
        def insert(self, *_: object, **__: object) -> None:
            raise StoreOutage("away")

        query = insert

    deployment.drainer.store = Away()  # type: ignore[assignment]
    deployment.drainer.activity.trouble = "ClickHouse is away"
    deployment.push(plain_items(1_000, 1))
    deployment.guard()
    books = deployment.buffer.books()
    assert books.spilled >= 900
    while (chunk := deployment.buffer.claim()) is not None:
        deployment.buffer.ack(chunk, stored=chunk.rows, dead_lettered=0, minutes=[])
    assert deployment.buffer.books().in_flight == 0

    def alarmed() -> bool:
        alive(deployment)
        deployment.overflow.step()
        return deployment.passed() == {"age_s"}

    wait_until(alarmed, "the age of the files is alarmed")
    messages = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    assert "age_s" in [message["by"] for message in messages if message["event"] == "buffer above its high-water mark"]
