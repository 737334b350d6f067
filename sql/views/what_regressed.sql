-- Where a series got worse in the last seven days, and by how much; the clearest change comes first.
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
    node,
    level_before,
    level_after,
    change_pct,
    effect_spreads,
    confidence
FROM change_points FINAL
WHERE direction = 'regression' AND changed_at >= now('UTC') - INTERVAL 7 DAY
ORDER BY abs(effect_spreads) DESC
