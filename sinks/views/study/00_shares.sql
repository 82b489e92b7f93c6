CREATE OR REPLACE VIEW {database}.study_{name} AS
WITH
    throwIf({only:String} NOT IN ({choices}), 'only must be one of {choices_text}') = 0 AS only_is_known,
    sums AS
    (
        SELECT
            if({by_week:Bool}, toStartOfWeek({day}, 1), {from_day:Date}) AS week,
            toString({column:Identifier}) AS name,
            sum({table}.tokens_prompt) AS prompt,
            sum({table}.tokens_completion) AS completion,
            sum(prompt + completion) OVER (PARTITION BY name) AS tokens_of_period,
            sum({table}.requests) AS requests,
            sum({table}.cost_nanousd) AS nanousd,
            sum({table}.tokens_reasoning) AS tokens_reasoning,
            sum({table}.tokens_cached) AS tokens_cached,
            sum({table}.tool_call_requests) AS tool_call_requests,
            sum({table}.errors) AS errors,
            sum({table}.tokens_unknown) AS tokens_unknown,
            sum({table}.cost_unknown) AS cost_unknown{sum_of_squares}
        FROM {database}.{table}
        WHERE only_is_known AND {during} AND ({condition})
        GROUP BY week, {column:Identifier}
    ),
    placed AS
    (
        SELECT *, dense_rank() OVER (ORDER BY name = 'unknown', tokens_of_period DESC, name) AS place
        FROM sums
    ),
    groups AS
    (
        SELECT
            week,
            multiIf(p.name = 'unknown', 'unknown', p.place <= {top_n:UInt32}, p.name, 'other') AS value,
            sum(p.prompt) AS prompt,
            sum(p.completion) AS completion,
            prompt + completion AS tokens,
            sum(p.requests) AS requests,
            sum(p.nanousd) AS nanousd,
            sum(p.tokens_reasoning) AS tokens_reasoning,
            sum(p.tokens_cached) AS tokens_cached,
            sum(p.tool_call_requests) AS tool_call_requests,
            sum(p.errors) AS errors,
            sum(p.tokens_unknown) AS tokens_unknown,
            sum(p.cost_unknown) AS cost_unknown{sum_of_sums},
            sum(tokens) OVER bucket AS tokens_total,
            sum(requests) OVER bucket AS requests_total,
            sum(nanousd) OVER bucket AS nanousd_total,
            sum(tokens) OVER so_far AS tokens_so_far,
            sum(requests) OVER so_far AS requests_so_far,
            sum(nanousd) OVER so_far AS nanousd_so_far
        FROM placed AS p
        GROUP BY week, value
        WINDOW
            bucket AS (PARTITION BY week),
            so_far AS (PARTITION BY week ORDER BY tokens DESC, value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    ),
{exact_shares},
    (n) -> n * toDecimal64('0.000000001', 9) AS as_usd
SELECT
    week,
    value,
    tokens,
    requests,
    as_usd(nanousd) AS spend_usd,
    shares[1] AS token_share,
    shares[2] AS request_share,
    shares[3] AS spend_share,
    tokens_total,
    requests_total,
    as_usd(nanousd_total) AS spend_total_usd,
    prompt AS tokens_prompt,
    completion AS tokens_completion,
    tokens_reasoning,
    tokens_cached,
    tool_call_requests,
    errors,
    tokens_unknown,
    cost_unknown{squares},
    week < {from_day:Date} OR if({by_week:Bool}, week + 7, {to_day:Date}) > least({to_day:Date}, toDate(now('UTC'))) AS is_partial
FROM groups
ORDER BY week, tokens DESC, value
COMMENT 'What the views of the study are made of: shares by any column of {table}, by week or for a whole period.
Parameters: column: its name. only: {choices_text}. top_n: so many values, the largest by tokens of the period, have rows of their own; the rest is other, and what is not known is unknown. from_day and to_day: dates, UTC, half-open. by_week: true for weeks that begin on Monday, UTC; false for one row per value, whose week is from_day.
Shares are parts of all requests of the week that only lets through, exactly 1 in sum; null where the total is 0. is_partial: the week is not over, or not all of it lies in the period.
Columns: week. value. tokens, requests, spend_usd; token_share, request_share, spend_share; tokens_total, requests_total, spend_total_usd: the denominators. tokens_prompt, tokens_completion, tokens_reasoning, tokens_cached, tool_call_requests, errors, tokens_unknown, cost_unknown{squares}: as in {table}. is_partial.
Example: SELECT * FROM study_{name}(column = ''{example}'', only = '''', top_n = 10, from_day = today() - 28, to_day = today() + 1, by_week = true)';
