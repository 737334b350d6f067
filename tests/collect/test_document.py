"""The whole schema document, literally, on a real Redis: each part of it stands in ClickHouse, by value, once."""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from conftest import RedisServer
from schema_document import examples, run

from pipeline.base import config
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import open_buffers
from pipeline.collect.build import build_collector
from pipeline.deliver.drainer import Drainer
from pipeline.metric import Limits
from pipeline.store.client import Store

NAMES = {
    "session_id": "SECRET-session", "user_id": "SECRET-user", "code": "SECRET-code", "token": "SECRET-token",
    "ip": "SECRET-ip", "user": "SECRET-login", "selector": "SECRET-selector", "connection_id": "connection-1",
    "endpoint": "orders", "test_id": "auth-001", "execution_id": "exec-123", "page": "login", "node": "node-1",
    "suite_id": "checkout", "test_group": "group-1", "browser": "chromium", "env_name": "staging", "db_name": "orders",
    "instance_id": "browser-1", "timestamp": str(time.time_ns() // 1_000_000_000 - 60), "old_timestamp": "1",
}  # fmt: skip
EXPECTED: dict[str, list[tuple[str, dict[str, str], float]]] = {
    "sessions": [
        ("api_requests_last_hour", {"endpoint": "orders"}, 1),
        ("failed_logins_open", {}, 1),
        ("login_attempts_last_hour", {}, 2),
        ("mfa_backup_codes_used", {}, 1),
        ("mfa_codes_open", {}, 1),
        ("password_resets_open", {}, 1),
        ("remember_tokens", {}, 1),
        ("security_event", {"type": "failed_login"}, 1),
        ("sessions_active", {"browser": "chromium", "environment": "testing", "role": "admin"}, 1),
        ("sessions_expiry_overdue", {}, 1),
        ("sessions_revoked", {}, 1),
        ("sessions_tracked", {}, 1),
        ("users_locked_out", {}, 1),
        ("users_with_sessions", {}, 1),
    ],
    "coordination": [
        ("lock_queue_depth", {"lock": "env:staging"}, 1),
        ("locks_held", {"lock": "database"}, 1),
        ("locks_held", {"lock": "env"}, 2),
        ("locks_held", {"lock": "environment"}, 1),
        ("locks_held", {"lock": "test_user"}, 1),
        ("locks_without_holder", {}, 2),
        ("queue_depth", {"priority": "high"}, 1),
        ("queue_depth", {"priority": "low"}, 1),
        ("queue_depth", {"priority": "medium"}, 1),
        ("suite_duration", {"test_suite": "checkout"}, 45000),
        ("suite_failed", {"test_suite": "checkout"}, 2),
        ("suite_pass_rate", {"test_suite": "checkout"}, 88.2353),
        ("suite_passed", {"test_suite": "checkout"}, 15),
        ("suite_total", {"test_suite": "checkout"}, 17),
        ("sync_points_waiting", {"browser": "chromium", "test_group": "group-1"}, 1),
        ("sync_ready", {"test_group": "group-1"}, 1),
        ("test_blocked_by", {"test_id": "auth-001"}, 2),
        ("test_blocks", {"test_id": "auth-001"}, 2),
        ("tests_blocked", {}, 1),
        ("tests_running", {"node": "worker-node-1"}, 1),
        ("tests_stuck", {}, 1),
        ("worker_capacity", {"node": "worker-node-1", "state": "busy"}, 5),
        ("worker_free", {"node": "worker-node-1", "state": "busy"}, 2),
        ("worker_load", {"node": "worker-node-1", "state": "busy"}, 0.6),
        ("worker_running", {"node": "worker-node-1", "state": "busy"}, 3),
    ],
    "results": [
        ("cls", {"page": "login", "test_id": "auth-001"}, 0.05),
        ("cpu_usage", {"node": "node-1"}, 45.2),
        ("disk_usage", {"node": "node-1"}, 23.1),
        ("first_paint", {"page": "login", "test_id": "auth-001"}, 800),
        ("lcp", {"page": "login", "test_id": "auth-001"}, 1500),
        ("load_time", {"page": "login", "test_id": "auth-001"}, 1200),
        ("memory_usage", {"node": "node-1"}, 68.5),
        ("network_io", {"node": "node-1"}, 1024),
        ("response_time", {"endpoint": "orders"}, 135),
        ("response_time", {"endpoint": "orders"}, 150),
        ("response_time", {"endpoint": "orders"}, 180),
        ("results_cached", {"browser": "chromium", "environment": "staging", "result": "passed"}, 1),
        ("time_to_interactive", {"page": "login", "test_id": "auth-001"}, 2000),
    ],
    "metrics": [
        ("resource_cpu_usage", {}, 75.5),
        ("resource_memory_usage", {}, 68.2),
        ("resource_network_bandwidth", {}, 1024),
    ],
    "ai": [
        ("ai_cost", {"model": "gemini-pro"}, 0.0045),
        ("ai_cost_cached", {"model": "gemini-pro"}, 0.0023),
        ("ai_cost_daily", {"api": "gemini"}, 0.0023),
        ("ai_cost_monthly", {"api": "gemini"}, 0.0023),
        ("ai_quality_current", {"test_id": "auth-001"}, 0.87),
        ("ai_quality_gap", {"test_id": "auth-001"}, -0.03),
        ("ai_quality_human", {"test_id": "auth-001"}, 0.9),
        ("ai_quality_initial", {"test_id": "auth-001"}, 0.95),
        ("ai_quality_modifications", {"test_id": "auth-001"}, 3),
        ("ai_queue_depth", {}, 1),
        ("ai_quota_used", {"api": "gemini", "period": "daily"}, 1),
        ("ai_quota_used", {"api": "gemini", "period": "hourly"}, 1),
        ("ai_quota_used", {"api": "gemini", "period": "minute"}, 1),
        ("ai_requests", {"model": "gemini-pro"}, 1500),
        ("ai_response_time", {"model": "gemini-pro"}, 850),
        ("ai_responses_cached", {"model": "gemini-pro"}, 1),
        ("ai_scenarios_cached", {}, 1),
        ("ai_success_rate", {"model": "gemini-pro"}, 99.2),
        ("ai_tokens_cached", {"model": "gemini-pro"}, 150),
        ("prompt_improvement", {}, 1.25),
        ("prompt_success_rate", {}, 0.94),
    ],
    "notifications": [
        ("connections", {}, 1),
        ("connections_listed", {}, 2),
        ("subscriptions_without_connection", {}, 0),
        ("topic_subscribers", {"topic": "test:status"}, 2),
        ("users_connected", {}, 1),
    ],
    "environment": [
        ("cleanups_overdue", {}, 2),
        ("cleanups_scheduled", {}, 2),
        ("environment_active_tests", {"environment": "staging"}, 5),
        ("environment_available_slots", {"environment": "staging"}, 10),
        ("environment_healthy", {"environment": "staging"}, 1),
        ("environment_variables", {"environment": "staging"}, 3),
        ("maintenance_active", {"environment": "staging"}, 0),
        ("retention_hours", {"what": "performance_metrics"}, 720),
        ("retention_hours", {"what": "test_artifacts"}, 168),
        ("retention_hours", {"what": "test_sessions"}, 8),
        ("retention_hours", {"what": "test_users"}, 24),
        ("service_connections", {"service": "database"}, 25),
        ("service_max_connections", {"service": "database"}, 100),
        ("service_response_time", {"service": "auth-service"}, 120),
        ("service_up", {"service": "auth-service"}, 1),
        ("service_up", {"service": "database"}, 1),
    ],
    "temporary": [
        ("artifacts", {"kind": "mp4"}, 1),
        ("artifacts", {"kind": "png"}, 1),
        ("artifacts", {"kind": "txt"}, 1),
        ("browser_memory", {"node": "browser-1", "state": "busy"}, 512),
        ("elements_cached", {}, 1),
        ("executions_in_context", {"browser": "chromium", "test_name": "login-flow-test"}, 1),
        ("pages_open", {"load_state": "networkidle"}, 1),
        ("step_duration", {"state": "completed", "test_name": "Navigate to login"}, 1200),
        ("test_data", {"kind": "user"}, 1),
        ("test_error", {"error_type": "ElementNotFoundError"}, 1),
    ],
}
"""What each database of the document becomes, as (metric type, where, value); a number of it stands once."""

MESSAGES = [
    ("messages", {"channel": "test:status", "type": "running"}, 1),
    ("tests_completed", {"channel": "test:completed", "type": "passed", "environment": "staging",
                         "browser": "chromium"}, 1),
    ("messages", {"channel": "alerts:critical", "type": "high_failure_rate"}, 1),
    ("messages", {"channel": "dashboard:update", "type": "metrics_update"}, 1),
    ("messages", {"channel": "user:notifications:{user_id}", "type": "test_assigned"}, 1),
]  # fmt: skip

TOLD_ONCE = frozenset(
    {"security_event", "response_time", "load_time", "first_paint", "lcp", "cls", "time_to_interactive",
     "resource_cpu_usage", "resource_memory_usage", "resource_network_bandwidth", "step_duration", "test_error",
     "messages", "tests_completed"}
)  # fmt: skip
"""Everything else is a gauge, one sample a tick."""

AGES = ("lock_age", "queue_age", "ai_queue_age", "browser_age")

SECRETS = (
    "SECRET", "user_123", "test_admin", "127.0.0.1", "192.168.1.100", "123456", "test@example.com", "Mozilla",
    "abc123def456", "Chrome on Windows", "test_user_", "generated@test.com", "SecurePass123!", "aicore.dev",
    "data-testid", "Login button", "dom-at-error", "auth_token", "Generate", "registration flow", "test case",
)  # fmt: skip

WHERE = ("environment", "browser", "test_suite", "test_id", "test_name", "page", "endpoint", "node", "error_type")

Row = tuple[str, tuple[tuple[str, str], ...], float]


class Platform:
    """The platform's Redis seeded with the document, and the pipeline over it."""

    def __init__(self, server: RedisServer, settings: config.Settings, store: Store) -> None:
        self.server = server
        self.store = store
        self.settings = settings.model_copy(update={"redis": config.RedisSettings(url=server.url)})
        self.link = RedisLink.open(self.settings)
        self.buffers = open_buffers(self.settings, self.link)
        self.now_ms = time.time_ns() // 1_000_000
        collector = build_collector(self.settings, self.link, store)
        assert collector is not None
        self.collector = collector

    def round(self, after_s: float = 0) -> None:
        """Collect, and bring what came to ClickHouse."""
        self.collector.run(self.now_ms + int(after_s * 1000), budget_s=60)
        Drainer(self.buffers[0], self.store, self.settings.drainer, Limits.of(self.settings)).drain_until_empty()

    def seed(self) -> None:
        """Every example of the document; its messages once there is a subscriber."""
        assert self.collector.channels is not None
        self.collector.channels.take(self.now_ms)
        with self.server.client() as client:
            while not client.pubsub_numpat():
                time.sleep(0.02)
        for database, words in examples(NAMES):
            with self.server.client(database) as client:
                run(client, words)
        with self.server.client(4) as client:
            client.expire("api:usage:gemini:minute", 600)  # a slow machine may take longer than the document's minute

    def round_with_messages(self) -> None:
        """Rounds of one tick until all messages are counted."""
        until = time.monotonic() + 120
        while True:
            self.round()
            counted = self.store.rows("SELECT sum(value) FROM metrics WHERE mapContains(tags, 'channel')")[0][0]
            if counted >= len(MESSAGES):
                return
            assert time.monotonic() < until
            time.sleep(0.05)

    def rows(self) -> Counter[Row]:
        """What was collected, but for the server's own figures: (metric type, where, value)."""
        found = self.store.rows(
            f"SELECT metric_type, {', '.join(WHERE)}, "
            "mapFilter((k, v) -> k != 'source', tags), value FROM metrics WHERE tags['source'] = 'collect' "
            "AND NOT startsWith(metric_type, 'redis_')"
        )
        rows: Counter[Row] = Counter()
        for metric_type, *texts, tags, value in found:
            where = {name: text for name, text in zip(WHERE, texts, strict=True) if text} | dict(tags)
            rows[metric_type, tuple(sorted(where.items())), round(value, 4)] += 1
        return rows


@pytest.fixture
def platform(redis_server: Callable[..., RedisServer], settings: config.Settings, store: Store) -> Iterator[Platform]:
    made = Platform(redis_server(), settings, store)
    yield made
    made.collector.close()
    made.link.close()


def expected() -> Counter[Row]:
    """Each once."""
    rows = [row for part in EXPECTED.values() for row in part] + MESSAGES
    return Counter((name, tuple(sorted(where.items())), float(value)) for name, where, value in rows)


def without_ages(rows: Counter[Row]) -> Counter[Row]:
    return Counter({row: count for row, count in rows.items() if row[0] not in AGES})


def test_every_part_of_the_document_stands_in_clickhouse_by_value_and_once(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """Exactly the expected rows, nothing else; the next round repeats gauges only; no secret is anywhere."""
    platform.seed()
    platform.round_with_messages()
    assert without_ages(platform.rows()) == expected()
    ages = {}
    for name, where, value in platform.rows():
        if name in AGES:
            ages[name, dict(where).get("lock", dict(where).get("priority"))] = value
    assert set(ages) == {
        ("lock_age", "env"), ("lock_age", "environment"), ("lock_age", "database"), ("lock_age", "test_user"),
        ("queue_age", "high"), ("queue_age", "medium"), ("queue_age", "low"), ("ai_queue_age", None),
        ("browser_age", None),
    }  # fmt: skip
    assert ages["queue_age", "high"] == 0, "the document's item has no time: since it was first seen"
    assert ages["browser_age", None] == pytest.approx((platform.now_ms - 1_736_596_800_000) / 1000, abs=1)

    before = platform.rows()
    platform.round(15)
    second = platform.rows() - before
    assert not {name for name, _, _ in second} & TOLD_ONCE
    gauges = Counter({row: 1 for row in expected() if row[0] not in TOLD_ONCE})
    assert without_ages(second) == gauges
    assert [value for name, where, value in second if name == "queue_age"] == [15, 15, 15]

    left = [str(one) for one in platform.store.rows("SELECT toString(tuple(*)) FROM metrics")]
    left += [str(one) for one in platform.store.rows("SELECT toString(tuple(*)) FROM dead_letters")]
    with platform.server.client(3) as client:
        left += [str(client.hgetall("{metrics:buffer}:collected"))]
    left += [record.getMessage() for record in caplog.records]
    assert [secret for secret in SECRETS if any(secret in text for text in left)] == []


def test_the_servers_health_stands_in_clickhouse_per_database(platform: Platform) -> None:
    """The document's health list: memory, connections, commands, hits, expiry, network; keys of each database."""
    platform.seed()
    platform.round()
    with platform.server.client() as client, client.pipeline(transaction=False) as pipe:
        for _ in range(20_000):
            pipe.get("nothing")
        pipe.execute()
    platform.round(15)
    found = platform.store.rows(
        "SELECT DISTINCT metric_type, tags['database'] FROM metrics WHERE startsWith(metric_type, 'redis_')"
    )
    assert {name for name, _ in found} >= {
        "redis_memory_pct", "redis_memory_bytes", "redis_fragmentation_ratio", "redis_connections",
        "redis_command_avg_ms", "redis_slow_query_avg_ms", "redis_keyspace_hit_pct", "redis_keyspace_miss_pct",
        "redis_expired_keys_per_s", "redis_network_bytes_per_s",
    }  # fmt: skip
    assert {database for name, database in found if name == "redis_db_keys"} == set("01234567")
    with platform.server.client(6) as client:
        keys = client.dbsize()
    rows = platform.store.rows(
        "SELECT value FROM metrics WHERE metric_type = 'redis_db_keys' AND tags['database'] = '6'"
    )
    assert rows == [(keys,), (keys,)]


def test_a_flag_that_changes_is_an_event(platform: Platform) -> None:
    """What it was changed to, once; a flag that is removed too. The first look only remembers."""
    with platform.server.client(6) as client:
        client.hset("features:staging", mapping={"new_auth_flow": "enabled", "beta": "disabled"})
        platform.round()
        client.hset("features:staging", "new_auth_flow", "disabled")
        client.hdel("features:staging", "beta")
    platform.round(15)
    platform.round(30)
    changes = "SELECT environment, tags['flag'], tags['to'] FROM metrics WHERE metric_type = 'feature_flag_changed'"
    assert sorted(platform.store.rows(changes)) == [
        ("staging", "beta", "removed"),
        ("staging", "new_auth_flow", "disabled"),
    ]
