"""The document's Lua scripts: the slip of each shown on a real Redis, and the corrected script beside it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from conftest import RedisServer

from pipeline.collect.catalogue import catalogue
from pipeline.collect.check import findings, walk
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


def test_a_dequeue_that_cannot_count_takes_no_test(client: Any) -> None:
    """A damaged count is an error, and the test still waits: scripts are not undone where they fail."""
    platform = Platform(client)
    client.zadd("q", {"a": 1})
    for damaged in ("1.5", " 3 ", "0x2", "many"):
        client.hset("workers", "running", damaged)
        with pytest.raises(redis.ResponseError, match="not a whole number"):
            platform.dequeue("q", "workers", 9)
    client.set("text", "no hash")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        platform.dequeue("q", "text", 9)
    client.set("{l}:fence", "no number")
    with pytest.raises(redis.ResponseError):
        platform.lock("{l}", "a", 60_000)
    assert (client.zcard("q"), client.exists("{l}")) == (1, 0)


@pytest.mark.parametrize(
    ("name", "keys", "arguments"),
    [
        ("dequeue", ["q", "r"], []),
        ("dequeue", ["q", "r"], ["nan"]),
        ("fair_lock", ["l", "q", "w"], ["holder", 100, "now", 10]),
        ("lock", ["l", "f"], ["holder", "long"]),
        ("fair_lock", ["l", "q", "w"], ["holder", "1000.5", 100, 10]),
        ("fair_lock", ["l", "q", "w"], ["holder", 10**18, 100, 10]),
        ("fair_lock", ["l", "q", "w"], ["holder", 1000, "nan", 10]),
        ("lock", ["l", "f"], ["holder", "1000.0"]),
        ("lock", ["l", "f"], ["holder", 10**18]),
        ("rate_limit", ["c"], ["many", 1]),
        ("rate_limit", ["c"], ["nan", 1]),
        ("rate_limit", ["c"], [1, 10**17]),
        ("rate_limit", ["c"], [1, "nan"]),
        ("trim_series", ["s"], [100, "all"]),
    ],
)
def test_an_argument_that_is_no_number_is_refused_before_anything_changes(
    client: Any, name: str, keys: list[str], arguments: list[Any]
) -> None:
    """For services of other languages, which call the scripts themselves."""
    script = client.register_script(scripts()[name].text)
    with pytest.raises(redis.ResponseError, match="must be"):
        script(keys=keys, args=arguments)
    assert not client.exists(*keys)


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_time_that_would_delete_is_refused(client: Any, ttl: int) -> None:
    """EXPIRE with nothing left deletes: of a lock, of a counter (no limit at all), of all the keys of a pattern."""
    platform = Platform(client)
    assert platform.lock("{l}", "a", 60_000)
    client.set("k", "v")
    for call in (
        lambda: platform.renew_lock("{l}", "a", ttl),
        lambda: platform.lock("{l}", "a", ttl),
        lambda: platform.fair_lock("{l}", "{l}:q", "b", ttl),
        lambda: platform.rate_limit("r", 2, ttl),
        lambda: platform.expire_keys("k", ttl),
    ):
        with pytest.raises(redis.ResponseError, match=r"at least one|positive"):
            call()
    assert client.get("{l}") == b"a"
    assert client.ttl("k") == -1
    assert not client.exists("r", "{l}:q")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"details":{"lastActivity":"old"}}', "VALID"),
        ('{"lastActivity":"old","details":{"lastActivity":"old"}}', "VALID"),
        ('{"lastActivity":null}', "VALID"),
        ('{"lastActivity":"a \\"b\\""}\n', "VALID"),
        ('[{"lastActivity":"old"}]', "DAMAGED"),
        ('"text"', "DAMAGED"),
        ("[" * 2000, "DAMAGED"),
    ],
)
def test_only_the_sessions_own_field_is_edited(client: Any, text: str, reason: str) -> None:
    """Not one of an object inside; again and again, without growing; what is no object is no session."""
    platform = Platform(client)
    client.set("s", text, ex=100)
    lengths = []
    for now in ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"):
        assert platform.validate_session("s", "b", now) == (reason == "VALID", reason)
        if reason == "VALID":
            assert json.loads(client.get("s")) == json.loads(text) | {"lastActivity": now}
        lengths.append(client.strlen("s"))
    assert lengths[1] == lengths[2]
    client.delete("s")
    client.hset("s", "lastActivity", "as the document's script would write it")
    assert platform.validate_session("s", "b", "now") == (False, "DAMAGED")


def test_a_client_that_decodes_is_served_too(client: Any, redis_server: Callable[..., RedisServer]) -> None:
    """Text or bytes come as the client has them; a key that is not UTF-8 is mended as well."""
    client.set(b"test:result:\xff", "v")
    client.zadd("q", {"a": 1})
    assert Platform(client).expire_keys("test:result:*", 50) == 1
    options = client.connection_pool.connection_kwargs
    with redis.Redis(
        host=options["host"], port=options["port"], db=options.get("db", 0), decode_responses=True
    ) as text:
        platform = Platform(text)
        assert platform.dequeue("q", "workers", 2) == "a"
        assert platform.validate_session("none", "b", "t") == (False, "NOT_FOUND")
        text.set("test:result:1", "v")
        assert platform.expire_keys("test:result:1*", 50) == 1


def test_a_waiter_whose_place_was_deleted_stands_in_the_queue_again(client: Any) -> None:
    """Otherwise it would wait for ever: it is known as a waiter, and never the first."""
    platform = Platform(client)
    assert platform.fair_lock("{l}", "{l}:q", "a", 60_000, now_ms=0)
    assert not platform.fair_lock("{l}", "{l}:q", "b", 60_000, now_ms=0)
    client.delete("{l}:q", "{l}")
    assert platform.fair_lock("{l}", "{l}:q", "b", 60_000, now_ms=1)


def test_what_scripts_keep_beside_a_lock_is_in_the_schema(client: Any) -> None:
    """Fences never expire and waiters are a sorted set: neither is taken for a lock or a queue of the document."""
    platform = Platform(client)
    locks = ("lock:env:staging:chrome", "lock:test:user:u", "lock:environment:staging", "lock:database:orders")
    for lock in locks:
        assert platform.lock(lock, "worker-1", 60_000) == 1
    platform.fair_lock(locks[0], "lock:queue:env:staging", "worker-2", 60_000)
    counted = walk(client, ["coordination"], catalogue(), lambda key: False, now_s=0)
    assert findings(catalogue(), counted) == []
    assert counted.by_entry.total() == 2 * len(locks) + 2


def test_every_script_says_what_it_does() -> None:
    """Each opens with a sentence and names its keys."""
    for script in scripts().values():
        assert script.about.endswith(".")
        assert "KEYS:" in script.text
