-- How long requests are, by day: medians and tails over a year are asked of this, where they took a read
-- of every request. A length is rounded down to its eight leading binary digits, which leaves it as it is
-- below 256 and takes less than 1/128 of it above, so a day has a few thousand lengths at most.
-- Rows of a database that is older come in by: tokentide reconcile --repair
CREATE TABLE IF NOT EXISTS {database}.usage_lengths_1d
(
    day Date COMMENT 'Day in which the requests started, UTC',
    measured LowCardinality(String) COMMENT 'What tokens is the length of: prompt, completion, or both together',
    tokens UInt64 COMMENT 'Length in tokens, rounded down to its eight leading binary digits: exact below 256, less than 0.8 % too short above',
    requests SimpleAggregateFunction(sum, UInt64) COMMENT 'Requests of that length; those with unknown tokens are left out'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (day, measured, tokens)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)',
    min_bytes_for_wide_part = 104857600,
    vertical_merge_algorithm_min_bytes_to_activate = 104857600,
    merge_selector_base = 16,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
COMMENT 'Requests by day of event time and length. A request counts three times: by its prompt, its completion and both. Rows of equal keys are merged in the background: always read with sum() and GROUP BY, never count()';

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.usage_events_to_usage_lengths_1d TO {database}.usage_lengths_1d AS
WITH
    toUInt64(assumeNotNull(e.tokens_prompt)) AS prompt,
    toUInt64(assumeNotNull(e.tokens_completion)) AS completion,
    (n) -> bitShiftRight(toUInt64(pow(2, floor(log2(greatest(n, 1))))), 7) AS step,
    (n) -> n - n % greatest(step(n), 1) AS rounded
SELECT
    toDate(e.occurred_at) AS day,
    tupleElement(length, 1) AS measured,
    tupleElement(length, 2) AS tokens,
    count() AS requests
FROM {database}.usage_events AS e
ARRAY JOIN [('prompt', rounded(prompt)), ('completion', rounded(completion)), ('both', rounded(prompt + completion))] AS length
WHERE isNotNull(e.tokens_prompt) AND isNotNull(e.tokens_completion)
GROUP BY day, measured, tokens
COMMENT 'Fills usage_lengths_1d with the lengths of every block inserted into usage_events';
