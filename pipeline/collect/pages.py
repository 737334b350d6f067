"""SCAN over a database, one page ahead: Redis looks for the next keys while this process works on the last ones."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import redis

from pipeline.base.redis_link import outages
from pipeline.base.redis_replies import lent_connection, packed, receive

Page = tuple[int, list[bytes]]
"""Where the next page begins (0: there is none), and the keys of this one."""


def pages(client: Any, cursor: int, count: int) -> Generator[Page]:
    """The keys from ``cursor`` on, each SCAN looking at ``count`` of them. Raises ``RedisOutage``.

    Close it when it is left early: the connection on which a page is still to come is closed then.
    """
    with outages(), lent_connection(client) as connection:
        _ask(connection, cursor, count)
        while True:
            (reply,) = receive(connection, 1)
            if isinstance(reply, redis.RedisError):
                raise reply
            cursor, keys = int(reply[0]), reply[1]
            if cursor:
                _ask(connection, cursor, count)
            yield cursor, keys
            if not cursor:
                return


def _ask(connection: Any, cursor: int, count: int) -> None:
    connection.send_packed_command([packed("SCAN", cursor, "COUNT", count)])
