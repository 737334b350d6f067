-- Lighthouse's performance score of each page and browser over the last day, out of the p75 of its five metrics; NULL where one is missing.
--   environment LowCardinality(String)
--   page LowCardinality(String)
--   browser LowCardinality(String)
--   form_factor String
--   samples UInt64
--   performance_score Nullable(UInt8)
--   missing Array(String)
--   fcp Nullable(Float64)
--   speed_index Nullable(Float64)
--   lcp Nullable(Float64)
--   tbt Nullable(Float64)
--   cls Nullable(Float64)
--   weights_of String
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
    FROM web_vitals AS w FINAL
    WHERE w.window_start >= now('UTC') - INTERVAL 1 DAY AND w.vital IN ('fcp', 'speed_index', 'lcp', 'tbt', 'cls')
    GROUP BY w.environment, w.page, w.browser, w.vital
)
GROUP BY environment, page, browser
ORDER BY environment, page, browser
