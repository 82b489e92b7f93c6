CREATE OR REPLACE VIEW {database}.study_located AS
SELECT
    u.day AS day,
    u.caller_country AS country,
    transform(u.caller_country, [{countries}], [{continents}], 'unknown') AS continent,
    u.language AS language,
    u.vendor AS vendor,
    u.origin AS origin,
    u.requests AS requests,
    u.tokens_prompt AS tokens_prompt,
    u.tokens_completion AS tokens_completion,
    u.tokens_reasoning AS tokens_reasoning,
    u.tokens_cached AS tokens_cached,
    u.cost_nanousd AS cost_nanousd,
    u.tool_call_requests AS tool_call_requests,
    u.errors AS errors,
    u.tokens_unknown AS tokens_unknown,
    u.cost_unknown AS cost_unknown
FROM {database}.usage_located_1d AS u
COMMENT 'usage_located_1d with the continent of the caller: what the analyses of geography are made of. By the United Nations'' codes (M49), North America with the Caribbean and Central America.
Columns: day, country, continent, language, vendor, origin, requests, tokens_prompt, tokens_completion, tokens_reasoning, tokens_cached, cost_nanousd, tool_call_requests, errors, tokens_unknown, cost_unknown: as in usage_located_1d.
Example: SELECT continent, sum(requests) AS requests FROM study_located WHERE day >= today() - 1 GROUP BY continent ORDER BY requests DESC';
