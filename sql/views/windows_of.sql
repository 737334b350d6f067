-- A span in days, hours and windows of five minutes, as coarse as step_s allows: FROM windows_of(from_s = 1700000000, to_s = 1700600000, step_s = 86400).
SELECT
    w.window_start AS window_start, w.metric_type AS metric_type, w.environment AS environment,
    w.browser AS browser, w.test_suite AS test_suite, w.test_id AS test_id, w.test_name AS test_name,
    w.page AS page, w.endpoint AS endpoint, w.node AS node, w.samples AS samples, w.total AS total,
    w.passed AS passed, w.failed AS failed, w.flaky AS flaky, w.retried AS retried, w.sum AS sum, w.avg AS avg,
    w.min AS min, w.max AS max, w.newest_avg AS newest_avg, w.newest_start AS newest_start,
    w.histogram AS histogram
FROM metrics_1d AS w FINAL
WHERE {step_s:UInt32} % 86400 = 0
    AND w.window_start >= toDateTime({from_s:UInt32}, 'UTC')
    AND w.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 86100
UNION ALL
SELECT
    w.window_start AS window_start, w.metric_type AS metric_type, w.environment AS environment,
    w.browser AS browser, w.test_suite AS test_suite, w.test_id AS test_id, w.test_name AS test_name,
    w.page AS page, w.endpoint AS endpoint, w.node AS node, w.samples AS samples, w.total AS total,
    w.passed AS passed, w.failed AS failed, w.flaky AS flaky, w.retried AS retried, w.sum AS sum, w.avg AS avg,
    w.min AS min, w.max AS max, w.newest_avg AS newest_avg, w.newest_start AS newest_start,
    w.histogram AS histogram
FROM metrics_1h AS w FINAL
WHERE w.window_start GLOBAL IN (
        SELECT at FROM (
            SELECT toDateTime(
                arrayJoin(range(toUInt32(intDiv({from_s:UInt32} + 3599, 3600) * 3600), toUInt32({to_s:UInt32} - 3299), 3600)), 'UTC') AS at
        ) WHERE {step_s:UInt32} % 3600 = 0
        AND toDateTime(toStartOfDay(at, 'UTC'), 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM metrics_1d AS c
            WHERE {step_s:UInt32} % 86400 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 86100
            SETTINGS final = 0))
UNION ALL
SELECT
    w.window_start AS window_start, w.metric_type AS metric_type, w.environment AS environment,
    w.browser AS browser, w.test_suite AS test_suite, w.test_id AS test_id, w.test_name AS test_name,
    w.page AS page, w.endpoint AS endpoint, w.node AS node, w.samples AS samples, w.total AS total,
    w.passed AS passed, w.failed AS failed, w.flaky AS flaky, w.retried AS retried, w.sum AS sum, w.avg AS avg,
    w.min AS min, w.max AS max, w.avg AS newest_avg, w.window_start AS newest_start, w.histogram AS histogram
FROM metrics_5min AS w FINAL
WHERE w.window_start GLOBAL IN (
        SELECT at FROM (
            SELECT toDateTime(
                arrayJoin(range(toUInt32(intDiv({from_s:UInt32} + 299, 300) * 300), toUInt32({to_s:UInt32} + 1), 300)), 'UTC') AS at
        ) WHERE toDateTime(toStartOfDay(at, 'UTC'), 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM metrics_1d AS c
            WHERE {step_s:UInt32} % 86400 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 86100
            SETTINGS final = 0)
        AND toStartOfHour(at, 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM metrics_1h AS c
            WHERE {step_s:UInt32} % 3600 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 3300
            SETTINGS final = 0))
