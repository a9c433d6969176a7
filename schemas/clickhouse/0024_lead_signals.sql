-- A row for each signal. FINAL stands here so that no query needs it.
CREATE VIEW IF NOT EXISTS {{ .Table "lead_signals" }} {{ .OnCluster }}
AS SELECT
    signal_id,
    recipient,
    recipient_domain,
    profile,
    stage,
    direction,
    score,
    occurred_at,
    event_id,
    event_type,
    provider,
    source,
    campaign_id,
    url
FROM {{ .Table "lead_signal_rows" }} FINAL
