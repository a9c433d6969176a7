package normalizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
)

// claims closes the gap between two instances that work on copies of an event
// in the same moment, where neither can see the other's committed mark.
//
// Its reader sees marks before their transactions end: a claim. An instance
// asks here after its own marks are acknowledged and before it commits. Of two
// instances that claim the same event, each writes first and looks afterwards,
// so at least one of them sees the other and does not commit. If both do, the
// one with the lower producer id waits for the other, which gives up at once.
//
// A claim is settled when the reader of committed marks has passed it: then the
// event is in the store, or its transaction was aborted.
type claims struct {
	dedup *dedup
	// retryWait is the pause before the topic is read again after an error.
	retryWait time.Duration
	open      func(opts ...kgo.Opt) (*kgo.Client, error)
	admin     func() (*kadm.Client, error)
	log       *slog.Logger

	mu      sync.Mutex
	client  *kgo.Client // nil when not reading
	first   map[int32]int64
	next    map[int32]int64 // offset read next
	waiting map[int32][]claim
	byEvent map[event.ID][]claim
	moved   chan struct{} // closed and replaced whenever next advances
}

// claim is a mark whose transaction may be open.
type claim struct {
	id        event.ID
	producer  int64
	partition int32
	offset    int64
}

// errClaimed aborts a transaction. Its input comes again, and then finds the
// mark of the other copy, or no claim any more.
var errClaimed = errors.New("another instance is publishing the same event")

func newClaims(d *dedup, cfg Config, deps Deps) *claims {
	return &claims{
		dedup: d, retryWait: cfg.RetryWait, open: deps.Reader, admin: deps.Admin, log: deps.Logger,
		moved: make(chan struct{}),
	}
}

// run reads until ctx ends. Errors of Kafka are waited out; nothing commits
// meanwhile.
func (c *claims) run(ctx context.Context) error {
	for {
		err := c.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.log.WarnContext(ctx, "claims cannot be read, trying again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.retryWait):
		}
	}
}

func (c *claims) read(ctx context.Context) error {
	// What is before the last stable offset is settled; who asks waits until
	// the reader of committed marks is there.
	admin, err := c.admin()
	if err != nil {
		return err
	}
	stable, err := admin.ListCommittedOffsets(ctx, c.dedup.topic)
	admin.Close()
	if err == nil {
		err = stable.Error()
	}
	if err != nil {
		return fmt.Errorf("dedup topic: stable offsets: %w", err)
	}
	first, next, start := map[int32]int64{}, map[int32]int64{}, map[int32]kgo.Offset{}
	stable.Each(func(o kadm.ListedOffset) {
		first[o.Partition], next[o.Partition] = o.Offset, o.Offset
		start[o.Partition] = kgo.NewOffset().At(o.Offset)
	})
	client, err := c.open(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.dedup.topic: start}),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		// The end of a transaction moves the position too.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	c.mu.Lock()
	c.client, c.first, c.next = client, first, next
	c.waiting, c.byEvent = map[int32][]claim{}, map[event.ID][]claim{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.client = nil
	}()
	for {
		fetches := client.PollRecords(ctx, 20_000)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		c.add(fetches.Records())
	}
}

func (c *claims) add(records []*kgo.Record) {
	settled := c.dedup.marks.Positions()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range records {
		c.next[r.Partition] = r.Offset + 1
		if r.Attrs.IsControl() || !r.Attrs.IsTransactional() {
			continue
		}
		if id, err := event.ParseID(string(r.Key)); err == nil {
			mine := claim{id, r.ProducerID, r.Partition, r.Offset}
			c.waiting[r.Partition] = append(c.waiting[r.Partition], mine)
			c.byEvent[id] = append(c.byEvent[id], mine)
		}
	}
	// Claims are settled in order: what is held is what lies between the two
	// readers.
	for p, list := range c.waiting {
		n := 0
		for ; n < len(list) && list[n].offset < settled[p]; n++ {
			c.forget(list[n])
		}
		c.waiting[p] = list[n:]
	}
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *claims) forget(old claim) {
	left := slices.DeleteFunc(c.byEvent[old.id], func(other claim) bool { return other == old })
	if len(left) == 0 {
		delete(c.byEvent, old.id)
		return
	}
	c.byEvent[old.id] = left
}

// claimPatience is how long the first of two instances waits for the other. It
// is below the time after which its transaction or its rebalance ends.
const claimPatience = 10 * time.Second

// check returns nil when nobody else publishes an event of kept, and nobody
// will: a later claim finds ours, which is acknowledged.
func (c *claims) check(ctx context.Context, producer int64, kept []mark) error {
	if len(kept) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	if err := c.reach(ctx); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	for {
		moved := c.dedup.marks.Moved() // before the look, so that no move is missed
		wait, err := c.others(producer, kept)
		if err != nil {
			return err
		}
		if !wait {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("claims: the other instance does not come to an end: %w", ctx.Err())
		}
	}
	// What was settled since the events were filtered may have been committed.
	for _, m := range kept {
		published, err := c.dedup.has(m.id, m.at)
		if err != nil {
			return err
		}
		if published {
			return errClaimed
		}
	}
	return nil
}

// reach waits until every mark is read that is written now, and every one is
// settled that was settled before this reader began.
func (c *claims) reach(ctx context.Context) error {
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	if client == nil {
		return errors.New("the dedup topic is not being read")
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, c.dedup.topic) // never closed: the client is not its own
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end offsets: %w", err)
	}
	for {
		settledMoved, settled := c.dedup.marks.Moved(), c.dedup.marks.Positions()
		c.mu.Lock()
		moved, behind := c.moved, c.client != client
		ends.Each(func(o kadm.ListedOffset) { behind = behind || c.next[o.Partition] < o.Offset })
		for p, first := range c.first {
			behind = behind || settled[p] < first
		}
		c.mu.Unlock()
		if !behind {
			return nil
		}
		select {
		case <-moved:
		case <-settledMoved:
		case <-ctx.Done():
			return fmt.Errorf("the dedup topic is not read to its end: %w", ctx.Err())
		}
	}
}

// others looks for claims of other producers that are not settled. It reports
// whether to wait for them, or the error to give up with.
func (c *claims) others(producer int64, kept []mark) (wait bool, err error) {
	settled := c.dedup.marks.Positions()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range kept {
		for _, other := range c.byEvent[m.id] {
			switch {
			case other.producer == producer, other.offset < settled[other.partition]:
			case other.producer < producer:
				return false, errClaimed
			default:
				wait = true
			}
		}
	}
	return wait, nil
}
