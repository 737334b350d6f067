-- One row is one execution of a test: its verdict, and what its attempts took. Filter by run_id to read one run.
--   run_id String
--   job LowCardinality(String)
--   test_suite LowCardinality(String)
--   test_id LowCardinality(String)
--   test_name String
--   environment LowCardinality(String)
--   browser LowCardinality(String)
--   browser_name String
--   commit String
--   branch String
--   decided String
--   verdict String
--   attempts UInt64
--   retried UInt64
--   duration_ms Float64
--   total_ms Float64
--   started DateTime64(3, 'UTC')
--   ended DateTime64(3, 'UTC')
--   error_type String
SELECT
    run_id, job, test_suite, test_id, any(e.test_name) AS test_name, environment, browser,
    browserName(browser) AS browser_name,
    any(e.commit) AS commit, any(e.branch) AS branch,
    argMaxIf(statusWord(status), (timestamp, segment, position), statusWord(status) != 'retried') AS decided,
    multiIf(decided != '', decided, countIf(statusWord(status) = 'retried') = 0, '',
        max(ingested_at) <= now64(3) - INTERVAL 30 MINUTE, 'interrupted', 'running') AS verdict,
    count() AS attempts,
    -- Producers that do not know the word 'retried' send 'failed' for an attempt that a later one saved.
    countIf(statusWord(status) = 'retried')
        + if(decided IN ('passed', 'flaky'), countIf(statusWord(status) = 'failed'), 0) AS retried,
    argMax(value, (statusWord(status) != 'retried', timestamp, segment, position)) AS duration_ms,
    sum(value) AS total_ms,
    min(timestamp) AS started,
    max(timestamp) AS ended,
    argMaxIf(error_type, timestamp, error_type != '') AS error_type
FROM metrics AS e
WHERE run_id != '' AND lower(metric_type) = 'duration'
GROUP BY run_id, job, test_suite, test_id, environment, browser
UNION ALL
SELECT
    '', job, test_suite, test_id, test_name, environment, browser, browserName(browser), commit, branch,
    statusWord(status), statusWord(status), 1, 0, value, value, timestamp, timestamp, error_type
FROM metrics
WHERE run_id = '' AND lower(metric_type) = 'duration' AND statusWord(status) != 'retried'
