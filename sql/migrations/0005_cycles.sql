-- Daily and weekly cycles, drifts, and what a baseline was held against. Columns are appended: a row stored before
-- describes a step, found without looking for cycles.

-- One row is the daily or weekly cycle of one series: its factors by half hour of the week, in UTC, from Monday 00:00.
-- An empty kind says that the series has none any more.
CREATE TABLE IF NOT EXISTS {database}.{local:cycles} {on_cluster}
(
    fitted_at    DateTime64(3, 'UTC'),
    metric_type  LowCardinality(String),
    environment  LowCardinality(String),
    browser      LowCardinality(String),
    test_suite   LowCardinality(String),
    test_id      LowCardinality(String),
    test_name    LowCardinality(String),
    page         LowCardinality(String),
    endpoint     LowCardinality(String),
    node         LowCardinality(String),
    kind         LowCardinality(String) COMMENT 'daily, weekly, or empty: none',
    share        Float64 COMMENT 'share of the variance that other cycles predict',
    cycles       UInt32 COMMENT 'whole cycles that it was learnt from',
    scale        LowCardinality(String) COMMENT 'factor: values are divided by it; offset: it is subtracted',
    factors      Array(Float32) COMMENT '336 half hours of the week, UTC, from Monday 00:00',
    explanation  String COMMENT 'the cycle in words'
)
ENGINE = {engine:ReplacingMergeTree:cycles:fitted_at}
PARTITION BY tuple()
ORDER BY (metric_type, environment, browser, test_suite, test_id, test_name, page, endpoint, node)
TTL toDateTime(fitted_at) + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.cycles {on_cluster} AS {database}.cycles_local
ENGINE = Distributed('{cluster}', '{database}', 'cycles_local', cityHash64(test_suite, test_id));

ALTER TABLE {database}.{local:change_points} {on_cluster}
    ADD COLUMN IF NOT EXISTS kind LowCardinality(String) DEFAULT 'step' COMMENT 'step or drift; a drift is dated by the first point of its line',
    ADD COLUMN IF NOT EXISTS slope_pct_per_day Float64 COMMENT 'of a drift, percent of its first level; NaN of a step',
    ADD COLUMN IF NOT EXISTS slope_low Float64 COMMENT 'lower 95 % bound, NaN of a step',
    ADD COLUMN IF NOT EXISTS slope_high Float64 COMMENT 'upper 95 % bound, NaN of a step',
    ADD COLUMN IF NOT EXISTS cycle LowCardinality(String) COMMENT 'daily or weekly: taken out before; empty: none',
    ADD COLUMN IF NOT EXISTS cycle_share Float64 COMMENT 'share of the variance that the cycle explains',
    ADD COLUMN IF NOT EXISTS explanation String COMMENT 'the finding in words';

-- cluster
ALTER TABLE {database}.change_points {on_cluster}
    ADD COLUMN IF NOT EXISTS kind LowCardinality(String) DEFAULT 'step' COMMENT 'step or drift; a drift is dated by the first point of its line',
    ADD COLUMN IF NOT EXISTS slope_pct_per_day Float64 COMMENT 'of a drift, percent of its first level; NaN of a step',
    ADD COLUMN IF NOT EXISTS slope_low Float64 COMMENT 'lower 95 % bound, NaN of a step',
    ADD COLUMN IF NOT EXISTS slope_high Float64 COMMENT 'upper 95 % bound, NaN of a step',
    ADD COLUMN IF NOT EXISTS cycle LowCardinality(String) COMMENT 'daily or weekly: taken out before; empty: none',
    ADD COLUMN IF NOT EXISTS cycle_share Float64 COMMENT 'share of the variance that the cycle explains',
    ADD COLUMN IF NOT EXISTS explanation String COMMENT 'the finding in words';

ALTER TABLE {database}.{local:baselines} {on_cluster}
    ADD COLUMN IF NOT EXISTS shift_pct Float64 DEFAULT nan COMMENT 'newest five runs against the reference, percent; NaN while there is no reference',
    ADD COLUMN IF NOT EXISTS autocorrelation Float64 DEFAULT nan COMMENT 'of neighbouring runs, as measured in the reference',
    ADD COLUMN IF NOT EXISTS cycle LowCardinality(String) COMMENT 'daily or weekly: runs are compared without it; empty: none',
    ADD COLUMN IF NOT EXISTS cycle_factors Array(Float32) COMMENT 'what centre is multiplied by, 336 half hours of the week, UTC, from Monday 00:00; empty: none';

-- cluster
ALTER TABLE {database}.baselines {on_cluster}
    ADD COLUMN IF NOT EXISTS shift_pct Float64 DEFAULT nan COMMENT 'newest five runs against the reference, percent; NaN while there is no reference',
    ADD COLUMN IF NOT EXISTS autocorrelation Float64 DEFAULT nan COMMENT 'of neighbouring runs, as measured in the reference',
    ADD COLUMN IF NOT EXISTS cycle LowCardinality(String) COMMENT 'daily or weekly: runs are compared without it; empty: none',
    ADD COLUMN IF NOT EXISTS cycle_factors Array(Float32) COMMENT 'what centre is multiplied by, 336 half hours of the week, UTC, from Monday 00:00; empty: none';

ALTER TABLE {database}.{local:web_vitals} {on_cluster}
    ADD COLUMN IF NOT EXISTS form_factor LowCardinality(String) DEFAULT 'mobile' COMMENT 'whose Lighthouse control points were used: mobile or desktop';

-- cluster
ALTER TABLE {database}.web_vitals {on_cluster}
    ADD COLUMN IF NOT EXISTS form_factor LowCardinality(String) DEFAULT 'mobile' COMMENT 'whose Lighthouse control points were used: mobile or desktop';
