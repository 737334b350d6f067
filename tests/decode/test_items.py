"""Pages of a list, received without redis-py's parser: the same items, whatever they hold and however they arrive."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import redis
from conftest import RedisServer
from drain_parts import buffer_on, client_of, push
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.base.errors import RedisOutage
from pipeline.base.redis_link import outages
from pipeline.decode import items as items_module
from pipeline.decode.items import Items, fetch

TRICKY = [
    b"",
    b"\r\n",
    b"$3\r\nabc\r\n",
    b"*1\r\n",
    b"\x00\xff",
    b"$",
    b"-ERR",
    "Größe".encode(),
    b"x" * 70_000,
    b"\n" * 40,
]


def test_items_are_what_lrange_says(redis_url: str) -> None:
    """Any bytes, any page size, any stretch of the list."""
    client = client_of(redis_url)
    push(client, TRICKY * 20)
    for first, count, page_rows in [(0, 200, 7), (0, 200, 1), (3, 100, 1_000), (199, 1, 5), (0, 1, 1)]:
        found = fetch(client, "metrics:buffer", first, count, page_rows)
        assert list(found) == client.lrange("metrics:buffer", first, first + count - 1)
        assert [found[at] for at in range(len(found))] == list(found)


def test_large_items_make_room_for_themselves(redis_url: str) -> None:
    """Megabytes behind small items, which the first guess could not know of."""
    client = client_of(redis_url)
    items = [b"small"] * 50 + [bytes([65 + number]) * 3_000_000 for number in range(4)] + [b""] * 10
    push(client, items)
    assert list(fetch(client, "metrics:buffer", 0, len(items), 20)) == items[::-1]


def test_one_huge_item_says_little_about_the_rest(redis_url: str) -> None:
    """Two megabytes first and small ones behind: no memory is asked for as if all were like that (200 GB)."""
    client = client_of(redis_url)
    items = [b"small"] * 99_998 + [b"y" * 60_000, b"x" * 2_084_000]
    push(client, items)
    found = fetch(client, "metrics:buffer", 0, len(items), 5_000)
    assert len(found.data) < 64 << 20
    assert list(found) == items[::-1]


def test_a_list_that_is_shorter_gives_what_it_has(redis_url: str) -> None:
    """Also one that is gone; the connection can be used afterwards."""
    client = client_of(redis_url)
    push(client, [b"1", b"2", b"3"])
    assert list(fetch(client, "metrics:buffer", 1, 10, 4)) == [b"2", b"1"]
    assert list(fetch(client, "nowhere", 0, 10, 4)) == []
    assert client.llen("metrics:buffer") == 3


def test_an_error_is_redis_py_s(redis_url: str) -> None:
    """A key of another type, a server that is loading: the same exceptions as from any other command."""
    client = client_of(redis_url)
    client.set("text", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        fetch(client, "text", 0, 10, 4)
    assert client.get("text") == b"x"


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_are_understood(redis_url: str, protocol: int) -> None:
    """A client that the caller made may speak RESP3."""
    with redis.Redis.from_url(redis_url, protocol=protocol) as client:
        push(client, TRICKY)
        assert list(fetch(client, "metrics:buffer", 0, len(TRICKY), 3)) == TRICKY[::-1]


def test_when_redis_dies_it_is_an_outage(redis_server: Callable[..., RedisServer]) -> None:
    """And when it is back, the next reading succeeds on another connection."""
    server = redis_server(appendonly=True)
    buffer = buffer_on(server.url)
    push(buffer.client, TRICKY)
    assert len(fetch(buffer.client, "metrics:buffer", 0, 5, 5)) == 5
    server.kill()
    for _ in range(2):
        with pytest.raises(RedisOutage), outages():
            fetch(buffer.client, "metrics:buffer", 0, 5, 5)
    server.start()
    assert list(fetch(buffer.client, "metrics:buffer", 0, 5, 5)) == TRICKY[::-1][:5]


class Socket:
    """Hands a reply over in pieces, then closes."""

    def __init__(self, reply: bytes, pieces: Iterator[int]) -> None:
        self._reply = reply
        self._pieces = pieces

    def recv_into(self, room: Any) -> int:
        size = min(next(self._pieces), len(room), len(self._reply))
        room[:size] = list(self._reply[:size])
        self._reply = self._reply[size:]
        return size


def reply_of(items: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%s\r\n" % (len(item), item) for item in items)


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(TRICKY[:8])), max_size=12), st.randoms())
@example([b""], Random(0))
def test_however_the_network_cuts_a_reply(items: list[bytes], chance: Random) -> None:
    """Byte by byte or at any place; two replies one after the other."""
    landing = items_module._Landing(2 * len(items))
    for _ in range(2):
        pieces = iter(lambda: chance.choice((1, 1, 2, 3, 7, 50)), 0)
        assert landing.receive(Socket(reply_of(items), pieces), len(items)) == len(items)
    read = Items(landing.data, landing.starts[: landing.found], landing.ends[: landing.found])
    assert list(read) == items * 2


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"-LOADING Redis is loading the dataset in memory\r\n", id="an error"),
        pytest.param(b"*-1\r\n", id="no array"),
        pytest.param(b"*2\r\n$1\r\na\r\n:5\r\n", id="a number in it"),
        pytest.param(b"*1\r\n$-1\r\n", id="a null in it"),
        pytest.param(b">2\r\n$1\r\na\r\n", id="a push message"),
        pytest.param(b"*9\r\n", id="more than was asked for"),
        pytest.param(b"*1\r\n$1\r\na\r\n+OK\r\n", id="another reply behind it"),
        pytest.param(b"x" * 40, id="no end of the line"),
    ],
)
def test_any_other_reply_is_left_to_redis_py(reply: bytes) -> None:
    """It is not guessed what it means."""
    with pytest.raises((items_module._OtherReply, redis.ConnectionError)) as caught:
        items_module._Landing(2).receive(Socket(reply, iter(lambda: 1000, 0)), 2)
    assert caught.type is items_module._OtherReply


def test_a_reply_cut_off_is_an_outage() -> None:
    """At every byte of it."""
    whole = reply_of([b"abc", b"", b"\r\n"])
    for size in range(len(whole)):
        with pytest.raises(redis.ConnectionError):
            items_module._Landing(3).receive(Socket(whole[:size], iter(lambda: 4, 0)), 3)


def test_items_are_a_sequence_of_what_was_given() -> None:
    """Length, single items, slices; joined ones stay as they are."""
    items = Items.of(TRICKY)
    assert list(items) == TRICKY and len(items) == len(TRICKY)
    assert list(items[2:5]) == TRICKY[2:5] and items[-1] == TRICKY[-1]
    assert Items.of(items) is items
    assert list(Items.of([])) == []
    assert all(one < other for one, other in pairwise(items.starts))
