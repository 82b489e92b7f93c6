-- Every transition of every alert on a share. Written by agents/detect_share_changes.py, one insert
-- per transition under the token of its alert and version; rows are only added.
CREATE TABLE IF NOT EXISTS {database}.share_alerts
(
    alert_id String COMMENT 'Identifier of the alert, 32 hexadecimal digits: the same for all its transitions',
    version UInt32 COMMENT 'Number of the transition within the alert, from 1. (alert_id, version) is unique',
    state LowCardinality(String) COMMENT 'firing; resolved: back within bounds; rebaselined: it stayed, and is the new normal; suppressed: it is on, and another alert explains it',
    kind LowCardinality(String) COMMENT 'share_change, provider_outage, total_drop, total_jump, ingest_lag, new_model or rule',
    dimension LowCardinality(String) COMMENT 'What the traffic is divided by: vendor, model, vendor_region, ... ; empty where all traffic is meant',
    value String COMMENT 'The value of the dimension whose share moved; empty where all traffic is meant',
    direction LowCardinality(String) COMMENT 'up, down or empty',
    rule String COMMENT 'Name of the rule by hand that fired; empty for what was detected',
    since DateTime64(3, 'UTC') COMMENT 'Start of the first five minutes of the change, event time, UTC',
    at DateTime64(3, 'UTC') COMMENT 'End of the five minutes that made this transition, event time, UTC',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When this row was written, UTC, milliseconds',
    share_before Nullable(Float64) COMMENT 'Share of all tokens before the change, 0 to 1; of the measure of a rule',
    share_after Nullable(Float64) COMMENT 'Share of all tokens since the change, 0 to 1; of the measure of a rule',
    share_low Nullable(Float64) COMMENT 'Lower end of the 95 % interval of share_after',
    share_high Nullable(Float64) COMMENT 'Upper end of the 95 % interval of share_after',
    requests_share_before Nullable(Float64) COMMENT 'Share of all requests before the change, 0 to 1',
    requests_share_after Nullable(Float64) COMMENT 'Share of all requests since the change, 0 to 1',
    statistic Nullable(Float64) COMMENT 'What the detector compared with threshold',
    threshold Nullable(Float64) COMMENT 'Where the detector fires',
    suppressed_by String COMMENT 'Identifier of the alert that explains this one; empty unless suppressed',
    parameters_version LowCardinality(String) COMMENT 'Short hash of the parameters',
    parameters String COMMENT 'Parameters of the detector, or the rule, a JSON object' CODEC(ZSTD(3)),
    explanation String COMMENT 'What moved the share, a JSON object as in schemas/share_alert/v1.json; null when not known' CODEC(ZSTD(3)),
    sentence String COMMENT 'The alert in one sentence'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (at, alert_id, version)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)'
COMMENT 'Transitions of alerts on shares. The newest of each alert: view share_alert_states. Example: SELECT at, state, sentence FROM share_alerts WHERE at > now() - INTERVAL 1 DAY ORDER BY at';

-- What the detector has seen: a bin that is listed here never makes a new alert again.
CREATE TABLE IF NOT EXISTS {database}.share_detector_bins
(
    bin_end DateTime('UTC') COMMENT 'End of the five minutes that the detector has judged, event time, UTC',
    observed_at DateTime64(3, 'UTC') COMMENT 'When it did, UTC, milliseconds. Its alerts are in share_alerts before',
    dimensions UInt16 COMMENT 'Dimensions that had a window for these five minutes',
    is_complete Bool COMMENT 'Every window said that it was complete',
    transitions UInt32 COMMENT 'Transitions that the detector returned, those that were known already included',
    parameters_version LowCardinality(String) COMMENT 'Short hash of the parameters'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(bin_end)
ORDER BY bin_end
TTL toDateTime(bin_end) + INTERVAL 400 DAY
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)'
COMMENT 'Five-minute bins that the detector of share changes has judged. Example: SELECT max(bin_end) FROM share_detector_bins';

-- Written by agents/deliver_alerts.py when a receiver has taken a transition.
CREATE TABLE IF NOT EXISTS {database}.share_alert_deliveries
(
    receiver LowCardinality(String) COMMENT 'webhook, topic, or alertmanager with its address',
    alert_id String COMMENT 'Identifier of the alert',
    version UInt32 COMMENT 'Number of the transition within the alert',
    outcome LowCardinality(String) COMMENT 'delivered, or refused: the receiver will not take it, whatever is tried',
    attempts UInt32 COMMENT 'Tries that it took',
    detail String COMMENT 'What the receiver answered when it refused; empty else',
    delivered_at DateTime64(3, 'UTC') COMMENT 'When the receiver had it, UTC, milliseconds'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(delivered_at)
ORDER BY (receiver, delivered_at)
TTL toDateTime(delivered_at) + INTERVAL 400 DAY
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)'
COMMENT 'Which receiver has which transition of an alert. Example: SELECT receiver, count() FROM share_alert_deliveries GROUP BY receiver';
