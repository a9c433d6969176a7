-- How mail arrives: by day, source, provider, stream and recipient domain.
-- Counts add up over rows; a rate of several rows is the rate of their sums.
CREATE VIEW IF NOT EXISTS {{ .Table "deliverability_daily" }} {{ .OnCluster }}
AS SELECT
    toDate(hour, 'UTC') AS day,
    source,
    provider,
    stream,
    recipient_domain,
    sumIf(events, event_type = 'accepted') AS accepted,
    sumIf(events, event_type = 'sent') AS sent,
    sumIf(events, event_type = 'deferred') AS deferred,
    sumIf(events, event_type = 'delivered') AS delivered,
    sumIf(events, event_type = 'bounced') AS bounced,
    sumIf(events, event_type = 'bounced' AND bounce_kind = 'hard') AS bounced_hard,
    sumIf(events, event_type = 'bounced' AND bounce_kind = 'soft') AS bounced_soft,
    sumIf(events, event_type = 'bounced' AND bounce_kind = 'block') AS bounced_block,
    sumIf(events, event_type = 'rejected') AS rejected,
    sumIf(events, event_type = 'failed') AS failed,
    sumIf(events, event_type = 'complained') AS complained,
    sumIf(events, event_type = 'unsubscribed') AS unsubscribed,
    if(delivered + bounced = 0, NULL, delivered / (delivered + bounced)) AS delivery_rate,
    if(delivered + bounced = 0, NULL, bounced / (delivered + bounced)) AS bounce_rate
FROM {{ .Table "events_hourly" }}
WHERE NOT is_test AND NOT is_duplicate_hint
GROUP BY day, source, provider, stream, recipient_domain
