"""Spilled chunks: on disk, compressed, while ClickHouse is away and Redis runs full; drained later.

A chunk keeps its identity in the file, so its rows are verified and acknowledged like any other's,
exactly once. The order of things makes every crash harmless: the file is on disk before Redis lets go
of the chunk, and Redis remembers which files count. A file that Redis does not know is an orphan of
a crash (its chunk was given back, or is acknowledged already) and is removed.

A drained file is removed only when Redis's disk knows that it was drained: a power cut could make Redis
ask for it again.

A file that cannot be read is kept and passed over, said aloud for as long as it lies there, and tried again
once a minute: it may come back from a backup, or the disk may answer again.

Files belong to the drainer whose disk they lie on: another machine cannot drain them, and a lost
disk loses them.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from pipeline.base import failpoints, log
from pipeline.base.config import DrainerSettings
from pipeline.base.errors import LeaseLost, PipelineError, RedisOutage
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk, chunk_name
from pipeline.deliver import steps
from pipeline.deliver.activity import Activity
from pipeline.deliver.chunk_state import WORKING, Phase, Route
from pipeline.deliver.delivery import Deliverer, Delivery, chunk_token, fetched, mismatch
from pipeline.deliver.stopping import Stop
from pipeline.metric import Limits
from pipeline.store.client import Store

_log = log.get(__name__)

KEPT_FILES = 16
"""So many drained files are kept before Redis's disk is waited for, once for all of them."""

RETRY_DAMAGED_S = 60.0

_CODEC = "zstd"
_SUFFIX = ".spill"


class SpillDamaged(PipelineError):
    """A spilled file does not hold what was written to it, or cannot be read; it is kept for a person to look at."""


@dataclass(frozen=True)
class SpillFigures:
    """What lies on disk."""

    files: int
    rows: int
    bytes: int


class Spill:
    """The spilled chunks of one buffer in one directory. Not thread-safe."""

    def __init__(
        self, directory: Path, buffer: Buffer, store: Store, settings: DrainerSettings, limits: Limits
    ) -> None:
        self.directory = directory
        self.activity = Activity()
        self._buffer = buffer
        self._store = store
        self._settings = settings
        self.limits = limits
        self._done: dict[Path, Chunk] = {}
        self._damaged: dict[Path, tuple[float, str]] = {}
        """When each was tried last, and what was wrong."""

    def spill_one(self) -> int:
        """Bring one chunk from Redis to disk, sealing if need be; its rows, 0 when there is none.

        Raises ``RedisOutage`` or ``OSError`` (disk full); the chunk then stays in Redis. Raises ``LeaseLost`` when a
        drainer finished the chunk meanwhile; its file is an orphan then, and is removed later.
        """
        spiller = _Spiller(self, self._buffer, self._store, self._settings, self.limits, self.activity, Stop())
        delivery = Delivery.start(Route.SPILL, self._settings.max_bad_share)
        spiller.advance(delivery, WORKING)
        if spiller.error is not None:
            raise spiller.error
        return delivery.held.rows if delivery.state.phase is Phase.SPILLED else 0

    def drain_one(self, stop: threading.Event | None = None) -> int:
        """Bring one file's chunk into ClickHouse; its rows, 0 when no file is left or ``stop`` was set.

        Waits for ClickHouse as a drainer does. A file that cannot be read is passed over.
        Raises ``SchemaMismatch`` when ClickHouse refuses most rows; the file stays.
        """
        for path in self.files():
            if path in self._done or self._is_known_damaged(path):
                continue
            try:
                chunk, items = _read(path)
            except SpillDamaged as damaged:
                _log.error("spilled file cannot be read", reason=str(damaged), retry_s=RETRY_DAMAGED_S)
                self._damaged[path] = (time.monotonic(), str(damaged))
                continue
            self._damaged.pop(path, None)
            if not self._buffer.is_spilled(chunk):
                _log.info("orphaned spill file found", file=path.name)
                self._done[path] = chunk
                continue
            if not self._deliver(chunk, items, stop):
                return 0
            failpoints.hit("spill.after_drain")
            self._done[path] = chunk
            if len(self._done) >= KEPT_FILES:
                self._remove_done()
            return chunk.rows
        return self.drain_one(stop) if self._remove_done() else 0

    def _deliver(self, chunk: Chunk, items: list[bytes], stop: threading.Event | None) -> bool:
        """Into ClickHouse; False when told to stop before it was done."""
        origin = _File(self._buffer, items)
        deliverer = Deliverer(
            origin, self._store, self._settings, self.limits, self.activity, Stop(stop or threading.Event())
        )
        delivery = Delivery.of_file(chunk, items, self._settings.max_bad_share)
        deliverer.advance(delivery, WORKING)
        if delivery.state.reason:
            raise mismatch(delivery)
        return delivery.state.phase is Phase.DELIVERED

    @property
    def trouble(self) -> str:
        """What lies here and cannot be read, in words; empty when all is well."""
        reasons = [reason for path, (_, reason) in self._damaged.items() if path.exists()]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return f"spilled file cannot be read: {reasons[0]}{more}" if reasons else ""

    def _is_known_damaged(self, path: Path) -> bool:
        tried_at, _ = self._damaged.get(path, (-math.inf, ""))
        return time.monotonic() - tried_at < RETRY_DAMAGED_S

    def _remove_done(self) -> int:
        """Remove the files that Redis would not ask for even after a power cut; how many it asks for again."""
        if self._done and self._settings.durable_seal:
            self._buffer.wait_for_disk()
        done, self._done = self._done, {}
        again = 0
        for path, chunk in done.items():
            if self._buffer.is_spilled(chunk):
                again += 1
            else:
                path.unlink(missing_ok=True)
        return again

    def files(self) -> list[Path]:
        """The files, in the order their segments were sealed."""
        return sorted(self.directory.glob(f"*{_SUFFIX}"))

    def figures(self) -> SpillFigures:
        """How much lies on disk; reads only the heads of the files."""
        heads = [_head(path) for path in self.files()]
        size = sum(path.stat().st_size for path in self.files())
        return SpillFigures(len(heads), sum(head["last"] - head["first"] for head in heads), size)

    def _write(self, chunk: Chunk, items: list[bytes]) -> None:
        """Head, newline, compressed items; whole and on disk when this returns."""
        packed = msgspec.msgpack.encode(items)
        body = pa.compress(packed, codec=_CODEC, asbytes=True)
        head = {**asdict(chunk), "packed_bytes": len(packed), "checksum": zlib.crc32(body)}
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / (chunk_name(chunk).replace(":", "-") + _SUFFIX)
        self._done.pop(path, None)
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Spiller(Deliverer):
    """Takes one chunk from Redis to a file. Never waits for Redis: the overflow's loop comes back."""

    def __init__(self, spill: Spill, buffer: Buffer, *parts: Any) -> None:
        super().__init__(buffer, *parts)
        self.spill = spill
        self.buffer = buffer
        self.error: Exception | None = None

    def _do(self, delivery: Delivery, step: steps.Step) -> steps.Event:
        try:
            match step:
                case steps.Claim():
                    return self._claim(delivery)
                case steps.Read():
                    return self._fetch(delivery)
                case steps.SyncSeal():
                    if self.settings.durable_seal:
                        self.buffer.make_durable(delivery.held)
                    return steps.Done()
                case steps.WriteFile():
                    self.spill._write(delivery.held, list(delivery.items))
                    failpoints.hit("spill.after_write")
                    return steps.Done()
                case steps.LetGo():
                    self.buffer.spill(delivery.held)
                    failpoints.hit("spill.after_let_go")
                    return steps.Done()
            return super()._do(delivery, step)
        except (RedisOutage, OSError) as error:
            self.error = error
            return steps.ToldToStop()
        except LeaseLost as lost:
            self.error = lost
            return steps.Fenced()

    def _fetch(self, delivery: Delivery) -> steps.Event:
        found = self.buffer.read_or_recover(delivery.held)
        if found is None:
            return steps.Damaged("nothing of it is left to deliver")
        delivery.chunk, delivery.items = found
        return fetched(delivery.held)

    def _claim(self, delivery: Delivery) -> steps.Event:
        chunk = self.buffer.claim()
        if chunk is None and self.buffer.seal(self.settings.batch_rows) is not None:
            chunk = self.buffer.claim()
        if chunk is None:
            return steps.Nothing()
        delivery.chunk = chunk
        return steps.Claimed(chunk_token(chunk), chunk.first, chunk.last, chunk.doubtful, chunk.lapses)


@dataclass(frozen=True)
class _File:
    """The origin of a chunk that lies on disk: no drainer competes for it, so it has no lease."""

    buffer: Buffer
    items: list[bytes]

    @property
    def key(self) -> str:
        """The buffer's."""
        return self.buffer.key

    def renew(self, chunk: Chunk, *, before_insert: bool = False) -> None:
        """Files have no leases."""

    def release(self, chunk: Chunk) -> None:
        """The file stays."""

    def set_aside(self, chunk: Chunk, reason: str) -> None:
        """The file stays."""

    def read_at(self, chunk: Chunk, index: int) -> bytes:
        """One item by its index from the head of the segment, as ``Buffer.read_at`` counts."""
        return self.items[index - (chunk.segment_rows - chunk.last)]

    def ack(self, chunk: Chunk, *, stored: int, dead_lettered: int, minutes: list[int], record: str = "") -> None:
        """Acknowledge; done before is as good."""
        self.buffer.unspill(chunk, stored=stored, dead_lettered=dead_lettered, minutes=minutes, record=record)


def _head(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        head: dict[str, Any] = json.loads(file.readline())
    return head


def _read(path: Path) -> tuple[Chunk, list[bytes]]:
    try:
        line, _, body = path.read_bytes().partition(b"\n")
        head = json.loads(line)
        packed_bytes, checksum = head.pop("packed_bytes"), head.pop("checksum")
        if zlib.crc32(body) != checksum:
            raise ValueError("the checksum differs")
        packed = pa.decompress(body, decompressed_size=packed_bytes, codec=_CODEC, asbytes=True)
        # Whatever was tried with this chunk before it was spilled: its rows are verified.
        chunk = Chunk(**{**head, "doubtful": True, "attempts": head["attempts"] + 1})
        return chunk, msgspec.msgpack.decode(packed, type=list[bytes])
    except (ValueError, KeyError, TypeError, OSError, msgspec.DecodeError) as error:
        raise SpillDamaged(f"{path} is not as it was written: {error}") from error
