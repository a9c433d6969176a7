-- As events_probe: finds rows that ClickHouse refuses, without any effect.
CREATE TABLE IF NOT EXISTS {{ .Table "lead_score_states_probe" }} {{ .OnCluster }}
AS {{ .Local "lead_score_states" }}
ENGINE = Null
COMMENT 'Takes what lead_score_states takes and keeps nothing; used to find rows that are refused'
