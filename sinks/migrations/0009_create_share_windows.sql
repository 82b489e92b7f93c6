-- Rolling windows as they were given out, one row per window of a dimension and revision: a window is
-- replaced as a whole, so that its shares always sum to 1. Read view share_windows.
CREATE TABLE IF NOT EXISTS {database}.share_window_revisions
(
    dimension LowCardinality(String) COMMENT 'What the values are: model, vendor, country, license, origin, size_class, reasoning, provider, app, category, region, tool_use or vendor_region',
    window_seconds UInt32 COMMENT 'Length of the window: 60, 300, 900, 3600, 86400 or 604800',
    window_end DateTime('UTC') COMMENT 'End of the window, exclusive, event time, UTC',
    revision UInt32 COMMENT '0 when first given out, one more for each time that late events changed it',
    is_complete Bool COMMENT 'No partition was missing when it was given out',
    watermark DateTime64(3, 'UTC') COMMENT 'Up to which event time everything had probably arrived, UTC, milliseconds',
    given_at DateTime64(3, 'UTC') COMMENT 'When this revision was given out, UTC, milliseconds',
    requests_total UInt64 COMMENT 'Requests of all values: the denominator of share_requests',
    tokens_total UInt64 COMMENT 'Prompt and completion tokens of all values: the denominator of share_tokens',
    cost_nanousd_total UInt64 COMMENT 'Cost of all values in 1e-9 USD: the denominator of share_cost',
    values Array(LowCardinality(String)) COMMENT 'The largest values by tokens, then other, then unknown; the arrays below have one entry per value',
    requests Array(UInt64) COMMENT 'Requests',
    tokens_prompt Array(UInt64) COMMENT 'Prompt tokens, cache reads and writes included; unknown adds nothing',
    tokens_completion Array(UInt64) COMMENT 'Completion tokens, reasoning included; unknown adds nothing',
    tokens_reasoning Array(UInt64) COMMENT 'Reasoning tokens, a part of tokens_completion; unknown adds nothing',
    tokens_cached Array(UInt64) COMMENT 'Prompt tokens read from a cache, a part of tokens_prompt; unknown adds nothing',
    cost_nanousd Array(UInt64) COMMENT 'Cost in 1e-9 USD; unknown adds nothing',
    tool_call_requests Array(UInt64) COMMENT 'Requests that called at least one tool',
    errors Array(UInt64) COMMENT 'Requests whose status is not ok',
    tokens_capped Array(UInt64) COMMENT 'Tokens, at most TOKENTIDE_TOKENS_CAP of each request: for the detection of changes',
    tokens_capped_squared Array(UInt64) COMMENT 'Sum of the squares of the capped tokens of each request',
    users Array(UInt64) COMMENT 'Distinct users, estimated; standard error 3.25 %',
    share_requests_billionths Array(UInt32) COMMENT 'Share of the requests, 1e-9; sums to exactly 1000000000, or is 0 throughout without requests',
    share_tokens_billionths Array(UInt32) COMMENT 'Share of the tokens, 1e-9',
    share_cost_billionths Array(UInt32) COMMENT 'Share of the cost, 1e-9',
    previous_requests_billionths Array(Nullable(UInt32)) COMMENT 'Share of the requests in the window of equal length that ended where this one begins; null when the value had no row there, empty when that window is not known',
    previous_tokens_billionths Array(Nullable(UInt32)) COMMENT 'The same for tokens',
    previous_cost_billionths Array(Nullable(UInt32)) COMMENT 'The same for cost',
    -- Newer revisions are larger, and of one revision given out twice the later.
    version UInt64 DEFAULT bitShiftLeft(toUInt64(revision), 42) + toUnixTimestamp64Milli(given_at) COMMENT 'Orders the rows of a window: the highest is the newest'
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(window_end)
ORDER BY (dimension, window_seconds, window_end)
TTL
    window_end + INTERVAL 2 DAY DELETE WHERE window_seconds <= 900 AND NOT (window_seconds = 300 AND toUnixTimestamp(window_end) % 300 = 0),
    window_end + INTERVAL 40 DAY DELETE WHERE window_seconds = 300,
    window_end + INTERVAL 400 DAY DELETE WHERE window_seconds > 900
SETTINGS default_compression_codec = 'ZSTD(1)'
COMMENT 'Rolling windows, one row per dimension, window and revision; older revisions go when parts are merged. Read share_windows, which has the newest. Short windows are kept 2 days, those of five minutes on the five minutes 40, those of an hour and more 400';

-- Up to which offsets every window that was given out holds what has landed: a new owner gives those
-- out again that its predecessor still owed.
CREATE TABLE IF NOT EXISTS {database}.share_window_progress
(
    panes_partition UInt16 COMMENT 'Partition of topic llm-usage-panes-v1, which has some of the dimensions',
    offsets Map(UInt16, UInt64) COMMENT 'By partition of topic llm-usage-v1: every window holds what landed at lower offsets',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When it was written, UTC, milliseconds'
)
ENGINE = ReplacingMergeTree(recorded_at)
ORDER BY panes_partition
COMMENT 'Progress of the rolling windows; written by workers every minute';

-- Hours of the rolling windows of a day and a week, so that a new owner need not count a week of events
-- again.
CREATE TABLE IF NOT EXISTS {database}.share_panes_1h
(
    dimension LowCardinality(String) COMMENT 'What the value is one of, as in share_window_revisions',
    hour DateTime('UTC') COMMENT 'Start of the hour, event time, UTC',
    value String COMMENT 'Value of the dimension; empty in the row that only says that the hour is stored',
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
PARTITION BY toYYYYMM(hour)
ORDER BY (dimension, hour, value)
TTL hour + INTERVAL 10 DAY
SETTINGS default_compression_codec = 'ZSTD(1)'
COMMENT 'Sums per hour and value, from which workers rebuild windows of a day and more. Newest row per dimension, hour and value; for shares read share_windows or usage_1h';
