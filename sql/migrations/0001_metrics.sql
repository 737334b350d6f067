-- Raw metrics, refused items, and the ledger that proves that both are complete.
--
-- Placeholders (see pipeline/store/migrate.py): {database}; {on_cluster} is empty or
-- "ON CLUSTER name"; {engine:Name:table[:args]} becomes the plain or the replicated engine;
-- {local:table} is the table that holds the rows (table, or table_local on a cluster); {dedup_window}
-- says how long ClickHouse remembers the tokens of inserts.
-- A statement that begins with "-- cluster" is run only when clickhouse.cluster is set.

-- One row is one metric. (segment, position) is its identity: the chunk it came in can be read
-- back and compared, which is what makes the delivery exactly-once.
-- Sorted by the hour first, so that computing a window again reads little of its day, and then so that
-- "one kind of metric of one suite or test over time" does too.
-- TTL: two days longer than the oldest timestamp accepted, so that nothing expires while it
-- may still be verified or rolled up.
CREATE TABLE IF NOT EXISTS {database}.{local:metrics} {on_cluster}
(
    timestamp    DateTime64(3, 'UTC'),
    metric_type  LowCardinality(String),
    environment  LowCardinality(String),
    browser      LowCardinality(String),
    test_suite   LowCardinality(String),
    test_id      LowCardinality(String),
    test_name    LowCardinality(String),
    page         LowCardinality(String),
    endpoint     LowCardinality(String),
    node         LowCardinality(String),
    status       LowCardinality(String),
    value        Float64,
    tags         Map(LowCardinality(String), String),
    segment      LowCardinality(String),
    position     UInt32,
    ingested_at  DateTime64(3, 'UTC')
)
ENGINE = {engine:MergeTree:metrics}
PARTITION BY toDate(timestamp)
ORDER BY (toStartOfHour(timestamp), metric_type, environment, browser, test_suite, test_id, timestamp)
TTL toDateTime(timestamp) + INTERVAL {raw_ttl_hours} HOUR
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, {dedup_window};

-- A chunk goes whole to one shard for every drainer.batch_rows that divides a million, as 50,000 does.
-- cluster
CREATE TABLE IF NOT EXISTS {database}.metrics {on_cluster} AS {database}.metrics_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_local', cityHash64(segment, intDiv(position, 1000000)));

-- One row is one refused item: its payload to the byte (bounded), why, and its identity.
CREATE TABLE IF NOT EXISTS {database}.{local:dead_letters} {on_cluster}
(
    refused_at    DateTime64(3, 'UTC'),
    reason        LowCardinality(String),
    detail        String,
    payload       String,
    payload_bytes UInt32,
    buffer        LowCardinality(String),
    segment       LowCardinality(String),
    position      UInt32,
    ingested_at   DateTime64(3, 'UTC')
)
ENGINE = {engine:MergeTree:dead_letters}
PARTITION BY toDate(refused_at)
ORDER BY (segment, position)
TTL toDateTime(refused_at) + INTERVAL {raw_ttl_hours} HOUR
SETTINGS ttl_only_drop_parts = 1, {dedup_window};

-- cluster
CREATE TABLE IF NOT EXISTS {database}.dead_letters {on_cluster} AS {database}.dead_letters_local
ENGINE = Distributed('{cluster}', '{database}', 'dead_letters_local', cityHash64(segment));

-- What became of a dead letter: the newest row of a (segment, position) counts.
CREATE TABLE IF NOT EXISTS {database}.{local:dead_letter_marks} {on_cluster}
(
    segment   LowCardinality(String),
    position  UInt32,
    mark      LowCardinality(String),
    marked_at DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:dead_letter_marks:marked_at}
PARTITION BY toYYYYMM(marked_at)
ORDER BY (segment, position)
TTL toDateTime(marked_at) + INTERVAL {raw_ttl_hours} HOUR;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.dead_letter_marks {on_cluster} AS {database}.dead_letter_marks_local
ENGINE = Distributed('{cluster}', '{database}', 'dead_letter_marks_local', cityHash64(segment));

-- One row is one acknowledged chunk: how many rows went where, and a digest of their content.
-- Copied from Redis by the audit job; (segment, chunk) is written again unchanged after a crash.
CREATE TABLE IF NOT EXISTS {database}.{local:ledger} {on_cluster}
(
    buffer        LowCardinality(String),
    segment       LowCardinality(String),
    chunk         UInt32,
    chunk_rows    UInt32,
    rows          UInt32,
    stored        UInt32,
    dead_lettered UInt32,
    digest        UInt64,
    sealed_at     DateTime64(3, 'UTC'),
    acked_at      DateTime64(3, 'UTC'),
    min_timestamp DateTime64(3, 'UTC'),
    max_timestamp DateTime64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree:ledger:acked_at}
PARTITION BY toDate(sealed_at)
ORDER BY (segment, chunk)
TTL toDateTime(sealed_at) + INTERVAL {raw_ttl_hours} HOUR;

-- cluster
CREATE TABLE IF NOT EXISTS {database}.ledger {on_cluster} AS {database}.ledger_local
ENGINE = Distributed('{cluster}', '{database}', 'ledger_local', cityHash64(segment));
