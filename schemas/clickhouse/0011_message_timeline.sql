-- The life of a message or of a recipient. Ask with
-- WHERE provider_message_id = ..., smtp_message_id = ... or
-- recipient_normalized = ... (each has an index) and ORDER BY occurred_at.
-- The view does not order by itself: ClickHouse 26.5 fails to push the filter of
-- a scalar subquery through an ordered view.
CREATE VIEW IF NOT EXISTS {{ .Table "message_timeline" }} {{ .OnCluster }}
AS SELECT
    provider_message_id,
    smtp_message_id,
    recipient_normalized,
    occurred_at,
    event_type,
    source,
    provider,
    sender,
    subject,
    campaign_id,
    attempt,
    smtp_code,
    enhanced_code,
    smtp_response,
    bounce_kind,
    bounce_cause,
    reject_reason,
    complaint_type,
    url,
    machine,
    is_test,
    is_duplicate_hint,
    received_at,
    event_id
FROM {{ .Table "events" }}
