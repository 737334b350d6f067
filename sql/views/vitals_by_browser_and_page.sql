-- Each Core Web Vital over the last day by page and browser: its p75 (within 1 %), its counts, and the rating.
--   environment LowCardinality(String)
--   page LowCardinality(String)
--   browser LowCardinality(String)
--   browser_name String
--   vital LowCardinality(String)
--   samples UInt64
--   p75 Float64
--   good UInt64
--   needs_improvement UInt64
--   poor UInt64
--   rating String
--   is_legacy Bool
SELECT
    w.environment AS environment,
    w.page AS page,
    w.browser AS browser,
    browserName(w.browser) AS browser_name,
    w.vital AS vital,
    sum(w.samples) AS samples,
    -- Of one window the percentile is known exactly.
    p75AsRatedOn(if(count() = 1, any(w.p75), histogramQuantile(sumMap(w.histogram), 0.75)), rating, w.vital,
        argMax(w.form_factor, w.window_start)) AS p75,
    sum(w.good) AS good,
    sum(w.needs_improvement) AS needs_improvement,
    sum(w.poor) AS poor,
    -- The p75 by inverted CDF, which rates, is good exactly when three quarters of the samples are.
    ratingOf(sum(w.good), sum(w.needs_improvement), sum(w.samples)) AS rating,
    any(w.is_legacy) AS is_legacy
FROM web_vitals AS w FINAL
WHERE w.window_start >= now('UTC') - INTERVAL 1 DAY
GROUP BY w.environment, w.page, w.browser, w.vital
ORDER BY environment, page, browser, vital
