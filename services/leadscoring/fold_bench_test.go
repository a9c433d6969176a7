package leadscoring

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/measure"
	"mailriver/pkg/replica"
	"mailriver/schemas"
)

type benchRegistry struct{}

func (benchRegistry) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	texts := []string{schemas.EmailEventV1, schemas.LeadScoreV1, schemas.LeadSignalV1, schemas.SegmentV1}
	if id < 1 || id > len(texts) {
		return sr.Schema{}, &sr.ResponseError{StatusCode: http.StatusNotFound}
	}
	return sr.Schema{Schema: texts[id-1], Type: sr.TypeAvro}, nil
}

// twentyRules are what a sender with several campaigns might have.
func twentyRules() []lead.Profile {
	p := lead.DefaultProfiles()[0]
	for i := range 16 {
		conditions := []string{
			`event_type == "clicked" && url contains "/page-%d"`, `event_type == "opened" && campaign_id == "c%d"`,
			`event_type in ["clicked", "opened"] && "tag%d" in tags`, `event_type == "clicked" && metadata["plan"] == "p%d"`,
		}
		p.Rules = append(p.Rules, lead.Rule{
			Name: fmt.Sprintf("extra%d", i), When: fmt.Sprintf(conditions[i%4], i), Points: float64(1 + i%5),
			Cap: &lead.Cap{Points: 20, Window: 24 * time.Hour},
		})
	}
	return []lead.Profile{p}
}

// stream is events of so many recipients as mail makes them: most are
// deliveries, and few are clicks.
func stream(b *testing.B, events, recipients int) []*kgo.Record {
	b.Helper()
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, 1)
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now().UTC().Truncate(time.Microsecond)
	records := make([]*kgo.Record, events)
	for i := range records {
		recipient := fmt.Sprintf("user%d@example%d.com", random.IntN(recipients), i%100)
		e := event.Event{
			ID: event.NewID("ses", "ses", recipient, fmt.Sprint(i)), Type: event.Delivered, Provider: "ses", Source: "ses",
			Recipient: recipient, RecipientNormalized: recipient, Machine: event.MachineNo, ProviderMessageID: fmt.Sprintf("m-%d", i/3),
			OccurredAt: now.Add(-time.Duration(events-i) * time.Second), CampaignID: fmt.Sprintf("c%d", i%20),
			Tags: []string{"news", fmt.Sprintf("tag%d", i%30)}, Metadata: map[string]string{"plan": fmt.Sprintf("p%d", i%9)},
		}
		e.ReceivedAt = e.OccurredAt
		switch n := random.IntN(100); {
		case n < 10:
			e.Type, e.URL = event.Clicked, fmt.Sprintf("https://example.com/page-%d?id=%d", i%40, i)
		case n < 35:
			e.Type = event.Opened
		case n < 38:
			e.Type = event.Bounced
		}
		value, err := enc.Append(nil, &e)
		if err != nil {
			b.Fatal(err)
		}
		records[i] = &kgo.Record{Topic: "events", Key: []byte(recipient), Value: value, Offset: int64(i)}
	}
	return records
}

// benchFold is a fold on a copy that nothing fills but the fold itself.
func benchFold(b *testing.B, profiles []lead.Profile) *fold {
	b.Helper()
	scores, err := leadavro.NewEncoder(2)
	if err != nil {
		b.Fatal(err)
	}
	signals, err := leadavro.NewSignalEncoder(3)
	if err != nil {
		b.Fatal(err)
	}
	changes, err := leadavro.NewChangeEncoder(4)
	if err != nil {
		b.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Profiles = profiles
	meter, log := noop.NewMeterProvider().Meter("bench"), slog.New(slog.DiscardHandler)
	reader := func(...kgo.Opt) (*kgo.Client, error) { return nil, replica.ErrClosed }
	admin := func() (*kadm.Client, error) { return nil, replica.ErrClosed }
	service, err := New(cfg, Deps{
		Open:   func(...kgo.Opt) (*kgo.GroupTransactSession, error) { return nil, replica.ErrClosed },
		Reader: reader, Admin: admin, Schemas: benchRegistry{}, Scores: scores, Signals: signals, Changes: changes,
		Topics: kafka.DefaultConfig().Topics(), Dir: b.TempDir(), Meter: meter, Logger: log, Now: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	index := newIndex(service)
	states, err := replica.Open(replica.Config{Topic: "scores", Dir: b.TempDir(), Format: "bench"}, replica.Deps{
		Map:    func(r *kgo.Record) (key, value []byte, err error) { return localRecord(b.Context(), index, r) },
		Reader: reader, Admin: admin, Meter: meter, Logger: log, Now: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = states.Close() })
	return newFold(service, states)
}

const benchBatch = 5000

// through folds all records, and returns which of them changed a state.
func (f *fold) through(b *testing.B, records []*kgo.Record, offset *int64) (scored []bool) {
	b.Helper()
	ctx := b.Context()
	for part := range slices.Chunk(records, benchBatch) {
		batch := f.newBatch()
		t := newTally()
		for _, r := range part {
			before := t.events["scored"]
			if _, err := f.one(ctx, batch, r, t); err != nil {
				b.Fatal(err)
			}
			scored = append(scored, t.events["scored"] > before)
		}
		f.written(b, batch, offset)
	}
	return scored
}

func (f *fold) written(b *testing.B, batch *batch, offset *int64) {
	b.Helper()
	changed, err := f.changed(batch)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range changed {
		r.Offset = *offset
		*offset++
	}
	f.states.Wrote(changed)
}

// without is the same loop without rules: it decodes the same events, loads the
// same states and encodes them again.
func (f *fold) without(b *testing.B, records []*kgo.Record, scored []bool, offset *int64) {
	b.Helper()
	ctx := b.Context()
	for from := 0; from < len(records); from += benchBatch {
		batch := f.newBatch()
		for i := from; i < min(from+benchBatch, len(records)); i++ {
			e, err := f.events.Decode(ctx, records[i].Value)
			if err != nil {
				b.Fatal(err)
			}
			if !scored[i] {
				continue
			}
			h, err := batch.Load(ctx, e.RecipientNormalized)
			if err != nil {
				b.Fatal(err)
			}
			h.Changed = true
		}
		f.written(b, batch, offset)
	}
}

// BenchmarkFold is the work of one instance between fetch and commit: events in
// hand to encoded states, with 20 rules, and the same without rules, in events for
// each second of processor time. make bench-leadscoring gives it one core.
func BenchmarkFold(b *testing.B) {
	const events, recipients = 100_000, 20_000
	records := stream(b, events, recipients)
	var with, without time.Duration
	for b.Loop() {
		f := benchFold(b, twentyRules())
		offset := int64(0)
		var scored []bool
		with += used(b, func() { scored = f.through(b, records, &offset) })
		without += used(b, func() { f.without(b, records, scored, &offset) })
	}
	b.ReportMetric(float64(b.N)*events/with.Seconds(), "events/cpu-s")
	b.ReportMetric(without.Seconds()/with.Seconds(), "x_without_rules")
}

// used is the processor time that work took, its garbage included.
func used(b *testing.B, work func()) time.Duration {
	b.Helper()
	runtime.GC()
	before, err := measure.CPU()
	if err != nil {
		b.Fatal(err)
	}
	work()
	after, err := measure.CPU()
	if err != nil {
		b.Fatal(err)
	}
	return after - before
}
