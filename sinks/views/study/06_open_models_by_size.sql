CREATE OR REPLACE VIEW {database}.study_06_open_models_by_size AS
SELECT
    toStartOfWeek(day, 1) AS week,
    toString(u.size_class) AS size_class,
    uniqExact(u.model) AS models,
    sum(u.requests) AS requests,
    sum(u.tokens_prompt + u.tokens_completion) AS tokens,
    intDiv(tokens, models) AS tokens_per_model,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM {database}.usage_1d AS u
WHERE day >= {from_day:Date} AND day < {to_day:Date} AND u.open_weights = 'open' AND u.model != 'unknown'
GROUP BY week, size_class
HAVING requests > 0
ORDER BY week, size_class
COMMENT 'How many open models of each size are in use, by week.
Study: analysis 6, figure 5, which counts models that are on offer; a model counts here in the weeks in which it has requests, so one that nobody asks for is not on offer.
Formula: number of distinct models with requests. Source: usage_1d, exact. tokens_per_model: whole tokens.
Columns: week: its Monday. size_class. models: distinct ones. requests, tokens: of all of them; tokens_per_model. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, size_class, models FROM study_06_open_models_by_size(from_day = today() - 28, to_day = today() + 1)';
