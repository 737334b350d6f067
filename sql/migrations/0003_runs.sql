-- Runs and attempts: who ran a metric, and the verdict counts that follow from attempts.
-- Columns are appended and existing parts are not rewritten: a row stored before has the empty values, and its run_id
-- is the tag of that name, where earlier versions kept it.

ALTER TABLE {database}.{local:metrics} {on_cluster}
    ADD COLUMN IF NOT EXISTS run_id LowCardinality(String) DEFAULT tags['run_id'] COMMENT 'the CI run; empty when it is not known',
    ADD COLUMN IF NOT EXISTS job LowCardinality(String) COMMENT 'one test session inside a run: CI job, shard',
    ADD COLUMN IF NOT EXISTS commit LowCardinality(String) COMMENT 'revision under test',
    ADD COLUMN IF NOT EXISTS branch LowCardinality(String) COMMENT 'branch under test',
    ADD COLUMN IF NOT EXISTS error_type LowCardinality(String) COMMENT 'why the attempt failed',
    ADD COLUMN IF NOT EXISTS attempt UInt16 COMMENT '1, 2, ...; 0 when it is not known',
    ADD INDEX IF NOT EXISTS run_id_index run_id TYPE bloom_filter(0.01) GRANULARITY 1;

-- cluster
ALTER TABLE {database}.metrics {on_cluster}
    ADD COLUMN IF NOT EXISTS run_id LowCardinality(String) DEFAULT tags['run_id'] COMMENT 'the CI run; empty when it is not known',
    ADD COLUMN IF NOT EXISTS job LowCardinality(String) COMMENT 'one test session inside a run: CI job, shard',
    ADD COLUMN IF NOT EXISTS commit LowCardinality(String) COMMENT 'revision under test',
    ADD COLUMN IF NOT EXISTS branch LowCardinality(String) COMMENT 'branch under test',
    ADD COLUMN IF NOT EXISTS error_type LowCardinality(String) COMMENT 'why the attempt failed',
    ADD COLUMN IF NOT EXISTS attempt UInt16 COMMENT '1, 2, ...; 0 when it is not known';

-- Windows written before count no retried attempts, and judge speed by all of their samples.
ALTER TABLE {database}.{local:metrics_1min} {on_cluster}
    ADD COLUMN IF NOT EXISTS flaky UInt64 COMMENT 'executions that passed after a retry; part of passed',
    ADD COLUMN IF NOT EXISTS retried UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    ADD COLUMN IF NOT EXISTS speed_samples UInt64 DEFAULT samples COMMENT 'samples by which speed is judged',
    ADD COLUMN IF NOT EXISTS speed_p50 Float64 DEFAULT p50 COMMENT 'median of passed executions of baselines.branches';

-- cluster
ALTER TABLE {database}.metrics_1min {on_cluster}
    ADD COLUMN IF NOT EXISTS flaky UInt64 COMMENT 'executions that passed after a retry; part of passed',
    ADD COLUMN IF NOT EXISTS retried UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    ADD COLUMN IF NOT EXISTS speed_samples UInt64 DEFAULT samples COMMENT 'samples by which speed is judged',
    ADD COLUMN IF NOT EXISTS speed_p50 Float64 DEFAULT p50 COMMENT 'median of passed executions of baselines.branches';

ALTER TABLE {database}.{local:metrics_5min} {on_cluster}
    ADD COLUMN IF NOT EXISTS flaky UInt64 COMMENT 'executions that passed after a retry; part of passed',
    ADD COLUMN IF NOT EXISTS retried UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    ADD COLUMN IF NOT EXISTS speed_samples UInt64 DEFAULT samples COMMENT 'samples by which speed is judged',
    ADD COLUMN IF NOT EXISTS speed_p50 Float64 DEFAULT p50 COMMENT 'median of passed executions of baselines.branches';

-- cluster
ALTER TABLE {database}.metrics_5min {on_cluster}
    ADD COLUMN IF NOT EXISTS flaky UInt64 COMMENT 'executions that passed after a retry; part of passed',
    ADD COLUMN IF NOT EXISTS retried UInt64 COMMENT 'attempts that failed and were tried again; not in samples',
    ADD COLUMN IF NOT EXISTS speed_samples UInt64 DEFAULT samples COMMENT 'samples by which speed is judged',
    ADD COLUMN IF NOT EXISTS speed_p50 Float64 DEFAULT p50 COMMENT 'median of passed executions of baselines.branches';

-- One row is one CI run. It is computed from all of its raw rows each time more of them come; the revision grows
-- with their number, and the highest one counts.
CREATE TABLE IF NOT EXISTS {database}.{local:runs} {on_cluster}
(
    run_id        String COMMENT 'the CI run, its re-run number included',
    jobs          Array(String) COMMENT 'test sessions seen, sorted',
    commit        String,
    branch        String,
    base_branch   String COMMENT 'branch that a pull request goes to',
    pull_request  String,
    ci_system     String,
    url           String COMMENT 'page of the run in the CI system',
    started       DateTime64(3, 'UTC'),
    ended         DateTime64(3, 'UTC'),
    executions    UInt64 COMMENT 'all but skipped',
    passed        UInt64 COMMENT 'executions that passed, flaky ones included',
    flaky         UInt64 COMMENT 'executions that passed after a retry',
    failed        UInt64,
    skipped       UInt64,
    interrupted   UInt64 COMMENT 'executions without a verdict once the run is final',
    retried       UInt64 COMMENT 'attempts that failed and were tried again',
    duration_ms   Float64 COMMENT 'from the start of the first attempt to the end of the last one',
    test_ms       Float64 COMMENT 'sum of the durations of all attempts',
    retried_ms    Float64 COMMENT 'part of test_ms that was spent on retried attempts',
    error_types   Map(String, UInt64) COMMENT 'failed attempts by error type',
    raw_rows      UInt64,
    revision      UInt64,
    is_final      Bool COMMENT 'no row came for runs.grace_s',
    computed_at   DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:runs:revision}
ORDER BY run_id
TTL toDateTime(started) + INTERVAL {rollup_ttl_days} DAY
SETTINGS non_replicated_deduplication_window = 0;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.runs {on_cluster} AS {database}.runs_local
ENGINE = Distributed('{cluster}', '{database}', 'runs_local', cityHash64(run_id));
