CREATE OR REPLACE VIEW {database}.study_sampled_estimates AS
WITH
{intervals},
    weighted AS
    (
        SELECT week, sum(of_all) / sum(of_sample) AS requests_per_sampled
        FROM
        (
            SELECT if({by_week:Bool}, toStartOfWeek(day, 1), {from_day:Date}) AS week, requests AS of_all, 0 AS of_sample
            FROM {database}.usage_1d
            WHERE day >= {from_day:Date} AND day < {to_day:Date}
            UNION ALL
            SELECT if({by_week:Bool}, toStartOfWeek(day, 1), {from_day:Date}), 0, requests
            FROM {database}.usage_sampled_1d
            WHERE day >= {from_day:Date} AND day < {to_day:Date}
        )
        GROUP BY week
        HAVING sum(of_sample) > 0
    ),
    measured AS
    (
        SELECT
            *,
            toFloat64(s.token_share) AS part,
            error_of_odds(part, toFloat64(s.tokens_squared), toFloat64(sum(s.tokens_squared) OVER (PARTITION BY s.week)), s.tokens_total, s.requests_total) AS token_error,
            wilson_middle(s.requests, s.requests_total) AS request_middle,
            wilson_reach(s.requests, s.requests_total) AS request_reach
        FROM {database}.study_sampled_shares(column = {column:String}, only = {only:String}, top_n = {top_n:UInt32}, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = {by_week:Bool}) AS s
    )
SELECT
    m.week AS week,
    m.value AS value,
    m.tokens AS tokens,
    m.requests AS sampled_requests,
    m.spend_usd AS spend_usd,
    m.token_share AS token_share,
    moved_by(m.part, -z * m.token_error) AS token_share_low,
    moved_by(m.part, z * m.token_error) AS token_share_high,
    m.request_share AS request_share,
    greatest(m.request_middle - m.request_reach, 0) AS request_share_low,
    least(m.request_middle + m.request_reach, 1) AS request_share_high,
    m.spend_share AS spend_share,
    m.tokens_total AS tokens_total,
    m.requests_total AS sampled_requests_total,
    w.requests_per_sampled AS requests_per_sampled,
    toUInt64(round(m.tokens * requests_per_sampled)) AS tokens_estimated,
    m.is_partial AS is_partial
FROM measured AS m
INNER JOIN weighted AS w ON w.week = m.week
ORDER BY week, tokens DESC, value
COMMENT 'What the views of categories are made of: shares of sampled requests with their intervals, and what they stand for.
Parameters: as those of study_sampled_shares.
Intervals are of 95 %: of requests Wilson''s, of tokens that of a ratio of sums on the scale of log odds, null where a share is 0 or all. They say how far a sample of this size may be off if requests were drawn alike; they do not say whether the classifier is right. In cells of fewer than some hundred sampled requests whose lengths differ much, that of tokens is too narrow.
Columns: week, value. tokens, sampled_requests, spend_usd: of the sample. token_share, token_share_low, token_share_high. request_share, request_share_low, request_share_high. spend_share. tokens_total, sampled_requests_total: the denominators. requests_per_sampled: all requests of the week for each sampled one, its weight. tokens_estimated: tokens times that weight. is_partial.
Example: SELECT value, token_share, token_share_low, token_share_high, tokens_estimated FROM study_sampled_estimates(column = ''category'', only = '''', top_n = 10, from_day = today() - 28, to_day = today() + 1, by_week = true)';
