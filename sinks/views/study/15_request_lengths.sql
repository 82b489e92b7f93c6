CREATE OR REPLACE VIEW {database}.study_15_request_lengths AS
SELECT
    toStartOfWeek(day, 1) AS week,
    sum(u.requests) - sum(u.tokens_unknown) AS requests_measured,
    sum(u.tokens_prompt) / nullIf(requests_measured, 0) AS mean_tokens_prompt,
    sum(u.tokens_completion) / nullIf(requests_measured, 0) AS mean_tokens_completion,
    mean_tokens_prompt + mean_tokens_completion AS mean_tokens,
    sum(u.tokens_reasoning) / nullIf(requests_measured, 0) AS mean_tokens_reasoning,
    sum(u.tokens_prompt) / nullIf(sum(u.tokens_completion), 0) AS prompt_tokens_per_completion_token,
    sum(u.tokens_cached) / nullIf(sum(u.tokens_prompt), 0) AS cached_part_of_prompt,
    sum(u.tokens_unknown) AS tokens_unknown,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM {database}.usage_1d AS u
WHERE day >= {from_day:Date} AND day < {to_day:Date}
GROUP BY week
ORDER BY week
COMMENT 'Length of prompts, completions and whole requests, by week.
Study: analyses 15, 16 and 18, figures 14, 15 and 17. mean_tokens is the study''s sequence length. requests_measured: those whose prompt and completion tokens are known; of a request of which only one is known that one is in the sum, not in the number. Reasoning tokens are a part of the completion, cached ones of the prompt.
Formula: sum(tokens) / requests measured. Units: tokens a request. Source: usage_1d, exact.
Columns: week: its Monday. requests_measured. mean_tokens_prompt, mean_tokens_completion, mean_tokens, mean_tokens_reasoning: a request. prompt_tokens_per_completion_token. cached_part_of_prompt: from 0 to 1. tokens_unknown: requests whose tokens are not known. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, mean_tokens_prompt, mean_tokens_completion, mean_tokens FROM study_15_request_lengths(from_day = today() - 28, to_day = today() + 1)';
