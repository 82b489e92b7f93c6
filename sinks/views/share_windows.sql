CREATE OR REPLACE VIEW {database}.share_windows AS
WITH
    newest AS
    (
        SELECT
            dimension,
            window_seconds,
            window_end,
            argMax(
                tuple(
                    revision, is_complete, watermark, given_at, requests_total, tokens_total,
                    cost_nanousd_total, values, requests, tokens_prompt, tokens_completion,
                    tokens_reasoning, tokens_cached, cost_nanousd, tool_call_requests, errors, users,
                    share_requests_billionths, share_tokens_billionths, share_cost_billionths,
                    previous_requests_billionths, previous_tokens_billionths,
                    previous_cost_billionths
                ),
                version
            ) AS w
        FROM {database}.share_window_revisions
        GROUP BY dimension, window_seconds, window_end
    ),
    (n) -> CAST(toDecimal64(n, 9) / 1000000000, 'Nullable(Decimal(10, 9))') AS as_share,
    (n) -> CAST(toDecimal128(n, 9) / 1000000000, 'Decimal(18, 9)') AS as_usd
SELECT
    dimension,
    window_seconds,
    window_end - window_seconds AS window_start,
    window_end,
    CAST(w.values[at], 'String') AS value,
    w.requests[at] AS requests,
    w.tokens_prompt[at] + w.tokens_completion[at] AS tokens,
    w.tokens_prompt[at] AS tokens_prompt,
    w.tokens_completion[at] AS tokens_completion,
    w.tokens_reasoning[at] AS tokens_reasoning,
    w.tokens_cached[at] AS tokens_cached,
    as_usd(w.cost_nanousd[at]) AS spend_usd,
    w.tool_call_requests[at] AS tool_call_requests,
    w.errors[at] AS errors,
    w.users[at] AS users,
    as_share(if(w.tokens_total = 0, NULL, w.share_tokens_billionths[at])) AS token_share,
    as_share(if(w.requests_total = 0, NULL, w.share_requests_billionths[at])) AS request_share,
    as_share(if(w.cost_nanousd_total = 0, NULL, w.share_cost_billionths[at])) AS spend_share,
    as_share(if(empty(w.previous_tokens_billionths), NULL, ifNull(w.previous_tokens_billionths[at], 0))) AS previous_token_share,
    as_share(if(empty(w.previous_requests_billionths), NULL, ifNull(w.previous_requests_billionths[at], 0))) AS previous_request_share,
    as_share(if(empty(w.previous_cost_billionths), NULL, ifNull(w.previous_cost_billionths[at], 0))) AS previous_spend_share,
    token_share - previous_token_share AS token_share_change,
    request_share - previous_request_share AS request_share_change,
    spend_share - previous_spend_share AS spend_share_change,
    w.tokens_total AS tokens_total,
    w.requests_total AS requests_total,
    as_usd(w.cost_nanousd_total) AS spend_total_usd,
    w.watermark AS watermark,
    w.is_complete AS is_complete,
    w.revision AS revision,
    w.given_at AS given_at
FROM newest
ARRAY JOIN arrayEnumerate(w.values) AS at
COMMENT 'Rolling windows: one row per window, dimension and value, always the newest revision. Windows of 60 s every 10 s, 300 s every 30 s, 900 s every minute, 3600 s every 5 minutes, 86400 s every hour and 604800 s every 6 hours. Name dimension and window_seconds, and bound window_end, in WHERE.
value: the largest by tokens in that window, then other, then unknown. token_share, request_share, spend_share: part of all of the window, 0 to 1, exactly 1 in sum; null where the total is 0. previous_*: the share in the window of equal length before this one, as it was known when this one was given out (0 if the value had no row of its own there, null if that window is not known); *_change: the difference. users: distinct users, estimated, standard error 3.25 %. watermark: up to which event time everything had probably arrived. is_complete: no partition was missing. revision: how often late events have changed the window since.
Example: SELECT value, token_share, token_share_change FROM share_windows WHERE dimension = ''vendor'' AND window_seconds = 300 AND window_end = (SELECT max(window_end) FROM share_windows WHERE dimension = ''vendor'' AND window_seconds = 300) ORDER BY tokens DESC'
