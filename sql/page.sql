-- What the page asks: a heading, one sentence, the query. All of it reads windows, never whole raw tables: long spans in
-- hours and days (the views windows_of, suites_of, vitals_of).
-- {from:UInt32} and {to:UInt32} are epoch seconds; an empty environment, browser or suite means all of them.

-- filters
-- What can be chosen: environments, browsers and suites that had windows in the span.
SELECT groupUniqArray(500)(environment) AS environments, groupUniqArray(100)(browser) AS browsers,
    groupUniqArray(500)(test_suite) AS suites
FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400);

-- stored_by_minute
-- Rows stored in each minute, as the ledger of acknowledged chunks has it.
SELECT toStartOfMinute(acked_at) AS minute, sum(stored) AS rows, sum(dead_lettered) AS refused
FROM ledger
WHERE sealed_at >= toDateTime({from:UInt32}, 'UTC') - INTERVAL 1 HOUR
    AND acked_at >= toDateTime({from:UInt32}, 'UTC') AND acked_at <= toDateTime({to:UInt32}, 'UTC')
GROUP BY minute
ORDER BY minute;

-- suites
-- Pass rate and duration of every suite; percentiles come from merged histograms, within 1 %.
SELECT test_suite, sum(w.total) AS executions, sum(w.passed) / sum(w.total) AS pass_rate, sum(w.failed) AS failures,
    sum(w.flaky) AS flaky_executions, histogramQuantile(sumMap(w.histogram), 0.5) AS p50_ms,
    histogramQuantile(sumMap(w.histogram), 0.95) AS p95_ms, uniq(test_id) AS tests
FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
WHERE lower(metric_type) = 'duration'
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
GROUP BY test_suite
HAVING executions > 0
ORDER BY pass_rate, test_suite
LIMIT 200;

-- durations
-- Pass rate and duration of all tests over time.
SELECT toUInt32(intDiv(toUnixTimestamp(w.window_start), {bucket:UInt32}) * {bucket:UInt32}) AS at,
    sum(w.total) AS executions, sum(w.passed) / sum(w.total) AS pass_rate,
    histogramQuantile(sumMap(w.histogram), 0.5) AS p50_ms, histogramQuantile(sumMap(w.histogram), 0.95) AS p95_ms
FROM suites_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = {bucket:UInt32}) AS w
WHERE ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
GROUP BY at
HAVING executions > 0
ORDER BY at;

-- slowest
-- The tests with the highest 95th percentile.
SELECT test_suite, test_id, name, browser, executions, histogramQuantile(merged, 0.5) AS p50_ms, p95_ms
FROM
(
    SELECT test_suite, test_id, any(test_name) AS name, browser, sum(w.samples) AS executions,
        sumMap(w.histogram) AS merged, histogramQuantile(merged, 0.95) AS p95_ms
    FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
    WHERE lower(metric_type) = 'duration'
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
    GROUP BY test_suite, test_id, browser
    ORDER BY p95_ms DESC
    LIMIT 25
)
ORDER BY p95_ms DESC;

-- regressed
-- Where the level of a series got worse, the clearest change first.
SELECT changed_at, metric_type, test_suite, test_id, test_name AS name, page, browser, environment,
    level_before, level_after, change_pct, confidence
FROM change_points
WHERE direction = 'regression' AND changed_at >= toDateTime({from:UInt32}, 'UTC')
    AND changed_at <= toDateTime({to:UInt32}, 'UTC')
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
ORDER BY abs(effect_spreads) DESC
LIMIT 25;

-- flakiest
-- Tests that passed only after a retry. A test that failed throughout, or from some day on, is broken and not flaky.
SELECT test_suite, test_id, any(test_name) AS name, browser, sum(w.total) AS executions, sum(w.failed) AS failures,
    sum(w.flaky) AS flaky_executions, sum(w.retried) AS retried_attempts,
    sum(w.flaky) / sum(w.total) AS flakiness
FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
WHERE lower(metric_type) = 'duration'
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
GROUP BY test_suite, test_id, browser
HAVING flaky_executions > 0
ORDER BY flakiness DESC, executions DESC
LIMIT 25;

-- test_windows
-- One test over time, window by window.
SELECT toUInt32(intDiv(toUnixTimestamp(w.window_start), {bucket:UInt32}) * {bucket:UInt32}) AS at,
    sum(w.total) AS executions, sum(w.failed) AS failures, sum(w.flaky) AS flaky_executions,
    histogramQuantile(sumMap(w.histogram), 0.5) AS p50_ms, max(w.max) AS max_ms
FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = {bucket:UInt32}) AS w
WHERE lower(metric_type) = 'duration' AND test_suite = {suite:String} AND test_id = {test:String}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
GROUP BY at
ORDER BY at;

-- test_baseline
-- What is normal for one test now: the median of its runs, and their spread.
SELECT environment, browser, centre, spread, p95_duration, success_rate, runs, state, computed_at
FROM current_baselines
WHERE test_suite = {suite:String} AND test_id = {test:String}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
ORDER BY runs DESC
LIMIT 1;

-- test_changes
-- Where the level of one test moved.
SELECT toUInt32(toUnixTimestamp(changed_at)) AS at, browser, environment, level_before, level_after, change_pct, direction
FROM change_points
WHERE test_suite = {suite:String} AND test_id = {test:String} AND changed_at >= toDateTime({from:UInt32}, 'UTC')
ORDER BY at;

-- test_attempts
-- The newest attempts of one test.
SELECT timestamp, status, value AS duration_ms, attempt, browser, environment, run_id, branch, error_type
FROM metrics
WHERE timestamp >= toDateTime({from:UInt32}, 'UTC') AND timestamp <= toDateTime({to:UInt32}, 'UTC')
    AND metric_type = 'duration' AND test_suite = {suite:String} AND test_id = {test:String}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
ORDER BY timestamp DESC
LIMIT 50;

-- runs
-- The newest runs.
SELECT run_id, branch, commit, started, executions, passed, failed, flaky, skipped, duration_ms, is_final, url
FROM runs
WHERE started >= toDateTime({from:UInt32}, 'UTC') AND started <= toDateTime({to:UInt32}, 'UTC')
ORDER BY started DESC
LIMIT 50;

-- run_tests
-- Executions of one run, those that failed or needed a retry first.
SELECT test_suite, test_id, any(test_name) AS name, browser, argMax(status, (timestamp, attempt)) AS verdict,
    argMax(value, (timestamp, attempt)) AS duration_ms, count() AS attempts, any(error_type) AS error
FROM metrics
WHERE run_id = {run:String} AND metric_type = 'duration'
    -- The days of the run alone: it is known by its id, but rows are found by their time.
    AND timestamp >= greatest(toDateTime({from:UInt32}, 'UTC'),
        (SELECT toDateTime(min(started), 'UTC') - 3600 FROM runs WHERE run_id = {run:String}))
    AND timestamp <= toDateTime({to:UInt32}, 'UTC')
    AND timestamp <= (SELECT if(count() = 0, toDateTime({to:UInt32}, 'UTC'), toDateTime(max(ended), 'UTC') + 86400)
        FROM runs WHERE run_id = {run:String})
GROUP BY job, test_suite, test_id, environment, browser
ORDER BY statusWord(verdict) = 'failed' DESC, attempts DESC, duration_ms DESC
LIMIT 500;

-- run_twins
-- Pairs of jobs of one run that hold the same executions, by tests that took 20 ms or more: the run was fed in two ways.
WITH twin_candidates AS (
    SELECT run_id, job, test_suite, test_id,
        argMax(value, (statusWord(status) != 'retried', timestamp, attempt)) AS ms
    FROM metrics
    WHERE run_id GLOBAL IN (
        SELECT run_id FROM runs
        WHERE length(jobs) > 1 AND ({run:String} = '' OR run_id = {run:String})
        ORDER BY started DESC LIMIT 50
    ) AND lower(metric_type) = 'duration'
    GROUP BY run_id, job, test_suite, test_id
)
SELECT a.run_id AS run_id, a.job AS job, b.job AS other, count() AS tests
FROM twin_candidates AS a INNER JOIN twin_candidates AS b
    ON a.run_id = b.run_id AND a.test_suite = b.test_suite AND a.test_id = b.test_id
WHERE a.job < b.job AND greatest(a.ms, b.ms) >= 20
GROUP BY run_id, job, other
HAVING countIf(abs(a.ms - b.ms) <= 1) >= 0.8 * tests
ORDER BY tests DESC
LIMIT 20;

-- vitals
-- Each vital: how many page views were good, and its p75.
SELECT vital, sum(w.samples) AS views, sum(w.good) AS good_views, sum(w.needs_improvement) AS improvable_views,
    sum(w.poor) AS poor_views, histogramQuantile(sumMap(w.histogram), 0.75) AS p75, any(w.is_legacy) AS legacy,
    max(vitalGoodOn(vital, w.form_factor)) AS good_up_to
FROM vitals_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
WHERE ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
GROUP BY vital
ORDER BY indexOf(['lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid', 'tbt', 'speed_index'], vital);

-- vitals_by_page
-- One vital by page and browser, the worst first.
SELECT page, browser, sum(w.samples) AS views, sum(w.good) AS good_views, sum(w.needs_improvement) AS improvable_views,
    sum(w.poor) AS poor_views, histogramQuantile(sumMap(w.histogram), 0.75) AS p75
FROM vitals_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
WHERE vital = {vital:String}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
GROUP BY page, browser
ORDER BY p75 DESC
LIMIT 50;

-- lighthouse_performance
-- Lighthouse's performance score of each page over the last day, the worst first.
SELECT page, browser, form_factor, samples, performance_score, missing, fcp, speed_index, lcp, tbt, cls, weights_of
FROM lighthouse_performance
WHERE ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND length(missing) < 5 AND has(missing, 'tbt') + has(missing, 'speed_index') < 2
ORDER BY performance_score NULLS LAST, page, browser
LIMIT 50;

-- vitals_over_time
-- The p75 of one vital over time, with distribution-free 95 % bounds (order statistics) from 13 page views on.
SELECT at, views, histogramQuantile(merged, 0.75) AS p75, good_up_to, poor_above,
    if(views < 13, NULL, histogramAtRank(mapSort(merged), greatest(0, floor(0.75 * views - 1.96 * sqrt(0.1875 * views)) - 1))) AS low,
    if(views < 13, NULL, histogramAtRank(mapSort(merged), least(views - 1, ceil(0.75 * views + 1.96 * sqrt(0.1875 * views))))) AS high
FROM
(
    SELECT toUInt32(intDiv(toUnixTimestamp(w.window_start), {bucket:UInt32}) * {bucket:UInt32}) AS at,
        toFloat64(sum(w.samples)) AS views, sumMap(w.histogram) AS merged,
        max(vitalGoodOn(vital, w.form_factor)) AS good_up_to, max(vitalPoorOn(vital, w.form_factor)) AS poor_above
    FROM vitals_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = {bucket:UInt32}) AS w
    WHERE vital = {vital:String}
        AND ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
    GROUP BY at
)
ORDER BY at;

-- alerts_active
-- Alerts that are pending or firing.
SELECT rule, to_state AS state, severity, labels, value, threshold, message, evidence, active_since, fired_at, alert_id
FROM alerts_now
ORDER BY to_state = 'firing' DESC, severity = 'critical' DESC, active_since DESC
LIMIT 200;

-- alert_history
-- Transitions of alerts, the newest first.
SELECT at, rule, severity, from_state, to_state, labels, value, threshold, message, alert_id
FROM alerts
WHERE at >= toDateTime({from:UInt32}, 'UTC') AND at <= toDateTime({to:UInt32}, 'UTC')
ORDER BY at DESC
LIMIT 300;

-- alert_one
-- Every transition of one alert, the newest first.
SELECT at, rule, severity, from_state, to_state, labels, value, threshold, message, reason, evidence
FROM alerts
WHERE alert_id = {alert:String}
ORDER BY at DESC
LIMIT 100;

-- platform
-- Every kind of metric that is neither a test's duration nor a vital: its newest window, its level and its volume.
SELECT metric_type, node, endpoint, environment, sum(w.samples) AS metrics, argMax(w.newest_avg, w.newest_start) AS newest,
    histogramQuantile(sumMap(w.histogram), 0.5) AS p50, histogramQuantile(sumMap(w.histogram), 0.95) AS p95,
    max(w.newest_start) AS newest_window
FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
WHERE lower(metric_type) NOT IN ('duration', 'lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid', 'tbt', 'speed_index')
    AND ({environment:String} = '' OR environment = {environment:String})
GROUP BY metric_type, node, endpoint, environment
ORDER BY metric_type, p95 DESC
LIMIT 200;

-- letters
-- Dead letters by reason: those that were neither replayed nor dropped.
SELECT reason, count() AS items, max(refused_at) AS newest, any(detail) AS example
FROM dead_letters_open
GROUP BY reason
ORDER BY items DESC;
