// Package schemas holds the contracts as files: Avro schemas, ClickHouse
// migrations and the list of topics, embedded into the binary. It reads none of
// them; pkg/avro, pkg/clickhouse and pkg/kafka do.
//
// A released Avro file or migration is never edited: a change is a new file.
package schemas

import "embed"

// EmailEventV1 is version 1 of the canonical event.
//
//go:embed avro/email_event.v1.avsc
var EmailEventV1 string

// SuppressionV1 is version 1 of the state of a suppressed address.
//
//go:embed avro/suppression.v1.avsc
var SuppressionV1 string

// AlertV1 is version 1 of an alert about a sender domain.
//
//go:embed avro/alert.v1.avsc
var AlertV1 string

// LeadScoreV1 is version 1 of where a recipient stands.
//
//go:embed avro/lead_score.v1.avsc
var LeadScoreV1 string

// LeadSignalV1 is version 1 of a threshold that was crossed.
//
//go:embed avro/lead_signal.v1.avsc
var LeadSignalV1 string

// SegmentV1 is version 1 of a change of membership in a segment.
//
//go:embed avro/segment.v1.avsc
var SegmentV1 string

// Topics is topics.yaml.
//
//go:embed topics.yaml
var Topics []byte

// ClickHouse holds the migrations, clickhouse/*.sql.
//
//go:embed clickhouse/*.sql
var ClickHouse embed.FS
