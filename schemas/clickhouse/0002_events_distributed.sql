-- With a cluster, what analysts and the loader call events is this face of the
-- shards. One recipient's events are on one shard, so a repeated insert sends
-- each shard the same rows under the same token.
{{ if .Cluster }}
CREATE TABLE IF NOT EXISTS {{ .Table "events" }} {{ .OnCluster }}
AS {{ .Local "events" }}
ENGINE = Distributed({{ .ClusterLiteral }}, {{ .DatabaseLiteral }}, 'events_local', cityHash64(recipient_normalized))
{{ end }}
