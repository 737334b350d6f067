-- Windows of any coarser span, merged from those of five minutes: SELECT * FROM metrics_over(span_s = 3600).
SELECT
    toDateTime(intDiv(toUnixTimestamp(w.window_start), {span_s:UInt32}) * {span_s:UInt32}, 'UTC') AS window_start,
    w.metric_type AS metric_type,
    w.environment AS environment,
    w.browser AS browser,
    w.test_suite AS test_suite,
    w.test_id AS test_id,
    w.test_name AS test_name,
    w.page AS page,
    w.endpoint AS endpoint,
    w.node AS node,
    sum(w.samples) AS samples,
    sum(w.total) AS total,
    sum(w.passed) AS passed,
    sum(w.failed) AS failed,
    sum(w.sum) AS sum,
    sum(w.sum) / sum(w.samples) AS avg,
    min(w.min) AS min,
    max(w.max) AS max,
    histogramQuantileBetween(sumMap(w.histogram), 0.5, min(w.min), max(w.max)) AS p50,
    histogramQuantileBetween(sumMap(w.histogram), 0.75, min(w.min), max(w.max)) AS p75,
    histogramQuantileBetween(sumMap(w.histogram), 0.9, min(w.min), max(w.max)) AS p90,
    histogramQuantileBetween(sumMap(w.histogram), 0.95, min(w.min), max(w.max)) AS p95,
    histogramQuantileBetween(sumMap(w.histogram), 0.99, min(w.min), max(w.max)) AS p99,
    sumMap(w.histogram) AS histogram
FROM metrics_5min AS w FINAL
GROUP BY window_start, w.metric_type, w.environment, w.browser, w.test_suite, w.test_id, w.test_name, w.page,
    w.endpoint, w.node
