CREATE OR REPLACE VIEW {database}.study_41_hosts AS
WITH cells AS
    (
        SELECT
            toStartOfWeek(day, 1) AS week,
            toString(u.vendor) AS vendor,
            toString(u.provider) AS provider,
            sum(u.tokens_prompt + u.tokens_completion) AS tokens,
            sum(u.requests) AS requests,
            sum(u.cost_nanousd) AS nanousd
        FROM {database}.usage_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date} AND u.vendor != 'unknown'
        GROUP BY week, u.vendor, u.provider
    )
SELECT
    week, vendor, provider, tokens, requests,
    nanousd * toDecimal64('0.000000001', 9) AS spend_usd,
    tokens / nullIf(sum(tokens) OVER of_vendor, 0) AS token_share,
    requests / sum(requests) OVER of_vendor AS request_share,
    toFloat64(nanousd) / nullIf(sum(nanousd) OVER of_vendor, 0) AS spend_share,
    sum(tokens) OVER of_vendor AS tokens_of_vendor,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM cells
WINDOW of_vendor AS (PARTITION BY week, vendor)
ORDER BY vendor, week, tokens DESC, provider
COMMENT 'Who serves each author''s models, by week: hosts beside authors.
Not in the study. A vendor makes the model, a provider serves the request; unknown if the producer does not say.
Formula: sum(tokens of the vendor at the provider) / sum(tokens of the vendor). Source: usage_1d, exact.
Columns: week: its Monday. vendor. provider. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: parts of the vendor''s week. tokens_of_vendor. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, provider, token_share FROM study_41_hosts(from_day = today() - 28, to_day = today() + 1) WHERE vendor = ''deepseek''';
