// Package pending consumes a topic exactly once into a sink that remembers
// tokens, such as a ClickHouse table with a deduplication window. Kafka alone
// keeps the state.
//
// Records of a partition are delivered in ranges. Before a range is handed to
// the [Handler], its first and last offset and its token go into the metadata of
// the committed offset, which stays at the first. After the handler made it
// durable, the offset behind it is committed without metadata. Whoever is
// assigned the partition after a crash in between reads the metadata, and
// delivers exactly that range again, with the same token, before anything else.
// A sink that ignores a token it has seen then holds each record once.
//
// Ranges of one partition are delivered in order, those of different partitions
// side by side. A range that fails is tried again for ever, with the same token,
// and holds up only its own partition. What waits is bounded: a full partition
// is not fetched.
//
// The package does not decode, insert or give up on records; the handler does.
// What it does not survive is the loss of the committed offset itself: Kafka
// forgets those of a group without members after offsets.retention.minutes, and
// the group then starts at the beginning of the topic with new ranges.
package pending

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mailriver/pkg/config"
	"mailriver/pkg/kafka"
)

// Range is consecutive records of one partition. Offsets between them may be
// missing: those of transaction markers and of aborted records.
type Range struct {
	Topic     string
	Partition int32
	First     int64  // offset of the first record
	Last      int64  // offset of the last record
	Token     string // the same each time this range is delivered, and no other's
	// Again means that the range was delivered before, perhaps by a process
	// that is gone, and that nobody knows what became of it.
	Again bool
}

// Handler makes a range durable.
type Handler interface {
	// Handle returns nil when every record is where it belongs for good. After
	// an error, or a crash, the same range comes again with the same token. It
	// returns soon after ctx ends.
	Handle(ctx context.Context, r Range, records []*kgo.Record) error
}

// Config bounds ranges, and what is held of them.
type Config struct {
	MaxRecords    int           // a range is complete at this many records,
	MaxBytes      int           // this many bytes,
	MaxWait       time.Duration // or this long after its first record came
	BufferRecords int           // records held, of all partitions together
	BufferBytes   int           // bytes held, of all partitions together
	InFlight      int           // ranges with the handler at one time
	RetryMin      time.Duration // pause after a first failure; it doubles
	RetryMax      time.Duration // up to this
	DrainTimeout  time.Duration // for the ranges in hand, at shutdown and when partitions are revoked
}

// DefaultConfig returns bounds for events of about a kilobyte.
func DefaultConfig() Config {
	return Config{
		MaxRecords:    50_000,
		MaxBytes:      64 << 20,
		MaxWait:       time.Second,
		BufferRecords: 100_000,
		BufferBytes:   64 << 20,
		InFlight:      2,
		RetryMin:      100 * time.Millisecond,
		RetryMax:      10 * time.Second,
		DrainTimeout:  25 * time.Second,
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	problems.Must(c.MaxRecords >= 1, "max_records: is %d, must be at least 1", c.MaxRecords)
	problems.Must(c.MaxBytes >= 1, "max_bytes: is %d, must be at least 1", c.MaxBytes)
	problems.Must(c.MaxWait > 0, "max_wait: is %s, must be positive", c.MaxWait)
	problems.Must(c.BufferRecords >= 1, "buffer_records: is %d, must be at least 1", c.BufferRecords)
	problems.Must(c.BufferBytes >= 1, "buffer_bytes: is %d, must be at least 1", c.BufferBytes)
	problems.Must(c.InFlight >= 1, "in_flight: is %d, must be at least 1", c.InFlight)
	problems.Must(c.RetryMin > 0, "retry_min: is %s, must be positive", c.RetryMin)
	problems.Must(c.RetryMax >= c.RetryMin, "retry_max: is %s, must be at least retry_min (%s)", c.RetryMax, c.RetryMin)
	problems.Must(c.DrainTimeout > 0, "drain_timeout: is %s, must be positive", c.DrainTimeout)
	return problems.Err()
}

// NewClient makes a client that consumes topics in a group, reads committed and
// commits only when told, such as kafka.Clients.Group.
type NewClient func(group string, topics []string, opts ...kgo.Opt) (*kgo.Client, error)

// Fence lets somebody else replace what the handler writes to, together with its
// memory of tokens. It is looked at after a range is noted as pending and before
// the handler is given it; when it is closed, the note is taken back, and the
// range waits. Who closes the fence and then finds no partition marked (see [ReadProgress]) knows
// that nothing is being written and that nothing will be, until it opens again:
// either this side sees the fence, or that side sees the note.
//
// A range that is pending from before, perhaps of a process that is gone, does
// not look: it may be in already, and only its token can tell.
type Fence interface {
	Closed(ctx context.Context) (bool, error)
}

// Deps are the consumer's collaborators. All are required but the fence.
type Deps struct {
	NewClient NewClient
	Handler   Handler
	Fence     Fence // nil is one that is always open
	Logger    *slog.Logger
}

// Consumer delivers the ranges of one topic.
type Consumer struct {
	topic, group string
	cfg          Config
	deps         Deps
	slots        chan struct{}  // a token for each range with the handler
	running      sync.WaitGroup // workers, the abandoned ones too

	mu      sync.Mutex
	client  *kgo.Client // nil when not running
	workers map[int32]*worker
}

// New checks its arguments and does nothing else.
func New(topic, group string, cfg Config, deps Deps) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("pending: %w", err)
	}
	if topic == "" || group == "" {
		return nil, errors.New("pending: topic and group are required")
	}
	if deps.NewClient == nil || deps.Handler == nil || deps.Logger == nil {
		return nil, errors.New("pending: a dependency is missing")
	}
	return &Consumer{
		topic: topic, group: group, cfg: cfg, deps: deps,
		slots:   make(chan struct{}, cfg.InFlight),
		workers: make(map[int32]*worker),
	}, nil
}

// pollRecords bounds what one poll can put over the buffer's bounds.
const pollRecords = 5_000

// Run consumes until ctx ends, which is not an error, and then lets the ranges
// in hand finish within the drain timeout. A range that does not is pending, and
// will be delivered again. Run may be called once.
func (c *Consumer) Run(ctx context.Context) error {
	client, err := c.deps.NewClient(
		c.group, []string{c.topic},
		// Callbacks wait until polled records are with their workers. Without
		// it, a partition that is lost and assigned again could be given
		// records of its old position behind its new one.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnOffsetsFetched(c.assigned),
		kgo.OnPartitionsRevoked(c.revoked),
		kgo.OnPartitionsLost(c.lost),
	)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	c.mu.Lock()
	c.client = client
	c.mu.Unlock()
	err = c.poll(ctx, client)
	c.drain(context.WithoutCancel(ctx), c.take(nil))
	client.CloseAllowingRebalance()
	// A rebalance may have assigned partitions while the others drained.
	c.drop(c.take(nil))
	c.running.Wait()
	c.mu.Lock()
	c.client = nil
	c.mu.Unlock()
	return err
}

func (c *Consumer) poll(ctx context.Context, client *kgo.Client) error {
	for {
		fetches := client.PollRecords(ctx, pollRecords)
		err := c.dispatch(ctx, fetches)
		client.AllowRebalance()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dispatch gives the records to their partitions' workers, and stops fetching
// for those that are full.
func (c *Consumer) dispatch(ctx context.Context, fetches kgo.Fetches) error {
	if err := kafka.FetchError(ctx, fetches, c.deps.Logger); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var failed error
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		w := c.workers[p.Partition]
		if w == nil || len(p.Records) == 0 || failed != nil {
			return // without a worker it is not ours any more
		}
		if err := w.add(p.Records); err != nil {
			failed = err
			return
		}
		c.pauseLocked(w)
	})
	return failed
}

// pauseLocked stops fetching a full partition, or starts it again.
func (c *Consumer) pauseLocked(w *worker) {
	full := w.full(c.shareLocked())
	if full == w.paused || c.workers[w.partition] != w {
		return
	}
	w.paused = full
	which := map[string][]int32{c.topic: {w.partition}}
	if full {
		c.client.PauseFetchPartitions(which)
	} else {
		c.client.ResumeFetchPartitions(which)
	}
}

// share is what one partition may hold. An equal share each, so that partitions
// that are stuck cannot take the room of those that are not.
type share struct{ records, bytes int }

func (c *Consumer) shareLocked() share {
	n := max(1, len(c.workers))
	return share{max(1, c.cfg.BufferRecords/n), max(1, c.cfg.BufferBytes/n)}
}

// complete is when a range is large enough: at the configured size, or at half
// the share of its partition, so that the next one can gather meanwhile.
func (c *Consumer) complete() share {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shareLocked()
	return share{min(c.cfg.MaxRecords, max(1, s.records/2)), min(c.cfg.MaxBytes, max(1, s.bytes/2))}
}

// assigned is called with the committed offsets of new partitions before they
// are fetched. An error ends the group session, and the client joins again.
func (c *Consumer) assigned(ctx context.Context, client *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	admin := kadm.NewClient(client) // never closed: the client is not its own
	topics, err := admin.ListTopics(ctx, c.topic)
	if err != nil {
		return fmt.Errorf("topic id of %s: %w", c.topic, err)
	}
	// A topic that is deleted and made again counts from 0 again; its id keeps
	// the tokens of the two apart. Brokers without ids leave the name.
	scope := c.topic
	if detail := topics[c.topic]; detail.ID != (kadm.TopicID{}) {
		scope = detail.ID.String()
	}
	fresh := make(map[int32]*worker)
	for _, group := range resp.Groups {
		for _, topic := range group.Topics {
			// The group consumes one topic; by its id, the name may be left out.
			if topic.Topic != c.topic && topic.Topic != "" {
				continue
			}
			for _, p := range topic.Partitions {
				if p.ErrorCode != 0 {
					continue // the client reports it
				}
				w := newWorker(ctx, c, p.Partition, scope)
				if p.Metadata != nil {
					w.again = c.readMark(ctx, p.Partition, p.Offset, *p.Metadata)
				}
				fresh[p.Partition] = w
			}
		}
	}
	if err := c.expired(ctx, admin, fresh); err != nil {
		return err
	}
	// They were assigned before, when an earlier session did not get this far.
	c.drop(c.take(slices.Collect(maps.Keys(fresh))))
	c.mu.Lock()
	defer c.mu.Unlock()
	for partition, w := range fresh {
		c.workers[partition] = w
		c.running.Go(func() { w.run(client) })
	}
	return nil
}

// readMark returns the pending range of a partition, or nil.
func (c *Consumer) readMark(ctx context.Context, partition int32, offset int64, metadata string) *mark {
	m, ok := parseMark(metadata)
	if !ok {
		return nil
	}
	if m.First != offset || m.Last < m.First || m.Token == "" {
		// Somebody set the offset and left the metadata: the offset stands.
		c.deps.Logger.ErrorContext(ctx, "pending range does not fit the committed offset and is ignored",
			"partition", partition, "offset", offset, "metadata", metadata)
		return nil
	}
	c.deps.Logger.InfoContext(ctx, "a range is pending and comes again",
		"partition", partition, "first", m.First, "last", m.Last)
	return &m
}

// expired finds pending ranges that retention has removed, in part or whole.
func (c *Consumer) expired(ctx context.Context, admin *kadm.Client, workers map[int32]*worker) error {
	for partition, w := range workers {
		if w.again == nil {
			continue
		}
		starts, err := admin.ListStartOffsets(ctx, c.topic)
		if err != nil {
			return fmt.Errorf("start offsets of %s: %w", c.topic, err)
		}
		start, ok := starts.Lookup(c.topic, partition)
		if !ok || start.Err != nil {
			return fmt.Errorf("start offset of %s/%d: %w", c.topic, partition, start.Err)
		}
		if start.Offset <= w.again.First {
			continue
		}
		c.deps.Logger.ErrorContext(ctx, "retention removed records of a pending range; unless it went in before, they are lost",
			"partition", partition, "first", w.again.First, "last", w.again.Last, "oldest", start.Offset)
		if start.Offset > w.again.Last {
			w.again = nil // nothing is left of it
		}
	}
	return nil
}

// revoked lets the ranges in hand finish, so that their partitions' next owner
// finds nothing pending.
func (c *Consumer) revoked(ctx context.Context, _ *kgo.Client, partitions map[string][]int32) {
	if len(partitions[c.topic]) > 0 {
		c.drain(ctx, c.take(partitions[c.topic]))
	}
}

// lost forgets partitions that somebody else may own already.
func (c *Consumer) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	if len(partitions[c.topic]) > 0 {
		c.drop(c.take(partitions[c.topic]))
	}
}

// take removes the workers of partitions, or all for nil, and lets their
// partitions be fetched again, should they come back.
func (c *Consumer) take(partitions []int32) []*worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	if partitions == nil {
		partitions = slices.Collect(maps.Keys(c.workers))
	}
	var taken []*worker
	for _, p := range partitions {
		if w, ok := c.workers[p]; ok {
			delete(c.workers, p)
			taken = append(taken, w)
			if w.paused {
				w.paused = false
				c.client.ResumeFetchPartitions(map[string][]int32{c.topic: {p}})
			}
		}
	}
	return taken
}

// drain lets the ranges in hand finish within the drain timeout.
func (c *Consumer) drain(ctx context.Context, workers []*worker) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DrainTimeout)
	defer cancel()
	for _, w := range workers {
		w.stop()
	}
	for _, w := range workers {
		select {
		case <-w.done:
		case <-ctx.Done():
		}
	}
	c.drop(workers)
}

// drop makes sure that workers commit nothing any more, and ends them.
func (c *Consumer) drop(workers []*worker) {
	for _, w := range workers {
		w.abandon()
	}
}

// Ping reports whether the consumer runs and Kafka answers.
func (c *Consumer) Ping(ctx context.Context) error {
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	if client == nil {
		return errors.New("not consuming")
	}
	if err := client.Ping(ctx); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	return nil
}

// Stats is what is held just now.
type Stats struct {
	Partitions int           // assigned
	Paused     int           // of them, not fetched because they are full
	Records    int           // held, with the handler included
	Bytes      int           // held, with the handler included
	Pending    int           // ranges whose outcome is not committed
	PendingAge time.Duration // of the oldest of them
}

// Stats returns what is held just now.
func (c *Consumer) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Partitions: len(c.workers)}
	for _, w := range c.workers {
		if w.paused {
			s.Paused++
		}
		w.addTo(&s)
	}
	return s
}

// commit commits an offset of a partition with metadata. The check runs when the
// request is about to leave, with the group generation already in it: if it
// passes before the partition is given up, the broker either takes the commit
// before the next owner reads the offset, or refuses it.
func commit(
	ctx context.Context, client *kgo.Client, topic string, partition int32,
	at kgo.EpochOffset, metadata string, check func() error,
) error {
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				req.Topics[i].Partitions[j].Metadata = &metadata
			}
		}
		return check()
	})
	var failed error
	client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{topic: {partition: at}},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if failed = err; err != nil {
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						failed = err
					}
				}
			}
		})
	return failed
}
