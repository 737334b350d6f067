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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base import log
from pipeline.base.config import Settings
from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import RedisLink, outages
from pipeline.buffer import scripts
from pipeline.buffer.books import Books
from pipeline.buffer.redis_disk import RedisDisk
from pipeline.decode.items import Items, fetch

_log = log.get(__name__)

MINUTES_PER_ACK = 250
"""More touched minutes than this are noted in calls of their own, so that no ack holds Redis up."""

MAX_CHUNK_BYTES = 64 << 20
"""Items that are larger than usual make chunks of fewer rows: a drainer holds three chunks, each some times over."""

TRIM_STEPS = 10
"""A chunk is freed in so many steps: each took 0.4 ms at 100,000 rows of 143 bytes."""

COPY_STEPS = 400
"""A chunk is copied aside in this many steps: copying 1,000 items in one script holds Redis up for 4 ms."""

_SCRIPTS = (
    *("seal", "claim", "renew", "touch", "ack", "spill", "unspill", "copy_aside", "set_aside", "trim"),
    *("drop_oldest", "forget", "drop_acked", "mark", "books"),
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
        with outages():
            return int(self.client.llen(self.key))

    def peek(self, count: int) -> list[bytes]:
        """The newest items that wait, at most ``count``; consumes nothing."""
        with outages():
            items: list[bytes] = self.client.lrange(self.key, 0, count - 1)
        return items

    def seal(self, chunk_rows: int) -> Segment | None:
        """Turn all that waits into one segment, cut into chunks of ``chunk_rows``; None when nothing waits.

        Chunks that would take more than about ``MAX_CHUNK_BYTES`` get fewer rows.
        """
        # Time-ordered for people, random for safety: a counter could be rewound by a power cut and
        # give the same name to other rows.
        name = f"{int(time.time()):x}-{secrets.token_hex(8)}"
        keys = self.keys
        rows, sealed_at = self._run(
            "seal",
            [keys.buffer, keys.segment(name), keys.meta(name), keys.segments, keys.ledger, keys.scratch],
            [name, chunk_rows, MAX_CHUNK_BYTES],
        )
        return Segment(name, int(rows), int(sealed_at)) if rows else None

    def make_durable(self, chunk: Chunk) -> None:
        """Return once the seal of the chunk's segment is on Redis's disk, as far as its configuration allows.

        Without this a power cut could undo the seal after its rows were inserted; the items would
        be sealed again under another name and stored twice.
        """
        if self._durable.get(chunk.segment):
            return
        with outages():
            meta = self.keys.meta(chunk.segment)
            self._disk.wait(
                lambda run: chunk.sealed_at_ms if self.client.hget(meta, "run") == run.encode() else self._write_now()
            )
        if len(self._durable) > 10_000:
            self._durable.clear()
        self._durable[chunk.segment] = True

    def wait_for_disk(self) -> None:
        """Return once all that was written before the call is on Redis's disk, as far as its configuration allows."""
        with outages():
            self._disk.wait(lambda _run: self._write_now())

    def tidy_after_restart(self) -> None:
        """See ``RedisDisk.tidy_after_restart``; cheap enough to be called every second."""
        with outages():
            self._disk.tidy_after_restart(self.keys.checkpoints)

    # Claim

    def claim(self) -> Chunk | None:
        """Lease the next chunk, or one whose lease ran out; None when there is none."""
        found = self._run(
            "claim",
            [self.keys.segments, self.keys.scratch],
            [self.keys.segment(""), self.token, int(self.lease_s * 1000)],
        )
        if not found:
            return None
        name, number, rows, chunk_rows, sealed_at, attempts, same_run = found
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
        )

    def renew(self, chunk: Chunk) -> None:
        """Prolong the lease; raises ``LeaseLost`` when somebody else has the chunk by now."""
        self._set_lease(chunk, int(self.lease_s * 1000))

    def release(self, chunk: Chunk) -> None:
        """Give a chunk back at once; what was stored of it is verified by whoever claims it next."""
        self._set_lease(chunk, 0)

    def release_orphans(self) -> int:
        """Give back the chunks of processes of this machine that died; the number of them.

        Saves the restart after a crash from waiting until the leases run out.
        """
        released = 0
        with outages():
            names: list[bytes] = self.client.zrange(self.keys.segments, 0, 99)
            for name in names:
                key = self.keys.leases(name.decode())
                leases: dict[bytes, bytes] = self.client.hgetall(key)
                for number, lease in leases.items():
                    token, _, held = lease.decode().partition(" ")
                    if _is_orphan(token) and not held.startswith("0 "):
                        released += int(self._run("renew", [key, self.keys.scratch], [number, token, 0]))
        return released

    def read(self, chunk: Chunk) -> Items:
        """The chunk's items from the newest to the oldest: positions ``last - 1`` down to ``first``.

        Positions count from the list's tail, which acks trim; indexes from the head never move.
        Pages are read one by one: a pipeline of them would hold Redis up for its whole length.
        """
        key = self.keys.segment(chunk.segment)
        head = chunk.segment_rows - chunk.last
        tail = chunk.segment_rows - chunk.first
        with outages():
            items = fetch(self.client, key, head, tail - head, self.page_rows)
        if len(items) != chunk.rows:
            raise LeaseLost(f"segment {chunk.segment} is no longer whole: {len(items)} of {chunk.rows} items read")
        return items

    def read_at(self, chunk: Chunk, index: int) -> bytes:
        """One item of the chunk by its index from the head of the segment."""
        with outages():
            item: bytes | None = self.client.lindex(self.keys.segment(chunk.segment), index)
        if item is None:
            raise LeaseLost(f"segment {chunk.segment} is no longer whole")
        return item

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
                keys.segments,
                keys.segment(chunk.segment),
                keys.meta(chunk.segment),
                keys.leases(chunk.segment),
                keys.dirty,
                keys.ledger,
                keys.acked,
                keys.scratch,
            ],
            [
                chunk.segment,
                chunk.number,
                self._lease(chunk),
                stored,
                dead_lettered,
                record,
                int(chunk.doubtful),
                *minutes[:MINUTES_PER_ACK],
            ],
        )
        if not done:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is no longer ours")
        self._trim(chunk)

    # Overflow

    def spill(self, chunk: Chunk) -> None:
        """Let go of a chunk whose items lie in a file; raises ``LeaseLost`` when somebody else has it by now."""
        keys = self.keys
        done = self._run(
            "spill",
            [
                keys.segments,
                keys.segment(chunk.segment),
                keys.meta(chunk.segment),
                keys.leases(chunk.segment),
                keys.spilled,
                keys.ledger,
                keys.scratch,
            ],
            [chunk.segment, chunk.number, self._lease(chunk), chunk.rows],
        )
        if not done:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is no longer ours")
        self._trim(chunk)

    def unspill(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str) -> bool:
        """Acknowledge a spilled chunk whose rows all stand in ClickHouse; False when that was done before."""
        keys = self.keys
        self._touch(minutes[MINUTES_PER_ACK:])
        return bool(
            self._run(
                "unspill",
                [keys.spilled, keys.dirty, keys.ledger, keys.acked, keys.scratch],
                [chunk_name(chunk), stored, dead_lettered, record, *minutes[:MINUTES_PER_ACK]],
            )
        )

    def is_spilled(self, chunk: Chunk) -> bool:
        """Whether the file of this chunk is what counts; a file that is not registered is a left-over."""
        with outages():
            return bool(self.client.hexists(self.keys.spilled, chunk_name(chunk)))

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
        self._copy_aside(chunk)
        record = json.dumps({"reason": reason, **asdict(chunk)}, ensure_ascii=False)
        done = self._run(
            "set_aside",
            [
                keys.segments,
                keys.segment(chunk.segment),
                keys.meta(chunk.segment),
                keys.leases(chunk.segment),
                keys.set_aside,
                keys.ledger,
                keys.aside(chunk_name(chunk)),
                keys.scratch,
            ],
            [chunk.segment, chunk.number, self._lease(chunk), chunk.rows, record],
        )
        if not done:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is held by another drainer")
        _log.error("chunk set aside", segment=chunk.segment, chunk=chunk.number, rows=chunk.rows, reason=reason)
        self._trim(chunk)

    def _copy_aside(self, chunk: Chunk) -> None:
        keys = self.keys
        names = [keys.segment(chunk.segment), keys.leases(chunk.segment), keys.aside(chunk_name(chunk)), keys.scratch]
        head, tail = chunk.segment_rows - chunk.last, chunk.segment_rows - chunk.first
        step = -(-chunk.rows // COPY_STEPS)
        for first in range(head, tail, step):
            last = min(first + step, tail) - 1
            copied = self._run("copy_aside", names, [chunk.number, self._lease(chunk), first, last, int(first == head)])
            if copied < 0:
                raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is held by another drainer")

    # What others ask

    def books(self) -> Books:
        """The ledger, all figures of one instant."""
        waiting, in_flight, segments, oldest, counted = self._run(
            "books", [self.keys.buffer, self.keys.segments, self.keys.ledger], [self.keys.segment("")]
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
        with outages():
            found: dict[bytes, bytes] = self.client.hgetall(self.keys.dirty)
        return {int(minute): int(counter) for minute, counter in found.items()}

    def forget_minutes(self, seen: Mapping[int, int]) -> None:
        """Forget minutes whose counter is still as seen; one touched meanwhile stays."""
        pairs = [(minute, counter) for minute, counter in seen.items()]
        for start in range(0, len(pairs), MINUTES_PER_ACK):
            flat = [value for pair in pairs[start : start + MINUTES_PER_ACK] for value in pair]
            self._run("forget", [self.keys.dirty, self.keys.scratch], flat)

    def drop_acked(self, records: list[bytes]) -> None:
        """Remove ``records``, the oldest of the acknowledged chunks, unless somebody else did so before."""
        self._run("drop_acked", [self.keys.acked, self.keys.scratch], [records[-1], len(records)])

    def mark_dead_letter(self, name: str, mark: str, now_ms: int, payload: bytes = b"") -> bool:
        """Mark a dead letter and push its payload again (when given), both or neither; False if marked before."""
        keys = [self.keys.marks, self.keys.buffer]
        return bool(self._run("mark", keys, [name, f"{mark} {now_ms}", payload]))

    def unfinished_segments(self) -> set[str]:
        """Segments of which some chunk is not acknowledged: open, or spilled or set aside in part."""
        with outages():
            names = {name.decode() for name in self.client.zrange(self.keys.segments, 0, -1)}
            away = [*self.client.hkeys(self.keys.spilled), *self.client.hkeys(self.keys.set_aside)]
            return names | {name.decode().partition(":")[0] for name in away}

    def open_segments(self) -> int:
        """Sealed segments that are not wholly acknowledged."""
        with outages():
            return int(self.client.zcard(self.keys.segments))

    def set_aside_names(self) -> list[str]:
        """What waits for a person: the names that ``pipeline segments`` takes. Raises ``RedisOutage``."""
        with outages():
            return sorted(name.decode("utf-8", "replace") for name in self.client.hkeys(self.keys.set_aside))

    # Inside

    def _lease(self, chunk: Chunk) -> str:
        """Who holds it, and since which attempt: a chunk that went round and came back to us is another lease."""
        return f"{self.token}#{chunk.attempts}"

    def _set_lease(self, chunk: Chunk, lease_ms: int) -> None:
        held = self._run(
            "renew",
            [self.keys.leases(chunk.segment), self.keys.scratch],
            [chunk.number, self._lease(chunk), lease_ms],
        )
        if not held:
            raise LeaseLost(f"chunk {chunk.number} of segment {chunk.segment} is no longer ours")

    def _trim(self, chunk: Chunk) -> None:
        """Free what is finished, in steps that do not hold Redis up; what an outage leaves, the next ack frees."""
        keys = [self.keys.segment(chunk.segment), self.keys.meta(chunk.segment), self.keys.scratch]
        with contextlib.suppress(RedisOutage):
            while self._run("trim", keys, [max(1, chunk.chunk_rows // TRIM_STEPS)]):
                pass

    def _touch(self, minutes: list[int]) -> None:
        keys = [self.keys.dirty, self.keys.ledger, self.keys.scratch]
        for start in range(0, len(minutes), MINUTES_PER_ACK):
            self._run("touch", keys, minutes[start : start + MINUTES_PER_ACK])

    def _write_now(self) -> int:
        """Write something that changes nothing, even when memory is full; when, by Redis's clock."""
        self._run("touch", [self.keys.dirty, self.keys.ledger, self.keys.scratch], [])
        return self._disk.now_ms()

    def _run(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        with outages():
            return self._scripts[name](keys=keys, args=arguments)


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
