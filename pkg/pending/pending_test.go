package pending_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/pending"
	"mailriver/pkg/pending/pendingtest"
)

const group = "pending.test"

// delivery is one call of the handler.
type delivery struct {
	pending.Range
	values []string
}

// sink remembers tokens, as ClickHouse does: rows under a token that went in
// before are ignored.
type sink struct {
	mu         sync.Mutex
	before     func(ctx context.Context, d delivery) error // may fail the delivery
	after      func(d delivery) error                      // the rows are in
	tokens     map[string]bool
	rows       []string
	deliveries []delivery
	changed    chan struct{}
}

func newSink() *sink { return &sink{tokens: map[string]bool{}, changed: make(chan struct{}, 1)} }

func (s *sink) Handle(ctx context.Context, r pending.Range, records []*kgo.Record) error {
	d := delivery{Range: r}
	for _, record := range records {
		d.values = append(d.values, string(record.Value))
	}
	s.mu.Lock()
	before, after := s.before, s.after
	s.deliveries = append(s.deliveries, d)
	s.mu.Unlock()
	s.tell()
	if before != nil {
		if err := before(ctx, d); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if !s.tokens[r.Token] {
		s.tokens[r.Token] = true
		s.rows = append(s.rows, d.values...)
	}
	s.mu.Unlock()
	s.tell()
	if after != nil {
		return after(d)
	}
	return nil
}

func (s *sink) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *sink) set(before func(context.Context, delivery) error, after func(delivery) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

func (s *sink) snapshot() (rows []string, deliveries []delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rows), slices.Clone(s.deliveries)
}

// waitFor waits until ok holds for what the sink has.
func (s *sink) waitFor(t *testing.T, what string, ok func(rows []string, deliveries []delivery) bool) {
	t.Helper()
	deadline := time.NewTimer(kafkatest.Patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, deliveries := s.snapshot()
		if ok(rows, deliveries) {
			return
		}
		select {
		case <-s.changed:
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not after %s; %d rows, %d deliveries", what, kafkatest.Patience, len(rows), len(deliveries))
		}
	}
}

func holds(n int) func([]string, []delivery) bool {
	return func(rows []string, _ []delivery) bool { return len(rows) >= n }
}

// eventually polls ok until it holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(kafkatest.Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s", what, kafkatest.Patience)
		}
		<-tick.C
	}
}

func newCluster(t *testing.T) *kafkatest.Cluster {
	return kafkatest.New(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
}

func produce(t *testing.T, c *kafkatest.Cluster, partition int32, values ...string) {
	t.Helper()
	client, err := c.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	records := make([]*kgo.Record, len(values))
	for i, value := range values {
		records[i] = &kgo.Record{Topic: c.Topics.Events, Partition: partition, Value: []byte(value)}
	}
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func numbered(from, to int) []string {
	var values []string
	for i := from; i < to; i++ {
		values = append(values, fmt.Sprint(i))
	}
	return values
}

// process is a consumer that can be killed: from then on, no byte of it reaches
// Kafka, not even that it leaves the group.
type process struct {
	*pending.Consumer
	wire   pendingtest.Wire
	log    journal
	cancel context.CancelFunc
	done   chan error
}

// journal keeps what was logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
	to   io.Writer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Write(line)
	return j.to.Write(line)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

func (p *process) kill() {
	p.wire.Cut()
	p.cancel()
}

// stop ends it in good order.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.cancel()
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		p.done <- nil
	case <-time.After(kafkatest.Patience):
		t.Fatalf("Run did not return within %s", kafkatest.Patience)
	}
}

func quick() pending.Config {
	c := pending.DefaultConfig()
	c.MaxWait = 20 * time.Millisecond
	c.RetryMin, c.RetryMax = 5*time.Millisecond, 20*time.Millisecond
	c.DrainTimeout = 2 * time.Second
	return c
}

func start(t *testing.T, c *kafkatest.Cluster, s pending.Handler, cfg pending.Config) *process {
	t.Helper()
	p := &process{done: make(chan error, 1)}
	p.log.to = t.Output()
	consumer, err := pending.New(c.Topics.Events, group, cfg, pending.Deps{
		NewClient: p.wire.NewClient(c.Clients.Group), Handler: s, Logger: slog.New(slog.NewTextHandler(&p.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Consumer = consumer
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.done <- consumer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-p.done; err != nil {
			t.Logf("Run() = %v", err) // of a killed one: stop has checked the others
		}
	})
	return p
}

// committed returns the committed offset and metadata of a partition.
func committed(t *testing.T, c *kafkatest.Cluster, partition int32) (int64, string) {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	offsets, err := admin.FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	o, ok := offsets.Lookup(c.Topics.Events, partition)
	if !ok {
		return -1, ""
	}
	return o.At, o.Metadata
}

func sameOnce(t *testing.T, rows []string, n int) {
	t.Helper()
	seen := map[string]int{}
	for _, row := range rows {
		seen[row]++
	}
	for _, value := range numbered(0, n) {
		if seen[value] != 1 {
			t.Errorf("record %s is in the sink %d times, want once", value, seen[value])
		}
	}
	if len(rows) != n {
		t.Errorf("the sink holds %d rows, want %d", len(rows), n)
	}
}

func TestConsumer_deliversAndCommits(t *testing.T) {
	c, s := newCluster(t), newSink()
	produce(t, c, 0, numbered(0, 100)...)
	p := start(t, c, s, quick())
	s.waitFor(t, "rows", holds(100))
	p.stop(t)
	rows, _ := s.snapshot()
	sameOnce(t, rows, 100)
	if offset, metadata := committed(t, c, 0); offset != 100 || metadata != "" {
		t.Errorf("committed %d %q, want 100 and no metadata", offset, metadata)
	}
}

// Without the mark in the commit's metadata, the second process would form the
// range 0-14 under another token, and rows 0 to 9 would be in the sink twice.
func TestConsumer_crashBetweenInsertAndCommit(t *testing.T) {
	c, s := newCluster(t), newSink()
	produce(t, c, 0, numbered(0, 10)...)
	cfg := quick()
	cfg.MaxRecords, cfg.MaxWait = 10, time.Hour
	first := start(t, c, s, cfg)
	s.set(nil, func(delivery) error {
		first.kill() // the rows are in, the commit never leaves
		return nil
	})
	s.waitFor(t, "insert", holds(10))
	s.set(nil, nil)
	produce(t, c, 0, numbered(10, 15)...)
	if offset, metadata := committed(t, c, 0); offset != 0 || !strings.Contains(metadata, `"last":9`) {
		t.Fatalf("committed %d %q, want 0 and the range 0-9", offset, metadata)
	}

	second := start(t, c, s, quick())
	s.waitFor(t, "rows", holds(15))
	second.stop(t)
	rows, deliveries := s.snapshot()
	sameOnce(t, rows, 15)
	again := deliveries[1]
	if again.Range.First != 0 || again.Last != 9 || again.Token != deliveries[0].Token || !again.Again {
		t.Errorf("after the crash the range was %+v, want %+v again", again.Range, deliveries[0].Range)
	}
}

// Without the wait for the range in hand, nothing would come of it; without the
// mark, the next process would deliver other boundaries than the first tried.
func TestConsumer_crashBetweenMarkAndInsert(t *testing.T) {
	c, s := newCluster(t), newSink()
	produce(t, c, 0, numbered(0, 10)...)
	cfg := quick()
	cfg.MaxRecords, cfg.MaxWait = 10, time.Hour
	first := start(t, c, s, cfg)
	s.set(func(ctx context.Context, _ delivery) error {
		first.kill()
		<-ctx.Done() // never reaches the sink
		return ctx.Err()
	}, nil)
	s.waitFor(t, "delivery", func(_ []string, d []delivery) bool { return len(d) == 1 })
	s.set(nil, nil)
	produce(t, c, 0, numbered(10, 15)...)

	second := start(t, c, s, quick())
	s.waitFor(t, "rows", holds(15))
	second.stop(t)
	rows, deliveries := s.snapshot()
	sameOnce(t, rows, 15)
	for _, d := range deliveries[1:] {
		if d.Again && d.Token != deliveries[0].Token {
			t.Errorf("after the crash the range was %+v, want %+v", d.Range, deliveries[0].Range)
		}
	}
}

// A process that was cut off long enough to lose its partitions comes back with
// a range still in hand. Without an end to the work of a lost partition, it would
// commit that range under its new membership, over what the next owner committed.
func TestConsumer_lostPartitionIsNotCommitted(t *testing.T) {
	c, s := newCluster(t), newSink()
	produce(t, c, 0, numbered(0, 10)...)
	cfg := quick()
	cfg.MaxRecords, cfg.MaxWait = 10, time.Hour
	release, arrived := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.set(func(context.Context, delivery) error {
		once.Do(func() {
			close(arrived)
			<-release // a handler that does not notice that its context ended
		})
		return nil
	}, nil)
	first := start(t, c, s, cfg)
	<-arrived
	first.wire.Cut()
	s.set(nil, nil)
	second := start(t, c, s, quick())
	produce(t, c, 0, numbered(10, 20)...)
	s.waitFor(t, "rows at the second", holds(20))
	eventually(t, "the second's commit", func() bool {
		offset, metadata := committed(t, c, 0)
		return offset == 20 && metadata == ""
	})
	first.wire.Restore()
	eventually(t, "both have partitions", func() bool {
		return first.Stats().Partitions > 0 && second.Stats().Partitions > 0 &&
			first.Stats().Partitions+second.Stats().Partitions == 6
	})
	close(release)
	first.stop(t) // waits for the range in hand, lost or not
	if offset, metadata := committed(t, c, 0); offset != 20 || metadata != "" {
		t.Errorf("committed %d %q, want 20 and no metadata", offset, metadata)
	}
	rows, _ := s.snapshot()
	sameOnce(t, rows, 20)
}

func TestConsumer_rebalance(t *testing.T) {
	c, s := newCluster(t), newSink()
	cfg := quick()
	cfg.MaxRecords = 7
	n := 0
	batch := func() {
		for p := range int32(6) {
			produce(t, c, p, numbered(n, n+50)...)
			n += 50
		}
	}
	batch()
	first := start(t, c, s, cfg)
	s.waitFor(t, "rows of the first", holds(20))
	second := start(t, c, s, cfg)
	batch()
	eventually(t, "both have partitions", func() bool {
		a, b := first.Stats().Partitions, second.Stats().Partitions
		return a > 0 && b > 0 && a+b == 6
	})
	batch()
	first.kill()
	third := start(t, c, s, cfg)
	batch()
	s.waitFor(t, "rows", holds(n))
	second.stop(t)
	third.stop(t)
	rows, _ := s.snapshot()
	sameOnce(t, rows, n)
}

// Each partition's rows are in order, and partitions do not wait for each other.
func TestConsumer_oneFailingPartitionHoldsUpNoOther(t *testing.T) {
	c, s := newCluster(t), newSink()
	cfg := quick()
	cfg.InFlight = 1 // a failing range must give its place back
	var mu sync.Mutex
	down := true
	s.set(func(_ context.Context, d delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if d.Partition == 0 && down {
			return errors.New("refused")
		}
		return nil
	}, nil)
	produce(t, c, 0, numbered(0, 10)...)
	for p := int32(1); p < 6; p++ {
		produce(t, c, p, numbered(10*int(p), 10*int(p)+10)...)
	}
	p := start(t, c, s, cfg)
	s.waitFor(t, "rows of the others", holds(50))
	eventually(t, "one pending range", func() bool {
		stats := p.Stats()
		return stats.Pending == 1 && stats.PendingAge > 0
	})
	mu.Lock()
	down = false
	mu.Unlock()
	s.waitFor(t, "rows", holds(60))
	p.stop(t)
	rows, _ := s.snapshot()
	sameOnce(t, rows, 60)
}

func TestConsumer_partitionsSideBySide(t *testing.T) {
	c, s := newCluster(t), newSink()
	cfg := quick()
	cfg.InFlight = 3
	var mu sync.Mutex
	now, most := 0, 0
	together := make(chan struct{})
	s.set(func(ctx context.Context, _ delivery) error {
		mu.Lock()
		now++
		if most = max(most, now); now == 3 {
			close(together)
		}
		mu.Unlock()
		select {
		case <-together:
		case <-ctx.Done():
		}
		mu.Lock()
		now--
		mu.Unlock()
		return nil
	}, nil)
	for p := range int32(3) {
		produce(t, c, p, fmt.Sprint(p))
	}
	start(t, c, s, cfg)
	s.waitFor(t, "three ranges together", holds(3))
	if most != 3 {
		t.Errorf("at most %d ranges were in flight, want 3", most)
	}
}

// While the sink is down nothing is lost, what is held stays bounded, and the
// same ranges go in when it is back.
func TestConsumer_sinkDownIsBounded(t *testing.T) {
	c, s := newCluster(t), newSink()
	cfg := quick()
	cfg.MaxRecords, cfg.BufferRecords = 1_000, 6_000 // 1,000 for each of six partitions
	var mu sync.Mutex
	down := true
	s.set(func(context.Context, delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return errors.New("down")
		}
		return nil
	}, nil)
	const each = 12_000
	for p := range 6 {
		produce(t, c, int32(p), numbered(p*each, (p+1)*each)...)
	}
	p := start(t, c, s, cfg)
	eventually(t, "every partition is paused", func() bool { return p.Stats().Paused == 6 })
	// One poll of 5,000 records may go over. Without pausing all 72,000 come.
	if held := p.Stats().Records; held > 6_000+6*5_000 {
		t.Errorf("%d records are held while the sink is down, want at most %d", held, 6_000+6*5_000)
	}
	_, tried := s.snapshot()
	mu.Lock()
	down = false
	mu.Unlock()
	s.waitFor(t, "rows", holds(6*each))
	p.stop(t)
	rows, deliveries := s.snapshot()
	sameOnce(t, rows, 6*each)
	first := map[int32]string{}
	for _, d := range append(tried, deliveries...) {
		if _, ok := first[d.Partition]; !ok {
			first[d.Partition] = d.Token
		}
	}
	for _, d := range deliveries[:len(tried)] {
		if d.Token != first[d.Partition] {
			t.Errorf("partition %d tried token %s, then %s", d.Partition, first[d.Partition], d.Token)
		}
	}
}

func TestConsumer_flushesByTimeAndSize(t *testing.T) {
	c, s := newCluster(t), newSink()
	cfg := quick()
	cfg.MaxRecords, cfg.MaxWait = 4, time.Hour
	produce(t, c, 0, numbered(0, 10)...)
	p := start(t, c, s, cfg)
	s.waitFor(t, "two full ranges", holds(8))
	p.stop(t)
	if rows, _ := s.snapshot(); len(rows) != 8 {
		t.Errorf("the sink holds %d rows, want 8: the last two are no full range", len(rows))
	}
	cfg.MaxWait = 30 * time.Millisecond
	p = start(t, c, s, cfg)
	s.waitFor(t, "the rest by age", holds(10))
	p.stop(t)
	rows, _ := s.snapshot()
	sameOnce(t, rows, 10)
}

// A record that is larger than a range may be is a range of its own.
func TestConsumer_bytes(t *testing.T) {
	c, s := newCluster(t), newSink()
	cfg := quick()
	cfg.MaxBytes = 1000
	produce(t, c, 0, strings.Repeat("x", 5000), strings.Repeat("y", 5000))
	p := start(t, c, s, cfg)
	s.waitFor(t, "rows", holds(2))
	p.stop(t)
	if _, deliveries := s.snapshot(); len(deliveries) != 2 {
		t.Errorf("%d deliveries, want one for each record", len(deliveries))
	}
}

// Shutdown lets the range in hand finish, and leaves one that cannot pending.
func TestConsumer_shutdown(t *testing.T) {
	c, s := newCluster(t), newSink()
	produce(t, c, 0, numbered(0, 5)...)
	arrived, release := make(chan struct{}), make(chan struct{})
	s.set(func(context.Context, delivery) error {
		close(arrived)
		<-release
		return nil
	}, nil)
	p := start(t, c, s, quick())
	<-arrived
	p.cancel()
	eventually(t, "shutdown has begun", func() bool { return p.Stats().Partitions == 0 })
	close(release)
	p.stop(t)
	if offset, metadata := committed(t, c, 0); offset != 5 || metadata != "" {
		t.Errorf("committed %d %q, want 5: the range in hand was to finish", offset, metadata)
	}

	produce(t, c, 0, numbered(5, 10)...)
	cfg := quick()
	cfg.DrainTimeout = 20 * time.Millisecond
	s.set(func(ctx context.Context, _ delivery) error { <-ctx.Done(); return ctx.Err() }, nil)
	p = start(t, c, s, cfg)
	s.waitFor(t, "delivery", func(_ []string, d []delivery) bool { return len(d) == 2 })
	p.stop(t)
	if offset, metadata := committed(t, c, 0); offset != 5 || !strings.Contains(metadata, `"first":5,"last":9`) {
		t.Errorf("committed %d %q, want 5 and the range 5-9", offset, metadata)
	}
	s.set(nil, nil)
	p = start(t, c, s, quick())
	s.waitFor(t, "rows", holds(10))
	p.stop(t)
	rows, _ := s.snapshot()
	sameOnce(t, rows, 10)
}

// A pending range that retention removed, in part or whole, must not block its
// partition, and what is left of it keeps its token.
func TestConsumer_retention(t *testing.T) {
	for _, tt := range []struct {
		name   string
		oldest int64
		want   []string // token is that of the first try
		again  bool
	}{
		{name: "part", oldest: 6, want: numbered(6, 10), again: true},
		{name: "whole", oldest: 12, want: numbered(12, 15)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, s := newCluster(t), newSink()
			produce(t, c, 0, numbered(0, 10)...)
			cfg := quick()
			cfg.MaxRecords, cfg.MaxWait, cfg.DrainTimeout = 10, time.Hour, 10*time.Millisecond
			s.set(func(ctx context.Context, _ delivery) error { <-ctx.Done(); return ctx.Err() }, nil)
			p := start(t, c, s, cfg)
			s.waitFor(t, "delivery", func(_ []string, d []delivery) bool { return len(d) == 1 })
			p.stop(t)
			produce(t, c, 0, numbered(10, 15)...)
			admin, err := c.Clients.Admin()
			if err != nil {
				t.Fatal(err)
			}
			defer admin.Close()
			if _, err := admin.DeleteRecords(t.Context(), deleteBefore(c.Topics.Events, tt.oldest)); err != nil {
				t.Fatal(err)
			}
			s.set(nil, nil)
			p = start(t, c, s, quick())
			s.waitFor(t, "rows", holds(15-int(tt.oldest)))
			p.stop(t)
			_, deliveries := s.snapshot()
			got := deliveries[1]
			if !slices.Equal(got.values, tt.want) || got.Again != tt.again || (got.Token == deliveries[0].Token) != tt.again {
				t.Errorf("the next delivery was %+v, want %v", got, tt.want)
			}
			if !p.log.has("retention removed records of a pending range") {
				t.Error("nothing was logged of what retention removed")
			}
		})
	}
}

func deleteBefore(topic string, offset int64) kadm.Offsets {
	var o kadm.Offsets
	o.AddOffset(topic, 0, offset, -1)
	return o
}

// Aborted records and transaction markers leave gaps in the offsets.
func TestConsumer_gaps(t *testing.T) {
	c, s := newCluster(t), newSink()
	transact(t, c, true, numbered(0, 3)...)
	transact(t, c, false, "aborted", "aborted")
	transact(t, c, true, numbered(3, 6)...)
	cfg := quick()
	cfg.MaxRecords, cfg.MaxWait, cfg.DrainTimeout = 6, time.Hour, 10*time.Millisecond
	s.set(func(ctx context.Context, _ delivery) error { <-ctx.Done(); return ctx.Err() }, nil)
	p := start(t, c, s, cfg)
	s.waitFor(t, "delivery", func(_ []string, d []delivery) bool { return len(d) == 1 })
	p.stop(t)
	s.set(nil, nil)
	transact(t, c, true, numbered(6, 9)...)
	p = start(t, c, s, quick())
	s.waitFor(t, "rows", holds(9))
	p.stop(t)
	rows, deliveries := s.snapshot()
	sameOnce(t, rows, 9)
	if got := deliveries[1]; got.Range.Token != deliveries[0].Token || !slices.Equal(got.values, numbered(0, 6)) {
		t.Errorf("the range came again as %+v, want %+v", got, deliveries[0])
	}
}

func transact(t *testing.T, c *kafkatest.Cluster, commit bool, values ...string) {
	t.Helper()
	client, err := c.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, value := range values {
		record := &kgo.Record{Topic: c.Topics.Events, Value: []byte(value)}
		if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.EndTransaction(t.Context(), kgo.TransactionEndTry(commit)); err != nil {
		t.Fatal(err)
	}
}

// An operator who resets the group's offset gets what was asked for.
func TestConsumer_resetOffsetWins(t *testing.T) {
	c, s := newCluster(t), newSink()
	produce(t, c, 0, numbered(0, 10)...)
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for name, metadata := range map[string]string{
		"of another client":     "kgo-3f2a",
		"of another offset":     `{"mailriver_pending":1,"first":2,"last":6,"token":"x"}`,
		"of a later version":    `{"mailriver_pending":2,"first":5,"last":6,"token":"x"}`,
		"that ends before":      `{"mailriver_pending":1,"first":5,"last":4,"token":"x"}`,
		"that lacks its token":  `{"mailriver_pending":1,"first":5,"last":6}`,
		"that is cut in pieces": `{"mailriver_pending":1,"first":5,"la`,
	} {
		t.Run(name, func(t *testing.T) {
			s.mu.Lock()
			s.rows, s.tokens = nil, map[string]bool{}
			s.mu.Unlock()
			var offsets kadm.Offsets
			offsets.Add(kadm.Offset{Topic: c.Topics.Events, Partition: 0, At: 5, LeaderEpoch: -1, Metadata: metadata})
			if err := admin.CommitAllOffsets(t.Context(), group, offsets); err != nil {
				t.Fatal(err)
			}
			p := start(t, c, s, quick())
			s.waitFor(t, "rows", holds(5))
			p.stop(t)
			if rows, _ := s.snapshot(); !slices.Equal(rows, numbered(5, 10)) {
				t.Errorf("metadata %s: the sink holds %v, want 5 to 9", metadata, rows)
			}
		})
	}
}

func TestConfig_Validate(t *testing.T) {
	if err := pending.DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
	tests := []struct {
		change func(*pending.Config)
		want   string
	}{
		{func(c *pending.Config) { c.MaxRecords = 0 }, "max_records: is 0"},
		{func(c *pending.Config) { c.MaxBytes = 0 }, "max_bytes: is 0"},
		{func(c *pending.Config) { c.MaxWait = 0 }, "max_wait: is 0s"},
		{func(c *pending.Config) { c.BufferRecords = 0 }, "buffer_records: is 0"},
		{func(c *pending.Config) { c.BufferBytes = 0 }, "buffer_bytes: is 0"},
		{func(c *pending.Config) { c.InFlight = 0 }, "in_flight: is 0"},
		{func(c *pending.Config) { c.RetryMin = 0 }, "retry_min: is 0s"},
		{func(c *pending.Config) { c.RetryMax = 1 }, "retry_max: is 1ns"},
		{func(c *pending.Config) { c.DrainTimeout = 0 }, "drain_timeout: is 0s"},
	}
	for _, tt := range tests {
		c := pending.DefaultConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate() = %v, want %q", err, tt.want)
		}
	}
}
