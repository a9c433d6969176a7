-- A row for each recipient and profile, of the newest record of the recipient.
-- FINAL stands here so that no query needs it. Score and stage are as of at: to
-- fade them until now takes the half-life and the thresholds of the profile,
-- which are configuration and in no record.
CREATE VIEW IF NOT EXISTS {{ .Table "lead_scores" }} {{ .OnCluster }}
AS SELECT
    recipient,
    recipient_domain,
    profile,
    score,
    stage,
    at,
    updated_at,
    rules
FROM {{ .Table "lead_score_states" }} FINAL
ARRAY JOIN
    `profiles.profile` AS profile,
    `profiles.score`   AS score,
    `profiles.stage`   AS stage,
    `profiles.at`      AS at
