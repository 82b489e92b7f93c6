CREATE OR REPLACE VIEW {database}.study_11_reasoning AS
SELECT
    week,
    multiIf(value IN ('always', 'optional'), 'reasoning', value = 'none', 'not reasoning', 'unknown') AS kind,
    sum(s.tokens) AS tokens,
    sum(s.requests) AS requests,
    sum(s.spend_usd) AS spend_usd,
    sum(s.token_share) AS token_share,
    sum(s.request_share) AS request_share,
    sum(s.spend_share) AS spend_share,
    sum(s.tokens_reasoning) AS tokens_reasoning,
    sum(s.tokens_completion) AS tokens_completion,
    tokens_reasoning / nullIf(tokens_completion, 0) AS reasoning_part_of_completion,
    any(s.tokens_total) AS tokens_total,
    any(s.requests_total) AS requests_total,
    any(s.is_partial) AS is_partial
FROM {database}.study_shares(column = 'reasoning', only = '', top_n = 10, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true) AS s
GROUP BY week, kind
ORDER BY week, tokens DESC, kind
COMMENT 'Models that reason against those that do not, by week.
Study: analysis 11, figure 10: the tokens of all requests to models that can reason (always or optional), whether they did or not. Its readers asked for requests, spend, and what is reasoned: request_share, spend_share, and reasoning_part_of_completion (reasoning tokens / completion tokens; requests that do not report reasoning add nothing above).
Formula: sum(tokens of reasoning models) / sum(tokens). Source: usage_1d, exact.
Columns: week: its Monday. kind: reasoning, not reasoning or unknown. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: parts of the week, for tokens of tokens_total, for requests of requests_total. tokens_reasoning, tokens_completion, reasoning_part_of_completion. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, kind, token_share, request_share, spend_share FROM study_11_reasoning(from_day = today() - 28, to_day = today() + 1)';
