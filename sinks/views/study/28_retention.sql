CREATE OR REPLACE VIEW {database}.study_28_retention AS
WITH
    users AS
    (
        SELECT groupUniqArray(toStartOfMonth(u.day)) AS months, arrayMin(months) AS first_month
        FROM {database}.study_user_days(from_day = {from_day:Date}, to_day = {to_day:Date}, exact = {exact:Bool}) AS u
        WHERE u.model = {model:String}
        GROUP BY u.user
    ),
    cells AS
    (
        SELECT first_month, arrayJoin(months) AS month, count() AS users
        FROM users
        GROUP BY first_month, month
    )
SELECT
    first_month AS cohort,
    dateDiff('month', first_month, month) AS months_later,
    -- Its first month has all of a cohort.
    max(users) OVER (PARTITION BY first_month) AS cohort_users,
    users AS active_users,
    active_users / cohort_users AS retention,
    addMonths(month, 1) > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM cells
ORDER BY cohort, months_later
COMMENT 'How many users of a model are still there months later, by the month of their first use.
Study: analysis 28, figure 25. A user counts in a month with any request to the model, after gaps too, so a curve may rise again. First use is the first one in the period: begin before the model did. Users are the producers'' keyed hashes; requests without one are left out.
Formula: users of the cohort that are active k months later / users of the cohort. Source: study_user_days: with exact = true every request of the model, else one user in sixteen, whose cohorts are a sixteenth as large and whose retention is an estimate.
Columns: cohort: first day of its month. months_later: from 0. cohort_users. active_users. retention: from 0 to 1; no row means nobody. is_partial: the month is not over, or the period cuts it.
Example: SELECT cohort, months_later, cohort_users, retention FROM study_28_retention(model = ''deepseek/deepseek-r1'', from_day = today() - 365, to_day = today() + 1, exact = true)';
