"""How much of the server one client may take, and for how long.

uvicorn has no deadline for headers and bodies, and counts slow clients against all clients. So its
protocol is given three things here, and no parsing of our own: a place among a bounded number of
connections, in total and by address, where a newcomer displaces the connection that waits longest and is owed
nothing; a deadline for each phase of a connection; an end for clients that do not read their answer.
What is decided, is decided by ``overdue``, ``to_displace`` and ``too_much_unsent``, pure functions of these states.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

Phase = Literal["idle", "headers", "body", "sending", "closing", "working"]


@dataclass(frozen=True)
class Bounds:
    """What a server grants. The defaults suit people, drivers and scrapers; an upload needs 64 KB/s."""

    connections: int = 256
    connections_by_address: int = 128
    header_bytes: int = 128 << 10
    """Request line and headers together; a statement may stand in the address."""
    headers_s: float = 10.0
    idle_s: float = 60.0
    body_s: float = 20.0
    sending_s: float = 30.0
    closing_s: float = 5.0
    least_bytes_per_s: int = 64 << 10
    """Bodies and answers get a second more for each of these bytes."""
    unsent_bytes: int = 256 << 20
    """Answers that wait in memory for clients to read them, all together."""


@dataclass(frozen=True)
class ConnectionState:
    """One connection as the watch finds it: its phase, since when, and the bytes moved in that phase."""

    phase: Phase
    address: str
    since_s: float
    moved_bytes: int = 0
    unsent_bytes: int = 0


def overdue(one: ConnectionState, now_s: float, bounds: Bounds) -> bool:
    """Whether this connection has had its time; work itself has limits of its own."""
    earned_s = one.moved_bytes / bounds.least_bytes_per_s
    granted_s: dict[Phase, float] = {
        "idle": bounds.idle_s,
        "headers": bounds.headers_s,
        "body": bounds.body_s + earned_s,
        "sending": bounds.sending_s + earned_s,
        "closing": bounds.closing_s,
        "working": math.inf,
    }
    return now_s - one.since_s > granted_s[one.phase]


_OWED_LEAST_FIRST: tuple[Phase, ...] = ("closing", "headers", "body", "idle", "sending")
"""Half a request goes before an idle connection: its client finds out at once, and a flood is made of such halves."""


def to_displace(connections: Iterable[ConnectionState], address: str, bounds: Bounds) -> int | Literal["refuse"] | None:
    """Which connection (by position) has to go so that one more from ``address`` may come; None if there is room.

    Within an address that has its share only its own go; otherwise those of the address that has most.
    The connection that is owed least goes first, the longest waiting of them; a request that is being worked on
    never does: "refuse" if there is nothing else.
    """
    all_open = list(connections)
    counts = Counter(one.address for one in all_open)
    if counts[address] >= bounds.connections_by_address:
        candidates = {address}
    elif len(all_open) >= bounds.connections:
        waiting = Counter(one.address for one in all_open if one.phase != "working")
        candidates = {name for name, count in waiting.items() if count == max(waiting.values())}
    else:
        return None
    found = [
        (_OWED_LEAST_FIRST.index(one.phase), one.since_s, index)
        for index, one in enumerate(all_open)
        if one.address in candidates and one.phase != "working"
    ]
    return min(found)[2] if found else "refuse"


def too_much_unsent(connections: Iterable[ConnectionState], bounds: Bounds) -> list[int]:
    """Which connections (by position) have to go so that the answers that wait to be read fit into memory.

    Of the address that most waits for, the one that has been sent to longest goes first; the last one stays.
    """
    sending = {index: one for index, one in enumerate(connections) if one.unsent_bytes}
    ended = []
    while len(sending) > 1 and sum(one.unsent_bytes for one in sending.values()) > bounds.unsent_bytes:
        unsent: Counter[str] = Counter()
        for one in sending.values():
            unsent[one.address] += one.unsent_bytes
        (address, _), *_ = unsent.most_common(1)
        found = [(one.since_s, index) for index, one in sending.items() if one.address == address]
        ended.append(min(found)[1])
        del sending[ended[-1]]
    return ended


class Gate:
    """All connections of one server. Belongs to its event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.connections: list[BoundedProtocol] = []

    def admit(self, newcomer: BoundedProtocol) -> bool:
        """Give the newcomer a place, another's if need be; False when there is none."""
        now_s = newcomer.loop.time()
        displaced = to_displace((one.state(now_s) for one in self.connections), newcomer.address, self.bounds)
        if displaced == "refuse":
            return False
        if displaced is not None:
            self.connections.pop(displaced).transport.abort()
        self.connections.append(newcomer)
        return True

    def leave(self, connection: BoundedProtocol) -> None:
        """A place is free again."""
        if connection in self.connections:
            self.connections.remove(connection)

    def sweep(self, now_s: float) -> None:
        """End every connection that has had its time, and those whose answers take too much memory."""
        connections = list(self.connections)
        states = [connection.state(now_s) for connection in connections]
        for connection, one in zip(connections, states, strict=True):
            if overdue(one, now_s, self.bounds):
                connection.end()
        for index in too_much_unsent(states, self.bounds):
            connections[index].transport.abort()


class BoundedConfig(uvicorn.Config):
    """uvicorn's settings, and the gate its connections pass."""

    def __init__(self, app: Any, gate: Gate, **options: Any) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=gate.bounds.header_bytes,
            # The gate keeps this time.
            timeout_keep_alive=int(gate.bounds.idle_s) + 60,
            **options,
        )
        self.gate = gate


class BoundedProtocol(H11Protocol):
    """One connection, watched."""

    config: BoundedConfig

    def __init__(self, config: BoundedConfig, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self.gate = config.gate
        self.address = ""
        self._phase: tuple[Phase, Any] = ("headers", None)
        self._since_s = self.loop.time()
        self._received = 0
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, or be told that there is none."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        if not self.gate.admit(self):
            transport.write(_NO_ROOM)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self.gate.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes in. A body that breaks the protocol after the answer began ends the connection."""
        self._received += len(data)
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            self.transport.abort()

    def state(self, now_s: float) -> ConnectionState:
        """Where this connection stands."""
        phase, unsent = self._now_in(), self.transport.get_write_buffer_size()
        if (phase, self.cycle) != self._phase:
            self._phase, self._since_s, self._received, self._unsent = (phase, self.cycle), now_s, 0, unsent
        moved = self._unsent - unsent if phase == "sending" else self._received
        return ConnectionState(phase, self.address, self._since_s, max(0, moved), unsent)

    def end(self) -> None:
        """Time is up. Where a request was begun and nothing answered yet, say so first."""
        phase = self._phase[0]
        begun = bool(self.conn.trailing_data[0]) if phase == "headers" else phase == "body"
        if begun and not (phase == "body" and self.cycle.response_started):
            self.transport.write(_TOO_SLOW)
            self.transport.close()
        else:
            self.transport.abort()

    def _now_in(self) -> Phase:
        if self.transport.get_write_buffer_size():
            return "sending"  # also where the connection closes after this answer
        if self.transport.is_closing():
            return "closing"
        if self.cycle is None or self.cycle.response_complete:
            return "headers" if self.cycle is None or self.conn.trailing_data[0] else "idle"
        return "body" if self.conn.their_state is h11.SEND_BODY else "working"


def _brief(status: str, why: str, *headers: str) -> bytes:
    body = why.encode() + b"\n"
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode() + body


_NO_ROOM = _brief("503 Service Unavailable", "Too many connections; try again in a moment.", "Retry-After: 1")
_TOO_SLOW = _brief("408 Request Timeout", "The request did not arrive in time.")
