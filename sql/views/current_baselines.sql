-- What is normal now: of each suite (and environment, browser, test) the baseline computed last.
SELECT *
FROM baselines FINAL
ORDER BY computed_at DESC
LIMIT 1 BY test_suite, environment, browser, test_id
