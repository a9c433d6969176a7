-- As events_probe: finds rows that ClickHouse refuses, without any effect.
CREATE TABLE IF NOT EXISTS {{ .Table "suppression_states_probe" }} {{ .OnCluster }}
AS {{ .Local "suppression_states" }}
ENGINE = Null
COMMENT 'Takes what suppression_states takes and keeps nothing; used to find rows that are refused'
