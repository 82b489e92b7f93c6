-- Reads four columns of every row; for the newest event alone ask max(occurred_at) of usage_events,
-- which ClickHouse answers without reading rows.
CREATE OR REPLACE VIEW {database}.data_freshness
(
    kafka_partition UInt16 COMMENT 'Partition of topic llm-usage-v1',
    last_ingested_at DateTime64(3, 'UTC') COMMENT 'When its last batch was built for insertion, UTC',
    last_occurred_at DateTime64(3, 'UTC') COMMENT 'Event time of its newest event, UTC',
    last_kafka_offset UInt64 COMMENT 'Highest offset stored. Lower ones are stored, dead-lettered or being inserted',
    rows UInt64 COMMENT 'Rows stored from it',
    rows_last_minute UInt64 COMMENT 'Rows stored from it whose batch was built in the last 60 seconds'
)
AS SELECT
    kafka_partition,
    max(ingested_at) AS last_ingested_at,
    max(occurred_at) AS last_occurred_at,
    max(kafka_offset) AS last_kafka_offset,
    count() AS rows,
    countIf(ingested_at >= now64(3) - INTERVAL 60 SECOND) AS rows_last_minute
FROM {database}.usage_events
GROUP BY kafka_partition
ORDER BY kafka_partition
COMMENT 'How fresh the stored events are, one row per Kafka partition. Example: SELECT kafka_partition, now64(3) - last_ingested_at AS seconds_ago FROM data_freshness';
