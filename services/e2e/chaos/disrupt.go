package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"mailriver/pkg/kafka/apachekafka"
)

// The services, as `mailriver` knows them.
const (
	receiver    = "receiver"
	normalizer  = "normalizer"
	loader      = "loader"
	suppression = "suppression"
	leadscoring = "leadscoring"
)

// instances is how many processes of each service there are.
func instances() []string {
	return []string{
		receiver, normalizer, normalizer, loader, loader, suppression, suppression, leadscoring, leadscoring,
	}
}

// kind is a kind of disruption. The aimed ones wait for their moment: they watch
// Kafka from outside, and nothing in the services helps them.
type kind struct {
	name    string
	times   int // in a deck: each kind is drawn so often before any comes again
	aimed   bool
	brokers bool   // it needs brokers that may be disrupted
	hold    [2]int // milliseconds, from and to, until what was stopped goes on
	do      act
}

// act makes one disruption. Hit means that an aimed one is known to have found
// its moment.
type act func(ctx context.Context, w *world, d disruption) (hit bool, err error)

// kinds is the deck.
func kinds() []kind {
	usual, pause := [2]int{0, 2500}, [2]int{500, 8000}
	var all []kind
	for _, service := range []string{receiver, normalizer, loader, suppression, leadscoring} {
		all = append(all,
			kind{name: service + ": SIGKILL", times: 1, hold: usual, do: toOne(service, (*world).kill)},
			kind{name: service + ": SIGSTOP, SIGCONT", times: 1, hold: pause, do: toOne(service, (*world).stop)},
			kind{name: service + ": SIGTERM, start", times: 1, hold: usual, do: toOne(service, (*world).restart)},
		)
	}
	for _, service := range []string{suppression, leadscoring} {
		all = append(all, kind{
			name: service + ": SIGKILL, start without its local copy", times: 1, aimed: true, hold: usual,
			do: func(ctx context.Context, w *world, d disruption) (bool, error) {
				return w.killAndForget(ctx, d, d.one(w.of(service)))
			},
		})
	}
	for _, writer := range []struct {
		service string
		topic   func(*world) string
	}{
		{normalizer, func(w *world) string { return w.topics.Events }},
		{suppression, func(w *world) string { return w.topics.Suppressions }},
		{leadscoring, func(w *world) string { return w.topics.LeadScores }},
	} {
		all = append(all, kind{
			name: "both of " + writer.service + ": SIGKILL between produce and end of transaction", times: 2, aimed: true, hold: usual,
			do: func(ctx context.Context, w *world, d disruption) (bool, error) {
				return w.killInTransaction(ctx, d, w.of(writer.service), writer.topic(w))
			},
		})
	}
	return append(all,
		kind{
			name: "both of loader: SIGKILL between insert and commit", times: 2, aimed: true, hold: usual,
			do: func(ctx context.Context, w *world, d disruption) (bool, error) {
				return w.killBeforeCommit(ctx, d, w.of(loader))
			},
		},
		kind{
			name: "one of a group: SIGSTOP for longer than the group waits, SIGCONT", times: 2, hold: [2]int{zombieHold, zombieHold + 1},
			do: func(ctx context.Context, w *world, d disruption) (bool, error) {
				return false, w.stop(ctx, d, d.one(w.processes[1:])) // all but the receiver
			},
		},
		kind{
			name: "ClickHouse: SIGKILL", times: 1, hold: usual,
			do: func(ctx context.Context, w *world, _ disruption) (bool, error) {
				return false, w.signalClickHouse(ctx, syscall.SIGKILL)
			},
		},
		kind{
			name: "ClickHouse: SIGSTOP, SIGCONT", times: 1, hold: pause,
			do: func(ctx context.Context, w *world, d disruption) (bool, error) {
				return false, w.stopClickHouse(ctx, d)
			},
		},
		kind{
			name: "ClickHouse: SIGKILL with a range pending", times: 1, aimed: true, hold: usual,
			do: func(ctx context.Context, w *world, d disruption) (bool, error) { return w.killInInsert(ctx, d) },
		},
		kind{name: "broker: SIGKILL", times: 1, brokers: true, hold: usual, do: toBroker((*apachekafka.Cluster).Kill, (*apachekafka.Cluster).Start)},
		kind{name: "broker: SIGSTOP, SIGCONT", times: 1, brokers: true, hold: pause, do: toBroker(signalBroker(syscall.SIGSTOP), signalBroker(syscall.SIGCONT))},
		kind{name: "broker: SIGTERM, start", times: 1, brokers: true, hold: usual, do: toBroker((*apachekafka.Cluster).Stop, (*apachekafka.Cluster).Start)},
	)
}

// disruption is one entry of the plan.
type disruption struct {
	kind   kind
	at     int           // not before so many events were posted
	which  int           // chooses among several targets
	hold   time.Duration // until what was stopped goes on
	wait   time.Duration // before it, or between its moment and the kill
	settle time.Duration // until the next one may come
}

// one is the process that a disruption of one of several is about.
func (d disruption) one(of []*process) *process { return of[d.which%len(of)] }

// toOne does something to one process of a service.
func toOne(service string, do func(*world, context.Context, disruption, *process) error) act {
	return func(ctx context.Context, w *world, d disruption) (bool, error) {
		return false, do(w, ctx, d, d.one(w.of(service)))
	}
}

// zombieHold is longer than the session timeout of a group member, 15 s, in
// milliseconds.
const zombieHold = 22_000

// plan draws the disruptions from the seed.
func plan(o options, brokers bool) []disruption {
	draw := rand.New(rand.NewPCG(o.seed, 0x6368616f73)) //nolint:gosec // G404: repeatable on purpose
	var deck []kind
	for _, k := range kinds() {
		for range k.times {
			if brokers || !k.brokers {
				deck = append(deck, k)
			}
		}
	}
	var list []disruption
	for len(list) < o.kills {
		for _, i := range draw.Perm(len(deck)) {
			if len(list) == o.kills {
				break
			}
			list = append(list, disruption{
				kind: deck[i], which: draw.IntN(1 << 16), hold: span(draw, deck[i].hold[0], deck[i].hold[1]),
				wait: span(draw, 0, 60), settle: span(draw, 100, 2000), at: o.events/100 + draw.IntN(o.events*97/100+1),
			})
		}
	}
	// The order of the kinds is the deck's, that of the places ascending.
	places := make([]int, len(list))
	for i, d := range list {
		places[i] = d.at
	}
	slices.Sort(places)
	for i := range list {
		list[i].at = places[i]
	}
	return list
}

func span(draw *rand.Rand, from, to int) time.Duration {
	return time.Duration(from+draw.IntN(to-from)) * time.Millisecond
}

// gate keeps the load and the disruptions in step: an event waits until every
// disruption whose place is before it has come, except the newest, which may
// need the load to find its moment.
type gate struct {
	plan []disruption

	mu      sync.Mutex
	events  int
	over    int // disruptions that are through
	load    bool
	changed chan struct{}
}

func newGate(plan []disruption) *gate {
	return &gate{plan: plan, load: true, changed: make(chan struct{})}
}

// until waits for ok, which is called with the lock held.
func (g *gate) until(ctx context.Context, ok func() bool) bool {
	for {
		g.mu.Lock()
		done, changed := ok(), g.changed
		g.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (g *gate) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

// pass lets the load go on with so many events, sooner or later.
func (g *gate) pass(ctx context.Context, events int) bool {
	g.change(func() { g.events = events })
	return g.until(ctx, func() bool {
		due := 0
		for due < len(g.plan) && g.plan[due].at <= events {
			due++
		}
		return g.over >= due-1
	})
}

// next waits until the next disruption may come.
func (g *gate) next(ctx context.Context, n int) bool {
	return g.until(ctx, func() bool { return g.events >= g.plan[n].at || !g.load })
}

func (g *gate) done()   { g.change(func() { g.over++ }) }
func (g *gate) finish() { g.change(func() { g.load = false }) }
func (g *gate) fired() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

// disrupt brings the plan about, one disruption after the other. What one of
// them stopped may go on only when the next ones have come.
func (w *world) disrupt(ctx context.Context, g *gate) error {
	for n, d := range g.plan {
		if !g.next(ctx, n) || !pause(ctx, d.wait) {
			return ctx.Err()
		}
		hit, err := d.kind.do(ctx, w, d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.kind.name, err)
		}
		w.mu.Lock()
		t := w.result.kinds[d.kind.name]
		if t == nil {
			t = &tally{aimed: d.kind.aimed}
			w.result.kinds[d.kind.name] = t
		}
		t.done++
		if hit {
			t.hit++
		}
		w.mu.Unlock()
		if !pause(ctx, d.settle) {
			return ctx.Err()
		}
		g.done()
	}
	return nil
}

// of returns the processes of a service.
func (w *world) of(service string) []*process {
	var list []*process
	for _, p := range w.processes {
		if p.service == service {
			list = append(list, p)
		}
	}
	return list
}

// claim waits until nothing else is done to the targets.
func (w *world) claim(ctx context.Context, names ...string) error {
	for {
		w.mu.Lock()
		free := !slices.ContainsFunc(names, func(name string) bool { return w.busy[name] })
		if free {
			for _, name := range names {
				w.busy[name] = true
			}
		}
		w.mu.Unlock()
		if free {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (w *world) release(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		delete(w.busy, name)
	}
}

// later undoes a disruption when its hold is over, or the run is.
func (w *world) later(ctx context.Context, hold time.Duration, undo func() error, names ...string) {
	w.holds.Go(func() {
		defer w.release(names...)
		pause(ctx, hold)
		if err := undo(); err != nil {
			fmt.Fprintln(w.out, "after a disruption:", err)
		}
	})
}

func names(list []*process) []string {
	var all []string
	for _, p := range list {
		all = append(all, p.name)
	}
	return all
}

func (w *world) kill(ctx context.Context, d disruption, p *process) error {
	if err := w.claim(ctx, p.name); err != nil {
		return err
	}
	err := p.end(syscall.SIGKILL, 10*time.Second)
	w.startLater(ctx, d, []*process{p})
	return err
}

// killAndForget takes the local copy away as well: it can be built again. It is
// a hit when there was one.
func (w *world) killAndForget(ctx context.Context, d disruption, p *process) (hit bool, err error) {
	if err := w.claim(ctx, p.name); err != nil {
		return false, err
	}
	err = p.end(syscall.SIGKILL, 10*time.Second)
	if files, readErr := os.ReadDir(p.data); readErr == nil {
		hit = len(files) > 0
	}
	err = errors.Join(err, os.RemoveAll(p.data))
	w.startLater(ctx, d, []*process{p})
	return hit, err
}

func killAll(list []*process) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, p := range list {
		wg.Go(func() { errs[i] = p.end(syscall.SIGKILL, 10*time.Second) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *world) startLater(ctx context.Context, d disruption, list []*process) {
	w.later(ctx, d.hold, func() error {
		var errs []error
		for _, p := range list {
			errs = append(errs, p.start())
		}
		return errors.Join(errs...)
	}, names(list)...)
}

func (w *world) stop(ctx context.Context, d disruption, p *process) error {
	if err := w.claim(ctx, p.name); err != nil {
		return err
	}
	err := p.signal(syscall.SIGSTOP)
	w.later(ctx, d.hold, func() error { return p.signal(syscall.SIGCONT) }, p.name)
	return err
}

func (w *world) restart(ctx context.Context, d disruption, p *process) error {
	if err := w.claim(ctx, p.name); err != nil {
		return err
	}
	// Stopping may take as long as what the service has in hand.
	w.later(ctx, 0, func() error {
		err := p.end(syscall.SIGTERM, 80*time.Second)
		pause(ctx, d.hold)
		return errors.Join(err, p.start())
	}, p.name)
	return nil
}

// aim is how long an aimed disruption looks for its moment before it strikes
// without.
const aim = 25 * time.Second

// watch polls until seen says so, and reports whether it did.
func watch(ctx context.Context, seen func(context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, aim)
	defer cancel()
	for !seen(ctx) {
		if !pause(ctx, time.Millisecond) {
			return false
		}
	}
	return true
}

// openTransaction reports whether a topic holds records of a transaction that
// has not ended.
func (w *world) openTransaction(ctx context.Context, topic string) bool {
	stable, err := w.admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return false
	}
	ends, err := w.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return false
	}
	open := false
	ends.Each(func(end kadm.ListedOffset) {
		last, known := stable.Lookup(end.Topic, end.Partition)
		open = open || known && end.Err == nil && last.Err == nil && last.Offset < end.Offset
	})
	return open
}

// killInTransaction kills all writers of a topic. It is a hit when a transaction
// is still open after they are gone.
func (w *world) killInTransaction(ctx context.Context, d disruption, writers []*process, topic string) (hit bool, err error) {
	if err := w.claim(ctx, names(writers)...); err != nil {
		return false, err
	}
	watch(ctx, func(ctx context.Context) bool { return w.openTransaction(ctx, topic) })
	err = killAll(writers)
	hit = w.openTransaction(ctx, topic)
	w.startLater(ctx, d, writers)
	return hit, err
}

// pending reports whether a loader has announced a range and not committed it.
func (w *world) pending(ctx context.Context) bool {
	committed, err := w.admin.FetchOffsets(ctx, w.prefix+loader)
	if err != nil {
		return false
	}
	found := false
	committed.Each(func(o kadm.OffsetResponse) { found = found || o.Topic == w.topics.Events && o.Metadata != "" })
	return found
}

// killBeforeCommit stops the brokers when a range is pending: then its insert
// goes on, and its commit cannot. It is a hit when rows came in meanwhile.
func (w *world) killBeforeCommit(ctx context.Context, d disruption, loaders []*process) (hit bool, err error) {
	claimed := names(loaders)
	if w.cluster != nil {
		claimed = append(claimed, brokerName)
	}
	if err := w.claim(ctx, claimed...); err != nil {
		return false, err
	}
	watch(ctx, w.pending)
	if w.cluster == nil {
		err = killAll(loaders)
	} else {
		hit, err = w.killWithoutBrokers(ctx, loaders)
		w.release(brokerName)
	}
	w.startLater(ctx, d, loaders)
	return hit, err
}

func (w *world) killWithoutBrokers(ctx context.Context, loaders []*process) (hit bool, err error) {
	errs := []error{w.signalBrokers(syscall.SIGSTOP)}
	const rows = "SELECT count() FROM mailriver.events"
	if before, err := w.number(ctx, rows); err == nil {
		watching, cancel := context.WithTimeout(ctx, 3*time.Second)
		hit = watch(watching, func(ctx context.Context) bool {
			now, err := w.number(ctx, rows)
			return err == nil && now > before
		})
		cancel()
	}
	errs = append(errs, killAll(loaders), w.signalBrokers(syscall.SIGCONT))
	return hit, errors.Join(errs...)
}

func (w *world) signalBrokers(s syscall.Signal) error {
	var errs []error
	for i := range w.cluster.Addrs() {
		errs = append(errs, w.cluster.Signal(i, s))
	}
	return errors.Join(errs...)
}

const clickHouseName = "clickhouse"

// signalClickHouse signals the process that ClickHouse runs in just now. It is
// started again by its parent.
func (w *world) signalClickHouse(ctx context.Context, s syscall.Signal) error {
	if err := w.claim(ctx, clickHouseName); err != nil {
		return err
	}
	defer w.release(clickHouseName)
	pid, err := w.clickHouse(ctx)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, s)
}

// clickHouse waits for the process while it is being started again.
func (w *world) clickHouse(ctx context.Context) (pid int, err error) {
	err = w.await(ctx, "ClickHouse", func() error {
		if pid = w.env.ClickHousePID(); pid == 0 {
			return errors.New("is being started")
		}
		return nil
	})
	return pid, err
}

func (w *world) stopClickHouse(ctx context.Context, d disruption) error {
	if err := w.claim(ctx, clickHouseName); err != nil {
		return err
	}
	pid, err := w.clickHouse(ctx)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGSTOP)
	}
	w.later(ctx, d.hold, func() error { return syscall.Kill(pid, syscall.SIGCONT) }, clickHouseName)
	return err
}

// killInInsert is a hit when the range is pending still after the kill.
func (w *world) killInInsert(ctx context.Context, d disruption) (hit bool, err error) {
	if err := w.claim(ctx, clickHouseName); err != nil {
		return false, err
	}
	defer w.release(clickHouseName)
	pid, err := w.clickHouse(ctx)
	if err != nil {
		return false, err
	}
	watch(ctx, w.pending)
	pause(ctx, d.wait) // some die before the insert has come, some within, some behind
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return false, err
	}
	return w.pending(ctx), nil
}

const brokerName = "broker"

// toBroker disrupts one broker. With three, the others go on.
func toBroker(do, undo func(c *apachekafka.Cluster, i int) error) act {
	return func(ctx context.Context, w *world, d disruption) (bool, error) {
		if err := w.claim(ctx, brokerName); err != nil {
			return false, err
		}
		i := d.which % len(w.cluster.Addrs())
		err := do(w.cluster, i)
		w.later(ctx, d.hold, func() error { return undo(w.cluster, i) }, brokerName)
		return false, err
	}
}

func signalBroker(s syscall.Signal) func(c *apachekafka.Cluster, i int) error {
	return func(c *apachekafka.Cluster, i int) error { return c.Signal(i, s) }
}
