CREATE OR REPLACE VIEW {database}.study_24_spend_by_continent AS
SELECT
    week, value AS continent, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd, is_partial
FROM {database}.study_located_shares(column = 'continent', only = '', top_n = 10, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, spend_usd DESC, continent
COMMENT 'Spend by continent, by week.
Study: analysis 24, figure 24, which goes by where an account is billed; events say where the caller is (caller_country), unknown if the producer does not say. Requests of unknown cost add nothing.
Formula: sum(cost of the continent) / sum(cost). Source: usage_located_1d, exact.
Columns: week: its Monday. continent. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of tokens_total, requests_total and spend_total_usd, the week''s sums. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, continent, spend_share FROM study_24_spend_by_continent(from_day = today() - 28, to_day = today() + 1)';
