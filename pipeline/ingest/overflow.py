"""What happens when the buffer runs over: the declared rule, carried out and counted.

``refuse`` leaves it to Redis: at ``maxmemory`` producers are told so, and the drainer still drains.
``drop_oldest`` drops what waited longest, counted as ``dropped``. ``spill`` brings chunks to disk and, once
ClickHouse answers again and the buffer is well below its mark, drains them.

When Redis is away there is nothing to guard; when the disk is full, spilling stops with an error in the log
and everything stays in Redis.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pipeline import log
from pipeline.config import BufferSettings
from pipeline.errors import LeaseLost, Outage, SchemaMismatch
from pipeline.ingest.buffer import Buffer
from pipeline.ingest.drainer import Drainer
from pipeline.ingest.spill import Spill, SpillDamaged
from pipeline.redis_link import outages

_log = log.get(__name__)

LOOK_EVERY_S = 0.5
DROP_ROWS = 50_000
"""At most this many items are dropped in one step: LTRIM holds Redis up for as long as it frees."""

LOW_WATER = 0.5
"""Spilled chunks are drained while less than this share of the mark lies in Redis."""

DISK_PAUSE_S = 10.0


@dataclass
class Overflow:
    """Guards one buffer by its rule; ``spill`` is there whenever files may be, whatever the rule is now."""

    buffer: Buffer
    drainer: Drainer
    settings: BufferSettings
    spill: Spill
    trouble: str = ""
    _said: bool = field(default=False)

    def run(self, stop: threading.Event) -> None:
        """Look twice a second until ``stop`` is set."""
        while not stop.is_set():
            try:
                moved = self.step(stop)
                self.trouble = ""
            except Outage as outage:
                moved, self.trouble = 0, str(outage)
            except LeaseLost as lost:
                # Another finished the chunk while it was written to disk; its file is a left-over.
                moved, self.trouble = 0, ""
                _log.info("not spilled", reason=str(lost))
            except SchemaMismatch as mismatch:
                moved, self.trouble = 0, str(mismatch)
                _log.error("draining a spilled file stopped", reason=str(mismatch))
                stop.wait(DISK_PAUSE_S)
            except SpillDamaged as damaged:
                moved, self.trouble = 0, str(damaged)
                _log.error("spilled file cannot be read", reason=str(damaged))
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
        mark = self.settings.high_water_rows
        over = held > mark or self._memory_pct() > self.settings.high_water_memory_pct
        if over != self._said:
            self._said = over
            (_log.warning if over else _log.info)(
                "buffer over its mark" if over else "buffer below its mark", rows=held, rule=self.settings.overflow
            )
        if over and self.settings.overflow == "drop_oldest":
            return self._drop(max(0, mark - books.in_flight))
        if over and self.settings.overflow == "spill":
            return self.spill.spill_one()
        on_disk = books.spilled or self.spill.files()
        if on_disk and held < LOW_WATER * mark and not self.drainer.progress.trouble:
            return self.spill.drain_one(stop)
        return 0

    def _drop(self, keep_rows: int) -> int:
        dropped = self.buffer.drop_oldest(keep_rows, DROP_ROWS)
        if dropped:
            _log.warning("dropped the oldest", rows=dropped)
        return dropped

    def _memory_pct(self) -> float:
        with outages():
            memory = self.buffer.client.info("memory")
        limit = int(memory.get("maxmemory") or 0)
        return 100 * int(memory["used_memory"]) / limit if limit else 0.0
