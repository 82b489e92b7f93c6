CREATE OR REPLACE VIEW {database}.study_02_weekly_volume AS
SELECT
    week, origin, tokens, requests, spend_usd, token_share, tokens_total,
    sumIf(token_share, NOT is_partial) OVER (PARTITION BY origin) / greatest(uniqExactIf(week, NOT is_partial) OVER (), 1) AS mean_weekly_token_share,
    is_partial
FROM {database}.study_01_open_and_closed(from_day = {from_day:Date}, to_day = {to_day:Date})
ORDER BY week, tokens DESC, origin
COMMENT 'Volume by week and origin, and the mean of the weekly shares.
Study: analysis 2, figure 2; its means over the year were 13.0 % (chinese_open), 13.7 % (other_open) and 70 % (proprietary). mean_weekly_token_share: every whole week of the period counts the same, a week without requests of the origin as 0; partial weeks do not count.
Formula: sum(token_share over whole weeks) / number of whole weeks. Source: study_01_open_and_closed, exact. Units: tokens, USD, shares from 0 to 1.
Columns: week: its Monday. origin. tokens, requests, spend_usd: of the row; token_share: part of tokens_total, the week''s sum. mean_weekly_token_share: the same in all rows of an origin. is_partial: the week is not over, or the period cuts it.
Example: SELECT DISTINCT origin, mean_weekly_token_share FROM study_02_weekly_volume(from_day = today() - 91, to_day = today())';
