CREATE OR REPLACE VIEW {database}.study_located AS
SELECT
    toDate(occurred_at) AS day,
    e.caller_country AS country,
    transform(toString(e.caller_country), [{countries}], [{continents}], 'unknown') AS continent,
    e.region AS region,
    e.vendor AS vendor,
    e.origin AS origin,
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
COMMENT 'Requests by where their caller is, in the form of a rollup: what the analyses of geography are made of. One row per request, read from usage_events: bound day. continent: by the United Nations'' codes (M49), North America with the Caribbean and Central America.
Columns: day, country, continent, region (that served it), vendor, origin, requests (1), tokens_prompt, tokens_completion, tokens_reasoning, tokens_cached, cost_nanousd, tool_call_requests, errors, tokens_unknown, cost_unknown: as in usage_1d.
Example: SELECT country, sum(requests) AS requests FROM study_located WHERE day >= today() - 1 GROUP BY country ORDER BY requests DESC LIMIT 10';
