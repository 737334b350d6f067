"""Many commands in one piece, and their replies as the parser gives them.

redis-py's own pipeline costs three times as much a command as Redis itself. Connecting, logging in and TLS stay
redis-py's; so do the exceptions: when Redis goes away in the middle they are raised, and the connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hiredis
import redis

_RECEIVE_BYTES = 1 << 16
_MORE = object()


def packed(*command: str | bytes | int) -> bytes:
    """A command in Redis's protocol."""
    found: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its annotation allows one argument
    return found


def exchange(connection: Any, commands: bytes, count: int) -> list[Any]:
    """Send ``commands``, which are ``count`` in Redis's protocol; one reply each, an error as ``redis.ResponseError``.

    Nothing is sent again: what was lost on the way is an outage.
    """
    connection.send_packed_command([commands])
    return receive(connection, count)


def receive(connection: Any, count: int) -> list[Any]:
    """The replies to ``count`` commands that were sent before."""
    replies: list[Any] = []
    socket = connection._get_socket()
    reader = hiredis.Reader(protocolError=redis.InvalidResponse, replyError=redis.ResponseError, notEnoughData=_MORE)
    while len(replies) < count:
        if (reply := reader.gets()) is not _MORE:
            replies.append(reply)
        elif received := socket.recv(_RECEIVE_BYTES):
            reader.feed(received)
        else:
            raise redis.ConnectionError("Redis closed the connection")
    return replies


@contextmanager
def lent_connection(client: Any) -> Iterator[Any]:
    """A connection of the client's pool; closed if it may have unread replies. Raises what redis-py raises."""
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException as error:
        connection.disconnect()
        if isinstance(error, TimeoutError):
            raise redis.TimeoutError("Timeout reading from Redis") from error
        if isinstance(error, OSError):
            raise redis.ConnectionError(f"Error while reading from Redis: {error}") from error
        raise
    finally:
        pool.release(connection)
