CREATE OR REPLACE VIEW {database}.study_26_countries AS
SELECT
    row_number() OVER (ORDER BY value IN ('other', 'unknown'), tokens DESC, value) AS place,
    value AS country, tokens, requests, spend_usd, token_share, request_share, spend_share, is_partial
FROM {database}.study_located_shares(column = 'country', only = '', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = false)
ORDER BY place
COMMENT 'Countries over a period.
Study: analysis 26, a table of tokens (10 countries). By where the caller is, ISO 3166 alpha-2. top_n have a row of their own.
Formula: sum(tokens of the country) / sum(tokens). Source: usage_located_1d, exact.
Columns: place: 1 is the largest. country. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of all. is_partial: the period is not over.
Example: SELECT place, country, token_share FROM study_26_countries(from_day = today() - 28, to_day = today() + 1, top_n = 10)';
