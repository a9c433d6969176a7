-- With a cluster, a face of the shards. All rows of a recipient are on one shard,
-- and it is the shard that has the events of that recipient.
{{ if .Cluster }}
CREATE TABLE IF NOT EXISTS {{ .Table "lead_score_states" }} {{ .OnCluster }}
AS {{ .Local "lead_score_states" }}
ENGINE = Distributed({{ .ClusterLiteral }}, {{ .DatabaseLiteral }}, 'lead_score_states_local', cityHash64(recipient))
{{ end }}
