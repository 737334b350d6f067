-- Where a series got worse in the last seven days, and by how much; the clearest change comes first.
--   changed_at DateTime64(3, 'UTC')
--   metric_type LowCardinality(String)
--   test_suite LowCardinality(String)
--   test_id LowCardinality(String)
--   test_name LowCardinality(String)
--   page LowCardinality(String)
--   endpoint LowCardinality(String)
--   environment LowCardinality(String)
--   browser LowCardinality(String)
--   browser_name String
--   node LowCardinality(String)
--   level_before Float64
--   level_after Float64
--   change_pct Float64
--   effect_spreads Float64
--   confidence Float64
SELECT
    changed_at,
    metric_type,
    test_suite,
    test_id,
    test_name,
    page,
    endpoint,
    environment,
    browser,
    browserName(browser) AS browser_name,
    node,
    level_before,
    level_after,
    change_pct,
    effect_spreads,
    confidence
FROM change_points FINAL
WHERE direction = 'regression' AND changed_at >= now('UTC') - INTERVAL 7 DAY
ORDER BY abs(effect_spreads) DESC
