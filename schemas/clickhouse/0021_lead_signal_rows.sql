-- Stages that recipients entered or left, kept by the loader from the topic of
-- lead signals. A row is a record of that topic. A signal is told once, and all
-- records of a recipient are in one partition; the loader may insert one twice,
-- and of the rows of a signal_id the one with the highest offset counts. Analysts
-- read lead_signals, the view.
--
-- What stands before signal_id in the key is what the id is computed from, so it
-- is the same in every row of an id. There are no partitions: rows of one key
-- must meet in a merge, and occurred_at is not part of the id.
--
-- Unlike those of events, a signal is never corrected: whoever acts on signals
-- acted then.
CREATE TABLE IF NOT EXISTS {{ .Local "lead_signal_rows" }} {{ .OnCluster }}
(
    `signal_id`        UUID                   COMMENT 'Computed from recipient, profile, stage, direction and event' CODEC(NONE),
    `recipient`        String                 COMMENT 'Address as in recipient_normalized of events; personal data' CODEC(ZSTD(1)),
    `recipient_domain` LowCardinality(String) COMMENT 'Domain of the recipient, A-label form',
    `profile`          LowCardinality(String) COMMENT 'Name of the profile',
    `stage`            LowCardinality(String) COMMENT 'The stage that was entered or left',
    `direction`        LowCardinality(String) COMMENT 'up when it was entered, down when it was left',
    `score`            Float64                COMMENT 'Score behind the event' CODEC(ZSTD(1)),
    `occurred_at`      DateTime64(6, 'UTC')   COMMENT 'When the event happened' CODEC(Delta(8), ZSTD(1)),
    `event_id`         UUID                   COMMENT 'event_id in events of the event that did it' CODEC(NONE),
    `event_type`       LowCardinality(String) COMMENT 'Type of that event',
    `provider`         LowCardinality(String) COMMENT 'Provider of that event',
    `source`           LowCardinality(String) COMMENT 'Source of that event',
    `campaign_id`      LowCardinality(String) COMMENT 'Campaign of that event',
    `url`              String                 COMMENT 'Link that was clicked' CODEC(ZSTD(1)),
    `state_partition`  Int32                  COMMENT 'Partition of the record',
    `state_offset`     UInt64                 COMMENT 'Offset of the record; the highest of a key counts' CODEC(Delta(8), ZSTD(1)),

    CONSTRAINT signal_id_is_set CHECK signal_id != toUUID('00000000-0000-0000-0000-000000000000'),
    CONSTRAINT recipient_is_set CHECK recipient != '',
    CONSTRAINT event_id_is_set  CHECK event_id != toUUID('00000000-0000-0000-0000-000000000000'),

    INDEX by_recipient   recipient   TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_campaign_id campaign_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {{ .Engine "ReplacingMergeTree" "state_offset" }}
ORDER BY (profile, stage, direction, recipient_domain, recipient, signal_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Signals of leads, some twice. Read the view lead_signals.'
