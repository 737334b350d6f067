"""What is done when the buffer passes its high-water mark: the rule in ``buffer.overflow``, carried out and counted.

``refuse`` leaves it to Redis: at ``maxmemory`` Redis refuses producers, and the drainer still drains.
``drop_oldest`` drops the items that waited longest, counted as ``dropped``. ``spill`` writes chunks to disk and drains
them once ClickHouse answers again and the buffer is well below its limit.

Both act on the limits of rows and of memory. The limit of age only raises an alarm, since neither rule makes an item
younger. When other keys fill Redis's memory, nothing is dropped, and nothing is spilled while ClickHouse answers.

When Redis is away, nothing is done. When the disk is full, spilling stops with an error in the log, and all
items stay in Redis.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import redis

from pipeline.base import log
from pipeline.base.config import BufferSettings
from pipeline.base.errors import LeaseLost, Outage, RedisDenied, SchemaMismatch
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.high_water import Fill, fills_of, memory, sealed_age_s, spilled_age_s
from pipeline.deliver.drainer import Drainer
from pipeline.deliver.spill import Spill

_log = log.get(__name__)

LOOK_EVERY_S = 0.5
"""Poll interval."""

DROP_ROWS = 20_000
"""Items dropped in one step at most: LTRIM blocks Redis while it frees memory."""

KEPT_SHARE = 0.1
"""Share of ``buffer.high_water_rows``: as many of the newest items are kept, however many are in flight."""

SLACK_PCT = 1
"""Memory is brought this far below its high-water mark, in percent of Redis's limit."""

SAID_BELOW_PCT = 90
"""Hysteresis: the buffer is reported below a high-water mark again only from here on."""

LOW_WATER = 0.5
"""Spilled chunks are drained while less than this share of ``buffer.high_water_rows`` lies in Redis."""

DISK_PAUSE_S = 10.0
SPILLED_AGE_EVERY_S = 10.0


@dataclass
class Overflow:
    """Guards one buffer by its rule; ``spill`` is there whenever files may be, whatever the rule is now."""

    buffer: Buffer
    drainer: Drainer
    settings: BufferSettings
    spill: Spill
    trouble: str = ""
    _said: set[str] = field(default_factory=set)
    _spilled_age: tuple[float, float] = (0.0, 0.0)
    """When the age of what is spilled was looked up, and what it was."""

    def run(self, stop: threading.Event) -> None:
        """Look twice a second until ``stop`` is set."""
        while not stop.is_set():
            try:
                moved = self.step(stop)
                self.trouble = self.spill.trouble
            except Outage as outage:
                moved, self.trouble = 0, str(outage)
            except LeaseLost as lost:
                # A drainer finished the chunk while it was written to disk; its file is an orphan, removed later.
                moved, self.trouble = 0, ""
                _log.info("chunk not spilled", reason=str(lost))
            except SchemaMismatch as mismatch:
                moved, self.trouble = 0, str(mismatch)
                _log.error("draining a spilled file stopped", reason=str(mismatch))
                stop.wait(DISK_PAUSE_S)
            except OSError as error:
                moved, self.trouble = 0, f"spilling stopped: {error}"
                _log.error("spilling stopped", reason=str(error))
                stop.wait(DISK_PAUSE_S)
            if not moved:
                stop.wait(LOOK_EVERY_S)

    def step(self, stop: threading.Event | None = None) -> int:
        """Do what the rule asks for once; the rows moved, 0 when nothing is to be done."""
        books = self.buffer.books()
        held = books.waiting + books.in_flight
        most_rows = self.settings.high_water_rows
        used, limit = self._memory()
        memory_pct = 100 * used / limit if limit else 0.0
        age_s = self._age_s(books)
        now = {fill.name: fill for fill in fills_of(self.settings, books, age_s, memory_pct)}
        self._tell(now.values())
        over_rows, over_memory = now["rows"].is_passed, now["memory_pct"].is_passed
        # A little more than is needed, or the next look would find it at the limit again.
        excess = used - int(limit * (self.settings.high_water_memory_pct - SLACK_PCT) / 100) if over_memory else 0
        moved = 0
        if self.settings.overflow == "drop_oldest":
            moved = self._drop(books, excess, used)
        elif self.settings.overflow == "spill" and (over_rows or (over_memory and self._spilling_helps(excess, used))):
            moved = self.spill.spill_one()
        if moved:
            return moved
        on_disk = books.spilled or self.spill.files()
        if on_disk and held < LOW_WATER * most_rows and not self.drainer.activity.trouble:
            return self.spill.drain_one(stop)
        return 0

    def _age_s(self, books: Books) -> float:
        age_s = sealed_age_s(books, time.time_ns() // 1_000_000)
        if not books.spilled:
            return age_s
        at, spilled_s = self._spilled_age
        since = time.monotonic() - at
        if not at or since > SPILLED_AGE_EVERY_S:
            spilled_s, since = spilled_age_s(self.buffer, time.time_ns() // 1_000_000), 0.0
            self._spilled_age = (time.monotonic(), spilled_s)
        return max(age_s, spilled_s + since)

    def _tell(self, fills: Iterable[Fill]) -> None:
        """Log each limit once when it is passed, and once when the buffer is well below it again."""
        for fill in fills:
            if fill.is_passed and fill.name not in self._said:
                self._said.add(fill.name)
                rule = self.settings.overflow
                _log.warning(
                    "buffer above its high-water mark",
                    buffer=self.buffer.key,
                    by=fill.name,
                    reason=str(fill),
                    rule=rule,
                )
            elif fill.name in self._said and fill.pct < SAID_BELOW_PCT:
                self._said.remove(fill.name)
                _log.info("buffer below its high-water mark", buffer=self.buffer.key, by=fill.name)

    def _drop(self, books: Books, excess: int, used: int) -> int:
        """Drop what exceeds ``buffer.high_water_rows``, or what frees ``excess`` bytes if that much waits."""
        most = self.settings.high_water_rows
        keep = max(int(most * KEPT_SHARE), most - books.in_flight)
        if excess > 0 and books.waiting:
            waiting_bytes = self._memory_of_items(used, with_sealed=False)
            if excess <= waiting_bytes:
                keep = min(keep, books.waiting - math.ceil(books.waiting * excess / waiting_bytes))
        if keep >= books.waiting:
            return 0
        dropped = self.buffer.drop_oldest(keep, DROP_ROWS)
        if dropped:
            _log.warning(
                "dropped the oldest items: buffer over its high-water mark", buffer=self.buffer.key, rows=dropped
            )
        return dropped

    def _spilling_helps(self, excess: int, used: int) -> bool:
        """While ClickHouse is away, always; else only if what is to be stored is what fills Redis."""
        if self.drainer.activity.trouble:
            return True
        return excess <= self._memory_of_items(used, with_sealed=True)

    def _memory_of_items(self, used: int, *, with_sealed: bool) -> int:
        """All used memory where the ACL forbids MEMORY USAGE."""
        try:
            return self.buffer.memory_of_items(with_sealed=with_sealed)
        except (RedisDenied, redis.ResponseError):
            return used

    def _memory(self) -> tuple[int, int]:
        return memory(self.buffer.memory_info())
