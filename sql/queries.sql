-- Named questions an analyst asks: a heading, one sentence, the query.
-- {name:Type} is a parameter. Rows that replace each other are read as one: the analysts' handle sets final = 1.

-- raw_rows_per_minute
-- How many raw rows were stored in each of the last sixty minutes, by the time of ingestion.
SELECT toStartOfMinute(ingested_at) AS minute, count() AS rows
FROM metrics
WHERE timestamp >= now('UTC') - INTERVAL 1 DAY AND ingested_at >= now('UTC') - INTERVAL 1 HOUR
GROUP BY minute
ORDER BY minute;

-- one_test_over_time
-- The duration of one test, five minutes by five minutes, over the last day.
SELECT window_start, browser, samples, p50, p95, passed, failed
FROM metrics_5min
WHERE lower(metric_type) = 'duration' AND test_id = {test_id:String} AND window_start >= now('UTC') - INTERVAL 1 DAY
ORDER BY window_start, browser;

-- hourly_durations
-- The duration of every suite by the hour over the last week; percentiles come from merged histograms, within 1 %.
SELECT
    toStartOfHour(window_start) AS hour,
    test_suite,
    sum(samples) AS executions,
    histogramQuantileBetween(sumMap(histogram), 0.5, min(min), max(max)) AS p50_duration,
    histogramQuantileBetween(sumMap(histogram), 0.95, min(min), max(max)) AS p95_duration
FROM metrics_5min
WHERE lower(metric_type) = 'duration' AND window_start >= now('UTC') - INTERVAL 7 DAY
GROUP BY hour, test_suite
ORDER BY hour, test_suite;

-- flakiest_tests
-- Tests that both passed and failed over the last week, those that fail closest to half the time first.
SELECT
    test_suite,
    test_id,
    browser,
    sum(total) AS executions,
    sum(failed) AS failures,
    failures / executions AS failure_rate
FROM metrics_5min
WHERE lower(metric_type) = 'duration' AND window_start >= now('UTC') - INTERVAL 7 DAY
GROUP BY test_suite, test_id, browser
HAVING failures > 0 AND sum(passed) > 0
ORDER BY abs(failure_rate - 0.5), executions DESC
LIMIT 50;

-- browsers_compared
-- How much slower each test is in one browser than in its fastest one, over the last day.
SELECT
    test_suite,
    test_id,
    browser,
    p50_duration,
    p50_duration / min(p50_duration) OVER (PARTITION BY test_suite, test_id) AS times_the_fastest
FROM
(
    SELECT
        test_suite,
        test_id,
        browser,
        histogramQuantileBetween(sumMap(histogram), 0.5, min(min), max(max)) AS p50_duration
    FROM metrics_5min
    WHERE lower(metric_type) = 'duration' AND window_start >= now('UTC') - INTERVAL 1 DAY
    GROUP BY test_suite, test_id, browser
)
ORDER BY times_the_fastest DESC;

-- baseline_history
-- What was normal for one suite, day by day.
SELECT computed_at, environment, browser, centre, spread, p95_duration, success_rate, runs, state
FROM baselines
WHERE test_suite = {test_suite:String} AND test_id = ''
ORDER BY computed_at DESC
LIMIT 1 BY toDate(computed_at), environment, browser;

-- dead_letters_by_reason
-- Why items were refused over the last day, with an example of each reason.
SELECT reason, count() AS letters, max(refused_at) AS latest, any(detail) AS example
FROM dead_letters
WHERE refused_at >= now('UTC') - INTERVAL 1 DAY
GROUP BY reason
ORDER BY letters DESC;

-- alert_history
-- Every transition of every alert over the last week, the newest first.
SELECT at, rule, severity, from_state, to_state, value, threshold, message
FROM alerts
WHERE at >= now('UTC') - INTERVAL 7 DAY
ORDER BY at DESC;

-- compatibility
-- The pass rate of every suite in every browser over the last week.
SELECT test_suite, browser, sum(total) AS executions, sum(passed) / executions AS success_rate
FROM metrics_5min
WHERE lower(metric_type) = 'duration' AND window_start >= now('UTC') - INTERVAL 7 DAY
GROUP BY test_suite, browser
HAVING executions > 0
ORDER BY test_suite, browser;

-- disk_by_table
-- How much disk each table takes, compressed, and how many bytes a row.
SELECT table, sum(rows) AS rows_stored, sum(bytes_on_disk) AS bytes, round(bytes / rows_stored, 1) AS bytes_per_row
FROM system.parts
WHERE database = currentDatabase() AND active
GROUP BY table
ORDER BY bytes DESC;
