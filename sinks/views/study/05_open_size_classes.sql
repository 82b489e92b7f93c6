CREATE OR REPLACE VIEW {database}.study_05_open_size_classes AS
SELECT
    week, value AS size_class, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd, is_partial
FROM {database}.study_shares(column = 'size_class', only = 'open', top_n = 10, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, tokens DESC, size_class
COMMENT 'Use of open models by their size, by week.
Study: analysis 5, figure 4. size_class by total parameters: small below 15 billion, medium below 70, large from 70; unknown where the catalogue does not say. A mixture of experts counts with all its parameters, as in the study.
Formula: sum(tokens of the class) / sum(tokens of open models). Source: usage_1d, exact.
Columns: week: its Monday. size_class. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of tokens_total, requests_total and spend_total_usd, the week''s sums. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, size_class, token_share FROM study_05_open_size_classes(from_day = today() - 28, to_day = today() + 1)';
