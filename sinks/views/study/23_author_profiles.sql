CREATE OR REPLACE VIEW {database}.study_23_author_profiles AS
WITH cells AS
    (
        SELECT
            toStartOfWeek(day, 1) AS week,
            toString(s.vendor) AS vendor,
            toString(s.category) AS category,
            sum(s.tokens_prompt + s.tokens_completion) AS tokens,
            sum(s.requests) AS sampled_requests
        FROM {database}.usage_sampled_1d AS s
        WHERE day >= {from_day:Date} AND day < {to_day:Date} AND s.vendor != 'unknown'
        GROUP BY week, vendor, category
    )
SELECT
    week, vendor, category, tokens, sampled_requests,
    sum(sampled_requests) OVER of_vendor AS sampled_requests_of_vendor,
    sampled_requests_of_vendor < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, tokens / nullIf(sum(tokens) OVER of_vendor, 0)) AS token_share,
    if(is_withheld, NULL, sampled_requests / sampled_requests_of_vendor) AS request_share,
    week < {from_day:Date} OR week + 7 > {to_day:Date} OR week + 7 > toDate(now('UTC')) AS is_partial
FROM cells
WINDOW of_vendor AS (PARTITION BY week, vendor)
ORDER BY vendor, week, tokens DESC, category
COMMENT 'What each author''s models are used for, by week.
Study: analysis 23, figures 22 and 23. Shares are of the author''s own sampled requests: estimates. A week in which the author has fewer than cell_min of them is withheld: null, never 0.
Formula: sum(tokens of the category) / sum(tokens), of sampled requests to the vendor''s models. Source: usage_sampled_1d.
Columns: week: its Monday. vendor. category. tokens, sampled_requests: of the row. sampled_requests_of_vendor: in the week. is_withheld. token_share, request_share: parts of the vendor''s week. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, category, token_share FROM study_23_author_profiles(from_day = today() - 28, to_day = today() + 1, cell_min = 30) WHERE vendor = ''anthropic''';
