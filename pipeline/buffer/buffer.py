"""The buffer: seal, claim, read, ack; everything that moves items inside Redis.

Promises. Sealing renames the whole list to an immutable segment under a name that was
never used before; producers are not held up. A segment is cut into chunks whose
boundaries never change; a chunk is leased, read as often as needed, and removed only by
an ack whose lease still holds. What a lease protects is efficiency; safety comes from
the rows' identity (segment, position) and from reading back what is in doubt.

When Redis is away every method raises ``RedisOutage`` and has changed nothing, or has
changed it as a whole: a seal or a claim whose reply was lost is found again (an open
segment, an expired lease), an ack whose reply was lost is answered ``LeaseLost``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from pipeline.base import log
from pipeline.base.config import Settings
from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import RedisLink, outages
from pipeline.buffer import scripts
from pipeline.buffer.books import Books
from pipeline.buffer.damage import ClocksDisagree, Extent, KeyDamaged, Look, SegmentDamaged, damage_in, extent
from pipeline.buffer.redis_disk import RedisDisk
from pipeline.metric import DECODER_VERSION

if TYPE_CHECKING:
    from pipeline.decode.items import Items

_log = log.get(__name__)

MINUTES_PER_ACK = 250
"""More touched minutes than this are noted in calls of their own, so that no ack holds Redis up."""

MAX_CHUNK_BYTES = 64 << 20
"""Items that are larger than usual make chunks of fewer rows: a drainer holds three chunks, each some times over."""

TRIM_STEPS = 10
"""A chunk is freed in so many steps: each took 0.4 ms at 100,000 rows of 143 bytes."""

MAX_CLOCK_DIFFERENCE_MS = 60_000
"""Redis's clock may differ from this machine's by this much; beyond, sealing asks a third clock, or waits."""

LONGEST_LEASE_MS = 600_000
"""A lease that ends later than this (or ten lease times) from now was taken while Redis ran ahead: it is over."""

MEND_ATTEMPTS = 3
EXTRA_PER_STEP = 500

COPY_STEPS = 400
"""A chunk is copied aside in this many steps: copying 1,000 items in one script holds Redis up for 4 ms."""

_SCRIPTS = (
    *("seal", "claim", "renew", "look", "return_extra", "touch", "ack", "trim", "spill", "unspill", "is_spilled"),
    *(
        "copy_aside",
        "set_aside",
        "set_aside_rest",
        "close_aside",
        "mend",
        "drop_oldest",
        "forget",
        "drop_acked",
        "mark",
        "books",
        "push_once",
    ),
)


@dataclass(frozen=True)
class Segment:
    """A sealed piece of the buffer."""

    name: str
    rows: int
    sealed_at_ms: int


@dataclass(frozen=True)
class Chunk:
    """A leased part of a segment: positions ``first`` to ``last - 1``, the oldest item at position 0."""

    segment: str
    number: int
    first: int
    last: int
    segment_rows: int
    chunk_rows: int
    sealed_at_ms: int
    attempts: int
    doubtful: bool
    """Whether some of its rows may be stored already: it was tried before, or Redis restarted since sealing."""
    gone: int = 0
    """Rows at its ends that were removed from the segment's list; they are counted as lost when it is done."""
    why_gone: str = ""
    lapses: int = 0
    """How often whoever held it died, before anybody began to insert it."""

    @property
    def rows(self) -> int:
        """Items in the chunk."""
        return self.last - self.first


@dataclass
class Buffer:
    """One buffer list and its siblings. Any number of processes may hold one over the same key."""

    client: Any
    """A ``redis.Redis`` that answers in bytes and never resends (its stubs describe text and bytes at once)."""

    key: str = "metrics:buffer"
    page_rows: int = 5_000
    lease_s: float = 60.0
    aof_dir: Path | None = None
    """Where the Redis server keeps its append-only file, when that is a directory of ours."""
    third_clock: Callable[[], int | None] | None = None
    """Tells ClickHouse's time in ms, None when it cannot; asked when Redis's clock and this machine's disagree."""

    keys: BufferKeys = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.keys = BufferKeys(self.key)
        self.token = f"{_process_name(os.getpid())}/{secrets.token_hex(8)}"
        self._scripts = {name: self.client.register_script(scripts.load(name)) for name in _SCRIPTS}
        self._durable: dict[str, bool] = {}
        self._disk = RedisDisk(self.client, self.aof_dir)

    # Seal

    def waiting(self) -> int:
        """Items in the buffer that are not sealed yet."""
        with self._typed(self.key):
            return int(self.client.llen(self.key))

    def oldest_waiting(self) -> bytes | None:
        """The item that has waited longest, not sealed yet."""
        with self._typed(self.key):
            item: bytes | None = self.client.lindex(self.key, -1)
        return item

    def push_once(self, items: list[bytes], marker: str, digest: str, answer: str, ttl_s: int) -> tuple[str, str]:
        """Push items as a producer does, and with a ``marker`` only once within ``ttl_s``.

        Returns ("pushed", ``answer``), ("repeated", the answer of the first time), or ("other", "") when the marker
        came with another digest before. Raises ``RedisOutage``.
        """
        name = f"{self.keys.scratch.rpartition(':')[0]}:pushed:{marker}"
        keys = [self.key, *([name] if marker else [])]
        state, *first = self._run("push_once", keys, [digest, answer, ttl_s, *items])
        return state.decode(), first[0].decode() if first else ""

    def peek(self, count: int) -> list[bytes]:
        """The newest items that wait, at most ``count``; consumes nothing."""
        with self._typed(self.key):
            items: list[bytes] = self.client.lrange(self.key, 0, count - 1)
        return items

    def seal(self, chunk_rows: int) -> Segment | None:
        """Turn all that waits into one segment, cut into chunks of ``chunk_rows``; None when nothing waits.

        Chunks that would take more than about ``MAX_CHUNK_BYTES`` get fewer rows. The sealing time decides whether a
        timestamp is too old or too far ahead. It is Redis's clock while that agrees with this machine's; otherwise
        this machine's when ClickHouse confirms it. Raises ``ClocksDisagree`` while nothing confirms either.
        """
        # Time-ordered for people, random for safety: a counter could be rewound by a power cut and
        # give the same name to other rows. The version tells how its items are decoded, for the audit.
        name = f"{int(time.time()):x}-{secrets.token_hex(8)}.{DECODER_VERSION}"
        rows, sealed_at_ms = self._seal(name, chunk_rows, confirmed=False)
        if rows < 0:
            self._confirm_clock(sealed_at_ms)
            rows, sealed_at_ms = self._seal(name, chunk_rows, confirmed=True)
        return Segment(name, rows, sealed_at_ms) if rows else None

    def _seal(self, name: str, chunk_rows: int, *, confirmed: bool) -> tuple[int, int]:
        keys = self.keys
        rows, sealed_at_ms = self._run(
            "seal",
            [keys.buffer, keys.segment(name), keys.segments, keys.sealed, keys.ledger, keys.scratch],
            [name, chunk_rows, MAX_CHUNK_BYTES, _now_ms(), MAX_CLOCK_DIFFERENCE_MS, int(confirmed)],
        )
        return int(rows), int(sealed_at_ms)

    def _confirm_clock(self, redis_ms: int) -> None:
        """Return when a third clock, that of ClickHouse, says that this machine's is right and Redis's is not.

        Raises ``ClocksDisagree`` while it is not known which of the two is right.
        """
        own_ms = _now_ms()
        third_ms = self.third_clock() if self.third_clock is not None else None
        if third_ms is None or abs(third_ms - own_ms) > MAX_CLOCK_DIFFERENCE_MS:
            raise ClocksDisagree(redis_ms - own_ms)

    def make_durable(self, chunk: Chunk) -> None:
        """Return once the seal of the chunk's segment is on Redis's disk, as far as its configuration allows.

        Without this a power cut could undo the seal after its rows were inserted; the items would
        be sealed again under another name and stored twice.
        """
        if self._durable.get(chunk.segment):
            return
        with outages():
            meta = self.keys.meta(chunk.segment)
            self._disk.wait(lambda run: self._sealed_at_ms(meta, run))
        if len(self._durable) > 10_000:
            self._durable.clear()
        self._durable[chunk.segment] = True

    def _sealed_at_ms(self, meta: str, run: str) -> int:
        """When this run of the server wrote the last of a seal, by its own clock."""
        sealed_in, written_at_ms = self.client.hmget(meta, "run", "written_at")
        if sealed_in != run.encode() or not (written_at_ms or b"").isdigit():
            return self._write_now()
        return int(written_at_ms)

    def wait_for_disk(self) -> None:
        """Return once all that was written before the call is on Redis's disk, as far as its configuration allows."""
        with outages():
            self._disk.wait(lambda _run: self._write_now())

    def tidy_after_restart(self) -> None:
        """See ``RedisDisk.tidy_after_restart`` and ``mend``; cheap enough to be called every second."""
        self.mend()
        with outages():
            self._disk.tidy_after_restart(self.keys.checkpoints)

    def mend(self) -> None:
        """Restore those of the buffer's own keys that another program damaged, each from its second copy.

        What cannot be restored is noted for a person (``pipeline segments ls``). Raises ``RedisOutage``.
        """
        keys = self.keys
        done = self._run(
            "mend",
            [
                *(keys.segments, keys.sealed, keys.ledger, keys.dirty, keys.acked, keys.spilled, keys.marks),
                *(keys.set_aside, keys.scratch, keys.checkpoints),
            ],
            [keys.segment(""), keys.aside("")],
        )
        for sentence in done:
            _log.error("damaged key mended", buffer=self.key, what=sentence.decode("utf-8", "backslashreplace"))

    # Claim

    def claim(self) -> Chunk | None:
        """Lease the next chunk, or one whose lease ran out; None when there is none."""
        lease_ms = int(self.lease_s * 1000)
        for _ in range(MEND_ATTEMPTS):
            found = self._run(
                "claim",
                [self.keys.segments, self.keys.sealed, self.keys.scratch],
                [self.keys.segment(""), self.token, lease_ms, max(LONGEST_LEASE_MS, 10 * lease_ms)],
            )
            if not found:
                return None
            if found[0] != b"damaged":
                break
            self.mend()
        else:
            raise KeyDamaged(self.keys.segment(found[1].decode("utf-8", "backslashreplace")), "junk", "a segment")
        name, number, rows, chunk_rows, sealed_at, attempts, same_run, lapses = found
        first = int(number) * int(chunk_rows)
        return Chunk(
            segment=name.decode(),
            number=int(number),
            first=first,
            last=min(first + int(chunk_rows), int(rows)),
            segment_rows=int(rows),
            chunk_rows=int(chunk_rows),
            sealed_at_ms=int(sealed_at),
            attempts=int(attempts),
            doubtful=int(attempts) > 1 or not int(same_run),
            lapses=int(lapses),
        )

    def renew(self, chunk: Chunk, *, before_insert: bool = False) -> None:
        """Prolong the lease; raises ``LeaseLost`` when another drainer has the chunk by now.

        ``before_insert``: the chunk could be read, and is not blamed any more if whoever holds it dies.
        """
        self._set_lease(chunk, int(self.lease_s * 1000), begun=before_insert)

    def release(self, chunk: Chunk) -> None:
        """Give a chunk back at once; what was stored of it is verified by whoever claims it next."""
        self._set_lease(chunk, 0)

    def release_orphans(self) -> int:
        """Give back the chunks of processes of this machine that died; the number of them.

        Saves the restart after a crash from waiting until the leases run out.
        """
        released = 0
        with self._typed(self.keys.segments):
            names: list[bytes] = self.client.zrange(self.keys.segments, 0, 99)
        for name in names:
            key = self.keys.leases(_text(name))
            with self._typed(key):
                leases: dict[bytes, bytes] = self.client.hgetall(key)
            for number, lease in leases.items():
                token, _, held = _text(lease).partition(" ")
                if _is_orphan(token) and not held.startswith(("0 ", "1 ")):
                    keys = [key, self.keys.scratch, self.keys.meta(_text(name))]
                    released += int(self._run("renew", keys, [number, token, -1, 0]))
        return released

    def read(self, chunk: Chunk) -> Items:
        """The chunk's items from the newest to the oldest: positions ``last - 1`` down to ``first``.

        Positions count from the list's tail, which acks trim; indexes from the head never move.
        Pages are read one by one: a pipeline of them would hold Redis up for its whole length.
        Raises ``LeaseLost`` when the chunk is finished, ``SegmentDamaged`` when items of it were removed.
        """
        found = self._extent(chunk)
        self._demand(chunk, found)
        head = found.head_index + found.last - chunk.last
        with outages():
            from pipeline.decode.items import fetch  # a compiler; those who only push never come here

            items = fetch(self.client, self.keys.segment(chunk.segment), head, chunk.rows, self.page_rows)
        # Whoever changed the list meanwhile may have changed what these indexes meant.
        again = self._extent(chunk)
        self._demand(chunk, again)
        if len(items) != chunk.rows or again.head_index + again.last != found.head_index + found.last:
            return self.read(chunk)
        return items

    def read_or_recover(self, chunk: Chunk) -> tuple[Chunk, Items] | None:
        """The chunk's items; of a damaged segment what is provably left of them, as a smaller chunk.

        None when nothing of it can be delivered; then the chunk, and where nothing is provable its whole segment, is
        set aside. Raises ``LeaseLost`` when another drainer has the chunk by now.
        """
        for _ in range(MEND_ATTEMPTS):
            try:
                return chunk, self.read(chunk)
            except SegmentDamaged as damaged:
                left = self._left(chunk, damaged)
                if left is None:
                    return None
                chunk = left
        raise LeaseLost(f"segment {chunk.segment} is being changed by another program")

    def read_at(self, chunk: Chunk, index: int) -> bytes:
        """One item of the chunk by its index from the head of the segment. Raises as ``read`` does."""
        found = self._extent(chunk)
        self._demand(chunk, found)
        shift = found.head_index - (chunk.segment_rows - found.last)
        with outages():
            item: bytes | None = self.client.lindex(self.keys.segment(chunk.segment), index + shift)
        if item is None:
            raise LeaseLost(f"segment {chunk.segment} is finished")
        return item

    def _extent(self, chunk: Chunk) -> Extent:
        """What is there of the chunk's segment; items that do not belong to it are moved to the buffer first."""
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.segments, keys.sealed]
        while True:
            looked = self._run("look", names, [chunk.segment])
            if not looked:
                raise LeaseLost(f"segment {chunk.segment} is finished")
            kind, length, freed, *right = looked
            found = extent(Look(kind.decode(), int(length), int(freed), *map(bool, right)), chunk.segment_rows)
            if not (found.extra_newer or found.extra_older) or not self._return_extra(chunk):
                return found

    def _demand(self, chunk: Chunk, found: Extent) -> None:
        if chunk.first >= found.first and chunk.last <= found.last:
            return
        if not found.why:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is finished")
        raise SegmentDamaged(chunk.segment, found)

    def _return_extra(self, chunk: Chunk) -> int:
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.sealed, keys.buffer, keys.scratch]
        moved = int(self._run("return_extra", names, [chunk.segment, EXTRA_PER_STEP]))
        _log.warning("items pushed onto a segment were moved to the buffer", segment=chunk.segment, rows=moved)
        return moved

    def _left(self, chunk: Chunk, damaged: SegmentDamaged) -> Chunk | None:
        """The part of the chunk that is provably there; None after what cannot be delivered was set aside."""
        first, last = max(chunk.first, damaged.extent.first), min(chunk.last, damaged.extent.last)
        if first < last:
            gone = chunk.gone + chunk.rows - (last - first)
            return replace(
                chunk,
                first=first,
                last=last,
                doubtful=True,
                gone=gone,
                why_gone=self._record(chunk, damaged.extent.why, chunk.first),
            )
        if damaged.extent.is_proved:
            self.set_aside(chunk, damaged.extent.why)
        else:
            self._set_rest_aside(chunk, damaged.extent.why)
        return None

    # Ack

    def ack(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str = "") -> None:
        """Acknowledge a chunk whose rows all stand in ClickHouse.

        ``minutes`` are the minutes (epoch seconds) its rows touched; ``record`` goes to the ledger table.
        Raises ``LeaseLost`` when somebody else has the chunk by now, or has finished it; also when the chunk was
        not read back and Redis restarted since it was claimed: a power cut may have undone another's attempt, and
        with it what would have made the chunk doubtful. It is given back then.
        """
        keys = self.keys
        self._touch(minutes[MINUTES_PER_ACK:])
        done = self._run(
            "ack",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.dirty, keys.ledger, keys.acked, keys.scratch),
            ],
            [
                *(chunk.segment, chunk.number, self._lease(chunk), stored, dead_lettered, record),
                *(int(chunk.doubtful), chunk.gone, chunk.why_gone, *minutes[:MINUTES_PER_ACK]),
            ],
        )
        self._done(chunk, done)

    def _done(self, chunk: Chunk, done: int) -> None:
        if not done:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is held by another drainer")
        self._trim(chunk)

    # Overflow

    def spill(self, chunk: Chunk) -> None:
        """Let go of a chunk whose items lie in a file; raises ``LeaseLost`` when somebody else has it by now."""
        keys = self.keys
        done = self._run(
            "spill",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.spilled, keys.ledger, keys.scratch),
            ],
            [chunk.segment, chunk.number, self._lease(chunk), chunk.rows, chunk.gone, chunk.why_gone],
        )
        self._done(chunk, done)

    def unspill(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str) -> bool:
        """Acknowledge a spilled chunk whose rows all stand in ClickHouse; False when that was done before."""
        keys = self.keys
        self._touch(minutes[MINUTES_PER_ACK:])
        return bool(
            self._run(
                "unspill",
                [keys.spilled, keys.dirty, keys.ledger, keys.acked, keys.scratch],
                [chunk_name(chunk), chunk.rows, stored, dead_lettered, record, *minutes[:MINUTES_PER_ACK]],
            )
        )

    def is_spilled(self, chunk: Chunk) -> bool:
        """Whether the file of this chunk is what counts; a file that is not registered is a left-over."""
        keys = self.keys
        names = [keys.spilled, keys.segments, keys.ledger, keys.scratch]
        return bool(self._run("is_spilled", names, [chunk_name(chunk), chunk.rows, chunk.segment]))

    def drop_oldest(self, keep_rows: int, most: int) -> int:
        """Drop the oldest waiting items beyond ``keep_rows``, at most ``most``; counted as sealed and dropped."""
        return int(self._run("drop_oldest", [self.keys.buffer, self.keys.ledger, self.keys.scratch], [keep_rows, most]))

    # Set aside

    def set_aside(self, chunk: Chunk, reason: str) -> None:
        """Take a leased chunk out of delivery: it waits for a person, and no drainer is given it again.

        Its items move to a list of their own, so that the rest of the segment can be freed. What is no longer
        there of them is counted as lost. A crash in between leaves a leased chunk, and the copy is made afresh.
        Raises ``LeaseLost`` when another drainer has the chunk by now.
        """
        keys = self.keys
        first = self._copy_aside(chunk)
        done = self._run(
            "set_aside",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.ledger, keys.aside(chunk_name(chunk)), keys.scratch),
            ],
            [chunk.segment, chunk.number, self._lease(chunk), self._record(chunk, reason, first)],
        )
        self._done(chunk, done)
        _log.error("chunk set aside", segment=chunk.segment, chunk=chunk.number, rows=chunk.rows, reason=reason)

    def _copy_aside(self, chunk: Chunk) -> int:
        """Copy what is there of the chunk; the position of the oldest item copied."""
        found = self._extent(chunk)
        first, last = max(chunk.first, found.first), min(chunk.last, found.last)
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.aside(chunk_name(chunk)), keys.scratch]
        # An empty range starts the copy afresh and leaves it empty.
        ranges = [(-1, -2)] if first >= last else _pages(found.head_index + found.last - last, last - first)
        for number, (begin, end) in enumerate(ranges):
            if self._run("copy_aside", names, [chunk.number, self._lease(chunk), begin, end, int(number == 0)]) < 0:
                raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is held by another drainer")

        return first

    def _set_rest_aside(self, chunk: Chunk, why: str) -> None:
        """Set aside every chunk of the segment that nobody holds."""
        keys = self.keys
        record = json.dumps({"reason": why, "unproved": True, "sealed_at_ms": chunk.sealed_at_ms})
        kept, lost = self._run(
            "set_aside_rest",
            [
                *(keys.segments, keys.segment(chunk.segment), keys.sealed, keys.set_aside),
                *(keys.ledger, keys.aside(chunk.segment), keys.scratch),
            ],
            [chunk.segment, chunk.number, self._lease(chunk), record],
        )
        _log.error("segment set aside", segment=chunk.segment, kept=int(kept), lost=int(lost), reason=why)

    @staticmethod
    def _record(chunk: Chunk, reason: str, first: int) -> str:
        known = {
            "first": first,
            "last": chunk.last,
            "sealed_at_ms": chunk.sealed_at_ms,
            "attempts": chunk.attempts,
        }
        return json.dumps({"reason": reason, **known}, ensure_ascii=False)

    # What is kept beside the items

    def books(self) -> Books:
        """The ledger, all figures of one instant."""
        waiting, in_flight, segments, oldest, counted = self._run(
            "books",
            [self.keys.buffer, self.keys.segments, self.keys.sealed, self.keys.ledger],
            [self.keys.segment("")],
        )
        sealed, stored, dead_lettered, spilled, dropped, lost, set_aside = (int(value or 0) for value in counted)
        return Books(
            waiting=int(waiting),
            sealed=sealed,
            in_flight=int(in_flight),
            stored=stored,
            dead_lettered=dead_lettered,
            spilled=spilled,
            dropped=dropped,
            lost=lost,
            set_aside=set_aside,
            segments=int(segments),
            oldest_sealed_at_ms=int(oldest),
        )

    def dirty_minutes(self) -> dict[int, int]:
        """Minutes (epoch seconds) touched by acknowledged chunks, each with the number of its last touch."""
        with self._typed(self.keys.dirty):
            found: dict[bytes, bytes] = self.client.hgetall(self.keys.dirty)
        # What is not a minute was written by another program.
        return {int(minute): int(touch) for minute, touch in found.items() if minute.isdigit() and touch.isdigit()}

    def forget_minutes(self, seen: Mapping[int, int]) -> None:
        """Forget minutes whose counter is still as seen; one touched meanwhile stays."""
        pairs = [(minute, counter) for minute, counter in seen.items()]
        for start in range(0, len(pairs), MINUTES_PER_ACK):
            flat = [value for pair in pairs[start : start + MINUTES_PER_ACK] for value in pair]
            self._run("forget", [self.keys.dirty, self.keys.scratch], flat)

    def acked_records(self, most: int) -> list[bytes]:
        """The records of the oldest acknowledged chunks that are not in the ledger table yet, the newest first."""
        with self._typed(self.keys.acked):
            records: list[bytes] = self.client.lrange(self.keys.acked, -most, -1)
        return records

    def acked_count(self) -> int:
        """How many records of acknowledged chunks are not in the ledger table yet."""
        with self._typed(self.keys.acked):
            return int(self.client.llen(self.keys.acked))

    def drop_acked(self, records: list[bytes]) -> None:
        """Remove ``records``, the oldest of the acknowledged chunks, unless that happened before."""
        self._run("drop_acked", [self.keys.acked, self.keys.scratch], [records[-1], len(records)])

    def mark_dead_letter(self, name: str, mark: str, now_ms: int, payload: bytes = b"") -> bool:
        """Mark a dead letter and push its payload again (when given), both or neither; False if marked before."""
        keys = [self.keys.marks, self.keys.buffer]
        return bool(self._run("mark", keys, [name, f"{mark} {now_ms}", payload]))

    def dead_letter_marks(self) -> dict[bytes, bytes]:
        """Marks that are not in the table ``dead_letter_marks`` yet: the letter's name, the mark and its time."""
        with self._typed(self.keys.marks):
            marks: dict[bytes, bytes] = self.client.hgetall(self.keys.marks)
        return marks

    def forget_marks(self, names: Iterable[bytes]) -> None:
        """Remove marks that stand in the table."""
        with self._typed(self.keys.marks):
            self.client.hdel(self.keys.marks, *names)

    def checkpoint(self, name: str) -> str | None:
        """The text saved under ``name``; None when there is none."""
        with self._typed(self.keys.checkpoints):
            saved: bytes | None = self.client.hget(self.keys.checkpoints, name)
        return None if saved is None else saved.decode()

    def save_checkpoint(self, name: str, text: str) -> None:
        """Keep ``text`` under ``name`` until it is saved again."""
        with self._typed(self.keys.checkpoints):
            self.client.hset(self.keys.checkpoints, name, text)

    def now_ms(self) -> int:
        """The time by Redis's clock."""
        with outages():
            return self._disk.now_ms()

    def memory_info(self) -> dict[str, Any]:
        """``INFO memory`` of the Redis that holds the buffer."""
        with outages():
            info: dict[str, Any] = self.client.info("memory")
        return info

    def memory_of_items(self, *, with_sealed: bool) -> int:
        """Bytes that waiting items take in Redis, and sealed ones too; estimated from samples (``MEMORY USAGE``)."""
        names: list[bytes] = []
        if with_sealed:
            with self._typed(self.keys.segments):
                names = self.client.zrange(self.keys.segments, 0, -1)
        with outages():
            keys = [self.key, *(self.keys.segment(_text(name)) for name in names)]
            return sum(int(self.client.memory_usage(key) or 0) for key in keys)

    def spilled_names(self) -> Iterator[bytes]:
        """The names of the chunks that lie in files, in no order."""
        with self._typed(self.keys.spilled):
            yield from (name for name, _ in self.client.hscan_iter(self.keys.spilled, count=500))

    def unfinished_segments(self) -> set[str]:
        """Segments of which some chunk is not acknowledged: open, or spilled or set aside in part."""
        with self._typed(self.keys.segments, self.keys.spilled, self.keys.set_aside):
            names = {_text(name) for name in self.client.zrange(self.keys.segments, 0, -1)}
            away = [*self.client.hkeys(self.keys.spilled), *self.client.hkeys(self.keys.set_aside)]
            return names | {_text(name).partition(":")[0] for name in away}

    def open_segments(self) -> int:
        """Sealed segments that are not wholly acknowledged."""
        with self._typed(self.keys.segments):
            return int(self.client.zcard(self.keys.segments))

    def set_aside_names(self) -> list[str]:
        """What waits for a person: the names that ``pipeline segments`` takes. Raises ``RedisOutage``."""
        with self._typed(self.keys.set_aside):
            return sorted(_text(name) for name in self.client.hkeys(self.keys.set_aside))

    def set_aside_records(self) -> dict[bytes, bytes]:
        """The records of what is set aside, as they stand in Redis; see ``set_aside.records``."""
        with self._typed(self.keys.set_aside):
            found: dict[bytes, bytes] = self.client.hgetall(self.keys.set_aside)
        return found

    def aside_length(self, name: str) -> int:
        """Items that are kept under this name; 0 where the key was overwritten."""
        with outages():
            key = self.keys.aside(name)
            return int(self.client.llen(key)) if self.client.type(key) == b"list" else 0

    def aside_items(self, name: str, begin: int, count: int) -> list[bytes]:
        """Items that are kept under this name, from the oldest on."""
        if count < 1 or not self.aside_length(name):
            return []
        with outages():
            items: list[bytes] = self.client.lrange(self.keys.aside(name), -begin - count, -begin - 1)
        return items[::-1]

    def decide_aside(self, name: str, decisions: str, *, end: bool = False) -> int:
        """Carry out decisions about the oldest items, see ``close_aside.lua``; how many are kept then."""
        keys = self.keys
        names = [keys.set_aside, keys.aside(name), keys.ledger, keys.buffer, keys.scratch]
        return int(self._run("close_aside", names, [name, decisions, int(end)]))

    # Inside

    def _lease(self, chunk: Chunk) -> str:
        """Who holds it, and since which attempt: a chunk that went round and came back to us is another lease."""
        return f"{self.token}#{chunk.attempts}"

    def _set_lease(self, chunk: Chunk, lease_ms: int, *, begun: bool = False) -> None:
        held = self._run(
            "renew",
            [self.keys.leases(chunk.segment), self.keys.scratch, self.keys.meta(chunk.segment)],
            [chunk.number, self._lease(chunk), lease_ms, int(begun)],
        )
        if not held:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is no longer ours")

    def _trim(self, chunk: Chunk) -> None:
        """Free what is finished, in steps that do not hold Redis up; what an outage leaves, the next ack frees."""
        keys = [self.keys.segment(chunk.segment), self.keys.sealed, self.keys.scratch]
        with contextlib.suppress(RedisOutage):
            while self._run("trim", keys, [chunk.segment, max(1, chunk.chunk_rows // TRIM_STEPS)]):
                pass

    def _touch(self, minutes: list[int]) -> None:
        keys = [self.keys.dirty, self.keys.ledger, self.keys.scratch]
        for start in range(0, len(minutes), MINUTES_PER_ACK):
            self._run("touch", keys, minutes[start : start + MINUTES_PER_ACK])

    def _write_now(self) -> int:
        """Write something that changes nothing, even when memory is full; when, by Redis's clock."""
        self._run("touch", [self.keys.dirty, self.keys.ledger, self.keys.scratch], [])
        return self._disk.now_ms()

    @contextlib.contextmanager
    def _typed(self, *keys: str) -> Iterator[None]:
        """Name the key when a command inside finds another type than it needs."""
        try:
            with outages():
                yield
        except redis.ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            for key in keys:
                with outages():
                    found = self.client.type(key).decode()
                if found not in ("none", self.keys.kind(key)):
                    raise KeyDamaged(key, f"a {found}", f"a {self.keys.kind(key)}") from error
            raise

    def _run(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        try:
            with outages():
                return self._scripts[name](keys=keys, args=arguments)
        except RedisOutage as outage:
            raise damage_in(str(outage)) or outage from outage


def _pages(begin: int, rows: int) -> list[tuple[int, int]]:
    """First and last index of each step in which ``rows`` items are copied."""
    step = -(-rows // COPY_STEPS)
    return [(at, min(at + step, begin + rows) - 1) for at in range(begin, begin + rows, step)]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def open_buffer(settings: Settings, link: RedisLink, key: str) -> Buffer:
    """One buffer as the settings have it."""
    return Buffer(
        link.database("metrics"),
        key,
        page_rows=settings.drainer.page_rows,
        lease_s=settings.drainer.lease_s,
        aof_dir=link.embedded_dir,
    )


def open_buffers(settings: Settings, link: RedisLink) -> list[Buffer]:
    """The buffers of the settings."""
    return [open_buffer(settings, link, key) for key in settings.buffer.keys]


def chunk_name(chunk: Chunk) -> str:
    """The name of a chunk, in Redis and of its spill file."""
    return f"{chunk.segment}:{chunk.number}"


def _process_name(pid: int) -> str:
    """Machine, process number and start time: unlike the number alone never given to another process."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = "-"
    return f"{_machine()}/{pid}/{started}"


def _machine() -> str:
    """The host and its space of process numbers: containers on the host's network share only its name."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return (socket.gethostname() + numbers).replace(" ", "").replace("/", "")


def _is_orphan(token: str) -> bool:
    """Whether the process that holds a lease ran on this machine and is gone."""
    process, _, _ = token.rpartition("/")
    host, _, rest = process.partition("/")
    pid, _, started = rest.partition("/")
    if host != _machine() or not pid.isdigit() or started == "-":
        return False
    return _process_name(int(pid)) != process
