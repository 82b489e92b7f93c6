CREATE OR REPLACE VIEW {database}.study_23_author_profiles AS
WITH
{intervals},
    cells AS
    (
        SELECT
            toStartOfWeek(day, 1) AS week,
            toString(s.vendor) AS vendor,
            toString(s.category) AS category,
            sum(s.tokens_prompt + s.tokens_completion) AS tokens,
            sum(s.requests) AS sampled_requests,
            toFloat64(sum(s.tokens_squared)) AS squares
        FROM {database}.usage_sampled_1d AS s
        WHERE day >= {from_day:Date} AND day < {to_day:Date} AND s.vendor != 'unknown'
        GROUP BY week, s.vendor, s.category
    ),
    parts AS
    (
        SELECT
            *,
            sum(tokens) OVER of_vendor AS tokens_of_vendor,
            sum(sampled_requests) OVER of_vendor AS sampled_requests_of_vendor,
            sum(squares) OVER of_vendor AS squares_of_vendor,
            tokens / nullIf(tokens_of_vendor, 0) AS token_part,
            sampled_requests / sampled_requests_of_vendor AS request_part,
            error_of_odds(token_part, squares, squares_of_vendor, tokens_of_vendor, sampled_requests_of_vendor) AS token_error,
            wilson_middle(sampled_requests, sampled_requests_of_vendor) AS request_middle,
            wilson_reach(sampled_requests, sampled_requests_of_vendor) AS request_reach
        FROM cells
        WINDOW of_vendor AS (PARTITION BY week, vendor)
    )
SELECT
    week, vendor, category, tokens, sampled_requests, sampled_requests_of_vendor,
    sampled_requests_of_vendor < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, token_part) AS token_share,
    if(is_withheld, NULL, moved_by(token_part, -z * token_error)) AS token_share_low,
    if(is_withheld, NULL, moved_by(token_part, z * token_error)) AS token_share_high,
    if(is_withheld, NULL, request_part) AS request_share,
    if(is_withheld, NULL, greatest(request_middle - request_reach, 0)) AS request_share_low,
    if(is_withheld, NULL, least(request_middle + request_reach, 1)) AS request_share_high,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM parts
ORDER BY vendor, week, tokens DESC, category
COMMENT 'What each author''s models are used for, by week.
Study: analysis 23, figures 22 and 23. Shares are of the author''s own sampled requests: estimates. A week in which the author has fewer than cell_min of them is withheld: null, never 0.
Formula: sum(tokens of the category) / sum(tokens), of sampled requests to the vendor''s models. Intervals are of 95 % (see study_sampled_estimates). Source: usage_sampled_1d.
Columns: week: its Monday. vendor. category. tokens, sampled_requests: of the row. sampled_requests_of_vendor: in the week. is_withheld. token_share, request_share: parts of the vendor''s week; token_share_low, token_share_high, request_share_low, request_share_high: their intervals. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, category, token_share FROM study_23_author_profiles(from_day = today() - 28, to_day = today() + 1, cell_min = 30) WHERE vendor = ''anthropic''';
