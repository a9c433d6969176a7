-- With a cluster, a face of the shards. All rows of a key are on one shard, and
-- it is the shard that has the events of that address.
{{ if .Cluster }}
CREATE TABLE IF NOT EXISTS {{ .Table "suppression_states" }} {{ .OnCluster }}
AS {{ .Local "suppression_states" }}
ENGINE = Distributed({{ .ClusterLiteral }}, {{ .DatabaseLiteral }}, 'suppression_states_local', cityHash64(address))
{{ end }}
