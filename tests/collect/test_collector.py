"""The platform's keys on a real Redis, seeded with the document's own examples, and what they become."""

import json
import math
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import RedisServer

from pipeline.alerts.journal.maintenance import MaintenanceWindows
from pipeline.base import config, failpoints
from pipeline.base.config import RedisDatabases
from pipeline.base.errors import ConfigError, RedisOutage
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import RedisLink
from pipeline.collect import derive
from pipeline.collect.catalogue import Catalogue, catalogue, shipped
from pipeline.collect.channels import ChannelCounter
from pipeline.collect.check import findings, walk
from pipeline.collect.collector import Collector
from pipeline.collect.entry_checks import mistakes
from pipeline.collect.looks import KeyLook
from pipeline.collect.platform import Platform
from pipeline.collect.redis_health import RedisHealth
from pipeline.collect.told import read_states
from pipeline.metric import Limits, Metric, decode
from pipeline.operate import preflight
from pipeline.operate.redis_findings import collecting_finding, rights_finding

SECRETS = (
    "user_123", "test_admin", "127.0.0.1", "192.168.1.100", "123456", "tok-1", "tok-2", "test@example.com", "s-1",
    "SecurePass123!", "staging-api.example.dev", "generated@test.com", "data-testid", "connection-1", "test_user_123",
)  # fmt: skip
INTERVAL_S = 15.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def seed(server: RedisServer) -> None:
    """Every example of the document that is a command, literally."""
    numbers = RedisDatabases()
    for entry in shipped():
        if entry.example and entry.type != "channel":
            with server.client(getattr(numbers, entry.database)) as client:
                client.execute_command(*shlex.split(entry.example))


def collector_on(server: RedisServer, **options: Any) -> Collector:
    link = RedisLink.open(config.Settings(redis=config.RedisSettings(url=server.url)))
    return Collector(
        link.database, RedisDatabases().model_dump(), BufferKeys("metrics:buffer"),
        options.pop("catalogue", catalogue()), INTERVAL_S, **options,
    )  # fmt: skip


def collected(server: RedisServer) -> list[Metric]:
    """What collectors pushed, the oldest first, all of it readable by the drainer's own rules."""
    with server.client(3) as client:
        items = client.lrange("metrics:buffer", 0, -1)[::-1]
    found = [decode(item, now_ms(), Limits()) for item in items if b'"source":"collect"' in item]
    assert all(isinstance(one, Metric) for one in found), found
    return [one for one in found if isinstance(one, Metric)]


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server()


EXPECTED: dict[str, tuple[float, dict[str, str]]] = {
    "sessions_active": (1, {"environment": "testing", "browser": "chromium", "tags.role": "admin"}),
    "login_attempts_last_hour": (4, {}),
    "failed_logins_open": (3, {}),
    "users_locked_out": (1, {}),
    "api_requests_last_hour": (12, {"endpoint": "orders"}),
    "sessions_expiry_overdue": (1, {}),
    "security_event": (1, {"tags.type": "failed_login"}),
    "tests_running": (1, {"node": "worker-node-1"}),
    "tests_stuck": (1, {}),
    "lock_queue_depth": (2, {"tags.lock": "env:staging"}),
    "locks_without_holder": (1, {}),
    "worker_load": (0.6, {"node": "worker-node-1", "tags.state": "busy"}),
    "worker_free": (2, {"node": "worker-node-1"}),
    "test_blocked_by": (2, {"test_id": "auth-001"}),
    "sync_ready": (2, {"tags.test_group": "checkout"}),
    "results_cached": (1, {"tags.result": "passed", "browser": "chromium"}),
    "load_time": (1200, {"test_id": "auth-001", "page": "login"}),
    "lcp": (1500, {"page": "login"}),
    "cls": (0.05, {"page": "login"}),
    "cpu_usage": (45.2, {"node": "node-1"}),
    "network_io": (1024, {"node": "node-1"}),
    "resource_cpu_usage": (75.5, {}),
    "resource_network_bandwidth": (1024, {}),
    "ai_requests": (1500, {"tags.model": "gemini-pro"}),
    "ai_tokens_cached": (150, {"tags.model": "gemini-pro"}),
    "ai_quality_gap": (0.87 - 0.9, {"test_id": "auth-001"}),
    "ai_quota_used": (42, {"tags.api": "gemini", "tags.period": "daily"}),
    "ai_cost_daily": (0.0023, {"tags.api": "gemini"}),
    "ai_queue_depth": (1, {}),
    "subscriptions_without_connection": (0, {}),
    "topic_subscribers": (2, {"tags.topic": "test:status"}),
    "environment_healthy": (1, {"environment": "staging"}),
    "environment_available_slots": (10, {"environment": "staging"}),
    "service_up": (1, {"tags.service": "auth-service"}),
    "service_response_time": (120, {"tags.service": "auth-service"}),
    "maintenance_active": (0, {"environment": "staging"}),
    "cleanups_overdue": (1, {}),
    "retention_hours": (720, {"tags.what": "performance_metrics"}),
    "executions_in_context": (1, {"browser": "chromium", "test_name": "login-flow-test"}),
    "step_duration": (1200, {"test_name": "Navigate to login", "tags.state": "completed"}),
    "test_error": (1, {"error_type": "ElementNotFoundError"}),
    "browser_memory": (512, {"node": "b-1"}),
    "pages_open": (1, {"tags.load_state": "networkidle"}),
}


def test_every_part_of_the_document_becomes_what_the_catalogue_says(server: RedisServer) -> None:
    """Seeded with the document's examples, one pass over each database gives every metric, by value."""
    seed(server)
    collector_on(server).run(now_ms(), budget_s=60)
    found = {one.metric_type: one for one in collected(server)}
    for metric_type, (value, where) in EXPECTED.items():
        assert metric_type in found, metric_type
        one = found[metric_type]
        assert one.value == pytest.approx(value), metric_type
        for name, text in where.items():
            seen = one.tags.get(name[5:]) if name.startswith("tags.") else getattr(one, name)
            assert seen == text, (metric_type, name)
    assert Counter(one.metric_type for one in collected(server))["response_time"] == 3
    assert sorted(one.value for one in collected(server) if one.metric_type == "response_time") == [135, 150, 180]
    assert {one.tags["kind"]: one.value for one in collected(server) if one.metric_type == "artifacts"} == {
        "png": 1, "mp4": 1, "txt": 1,
    }  # fmt: skip


def test_every_catalogue_entry_with_a_metric_is_seen(server: RedisServer) -> None:
    """No entry is forgotten: each one that the platform writes reports a key of its own."""
    seed(server)
    collector = collector_on(server)
    collector.run(now_ms(), budget_s=60)
    unseen = [name for name, state in collector.states.items() if not state.keys]
    channels = {entry.name for entry in shipped() if entry.type == "channel"}
    assert set(unseen) <= channels
    assert {name: state.trouble for name, state in collector.states.items() if state.trouble} == {}


def test_names_addresses_and_tokens_never_leave_redis(server: RedisServer) -> None:
    """A secret planted in every value is found nowhere in what is pushed, nor in what collectors remember."""
    seed(server)
    collector_on(server).run(now_ms(), budget_s=60)
    with server.client(3) as client:
        left = [*client.lrange("metrics:buffer", 0, -2), *client.hgetall("{metrics:buffer}:collected").keys()]
        left += client.hgetall("{metrics:buffer}:collected").values()
    text = b"\n".join(left).decode("utf-8", "replace")
    assert [secret for secret in SECRETS if secret in text] == []


BROKEN = {
    "half JSON": b'{"userId": "planted-secret-1", "token": "planted-secret-2", "cookies": ["planted-secret-3"',
    "bytes": b"\xff\xfeplanted-secret-1\x00planted-secret-2",
    "deep JSON": b'{"a":' * 500 + b'"planted-secret-1"' + b"}" * 500,
    "another shape": b'[["planted-secret-1"], {"planted-secret-2": {"planted-secret-3": 1}}]',
    "a number with words": b"12 planted-secret-1",
}


@pytest.mark.parametrize("form", BROKEN)
@pytest.mark.parametrize(
    "kind", ["string", "hash", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("list", "set", "zset"))]
)
def test_no_broken_value_leaves_redis(
    server: RedisServer, form: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever type a documented key has and whatever it holds: counted and told by pattern, its text stays there."""
    numbers, value = RedisDatabases(), BROKEN[form]
    for entry in shipped():
        if not entry.example or entry.type == "channel" or entry.pattern.startswith("metrics:"):
            continue
        key = shlex.split(entry.example)[1]
        with server.client(getattr(numbers, entry.database)) as client:
            client.delete(key)
            if kind == "string":
                client.set(key, value)
            elif kind == "list":
                client.rpush(key, value)
            elif kind == "set":
                client.sadd(key, value)
            elif kind == "zset":
                client.zadd(key, {value: time.time()})
            else:
                # A line of words is a name where the catalogue asks for one.
                names = {name for one in entry.metrics for _, origin, name in one.label_origins if origin == "field"}
                fields = shlex.split(entry.example)[2::2] if entry.type == "hash" else []
                if form == "a number with words":
                    fields = [] if entry.name == "features" else [name for name in fields if name not in names]
                if fields or entry.name != "features":
                    client.hset(key, mapping={"another": value, **dict.fromkeys(fields, value)})
    collector = collector_on(server)
    with caplog.at_level("DEBUG"):
        for later_ms in (0, 15_000):
            collector.run(now_ms() + later_ms, budget_s=60)
    with server.client(3) as client:
        left = [*client.lrange("metrics:buffer", 0, -1), *client.hgetall("{metrics:buffer}:collected").keys()]
        left += client.hgetall("{metrics:buffer}:collected").values()
    told = [record.getMessage() for record in caplog.records]
    told += [state.trouble for state in collector.states.values()]
    for name in {entry.database for entry in shipped()}:
        with server.client(getattr(numbers, name)) as client:
            checked = walk(client, [name], Catalogue(shipped()), lambda key: False, now_s=time.time())
            told += [str(one.as_dict()) for one in findings(Catalogue(shipped()), checked)]
    text = b"\n".join(left).decode("utf-8", "replace") + "\n".join(told)
    assert [line[:200] for line in text.splitlines() if "planted-secret" in line] == []


def test_a_second_round_collects_no_event_twice(server: RedisServer) -> None:
    """Gauges come once a round; events, list elements and changed hashes only when they are new."""
    seed(server)
    collector_on(server).run(now_ms(), budget_s=60)
    first = Counter(one.metric_type for one in collected(server))
    collector_on(server).run(now_ms() + 15_000, budget_s=60)  # a new process: nothing is remembered but in Redis
    second = Counter(one.metric_type for one in collected(server)) - first
    events = {"security_event", "response_time", "load_time", "lcp", "cls", "step_duration", "test_error"}
    assert not events & set(second)
    assert not {name for name in second if name.startswith("resource_")}
    assert second["sessions_active"] == second["cpu_usage"] == 1
    with server.client(2) as client:
        client.lpush("api:response_times:orders", 999)
        client.hset("perf:auth-001:login", "load_time", 1300)
    collector_on(server).run(now_ms() + 30_000, budget_s=60)
    third = Counter(one.metric_type for one in collected(server)) - first - second
    assert (third["response_time"], third["load_time"], third["test_error"]) == (1, 1, 0)


def test_a_gauge_is_one_sample_a_tick(server: RedisServer) -> None:
    """Two processes in the same tick, or one restarted, push one sample."""
    seed(server)
    at = now_ms()
    collector_on(server).run(at, budget_s=60)
    before = len(collected(server))
    collector_on(server).run(at, budget_s=60)
    assert len(collected(server)) == before


def test_a_list_that_slid_further_than_it_is_long_counts_a_gap(server: RedisServer) -> None:
    """Elements that fell off between two looks cannot be known; that there were some is said."""
    with server.client(2) as client:
        client.lpush("api:response_times:orders", *range(1000))
        collector_on(server).run(now_ms(), budget_s=60)
        client.lpush("api:response_times:orders", *range(5000, 6500))
        client.ltrim("api:response_times:orders", 0, 999)
    collector_on(server).run(now_ms() + 15_000, budget_s=60)
    counts = Counter(one.metric_type for one in collected(server))
    assert (counts["response_time"], counts["collect_gaps"]) == (2000, 1)


@pytest.mark.parametrize("place", ["collect.after_states", "collect.before_push", "collect.after_push",
                                   "collect.before_gauges", "collect.after_gauges"])  # fmt: skip
@pytest.mark.parametrize("nth", [1, 2])
def test_a_death_at_any_step_neither_loses_nor_doubles_an_event(
    server: RedisServer, place: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that dies there, and one that comes after it, collect every event exactly once."""
    seed(server)
    monkeypatch.setenv(failpoints.VARIABLE, f"{place}:{nth}:raise")
    failpoints.reset()
    with pytest.raises(failpoints.Injected):
        collector_on(server).run(now_ms(), budget_s=60)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints.reset()
    collector_on(server).run(now_ms() + 15_000, budget_s=60)
    counts = Counter(one.metric_type for one in collected(server))
    for event, expected in {"security_event": 1, "response_time": 3, "lcp": 1, "step_duration": 1, "test_error": 1,
                            "resource_cpu_usage": 1, "resource_memory_usage": 1}.items():  # fmt: skip
        assert counts[event] == expected, event


# Bad input


def test_bad_keys_are_reported_once_and_cost_nothing_around_them(server: RedisServer) -> None:
    """A wrong type, a half-written hash, text for a number, a huge value: said by entry, the rest is collected."""
    seed(server)
    with server.client(2) as client:
        client.set("system:metrics:node-2", "not a hash")
        client.hset("system:metrics:node-3", "cpu_usage", "hot")
        client.hset("system:metrics:node-4", "memory_usage", 5)
    with server.client(0) as client:
        client.set("session:test:huge", b"x" * 5_000_000)
        client.set("session:test:broken", "{")
        client.set("rate:login:x", "many")
        client.set("rate:login:y", "\u0661\u0662")  # Arabic figures, which float() takes
    collector = collector_on(server)
    collector.run(now_ms(), budget_s=60)
    assert (
        "not a hash" in collector.states["system_metrics"].trouble
        or "not a number" in collector.states["system_metrics"].trouble
    )
    assert collector.states["system_metrics"].troubled_keys == 2
    assert collector.states["test_session"].troubled_keys == 2
    assert collector.states["rate_login"].trouble == "the value is not a number"
    assert collector.states["rate_login"].troubled_keys == 2
    nodes = {one.node: one.value for one in collected(server) if one.metric_type in ("cpu_usage", "memory_usage")}
    assert nodes["node-4"] == 5
    assert {one.metric_type for one in collected(server)} >= set(EXPECTED)


def test_a_huge_element_a_deep_value_and_halves_of_characters_stop_nothing(server: RedisServer) -> None:
    """Elements that take too much are not read, JSON of any depth is refused, text that is no Unicode is replaced."""
    with server.client(0) as client:
        client.rpush("security:events", *[json.dumps({"type": "logout"})] * 9, b"x" * 6_000_000)
        client.set("session:test:deep", b"[" * 60_000)
        client.set("session:test:half", rb'{"environment": "\ud800", "browser": "b", "role": "r"}')
        client.set("session:test:long", json.dumps({"environment": "long", "note": "y" * 20_000}))
    with server.client(2) as client:
        client.hset("system:metrics:n", mapping={"cpu_usage": "z" * 5_000_000, "memory_usage": 7})
        client.rpush("api:response_times:deep", b"1", b"[" * 60_000, b"1_000")
    collector = collector_on(server)
    collector.run(now_ms(), budget_s=60)
    assert "takes more than" in collector.states["security_events"].trouble
    assert collector.states["test_session"].trouble == "the value is not a JSON object"
    assert collector.states["test_session"].troubled_keys == 1
    assert {one.environment for one in collected(server) if one.metric_type == "sessions_active"} == {"", "?", "long"}
    assert [one.value for one in collected(server) if one.metric_type == "memory_usage"] == [7]
    assert [one.value for one in collected(server) if one.metric_type == "response_time"] == [1]


def test_of_a_very_long_queue_the_depth_and_the_oldest_are_known(server: RedisServer) -> None:
    """A queue of 60,000 tests that takes many megabytes is still measured; a thousand of its members are read."""
    at = now_ms()
    with server.client(1) as client:
        for first in range(0, 60_000, 5_000):
            members = {json.dumps({"testId": number, "queuedAt": at - 90_000, "pad": "p" * 100}): number
                       for number in range(first, first + 5_000)}  # fmt: skip
            client.zadd("test:queue:high", members)
    collector_on(server).run(at, budget_s=60)
    found = {one.metric_type: one.value for one in collected(server)}
    assert (found["queue_depth"], found["queue_age"]) == (60_000, 90)


def test_what_is_skipped_and_what_is_ours_is_not_collected(server: RedisServer) -> None:
    """``collect.skip`` names entries; keys that this product writes are never collected."""
    seed(server)
    collector_on(server, skip=["workers", "page_performance"]).run(now_ms(), budget_s=60)
    types = {one.metric_type for one in collected(server)}
    assert not types & {"worker_load", "load_time"}
    assert not types & {"avg_duration", "success_rate", "total_runs"}


def test_a_deployment_adds_its_own_keys(server: RedisServer) -> None:
    """``collect.keys``: a pattern, a type, a field and a metric type are enough."""
    own = [{"pattern": "gpu:{node}", "type": "hash", "field": "load", "metric_type": "gpu_load", "database": "results"}]
    with server.client(2) as client:
        client.hset("gpu:rack-1", "load", 77)
    collector_on(server, catalogue=catalogue(own)).run(now_ms(), budget_s=60)
    (one,) = [one for one in collected(server) if one.metric_type == "gpu_load"]
    assert (one.value, one.node) == (77, "rack-1")


GPU = {"pattern": "gpu:{node}", "type": "hash", "field": "load", "metric_type": "gpu_load"}


@pytest.mark.parametrize(("differs", "said"), [
    ({"feild": "load"}, "there is no such name; did you mean 'field'?"),
    ({"type": "hsah"}, "Input should be"),
    ({"database": "resluts"}, "'resluts' is no database; did you mean 'results'?"),
    ({"pattern": "gpu:{node"}, "has a brace that is part of no placeholder"),
    ({"pattern": "gpu:{node}:{node}"}, "has the placeholder {node} twice"),
    ({"pattern": "perf:{test}:{page}"}, "belong to 'page_performance' (perf:{test_id}:{page}) already"),
    ({"pattern": "test:result:{id}"}, "belong to 'test_result'"),
    ({"field": None}, "no field is named"),
    ({"feild": "load", "type": None}, "there is no such name; did you mean 'field'?"),
    ({"type": "list"}, "'size' of a list reads no 'field'"),
    ({"type": "string"}, "a string that holds an object is a json"),
    ({"metric_type": "gpu\nload"}, "is not one printable word"),
    ({"writer": "pipeline"}, "what the pipeline writes is never collected"),
    ({"ttl_s": -5}, "Input should be greater than 0"),
    ({"metric_type": "duration"}, "is that of executions, which come from the buffer"),
    ({"by": {"node": "{nod}"}}, "which the pattern 'gpu:{node}' does not have; did you mean 'node'?"),
    ({"by": {"rack": "{node}"}}, "'by' names 'rack'; a metric has "),
    ({"type": "list", "metrics": [{"kind": "fields", "fields": {"load": "gpu_load"}}]}, "a list has no 'fields'"),
    ({"metrics": [{"kind": "size"}]}, "it has no metric_type"),
])  # fmt: skip
def test_an_entry_that_would_collect_nothing_is_refused_in_words(differs: dict[str, Any], said: str) -> None:
    """Each mistake of ``collect.keys`` names its place, and what was probably meant; `validate` finds it too."""
    own = {name: value for name, value in {**GPU, **differs}.items() if value is not None}
    if "metrics" in own:
        own = {name: own[name] for name in ("pattern", "type", "metrics")} | {"name": "gpu", "database": "results"}
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        preflight.check(config.Settings(collect={"keys": [GPU | {"pattern": "cpu:{node}", "name": "x"}, own]}))
    assert str(raised.value).startswith("setting 'collect.keys.1")


def test_the_shipped_catalogue_is_held_to_what_is_asked_of_own_entries() -> None:
    """No entry of the document has a mistake of these kinds; a more exact pattern than one of its is taken."""
    assert {entry.name: found for entry in shipped() if (found := list(mistakes(entry)))} == {}
    urgent = {"pattern": "test:queue:urgent", "type": "zset", "metric_type": "urgent", "database": "coordination"}
    match = catalogue([urgent]).match("coordination", "test:queue:urgent")
    assert match is not None
    assert match.entry.name == "test_queue_urgent"


def test_a_name_to_skip_that_is_unknown_is_refused() -> None:
    """By `validate` too, also while collecting is off."""
    for enabled in (True, False):
        with pytest.raises(ConfigError, match="did you mean 'page_performance'"):
            preflight.check(config.Settings(collect={"skip": ["page_perfomance"], "enabled": enabled}))


def test_many_foreign_keys_are_gone_through_in_several_runs(server: RedisServer) -> None:
    """A run stops when its time is used up and the next one goes on where it stopped."""
    with server.client(2) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(20_000):
            pipe.set(f"foreign:{number}", 1)
        pipe.hset("system:metrics:node-1", "cpu_usage", 1)
        pipe.execute()
    collector = collector_on(server)
    runs = 0
    while not [one for one in collected(server) if one.metric_type == "cpu_usage"]:
        collector.run(now_ms(), budget_s=0.0)
        runs += 1
        assert runs < 1000
    assert runs > 5


def test_a_pass_that_an_outage_ends_counts_no_key_twice(server: RedisServer) -> None:
    """Redis is full in the middle of a pass; when it has room again the gauges are right, and events are there once."""
    with server.client(2) as client:
        for number in range(700):
            client.hset(f"test:result:{number}", mapping={"status": "passed", "browser": "chromium"})
        client.hset("perf:auth-001:login", "load_time", 1200)
        client.config_set("maxmemory", 1)
        collector = collector_on(server)
        with pytest.raises(RedisOutage):
            collector.run(now_ms(), budget_s=60)
        client.config_set("maxmemory", 0)
        collector.run(now_ms(), budget_s=60)
    found = [(one.metric_type, one.value) for one in collected(server)]
    assert sorted(found) == [("load_time", 1200), ("results_cached", 700)]


def test_an_empty_value_is_there_and_said(server: RedisServer) -> None:
    """It counts where keys are counted; where a number or an object is wanted it is reported."""
    with server.client(0) as client:
        client.set("lockout:user-1", "")
        client.set("session:test:empty", "")
    with server.client(4) as client:
        client.set("cost:daily:gemini", "")
    collector = collector_on(server)
    collector.run(now_ms(), budget_s=60)
    found = {one.metric_type: one.value for one in collected(server)}
    assert (found["users_locked_out"], found["sessions_active"]) == (1, 1)
    assert collector.states["test_session"].trouble == "the value is not a JSON object"
    assert collector.states["cost_daily"].trouble == "the value is not a number"


def test_a_time_that_is_none_stops_nothing_and_hides_nothing(server: RedisServer) -> None:
    """Of a sorted set of times: endless scores and times to come are said; what comes at real times is collected."""
    at = now_ms()
    years_ahead = 4_070_908_800  # in seconds, as many a clock is wrong
    with server.client(3) as client:
        client.zadd("resource:cpu:usage", {"1": math.inf, "2": -math.inf, f"{years_ahead}:3": years_ahead, "x": 1e300})
        client.zadd("resource:cpu:usage", {f"{at // 1000 - 9}:50": at // 1000 - 9})
        collector = collector_on(server)
        collector.run(at, budget_s=60)
        assert collector.states["resource_cpu"].trouble == "4 members have a time to come, or none"
        client.zadd("resource:cpu:usage", {f"{at // 1000 - 5}:60": at // 1000 - 5})
    collector.run(at + 20_000, budget_s=60)
    assert [one.value for one in collected(server) if one.metric_type == "resource_cpu_usage"] == [50, 60]


def test_more_members_at_one_time_than_one_look_reads_come_through(server: RedisServer) -> None:
    """Once each, over several looks; past a limit the rest is given up, said, and later times go on."""
    at = now_ms()
    second = at // 1000 - 100
    with server.client(3) as client:
        client.zadd("resource:cpu:usage", {f"{second}:{number}": second for number in range(2_500)})
        client.zadd("resource:memory:usage", {f"{second}:{number}": second for number in range(8_000)})
        client.zadd("resource:memory:usage", {f"{second + 1}:0.5": second + 1})
    collector = collector_on(server)
    for number in range(9):
        collector.run(at + number * 20_000, budget_s=60)
    values = Counter((one.metric_type, one.value) for one in collected(server) if one.metric_type[:9] == "resource_")
    assert set(values.values()) == {1}
    assert sum(name == "resource_cpu_usage" for name, _ in values) == 2_500
    assert ("resource_memory_usage", 0.5) in values


def test_seconds_and_milliseconds_stand_side_by_side(server: RedisServer) -> None:
    """Writers of one sorted set need not agree on the unit, and may change it: each sample is collected once."""
    at = now_ms()
    with server.client(3) as client:
        collector = collector_on(server)
        for number in range(3):
            client.zadd("resource:cpu:usage", {f"ms:{number}": at + number * 1000 + 500})
            client.zadd("resource:cpu:usage", {f"s:{number}.5": at / 1000 + number + 0.0001})
            client.zadd("resource:cpu:usage", {f"late:{number}.7": at / 1000 + number + 0.6})
            collector.run(at + 20_000 * number, budget_s=60)
        client.zadd("resource:memory:usage", {f"m:{n}": at - 9_000_000 + n for n in range(2_500)})
        client.zadd("resource:memory:usage", {f"s:{n}": (at - 9_000_000 + n) / 1000 for n in range(5_000, 7_500)})
        for number in range(3, 12):
            collector.run(at + 20_000 * number, budget_s=60)
    found = Counter((one.metric_type, one.value) for one in collected(server))
    cpu = sorted(value for name, value in found if name == "resource_cpu_usage")
    assert cpu == [0, 0.5, 0.7, 1, 1.5, 1.7, 2, 2.5, 2.7]
    assert sum(name == "resource_memory_usage" for name, _ in found) == 5_000
    assert {count for (name, _), count in found.items() if name.startswith("resource_")} == {1}


def test_holders_that_are_not_looked_at_are_not_missed(server: RedisServer) -> None:
    """Without the tests that run no lock is said to lack its holder, without connections no subscription is an orphan:
    neither when these entries are skipped nor when they may not be read."""
    seed(server)
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "some", "on", ">secret", "+@all", "&*", "~lock:*", "~ws:subscriptions:*", "~*buffer*",
        )  # fmt: skip
    collector_on(server, skip=["test_running", "ws_connection"]).run(now_ms(), budget_s=60)
    link = RedisLink.open(config.Settings(redis=config.RedisSettings(url=server.url.replace("://", "://some:secret@"))))
    Collector(
        link.database, RedisDatabases().model_dump(), BufferKeys("metrics:buffer"), catalogue(), INTERVAL_S
    ).run(now_ms() + 20_000, budget_s=60)  # fmt: skip
    link.close()
    types = {one.metric_type for one in collected(server)}
    assert "locks_held" in types
    assert not types & {"locks_without_holder", "subscriptions_without_connection"}


def test_what_the_dequeue_counts_among_the_workers_is_no_worker(server: RedisServer) -> None:
    """The document's script counts in a field of the resource's hash: the other fields are workers as before."""
    seed(server)
    with server.client(RedisDatabases().coordination) as client:
        assert Platform(client).dequeue("test:queue:high", "resource:workers", 5) is not None
        assert client.hget("resource:workers", "running") == b"1"
    collector = collector_on(server)
    collector.run(now_ms(), budget_s=60)
    assert collector.states["workers"].trouble == ""
    assert {one.node for one in collected(server) if one.metric_type == "worker_load"} == {"worker-node-1"}


@pytest.mark.parametrize("unset", ["0001-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z"])
def test_a_time_that_was_never_set_is_no_age(server: RedisServer, unset: object) -> None:
    """Go's zero time and the epoch: a queued test counts since it was first seen, and no age of millennia comes out."""
    with server.client(RedisDatabases().coordination) as client:
        client.zadd("test:queue:high", {json.dumps({"testId": "a", "queuedAt": unset}): 1})
        client.hset("test:running:a", mapping={"executor": "w", "startTime": str(unset)})
        client.expire("test:running:a", 3600)
    with server.client(RedisDatabases().temporary) as client:
        client.hset("browser:b", mapping={"started_at": str(unset), "memory_usage": 5})
    collector_on(server).run(now_ms(), budget_s=60)
    found = {one.metric_type: one.value for one in collected(server)}
    assert (found["queue_age"], found["tests_stuck"], found["browser_memory"]) == (0, 0, 5)
    assert "browser_age" not in found


def test_a_window_that_was_called_off_is_not_active(server: RedisServer) -> None:
    """The metric agrees with what mutes alerts: a window that is not scheduled is none, and times may be figures."""
    windows = {
        "on": {"scheduled": True, "start": 0, "end": 4_070_908_800},
        "off": {"scheduled": False, "start": "2020-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z"},
        "plain": {"start": "2020-01-01T00:00:00", "end": "2099-01-01T00:00:00+02:00"},
    }
    with server.client(RedisDatabases().environment) as client:
        for name, window in windows.items():
            client.set(f"maintenance:{name}", json.dumps(window))
        muted = {one.environment for one in MaintenanceWindows(client).listed(now_ms())}
    collector_on(server).run(now_ms(), budget_s=60)
    active = {one.environment: one.value for one in collected(server) if one.metric_type == "maintenance_active"}
    assert active == {"on": 1, "off": 0, "plain": 1}
    assert muted == {"on", "plain"}


def test_a_value_that_breaks_its_reader_is_the_trouble_of_its_key(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of this product in one kind of metric ends neither the other kinds nor the other databases."""

    def broken(*_: Any) -> str:
        raise OverflowError("secret")

    seed(server)
    monkeypatch.setitem(derive._GAUGES, "number", broken)
    monkeypatch.setitem(derive._EVENTS, "series", broken)
    collector = collector_on(server)
    collector.run(now_ms(), budget_s=60)
    assert collector.states["cost_daily"].trouble == "it cannot be read (OverflowError)"
    assert collector.states["resource_cpu"].trouble == "it cannot be read (OverflowError)"
    assert {one.metric_type for one in collected(server)} >= {"cpu_usage", "test_error", "queue_depth"}


# Executions and channels


def test_results_that_never_came_through_the_buffer_become_executions(server: RedisServer) -> None:
    """With ``collect.executions: missing``: those that ClickHouse lacks, once, with their status and duration."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    with server.client(2) as client:
        for name in ("known", "missing"):
            client.hset(f"test:result:{name}", mapping={"status": "failed", "duration": 2500, "startTime": started})
    asked: list[Any] = []

    def known(ids: Any, oldest_ms: int) -> set[str]:
        asked.append(list(ids))
        return {"known"}

    for round_ in range(2):
        collector_on(server, known_executions=known).run(now_ms() + 15_000 * round_, budget_s=60)
    durations = [one for one in collected(server) if one.metric_type == "duration"]
    assert [(one.value, one.status, one.tags["execution_id"]) for one in durations] == [(2500, "failed", "missing")]
    assert asked == [["known", "missing"]]


def test_results_that_cannot_be_executions_hold_up_no_other(server: RedisServer) -> None:
    """A key that is not UTF-8, a field of many megabytes, another type: the results beside them are collected, and no
    command reads more than a bounded part."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    sound = {"status": "failed", "duration": 2500, "startTime": started}
    with server.client(2) as client:
        client.hset("test:result:sound", mapping=sound)
        client.hset(b"test:result:caf\xe9", mapping=sound)
        client.hset("test:result:huge", mapping=sound | {"browser": "b" * 8_000_000})
        client.set("test:result:text", "x")
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 1000)
        collector_on(server, known_executions=lambda ids, oldest_ms: set()).run(now_ms(), budget_s=60)
        sent = client.info("stats")["total_net_output_bytes"]
    found = {one.tags["execution_id"]: one.browser for one in collected(server) if one.metric_type == "duration"}
    assert found == {"sound": "", "caf\ufffd": "", "huge": ""}
    assert sent < 8_000_000


def test_messages_are_counted_by_channel_and_our_own_are_not(server: RedisServer) -> None:
    """Messages of the document's channels, by type; a message that carries our source is not counted."""
    channels = ChannelCounter(lambda: server.client(), Catalogue(shipped()).channels())
    collector = collector_on(server, channels=channels)
    try:
        with server.client() as client:
            while not client.pubsub_numpat():
                collector.run(now_ms(), budget_s=60)
                time.sleep(0.05)
            for entry in shipped():
                if entry.type == "channel":
                    client.execute_command(*shlex.split(entry.example))
            client.publish("alerts:critical", json.dumps({"type": "own", "source": "metrics-pipeline"}))
            counts: Counter[tuple[str, str]] = Counter()
            deadline = time.monotonic() + 60
            while sum(counts.values()) < 5 and time.monotonic() < deadline:
                collector.run(now_ms(), budget_s=60)
                counts = Counter()
                for one in collected(server):
                    if "channel" in one.tags:
                        counts[one.tags["channel"], one.tags["type"]] += int(one.value)
                time.sleep(0.05)
    finally:
        collector.close()
    assert counts == {
        ("test:status", "running"): 1, ("test:completed", "passed"): 1, ("alerts:critical", "high_failure_rate"): 1,
        ("dashboard:update", "metrics_update"): 1, ("user:notifications:{user_id}", "test_assigned"): 1,
    }  # fmt: skip


def test_a_connection_that_was_lost_is_one_gap(server: RedisServer) -> None:
    """What is published without a subscription is not known: each loss is told as one gap, and counting goes on."""
    link = RedisLink.open(config.Settings(redis=config.RedisSettings(url=server.url), _env_file=None))
    channels = ChannelCounter(lambda: link.database("notifications"), Catalogue(shipped()).channels())
    told: list[Metric] = []

    def take() -> list[Metric]:
        found = [decode(item, now_ms(), Limits()) for item in channels.take(now_ms()).items]
        told.extend(one for one in found if isinstance(one, Metric))
        return told

    def wait_for(is_there: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not is_there():
            assert time.monotonic() < until
            take()
            time.sleep(0.05)

    def gaps() -> float:
        return sum(one.value for one in take() if one.metric_type == "collect_gaps")

    def messages() -> float:
        return sum(one.value for one in told if one.metric_type == "messages")

    def is_heard(more_than: float) -> bool:
        """Published again and again: the server may still know a connection that has ended by then."""
        client.publish("test:status", json.dumps({"type": "running"}))
        return messages() > more_than

    try:
        with server.client() as client:
            for losses in range(3):
                wait_for(partial(is_heard, messages()))
                assert gaps() == losses
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                wait_for(partial(lambda most: gaps() > most, losses))
            wait_for(lambda: client.pubsub_numpat() > 0)
        server.kill()
        wait_for(lambda: gaps() > 3)
        time.sleep(2)  # several attempts to connect
        assert gaps() == 4, "an outage is one gap"
    finally:
        channels.close()
        link.close()


def test_channels_that_may_not_be_read_are_no_gap(server: RedisServer) -> None:
    """Who never heard them lost nothing; the subscription is tried again ever more seldom, and says why."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    link = RedisLink.open(config.Settings(redis=config.RedisSettings(url=server.url.replace("://", "://deaf:secret@"))))
    channels = ChannelCounter(lambda: link.database("notifications"), Catalogue(shipped()).channels())
    try:
        channels.take(now_ms())
        time.sleep(6)
        taken = channels.take(now_ms())
        assert (taken.items, taken.gaps) == ((), 0)
        assert "refuses the user" in channels.trouble
        with server.client() as client:
            refused = client.execute_command("ACL", "LOG", 100)
            tries = client.info("commandstats")["cmdstat_psubscribe"]
        assert refused
        assert tries["calls"] + tries.get("rejected_calls", 0) < 8
    finally:
        channels.close()
        link.close()


@pytest.fixture(autouse=True)
def _no_failpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.reset()


# Rights

SHIPPED_USERS = Path(__file__).parents[2] / "config/redis-users.acl"


def test_the_shipped_user_that_collects_may_read_all_of_it(server: RedisServer) -> None:
    """Under the least-privilege user everything is collected; on Redis 7.0 it may change no key of the platform's."""
    with server.client() as client:
        is_old = str(client.info("server")["redis_version"]).startswith("6.")
        name = "service-collecting-6" if is_old else "service-collecting"
        seed(server)
        (line,) = [one for one in SHIPPED_USERS.read_text().splitlines() if one.startswith(f"user {name} ")]
        client.execute_command("ACL", "SETUSER", *line.replace("CHANGE-ME", "secret").split()[1:])
    settings = config.Settings(redis=config.RedisSettings(url=server.url.replace("://", f"://{name}:secret@")))
    link = RedisLink.open(settings)
    assert rights_finding(settings, link).severity == "ok"
    assert collecting_finding(settings, link).severity == "ok"
    collector = Collector(
        link.database, RedisDatabases().model_dump(), BufferKeys("metrics:buffer"), catalogue(), INTERVAL_S,
        server=RedisHealth(link.database("metrics")).look,
    )  # fmt: skip
    assert collector.run(now_ms(), budget_s=60).trouble == []
    assert {name: state.trouble for name, state in collector.states.items() if state.trouble} == {}
    assert {one.metric_type for one in collected(server)} >= set(EXPECTED)
    for command in (("SET", "foreign", 1), ("FLUSHALL",), *([] if is_old else [("DEL", "session:test:s-1")])):
        with pytest.raises(redis.exceptions.NoPermissionError):
            link.database("sessions").execute_command(*command)
    link.close()


def test_the_two_shipped_users_that_collect_differ_in_the_right_to_read_alone() -> None:
    """That of Redis 6.2 has whole keys where the other may only read, and nothing more."""
    lines = {line.split()[1]: line for line in SHIPPED_USERS.read_text().splitlines() if line.startswith("user ")}
    assert lines["service-collecting-6"] == lines["service-collecting"].replace("%R~", "~").replace(
        "service-collecting ", "service-collecting-6 "
    )


def test_the_doctor_names_what_the_user_may_not_read(server: RedisServer) -> None:
    """The service alone may not collect: a warning with its fix, unless collecting or the entry is off."""
    with server.client() as client:
        (line,) = [one for one in SHIPPED_USERS.read_text().splitlines() if one.startswith("user service ")]
        client.execute_command("ACL", "SETUSER", *line.replace("CHANGE-ME", "secret").split()[1:])
        client.execute_command("ACL", "SETUSER", "most", "on", ">secret", "+@all", "~*", "&*", "-scard", "-psubscribe")
    url = server.url.replace("://", "://service:secret@")
    settings = config.Settings(redis=config.RedisSettings(url=url))
    link = RedisLink.open(settings)
    finding = collecting_finding(settings, link)
    assert (finding.severity, "test_session, session_expiry" in finding.detail) == ("warn", True)
    assert "service-collecting" in finding.fix
    off = settings.model_copy(update={"collect": config.CollectSettings(enabled=False)})
    assert collecting_finding(off, link).severity == "ok"
    link.close()
    skip = ["user_sessions", "test_blocked_by", "test_blocks", "ws_connections", "ws_subscriptions"]
    settings = config.Settings(
        redis=config.RedisSettings(url=url.replace("service:", "most:")), collect={"skip": skip}
    )  # fmt: skip
    link = RedisLink.open(settings)
    assert collecting_finding(settings, link).detail == (
        "the user of redis.url may not read channel_test_status, channel_test_completed, channel_user_notifications, "
        "topic_subscribers: these are not collected"
    )
    link.close()


def test_without_rights_each_kind_of_key_says_so_and_the_rest_is_collected(server: RedisServer) -> None:
    """A user that may not read sessions, nor ask for the server's health, collects everything else."""
    seed(server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "some", "on", ">secret", "~*", "+@all", "-getrange", "-info")
    link = RedisLink.open(config.Settings(redis=config.RedisSettings(url=server.url.replace("://", "://some:secret@"))))
    collector = Collector(
        link.database, RedisDatabases().model_dump(), BufferKeys("metrics:buffer"), catalogue(), INTERVAL_S,
        server=RedisHealth(link.database("metrics")).look,
    )  # fmt: skip
    (trouble,) = collector.run(now_ms(), budget_s=60).trouble
    assert trouble.startswith("the server's own health is skipped: ")
    assert collector.states["test_session"].trouble == "no permission to read it"
    assert {one.metric_type for one in collected(server)} >= {"cpu_usage", "response_time", "queue_depth"}
    link.close()


def test_a_database_that_may_not_be_gone_through_is_skipped_and_said_so_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without SCAN each entry says why, in every round; the log says it once a database."""
    seed(server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-scan")
    link = RedisLink.open(
        config.Settings(redis=config.RedisSettings(url=server.url.replace("://", "://blind:secret@")))
    )
    collector = Collector(
        link.database, RedisDatabases().model_dump(), BufferKeys("metrics:buffer"), catalogue(), INTERVAL_S
    )
    for number in range(2):
        report = collector.run(now_ms() + number * 20_000, budget_s=60)
        assert len(report.trouble) == 8
        states = read_states(link.database("metrics"), BufferKeys("metrics:buffer"), catalogue())
        assert states["ai_model"]["trouble"].startswith("database 4 is skipped: ")
        assert all(state["trouble"] for state in states.values())
    assert sum("not collected" in record.getMessage() for record in caplog.records) == 8
    link.close()


def test_a_key_that_is_not_utf_8_is_read_like_any_other(server: RedisServer) -> None:
    """Its bytes go back to Redis as they came; the label has U+FFFD."""
    with server.client(RedisDatabases().coordination) as client:
        client.execute_command("ZADD", b"test:queue:caf\xe9", 1, b'{"queuedAt":"2025-01-11T12:00:00Z"}')
        client.hset(b"test:aggregate:\xff", mapping={"passed": 3, "total": 4})
    report = collector_on(server).run(now_ms())
    assert report.trouble == []
    found = {one.metric_type: one for one in collected(server)}
    assert (found["queue_depth"].value, found["suite_pass_rate"].value) == (1, 75)
    with server.client(RedisDatabases().coordination) as client:
        counted = walk(client, ["coordination"], catalogue(), lambda _: False, now_s=time.time())
    assert (counted.by_entry["test_queue"], counted.by_entry["test_aggregate"]) == (1, 1)


@pytest.mark.parametrize(
    "state",
    [
        b"junk",
        b"\xff",
        b"[]",
        b"{}",
        b"7",
        b'["x", 1]',
        b"[1e999, []]",
        b'[NaN, ["a"]]',
        b"[" * 100_000,
        b'{"a":' * 9000,
    ],
    ids=lambda state: repr(state[:8]),
)
def test_where_another_program_wrote_what_was_seen_before_it_begins_anew(state: bytes) -> None:
    """The same is made of a key as at a first look, or all of it is new; what is remembered then is whole again."""
    known, tried = catalogue(), set()
    at_ms = now_ms()
    for entry in shipped():
        match = known.match(entry.database, shlex.split(entry.example)[1]) if entry.example else None
        for derived in entry.metrics if match else ():
            look = KeyLook(match, elements=[b"a", b"1"], scored=[(b"x:1", at_ms - 5000.0)], fields={"status": "passed"})
            if derived.kind == "oldest":
                again = derive.oldest(look, derived, state, derive.Gauges(), at_ms)
                first = derive.oldest(look, derived, b"", derive.Gauges(), at_ms)
            elif derived.kind in ("series", "flags", "values"):
                again, _ = derive.events(look, derived, state, at_ms)
                first, _ = derive.events(look, derived, b"", at_ms)
                derive.series_cursor(state)
            else:
                continue
            assert again is not None and first is not None
            assert (again.before, again.after) == (state, first.after)
            assert derived.kind != "series" or again.items == first.items
            tried.add(derived.kind)
    assert tried == {"oldest", "series", "flags", "values"}
