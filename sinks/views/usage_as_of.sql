CREATE OR REPLACE VIEW {database}.usage_as_of AS
WITH replaced AS
    (
        SELECT *
        FROM {database}.usage_restated
        WHERE restated_at > {as_of:DateTime64(3, 'UTC')}
            AND restatement_id IN (SELECT restatement_id FROM {database}.restatements WHERE state = 'done')
    )
SELECT
    e.occurred_at AS occurred_at, toStartOfMinute(e.occurred_at) AS minute, e.kafka_partition AS kafka_partition, e.kafka_offset AS kafka_offset,
    if(f.is_there, f.model, e.model) AS model,
    if(f.is_there, f.vendor, e.vendor) AS vendor,
    if(f.is_there, f.vendor_country, e.vendor_country) AS vendor_country,
    if(f.is_there, f.license, e.license) AS license,
    if(f.is_there, f.open_weights, e.open_weights) AS open_weights,
    if(f.is_there, f.origin, e.origin) AS origin,
    if(f.is_there, f.size_class, e.size_class) AS size_class,
    if(f.is_there, f.reasoning, e.reasoning) AS reasoning,
    e.provider AS provider, e.app_id AS app_id, e.region AS region, e.category AS category, e.caller_country AS caller_country,
    e.finish_reason AS finish_reason, e.tool_use AS tool_use,
    1 AS requests,
    toUInt64(ifNull(e.tokens_prompt, 0)) AS tokens_prompt,
    toUInt64(ifNull(e.tokens_completion, 0)) AS tokens_completion,
    if(f.is_there, ifNull(f.cost_nanousd, 0), ifNull(e.cost_nanousd, 0)) AS cost_nanousd,
    isNull(e.tokens_prompt) OR isNull(e.tokens_completion) AS tokens_unknown,
    if(f.is_there, isNull(f.cost_nanousd), isNull(e.cost_nanousd)) AS cost_unknown
FROM {database}.usage_events AS e
LEFT JOIN
(
    -- The first version that was replaced after the moment is the one that held at it.
    SELECT *, 1 AS is_there FROM replaced ORDER BY restated_at LIMIT 1 BY kafka_partition, kafka_offset
) AS f ON f.kafka_partition = e.kafka_partition AND f.kafka_offset = e.kafka_offset
WHERE e.ingested_at <= {as_of:DateTime64(3, 'UTC')}
COMMENT 'Requests as they stood at a moment: those stored by then, with what was known of their models then. In the form of a rollup of one request a row: bound occurred_at.
Parameter: as_of: a moment, UTC. Rows that were stored later are left out; versions that restatements have replaced since are taken from usage_restated. Rows that a repair has removed since (stored twice) are not brought back.
Columns: occurred_at, minute, kafka_partition, kafka_offset. model, vendor, vendor_country, license, open_weights, origin, size_class, reasoning, provider, app_id, region, category, caller_country, finish_reason, tool_use. requests (1), tokens_prompt, tokens_completion, cost_nanousd, tokens_unknown, cost_unknown: as in usage_1m.
Example: SELECT vendor, sum(requests) AS requests FROM usage_as_of(as_of = now64(3) - INTERVAL 1 DAY) WHERE occurred_at >= now() - INTERVAL 2 DAY GROUP BY vendor ORDER BY requests DESC';
