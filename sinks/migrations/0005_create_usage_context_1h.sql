-- Requests by hour and by what is known of the request itself rather than of its model. Apart from
-- the model's dimensions because their product is nearly as many rows as there are requests.
CREATE TABLE IF NOT EXISTS {database}.usage_context_1h
(
    hour DateTime('UTC') COMMENT 'Start of the hour in which the requests started, UTC',
    app_id LowCardinality(String) COMMENT 'Application that sent the requests; unknown when not reported',
    region LowCardinality(String) COMMENT 'Serving region; unknown when not reported',
    category LowCardinality(String) COMMENT 'Task category of sampled requests; unknown when not sampled',
    finish_reason LowCardinality(String) COMMENT 'stop, length, tool_calls, content_filter, error, cancelled, other or unknown',
    tool_use LowCardinality(String) COMMENT 'called, none or unknown',
    requests SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests',
    tokens_prompt SimpleAggregateFunction(sum, UInt64) COMMENT 'Prompt tokens, cache reads and writes included; requests with unknown tokens add nothing',
    tokens_completion SimpleAggregateFunction(sum, UInt64) COMMENT 'Completion tokens, reasoning included; requests with unknown tokens add nothing',
    tokens_reasoning SimpleAggregateFunction(sum, UInt64) COMMENT 'Reasoning tokens, a part of tokens_completion; unknown adds nothing',
    tokens_cached SimpleAggregateFunction(sum, UInt64) COMMENT 'Prompt tokens read from a provider''s cache, a part of tokens_prompt; unknown adds nothing',
    cost_nanousd SimpleAggregateFunction(sum, UInt64) COMMENT 'Cost in 1e-9 USD; requests with unknown cost add nothing',
    tool_call_requests SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests that called at least one tool',
    errors SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests whose status is not ok',
    tokens_unknown SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests whose prompt or completion tokens are unknown',
    cost_unknown SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests whose cost is unknown'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, app_id, region, category, finish_reason, tool_use)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600
COMMENT 'Requests by hour of event time, app, region, category, finish reason and tool use. Rows of equal keys are merged in the background: always read with sum() and GROUP BY, never count()';

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.usage_events_to_usage_context_1h TO {database}.usage_context_1h AS
SELECT
    toStartOfHour(e.occurred_at) AS hour,
    app_id, region, category, finish_reason, tool_use,
    count() AS requests,
    sum(ifNull(e.tokens_prompt, 0)) AS tokens_prompt,
    sum(ifNull(e.tokens_completion, 0)) AS tokens_completion,
    sum(ifNull(e.tokens_reasoning, 0)) AS tokens_reasoning,
    sum(ifNull(e.tokens_cached, 0)) AS tokens_cached,
    sum(ifNull(e.cost_nanousd, 0)) AS cost_nanousd,
    countIf(e.tool_use = 'called') AS tool_call_requests,
    countIf(e.status != 'ok') AS errors,
    countIf(isNull(e.tokens_prompt) OR isNull(e.tokens_completion)) AS tokens_unknown,
    countIf(isNull(e.cost_nanousd)) AS cost_unknown
FROM {database}.usage_events AS e
GROUP BY hour, app_id, region, category, finish_reason, tool_use
COMMENT 'Fills usage_context_1h with every block inserted into usage_events';
