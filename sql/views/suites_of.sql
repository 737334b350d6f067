-- The same as windows_of by suite, environment and browser, of executions alone, in hours and windows of five minutes.
SELECT
    w.window_start AS window_start, w.environment AS environment, w.browser AS browser, w.test_suite AS test_suite,
    w.samples AS samples, w.total AS total, w.passed AS passed, w.failed AS failed, w.flaky AS flaky,
    w.retried AS retried, w.avg AS avg, w.min AS min, w.max AS max, w.histogram AS histogram
FROM suites_1h AS w FINAL
WHERE {step_s:UInt32} % 3600 = 0
    AND w.window_start >= toDateTime({from_s:UInt32}, 'UTC')
    AND w.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 3300
UNION ALL
SELECT
    w.window_start AS window_start, w.environment AS environment, w.browser AS browser, w.test_suite AS test_suite,
    w.samples AS samples, w.total AS total, w.passed AS passed, w.failed AS failed, w.flaky AS flaky,
    w.retried AS retried, w.avg AS avg, w.min AS min, w.max AS max, w.histogram AS histogram
FROM metrics_5min AS w FINAL
WHERE w.window_start GLOBAL IN (
        SELECT at FROM (
            SELECT toDateTime(
                arrayJoin(range(toUInt32(intDiv({from_s:UInt32} + 299, 300) * 300), toUInt32({to_s:UInt32} + 1), 300)), 'UTC') AS at
        ) WHERE toStartOfHour(at, 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM suites_1h AS c
            WHERE {step_s:UInt32} % 3600 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 3300
            SETTINGS final = 0))
    AND lower(w.metric_type) = 'duration'
