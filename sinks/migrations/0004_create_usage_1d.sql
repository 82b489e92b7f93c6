-- Requests by day, from the rows of usage_1h as they are inserted. They are not grouped again: a
-- block seldom spans hours, and the engine adds up equal keys when it merges.
CREATE TABLE IF NOT EXISTS {database}.usage_1d
(
    day Date COMMENT 'Day in which the requests started, UTC',
    model LowCardinality(String) COMMENT 'Catalogue identifier; unknown when the name sent did not resolve',
    vendor LowCardinality(String) COMMENT 'Who made the model; unknown when the catalogue does not say',
    vendor_country LowCardinality(String) COMMENT 'ISO 3166 alpha-2 country of the vendor; unknown when the catalogue does not say',
    license LowCardinality(String) COMMENT 'Licence of the weights; unknown when the catalogue does not say',
    open_weights LowCardinality(String) COMMENT 'open, closed or unknown',
    origin LowCardinality(String) COMMENT 'proprietary, chinese_open, other_open or unknown',
    size_class LowCardinality(String) COMMENT 'By total parameters: small below 15 billion, medium below 70, large from 70; unknown',
    reasoning LowCardinality(String) COMMENT 'Does the model reason: none, optional, always or unknown',
    provider LowCardinality(String) COMMENT 'Who served the requests; unknown when not reported',
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
PARTITION BY toYYYYMM(day)
ORDER BY (
    day, model, provider, vendor, vendor_country, license, open_weights, origin, size_class,
    reasoning
)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600
COMMENT 'Requests by day of event time, model attributes and provider. Rows of equal keys are merged in the background: always read with sum() and GROUP BY, never count()';

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.usage_1h_to_usage_1d TO {database}.usage_1d AS
SELECT
    toDate(e.hour) AS day,
    model, vendor, vendor_country, license, open_weights, origin, size_class, reasoning, provider,
    requests,
    tokens_prompt,
    tokens_completion,
    tokens_reasoning,
    tokens_cached,
    cost_nanousd,
    tool_call_requests,
    errors,
    tokens_unknown,
    cost_unknown
FROM {database}.usage_1h AS e
COMMENT 'Fills usage_1d with every block inserted into usage_1h';
