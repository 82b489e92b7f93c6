CREATE OR REPLACE VIEW {database}.study_sampled AS
SELECT
    toDate(occurred_at) AS day,
    e.category AS category,
    e.model AS model,
    e.vendor AS vendor,
    e.vendor_country AS vendor_country,
    e.open_weights AS open_weights,
    e.origin AS origin,
    e.size_class AS size_class,
    e.reasoning AS reasoning,
    1 AS requests,
    toUInt64(ifNull(e.tokens_prompt, 0)) AS tokens_prompt,
    toUInt64(ifNull(e.tokens_completion, 0)) AS tokens_completion,
    toUInt64(ifNull(e.tokens_reasoning, 0)) AS tokens_reasoning,
    toUInt64(ifNull(e.tokens_cached, 0)) AS tokens_cached,
    ifNull(e.cost_nanousd, 0) AS cost_nanousd,
    e.tool_use = 'called' AS tool_call_requests,
    e.status != 'ok' AS errors,
    isNull(e.tokens_prompt) OR isNull(e.tokens_completion) AS tokens_unknown,
    isNull(e.cost_nanousd) AS cost_unknown
FROM {database}.usage_events AS e
WHERE e.category != 'unknown'
COMMENT 'Requests that the gateway sampled and gave a category, in the form of a rollup: what the analyses of categories are made of. One row per request, read from usage_events: bound day.
Columns: day, category, model, vendor, vendor_country, open_weights, origin, size_class, reasoning, requests (1), tokens_prompt, tokens_completion, tokens_reasoning, tokens_cached, cost_nanousd, tool_call_requests, errors, tokens_unknown, cost_unknown: as in usage_1d.
Example: SELECT category, sum(requests) AS sampled_requests FROM study_sampled WHERE day >= today() - 28 GROUP BY category ORDER BY sampled_requests DESC';
