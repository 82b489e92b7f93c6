CREATE OR REPLACE VIEW {database}.study_user_days AS
SELECT
    u.day AS day, u.model AS model, u.vendor AS vendor, u.origin AS origin, u.user_hash AS user,
    16 AS stands_for,
    u.tokens_prompt + u.tokens_completion AS tokens, u.requests AS requests, u.cost_nanousd AS cost_nanousd
FROM {database}.usage_users_1d AS u
WHERE NOT {exact:Bool} AND u.day >= {from_day:Date} AND u.day < {to_day:Date}
UNION ALL
SELECT
    toDate(e.occurred_at), e.model, e.vendor, e.origin, assumeNotNull(e.user_hash),
    1,
    toUInt64(ifNull(e.tokens_prompt, 0)) + ifNull(e.tokens_completion, 0), 1, ifNull(e.cost_nanousd, 0)
FROM {database}.usage_events AS e
WHERE {exact:Bool} AND e.occurred_at >= toDateTime({from_day:Date}, 'UTC') AND e.occurred_at < toDateTime({to_day:Date}, 'UTC')
    AND isNotNull(e.user_hash)
COMMENT 'Who used what on which day: what the analyses of users are made of. Users are the producers'' keyed hashes; requests without one are left out.
Parameters: from_day and to_day: dates, UTC, half-open. exact: true for every user, which reads every request of the period; false for one user in sixteen, chosen by a hash, with all of their requests, which reads usage_users_1d.
Columns: day, model, vendor, origin. user. stands_for: 16, or 1 if exact. tokens, requests, cost_nanousd: a user, day and model may have several rows, so sum them.
Example: SELECT uniqExact(user) * any(stands_for) AS users FROM study_user_days(from_day = today() - 7, to_day = today() + 1, exact = false)';
