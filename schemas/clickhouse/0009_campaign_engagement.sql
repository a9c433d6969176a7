-- What a campaign did, people apart from machines. "machine" is software that
-- opens or follows links by itself; "unknown" is what nobody could tell.
CREATE VIEW IF NOT EXISTS {{ .Table "campaign_engagement" }} {{ .OnCluster }}
AS SELECT
    source,
    provider,
    campaign_id,
    max(campaign_name) AS campaign_name,
    min(occurred_at) AS first_event_at,
    max(occurred_at) AS last_event_at,
    countIf(event_type = 'delivered') AS delivered,
    countIf(event_type = 'bounced') AS bounced,
    countIf(event_type = 'opened' AND machine = 'no') AS opens_human,
    countIf(event_type = 'opened' AND machine = 'yes') AS opens_machine,
    countIf(event_type = 'opened' AND machine NOT IN ('yes', 'no')) AS opens_unknown,
    countIf(event_type = 'clicked' AND machine = 'no') AS clicks_human,
    countIf(event_type = 'clicked' AND machine = 'yes') AS clicks_machine,
    countIf(event_type = 'clicked' AND machine NOT IN ('yes', 'no')) AS clicks_unknown,
    uniqExactIf(recipient_normalized, event_type = 'delivered') AS recipients_delivered,
    uniqExactIf(recipient_normalized, event_type = 'opened' AND machine != 'yes') AS recipients_opened,
    uniqExactIf(recipient_normalized, event_type = 'clicked' AND machine != 'yes') AS recipients_clicked,
    countIf(event_type = 'unsubscribed') AS unsubscribed,
    countIf(event_type = 'complained') AS complained
FROM {{ .Table "events" }}
WHERE campaign_id != '' AND NOT is_test AND NOT is_duplicate_hint
GROUP BY source, provider, campaign_id
