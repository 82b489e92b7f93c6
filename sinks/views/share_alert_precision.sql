CREATE OR REPLACE VIEW {database}.share_alert_precision
(
    kind String COMMENT 'share_change, provider_outage, total_drop, total_jump, ingest_lag, new_model or rule',
    dimension String COMMENT 'What the traffic is divided by; empty where all traffic is meant',
    parameters_version String COMMENT 'Short hash of the parameters that the alerts fired with',
    alerts UInt64 COMMENT 'Alerts that fired',
    labelled UInt64 COMMENT 'Those of them with a verdict',
    true_alerts UInt64 COMMENT 'Those whose newest verdict is true',
    false_alerts UInt64 COMMENT 'Those whose newest verdict is false',
    precision Nullable(Float64) COMMENT 'true_alerts / labelled, 0 to 1; null without verdicts',
    precision_low Nullable(Float64) COMMENT 'Lower end of its 95 % interval (Wilson)',
    precision_high Nullable(Float64) COMMENT 'Upper end of its 95 % interval (Wilson)'
)
AS WITH
    fired AS
    (
        SELECT
            a.alert_id AS alert_id,
            toString(any(a.kind)) AS kind,
            toString(any(a.dimension)) AS dimension,
            toString(argMin(a.parameters_version, a.version)) AS parameters_version
        FROM {database}.share_alerts AS a
        WHERE a.state = 'firing'
        GROUP BY a.alert_id
    ),
    verdicts AS
    (
        SELECT alert_id, argMax(verdict, labelled_at) AS is_true, 1 AS is_labelled
        FROM {database}.share_alert_labels
        GROUP BY alert_id
    ),
    counted AS
    (
        SELECT
            f.kind AS kind,
            f.dimension AS dimension,
            f.parameters_version AS parameters_version,
            count() AS alerts,
            countIf(v.is_labelled = 1) AS labelled,
            countIf(v.is_labelled = 1 AND v.is_true) AS true_alerts
        FROM fired AS f
        LEFT JOIN verdicts AS v ON v.alert_id = f.alert_id
        GROUP BY kind, dimension, parameters_version
    )
SELECT
    kind,
    dimension,
    parameters_version,
    alerts,
    labelled,
    true_alerts,
    labelled - true_alerts AS false_alerts,
    if(labelled = 0, NULL, true_alerts / labelled) AS precision,
    if(labelled = 0, NULL, (true_alerts + 1.9207 - 1.96 * sqrt(true_alerts * (labelled - true_alerts) / labelled + 0.9604)) / (labelled + 3.8416)) AS precision_low,
    if(labelled = 0, NULL, (true_alerts + 1.9207 + 1.96 * sqrt(true_alerts * (labelled - true_alerts) / labelled + 0.9604)) / (labelled + 3.8416)) AS precision_high
FROM counted
ORDER BY kind, dimension, parameters_version
COMMENT 'How many alerts were right, by the verdicts of tokentide alerts label. Example: SELECT kind, sum(true_alerts) / sum(labelled) AS precision FROM share_alert_precision GROUP BY kind';
