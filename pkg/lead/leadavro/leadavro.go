// Package leadavro turns the state of a lead and its signals into Avro and back:
// the tables between package lead and its schemas.
//
// How records are coded is the business of package avro.
package leadavro

import (
	"time"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/lead"
	"mailriver/schemas"
)

// Record is the value of a record of the lead scores topic.
type Record struct {
	lead.State
	Standings []lead.Standing // for readers without the profiles
	Rules     string          // fingerprint of the profiles that made them

	broken error // why the state could not be read
}

// Signal is the value of a record of the lead signals topic.
type Signal struct {
	ID         event.ID
	Recipient  string
	Crossing   lead.Crossing
	OccurredAt time.Time
	EventID    event.ID
	EventType  event.Type
	Provider   string
	Source     string
	CampaignID string
	URL        string
}

type (
	// Encoder writes scores.
	Encoder = avro.Encoder[Record]
	// Decoder reads scores.
	Decoder = avro.Decoder[Record]
	// SignalEncoder writes signals.
	SignalEncoder = avro.Encoder[Signal]
	// SignalDecoder reads signals.
	SignalDecoder = avro.Decoder[Signal]
)

// NewSignal returns the signal of a crossing by an event. Its id is the same
// whenever it is made.
func NewSignal(e *event.Event, c lead.Crossing) Signal {
	return Signal{
		ID: event.NewID("lead", c.Profile, e.RecipientNormalized, c.Stage, Direction(c.Up), e.ID.String()), Recipient: e.RecipientNormalized,
		Crossing: c, OccurredAt: e.OccurredAt, EventID: e.ID, EventType: e.Type, Provider: e.Provider, Source: e.Source,
		CampaignID: e.CampaignID, URL: e.URL,
	}
}

// NewEncoder returns the encoder for this build's schema of a score and its
// registered id.
func NewEncoder(id int) (*Encoder, error) {
	return avro.NewEncoder(schemas.LeadScoreV1, id, fields())
}

// NewDecoder returns the decoder of scores.
func NewDecoder(registry avro.Schemas) *Decoder {
	return avro.NewDecoder(registry, fields(), check)
}

// NewHeadDecoder returns a decoder that leaves the contributions and deliveries
// out, for whoever wants the standings of many.
func NewHeadDecoder(registry avro.Schemas) *Decoder {
	head := fields()
	for _, name := range []string{"updated_at", "state"} {
		delete(head, name)
	}
	return avro.NewDecoder(registry, head, check).Partial()
}

func check(r *Record) error {
	if r.Recipient == "" {
		return fault.Permanentf(fault.BadAvro, "recipient is missing")
	}
	if r.broken != nil {
		return fault.Permanentf(fault.BadAvro, "state: %w", r.broken)
	}
	return nil
}

// NewSignalEncoder returns the encoder for this build's schema of a signal and
// its registered id.
func NewSignalEncoder(id int) (*SignalEncoder, error) {
	return avro.NewEncoder(schemas.LeadSignalV1, id, signalFields())
}

// NewSignalDecoder returns the decoder of signals.
func NewSignalDecoder(registry avro.Schemas) *SignalDecoder {
	return avro.NewDecoder(registry, signalFields(), func(s *Signal) error {
		if s.ID.IsZero() {
			return fault.Permanentf(fault.BadAvro, "signal_id is missing or no UUID")
		}
		return nil
	})
}

func fields() avro.Fields[Record] {
	return avro.Fields[Record]{
		"recipient": avro.Text(func(r *Record) *string { return &r.Recipient }),
		"updated_at": {
			Get: func(r *Record) any {
				if len(r.Contributions) == 0 {
					return int64(0)
				}
				return r.Contributions[len(r.Contributions)-1].At.UnixMicro()
			},
			Set: func(*Record, any) {},
		},
		"profiles": avro.Records(func(r *Record) *[]lead.Standing { return &r.Standings }, avro.Fields[lead.Standing]{
			"profile": avro.Text(func(s *lead.Standing) *string { return &s.Profile }),
			"score":   avro.Double(func(s *lead.Standing) *float64 { return &s.Score }),
			"stage":   avro.Text(func(s *lead.Standing) *string { return &s.Stage }),
			"at":      avro.ZeroableInstant(func(s *lead.Standing) *time.Time { return &s.At }),
		}),
		"rules": avro.Text(func(r *Record) *string { return &r.Rules }),
		"state": {
			Get: func(r *Record) any { return pack(&r.State) },
			Set: func(r *Record, v any) {
				if data, ok := v.([]byte); ok {
					r.broken = unpack(data, &r.State)
				}
			},
		},
	}
}

func signalFields() avro.Fields[Signal] {
	return avro.Fields[Signal]{
		"signal_id": id(func(s *Signal) *event.ID { return &s.ID }),
		"recipient": avro.Text(func(s *Signal) *string { return &s.Recipient }),
		"profile":   avro.Text(func(s *Signal) *string { return &s.Crossing.Profile }),
		"stage":     avro.Text(func(s *Signal) *string { return &s.Crossing.Stage }),
		"direction": {
			Get: func(s *Signal) any { return Direction(s.Crossing.Up) },
			Set: func(s *Signal, v any) { s.Crossing.Up = v == Direction(true) },
		},
		"score":       avro.Double(func(s *Signal) *float64 { return &s.Crossing.Score }),
		"occurred_at": avro.Instant(func(s *Signal) *time.Time { return &s.OccurredAt }),
		"event_id":    id(func(s *Signal) *event.ID { return &s.EventID }),
		"event_type":  avro.Text(func(s *Signal) *string { return (*string)(&s.EventType) }),
		"provider":    avro.Text(func(s *Signal) *string { return &s.Provider }),
		"source":      avro.Text(func(s *Signal) *string { return &s.Source }),
		"campaign_id": avro.Text(func(s *Signal) *string { return &s.CampaignID }),
		"url":         avro.Text(func(s *Signal) *string { return &s.URL }),
	}
}

// Direction is the word for a crossing's direction.
func Direction(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// id is a UUID as text.
func id[T any](at func(*T) *event.ID) avro.Field[T] {
	return avro.Field[T]{
		Get: func(r *T) any { return at(r).String() },
		Set: func(r *T, v any) {
			if s, ok := v.(string); ok {
				*at(r), _ = event.ParseID(s) // a writer of ours never writes another form
			}
		},
	}
}
