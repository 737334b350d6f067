-- The tests that took longest over the last day, by the 95th percentile of their duration (within 1 %), slowest first.
--   test_suite LowCardinality(String)
--   test_id LowCardinality(String)
--   test_name String
--   environment LowCardinality(String)
--   browser LowCardinality(String)
--   browser_name String
--   samples UInt64
--   p50 Float64
--   p95 Float64
--   max Float64
SELECT
    w.test_suite AS test_suite,
    w.test_id AS test_id,
    any(w.test_name) AS test_name,
    w.environment AS environment,
    w.browser AS browser,
    browserName(w.browser) AS browser_name,
    sum(w.samples) AS samples,
    histogramQuantileBetween(sumMap(w.histogram), 0.5, min(w.min), max(w.max)) AS p50,
    histogramQuantileBetween(sumMap(w.histogram), 0.95, min(w.min), max(w.max)) AS p95,
    max(w.max) AS max
FROM metrics_5min AS w FINAL
WHERE lower(w.metric_type) = 'duration' AND w.window_start >= now('UTC') - INTERVAL 1 DAY
GROUP BY w.test_suite, w.test_id, w.environment, w.browser
ORDER BY p95 DESC
