-- The events, one row each.
--
-- Partitions are months of received_at, not of occurred_at. A batch is
-- consecutive records of Kafka, so it spans one month or two and makes one part
-- or two, however far off its occurred_at are; and a correction by a replay may
-- change occurred_at but never received_at, so it stays in its partition.
--
-- The order serves the usual question (a source, some types, a range of time)
-- and puts a recipient domain's rows of an hour together. Single recipients,
-- messages and campaigns are found by the bloom filters.
--
-- The deduplication window is counted in parts. A range of the loader is
-- repeated under one token after a crash or an insert whose answer was lost;
-- 100,000 parts are more than two hours of six partitions that insert twice a
-- second each, which is far longer than any repeat takes to come.
CREATE TABLE IF NOT EXISTS {{ .Local "events" }} {{ .OnCluster }}
(
    `schema_version`         Int32                           COMMENT 'Version of the canonical record',
    `event_id`               UUID                            COMMENT 'Identity of the event, the same on every delivery and every replay' CODEC(NONE),
    `event_type`             LowCardinality(String)          COMMENT 'What happened: accepted, sent, deferred, delivered, bounced, rejected, failed, autoresponded, opened, clicked, complained, unsubscribed, resubscribed, suppression_changed, account_notice, inbound, test, unknown',
    `provider`               LowCardinality(String)          COMMENT 'Email service provider that reported it',
    `provider_variant`       LowCardinality(String)          COMMENT 'Which of the provider''s formats it came in',
    `source`                 LowCardinality(String)          COMMENT 'Configured name of the endpoint that received it; the tenant boundary',
    `account_id`             LowCardinality(String)          COMMENT 'Account at the provider',
    `subaccount_id`          LowCardinality(String)          COMMENT 'Subaccount, server id or configuration set at the provider',
    `native_event_id`        String                          COMMENT 'The provider''s own id of the event, as received' CODEC(ZSTD(1)),
    `native_event_type`      LowCardinality(String)          COMMENT 'The provider''s own name of the type, as received',
    `is_test`                Bool                            COMMENT 'A dashboard sample or a simulator address; leave out of statistics',
    `is_duplicate_hint`      Bool                            COMMENT 'Second signal of a fact that another event reports; leave out of statistics',
    `revision`               Int32                           COMMENT '0, and one more for each correction by a replay',

    `occurred_at`            DateTime64(6, 'UTC')            COMMENT 'When it happened, by the provider''s clock' CODEC(Delta(8), ZSTD(1)),
    `occurred_at_precision`  LowCardinality(String)          COMMENT 'What the provider sent: s, ms or us',
    `occurred_at_source`     LowCardinality(String)          COMMENT 'provider, or received when the provider''s time was unusable',
    `received_at`            DateTime64(6, 'UTC')            COMMENT 'When the webhook arrived' CODEC(Delta(8), ZSTD(1)),
    `normalized_at`          DateTime64(6, 'UTC')            COMMENT 'When it was made canonical' CODEC(Delta(8), ZSTD(1)),

    `recipient`              String                          COMMENT 'Address as received, without display name; personal data' CODEC(ZSTD(1)),
    `recipient_normalized`   String                          COMMENT 'Address in the form that compares equal; personal data' CODEC(ZSTD(1)),
    `recipient_domain`       LowCardinality(String)          COMMENT 'Domain of the recipient, A-label form',
    `recipient_ambiguous`    Bool                            COMMENT 'The provider does not say which of several recipients it is about',
    `recipient_count`        Int32                           COMMENT 'Recipients of the native event, when more than one is possible; 0 not said',
    `sender`                 LowCardinality(String)          COMMENT 'Address of the sender, without display name',
    `subject`                String                          COMMENT 'Subject of the message' CODEC(ZSTD(1)),
    `provider_message_id`    String                          COMMENT 'The provider''s id of the message' CODEC(ZSTD(1)),
    `smtp_message_id`        String                          COMMENT 'Message-ID header, without angle brackets' CODEC(ZSTD(1)),
    `batch_message_id`       String                          COMMENT 'API call or transmission, shared by its recipients' CODEC(ZSTD(1)),
    `tags`                   Array(String)                   COMMENT 'Tags or categories, in the order received' CODEC(ZSTD(1)),
    `metadata`               Map(String, String)             COMMENT 'Custom arguments; values that are not text as compact JSON' CODEC(ZSTD(1)),
    `campaign_id`            LowCardinality(String)          COMMENT 'Campaign',
    `campaign_name`          LowCardinality(String)          COMMENT 'Name of the campaign',
    `template_id`            LowCardinality(String)          COMMENT 'Template',
    `stream`                 LowCardinality(String)          COMMENT 'Message stream, such as transactional or broadcast',
    `list_id`                LowCardinality(String)          COMMENT 'Mailing list',
    `group_id`               LowCardinality(String)          COMMENT 'Unsubscribe group',
    `scope_kind`             LowCardinality(String)          COMMENT 'What an opt-out or opt-in is about: address, account, subaccount, domain, stream, list, group, topic, tag',
    `scope_id`               LowCardinality(String)          COMMENT 'Which one, of scope_kind',

    `ip_pool`                LowCardinality(String)          COMMENT 'Pool of sending addresses',
    `sending_ip`             LowCardinality(String)          COMMENT 'Address the message was sent from',
    `mx_host`                LowCardinality(String)          COMMENT 'Receiving mail server',
    `mx_ip`                  LowCardinality(String)          COMMENT 'Address of the receiving mail server',
    `smtp_code`              Int32                           COMMENT 'SMTP reply code; 0 unknown',
    `enhanced_code`          LowCardinality(String)          COMMENT 'Enhanced status code of RFC 3463, such as 5.1.1',
    `smtp_response`          String                          COMMENT 'Reply of the receiving server, at most 2 KiB' CODEC(ZSTD(1)),
    `attempt`                Int32                           COMMENT 'Delivery attempt, from 1; 0 unknown',
    `retry_after_s`          Int32                           COMMENT 'Seconds until the next attempt; 0 not said',
    `bounce_kind`            LowCardinality(String)          COMMENT 'hard, soft, block or undetermined; empty when not a bounce',
    `bounce_cause`           LowCardinality(String)          COMMENT 'Why it bounced, such as unknown_recipient or mailbox_full',
    `bounce_is_async`        Bool                            COMMENT 'Reported after the message had been accepted',
    `provider_bounce_class`  LowCardinality(String)          COMMENT 'The provider''s own class, such as ses:Permanent/General',
    `reject_reason`          LowCardinality(String)          COMMENT 'Why the provider did not attempt delivery',
    `provider_suppressed`    Nullable(Bool)                  COMMENT 'Whether the provider now suppresses the address; null when it does not say',

    `complaint_type`         LowCardinality(String)          COMMENT 'Feedback type of RFC 5965, such as abuse',
    `suppression_action`     LowCardinality(String)          COMMENT 'add or remove',
    `suppression_expires_at` Nullable(DateTime64(6, 'UTC'))  COMMENT 'When the provider''s suppression ends; null when it does not say',

    `url`                    String                          COMMENT 'Link that was followed' CODEC(ZSTD(1)),
    `link_name`              LowCardinality(String)          COMMENT 'Name of the link',
    `link_index`             Nullable(Int32)                 COMMENT 'Place of the link in the message, from 0; null when not said',
    `client_ip`              String                          COMMENT 'Address that opened or clicked; personal data' CODEC(ZSTD(1)),
    `user_agent`             String                          COMMENT 'User agent that opened or clicked; personal data' CODEC(ZSTD(1)),
    `device_type`            LowCardinality(String)          COMMENT 'Device, as the provider names it',
    `client_name`            LowCardinality(String)          COMMENT 'Mail client or browser, as the provider names it',
    `os_name`                LowCardinality(String)          COMMENT 'Operating system, as the provider names it',
    `geo_country`            LowCardinality(String)          COMMENT 'Country, ISO 3166-1 alpha-2 where the provider gives it',
    `geo_region`             LowCardinality(String)          COMMENT 'Region, as the provider names it',
    `geo_city`               LowCardinality(String)          COMMENT 'City, as the provider names it',
    `machine`                LowCardinality(String)          COMMENT 'Whether software and not a person opened or clicked: yes, no, unknown; empty for other types',
    `machine_evidence`       Array(String)                   COMMENT 'Why machine is what it is' CODEC(ZSTD(1)),
    `bot_name`               LowCardinality(String)          COMMENT 'Name of the software, when the provider says it',
    `engagement_variant`     LowCardinality(String)          COMMENT 'all, first_only or top_pixel',

    `raw_topic`              LowCardinality(String)          COMMENT 'Topic of the raw record it came from',
    `raw_partition`          Int32                           COMMENT 'Partition of the raw record',
    `raw_offset`             Int64                           COMMENT 'Offset of the raw record' CODEC(Delta(8), ZSTD(1)),
    `raw_event_index`        Int32                           COMMENT 'Element of the request body, from 0',
    `raw_recipient_index`    Int32                           COMMENT 'Recipient of the element, from 0',
    `normalizer_version`     LowCardinality(String)          COMMENT 'Version of the normalizer that wrote it',
    `warnings`               Array(String)                   COMMENT 'What was unusual about it',

    CONSTRAINT event_id_is_set    CHECK event_id != toUUID('00000000-0000-0000-0000-000000000000'),
    CONSTRAINT event_type_is_set  CHECK event_type != '',
    CONSTRAINT occurred_at_is_set CHECK occurred_at >= toDateTime64('2000-01-01 00:00:00', 6, 'UTC'),
    CONSTRAINT received_at_is_set CHECK received_at >= toDateTime64('2000-01-01 00:00:00', 6, 'UTC'),

    INDEX by_event_id            event_id             TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_occurred_at         occurred_at          TYPE minmax             GRANULARITY 1,
    INDEX by_recipient           recipient_normalized TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_provider_message_id provider_message_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_smtp_message_id     smtp_message_id      TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_campaign_id         campaign_id          TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {{ .Engine "MergeTree" }}
PARTITION BY toYYYYMM(received_at)
PRIMARY KEY (source, event_type, toStartOfHour(occurred_at))
ORDER BY (source, event_type, toStartOfHour(occurred_at), recipient_domain, occurred_at, event_id)
SETTINGS {{ .DedupWindow }}, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row for each email event. Columns are the fields of the canonical event.'
