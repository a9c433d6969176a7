-- Where each recipient stands in every profile, kept by the loader from the
-- topic of lead scores. A row is a record of that topic, with the standings in
-- arrays of one length; of the rows of a recipient the one with the highest
-- offset counts, as in suppression_states. Because a row holds all profiles, one
-- that a newer record lacks goes with the row that had it: rows of their own, by
-- recipient and profile, would stay behind. Analysts read lead_scores, the view.
--
-- The key is the recipient; recipient_domain stands before it because it follows
-- from it. There are no partitions: rows of one key must meet in a merge.
--
-- The events that make a score are not here: they are in events, and the record
-- keeps them in a form of its own. Nor is the half-life, which no record has.
--
-- If the topic is ever deleted and made again, its offsets begin at 0: truncate
-- this table then, and reset the group of the loader, mailriver.loader.lead_scores.
CREATE TABLE IF NOT EXISTS {{ .Local "lead_score_states" }} {{ .OnCluster }}
(
    `recipient_domain` LowCardinality(String)                COMMENT 'Domain of the recipient, A-label form',
    `recipient`        String                                COMMENT 'Address as in recipient_normalized of events; personal data' CODEC(ZSTD(1)),
    `profiles.profile` Array(LowCardinality(String))         COMMENT 'Standings, in the order of the configuration: name of the profile',
    `profiles.score`   Array(Float64)                        COMMENT 'Standings: score, as of at' CODEC(ZSTD(1)),
    `profiles.stage`   Array(LowCardinality(String))         COMMENT 'Standings: name of the stage, as of at; empty below the lowest',
    `profiles.at`      Array(Nullable(DateTime64(6, 'UTC'))) COMMENT 'Standings: time of the newest event of the profile; null when none counts' CODEC(ZSTD(1)),
    `rules`            LowCardinality(String)                COMMENT 'Fingerprint of the profiles that made the standings',
    `updated_at`       DateTime64(6, 'UTC')                  COMMENT 'Time of the newest event that counts, of all profiles' CODEC(Delta(8), ZSTD(1)),
    `state_partition`  Int32                                 COMMENT 'Partition of the record',
    `state_offset`     UInt64                                COMMENT 'Offset of the record; the highest of a key counts' CODEC(Delta(8), ZSTD(1)),
    `deleted`          UInt8                                 COMMENT 'The key was removed from the topic',

    CONSTRAINT recipient_is_set CHECK recipient != '',

    INDEX by_recipient recipient TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {{ .Engine "ReplacingMergeTree" "state_offset" "deleted" }}
ORDER BY (recipient_domain, recipient)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'States of leads, some superseded. Read the view lead_scores.'
