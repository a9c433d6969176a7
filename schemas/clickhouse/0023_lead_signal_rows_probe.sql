-- As events_probe: finds rows that ClickHouse refuses, without any effect.
CREATE TABLE IF NOT EXISTS {{ .Table "lead_signal_rows_probe" }} {{ .OnCluster }}
AS {{ .Local "lead_signal_rows" }}
ENGINE = Null
COMMENT 'Takes what lead_signal_rows takes and keeps nothing; used to find rows that are refused'
