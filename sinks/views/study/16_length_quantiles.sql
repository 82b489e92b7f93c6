CREATE OR REPLACE VIEW {database}.study_16_length_quantiles AS
WITH weeks AS
    (
        SELECT
            toStartOfWeek(l.day, 1) AS start,
            sumIf(l.requests, l.measured = 'both') AS measured,
            quantilesExactWeightedIf(0.5, 0.9, 0.99)(l.tokens, l.requests, l.measured = 'prompt') AS prompt,
            quantilesExactWeightedIf(0.5, 0.9, 0.99)(l.tokens, l.requests, l.measured = 'completion') AS completion,
            quantilesExactWeightedIf(0.5, 0.9, 0.99)(l.tokens, l.requests, l.measured = 'both') AS whole
        FROM {database}.usage_lengths_1d AS l
        WHERE l.day >= {from_day:Date} AND l.day < {to_day:Date}
        GROUP BY start
    )
SELECT
    start AS week,
    measured AS requests_measured,
    prompt[1] AS tokens_prompt_p50,
    prompt[2] AS tokens_prompt_p90,
    prompt[3] AS tokens_prompt_p99,
    completion[1] AS tokens_completion_p50,
    completion[2] AS tokens_completion_p90,
    completion[3] AS tokens_completion_p99,
    whole[1] AS tokens_p50,
    whole[2] AS tokens_p90,
    whole[3] AS tokens_p99,
    week < {from_day:Date} OR week + 7 > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM weeks
ORDER BY week
COMMENT 'Median and tails of the lengths of requests, by week.
Study: analyses 14 to 16 and 18 have means only (study_15_request_lengths). A quantile is the length of the request at that rank, as usage_lengths_1d has it: exact below 256 tokens, less than 0.8 % too short above.
Formula: quantilesExactWeighted of lengths, each with the requests that have it. Source: usage_lengths_1d, every request of the period whose tokens are known.
Columns: week: its Monday. requests_measured. tokens_prompt_p50, tokens_prompt_p90, tokens_prompt_p99. tokens_completion_p50, tokens_completion_p90, tokens_completion_p99. tokens_p50, tokens_p90, tokens_p99: prompt and completion together. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, tokens_prompt_p50, tokens_prompt_p99 FROM study_16_length_quantiles(from_day = today() - 28, to_day = today() + 1)';
