"""A little of everything that the page shows, written straight into the tables."""

import time

from pipeline.buffer.buffer import Buffer
from pipeline.store.client import Store

SUITES = ("auth", "checkout")
WINDOWS = 12


def seed(store: Store, buffer: Buffer) -> None:
    """An hour of windows of two suites, vitals, alerts, dead letters, a run."""
    now_s = int(time.time()) // 300 * 300
    starts = ", ".join(f"({now_s - 300 * number})" for number in range(WINDOWS))
    for table in ("metrics_5min", "metrics_1min"):
        store.command(
            f"INSERT INTO {table} (window_start, metric_type, environment, browser, test_suite, test_id, test_name, "
            "samples, total, passed, failed, flaky, retried, sum, avg, min, max, p50, p75, p90, p95, p99, histogram, "
            "revision, is_final) "
            "SELECT toDateTime(at, 'UTC'), 'duration', 'staging', arrayJoin(['chromium', 'firefox']) AS browser, "
            "arrayJoin(['auth', 'checkout']) AS suite, concat(suite, '-001'), concat('signs in (', suite, ')'), "
            "10, 10, if(suite = 'auth', 10, 8), if(suite = 'auth', 0, 2), 1, 1, 5000, 500, 100, 900, 500, 600, 700, "
            "800, 890, map(toInt32(35400 + 310), toUInt64(10)), 1, true "
            f"FROM (SELECT arrayJoin([{starts.replace('(', '').replace(')', '')}]) AS at)"
        )
    store.command(
        "INSERT INTO metrics_5min (window_start, metric_type, environment, node, samples, total, sum, avg, histogram, "
        f"revision) SELECT toDateTime({now_s}, 'UTC'), 'queue_depth', 'staging', 'redis-1', 3, 3, 30, 10, "
        "map(toInt32(35400 + 115), toUInt64(3)), 1"
    )
    store.command(
        "INSERT INTO web_vitals (window_start, vital, environment, browser, page, samples, avg, p75, good, "
        "needs_improvement, poor, rating, p75_rated, p75_low, p75_high, histogram, revision) "
        f"SELECT toDateTime({now_s} - 300 * number, 'UTC'), "
        "arrayJoin(['lcp', 'inp', 'cls', 'tbt', 'speed_index']) AS vital, 'staging', "
        "'chrome', '/cart', 20, 1, 2, 15, 3, 2, 'good', 2, 1, 3, map(toInt32(35400 + 380), toUInt64(20)), 1 "
        "FROM numbers(6)"
    )
    store.command(
        "INSERT INTO alerts (at, rule, alert_id, transition_id, from_state, to_state, severity, labels, value, "
        "threshold, reason, message, evidence, active_since, fired_at) "
        f"SELECT fromUnixTimestamp64Milli(toInt64({now_s}) * 1000 - 600000), 'slow_suite', 'a1', 't1', 'pending', "
        "'firing', 'critical', map('test_suite', 'checkout'), 900, 500, 'slow', 'checkout is slow', '{\"p95\": 900}', "
        "now64(3), now64(3)"
    )
    store.command(
        "INSERT INTO dead_letters (refused_at, reason, detail, payload, payload_bytes, buffer, segment, position) "
        "SELECT now64(3), 'missing field', 'value is missing', '{\"metric_type\": \"x\"}', 20, "
        f"'{buffer.key}', 's', number FROM numbers(3)"
    )
    store.command(
        "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, status, value, "
        "run_id, attempt, segment, position, ingested_at) "
        f"SELECT fromUnixTimestamp64Milli(toInt64({now_s}) * 1000 - number), "
        "'duration', 'staging', 'chromium', 'checkout', 'checkout-001', if(number = 0, 'failed', 'passed'), "
        "500 + number, 'run-7', 1, 's', number, now64(3) FROM numbers(5)"
    )
    # On one commit auth-001 fails and passes; auth-002 passes after a retry.
    store.command(
        "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, status, value, "
        "run_id, commit, attempt, segment, position, ingested_at) "
        f"SELECT fromUnixTimestamp64Milli(toInt64({now_s}) * 1000 - 60000 + 1000 * number), 'duration', 'staging', "
        "'chromium', 'auth', ['auth-001', 'auth-001', 'auth-002', 'auth-002'][number + 1], "
        "['failed', 'passed', 'retried', 'flaky'][number + 1], 500, ['run-5', 'run-6', 'run-6', 'run-6'][number + 1], "
        "'c0ffee', [1, 1, 1, 2][number + 1], 's', 10 + number, now64(3) FROM numbers(4)"
    )
    store.command(
        "INSERT INTO runs (run_id, branch, commit, started, ended, executions, passed, failed, duration_ms, revision, "
        f"is_final) SELECT 'run-7', 'main', 'abcdef0123', toDateTime({now_s}, 'UTC') - 60, toDateTime({now_s}, 'UTC'), "
        "5, 4, 1, 60000, 1, true"
    )
