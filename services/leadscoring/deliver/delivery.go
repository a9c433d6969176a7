package deliver

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/webhook"
)

// State is how far a delivery is.
type State string

// States of a delivery. All but the first are final, until a person retries it.
const (
	Pending    State = "pending"   // an attempt is due, or will be
	Delivered  State = "delivered" // the endpoint took it
	DeadLetter State = "dead"      // it was given up, and is in the dead-letter topic
	Skipped    State = "skipped"   // the endpoint wanted nothing any more
)

// Delivery is what is known about one signal at one endpoint: the value of a
// record of the deliveries topic.
type Delivery struct {
	Signal    webhook.Signal `json:"signal"`
	Endpoint  string         `json:"endpoint"`
	State     State          `json:"state"`
	Attempts  int            `json:"attempts"`
	Since     time.Time      `json:"since"`             // planned, or retried by a person
	NextAt    time.Time      `json:"next_at,omitzero"`  // not before; of a pending one
	UpdatedAt time.Time      `json:"updated_at"`        // when this was written
	Status    int            `json:"status,omitempty"`  // HTTP status of the last answer
	Problem   string         `json:"problem,omitempty"` // of the last attempt, for people
	Round     int            `json:"round,omitempty"`   // how often people retried it

	// Where the signal is: the order of deliveries, and what was planned already.
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Recorded  time.Time `json:"recorded"` // time of the signal's record
}

// ID names the delivery: the id of the signal, a colon and the endpoint.
func (d *Delivery) ID() string { return d.Signal.ID + ":" + d.Endpoint }

// newDelivery plans the delivery of a signal.
func newDelivery(r *kgo.Record, s *webhook.Signal, endpoint string, now time.Time) Delivery {
	return Delivery{
		Signal: *s, Endpoint: endpoint, State: Pending, Since: now, NextAt: now, UpdatedAt: now,
		Partition: r.Partition, Offset: r.Offset, Recorded: r.Timestamp.UTC(),
	}
}

// signalOf makes the contract of the webhooks out of that of the topic.
func signalOf(s *leadavro.Signal) *webhook.Signal {
	direction := webhook.Down
	if s.Crossing.Up {
		direction = webhook.Up
	}
	return &webhook.Signal{
		ID: s.ID.String(), Recipient: s.Recipient, Profile: s.Crossing.Profile, Stage: s.Crossing.Stage,
		Direction: direction, Score: s.Crossing.Score, OccurredAt: s.OccurredAt.UTC(),
		Event: webhook.Event{
			ID: s.EventID.String(), Type: string(s.EventType), Provider: s.Provider, Source: s.Source,
			CampaignID: s.CampaignID, URL: s.URL,
		},
	}
}

// after returns the delivery after an attempt. The jitter is in [0, 1).
func (s Schedule) after(d Delivery, r webhook.Result, now time.Time, jitter float64) Delivery {
	d.Attempts++
	d.UpdatedAt, d.NextAt, d.Status, d.Problem = now, time.Time{}, r.Status, r.Problem
	switch {
	case r.Outcome == webhook.Delivered:
		d.State = Delivered
	case r.Outcome == webhook.Gone, d.Attempts >= s.Attempts, s.expired(&d, now):
		d.State = DeadLetter
	default:
		d.NextAt = now.Add(max(s.backoff().Wait(d.Attempts, jitter), min(r.Wait, s.MaxAsked)))
	}
	return d
}

// expired reports whether a delivery is too old to be tried again at an endpoint
// that is out of order. Time during which nobody tried does not count against
// one: what no attempt was made for gets one.
func (s Schedule) expired(d *Delivery, now time.Time) bool { return now.Sub(d.Since) >= s.GiveUpAfter }

// settled is a delivery that ends without an attempt.
func settled(d Delivery, state State, problem string, now time.Time) Delivery {
	d.State, d.UpdatedAt, d.NextAt = state, now, time.Time{}
	if d.Problem != "" && state == DeadLetter {
		problem += "; " + d.Problem
	}
	d.Problem = problem
	return d
}

// retried is a delivery that a person wants tried again now.
func retried(d Delivery, now time.Time) Delivery {
	d.UpdatedAt, d.NextAt = now, now
	if d.State != Pending {
		d.State, d.Attempts, d.Since, d.Problem, d.Status = Pending, 0, now, "", 0
		d.Round++
	}
	return d
}

// headerWriter names who wrote a record of the deliveries topic, so that an owner
// knows its own.
const headerWriter = "writer"

func (d *Delivery) record(topic, writer string) (*kgo.Record, error) {
	value, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("delivery %s: %w", d.ID(), err)
	}
	return stateRecord(topic, d.Partition, d.ID(), value, writer), nil
}

func stateRecord(topic string, partition int32, key string, value []byte, writer string) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: partition, Key: []byte(key), Value: value,
		Headers: []kgo.RecordHeader{
			{Key: headerWriter, Value: []byte(writer)},
			{Key: "content-type", Value: []byte("application/json")},
		},
	}
}

// markPrefix begins the keys of marks. No id of a delivery begins so: those begin
// with a UUID.
const markPrefix = "endpoint:"

// mark says that an endpoint answered 410. It holds for as long as the
// endpoint's configuration is the same.
type mark struct {
	Fingerprint string    `json:"fingerprint"`
	At          time.Time `json:"at"`
}

// parsed is a record of the deliveries topic, read.
type parsed struct {
	delivery Delivery
	endpoint string // of a mark; empty for a delivery
	mark     mark
}

// parse reads a record of the deliveries topic.
func parse(r *kgo.Record) (p parsed, err error) {
	if name, ok := strings.CutPrefix(string(r.Key), markPrefix); ok {
		p.endpoint = name
		err = json.Unmarshal(r.Value, &p.mark)
	} else if err = json.Unmarshal(r.Value, &p.delivery); err == nil && p.delivery.ID() != string(r.Key) {
		err = fmt.Errorf("key is not that of the delivery")
	}
	if err != nil {
		return parsed{}, fmt.Errorf("%s: %w", kafka.Origin(r), err)
	}
	return p, nil
}

// Stage is the header of dead letters.
const Stage = "leadscoring.webhook"

// letter is the dead letter of a delivery. Its origin is the record that said
// that the delivery was pending, so that each round has a letter of its own. The
// error does not repeat the endpoint's words, which may quote an address; they are
// in the value.
func (d *Delivery) letter(dead, origin string, value []byte) *kgo.Record {
	why := d.Problem
	if d.Status != 0 {
		why = fmt.Sprintf("HTTP %d", d.Status)
	}
	return kafka.DeadLetter(dead, &kgo.Record{Key: []byte(d.Signal.Recipient)}, kafka.Letter{
		Stage: Stage, Origin: origin, Value: value,
		Err: fault.Permanentf(fault.Undelivered, "endpoint %s, %d attempts: %s", d.Endpoint, d.Attempts, why),
	})
}
