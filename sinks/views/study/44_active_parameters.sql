CREATE OR REPLACE VIEW {database}.study_44_active_parameters AS
WITH
    models AS
    (
        -- What its last hour says of a model: to find it the rows of one hour are read, not all.
        SELECT e.model AS model, any(e.active_params_b) AS active
        FROM {database}.usage_events AS e
        WHERE e.occurred_at >= toDateTime({from_day:Date}, 'UTC') AND e.occurred_at < toDateTime({to_day:Date}, 'UTC')
            AND (toStartOfHour(toStartOfSecond(e.occurred_at)), e.model) IN
            (
                SELECT max(h.hour), h.model
                FROM {database}.usage_1h AS h
                WHERE h.hour >= toDateTime({from_day:Date}, 'UTC') AND h.hour < toDateTime({to_day:Date}, 'UTC') AND h.open_weights = 'open'
                GROUP BY h.model
            )
        GROUP BY e.model
    ),
    cells AS
    (
        SELECT
            toStartOfWeek(u.day, 1) AS week,
            multiIf(isNull(m.active), 'unknown', m.active < 15, 'small', m.active < 70, 'medium', 'large') AS active_class,
            sum(u.tokens_prompt + u.tokens_completion) AS tokens,
            sum(u.requests) AS requests,
            sum(u.cost_nanousd) AS nanousd,
            uniqExact(u.model) AS models
        FROM {database}.usage_1d AS u
        LEFT JOIN models AS m ON m.model = u.model
        WHERE u.day >= {from_day:Date} AND u.day < {to_day:Date} AND u.open_weights = 'open'
        GROUP BY week, active_class
    )
SELECT
    week, active_class, models, tokens, requests,
    nanousd * toDecimal64('0.000000001', 9) AS spend_usd,
    tokens / nullIf(sum(tokens) OVER of_week, 0) AS token_share,
    requests / sum(requests) OVER of_week AS request_share,
    toFloat64(nanousd) / nullIf(sum(nanousd) OVER of_week, 0) AS spend_share,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM cells
WINDOW of_week AS (PARTITION BY week)
ORDER BY week, tokens DESC, active_class
COMMENT 'Open models by the parameters that take part in a token, by week.
Not in the study, whose classes (analyses 5 and 6) go by all parameters: a mixture of experts of 671 billion with 37 active is large there and medium here. Classes are cut at the same sizes, 15 and 70 billion.
Formula: sum(tokens of the class) / sum(tokens of open models). Source: usage_1d, exact; the parameters of a model are those of its last hour in the period, from usage_1h and usage_events.
Columns: week: its Monday. active_class: small, medium, large or unknown. models: of the class. tokens, requests, spend_usd: of the row; token_share, request_share, spend_share: parts of open models in the week. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, active_class, models, token_share FROM study_44_active_parameters(from_day = today() - 28, to_day = today() + 1)';
