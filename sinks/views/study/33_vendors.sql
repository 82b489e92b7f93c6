CREATE OR REPLACE VIEW {database}.study_33_vendors AS
SELECT week, value AS vendor, tokens, requests, spend_usd, token_share, request_share, spend_share, tokens_total, is_partial
FROM {database}.study_shares(column = 'vendor', only = '', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, tokens DESC, vendor
COMMENT 'Vendors, by week.
Not in the study, which has the authors of open models only. top_n vendors, the largest of the period, have rows of their own.
Formula: sum(tokens of the vendor) / sum(tokens). Source: usage_1d, exact.
Columns: week: its Monday. vendor. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: parts of the week. tokens_total. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, vendor, token_share FROM study_33_vendors(from_day = today() - 28, to_day = today() + 1, top_n = 10)';
