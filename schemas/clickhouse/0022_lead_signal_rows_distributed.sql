-- With a cluster, a face of the shards. A recipient's signals are on the shard
-- that has its events and its scores.
{{ if .Cluster }}
CREATE TABLE IF NOT EXISTS {{ .Table "lead_signal_rows" }} {{ .OnCluster }}
AS {{ .Local "lead_signal_rows" }}
ENGINE = Distributed({{ .ClusterLiteral }}, {{ .DatabaseLiteral }}, 'lead_signal_rows_local', cityHash64(recipient))
{{ end }}
