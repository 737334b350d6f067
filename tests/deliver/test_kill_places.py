"""kill -9 at every named place where items move, on the first attempts in a row, then a plain restart."""

import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import kill_child
import pytest
from conftest import RedisServer, missing, redis_executables
from drain_parts import bad, client_of, good, now_s, push
from items import metric

import pipeline

# In the order a chunk meets them. Those of the recovery are met only by a chunk that was tried before, those of the
# search only when ClickHouse refuses a row, those of the files only on the way through one.
PLACES = [
    *("drainer.after_orphans", "drainer.before_seal", "drainer.after_seal", "drainer.after_claim"),
    *("drainer.after_read", "drainer.after_durable", "drainer.after_decode", "drainer.before_insert"),
    *("drainer.between_inserts", "drainer.after_insert", "drainer.before_ack", "drainer.after_ack"),
]
RECOVERY = ["drainer.before_verify", "drainer.after_verify"]
SEARCH = ["drainer.halving", "drainer.before_burial", "drainer.after_burial"]
FILES = ["spill.after_write", "spill.after_let_go", "spill.after_drain"]
LEDGER = ["ledger.after_insert"]

PASSED_BY_A_CHUNK = PLACES[3:]
PASSED_BY_A_FILE = [*RECOVERY, *PLACES[7:]]
WITH_THE_ENGINE_INSIDE = [
    *("drainer.after_claim", "drainer.between_inserts", "drainer.after_insert", "drainer.after_verify"),
    *("drainer.halving", "drainer.before_ack", "spill.after_drain", "ledger.after_insert"),
]

USED_UP = ["drainer.after_seal", "drainer.after_burial"]
"""What a drainer meets once and not again, because what it waits for is done: the next attempt needs new items."""

REFUSED_FROM = 1_000_000.0
CONSTRAINT = f"ALTER TABLE metrics ADD CONSTRAINT small CHECK value < {REFUSED_FROM}"

EVERY_PLACE = PLACES + RECOVERY + SEARCH + FILES + LEDGER

ATTEMPTS = (1, 2, 3)
"""How many drainers die in a row, in trials of their own."""

_databases = itertools.count(1)
killed: Counter[str] = Counter()


@pytest.fixture(scope="module", params=["7.0", pytest.param("6.2", marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with its append-only file in a directory of the test, so that seals are synced by the drainer."""
    executable = redis_executables().get(request.param)
    if executable is None:
        missing(f"redis {request.param} is not installed")
    server = RedisServer(executable, tmp_path_factory.mktemp("redis"), appendonly=True).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with children.clickhouse(tmp_path_factory.mktemp("clickhouse") / "engine") as url:
        yield url


class Trial:
    """A database and an emptied Redis, what was pushed, and children that drain it."""

    def __init__(self, server: RedisServer, dsn: str, *statements: str) -> None:
        self.client = client_of(server.url)
        self.client.flushdb()
        self.store = {"dsn": dsn, "database": f"kill_{os.getpid()}_{next(_databases)}"}
        self.surroundings = self.store | {"redis_url": server.url}
        self.options = {"aof_dir": server.dir, "batch_rows": 20, "until_empty": True}
        self.good: list[int] = []
        self.bad: list[bytes] = []
        self._numbers = itertools.count()
        children.run(kill_child.set_up, **self.store, statements=statements)

    def push(self, count: int, *, refused_too: bool = False) -> None:
        """Items of two days, one in twenty no metric; with ``refused_too`` one that only ClickHouse refuses."""
        numbers = list(itertools.islice(self._numbers, count))
        items = {number: bad(number) if number % 20 == 7 else good(number, days_ago=number % 2) for number in numbers}
        to_refuse = {number for number in numbers if number % 20 == 7}
        if refused_too:
            items[numbers[-2]] = metric(numbers[-2], str(now_s()), value=2 * REFUSED_FROM)
            to_refuse.add(numbers[-2])
        push(self.client, items.values())
        self.good += [number for number in numbers if number not in to_refuse]
        self.bad += [items[number] for number in sorted(to_refuse)]

    def die_at(self, failpoint: str, **options: Any) -> None:
        """A drainer that dies there; it is an error if it does not."""
        child = children.start(kill_child.drain, **self.surroundings, **self.options, **options, failpoint=failpoint)
        assert children.exit_code(child) == -signal.SIGKILL, f"{failpoint} was not reached"
        killed[failpoint.partition(":")[0]] += 1

    def finish(self, **options: Any) -> None:
        """A plain restart, and everything is where it belongs."""
        children.run(kill_child.drain, **self.surroundings, **self.options, **options)
        children.run(kill_child.verify, **self.surroundings, good=self.good, bad=self.bad)


def kill_at(trial: Trial, place: str, attempts: int, spill_dir: Path) -> None:
    trial.finish(**die_at(trial, place, attempts, spill_dir))


def die_at(trial: Trial, place: str, attempts: int, spill_dir: Path) -> dict[str, Any]:
    """New items, and drainers that die there; with what options they ran."""
    refused_too = place in SEARCH
    options = {"spill_dir": spill_dir if place in FILES else None, "flush": place in LEDGER}
    trial.push(50, refused_too=refused_too)
    if place in RECOVERY:
        trial.die_at("drainer.after_insert")
    for attempt in range(attempts):
        if attempt and place in USED_UP:
            trial.push(20, refused_too=refused_too)
        trial.die_at(place, **options)
    return options


@pytest.mark.parametrize("places", [PLACES, RECOVERY + FILES + LEDGER, SEARCH], ids=["usual", "others", "search"])
def test_killed_twice_in_a_row(places: list[str], server: RedisServer, clickhouse_url: str, tmp_path: Path) -> None:
    """Twice in a row at one place after the other, with what the ones before left in flight; then a plain restart
    finishes: each item once. Without ClickHouse's own help against inserts that come twice."""
    before = killed.total()
    trial = Trial(server, clickhouse_url, CONSTRAINT, *kill_child.NO_TOKENS)
    for place in places:
        die_at(trial, place, 2, tmp_path / "spill")
    trial.finish(spill_dir=tmp_path / "spill", flush=True)
    assert killed.total() == before + 2 * len(places) + sum(place in RECOVERY for place in places)


@pytest.mark.thorough
@pytest.mark.parametrize("place", EVERY_PLACE)
def test_killed_at(place: str, server: RedisServer, clickhouse_url: str, tmp_path: Path) -> None:
    """Once, twice and three times in a row at the same place, in trials of their own; twice without ClickHouse's own
    help, else with it."""
    before = killed[place]
    for attempts in ATTEMPTS:
        tokens = () if attempts % 2 else kill_child.NO_TOKENS
        kill_at(Trial(server, clickhouse_url, CONSTRAINT, *tokens), place, attempts, tmp_path / "spill")
    assert killed[place] == before + sum(ATTEMPTS)


def test_killed_with_the_engine_inside(server: RedisServer, tmp_path: Path) -> None:
    """The engine dies with the drainer, at one place after the other; then a plain restart finishes: each item once."""
    trial = Trial(server, f"chdb://{tmp_path}/engine", CONSTRAINT)
    spill_dir = tmp_path / "spill"
    for place in WITH_THE_ENGINE_INSIDE:
        die_at(trial, place, 1, spill_dir)
    trial.finish(spill_dir=spill_dir)


@pytest.mark.thorough
@pytest.mark.parametrize("place", WITH_THE_ENGINE_INSIDE)
def test_killed_with_the_engine_inside_at(place: str, server: RedisServer, tmp_path: Path) -> None:
    """The same, three times in a row at each place."""
    before = killed[place]
    trial = Trial(server, f"chdb://{tmp_path}/engine", CONSTRAINT)
    for attempts in (1, 2, 3):
        kill_at(trial, place, attempts, tmp_path / "spill")
    assert killed[place] == before + 6


@pytest.mark.parametrize("nth", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_killed_at_a_later_chunk(nth: int, server: RedisServer, clickhouse_url: str) -> None:
    """Some chunks are done, some are not, and they were not finished in order."""
    trial = Trial(server, clickhouse_url)
    for place in PASSED_BY_A_CHUNK:
        trial.push(100)
        trial.die_at(f"{place}:{nth}")
    trial.finish()


def test_killed_while_a_file_is_drained(server: RedisServer, clickhouse_url: str, tmp_path: Path) -> None:
    """Chunks that were spilled are verified and acknowledged once, wherever draining their files broke off."""
    trial = Trial(server, clickhouse_url)
    for place in PASSED_BY_A_FILE:
        trial.push(40)
        trial.die_at(place, spill_dir=tmp_path)
    trial.finish(spill_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_named_place_is_tried() -> None:
    """A failpoint that is added to the ways of an item is added here."""
    modules = [
        m for room in ("buffer", "decode", "deliver") for m in Path(pipeline.__file__).with_name(room).glob("*.py")
    ]
    named = [name for module in modules for name in re.findall(r'failpoints\.hit\("([\w.]+)"\)', module.read_text())]
    assert sorted(named) == sorted(EVERY_PLACE)
