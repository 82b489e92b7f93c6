CREATE OR REPLACE VIEW {database}.study_03_open_authors AS
SELECT
    row_number() OVER (ORDER BY value IN ('other', 'unknown'), tokens DESC, value) AS place,
    value AS vendor, tokens, requests, spend_usd, token_share, request_share, spend_share, tokens_total, is_partial
FROM {database}.study_shares(column = 'vendor', only = 'open', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = false)
ORDER BY place
COMMENT 'Open models by author over a period.
Study: analysis 3, table 1. Only models whose weights are published; shares are of all tokens of such models. top_n authors have a row of their own, other is the rest.
Formula: sum(tokens of the author''s open models) / sum(tokens of open models). Source: usage_1d, exact. is_partial: the period is not over.
Columns: place: 1 is the largest. vendor. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of all open models, for tokens of tokens_total. is_partial: the period is not over.
Example: SELECT place, vendor, tokens, token_share FROM study_03_open_authors(from_day = today() - 28, to_day = today() + 1, top_n = 10)';
