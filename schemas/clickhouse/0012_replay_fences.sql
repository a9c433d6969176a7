-- Fences: while one is set and not expired, the loader begins no insert, and a
-- replay may swap a partition. Rows are only ever added: a later one renews or
-- releases the fence of its token. Times are those of this server, so clocks of
-- other machines do not matter.
CREATE TABLE IF NOT EXISTS {{ .Table "replay_fences" }} {{ .OnCluster }}
(
    `token`      String                  COMMENT 'Names the fence and the shadow tables that its holder swaps in',
    `holder`     String                  COMMENT 'Who set it, for people',
    `set_at`     DateTime64(6, 'UTC')    COMMENT 'When this row was written',
    `expires_at` DateTime64(6, 'UTC')    COMMENT 'Until when the fence stands unless it is renewed',
    `released`   Bool                    COMMENT 'The holder is done, or the fence was broken after it expired'
)
ENGINE = {{ .Engine "MergeTree" }}
ORDER BY token
TTL toDateTime(expires_at) + INTERVAL 7 DAY
COMMENT 'While a fence stands, the loader waits and a replay swaps partitions'
