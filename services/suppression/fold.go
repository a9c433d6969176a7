package suppression

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/replica"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
)

// stage is the name of this service in dead letters.
const stage = "suppression"

// fold turns a batch of events into the new states of their recipients.
type fold struct {
	policy      *model.Policy
	fingerprint string
	states      *replica.Copy
	whole       *suppressionavro.Decoder
	deps        Deps
	events      *eventavro.Decoder
	metrics     *metrics
}

func newFold(p *model.Policy, states *replica.Copy, deps Deps, events *eventavro.Decoder, m *metrics) *fold {
	return &fold{
		policy: p, fingerprint: p.Fingerprint(), states: states, whole: suppressionavro.NewDecoder(deps.Schemas),
		deps: deps, events: events, metrics: m,
	}
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
	return nil, w.one(ctx, w.batch, r, w.tally)
}

func (w *work) GaveUp(reason string) { w.tally.dead[reason]++ }

func (w *work) Changed() ([]*kgo.Record, error) { return w.changed(w.batch) }

func (w *work) Committed(ctx context.Context, changed int) {
	w.tally.states = int64(changed)
	w.metrics.folded(ctx, w.tally, w.deps.Now())
}

// one folds the event of one record. A permanent error is about the record, or
// about a state that it would change and that cannot be read: writing that state
// anew would forget what it says.
func (f *fold) one(ctx context.Context, b *batch, r *kgo.Record, t *tally) error {
	decoded, err := f.events.Decode(ctx, r.Value)
	if err != nil {
		return err
	}
	e := &decoded
	if t.oldest.IsZero() || e.ReceivedAt.Before(t.oldest) {
		t.oldest = e.ReceivedAt
	}
	placed, skipped := model.Classify(e, f.policy)
	if e.Revision > 0 {
		if err := f.takeBack(ctx, b, e, placed); err != nil {
			return err
		}
	}
	if skipped != "" {
		t.meant[skipped]++
		return nil
	}
	for i, p := range placed {
		if i == 0 {
			t.meant[string(p.Fact.Effect)]++
		}
		h, err := f.get(ctx, b, model.State{Address: e.RecipientNormalized, ScopeKind: p.ScopeKind, ScopeID: p.ScopeID})
		if err != nil {
			return err
		}
		if p.Fact.Effect == model.Confirm && !f.has(h.State, p.Fact) {
			t.drift[e.Provider]++
		}
		add(h, p.Fact)
	}
	return nil
}

// has reports whether the list has the entry that a provider refused for.
func (f *fold) has(s model.State, confirmed model.Fact) bool {
	entries := model.Active(model.Evaluate(s, f.policy).Entries, confirmed.At)
	return slices.ContainsFunc(entries, func(e model.Entry) bool { return e.Reason == confirmed.Reason })
}

// takeBack neutralizes what earlier revisions of a corrected event said in
// scopes about which this one says nothing.
func (f *fold) takeBack(ctx context.Context, b *batch, e *event.Event, placed []model.Placed) error {
	// A look-up by prefix does not see what the copy has not read back yet.
	if err := f.states.ReadBack(ctx); err != nil {
		return err
	}
	spelling := spellingPrefix(f.policy, e.RecipientNormalized)
	var keys []string
	err := f.states.Scan(spelling, after(spelling), func(key, _ []byte) bool {
		keys = append(keys, string(key))
		return true
	})
	if err != nil {
		return err
	}
	for _, key := range b.Loaded(string(spelling)) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		h, err := b.Load(ctx, key)
		if err != nil {
			return err
		}
		old, known := h.State.Find(e.ID)
		again := slices.ContainsFunc(placed, func(p model.Placed) bool {
			return p.ScopeKind == h.State.ScopeKind && p.ScopeID == h.State.ScopeID
		})
		if !known || old.Revision >= e.Revision || again {
			continue
		}
		old.Effect, old.Revision = model.None, e.Revision
		add(h, old)
	}
	return nil
}

// batch is the states that a batch of events touches.
type batch = replica.Batch[model.State]

func (f *fold) newBatch() *batch {
	return replica.NewBatch(f.states, func(ctx context.Context, value []byte) (model.State, error) {
		record, err := f.whole.Decode(ctx, value)
		if err != nil {
			return model.State{}, fmt.Errorf("state: %w", err)
		}
		return record.State, nil
	})
}

func add(h *replica.Held[model.State], f model.Fact) {
	next := h.State.Add(f)
	if slices.Equal(next.Facts, h.State.Facts) {
		return // known already
	}
	h.State, h.Changed = next, true
}

// get returns the state of an address and scope, which may be new.
func (f *fold) get(ctx context.Context, b *batch, of model.State) (*replica.Held[model.State], error) {
	h, err := b.Load(ctx, string(localKey(f.policy, of.Key(), of.Address)))
	if err != nil {
		return nil, err
	}
	if h.State.Address == "" {
		h.State = of
	}
	return h, nil
}

// changed returns the states that have changed, in the order of their events.
func (f *fold) changed(b *batch) ([]*kgo.Record, error) {
	var records []*kgo.Record
	for h := range b.Changes() {
		record := suppressionavro.NewRecord(h.State, f.policy, f.fingerprint)
		value, err := f.deps.Encoder.Append(nil, &record)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		records = append(records, &kgo.Record{Topic: f.deps.Topics.Suppressions, Key: []byte(h.State.Key()), Value: value})
	}
	return records, nil
}
