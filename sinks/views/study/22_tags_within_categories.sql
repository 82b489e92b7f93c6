CREATE OR REPLACE VIEW {database}.study_22_tags_within_categories AS
WITH
{intervals},
    groups AS
    (
        SELECT
            toString(u.category) AS category,
            toString(u.subcategory) AS subcategory,
            sum(u.tokens_prompt + u.tokens_completion) AS tokens,
            sum(u.requests) AS sampled_requests,
            toFloat64(sum(u.tokens_squared)) AS squares
        FROM {database}.usage_sampled_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date}
        GROUP BY u.category, u.subcategory
    ),
    parts AS
    (
        SELECT
            *,
            sum(tokens) OVER whole AS tokens_total,
            sum(sampled_requests) OVER whole AS sampled_requests_total,
            tokens / nullIf(tokens_total, 0) AS token_part,
            error_of_odds(token_part, squares, sum(squares) OVER whole, tokens_total, sampled_requests_total) AS token_error,
            wilson_middle(sampled_requests, sampled_requests_total) AS request_middle,
            wilson_reach(sampled_requests, sampled_requests_total) AS request_reach
        FROM groups
        WINDOW whole AS (PARTITION BY category)
    )
SELECT
    category,
    subcategory,
    tokens,
    sampled_requests,
    sampled_requests < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, token_part) AS token_share,
    if(is_withheld, NULL, moved_by(token_part, -z * token_error)) AS token_share_low,
    if(is_withheld, NULL, moved_by(token_part, z * token_error)) AS token_share_high,
    if(is_withheld, NULL, sampled_requests / sampled_requests_total) AS request_share,
    if(is_withheld, NULL, greatest(request_middle - request_reach, 0)) AS request_share_low,
    if(is_withheld, NULL, least(request_middle + request_reach, 1)) AS request_share_high,
    sampled_requests_total
FROM parts
ORDER BY category, tokens DESC, subcategory
COMMENT 'What the categories are made of, over a period.
Study: analyses 22 and 32, figures 21 and 29. Events have one category; a classifier that knows more sends the rest as tag subcategory. Shares are of the sampled requests of the category: estimates. One of fewer than cell_min requests is withheld: null, never 0. unknown: the request has a category and no subcategory.
Formula: sum(tokens of the subcategory) / sum(tokens of the category). Intervals are of 95 % (see study_sampled_estimates). Source: usage_sampled_1d.
Columns: category, subcategory. tokens, sampled_requests, of sampled_requests_total in the category. is_withheld. token_share, request_share: of the category; token_share_low, token_share_high, request_share_low, request_share_high: their intervals.
Example: SELECT category, subcategory, token_share, token_share_low, token_share_high FROM study_22_tags_within_categories(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
