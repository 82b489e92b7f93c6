CREATE OR REPLACE VIEW {database}.study_14_top_tool_models AS
WITH by_model AS
    (
        SELECT
            week, value AS model, requests, tool_call_requests,
            sum(tool_call_requests) OVER (PARTITION BY week) AS tool_call_requests_total,
            is_partial
        FROM {database}.study_shares(column = 'model', only = '', top_n = 1000000, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
    )
SELECT
    week, model, tool_call_requests, requests,
    tool_call_requests / nullIf(tool_call_requests_total, 0) AS share_of_tool_call_requests,
    tool_call_requests / requests AS part_of_own_requests,
    tool_call_requests_total,
    is_partial
FROM by_model
WHERE tool_call_requests > 0
ORDER BY week, tool_call_requests DESC, model
LIMIT {top_n:UInt32} BY week
COMMENT 'The models that call most tools, by week.
Study: analysis 14, figure 13, which counts the tokens of requests to which tools were offered. Events do not say what was offered; here the requests in which at least one tool was called count, and how many of a model''s own requests these are. The top_n of each week.
Formula: requests of the model that called a tool / all such requests. Source: usage_1d, exact.
Columns: week: its Monday. model. tool_call_requests: requests that called a tool; requests: all of the model. share_of_tool_call_requests: part of tool_call_requests_total, the week''s sum. part_of_own_requests: of the model''s own. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, model, share_of_tool_call_requests, part_of_own_requests FROM study_14_top_tool_models(from_day = today() - 28, to_day = today() + 1, top_n = 10)';
