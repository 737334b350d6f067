"""Items in one piece of memory, and how they come there from Redis without an object for each.

A million rows a second leave no time to make, count and free a million Python objects: redis-py's parser
alone costs a tenth of the whole way. So pages of a list are received as they come and only the places of their
items are noted (``scan.split_replies``); connecting, logging in and TLS stay redis-py's. Whatever reply is not
the expected one is asked for again through redis-py, which knows what it means.

When Redis goes away in the middle, redis-py's own exceptions are raised and the connection is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import redis

from pipeline.base.redis_replies import lent_connection
from pipeline.decode import scan

Ints = npt.NDArray[np.int64]

FIRST_BYTES = 1 << 20
"""Receive buffer for the first reply; the size of the rest is guessed from what came."""

LEAST_ROOM = 1 << 16
MOST_GROWTH = 16
"""Maximum growth factor of the receive buffer."""


@dataclass(frozen=True, eq=False)
class Items(Sequence[bytes]):
    """Item ``i`` lies in ``data[starts[i]:ends[i]]``.

    Behind each item follows a control character, behind the last one ``scan.PADDING`` more bytes, whatever they are.
    """

    data: npt.NDArray[np.uint8]
    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, items: Sequence[bytes]) -> Items:
        """The same items, copied into one piece."""
        if isinstance(items, Items):
            return items
        data = np.frombuffer(b"\n".join([*items, b"\n" * scan.PADDING]), np.uint8)
        lengths = np.fromiter(map(len, items), np.int64, len(items))
        ends = np.cumsum(lengths + 1) - 1
        return cls(data, ends - lengths, ends)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index: int | slice) -> bytes | Items:
        if isinstance(index, slice):
            return Items(self.data, self.starts[index], self.ends[index])
        return self.data[self.starts[index] : self.ends[index]].tobytes()


def fetch(client: Any, key: str, first: int, count: int, page_rows: int) -> Items:
    """Elements ``first`` to ``first + count - 1`` of a list, ``page_rows`` in a command; fewer where it is shorter.

    Raises what redis-py raises.
    """
    landing = _Landing(count)
    try:
        with lent_connection(client) as connection:
            while landing.found < count:
                rows = min(page_rows, count - landing.found)
                connection.send_command("LRANGE", key, first + landing.found, first + landing.found + rows - 1)
                if landing.receive(connection._get_socket(), rows) < rows:
                    break
    except _OtherReply:
        return Items.of(client.lrange(key, first, first + count - 1))
    return Items(landing.data, landing.starts[: landing.found], landing.ends[: landing.found])


class _OtherReply(Exception):
    """The reply is not an array of as many bulk strings as were asked for: an error, or another protocol's."""


class _Landing:
    """Memory that grows as replies come in."""

    def __init__(self, count: int) -> None:
        self.data = np.empty(FIRST_BYTES, np.uint8)
        self.starts = np.empty(count, np.int64)
        self.ends = np.empty(count, np.int64)
        self.found = 0
        self._filled = 0

    def receive(self, socket: Any, rows: int) -> int:
        """Take one reply to LRANGE in; how many items it had."""
        header = self._filled
        at = rows_here = -1
        before = self.found
        while at < 0 or self.found < before + rows_here:
            self._make_room()
            got = socket.recv_into(self.data[self._filled : -scan.PADDING])
            if not got:
                raise redis.ConnectionError("Redis closed the connection")
            self._filled += got
            if at < 0:
                line = self.data[header : min(self._filled, header + 32)].tobytes()
                size, end_of_line, _ = line.partition(b"\r\n")
                if line[:1] != b"*" or (end_of_line and not size[1:].isdigit()):
                    raise _OtherReply
                if not end_of_line:
                    continue
                at, rows_here = header + len(size) + 2, int(size[1:])
                if rows_here > rows:
                    raise _OtherReply
            self.found, at = scan.split_replies(
                scan.address_of(self.data), at, self._filled, self.starts, self.ends, self.found, before + rows_here
            )
            if at < 0:
                raise _OtherReply
        if at != self._filled:
            raise _OtherReply
        return rows_here

    def _make_room(self) -> None:
        if len(self.data) - self._filled - scan.PADDING >= LEAST_ROOM:
            return
        # What all items will take, if the rest is like those that came; but one huge item says little about the rest.
        guess = int(1.02 * self._filled * len(self.starts) / max(self.found, 1)) + 2 * LEAST_ROOM
        larger = np.empty(min(max(guess, 2 * len(self.data)), MOST_GROWTH * len(self.data)), np.uint8)
        larger[: self._filled] = self.data[: self._filled]
        self.data = larger
