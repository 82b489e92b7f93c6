-- Panes of ten seconds, the open ones too, and up to where stored panes of every length hold what has
-- landed: a new owner of rolling windows need count only the events that came since, whatever the
-- traffic is.
CREATE TABLE IF NOT EXISTS {database}.share_panes_10s
(
    dimension LowCardinality(String) COMMENT 'What the value is one of, as in share_window_revisions',
    start DateTime('UTC') COMMENT 'Start of the ten seconds, event time, UTC',
    value String COMMENT 'Value of the dimension; empty in the row that only says that the ten seconds are stored',
    requests UInt64 COMMENT 'Requests',
    tokens_prompt UInt64 COMMENT 'Prompt tokens; unknown adds nothing',
    tokens_completion UInt64 COMMENT 'Completion tokens; unknown adds nothing',
    tokens_reasoning UInt64 COMMENT 'Reasoning tokens, a part of tokens_completion',
    tokens_cached UInt64 COMMENT 'Prompt tokens read from a cache, a part of tokens_prompt',
    cost_nanousd UInt64 COMMENT 'Cost in 1e-9 USD; unknown adds nothing',
    tool_call_requests UInt64 COMMENT 'Requests that called at least one tool',
    errors UInt64 COMMENT 'Requests whose status is not ok',
    tokens_capped UInt64 COMMENT 'Tokens, at most TOKENTIDE_TOKENS_CAP of each request',
    tokens_capped_squared UInt64 COMMENT 'Sum of the squares of the capped tokens of each request',
    users Array(UInt16) COMMENT 'Sketch of distinct users: register * 64 + rank, HyperLogLog of 1024 registers',
    position UInt64 COMMENT 'Sum of the offsets below which everything was counted when the row was written',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When it was written, UTC, milliseconds'
)
ENGINE = ReplacingMergeTree(recorded_at)
PARTITION BY toYYYYMMDD(start)
ORDER BY (dimension, start, value)
TTL start + INTERVAL 1 DAY
SETTINGS default_compression_codec = 'ZSTD(1)', ttl_only_drop_parts = 1
COMMENT 'Sums per ten seconds and value, from which workers rebuild rolling windows. Newest row per dimension, start and value; for shares read share_windows or usage_1m';

CREATE TABLE IF NOT EXISTS {database}.share_pane_progress
(
    panes_partition UInt16 COMMENT 'Partition of topic llm-usage-panes-v1, which has some of the dimensions',
    offsets Map(UInt16, UInt64) COMMENT 'By partition of topic llm-usage-v1: the stored panes hold what landed at lower offsets',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When it was written, UTC, milliseconds'
)
ENGINE = ReplacingMergeTree(recorded_at)
ORDER BY panes_partition
COMMENT 'Progress of the stored panes; written by workers every 15 seconds, after the panes';

-- "Which rows came since?" is asked by offset, over a day of event time; the table is sorted by time.
ALTER TABLE {database}.usage_events
    ADD INDEX IF NOT EXISTS kafka_offset_bounds kafka_offset TYPE minmax GRANULARITY 1;
