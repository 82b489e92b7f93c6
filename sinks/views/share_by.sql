CREATE OR REPLACE VIEW {database}.share_{view} AS
WITH
    throwIf({grain_seconds:UInt32} % {seconds} != 0, 'grain_seconds must be a multiple of {seconds}, or 0 for the whole range') = 0 AS grain_is_whole,
    sums AS
    (
        SELECT
            if({grain_seconds:UInt32} = 0, {from_time:DateTime('UTC')}, toDateTime(intDiv(toUnixTimestamp({time}), greatest({grain_seconds:UInt32}, 1)) * {grain_seconds:UInt32}, 'UTC')) AS bucket_start,
            multiIf(
                {column} = 'unknown', 'unknown',
                {column} IN
                (
                    SELECT {column}
                    FROM {source} AS {table}
                    WHERE {time} >= {from_time:DateTime('UTC')} AND {time} < {to_time:DateTime('UTC')} AND {column} != 'unknown'
                    GROUP BY {column}
                    ORDER BY sum(tokens_prompt + tokens_completion) DESC, {column}
                    LIMIT {top_n:UInt32}
                ), CAST({column}, 'String'),
                'other') AS value,
            sum(tokens_prompt + tokens_completion) AS tokens,
            sum({table}.requests) AS requests,
            sum({table}.cost_nanousd) AS nanousd,
            sum({table}.tokens_unknown) AS tokens_unknown,
            sum({table}.cost_unknown) AS cost_unknown
        FROM {source} AS {table}
        WHERE grain_is_whole AND {time} >= {from_time:DateTime('UTC')} AND {time} < {to_time:DateTime('UTC')}
        GROUP BY bucket_start, value
    ),
    running AS
    (
        SELECT
            *,
            sum(tokens) OVER bucket AS tokens_total,
            sum(requests) OVER bucket AS requests_total,
            sum(nanousd) OVER bucket AS nanousd_total,
            sum(tokens) OVER so_far AS tokens_so_far,
            sum(requests) OVER so_far AS requests_so_far,
            sum(nanousd) OVER so_far AS nanousd_so_far
        FROM sums
        WINDOW
            bucket AS (PARTITION BY bucket_start),
            so_far AS (PARTITION BY bucket_start ORDER BY tokens DESC, value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    ),
{exact_shares},
    (n) -> n * toDecimal64('0.000000001', 9) AS as_usd
SELECT
    bucket_start,
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
    tokens_unknown,
    cost_unknown
FROM running
ORDER BY bucket_start, tokens DESC, value
COMMENT '{what}
Parameters: {parameter}from_time and to_time, UTC, half-open: minutes and hours belong to the range that their start lies in, so neighbouring ranges share none. grain_seconds: length of a bucket, a multiple of {seconds}, aligned to the epoch in UTC; 0 is one bucket for the whole range. top_n: this many values, the largest by tokens over the range, have rows of their own; the rest is other (as is a value of that name), and what is not known is unknown, always a row of its own if it occurs.
bucket_start: start of the bucket, UTC; the first may start before from_time and holds nothing earlier. value: the {name}, other or unknown; no row means no requests. tokens: prompt and completion; unknown tokens add nothing. spend_usd: unknown cost adds nothing. token_share, request_share, spend_share: part of all of the bucket, 0 to 1, exactly 1 in sum; null where the total is 0. tokens_total, requests_total, spend_total_usd: the denominators. tokens_unknown, cost_unknown: requests of the row whose tokens or cost are not known.
Example: SELECT * FROM share_{view}({argument}from_time = now() - {example_seconds}, to_time = now(), grain_seconds = {seconds}, top_n = 10)'
