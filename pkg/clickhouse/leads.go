package clickhouse

import (
	"time"

	"github.com/google/uuid"

	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
)

// LeadScores writes to lead_score_states.
func (c *Client) LeadScores() States[leadavro.Record] {
	return States[leadavro.Record]{c, "lead_score_states", leadScoreColumns()}
}

// LeadSignals writes to lead_signal_rows. The key of a row is the id of the
// signal. A signal is not removed, so Deleted is not asked.
func (c *Client) LeadSignals() States[leadavro.Signal] {
	return States[leadavro.Signal]{c, "lead_signal_rows", leadSignalColumns()}
}

type (
	leadScore  = State[leadavro.Record]
	leadSignal = State[leadavro.Signal]
)

// leadScoreColumns lists the columns of lead_score_states in its order. Names are
// those of the Avro schema.
func leadScoreColumns() []column[leadScore] {
	standings := func(s *leadScore) []lead.Standing { return s.Value.Standings }
	words := func(name string, get func(*lead.Standing) string) column[leadScore] {
		return arrayOf(name, "LowCardinality(String)", standings,
			func(s *lead.Standing) (string, error) { return get(s), nil })
	}
	columns := []column[leadScore]{
		word("recipient_domain", func(s *leadScore) string { return domainOf(s.Value.Recipient) }),
		text("recipient", func(s *leadScore) string { return s.Value.Recipient }),
		words("profiles.profile", func(s *lead.Standing) string { return s.Profile }),
		arrayOf("profiles.score", "Float64", standings,
			func(s *lead.Standing) (float64, error) { return s.Score, nil }),
		words("profiles.stage", func(s *lead.Standing) string { return s.Stage }),
		maybeInstantsOf("profiles.at", standings, func(s *lead.Standing) time.Time { return s.At }),
		word("rules", func(s *leadScore) string { return s.Value.Rules }),
		instant("updated_at", func(s *leadScore) time.Time {
			if len(s.Value.Contributions) == 0 {
				return time.Time{}
			}
			return s.Value.Contributions[len(s.Value.Contributions)-1].At
		}),
	}
	return append(append(columns, placeColumns[leadavro.Record]()...), deletedColumn[leadavro.Record]())
}

// leadSignalColumns lists the columns of lead_signal_rows in its order. Names are
// those of the Avro schema.
func leadSignalColumns() []column[leadSignal] {
	columns := []column[leadSignal]{
		{"signal_id", "UUID", all(func(s *leadSignal) uuid.UUID { return uuid.UUID(s.Value.ID) })},
		text("recipient", func(s *leadSignal) string { return s.Value.Recipient }),
		word("recipient_domain", func(s *leadSignal) string { return domainOf(s.Value.Recipient) }),
		word("profile", func(s *leadSignal) string { return s.Value.Crossing.Profile }),
		word("stage", func(s *leadSignal) string { return s.Value.Crossing.Stage }),
		word("direction", func(s *leadSignal) string { return leadavro.Direction(s.Value.Crossing.Up) }),
		{"score", "Float64", all(func(s *leadSignal) float64 { return s.Value.Crossing.Score })},
		instant("occurred_at", func(s *leadSignal) time.Time { return s.Value.OccurredAt }),
		{"event_id", "UUID", all(func(s *leadSignal) uuid.UUID { return uuid.UUID(s.Value.EventID) })},
		word("event_type", func(s *leadSignal) string { return string(s.Value.EventType) }),
		word("provider", func(s *leadSignal) string { return s.Value.Provider }),
		word("source", func(s *leadSignal) string { return s.Value.Source }),
		word("campaign_id", func(s *leadSignal) string { return s.Value.CampaignID }),
		text("url", func(s *leadSignal) string { return s.Value.URL }),
	}
	return append(columns, placeColumns[leadavro.Signal]()...)
}
