CREATE OR REPLACE VIEW {database}.study_30_price_and_use_of_models AS
WITH models AS
    (
        SELECT
            toString(u.model) AS model,
            toString(any(u.vendor)) AS vendor,
            toString(any(u.origin)) AS origin,
            sum(u.tokens_prompt + u.tokens_completion) AS tokens,
            sum(u.requests) AS requests,
            sum(u.cost_nanousd) AS nanousd,
            -- Failed requests without tokens cost nothing that is missing here.
            sum(u.cost_unknown) - least(sum(u.cost_unknown), sum(u.tokens_unknown)) AS priceless,
            toFloat64(nanousd) / tokens / 1000 AS usd_per_million_tokens
        FROM {database}.usage_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date} AND u.model != 'unknown'
        GROUP BY u.model
        HAVING tokens > 0 AND nanousd > 0 AND priceless * 100 <= requests AND requests >= {cell_min:UInt32}
    )
SELECT
    model, vendor, origin, tokens, requests,
    nanousd * toDecimal64('0.000000001', 9) AS spend_usd,
    usd_per_million_tokens,
    quantileExact(0.5)(usd_per_million_tokens) OVER () AS median_usd_per_million_tokens,
    quantileExact(0.5)(tokens) OVER () AS median_tokens,
    multiIf(
        usd_per_million_tokens >= median_usd_per_million_tokens AND tokens >= median_tokens, 'premium leader',
        usd_per_million_tokens >= median_usd_per_million_tokens, 'premium specialist',
        tokens >= median_tokens, 'efficient giant',
        'long tail') AS segment
FROM models
ORDER BY tokens DESC, model
COMMENT 'Price and use of models over a period: the market map.
Study: analyses 30 and 31, figures 27 and 28. usd_per_million_tokens: what was paid for all tokens, caches counted. The study names its segments by eye; here they are cut at the medians of the models shown. Left out are models of which more than one request in a hundred has tokens and no known cost, free ones, and those of fewer than cell_min requests.
Formula: sum(cost) / sum(tokens) * 1e6. Source: usage_1d, exact. The slope is study_30_price_elasticity.
Columns: model, vendor, origin. tokens, requests, spend_usd. usd_per_million_tokens. median_usd_per_million_tokens, median_tokens: of the models shown. segment.
Example: SELECT model, tokens, usd_per_million_tokens, segment FROM study_30_price_and_use_of_models(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
