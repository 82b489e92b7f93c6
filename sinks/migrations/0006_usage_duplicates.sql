-- Records whose event had been stored already: the producer sent it again. With usage_events and the
-- dead-letter topic it accounts for every offset that was read.
CREATE TABLE IF NOT EXISTS {database}.usage_duplicates
(
    kafka_partition UInt16 COMMENT 'Partition of topic llm-usage-v1 that the record was read from',
    kafka_offset UInt64 COMMENT 'Offset of the record in its Kafka partition. It is not in usage_events',
    event_id String COMMENT 'Producer''s identifier; the event stored under it came earlier in the same partition',
    source LowCardinality(String) COMMENT 'System that emitted the event: openrouter, litellm, otel, ... ; other for a name not on the list',
    occurred_at DateTime64(3, 'UTC') COMMENT 'When the request started, UTC, milliseconds',
    ingested_at DateTime64(3, 'UTC') COMMENT 'When the batch was built for insertion, UTC, milliseconds'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (kafka_partition, kafka_offset)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)'
COMMENT 'One row per record that a producer sent again: dropped from usage_events and every rollup, and counted here. Example: SELECT source, count() FROM usage_duplicates GROUP BY source';
