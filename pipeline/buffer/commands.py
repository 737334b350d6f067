"""What every part of a ``Buffer`` stands on: its keys, its scripts, its connection, and how errors are named."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base import lua
from pipeline.base.errors import KeyDamaged, RedisOutage
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import outages
from pipeline.base.typed_keys import typed
from pipeline.buffer.chunk import Chunk
from pipeline.buffer.damage import damage_in
from pipeline.buffer.process_names import process_name
from pipeline.buffer.redis_disk import RedisDisk

MINUTES_PER_ACK = 250
"""More touched minutes than this are noted in calls of their own, so that no ack holds Redis up."""


MEND_ATTEMPTS = 3
"""A step that finds damaged keys mends them and tries again this often."""


_SCRIPTS = (
    *("seal", "claim", "renew", "look", "return_extra", "touch", "ack", "trim", "spill", "unspill", "is_spilled"),
    *("copy_aside", "set_aside", "set_aside_rest", "measure_aside", "close_aside", "mend", "drop_oldest", "forget"),
    *("drop_acked", "mark", "forget_marks", "books", "push_once"),
)


@dataclass
class BufferCommands:
    """One buffer's keys and scripts. What the parts of ``Buffer`` share."""

    client: Any
    """A ``redis.Redis`` that answers in bytes and never resends (its stubs describe text and bytes at once)."""

    key: str = "metrics:buffer"
    page_rows: int = 5_000
    lease_s: float = 60.0
    aof_dir: Path | None = None
    """Where the Redis server keeps its append-only file, when this process may write there."""
    third_clock: Callable[[], int | None] | None = None
    """Tells ClickHouse's time in ms, None when it cannot; asked when Redis's clock and this machine's disagree."""

    keys: BufferKeys = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.keys = BufferKeys(self.key)
        self.token = f"{process_name(os.getpid())}/{secrets.token_hex(8)}"
        self._scripts = {name: self.client.register_script(lua.load("buffer", name)) for name in _SCRIPTS}
        self._durable: dict[str, bool] = {}
        self._disk = RedisDisk(self.client, self.aof_dir)

    def now_ms(self) -> int:
        """The time by Redis's clock."""
        with outages():
            return self._disk.now_ms()

    def _lease(self, chunk: Chunk) -> str:
        """Who holds it, and since which attempt: a chunk that went round and came back to us is another lease."""
        return f"{self.token}#{chunk.attempts}"

    def _typed(self, *keys: str) -> contextlib.AbstractContextManager[None]:
        """Name the key when a command inside finds another type than it needs. Raises ``RedisOutage``."""
        return typed(self.client, {key: self.keys.kind(key) for key in keys})

    def _run(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        try:
            with self._typed(*keys):
                return self._scripts[name](keys=keys, args=arguments)
        except KeyDamaged:
            raise
        except RedisOutage as outage:
            raise damage_in(str(outage)) or outage from outage

    def _touch(self, minutes: list[int]) -> None:
        keys = [self.keys.dirty, self.keys.ledger, self.keys.scratch]
        for start in range(0, len(minutes), MINUTES_PER_ACK):
            self._run("touch", keys, minutes[start : start + MINUTES_PER_ACK])

    def _write_now(self) -> int:
        """Write something that changes nothing, even when memory is full; when, by Redis's clock."""
        self._run("touch", [self.keys.dirty, self.keys.ledger, self.keys.scratch], [])
        return self._disk.now_ms()


def text_of(name: bytes) -> str:
    """A name as text, whatever bytes another program put there."""
    return name.decode("utf-8", "backslashreplace")
