package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/replica"
)

// world is one topic and the copies that a test makes of it, one after another
// in one folder.
type world struct {
	t       *testing.T
	cluster *kafkatest.Cluster
	topic   kafka.Topic
	config  replica.Config
	ahead   atomic.Int64 // of the copies' clock before the real one

	*replica.Copy
	reader *metric.ManualReader
	stop   func() // the follower, and closes the copy
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, cluster: kafkatest.New(t)}
	w.topic = kafka.Topic{
		Name: w.cluster.Config.TopicPrefix + "copied.v1", Partitions: 3,
		Config: map[string]string{"cleanup.policy": "compact"},
	}
	w.createTopic()
	w.config = replica.Config{
		Topic: w.topic.Name, Dir: filepath.Join(t.TempDir(), "copy"), Prefixed: true,
		RetryWait: 10 * time.Millisecond, AskEvery: 10 * time.Millisecond, MaxAway: 12 * time.Hour,
	}
	return w
}

func (w *world) admin(do func(context.Context, *kadm.Client) error) {
	w.t.Helper()
	admin, err := w.cluster.Clients.Admin()
	if err != nil {
		w.t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), kafkatest.Patience)
	defer cancel()
	if err := do(ctx, admin); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) createTopic() {
	w.t.Helper()
	w.admin(func(ctx context.Context, admin *kadm.Client) error {
		return kafka.CreateTopics(ctx, admin, []kafka.Topic{w.topic}, 0)
	})
}

func (w *world) deleteTopic() {
	w.t.Helper()
	w.admin(func(ctx context.Context, admin *kadm.Client) error {
		_, err := admin.DeleteTopic(ctx, w.topic.Name)
		return err
	})
}

var errBad = errors.New("bad on purpose")

func (w *world) open() {
	w.t.Helper()
	w.reader = metric.NewManualReader()
	c, err := replica.Open(w.config, replica.Deps{
		Map: func(r *kgo.Record) (key, value []byte, err error) {
			if string(r.Value) == "bad" {
				return r.Key, r.Value, errBad
			}
			return r.Key, r.Value, nil
		},
		Reader: w.cluster.Clients.Reader, Admin: w.cluster.Clients.Admin,
		Meter:  metric.NewMeterProvider(metric.WithReader(w.reader)).Meter("test"),
		Logger: slog.New(slog.DiscardHandler),
		Now:    func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Copy = c
	w.stop = sync.OnceFunc(func() {
		if err := c.Close(); err != nil {
			w.t.Errorf("Close() = %v", err)
		}
	})
	w.t.Cleanup(w.stop)
}

func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c, shut := w.Copy, w.stop
	go func() { done <- c.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run() = %v, want nil after the context ended", err)
		}
		shut()
	})
	w.t.Cleanup(w.stop)
}

func (w *world) start() {
	w.t.Helper()
	w.open()
	w.run()
}

// record is an entry of the topic; value "" deletes.
func (w *world) record(key, value string) *kgo.Record {
	r := &kgo.Record{Topic: w.topic.Name, Key: []byte(key)}
	if value != "" {
		r.Value = []byte(value)
	}
	return r
}

func (w *world) produce(pairs ...string) {
	w.t.Helper()
	var records []*kgo.Record
	for i := 0; i < len(pairs); i += 2 {
		records = append(records, w.record(pairs[i], pairs[i+1]))
	}
	w.cluster.Produce(w.t, records...)
}

// caughtUp waits until the copy holds what was committed before the call.
func (w *world) caughtUp() {
	w.t.Helper()
	now := time.Now().Add(time.Duration(w.ahead.Load()))
	w.await("complete", func() bool { return w.AsOf().After(now) })
}

func (w *world) await(what string, is func() bool) {
	w.t.Helper()
	deadline := time.After(kafkatest.Patience)
	for {
		moved := w.Moved()
		if is() {
			return
		}
		select {
		case <-moved:
		case <-time.After(20 * time.Millisecond): // of what is not the copy's
		case <-deadline:
			w.t.Fatalf("the copy is not %s after %s: positions %v, as of %s, holds %v",
				what, kafkatest.Patience, w.Positions(), w.AsOf(), w.content())
		}
	}
}

func (w *world) content() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	err := w.Scan(nil, nil, func(key, value []byte) bool {
		all[string(key)] = string(value)
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (w *world) wantContent(want map[string]string) {
	w.t.Helper()
	if got := w.content(); !maps.Equal(got, want) {
		w.t.Errorf("the copy holds %v, want %v", got, want)
	}
}

func (w *world) sum(name string) int64 {
	w.t.Helper()
	var all metricdata.ResourceMetrics
	if err := w.reader.Collect(context.Background(), &all); err != nil {
		w.t.Fatal(err)
	}
	var total int64
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					total += point.Value
				}
			case metricdata.Gauge[int64]:
				for _, point := range data.DataPoints {
					total += point.Value
				}
			}
		}
	}
	return total
}

// A copy is what compaction would leave, goes on at its positions after a
// restart, and is the same when its folder is gone. Without stored positions the
// second life applies all records again.
func TestCopy_restart(t *testing.T) {
	w := newWorld(t)
	w.produce("a", "1", "b", "1", "c", "1", "b", "2", "c", "")
	w.start()
	w.caughtUp()
	w.wantContent(map[string]string{"a": "1", "b": "2"})
	w.stop()

	w.produce("a", "", "d", "1")
	w.open()
	if w.AsOf().IsZero() {
		t.Error("AsOf() is zero after a restart, want when the copy was complete")
	}
	w.wantContent(map[string]string{"a": "1", "b": "2"}) // before it hears from the broker
	w.run()
	w.caughtUp()
	want := map[string]string{"b": "2", "d": "1"}
	w.wantContent(want)
	if got := w.sum("mailriver.replica.records"); got != 2 {
		t.Errorf("the restarted copy applied %d records, want the 2 that are new", got)
	}
	w.stop()

	if err := os.RemoveAll(w.config.Dir); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.caughtUp()
	w.wantContent(want)
	if got := w.sum("mailriver.replica.started_over"); got != 0 {
		t.Errorf("a new copy counts %d starts over, want 0", got)
	}
	w.stop()

	w.config.Format = "another"
	w.open()
	w.wantContent(map[string]string{})
	w.run()
	w.caughtUp()
	w.wantContent(want)
}

// Entries of a topic that was deleted are gone from the copy of the one that is
// made under its name, and a wait for offsets of the old one ends. The new topic
// is longer than the old one was: without the topic's id the positions seem to
// fit, and "old" stays.
func TestCopy_recreatedTopic(t *testing.T) {
	for _, following := range []bool{true, false} {
		t.Run(fmt.Sprintf("following %t", following), func(t *testing.T) {
			w := newWorld(t)
			w.produce("old", "1", "kept", "1")
			w.start()
			w.caughtUp()
			if err := w.complete(kafkatest.Patience, 0); err != nil {
				t.Fatal(err)
			}
			waited := make(chan error, 1)
			if following {
				ctx, cancel := context.WithTimeout(context.Background(), kafkatest.Patience)
				defer cancel()
				c := w.Copy
				go func() { waited <- c.Reach(ctx, map[int32]int64{0: 1_000_000}) }()
			} else {
				w.stop()
				waited <- replica.ErrStartedOver
			}
			w.deleteTopic()
			w.createTopic()
			want := map[string]string{"kept": "2"}
			pairs := []string{"kept", "2"}
			for i := range 50 {
				key := strconv.Itoa(i)
				want[key] = "new"
				pairs = append(pairs, key, "new")
			}
			w.produce(pairs...)
			if !following {
				w.start()
			}
			w.await("that of the new topic", func() bool { return maps.Equal(w.content(), want) })
			w.caughtUp()
			w.wantContent(want)
			if err := <-waited; !errors.Is(err, replica.ErrStartedOver) {
				t.Errorf("Reach() = %v, want %v", err, replica.ErrStartedOver)
			}
			if err := w.Intact([]int32{0}); err == nil {
				t.Error("Intact() = nil although the copy was emptied")
			}
			if got := w.sum("mailriver.replica.started_over"); got != 1 {
				t.Errorf("started over %d times, want once", got)
			}
		})
	}
}

// Records that are gone before they were read may have been deletions, so a copy
// that missed some starts over. Without the comparison with the start of the
// topic it stays where it is, and holds "a".
func TestCopy_missedRecords(t *testing.T) {
	w := newWorld(t)
	w.cluster.NeedFake(t)
	w.produce("a", "1")
	w.start()
	w.caughtUp()
	w.stop()
	gone := w.record("a", "")
	w.cluster.Produce(t, gone)
	if err := w.cluster.Fake.DeleteRecords(w.topic.Name, gone.Partition, gone.Offset+1); err != nil {
		t.Fatal(err)
	}
	w.produce("b", "1")
	w.start()
	w.caughtUp()
	w.wantContent(map[string]string{"b": "1"})
}

// A copy that was away for longer than the topic remembers deletions starts
// over, whether its process was down or the broker out of reach: else it would
// keep an entry whose deletion was compacted away. Without that it applies
// nothing here.
func TestCopy_awayForLong(t *testing.T) {
	w := newWorld(t)
	w.produce("a", "1", "b", "1")
	w.start()
	w.caughtUp()
	w.stop()
	w.ahead.Add(int64(11 * time.Hour))
	w.start()
	w.caughtUp()
	if got := w.sum("mailriver.replica.records"); got != 0 {
		t.Errorf("after 11h away %d records were applied again, want 0", got)
	}
	w.stop()
	w.ahead.Add(int64(13 * time.Hour))
	w.start()
	w.caughtUp()
	w.wantContent(map[string]string{"a": "1", "b": "1"})
	if got := w.sum("mailriver.replica.records"); got != 2 {
		t.Errorf("after 13h away %d records were applied, want both", got)
	}
	w.ahead.Add(int64(13 * time.Hour)) // as if no question were answered meanwhile
	w.await("made again", func() bool { return w.sum("mailriver.replica.records") == 4 })
}

// A partition that is added is followed.
func TestCopy_addedPartition(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.caughtUp()
	w.admin(func(ctx context.Context, admin *kadm.Client) error {
		answers, err := admin.CreatePartitions(ctx, 1, w.topic.Name)
		return errors.Join(err, answers.Error())
	})
	w.await("following the new partition", func() bool { return len(w.Positions()) == 4 })
	var pairs []string
	for i := range 40 {
		pairs = append(pairs, strconv.Itoa(i), "1")
	}
	w.produce(pairs...)
	w.await("complete", func() bool { return len(w.content()) == 40 })
	if got := w.Positions()[3]; got == 0 {
		t.Error("nothing came from the new partition: the test shows nothing")
	}
}

// begin opens a transaction in which a record is acknowledged.
func (w *world) begin(key, value string) (end func(kgo.TransactionEndTry)) {
	w.t.Helper()
	client, err := w.cluster.Clients.Producer(kgo.TransactionalID(w.cluster.Group("tx." + key)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	if err := client.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), kafkatest.Patience)
	w.t.Cleanup(cancel)
	if err := client.ProduceSync(ctx, w.record(key, value)).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	return func(how kgo.TransactionEndTry) {
		w.t.Helper()
		if err := client.EndTransaction(ctx, how); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) complete(patience time.Duration, partitions ...int32) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.Complete(ctx, partitions)
}

// Whoever takes over a partition waits for what its former owner has not
// committed yet. A wait to the last stable offset instead of the end of the
// topic would return at once, and the owner would not see "a".
func TestCopy_Complete(t *testing.T) {
	w := newWorld(t)
	w.produce("first", "1")
	w.start()
	end := w.begin("a", "1")
	w.Assigned([]int32{0, 1})
	if err := w.complete(300*time.Millisecond, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Complete() = %v with a transaction open, want %v", err, context.DeadlineExceeded)
	}
	end(kgo.TryCommit)
	if err := w.complete(kafkatest.Patience, 0, 1); err != nil {
		t.Fatal(err)
	}
	w.wantContent(map[string]string{"first": "1", "a": "1"})

	end = w.begin("b", "1")
	if err := w.complete(kafkatest.Patience, 0, 1); err != nil {
		t.Errorf("Complete() = %v for partitions that were complete since they were assigned", err)
	}
	w.Assigned([]int32{1})
	if err := w.complete(300*time.Millisecond, 0, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Complete() = %v for a partition that was assigned again, want %v", err, context.DeadlineExceeded)
	}
	if err := w.Intact([]int32{0, 1}); err == nil {
		t.Error("Intact() = nil for a partition that was assigned again")
	}
	end(kgo.TryAbort)
	if err := w.complete(kafkatest.Patience, 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.Intact([]int32{0, 1}); err != nil {
		t.Errorf("Intact() = %v after Complete, want nil", err)
	}
	w.wantContent(map[string]string{"first": "1", "a": "1"})
}

// An owner sees what it committed before the copy does, and never an older
// value again while the copy reads what is between. Written through to the
// store, "a" would go back to the values of the topic.
func TestCopy_Current(t *testing.T) {
	w := newWorld(t)
	var before []string
	for i := range 50_000 { // more than one poll
		before = append(before, "a", strconv.Itoa(i))
	}
	w.produce(before...)
	w.open()
	own := []*kgo.Record{w.record("a", "older own"), w.record("gone", "1"), w.record("a", "own"), w.record("gone", "")}
	w.cluster.Produce(t, own...)
	w.Wrote(own)
	current := func(key string) string {
		value, ok, err := w.Current([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return "absent"
		}
		return string(value)
	}
	if got := current("gone"); got != "absent" {
		t.Errorf("Current(gone) = %q, want absent", got)
	}
	if _, ok, err := w.Get([]byte("a")); ok || err != nil {
		t.Errorf("Get(a) = %t, %v before the copy read anything, want it absent", ok, err)
	}
	w.run()
	for w.AsOf().IsZero() {
		if got := current("a"); got != "own" {
			t.Fatalf("Current(a) = %q, want own", got)
		}
	}
	// What others write later is seen: the overlay is dropped behind the position.
	w.produce("a", "of another", "gone", "no more")
	w.caughtUp()
	if got := current("a") + ", " + current("gone"); got != "of another, no more" {
		t.Errorf("Current(a, gone) = %s, want of another, no more", got)
	}
	w.Wrote(own) // late: the copy has them, and newer ones
	if got := current("a"); got != "of another" {
		t.Errorf("Current(a) = %q after a late Wrote, want of another", got)
	}
}

// A record that cannot be read harms no neighbor and holds nothing up.
func TestCopy_unreadable(t *testing.T) {
	w := newWorld(t)
	w.produce("a", "1", "a", "bad", "", "no key", "b", "1")
	w.start()
	w.caughtUp()
	w.wantContent(map[string]string{"a": "1", "b": "1"})
	if got := w.sum("mailriver.replica.unreadable"); got != 1 {
		t.Errorf("unreadable records counted: %d, want 1", got)
	}
	if got := w.sum("mailriver.replica.lag"); got != 0 {
		t.Errorf("lag = %d, want 0", got)
	}
}

// AsOf stands while the broker cannot be asked and moves when it can again; what
// is in the copy can be read all the time.
func TestCopy_brokerAway(t *testing.T) {
	w := newWorld(t)
	w.cluster.NeedFake(t)
	w.produce("a", "1")
	w.start()
	w.caughtUp()
	var away atomic.Bool
	var refused atomic.Int64
	errAway := errors.New("away")
	w.cluster.Fake.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.Fake.KeepControl()
		if !away.Load() {
			return nil, nil, false
		}
		refused.Add(1)
		return nil, errAway, true
	})
	away.Store(true)
	refuse := func(more int64) {
		until := refused.Load() + more
		w.await("refused", func() bool { return refused.Load() >= until })
	}
	refuse(5) // what was asked before has been answered
	at := w.AsOf()
	refuse(20)
	if got := w.AsOf(); !got.Equal(at) {
		t.Errorf("AsOf() moved from %s to %s while the broker was away", at, got)
	}
	w.wantContent(map[string]string{"a": "1"})
	away.Store(false)
	w.await("complete again", func() bool { return w.AsOf().After(at) })
	w.produce("a", "2")
	w.caughtUp()
	w.wantContent(map[string]string{"a": "2"})
}

// A prefix finds its own entries and no others.
func TestCopy_reads(t *testing.T) {
	w := newWorld(t)
	w.produce("a", "0", "a\x00x", "1", "a\x00y", "2", "ab\x00x", "3", "b\x00", "4", "z\x00z", "5")
	w.start()
	w.caughtUp()

	var found []string
	add := func(i int, key, value []byte) bool {
		found = append(found, fmt.Sprintf("%d %q=%s", i, key, value))
		return len(found) < 5
	}
	prefixes := [][]byte{[]byte("z"), []byte("b"), []byte("none"), []byte("a"), []byte("a\x00x"), []byte("")}
	if err := w.Lookup(prefixes, add); err != nil {
		t.Fatal(err)
	}
	want := []string{`3 "a"=0`, `3 "a\x00x"=1`, `3 "a\x00y"=2`, `1 "b\x00"=4`, `0 "z\x00z"=5`}
	if !slices.Equal(found, want) {
		t.Errorf("Lookup(%q) gave %v, want %v", prefixes, found, want)
	}

	for _, tt := range []struct{ from, to, want string }{
		{"", "", "012345"},
		{"a\x00x", "", "12345"},
		{"a\x00y", "b\x00", "23"},
		{"c", "d", ""},
	} {
		var got bytes.Buffer
		err := w.Scan([]byte(tt.from), []byte(tt.to), func(_, value []byte) bool {
			got.Write(value)
			return true
		})
		if err != nil || got.String() != tt.want {
			t.Errorf("Scan(%q, %q) gave %q, %v, want %q", tt.from, tt.to, got.String(), err, tt.want)
		}
	}
	value, ok, err := w.Get([]byte("ab\x00x"))
	if err != nil || !ok || string(value) != "3" {
		t.Errorf("Get(ab, x) = %q, %t, %v, want 3", value, ok, err)
	}
	for _, key := range []string{"", "ab", "ab\x00", "nobody"} {
		if _, ok, err := w.Get([]byte(key)); ok || err != nil {
			t.Errorf("Get(%q) = %t, %v, want it absent", key, ok, err)
		}
	}
}

func TestCopy_Sweep(t *testing.T) {
	w := newWorld(t)
	w.produce("a", "old", "b", "new", "c", "old")
	w.start()
	w.caughtUp()
	n, err := w.Sweep(func(_, value []byte) bool { return string(value) == "old" })
	if err != nil || n != 2 {
		t.Errorf("Sweep() = %d, %v, want 2", n, err)
	}
	w.wantContent(map[string]string{"b": "new"})
}

// Readers are served while the copy is followed, swept and closed. Without the
// lock around the store's life Pebble panics.
func TestCopy_concurrentReaders(t *testing.T) {
	w := newWorld(t)
	w.start()
	var readers sync.WaitGroup
	read := func(do func() error) {
		readers.Go(func() {
			for {
				if err := do(); errors.Is(err, replica.ErrClosed) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
				<-time.After(time.Millisecond) // leave the processor to the others
			}
		})
	}
	c := w.Copy
	prefixes := [][]byte{[]byte("a"), []byte("b"), []byte("none")}
	read(func() error { _, _, err := c.Get([]byte("a\x00x")); return err })
	read(func() error { _, _, err := c.Current([]byte("a\x00x")); return err })
	read(func() error { return c.Scan(nil, nil, func(_, _ []byte) bool { return true }) })
	read(func() error { return c.Lookup(prefixes, func(int, []byte, []byte) bool { return true }) })
	read(func() error {
		_, err := c.Sweep(func(_, value []byte) bool { return string(value) == "13" })
		return err
	})
	for i := range 20 {
		records := []*kgo.Record{w.record("a\x00x", strconv.Itoa(i)), w.record("b\x00"+strconv.Itoa(i), "1")}
		w.cluster.Produce(t, records...)
		w.Wrote(records)
	}
	w.caughtUp()
	if got := w.content()["a\x00x"]; got != "19" {
		t.Errorf("a holds %q, want the last value, 19", got)
	}
	w.stop()
	readers.Wait()
}
