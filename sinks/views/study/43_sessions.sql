CREATE OR REPLACE VIEW {database}.study_43_sessions AS
WITH sessions AS
    (
        SELECT
            toStartOfWeek(toDate(min(e.occurred_at)), 1) AS week,
            count() AS turns,
            dateDiff('second', min(e.occurred_at), max(e.occurred_at)) AS seconds,
            argMin(toInt64(e.tokens_prompt), (e.occurred_at, e.kafka_offset)) AS first_prompt,
            argMax(toInt64(e.tokens_prompt), (e.occurred_at, e.kafka_offset)) AS last_prompt
        FROM {database}.usage_events AS e
        WHERE e.occurred_at >= toDateTime({from_day:Date}, 'UTC') AND e.occurred_at < toDateTime({to_day:Date}, 'UTC')
            AND isNotNull(e.session_hash)
        GROUP BY e.session_hash
    )
SELECT
    s.week AS week,
    count() AS sessions,
    sum(s.turns) AS requests,
    requests / sessions AS mean_turns,
    quantileExact(0.5)(s.turns) AS turns_p50,
    quantileExact(0.9)(s.turns) AS turns_p90,
    countIf(s.turns = 1) / sessions AS single_turn_share,
    countIf(s.turns > 1) AS several,
    if(several = 0, NULL, quantileExactIf(0.5)(s.seconds, s.turns > 1)) AS seconds_p50,
    if(several = 0, NULL, avgIf(s.last_prompt - s.first_prompt, s.turns > 1)) AS mean_prompt_growth,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM sessions AS s
GROUP BY week
ORDER BY week
COMMENT 'Shape of sessions: how many turns, how long, how much the prompt grows, by week of their first request.
Not in the study. Sessions are the producers'' keyed hashes; requests without one are left out, and of a session that the period cuts only what lies in it counts.
Formula: by session, its requests in order of time. Source: usage_events, every request of the period with a session, exact; memory grows with sessions, so ask for weeks, not years.
Columns: week: its Monday. sessions. requests: of them. mean_turns, turns_p50, turns_p90: requests a session. single_turn_share: sessions of one request. several: sessions of more than one request. seconds_p50: from the first to the last request, median of the several. mean_prompt_growth: prompt tokens of the last request whose tokens are known, less those of the first; mean of the several. Both are null where there are none. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, sessions, mean_turns, single_turn_share, mean_prompt_growth FROM study_43_sessions(from_day = today() - 14, to_day = today() + 1)';
