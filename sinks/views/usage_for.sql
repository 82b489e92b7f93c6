CREATE OR REPLACE VIEW {database}.usage_for AS
SELECT minute AS time, model, vendor, vendor_country, license, open_weights, origin, size_class, reasoning, provider,
    requests, tokens_prompt, tokens_completion, cost_nanousd, tokens_unknown, cost_unknown
FROM {database}.usage_1m
WHERE minute >= {from_time:DateTime('UTC')} AND minute < {to_time:DateTime('UTC')}
    AND NOT ({grain_seconds:UInt32} % 3600 = 0 AND toUnixTimestamp({from_time:DateTime('UTC')}) % 3600 = 0 AND toUnixTimestamp({to_time:DateTime('UTC')}) % 3600 = 0)
UNION ALL
SELECT hour, model, vendor, vendor_country, license, open_weights, origin, size_class, reasoning, provider,
    requests, tokens_prompt, tokens_completion, cost_nanousd, tokens_unknown, cost_unknown
FROM {database}.usage_1h
WHERE hour >= {from_time:DateTime('UTC')} AND hour < {to_time:DateTime('UTC')}
    AND {grain_seconds:UInt32} % 3600 = 0 AND toUnixTimestamp({from_time:DateTime('UTC')}) % 3600 = 0 AND toUnixTimestamp({to_time:DateTime('UTC')}) % 3600 = 0
    AND NOT ({grain_seconds:UInt32} % 86400 = 0 AND toUnixTimestamp({from_time:DateTime('UTC')}) % 86400 = 0 AND toUnixTimestamp({to_time:DateTime('UTC')}) % 86400 = 0)
UNION ALL
SELECT toDateTime(day, 'UTC'), model, vendor, vendor_country, license, open_weights, origin, size_class, reasoning, provider,
    requests, tokens_prompt, tokens_completion, cost_nanousd, tokens_unknown, cost_unknown
FROM {database}.usage_1d
WHERE day >= toDate({from_time:DateTime('UTC')}) AND day < toDate({to_time:DateTime('UTC')})
    AND {grain_seconds:UInt32} % 86400 = 0 AND toUnixTimestamp({from_time:DateTime('UTC')}) % 86400 = 0 AND toUnixTimestamp({to_time:DateTime('UTC')}) % 86400 = 0
COMMENT 'Requests of a range from the coarsest rollup that answers for it: usage_1d if grain, start and end are whole days (UTC), usage_1h if they are whole hours, else usage_1m. The others are not read. What the share_by views of model attributes are made of.
Parameters: from_time and to_time, UTC, half-open. grain_seconds: of the buckets that are asked for; 0 is one for the whole range.
Columns: time: start of the minute, hour or day. model, vendor, vendor_country, license, open_weights, origin, size_class, reasoning, provider, requests, tokens_prompt, tokens_completion, cost_nanousd, tokens_unknown, cost_unknown: as in usage_1m; several rows may have equal keys.
Example: SELECT vendor, sum(requests) AS requests FROM usage_for(from_time = toStartOfDay(now(), ''UTC''), to_time = toStartOfDay(now(), ''UTC'') + 86400, grain_seconds = 86400) GROUP BY vendor ORDER BY requests DESC';
