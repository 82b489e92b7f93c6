-- One row per request to a model. Written only by tokentide workers, one insert per batch of one
-- Kafka partition and one month, each under its own insert_deduplication_token.
CREATE TABLE IF NOT EXISTS {database}.usage_events
(
    event_id String COMMENT 'Producer''s identifier of the request or attempt, unique per source',
    occurred_at DateTime64(3, 'UTC') COMMENT 'When the request started, UTC, milliseconds. Event time: all shares are by it' CODEC(Delta, Default),
    ingested_at DateTime64(3, 'UTC') COMMENT 'When the batch was built for insertion, UTC, milliseconds. Filter on it to repeat an answer as of a moment' CODEC(Delta, Default),
    kafka_partition UInt16 COMMENT 'Partition of topic llm-usage-v1 that the event was read from',
    kafka_offset UInt64 COMMENT 'Offset of the event in its Kafka partition. (kafka_partition, kafka_offset) is unique' CODEC(Delta, Default),
    source LowCardinality(String) COMMENT 'System that emitted the event: openrouter, litellm, otel, ... ; other for a name not on the list',
    operation LowCardinality(String) COMMENT 'chat, completion, responses, embeddings, image, audio, rerank or other',
    request_id String COMMENT 'Groups the attempts of one request; empty when not reported',
    attempt UInt8 COMMENT 'Number of the attempt, from 0',
    model_raw LowCardinality(String) COMMENT 'Model name exactly as the producer sent it, trimmed',
    model LowCardinality(String) COMMENT 'Catalogue identifier that model_raw resolved to; unknown when it did not',
    model_requested LowCardinality(String) COMMENT 'Model asked for before routing or fallback; empty when not reported',
    vendor LowCardinality(String) COMMENT 'Who made the model; unknown when the catalogue does not say',
    vendor_country LowCardinality(String) COMMENT 'ISO 3166 alpha-2 country of the vendor; unknown when the catalogue does not say',
    license LowCardinality(String) COMMENT 'Licence of the weights; unknown when the catalogue does not say',
    open_weights LowCardinality(String) COMMENT 'open, closed or unknown',
    origin LowCardinality(String) COMMENT 'proprietary, chinese_open, other_open or unknown',
    size_class LowCardinality(String) COMMENT 'By total parameters: small below 15 billion, medium below 70, large from 70; unknown',
    reasoning LowCardinality(String) COMMENT 'Does the model reason: none, optional, always or unknown',
    total_params_b Nullable(Float32) COMMENT 'Total parameters of the model, billions; null is unknown',
    active_params_b Nullable(Float32) COMMENT 'Parameters active per token, billions; null is unknown',
    provider LowCardinality(String) COMMENT 'Who served the request, lower case, not the vendor; unknown when not reported',
    tokens_prompt Nullable(UInt32) COMMENT 'Prompt tokens, cache reads and writes included; null is unknown, 0 is a measured zero' CODEC(T64, Default),
    tokens_completion Nullable(UInt32) COMMENT 'Completion tokens, reasoning included; null is unknown, 0 is a measured zero' CODEC(T64, Default),
    tokens_reasoning Nullable(UInt32) COMMENT 'Reasoning tokens, a part of tokens_completion; null is unknown' CODEC(T64, Default),
    tokens_cached Nullable(UInt32) COMMENT 'Prompt tokens read from the provider''s cache, a part of tokens_prompt; null is unknown' CODEC(T64, Default),
    tokens_cache_write Nullable(UInt32) COMMENT 'Prompt tokens written to the provider''s cache, a part of tokens_prompt; null is unknown' CODEC(T64, Default),
    cost_nanousd Nullable(UInt64) COMMENT 'Cost in 1e-9 USD; null is unknown, 0 is free' CODEC(T64, Default),
    cost_source LowCardinality(String) COMMENT 'gateway: reported with the event; list_price: tokens times the catalogue price of that moment; unknown',
    latency_ms Nullable(UInt32) COMMENT 'Start of the request to its end, milliseconds; null is unknown' CODEC(T64, Default),
    ttft_ms Nullable(UInt32) COMMENT 'Start of the request to the first token, milliseconds, streamed requests only; null is unknown' CODEC(T64, Default),
    finish_reason LowCardinality(String) COMMENT 'stop, length, tool_calls, content_filter, error, cancelled, other or unknown',
    finish_reason_native LowCardinality(String) COMMENT 'Finish reason as the provider worded it; empty when not reported',
    tool_calls Nullable(UInt16) COMMENT 'Tool calls in the answer; null is not reported',
    tool_use LowCardinality(String) COMMENT 'called: at least one tool call; none: reported as zero; unknown: not reported',
    streamed Nullable(Bool) COMMENT 'The answer was streamed; null is unknown',
    cancelled Nullable(Bool) COMMENT 'The caller hung up before the end; null is unknown',
    is_byok Nullable(Bool) COMMENT 'Paid with the caller''s own key at the provider; null is unknown',
    cache_hit Nullable(Bool) COMMENT 'Answered from the gateway''s own response cache; null is unknown',
    status LowCardinality(String) COMMENT 'ok, error, cancelled, timeout, rate_limited or unknown',
    status_code Nullable(UInt16) COMMENT 'HTTP status of the answer; null is unknown',
    error_type LowCardinality(String) COMMENT 'Kind of error as the producer worded it; empty when none',
    app_id LowCardinality(String) COMMENT 'Application that sent the request; unknown when not reported',
    user_hash Nullable(UInt64) COMMENT 'First 64 bits of the producer''s keyed hash of the user; null is unknown',
    session_hash Nullable(UInt64) COMMENT 'First 64 bits of the producer''s keyed hash of the session; null is unknown',
    region LowCardinality(String) COMMENT 'Serving region; unknown when not reported',
    caller_country LowCardinality(String) COMMENT 'ISO 3166 alpha-2 country of the caller; unknown when not reported',
    service_tier LowCardinality(String) COMMENT 'Service tier of the provider; empty when not reported',
    category LowCardinality(String) COMMENT 'Task category of sampled requests; unknown when not sampled',
    tags String COMMENT 'Anything else the producer sent, a JSON object as text; empty when none',
    quality LowCardinality(String) COMMENT 'Sorted, comma-separated flags on what was corrected or doubtful, such as late; empty when nothing'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(occurred_at)
-- By second, then model: a batch is about a second of one Kafka partition, so merges interleave few
-- rows (1.8 us of CPU per row and merge, against 3.4 with the model first), while the attributes of
-- a model still lie together (49 bytes per row, against 55 in plain order of time). Not followed by
-- occurred_at: with that in the key a condition on time no longer uses the first column.
ORDER BY (toStartOfSecond(occurred_at), model)
SETTINGS
    -- Inserts whose tokens are remembered: a repeat within the window is dropped. Every target of
    -- a materialised view has it too, else a repeat counts twice in that rollup only.
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    -- Small parts in one file each and merged row by row: a third less CPU for 51 columns.
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600
COMMENT 'One row per request to a model, exactly once per Kafka record. Null is unknown, zero is a measured zero. For shares over time read usage_1m, usage_1h, usage_1d or the share_by_* views';
