CREATE OR REPLACE VIEW {database}.study_22_tags_within_categories AS
WITH
    groups AS
    (
        SELECT
            toString(u.category) AS category,
            toString(u.subcategory) AS subcategory,
            sum(u.tokens_prompt + u.tokens_completion) AS tokens,
            sum(u.requests) AS sampled_requests
        FROM {database}.usage_sampled_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date}
        GROUP BY category, subcategory
    )
SELECT
    category,
    subcategory,
    tokens,
    sampled_requests,
    sampled_requests < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, tokens / nullIf(sum(tokens) OVER whole, 0)) AS token_share,
    if(is_withheld, NULL, sampled_requests / sum(sampled_requests) OVER whole) AS request_share,
    sum(sampled_requests) OVER whole AS sampled_requests_total
FROM groups
WINDOW whole AS (PARTITION BY category)
ORDER BY category, tokens DESC, subcategory
COMMENT 'What the categories are made of, over a period.
Study: analyses 22 and 32, figures 21 and 29. Events have one category; a classifier that knows more sends the rest as tag subcategory. Shares are of the sampled requests of the category: estimates. One of fewer than cell_min requests is withheld: null, never 0. unknown: the request has a category and no subcategory.
Formula: sum(tokens of the subcategory) / sum(tokens of the category). Source: usage_sampled_1d.
Columns: category, subcategory. tokens, sampled_requests, of sampled_requests_total in the category. is_withheld. token_share, request_share: of the category.
Example: SELECT category, subcategory, token_share FROM study_22_tags_within_categories(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
