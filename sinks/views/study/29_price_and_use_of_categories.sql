CREATE OR REPLACE VIEW {database}.study_29_price_and_use_of_categories AS
SELECT
    toString(u.category) AS category,
    sum(u.tokens_prompt + u.tokens_completion) AS tokens,
    sum(u.requests) AS sampled_requests,
    sum(u.cost_nanousd) * toDecimal64('0.000000001', 9) AS spend_usd,
    sum(u.cost_unknown) AS cost_unknown,
    toFloat64(sum(u.cost_nanousd)) / nullIf(tokens, 0) / 1000 AS usd_per_million_tokens,
    quantileExact(0.5)(usd_per_million_tokens) OVER () AS median_usd_per_million_tokens,
    quantileExact(0.5)(tokens) OVER () AS median_tokens,
    concat(if(usd_per_million_tokens >= median_usd_per_million_tokens, 'dear', 'cheap'), ', ', if(tokens >= median_tokens, 'much used', 'little used')) AS quadrant
FROM {database}.usage_context_1h AS u
WHERE hour >= toDateTime({from_day:Date}, 'UTC') AND hour < toDateTime({to_day:Date}, 'UTC') AND u.category != 'unknown'
GROUP BY category
HAVING sampled_requests >= {cell_min:UInt32} AND tokens > 0
ORDER BY tokens DESC, category
COMMENT 'Price and use of task categories over a period.
Study: analysis 29, figure 26. usd_per_million_tokens: what was paid, prompt and completion together, caches counted; requests of unknown cost add tokens and no cost (cost_unknown says how many). Quadrants are cut at the medians of the categories shown; cells of fewer than cell_min sampled requests are left out.
Formula: sum(cost) / sum(tokens) * 1e6. Source: usage_context_1h, of the sample.
Columns: category. tokens, sampled_requests, spend_usd: of the sample. cost_unknown: requests of it. usd_per_million_tokens. median_usd_per_million_tokens, median_tokens: of the categories shown. quadrant.
Example: SELECT category, tokens, usd_per_million_tokens, quadrant FROM study_29_price_and_use_of_categories(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
