{{ if .Cluster }}
CREATE TABLE IF NOT EXISTS {{ .Table "events_hourly" }} {{ .OnCluster }}
AS {{ .Local "events_hourly" }}
ENGINE = Distributed({{ .ClusterLiteral }}, {{ .DatabaseLiteral }}, 'events_hourly_local')
{{ end }}
