-- A month of a rollup that has had no new rows for an hour becomes one part: questions over a year open
-- thirteen parts instead of sixty. Months that late events reach are merged again an hour after those,
-- which costs little: these are small tables.
ALTER TABLE {database}.usage_1h MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
ALTER TABLE {database}.usage_1d MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
ALTER TABLE {database}.usage_context_1h MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
ALTER TABLE {database}.usage_sampled_1d MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
ALTER TABLE {database}.usage_located_1d MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
ALTER TABLE {database}.usage_users_1d MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
