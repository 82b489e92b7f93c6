CREATE OR REPLACE VIEW {database}.study_28_retention_patterns AS
WITH
    users AS
    (
        SELECT
            toString(any(u.model)) AS name,
            groupUniqArray(toStartOfMonth(u.day)) AS seen,
            arrayMin(seen) AS cohort,
            -- Months that are over within the period, the first one not counted.
            greatest(dateDiff('month', cohort, toStartOfMonth(least({to_day:Date}, toDate(now('UTC'))))) - 1, 0) AS months,
            arrayMap(k -> has(seen, addMonths(cohort, k)), range(1, toUInt32(months) + 1)) AS is_active
        FROM {database}.study_user_days(from_day = {from_day:Date}, to_day = {to_day:Date}, exact = {exact:Bool}) AS u
        WHERE u.model != 'unknown'
        -- By the hash of a name: a text among the keys takes half as long again.
        GROUP BY cityHash64(u.model), u.user
    ),
    cohorts AS
    (
        SELECT name, cohort, count() AS cohort_users, arrayMap(n -> n / cohort_users, sumForEach(is_active)) AS curve
        FROM users
        WHERE months >= 2
        GROUP BY name, cohort
        HAVING cohort_users >= {cell_min:UInt32}
    ),
    judged AS
    (
        SELECT
            name,
            cohort,
            cohort_users,
            curve,
            arrayAvg(arraySlice(curve, 2, 4)) AS kept,
            arrayExists((now, before) -> now >= 1.3 * before AND now - before >= 0.05, arraySlice(curve, 2), arraySlice(curve, 1, length(curve) - 1)) AS comes_back
        FROM cohorts
    )
SELECT
    name AS model,
    count() AS cohorts_judged,
    argMax(cohort, kept) AS best_cohort,
    argMax(cohort_users, kept) AS best_cohort_users,
    max(kept) AS best_kept,
    if(cohorts_judged < 2, NULL, arrayElement(arraySort(groupArray(kept)), toUInt32(intDiv(cohorts_judged - 1, 2)) + 1)) AS usual_kept,
    countIf(comes_back) AS cohorts_that_come_back,
    multiIf(
        cohorts_judged < 2, 'unclear',
        cohorts_that_come_back > 0, 'boomerang',
        best_kept >= 0.3 AND best_kept >= 1.6 * usual_kept AND usual_kept < 0.1, 'lock-in',
        best_kept >= 0.3 AND best_kept >= 1.6 * usual_kept, 'glass slipper',
        best_kept <= 0.25, 'no fit',
        'unclear') AS pattern
FROM judged
GROUP BY name
ORDER BY sum(cohort_users) DESC, model
COMMENT 'Which of the study''s patterns of retention each model shows.
Study: analysis 28, figure 25, which names them by eye; here by rule. kept: mean part of a cohort that is active 2 to 5 months after its first use of the model, months that are over only. A cohort counts with cell_min users and two such months. boomerang: in some cohort a month has 1.3 times the users of the month before, and 5 points more. Else, if the best cohort keeps 30 % and 1.6 times the usual: lock-in if the usual is below 10 %, glass slipper if not. no fit: no cohort keeps more than 25 %. Else unclear, as with fewer than two cohorts.
Formula: as said. Source: study_user_days: with exact = true every request of the period, and memory that grows with users times models; else one user in sixteen, and cell_min counts those.
Columns: model. cohorts_judged. best_cohort: first day of its month; best_cohort_users, best_kept. usual_kept: median cohort, the lower of two. cohorts_that_come_back. pattern.
Example: SELECT model, pattern, best_cohort, best_kept, usual_kept FROM study_28_retention_patterns(from_day = today() - 365, to_day = today() + 1, cell_min = 50, exact = true)';
