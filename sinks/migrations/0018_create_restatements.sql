-- What was changed in rows that were stored already: when the catalogue learned what it had not known
-- or had known wrongly, `tokentide restate` gives rows their meaning of now and keeps the former here.
CREATE TABLE IF NOT EXISTS {database}.restatements
(
    restatement_id String COMMENT 'One month of one run',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When this was written, UTC, milliseconds',
    state LowCardinality(String) COMMENT 'begun; done: the rows of the month were swapped; dropped: it was stopped before, nothing changed',
    month UInt32 COMMENT 'Month of event time, YYYYMM',
    rows UInt64 COMMENT 'Rows that changed; 0 while begun',
    names Array(String) COMMENT 'Model names whose meaning changed, as the producers sent them',
    note String COMMENT 'Why, in the words of who did it'
)
ENGINE = MergeTree
ORDER BY (recorded_at, restatement_id)
SETTINGS default_compression_codec = 'ZSTD(1)'
COMMENT 'Log of restatements, two rows for each month of a run: begun, then done or dropped. Example: SELECT recorded_at, month, rows, names, note FROM restatements WHERE state = ''done'' ORDER BY recorded_at DESC';

CREATE TABLE IF NOT EXISTS {database}.usage_restated
(
    restatement_id String COMMENT 'The restatement that replaced this version; it counts if restatements says done',
    restated_at DateTime64(3, 'UTC') COMMENT 'Until when the row was like this, UTC, milliseconds',
    event_id String COMMENT 'As in usage_events, here and below',
    occurred_at DateTime64(3, 'UTC') COMMENT 'When the request started' CODEC(Delta, Default),
    ingested_at DateTime64(3, 'UTC') COMMENT 'When the batch was built' CODEC(Delta, Default),
    kafka_partition UInt16 COMMENT 'Partition of topic llm-usage-v1',
    kafka_offset UInt64 COMMENT 'Offset in its partition' CODEC(Delta, Default),
    source LowCardinality(String) COMMENT 'System that emitted the event',
    model_raw LowCardinality(String) COMMENT 'Model name as the producer sent it',
    model LowCardinality(String) COMMENT 'What it resolved to then',
    vendor LowCardinality(String) COMMENT 'Vendor then',
    vendor_country LowCardinality(String) COMMENT 'Country of the vendor then',
    license LowCardinality(String) COMMENT 'Licence then',
    open_weights LowCardinality(String) COMMENT 'open, closed or unknown then',
    origin LowCardinality(String) COMMENT 'Origin then',
    size_class LowCardinality(String) COMMENT 'Size class then',
    reasoning LowCardinality(String) COMMENT 'Reasoning then',
    total_params_b Nullable(Float32) COMMENT 'Total parameters then',
    active_params_b Nullable(Float32) COMMENT 'Active parameters then',
    cost_nanousd Nullable(UInt64) COMMENT 'Cost then',
    cost_source LowCardinality(String) COMMENT 'Where the cost was from then'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (kafka_partition, kafka_offset, restated_at)
SETTINGS default_compression_codec = 'ZSTD(1)'
COMMENT 'Former versions of rows of usage_events: the columns that a restatement changes, and what a row is known by. Read it through usage_as_of and share_as_of';
