"""Orders of events that the model's chance hardly meets: each needs a token that ClickHouse knows without its rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from drain_parts import client_of
from model_world import ALLOWED_VALUE, Process, World, one_pace
from stepping import DONE, Fate, Work

LOGGED = Fate("token without rows", 7)


@pytest.fixture
def world(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    client = client_of(redis_url)
    client.flushdb()
    world = World(client, tmp_path)
    one_pace(monkeypatch, lambda: world)
    world.processes = [Process(world, slot) for slot in range(3)]
    yield world
    for process in world.processes:
        process.kill()


def walk(process: Process, work: Work, place: str = "") -> Work:
    while work.next not in ("", place):
        process.step(work)
    return work


def insert(process: Process, work: Work, fate: Fate = DONE) -> None:
    walk(process, work, "insert")
    process.step(work, fate)


def test_a_refused_token_is_not_spent(world: World) -> None:
    """A half was known without its rows; who sleeps before the next token wakes to find the first one used: dropped."""
    first, second, _ = world.processes
    world.clickhouse.most = ALLOWED_VALUE
    world.push([("good", 0), ("at fault", 0)])
    first.buffer.seal(2)
    sleeper = first.start_drain()
    insert(first, sleeper)  # refused
    insert(first, sleeper, LOGGED)  # the good half: ClickHouse dies, and knows it without having it
    insert(first, sleeper)  # all again: refused
    insert(first, sleeper)  # the good half: dropped
    insert(first, sleeper)  # the other: refused
    insert(first, sleeper)  # and buried
    walk(first, sleeper, "insert")
    (place,) = world.look().leases
    world.expire(place)
    walk(second, second.start_drain())
    walk(first, sleeper)
    world.check(world.look())


def test_a_lease_that_a_power_cut_gave_back_is_in_doubt(world: World) -> None:
    """Another had tried the chunk meanwhile, and Redis forgot it: what the sleeper inserts may be dropped."""
    first, second, _ = world.processes
    world.push([("good", 0)] * 2)
    first.buffer.seal(1)
    walk(second, second.start_drain())  # the seal is on disk
    sleeper = walk(first, first.start_drain(), "insert")
    (place,) = world.look().leases
    world.expire(place)
    world.remember(world.look())
    insert(second, second.start_drain(), LOGGED)
    second.kill()
    world.rewind(0)
    walk(first, sleeper)
    world.check(world.look())
