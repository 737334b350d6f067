-- Percentiles over stored histograms, as pipeline/analyse/histogram.py defines them (it explains the constants):
--     SELECT test_suite, histogramQuantile(sumMap(histogram), 0.95) FROM metrics_5min GROUP BY test_suite
-- Histograms merge by sumMap, exactly and in any order; a quantile of one is within 1 % of that of the rows.
-- Functions belong to the server, not to a database; creating them again changes nothing.
-- ClickHouse writes out the argument of a function at each place where it stands. arrayMap over one element gives it a
-- name instead: a statement is planned in half the time.

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
    arrayMap((sorted, at) -> if(isNaN(at), nan,
            histogramAtRank(sorted, floor(at)) * (1 - (at - floor(at)))
            + histogramAtRank(sorted, least(floor(at) + 1, histogramCount(sorted) - 1)) * (at - floor(at))),
        [mapSort(h)], [if(histogramCount(h) = 0, nan, (histogramCount(h) - 1) * q)])[1];

-- Lighthouse's control points of a vital, as pipeline/analyse/dimensions.py has them: 0.9 is scored at p10, 0.5 at the
-- median; NaN where it scores nothing. INP and CLS have one pair for both form factors.
CREATE OR REPLACE FUNCTION lighthouseP10 {on_cluster} AS (vital, form_factor) ->
    transform(if(form_factor = 'desktop', concat(vital, '/desktop'), toString(vital)),
              ['lcp', 'inp', 'cls', 'fcp', 'tbt', 'speed_index', 'lcp/desktop', 'inp/desktop', 'cls/desktop',
               'fcp/desktop', 'tbt/desktop', 'speed_index/desktop'],
              [2500., 200., 0.1, 1800., 200., 3387., 1200., 200., 0.1, 934., 150., 1311.], toFloat64(nan));
CREATE OR REPLACE FUNCTION lighthouseMedian {on_cluster} AS (vital, form_factor) ->
    transform(if(form_factor = 'desktop', concat(vital, '/desktop'), toString(vital)),
              ['lcp', 'inp', 'cls', 'fcp', 'tbt', 'speed_index', 'lcp/desktop', 'inp/desktop', 'cls/desktop',
               'fcp/desktop', 'tbt/desktop', 'speed_index/desktop'],
              [4000., 500., 0.25, 3000., 600., 5800., 2400., 500., 0.25, 1600., 350., 2300.], toFloat64(nan));

-- Up to and including this a vital is good; pipeline/analyse/dimensions.py is the same table. What only laboratories
-- measure (tbt, speed_index) is rated as Lighthouse colours it, here for mobile.
CREATE OR REPLACE FUNCTION vitalGood {on_cluster} AS (vital) ->
    transform(toString(vital), ['lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid', 'tbt', 'speed_index'],
              [2500., 200., 0.1, 1800., 800., 100., 200., 3387.], toFloat64(nan));

-- Above this a vital is poor.
CREATE OR REPLACE FUNCTION vitalPoor {on_cluster} AS (vital) ->
    transform(toString(vital), ['lcp', 'inp', 'cls', 'fcp', 'ttfb', 'fid', 'tbt', 'speed_index'],
              [4000., 500., 0.25, 3000., 1800., 300., 600., 5800.], toFloat64(nan));

-- The same limits for a form factor, which only those of the laboratory depend on.
CREATE OR REPLACE FUNCTION vitalGoodOn {on_cluster} AS (vital, form_factor) ->
    if(vital IN ('tbt', 'speed_index'), lighthouseP10(vital, form_factor), vitalGood(vital));
CREATE OR REPLACE FUNCTION vitalPoorOn {on_cluster} AS (vital, form_factor) ->
    if(vital IN ('tbt', 'speed_index'), lighthouseMedian(vital, form_factor), vitalPoor(vital));

-- A p75 from merged histograms is within 1 %; the counts, which rate, say exactly on which side of a bound it lies.
CREATE OR REPLACE FUNCTION p75Between {on_cluster} AS (p75, rating, good_up_to, poor_above) ->
    multiIf(rating = 'good', least(p75, good_up_to),
            rating = 'poor', greatest(p75, poor_above * 1.000001),
            greatest(least(p75, poor_above), good_up_to * 1.000001));
CREATE OR REPLACE FUNCTION p75AsRated {on_cluster} AS (p75, rating, vital) ->
    p75Between(p75, rating, vitalGood(vital), vitalPoor(vital));
CREATE OR REPLACE FUNCTION p75AsRatedOn {on_cluster} AS (p75, rating, vital, form_factor) ->
    p75Between(p75, rating, vitalGoodOn(vital, form_factor), vitalPoorOn(vital, form_factor));

-- good, needs_improvement or poor by exact counts: good when three quarters of the samples are.
CREATE OR REPLACE FUNCTION ratingOf {on_cluster} AS (good, needs_improvement, samples) ->
    multiIf(4 * good >= 3 * samples, 'good', 4 * (good + needs_improvement) >= 3 * samples, 'needs_improvement', 'poor');

-- The p75 by inverted CDF of a histogram, within 1 %: the value that rates.
CREATE OR REPLACE FUNCTION histogramRatedP75 {on_cluster} AS (h) ->
    histogramAtRank(mapSort(h), floor((3 * histogramCount(h) + 3) / 4) - 1);

-- Lighthouse's score of a value, 0 to 1, as lighthouse_score in pipeline/analyse/vitals.py defines it.
CREATE OR REPLACE FUNCTION lighthouseCurve {on_cluster} AS (value, p10, median) ->
    erfc(log(greatest(value / median, 5e-324)) / log(median / p10) * 0.9061938024368232) / 2;
CREATE OR REPLACE FUNCTION lighthouseScoreBetween {on_cluster} AS (value, p10, median) ->
    multiIf(isNaN(p10) OR ifNull(isNaN(value), 1), nan,
            value <= 0, 1,
            value <= p10, greatest(0.9, lighthouseCurve(value, p10, median)),
            value <= median, least(0.8999999999999999, greatest(0.5, lighthouseCurve(value, p10, median))),
            least(0.49999999999999994, lighthouseCurve(value, p10, median)));
CREATE OR REPLACE FUNCTION lighthouseScore {on_cluster} AS (value, vital, form_factor) ->
    arrayMap((v, p10, median) -> lighthouseScoreBetween(v, p10, median),
        [value], [lighthouseP10(vital, form_factor)], [lighthouseMedian(vital, form_factor)])[1];

-- The score as Lighthouse shows it: a small bonus above 0.9, then rounded down to hundredths.
CREATE OR REPLACE FUNCTION lighthouseShown {on_cluster} AS (score) ->
    arrayMap(s -> floor((s + greatest(0, s - 0.9) * 0.05) * 100) / 100, [score])[1];

-- Lighthouse's performance score, 0 to 100, with the weights of its versions 10 to 13: FCP 10 %, Speed Index 10 %, LCP
-- 25 %, TBT 30 %, CLS 25 %. NULL unless all five values are there. (The order of the sum is Lighthouse's, to the last bit.)
-- All five are scored by one expression, with the control points of lighthouseP10 and lighthouseMedian: five expressions
-- take ClickHouse longer to plan.
CREATE OR REPLACE FUNCTION lighthousePerformance {on_cluster} AS (fcp, speed_index, lcp, tbt, cls, form_factor) ->
    arrayMap(shown -> if(ifNull(isNaN(shown[1] + shown[2] + shown[3] + shown[4] + shown[5]), 1), NULL, toUInt8(floor(0.5 +
            (10 * shown[1] + 25 * shown[2] + 30 * shown[3] + 25 * shown[4] + 10 * shown[5]) / 100 * 100))),
        [arrayMap((value, p10, median) -> lighthouseShown(lighthouseScoreBetween(value, p10, median)),
            [fcp, lcp, tbt, cls, speed_index],
            if(form_factor = 'desktop', [934., 1200., 150., 0.1, 1311.], [1800., 2500., 200., 0.1, 3387.]),
            if(form_factor = 'desktop', [1600., 2400., 350., 0.25, 2300.], [3000., 4000., 600., 0.25, 5800.]))])[1];

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
