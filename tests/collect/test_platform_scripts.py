"""The document's Lua scripts: the slip of each shown on a real Redis, and the corrected script beside it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from conftest import RedisServer

from pipeline.collect.platform import Platform, RateLimit, scripts


@pytest.fixture
def client(redis_server: Callable[..., RedisServer]) -> Iterator[Any]:
    with redis_server().client() as client:
        yield client


def test_dequeue_returns_the_test_and_not_its_score(client: Any) -> None:
    """The document's script returns the score; the corrected one the most urgent test, within the room there is."""
    slip = client.register_script("local test = redis.call('ZPOPMIN', KEYS[1]) return test[2]")
    client.zadd("q", {"a": 50})
    assert slip(keys=["q"]) == b"50"
    client.zadd("q", {"urgent": 100, "later": 25})
    platform = Platform(client)
    assert platform.dequeue("q", "workers", 2) == b"urgent"
    assert platform.dequeue("q", "workers", 2) == b"later"
    client.zadd("q", {"third": 1})
    assert platform.dequeue("q", "workers", 2) is None
    assert platform.finish("workers") == 1
    assert platform.dequeue("q", "workers", 2) == b"third"
    assert platform.dequeue("q", "workers", 2) is None


def test_finishing_more_often_than_dequeuing_makes_no_room(client: Any) -> None:
    """The count never falls below nothing."""
    platform = Platform(client)
    assert [platform.finish("workers") for _ in range(2)] == [0, 0]


def test_session_validation_works_on_a_session_as_the_document_writes_it(client: Any) -> None:
    """The document HSETs a string key (WRONGTYPE); the corrected script edits the JSON and keeps all else of it."""
    session = {"userId": "u", "permissions": [], "n": 12345678901234567, "lastActivity": "before"}
    client.set("s", json.dumps(session), ex=100)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.hset("s", "lastActivity", "now")
    platform = Platform(client)
    assert platform.validate_session("s", "b", "2026-01-01T00:00:00Z") == (True, "VALID")
    assert json.loads(client.get("s")) == session | {"lastActivity": "2026-01-01T00:00:00Z"}
    assert 3000 < client.ttl("s") <= 3600
    client.set("empty", "{}")
    assert platform.validate_session("empty", "b", "100 %") == (True, "VALID")
    assert json.loads(client.get("empty")) == {"lastActivity": "100 %"}
    client.set("damaged", "no json")
    assert platform.validate_session("damaged", "b", "t") == (False, "DAMAGED")
    assert platform.validate_session("none", "b", "t") == (False, "NOT_FOUND")
    client.set("b", "revoked")
    assert platform.validate_session("s", "b", "t") == (False, "BLACKLISTED")


def test_a_lock_is_renewed_and_given_back_by_its_holder_alone(client: Any) -> None:
    """The document's EXPIRE prolongs another one's lock; every new holder gets a greater fencing number."""
    platform = Platform(client)
    first = platform.lock("{l}", "a", 60_000)
    assert platform.lock("{l}", "b", 60_000) == 0
    assert platform.lock("{l}", "a", 60_000) == first
    assert not platform.renew_lock("{l}", "b", 1)
    assert client.expire("{l}", 300)  # the document's way: it checks no owner
    assert platform.renew_lock("{l}", "a", 60_000)
    assert not platform.unlock("{l}", "b")
    assert platform.unlock("{l}", "a")
    assert platform.lock("{l}", "b", 60_000) > first


def test_a_fair_lock_goes_in_the_order_of_asking_and_past_the_dead(client: Any) -> None:
    """A waiter that no longer asks loses its place; the document's LPOP gives the lock to it."""
    platform = Platform(client)

    def ask(holder: str, now_ms: int) -> bool:
        return platform.fair_lock("{l}", "{l}:q", holder, 60_000, patience_ms=1000, now_ms=now_ms)

    assert ask("a", 0)
    assert not ask("b", 0)
    assert not ask("c", 10)
    assert platform.unlock("{l}", "a")
    assert not ask("c", 20)  # b was first
    assert ask("c", 1500)  # b died
    assert not ask("b", 1600)
    assert ask("c", 1700)


def test_a_rate_limit_always_expires(client: Any) -> None:
    """INCR key EX n is no command; a counter that lost its TTL gets one at the next request."""
    with pytest.raises(redis.ResponseError):
        client.execute_command("INCR", "r", "EX", 3600)
    platform = Platform(client)
    assert platform.rate_limit("r", 2, 60) == RateLimit(True, 1, 60_000)
    assert [platform.rate_limit("r", 2, 60).allowed for _ in range(2)] == [True, False]
    client.persist("r")
    assert platform.rate_limit("r", 2, 60).left_ms == 60_000


def test_the_clean_up_mends_and_does_not_delete(client: Any) -> None:
    """A result without a TTL may have been written a moment ago; it gets its TTL. Old members of a series go."""
    platform = Platform(client)
    for number in range(1200):
        client.hset(f"test:result:{number}", "status", "passed")
    client.expire("test:result:0", 5)
    assert platform.expire_keys("test:result:*", 86_400) == 1199
    assert client.ttl("test:result:0") <= 5
    client.zadd("resource:cpu:usage", {f"{second}:1": second for second in range(2500)})
    assert platform.trim_series("resource:cpu:usage", 2400) == 2400
    assert client.zcard("resource:cpu:usage") == 100


def test_every_script_says_what_it_does() -> None:
    """Each opens with a sentence and names its keys."""
    for script in scripts().values():
        assert script.about.endswith(".")
        assert "KEYS:" in script.text
