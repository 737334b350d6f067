-- Alerts that are pending or firing: of each alert its last transition, if it leads there.
--   at DateTime64(3, 'UTC')
--   rule LowCardinality(String)
--   alert_id String
--   transition_id String
--   from_state LowCardinality(String)
--   to_state LowCardinality(String)
--   severity LowCardinality(String)
--   type LowCardinality(String)
--   labels Map(LowCardinality(String), String)
--   value Float64
--   threshold Float64
--   reason String
--   message String
--   evidence String
--   active_since DateTime64(3, 'UTC')
--   fired_at DateTime64(3, 'UTC')
--   written_at DateTime64(3, 'UTC')
SELECT *
FROM
(
    SELECT *
    FROM alerts FINAL
    ORDER BY at DESC, written_at DESC
    LIMIT 1 BY alert_id
)
WHERE to_state IN ('pending', 'firing')
