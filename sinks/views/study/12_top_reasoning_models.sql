CREATE OR REPLACE VIEW {database}.study_12_top_reasoning_models AS
SELECT
    week, value AS model, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd, is_partial
FROM {database}.study_shares(column = 'model', only = 'reasoning', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, tokens DESC, model
COMMENT 'The largest models that reason, by week.
Study: analysis 12, figure 11. Shares are of the tokens of models that can reason (always or optional). The top_n models are those with most tokens over the period.
Formula: sum(tokens of the model) / sum(tokens of reasoning models). Source: usage_1d, exact.
Columns: week: its Monday. model. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of tokens_total, requests_total and spend_total_usd, the week''s sums. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, model, token_share FROM study_12_top_reasoning_models(from_day = today() - 28, to_day = today() + 1, top_n = 10)';
