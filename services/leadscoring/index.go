package leadscoring

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/RaduBerinde/btreemap"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/replica"
)

// index finds the leads that are in a stage, best first. It is in memory and is
// made anew at each start.
//
// It says where to look, not what is true: it may hold leads that are in no stage
// any more, and lacks none that is in one. So records may reach it in any order
// and more than once, and whoever reads it asks the local copy about each lead.
type index struct {
	rules       *lead.Set
	fingerprint string
	head, whole *leadavro.Decoder
	rankings    []*ranking // one for each profile
	retryWait   time.Duration
	log         *slog.Logger
	now         func() time.Time

	// complete is set when all of the local copy was looked at, and unset when a
	// record could not be. Again then wakes the one who looks.
	complete atomic.Bool
	again    chan struct{}
}

func newIndex(s *Service) *index {
	x := &index{
		rules: s.rules, fingerprint: s.rules.Fingerprint(),
		head: leadavro.NewHeadDecoder(s.deps.Schemas), whole: leadavro.NewDecoder(s.deps.Schemas),
		retryWait: s.cfg.RetryWait, log: s.deps.Logger, now: s.deps.Now, again: make(chan struct{}, 1),
	}
	for _, p := range s.rules.Profiles() {
		x.rankings = append(x.rankings, newRanking(p))
	}
	return x
}

// ranking returns that of a profile.
func (x *index) ranking(profile string) (*ranking, bool) {
	for _, r := range x.rankings {
		if r.profile == profile {
			return r, true
		}
	}
	return nil, false
}

// source is where a state was read. The zero value is the local copy.
type source struct {
	topic     bool
	partition int32
	offset    int64
}

// note takes in a record of the topic of scores. It is called by several
// goroutines, before the local copy has the record.
func (x *index) note(ctx context.Context, r *kgo.Record) {
	if err := x.take(ctx, string(r.Key), r.Value, source{true, r.Partition, r.Offset}); err != nil {
		x.complete.Store(false)
		select {
		case x.again <- struct{}{}:
		default: // it is told already
		}
	}
}

// take files a lead. A state that cannot be read has no place; whoever asks for
// that lead hears why. Other errors are those of the schema registry.
func (x *index) take(ctx context.Context, recipient string, value []byte, from source) error {
	standings, err := x.standings(ctx, value)
	if _, permanent := fault.Reason(err); err != nil && !permanent {
		return err
	}
	now := x.now()
	for _, r := range x.rankings {
		at := slices.IndexFunc(standings, func(s lead.Standing) bool { return s.Profile == r.profile })
		if at < 0 || x.rules.StandingAt(standings[at], now).Stage == "" {
			r.drop(recipient, from)
			continue
		}
		r.put(&entry{
			place:    place{x.rules.Rank(standings[at]), recipient},
			standing: r.own(standings[at]), source: from,
		}, func(e *entry) bool { return x.rules.StandingAt(e.standing, now).Stage == "" })
	}
	return nil
}

// standings are those of the rules in force. A record that was removed has none.
func (x *index) standings(ctx context.Context, value []byte) ([]lead.Standing, error) {
	if value == nil {
		return nil, nil
	}
	record, err := x.head.Decode(ctx, value)
	if err == nil && record.Rules != x.fingerprint {
		// Made by other rules: of an instance or a time that had them.
		if record, err = x.whole.Decode(ctx, value); err == nil {
			record.Standings = x.rules.Standings(&record.State)
		}
	}
	if err != nil {
		return nil, err
	}
	return record.Standings, nil
}

// build looks at all of the copy, and again after a record could not be read. It
// returns when ctx ends, and on an error of the copy.
func (x *index) build(ctx context.Context, states *replica.Copy) error {
	for {
		var unread error
		err := states.Scan(nil, nil, func(key, value []byte) bool {
			if unread = ctx.Err(); unread == nil {
				unread = x.take(ctx, string(key), value, source{})
			}
			return unread == nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case unread != nil:
			x.log.WarnContext(ctx, "leads cannot be put in order, trying again", "err", unread)
		default:
			x.complete.Store(true)
			select {
			case <-x.again:
			case <-ctx.Done():
				return nil
			}
			x.complete.Store(false)
			x.log.WarnContext(ctx, "a lead could not be read, putting all in order again")
		}
		select {
		case <-time.After(x.retryWait):
		case <-ctx.Done():
			return nil
		}
	}
}

// place is where a lead stands in a ranking: best first, and of equal ones in the
// order of their addresses.
type place struct {
	rank      float64
	recipient string
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.recipient, b.recipient))
}

// entry is a lead in a ranking. It is never changed: a new one takes its place.
type entry struct {
	place
	standing lead.Standing
	source   source
}

// ranking holds the leads of one profile. Its methods may be called by several
// goroutines.
type ranking struct {
	profile string
	stages  []string

	mu      sync.RWMutex
	order   *btreemap.BTreeMap[place, *entry]
	entries map[string]*entry // by recipient
	puts    int               // since the last prune
}

func newRanking(p lead.Profile) *ranking {
	r := &ranking{profile: p.Name, order: btreemap.New[place, *entry](32, comparePlaces), entries: map[string]*entry{}}
	for _, stage := range p.Stages {
		r.stages = append(r.stages, stage.Name)
	}
	return r
}

// own replaces words by those of the profile, so that a million leads do not hold
// a million times the same.
func (r *ranking) own(standing lead.Standing) lead.Standing {
	standing.Profile = r.profile
	if at := slices.Index(r.stages, standing.Stage); at >= 0 {
		standing.Stage = r.stages[at]
	}
	return standing
}

// newer reports whether what is known about a recipient is from behind a source.
// The topic knows better than the copy, which follows it.
func (r *ranking) newer(known *entry, than source) bool {
	if known == nil {
		return false
	}
	return !than.topic || known.source.topic && known.source.partition == than.partition && known.source.offset > than.offset
}

// pruneEvery is how many leads come in until those who faded away are dropped.
const pruneEvery = 4096

// put files an entry unless a newer one is there. Now and then it drops those
// that are gone, as gone says.
func (r *ranking) put(e *entry, gone func(*entry) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.entries[e.recipient]
	if r.newer(known, e.source) {
		return
	}
	if known != nil {
		r.order.Delete(known.place)
	}
	r.order.ReplaceOrInsert(e.place, e)
	r.entries[e.recipient] = e
	if r.puts++; r.puts < pruneEvery {
		return
	}
	r.puts = 0
	// All scores halve alike, so those who left the last stage by time alone have
	// the lowest ranks.
	for _, last, ok := r.order.Max(); ok && gone(last); _, last, ok = r.order.Max() {
		r.remove(last)
	}
}

// drop forgets a recipient unless something newer is known.
func (r *ranking) drop(recipient string, from source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.entries[recipient]; known != nil && !r.newer(known, from) {
		r.remove(known)
	}
}

// remove forgets an entry. The caller holds mu.
func (r *ranking) remove(e *entry) {
	r.order.Delete(e.place)
	delete(r.entries, e.recipient)
}

// correct makes an entry what the local copy says, or forgets it where that says
// nothing. Positions are those of the copy before it was asked: an entry from
// behind them is newer than the answer.
func (r *ranking) correct(e, truth *entry, positions map[int32]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries[e.recipient] != e || e.source.topic && e.source.offset >= positions[e.source.partition] {
		return
	}
	r.remove(e)
	if truth != nil {
		r.order.ReplaceOrInsert(truth.place, truth)
		r.entries[truth.recipient] = truth
	}
}

// behind returns the next entries behind a place, at most limit, that want lets
// through; nil is the first place. It looks at no more than most, and returns the
// last place that it looked at, and whether there may be more behind it.
func (r *ranking) behind(from *place, limit, most int, want func(*entry) (yes, more bool)) (found []*entry, last *place, more bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	start := btreemap.Min[place]()
	if from != nil {
		start = btreemap.GT(*from)
	}
	last = from
	for _, e := range r.order.Ascend(start, btreemap.Max[place]()) {
		if len(found) == limit || most == 0 {
			return found, last, true
		}
		yes, on := want(e)
		if !on {
			return found, last, false
		}
		if yes {
			found = append(found, e)
		}
		last, most = &e.place, most-1
	}
	return found, last, false
}
