-- Where the books did not balance: written by `tokentide reconcile` and by the worker's own check.
CREATE TABLE IF NOT EXISTS {database}.reconcile_differences
(
    run_id String COMMENT 'One run of the checks',
    checked_at DateTime64(3, 'UTC') COMMENT 'When the run began, UTC, milliseconds',
    check LowCardinality(String) COMMENT 'offsets, repeated_offsets, event_ids or rollups',
    place String COMMENT 'Where: partition and offsets, source and event_id, or table, start of the bucket (UTC) and measure',
    expected UInt64 COMMENT 'Records of the offsets, rows of the identifier, or the measure in usage_events',
    found UInt64 COMMENT 'The same as it was found, in the rollup for a measure',
    detail String COMMENT 'What else is known: other places, the keys that differ',
    state LowCardinality(String) COMMENT 'found; repaired when the same run removed it and has checked again'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(checked_at)
ORDER BY (checked_at, run_id, check)
TTL toDateTime(checked_at) + INTERVAL 1 YEAR
SETTINGS default_compression_codec = 'ZSTD(1)'
COMMENT 'Differences between Kafka, usage_events and the rollups, one row per difference and run; at most the first 1,000 of each check. Example: SELECT checked_at, check, place, expected, found, state FROM reconcile_differences ORDER BY checked_at DESC LIMIT 20';
