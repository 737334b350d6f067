"""The drainer: moves chunks from Redis into ClickHouse, each row exactly once.

What happens to a chunk is decided by ``protocol`` and done by ``delivery``; here are the threads. Reading, decoding and
writing overlap, each in a thread of its own, a few chunks apart; one thread seals, one keeps the leases of all
chunks in hand.

When ClickHouse is away, the chunk in hand is tried again for ever, with growing pauses, and nothing new is sealed: the
buffer grows in Redis. When Redis is away, the rows in hand are finished as far as they go; whatever was not
acknowledged is claimed again later. Told to stop, the drainer ends within ``STOP_S``, whatever hangs: a thread that
does not return by then is left behind, and its chunk is in doubt, as after a ``kill -9``.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.base import failpoints, log
from pipeline.base.config import DrainerSettings
from pipeline.base.errors import LeaseLost, PipelineError, RedisOutage
from pipeline.buffer.buffer import Buffer
from pipeline.decode.columns import prepare
from pipeline.deliver import steps, traces
from pipeline.deliver.activity import Activity
from pipeline.deliver.chunk_state import WORKING, Phase, Route
from pipeline.deliver.delivery import Deliverer, Delivery, chunk_token, fetched, mismatch
from pipeline.deliver.stopping import Interrupted, Stop
from pipeline.metric import Limits
from pipeline.store.client import Store

_log = log.get(__name__)

READING = frozenset({Phase.CLAIM, Phase.READ, Phase.SYNC_SEAL})
DECODING = frozenset({Phase.DECODE})
WRITING = frozenset(WORKING) - READING - DECODING
"""Which thread does what; every other phase is the writer's."""

STOP_S = 3.0
"""A drainer has ended this long after the request to stop, whatever its neighbours do."""

GIVE_BACK_S = 0.5
"""Of it, what is kept for giving back chunks whose insert has not begun."""

COMPILED_S = 2.0
"""Loading it from numba's cache takes a tenth of this."""

RESTART_LOOK_S = 1.0
IDLE_PAUSE_S = 0.02
HURRIED_PAUSE_S = 0.004
"""Poll interval with --until-empty."""

MAX_CHUNKS_IN_HAND = 3
"""One is read, one decoded, one written: more would cost memory and gain nothing."""

MAX_OPEN_CHUNKS = 8
"""Sealing stops while this many chunks are sealed and unclaimed: a backlog stays in one piece."""

RENEWALS_PER_LEASE = 4
MAX_STEP_LEASES = 20
"""A step that takes longer than this many leases hangs: its chunk is kept for it no longer, and others may try."""


class Drainer:
    """Drains one buffer. Any number of drainers, in any number of processes, may share it."""

    def __init__(self, buffer: Buffer, store: Store, settings: DrainerSettings, limits: Limits) -> None:
        self.buffer = buffer
        self.store = store
        self.settings = settings
        self.limits = limits
        self._draining: Draining | None = None
        self.activity = Activity()
        self.traces = traces.opened() if settings.traces else None
        buffer.third_clock = lambda: _clock_ms(store)

    def run(self, stop: threading.Event | None = None, *, until_empty: bool = False) -> Activity:
        """Drain until ``stop`` is set, or until buffer and segments are empty.

        Chunks in hand when ``stop`` is set are finished if ClickHouse answers within seconds, else given back.
        Raises ``SchemaMismatch`` when ClickHouse refuses more than ``max_bad_share`` of a chunk row by row; the chunk
        stays in Redis. Bugs raise as they are.
        """
        prepare_reader()
        self._draining = Draining(self, stop or threading.Event(), until_empty=until_empty)
        self._draining.limits = self.limits  # ``accept`` may have come while it was made
        return self._draining.run()

    def accept(self, limits: Limits) -> None:
        """Judge what is decoded from now on by other limits; chunks that were decoded keep their verdicts."""
        self.limits = limits
        if self._draining is not None:
            self._draining.limits = limits

    def drain_until_empty(self) -> Activity:
        """Drain what is there and return; for ``drain --until-empty`` and tests."""
        return self.run(until_empty=True)


class Draining(Deliverer):
    """A drainer at work: its threads, and the chunks that they have in hand."""

    def __init__(self, drainer: Drainer, stop: threading.Event, *, until_empty: bool = False) -> None:
        super().__init__(drainer.buffer, drainer.store, drainer.settings, drainer.limits, drainer.activity, Stop(stop))
        self.buffer = drainer.buffer
        self.traces = drainer.traces
        self.until_empty = until_empty
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        """Set when nothing more will be written."""
        self._slots = threading.Semaphore(MAX_CHUNKS_IN_HAND)
        self._deliveries: dict[int, Delivery] = {}
        self._leases = threading.Lock()
        self._read: queue.Queue[Delivery | None] = queue.Queue(maxsize=1)
        self._ready: queue.Queue[Delivery | None] = queue.Queue(maxsize=1)

    # The main verb

    def run(self) -> Activity:
        """Until told to stop, or until nothing is left."""
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"drainer-{work.__name__}", daemon=True)
            for work in (self.seal, self.read, self.decode, self.write, self.keep_leases)
        ]
        try:
            self.redis(self.buffer.tidy_after_restart)
            self.redis(self.buffer.release_orphans)
        except Interrupted:
            return self.activity
        failpoints.hit("drainer.after_orphans")
        for thread in threads:
            thread.start()
        try:
            while not self._ended.is_set() and not self.stop.is_set():
                self._ended.wait(0.1)
        finally:
            self._end(threads)
        if self._failure is not None:
            raise self._failure
        return self.activity

    def _end(self, threads: list[threading.Thread]) -> None:
        """Wait for the threads, and give back chunks whose insert has not begun; neither takes longer than it may."""
        self.stop.set()
        _join(threads, STOP_S - GIVE_BACK_S)
        left = [*_emptied(self._read), *_emptied(self._ready)]
        if left:
            returning = threading.Thread(target=self._return, args=(left,), name="drainer-return", daemon=True)
            returning.start()
            _join([returning], GIVE_BACK_S)
        if hanging := [thread.name for thread in threads if thread.is_alive()]:
            _log.warning("drainer stopped without an answer", hanging=hanging, buffer=self.buffer.key)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Interrupted:
            pass
        except BaseException as error:
            self._failure = self._failure or error
            self.stop.set()
        finally:
            if work == self.read:
                self._hand_over(self._read, None)
            elif work == self.decode:
                self._hand_over(self._ready, None)
            elif work == self.write:
                self._ended.set()

    # The stages, one thread each

    def seal(self) -> None:
        """Seal when a batch is full or the oldest item has waited long enough, and what is sealed is nearly used up."""
        tick_s = min(self.settings.flush_interval_s / 5, 0.1)
        since = looked = time.monotonic()
        while not self.stop.is_set() and not self._ended.is_set():
            if time.monotonic() - looked > RESTART_LOOK_S:
                self.redis(self.buffer.tidy_after_restart)
                looked = time.monotonic()
            waiting, open_segments = self.redis(lambda: (self.buffer.waiting(), self.buffer.open_segments()))
            self.activity.heartbeat_s = time.monotonic()
            if not waiting:
                since = time.monotonic()
            full = waiting >= self.settings.batch_rows
            late = waiting and time.monotonic() - since >= self.settings.flush_interval_s - tick_s
            if (full or late or (self.until_empty and waiting)) and open_segments < MAX_OPEN_CHUNKS:
                failpoints.hit("drainer.before_seal")
                segment = self.redis(lambda: self.buffer.seal(self.settings.batch_rows))
                failpoints.hit("drainer.after_seal")
                since = time.monotonic()
                if segment is not None:
                    _log.debug("segment sealed", segment=segment.name, rows=segment.rows)
            self.stop.sleep(HURRIED_PAUSE_S if self.until_empty else tick_s)

    def read(self) -> None:
        """Claim chunks and fetch their items."""
        while not self.stop.is_set():
            if not self._slots.acquire(timeout=0.1):
                continue
            delivery = Delivery.start(Route.DRAIN, self.settings.max_bad_share)
            self.advance(delivery, READING)
            if delivery.state.phase is Phase.DECODE:
                if not self._hand_over(self._read, delivery):
                    self._return([delivery])
                continue
            is_idle = delivery.state.phase is Phase.IDLE
            self.advance(delivery, WRITING)  # set aside, or given back
            self._let_go(delivery)
            if is_idle:
                if self.until_empty and self.redis(self.nothing_left):
                    return
                self.stop.sleep(HURRIED_PAUSE_S if self.until_empty else IDLE_PAUSE_S)

    def decode(self) -> None:
        """Items to rows."""
        while (delivery := self._next(self._read)) is not None:
            self.advance(delivery, DECODING)
            if not self._hand_over(self._ready, delivery):
                self._return([delivery])

    def write(self) -> None:
        """Rows into ClickHouse, and the acknowledgement."""
        while (delivery := self._next(self._ready)) is not None:
            started, acked_s = time.perf_counter(), self.activity.stages.ack_s
            try:
                self.advance(delivery, WRITING)
            finally:
                self._let_go(delivery)
            acked_s = self.activity.stages.ack_s - acked_s
            self._took(delivery, "write", time.perf_counter() - started - acked_s)
            if self.traces is not None and delivery.stages and delivery.state.phase is Phase.DELIVERED:
                self.traces.batch(delivery.held, self.buffer.key, delivery.stages)
            if delivery.state.phase is Phase.GIVEN_BACK:
                if delivery.state.reason:
                    raise mismatch(delivery)
                # The others in hand would wait for the same neighbour: they are given back untried.
                break

    def keep_leases(self) -> None:
        """Prolong the lease of every chunk in hand, also while it is read or decoded.

        Leases only avoid duplicate work. Correctness comes from the check before each insert and from the tokens.
        """
        while not self._ended.wait(self.settings.lease_s / RENEWALS_PER_LEASE):
            for delivery in list(self._deliveries.values()):
                if failpoints.is_pausing():
                    break  # a process that sleeps does not prolong anything
                is_hanging = time.monotonic() - delivery.step_since_s > MAX_STEP_LEASES * self.settings.lease_s
                if not is_hanging:
                    self._keep(delivery)

    def _keep(self, delivery: Delivery) -> None:
        with self._leases:
            if id(delivery) not in self._deliveries:
                return
            try:
                self.buffer.renew(delivery.held)
            except LeaseLost:
                delivery.is_lease_lost = True
            except RedisOutage:
                return  # the stages say so

    # Claim and read

    def _do(self, delivery: Delivery, step: steps.Step) -> steps.Event:
        match step:
            case steps.Claim():
                return self._claim(delivery)
            case steps.Read():
                return self._fetch(delivery)
            case steps.SyncSeal():
                return self._sync_seal(delivery)
            case steps.GiveBack():
                self._let_go(delivery, keep_slot=True)
        return super()._do(delivery, step)

    def _claim(self, delivery: Delivery) -> steps.Event:
        chunk = self.redis(self.buffer.claim)
        if chunk is None:
            return steps.Nothing()
        failpoints.hit("drainer.after_claim")
        delivery.chunk = chunk
        with self._leases:
            self._deliveries[id(delivery)] = delivery
        return steps.Claimed(chunk_token(chunk), chunk.first, chunk.last, chunk.doubtful, chunk.lapses)

    def _fetch(self, delivery: Delivery) -> steps.Event:
        started = time.perf_counter()
        found = self.redis(lambda: self.buffer.read_or_recover(delivery.held))
        if found is None:
            self.activity.set_aside += 1
            return steps.Damaged("nothing of it is left to deliver")
        delivery.chunk, delivery.items = found
        failpoints.hit("drainer.after_read")
        self._took(delivery, "read", time.perf_counter() - started)
        return fetched(delivery.held)

    def _sync_seal(self, delivery: Delivery) -> steps.Event:
        started = time.perf_counter()
        if self.settings.durable_seal:
            self.redis(lambda: self.buffer.make_durable(delivery.held))
        failpoints.hit("drainer.after_durable")
        self._took(delivery, "read", time.perf_counter() - started)
        return steps.Done()

    def nothing_left(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        books = self.buffer.books()
        return not books.waiting and not books.in_flight

    # Between the stages

    def _hand_over(self, out: queue.Queue[Any], delivery: Delivery | None) -> bool:
        """Hand over, unless the drainer ends first."""
        while True:
            try:
                out.put(delivery, timeout=0.1)
                return True
            except queue.Full:
                if self.stop.is_set():
                    return False

    def _next(self, chunks: queue.Queue[Delivery | None]) -> Delivery | None:
        """What comes next; None when the stage before has ended, or the drainer ends."""
        while True:
            try:
                return chunks.get(timeout=0.1)
            except queue.Empty:
                if self.stop.is_set():
                    return None

    def _return(self, deliveries: list[Delivery]) -> None:
        """Give back chunks whose insert has not begun."""
        for delivery in deliveries:
            if not delivery.state.is_over:
                delivery.take(steps.ToldToStop())
            self.advance(delivery, WRITING)
            self._let_go(delivery)

    def _let_go(self, delivery: Delivery, *, keep_slot: bool = False) -> None:
        """Its lease is prolonged no more, and another chunk may be taken in hand."""
        with self._leases:
            self._deliveries.pop(id(delivery), None)
        if not keep_slot:
            self._slots.release()


def prepare_reader() -> None:
    """Compile before anything is claimed, whose lease would run meanwhile."""
    started = time.perf_counter()
    prepare()
    seconds = time.perf_counter() - started
    if seconds > COMPILED_S:
        _log.info("item reader compiled", seconds=round(seconds, 1))


def _clock_ms(store: Store) -> int | None:
    """ClickHouse's clock; None while it cannot be asked."""
    try:
        return int(store.rows("SELECT toUnixTimestamp64Milli(now64(3))")[0][0])
    except PipelineError:
        return None


def _join(threads: list[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _emptied(work: queue.Queue[Any]) -> list[Any]:
    left = []
    with contextlib.suppress(queue.Empty):
        while True:
            left.append(work.get_nowait())
    return [item for item in left if item is not None]
