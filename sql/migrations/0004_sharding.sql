-- Windows are spread over the shards of a cluster by a hash of their start. By the start itself, a multiple of 60 or 300
-- seconds, all of them went to one shard for 2, 3, 4, 5, 6, 10 or 12 shards. All series of a window still go to one.
-- A window that was written before stays where it is, and so do its later revisions: readers see one revision of it,
-- for FINAL works within a shard. {hashed_from} is the first window placed by the hash, in epoch seconds.

-- cluster
CREATE OR REPLACE TABLE {database}.metrics_1min {on_cluster} AS {database}.metrics_1min_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_1min_local',
    if(toUnixTimestamp(window_start) < {hashed_from}, toUnixTimestamp(window_start), cityHash64(window_start)));

-- cluster
CREATE OR REPLACE TABLE {database}.metrics_5min {on_cluster} AS {database}.metrics_5min_local
ENGINE = Distributed('{cluster}', '{database}', 'metrics_5min_local',
    if(toUnixTimestamp(window_start) < {hashed_from}, toUnixTimestamp(window_start), cityHash64(window_start)));

-- cluster
CREATE OR REPLACE TABLE {database}.web_vitals {on_cluster} AS {database}.web_vitals_local
ENGINE = Distributed('{cluster}', '{database}', 'web_vitals_local',
    if(toUnixTimestamp(window_start) < {hashed_from}, toUnixTimestamp(window_start), cityHash64(window_start)));
