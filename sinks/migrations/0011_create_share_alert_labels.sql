-- What people say of alerts: written by `tokentide alerts label`. Rows are only added; the newest of
-- an alert counts.
CREATE TABLE IF NOT EXISTS {database}.share_alert_labels
(
    alert_id String COMMENT 'Identifier of the alert',
    verdict Bool COMMENT 'true: something real had changed; false: a false alarm',
    note String COMMENT 'Why, in words; may be empty',
    labelled_by String COMMENT 'Name of the account that gave the verdict on its machine; may be empty',
    labelled_at DateTime64(3, 'UTC') COMMENT 'When, UTC, milliseconds'
)
ENGINE = MergeTree
ORDER BY (alert_id, labelled_at)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    default_compression_codec = 'ZSTD(1)'
COMMENT 'Verdicts on alerts. Precision from them: view share_alert_precision. Example: SELECT * FROM share_alert_labels ORDER BY labelled_at DESC LIMIT 20';
