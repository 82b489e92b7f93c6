-- Requests by day and by where their caller is: what the analyses of geography and language read.
-- Rows of a database that is older come in by: tokentide reconcile --repair
CREATE TABLE IF NOT EXISTS {database}.usage_located_1d
(
    day Date COMMENT 'Day in which the requests started, UTC',
    caller_country LowCardinality(String) COMMENT 'ISO 3166 alpha-2 country of the caller; unknown when not reported',
    language LowCardinality(String) COMMENT 'Tag language of the request, if in form a BCP 47 tag such as en or zh-Hans; otherwise unknown',
    vendor LowCardinality(String) COMMENT 'Who made the model; unknown when the catalogue does not say',
    origin LowCardinality(String) COMMENT 'proprietary, chinese_open, other_open or unknown',
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
ORDER BY (day, caller_country, language, vendor, origin)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600,
    merge_selector_base = 16
COMMENT 'Requests by day of event time, country and language of the caller, vendor and origin of the model. Rows of equal keys are merged in the background: always read with sum() and GROUP BY, never count()';

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.usage_events_to_usage_located_1d TO {database}.usage_located_1d AS
WITH extract(JSONExtractString(e.tags, 'language'), '^[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,3}$') AS tagged
SELECT
    toDate(e.occurred_at) AS day,
    caller_country,
    if(tagged = '', 'unknown', tagged) AS language,
    vendor, origin,
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
GROUP BY day, caller_country, language, vendor, origin
COMMENT 'Fills usage_located_1d with every block inserted into usage_events';
