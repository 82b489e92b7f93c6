CREATE OR REPLACE VIEW {database}.study_10_roleplay_by_origin AS
SELECT
    week, value AS origin, tokens, sampled_requests, spend_usd,
    sampled_requests_total < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, s.token_share) AS token_share,
    if(is_withheld, NULL, s.token_share_low) AS token_share_low,
    if(is_withheld, NULL, s.token_share_high) AS token_share_high,
    if(is_withheld, NULL, s.request_share) AS request_share,
    if(is_withheld, NULL, s.request_share_low) AS request_share_low,
    if(is_withheld, NULL, s.request_share_high) AS request_share_high,
    if(is_withheld, NULL, s.spend_share) AS spend_share,
    tokens_total, sampled_requests_total, tokens_estimated, requests_per_sampled, is_partial
FROM {database}.study_sampled_estimates(column = 'origin', only = 'roleplay', top_n = 10, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true) AS s
ORDER BY week, tokens DESC, origin
COMMENT 'Whose models roleplay is done with, by week.
Study: analysis 10, figure 9. Shares are of sampled requests: estimates. A week with fewer than cell_min of them in all is withheld: null, never 0.
Formula: sum(tokens of the origin) / sum(tokens), of sampled requests of category roleplay. Intervals are of 95 % (see study_sampled_estimates). Source: usage_sampled_1d.
Columns: week: its Monday. origin. tokens, sampled_requests, spend_usd: of the row; token_share, request_share, spend_share: parts of the week, for tokens of tokens_total, for requests of sampled_requests_total. token_share_low, token_share_high, request_share_low, request_share_high: their intervals. is_withheld. tokens_estimated: tokens of all requests that these stand for, each of them for requests_per_sampled. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, origin, token_share, token_share_low, token_share_high FROM study_10_roleplay_by_origin(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
