"""The drainer: moves chunks from Redis into ClickHouse, each row exactly once.

For every chunk: claim, read, decode, write, verify where in doubt, ack. Reading, decoding
and writing overlap, each in a thread of its own, a few chunks apart.

When ClickHouse is away, the chunk in hand is tried again for ever, with growing pauses, its
lease renewed, and nothing new is sealed: the buffer grows in Redis. When Redis is away, the
rows in hand are finished as far as they go; whatever was not acknowledged is claimed again
later and verified by reading back. A ``kill -9`` at any line leaves at worst rows without an
ack: the chunk's lease runs out, the next claimer sees that it was tried, asks ClickHouse
which rows are there, and inserts the missing ones.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.base import failpoints, log
from pipeline.base.config import DrainerSettings
from pipeline.base.errors import LeaseLost, PipelineError, RedisOutage, SchemaMismatch, StoreOutage, StoreRefused
from pipeline.base.measures import STAGE_SECONDS
from pipeline.buffer.buffer import Buffer, Chunk
from pipeline.decode.columns import COLUMNS, decode_chunk, is_all_empty, prepare
from pipeline.decode.items import Items
from pipeline.deliver import ledger
from pipeline.deliver.dead_letters import DEAD_LETTERS, DeadLetter, as_table
from pipeline.metric import RUN_FIELDS, Limits, Refusal
from pipeline.store.client import Store, rows_at_fault

_log = log.get(__name__)

Words = npt.NDArray[np.uint32]

FIRST_PAUSE_S = 0.1
MIN_SUSPECT_ROWS = 1_000
"""A smaller chunk says nothing about the schema, however bad it is."""

MAX_BLAMED_ROWS = 16
"""Fewer rows that ClickHouse refuses one by one say nothing about the schema, whatever their share."""

SETTLE_S = 1.0
"""An insert that ClickHouse has logged but not yet shown gets this long before it is taken for lost."""

EXPIRY_MARGIN_MS = 47 * 3_600_000
"""The table keeps rows two days longer than the oldest accepted; past this they are no longer looked for."""

COMPILED_S = 2.0
"""Loading it from numba's cache takes a tenth of this."""

RESTART_LOOK_S = 1.0
IDLE_PAUSE_S = 0.02
HURRIED_PAUSE_S = 0.004
"""The same for a drainer that somebody waits for."""

MAX_CHUNKS_IN_HAND = 3
"""One is read, one decoded, one written: more would cost memory and gain nothing."""

MAX_OPEN_CHUNKS = 8
"""Sealing stops while this many chunks are sealed and unclaimed: a backlog stays in one piece."""


@dataclass
class Stages:
    """Seconds and rows by stage, for ``bench`` and ``top``; written by one thread each."""

    rows: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    write_s: float = 0.0
    ack_s: float = 0.0


@dataclass
class Progress:
    """What a drainer is doing, for ``status``, health and logs."""

    stored: int = 0
    dead_lettered: int = 0
    chunks: int = 0
    fenced: int = 0
    retries: int = 0
    trouble: str = ""
    heartbeat_s: float = field(default_factory=time.monotonic)
    stages: Stages = field(default_factory=Stages)


@dataclass(frozen=True)
class _Read:
    chunk: Chunk
    items: Items


@dataclass(frozen=True)
class _Ready:
    chunk: Chunk
    rows: pa.Table
    tally: ledger.Tally
    dead: list[DeadLetter]
    buried: int = 0
    """Rows that are readable but that ClickHouse refused: they stand in the dead letters."""

    @classmethod
    def of(cls, chunk: Chunk, rows: pa.Table, dead: list[DeadLetter], buried: int = 0) -> _Ready:
        return cls(chunk, rows, ledger.Tally.of(rows), dead, buried)

    @property
    def dead_lettered(self) -> int:
        return len(self.dead) + self.buried


class Drainer:
    """Drains one buffer. Any number of drainers, in any number of processes, may share it."""

    def __init__(self, buffer: Buffer, store: Store, settings: DrainerSettings, limits: Limits) -> None:
        self.buffer = buffer
        self.store = store
        self.settings = settings
        self.limits = limits
        self.progress = Progress()
        self._stop = threading.Event()
        self._claims_done = threading.Event()
        self._failure: BaseException | None = None
        self._in_hand = threading.Semaphore(MAX_CHUNKS_IN_HAND)
        buffer.third_clock = lambda: _clock_ms(store)

    # The main verb

    def run(self, stop: threading.Event | None = None, *, until_empty: bool = False) -> Progress:
        """Drain until ``stop`` is set, or until buffer and segments are empty.

        Chunks in hand when ``stop`` is set are finished if ClickHouse answers, else given back.
        Raises ``SchemaMismatch`` when more than ``max_bad_share`` of a large chunk is refused; the chunk
        stays where it is. Bugs raise as they are.
        """
        self._stop = stop or threading.Event()
        self._claims_done.clear()
        _prepare()
        try:
            self._redis(self.buffer.tidy_after_restart)
            self._redis(self.buffer.release_orphans)
        except _StoppedError:
            return self.progress
        failpoints.hit("drainer.after_orphans")
        read: queue.Queue[_Read | None] = queue.Queue(maxsize=1)
        ready: queue.Queue[_Ready | None] = queue.Queue(maxsize=1)
        self._in_hand = threading.Semaphore(MAX_CHUNKS_IN_HAND)
        threads = [
            threading.Thread(target=self._guarded, args=(work, out), name=f"drainer-{name}", daemon=True)
            for name, work, out in (
                ("seal", lambda: self._sealing(until_empty), None),
                ("read", lambda: self._reading(read, until_empty), read),
                ("decode", lambda: self._decoding(read, ready), ready),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            self._writing(ready)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=10)
            for left in [*_emptied(read), *_emptied(ready)]:
                self._give_back(left.chunk)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self.progress

    def drain_until_empty(self) -> Progress:
        """Drain what is there and return; for ``drain --until-empty`` and tests."""
        return self.run(until_empty=True)

    def _guarded(self, work: Callable[[], None], out: queue.Queue[Any] | None) -> None:
        try:
            work()
        except _StoppedError:
            pass
        except BaseException as error:
            self._failure = self._failure or error
            self._stop.set()
        finally:
            if out is not None:
                self._put(out, None)

    # The stages, one thread each

    def _sealing(self, until_empty: bool) -> None:
        """Seal when a batch is full or the oldest item has waited long enough, and what is sealed is nearly used up."""
        tick_s = min(self.settings.flush_interval_s / 5, 0.1)
        since = looked = time.monotonic()
        while not self._stop.is_set() and not self._claims_done.is_set():
            if time.monotonic() - looked > RESTART_LOOK_S:
                self._redis(self.buffer.tidy_after_restart)
                looked = time.monotonic()
            waiting, open_segments = self._redis(lambda: (self.buffer.waiting(), self.buffer.open_segments()))
            self.progress.heartbeat_s = time.monotonic()
            if not waiting:
                since = time.monotonic()
            full = waiting >= self.settings.batch_rows
            late = waiting and time.monotonic() - since >= self.settings.flush_interval_s - tick_s
            if (full or late or (until_empty and waiting)) and open_segments < MAX_OPEN_CHUNKS:
                failpoints.hit("drainer.before_seal")
                segment = self._redis(lambda: self.buffer.seal(self.settings.batch_rows))
                failpoints.hit("drainer.after_seal")
                since = time.monotonic()
                if segment is not None:
                    _log.debug("sealed", segment=segment.name, rows=segment.rows)
            self._stop.wait(HURRIED_PAUSE_S if until_empty else tick_s)

    def _reading(self, out: queue.Queue[_Read | None], until_empty: bool) -> None:
        while not self._stop.is_set():
            if not self._in_hand.acquire(timeout=0.1):
                continue
            chunk = self._redis(self.buffer.claim)
            if chunk is None:
                self._in_hand.release()
                if until_empty and self._redis(self._nothing_left):
                    return
                self._stop.wait(HURRIED_PAUSE_S if until_empty else IDLE_PAUSE_S)
                continue
            failpoints.hit("drainer.after_claim")
            started = time.perf_counter()
            try:
                found = self._redis(lambda chunk=chunk: self.buffer.read_or_recover(chunk))  # type: ignore[misc]
            except LeaseLost as lost:
                self._in_hand.release()
                self._fenced(chunk, lost)
                continue
            if found is None:  # set aside
                self._in_hand.release()
                continue
            chunk, items = found
            failpoints.hit("drainer.after_read")
            if self.settings.durable_seal:
                self._redis(lambda chunk=chunk: self.buffer.make_durable(chunk))  # type: ignore[misc]
            failpoints.hit("drainer.after_durable")
            self.progress.stages.read_s += _took("read", started)
            if not self._put(out, _Read(chunk, items)):
                self._give_back(chunk)

    def _nothing_left(self) -> bool:
        books = self.buffer.books()
        return not books.waiting and not books.in_flight

    def _decoding(self, source: queue.Queue[_Read | None], out: queue.Queue[_Ready | None]) -> None:
        while (work := self._take(source)) is not None:
            started = time.perf_counter()
            ready = self._decode(work.chunk, work.items)
            failpoints.hit("drainer.after_decode")
            self.progress.stages.decode_s += _took("decode", started)
            if not self._put(out, ready):
                self._give_back(work.chunk)

    def _writing(self, source: queue.Queue[_Ready | None]) -> None:
        while (ready := self._take(source)) is not None:
            try:
                self._finish(ready)
            except LeaseLost as lost:
                self._fenced(ready.chunk, lost)
            except _StoppedError:
                # The others in hand would wait for the same neighbour: ``run`` gives them back untried.
                self._give_back(ready.chunk)
                break
            finally:
                self._in_hand.release()
        self._claims_done.set()

    # One chunk

    def finish(self, chunk: Chunk, items: Sequence[bytes], stop: threading.Event | None = None) -> bool:
        """Decode, write, verify and acknowledge one chunk whose items (newest first) are at hand.

        False when ``stop`` was set while a neighbour was waited for.
        """
        self._stop = stop or threading.Event()
        try:
            self._finish(self._decode(chunk, items))
        except _StoppedError:
            return False
        return True

    def _decode(self, chunk: Chunk, items: Sequence[bytes]) -> _Ready:
        positions = np.arange(chunk.last - 1, chunk.first - 1, -1, dtype=np.int64)
        decoded = decode_chunk(items, positions, chunk.sealed_at_ms, self.limits)
        if len(decoded.refusals) > max(MIN_SUSPECT_ROWS, chunk.rows) * self.settings.max_bad_share:
            raise self._mismatch(chunk, decoded.refusals)
        dead = [
            DeadLetter(position, refusal, items[chunk.last - 1 - position]) for position, refusal in decoded.refusals
        ]
        return _Ready.of(chunk, decoded.rows, dead)

    def _mismatch(self, chunk: Chunk, refusals: list[tuple[int, Refusal]]) -> SchemaMismatch:
        self._give_back(chunk)
        first = refusals[0][1]
        return SchemaMismatch(
            f"{len(refusals)} of {chunk.rows} items of segment {chunk.segment} are refused, the first for: "
            f"{first.reason} ({first.detail}); they stay in Redis. If they are really all bad, "
            "raise drainer.max_bad_share and start again"
        )

    def _finish(self, ready: _Ready) -> None:
        """Write, verify, ack; returns when the chunk is done, or raises ``LeaseLost``."""
        started = time.perf_counter()
        ready = self._write(ready)
        failpoints.hit("drainer.before_ack")
        written = time.perf_counter()
        chunk = ready.chunk
        self._pause_s = FIRST_PAUSE_S
        self._recovered()
        counts = {"stored": ready.rows.num_rows, "dead_lettered": ready.dead_lettered}
        record = ledger.record(chunk, ready.tally, **counts)
        self._redis(lambda: self.buffer.ack(chunk, **counts, minutes=ready.tally.minutes, record=record))
        failpoints.hit("drainer.after_ack")
        progress = self.progress
        progress.chunks += 1
        progress.stored += ready.rows.num_rows
        progress.dead_lettered += ready.dead_lettered
        progress.stages.rows += chunk.rows
        progress.stages.write_s += written - started
        STAGE_SECONDS.labels("write").observe(written - started)
        progress.stages.ack_s += _took("ack", written)
        progress.heartbeat_s = time.monotonic()
        _log.debug("drained", segment=chunk.segment, chunk=chunk.number, rows=chunk.rows, refused=ready.dead_lettered)

    def _write(self, ready: _Ready) -> _Ready:
        """Bring the chunk's rows into ClickHouse, each once; returns the chunk as it then stands.

        Where something may be stored already, what is there is read back first and only the missing
        rows are inserted, and then it is read back again: after a crash ClickHouse may know an
        insert's token without having its rows, and would drop the retry without a word.

        Everybody who works on a chunk uses the same tokens in the same order, and the next one only
        when rows are missing although the one before was accepted. So an insert that arrives late (of a
        drainer that slept through its lease, or held up in the network past our patience) comes under a
        token that ClickHouse knows by then, and is dropped.
        """
        chunk = ready.chunk
        doubtful = chunk.doubtful
        accepted = False
        halved = -1
        tokens_spent = 0
        while True:
            try:
                rows, dead = ready.rows, ready.dead
                if doubtful:
                    ready, rows, dead = self._missing(ready)
                    if not rows.num_rows and not dead:
                        return ready
                missing = rows.num_rows + len(dead)
                if accepted or missing == halved:
                    accepted, halved = False, -1
                    tokens_spent += 1
                    if self._stop.wait(SETTLE_S):
                        raise _StoppedError
                    continue
                token = f"{chunk.segment}:{chunk.number}" + (f".{tokens_spent}" if tokens_spent else "")
                refused = self._insert(chunk, rows, dead, token)
                if refused is not None:
                    # ClickHouse does not know a refused token: it is spent only if its halves changed nothing.
                    self._bury_at_fault(chunk, rows, refused, token)
                    halved = missing
                elif doubtful:
                    accepted = True
                else:
                    return ready
                doubtful = True
            except (StoreOutage, StoreRefused) as trouble:
                # In doubt, or at odds with the statement, the table or our rights: no row is to blame.
                self._pause(trouble, chunk)
                doubtful = True

    def _insert(self, chunk: Chunk, rows: pa.Table, dead: list[DeadLetter], token: str) -> StoreRefused | None:
        """Insert, if the lease is still ours; returns the refusal when ClickHouse blames the rows."""
        self._redis(lambda: self.buffer.renew(chunk))
        failpoints.hit("drainer.before_insert")
        if dead:
            self.store.insert(DEAD_LETTERS, as_table(dead, chunk, self.buffer.key), token=token)
            failpoints.hit("drainer.between_inserts")
        if rows.num_rows:
            try:
                self.store.insert("metrics", identified(rows, chunk), token=token)
            except StoreRefused as refused:
                if not rows_at_fault(refused):
                    raise
                return refused
        failpoints.hit("drainer.after_insert")
        return None

    def _missing(self, ready: _Ready) -> tuple[_Ready, pa.Table, list[DeadLetter]]:
        """The chunk with what ClickHouse decided about it before, and the rows and letters that are not there yet."""
        failpoints.hit("drainer.before_verify")
        chunk = ready.chunk
        stored, buried = self._positions("metrics", chunk), self._positions(DEAD_LETTERS, chunk)
        failpoints.hit("drainer.after_verify")
        ready = self._as_decided(ready, stored, buried)
        present = set(buried.tolist())
        dead = [letter for letter in ready.dead if letter.position not in present]
        return ready, self._lacking(ready.rows, stored), dead

    def _as_decided(self, ready: _Ready, stored: Words, buried: Words) -> _Ready:
        """What stands in one table never goes into the other, even if limits or constraints changed since."""
        refused = np.isin(ready.rows["position"].to_numpy(), buried)
        if refused.any():
            rows = ready.rows.filter(pa.array(~refused))
            ready = _Ready.of(ready.chunk, rows, ready.dead, ready.buried + int(refused.sum()))
        accepted = set(stored.tolist()) & {letter.position for letter in ready.dead}
        if accepted:
            as_stored = self.store.query(
                f"SELECT {', '.join(COLUMNS.names)} FROM metrics "
                "WHERE segment = {segment:String} AND position IN {positions:Array(UInt32)}",
                {"segment": ready.chunk.segment, "positions": sorted(accepted)},
            ).cast(COLUMNS)
            rows = pa.concat_tables([ready.rows, as_stored]).unify_dictionaries().combine_chunks()
            dead = [letter for letter in ready.dead if letter.position not in accepted]
            ready = _Ready.of(ready.chunk, rows, dead, ready.buried)
        return ready

    def _lacking(self, rows: pa.Table, stored: Words) -> pa.Table:
        missing = ~np.isin(rows["position"].to_numpy(), stored)
        # What has outlived its retention while it waited here may be gone from the table by right.
        expired_ms = time.time_ns() // 1_000_000 - self.limits.retention_ms - EXPIRY_MARGIN_MS
        missing &= rows["timestamp"].cast(pa.int64()).to_numpy() >= expired_ms
        return rows if missing.all() else rows.filter(pa.array(missing))

    def _positions(self, table: str, chunk: Chunk) -> Words:
        found = self.store.query(
            f"SELECT position FROM {table} WHERE segment = {{segment:String}} "
            "AND position >= {first:UInt32} AND position < {last:UInt32}",
            {"segment": chunk.segment, "first": chunk.first, "last": chunk.last},
        )
        positions: Words = found["position"].to_numpy()
        return positions

    def _bury_at_fault(self, chunk: Chunk, rows: pa.Table, refused: StoreRefused, token: str) -> None:
        """Halve refused rows down to those at fault and bury these; the others are stored on the way.

        Cuts lie at fixed positions, so that every drainer uses the same token for the same range.
        Raises ``SchemaMismatch``, with nothing buried, when most rows are refused.
        """
        fault: list[DeadLetter] = []
        cleared = 0
        ranges = [(chunk.first, chunk.last, refused)]
        while ranges:
            first, last, refused = ranges.pop()
            # A refused insert may have stored some of its partitions.
            rows_here = self._lacking(_between(rows, first, last), self._positions("metrics", chunk))
            if last - first == 1:
                if rows_here.num_rows:
                    fault.append(DeadLetter(first, _refusal(refused), self._payload(chunk, first)))
                continue
            middle = (first + last) // 2
            for low, high in ((first, middle), (middle, last)):
                part = _between(rows_here, low, high)
                if not part.num_rows:
                    continue
                failpoints.hit("drainer.halving")
                again = self._insert(chunk, part, [], f"{token}:{low}-{high}")
                if again is None:
                    cleared += part.num_rows
                else:
                    ranges.append((low, high, again))
            if len(fault) > MAX_BLAMED_ROWS and len(fault) > (len(fault) + cleared) * self.settings.max_bad_share:
                raise self._mismatch(chunk, [(letter.position, letter.refusal) for letter in fault])
        failpoints.hit("drainer.before_burial")
        if fault:
            self._insert(chunk, rows.slice(0, 0), fault, f"{token}:fault")
        failpoints.hit("drainer.after_burial")

    def _payload(self, chunk: Chunk, position: int) -> bytes:
        item: bytes = self._redis(lambda: self.buffer.read_at(chunk, chunk.segment_rows - 1 - position))
        return item

    # Trouble

    def _redis(self, action: Callable[[], Any]) -> Any:
        """Do it; while Redis is away, try again with growing pauses. Only for what is safe to repeat."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                result = action()
            except RedisOutage as outage:
                self._complain(outage, pause_s)
                if self._stop.wait(_jittered(pause_s)):
                    raise _StoppedError from outage
                pause_s = min(pause_s * 2, self.settings.max_retry_pause_s)
            else:
                if pause_s > FIRST_PAUSE_S:
                    self._recovered()
                return result

    _pause_s = FIRST_PAUSE_S

    def _pause(self, trouble: Exception, chunk: Chunk) -> None:
        """Wait for ClickHouse, longer each time, keeping the lease; raises ``LeaseLost`` or ends with the drainer."""
        self._complain(trouble, self._pause_s)
        if self._stop.wait(_jittered(self._pause_s)):
            raise _StoppedError from trouble
        # Half the lease is left for the attempt itself.
        self._pause_s = min(self._pause_s * 2, self.settings.max_retry_pause_s, self.settings.lease_s / 2)
        self._redis(lambda: self.buffer.renew(chunk))

    def _complain(self, trouble: Exception, pause_s: float) -> None:
        self.progress.retries += 1
        first = not self.progress.trouble
        self.progress.trouble = str(trouble)
        self.progress.heartbeat_s = time.monotonic()
        (_log.warning if first else _log.info)("retrying", trouble=str(trouble), pause_s=round(pause_s, 2))

    def _recovered(self) -> None:
        if self.progress.trouble:
            _log.info("recovered", after=self.progress.trouble)
            self.progress.trouble = ""

    def _fenced(self, chunk: Chunk, lost: LeaseLost) -> None:
        self.progress.fenced += 1
        _log.warning("fenced off", segment=chunk.segment, chunk=chunk.number, reason=str(lost))

    def _give_back(self, chunk: Chunk) -> None:
        try:
            self.buffer.release(chunk)
        except (LeaseLost, RedisOutage):
            return  # its lease runs out by itself

    def _put(self, out: queue.Queue[Any], work: object) -> bool:
        """Hand over, unless the drainer ends first."""
        while True:
            try:
                out.put(work, timeout=0.1)
                return True
            except queue.Full:
                if self._stop.is_set():
                    return False

    def _take(self, source: queue.Queue[Any]) -> Any:
        """What comes next; None when the stage before has ended, or the drainer ends."""
        while True:
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                if self._stop.is_set():
                    return None


def _took(stage: str, started_s: float) -> float:
    """Seconds since a stage began, noted for ``/metrics``."""
    seconds = time.perf_counter() - started_s
    STAGE_SECONDS.labels(stage).observe(seconds)
    return seconds


def _clock_ms(store: Store) -> int | None:
    """ClickHouse's clock; None while it cannot be asked."""
    try:
        return int(store.rows("SELECT toUnixTimestamp64Milli(now64(3))")[0][0])
    except PipelineError:
        return None


def _prepare() -> None:
    """Before anything is claimed, whose lease would run meanwhile."""
    started = time.perf_counter()
    prepare()
    seconds = time.perf_counter() - started
    if seconds > COMPILED_S:
        _log.info("compiled the reader of items", seconds=round(seconds, 1))


class _StoppedError(Exception):
    """The drainer is to end while it waits for a neighbour."""


def _between(rows: pa.Table, first: int, last: int) -> pa.Table:
    positions = rows["position"].to_numpy()
    return rows.filter(pa.array((positions >= first) & (positions < last)))


def _refusal(refused: StoreRefused) -> Refusal:
    return Refusal("refused by ClickHouse", str(refused))


def _emptied(work: queue.Queue[Any]) -> list[Any]:
    left = []
    with contextlib.suppress(queue.Empty):
        while True:
            left.append(work.get_nowait())
    return [item for item in left if item is not None]


def _jittered(pause_s: float) -> float:
    """Drainers that lost the same neighbour must not come back in step."""
    return pause_s * random.uniform(0.5, 1.0)


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
