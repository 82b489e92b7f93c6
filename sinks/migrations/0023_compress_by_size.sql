-- Compression is the server's, by the size of a part (deploy/clickhouse/compression.xml): ZSTD from 100 MiB,
-- LZ4 below, where a part is soon merged. An insert of 70,000 rows costs 0.93 of what it did. As a
-- setting of the tables it ruled over the server's, whatever the size.
ALTER TABLE {database}.usage_events RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_1m RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_1h RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_1d RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_context_1h RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_duplicates RESET SETTING default_compression_codec;
ALTER TABLE {database}.dead_letter_redrives RESET SETTING default_compression_codec;
ALTER TABLE {database}.reconcile_differences RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_window_revisions RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_panes_1h RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_alerts RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_detector_bins RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_alert_deliveries RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_alert_labels RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_panes_5m RESET SETTING default_compression_codec;
ALTER TABLE {database}.share_panes_10s RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_sampled_1d RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_located_1d RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_users_1d RESET SETTING default_compression_codec;
ALTER TABLE {database}.restatements RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_restated RESET SETTING default_compression_codec;
ALTER TABLE {database}.usage_lengths_1d RESET SETTING default_compression_codec
