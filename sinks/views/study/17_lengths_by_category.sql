CREATE OR REPLACE VIEW {database}.study_17_lengths_by_category AS
SELECT
    toStartOfWeek(toDate(hour), 1) AS week,
    toString(u.category) AS category,
    sum(u.requests) - sum(u.tokens_unknown) AS requests_measured,
    requests_measured < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, sum(u.tokens_prompt) / nullIf(requests_measured, 0)) AS mean_tokens_prompt,
    if(is_withheld, NULL, sum(u.tokens_completion) / nullIf(requests_measured, 0)) AS mean_tokens_completion,
    mean_tokens_prompt + mean_tokens_completion AS mean_tokens,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM {database}.usage_context_1h AS u
WHERE hour >= toDateTime({from_day:Date}, 'UTC') AND hour < toDateTime({to_day:Date}, 'UTC') AND u.category != 'unknown'
GROUP BY week, category
ORDER BY week, category
COMMENT 'Length of requests by task category, by week.
Study: analyses 17 and 19, figures 16 and 18 (programming against the rest). Only requests that the gateway sampled have a category: these are means of the sample. A cell of fewer than cell_min requests is withheld: its means are null, never 0.
Formula: sum(tokens) / requests measured, of sampled requests of the category. Units: tokens a request. Source: usage_context_1h.
Columns: week: its Monday. category. requests_measured. is_withheld: there are too few. mean_tokens_prompt, mean_tokens_completion, mean_tokens: a request. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, category, requests_measured, mean_tokens_prompt FROM study_17_lengths_by_category(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
