CREATE OR REPLACE VIEW {database}.study_38_users AS
WITH
    1.959964 AS z,
    counted AS
    (
        SELECT
            toStartOfWeek(u.day, 1) AS week,
            toString({column:Identifier}) AS name,
            -- Of a value, and of all of them: a user of two values is one user of the week.
            grouping(name) = 1 AS is_of_all,
            uniqExact(u.user) AS users_counted,
            any(u.stands_for) AS users_per_counted
        FROM {database}.study_user_days(from_day = {from_day:Date}, to_day = {to_day:Date}, exact = {exact:Bool}) AS u
        GROUP BY GROUPING SETS ((week, name), (week))
    ),
    sized AS
    (
        SELECT
            *,
            max(if(is_of_all, users_counted, 0)) OVER (PARTITION BY week) AS counted_of_week,
            sum(users_counted) OVER (PARTITION BY is_of_all, name) AS users_of_period
        FROM counted
    ),
    cells AS
    (
        SELECT
            *,
            name AS value,
            dense_rank() OVER (ORDER BY name = 'unknown', users_of_period DESC, name) AS place
        FROM sized
        WHERE NOT is_of_all
    )
SELECT
    c.week AS week,
    c.value AS value,
    c.users_counted AS users_counted,
    c.users_counted * c.users_per_counted AS users,
    -- Of a count that is drawn one in sixteen: the ends that a score test of a Poisson does not refuse.
    if(c.users_per_counted = 1, users, round(c.users_per_counted * (users_counted + z * z / 2 - z * sqrt(users_counted + z * z / 4)))) AS users_low,
    if(c.users_per_counted = 1, users, round(c.users_per_counted * (users_counted + z * z / 2 + z * sqrt(users_counted + z * z / 4)))) AS users_high,
    c.users_counted / c.counted_of_week AS user_share,
    c.counted_of_week * c.users_per_counted AS users_total,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM cells AS c
WHERE c.value = 'unknown' OR c.place <= {top_n:UInt32}
ORDER BY week, users DESC, value
COMMENT 'Users of models, vendors or origins, by week: the fourth measure, beside tokens, requests and spend.
Not in the study. column: model, vendor or origin. The top_n values that have most users by week have rows. A user of two vendors counts for both, so shares sum to more than 1.
Formula: distinct users of the value / distinct users of the week. With exact = false one user in sixteen is counted: users is sixteen times that, from users_low to users_high at 95 %. Source: study_user_days.
Columns: week: its Monday. value. users_counted. users, users_low, users_high. user_share: of users_total. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, value, users, user_share FROM study_38_users(column = ''vendor'', top_n = 10, from_day = today() - 28, to_day = today() + 1, exact = false)';
