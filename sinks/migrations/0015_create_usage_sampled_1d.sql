-- Requests of the sample by day, category and model: what the analyses of categories read. Apart from
-- usage_1d, because a category there would be unknown in almost every row and each share a share of it.
-- Rows of a database that is older come in by: tokentide reconcile --repair
CREATE TABLE IF NOT EXISTS {database}.usage_sampled_1d
(
    day Date COMMENT 'Day in which the requests started, UTC',
    category LowCardinality(String) COMMENT 'Task category of sampled requests; never unknown here',
    subcategory LowCardinality(String) COMMENT 'Tag subcategory of the request; unknown when it has none',
    model LowCardinality(String) COMMENT 'Catalogue identifier; unknown when the name sent did not resolve',
    vendor LowCardinality(String) COMMENT 'Who made the model; unknown when the catalogue does not say',
    vendor_country LowCardinality(String) COMMENT 'ISO 3166 alpha-2 country of the vendor; unknown when the catalogue does not say',
    open_weights LowCardinality(String) COMMENT 'open, closed or unknown',
    origin LowCardinality(String) COMMENT 'proprietary, chinese_open, other_open or unknown',
    size_class LowCardinality(String) COMMENT 'By total parameters: small below 15 billion, medium below 70, large from 70; unknown',
    reasoning LowCardinality(String) COMMENT 'Does the model reason: none, optional, always or unknown',
    requests SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests',
    tokens_prompt SimpleAggregateFunction(sum, UInt64) COMMENT 'Prompt tokens, cache reads and writes included; requests with unknown tokens add nothing',
    tokens_completion SimpleAggregateFunction(sum, UInt64) COMMENT 'Completion tokens, reasoning included; requests with unknown tokens add nothing',
    tokens_reasoning SimpleAggregateFunction(sum, UInt64) COMMENT 'Reasoning tokens, a part of tokens_completion; unknown adds nothing',
    tokens_cached SimpleAggregateFunction(sum, UInt64) COMMENT 'Prompt tokens read from a provider''s cache, a part of tokens_prompt; unknown adds nothing',
    cost_nanousd SimpleAggregateFunction(sum, UInt64) COMMENT 'Cost in 1e-9 USD; requests with unknown cost add nothing',
    tool_call_requests SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests that called at least one tool',
    errors SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests whose status is not ok',
    tokens_unknown SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests whose prompt or completion tokens are unknown',
    cost_unknown SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests whose cost is unknown',
    tokens_squared SimpleAggregateFunction(sum, UInt64) COMMENT 'Squares of the requests'' tokens, prompt and completion together, at most 4,000,000 each: what the error of a share of tokens is made of'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (
    day, category, model, subcategory, vendor, vendor_country, open_weights, origin, size_class,
    reasoning
)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600,
    merge_selector_base = 16
COMMENT 'Requests that have a category, by day of event time, category and model. Rows of equal keys are merged in the background: always read with sum() and GROUP BY, never count()';

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.usage_events_to_usage_sampled_1d TO {database}.usage_sampled_1d AS
WITH least(toUInt64(ifNull(e.tokens_prompt, 0)) + ifNull(e.tokens_completion, 0), 4000000) AS bounded
SELECT
    toDate(e.occurred_at) AS day,
    category,
    if(JSONExtractString(e.tags, 'subcategory') = '', 'unknown', JSONExtractString(e.tags, 'subcategory')) AS subcategory,
    model, vendor, vendor_country, open_weights, origin, size_class, reasoning,
    count() AS requests,
    sum(ifNull(e.tokens_prompt, 0)) AS tokens_prompt,
    sum(ifNull(e.tokens_completion, 0)) AS tokens_completion,
    sum(ifNull(e.tokens_reasoning, 0)) AS tokens_reasoning,
    sum(ifNull(e.tokens_cached, 0)) AS tokens_cached,
    sum(ifNull(e.cost_nanousd, 0)) AS cost_nanousd,
    countIf(e.tool_use = 'called') AS tool_call_requests,
    countIf(e.status != 'ok') AS errors,
    countIf(isNull(e.tokens_prompt) OR isNull(e.tokens_completion)) AS tokens_unknown,
    countIf(isNull(e.cost_nanousd)) AS cost_unknown,
    sum(bounded * bounded) AS tokens_squared
FROM {database}.usage_events AS e
WHERE e.category != 'unknown'
GROUP BY day, category, subcategory, model, vendor, vendor_country, open_weights, origin, size_class, reasoning
COMMENT 'Fills usage_sampled_1d with the sampled requests of every block inserted into usage_events';

-- A view in this form stood in its place and read usage_events.
DROP VIEW IF EXISTS {database}.study_sampled;
