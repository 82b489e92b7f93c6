CREATE OR REPLACE VIEW {database}.study_40_accounts AS
WITH
    accounts AS
    (
        SELECT
            toStartOfWeek(u.day, 1) AS week,
            toString({column:Identifier}) AS name,
            u.user AS user,
            sum(u.tokens) AS size
        FROM {database}.study_user_days(from_day = {from_day:Date}, to_day = {to_day:Date}, exact = true) AS u
        GROUP BY week, {column:Identifier}, user
    ),
    cells AS
    (
        SELECT
            week,
            name AS value,
            count() AS users,
            sum(size) AS tokens,
            max(size) AS tokens_of_largest,
            sum(pow(toFloat64(size), 2)) / pow(toFloat64(nullIf(tokens, 0)), 2) AS hhi,
            arraySort(groupArray(size)) AS sizes,
            -- Sizes in rising order, each times its rank.
            (2 * arraySum((own, rank) -> toFloat64(own) * rank, sizes, arrayEnumerate(sizes)) / nullIf(tokens, 0) - (users + 1)) / users AS gini
        FROM accounts
        GROUP BY week, name
    )
SELECT
    c.week AS week,
    c.value AS value,
    c.users AS users,
    c.tokens AS tokens,
    sum(c.tokens) OVER (PARTITION BY c.week) AS tokens_total,
    c.tokens / nullIf(tokens_total, 0) AS token_share,
    (c.tokens - c.tokens_of_largest) / nullIf(tokens_total - c.tokens_of_largest, 0) AS token_share_without_largest,
    c.tokens_of_largest / nullIf(c.tokens, 0) AS part_of_largest,
    c.hhi AS hhi,
    c.gini AS gini,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM cells AS c
ORDER BY week, tokens DESC, value
COMMENT 'How much of a share is one account: each share again without the largest one, by week.
Not in the study, which says that its tool calls of May 2025 were a single account: this is how to see such a thing. column: model, vendor or origin. Requests without a user are left out of every number here.
Formula: token_share_without_largest: (tokens - those of the largest account of the value) / (tokens of the week - those). hhi: sum of squared parts of the accounts, 1 is one account alone. gini: 0 is all alike. Source: usage_events, every request of the period with a user, exact; memory grows with accounts times values, so ask for weeks, not years.
Columns: week: its Monday. value. users. tokens. tokens_total: of all values in the week. token_share, token_share_without_largest. part_of_largest: its tokens / those of the value. hhi, gini: of the accounts of the value. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, value, token_share, token_share_without_largest, part_of_largest FROM study_40_accounts(column = ''vendor'', from_day = today() - 14, to_day = today() + 1)';
