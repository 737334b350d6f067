-- Percentiles over stored histograms, as pipeline/analyse/histogram.py defines them (it explains the constants):
--     SELECT test_suite, histogramQuantile(sumMap(histogram), 0.95) FROM metrics_5min GROUP BY test_suite
-- Histograms merge by sumMap, exactly and in any order; a quantile of one is within 1 % of that of the rows.
-- Functions belong to the server, not to a database; creating them again changes nothing.

-- What the bucket with key k stands for: within 1 % of every value in it.
CREATE OR REPLACE FUNCTION histogramBucketValue {on_cluster} AS (k) ->
    sign(k) * least(pow(1.0202, abs(k) - 35400) * (2 / 2.0202), 1.7976931348623157e308);

-- The value at a rank (0 is the least) of a histogram whose keys ascend.
CREATE OR REPLACE FUNCTION histogramAtRank {on_cluster} AS (sorted, rank) ->
    histogramBucketValue(
        mapKeys(sorted)[arrayFirstIndex(c -> c > rank, arrayCumSum(mapValues(sorted)))]);

-- How many values a histogram holds.
CREATE OR REPLACE FUNCTION histogramCount {on_cluster} AS (h) -> toFloat64(arraySum(mapValues(h)));

-- The quantile q (0 to 1) of a histogram, by linear interpolation between ranks; NaN when it is empty.
CREATE OR REPLACE FUNCTION histogramQuantile {on_cluster} AS (h, q) ->
    if(histogramCount(h) = 0, nan,
        histogramAtRank(mapSort(h), floor((histogramCount(h) - 1) * q))
            * (1 - ((histogramCount(h) - 1) * q - floor((histogramCount(h) - 1) * q)))
        + histogramAtRank(mapSort(h), least(floor((histogramCount(h) - 1) * q) + 1, histogramCount(h) - 1))
            * ((histogramCount(h) - 1) * q - floor((histogramCount(h) - 1) * q)));

-- Up to and including this a vital is good; pipeline/analyse/vitals.py is the same table.
CREATE OR REPLACE FUNCTION vitalGood {on_cluster} AS (vital) ->
    transform(toString(vital), ['lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid'],
              [2500., 200., 0.1, 1800., 800., 100.], toFloat64(nan));

-- Above this a vital is poor.
CREATE OR REPLACE FUNCTION vitalPoor {on_cluster} AS (vital) ->
    transform(toString(vital), ['lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid'],
              [4000., 500., 0.25, 3000., 1800., 300.], toFloat64(nan));

-- A p75 from merged histograms is within 1 %; the counts, which rate, say exactly on which side of a bound it lies.
CREATE OR REPLACE FUNCTION p75AsRated {on_cluster} AS (p75, rating, vital) ->
    multiIf(rating = 'good', least(p75, vitalGood(vital)),
            rating = 'poor', greatest(p75, vitalPoor(vital) * 1.000001),
            greatest(least(p75, vitalPoor(vital)), vitalGood(vital) * 1.000001));

-- The name under which a browser is reported, as in web_vitals: chromium is chrome (setting vitals.browser_aliases).
CREATE OR REPLACE FUNCTION browserName {on_cluster} AS (browser) ->
    transform(lower(toString(browser)), {browsers_as_sent}, {browsers_as_reported}, lower(toString(browser)));

-- What a status means, whatever word a reporter uses for it; pipeline/status_words.py is the same table.
CREATE OR REPLACE FUNCTION statusWord {on_cluster} AS (status) ->
    transform(replaceRegexpAll(lower(trimBoth(toString(status))), '[ _-]+', ''),
        ['passed', 'pass', 'ok', 'success', 'successful', 'succeeded', 'expected', 'xpassed', 'xpass',
         'failed', 'fail', 'failure', 'error', 'errored', 'broken', 'timedout', 'timeout', 'unexpected', 'crashed',
         'flaky',
         'skipped', 'skip', 'ignored', 'ignore', 'disabled', 'pending', 'todo', 'notrun', 'notexecuted',
         'inconclusive', 'xfailed', 'xfail',
         'retried', 'rerun', 'retry',
         'interrupted', 'aborted', 'cancelled', 'canceled', 'killed'],
        ['passed', 'passed', 'passed', 'passed', 'passed', 'passed', 'passed', 'passed', 'passed',
         'failed', 'failed', 'failed', 'failed', 'failed', 'failed', 'failed', 'failed', 'failed', 'failed',
         'flaky',
         'skipped', 'skipped', 'skipped', 'skipped', 'skipped', 'skipped', 'skipped', 'skipped', 'skipped',
         'skipped', 'skipped', 'skipped',
         'retried', 'retried', 'retried',
         'interrupted', 'interrupted', 'interrupted', 'interrupted', 'interrupted'],
        lower(trimBoth(toString(status))));

-- The same, held between the least and the greatest of the values, which the windows keep exactly (min, max): a
-- percentile above the maximum, or one of a single sample that is not that sample, would be within 1 % and still wrong.
--     SELECT histogramQuantileBetween(sumMap(histogram), 0.95, min(min), max(max)) FROM metrics_5min
CREATE OR REPLACE FUNCTION histogramQuantileBetween {on_cluster} AS (h, q, lowest, highest) ->
    if(histogramCount(h) = 0, nan, least(highest, greatest(lowest, histogramQuantile(h, q))));
