import asyncio
import contextlib
import enum
import hashlib
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from conftest import redis_executables
from redis_proxy import redis_proxy

from pipeline import MetricsClient
from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError
from pipeline.base.redis_link import RedisLink
from pipeline.client.producer import BATCH_ITEMS, ITEM_BYTES, ClientStats
from pipeline.client.timing import Timing

KEY = "metrics:buffer"


def waiting(url: str) -> list[bytes]:
    """What lies in the buffer, oldest first."""
    with redis.Redis.from_url(f"{url}/3") as client:
        return list(reversed(client.lrange(KEY, 0, -1)))


def keys(url: str) -> list[bytes]:
    with redis.Redis.from_url(f"{url}/3") as client:
        return sorted(client.keys())


def offered(stats: ClientStats) -> int:
    return stats.pushed + stats.queued + stats.dropped + stats.in_doubt


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%06d" % i for i in range(start, start + count)]


def test_a_metric_arrives_as_one_json_object_in_the_schema_s_database(redis_url: str) -> None:
    """push writes section 6's fields, a timestamp in milliseconds, and leaves out what is absent."""
    before = time.time_ns() // 1_000_000
    with MetricsClient(redis_url, defaults={"environment": "staging", "tags": {"team": "web"}}) as client:
        assert client.push("duration", 2500, test_id="auth-001", status="passed", page=None, tags={"try": 2})
        client.push("lcp", 1234.5, environment="testing", timestamp=datetime(2025, 1, 11, 12, tzinfo=UTC))
        client.push("cls", np.float32(0.25), timestamp="2025-01-11T12:00:00Z", shard=3)
    first, second, third = (json.loads(item) for item in waiting(redis_url))
    assert before <= first.pop("timestamp") <= time.time_ns() // 1_000_000
    assert first == {
        "metric_type": "duration",
        "value": 2500,
        "test_id": "auth-001",
        "status": "passed",
        "environment": "staging",
        "tags": {"team": "web", "try": 2},
    }
    assert (second["timestamp"], second["environment"]) == (1_736_596_800_000, "testing")
    assert (third["value"], third["timestamp"], third["shard"]) == (0.25, 1_736_596_800_000, 3)


NO_NUMBERS = [math.nan, math.inf, -math.inf, 10**400, None, "5", b"5", True, np.True_, [1], 1j]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_a_value_that_is_no_finite_number_is_refused_at_the_call(value: Any) -> None:
    """ValueError, counted as refused, nothing queued."""
    with MetricsClient("redis://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="finite number"):
            client.push("duration", value)
        assert client.stats() == ClientStats(pushed=0, queued=0, dropped=0, in_doubt=0, retried=0, refused=1)


def test_a_datetime_without_zone_is_refused_and_one_with_an_offset_is_converted(redis_url: str) -> None:
    """What a naive time meant is not guessed."""
    with MetricsClient(redis_url) as client:
        with pytest.raises(ValueError, match="zone"):
            client.push("duration", 1, timestamp=datetime(2025, 1, 11))
        client.push("duration", 1, timestamp=datetime(2025, 1, 11, 14, tzinfo=timezone(timedelta(hours=2))))
    (item,) = waiting(redis_url)
    assert json.loads(item)["timestamp"] == 1_736_596_800_000


@pytest.mark.parametrize("metric_type", ["", None, 5, b"lcp"], ids=repr)
def test_a_type_that_is_no_text_is_refused_at_the_call(metric_type: Any) -> None:
    """What the drainer would refuse as a whole is an error where it was written, also in push_many."""
    with MetricsClient("redis://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="type of a metric"):
            client.push(metric_type, 1.0)
        with pytest.raises(ValueError, match="type of a metric"):
            client.push_many([{"metric_type": metric_type, "value": 1}])
        assert (client.stats().refused, client.stats().queued) == (2, 0)


@pytest.mark.parametrize(
    "timestamp",
    ["yesterday", "2025-01-11T12:00:00", math.nan, True, [1], "\ud83d", -5, "1969-12-31T23:00:00Z"],
    ids=repr,
)
def test_a_timestamp_that_is_no_time_is_refused_at_the_call(timestamp: Any) -> None:
    """It would be a dead letter later."""
    with MetricsClient("redis://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="timestamp of a metric"):
            client.push("duration", 1, timestamp=timestamp)
        assert client.stats().refused == 1


def test_tags_that_are_no_mapping_are_refused_at_the_call() -> None:
    """A sentence, not the interpreter's TypeError."""
    given: Any = [1]
    with MetricsClient("redis://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="tags of a metric must be a mapping"):
            client.push("duration", 1, tags=given)
        assert (client.stats().refused, client.stats().queued) == (1, 0)


def test_an_item_that_is_too_large_is_refused_at_the_call(redis_url: str) -> None:
    """At the pipeline's limit, or at the one that was given; what just fits is queued."""
    with MetricsClient(redis_url) as client, MetricsClient(redis_url, max_item_bytes=200_000) as wide:
        for one, most in ((client, 65_536), (wide, 200_000)):
            one.push("note", 1, timestamp=5, text="")
            assert one.flush(60)
            rest = most - len(waiting(redis_url)[-1])
            with pytest.raises(ValueError, match=f"{most + 1} bytes"):
                one.push("note", 1, timestamp=5, text="x" * (rest + 1))
            assert one.push("note", 1, timestamp=5, text="x" * rest)
            assert one.stats().refused == 1


def test_what_a_caller_changes_afterwards_changes_nothing(redis_url: str) -> None:
    """Items are encoded by the sender, later: whatever could change until then is encoded at the call."""
    told: dict[str, Any] = {"tags": {"n": 1}, "list": [1], "page": bytearray(b"a")}
    with MetricsClient(redis_url, flush_interval_s=3600) as client:
        client.push("a", 1, tags=told["tags"])
        client.push("b", 1, shards=told["list"])
        client.push("c", 1, page=told["list"])
        told["tags"]["n"] = 2
        told["list"].append(2)
    a, b, c = (json.loads(item) for item in waiting(redis_url))
    assert (a["tags"], b["shards"], c["page"]) == ({"n": 1}, [1], [1])


def test_texts_of_all_kinds_arrive_as_they_were_given(redis_url: str) -> None:
    """Any letters, quotes, newlines, large texts and enumerations, with defaults or without them."""
    texts = ["ü", "名前", 'a "b"\n{c}\\', "\x00\x1f", "x" * 5000, "😀", "\ud83d", "\ud83d\ude00", ""]
    colour = enum.Enum("Colour", {"RED": "red"}, type=str)
    for defaults in ({}, {"environment": "staging"}):
        with MetricsClient(redis_url, defaults=defaults) as client:
            for text in texts:
                client.push("t", 1.5, page=text, tags={"t": text}, **({} if len(text) % 2 else {text: text}))
                client.push("t", 1.5, page=text, attempt=2)
            client.push("t", 1, browser=colour["RED"], attempt=np.int64(3))
    found = [json.loads(item) for item in waiting(redis_url)]
    right = ["\ufffd" if text == "\ud83d" else "😀" if text == "\ud83d\ude00" else text for text in texts]
    for part in (found[: 2 * len(texts) + 1], found[2 * len(texts) + 1 :]):
        assert [row["page"] for row in part[:-1:2]] == [row["page"] for row in part[1:-1:2]] == right
        assert [row["tags"]["t"] for row in part[:-1:2]] == right
        assert all(row[text] == text for row, text in zip(part[:-1:2], right, strict=True) if len(text) % 2 == 0)
        assert (part[-1]["browser"], str(part[-1]["attempt"])) == ("red", "3")


def test_pushing_costs_redis_little_where_items_are_alike(redis_url: str) -> None:
    """No script copies the items: Lua's table of texts made a thousand that differ in some digits cost 4 ms."""
    with redis.Redis.from_url(redis_url) as reader:
        reader.config_resetstat()
    with MetricsClient(redis_url) as client:
        for number in range(3 * BATCH_ITEMS):
            client.push("duration", number, test_id="t")
    with redis.Redis.from_url(redis_url) as reader:
        commands = reader.info("commandstats")
        assert "cmdstat_eval" not in commands and "cmdstat_evalsha" not in commands
        assert commands["cmdstat_lpush"]["calls"] == commands["cmdstat_exec"]["calls"]


def test_a_raw_item_that_is_a_text_is_refused_at_the_call(redis_url: str) -> None:
    """It cannot be sent, and what stands behind it would never be."""
    with redis.Redis.from_url(f"{redis_url}/3") as reader, MetricsClient(redis_url) as client:
        with pytest.raises(TypeError, match="must be bytes, not str"):
            client.push_raw("{}")  # type: ignore[arg-type]
        client.push("lcp", 1)
        assert client.flush(10)
        assert reader.llen(KEY) == 1


@pytest.mark.parametrize(
    "given", [{"metric_type": "lcp", "value": 1}, [5], iter(["lcp"])], ids=["one", "list", "iterator"]
)
def test_push_many_says_what_it_takes(given: Any) -> None:
    """One metric by itself is what people give it."""
    client = MetricsClient("redis://127.0.0.1:1", close_timeout_s=0)
    with client, pytest.raises(TypeError, match="takes metrics, each a mapping, not"):
        client.push_many(given)


def test_a_key_that_is_no_list_keeps_metrics_waiting(redis_url: str) -> None:
    """The transaction went through, its push did not: the batch is not pushed, and goes when the key is a list."""
    with redis.Redis.from_url(f"{redis_url}/3") as admin, MetricsClient(redis_url) as client:
        admin.set(KEY, "x")
        for item in numbered(20):
            client.push_raw(item)
        while client.stats().retried < 2:
            time.sleep(0.01)
        assert "list" in client.trouble or "WRONGTYPE" in client.trouble
        assert (client.stats().pushed, client.stats().in_doubt) == (0, 0)
        admin.delete(KEY)
        assert client.flush(timeout_s=60)
    assert waiting(redis_url) == numbered(20)


def test_items_keep_their_order_and_bytes_across_batches(redis_url: str) -> None:
    """What one thread pushes lies in the list in that order, to the byte, and no marker stays behind."""
    items = [os.urandom(7) for _ in range(3 * BATCH_ITEMS + 17)]
    with MetricsClient(redis_url) as client:
        for item in items:
            client.push_raw(item)
    assert waiting(redis_url) == items
    assert client.stats() == ClientStats(len(items), queued=0, dropped=0, in_doubt=0, retried=0, refused=0)
    assert keys(redis_url) == [KEY.encode()]


def test_push_many_takes_mappings_and_a_url_may_name_its_database(redis_url: str) -> None:
    """push_many accepts what push does; redis://…/5 pushes to database 5."""
    with MetricsClient(f"{redis_url}/5", key="other") as client:
        assert client.push_many({"metric_type": "fcp", "value": i, "tags": {"n": i}} for i in range(3)) == 3
    with redis.Redis.from_url(f"{redis_url}/5") as reader:
        assert [json.loads(item)["value"] for item in reader.lrange("other", 0, -1)] == [2, 1, 0]


class _Word(enum.StrEnum):
    CHROMIUM = "chromium"


ODD_FIELDS = [
    *({"value": value} for value in (True, np.False_, math.nan, -math.inf, "5", None, -0.0)),
    *({"value": value} for value in (2**53, -(2**53), 2**53 - 1, 10**400)),
    *({"value": value} for value in (np.float64(1.5), np.int64(7), np.float32(0.1), 1e308)),
    *({"metric_type": name} for name in ("", None, 5, "\ud83d", "größe", "x" * 300)),
    *({"test_id": text} for text in (None, 5, "", "\ud83d", "tab\tline\n", "x" * 3000, _Word.CHROMIUM, b"x", ["a"])),
    *({"tags": tags} for tags in ({}, None, {"a": None}, {"a": math.nan}, {"a": [1]}, {1: 2}, [], "x", {"team": "b"})),
    *({"tags": tags} for tags in ({"a": True, "b": 2**70, "c": 0.5, "d": "\ud83d"}, [("a", 1)], {"timestamp": None})),
    *({"timestamp": at} for at in (None, -1, math.nan, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1), "soon")),
    *({"timestamp": at} for at in ("2026-01-01T00:00Z", 0, 2**60, 1.5, True, np.int64(5))),
    *({"attempt": number} for number in (None, 0, -3, True, "1", 1.0)),
    *({"zzz": 1}, {"zzz": None}, {"branch": "a", "commit": "b", "job": "c", "run_id": "d", "error_type": "e"}),
]


@pytest.mark.parametrize("defaults", [{}, {"environment": "staging", "tags": {"team": "a"}}], ids=["bare", "defaults"])
def test_a_list_means_what_its_metrics_mean_one_by_one(defaults: dict[str, Any], redis_url: str) -> None:
    """The same items, refusals and counts for every odd field, in the middle of plain ones."""
    plain = {"metric_type": "duration", "value": 2.5, "timestamp": 1_795_000_000_000, "status": "passed"}
    for odd in ODD_FIELDS:
        metrics = [plain, {**plain, **odd}, {**plain, "value": 3}]
        outcomes = []
        for given in (metrics, iter(metrics)):
            with redis.Redis.from_url(f"{redis_url}/3") as reader:
                reader.delete(KEY)
            with MetricsClient(redis_url, defaults=defaults, max_item_bytes=2_000) as client:
                try:
                    said: Any = client.push_many(given)
                except ValueError as error:
                    said = str(error)
            items = [json.loads(item) for item in waiting(redis_url)]
            if odd.get("timestamp", 0) is None:
                assert items[1].pop("timestamp") > plain["timestamp"]
            outcomes.append((said, client.stats(), [json.dumps(item, sort_keys=True) for item in items]))
        assert outcomes[0] == outcomes[1], odd


def test_anything_that_can_be_iterated_over_may_be_pushed(redis_url: str) -> None:
    """A tuple like a list; a deque, a view and a generator metric by metric."""
    metrics = [{"metric_type": "duration", "value": number} for number in range(3)]
    with MetricsClient(redis_url) as client:
        given = (metrics, tuple(metrics), deque(metrics), dict(enumerate(metrics)).values(), iter(metrics), [], ())
        assert [client.push_many(one) for one in given] == [3, 3, 3, 3, 3, 0, 0]
    assert [json.loads(item)["value"] for item in waiting(redis_url)] == [0, 1, 2] * 5


def test_a_list_fills_the_room_that_there_is(redis_url: str) -> None:
    """What does not fit is dropped and counted; nothing of a list goes to a closed client."""
    metrics = [{"metric_type": "duration", "value": number} for number in range(2_500)]
    with MetricsClient("redis://127.0.0.1:1", max_queued_bytes=1_200 * ITEM_BYTES, quiet=True) as client:
        assert client.push_many(metrics) == 1_200
        assert (client.stats().queued, client.stats().dropped) == (1_200, 1_300)
        client.close(timeout_s=0)
        assert client.push_many(metrics) == 0
        assert offered(client.stats()) == 5_000
    with MetricsClient(redis_url, max_queued_bytes=1_200 * ITEM_BYTES, room_timeout_s=60) as client:
        assert client.push_many(metrics) == 2_500
    assert [json.loads(item)["value"] for item in waiting(redis_url)] == list(range(2_500))


def test_flush_returns_when_everything_queued_is_in_redis(redis_url: str) -> None:
    """After flush() nothing is queued, long before the flush interval is over."""
    with MetricsClient(redis_url, flush_interval_s=3600) as client:
        for item in numbered(10):
            client.push_raw(item)
        assert client.flush(timeout_s=30)
        assert waiting(redis_url) == numbered(10)
        assert client.stats().queued == 0


def test_threads_share_a_client(redis_url: str) -> None:
    """Eight threads pushing at once: every item arrives once and the counts are exact."""
    with MetricsClient(redis_url) as client:

        def push(thread: int) -> None:
            for item in numbered(2_000, thread * 2_000):
                client.push_raw(item)

        threads = [threading.Thread(target=push, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(waiting(redis_url)) == numbered(16_000)
    assert client.stats().pushed == 16_000


def test_a_lost_reply_neither_loses_nor_doubles_anything(redis_url: str) -> None:
    """Four batches are executed and their replies lost; they are offered again and change nothing."""
    with redis_proxy(redis_url) as proxy, MetricsClient(proxy.url) as client:
        for part in range(4):
            proxy.lose_replies = 1
            for item in numbered(625, 625 * part):
                client.push_raw(item)
            assert client.flush(timeout_s=60)
    assert client.stats() == ClientStats(pushed=2_500, queued=0, dropped=0, in_doubt=0, retried=4, refused=0)
    assert waiting(redis_url) == numbered(2_500)


def test_an_attempt_that_arrives_after_its_successor_changes_nothing(redis_url: str) -> None:
    """A batch is held up in the network, sent again, and then the first attempt reaches the server after all."""
    with redis_proxy(redis_url) as proxy:
        proxy.hold_commands = 1
        with MetricsClient(f"{proxy.url}?socket_timeout=0.2") as client:
            for item in numbered(50):
                client.push_raw(item)
            assert client.flush(timeout_s=60)
        assert client.stats().retried >= 1
        proxy.release.set()
        assert proxy.held_was_executed.wait(30)
    assert waiting(redis_url) == numbered(50)


def test_closing_while_a_reply_is_missing_counts_the_batch_as_in_doubt(redis_url: str) -> None:
    """The server has the items, the client cannot know: in_doubt, neither pushed nor dropped."""
    with redis_proxy(redis_url) as proxy:
        proxy.lose_replies, proxy.ends_with_a_loss = 1, True
        client = MetricsClient(proxy.url, flush_interval_s=0)
        for item in numbered(30):
            client.push_raw(item)
        assert not client.flush(timeout_s=0.5)
        client.close(timeout_s=0.1)
    stats = client.stats()
    assert stats.in_doubt >= 1
    assert (stats.pushed, stats.queued, offered(stats)) == (0, 0, 30)
    assert len(waiting(redis_url)) == stats.in_doubt


def test_closing_with_batches_behind_the_one_in_doubt_counts_each_item(redis_url: str) -> None:
    """One batch is in doubt; those behind it were never offered, and are dropped."""
    with redis_proxy(redis_url) as proxy:
        proxy.lose_replies, proxy.ends_with_a_loss = 1, True
        client = MetricsClient(proxy.url, flush_interval_s=3600)
        for number in range(5 * BATCH_ITEMS):
            client.push("duration", number)
        assert not client.flush(timeout_s=0.5)
        assert client.stats().queued == 5 * BATCH_ITEMS
        client.close(timeout_s=0.1)
    stats = client.stats()
    assert (stats.pushed, stats.queued, offered(stats)) == (0, 0, 5 * BATCH_ITEMS)
    assert stats.in_doubt == len(waiting(redis_url)) == BATCH_ITEMS
    assert stats.dropped == 4 * BATCH_ITEMS


def test_batches_with_large_items_arrive_once_and_in_order(redis_url: str) -> None:
    """Small metrics and large ones, with lost replies between."""
    with redis_proxy(redis_url) as proxy, MetricsClient(proxy.url, room_timeout_s=60) as client:
        for number in range(12 * BATCH_ITEMS):
            if number % (3 * BATCH_ITEMS) == BATCH_ITEMS:
                proxy.lose_replies += 1
            client.push("duration", number, **({"note": "x" * 2_000} if number % 5_000 == 4_999 else {}))
        assert client.flush(timeout_s=60)
        assert client.stats().retried >= 1
    assert [json.loads(item)["value"] for item in waiting(redis_url)] == list(range(12 * BATCH_ITEMS))


def test_a_killed_server_costs_nothing_that_it_had_written(redis_server: Callable[..., Any]) -> None:
    """kill -9 of Redis in the middle, three times: all offered items are pushed, each is there once."""
    # always: with everysec Redis answers before it writes while an fsync takes long.
    server = redis_server(appendonly=True, options=["--appendfsync", "always"])
    total = 30_000
    with MetricsClient(server.url) as client:
        for i, item in enumerate(numbered(total)):
            client.push_raw(item)
            if i % 10_000 == 5_000:
                server.kill()
                server.start()
        assert client.flush(timeout_s=60)
        stats = client.stats()
    assert (stats.pushed, stats.dropped, stats.in_doubt) == (total, 0, 0)
    assert waiting(server.url) == numbered(total)


def test_an_outage_fills_the_queue_and_then_drops_and_the_counts_add_up(
    redis_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What fits waits and arrives when Redis is back; what does not is counted; push never waits."""
    server = redis_server(appendonly=True)
    with MetricsClient(server.url, max_queued_bytes=100_000) as client:
        client.push_raw(b"first")
        assert client.flush(timeout_s=30)
        server.kill()
        taken = [item for item in numbered(5_000) if client.push_raw(item)]
        assert len(taken) <= 100_000 // ITEM_BYTES
        stats = client.stats()
        assert (offered(stats), stats.dropped) == (5_001, 5_000 - len(taken))
        assert 0 < len(taken) < 5_000
        server.start()
        assert client.flush(timeout_s=60)
    assert client.stats().pushed == 1 + len(taken)
    assert waiting(server.url) == [b"first", *taken]
    assert sum("metrics dropped" in record.message for record in caplog.records) == 1
    assert sum("metrics lost" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(i, marks=pytest.mark.long) for i in range(2, 40))])
def test_whatever_fails_nothing_is_doubled_and_the_counts_add_up(seed: int, redis_server: Callable[..., Any]) -> None:
    """Kills, lost replies and late attempts at random while three threads push, closed in the middle of it."""
    chance = random.Random(seed)
    server = redis_server(appendonly=True)
    with redis_proxy(server.url) as proxy:
        client = MetricsClient(f"{proxy.url}?socket_timeout=0.3", max_queued_bytes=200_000, flush_interval_s=0.01)

        def push(thread: int) -> None:
            for i, item in enumerate(numbered(4_000, thread * 4_000)):
                client.push_raw(item)
                if i % 100 == 0:
                    time.sleep(0.005)

        threads = [threading.Thread(target=push, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            time.sleep(chance.uniform(0, 0.05))
            failure = chance.choice(["kill", "lose", "hold"])
            if failure == "kill":
                server.kill()
                time.sleep(chance.uniform(0, 0.1))
                server.start()
            elif failure == "lose":
                proxy.lose_replies += chance.randint(1, 3)
            else:
                proxy.hold_commands += 1
        for thread in threads:
            thread.join()
        if chance.random() < 0.5:
            proxy.lose_replies += 2
        client.close(timeout_s=chance.uniform(0, 1))
        proxy.release.set()
    stats = client.stats()
    assert (stats.queued, offered(stats)) == (0, 12_000)
    there = Counter(waiting(server.url))
    assert set(there.values()) <= {1}
    assert stats.pushed <= there.total() <= stats.pushed + stats.in_doubt


def test_closing_during_an_outage_drops_what_is_left(redis_server: Callable[..., Any]) -> None:
    """close() keeps its time limit; everything offered is then pushed or dropped."""
    server = redis_server()
    client = MetricsClient(server.url)
    client.push_raw(b"early")
    assert client.flush(timeout_s=30)
    server.kill()
    for item in numbered(2_500):
        client.push_raw(item)
    client.close(timeout_s=0.2)
    assert not client.push_raw(b"late")
    stats = client.stats()
    assert (stats.pushed, stats.queued, stats.in_doubt) == (1, 0, 0)
    assert stats.dropped == 2_501


def test_a_full_redis_makes_metrics_wait(redis_url: str) -> None:
    """Refused for lack of memory, a batch waits in the queue and goes when there is room, once."""
    with redis.Redis.from_url(redis_url) as admin, MetricsClient(redis_url) as client:
        admin.config_set("maxmemory", 1)
        for item in numbered(20):
            client.push_raw(item)
        while client.stats().retried == 0:
            time.sleep(0.01)
        assert waiting(redis_url) == []
        admin.config_set("maxmemory", 0)
        assert client.flush(timeout_s=60)
    assert waiting(redis_url) == numbered(20)


def test_an_importer_may_wait_for_room(redis_url: str) -> None:
    """With room_timeout_s a push waits for the sender instead of dropping."""
    with MetricsClient(redis_url, max_queued_bytes=10_000, room_timeout_s=60) as client:
        for item in numbered(20_000):
            assert client.push_raw(item)
    assert client.stats().pushed == 20_000
    assert waiting(redis_url) == numbered(20_000)


def test_closing_after_the_embedded_server_was_stopped_neither_fails_nor_starts_it_again(tmp_path: Path) -> None:
    """A client that is closed last leaves the stopped server stopped."""
    settings = Settings(data_dir=tmp_path)
    with MetricsClient(settings=settings) as client:
        client.push_raw(b"a")
        assert client.flush(timeout_s=30)
        RedisLink.open(settings).close(stop_embedded=True)
    assert client.stats().pushed == 1
    link = RedisLink.open(settings)
    assert link.database("metrics").lrange(KEY, 0, -1) == [b"a"]
    link.close(stop_embedded=True)


# CPython warns of forks beside threads from 3.12 on; the child of this client touches no lock of its parent.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_sends_its_own_items_and_only_those(redis_url: str) -> None:
    """Parent and child both queue before and after the fork; every item arrives exactly once."""
    client = MetricsClient(redis_url, flush_interval_s=3600)
    for item in numbered(100):
        client.push_raw(item)
    pid = os.fork()
    if pid == 0:
        try:
            for item in numbered(100, 1000):
                client.push_raw(item)
            client.close(timeout_s=30)
            assert client.stats().pushed == 100
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    client.close(timeout_s=30)
    assert sorted(waiting(redis_url)) == numbered(100) + numbered(100, 1000)


EXIT_SCRIPTS = {
    "the interpreter ends": """
client.push_raw(b"main")
""",
    "a multiprocessing child ends (fork)": """
import multiprocessing
client.push_raw(b"main")
child = multiprocessing.get_context("fork").Process(target=client.push_raw, args=(b"child",))
child.start(); child.join()
""",
    "an exception ends it": """
client.push_raw(b"main")
raise SystemExit(0)
""",
}


@pytest.mark.parametrize("redis_url", sorted(redis_executables())[:1], indirect=True)
@pytest.mark.parametrize("name", EXIT_SCRIPTS)
def test_the_queue_is_flushed_when(name: str, redis_url: str) -> None:
    """close() was not called, yet what was queued arrives."""
    script = f"from pipeline import MetricsClient\nclient = MetricsClient({redis_url!r}, flush_interval_s=3600)\n"
    subprocess.run([sys.executable, "-c", script + EXIT_SCRIPTS[name]], check=True)
    expected = {b"main": 1, b"child": 1} if "child" in name else {b"main": 1}
    assert Counter(waiting(redis_url)) == expected


def end_by_sigterm(child: Any, pushed: Any) -> None:
    """Once it has pushed; whether it ended is told by its exit code."""
    child.start()
    assert pushed.wait(120)
    child.terminate()
    child.join(120)


def _push_and_wait(url: str, pushed: Any) -> None:
    client = MetricsClient(url, flush_interval_s=600)
    client.push_raw(b"held")
    pushed.set()
    time.sleep(600)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_ended_by_sigterm_sends_what_it_holds(method: str, redis_url: str) -> None:
    """A pool of multiprocessing ends its children by SIGTERM: what their client holds is sent first."""
    context = multiprocessing.get_context(method)
    pushed = context.Event()
    child = context.Process(target=_push_and_wait, args=(redis_url, pushed))
    end_by_sigterm(child, pushed)
    assert child.exitcode == -signal.SIGTERM
    assert waiting(redis_url) == [b"held"]


def _push_and_work_in_c(url: str, pushed: Any) -> None:
    client = MetricsClient(url, flush_interval_s=600)
    client.push_raw(b"held")
    pushed.set()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # an hour, and no signal's handler before its end


def test_a_child_that_runs_no_handler_is_ended_all_the_same(redis_url: str) -> None:
    """Nor does one whose main thread began to wait just when the signal came, for which a pool would wait for ever."""
    context = multiprocessing.get_context("fork")
    pushed = context.Event()
    child = context.Process(target=_push_and_work_in_c, args=(redis_url, pushed))
    end_by_sigterm(child, pushed)
    assert child.exitcode in (-signal.SIGTERM, -signal.SIGKILL)
    assert waiting(redis_url) == [b"held"]


def _handle_sigterm_and_wait(url: str, pushed: Any, handled: Any) -> None:
    client = MetricsClient(url, flush_interval_s=600)
    client.push_raw(b"held")
    before = signal.getsignal(signal.SIGTERM)

    def own(number: int, frame: Any) -> None:
        handled.set()
        before(number, frame)

    signal.signal(signal.SIGTERM, own)
    pushed.set()
    time.sleep(600)


def test_a_child_with_a_handler_of_its_own_decides_when_it_ends(redis_url: str) -> None:
    """It is called first, and what it calls in turn flushes and ends the process."""
    context = multiprocessing.get_context("fork")
    pushed, handled = context.Event(), context.Event()
    child = context.Process(target=_handle_sigterm_and_wait, args=(redis_url, pushed, handled))
    end_by_sigterm(child, pushed)
    assert handled.is_set()
    assert child.exitcode == -signal.SIGTERM
    assert waiting(redis_url) == [b"held"]


def _push_in_a_pool(number: int, clients: dict[str, MetricsClient] = {}) -> None:  # noqa: B006  one a worker
    url = os.environ["TEST_POOL_REDIS"]
    client = clients.get(url) or clients.setdefault(url, MetricsClient(url))
    client.push_raw(b"%d" % number)


def test_a_pool_that_is_left_loses_nothing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving ``with Pool()`` ends workers by SIGTERM, some while their client is being closed already."""
    monkeypatch.setenv("TEST_POOL_REDIS", redis_url)
    for _ in range(3):
        with multiprocessing.get_context("fork").Pool(4) as pool:
            pool.map(_push_in_a_pool, range(400))
    assert Counter(map(int, waiting(redis_url))) == dict.fromkeys(range(400), 3)


POOL_SCRIPT = """
import multiprocessing, sys
from pipeline import MetricsClient
client = MetricsClient(sys.argv[1])
def push(number): client.push_raw(b"%d" % number)
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(push, range(10))
"""


def test_a_client_that_a_spawned_worker_imports_loses_nothing(redis_url: str, tmp_path: Path) -> None:
    """It is made while the worker reads the program's module, when nothing says yet that it is a child."""
    (tmp_path / "program.py").write_text(POOL_SCRIPT)
    subprocess.run([sys.executable, str(tmp_path / "program.py"), redis_url], check=True)
    assert Counter(map(int, waiting(redis_url))) == dict.fromkeys(range(10), 1)


def test_a_sender_outlives_any_error(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error is shown as trouble and tried again; the sender does not die of it."""
    client = MetricsClient(redis_url)
    attempt, failed = client._attempt, []

    def fail_once(batch: list[bytes]) -> None:
        if not failed:
            failed.append(batch)
            raise ZeroDivisionError("surprise")
        attempt(batch)

    monkeypatch.setattr(client, "_attempt", fail_once)
    with client:
        client.push_raw(b"x")
        assert client.flush(60)
    assert waiting(redis_url) == [b"x"]
    assert client.stats().retried == 1


@pytest.mark.parametrize("url", ["redis://:hunter2#x@h", "redis://h?nonsense=1", "redis://[::1", "http://u:hunter2@h"])
def test_a_url_is_read_when_the_client_is_made(url: str) -> None:
    """A URL that cannot be used is refused at once, without its password."""
    with pytest.raises(ConfigError) as refused:
        MetricsClient(url)
    assert "hunter2" not in str(refused.value)


def test_the_client_names_the_run_of_its_environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """run=True: run, job, commit and branch with each metric; what a metric or a default says wins."""
    said = {"PIPELINE_RUN_ID": "r1", "PIPELINE_JOB": "j1", "PIPELINE_COMMIT": "abc", "PIPELINE_BRANCH": "main"}
    for name, text in said.items():
        monkeypatch.setenv(name, text)
    with MetricsClient(redis_url, run=True, defaults={"branch": "side"}) as client:
        client.push("duration", 1, status="passed")
        client.push("duration", 1, status="passed", commit="def")
    with redis.Redis.from_url(f"{redis_url}/3") as reader:
        one, two = [json.loads(item) for item in reversed(reader.lrange("metrics:buffer", 0, -1))]
    assert (one["run_id"], one["job"], one["commit"], one["branch"]) == ("r1", "j1", "abc", "side")
    assert two["commit"] == "def"


def test_a_block_and_a_function_are_timed_with_how_they_ended(redis_url: str) -> None:
    """Passed, failed with the exception's name, interrupted; results and exceptions pass through; async as well."""
    with MetricsClient(redis_url, defaults={"browser": "webkit"}) as client:

        @client.timed("step", page="/cart")
        def add(a: int, b: int) -> int:
            """Add."""
            return a + b

        @client.timed("step", page="/pay")
        async def pay(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "paid"

        async def cancelled() -> None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(pay(60), 0.01)
            async with client.timed("block", status="skipped"):
                pass

        assert (add(1, 2), add.__doc__, asyncio.run(pay(0.02))) == (3, "Add.", "paid")
        asyncio.run(cancelled())
        with pytest.raises(KeyError), client.timed(test_id="t") as timing:
            timing.fields["attempt"] = 2
            raise KeyError("x")
        with pytest.raises(KeyboardInterrupt), client.timed(test_id="t", timestamp=datetime(2025, 1, 1)):
            raise KeyboardInterrupt
        with pytest.raises(TypeError, match="generator"):
            client.timed()(waiting_for_nothing)
        with pytest.raises(TypeError, match="a classmethod cannot be called"):
            client.timed()(classmethod(add))
    rows = [json.loads(item) for item in waiting(redis_url)]
    shown = [(row["metric_type"], row.get("page"), row["status"], row.get("error_type")) for row in rows]
    assert shown == [
        ("step", "/cart", "passed", None),
        ("step", "/pay", "passed", None),
        ("step", "/pay", "interrupted", None),
        ("block", None, "skipped", None),
        ("duration", None, "failed", "KeyError"),
    ]
    assert rows[1]["value"] >= 20 > rows[0]["value"] >= 0
    assert (rows[4]["attempt"], rows[4]["browser"]) == (2, "webkit")


def test_blocks_that_overlap_have_their_own_start() -> None:
    """One ``timed`` object in two threads and in two tasks."""
    took_ms: list[float] = []
    second_began = threading.Event()

    def push(_: str, value: float, **fields: Any) -> bool:
        took_ms.append(value)
        return True

    timing = Timing(push, "step", {})

    def first() -> None:
        with timing:
            began = time.perf_counter()
            assert second_began.wait(60)
            least_ms.append((time.perf_counter() - began) * 1000)

    async def block(begun: asyncio.Event, until: asyncio.Event) -> None:
        async with timing:
            began = time.perf_counter()
            begun.set()
            await until.wait()
            least_ms.append((time.perf_counter() - began) * 1000)

    async def tasks() -> None:
        begun, other, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        one = asyncio.create_task(block(begun, other))
        await begun.wait()
        await asyncio.sleep(0.02)
        two = asyncio.create_task(block(other, end))
        await one
        end.set()
        await two

    least_ms: list[float] = []
    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(0.02)
    with timing:
        second_began.set()
        thread.join()
    asyncio.run(tasks())
    assert len(took_ms) == 4
    assert (took_ms[0] >= least_ms[0] > 10, took_ms[2] >= least_ms[1] > 10) == (True, True)


def waiting_for_nothing() -> Iterator[None]:
    yield


def test_an_asyncio_application_is_not_blocked(redis_server: Callable[..., Any]) -> None:
    """Thousands of pushes while Redis stands still: the loop's other task goes on, and nothing is lost."""
    server = redis_server()
    turns = 0

    async def application(client: MetricsClient) -> None:
        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for number in range(200):
            client.push_many({"metric_type": "tick", "value": n} for n in range(20))
            async with client.timed("step"):
                assert client.push("tick", number)
                await asyncio.sleep(0)
        task.cancel()

    with MetricsClient(server.url, flush_interval_s=0.001) as client:
        server._process.send_signal(signal.SIGSTOP)
        try:
            asyncio.run(application(client))
            assert (client.stats().pushed, client.stats().queued) == (0, 4400)
        finally:
            server._process.send_signal(signal.SIGCONT)
        assert client.flush(60)
        assert client.stats().pushed == 4400
    assert turns >= 200


def test_a_metric_s_own_field_wins_over_a_default(redis_url: str) -> None:
    """On every way through the client; a default that is None is absent."""
    defaults = {"environment": "staging", "status": None, "tags": {"team": "web"}, "shard": 1}
    with MetricsClient(redis_url, defaults=defaults) as client:
        client.push("a", 1, environment="testing")
        client.push("b", 1, environment="testing", shard=2)
        client.push("c", 2**60, environment=None)
    found = [json.loads(item) for item in waiting(redis_url)]
    told = [(row["environment"], row["shard"], row["tags"], "status" in row) for row in found]
    team = {"team": "web"}
    assert told == [("testing", 1, team, False), ("testing", 2, team, False), ("staging", 1, team, False)]
