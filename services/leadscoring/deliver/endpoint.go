package deliver

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"mailriver/pkg/webhook"
)

// item is a pending delivery in memory.
type item struct {
	Delivery
	origin string // of the record that says so
}

// lane holds the pending deliveries of one recipient at one endpoint, in the
// order of the signals. Only its first one is ever in hand.
type lane struct {
	session   *session
	recipient string
	items     []*item
	at        int // in the heap; -1 while its first is in hand
	dropped   bool
}

func (l *lane) first() *item { return l.items[0] }

// lanes is a heap by when the first delivery of each is due.
type lanes []*lane

func (h lanes) Len() int           { return len(h) }
func (h lanes) Less(i, j int) bool { return h[i].first().NextAt.Before(h[j].first().NextAt) }
func (h lanes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *lanes) Push(x any) {
	l := x.(*lane)
	l.at = len(*h)
	*h = append(*h, l)
}

// Pop implements heap.Interface.
func (h *lanes) Pop() any {
	last := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	last.at = -1
	return last
}

type laneKey struct {
	partition int32
	recipient string
}

// endpoint sends to one endpoint, for all partitions that the instance owns. It
// has its own loop, so that one that hangs holds nothing up but itself.
type endpoint struct {
	name     string
	config   *webhook.Endpoint // nil when it is not configured any more
	client   *webhook.Client   // nil as well
	schedule Schedule
	metrics  *metrics
	now      func() time.Time
	wake     chan struct{} // holds one

	mu      sync.Mutex
	lanes   map[laneKey]*lane
	due     lanes
	breaker webhook.Breaker
	paused  time.Time // until then, by its Retry-After
	gone    bool      // it answered 410
	flying  int
	swept   time.Time // when the lanes were last searched for what is too old
}

func (e *endpoint) stir() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// idle is how long the loop sleeps when nothing is due.
const idle = time.Minute

// run hands out deliveries until ctx ends.
func (e *endpoint) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		case <-timer.C:
		}
		timer.Reset(e.dispatch(ctx))
	}
}

// dispatch begins what is due, and returns when to look again.
func (e *endpoint) dispatch(ctx context.Context) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ctx.Err() == nil && e.flying < e.schedule.InFlight && len(e.due) > 0 {
		now, l := e.now(), e.due[0]
		it := l.first()
		if it.NextAt.After(now) {
			return it.NextAt.Sub(now)
		}
		if e.gone && it.Round == 0 {
			e.begin(l, func(ctx context.Context) {
				e.settle(ctx, l, it, settled(it.Delivery, Skipped, "endpoint answered 410 Gone before", now))
			})
			continue
		}
		ok, probe, again := e.admit(now)
		if !ok {
			e.sweep(now)
			return again
		}
		e.begin(l, func(ctx context.Context) { e.attempt(ctx, l, it, probe) })
	}
	return idle
}

// admit reports whether the endpoint may be sent anything now, and if not, when
// to ask again.
func (e *endpoint) admit(now time.Time) (ok, probe bool, again time.Duration) {
	if e.client == nil {
		return false, false, idle
	}
	if e.paused.After(now) {
		return false, false, min(e.paused.Sub(now), idle)
	}
	ok, probe, at := e.breaker.Allow(now)
	if !ok && !at.IsZero() {
		return false, false, min(at.Sub(now), idle)
	}
	return ok, probe, idle // the probe wakes the loop when it is done
}

// begin takes the first delivery of a lane in hand. The caller holds mu.
func (e *endpoint) begin(l *lane, work func(context.Context)) {
	heap.Remove(&e.due, l.at)
	e.flying++
	l.session.flying.Add(1)
	go func() {
		defer l.session.flying.Done()
		work(l.session.attempts)
	}()
}

// perSweep bounds how many deliveries are given up at one time.
const perSweep = 256

// sweep gives up what is too old, while nothing can be sent. It looks at all
// lanes, and so not often. The caller holds mu.
func (e *endpoint) sweep(now time.Time) {
	if now.Before(e.swept.Add(min(idle, e.schedule.GiveUpAfter))) {
		return
	}
	why := "endpoint is out of order"
	if e.client == nil {
		why = "endpoint is not configured"
	}
	for _, l := range slices.Clone(e.due) {
		it := l.first()
		if !e.schedule.expired(&it.Delivery, now) {
			continue
		}
		if e.flying >= perSweep {
			return // those that are done wake the loop
		}
		e.begin(l, func(ctx context.Context) {
			e.settle(ctx, l, it, settled(it.Delivery, DeadLetter, why, now))
		})
	}
	e.swept = now
}

// attempt sends a delivery once.
func (e *endpoint) attempt(ctx context.Context, l *lane, it *item, probe bool) {
	body, err := e.config.Body(&it.Signal)
	if err != nil { // a score that is no number
		e.mu.Lock()
		e.breaker.Forget(probe)
		e.mu.Unlock()
		e.settle(ctx, l, it, settled(it.Delivery, DeadLetter, "body: "+err.Error(), e.now()))
		return
	}
	result := e.client.Send(ctx, it.Signal.ID, body)
	if ctx.Err() != nil && result.Outcome != webhook.Delivered {
		// The partition goes to another instance: no outcome of the endpoint's.
		e.mu.Lock()
		e.breaker.Forget(probe)
		e.mu.Unlock()
		e.put(l, nil)
		return
	}
	e.metrics.attempt(ctx, e.name, result)
	now := e.now()
	e.heard(result, probe, now)
	e.settle(ctx, l, it, e.schedule.after(it.Delivery, result, now, rand.Float64()))
}

// heard keeps what an answer tells about the endpoint.
func (e *endpoint) heard(r webhook.Result, probe bool, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Outcome == webhook.Unsent {
		e.breaker.Forget(probe) // ours
	} else {
		e.breaker.Done(probe, r.Up(), now, rand.Float64())
	}
	if until := now.Add(min(r.Wait, e.schedule.MaxAsked)); r.Wait > 0 && until.After(e.paused) {
		e.paused = until
	}
	if r.Outcome == webhook.Gone {
		e.gone = true
	}
}

// settle writes what became of a delivery and then lets its lane go on. What
// cannot be written has not happened: the session ends, and the next one begins
// from the topic.
func (e *endpoint) settle(ctx context.Context, l *lane, it *item, d Delivery) {
	origin, err := l.session.settle(it, d, e)
	if err != nil {
		e.put(l, nil)
		return
	}
	e.metrics.settled(ctx, &d)
	e.put(l, &item{d, origin})
}

// put brings a lane back whose first delivery has become this one. Nil is one
// that could not be settled.
func (e *endpoint) put(l *lane, it *item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.stir()
	e.flying--
	switch {
	case l.dropped:
		return
	case it != nil && it.State == Pending:
		l.items[0] = it
	case it != nil:
		l.items = l.items[1:]
	default:
		// The session is about to drop the lane. Until then it stays in hand, and
		// out of the heap.
		return
	}
	if len(l.items) == 0 {
		delete(e.lanes, laneKey{l.session.partition, l.recipient})
		return
	}
	heap.Push(&e.due, l)
}

// add puts a pending delivery where it belongs. One that is there already is
// replaced, unless it is in hand: the attempt that was asked for is being made.
func (e *endpoint) add(s *session, it *item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.stir()
	key := laneKey{s.partition, it.Signal.Recipient}
	l := e.lanes[key]
	if l == nil {
		l = &lane{session: s, recipient: it.Signal.Recipient, at: -1}
		l.items = append(l.items, it)
		e.lanes[key] = l
		heap.Push(&e.due, l)
		return
	}
	inHand := l.at < 0
	for i, known := range l.items {
		if known.ID() != it.ID() {
			continue
		}
		if i > 0 || !inHand {
			l.items[i] = it
		}
		if !inHand {
			heap.Fix(&e.due, l.at)
		}
		return
	}
	i, _ := slices.BinarySearchFunc(l.items, it, func(a, b *item) int { return int(min(1, max(-1, a.Offset-b.Offset))) })
	if inHand {
		i = max(i, 1)
	}
	l.items = slices.Insert(l.items, i, it)
	if !inHand {
		heap.Fix(&e.due, l.at)
	}
}

// drop forgets the lanes of a session. Its deliveries in hand go on.
func (e *endpoint) drop(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, l := range e.lanes {
		if l.session != s {
			continue
		}
		l.dropped = true
		if l.at >= 0 {
			heap.Remove(&e.due, l.at)
		}
		delete(e.lanes, key)
	}
}

// disableIf disables the endpoint by a mark, if that is about the configuration
// of today.
func (e *endpoint) disableIf(m mark) {
	if e.config == nil || e.config.Fingerprint() != m.Fingerprint {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	e.stir()
}

// standing is what is told of an endpoint.
type standing struct {
	pending int
	oldest  time.Duration
	breaker webhook.BreakerState
	gone    bool
}

func (e *endpoint) standing() standing {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	s := standing{breaker: e.breaker.State(now), gone: e.gone}
	for _, l := range e.lanes {
		s.pending += len(l.items)
		for _, it := range l.items {
			s.oldest = max(s.oldest, now.Sub(it.Since))
		}
	}
	return s
}
