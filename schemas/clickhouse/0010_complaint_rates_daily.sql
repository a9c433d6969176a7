-- Complaints against deliveries: by day, source, provider and recipient domain.
-- Complaints come days after the delivery, so read a week or more together.
CREATE VIEW IF NOT EXISTS {{ .Table "complaint_rates_daily" }} {{ .OnCluster }}
AS SELECT
    toDate(hour, 'UTC') AS day,
    source,
    provider,
    recipient_domain,
    sumIf(events, event_type = 'delivered') AS delivered,
    sumIf(events, event_type = 'complained') AS complained,
    if(delivered = 0, NULL, complained / delivered) AS complaint_rate
FROM {{ .Table "events_hourly" }}
WHERE event_type IN ('delivered', 'complained') AND NOT is_test AND NOT is_duplicate_hint
GROUP BY day, source, provider, recipient_domain
