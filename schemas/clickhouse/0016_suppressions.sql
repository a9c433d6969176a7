-- The suppression list as of now: a row for each address and scope. FINAL stands
-- here so that no query needs it. It merges by the key while reading, in little
-- memory, and skips what is merged already; the newest row by argMax would hold
-- every key in a hash table.
CREATE VIEW IF NOT EXISTS {{ .Table "suppressions" }} {{ .OnCluster }}
AS SELECT
    address,
    address_folded,
    domain,
    scope_kind,
    scope_id,
    suppressed,
    suppressed AND (
        expires_at IS NULL OR expires_at > now64(6, 'UTC')
        OR arrayExists(ends -> ends IS NULL OR ends > now64(6, 'UTC'), `weaker.expires_at`)
    ) AS in_force,
    reason,
    since,
    expires_at,
    provider,
    source,
    event_id,
    note,
    `weaker.reason`,
    `weaker.since`,
    `weaker.expires_at`,
    `weaker.provider`,
    `weaker.source`,
    `weaker.event_id`,
    `weaker.note`,
    facts,
    policy,
    updated_at
FROM {{ .Table "suppression_states" }} FINAL
