"""kill -9 at every named place of the drainer, first, second and third attempt, then a plain restart."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RedisServer, redis_executables
from drain_parts import bad, client_of, good, now_s, push
from items import metric
from nursery import Nursery

import pipeline

# In the order a chunk meets them. Those of recovery are met only by a chunk that was tried before, those of the
# search only when ClickHouse refuses a row.
PLACES = ("after_orphans", "before_seal", "after_seal", "after_claim", "after_read", "after_durable", "after_decode")
PLACES += ("before_insert", "between_inserts", "after_insert", "before_ack", "after_ack")
RECOVERY = ("before_verify", "after_verify")
SEARCH = ("halving", "before_burial", "after_burial")
EMBEDDED_PLACES = ("after_claim", "between_inserts", "after_insert", "after_verify", "halving", "before_ack")

REFUSED_FROM = 1_000_000.0
CONSTRAINT = f"ALTER TABLE metrics ADD CONSTRAINT small CHECK value < {REFUSED_FROM}"
NO_TOKENS = [
    f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0"
    for table in ("metrics", "dead_letters")
]

_databases = itertools.count(1)
killed: Counter[str] = Counter()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis with its append-only file in a directory of ours, so that seals are synced by the drainer."""
    executable = redis_executables()[max(redis_executables())]
    server = RedisServer(executable, tmp_path_factory.mktemp("redis"), appendonly=True).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """ClickHouse's HTTP interface in a process of its own."""
    command = [sys.executable, "-m", "pipeline.serve.clickhouse_http", "--port", "0", "--writable"]
    directory = tmp_path_factory.mktemp("clickhouse") / "engine"
    process = subprocess.Popen([*command, "--path", str(directory)], stdout=subprocess.PIPE)
    assert process.stdout
    yield json.loads(process.stdout.readline())["url"]
    process.kill()
    process.wait()
    process.stdout.close()


class Trial:
    """A database and an emptied Redis, what was pushed, and children that drain it."""

    def __init__(self, nursery: Nursery, server: RedisServer, dsn: str, *statements: str) -> None:
        self.nursery = nursery
        self.client = client_of(server.url)
        self.client.flushdb()
        self.place = {"redis_url": server.url, "dsn": dsn, "database": f"kill_{os.getpid()}_{next(_databases)}"}
        self.aof_dir = str(server.dir)
        self.good: list[int] = []
        self.bad: list[bytes] = []
        self._numbers = itertools.count()
        nursery.run("set_up", dsn=dsn, database=self.place["database"], statements=statements)

    def push(self, count: int, *, refused_too: bool) -> None:
        """Items of two days, one in twenty no metric; with ``refused_too`` one that only ClickHouse refuses."""
        numbers = list(itertools.islice(self._numbers, count))
        items = [bad(number) if number % 20 == 7 else good(number, days_ago=number % 2) for number in numbers]
        if refused_too:
            items[-2] = metric(numbers[-2], str(now_s()), value=2 * REFUSED_FROM)
        push(self.client, items)
        refused = [item for number, item in zip(numbers, items, strict=True) if number % 20 == 7]
        self.bad += refused + (items[-2:-1] if refused_too else [])
        self.good += [number for number in numbers if number % 20 != 7 and not (refused_too and number == numbers[-2])]

    def die_at(self, failpoint: str) -> None:
        """A drainer that dies there; it is an error if it does not."""
        child = self.nursery.start("drain", **self.place, failpoint=failpoint, until_empty=True, aof_dir=self.aof_dir)
        assert child.wait() == -signal.SIGKILL, f"{failpoint} was not reached: {child.text()}"
        killed[failpoint.partition(":")[0]] += 1

    def finish(self) -> None:
        """A plain restart, and everything is where it belongs."""
        self.nursery.run("drain", **self.place, until_empty=True, aof_dir=self.aof_dir)
        self.nursery.run("verify", **self.place, good=self.good, bad=[item.decode() for item in self.bad])


def kill_at(trial: Trial, place: str, attempts: int) -> None:
    refused_too = place in SEARCH
    trial.push(50, refused_too=refused_too)
    if place in RECOVERY:
        trial.die_at("drainer.after_insert")
    for _ in range(attempts):
        if place in ("before_seal", "after_seal", "after_burial"):  # what they wait for is used up
            trial.push(20, refused_too=refused_too)
        trial.die_at(f"drainer.{place}")
    trial.finish()


@pytest.mark.parametrize("place", PLACES + RECOVERY + SEARCH)
def test_killed_at(place: str, nursery: Nursery, server: RedisServer, clickhouse_url: str) -> None:
    """Once, twice and three times in a row at the same place; then a plain restart finishes: each item once."""
    for attempts in (1, 2, 3):
        tokens = () if attempts % 2 else NO_TOKENS  # with and without ClickHouse's own help
        kill_at(Trial(nursery, server, clickhouse_url, CONSTRAINT, *tokens), place, attempts)
    assert killed[f"drainer.{place}"] == 6


@pytest.mark.parametrize("place", EMBEDDED_PLACES)
def test_killed_with_the_engine_inside_at(place: str, nursery: Nursery, server: RedisServer, tmp_path: Path) -> None:
    """The same where ClickHouse's engine dies with the drainer."""
    before = killed[f"drainer.{place}"]
    trial = Trial(nursery, server, f"chdb://{tmp_path}/engine", CONSTRAINT)
    for attempts in (1, 2, 3):
        kill_at(trial, place, attempts)
    assert killed[f"drainer.{place}"] == before + 6


@pytest.mark.parametrize("nth", [2, 3])
def test_killed_at_a_later_chunk(nth: int, nursery: Nursery, server: RedisServer, clickhouse_url: str) -> None:
    """Some chunks are done, some are not, and they were not finished in order."""
    trial = Trial(nursery, server, clickhouse_url)
    for place in PLACES[3:]:
        trial.push(100, refused_too=False)
        trial.die_at(f"drainer.{place}:{nth}")
    trial.finish()


def test_every_named_place_is_tried() -> None:
    """A failpoint that is added to the drainer is added here."""
    text = Path(pipeline.__file__).with_name("ingest").joinpath("drainer.py").read_text()
    assert set(re.findall(r'hit\("drainer\.(\w+)"\)', text)) == {*PLACES, *RECOVERY, *SEARCH}
