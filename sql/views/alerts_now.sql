-- Alerts that are pending or firing: of each alert its last transition, if it leads there.
SELECT *
FROM
(
    SELECT *
    FROM alerts FINAL
    ORDER BY at DESC, written_at DESC
    LIMIT 1 BY alert_id
)
WHERE to_state IN ('pending', 'firing')
