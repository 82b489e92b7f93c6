CREATE OR REPLACE VIEW {database}.share_windows AS
WITH
    newest AS
    (
        SELECT
            dimension,
            window_seconds,
            window_end,
            argMax(r.revision, r.version) AS w_revision,
            argMax(r.is_complete, r.version) AS w_is_complete,
            argMax(r.watermark, r.version) AS w_watermark,
            argMax(r.given_at, r.version) AS w_given_at,
            argMax(r.requests_total, r.version) AS w_requests_total,
            argMax(r.tokens_total, r.version) AS w_tokens_total,
            argMax(r.cost_nanousd_total, r.version) AS w_cost_nanousd_total,
            argMax(r.values, r.version) AS w_values,
            argMax(r.requests, r.version) AS w_requests,
            argMax(r.tokens_prompt, r.version) AS w_tokens_prompt,
            argMax(r.tokens_completion, r.version) AS w_tokens_completion,
            argMax(r.tokens_reasoning, r.version) AS w_tokens_reasoning,
            argMax(r.tokens_cached, r.version) AS w_tokens_cached,
            argMax(r.cost_nanousd, r.version) AS w_cost_nanousd,
            argMax(r.tool_call_requests, r.version) AS w_tool_call_requests,
            argMax(r.errors, r.version) AS w_errors,
            argMax(r.users, r.version) AS w_users,
            argMax(r.share_requests_billionths, r.version) AS w_share_requests_billionths,
            argMax(r.share_tokens_billionths, r.version) AS w_share_tokens_billionths,
            argMax(r.share_cost_billionths, r.version) AS w_share_cost_billionths,
            argMax(r.previous_requests_billionths, r.version) AS w_previous_requests_billionths,
            argMax(r.previous_tokens_billionths, r.version) AS w_previous_tokens_billionths,
            argMax(r.previous_cost_billionths, r.version) AS w_previous_cost_billionths
        FROM {database}.share_window_revisions AS r
        GROUP BY dimension, window_seconds, window_end
    ),
    (n) -> CAST(toDecimal64(n, 9) / 1000000000, 'Nullable(Decimal(10, 9))') AS as_share,
    (n) -> CAST(toDecimal128(n, 9) / 1000000000, 'Decimal(18, 9)') AS as_usd
SELECT
    dimension,
    window_seconds,
    window_end - window_seconds AS window_start,
    window_end,
    CAST(w_values[at], 'String') AS value,
    w_requests[at] AS requests,
    w_tokens_prompt[at] + w_tokens_completion[at] AS tokens,
    w_tokens_prompt[at] AS tokens_prompt,
    w_tokens_completion[at] AS tokens_completion,
    w_tokens_reasoning[at] AS tokens_reasoning,
    w_tokens_cached[at] AS tokens_cached,
    as_usd(w_cost_nanousd[at]) AS spend_usd,
    w_tool_call_requests[at] AS tool_call_requests,
    w_errors[at] AS errors,
    w_users[at] AS users,
    as_share(if(w_tokens_total = 0, NULL, w_share_tokens_billionths[at])) AS token_share,
    as_share(if(w_requests_total = 0, NULL, w_share_requests_billionths[at])) AS request_share,
    as_share(if(w_cost_nanousd_total = 0, NULL, w_share_cost_billionths[at])) AS spend_share,
    as_share(if(empty(w_previous_tokens_billionths), NULL, ifNull(w_previous_tokens_billionths[at], 0))) AS previous_token_share,
    as_share(if(empty(w_previous_requests_billionths), NULL, ifNull(w_previous_requests_billionths[at], 0))) AS previous_request_share,
    as_share(if(empty(w_previous_cost_billionths), NULL, ifNull(w_previous_cost_billionths[at], 0))) AS previous_spend_share,
    token_share - previous_token_share AS token_share_change,
    request_share - previous_request_share AS request_share_change,
    spend_share - previous_spend_share AS spend_share_change,
    w_tokens_total AS tokens_total,
    w_requests_total AS requests_total,
    as_usd(w_cost_nanousd_total) AS spend_total_usd,
    w_watermark AS watermark,
    w_is_complete AS is_complete,
    w_revision AS revision,
    w_given_at AS given_at
FROM newest
ARRAY JOIN arrayEnumerate(w_values) AS at
COMMENT 'Rolling windows: one row per window, dimension and value, always the newest revision. Windows of 60 s every 10 s, 300 s every 30 s, 900 s every minute, 3600 s every 5 minutes, 86400 s every hour and 604800 s every 6 hours. Name dimension and window_seconds, and bound window_end, in WHERE.
value: the largest by tokens in that window, then other, then unknown. token_share, request_share, spend_share: part of all of the window, 0 to 1, exactly 1 in sum; null where the total is 0. previous_*: the share in the window of equal length before this one, as it was known when this one was given out (0 if the value had no row of its own there, null if that window is not known); *_change: the difference. users: distinct users, estimated, standard error 3.25 %. watermark: up to which event time everything had probably arrived. is_complete: no partition was missing. revision: how often late events have changed the window since.
Example: SELECT value, token_share, token_share_change FROM share_windows WHERE dimension = ''vendor'' AND window_seconds = 300 AND window_end = (SELECT max(window_end) FROM share_windows WHERE dimension = ''vendor'' AND window_seconds = 300) ORDER BY tokens DESC'
