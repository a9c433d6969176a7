-- Why mail bounces: by day, source, provider, recipient domain and reason, with
-- one of the replies as an example.
CREATE VIEW IF NOT EXISTS {{ .Table "bounce_reasons_daily" }} {{ .OnCluster }}
AS SELECT
    toDate(occurred_at, 'UTC') AS day,
    source,
    provider,
    recipient_domain,
    bounce_kind,
    bounce_cause,
    enhanced_code,
    provider_bounce_class,
    count() AS bounces,
    uniqExact(recipient_normalized) AS recipients,
    any(smtp_response) AS example_response
FROM {{ .Table "events" }}
WHERE event_type = 'bounced' AND NOT is_test AND NOT is_duplicate_hint
GROUP BY day, source, provider, recipient_domain, bounce_kind, bounce_cause, enhanced_code, provider_bounce_class
