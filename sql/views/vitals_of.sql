-- The same as windows_of for Web Vitals: a span in days, hours and windows of five minutes.
SELECT
    w.window_start AS window_start, w.vital AS vital, w.environment AS environment, w.browser AS browser,
    w.page AS page, w.samples AS samples, w.avg AS avg, w.good AS good, w.needs_improvement AS needs_improvement,
    w.poor AS poor, w.is_legacy AS is_legacy, w.form_factor AS form_factor, w.histogram AS histogram
FROM web_vitals_1d AS w FINAL
WHERE {step_s:UInt32} % 86400 = 0
    AND w.window_start >= toDateTime({from_s:UInt32}, 'UTC')
    AND w.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 86100
UNION ALL
SELECT
    w.window_start AS window_start, w.vital AS vital, w.environment AS environment, w.browser AS browser,
    w.page AS page, w.samples AS samples, w.avg AS avg, w.good AS good, w.needs_improvement AS needs_improvement,
    w.poor AS poor, w.is_legacy AS is_legacy, w.form_factor AS form_factor, w.histogram AS histogram
FROM web_vitals_1h AS w FINAL
WHERE w.window_start GLOBAL IN (
        SELECT at FROM (
            SELECT toDateTime(
                arrayJoin(range(toUInt32(intDiv({from_s:UInt32} + 3599, 3600) * 3600), toUInt32({to_s:UInt32} - 3299), 3600)), 'UTC') AS at
        ) WHERE {step_s:UInt32} % 3600 = 0
        AND toDateTime(toStartOfDay(at, 'UTC'), 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM web_vitals_1d AS c
            WHERE {step_s:UInt32} % 86400 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 86100
            SETTINGS final = 0))
UNION ALL
SELECT
    w.window_start AS window_start, w.vital AS vital, w.environment AS environment, w.browser AS browser,
    w.page AS page, w.samples AS samples, w.avg AS avg, w.good AS good, w.needs_improvement AS needs_improvement,
    w.poor AS poor, w.is_legacy AS is_legacy, w.form_factor AS form_factor, w.histogram AS histogram
FROM web_vitals AS w FINAL
WHERE w.window_start GLOBAL IN (
        SELECT at FROM (
            SELECT toDateTime(
                arrayJoin(range(toUInt32(intDiv({from_s:UInt32} + 299, 300) * 300), toUInt32({to_s:UInt32} + 1), 300)), 'UTC') AS at
        ) WHERE toDateTime(toStartOfDay(at, 'UTC'), 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM web_vitals_1d AS c
            WHERE {step_s:UInt32} % 86400 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 86100
            SETTINGS final = 0)
        AND toStartOfHour(at, 'UTC') GLOBAL NOT IN (
            SELECT c.window_start FROM web_vitals_1h AS c
            WHERE {step_s:UInt32} % 3600 = 0 AND c.window_start >= toDateTime({from_s:UInt32}, 'UTC')
                AND c.window_start <= toDateTime({to_s:UInt32}, 'UTC') - 3300
            SETTINGS final = 0))
