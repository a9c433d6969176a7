-- Fills events_hourly from every insert into events. The insert's token covers
-- both, so a repeated insert counts once.
CREATE MATERIALIZED VIEW IF NOT EXISTS {{ .Table "events_hourly_mv" }} {{ .OnCluster }}
TO {{ .Local "events_hourly" }}
AS SELECT
    toYYYYMM(received_at) AS received_month,
    toStartOfHour(occurred_at) AS hour,
    source, provider, event_type, bounce_kind, bounce_cause, recipient_domain, stream, machine,
    is_test, is_duplicate_hint,
    count() AS events
FROM {{ .Local "events" }}
GROUP BY
    received_month, hour, source, provider, event_type, bounce_kind, bounce_cause, recipient_domain, stream, machine,
    is_test, is_duplicate_hint
