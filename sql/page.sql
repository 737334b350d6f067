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
SELECT test_suite, executions, pass_rate, failures, flaky_executions, histogramQuantile(merged, 0.5) AS p50_ms,
    histogramQuantile(merged, 0.95) AS p95_ms, counted.tests AS tests
FROM
(
    SELECT w.test_suite AS test_suite, sum(w.total) AS executions, sum(w.passed) / sum(w.total) AS pass_rate,
        sum(w.failed) AS failures, sum(w.flaky) AS flaky_executions, sumMap(w.histogram) AS merged
    FROM suites_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 3600) AS w
    WHERE ({environment:String} = '' OR w.environment = {environment:String})
        AND ({browser:String} = '' OR w.browser = {browser:String})
        AND ({suite:String} = '' OR w.test_suite = {suite:String})
    GROUP BY test_suite
    HAVING executions > 0
) AS found
LEFT JOIN
(
    SELECT w.test_suite AS test_suite, uniq(w.test_id) AS tests
    FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
    WHERE lower(w.metric_type) = 'duration'
        AND ({environment:String} = '' OR w.environment = {environment:String})
        AND ({browser:String} = '' OR w.browser = {browser:String})
    GROUP BY test_suite
) AS counted ON counted.test_suite = found.test_suite
ORDER BY pass_rate, test_suite
LIMIT 200;

-- durations
-- Pass rate and duration of all tests over time.
SELECT at, executions, pass_rate, histogramQuantile(merged, 0.5) AS p50_ms, histogramQuantile(merged, 0.95) AS p95_ms
FROM
(
    SELECT toUInt32(intDiv(toUnixTimestamp(w.window_start), {bucket:UInt32}) * {bucket:UInt32}) AS at,
        sum(w.total) AS executions, sum(w.passed) / sum(w.total) AS pass_rate, sumMap(w.histogram) AS merged
    FROM suites_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = {bucket:UInt32}) AS w
    WHERE ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
        AND ({suite:String} = '' OR test_suite = {suite:String})
    GROUP BY at
    HAVING executions > 0
)
ORDER BY at;

-- slowest
-- The tests with the highest 95th percentile.
SELECT test_suite, test_id, name, browser, executions, histogramQuantile(merged, 0.5) AS p50_ms, p95_ms
FROM
(
    SELECT test_suite, test_id, name, browser, executions, merged, histogramQuantile(merged, 0.95) AS p95_ms
    FROM
    (
        SELECT test_suite, test_id, any(test_name) AS name, browser, sum(w.samples) AS executions,
            sumMap(w.histogram) AS merged
        FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
        WHERE lower(metric_type) = 'duration'
            AND ({environment:String} = '' OR environment = {environment:String})
            AND ({browser:String} = '' OR browser = {browser:String})
            AND ({suite:String} = '' OR test_suite = {suite:String})
        GROUP BY test_suite, test_id, browser
    )
    ORDER BY p95_ms DESC, test_suite, test_id, browser
    LIMIT 25
)
ORDER BY p95_ms DESC, test_suite, test_id, browser;

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
ORDER BY abs(effect_spreads) DESC, changed_at, test_suite, test_id, browser
LIMIT 25;

-- newest_executions
-- How far back the newest 25,000 executions reach in the span: of so many each single one is looked at.
SELECT toUInt32(if(countIf(reached > 25000) = 0, {from:UInt32},
    if(countIf(reached <= 25000) = 0, {to:UInt32}, toUnixTimestamp(minIf(start, reached <= 25000))))) AS since
FROM
(
    SELECT w.window_start AS start, sum(sum(w.total + w.retried)) OVER (ORDER BY start DESC) AS reached
    FROM suites_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 3600) AS w
    WHERE ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
        AND ({suite:String} = '' OR test_suite = {suite:String})
    GROUP BY start
);

-- flakiest
-- Tests that passed only after a retry or went back and forth on one commit, as the query flakiest_tests finds them. Single executions are looked through from since on (figure newest_executions); before it only executions marked flaky count, by test (figure flakiest_before).
WITH
    -- Of an execution numbers are kept, and one text of all names, with a byte between that no UTF-8 has: to hold a text
    -- for each, and to compare words and (timestamp, segment, position), costs more than to read them. ClickHouse takes
    -- longer to plan this than to run it, and much longer in one statement with flakiest_before; so that is added later.
    attempts AS
    (
        WITH
            cityHash64(m.test_suite, m.test_id, m.environment, m.browser) AS test,
            indexOf(['passed', 'flaky', 'failed', 'retried'], statusWord(m.status)) AS word,
            concat(toString(toUnixTimestamp64Milli(m.timestamp)), m.segment, ' ', toString(10000000000 + m.position)) AS place
        SELECT splitByChar('\xFF', any(concat(m.test_suite, '\xFF', m.test_id, '\xFF', m.browser, '\xFF', m.test_name)), 4) AS names,
            any(cityHash64(test, m.commit)) AS line, any(m.commit = '') AS of_no_commit, any(m.run_id = '') AS alone,
            argMaxIf(word, place, word != 4) AS verdict, count() > countIf(word = 4) AS decided,
            countIf(word = 4) + if(verdict IN (1, 2), countIf(word = 3), 0) AS tried_again,
            toUnixTimestamp64Milli(min(m.timestamp)) AS started
        FROM metrics AS m
        WHERE m.timestamp >= toDateTime({since:UInt32}, 'UTC') AND m.timestamp < toDateTime({to:UInt32}, 'UTC')
            AND lower(m.metric_type) = 'duration'
            AND ({environment:String} = '' OR m.environment = {environment:String})
            AND ({browser:String} = '' OR m.browser = {browser:String})
            AND ({suite:String} = '' OR m.test_suite = {suite:String})
        GROUP BY if(m.run_id = '', cityHash64(m.segment, m.position), cityHash64(m.run_id, m.job, test))
    ),
    -- The executions of each commit in the order of their starts, and the changes from one to the next.
    arraySort(groupArrayIf((line, started, verdict = 3, of_no_commit), decided)) AS in_order,
    arrayFilter((one, before) -> one.1 = before.1 AND one.3 != before.3, arrayPopFront(in_order), arrayPopBack(in_order)) AS changes
SELECT names[1] AS test_suite, names[2] AS test_id, any(names[4]) AS name, names[3] AS browser, countIf(decided) AS executions,
    countIf(verdict = 3) AS failures,
    countIf(if(decided, verdict != 3 AND (tried_again > 0 OR verdict = 2), alone)) AS passed_after_retry,
    sumIf(tried_again, decided OR alone) AS retried_attempts,
    -- Without a commit two changes may be a defect and its fix.
    length(changes) - least(arrayCount(one -> one.4, changes), 2) AS changes_on_one_commit, executions AS looked_through
FROM attempts
WHERE verdict > 0 OR NOT decided
GROUP BY test_suite, test_id, browser;

-- flakiest_before
-- Executions before since by test, as their windows count them: the other part of the figure flakiest.
SELECT test_suite, test_id, any(w.test_name) AS name, browser, sum(w.passed + w.failed) AS executions,
    sum(w.failed) AS failures, sum(w.flaky) AS passed_after_retry, sum(w.retried) AS retried_attempts,
    toInt64(0) AS changes_on_one_commit, toUInt64(0) AS looked_through
FROM windows_of(from_s = {from:UInt32}, to_s = {since:UInt32} - 1, step_s = 86400) AS w
WHERE lower(metric_type) = 'duration'
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
    AND ({suite:String} = '' OR test_suite = {suite:String})
GROUP BY test_suite, test_id, browser;

-- test_windows
-- One test over time, window by window.
SELECT at, executions, failures, flaky_executions, histogramQuantile(merged, 0.5) AS p50_ms, max_ms
FROM
(
    SELECT toUInt32(intDiv(toUnixTimestamp(w.window_start), {bucket:UInt32}) * {bucket:UInt32}) AS at,
        sum(w.total) AS executions, sum(w.failed) AS failures, sum(w.flaky) AS flaky_executions,
        sumMap(w.histogram) AS merged, max(w.max) AS max_ms
    FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = {bucket:UInt32}) AS w
    WHERE lower(metric_type) = 'duration' AND test_suite = {suite:String} AND test_id = {test:String}
        AND ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
    GROUP BY at
)
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

-- hours_of_attempts
-- The newest hours in which a test had fifty attempts, by its windows: raw rows of no other hours are read.
SELECT arrayDistinct(arrayFlatten(groupArrayIf(
    -- What begins at midnight may be a whole day.
    arrayMap(number -> toUInt32(toUnixTimestamp(start) + 3600 * number), range(if(toHour(start) = 0, 24, 1))),
    newer < 50))) AS hours
FROM
(
    SELECT toStartOfHour(w.window_start, 'UTC') AS start, sum(w.samples + w.retried) AS attempts,
        sum(attempts) OVER (ORDER BY start DESC) - attempts AS newer
    FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
    WHERE lower(metric_type) = 'duration' AND test_suite = {suite:String} AND test_id = {test:String}
        AND ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
    GROUP BY start
);

-- test_attempts
-- The newest attempts of one test: those of hours whose windows have any, and of the newest two hours.
SELECT timestamp, status, value AS duration_ms, attempt, browser, environment, run_id, branch, error_type
FROM metrics
WHERE (toStartOfHour(timestamp) IN (SELECT toDateTime(arrayJoin({hours:Array(UInt32)}), 'UTC'))
        OR toStartOfHour(timestamp) >= toStartOfHour(toDateTime({to:UInt32}, 'UTC')) - 3600)
    AND timestamp >= toDateTime({from:UInt32}, 'UTC') AND timestamp <= toDateTime({to:UInt32}, 'UTC')
    AND lower(metric_type) = 'duration' AND test_suite = {suite:String} AND test_id = {test:String}
    AND ({environment:String} = '' OR environment = {environment:String})
    AND ({browser:String} = '' OR browser = {browser:String})
ORDER BY timestamp DESC
LIMIT 50;

-- runs
-- The newest runs.
SELECT run_id, branch, commit, started, executions, passed, failed, flaky, skipped, duration_ms, is_final, url
FROM runs
WHERE started >= toDateTime({from:UInt32}, 'UTC') AND started <= toDateTime({to:UInt32}, 'UTC')
ORDER BY started DESC, run_id
LIMIT 50;

-- run_tests
-- Executions of one run, those that failed or needed a retry first.
WITH
    -- The days of the run alone: it is known by its id, but rows are found by their time.
    (
        SELECT (if(count() = 0, toDateTime({from:UInt32}, 'UTC'), toDateTime(min(started), 'UTC') - 3600),
            if(count() = 0, toDateTime({to:UInt32}, 'UTC'), toDateTime(max(ended), 'UTC') + 86400))
        FROM runs WHERE run_id = {run:String}
    ) AS lasted
SELECT names[1] AS test_suite, names[2] AS test_id, names[3] AS name, names[4] AS environment, names[5] AS browser,
    verdict, duration_ms, attempts, error
FROM
(
    -- One text of all names, as in flakiest.
    SELECT splitByChar('\xFF', joined, 5) AS names, verdict, duration_ms, attempts, error, has_failed
    FROM
    (
        SELECT any(concat(test_suite, '\xFF', test_id, '\xFF', test_name, '\xFF', environment, '\xFF', browser)) AS joined,
            argMax(status, toUnixTimestamp64Milli(timestamp) * 65536 + attempt) AS verdict,
            argMax(value, toUnixTimestamp64Milli(timestamp) * 65536 + attempt) AS duration_ms, count() AS attempts,
            any(error_type) AS error, statusWord(verdict) = 'failed' AS has_failed
        FROM metrics
        WHERE run_id = {run:String} AND lower(metric_type) = 'duration'
            AND timestamp >= greatest(toDateTime({from:UInt32}, 'UTC'), lasted.1)
            AND timestamp <= least(toDateTime({to:UInt32}, 'UTC'), lasted.2)
        GROUP BY cityHash64(job, test_suite, test_id, environment, browser)
        ORDER BY has_failed DESC, attempts DESC, duration_ms DESC
        LIMIT 500
    )
)
ORDER BY has_failed DESC, attempts DESC, duration_ms DESC, test_suite, test_id, environment, browser;

-- run_pair
-- Two runs side by side: every test of either, those with another verdict first, then the largest change of duration. Only executions that passed are compared in duration.
SELECT test_suite, test_id, any(m.test_name) AS name, environment, browser,
    argMaxIf(m.status, m.sequence, m.run_id = {run:String}) AS left_verdict,
    argMaxIf(m.status, m.sequence, m.run_id = {other:String}) AS right_verdict,
    argMaxIf(m.value, m.sequence, m.run_id = {run:String}) AS left_ms,
    argMaxIf(m.value, m.sequence, m.run_id = {other:String}) AS right_ms,
    statusWord(left_verdict) AS left_word, statusWord(right_verdict) AS right_word,
    if(left_word IN ('passed', 'flaky') AND right_word IN ('passed', 'flaky') AND left_ms > 0, right_ms / left_ms - 1, NULL) AS change
FROM
(
    -- One number instead of (timestamp, attempt): to compare tuples costs more than to read them.
    SELECT *, toUnixTimestamp64Milli(timestamp) * 65536 + attempt AS sequence
    FROM metrics
    WHERE run_id IN ({run:String}, {other:String}) AND lower(metric_type) = 'duration'
        AND timestamp >= greatest(toDateTime({from:UInt32}, 'UTC'),
            (SELECT if(uniqExact(run_id) < 2, toDateTime({from:UInt32}, 'UTC'), toDateTime(min(started), 'UTC') - 3600)
            FROM runs WHERE run_id IN ({run:String}, {other:String})))
        AND timestamp <= toDateTime({to:UInt32}, 'UTC')
        AND timestamp <= (SELECT if(uniqExact(run_id) < 2, toDateTime({to:UInt32}, 'UTC'), toDateTime(max(ended), 'UTC') + 86400)
            FROM runs WHERE run_id IN ({run:String}, {other:String}))
) AS m
GROUP BY test_suite, test_id, environment, browser
ORDER BY left_word != right_word DESC, right_word = 'failed' DESC, abs(ifNull(change, 0)) DESC, test_suite, test_id
LIMIT 500;

-- run_twins
-- Pairs of jobs of one run that hold the same executions, by tests that took 20 ms or more: the run was fed in two ways.
SELECT run_id, pair.1.1 AS job, pair.2.1 AS other, count() AS tests
FROM
(
    SELECT run_id, arraySort(groupArray((job, ms))) AS jobs,
        -- Each job beside every later one; a join of the jobs with themselves takes ClickHouse longer to plan.
        arrayJoin(arrayFlatten(arrayMap((one, place) -> arrayMap(other -> (one, other), arraySlice(jobs, place + 1)), jobs, arrayEnumerate(jobs)))) AS pair
    FROM
    (
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
    GROUP BY run_id, test_suite, test_id
)
WHERE greatest(pair.1.2, pair.2.2) >= 20
GROUP BY run_id, job, other
HAVING countIf(abs(pair.1.2 - pair.2.2) <= 1) >= 0.8 * tests
ORDER BY tests DESC, run_id, job, other
LIMIT 20;

-- vitals
-- Each vital: how many page views were good, and its p75.
SELECT vital, views, good_views, improvable_views, poor_views, histogramQuantile(merged, 0.75) AS p75, legacy,
    good_up_to
FROM
(
    SELECT vital, sum(w.samples) AS views, sum(w.good) AS good_views, sum(w.needs_improvement) AS improvable_views,
        sum(w.poor) AS poor_views, sumMap(w.histogram) AS merged, any(w.is_legacy) AS legacy,
        max(vitalGoodOn(vital, w.form_factor)) AS good_up_to
    FROM vitals_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
    WHERE ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
    GROUP BY vital
)
ORDER BY indexOf(['lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid', 'tbt', 'speed_index'], vital);

-- vitals_by_page
-- One vital by page and browser, the worst first.
SELECT page, browser, views, good_views, improvable_views, poor_views, histogramQuantile(merged, 0.75) AS p75
FROM
(
    SELECT page, browser, sum(w.samples) AS views, sum(w.good) AS good_views,
        sum(w.needs_improvement) AS improvable_views, sum(w.poor) AS poor_views, sumMap(w.histogram) AS merged
    FROM vitals_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
    WHERE vital = {vital:String}
        AND ({environment:String} = '' OR environment = {environment:String})
        AND ({browser:String} = '' OR browser = {browser:String})
    GROUP BY page, browser
)
ORDER BY p75 DESC, page, browser
LIMIT 50;

-- laboratory
-- Page views of laboratories over the last day: only they measure Total Blocking Time and Speed Index.
SELECT sum(w.samples) AS results
FROM web_vitals AS w
WHERE w.window_start >= now('UTC') - INTERVAL 1 DAY AND w.vital IN ('tbt', 'speed_index');

-- lighthouse_performance
-- Lighthouse's performance score of each page over the last day, the worst first.
SELECT page, browser, form_factor, samples, performance_score, missing, fcp, speed_index, lcp, tbt, cls, weights_of
FROM lighthouse_performance
WHERE (environment, page, browser) GLOBAL IN (
        -- Only laboratories measure these two; browsers of visitors are many, and have no score.
        SELECT w.environment, w.page, w.browser FROM web_vitals AS w
        WHERE w.window_start >= now('UTC') - INTERVAL 1 DAY AND w.vital IN ('tbt', 'speed_index'))
    AND ({environment:String} = '' OR environment = {environment:String})
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
SELECT metric_type, node, endpoint, environment, metrics, newest, histogramQuantile(merged, 0.5) AS p50,
    histogramQuantile(merged, 0.95) AS p95, newest_window
FROM
(
    SELECT metric_type, node, endpoint, environment, sum(w.samples) AS metrics,
        argMax(w.newest_avg, w.newest_start) AS newest, sumMap(w.histogram) AS merged,
        max(w.newest_start) AS newest_window
    FROM windows_of(from_s = {from:UInt32}, to_s = {to:UInt32}, step_s = 86400) AS w
    WHERE lower(metric_type) NOT IN ('duration', 'lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid', 'tbt', 'speed_index')
        AND ({environment:String} = '' OR environment = {environment:String})
    GROUP BY metric_type, node, endpoint, environment
)
ORDER BY metric_type, p95 DESC, node, endpoint, environment
LIMIT 200;

-- letters
-- Dead letters by reason: those that were neither replayed nor dropped.
SELECT reason, count() AS items, max(refused_at) AS newest, any(detail) AS example
FROM dead_letters_open
GROUP BY reason
ORDER BY items DESC, reason;
