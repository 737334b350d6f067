-- What is computed from the raw rows. Every window is written by one insert into one partition,
-- whole, under a revision that grows with the rows it was computed from; readers use FINAL
-- (the analyst's profile sets final = 1) and so see one revision of a window, never two.

CREATE TABLE IF NOT EXISTS {database}.{local:metrics_1min} {on_cluster}
(
    window_start DateTime('UTC'),
    metric_type  LowCardinality(String),
    environment  LowCardinality(String),
    browser      LowCardinality(String),
    test_suite   LowCardinality(String),
    test_id      LowCardinality(String),
    test_name    LowCardinality(String),
    page         LowCardinality(String),
    endpoint     LowCardinality(String),
    node         LowCardinality(String),
    samples      UInt64,
    total        UInt64,
    passed       UInt64,
    failed       UInt64,
    sum          Float64,
    avg          Float64,
    min          Float64,
    max          Float64,
    p50          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p75          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p90          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p95          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p99          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    histogram    Map(Int32, UInt64),
    revision     UInt64,
    is_final     Bool,
    computed_at  DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:metrics_1min:revision}
PARTITION BY toDate(window_start)
ORDER BY (window_start, metric_type, environment, browser, test_suite, test_id, test_name, page, endpoint, node)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 0;

CREATE TABLE IF NOT EXISTS {database}.{local:metrics_5min} {on_cluster}
(
    window_start DateTime('UTC'),
    metric_type  LowCardinality(String),
    environment  LowCardinality(String),
    browser      LowCardinality(String),
    test_suite   LowCardinality(String),
    test_id      LowCardinality(String),
    test_name    LowCardinality(String),
    page         LowCardinality(String),
    endpoint     LowCardinality(String),
    node         LowCardinality(String),
    samples      UInt64,
    total        UInt64,
    passed       UInt64,
    failed       UInt64,
    sum          Float64,
    avg          Float64,
    min          Float64,
    max          Float64,
    p50          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p75          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p90          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p95          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    p99          Float64 COMMENT 'exact linear percentile, as numpy defines it',
    histogram    Map(Int32, UInt64),
    revision     UInt64,
    is_final     Bool,
    computed_at  DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:metrics_5min:revision}
PARTITION BY toDate(window_start)
ORDER BY (window_start, metric_type, environment, browser, test_suite, test_id, test_name, page, endpoint, node)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 0;

-- One row is a 5-minute window of one vital for one environment, browser (alias) and page.
CREATE TABLE IF NOT EXISTS {database}.{local:web_vitals} {on_cluster}
(
    window_start      DateTime('UTC'),
    vital             LowCardinality(String),
    environment       LowCardinality(String),
    browser           LowCardinality(String),
    page              LowCardinality(String),
    samples           UInt64 COMMENT 'page views, repeated reports of one (same id) counted once within the window',
    avg               Float64,
    p50               Float64 COMMENT 'linear percentile, as numpy defines it',
    p75               Float64 COMMENT 'linear percentile, as numpy defines it',
    p90               Float64 COMMENT 'linear percentile, as numpy defines it',
    p95               Float64 COMMENT 'linear percentile, as numpy defines it',
    p99               Float64 COMMENT 'linear percentile, as numpy defines it',
    good              UInt64,
    needs_improvement UInt64,
    poor              UInt64,
    rating            LowCardinality(String) COMMENT 'good, needs_improvement or poor, by p75_rated',
    p75_rated         Float64 COMMENT 'inverted-CDF percentile: good exactly when 75 % of the samples are',
    p75_low           Float64 COMMENT 'lower 95 % bound, an order statistic, NaN below 13 samples',
    p75_high          Float64 COMMENT 'upper 95 % bound, an order statistic, NaN below 13 samples',
    p95_low           Float64 COMMENT 'lower 95 % bound, an order statistic, NaN below 72 samples',
    p95_high          Float64 COMMENT 'upper 95 % bound, an order statistic, NaN below 72 samples',
    low_confidence    Bool COMMENT 'too few samples for bounds of p75',
    p95_low_confidence Bool COMMENT 'too few samples for bounds of p95',
    lighthouse_score  Float64 COMMENT 'of p75_rated, with the control points for mobile, NaN for ttfb and fid',
    is_legacy         Bool,
    histogram         Map(Int32, UInt64),
    revision          UInt64,
    is_final          Bool,
    computed_at       DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:web_vitals:revision}
PARTITION BY toDate(window_start)
ORDER BY (window_start, vital, environment, browser, page)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 0;

-- One row is what was normal for a suite (and, where not empty, environment, browser, test) when
-- it was computed; earlier rows stay, so that one can ask what normal was last Tuesday.
CREATE TABLE IF NOT EXISTS {database}.{local:baselines} {on_cluster}
(
    computed_at       DateTime64(3, 'UTC'),
    test_suite        LowCardinality(String),
    environment       LowCardinality(String),
    browser           LowCardinality(String),
    test_id           LowCardinality(String) COMMENT 'the name of a test without id',
    avg_duration      Float64 COMMENT 'mean without extreme runs',
    p95_duration      Float64 COMMENT 'linear percentile, as numpy defines it, without extreme runs',
    success_rate      Float64 COMMENT 'fraction of the executions that passed',
    success_rate_low  Float64 COMMENT 'Wilson 95 % bound',
    success_rate_high Float64 COMMENT 'Wilson 95 % bound',
    centre            Float64 COMMENT 'median of runs, each its mean duration corrected for its mix of tests',
    spread            Float64 COMMENT '1.4826 times the median absolute deviation of runs',
    samples           UInt64 COMMENT 'executions',
    runs              UInt64 COMMENT 'what carries one run_id, or else the n-th newest execution of every test',
    since             DateTime64(3, 'UTC') COMMENT 'the oldest execution that counts',
    state             LowCardinality(String) COMMENT 'insufficient_history, ok or shifted'
)
ENGINE = {engine:ReplacingMergeTree:baselines}
PARTITION BY toYYYYMM(computed_at)
ORDER BY (test_suite, environment, browser, test_id, computed_at)
TTL toDateTime(computed_at) + INTERVAL {rollup_ttl_days} DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 0;

-- One row is a place where a series' level moved. The same change found again replaces itself.
CREATE TABLE IF NOT EXISTS {database}.{local:change_points} {on_cluster}
(
    changed_at    DateTime64(3, 'UTC'),
    detected_at   DateTime64(3, 'UTC'),
    metric_type   LowCardinality(String),
    environment   LowCardinality(String),
    browser       LowCardinality(String),
    test_suite    LowCardinality(String),
    test_id       LowCardinality(String),
    test_name     LowCardinality(String),
    page          LowCardinality(String),
    endpoint      LowCardinality(String),
    node          LowCardinality(String),
    level_before  Float64,
    level_after   Float64,
    change_pct    Float64,
    effect_spreads Float64,
    p_value       Float64,
    confidence    Float64,
    points_before UInt32,
    points_after  UInt32,
    direction     LowCardinality(String)
)
ENGINE = {engine:ReplacingMergeTree:change_points:detected_at}
PARTITION BY toYYYYMM(changed_at)
ORDER BY (metric_type, environment, browser, test_suite, test_id, test_name, page, endpoint, node, changed_at)
TTL toDateTime(changed_at) + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

-- One row is one transition of one alert; transition_id is a function of rule, labels, time and
-- state alone, so that writing it again changes nothing.
CREATE TABLE IF NOT EXISTS {database}.{local:alerts} {on_cluster}
(
    at            DateTime64(3, 'UTC'),
    rule          LowCardinality(String),
    alert_id      String,
    transition_id String,
    from_state    LowCardinality(String),
    to_state      LowCardinality(String),
    severity      LowCardinality(String),
    type          LowCardinality(String),
    labels        Map(LowCardinality(String), String),
    value         Float64,
    threshold     Float64,
    reason        String,
    message       String,
    evidence      String,
    active_since  DateTime64(3, 'UTC'),
    fired_at      DateTime64(3, 'UTC'),
    written_at    DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:alerts:written_at}
PARTITION BY toYYYYMM(at)
ORDER BY (at, rule, alert_id, transition_id)
TTL toDateTime(at) + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.metrics_1min {on_cluster} AS {database}.metrics_1min_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_1min_local', toUnixTimestamp(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.metrics_5min {on_cluster} AS {database}.metrics_5min_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_5min_local', toUnixTimestamp(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.web_vitals {on_cluster} AS {database}.web_vitals_local
ENGINE = Distributed('{cluster}', '{database}', 'web_vitals_local', toUnixTimestamp(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.baselines {on_cluster} AS {database}.baselines_local
ENGINE = Distributed('{cluster}', '{database}', 'baselines_local', cityHash64(test_suite));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.change_points {on_cluster} AS {database}.change_points_local
ENGINE = Distributed('{cluster}', '{database}', 'change_points_local', cityHash64(test_suite, test_id));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.alerts {on_cluster} AS {database}.alerts_local
ENGINE = Distributed('{cluster}', '{database}', 'alerts_local', cityHash64(alert_id));
