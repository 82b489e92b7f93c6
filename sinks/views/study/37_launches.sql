CREATE OR REPLACE VIEW {database}.study_37_launches AS
WITH
    cells AS
    (
        SELECT day, toString(u.model) AS name, toString(any(u.vendor)) AS of_vendor, toString(any(u.origin)) AS of_origin, sum(u.tokens_prompt + u.tokens_completion) AS own, sum(u.requests) AS count
        FROM {database}.usage_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date}
        GROUP BY day, name
    ),
    daily AS (SELECT *, own / nullIf(sum(own) OVER (PARTITION BY day), 0) AS share FROM cells)
SELECT
    name AS model,
    any(of_vendor) AS vendor,
    any(of_origin) AS origin,
    min(day) AS first_day,
    sum(own) AS tokens,
    sum(count) AS requests,
    max(share) AS highest_share,
    argMax(day, share) AS highest_day,
    argMax(share, day) AS last_share,
    max(day) AS last_day
FROM daily
WHERE name != 'unknown'
GROUP BY name
HAVING first_day > {from_day:Date}
ORDER BY highest_share DESC, model
LIMIT {top_n:UInt32}
COMMENT 'Models that came up within a period, and how far they got.
Not in the study. A model counts if its first request in the period is not on the first day; it may have been used before the period. top_n of them, by the highest share of tokens that they had on a day.
Formula: tokens of the model on a day / all tokens of that day. Source: usage_1d, exact.
Columns: model, vendor, origin. first_day. tokens, requests: of the period. highest_share, highest_day. last_share: on last_day, its last day with a request.
Example: SELECT model, first_day, highest_share, last_share FROM study_37_launches(from_day = today() - 28, to_day = today() + 1, top_n = 15)';
