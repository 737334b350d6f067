-- What is normal now: of each suite (and environment, browser, test) the baseline computed last.
--   computed_at DateTime64(3, 'UTC')
--   test_suite LowCardinality(String)
--   environment LowCardinality(String)
--   browser LowCardinality(String)
--   test_id LowCardinality(String)
--   avg_duration Float64
--   p95_duration Float64
--   success_rate Float64
--   success_rate_low Float64
--   success_rate_high Float64
--   centre Float64
--   spread Float64
--   samples UInt64
--   runs UInt64
--   since DateTime64(3, 'UTC')
--   state LowCardinality(String)
--   shift_pct Float64
--   autocorrelation Float64
--   cycle LowCardinality(String)
--   cycle_factors Array(Float32)
SELECT *
FROM baselines FINAL
ORDER BY computed_at DESC
LIMIT 1 BY test_suite, environment, browser, test_id
