CREATE OR REPLACE VIEW {database}.study_01_open_and_closed AS
SELECT
    week, value AS origin, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd, is_partial
FROM {database}.study_shares(column = 'origin', only = '', top_n = 10, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, tokens DESC, origin
COMMENT 'Open against closed models, by week.
Study: analysis 1, figure 1. origin: proprietary (weights not published), chinese_open and other_open (weights published, by the country of the vendor), unknown.
Formula: sum(tokens of the origin) / sum(tokens), tokens are prompt and completion; the same of requests and of spend (USD). Source: usage_1d, exact. Grain: weeks from Monday, UTC; the running week and weeks cut by the period are marked is_partial.
Columns: week: its Monday. origin. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of tokens_total, requests_total and spend_total_usd, the week''s sums. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, origin, token_share FROM study_01_open_and_closed(from_day = today() - 28, to_day = today() + 1)';
