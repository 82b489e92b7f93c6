CREATE OR REPLACE VIEW {database}.study_35_concentration AS
WITH
    cells AS
    (
        SELECT toStartOfWeek(day, 1) AS week, toString(u.model) AS model, toString(u.vendor) AS vendor, sum(u.tokens_prompt + u.tokens_completion) AS tokens
        FROM {database}.usage_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date}
        GROUP BY week, model, vendor
    ),
    both AS
    (
        SELECT week, tupleElement(of, 1) AS dimension, tupleElement(of, 2) AS value, sum(cells.tokens) AS tokens_of_value
        FROM cells
        ARRAY JOIN [('model', model), ('vendor', vendor)] AS of
        GROUP BY week, dimension, value
    ),
    parts AS
    (
        SELECT week, dimension, value = 'unknown' AS is_unknown, tokens_of_value / nullIf(sum(tokens_of_value) OVER (PARTITION BY week, dimension), 0) AS share
        FROM both
    )
SELECT
    week,
    dimension,
    countIf(share > 0 AND NOT is_unknown) AS values_used,
    arrayReverseSort(groupArrayIf(share, NOT is_unknown)) AS shares,
    arraySum(arraySlice(shares, 1, 1)) AS share_of_largest,
    arraySum(arraySlice(shares, 1, 3)) AS share_of_largest_3,
    arraySum(arraySlice(shares, 1, 10)) AS share_of_largest_10,
    10000 * arraySum(s -> s * s, shares) AS hhi,
    -- Gini of what is known, by the sorted shares: 0 all alike, towards 1 one has all.
    if(values_used = 0, NULL, 1 - 2 * arraySum(arrayMap((s, place) -> s * (place - 0.5), shares, arrayEnumerate(shares))) / length(shares) / arraySum(shares)) AS gini,
    sumIf(share, is_unknown) AS unknown_share,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM parts
WHERE isNotNull(parts.share)
GROUP BY week, dimension
ORDER BY week, dimension
COMMENT 'How concentrated use is, on models and on vendors, by week.
Not in the study. hhi: Herfindahl-Hirschman index of the shares of tokens in per cent, 0 to 10,000; authorities call a market above 2,500 highly concentrated. gini: 0 if all are used alike, towards 1 if one has all. What is unknown is in the denominator of shares, and in no sum.
Formula: sum(share^2) * 1e4, and the Gini coefficient of the shares. Source: usage_1d, exact.
Columns: week: its Monday. dimension: model or vendor. values_used: with tokens. shares: the largest first. share_of_largest, share_of_largest_3, share_of_largest_10. hhi. gini. unknown_share. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, dimension, share_of_largest, hhi, gini FROM study_35_concentration(from_day = today() - 28, to_day = today() + 1)';
