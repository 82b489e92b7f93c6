-- What `tokentide dead-letters redrive` is about to send and has sent: a record is sent again once,
-- however often the command runs and wherever it was killed. Rows are only added. Not partitioned:
-- the rows of an attempt are one block, hence all there or none.
CREATE TABLE IF NOT EXISTS {database}.dead_letter_redrives
(
    recorded_at DateTime64(3, 'UTC') COMMENT 'When this row was written, UTC, milliseconds',
    attempt String COMMENT 'Identifier of the records that were sent in one Kafka transaction',
    state LowCardinality(String) COMMENT 'intended, sent or not_sent. An attempt that is only intended was interrupted: the next redrive looks on the topic and adds sent or not_sent',
    dead_letter_topic LowCardinality(String) COMMENT 'Topic of the dead letter',
    dead_letter_partition UInt16 COMMENT 'Partition of the dead letter',
    dead_letter_offset UInt64 COMMENT 'Offset of the dead letter',
    origin_topic LowCardinality(String) COMMENT 'Topic of the record that was refused, and that it is sent to again',
    origin_partition UInt16 COMMENT 'Partition of the record that was refused, and that it is sent to again',
    origin_offset UInt64 COMMENT 'Offset of the record that was refused',
    origin_time DateTime64(3, 'UTC') COMMENT 'When the broker appended the record that was refused, UTC, milliseconds',
    reason LowCardinality(String) COMMENT 'Why the record was refused',
    field LowCardinality(String) COMMENT 'Field at fault; empty when it is the record as a whole',
    target_end_offset UInt64 COMMENT 'End offset of the target partition before sending: what was sent stands at it or later',
    target_offset Nullable(UInt64) COMMENT 'Offset of the record sent again; null unless the state is sent'
)
ENGINE = MergeTree
ORDER BY (origin_topic, origin_partition, origin_offset, origin_time, recorded_at)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)'
COMMENT 'Dead letters sent again by tokentide dead-letters redrive. Example: SELECT origin_partition, origin_offset, target_offset FROM dead_letter_redrives WHERE state = ''sent''';
