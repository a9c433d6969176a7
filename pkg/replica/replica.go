// Package replica keeps a local copy of a compacted topic: the latest entry of
// each key, on the disk of every instance that asks for it, in Pebble.
//
// A copy is followed by [Copy.Run], which continues at stored positions after a
// restart, and can be deleted at any time: the topic fills it again. It starts
// over by itself when what it holds may no longer be what the topic says: the
// topic was deleted and made again, it lost records, or the copy was not
// followed for so long that deletions may be gone from the topic.
//
// Readers see what was followed so far; [Copy.AsOf] says how old that is. An
// owner that derives new entries from old ones, and publishes them in
// transactions, waits with [Copy.Complete] and reads with [Copy.Current].
//
// It does not write to the topic, decides nothing about ownership, and gives no
// consistent snapshot over several reads.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/kafka"
)

// Config says what is copied, and where to. Topic and Dir are required.
type Config struct {
	Topic string
	Dir   string // belongs to one copy and one process
	// Format names what Map makes of a record. A copy made in another format is
	// made again.
	Format string
	// Prefixed says that keys are a prefix, a zero byte and a rest, and that
	// [Copy.Lookup] is asked for prefixes. The bloom filters then hold prefixes.
	// A folder keeps the choice it was made with.
	Prefixed bool
	// Filter keeps in memory which prefixes have no entry, for a copy that is
	// mostly asked for such: 1.5 to 3 bytes for each prefix that has, from a
	// million on. After a restart it takes one reading of the copy, during which
	// look-ups are answered as without it.
	Filter bool
	// CacheBytes and MemTableBytes bound memory. 0 is 64 MiB and 16 MiB.
	CacheBytes, MemTableBytes int64
	// RetryWait is the pause after an error of Kafka. 0 is one second.
	RetryWait time.Duration
	// AskEvery is how often the broker is asked where the topic ends. 0 is one
	// second.
	AskEvery time.Duration
	// MaxAway is for how long a copy may go without being complete before it
	// starts over: compaction forgets deletions, and one that was never read
	// would leave its entry here for ever. It must be below the topic's
	// delete.retention.ms (a day by default) and above what it takes to read the
	// topic. 0 is for ever, for a topic without deletions.
	MaxAway time.Duration
}

// Deps are a copy's collaborators. All are required.
type Deps struct {
	// Map says what a record is locally. A nil value deletes the key, and an
	// empty key leaves the record out. It is called by several goroutines. A
	// record with which it returns an error is left out too: logged and counted.
	Map func(*kgo.Record) (key, value []byte, err error)
	// Reader returns a client without a group that reads committed.
	Reader func(opts ...kgo.Opt) (*kgo.Client, error)
	Admin  func() (*kadm.Client, error)
	Meter  metric.Meter
	Logger *slog.Logger
	Now    func() time.Time
}

// Copy is the local copy of a topic. Its methods may be called by several
// goroutines; Run by one at a time.
type Copy struct {
	cfg     Config
	deps    Deps
	store   *store
	metrics *metrics

	mu       sync.Mutex
	id       kadm.TopicID    // of the topic that is copied; zero before the first
	position map[int32]int64 // offset read next
	moved    chan struct{}   // closed and replaced when any of these fields changes
	discards int             // how often the copy started over
	begun    time.Time       // when the copy began at the start of the topic
	asOf     time.Time
	mark     *mark           // the next asOf, while it is not reached
	ends     map[int32]int64 // as last heard from the broker
	own      overlay

	// Input partitions of an owner: how often each was assigned, and at which of
	// these times the copy was last complete.
	assigned, complete map[int32]int
}

// mark is where the topic ended at a moment: a copy that is read to there holds
// all that was committed then.
type mark struct {
	at   time.Time
	ends map[int32]int64
}

// Open opens the copy, or makes an empty one. It does not connect.
func Open(cfg Config, deps Deps) (*Copy, error) {
	if cfg.Topic == "" || cfg.Dir == "" || deps.Map == nil || deps.Reader == nil || deps.Admin == nil ||
		deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("replica: a dependency is missing")
	}
	setDefault(&cfg.CacheBytes, 64<<20)
	setDefault(&cfg.MemTableBytes, 16<<20)
	setDefault(&cfg.RetryWait, time.Second)
	setDefault(&cfg.AskEvery, time.Second)
	deps.Logger = deps.Logger.With("topic", cfg.Topic)
	s, err := openStore(cfg, deps.Logger)
	if err != nil {
		return nil, err
	}
	c := &Copy{
		cfg: cfg, deps: deps, store: s,
		position: map[int32]int64{}, moved: make(chan struct{}), own: newOverlay(),
		assigned: map[int32]int{}, complete: map[int32]int{},
	}
	state, err := s.state()
	if err == nil {
		c.id, c.begun, c.asOf = state.id, state.begun, state.asOf
		c.metrics, err = newMetrics(c)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return c, nil
}

func setDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// Close waits for reads in hand and closes the store. Run must have returned.
func (c *Copy) Close() error {
	return errors.Join(c.metrics.stop(), c.store.close())
}

// AsOf is the moment at which the copy was last known to be complete: it held
// all that was committed then. It is zero before the first time, also after the
// copy started over, and stands still while the broker cannot be asked. A reader
// that wants to know how old an answer is asks after it has the answer: then a
// copy that is emptied between the two counts as empty.
func (c *Copy) AsOf() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asOf
}

// Positions are the offsets before which every record is in the copy. They are
// empty until Run has heard from the broker.
func (c *Copy) Positions() map[int32]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.position)
}

// Moved is closed when Positions or AsOf have changed. Ask for it before them,
// so that no change is missed.
func (c *Copy) Moved() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// move tells those who wait. The caller holds mu.
func (c *Copy) move() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// Run follows the topic until ctx ends, which is not an error. Errors of Kafka
// are waited out; those of the store end it.
func (c *Copy) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(ctx)
	var learner sync.WaitGroup
	defer learner.Wait()
	defer stop()
	learner.Go(func() { c.learn(inner) })
	for {
		err := c.follow(ctx)
		if failed, ok := errors.AsType[*storeError](err); ok {
			return failed
		}
		if ctx.Err() != nil {
			return nil
		}
		c.deps.Logger.WarnContext(ctx, "topic cannot be followed, trying again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.cfg.RetryWait):
		}
	}
}

// learn completes the filter. Without one, look-ups are slower and as right.
func (c *Copy) learn(ctx context.Context) {
	if err := c.store.learn(ctx); err != nil {
		c.deps.Logger.WarnContext(ctx, "copy cannot be read for its filter, look-ups go without", "err", err)
	}
}

// errAgain ends a follow because the topic is not what it was. What of the copy
// is still true, the next begin decides.
var errAgain = errors.New("the topic changed")

// perPoll bounds a batch: large enough to make the store's work per batch
// small, and small enough for memory.
const perPoll = 20_000

func (c *Copy) follow(ctx context.Context) error {
	admin, err := c.deps.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	start, err := c.begin(ctx, admin)
	if err != nil {
		return err
	}
	client, err := c.deps.Reader(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.cfg.Topic: start}),
		// An offset that the topic no longer has means that the copy may hold
		// what the topic does not: begin decides, not the client.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		// The end of a transaction moves the position too.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer client.Close()

	// The one that ends first ends the other, and its error is the cause.
	inner, stop := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer stop(nil)
	watcher.Go(func() { stop(c.watch(inner, admin)) })
	for {
		fetches := client.PollRecords(inner, perPoll)
		if inner.Err() != nil {
			return context.Cause(inner)
		}
		if err := c.lost(ctx, fetches); err != nil {
			return err
		}
		if err := kafka.FetchError(ctx, fetches, c.deps.Logger); err != nil {
			return err
		}
		if err := c.apply(ctx, fetches.Records()); err != nil {
			return err
		}
	}
}

// lost reports records that the client found to be gone from the topic: the
// copy may have applied them. It is forgotten, and begun anew.
func (c *Copy) lost(ctx context.Context, fetches kgo.Fetches) error {
	var lost error
	fetches.EachError(func(_ string, _ int32, err error) {
		if _, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
			lost = err
		}
	})
	if lost == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.discard(ctx, c.id, lost.Error()); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errAgain, lost)
}

// begin decides whether the stored copy is still true, empties it if not, and
// returns where to read on.
func (c *Copy) begin(ctx context.Context, admin *kadm.Client) (map[int32]kgo.Offset, error) {
	first, err := kafka.Listed(admin.ListStartOffsets(ctx, c.cfg.Topic))
	if err != nil {
		return nil, fmt.Errorf("start offsets: %w", err)
	}
	ends, id, err := c.ask(ctx, admin)
	if err != nil {
		return nil, err
	}
	stored, err := c.store.positions()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if why := c.untrue(id, first, ends, stored); why != "" {
		if err := c.discard(ctx, id, why); err != nil {
			return nil, err
		}
		clear(stored)
	}
	start := map[int32]kgo.Offset{}
	for partition, at := range first {
		if known, ok := stored[partition]; ok {
			at = known
		}
		c.position[partition] = at
		start[partition] = kgo.NewOffset().At(at)
	}
	c.ends = ends
	c.move()
	return start, nil
}

// untrue says why the copy cannot go on from where it is, if so.
func (c *Copy) untrue(id kadm.TopicID, first, ends, stored map[int32]int64) string {
	switch {
	case c.id == kadm.TopicID{}:
		return "there is no copy yet"
	case c.id != id:
		return "the topic was deleted and made again"
	case c.away():
		return fmt.Sprintf("it was not complete for %s", c.cfg.MaxAway)
	}
	for partition, at := range stored {
		// A position before the start has missed records, and maybe deletions
		// among them. One behind the end has read what is no longer there.
		if at < first[partition] || at > ends[partition] {
			return fmt.Sprintf("partition %d is at %d, the topic has %d to %d", partition, at, first[partition], ends[partition])
		}
	}
	return ""
}

// away reports whether deletions may have gone from the topic unread. What the
// copy holds was true when it was complete; before the first time, nothing it
// holds was read before it began.
func (c *Copy) away() bool {
	last := c.begun
	if c.asOf.After(last) {
		last = c.asOf
	}
	return c.cfg.MaxAway > 0 && c.deps.Now().Sub(last) > c.cfg.MaxAway
}

// discard empties the copy; it then belongs to the topic with the id. The caller
// holds mu.
func (c *Copy) discard(ctx context.Context, id kadm.TopicID, why string) error {
	now := c.deps.Now()
	if err := c.store.discard(id, now); err != nil {
		return err
	}
	if (c.id != kadm.TopicID{}) {
		// Whoever waits for an offset waits for one of the old topic. A first
		// start discards nothing that anybody could have seen.
		c.discards++
		c.metrics.startedOver(ctx)
	}
	c.deps.Logger.InfoContext(ctx, "copy starts at the beginning of the topic", "why", why)
	if (c.id != kadm.TopicID{}) && c.id != id {
		c.own = newOverlay() // what was committed went with its topic
	}
	c.id, c.begun, c.asOf, c.mark = id, now, time.Time{}, nil
	c.position = map[int32]int64{}
	clear(c.complete)
	c.move()
	return nil
}

// ask returns where each partition ends, open transactions included, and which
// topic that is. The id is asked for last: it tells whether the ends can be
// those of another topic than the one that is copied.
func (c *Copy) ask(ctx context.Context, admin *kadm.Client) (ends map[int32]int64, id kadm.TopicID, err error) {
	if ends, err = kafka.Listed(admin.ListEndOffsets(ctx, c.cfg.Topic)); err != nil {
		return nil, id, fmt.Errorf("end offsets: %w", err)
	}
	topics, err := admin.ListTopics(ctx, c.cfg.Topic)
	if err == nil {
		err = topics[c.cfg.Topic].Err
	}
	if err != nil {
		return nil, id, fmt.Errorf("topic id: %w", err)
	}
	return ends, topics[c.cfg.Topic].ID, nil
}

// watch asks the broker again and again where the topic ends, which moves AsOf,
// and returns when the topic has become another one.
func (c *Copy) watch(ctx context.Context, admin *kadm.Client) error {
	ticker := time.NewTicker(c.cfg.AskEvery)
	defer ticker.Stop()
	silent := false
	for {
		at := c.deps.Now()
		ends, id, err := c.ask(ctx, admin)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !silent:
			// Once: the client logs its own troubles, and AsOf says the rest.
			c.deps.Logger.WarnContext(ctx, "broker does not say where the topic ends", "err", err)
		case err == nil:
			if err := c.heard(mark{at, ends}, id); err != nil {
				return err
			}
		}
		silent = err != nil
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Copy) heard(now mark, id kadm.TopicID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != c.id {
		return fmt.Errorf("%w: it was deleted and made again", errAgain)
	}
	if c.away() {
		return fmt.Errorf("%w: it was out of reach for long", errAgain)
	}
	for partition := range now.ends {
		if _, followed := c.position[partition]; !followed {
			return fmt.Errorf("%w: it has another partition", errAgain)
		}
	}
	c.ends = now.ends
	// A mark that is not reached yet stands: with a new one each time, a copy
	// that is always a little behind would never be complete.
	if c.mark == nil {
		c.mark = &now
	}
	return c.reached()
}

// reached moves AsOf to the mark when everything before it is read. The caller
// holds mu.
func (c *Copy) reached() error {
	if c.mark == nil || behind(c.position, c.mark.ends) {
		return nil
	}
	if err := c.store.setAsOf(c.mark.at); err != nil {
		return err
	}
	if c.asOf.IsZero() {
		// Reading a whole topic leaves as much garbage as a process may keep for
		// long; a copy that was just made will never need so much again.
		debug.FreeOSMemory()
	}
	c.asOf, c.mark = c.mark.at, nil
	c.move()
	return nil
}

func behind(position, targets map[int32]int64) bool {
	for partition, target := range targets {
		if position[partition] < target {
			return true
		}
	}
	return false
}

// apply stores records and the positions behind them.
func (c *Copy) apply(ctx context.Context, records []*kgo.Record) error {
	if len(records) == 0 {
		return nil
	}
	positions := map[int32]int64{}
	for _, r := range records {
		positions[r.Partition] = r.Offset + 1
	}
	mapped := mapAll(c.deps.Map, records)
	applied, err := c.store.apply(mapped, positions)
	if err != nil {
		return err
	}
	c.unreadable(ctx, records, mapped)
	c.metrics.applied(ctx, applied)

	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.position, positions)
	c.own.drop(positions)
	c.move()
	return c.reached()
}

// unreadable counts records that Map did not understand and logs where the first
// of them is. Their keys stay out of the log: they may be addresses.
func (c *Copy) unreadable(ctx context.Context, records []*kgo.Record, mapped []entry) {
	n, first := 0, 0
	for i := range mapped {
		if mapped[i].err == nil {
			continue
		}
		if n == 0 {
			first = i
		}
		n++
	}
	if n == 0 {
		return
	}
	c.metrics.unreadable(ctx, n)
	c.deps.Logger.ErrorContext(ctx, "records cannot be read and are left out", "records", n,
		"first_partition", records[first].Partition, "first_offset", records[first].Offset, "err", mapped[first].err)
}
