CREATE OR REPLACE VIEW {database}.study_04_top_open_models AS
SELECT
    week, value AS model, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd, is_partial
FROM {database}.study_shares(column = 'model', only = 'open', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, tokens DESC, model
COMMENT 'The largest open models, by week.
Study: analysis 4, figure 3 (15 models). The top_n models are those with most tokens over the whole period; all others are other. Shares are of the tokens of open models.
Formula: sum(tokens of the model) / sum(tokens of open models), by week. Source: usage_1d, exact.
Columns: week: its Monday. model. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of tokens_total, requests_total and spend_total_usd, the week''s sums. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, model, token_share FROM study_04_top_open_models(from_day = today() - 28, to_day = today() + 1, top_n = 15)';
