CREATE OR REPLACE VIEW {database}.study_39_new_and_returning_users AS
WITH
    weeks AS
    (
        SELECT
            u.user AS user,
            toStartOfWeek(u.day, 1) AS week,
            sum(u.tokens) AS tokens,
            any(u.stands_for) AS stands_for
        FROM {database}.study_user_days(from_day = {from_day:Date}, to_day = {to_day:Date}, exact = {exact:Bool}) AS u
        GROUP BY user, week
    ),
    users AS
    (
        -- Two arrays of numbers: one of tuples takes half as long again.
        SELECT
            any(w.stands_for) AS stands_for,
            groupArray(w.week) AS weeks_of,
            groupArray(w.tokens) AS tokens_of,
            arraySort(weeks_of) AS active_weeks,
            arraySort((spent, at) -> at, tokens_of, weeks_of) AS active_tokens
        FROM weeks AS w
        GROUP BY w.user
    ),
    seen AS
    (
        SELECT stands_for, week, tokens, week_before
        FROM users
        ARRAY JOIN active_weeks AS week, active_tokens AS tokens, arrayPushFront(arrayPopBack(active_weeks), toDate(0)) AS week_before
    )
SELECT
    week,
    count() * any(stands_for) AS users,
    countIf(week_before = toDate(0)) * any(stands_for) AS users_new,
    countIf(week_before = week - 7) * any(stands_for) AS users_kept,
    users - users_new - users_kept AS users_back,
    users_new / users AS new_share,
    sumIf(s.tokens, week_before = toDate(0)) / nullIf(sum(s.tokens), 0) AS new_token_share,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM seen AS s
GROUP BY week
ORDER BY week
COMMENT 'New users, those kept from the week before, and those who came back, by week.
Not in the study. New is who has no request in the period before: in the first weeks that is nearly everybody, so begin some weeks earlier.
Formula: by user, the week of the request before. With exact = false one user in sixteen is counted and each stands for sixteen. Source: study_user_days.
Columns: week: its Monday. users: with any request. users_new, users_kept (active the week before), users_back (after a gap): they sum to users. new_share: of users. new_token_share: tokens of new users / tokens of all. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, users, users_new, users_kept, users_back FROM study_39_new_and_returning_users(from_day = today() - 56, to_day = today() + 1, exact = false)';
