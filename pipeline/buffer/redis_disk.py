"""Redis's append-only file: wait until it is on disk, fsync it where this process can, repair it after a power cut.

Redis answers before its disk has what was written. Code that acts on an answer that a power cut could undo (rows of
a sealed segment go to ClickHouse, a drained spill file is removed) waits here first.

Raises redis-py's own exceptions when Redis goes away; the caller tries again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import redis

from pipeline.base import log

_log = log.get(__name__)

FSYNC_WAIT_S = 1.2
"""``appendfsync everysec`` starts its fsync within a second of the write; the rest is for the disk."""

Policy = Literal["none", "always", "local", "everysec"]


@dataclass
class RedisDisk:
    """The disk under one server."""

    client: Any
    aof_dir: Path | None
    """Where the server keeps its append-only file, when this process may write there."""

    _policy: Policy | None = field(default=None, init=False)
    _tidied: str = field(default="", init=False)

    def wait(self, written_at_ms: Callable[[str], int]) -> None:
        """Return once all that was written is on the disk, as far as the server's configuration allows.

        ``written_at_ms(server)`` says when, by its clock, the server of this start wrote the last of it. A
        server syncs its file, with what its predecessor wrote, only after a write of its own.
        """
        policy = self.policy()
        if policy == "local":
            self._fsync_files()
        elif policy == "everysec":
            server = ""
            while server != (server := self.server_id()):
                self._wait_for_sync(written_at_ms(server))

    def tidy_after_restart(self, checkpoints: str) -> None:
        """Have a server that was started since the last look rewrite its append-only file, once a start.

        A power cut may leave half a script at the end of the file. Redis undoes it when it loads the file, but
        removes only the torn command: what it writes then would be read as the rest of that script at its next
        start, which would bring the half back, or drop all that came after it. ``checkpoints`` is the hash in
        which the last look is kept.
        """
        server = self.server_id()
        if server == self._tidied:
            return
        before = self.client.hget(checkpoints, "tidied")
        if before != server.encode():
            # Before the first of us there was no script that could be torn.
            if before and self.client.info("persistence").get("aof_enabled"):
                self._rewrite()
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):  # then it is rewritten once more
                self.client.hset(checkpoints, "tidied", server)
        self._tidied = server

    def policy(self) -> Policy:
        """How this server makes a write durable.

        WAITAOF (Redis 7.2) is not asked: Valkey 9.1 was seen to answer "synced" with no fsync since the write.
        """
        if self._policy is None:
            if not self.client.info("persistence").get("aof_enabled"):
                self._policy = "none"
            elif self.aof_dir is not None:
                self._policy = "local"
            else:
                self._policy = self._configured()
        return self._policy

    def server_id(self) -> str:
        """Another one after each start of the server."""
        return str(self.client.info("server")["run_id"])

    def now_ms(self) -> int:
        """The server's clock."""
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _configured(self) -> Policy:
        try:
            said = self.client.config_get("appendfsync").get("appendfsync")
        except redis.ResponseError:
            return "everysec"  # CONFIG is forbidden here: assume the usual
        return "always" if said == "always" else "none" if said == "no" else "everysec"

    def _wait_for_sync(self, since_ms: int) -> None:
        while (remaining_s := FSYNC_WAIT_S - (self.now_ms() - since_ms) / 1000) > 0:
            time.sleep(remaining_s)
        if self._is_syncing():
            # Perhaps since before the write: the next one, which starts within a second of its end, counts.
            while self._is_syncing():
                time.sleep(0.02)
            time.sleep(FSYNC_WAIT_S)
            while self._is_syncing():
                time.sleep(0.02)

    def _is_syncing(self) -> bool:
        """Whether the server syncs its file; a write that waits for the end of a sync is waited for first."""
        return bool(self._once_written().get("aof_pending_bio_fsync", 0))

    def _once_written(self) -> dict[str, Any]:
        """The facts of persistence once nothing is put off: a server writes before it answers, unless it syncs."""
        while True:
            persistence: dict[str, Any] = self.client.info("persistence")
            if not persistence.get("aof_buffer_length", 0):
                return persistence
            time.sleep(0.002)

    def _fsync_files(self) -> None:
        self._once_written()
        assert self.aof_dir is not None
        for path in [*self.aof_dir.glob("*.aof"), *self.aof_dir.glob("appendonlydir/*"), self.aof_dir]:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # a rewrite put another in its place, synced by Redis
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _rewrite(self) -> None:
        try:
            self.client.bgrewriteaof()
        except redis.ResponseError as error:
            if "in progress" not in str(error):
                _log.warning("redis append-only file not rewritten", reason=str(error))
