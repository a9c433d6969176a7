package suppression

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
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

	mu    sync.Mutex
	wrote map[int32]int64 // behind the newest state written, by partition
}

func newFold(p *model.Policy, states *replica.Copy, deps Deps, events *eventavro.Decoder, m *metrics) *fold {
	return &fold{
		policy: p, fingerprint: p.Fingerprint(), states: states, whole: suppressionavro.NewDecoder(deps.Schemas),
		deps: deps, events: events, metrics: m, wrote: map[int32]int64{},
	}
}

// handle implements the Handle of [kafka.Transactor].
func (f *fold) handle(ctx context.Context, batch []*kgo.Record) (kafka.Outcome, error) {
	var partitions []int32
	for _, r := range batch {
		if !slices.Contains(partitions, r.Partition) {
			partitions = append(partitions, r.Partition)
		}
	}
	if err := f.states.Complete(ctx, partitions); err != nil {
		return kafka.Outcome{}, err
	}
	b := &states{fold: f, byKey: map[string]*held{}}
	t := newTally()
	var letters []*kgo.Record
	for _, r := range batch {
		err := f.one(ctx, b, r, t)
		if reason, permanent := fault.Reason(err); permanent {
			t.dead[reason]++
			letters = append(letters, kafka.DeadLetter(f.deps.Topics.Dead, r, kafka.Letter{
				Stage: stage, Origin: kafka.Origin(r), Err: err, Value: r.Value,
			}))
			continue
		}
		if err != nil {
			return kafka.Outcome{}, fmt.Errorf("%s: %w", kafka.Origin(r), err)
		}
	}
	changed, err := b.records()
	if err != nil {
		return kafka.Outcome{}, err
	}
	t.states = int64(len(changed))
	return kafka.Outcome{
		Records: append(changed, letters...),
		Check:   func(context.Context) error { return f.states.Intact(partitions) },
		Done: func(committed bool) {
			if !committed {
				return
			}
			f.states.Wrote(changed)
			f.mu.Lock()
			for _, r := range changed {
				f.wrote[r.Partition] = max(f.wrote[r.Partition], r.Offset+1)
			}
			f.mu.Unlock()
			f.metrics.folded(ctx, t, f.deps.Now())
		},
	}, nil
}

// one folds the event of one record. A permanent error is about the record, or
// about a state that it would change and that cannot be read: writing that state
// anew would forget what it says.
func (f *fold) one(ctx context.Context, b *states, r *kgo.Record, t *tally) error {
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
		h, err := b.get(ctx, model.State{Address: e.RecipientNormalized, ScopeKind: p.ScopeKind, ScopeID: p.ScopeID})
		if err != nil {
			return err
		}
		if p.Fact.Effect == model.Confirm && !f.has(h.state, p.Fact) {
			t.drift[e.Provider]++
		}
		h.add(p.Fact)
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
func (f *fold) takeBack(ctx context.Context, b *states, e *event.Event, placed []model.Placed) error {
	f.mu.Lock()
	wrote := make(map[int32]int64, len(f.wrote))
	for partition, offset := range f.wrote {
		wrote[partition] = offset
	}
	f.mu.Unlock()
	// A look-up by prefix does not see what the copy has not read back yet.
	if err := f.states.Reach(ctx, wrote); err != nil {
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
	for key := range b.byKey {
		if len(key) > len(spelling) && key[:len(spelling)] == string(spelling) && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		h, err := b.load(ctx, key)
		if err != nil {
			return err
		}
		old, known := h.state.Find(e.ID)
		again := slices.ContainsFunc(placed, func(p model.Placed) bool {
			return p.ScopeKind == h.state.ScopeKind && p.ScopeID == h.state.ScopeID
		})
		if !known || old.Revision >= e.Revision || again {
			continue
		}
		old.Effect, old.Revision = model.None, e.Revision
		h.add(old)
	}
	return nil
}

// states are those that a batch has touched.
type states struct {
	*fold
	byKey map[string]*held
	order []string
}

type held struct {
	state   model.State
	changed bool
}

func (h *held) add(f model.Fact) {
	next := h.state.Add(f)
	if slices.Equal(next.Facts, h.state.Facts) {
		return // known already
	}
	h.state, h.changed = next, true
}

// get returns the state of an address and scope, which may be new.
func (b *states) get(ctx context.Context, of model.State) (*held, error) {
	key := string(localKey(b.policy, of.Key(), of.Address))
	h, err := b.load(ctx, key)
	if err != nil {
		return nil, err
	}
	if h.state.Address == "" {
		h.state = of
	}
	return h, nil
}

func (b *states) load(ctx context.Context, key string) (*held, error) {
	if h, ok := b.byKey[key]; ok {
		return h, nil
	}
	h := &held{}
	value, ok, err := b.fold.states.Current([]byte(key))
	if err != nil {
		return nil, err
	}
	if ok {
		record, err := b.whole.Decode(ctx, value)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		h.state = record.State
	}
	b.byKey[key] = h
	b.order = append(b.order, key)
	return h, nil
}

// records returns the states that have changed, in the order of their events.
func (b *states) records() ([]*kgo.Record, error) {
	var records []*kgo.Record
	for _, key := range b.order {
		h := b.byKey[key]
		if !h.changed {
			continue
		}
		record := suppressionavro.NewRecord(h.state, b.policy, b.fingerprint)
		value, err := b.deps.Encoder.Append(nil, &record)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		records = append(records, &kgo.Record{Topic: b.deps.Topics.Suppressions, Key: []byte(h.state.Key()), Value: value})
	}
	return records, nil
}
