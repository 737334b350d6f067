"""Does what the delivery protocol says about one chunk, and reports what came of it.

``Deliverer.advance`` is the only loop: it asks ``protocol`` for the next step, does it, and hands back the outcome
as a value. Which thread runs which phases is the drainer's business. When ClickHouse is away a step's outcome is
``Unknown``; when Redis is away the step is repeated until Redis answers or the drainer is to stop.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.base import failpoints, log
from pipeline.base.backoff import Backoff
from pipeline.base.config import DrainerSettings
from pipeline.base.errors import LeaseLost, RedisOutage, SchemaMismatch, StoreOutage, StoreRefused
from pipeline.buffer.chunk import Chunk
from pipeline.decode.columns import COLUMNS, decode_chunk, is_all_empty, joined
from pipeline.deliver import ledger, protocol, steps, traces
from pipeline.deliver.activity import Activity
from pipeline.deliver.chunk_state import ChunkState, Phase, Route
from pipeline.deliver.dead_letters import DEAD_LETTERS, DeadLetter, as_table
from pipeline.deliver.stopping import Interrupted, Stop
from pipeline.metric import RUN_FIELDS, Limits, Refusal
from pipeline.store.client import Store, rows_at_fault
from pipeline.store.partitions import by_days

_log = log.get(__name__)

Words = npt.NDArray[np.uint32]
Answer = TypeVar("Answer")

FIRST_PAUSE_S = 0.1
SETTLE_S = 1.0
"""An insert that ClickHouse has logged but not yet shown gets this long before it is taken for lost."""

EXPIRY_MARGIN_MS = 47 * 3_600_000
"""The table keeps rows two days longer than the oldest accepted; past this they are no longer looked for."""


class ChunkOrigin(Protocol):
    """Where the items of a chunk are, and who is told what became of them: a ``Buffer``, or a spilled file."""

    @property
    def key(self) -> str:
        """The buffer's name."""
        ...

    def renew(self, chunk: Chunk, *, before_insert: bool = False) -> None:
        """Prolong the lease; raises ``LeaseLost`` when another drainer has the chunk."""
        ...

    def release(self, chunk: Chunk) -> None:
        """End the lease at once."""
        ...

    def read_at(self, chunk: Chunk, index: int) -> bytes:
        """One item, by its index from the head of the segment."""
        ...

    def ack(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str = "") -> None:
        """Every row stands in ClickHouse: the items may go. Raises ``LeaseLost``."""
        ...

    def set_aside(self, chunk: Chunk, reason: str) -> None:
        """Keep the chunk for a person to look at. Raises ``LeaseLost``."""
        ...


@dataclass(frozen=True)
class Content:
    """A decoded chunk: what belongs into ``metrics`` and what into the dead letters."""

    rows: pa.Table
    tally: ledger.ChunkTally
    dead: list[DeadLetter]
    buried: int = 0
    """Rows that stand in the dead letters and not in ``dead``: ClickHouse refused them, or their items are gone."""
    saved: frozenset[int] = frozenset()
    """Positions whose items are gone from Redis, but not lost: an earlier attempt had written them."""

    @classmethod
    def of(
        cls, rows: pa.Table, dead: list[DeadLetter], buried: int = 0, saved: frozenset[int] = frozenset()
    ) -> Content:
        """With the tally of its rows."""
        return cls(rows, ledger.ChunkTally.of(rows), dead, buried, saved)

    @property
    def dead_lettered(self) -> int:
        """Items in the dead letters, once all is written."""
        return len(self.dead) + self.buried


@dataclass
class Delivery:
    """One chunk on its way: the protocol's state, and the data that it is about."""

    state: ChunkState
    step: steps.Step
    chunk: Chunk | None = None
    items: Sequence[bytes] = ()
    content: Content | None = None
    missing_rows: pa.Table | None = None
    missing_dead: list[DeadLetter] = field(default_factory=list)
    range_rows: pa.Table | None = None
    """What was missing in the refused range that was read back last."""
    trouble: Exception | None = None
    """Why the last outcome is unknown."""
    is_lease_lost: bool = False
    """Set when the lease could not be prolonged in the background."""
    step_since_s: float = field(default_factory=time.monotonic)
    stages: list[traces.Stage] = field(default_factory=list)
    """What it went through, where traces are on."""

    @classmethod
    def start(cls, route: Route, max_bad_share: float) -> Delivery:
        """Of a chunk that is still to be claimed."""
        return cls(*protocol.start(route, max_bad_share))

    @classmethod
    def of_file(cls, chunk: Chunk, items: Sequence[bytes], max_bad_share: float) -> Delivery:
        """Of a spilled chunk whose items are at hand."""
        return cls(*protocol.start_from_file(chunk_token(chunk), chunk.first, chunk.last, max_bad_share), chunk, items)

    def take(self, event: steps.Event) -> None:
        """Go on as the protocol says."""
        self.state, self.step = protocol.next_step(self.state, event)
        self.step_since_s = time.monotonic()

    @property
    def held(self) -> Chunk:
        """The chunk, once there is one."""
        assert self.chunk is not None
        return self.chunk

    @property
    def decoded(self) -> Content:
        """What it contains, once it is decoded."""
        assert self.content is not None
        return self.content


class Deliverer:
    """Takes decoded chunks of one origin into ClickHouse. A subclass adds how chunks are claimed and read."""

    def __init__(
        self,
        origin: ChunkOrigin,
        store: Store,
        settings: DrainerSettings,
        limits: Limits,
        activity: Activity,
        stop: Stop,
    ) -> None:
        self.origin = origin
        self.store = store
        self.settings = settings
        self.limits = limits
        self.activity = activity
        self.stop = stop

    def advance(self, delivery: Delivery, phases: Collection[Phase]) -> None:
        """Do step after step as long as the delivery is in one of these phases."""
        while delivery.state.phase in phases:
            delivery.take(self._outcome(delivery))

    def _outcome(self, delivery: Delivery) -> steps.Event:
        """Do the step; what came of it."""
        is_ending = delivery.state.phase is Phase.GIVE_BACK
        if delivery.is_lease_lost and not is_ending:
            self.activity.fenced += 1
            return steps.Fenced()
        if self.stop.is_overdue() and not is_ending:
            return steps.ToldToStop()
        try:
            return self._do(delivery, delivery.step)
        except LeaseLost as lost:
            _log.warning("lease lost", chunk=delivery.state.name, reason=str(lost))
            self.activity.fenced += 1
            return steps.Fenced()
        except Interrupted:
            return steps.ToldToStop()
        except (StoreOutage, StoreRefused) as trouble:
            # In doubt, or at odds with the statement, the table or our rights: no row is to blame.
            delivery.trouble = trouble
            return steps.Unknown(str(trouble))

    def _do(self, delivery: Delivery, step: steps.Step) -> steps.Event:
        match step:
            case steps.Decode():
                return self._decode(delivery)
            case steps.ReadBack():
                return self._read_back(delivery)
            case steps.ReadBackRange():
                return self._read_back_range(delivery, step)
            case steps.InsertLetters():
                return self._insert_letters(delivery, delivery.missing_dead, step.token)
            case steps.Insert():
                return self._insert_rows(delivery, step)
            case steps.Bury():
                return self._bury(delivery, step)
            case steps.Settle():
                self.stop.wait(SETTLE_S)
                return steps.Done()
            case steps.Pause():
                return self._pause(delivery, step)
            case steps.Ack():
                return self._ack(delivery)
            case steps.SetAside():
                self.redis(lambda: self.origin.set_aside(delivery.held, step.reason))
                self.activity.set_aside += 1
                return steps.Done()
            case steps.GiveBack():
                self._give_back(delivery.held)
                return steps.Done()
            case _:
                raise AssertionError(f"a deliverer does not do {step}")

    def _took(self, delivery: Delivery, stage: str, seconds: float) -> None:
        self.activity.stages.took(stage, seconds)
        if self.settings.traces:
            delivery.stages.append(traces.ended(stage, seconds))

    # Decode

    def _decode(self, delivery: Delivery) -> steps.Event:
        started = time.perf_counter()
        chunk, items = delivery.held, delivery.items
        positions = np.arange(chunk.last - 1, chunk.first - 1, -1, dtype=np.int64)
        decoded = decode_chunk(items, positions, chunk.sealed_at_ms, self.limits)
        dead = [
            DeadLetter(position, refusal, items[chunk.last - 1 - position]) for position, refusal in decoded.refusals
        ]
        delivery.content = Content.of(decoded.rows, dead)
        delivery.missing_rows, delivery.missing_dead = decoded.rows, dead
        delivery.items = ()
        _expect(decoded.rows.num_rows + len(dead) == chunk.rows, "every item is a row or a dead letter", chunk)
        failpoints.hit("drainer.after_decode")
        self._took(delivery, "decode", time.perf_counter() - started)
        return steps.Decoded(decoded.rows.num_rows, len(dead))

    # Read back

    def _read_back(self, delivery: Delivery) -> steps.Event:
        failpoints.hit("drainer.before_verify")
        chunk = delivery.held
        stored, buried = self._positions("metrics", chunk), self._positions(DEAD_LETTERS, chunk)
        failpoints.hit("drainer.after_verify")
        content = self._as_decided(delivery.decoded, chunk, stored, buried)
        content = delivery.content = self._with_saved(content, chunk, stored, buried)
        present = set(buried.tolist())
        delivery.missing_dead = [letter for letter in content.dead if letter.position not in present]
        delivery.missing_rows = self._lacking(content.rows, stored)
        return steps.Found(delivery.missing_rows.num_rows, len(delivery.missing_dead))

    def _read_back_range(self, delivery: Delivery, step: steps.ReadBackRange) -> steps.Event:
        rows = between(_rows(delivery), step.first, step.last)
        delivery.range_rows = self._lacking(rows, self._positions("metrics", delivery.held))
        middle = (step.first + step.last) // 2
        low = int((delivery.range_rows["position"].to_numpy() < middle).sum())
        return steps.FoundInRange(low, delivery.range_rows.num_rows - low)

    def _as_decided(self, content: Content, chunk: Chunk, stored: Words, buried: Words) -> Content:
        """What stands in one table never goes into the other, even if limits or constraints changed since."""
        refused = np.isin(content.rows["position"].to_numpy(), buried)
        if refused.any():
            rows = content.rows.filter(pa.array(~refused))
            content = Content.of(rows, content.dead, content.buried + int(refused.sum()), content.saved)
        accepted = set(stored.tolist()) & {letter.position for letter in content.dead}
        if accepted:
            dead = [letter for letter in content.dead if letter.position not in accepted]
            content = Content.of(self._joined(content.rows, chunk, accepted), dead, content.buried, content.saved)
        return content

    def _with_saved(self, content: Content, chunk: Chunk, stored: Words, buried: Words) -> Content:
        """With what was written of the chunk before its items vanished from Redis."""
        rows, letters = set(_outside(chunk, stored)) - content.saved, set(_outside(chunk, buried)) - content.saved
        letters -= rows
        if not rows and not letters:
            return content
        table = self._joined(content.rows, chunk, rows) if rows else content.rows
        return Content.of(table, content.dead, content.buried + len(letters), content.saved | rows | letters)

    def _joined(self, rows: pa.Table, chunk: Chunk, positions: set[int]) -> pa.Table:
        """The rows, and those at other positions as ClickHouse has them."""
        as_stored = self.store.query(
            f"SELECT {', '.join(COLUMNS.names)} FROM {self.store.every_replica('metrics')} "
            "WHERE segment = {segment:String} AND position IN {positions:Array(UInt32)}",
            {"segment": chunk.segment, "positions": sorted(positions)},
        ).cast(COLUMNS)
        # Several replicas may have told the same row.
        as_stored = as_stored.take(np.unique(as_stored["position"].to_numpy(), return_index=True)[1])
        return joined([rows, as_stored])

    def _lacking(self, rows: pa.Table, stored: Words) -> pa.Table:
        missing = ~np.isin(rows["position"].to_numpy(), stored)
        # What has outlived its retention while it waited here may be gone from the table by right.
        expired_ms = time.time_ns() // 1_000_000 - self.limits.retention_ms - EXPIRY_MARGIN_MS
        missing &= rows["timestamp"].cast(pa.int64()).to_numpy() >= expired_ms
        return rows if missing.all() else rows.filter(pa.array(missing))

    def _positions(self, table: str, chunk: Chunk) -> Words:
        first, last = chunk.sealed
        found = self.store.query(
            f"SELECT position FROM {self.store.every_replica(table)} WHERE segment = {{segment:String}} "
            "AND position >= {first:UInt32} AND position < {last:UInt32}",
            {"segment": chunk.segment, "first": first, "last": last},
        )
        positions: Words = found["position"].to_numpy()
        return positions

    # Insert

    def _insert_rows(self, delivery: Delivery, step: steps.Insert) -> steps.Event:
        chunk = delivery.held
        rows = _rows(delivery)
        if delivery.state.phase is Phase.INSERT_RANGE:
            failpoints.hit("drainer.halving")
            assert delivery.range_rows is not None
            rows = between(delivery.range_rows, step.first, step.last)
        is_proved = True
        for part in by_days(rows, "timestamp"):
            if self.stop.is_overdue():
                raise Interrupted
            self._check_lease(delivery)
            try:
                written = self.store.insert("metrics", identified(part, chunk), token=step.token)
            except StoreRefused as refused:
                if not rows_at_fault(refused):
                    raise
                return steps.Refused(str(refused))
            is_proved &= written == part.num_rows
        failpoints.hit("drainer.after_insert")
        return steps.Accepted(is_proved)

    def _insert_letters(self, delivery: Delivery, letters: list[DeadLetter], token: str) -> steps.Event:
        if not letters:
            return steps.Accepted()
        self._check_lease(delivery)
        written = self.store.insert(DEAD_LETTERS, as_table(letters, delivery.held, self.origin.key), token=token)
        failpoints.hit("drainer.between_inserts")
        return steps.Accepted(written == len(letters))

    def _bury(self, delivery: Delivery, step: steps.Bury) -> steps.Event:
        failpoints.hit("drainer.before_burial")
        letters = [
            DeadLetter(
                fault.position, Refusal("refused by ClickHouse", fault.reason), self._payload(delivery, fault.position)
            )
            for fault in step.faults
        ]
        outcome = self._insert_letters(delivery, letters, step.token)
        failpoints.hit("drainer.after_burial")
        return outcome

    def _check_lease(self, delivery: Delivery) -> None:
        self.redis(lambda: self.origin.renew(delivery.held, before_insert=True))
        failpoints.hit("drainer.before_insert")

    def _payload(self, delivery: Delivery, position: int) -> bytes:
        chunk = delivery.held
        return self.redis(lambda: self.origin.read_at(chunk, chunk.segment_rows - 1 - position))

    # Ack, wait, give back

    def _ack(self, delivery: Delivery) -> steps.Event:
        failpoints.hit("drainer.before_ack")
        started = time.perf_counter()
        chunk, content, activity = delivery.held, delivery.decoded, self.activity
        stored, dead_lettered = content.rows.num_rows, content.dead_lettered
        saved = len(content.saved)
        _expect(stored + dead_lettered == chunk.rows + saved, "stored and dead-lettered make up the chunk", chunk)
        chunk = replace(chunk, gone=chunk.gone - saved)
        activity.recovered()
        record = ledger.record(chunk, content.tally, stored=stored, dead_lettered=dead_lettered)
        self.redis(
            lambda: self.origin.ack(
                chunk, stored=stored, dead_lettered=dead_lettered, minutes=content.tally.minutes, record=record
            )
        )
        failpoints.hit("drainer.after_ack")
        activity.chunks += 1
        activity.stored += stored
        activity.dead_lettered += dead_lettered
        activity.stages.rows += chunk.rows
        self._took(delivery, "ack", time.perf_counter() - started)
        activity.heartbeat_s = time.monotonic()
        _log.debug("chunk delivered", segment=chunk.segment, chunk=chunk.number, rows=chunk.rows, refused=dead_lettered)
        return steps.Done()

    def _pause(self, delivery: Delivery, step: steps.Pause) -> steps.Event:
        """Wait for ClickHouse; half the lease is left for the attempt itself."""
        longest_s = min(self.settings.max_retry_pause_s, self.settings.lease_s / 2)
        pause_s = Backoff(FIRST_PAUSE_S, longest_s).pause_s(step.failures)
        self.activity.retrying(delivery.trouble or "ClickHouse", pause_s)
        self.stop.wait(pause_s)
        self.redis(lambda: self.origin.renew(delivery.held))
        return steps.Done()

    def _give_back(self, chunk: Chunk) -> None:
        try:
            self.origin.release(chunk)
        except (LeaseLost, RedisOutage):
            return  # its lease runs out by itself

    def redis(self, action: Callable[[], Answer]) -> Answer:
        """Do it; while Redis is away, try again with growing pauses. Only for what is safe to repeat."""
        backoff = Backoff(FIRST_PAUSE_S, self.settings.max_retry_pause_s)
        for failures in itertools.count(1):
            try:
                answer = action()
            except RedisOutage as outage:
                pause_s = backoff.pause_s(failures)
                self.activity.retrying(outage, pause_s)
                self.stop.wait(pause_s)
            else:
                if failures > 1:
                    self.activity.recovered()
                return answer
        raise AssertionError("unreachable")


def mismatch(delivery: Delivery) -> SchemaMismatch:
    """The error of a drainer that halts, because the table rather than the data is wrong."""
    chunk = delivery.held
    return SchemaMismatch(
        f"ClickHouse refuses most rows of chunk {chunk.number} of segment {chunk.segment} ({chunk.rows} items), "
        f"the first for: refused by ClickHouse ({delivery.state.reason}); they stay in Redis. If the rows are really "
        "bad, raise drainer.max_bad_share and start again; if not, mend the table"
    )


def fetched(chunk: Chunk) -> steps.Fetched:
    """What is at hand of a chunk that was read."""
    return steps.Fetched(chunk.first, chunk.last, is_whole=not chunk.gone)


def chunk_token(chunk: Chunk) -> str:
    """The name of a chunk at ClickHouse: the first of its insert tokens."""
    return f"{chunk.segment}:{chunk.number}"


def between(rows: pa.Table, first: int, last: int) -> pa.Table:
    """The rows at positions ``first`` to ``last - 1``."""
    positions = rows["position"].to_numpy()
    return rows.filter(pa.array((positions >= first) & (positions < last)))


def _outside(chunk: Chunk, positions: Words) -> list[int]:
    """Those of a chunk's positions whose items are gone."""
    outside: list[int] = positions[(positions < chunk.first) | (positions >= chunk.last)].tolist()
    return outside


def identified(rows: pa.Table, chunk: Chunk) -> pa.Table:
    """The rows as ``metrics`` wants them: with their segment and the time of ingestion."""
    count = rows.num_rows
    segment = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int32)), pa.array([chunk.segment], pa.string())
    )
    now = pa.array(np.full(count, time.time_ns() // 1_000_000)).cast(pa.timestamp("ms", tz="UTC"))
    # Empty columns cost an insert time and the table bytes; ClickHouse fills them in.
    sent = rows.drop_columns([name for name in RUN_FIELDS if is_all_empty(rows[name])])
    return sent.append_column("segment", segment).append_column("ingested_at", now)


def _rows(delivery: Delivery) -> pa.Table:
    assert delivery.missing_rows is not None
    return delivery.missing_rows


def _expect(holds: bool, what: str, chunk: Chunk, **facts: Any) -> None:
    """An invariant; its violation is a bug in the pipeline and stops the drainer before any harm."""
    if not holds:
        raise AssertionError(f"does not hold: {what} ({chunk}, {facts})")
