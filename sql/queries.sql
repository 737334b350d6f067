-- Named questions an analyst asks: a heading, one sentence, the defaults of its parameters, the query.
-- {name:Type} is a parameter; one without a default has to be given. A span ends where {until} says. An empty
-- environment, browser, suite or branch means all of them. Browsers go by browserName(), as in web_vitals.
-- Rows that replace each other are read as one: the analysts' handle sets final = 1.

-- slower_tests
-- Which tests got slower: the median of passed executions in the span beside that of the equally long span before it.
-- defaults: since=7d until=now environment= suite= min_executions=5
SELECT
    test_suite,
    test_id,
    any(w.test_name) AS name,
    environment,
    browserName(browser) AS browser_name,
    quantileExactWeightedIf(0.5)(speed_p50, speed_samples, window_start < {since:DateTime('UTC')}) AS before_ms,
    quantileExactWeightedIf(0.5)(speed_p50, speed_samples, window_start >= {since:DateTime('UTC')}) AS now_ms,
    round(100 * (now_ms / before_ms - 1), 1) AS change_pct,
    sumIf(speed_samples, window_start < {since:DateTime('UTC')}) AS executions_before,
    sumIf(speed_samples, window_start >= {since:DateTime('UTC')}) AS executions_now
FROM metrics_5min AS w
WHERE lower(metric_type) = 'duration' AND speed_samples > 0
    AND window_start >= {since:DateTime('UTC')} - toIntervalSecond(dateDiff('second', {since:DateTime('UTC')}, {until:DateTime('UTC')}))
    AND window_start < {until:DateTime('UTC')}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
GROUP BY test_suite, test_id, environment, browser_name
HAVING executions_before >= {min_executions:UInt32} AND executions_now >= {min_executions:UInt32} AND now_ms > before_ms
ORDER BY change_pct DESC, test_suite, test_id, browser_name
LIMIT 100;

-- flakiest_tests
-- Which tests are flaky: they passed only after a retry, or went back and forth on the same commit; the flakiest first.
-- defaults: since=7d until=now environment= suite=
WITH seen AS (
    SELECT test_suite, test_id, environment, browser_name, test_name, commit, verdict, retried, started, run_id,
        1 AS is_execution
    FROM executions
    WHERE verdict IN ('passed', 'flaky', 'failed')
        AND ended >= {since:DateTime('UTC')} AND ended < {until:DateTime('UTC')}
    UNION ALL
    -- Without a run_id nothing joins an attempt that was retried to its execution: it stands for itself.
    SELECT test_suite, test_id, environment, browserName(browser) AS browser_name, test_name, commit, 'flaky', 1,
        timestamp, '', 0
    FROM metrics
    WHERE run_id = '' AND lower(metric_type) = 'duration' AND statusWord(status) = 'retried'
        AND timestamp >= {since:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}
), executed AS (
    SELECT
        test_suite, test_id, browser_name, test_name, commit, retried, is_execution,
        verdict = 'failed' AS has_failed,
        verdict != 'failed' AND (retried > 0 OR verdict = 'flaky') AS was_saved,
        lagInFrame(toInt8(has_failed), 1, toInt8(-1)) OVER before AS failed_before
    FROM seen
    WHERE ({environment:String} = '' OR environment = {environment:String})
        AND ({suite:String} = '' OR test_suite = {suite:String})
    WINDOW before AS (
        PARTITION BY test_suite, test_id, environment, browser_name, commit, is_execution ORDER BY started, has_failed
        ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    )
)
SELECT
    test_suite,
    test_id,
    any(e.test_name) AS name,
    browser_name,
    toUInt64(sum(is_execution)) AS executions,
    countIf(has_failed) AS failures,
    countIf(was_saved) AS passed_after_retry,
    sum(e.retried) AS retried_attempts,
    -- On each commit by itself, also while others are tested. Without a commit two changes may be a defect and its fix.
    countIf(failed_before >= 0 AND failed_before != has_failed AND commit != '')
        + greatest(toInt64(countIf(failed_before >= 0 AND failed_before != has_failed AND commit = '')) - 2, 0)
        AS changes_on_one_commit,
    round(least(1, (passed_after_retry + changes_on_one_commit) / greatest(executions, 1)), 4) AS flakiness
FROM executed AS e
GROUP BY test_suite, test_id, browser_name
HAVING passed_after_retry + changes_on_one_commit > 0
ORDER BY flakiness DESC, executions DESC, test_suite, test_id, browser_name
LIMIT 100;

-- run_against_main
-- Is this run worse than main: each execution of a run beside what is normal for its test on baselines.branches.
SELECT
    multiIf(verdict = 'failed' AND normal.success_rate >= 0.9, 'fails here, passes on main',
            verdict = 'failed' AND normal.runs > 0, 'fails on main too',
            verdict = 'failed', 'fails, unknown on main',
            normal.runs = 0, 'unknown on main',
            verdict IN ('passed', 'flaky') AND normal.spread > 0
                AND run.duration_ms > normal.centre + 3 * normal.spread, 'slower than on main',
            verdict = 'flaky', 'needed a retry',
            'as on main') AS judgement,
    run.test_suite AS suite,
    run.test_id AS test,
    run.environment AS environment,
    browserName(run.browser) AS browser_name,
    run.verdict AS verdict,
    run.attempts AS attempts,
    run.duration_ms AS duration_ms,
    if(normal.runs = 0, NULL, normal.centre) AS normal_ms,
    if(normal.runs = 0 OR normal.centre = 0, NULL, round(100 * (run.duration_ms / normal.centre - 1), 1)) AS slower_pct,
    if(normal.runs = 0, NULL, normal.success_rate) AS success_rate_on_main,
    run.error_type AS error
FROM (SELECT * FROM executions WHERE run_id = {run_id:String}) AS run
LEFT JOIN (SELECT * FROM current_baselines WHERE test_id != '') AS normal
    ON run.test_suite = normal.test_suite AND run.environment = normal.environment AND run.browser = normal.browser
        AND if(run.test_id = '', run.test_name, run.test_id) = normal.test_id
ORDER BY indexOf(['fails here, passes on main', 'slower than on main', 'fails, unknown on main', 'fails on main too',
                  'needed a retry', 'unknown on main', 'as on main'], judgement), slower_pct DESC NULLS LAST, suite, test
LIMIT 1000;

-- worst_pages
-- Which page has the worst LCP (or another vital): p75 and rating of each page, with bounds of 95 %, the worst first.
-- defaults: since=7d until=now vital=lcp environment= browser=
SELECT
    page,
    views,
    -- The counts say on which side of a bound the p75 lies.
    p75AsRatedOn(histogramQuantile(merged, 0.75), rating, lower({vital:String}), form_factor) AS p75,
    if(views < 13, NULL, histogramAtRank(mapSort(merged), greatest(0, floor(0.75 * views - 1.96 * sqrt(0.1875 * views)) - 1))) AS p75_low,
    if(views < 13, NULL, histogramAtRank(mapSort(merged), least(views - 1, ceil(0.75 * views + 1.96 * sqrt(0.1875 * views))))) AS p75_high,
    multiIf(4 * good_views >= 3 * views, 'good', 4 * (good_views + improvable_views) >= 3 * views, 'needs_improvement', 'poor') AS rating,
    good_views,
    improvable_views,
    poor_views
FROM
(
    SELECT page, toFloat64(sum(samples)) AS views, sum(good) AS good_views, sum(needs_improvement) AS improvable_views,
        sum(poor) AS poor_views, sumMap(histogram) AS merged, argMax(web_vitals.form_factor, window_start) AS form_factor
    FROM web_vitals
    WHERE vital = lower({vital:String})
        AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
        AND ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = browserName({browser:String}))
    GROUP BY page
)
ORDER BY p75 DESC, page
LIMIT 100;

-- performance_scores
-- Lighthouse's performance score of each page, out of the p75 of its five metrics, the worst first; NULL where one is missing.
-- defaults: since=7d until=now environment= browser=
SELECT
    environment,
    page,
    browser,
    argMax(form_factor, vital = 'lcp') AS form_factor,
    min(measured) AS samples,
    lighthousePerformance(fcp, speed_index, lcp, tbt, cls, form_factor) AS performance_score,
    arrayFilter(name -> NOT has(groupArray(vital), name), ['fcp', 'speed_index', 'lcp', 'tbt', 'cls']) AS missing,
    anyIf(toNullable(rated), vital = 'fcp') AS fcp,
    anyIf(toNullable(rated), vital = 'speed_index') AS speed_index,
    anyIf(toNullable(rated), vital = 'lcp') AS lcp,
    anyIf(toNullable(rated), vital = 'tbt') AS tbt,
    anyIf(toNullable(rated), vital = 'cls') AS cls,
    'Lighthouse 10 to 13' AS weights_of
FROM
(
    SELECT w.environment AS environment, w.page AS page, w.browser AS browser, w.vital AS vital,
        sum(w.samples) AS measured, argMax(w.form_factor, w.window_start) AS form_factor,
        -- Of one window the percentile is known exactly.
        p75AsRatedOn(if(count() = 1, any(w.p75_rated), histogramRatedP75(sumMap(w.histogram))),
            ratingOf(sum(w.good), sum(w.needs_improvement), sum(w.samples)), w.vital, form_factor) AS rated
    FROM web_vitals AS w
    WHERE w.vital IN ('fcp', 'speed_index', 'lcp', 'tbt', 'cls')
        AND w.window_start >= {since:DateTime('UTC')} AND w.window_start < {until:DateTime('UTC')}
        AND ({environment:String} = '' OR w.environment = {environment:String})
        AND ({browser:String} = '' OR w.browser = browserName({browser:String}))
    GROUP BY w.environment, w.page, w.browser, w.vital
)
GROUP BY environment, page, browser
ORDER BY performance_score NULLS LAST, page, browser
LIMIT 100;

-- one_test_by_day
-- One test by day: executions, pass rate, duration (percentiles within 1 %), in each browser.
-- defaults: since=14d until=now suite= environment=
SELECT
    toDate(window_start) AS day,
    browserName(browser) AS browser_name,
    sum(total) AS executions,
    sum(w.passed) / nullIf(sum(total), 0) AS pass_rate,
    sum(w.flaky) AS passed_after_retry,
    histogramQuantileBetween(sumMap(histogram), 0.5, min(w.min), max(w.max)) AS p50_ms,
    histogramQuantileBetween(sumMap(histogram), 0.95, min(w.min), max(w.max)) AS p95_ms,
    max(w.max) AS longest_ms
FROM metrics_5min AS w
WHERE lower(metric_type) = 'duration' AND test_id = {test_id:String}
    AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
    AND ({suite:String} = '' OR test_suite = {suite:String})
    AND ({environment:String} = '' OR environment = {environment:String})
GROUP BY day, browser_name
ORDER BY day, browser_name;

-- broken_since
-- Since when is it broken: tests whose newest execution failed, and when each last passed (empty: not in the span).
-- defaults: since=28d until=now environment= suite= branch=
WITH broken AS
(
    SELECT
        test_suite,
        test_id,
        environment,
        browserName(browser) AS browser_name,
        maxIf(timestamp, statusWord(status) IN ('passed', 'flaky')) AS passed_at
    FROM metrics
    WHERE lower(metric_type) = 'duration' AND statusWord(status) IN ('passed', 'flaky', 'failed', 'interrupted')
        AND timestamp >= {since:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}
        AND ({environment:String} = '' OR environment = {environment:String})
        AND ({suite:String} = '' OR test_suite = {suite:String})
        AND ({branch:String} = '' OR branch = {branch:String})
    GROUP BY test_suite, test_id, environment, browser_name
    HAVING argMax(statusWord(status) IN ('failed', 'interrupted'), (timestamp, segment, position))
)
SELECT
    m.test_suite AS suite,
    m.test_id AS test,
    any(m.test_name) AS name,
    m.environment AS environment,
    browserName(m.browser) AS browser_name,
    nullIf(any(broken.passed_at), toDateTime64(0, 3, 'UTC')) AS last_passed,
    min(m.timestamp) AS first_failed_after,
    max(m.timestamp) AS last_failed,
    count() AS failures_since,
    argMax(m.error_type, m.timestamp) AS newest_error
FROM metrics AS m
GLOBAL INNER JOIN broken
    ON m.test_suite = broken.test_suite AND m.test_id = broken.test_id AND m.environment = broken.environment
        AND browserName(m.browser) = broken.browser_name
WHERE lower(m.metric_type) = 'duration' AND statusWord(m.status) IN ('failed', 'interrupted')
    AND m.timestamp >= greatest({since:DateTime('UTC')}, broken.passed_at) AND m.timestamp < {until:DateTime('UTC')}
    AND ({branch:String} = '' OR m.branch = {branch:String})
GROUP BY suite, test, environment, browser_name
ORDER BY last_passed NULLS FIRST, failures_since DESC, suite, test
LIMIT 200;

-- pass_rate_by_day
-- Pass rate by day and suite; skipped executions do not count.
-- defaults: since=14d until=now environment= browser= suite=
SELECT
    toDate(window_start) AS day,
    test_suite,
    sum(total) AS executions,
    sum(w.failed) AS failures,
    sum(w.flaky) AS passed_after_retry,
    sum(w.passed) / sum(total) AS pass_rate
FROM metrics_5min AS w
WHERE lower(metric_type) = 'duration'
    AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browserName(browser) = browserName({browser:String}))
    AND ({suite:String} = '' OR test_suite = {suite:String})
GROUP BY day, test_suite
HAVING executions > 0
ORDER BY day, test_suite;

-- test_time
-- Where does test time go: hours of every test with its retries, and its share of all test time, the largest first.
-- defaults: since=7d until=now environment=
SELECT
    test_suite,
    test_id,
    any(m.test_name) AS name,
    count() AS attempts,
    sum(m.value) / 3600000 AS hours,
    sumIf(m.value, statusWord(status) = 'retried') / 3600000 AS hours_retried,
    sumIf(m.value, statusWord(status) = 'failed') / 3600000 AS hours_failed,
    round(sum(m.value) / sum(sum(m.value)) OVER (), 4) AS share
FROM metrics AS m
WHERE lower(metric_type) = 'duration' AND m.value > 0
    AND timestamp >= {since:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}
    AND ({environment:String} = '' OR environment = {environment:String})
GROUP BY test_suite, test_id
ORDER BY hours DESC, test_suite, test_id
LIMIT 200;

-- slowest_browser
-- Which browser is slowest, on the same tests: how many times as long as their mean over all browsers, with bounds of 95 %.
-- defaults: since=7d until=now environment= suite=
WITH
    -- Student's t at 97.5 % for 1 to 30 degrees of freedom; beyond, the normal distribution's.
    [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12,
     2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042] AS t
SELECT
    browser_name,
    count() AS tests,
    sum(n) AS executions,
    exp(avg(ratio)) AS times_the_mean,
    if(tests < 2, NULL, exp(avg(ratio) - if(tests > 31, 1.96, t[tests - 1]) * stddevSamp(ratio) / sqrt(tests))) AS low,
    if(tests < 2, NULL, exp(avg(ratio) + if(tests > 31, 1.96, t[tests - 1]) * stddevSamp(ratio) / sqrt(tests))) AS high
FROM
(
    SELECT browser_name, n, log(median_ms) - avg(log(median_ms)) OVER same_test AS ratio, count() OVER same_test AS browsers
    FROM
    (
        SELECT test_suite, test_id, environment, browserName(browser) AS browser_name, sum(speed_samples) AS n,
            quantileExactWeighted(0.5)(speed_p50, speed_samples) AS median_ms
        FROM metrics_5min
        WHERE lower(metric_type) = 'duration' AND speed_samples > 0 AND speed_p50 > 0
            AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
            AND ({environment:String} = '' OR environment = {environment:String})
            AND ({suite:String} = '' OR test_suite = {suite:String})
        GROUP BY test_suite, test_id, environment, browser_name
    )
    WINDOW same_test AS (PARTITION BY test_suite, test_id, environment)
)
WHERE browsers > 1
GROUP BY browser_name
ORDER BY times_the_mean DESC;

-- time_to_resolve
-- How long until alerts resolve, by rule; an alert that ended because its rule was removed or changed is counted apart.
-- defaults: since=28d until=now
SELECT
    rule,
    countIf(ended AND NOT withdrawn) AS resolved,
    round(quantileExactInclusiveIf(0.5)(took_s, ended AND NOT withdrawn) / 60, 1) AS p50_minutes,
    round(quantileExactInclusiveIf(0.95)(took_s, ended AND NOT withdrawn) / 60, 1) AS p95_minutes,
    round(maxIf(took_s, ended AND NOT withdrawn) / 60, 1) AS longest_minutes,
    countIf(NOT ended) AS still_firing,
    countIf(withdrawn) AS rule_removed_or_changed
FROM
(
    SELECT
        rule,
        alert_id,
        fired_at,
        countIf(to_state = 'resolved') > 0 AS ended,
        countIf(to_state = 'resolved' AND reason LIKE 'its rule %') > 0 AS withdrawn,
        dateDiff('millisecond', fired_at, maxIf(at, to_state = 'resolved')) / 1000 AS took_s
    FROM alerts
    WHERE to_state IN ('firing', 'resolved') AND fired_at >= {since:DateTime('UTC')} AND fired_at < {until:DateTime('UTC')}
    GROUP BY rule, alert_id, fired_at
)
GROUP BY rule
ORDER BY p50_minutes DESC;

-- raw_rows_per_minute
-- How many raw rows were stored in each minute, by the time of ingestion.
-- defaults: since=1h until=now
SELECT toStartOfMinute(ingested_at) AS minute, count() AS rows
FROM metrics
WHERE timestamp >= {since:DateTime('UTC')} - INTERVAL 1 DAY
    AND ingested_at >= {since:DateTime('UTC')} AND ingested_at < {until:DateTime('UTC')}
GROUP BY minute
ORDER BY minute;

-- one_test_over_time
-- The duration of one test, five minutes by five minutes.
-- defaults: since=1d until=now
SELECT window_start, browserName(browser) AS browser_name, samples, p50, p95, passed, failed
FROM metrics_5min
WHERE lower(metric_type) = 'duration' AND test_id = {test_id:String}
    AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
ORDER BY window_start, browser_name;

-- hourly_durations
-- The duration of every suite by the hour; percentiles come from merged histograms, within 1 %.
-- defaults: since=7d until=now
SELECT
    toStartOfHour(window_start) AS hour,
    test_suite,
    sum(samples) AS executions,
    histogramQuantileBetween(sumMap(histogram), 0.5, min(w.min), max(w.max)) AS p50_ms,
    histogramQuantileBetween(sumMap(histogram), 0.95, min(w.min), max(w.max)) AS p95_ms
FROM metrics_5min AS w
WHERE lower(metric_type) = 'duration' AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
GROUP BY hour, test_suite
ORDER BY hour, test_suite;

-- tests_and_vitals_by_browser
-- Tests and Core Web Vitals of each browser side by side, whatever name each of them uses for it.
-- defaults: since=7d until=now environment=
SELECT browser_name, executions, pass_rate, page_views, lcp_p75, inp_p75, cls_p75
FROM
(
    SELECT browserName(browser) AS browser_name, sum(total) AS executions,
        sum(passed) / nullIf(sum(total), 0) AS pass_rate
    FROM metrics_5min
    WHERE lower(metric_type) = 'duration'
        AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
        AND ({environment:String} = '' OR environment = {environment:String})
    GROUP BY browser_name
) AS tests
FULL JOIN
(
    SELECT browser AS browser_name, sumIf(samples, vital = 'lcp') AS page_views,
        histogramQuantile(sumMapIf(histogram, vital = 'lcp'), 0.75) AS lcp_p75,
        histogramQuantile(sumMapIf(histogram, vital = 'inp'), 0.75) AS inp_p75,
        histogramQuantile(sumMapIf(histogram, vital = 'cls'), 0.75) AS cls_p75
    FROM web_vitals
    WHERE window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
        AND ({environment:String} = '' OR environment = {environment:String})
    GROUP BY browser_name
) AS vitals USING (browser_name)
ORDER BY browser_name;

-- baseline_history
-- What was normal for one suite, day by day.
-- defaults: since=28d until=now
SELECT computed_at, environment, browser, centre, spread, p95_duration, success_rate, runs, state
FROM baselines
WHERE test_suite = {suite:String} AND test_id = ''
    AND computed_at >= {since:DateTime('UTC')} AND computed_at < {until:DateTime('UTC')}
ORDER BY computed_at DESC
LIMIT 1 BY toDate(computed_at), environment, browser;

-- dead_letters_by_reason
-- Why items were refused, with an example of each reason.
-- defaults: since=1d until=now
SELECT reason, count() AS letters, max(refused_at) AS latest, any(detail) AS example
FROM dead_letters
WHERE refused_at >= {since:DateTime('UTC')} AND refused_at < {until:DateTime('UTC')}
GROUP BY reason
ORDER BY letters DESC;

-- alert_history
-- Every transition of every alert, the newest first.
-- defaults: since=7d until=now
SELECT at, rule, severity, from_state, to_state, value, threshold, message
FROM alerts
WHERE at >= {since:DateTime('UTC')} AND at < {until:DateTime('UTC')}
ORDER BY at DESC;

-- compatibility
-- The pass rate of every suite in every browser.
-- defaults: since=7d until=now
SELECT test_suite, browserName(browser) AS browser_name, sum(total) AS executions, sum(w.passed) / sum(total) AS pass_rate
FROM metrics_5min AS w
WHERE lower(metric_type) = 'duration' AND window_start >= {since:DateTime('UTC')} AND window_start < {until:DateTime('UTC')}
GROUP BY test_suite, browser_name
HAVING executions > 0
ORDER BY test_suite, browser_name;

-- disk_by_table
-- How much disk each table takes, compressed, and how many bytes a row.
SELECT table, sum(rows) AS rows_stored, sum(bytes_on_disk) AS bytes, round(bytes / rows_stored, 1) AS bytes_per_row
FROM system.parts
WHERE database = currentDatabase() AND active
GROUP BY table
ORDER BY bytes DESC;
