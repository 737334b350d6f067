-- The share of passed executions of each suite over the last day; skipped ones do not count, the worst suite comes first.
--   test_suite LowCardinality(String)
--   environment LowCardinality(String)
--   browser LowCardinality(String)
--   browser_name String
--   total UInt64
--   passed UInt64
--   failed UInt64
--   success_rate Float64
SELECT
    w.test_suite AS test_suite,
    w.environment AS environment,
    w.browser AS browser,
    browserName(w.browser) AS browser_name,
    sum(w.total) AS total,
    sum(w.passed) AS passed,
    sum(w.failed) AS failed,
    sum(w.passed) / sum(w.total) AS success_rate
FROM metrics_5min AS w FINAL
WHERE lower(w.metric_type) = 'duration' AND w.window_start >= now('UTC') - INTERVAL 1 DAY
GROUP BY w.test_suite, w.environment, w.browser
HAVING sum(w.total) > 0
ORDER BY success_rate, total DESC
