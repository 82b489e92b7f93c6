CREATE OR REPLACE VIEW {database}.share_alert_states
(
    alert_id String COMMENT 'Identifier of the alert',
    version UInt32 COMMENT 'Its newest transition',
    state String COMMENT 'firing, resolved, rebaselined or suppressed',
    kind String COMMENT 'share_change, provider_outage, total_drop, total_jump, ingest_lag, new_model or rule',
    dimension String COMMENT 'What the traffic is divided by; empty where all traffic is meant',
    value String COMMENT 'The value whose share moved',
    direction String COMMENT 'up, down or empty',
    rule String COMMENT 'Name of the rule by hand; empty for what was detected',
    since DateTime64(3, 'UTC') COMMENT 'Start of the change, event time, UTC',
    fired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it first fired, event time, UTC; null when it never did',
    at DateTime64(3, 'UTC') COMMENT 'When its newest transition was, event time, UTC',
    sentence String COMMENT 'The sentence of its newest transition'
)
AS SELECT
    a.alert_id AS alert_id,
    max(a.version) AS version,
    argMax(toString(a.state), a.version) AS state,
    toString(any(a.kind)) AS kind,
    toString(any(a.dimension)) AS dimension,
    any(a.value) AS value,
    toString(any(a.direction)) AS direction,
    any(a.rule) AS rule,
    min(a.since) AS since,
    minOrNullIf(a.at, a.state = 'firing') AS fired_at,
    max(a.at) AS at,
    argMax(a.sentence, a.version) AS sentence
FROM {database}.share_alerts AS a
GROUP BY a.alert_id
ORDER BY at DESC
COMMENT 'Every alert as it is now, newest first. Example: SELECT since, kind, value, sentence FROM share_alert_states WHERE state = ''firing''';
