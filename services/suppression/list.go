package suppression

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/address"
	"mailriver/pkg/avro"
	"mailriver/pkg/fault"
	"mailriver/pkg/replica"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
)

// Local keys are the folded address, a zero byte, and then the spelling, a zero
// byte, the scope: one look-up by prefix finds all that is known about an
// address. No address and no scope holds a zero byte.
func localKey(p *model.Policy, key, spelling string) []byte {
	scope, _, _ := model.KeyParts(key)
	return append(spellingPrefix(p, spelling), scope...)
}

func spellingPrefix(p *model.Policy, spelling string) []byte {
	folded := p.Fold(spelling)
	key := make([]byte, 0, len(folded)+len(spelling)+32)
	key = append(append(key, folded...), 0)
	return append(append(key, spelling...), 0)
}

// after is the end of the keys that begin with a prefix that ends with a zero
// byte.
func after(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}

// localRecord implements the Map of the local copy. The value stays as it came:
// decoding every state would make reading the topic many times slower, and most
// are never asked for.
func localRecord(p *model.Policy, r *kgo.Record) (key, value []byte, err error) {
	_, spelling, ok := model.KeyParts(string(r.Key))
	if !ok || spelling == "" || bytes.IndexByte(r.Key, 0) >= 0 {
		return nil, nil, fmt.Errorf("key %q is not scope|address", r.Key)
	}
	return localKey(p, string(r.Key), spelling), r.Value, nil
}

// list answers look-ups from the local copy.
type list struct {
	policy      *model.Policy
	fingerprint string
	states      *replica.Copy
	head, whole *suppressionavro.Decoder
}

func newList(p *model.Policy, states *replica.Copy, schemas avro.Schemas) *list {
	return &list{
		policy: p, fingerprint: p.Fingerprint(), states: states,
		head: suppressionavro.NewHeadDecoder(schemas), whole: suppressionavro.NewDecoder(schemas),
	}
}

// fold is the form in which an address is looked up, and whether it is one.
func (l *list) fold(raw string) (folded string, ok bool) {
	a, ok := address.Normalize(raw)
	return l.policy.Fold(a.Full), ok
}

// stored is the value of a state and the spelling it is of.
type stored struct {
	spelling string
	value    []byte
}

// parallelFrom is how many addresses are worth a second goroutine.
const parallelFrom = 256

// lookup returns, for each folded address, the entries of all its scopes and
// spellings, expired ones as well, strongest first.
func (l *list) lookup(ctx context.Context, folded []string) ([][]model.Entry, error) {
	found := make([][]model.Entry, len(folded))
	workers := min(runtime.GOMAXPROCS(0), max(1, len(folded)/parallelFrom))
	if workers == 1 {
		return found, l.fill(ctx, folded, found)
	}
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		from, to := w*len(folded)/workers, (w+1)*len(folded)/workers
		wg.Go(func() { errs[w] = l.fill(ctx, folded[from:to], found[from:to]) })
	}
	wg.Wait()
	return found, errors.Join(errs...)
}

func (l *list) fill(ctx context.Context, folded []string, found [][]model.Entry) error {
	prefixes := make([][]byte, len(folded))
	for i, f := range folded {
		prefixes[i] = []byte(f)
	}
	var all map[int][]stored // most addresses have nothing
	err := l.states.Lookup(prefixes, func(i int, key, value []byte) bool {
		if all == nil {
			all = map[int][]stored{}
		}
		all[i] = append(all[i], stored{spellingOf(key), bytes.Clone(value)})
		return true
	})
	if err != nil {
		return err
	}
	for i, values := range all {
		if found[i], err = l.entries(ctx, values); err != nil {
			return err
		}
	}
	return nil
}

// spellingOf reads the spelling out of a local key.
func spellingOf(key []byte) string {
	_, rest, _ := bytes.Cut(key, []byte{0})
	spelling, _, _ := bytes.Cut(rest, []byte{0})
	return string(spelling)
}

// entries reads the entries of one folded address.
func (l *list) entries(ctx context.Context, values []stored) ([]model.Entry, error) {
	var entries []model.Entry
	simple := true
	for i := 0; simple && i < len(values); i++ {
		record, err := l.head.Decode(ctx, values[i].value)
		if err != nil {
			return nil, unreadable(err)
		}
		// Another policy, or a second spelling: the facts must be joined.
		simple = record.Policy == l.fingerprint && values[i].spelling == values[0].spelling
		entries = append(entries, record.Entries...)
	}
	if !simple {
		scopes, err := l.join(ctx, values)
		if err != nil {
			return nil, err
		}
		entries = entries[:0]
		for _, s := range scopes {
			entries = append(entries, model.Evaluate(s, l.policy).Entries...)
		}
	}
	l.sort(entries)
	return entries, nil
}

func (l *list) sort(entries []model.Entry) {
	slices.SortStableFunc(entries, func(a, b model.Entry) int {
		return cmp.Or(
			cmp.Compare(l.policy.Rule(b.Reason).Strength, l.policy.Rule(a.Reason).Strength),
			cmp.Compare(b.Reason.Strength(), a.Reason.Strength()),
			cmp.Compare(a.ScopeKind, b.ScopeKind), cmp.Compare(a.ScopeID, b.ScopeID),
		)
	})
}

// join reads the states of one folded address, one for each scope, with the
// facts of every spelling.
func (l *list) join(ctx context.Context, values []stored) ([]model.State, error) {
	type scope struct{ kind, id string }
	joined := map[scope]int{}
	var states []model.State
	for _, v := range values {
		record, err := l.whole.Decode(ctx, v.value)
		if err != nil {
			return nil, unreadable(err)
		}
		at, seen := joined[scope{record.ScopeKind, record.ScopeID}]
		if !seen {
			joined[scope{record.ScopeKind, record.ScopeID}] = len(states)
			states = append(states, record.State)
			continue
		}
		merged := model.Merge(states[at], record.State)
		merged.Address = l.policy.Fold(merged.Address) // that of none in particular
		states[at] = merged
	}
	return states, nil
}

// scopes returns the states of one folded address.
func (l *list) scopes(ctx context.Context, folded string) ([]model.State, error) {
	var values []stored
	err := l.states.Lookup([][]byte{[]byte(folded)}, func(_ int, key, value []byte) bool {
		values = append(values, stored{spellingOf(key), bytes.Clone(value)})
		return true
	})
	if err != nil {
		return nil, err
	}
	return l.join(ctx, values)
}

// errUnreadable is a state that this build cannot read. Answering "not
// suppressed" would be the one wrong answer.
var errUnreadable = errors.New("a state of this address cannot be read by this version")

func unreadable(err error) error {
	if _, permanent := fault.Reason(err); permanent {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return err
}

// scan calls each with the entries of every address behind from that is wanted,
// in the order of the folded addresses, until it returns false or maxAddresses
// were passed. It returns the address to go on behind, empty at the end of the
// list.
func (l *list) scan(ctx context.Context, from string, maxAddresses int, wanted func(folded string) bool,
	each func([]model.Entry) (bool, error),
) (next string, err error) {
	var start []byte
	if from != "" {
		start = append([]byte(from), 1) // behind the zero byte of from's own keys
	}
	var current string
	var values []stored
	want := false
	passed, more := 0, true
	flush := func() error {
		if !want {
			return nil
		}
		entries, err := l.entries(ctx, values)
		if err != nil {
			return fmt.Errorf("state of an address in the list: %w", err)
		}
		values = values[:0]
		more, err = each(entries)
		return err
	}
	ended := true
	scanErr := l.states.Scan(start, nil, func(key, value []byte) bool {
		folded, _, _ := bytes.Cut(key, []byte{0})
		if string(folded) != current {
			if err = flush(); err != nil || !more || passed == maxAddresses || ctx.Err() != nil {
				ended = false
				return false
			}
			current = string(folded)
			want = wanted(current)
			passed++
		}
		if want {
			values = append(values, stored{spellingOf(key), bytes.Clone(value)})
		}
		return true
	})
	if err := errors.Join(scanErr, err, ctx.Err()); err != nil {
		return "", err
	}
	if !ended {
		return current, nil
	}
	return "", flush()
}

// asOf is when the list was last known to be complete; zero is unknown.
func (l *list) asOf() time.Time { return l.states.AsOf() }
