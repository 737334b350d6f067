-- A page as search engines assess it: per vital the p75 (within 1 %) of 28 days over all browsers, and its rating.
--   environment LowCardinality(String)
--   page LowCardinality(String)
--   vital LowCardinality(String)
--   samples UInt64
--   p75 Float64
--   good UInt64
--   needs_improvement UInt64
--   poor UInt64
--   rating String
SELECT
    w.environment AS environment,
    w.page AS page,
    w.vital AS vital,
    sum(w.samples) AS samples,
    -- Of one window the percentile is known exactly.
    p75AsRatedOn(if(count() = 1, any(w.p75), histogramQuantile(sumMap(w.histogram), 0.75)), rating, w.vital,
        argMax(w.form_factor, w.window_start)) AS p75,
    sum(w.good) AS good,
    sum(w.needs_improvement) AS needs_improvement,
    sum(w.poor) AS poor,
    -- The p75 by inverted CDF, which rates, is good exactly when three quarters of the samples are.
    ratingOf(sum(w.good), sum(w.needs_improvement), sum(w.samples)) AS rating
FROM web_vitals AS w FINAL
WHERE w.window_start >= now('UTC') - INTERVAL 28 DAY AND NOT w.is_legacy
    -- Measured in laboratories only: search engines know them not of visitors.
    AND w.vital NOT IN ('tbt', 'speed_index')
GROUP BY w.environment, w.page, w.vital
ORDER BY environment, page, vital
