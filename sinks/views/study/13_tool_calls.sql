CREATE OR REPLACE VIEW {database}.study_13_tool_calls AS
SELECT
    week,
    multiIf(value = 'tool_calls', 'tool call', value = 'unknown', 'unknown', 'other end') AS ended_by,
    sum(s.tokens) AS tokens,
    sum(s.requests) AS requests,
    sum(s.spend_usd) AS spend_usd,
    sum(s.token_share) AS token_share,
    sum(s.request_share) AS request_share,
    sum(s.spend_share) AS spend_share,
    sum(s.tool_call_requests) AS tool_call_requests,
    any(s.tokens_total) AS tokens_total,
    any(s.requests_total) AS requests_total,
    any(s.is_partial) AS is_partial
FROM {database}.study_request_shares(column = 'finish_reason', only = '', top_n = 20, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true) AS s
GROUP BY week, ended_by
ORDER BY week, tokens DESC, ended_by
COMMENT 'Requests that end in a tool call, by week.
Study: analysis 13, figure 12: tokens of requests whose finish reason is a tool call. tool_call_requests counts calls that the gateway reported in any other way too. A single account can make a spike here, as in May 2025 in the study: compare token_share with request_share.
Formula: sum(tokens of requests with finish_reason tool_calls) / sum(tokens). Source: usage_context_1h, exact.
Columns: week: its Monday. ended_by: tool call, other end or unknown. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: parts of the week, for tokens of tokens_total, for requests of requests_total. tool_call_requests. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, ended_by, token_share FROM study_13_tool_calls(from_day = today() - 28, to_day = today() + 1)';
