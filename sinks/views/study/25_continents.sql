CREATE OR REPLACE VIEW {database}.study_25_continents AS
SELECT
    row_number() OVER (ORDER BY value = 'unknown', tokens DESC, value) AS place,
    value AS continent, tokens, requests, spend_usd, token_share, request_share, spend_share, is_partial
FROM {database}.study_located_shares(column = 'continent', only = '', top_n = 10, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = false)
ORDER BY place
COMMENT 'Continents over a period.
Study: analysis 25, a table of tokens. By where the caller is.
Formula: sum(tokens of the continent) / sum(tokens). Source: usage_located_1d, exact.
Columns: place: 1 is the largest. continent. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: their parts of all. is_partial: the period is not over.
Example: SELECT place, continent, token_share FROM study_25_continents(from_day = today() - 28, to_day = today() + 1)';
