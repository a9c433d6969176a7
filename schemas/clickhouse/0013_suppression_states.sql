-- What is known about each address and scope, kept by the loader from the topic
-- of suppressions. A row is a record of that topic; of the rows of a key the one
-- with the highest offset counts, and merges drop the others. All records of a
-- key are in one partition of the topic, so its offsets order them, and a record
-- that is inserted twice, or late, changes nothing. Analysts read suppressions,
-- the view, which leaves out what is superseded and not merged away yet.
--
-- The key is address, scope_kind and scope_id; domain stands before them because
-- it follows from the address and makes neighbours of what is asked for together.
-- There are no partitions: rows of one key must meet in a merge.
--
-- If the topic is ever deleted and made again, its offsets begin at 0: truncate
-- this table then, and reset the group of the loader, mailriver.loader.suppressions.
CREATE TABLE IF NOT EXISTS {{ .Local "suppression_states" }} {{ .OnCluster }}
(
    `domain`            LowCardinality(String)                  COMMENT 'Domain of the address, A-label form',
    `address`           String                                  COMMENT 'Address as in recipient_normalized of events; personal data' CODEC(ZSTD(1)),
    `scope_kind`        LowCardinality(String)                  COMMENT 'What must not be sent: address (all mail), account, subaccount, domain, stream, list, group, topic, tag',
    `scope_id`          LowCardinality(String)                  COMMENT 'Which one, of scope_kind; empty where the kind needs none',
    `address_folded`    String                                  COMMENT 'Address in the form in which spellings are equal; personal data' CODEC(ZSTD(1)),
    `suppressed`        Bool                                    COMMENT 'There is an entry; it may have expired',
    `reason`            LowCardinality(String)                  COMMENT 'Of the strongest entry: complaint, manual, unsubscribe, hard_bounce, invalid_address, provider_list, soft_bounce',
    `since`             Nullable(DateTime64(6, 'UTC'))          COMMENT 'When the strongest entry began; null without one' CODEC(ZSTD(1)),
    `expires_at`        Nullable(DateTime64(6, 'UTC'))          COMMENT 'When it ends; null is never' CODEC(ZSTD(1)),
    `provider`          LowCardinality(String)                  COMMENT 'Provider of the event that began it; mailriver when a person did',
    `source`            LowCardinality(String)                  COMMENT 'Source of that event',
    `event_id`          Nullable(UUID)                          COMMENT 'event_id of that event in events; null when it has none' CODEC(NONE),
    `note`              String                                  COMMENT 'What the person wrote who made it' CODEC(ZSTD(1)),
    `weaker.reason`     Array(LowCardinality(String))           COMMENT 'Further entries for the same address and scope, strongest first: reason',
    `weaker.since`      Array(Nullable(DateTime64(6, 'UTC')))   COMMENT 'Further entries: since' CODEC(ZSTD(1)),
    `weaker.expires_at` Array(Nullable(DateTime64(6, 'UTC')))   COMMENT 'Further entries: expires_at; null is never' CODEC(ZSTD(1)),
    `weaker.provider`   Array(LowCardinality(String))           COMMENT 'Further entries: provider',
    `weaker.source`     Array(LowCardinality(String))           COMMENT 'Further entries: source',
    `weaker.event_id`   Array(Nullable(UUID))                   COMMENT 'Further entries: event_id' CODEC(ZSTD(1)),
    `weaker.note`       Array(String)                           COMMENT 'Further entries: note' CODEC(ZSTD(1)),
    `facts`             UInt32                                  COMMENT 'How many events are known to bear on it',
    `policy`            LowCardinality(String)                  COMMENT 'Fingerprint of the policy that made the entries',
    `updated_at`        DateTime64(6, 'UTC')                    COMMENT 'Time of the newest fact' CODEC(Delta(8), ZSTD(1)),
    `state_partition`   Int32                                   COMMENT 'Partition of the record',
    `state_offset`      UInt64                                  COMMENT 'Offset of the record; the highest of a key counts' CODEC(Delta(8), ZSTD(1)),
    `deleted`           UInt8                                   COMMENT 'The key was removed from the topic',

    CONSTRAINT address_is_set    CHECK address != '',
    CONSTRAINT scope_kind_is_set CHECK scope_kind != '',

    INDEX by_address        address        TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_address_folded address_folded TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {{ .Engine "ReplacingMergeTree" "state_offset" "deleted" }}
ORDER BY (domain, address, scope_kind, scope_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Suppression states, some superseded. Read the view suppressions.'
