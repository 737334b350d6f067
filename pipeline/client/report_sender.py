"""Moves the batches of a report to the buffer, each together with its digest, in one script.

So a batch is in the buffer exactly when its digest is in Redis: after a kill, a lost reply, or when the same report is
pushed again, a batch that moved is not moved again. Digests are kept for ``DIGEST_TTL_S``. While Redis is away this
waits and tells ``on_trouble`` at once; after ``patience_s`` of it, it gives up with an ``Outage``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import redis

from pipeline.base import keys
from pipeline.base.backoff import Backoff
from pipeline.base.errors import Outage
from pipeline.base.redis_link import RedisLink, outages
from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.client.report_files import ReportBatch

DIGEST_TTL_S = 45 * 86_400
"""Longer than the retention by default: what was pushed longer ago is refused as too old."""

Result = TypeVar("Result")

_BACKOFF = Backoff(0.1, 5.0)
_POLL_S = 0.2

# KEYS: buffer, digest   ARGV: life of the digest in seconds, items. The push comes first: where it is refused (a full
# Redis, a key of another kind) nothing has happened.
_PUSH_BATCH = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('LPUSH', KEYS[1], unpack(ARGV, 2))
redis.call('SET', KEYS[2], #ARGV - 1, 'EX', ARGV[1])
return 1
"""


@dataclass
class Sender:
    """Pushes to one buffer."""

    link: RedisLink
    buffer: str
    patience_s: float
    on_trouble: Callable[[str], None]

    def send(self, batch: ReportBatch) -> int:
        """Move what is missing of a batch; how many items that was."""
        if not batch.items:
            return 0
        return self._patiently(lambda: self._send(batch))

    def _send(self, batch: ReportBatch) -> int:
        client = self.link.database("metrics")
        items = batch.items[self._moved_before(client, batch) :]
        if not items:
            return 0
        key = keys.BufferKeys(self.buffer).report(batch.digest)
        moved = client.eval(_PUSH_BATCH, 2, self.buffer, key, DIGEST_TTL_S, *items)
        return len(items) if moved else 0

    def _moved_before(self, client: redis.Redis, batch: ReportBatch) -> int:
        """How many items of an NDJSON batch moved when its file was shorter."""
        if len(batch.prefixes) < 2:
            return 0
        names = [keys.BufferKeys(self.buffer).report(prefix) for prefix in batch.prefixes]
        known = client.mget(names)
        return max((place for place, found in enumerate(known, 1) if found), default=0)

    def _patiently(self, act: Callable[[], Result]) -> Result:
        started = time.monotonic()
        failures = 0
        while True:
            try:
                with outages():
                    return act()
            except Outage as error:
                failures += 1
                pause_s = _BACKOFF.pause_s(failures)
                if time.monotonic() - started + pause_s > self.patience_s:
                    raise
                self.on_trouble(str(error))
                time.sleep(pause_s)


@dataclass(frozen=True)
class Waited:
    """How a wait for the store ended."""

    stored: bool
    dead_lettered: int
    """How many dead letters the buffer got meanwhile, from any sender."""
    missing: str = ""
    """Why it ended before."""


def wait_until_stored(buffer: Buffer, timeout_s: float, on_trouble: Callable[[str], None]) -> Waited:
    """Wait until everything that is in the buffer now was acknowledged: stored, or among the dead letters.

    The next seal takes all of it at once; from then on it is in the segments that exist, until they are gone.
    """
    deadline = time.monotonic() + timeout_s
    start = buffer.books()
    goal = start.sealed + start.waiting
    segments: set[str] | None = None
    told = False
    while True:
        books = buffer.books()
        if segments is None and books.sealed >= goal:
            segments = buffer.unfinished_segments()
        elif segments is not None and not segments & buffer.unfinished_segments() and books.spilled <= start.spilled:
            return _waited(start, books)
        if time.monotonic() > deadline:
            return Waited(False, books.dead_lettered - start.dead_lettered, f"not stored after {timeout_s:g} s")
        if not told and books.sealed == start.sealed and time.monotonic() > deadline - timeout_s + 5:
            on_trouble("nothing drains the buffer; is `pipeline run` running?")
            told = True
        time.sleep(_POLL_S)


def _waited(start: Books, now: Books) -> Waited:
    lost = now.dropped + now.lost + now.set_aside - start.dropped - start.lost - start.set_aside
    missing = f"{lost} items of the buffer were dropped, lost or set aside meanwhile" if lost else ""
    return Waited(not lost, now.dead_lettered - start.dead_lettered, missing)
