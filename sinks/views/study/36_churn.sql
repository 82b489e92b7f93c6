CREATE OR REPLACE VIEW {database}.study_36_churn AS
WITH
    ranked AS
    (
        SELECT week, groupArray(model) AS leaders, any(partial) AS is_cut
        FROM
        (
            SELECT week, value AS model, is_partial AS partial
            FROM {database}.study_shares(column = 'model', only = '', top_n = 1000000, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true)
            WHERE value != 'unknown' AND tokens > 0
            ORDER BY week, tokens DESC, value
            LIMIT {top_n:UInt32} BY week
        )
        GROUP BY week
    )
SELECT
    week,
    leaders,
    lagInFrame(leaders) OVER of_weeks AS leaders_before,
    if(row_number() OVER of_weeks = 1, [], arrayFilter(m -> NOT has(leaders_before, m), leaders)) AS entered,
    arrayFilter(m -> NOT has(leaders, m), leaders_before) AS dropped,
    length(entered) AS models_entered,
    is_cut OR week < {from_day:Date} OR week + 7 > {to_day:Date} AS is_partial
FROM ranked
WINDOW of_weeks AS (ORDER BY week ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
ORDER BY week
COMMENT 'Which models came among the largest and which dropped out, week by week.
Not in the study. The top_n largest models by tokens, against those of the week before in the period; the first week has none before it.
Formula: the difference of two sets. Source: usage_1d, exact.
Columns: week: its Monday. leaders: the largest first. leaders_before: of the week before. entered: leaders that were none. dropped: those that are none any more. models_entered. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, models_entered, entered, dropped FROM study_36_churn(from_day = today() - 28, to_day = today() + 1, top_n = 20)';
