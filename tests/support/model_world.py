"""The world of the delivery's model: real Redis, ClickHouse's double, processes that drain and spill step by step."""

import contextlib
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
from clickhouse_double import ClickHouseDouble
from drain_parts import bad, good, now_s, push
from items import metric
from stepping import DONE, Fate, Work, ask, current

from pipeline.base import config
from pipeline.base.backoff import Backoff
from pipeline.base.errors import LeaseLost, RedisOutage, StoreOutage, StoreRefused
from pipeline.base.keys import BufferKeys
from pipeline.buffer import process_names, sealing
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.redis_disk import RedisDisk
from pipeline.decode.columns import COLUMNS
from pipeline.deliver import delivery as delivery_module
from pipeline.deliver import drainer as drainer_module
from pipeline.deliver import protocol
from pipeline.deliver import spill as spill_module
from pipeline.deliver.chunk_state import Route
from pipeline.deliver.delivery import Delivery
from pipeline.deliver.drainer import DECODING, READING, WRITING, Drainer, Draining
from pipeline.deliver.ledger import digest, pending_records
from pipeline.deliver.spill import Spill
from pipeline.metric import Limits

KEYS = BufferKeys("metrics:buffer")

ALLOWED_VALUE = 10.0
"""What the constraint of ``metrics`` allows while it stands."""

STRICT = Limits(max_item_bytes=300)

SETTINGS = config.DrainerSettings(batch_rows=3, flush_interval_s=0.05, max_retry_pause_s=0.2, lease_s=600)

_DUMP = """
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  all[#all + 1] = key
  all[#all + 1] = redis.call('DUMP', key)
end
return all
"""

Place = tuple[str, int]
"""A segment and a chunk's number."""


@dataclass(frozen=True)
class Look:
    """Where Redis has the items, by their numbers, and how far the chunks are."""

    waiting: Counter[int]
    segments: frozenset[str]
    leases: dict[Place, bytes]
    done: frozenset[Place]
    spilled: frozenset[str]


@dataclass(frozen=True)
class Snapshot:
    """Redis as it was, and what had been pushed and dropped by then."""

    keys: dict[bytes, bytes]
    pushed: frozenset[int]
    dropped: frozenset[int]
    look: Look


@dataclass
class World:
    """What all processes share."""

    client: redis.Redis
    directory: Path
    happened: Counter[str] = field(default_factory=Counter)
    clickhouse: ClickHouseDouble = field(default_factory=ClickHouseDouble)
    limits: Limits = field(default_factory=Limits)
    items: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)
    pushed: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    sealed: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    """Segment to the size of its chunks and the numbers of its items, the oldest first."""
    past: list[Snapshot] = field(default_factory=list)
    """What a power cut may bring back: states of Redis since the last that is known to be on its disk."""
    late: list[tuple[str, pa.Table, str]] = field(default_factory=list)
    """Inserts still on their way although their sender gave up waiting."""
    processes: "list[Process]" = field(default_factory=list)
    pids: int = 0
    alive: set[int] = field(default_factory=set)

    # Items

    def push(self, kinds: list[tuple[str, int]]) -> None:
        """New items, each of a kind and so many days old."""
        first = len(self.items)
        for number, (kind, days) in enumerate(kinds, start=first):
            item = item_of(number, kind, days)
            self.items.append(item)
            self.kinds.append(kind)
            self.numbers[item] = number
        push(self.client, self.items[first:])
        self.pushed |= set(range(first, len(self.items)))

    def drop_oldest(self, keep_rows: int, most: int) -> None:
        """By the rule of an overflowing buffer."""
        before = self.client.lrange(KEYS.buffer, 0, -1)
        count = self.processes[0].buffer.drop_oldest(keep_rows, most)
        self.dropped |= {self.numbers[item] for item in before[len(before) - count :]}
        self.happened["dropped"] += count

    # Redis

    def look(self) -> Look:
        """Read the keys as they are documented, without the code under test."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.lrange(KEYS.buffer, 0, -1)
            pipe.zrange(KEYS.segments, 0, -1)
            pipe.hkeys(KEYS.spilled)
            buffered, names, spilled = pipe.execute()
            names = [name.decode() for name in names]
            for name in names:
                pipe.hmget(KEYS.meta(name), "rows", "chunk_rows", "trimmed")
                pipe.hgetall(KEYS.leases(name))
                pipe.lrange(KEYS.segment(name), 0, -1)
            found = iter(pipe.execute() if names else [])
        waiting = Counter(self.numbers[item] for item in buffered)
        leases: dict[Place, bytes] = {}
        for name in names:
            rows, chunk_rows, trimmed = (int(value or 0) for value in next(found))
            held = {int(number): lease for number, lease in next(found).items()}
            leases |= {(name, number): lease for number, lease in held.items()}
            items = next(found)
            for number in range(trimmed, -(-rows // chunk_rows)):
                if held.get(number) != b"done":
                    first, last = number * chunk_rows, min((number + 1) * chunk_rows, rows)
                    waiting.update(self.numbers[item] for item in items[rows - last : rows - first])
        for name in (name.decode() for name in spilled):
            segment, _, number = name.partition(":")
            chunk_rows, numbers = self.sealed[segment]
            waiting.update(numbers[int(number) * chunk_rows : (int(number) + 1) * chunk_rows])
        done = frozenset(place for place, lease in leases.items() if lease == b"done")
        return Look(waiting, frozenset(names), leases, done, frozenset(name.decode() for name in spilled))

    def snapshot(self, look: Look) -> Snapshot:
        """Redis as it is now."""
        flat = self.client.eval(_DUMP, 0)
        keys = dict(zip(flat[::2], flat[1::2], strict=True))
        return Snapshot(keys, frozenset(self.pushed), frozenset(self.dropped), look)

    def remember(self, look: Look) -> None:
        """A power cut may bring back what is now, unless it was so already."""
        now = self.snapshot(look)
        if not self.past or self.past[-1].keys != now.keys:
            self.past.append(now)

    def synced(self) -> None:
        """What is now in Redis is on its disk."""
        self.past = [self.snapshot(self.look())]

    def rewind(self, steps: int) -> None:
        """Redis is started again from its disk, which has the state of so many steps ago."""
        before = self.look()
        found = self.past[-1 - steps % len(self.past)]
        with self.client.pipeline() as pipe:
            pipe.flushdb()
            for key, value in found.keys.items():
                pipe.restore(key, 0, value)
            for name in found.look.segments:
                # The server has another run's name now.
                pipe.hset(KEYS.meta(name), "run", "before")
            pipe.execute()
        self.happened["rewound"] += 1
        self.happened["rewind lost items"] += self.pushed != found.pushed
        self.happened["rewind undid a seal"] += bool(before.segments - found.look.segments)
        self.happened["rewind undid a claim"] += bool(before.leases.keys() - found.look.leases.keys())
        undone = (before.done - found.look.done) | (found.look.leases.keys() - before.leases.keys() - found.look.done)
        self.happened["rewind undid an ack"] += bool(undone)
        self.happened["rewind undid an unspill"] += bool(found.look.spilled - before.spilled)
        self.pushed, self.dropped = set(found.pushed), set(found.dropped)
        self.synced()

    def expire(self, place: Place) -> None:
        """A lease runs out."""
        key = KEYS.leases(place[0])
        lease = self.client.hget(key, place[1])
        if lease is not None and lease != b"done":
            token, _, attempts = lease.split(b" ")
            self.client.hset(key, place[1], b"%b 1 %b" % (token, attempts))
            self.happened["lease ran out"] += 1

    def holds(self, work: Work) -> bool:
        """Whether the work's lease is the one that Redis knows."""
        chunk: Chunk = work.notes["chunk"]
        lease: bytes = self.client.hget(KEYS.leases(chunk.segment), chunk.number) or b""
        return lease.split(b" ")[0].decode() == work.notes["lease"]

    def process_name(self, pid: int) -> str:
        """As the buffer's own, for processes that are there only in the model."""
        return f"{process_names.machine_name()}/{pid}/{7 if pid in self.alive else '-'}"

    # ClickHouse

    def insert(self, fate: Fate, table: str, rows: pa.Table, token: str) -> None:
        """An insert and what becomes of it."""
        double, happened = self.clickhouse, self.happened
        if fate.name == "away" or (fate.name == "late" and not double.remembers):
            happened["insert lost"] += 1
            raise StoreOutage("away")
        if fate.name == "late":
            self.late.append((table, rows, token))
            raise StoreOutage("it takes too long")
        try:
            double.check(table, rows)
        except StoreRefused as refused:
            happened["row at fault"] += 1
            if fate is DONE:
                raise
            raise StoreOutage("the refusal is lost") from refused
        days = double.days(table, rows)
        work = current()
        if fate.name == "in part" and len(days) > 1:
            days = [day for at, day in enumerate(days) if fate.share >> at & 1] or days[:1]
            happened["insert in part"] += 1
        if fate.name == "token without rows":
            fresh = [day for day in days if (table, day, token) not in double.tokens]
            double.land(table, rows, token, fresh, shown=False)
            happened["token without rows"] += bool(fresh and double.remembers)
        elif fate.name == "rows without token" and work is not None and self._alone(work):
            happened["rows without token"] += bool(double.land(table, rows, token, days, remembered=False))
        else:
            landed = double.land(table, rows, token, days)
            happened["insert landed"] += 1
            happened["insert landed without tokens"] += not double.remembers
            if work is not None and "lease" in work.notes and not self.holds(work):
                happened["zombie's insert landed" if landed else "zombie's insert dropped"] += 1
        if fate is not DONE:
            happened["insert's reply lost"] += 1
            raise StoreOutage("the reply is lost")

    def deliver(self, which: int) -> None:
        """An insert arrives after all; its answer is not waited for."""
        table, rows, token = self.late.pop(which % len(self.late))
        with contextlib.suppress(StoreRefused):
            self.clickhouse.check(table, rows)
            landed = self.clickhouse.land(table, rows, token)
            self.happened["late insert landed" if landed else "late insert dropped"] += 1

    def _alone(self, work: Work) -> bool:
        """No other process has an insert for the chunk under way, or will wake up with one."""
        chunk: Chunk = work.notes["chunk"]
        place = (chunk.segment, chunk.number)
        others = [other for other in self.works() if other is not work and other.next and _place(other) == place]
        name = f"{chunk.segment}:{chunk.number}"
        late = [token for _, _, token in self.late if token == name or token.startswith((f"{name}:", f"{name}."))]
        return not others and not late and ("lease" not in work.notes or self.holds(work))

    def works(self) -> list[Work]:
        """All that is under way."""
        return [work for process in self.processes for work in process.works if work.next]

    # What must hold

    def stored(self) -> Counter[int]:
        """The numbers of the items in ``metrics``."""
        return Counter(int(row["test_id"]) for row in self.clickhouse.tables["metrics"])

    def dead(self) -> Counter[int]:
        """The numbers of the items in the dead letters."""
        return Counter(self.numbers[row["payload"]] for row in self.clickhouse.tables["dead_letters"])

    def stands(self, chunk: Chunk) -> bool:
        """Whether some of the chunk is in ClickHouse."""
        return any(
            row["segment"] == chunk.segment and chunk.first <= row["position"] < chunk.last
            for table in self.clickhouse.tables.values()
            for row in table
        )

    def check(self, look: Look) -> None:
        """Nothing is lost, nothing stands twice, the books balance."""
        stored, dead = self.stored(), self.dead()
        standing = stored + dead
        assert not [number for number, count in standing.items() if count > 1], "an item stands twice"
        rows = [row for table in self.clickhouse.tables.values() for row in table]
        assert len({(row["segment"], row["position"]) for row in rows}) == len(rows), "a place is taken twice"
        assert not [number for number, count in look.waiting.items() if count > 1], "an item waits twice"
        assert {self.kinds[number] for number in stored} <= {"good", "large", "at fault"}
        assert {self.kinds[number] for number in dead} <= {"bad", "large", "at fault"}
        wanted = self.pushed - self.dropped
        assert not wanted - standing.keys() - look.waiting.keys(), "an item is lost"
        assert not (standing.keys() | look.waiting.keys()) - wanted, "an item came out of nowhere"
        assert self.books().unaccounted == 0, self.books()

    def books(self) -> Books:
        return self.processes[0].buffer.books()

    def check_all_done(self) -> None:
        """Each item is stored or dead, once; books, records, digests and touched minutes say the same."""
        look, books = self.look(), self.books()
        self.check(look)
        assert (look.waiting, look.segments, look.spilled) == (Counter(), frozenset(), frozenset())
        tables = self.clickhouse.tables
        stored, dead = len(tables["metrics"]), len(tables["dead_letters"])
        assert stored + dead + len(self.dropped) == len(self.pushed)
        assert (books.stored, books.dead_lettered, books.dropped) == (stored, dead, len(self.dropped)), books
        assert (books.waiting, books.in_flight, books.spilled) == (0, 0, 0), books
        buffer = self.processes[0].buffer
        minutes = {int(row["timestamp"].timestamp()) // 60 * 60 for row in tables["metrics"]}
        assert minutes <= buffer.dirty_minutes().keys()
        records = pending_records(buffer)
        assert len({(record.segment, record.chunk) for record in records}) == len(records)
        assert sum(record.rows for record in records) == stored + dead
        for record in records:
            mine = self._rows_of("metrics", record.segment, record.chunk, record.chunk_rows)
            letters = self._rows_of("dead_letters", record.segment, record.chunk, record.chunk_rows)
            assert (record.stored, record.dead_lettered) == (len(mine), len(letters)), record
            assert record.digest == digest(as_columns(mine)), record

    def _rows_of(self, table: str, segment: str, chunk: int, chunk_rows: int) -> list[dict[str, Any]]:
        return [
            row
            for row in self.clickhouse.tables[table]
            if row["segment"] == segment and row["position"] // chunk_rows == chunk
        ]


def as_columns(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of ``metrics`` as the drainer decodes them."""
    plain = pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in COLUMNS])
    return pa.Table.from_pylist([{name: row[name] for name in COLUMNS.names} for row in rows], plain).cast(COLUMNS)


def item_of(number: int, kind: str, days: int) -> bytes:
    """``good``, ``bad``, ``large`` (bad while limits are strict) or ``at fault`` (while the constraint stands)."""
    match kind:
        case "bad":
            return bad(number)
        case "at fault":
            return metric(number, str(now_s() - 86_400 * days), value=2 * ALLOWED_VALUE)
        case "large":
            return good(number, days_ago=days)[:-1] + b',"tags":{"a":"%b"}}' % (b"x" * STRICT.max_item_bytes)
        case _:
            return good(number, days_ago=days)


def _place(work: Work) -> Place | None:
    chunk: Chunk | None = work.notes.get("chunk")
    return None if chunk is None else (chunk.segment, chunk.number)


# Processes


class SteppedBuffer(Buffer):
    """A buffer whose every request has a fate; power cuts are the world's, and so is its disk."""

    world: World

    def claim(self) -> Chunk | None:
        return self._noted(self._fated("claim"))

    def _noted(self, chunk: Chunk | None) -> Chunk | None:
        work = current()
        if work is not None and chunk is not None:
            work.notes |= {"chunk": chunk, "lease": self._lease(chunk)}
            self.world.happened["claimed"] += 1
            self.world.happened["doubtful"] += chunk.doubtful
            if not self.world.clickhouse.remembers and self.world.stands(chunk):
                self.world.happened["rows found by reading back alone"] += 1
        return chunk

    def seal(self, chunk_rows: int) -> Any:
        segment = self._fated("seal", chunk_rows)
        if segment is not None:
            items = self.client.lrange(KEYS.segment(segment.name), 0, -1)
            self.world.sealed[segment.name] = (chunk_rows, [self.world.numbers[item] for item in reversed(items)])
            self.world.happened["sealed"] += 1
        return segment

    def is_spilled(self, chunk: Chunk) -> bool:
        work = current()
        if work is not None:
            work.notes["chunk"] = chunk
        found: bool = self._fated("is_spilled", chunk)
        self.world.happened["left-over"] += not found
        return found

    def _trim(self, chunk: Chunk) -> None:
        if ask("trim") is DONE:
            super()._trim(chunk)

    def _fated(self, name: str, *arguments: Any, **options: Any) -> Any:
        fate = ask(name)
        happened = self.world.happened
        if fate.name in ("away", "late", "token without rows"):
            happened["Redis away"] += 1
            raise RedisOutage("away")
        if fate is not DONE:
            happened["Redis's reply lost"] += 1
            with contextlib.suppress(LeaseLost):
                getattr(Buffer, name)(self, *arguments, **options)
            raise RedisOutage("the reply is lost")
        try:
            answer = getattr(Buffer, name)(self, *arguments, **options)
        except LeaseLost:
            happened[f"{name} fenced"] += 1
            raise
        happened[name] += 1
        return answer


def _fated(name: str) -> Callable[..., Any]:
    def method(self: SteppedBuffer, *arguments: Any, **options: Any) -> Any:
        return self._fated(name, *arguments, **options)

    return method


for _name in ("read", "read_at", "make_durable", "renew", "release", "ack", "spill", "unspill"):
    setattr(SteppedBuffer, _name, _fated(_name))


class WorldsDisk(RedisDisk):
    """The disk under the world's Redis: a process that waits for it finds everything synced at once."""

    def __init__(self, world: World) -> None:
        super().__init__(world.client, None)
        self.world = world

    def wait(self, written_at_ms: Callable[[str], int]) -> None:
        # In a plain drain several threads are at work, and no power is lost.
        if current() is not None:
            self.world.synced()


@dataclass
class SteppedStore:
    """A handle on the double whose every request has a fate."""

    world: World

    def insert(self, table: str, rows: pa.Table, *, token: str = "") -> int:
        self.world.insert(ask("insert"), table, rows, token)
        return rows.num_rows

    def every_replica(self, table: str) -> str:
        return table

    def query(self, sql: str, parameters: Any = None) -> pa.Table:
        if ask("query") is not DONE:
            raise StoreOutage("away")
        return self.world.clickhouse.query(sql, parameters)


class SteppedSpill(Spill):
    """May die before it has written a file."""

    def _write(self, chunk: Chunk, items: list[bytes]) -> None:
        ask("file")
        super()._write(chunk, items)


class Process:
    """A service: a drainer that may hold several chunks and writes them in turn, and a spiller with its directory."""

    def __init__(self, world: World, slot: int) -> None:
        self.world, self.slot = world, slot
        world.pids += 1
        self.pid = FIRST_PID + world.pids
        world.alive.add(self.pid)
        self.buffer = self._own(SteppedBuffer(world.client), "drainer")
        store: Any = SteppedStore(world)
        self.drainer = Drainer(self.buffer, store, SETTINGS, world.limits)
        spiller = self._own(SteppedBuffer(world.client), "spiller")
        self.spill = SteppedSpill(world.directory / f"spill-{slot}", spiller, store, SETTINGS, world.limits)
        self.stop = threading.Event()
        self.run = Draining(self.drainer, self.stop)
        self.drains: list[Work] = []
        self.spills: list[Work] = []

    def _own(self, buffer: Any, name: str) -> Any:
        buffer.world = self.world
        buffer._disk = WorldsDisk(self.world)
        buffer.lease_s = SETTINGS.lease_s
        buffer.token = f"{self.world.process_name(self.pid)}/{name}"
        return buffer

    @property
    def works(self) -> list[Work]:
        """What it has under way."""
        return self.drains + self.spills

    def start_drain(self) -> Work:
        """Claim, read, decode, write and acknowledge one chunk."""
        if not self.drains:
            self.stop = threading.Event()
            self.run = Draining(self.drainer, self.stop)
        return self._start(self.drains, self._drain)

    def start_spill(self) -> Work:
        """Bring one chunk to disk."""
        return self._start(self.spills, self.spill.spill_one)

    def start_unspill(self) -> Work:
        """Drain one file."""
        return self._start(self.spills, self.spill.drain_one)

    def step(self, work: Work, fate: Fate = DONE) -> None:
        """Go on with a work of this process; one that would write waits for those read before it."""
        if work.next == "write":
            work = next(one for one in self.drains if one.next)
        work.step(fate)
        self.drains = [one for one in self.drains if one.next]
        self.spills = [one for one in self.spills if one.next]

    def kill(self) -> None:
        """``kill -9``."""
        self.world.alive.discard(self.pid)
        for work in self.works:
            work.kill()

    def _start(self, works: list[Work], body: Callable[[], Any]) -> Work:
        def guarded() -> None:
            with contextlib.suppress(LeaseLost, RedisOutage):
                body()

        work = Work(guarded)
        if work.next:
            works.append(work)
        return work

    def _drain(self) -> None:
        """The drainer's own three stages, one after the other for one chunk."""
        run, delivery = self.run, Delivery.start(Route.DRAIN, SETTINGS.max_bad_share)
        run.advance(delivery, READING)
        run.advance(delivery, DECODING)
        if not delivery.state.is_over:
            ask("write")
        run.advance(delivery, WRITING)


FIRST_PID = 100_000_000
"""Above every process number of the machine."""


def one_pace(monkeypatch: pytest.MonkeyPatch, world: Callable[[], World]) -> None:
    """No pauses, no syncs, names of segments that sort as they came, and processes as the world has them."""
    monkeypatch.setattr(delivery_module, "SETTLE_S", 0)
    monkeypatch.setattr(protocol, "MAX_LAPSES", 1_000_000)  # the model's leases run out for no fault of a chunk
    monkeypatch.setattr(drainer_module, "IDLE_PAUSE_S", 0)
    monkeypatch.setattr(Backoff, "pause_s", lambda self, failures: 0)
    monkeypatch.setattr(spill_module.os, "fsync", lambda descriptor: None)
    numbers = itertools.count(1)
    monkeypatch.setattr(sealing.secrets, "token_hex", lambda size: f"{next(numbers):0{2 * size}x}")
    monkeypatch.setattr(logging.getLogger("pipeline"), "disabled", True)
    own_name = process_names.process_name
    monkeypatch.setattr(
        process_names, "process_name", lambda pid: world().process_name(pid) if pid > FIRST_PID else own_name(pid)
    )
