package rates

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/schemas"
)

// Alert is a record of the alerts topic. schemas/avro/alert.v1.avsc says what its
// fields mean.
type Alert struct {
	ID          event.ID
	Rate        Rate
	Sender      string
	Level       Level
	Previous    Level
	Value       float64
	Threshold   float64
	Events      int64
	Volume      int64
	MinVolume   int64
	WindowStart time.Time
	WindowEnd   time.Time
	DecidedAt   time.Time
	PreviousID  event.ID // zero for the first of a key
}

// key is that of the record.
func (a Alert) key() string { return string(a.Rate) + "|" + a.Sender }

// identity is computed from what the alert says and the alert before it, so that
// each crossing has its own. DecidedAt is not part of it.
func (a Alert) identity() event.ID {
	return event.NewID(event.ProviderMailriver, "alerts", a.Sender,
		string(a.Rate), string(a.Previous), string(a.Level), a.PreviousID.String(), a.WindowEnd.UTC().Format(time.RFC3339))
}

// crossing returns the alert for a sender whose level changed, and whether it did.
// last is the latest alert of the same key, zero where there is none.
func (c Config) crossing(r Rate, s standing, last Alert, end hour, now time.Time) (Alert, bool) {
	before := last.Level
	if before.rank() < 0 { // there is none, or a word of a newer build
		before = OK
	}
	level := c.level(before, r, s.total)
	if level == before {
		return Alert{}, false
	}
	higher := level
	if before.rank() > level.rank() {
		higher = before
	}
	events, volume := r.of(s.total)
	a := Alert{
		Rate: r, Sender: s.sender, Level: level, Previous: before, PreviousID: last.ID,
		Value: fraction(events, volume), Threshold: c.thresholds(r).at(higher),
		Events: events, Volume: volume, MinVolume: c.MinVolume,
		WindowStart: (end + 1 - hour(c.hours())).begin(), WindowEnd: (end + 1).begin(), DecidedAt: now.UTC(),
	}
	a.ID = a.identity()
	return a, true
}

// Encoder writes alerts by one registered schema.
type Encoder = avro.Encoder[Alert]

// Decoder reads alerts by the schema that each was written with.
type Decoder = avro.Decoder[Alert]

// NewEncoder returns the encoder for this build's schema and its registered id.
func NewEncoder(id int) (*Encoder, error) { return avro.NewEncoder(schemas.AlertV1, id, fields()) }

// NewDecoder returns a decoder that asks schemas for what it has not seen.
func NewDecoder(registry avro.Schemas) *Decoder {
	return avro.NewDecoder(registry, fields(), func(a *Alert) error {
		if a.ID.IsZero() || a.Rate == "" || a.Sender == "" || a.Level == "" {
			return fault.Permanentf(fault.BadAvro, "alert_id, rate, sender_domain or level is missing")
		}
		return nil
	})
}

// Lookup returns the id of this build's schema under the subject of the topic.
func Lookup(ctx context.Context, registry *avro.Registry, topic string) (int, error) {
	return avro.Lookup(ctx, registry, topic, schemas.AlertV1)
}

// record encodes an alert. Its headers are CloudEvents 1.0 in binary mode, as those
// of the canonical topic.
func (s *Service) record(a Alert) (*kgo.Record, error) {
	value, err := s.deps.Encoder.Append(nil, &a)
	if err != nil {
		return nil, fmt.Errorf("alert %s: %w", a.key(), err)
	}
	return &kgo.Record{
		Topic: s.deps.Topics.Alerts, Key: []byte(a.key()), Value: value,
		Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: []byte(a.ID.String())},
			{Key: "ce_type", Value: []byte("io.mailriver.alert." + string(a.Rate) + ".v1")},
			{Key: "ce_source", Value: []byte("/suppression/rates")},
			{Key: "ce_time", Value: []byte(a.DecidedAt.Format(time.RFC3339Nano))},
			{Key: "content-type", Value: []byte("application/avro")},
		},
	}, nil
}

func fields() avro.Fields[Alert] {
	return avro.Fields[Alert]{
		"alert_id":          identifier(func(a *Alert) *event.ID { return &a.ID }),
		"rate":              avro.Text(func(a *Alert) *string { return (*string)(&a.Rate) }),
		"sender_domain":     avro.Text(func(a *Alert) *string { return &a.Sender }),
		"level":             avro.Text(func(a *Alert) *string { return (*string)(&a.Level) }),
		"previous_level":    avro.Text(func(a *Alert) *string { return (*string)(&a.Previous) }),
		"value":             double(func(a *Alert) *float64 { return &a.Value }),
		"threshold":         double(func(a *Alert) *float64 { return &a.Threshold }),
		"events":            avro.Long(func(a *Alert) *int64 { return &a.Events }),
		"volume":            avro.Long(func(a *Alert) *int64 { return &a.Volume }),
		"min_volume":        avro.Long(func(a *Alert) *int64 { return &a.MinVolume }),
		"window_start":      avro.Instant(func(a *Alert) *time.Time { return &a.WindowStart }),
		"window_end":        avro.Instant(func(a *Alert) *time.Time { return &a.WindowEnd }),
		"decided_at":        avro.Instant(func(a *Alert) *time.Time { return &a.DecidedAt }),
		"previous_alert_id": identifier(func(a *Alert) *event.ID { return &a.PreviousID }),
	}
}

// identifier is a UUID; the zero one is null.
func identifier(at func(*Alert) *event.ID) avro.Field[Alert] {
	return avro.Field[Alert]{
		Get: func(a *Alert) any {
			if at(a).IsZero() {
				return nil
			}
			return at(a).String()
		},
		Set: func(a *Alert, v any) {
			if text, ok := v.(string); ok {
				*at(a), _ = event.ParseID(text) // a writer of ours never writes another form
			}
		},
	}
}

func double(at func(*Alert) *float64) avro.Field[Alert] {
	return avro.Field[Alert]{
		Get: func(a *Alert) any { return *at(a) },
		Set: func(a *Alert, v any) {
			if n, ok := v.(float64); ok {
				*at(a) = n
			}
		},
	}
}
