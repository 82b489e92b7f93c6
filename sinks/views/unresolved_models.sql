CREATE OR REPLACE VIEW {database}.unresolved_models
(
    model_raw String COMMENT 'Model name as the producers sent it, which the catalogue did not resolve',
    requests UInt64 COMMENT 'Requests under this name',
    tokens UInt64 COMMENT 'Their prompt and completion tokens; unknown tokens add nothing',
    request_share Float64 COMMENT 'Their part of all requests stored, 0 to 1',
    first_occurred_at DateTime64(3, 'UTC') COMMENT 'Event time of the first of them, UTC',
    last_occurred_at DateTime64(3, 'UTC') COMMENT 'Event time of the last of them, UTC'
)
AS SELECT
    toString(e.model_raw) AS model_raw,
    count() AS requests,
    sum(toUInt64(ifNull(e.tokens_prompt, 0)) + ifNull(e.tokens_completion, 0)) AS tokens,
    requests / (SELECT count() FROM {database}.usage_events) AS request_share,
    min(e.occurred_at) AS first_occurred_at,
    max(e.occurred_at) AS last_occurred_at
FROM {database}.usage_events AS e
WHERE e.model = 'unknown'
GROUP BY e.model_raw
ORDER BY requests DESC, model_raw
COMMENT 'Model names that the catalogue did not resolve, largest first. They count as model unknown in every share. Example: SELECT * FROM unresolved_models LIMIT 20';
