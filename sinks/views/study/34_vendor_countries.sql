CREATE OR REPLACE VIEW {database}.study_34_vendor_countries AS
SELECT week, value AS country, tokens, requests, spend_usd, token_share, request_share, spend_share, tokens_total, is_partial
FROM {database}.study_shares(column = 'vendor_country', only = '', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, tokens DESC, country
COMMENT 'Countries that models come from, by week.
Not in the study. By where the vendor is, ISO 3166 alpha-2; where callers are: study_26_countries. top_n have rows of their own.
Formula: sum(tokens of models of the country) / sum(tokens). Source: usage_1d, exact.
Columns: week: its Monday. country. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: parts of the week. tokens_total. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, country, token_share FROM study_34_vendor_countries(from_day = today() - 28, to_day = today() + 1, top_n = 6)';
