-- Requests by day and user, of one user in sixteen: what users, those who stay and those who come anew
-- are counted by. All of a chosen user's requests are here, so cohorts are whole; of all users it would
-- be nearly as many rows as requests.
-- Rows of a database that is older come in by: tokentide reconcile --repair
CREATE TABLE IF NOT EXISTS {database}.usage_users_1d
(
    day Date COMMENT 'Day in which the requests started, UTC',
    model LowCardinality(String) COMMENT 'Catalogue identifier; unknown when the name sent did not resolve',
    vendor LowCardinality(String) COMMENT 'Who made the model; unknown when the catalogue does not say',
    origin LowCardinality(String) COMMENT 'proprietary, chinese_open, other_open or unknown',
    user_hash UInt64 COMMENT 'First 64 bits of the producer''s keyed hash of the user; only those whose intHash64 is a multiple of 16',
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
ORDER BY (day, model, user_hash, vendor, origin)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600,
    merge_selector_base = 16
COMMENT 'Requests of one user in sixteen, by day of event time, model and user. Rows of equal keys are merged in the background: always read with sum() and GROUP BY, never count()';

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.usage_events_to_usage_users_1d TO {database}.usage_users_1d AS
SELECT
    toDate(e.occurred_at) AS day,
    model, vendor, origin,
    assumeNotNull(e.user_hash) AS user_hash,
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
WHERE isNotNull(e.user_hash) AND bitAnd(intHash64(e.user_hash), 15) = 0
GROUP BY day, model, vendor, origin, user_hash
COMMENT 'Fills usage_users_1d with the requests of chosen users of every block inserted into usage_events';
