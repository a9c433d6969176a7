-- Looks like events and keeps nothing. The loader inserts parts of a refused
-- batch here to find the rows that ClickHouse refuses, without any effect.
CREATE TABLE IF NOT EXISTS {{ .Table "events_probe" }} {{ .OnCluster }}
AS {{ .Local "events" }}
ENGINE = Null
COMMENT 'Takes what events takes and keeps nothing; used to find rows that are refused'
