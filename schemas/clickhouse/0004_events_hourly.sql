-- Counts by hour. Partitions are the months of received_at, as in events, so
-- that both can be replaced for the same month together, and one insert makes
-- as few parts here as there.
CREATE TABLE IF NOT EXISTS {{ .Local "events_hourly" }} {{ .OnCluster }}
(
    `received_month`    UInt32                 COMMENT 'Month of received_at as yyyymm, the partition',
    `hour`              DateTime('UTC')        COMMENT 'Hour of occurred_at',
    `source`            LowCardinality(String) COMMENT 'As in events',
    `provider`          LowCardinality(String) COMMENT 'As in events',
    `event_type`        LowCardinality(String) COMMENT 'As in events',
    `bounce_kind`       LowCardinality(String) COMMENT 'As in events',
    `bounce_cause`      LowCardinality(String) COMMENT 'As in events',
    `recipient_domain`  LowCardinality(String) COMMENT 'As in events',
    `stream`            LowCardinality(String) COMMENT 'As in events',
    `machine`           LowCardinality(String) COMMENT 'As in events',
    `is_test`           Bool                   COMMENT 'As in events',
    `is_duplicate_hint` Bool                   COMMENT 'As in events',
    `events`            UInt64                 COMMENT 'How many; sum it, parts that are not merged yet hold several rows of one key'
)
ENGINE = {{ .Engine "SummingMergeTree" "events" }}
PARTITION BY received_month
ORDER BY (source, event_type, hour, provider, recipient_domain, bounce_kind, bounce_cause, stream, machine, is_test, is_duplicate_hint)
SETTINGS {{ .DedupWindow }}, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Events by hour. Always sum(events), never count().'
