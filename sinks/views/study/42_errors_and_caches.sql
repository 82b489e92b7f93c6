CREATE OR REPLACE VIEW {database}.study_42_errors_and_caches AS
SELECT
    week, value, requests, errors,
    errors / requests AS error_share,
    tokens_prompt, tokens_cached,
    tokens_cached / nullIf(tokens_prompt, 0) AS cached_share,
    tokens_unknown / requests AS tokens_unknown_share,
    cost_unknown / requests AS cost_unknown_share,
    is_partial
FROM {database}.study_shares(column = {column:String}, only = '', top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
ORDER BY week, requests DESC, value
COMMENT 'How many requests fail, and how much of the prompts comes from a provider''s cache, by week.
Not in the study. column: model, vendor, provider, origin or any other of usage_1d. top_n: as in study_shares. A request fails if its status is not ok: errors, timeouts, refusals for too many requests, and those that the caller cancelled (by finish reason: study_request_shares).
Formula: errors / requests; tokens read from a cache / prompt tokens. Source: usage_1d, exact.
Columns: week: its Monday. value: of the column, other or unknown. requests, errors. error_share. tokens_prompt, tokens_cached. cached_share: null without prompts. tokens_unknown_share, cost_unknown_share: parts of the requests whose tokens or cost are not known. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, value, error_share, cached_share FROM study_42_errors_and_caches(column = ''provider'', top_n = 10, from_day = today() - 28, to_day = today() + 1)';
