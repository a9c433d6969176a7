package apachekafka_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/apachekafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/pending"
)

// start runs brokers with the declared topics, or skips the test where there
// are no jars.
func start(t *testing.T, brokers int) (*apachekafka.Cluster, *kafka.Clients, kafka.Topics) {
	t.Helper()
	jars := os.Getenv("MAILRIVER_KAFKA_JARS")
	if jars == "" {
		if strings.Contains(os.Getenv("MAILRIVER_REQUIRE"), "kafka") {
			t.Fatal("Kafka is required and MAILRIVER_KAFKA_JARS is not set: run `make test-kafka`")
		}
		t.Skip("needs Kafka's jars: run `make test-kafka`")
	}
	cluster, err := apachekafka.Start(t.Context(), apachekafka.Options{Jars: jars, Dir: t.TempDir(), Brokers: brokers, Heap: "384m"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	config := kafka.DefaultConfig()
	config.Brokers = cluster.Addrs()
	clients := kafkatest.Clients(t, config)
	admin, err := clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	declared, err := kafka.Declared(config.TopicPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := kafka.CreateTopics(t.Context(), admin, declared, 0); err != nil {
		t.Fatal(err)
	}
	return cluster, clients, config.Topics()
}

// What was acknowledged is there once after a broker was stopped, paused and
// killed, while one producer goes on; so are a committed offset and its metadata.
func TestCluster_restarts(t *testing.T) {
	cluster, clients, topics := start(t, 1)
	producer, err := clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n := 0
	produce := func(count int) {
		t.Helper()
		var records []*kgo.Record
		for range count {
			records = append(records, &kgo.Record{Topic: topics.Raw, Value: fmt.Append(nil, n)})
			n++
		}
		if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	admin, err := clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	commit := func() {
		t.Helper()
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: topics.Raw, Partition: 1, At: int64(n), LeaderEpoch: -1, Metadata: fmt.Sprint("mark ", n)})
		if err := admin.CommitAllOffsets(ctx, "restarts", offsets); err != nil {
			t.Fatal(err)
		}
	}
	produce(100)
	for _, disrupt := range []func() error{
		func() error { return cluster.Stop(0) },
		func() error { return cluster.Kill(0) },
		func() error { return cluster.Kill(0) },
	} {
		commit()
		if err := disrupt(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Start(0); err != nil {
			t.Fatal(err)
		}
		produce(100) // waits for the broker
		committed, err := admin.FetchOffsets(ctx, "restarts")
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint("mark ", n-100)
		if got, _ := committed.Lookup(topics.Raw, 1); got.At != int64(n-100) || got.Metadata != want {
			t.Errorf("committed offset is %d with metadata %q, want %d with %q", got.At, got.Metadata, n-100, want)
		}
	}
	if err := cluster.Signal(0, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := time.AfterFunc(time.Second, func() { _ = cluster.Signal(0, syscall.SIGCONT) }) // else nothing is produced
	defer resumed.Stop()
	produce(100)
	seen := map[string]int{}
	all, err := clients.Span(ctx, topics.Raw, kafka.Start(), kafka.End())
	if err != nil {
		t.Fatal(err)
	}
	if err := clients.Read(ctx, all, func(r *kgo.Record) error { seen[string(r.Value)]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if got := seen[fmt.Sprint(i)]; got != 1 {
			t.Errorf("record %d is there %d times, want once", i, got)
		}
	}
}

// With three brokers, one that is killed holds up nothing for good: the others
// take the writes, and it comes back.
func TestCluster_ofThree(t *testing.T) {
	cluster, clients, topics := start(t, 3)
	producer, err := clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := cluster.Kill(0); err != nil {
		t.Fatal(err)
	}
	const n = 12
	for i := range n {
		r := &kgo.Record{Topic: topics.Raw, Key: fmt.Append(nil, i), Value: []byte("x")}
		if err := producer.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatalf("without a broker: %v", err)
		}
	}
	if err := cluster.Start(0); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	all, err := clients.Span(ctx, topics.Raw, kafka.Start(), kafka.End())
	if err != nil || all.Len() != n {
		t.Errorf("the topic holds %d records, %v, want %d", all.Len(), err, n)
	}
}

// The dedup topic is compacted by its declared configuration, and its empty
// values are not taken for deletions: the newest mark of every event stays.
func TestCompaction_keepsTheMarks(t *testing.T) {
	_, clients, topics := start(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	admin, err := clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	// Sooner than the hours that it takes by default.
	responses, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "segment.ms", Value: new("200")},
		{Op: kadm.SetConfig, Name: "min.cleanable.dirty.ratio", Value: new("0.01")},
	}, topics.Dedup)
	if err != nil || responses[0].Err != nil {
		t.Fatal(err, responses)
	}
	producer, err := clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	const events = 50
	produce := func() {
		t.Helper()
		var records []*kgo.Record
		for i := range events {
			records = append(records, &kgo.Record{Topic: topics.Dedup, Key: fmt.Append(nil, i), Value: []byte{}})
		}
		if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	read := func() map[string]int {
		t.Helper()
		seen := map[string]int{}
		all, err := clients.Span(ctx, topics.Dedup, kafka.Start(), kafka.End())
		if err == nil {
			err = clients.Read(ctx, all, func(r *kgo.Record) error {
				if r.Value == nil {
					t.Errorf("the value of %s is null, want empty", r.Key)
				}
				seen[string(r.Key)]++
				return nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		return seen
	}
	written := 0
	for tick := time.NewTicker(300 * time.Millisecond); ; {
		produce() // a new segment each time; the last one is never compacted
		written++
		seen := read()
		if len(seen) != events {
			t.Fatalf("%d of %d events have a mark", len(seen), events)
		}
		copies := 0
		for n := range maps.Values(seen) {
			copies += n
		}
		if copies < written*events {
			return // older copies are gone
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nothing was compacted: %d copies of %d events", copies, events)
		}
	}
}

// collect counts what is delivered.
type collect struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *collect) Handle(_ context.Context, _ pending.Range, records []*kgo.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range records {
		c.seen[string(r.Value)]++
	}
	return nil
}

func (c *collect) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

// Ranges are delivered once also where the broker assigns the partitions
// (KIP-848), while members come and go.
func TestServerSideBalancer(t *testing.T) {
	_, clients, topics := start(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	all := &collect{seen: map[string]int{}}
	member := func() (stop func()) {
		cfg := pending.DefaultConfig()
		cfg.MaxWait = 50 * time.Millisecond
		consumer, err := pending.New(topics.Raw, "next", cfg, pending.Deps{
			NewClient: func(group string, names []string, opts ...kgo.Opt) (*kgo.Client, error) {
				return clients.Group(group, names, append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))...)
			},
			Handler: all, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		running, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- consumer.Run(running) }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run() = %v", err)
			}
		}
	}
	producer, err := clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	n := 0
	work := func(count int) {
		t.Helper()
		for range count {
			r := &kgo.Record{Topic: topics.Raw, Key: fmt.Append(nil, n), Value: fmt.Append(nil, n)}
			if err := producer.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			n++
		}
		for tick := time.NewTicker(20 * time.Millisecond); all.len() < n; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%d of %d records were delivered", all.len(), n)
			}
		}
	}
	stopFirst := member()
	work(100)
	stopSecond := member()
	work(100)
	stopFirst()
	work(100)

	admin, err := clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	groups, err := admin.DescribeConsumerGroups(ctx, "next") // refused for a group of the classic protocol
	if err != nil || groups["next"].Err != nil {
		t.Errorf("the group is not one of the new protocol: %v, %v", err, groups["next"].Err)
	}
	stopSecond()
	for value, times := range all.seen {
		if times != 1 {
			t.Errorf("record %s was delivered %d times, want once", value, times)
		}
	}
}
