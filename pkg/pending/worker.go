package pending

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// worker delivers the ranges of one partition, one after the other, from
// assignment to revocation.
type worker struct {
	c         *Consumer
	partition int32
	scope     string // of tokens
	again     *mark  // the range to deliver first, exactly as it was
	paused    bool   // guarded by Consumer.mu

	// ctx ends the work in hand. It is not the context of Run: shutdown lets a
	// range finish.
	ctx    context.Context
	cancel context.CancelFunc

	stopping  chan struct{} // closed: begin no further range
	stopOnce  sync.Once
	abandoned atomic.Bool // commit nothing any more
	done      chan struct{}
	wake      chan struct{} // something was added

	mu      sync.Mutex
	waiting []entry
	bytes   int       // of waiting
	held    held      // with the handler
	since   time.Time // when held was taken; zero without
	last    int64     // newest offset that came, or -1
}

type entry struct {
	record *kgo.Record
	came   time.Time
}

type held struct{ records, bytes int }

func newWorker(ctx context.Context, c *Consumer, partition int32, scope string) *worker {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &worker{
		c: c, partition: partition, scope: scope, ctx: ctx, cancel: cancel, last: -1,
		stopping: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

func (w *worker) stop() { w.stopOnce.Do(func() { close(w.stopping) }) }

func (w *worker) stopped() bool {
	select {
	case <-w.stopping:
		return true
	default:
		return false
	}
}

func (w *worker) abandon() {
	w.abandoned.Store(true)
	w.stop()
	w.cancel()
}

var errAbandoned = errors.New("the partition is not ours any more")

func (w *worker) mayCommit() error {
	if w.abandoned.Load() {
		return errAbandoned
	}
	return nil
}

// size is what a record costs to hold: its bytes and about what Go adds.
func size(r *kgo.Record) int {
	n := 256 + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 40 + len(h.Key) + len(h.Value)
	}
	return n
}

func (w *worker) add(records []*kgo.Record) error {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range records {
		if r.Offset <= w.last {
			// Records at offsets that came before with others: only an unclean
			// election does that. Beginning again from the committed offset is
			// the one safe thing to do.
			return fmt.Errorf("%s/%d went back from offset %d to %d", r.Topic, r.Partition, w.last, r.Offset)
		}
		w.last = r.Offset
		w.bytes += size(r)
		w.waiting = append(w.waiting, entry{r, now})
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// full reports whether the worker holds its share. A range that comes again is
// held whole, whatever the share is now.
func (w *worker) full(s share) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.again != nil && w.last < w.again.Last {
		return false
	}
	return len(w.waiting)+w.held.records >= s.records || w.bytes+w.held.bytes >= s.bytes
}

func (w *worker) addTo(s *Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Records += len(w.waiting) + w.held.records
	s.Bytes += w.bytes + w.held.bytes
	if !w.since.IsZero() {
		s.Pending++
		s.PendingAge = max(s.PendingAge, time.Since(w.since))
	}
}

func (w *worker) run(client *kgo.Client) {
	defer close(w.done)
	defer w.cancel()
	for {
		r, records, ok := w.next()
		if !ok || !w.deliver(client, r, records) {
			return
		}
		w.mu.Lock()
		w.held, w.since = held{}, time.Time{}
		w.mu.Unlock()
		w.c.mu.Lock()
		w.c.pauseLocked(w)
		w.c.mu.Unlock()
	}
}

// next waits until a range is complete, or the worker is stopped.
func (w *worker) next() (Range, []*kgo.Record, bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if w.stopped() {
			return Range{}, nil, false
		}
		n, wait := w.ready(w.c.complete())
		if n > 0 {
			r, records := w.takeFirst(n)
			return r, records, true
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-w.wake:
		case <-due:
		case <-w.stopping:
		}
	}
}

// ready returns how many of the waiting records are the next range, or how long
// until they are one by age; zero for until more come.
func (w *worker) ready(complete share) (n int, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return 0, 0
	}
	if w.again != nil {
		if w.last < w.again.Last {
			return 0, 0
		}
		for n < len(w.waiting) && w.waiting[n].record.Offset <= w.again.Last {
			n++
		}
		if n > 0 {
			return n, 0
		}
		// Retention removed it between the assignment and the first fetch.
		w.c.deps.Logger.Error("nothing is left of a pending range; unless it went in before, it is lost",
			"partition", w.partition, "first", w.again.First, "last", w.again.Last)
		w.again = nil
	}
	bytes := 0
	for n < len(w.waiting) && n < complete.records {
		bytes += size(w.waiting[n].record)
		if n > 0 && bytes > complete.bytes {
			return n, 0
		}
		n++
	}
	if n >= complete.records || bytes >= complete.bytes {
		return n, 0
	}
	if wait = w.c.cfg.MaxWait - time.Since(w.waiting[0].came); wait <= 0 {
		return n, 0
	}
	return 0, wait
}

// takeFirst takes the first n waiting records as a range.
func (w *worker) takeFirst(n int) (Range, []*kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = w.waiting[i].record
		w.held.bytes += size(records[i])
	}
	w.held.records = n
	w.since = w.waiting[0].came
	w.bytes -= w.held.bytes
	w.waiting = append([]entry(nil), w.waiting[n:]...) // lets go of the taken ones

	first, last := records[0], records[n-1]
	r := Range{Topic: w.c.topic, Partition: w.partition, First: first.Offset, Last: last.Offset}
	if w.again != nil {
		r.First, r.Last, r.Token, r.Again = w.again.First, w.again.Last, w.again.Token, true
		w.again = nil
	} else {
		r.Token = token(w.scope, w.partition, first.LeaderEpoch, r.First, r.Last)
	}
	return r, records
}

// deliver brings a range to its end, and reports whether the next one may
// begin. If not, it is pending for the partition's next owner.
func (w *worker) deliver(client *kgo.Client, r Range, records []*kgo.Record) bool {
	first, last := records[0], records[len(records)-1]
	if !r.Again {
		at := kgo.EpochOffset{Epoch: first.LeaderEpoch, Offset: r.First}
		if !w.note(client, r, at) {
			return false
		}
	}
	if !w.persist(r, "deliver it", true, func(context.Context) error {
		select {
		case w.c.slots <- struct{}{}:
			defer func() { <-w.c.slots }()
		case <-w.stopping:
			return errAbandoned
		}
		err := w.c.deps.Handler.Handle(w.ctx, r, records)
		r.Again = true
		return err
	}) {
		return false
	}
	at := kgo.EpochOffset{Epoch: last.LeaderEpoch, Offset: r.Last + 1}
	return w.persist(r, "commit it", false, func(ctx context.Context) error {
		return commit(ctx, client, r.Topic, r.Partition, at, "", w.mayCommit)
	})
}

var errFenced = errors.New("somebody replaces what it goes into")

// note puts a range into the committed metadata while the fence is open, and
// reports whether it stands there. See [Fence].
func (w *worker) note(client *kgo.Client, r Range, at kgo.EpochOffset) bool {
	put := func(metadata string) func(context.Context) error {
		return func(ctx context.Context) error {
			return commit(ctx, client, r.Topic, r.Partition, at, metadata, w.mayCommit)
		}
	}
	m := mark{First: r.First, Last: r.Last, Token: r.Token}
	for {
		if !w.persist(r, "note it as pending", true, put(m.String())) {
			return false
		}
		if w.c.deps.Fence == nil {
			return true
		}
		closed := false
		look := func(ctx context.Context) (err error) {
			closed, err = w.c.deps.Fence.Closed(ctx)
			return err
		}
		if !w.persist(r, "look at the fence", true, look) {
			return false // the note stands, and the range comes again
		}
		if !closed {
			return true
		}
		if !w.persist(r, "take the note back", false, put("")) {
			return false
		}
		wait := func(ctx context.Context) error {
			if err := look(ctx); err != nil || !closed {
				return err
			}
			return errFenced
		}
		if !w.persist(r, "wait for the fence", true, wait) {
			return false
		}
	}
}

// commitTimeout bounds one commit. It is far above what a broker takes and below
// any rebalance timeout, because a commit holds up a rebalance.
const commitTimeout = 10 * time.Second

// persist tries until it succeeds or the worker must end: with yield, when it is
// asked to stop, and else when it is abandoned.
func (w *worker) persist(r Range, what string, yield bool, try func(context.Context) error) bool {
	pause := w.c.cfg.RetryMin
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithTimeout(w.ctx, commitTimeout)
		err := try(ctx)
		cancel()
		if err == nil {
			return true
		}
		if w.ctx.Err() != nil || yield && w.stopped() {
			return false
		}
		w.c.deps.Logger.WarnContext(w.ctx, "a range does not get on, trying again", "step", what,
			"partition", r.Partition, "first", r.First, "last", r.Last, "attempt", attempt, "err", err)
		var stopping <-chan struct{}
		if yield {
			stopping = w.stopping
		}
		// Half of the pause is chance, so that partitions do not knock in step.
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-stopping:
		case <-w.ctx.Done():
		}
		timer.Stop()
		if w.ctx.Err() != nil || yield && w.stopped() {
			return false
		}
		pause = min(2*pause, w.c.cfg.RetryMax)
	}
}
