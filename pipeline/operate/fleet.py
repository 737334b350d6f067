"""What the processes of a fleet say of themselves in Redis, and who of them is alive.

Each process writes its heartbeat once a second, dated by Redis's clock, so that the clocks of machines need
not agree. A heartbeat is a JSON object; ``services`` reads what is there and passes over what is not one.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from pipeline.base.redis_link import outages
from pipeline.base.typed_keys import typed

HEARTBEAT_S = 1.0
STALE_HEARTBEAT_MS = 15_000
"""A process that said nothing for this long is taken for dead."""


class RedisClock:
    """The clock of the Redis that holds the buffer: the same for every process of the fleet.

    What is due, final or too old is judged by it, so that setting the clock of one machine disturbs nothing.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC. Raises ``RedisOutage``."""
        with outages():
            seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


@dataclass
class Fleet:
    """The heartbeats of all processes: the hash ``key`` of one Redis."""

    client: Any
    key: str

    def now_ms(self) -> int:
        """Redis's clock. Raises ``RedisOutage``."""
        return RedisClock(self.client).now_ms()

    def say(self, name: str, facts: dict[str, Any]) -> None:
        """Write the heartbeat of process ``name``. Raises ``RedisOutage``."""
        text = json.dumps({"at": self.now_ms(), **facts})
        with typed(self.client, {self.key: "hash"}):
            self.client.hset(self.key, name, text)

    def leave(self, name: str) -> None:
        """Remove the heartbeat of a process that ends. Raises ``RedisOutage``."""
        with typed(self.client, {self.key: "hash"}):
            self.client.hdel(self.key, name)

    def services(self, now_ms: int, silent_for_ms: int = STALE_HEARTBEAT_MS) -> list[dict[str, Any]]:
        """What each living process last said, with its ``name``. Raises ``RedisOutage``."""
        return [said for said in self._all().values() if abs(now_ms - said["at"]) < silent_for_ms]

    def forget_silent(self, now_ms: int, silent_for_ms: int) -> int:
        """Remove the heartbeats of processes that said nothing for so long, and what is none; how many."""
        with typed(self.client, {self.key: "hash"}):
            names = self.client.hkeys(self.key)
        known = self._all()
        gone = [name for name in names if name not in known or abs(now_ms - known[name]["at"]) > silent_for_ms]
        if gone:
            with outages():
                self.client.hdel(self.key, *gone)
        return len(gone)

    def _all(self) -> dict[bytes, dict[str, Any]]:
        with typed(self.client, {self.key: "hash"}):
            found: dict[bytes, bytes] = self.client.hgetall(self.key)
        read = {name: heartbeat(name, text) for name, text in found.items()}
        return {name: said for name, said in read.items() if said is not None}


def heartbeat(name: bytes, text: bytes) -> dict[str, Any] | None:
    """One heartbeat; None when it is none."""
    try:
        said = json.loads(text)
        return {**said, "name": name.decode("utf-8", "backslashreplace"), "at": int(said["at"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def own_name() -> str:
    """How this process is named: machine and process number."""
    return f"{socket.gethostname()}/{os.getpid()}"
