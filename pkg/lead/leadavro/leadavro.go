// Package leadavro turns the state of a lead, its signals and its changes of
// segments into Avro and back: the tables between package lead and its schemas.
//
// How records are coded is the business of package avro.
package leadavro

import (
	"strconv"
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
	Segments  []lead.Membership

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

// Reasons of a [Change].
const (
	BecauseEvent = "event"
	BecauseTime  = "time" // it would be so without the event
)

// Change is the value of a record of the segments topic.
type Change struct {
	ID        event.ID
	Recipient string
	Segment   string
	Entered   bool // false is left
	At        time.Time
	Because   string
	EventID   event.ID // at which it was found
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
	// ChangeEncoder writes changes of segments.
	ChangeEncoder = avro.Encoder[Change]
	// ChangeDecoder reads changes of segments.
	ChangeDecoder = avro.Decoder[Change]
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

// NewChange gives a change its id, which is computed from the others of its
// values but the reason. An event alone would not do: one that is corrected can
// be where the same is found again.
func NewChange(c Change) Change {
	c.ID = event.NewID("segment", c.Segment, c.Recipient, Move(c.Entered), c.EventID.String(), strconv.FormatInt(c.At.UnixMicro(), 10))
	return c
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

// NewHeadDecoder returns a decoder that leaves the contributions deliveries
// and segments out, for whoever wants the standings of many.
func NewHeadDecoder(registry avro.Schemas) *Decoder {
	head := fields()
	for _, name := range []string{"updated_at", "state", "segments"} {
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

// NewChangeEncoder returns the encoder for this build's schema of a change of
// segment and its registered id.
func NewChangeEncoder(id int) (*ChangeEncoder, error) {
	return avro.NewEncoder(schemas.SegmentV1, id, changeFields())
}

// NewChangeDecoder returns the decoder of changes of segments.
func NewChangeDecoder(registry avro.Schemas) *ChangeDecoder {
	return avro.NewDecoder(registry, changeFields(), func(c *Change) error {
		if c.ID.IsZero() {
			return fault.Permanentf(fault.BadAvro, "change_id is missing or no UUID")
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
		"segments": avro.Records(func(r *Record) *[]lead.Membership { return &r.Segments }, avro.Fields[lead.Membership]{
			"segment": avro.Text(func(m *lead.Membership) *string { return &m.Segment }),
			"since":   avro.ZeroableInstant(func(m *lead.Membership) *time.Time { return &m.Since }),
		}),
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

func changeFields() avro.Fields[Change] {
	return avro.Fields[Change]{
		"change_id": id(func(c *Change) *event.ID { return &c.ID }),
		"recipient": avro.Text(func(c *Change) *string { return &c.Recipient }),
		"segment":   avro.Text(func(c *Change) *string { return &c.Segment }),
		"change": {
			Get: func(c *Change) any { return Move(c.Entered) },
			Set: func(c *Change, v any) { c.Entered = v == Move(true) },
		},
		"at":       avro.Instant(func(c *Change) *time.Time { return &c.At }),
		"because":  avro.Text(func(c *Change) *string { return &c.Because }),
		"event_id": id(func(c *Change) *event.ID { return &c.EventID }),
	}
}

// Move is the word for what a change does.
func Move(entered bool) string {
	if entered {
		return "entered"
	}
	return "left"
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
