package leadscoring

import (
	"cmp"
	"context"
	"log/slog"
	"runtime/debug"
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
	glance      *leadavro.Glance
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
		rules: s.rules, fingerprint: s.rules.Fingerprint(), glance: leadavro.NewGlance(s.deps.Schemas),
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

// source is where a state was read.
type source struct {
	offset    int64
	partition int32
}

// copied is the local copy.
var copied = source{partition: -1} //nolint:gochecknoglobals // a constant, if structs could be

func (s source) topic() bool { return s.partition >= 0 }

// note takes in a record of the topic of scores. It is called by several
// goroutines, before the local copy has the record.
func (x *index) note(ctx context.Context, r *kgo.Record) {
	if err := x.take(ctx, r.Key, r.Value, source{r.Offset, r.Partition}); err != nil {
		x.complete.Store(false)
		select {
		case x.again <- struct{}{}:
		default: // it is told already
		}
	}
}

// take files a lead. A state that cannot be read has no place; whoever asks for
// that lead hears why. Other errors are those of the schema registry.
func (x *index) take(ctx context.Context, key, value []byte, from source) error {
	if x.glance.InNoStage(ctx, value, x.fingerprint) {
		for _, r := range x.rankings {
			r.drop(key, from)
		}
		return nil
	}
	standings, err := x.standings(ctx, value)
	if _, permanent := fault.Reason(err); err != nil && !permanent {
		return err
	}
	now, recipient := x.now(), string(key)
	for _, r := range x.rankings {
		at := slices.IndexFunc(standings, func(s lead.Standing) bool { return s.Profile == r.profile })
		if at < 0 || x.rules.StandingAt(standings[at], now).Stage == "" {
			r.drop(key, from)
			continue
		}
		r.put(r.entry(x.rules, recipient, standings[at], from),
			func(e *entry) bool { return x.rules.StandingAt(r.standing(e), now).Stage == "" })
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
	first := true
	for {
		var unread error
		err := states.Scan(nil, nil, func(key, value []byte) bool {
			if unread = ctx.Err(); unread == nil {
				unread = x.take(ctx, key, value, copied)
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
			if first {
				// What was read of the copy on the way is garbage by now.
				debug.FreeOSMemory()
				first = false
			}
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
// There may be a million of them, so it is small, and the only thing that holds
// the recipient.
type entry struct {
	place
	score float64
	at    int64 // of the score, in microseconds
	source
	stage int8 // its number in the profile; -1 is one that the profile has not
}

func compareEntries(a, b *entry) int { return comparePlaces(a.place, b.place) }

// ranking holds the leads of one profile. Its methods may be called by several
// goroutines.
type ranking struct {
	profile string
	stages  []string

	mu      sync.RWMutex
	order   *btreemap.BTreeMap[*entry, struct{}]
	entries map[string]*entry // by recipient
	puts    int               // since the last prune
}

func newRanking(p lead.Profile) *ranking {
	r := &ranking{profile: p.Name, order: btreemap.New[*entry, struct{}](32, compareEntries), entries: map[string]*entry{}}
	for _, stage := range p.Stages {
		r.stages = append(r.stages, stage.Name)
	}
	return r
}

// entry is how a standing is held.
func (r *ranking) entry(rules *lead.Set, recipient string, s lead.Standing, from source) *entry {
	return &entry{
		place: place{rules.Rank(s), recipient}, score: s.Score, at: s.At.UnixMicro(),
		stage: int8(slices.Index(r.stages, s.Stage)), source: from,
	}
}

// standing is what an entry was made of. Standings have no more than microseconds.
func (r *ranking) standing(e *entry) lead.Standing {
	s := lead.Standing{Profile: r.profile, Score: e.score, At: time.UnixMicro(e.at).UTC()}
	if e.stage >= 0 {
		s.Stage = r.stages[e.stage]
	}
	return s
}

// newer reports whether what is known about a recipient is from behind a source.
// The topic knows better than the copy, which follows it.
func (r *ranking) newer(known *entry, than source) bool {
	if known == nil {
		return false
	}
	return !than.topic() || known.partition == than.partition && known.offset > than.offset
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
		r.order.Delete(known)
	}
	r.order.ReplaceOrInsert(e, struct{}{})
	r.entries[e.recipient] = e
	if r.puts++; r.puts < pruneEvery {
		return
	}
	r.puts = 0
	// All scores halve alike, so those who left the last stage by time alone have
	// the lowest ranks.
	for last, _, ok := r.order.Max(); ok && gone(last); last, _, ok = r.order.Max() {
		r.remove(last)
	}
}

// drop forgets a recipient unless something newer is known.
func (r *ranking) drop(recipient []byte, from source) {
	r.mu.RLock()
	known := r.entries[string(recipient)]
	r.mu.RUnlock()
	if known == nil { // as nearly always
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known = r.entries[string(recipient)]; known != nil && !r.newer(known, from) {
		r.remove(known)
	}
}

// remove forgets an entry. The caller holds mu.
func (r *ranking) remove(e *entry) {
	r.order.Delete(e)
	delete(r.entries, e.recipient)
}

// correct makes an entry what the local copy says, or forgets it where that says
// nothing. Positions are those of the copy before it was asked: an entry from
// behind them is newer than the answer.
func (r *ranking) correct(e, truth *entry, positions map[int32]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries[e.recipient] != e || e.topic() && e.offset >= positions[e.partition] {
		return
	}
	r.remove(e)
	if truth != nil {
		r.order.ReplaceOrInsert(truth, struct{}{})
		r.entries[truth.recipient] = truth
	}
}

// behind returns the next entries behind a place, at most limit, that want lets
// through; nil is the first place. It looks at no more than most, and returns the
// last place that it looked at, and whether there may be more behind it.
func (r *ranking) behind(from *place, limit, most int, want func(*entry) (yes, more bool)) (found []*entry, last *place, more bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	start := btreemap.Min[*entry]()
	if from != nil {
		start = btreemap.GT(&entry{place: *from})
	}
	last = from
	for e := range r.order.Ascend(start, btreemap.Max[*entry]()) {
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
