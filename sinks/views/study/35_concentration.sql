CREATE OR REPLACE VIEW {database}.study_35_concentration AS
WITH
    models AS
    (
        SELECT week, value AS model, toFloat64(s.token_share) AS share, is_partial
        FROM {database}.study_shares(column = 'model', only = '', top_n = 1000000, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true) AS s
        WHERE isNotNull(s.token_share)
    ),
    vendors AS
    (
        SELECT week, value AS vendor, toFloat64(s.token_share) AS share, is_partial
        FROM {database}.study_shares(column = 'vendor', only = '', top_n = 1000000, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true) AS s
        WHERE isNotNull(s.token_share)
    ),
    both AS
    (
        SELECT week, 'model' AS dimension, share, model = 'unknown' AS is_unknown, is_partial FROM models
        UNION ALL
        SELECT week, 'vendor' AS dimension, share, vendor = 'unknown' AS is_unknown, is_partial FROM vendors
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
    any(is_partial) AS is_partial
FROM both
GROUP BY week, dimension
ORDER BY week, dimension
COMMENT 'How concentrated use is, on models and on vendors, by week.
Not in the study. hhi: Herfindahl-Hirschman index of the shares of tokens in per cent, 0 to 10,000; authorities call a market above 2,500 highly concentrated. gini: 0 if all are used alike, towards 1 if one has all. What is unknown is in the denominator of shares, and in no sum.
Formula: sum(share^2) * 1e4, and the Gini coefficient of the shares. Source: usage_1d, exact.
Columns: week: its Monday. dimension: model or vendor. values_used: with tokens. shares: the largest first. share_of_largest, share_of_largest_3, share_of_largest_10. hhi. gini. unknown_share. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, dimension, share_of_largest, hhi, gini FROM study_35_concentration(from_day = today() - 28, to_day = today() + 1)';
