package leadscoring

import (
	"cmp"
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/replica"
)

// stage is the name of this service in dead letters.
const stage = "leadscoring"

// fold turns a batch of events into new states and signals.
type fold struct {
	*Service
	fingerprint string
	states      *replica.Copy
	scores      *leadavro.Decoder
}

func newFold(s *Service, states *replica.Copy) *fold {
	return &fold{
		Service: s, fingerprint: s.rules.Fingerprint(), states: states, scores: leadavro.NewDecoder(s.deps.Schemas),
	}
}

type batch = replica.Batch[leadavro.Record]

func (f *fold) newBatch() *batch {
	return replica.NewBatch(f.states, func(ctx context.Context, value []byte) (leadavro.Record, error) {
		record, err := f.scores.Decode(ctx, value)
		if err != nil {
			return leadavro.Record{}, fmt.Errorf("state: %w", err)
		}
		return record, nil
	})
}

// handle implements the Handle of [kafka.Transactor].
func (f *fold) handle(ctx context.Context, records []*kgo.Record) (kafka.Outcome, error) {
	letters := replica.Letters{Topic: f.deps.Topics.Dead, Stage: stage}
	return f.states.Fold(ctx, records, letters, &work{f, f.newBatch(), newTally()})
}

// work implements [replica.Folding].
type work struct {
	*fold
	batch *batch
	tally *tally
}

func (w *work) Fold(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
	return w.one(ctx, w.batch, r, w.tally)
}

func (w *work) GaveUp(reason string) { w.tally.dead[reason]++ }

func (w *work) Changed() ([]*kgo.Record, error) { return w.changed(w.batch) }

func (w *work) Committed(ctx context.Context, changed int) {
	w.tally.states = int64(changed)
	w.metrics.folded(ctx, w.tally, w.deps.Now())
}

// one folds the event of one record and returns what it has to tell.
func (f *fold) one(ctx context.Context, b *batch, r *kgo.Record, t *tally) ([]*kgo.Record, error) {
	e, err := f.events.Decode(ctx, r.Value)
	if err != nil {
		return nil, err
	}
	if t.oldest.IsZero() || e.ReceivedAt.Before(t.oldest) {
		t.oldest = e.ReceivedAt
	}
	o := f.rules.Observe(&e)
	for _, failure := range o.Failures {
		t.failures[ruleLabel{failure.Profile, failure.Rule}]++
	}
	if o.Skipped != "" && o.Contribution.EventID.IsZero() {
		t.events[o.Skipped]++
		return nil, nil
	}
	h, err := b.Load(ctx, e.RecipientNormalized)
	if err != nil {
		return nil, err
	}
	record := &h.State
	if record.Recipient == "" {
		record.Recipient = e.RecipientNormalized
	}
	before := record.State
	after, changed := f.rules.Add(before, &o)
	if !changed {
		t.events["known"]++
		return nil, nil
	}
	h.Changed = true
	t.events["scored"]++
	var signals []*kgo.Record
	if o.Contribution.EventID.IsZero() {
		record.State, record.Rules = after, "" // a delivery can show what was a machine's
	} else {
		was := f.standings(record)
		record.State, record.Rules = after, ""
		if signals, err = f.signals(r, &e, was, f.standings(record), t); err != nil {
			return nil, err
		}
	}
	changes, err := f.move(r, &e, &before, record, t)
	if err != nil {
		return nil, err
	}
	return append(signals, changes...), nil
}

// standings are those of the rules in force. Most often they stand in the record.
func (f *fold) standings(r *leadavro.Record) []lead.Standing {
	if r.Rules != f.fingerprint {
		r.Standings, r.Rules = f.rules.Standings(&r.State), f.fingerprint
	}
	return r.Standings
}

// signals returns the records that say what the event of a record crossed. One
// that is hushed says nothing: whoever acts on signals acted then, or should not
// now.
func (f *fold) signals(r *kgo.Record, e *event.Event, before, after []lead.Standing, t *tally) ([]*kgo.Record, error) {
	var records []*kgo.Record
	for _, crossing := range f.rules.Crossings(before, after) {
		label := signalLabel{
			crossing.Profile, crossing.Stage, leadavro.Direction(crossing.Up), cmp.Or(f.hushed(r, e), "signaled"),
		}
		t.signals[label]++
		if label.outcome != "signaled" {
			continue
		}
		signal := leadavro.NewSignal(e, crossing)
		value, err := f.deps.Signals.Append(nil, &signal)
		if err != nil {
			return nil, fmt.Errorf("signal: %w", err)
		}
		records = append(records, &kgo.Record{Topic: f.deps.Topics.LeadSignals, Key: []byte(signal.Recipient), Value: value})
	}
	return records, nil
}

// hushed says why nothing is told of an event: its record was read before the
// group was set back, or it is too old to act on, or a correction. Empty is that
// it is told.
func (f *fold) hushed(r *kgo.Record, e *event.Event) string {
	switch {
	case f.replays.Has(r):
		return "replayed"
	case e.Revision > 0 || f.deps.Now().Sub(e.OccurredAt) > f.cfg.MaxAge:
		return "old"
	}
	return ""
}

// changed returns the states that have changed.
func (f *fold) changed(b *batch) ([]*kgo.Record, error) {
	var records []*kgo.Record
	for h := range b.Changes() {
		f.standings(&h.State)
		value, err := f.deps.Scores.Append(nil, &h.State)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		records = append(records, &kgo.Record{Topic: f.deps.Topics.LeadScores, Key: []byte(h.State.Recipient), Value: value})
	}
	return records, nil
}
