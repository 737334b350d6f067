"""The delivery as a state machine: whatever happens in whatever order, every item is in one place.

A real redis-server, the real ``Buffer``, ``Drainer`` and ``Spill``; hypothesis decides which of several processes goes
on, how far, and how each of its requests to Redis and ClickHouse ends. At every step each pushed item
waits in Redis or in a spilled file, or is stored or dead; at the end, after a plain drain, each is
stored or dead exactly once. ClickHouse is a double here, so that its part in an outcome can be chosen to the
partition; how the engine behaves is tested elsewhere on the engine, and the last tests here hold the
double against it.

Left out is what the delivery does not promise to survive: that ClickHouse takes rows without remembering
their token, or that limits or constraints change, while a sleeper holds an insert of the same chunk.
"""

import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_double import DEFAULTS, ClickHouseDouble
from conftest import effort
from drain_parts import buffer_on, client_of, drain_store, drainer_on, now_s, push
from hypothesis import HealthCheck, event, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model_world import ALLOWED_VALUE, STRICT, Process, World, as_columns, item_of, one_pace
from stepping import Fate, Work

from pipeline.base import failpoints
from pipeline.base.errors import StoreRefused
from pipeline.buffer.chunk import Chunk
from pipeline.deliver.dead_letters import DeadLetter, as_table
from pipeline.deliver.delivery import identified
from pipeline.metric import DIMENSIONS, Limits, Refusal
from pipeline.store.client import rows_at_fault

EXAMPLES, STEPS = effort(15, 40, 2_800), 50
ATTEMPTS = effort(8, 3)
"""More examples follow, this often at most, until everything has happened that must happen."""

KINDS = (
    *("sealed", "claimed", "doubtful", "ack", "release", "crashed", "lease ran out", "orphans given back"),
    *("row at fault", "dropped", "spill", "unspill", "left-over", "rows found by reading back alone"),
    *("insert landed", "insert landed without tokens", "insert lost", "insert in part", "insert's reply lost"),
    *("late insert dropped", "zombie's insert dropped", "token without rows", "rows without token"),
    *("fenced", "renew fenced", "ack fenced", "Redis away", "Redis's reply lost", "rewound", "rewind lost items"),
    *("rewind undid a seal", "rewind undid a claim", "rewind undid an ack", "rewind undid an unspill"),
)
"""What must have happened in the course of a run."""

RARE = frozenset(
    (
        *("insert in part", "rows without token", "token without rows"),
        *("zombie's insert dropped", "late insert dropped", "rewind undid an unspill"),
    )
)
"""May be missing by default, so that an attempt or two are enough; with ``--thorough`` each must happen."""

MUST_HAPPEN = effort([kind for kind in KINDS if kind not in RARE], list(KINDS))

SLOTS = 3
AHEAD = 2
"""Chunks that one drainer may have in hand: it reads the next while it writes."""

PLACES = (
    *("make_durable", "make_durable", "write", "renew", "insert", "insert", "query", "ack"),
    *("trim", "file", "spill", "unspill", "the end", "the end"),
)
"""Where a work may be left standing: before this request."""

FATES = (
    *("away", "reply lost", "in part", "in part", "late", "late"),
    *("token without rows", "token without rows", "rows without token", "rows without token"),
)

items = st.lists(
    st.tuples(st.sampled_from(["good", "good", "good", "bad", "at fault", "large"]), st.sampled_from([0, 1, 2])),
    min_size=3,
    max_size=12,
)
sizes = st.integers(2, 6)
places = st.sampled_from(PLACES)
beds = st.sampled_from(["renew", "insert", "insert", "insert", "query", "ack"])
turns = st.sampled_from(["insert", "insert", "insert", "insert", "renew", "ack", "trim", "spill", "unspill"])
actions = st.sampled_from(["drain", "drain", "drain", "spill", "unspill"])
slots = st.integers(0, SLOTS - 1)
choices = st.integers(0, 7)
fates = st.builds(Fate, st.sampled_from(FATES), st.integers(1, 7))


class Delivery(RuleBasedStateMachine):
    """Producers, three services that may die, sleep and wake late, a Redis that may lose power, a moody ClickHouse."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.handled = sys.exception()
        self.slots = [Process(world, slot) for slot in range(SLOTS)]
        world.processes = self.slots

    # What others do

    @initialize(kinds=items, size=sizes, remembers=st.booleans(), sleepers_first=st.booleans())
    def set_out(self, kinds: list[tuple[str, int]], size: int, remembers: bool, sleepers_first: bool) -> None:
        """Where ClickHouse remembers no tokens, no drainer may sleep and wake late; all else must hold all the same."""
        self.world.push(kinds)
        self._seal(size)
        self.world.clickhouse.remembers = remembers
        self.sleepers_first = sleepers_first

    @rule(kinds=items, size=st.none() | sizes)
    def push(self, kinds: list[tuple[str, int]], size: int | None) -> None:
        """Some is sealed at once, some waits."""
        self.world.push(kinds)
        if size is not None:
            self._seal(size)

    @rule(keep_rows=st.integers(0, 6), most=st.integers(1, 4))
    def drop_oldest(self, keep_rows: int, most: int) -> None:
        self.world.drop_oldest(keep_rows, most)

    # Processes

    @rule(slot=slots, action=actions, place=places)
    def act(self, slot: int, action: str, place: str) -> None:
        """As far as before its first such request."""
        self._act(slot, action, place)

    @rule(slot=slots, action=actions, turn=turns, fate=fates, place=places)
    def act_and_turn_bad(self, slot: int, action: str, turn: str, fate: Fate, place: str) -> None:
        """Well as far as the first such request, which ends badly."""
        if (work := self._begin(slot, action)) is not None:
            self._turn_bad(self.slots[slot], work, turn, fate, place)

    @precondition(lambda self: self.world.works())
    @rule(which=choices, place=places)
    def go_on(self, which: int, place: str) -> None:
        """One step, and as far as before the next such request."""
        process, work = self._pick(which)
        process.step(work)
        self._walk(process, work, place)

    @precondition(lambda self: self.world.works())
    @rule(which=choices, turn=turns, fate=fates, place=places)
    def turn_bad(self, which: int, turn: str, fate: Fate, place: str) -> None:
        """The same with what is under way."""
        self._turn_bad(*self._pick(which), turn, fate, place)

    @precondition(lambda self: self.world.works())
    @rule(which=choices, fate=fates)
    def go_wrong(self, which: int, fate: Fate) -> None:
        """One step that ends badly, whatever it is."""
        process, work = self._pick(which)
        process.step(work, fate)

    @rule(slot=slots, asleep=beds, other=slots, place=places, wakes=st.booleans())
    def take_over(self, slot: int, asleep: str, other: int, place: str, wakes: bool) -> None:
        """A drainer sleeps through its lease, or dies, and another takes its chunk; it wakes up soon or late."""
        process = self.slots[slot]
        work = process.drains[0] if process.drains else self._claim(slot)
        if work is not None:
            self._walk(process, work, asleep)
            if chunk := work.notes.get("chunk"):
                if not self.world.clickhouse.remembers:
                    self._crash(slot)
                self.world.expire((chunk.segment, chunk.number))
            self._act(other, "drain", place)
            if wakes:
                self._walk(process, work, "the end")

    @rule(slot=slots, what=st.sampled_from(["crash", "crash", "stop", "orphans"]))
    def befall(self, slot: int, what: str) -> None:
        """A process dies; or ends while ClickHouse is away; or gives back what the dead have left."""
        process = self.slots[slot]
        if what == "crash":
            self._crash(slot)
        elif what == "orphans":
            self.world.happened["orphans given back"] += process.buffer.release_orphans()
        else:
            process.stop.set()
            for work in process.drains:
                self._turn_bad(process, work, "insert", Fate("away"), "the end")

    # Neighbours

    @rule(slot=slots, size=sizes, steps=st.integers(1, 3), new=st.integers(0, 2), then=places)
    def lose_a_seal(self, slot: int, size: int, steps: int, new: int, then: str) -> None:
        """A drainer has read a chunk of a segment whose seal is not on disk; it is undone, and others sealed."""
        self.world.push([("good", days) for days in range(3)])
        self.world.remember(self.world.look())
        self._seal(size)
        self._act(slot, "drain", "make_durable", remember=True)
        self._lose_power(steps, new, slot, size, then)

    @rule(slot=slots, action=actions, place=places, steps=st.integers(1, 5), then=places)
    def lose_an_action(self, slot: int, action: str, place: str, steps: int, then: str) -> None:
        """As far as Redis is concerned; the seal of its segment is on disk, since a chunk was drained before."""
        self._act(slot, "drain", "the end")
        self._act(slot, action, place, remember=True)
        self._lose_power(steps, 0, slot, 3, then)

    @precondition(lambda self: self.world.late)
    @rule(which=choices)
    def deliver_late(self, which: int) -> None:
        self.world.deliver(which)

    @precondition(lambda self: not self.world.late and not self.world.works())
    @rule(strict=st.booleans(), constraint=st.booleans())
    def configure(self, strict: bool, constraint: bool) -> None:
        """Limits and tables change while nothing is under way, and every process starts again."""
        self.world.limits = STRICT if strict else Limits()
        self.world.clickhouse.most = ALLOWED_VALUE if constraint else None
        self._crash_all()

    # What must hold

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        look = self.world.look()
        self.world.check(look)
        self.world.remember(look)

    def teardown(self) -> None:
        try:
            if sys.exception() is self.handled:
                self._finish()
        finally:
            for process in self.slots:
                process.kill()
            for kind in +self.world.happened:
                event(kind)

    def _finish(self) -> None:
        """A plain drain, before or after the sleepers wake up and late inserts arrive."""
        world = self.world
        if not world.clickhouse.remembers:
            self._crash_all()
        for process in self.slots:
            for work in process.spills:
                self._walk(process, work, "the end")
        if not self.sleepers_first:
            self._drain_plainly()
        for process in self.slots:
            process.stop.clear()
            for work in process.drains:
                self._walk(process, work, "the end")
        self._drain_plainly()
        while world.late:
            world.deliver(0)
        world.check_all_done()
        world.happened["fenced"] += sum(process.drainer.activity.fenced for process in self.slots)

    def _drain_plainly(self) -> None:
        world = self.world
        for place in world.look().leases:
            world.expire(place)
        plain = Process(world, SLOTS)
        impatient = threading.Timer(200, plain.stop.set)
        impatient.start()
        try:
            if not plain.run.nothing_left():
                plain.drainer.run(plain.stop, until_empty=True)
        finally:
            impatient.cancel()
        assert plain.run.nothing_left(), "draining does not end"
        for slot in range(SLOTS):
            spill = Process(world, slot).spill
            while spill.drain_one():
                pass

    # Steps

    def _pick(self, which: int) -> tuple[Process, Work]:
        works = [(process, work) for process in self.slots for work in process.works]
        return works[which % len(works)]

    def _seal(self, size: int) -> None:
        self.slots[0].buffer.seal(size)

    def _crash(self, slot: int) -> None:
        """``kill -9``, and started again on the same disk."""
        self.world.happened["crashed"] += bool(self.slots[slot].works)
        self.slots[slot].kill()
        self.slots[slot] = Process(self.world, slot)

    def _crash_all(self) -> None:
        for slot in range(SLOTS):
            self._crash(slot)

    def _lose_power(self, steps: int, new: int, slot: int, size: int, place: str) -> None:
        """Redis comes back as it was so many changes ago; what waits then is sealed, and a drainer goes to work."""
        if not self.world.clickhouse.remembers:
            self._crash_all()
        self.world.rewind(steps)
        self.world.push([("good", days) for days in range(new)])
        self._seal(size)
        self._act(slot, "drain", place)

    def _act(self, slot: int, action: str, place: str, *, remember: bool = False) -> None:
        """``remember``: a power cut may bring back every single step of it."""
        if (work := self._begin(slot, action)) is not None:
            self._walk(self.slots[slot], work, place, remember=remember)

    def _begin(self, slot: int, action: str) -> Work | None:
        """A work of this kind, of which nothing is done yet, or the one that is under way."""
        process = self.slots[slot]
        if action == "drain":
            return self._claim(slot)
        if process.spills:
            return process.spills[0]
        if action == "unspill":
            self._walk(process, process.start_spill(), "the end")
            return process.start_unspill()
        return process.start_spill()

    def _claim(self, slot: int) -> Work | None:
        """A work that is about to claim a chunk, sealed before if there is none."""
        if not self.world.look().segments:
            self._seal(3)
        return self.slots[slot].start_drain() if len(self.slots[slot].drains) < AHEAD else None

    def _turn_bad(self, process: Process, work: Work, turn: str, fate: Fate, place: str) -> None:
        self._walk(process, work, turn)
        if work.next:
            process.step(work, fate)
        self._walk(process, work, place)

    def _walk(self, process: Process, work: Work, place: str, *, remember: bool = False) -> None:
        """Until it is about to ask for ``place``, or has ended."""
        for _ in range(100):
            if remember:
                self.world.remember(self.world.look())
            if work.next in ("", place):
                return
            process.step(work)
        raise AssertionError(f"it goes round and round before {work.next}")


@pytest.mark.timeout(1800)
def test_every_item_is_delivered_once(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dies, sleeps, wakes late, loses its reply or its memory, and in whatever order."""
    client = client_of(redis_url)
    world = World(client, tmp_path)
    happened: Counter[str] = Counter()
    one_pace(monkeypatch, lambda: world)

    def machine() -> Delivery:
        nonlocal world
        happened.update(world.happened)
        client.flushdb()
        shutil.rmtree(tmp_path, ignore_errors=True)
        world = World(client, tmp_path)
        return Delivery(world)

    chosen = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, suppress_health_check=list(HealthCheck))
    for attempt in range(ATTEMPTS):
        run_state_machine_as_test(seed(attempt)(machine) if attempt else machine, settings=chosen)
        happened.update(world.happened)
        world.happened.clear()
        missing = [kind for kind in MUST_HAPPEN if not happened[kind]]
        if not missing:
            break
    print(", ".join(f"{kind} {count}" for kind, count in sorted(happened.items())))
    assert not missing, "a run in which this never happened proves little"


# The double against the engine


@pytest.fixture(params=["double", "engine"])
def clickhouse(request: pytest.FixtureRequest, engine_path: Path, _open_engine: None) -> Iterator[Any]:
    """Empty tables of the drain, in the double and in the real engine."""
    if request.param == "double":
        yield ClickHouseDouble()
        return
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


CHUNK = Chunk("contract", 0, 0, 100, 100, 100, now_s() * 1000, 1, False)


def rows(days: dict[int, int], *, at_fault: int | None = None) -> pa.Table:
    """Rows of ``metrics`` by position, so many days old; one of them with a value that the constraint forbids."""
    fields = [
        dict.fromkeys(DIMENSIONS, "")
        | DEFAULTS["metrics"]
        | {
            "timestamp": datetime.now(UTC) - timedelta(days=old),
            "value": 2 * ALLOWED_VALUE if position == at_fault else 1.0,
            "tags": [],
            "position": position,
        }
        for position, old in days.items()
    ]
    return identified(as_columns(fields), CHUNK)


def letters(positions: list[int]) -> pa.Table:
    """Rows of ``dead_letters``."""
    refused = Refusal("not JSON", "")
    return as_table([DeadLetter(position, refused, b"bad") for position in positions], CHUNK, "metrics:buffer")


def standing(clickhouse: Any, table: str) -> list[int]:
    return sorted(clickhouse.query(f"SELECT position FROM {table}")["position"].to_pylist())


def forbid_large_values(clickhouse: Any) -> None:
    if isinstance(clickhouse, ClickHouseDouble):
        clickhouse.most = ALLOWED_VALUE
    else:
        clickhouse.command(f"ALTER TABLE metrics ADD CONSTRAINT small CHECK value <= {ALLOWED_VALUE}")


def test_a_token_is_known_to_a_partition_of_a_table(clickhouse: Any) -> None:
    """Where it is known, whatever comes under it is dropped; on other days and in the other table it lands."""
    clickhouse.insert("metrics", rows({0: 0, 1: 0}), token="t")
    clickhouse.insert("metrics", rows({0: 0, 1: 0, 2: 1, 3: 1}), token="t")
    assert standing(clickhouse, "metrics") == [0, 1, 2, 3]
    clickhouse.insert("metrics", rows({4: 0, 5: 1, 6: 2}), token="t")
    assert standing(clickhouse, "metrics") == [0, 1, 2, 3, 6]
    for _ in range(2):
        clickhouse.insert("dead_letters", letters([7]), token="t")
    assert standing(clickhouse, "dead_letters") == [7]
    clickhouse.insert("metrics", rows({0: 0}), token="t.1")
    assert standing(clickhouse, "metrics") == [0, 0, 1, 2, 3, 6]


def test_without_a_token_nothing_is_dropped(clickhouse: Any) -> None:
    """The same rows twice stand twice."""
    for _ in range(2):
        clickhouse.insert("metrics", rows({0: 0, 1: 1}))
        clickhouse.insert("dead_letters", letters([2]))
    assert (standing(clickhouse, "metrics"), standing(clickhouse, "dead_letters")) == ([0, 0, 1, 1], [2, 2])


@pytest.mark.parametrize("at_fault", [0, 3])
def test_an_insert_that_is_refused_leaves_nothing(clickhouse: Any, at_fault: int) -> None:
    """No row of any partition, and its token is as good as unused."""
    forbid_large_values(clickhouse)
    days = {0: 0, 1: 0, 2: 1, 3: 1}
    with pytest.raises(StoreRefused) as refused:
        clickhouse.insert("metrics", rows(days, at_fault=at_fault), token="t")
    assert rows_at_fault(refused.value)
    assert standing(clickhouse, "metrics") == []
    clickhouse.insert("metrics", rows(days), token="t")
    assert standing(clickhouse, "metrics") == [0, 1, 2, 3]


def test_reading_back_answers_alike(redis_url: str, clickhouse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drainer that falls over before its ack, and one of other limits after it: both see what stands."""
    forbid_large_values(clickhouse)
    buffer = buffer_on(redis_url)
    kinds = ["good", "bad", "large", "at fault", "good", "large", "at fault", "bad"] * 2
    push(buffer.client, [item_of(number, kind, number % 3) for number, kind in enumerate(kinds)])
    for limits, failpoint in ((Limits(), "drainer.before_ack:2:raise"), (STRICT, "")):
        monkeypatch.setenv(failpoints.VARIABLE, failpoint)
        failpoints.reset()
        with pytest.raises(failpoints.Injected) if failpoint else nullcontext():
            drainer_on(
                buffer, clickhouse, limits=limits, batch_rows=8, lease_s=0.05, max_bad_share=1
            ).drain_until_empty()
    good_and_large = [number for number, kind in enumerate(kinds) if kind in ("good", "large")]
    assert standing(clickhouse, "metrics") == good_and_large
    assert standing(clickhouse, "dead_letters") == [n for n in range(len(kinds)) if n not in good_and_large]
    books = buffer.books()
    assert (books.stored, books.dead_lettered, books.in_flight, books.unaccounted) == (8, 8, 0, 0)
