-- Hours and days, merged from windows of five minutes, so that weeks are read in a moment. pipeline/jobs/coarser.py writes
-- them: an hour (a day) once it is over, and again whenever one of its windows changes. Its revision is the sum of
-- theirs, so the row that saw more of them wins, in whatever order they are written. All rows of an hour or day are one insert.

CREATE TABLE IF NOT EXISTS {database}.{local:metrics_1h} {on_cluster}
(
    window_start DateTime('UTC') COMMENT 'start of the hour, in UTC',
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
    flaky        UInt64,
    retried      UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    sum          Float64,
    avg          Float64,
    min          Float64,
    max          Float64,
    newest_avg   Float64 COMMENT 'mean of the newest 5-minute window in it',
    newest_start DateTime('UTC') COMMENT 'start of that window',
    histogram    Map(Int32, UInt64),
    revision     UInt64,
    is_final     Bool,
    computed_at  DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:metrics_1h:revision}
PARTITION BY toDate(window_start)
ORDER BY (window_start, metric_type, environment, browser, test_suite, test_id, test_name, page, endpoint, node)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

CREATE TABLE IF NOT EXISTS {database}.{local:metrics_1d} {on_cluster}
(
    window_start DateTime('UTC') COMMENT 'start of the day, in UTC',
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
    flaky        UInt64,
    retried      UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    sum          Float64,
    avg          Float64,
    min          Float64,
    max          Float64,
    newest_avg   Float64 COMMENT 'mean of the newest 5-minute window in it',
    newest_start DateTime('UTC') COMMENT 'start of that window',
    histogram    Map(Int32, UInt64),
    revision     UInt64,
    is_final     Bool,
    computed_at  DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:metrics_1d:revision}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, metric_type, environment, browser, test_suite, test_id, test_name, page, endpoint, node)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

CREATE TABLE IF NOT EXISTS {database}.{local:suites_1h} {on_cluster}
(
    window_start DateTime('UTC') COMMENT 'start of the hour, in UTC',
    environment  LowCardinality(String),
    browser      LowCardinality(String),
    test_suite   LowCardinality(String),
    samples      UInt64,
    total        UInt64,
    passed       UInt64,
    failed       UInt64,
    flaky        UInt64,
    retried      UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    avg          Float64,
    min          Float64,
    max          Float64,
    histogram    Map(Int32, UInt64),
    revision     UInt64,
    is_final     Bool,
    computed_at  DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:suites_1h:revision}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, environment, browser, test_suite)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

CREATE TABLE IF NOT EXISTS {database}.{local:web_vitals_1h} {on_cluster}
(
    window_start      DateTime('UTC') COMMENT 'start of the hour, in UTC',
    vital             LowCardinality(String),
    environment       LowCardinality(String),
    browser           LowCardinality(String),
    page              LowCardinality(String),
    samples           UInt64 COMMENT 'page views, repeated reports of one (same id) counted once within five minutes',
    avg               Float64,
    good              UInt64,
    needs_improvement UInt64,
    poor              UInt64,
    is_legacy         Bool,
    form_factor       LowCardinality(String) COMMENT 'mobile when any window was rated as mobile: the laxer bounds',
    histogram         Map(Int32, UInt64),
    revision          UInt64,
    is_final          Bool,
    computed_at       DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:web_vitals_1h:revision}
PARTITION BY toDate(window_start)
ORDER BY (window_start, vital, environment, browser, page)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

CREATE TABLE IF NOT EXISTS {database}.{local:web_vitals_1d} {on_cluster}
(
    window_start      DateTime('UTC') COMMENT 'start of the day, in UTC',
    vital             LowCardinality(String),
    environment       LowCardinality(String),
    browser           LowCardinality(String),
    page              LowCardinality(String),
    samples           UInt64 COMMENT 'page views, repeated reports of one (same id) counted once within five minutes',
    avg               Float64,
    good              UInt64,
    needs_improvement UInt64,
    poor              UInt64,
    is_legacy         Bool,
    form_factor       LowCardinality(String) COMMENT 'mobile when any window was rated as mobile: the laxer bounds',
    histogram         Map(Int32, UInt64),
    revision          UInt64,
    is_final          Bool,
    computed_at       DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:web_vitals_1d:revision}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, vital, environment, browser, page)
TTL window_start + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.metrics_1h {on_cluster} AS {database}.metrics_1h_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_1h_local', cityHash64(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.metrics_1d {on_cluster} AS {database}.metrics_1d_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_1d_local', cityHash64(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.suites_1h {on_cluster} AS {database}.suites_1h_local
ENGINE = Distributed('{cluster}', '{database}', 'suites_1h_local', cityHash64(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.web_vitals_1h {on_cluster} AS {database}.web_vitals_1h_local
ENGINE = Distributed('{cluster}', '{database}', 'web_vitals_1h_local', cityHash64(window_start));

-- cluster
CREATE TABLE IF NOT EXISTS {database}.web_vitals_1d {on_cluster} AS {database}.web_vitals_1d_local
ENGINE = Distributed('{cluster}', '{database}', 'web_vitals_1d_local', cityHash64(window_start));
