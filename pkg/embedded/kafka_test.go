package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func broker(t testing.TB, dir string) *kafka {
	t.Helper()
	k, err := startKafka(t.Context(), dir, "127.0.0.1:0", testLog(t))
	if err != nil {
		t.Fatalf("startKafka() = %v, want nil", err)
	}
	t.Cleanup(func() {
		if err := k.close(); err != nil {
			t.Errorf("close() = %v, want nil", err)
		}
	})
	return k
}

func client(t testing.TB, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(addrs...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(maxMessage),
		kgo.MaxBufferedBytes(4 * maxMessage),
		kgo.FetchMaxBytes(2 * maxMessage),
		kgo.FetchMaxPartitionBytes(2 * maxMessage),
		kgo.BrokerMaxReadBytes(8 * maxMessage),
	}, opts...)...)
	if err != nil {
		t.Fatalf("kgo.NewClient() = %v, want nil", err)
	}
	t.Cleanup(cl.Close)
	return cl
}

const topic = "mail.events"

func createTopic(t testing.TB, addrs []string, partitions int32) {
	t.Helper()
	if err := tryCreateTopic(within(t), addrs, partitions); err != nil {
		t.Fatalf("CreateTopics() = %v, want nil", err)
	}
}

func tryCreateTopic(ctx context.Context, addrs []string, partitions int32) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return err
	}
	defer cl.Close()
	policy, retention := "compact,delete", "1000"
	resp, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1,
		map[string]*string{"cleanup.policy": &policy, "retention.ms": &retention}, topic)
	if err != nil {
		return err
	}
	return resp.Err
}

func produce(t testing.TB, cl *kgo.Client, partition int32, values ...string) {
	t.Helper()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte("k"), Value: []byte(v)}
		if err := cl.ProduceSync(within(t), r).FirstErr(); err != nil {
			t.Fatalf("ProduceSync(%q) = %v, want nil", v, err)
		}
	}
}

// committed reads what a reader of committed records sees, up to the high
// watermark, for each partition.
func committed(t testing.TB, addrs []string, partitions int32) [][]string {
	t.Helper()
	cl := client(t, addrs,
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(within(t), topic)
	if err != nil {
		t.Fatalf("ListEndOffsets() = %v, want nil", err)
	}
	stable, err := kadm.NewClient(cl).ListCommittedOffsets(within(t), topic)
	if err != nil {
		t.Fatalf("ListCommittedOffsets() = %v, want nil", err)
	}
	got := make([][]string, partitions)
	left := make(map[int32]int64)
	ends.Each(func(o kadm.ListedOffset) {
		if s, _ := stable.Lookup(topic, o.Partition); s.Offset != o.Offset {
			t.Errorf("partition %d: last stable offset %d, high watermark %d: a transaction is open", o.Partition, s.Offset, o.Offset)
		}
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	ctx := within(t)
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("PollFetches() = %v, want nil; left %v", err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				got[r.Partition] = append(got[r.Partition], string(r.Value))
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return got
}

// crashed copies a directory as kill -9 leaves it.
func crashed(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func TestKafkaKeepsRecordsAndOffsets(t *testing.T) {
	for _, how := range []string{"stopped", "killed"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			k := broker(t, dir)
			createTopic(t, k.addrs(), 2)
			cl := client(t, k.addrs())
			big := strings.Repeat("x", 20<<20)
			produce(t, cl, 0, "a", "b", big)
			produce(t, cl, 1, "c")

			metadata := `{"pending":[7,9]}`
			offsets := make(kadm.Offsets)
			offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 2, LeaderEpoch: -1, Metadata: metadata})
			if err := kadm.NewClient(cl).CommitAllOffsets(within(t), "mailriver.loader", offsets); err != nil {
				t.Fatalf("CommitAllOffsets() = %v, want nil", err)
			}
			cl.Close()
			if how == "killed" {
				dir = crashed(t, dir)
			} else if err := k.close(); err != nil {
				t.Fatalf("close() = %v, want nil", err)
			}

			again := broker(t, dir)
			want := [][]string{{"a", "b", big}, {"c"}}
			if got := committed(t, again.addrs(), 2); !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("records = %d and %d, want 3 and 1 as they were", len(got[0]), len(got[1]))
			}
			got, err := kadm.NewClient(client(t, again.addrs())).FetchOffsets(within(t), "mailriver.loader")
			if err != nil {
				t.Fatalf("FetchOffsets() = %v, want nil", err)
			}
			if o, _ := got.Lookup(topic, 0); o.At != 2 || o.Metadata != metadata {
				t.Errorf("committed offset = %d with %q, want 2 with %q", o.At, o.Metadata, metadata)
			}
			if how == "stopped" {
				return
			}
			// Another kill, after the repair and more data.
			produce(t, client(t, again.addrs()), 1, "d")
			third := broker(t, crashed(t, dir))
			if got := committed(t, third.addrs(), 2)[1]; !slices.Equal(got, []string{"c", "d"}) {
				t.Errorf("records after another kill = %q, want c and d", got)
			}
		})
	}
}

func TestKafkaLimits(t *testing.T) {
	k := broker(t, t.TempDir())
	cl := client(t, k.addrs(), kgo.UnknownTopicRetries(0), kgo.AllowAutoTopicCreation())
	err := cl.ProduceSync(within(t), &kgo.Record{Topic: "not.created", Value: []byte("x")}).FirstErr()
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("produce to a topic that nobody created = %v, want %v", err, kerr.UnknownTopicOrPartition)
	}

	createTopic(t, k.addrs(), 1)
	wide := client(t, k.addrs(), kgo.ProducerBatchMaxBytes(2*maxMessage), kgo.ProducerBatchCompression(kgo.NoCompression()))
	err = wide.ProduceSync(within(t), &kgo.Record{Topic: topic, Value: make([]byte, maxMessage+1)}).FirstErr()
	if !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("produce of %d bytes = %v, want %v", maxMessage+1, err, kerr.MessageTooLarge)
	}

	produce(t, wide, 0, "a", "b", "c")
	offsets := make(kadm.Offsets)
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 2})
	deleted, err := kadm.NewClient(wide).DeleteRecords(within(t), offsets)
	if err != nil {
		t.Fatalf("DeleteRecords() = %v, want nil", err)
	}
	if d, _ := deleted.Lookup(topic, 0); !errors.Is(d.Err, kerr.PolicyViolation) {
		t.Errorf("DeleteRecords() of a partition = %v, want %v", d.Err, kerr.PolicyViolation)
	}
	// Compaction and retention are configured, and do not happen.
	if got := committed(t, k.addrs(), 1)[0]; !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("records = %q, want a, b and c", got)
	}
}

// begin returns a producer with an open transaction.
func begin(t testing.TB, k *kafka) *kgo.Client {
	t.Helper()
	cl := client(t, k.addrs(), kgo.TransactionalID("normalizer"))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatalf("BeginTransaction() = %v, want nil", err)
	}
	return cl
}

func commit(t testing.TB, cl *kgo.Client) {
	t.Helper()
	if err := cl.EndTransaction(within(t), kgo.TryCommit); err != nil {
		t.Fatalf("EndTransaction() = %v, want nil", err)
	}
}

func TestKafkaOpenTransactionIsAborted(t *testing.T) {
	k := broker(t, t.TempDir())
	createTopic(t, k.addrs(), 2)
	cl := begin(t, k)
	produce(t, cl, 0, "first")
	produce(t, cl, 1, "first")
	commit(t, cl)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, cl, 0, "half")
	produce(t, cl, 1, "half")

	// Killed, and once more after the same producer has committed something: the
	// half must not come back as a part of that.
	second := broker(t, crashed(t, k.store.dir))
	want := [][]string{{"first"}, {"first"}}
	if got := committed(t, second.addrs(), 2); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("records = %q, want %q", got, want)
	}
	cl = begin(t, second)
	produce(t, cl, 0, "second")
	commit(t, cl)
	third := broker(t, crashed(t, second.store.dir))
	want = [][]string{{"first", "second"}, {"first"}}
	if got := committed(t, third.addrs(), 2); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("records after another kill = %q, want %q", got, want)
	}
}

// TestKafkaOldProducerIsFenced moves a producer that outlives the broker to
// the repaired one: the first half of its transaction is gone, so it must not
// be able to commit the second.
func TestKafkaOldProducerIsFenced(t *testing.T) {
	k := broker(t, t.TempDir())
	createTopic(t, k.addrs(), 1)
	var to dialer
	to.set(k.addrs()[0])
	cl := client(t, k.addrs(), kgo.TransactionalID("normalizer"), kgo.Dialer(to.dial), kgo.ProducerLinger(0))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, cl, 0, "first half")
	again := broker(t, crashed(t, k.store.dir))
	to.set(again.addrs()[0])
	err := cl.ProduceSync(within(t), &kgo.Record{Topic: topic, Value: []byte("second half")}).FirstErr()
	if err == nil {
		err = cl.EndTransaction(within(t), kgo.TryCommit)
	}
	if err == nil {
		t.Error("a producer of before commits a half, want an error")
	}
	if got := committed(t, again.addrs(), 1)[0]; len(got) > 0 {
		t.Errorf("records = %q, want none", got)
	}
}

// TestKafkaCommitIsCompleted puts a directory into the states in which kill -9
// in the middle of a commit leaves it: the decision is there, and of what
// follows from it nothing, one marker, all markers, or the offsets too.
func TestKafkaCommitIsCompleted(t *testing.T) {
	k := broker(t, t.TempDir())
	dir := k.store.dir
	createTopic(t, k.addrs(), 2)
	cl := begin(t, k)
	produce(t, cl, 0, "before")
	commit(t, cl)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, cl, 0, "a")
	produce(t, cl, 1, "b")
	if err := txOffset(within(t), cl, 42, "meta"); err != nil {
		t.Fatalf("TxnOffsetCommit = %v, want nil", err)
	}
	before := crashed(t, dir)
	commit(t, cl)
	after := crashed(t, dir)

	zero, one := "partitions/"+topic+"-0/0", "partitions/"+topic+"-1/0"
	tests := []struct {
		name     string
		complete []string // files that are as after the commit
		want     bool
	}{
		{"nothing but the decision", []string{decisionFile}, true},
		{"one marker", []string{decisionFile, zero + ".dat", zero + ".idx"}, true},
		{"one marker without its index", []string{decisionFile, one + ".dat"}, true},
		{"all markers", []string{decisionFile, zero + ".dat", zero + ".idx", one + ".dat", one + ".idx"}, true},
		{"offsets", []string{decisionFile, zero + ".dat", zero + ".idx", one + ".dat", one + ".idx", groupsLog}, true},
		{"everything", []string{decisionFile, zero + ".dat", zero + ".idx", one + ".dat", one + ".idx", groupsLog, pidsLog}, true},
		{"not decided", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := crashed(t, before)
			for _, name := range tt.complete {
				b, err := os.ReadFile(filepath.Join(after, name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			again := broker(t, dir)
			want, wantAt := [][]string{{"before"}, nil}, int64(-1)
			if tt.want {
				want, wantAt = [][]string{{"before", "a"}, {"b"}}, 42
			}
			if got := committed(t, again.addrs(), 2); !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("records = %q, want %q", got, want)
			}
			if at, meta := groupOffset(t, again.addrs()); at != wantAt || tt.want && meta != "meta" {
				t.Errorf("offset of the group = %d with %q, want %d", at, meta, wantAt)
			}
			// The transactional id goes on.
			next := begin(t, again)
			produce(t, next, 1, "next")
			commit(t, next)
			if got := committed(t, again.addrs(), 2)[1]; got[len(got)-1] != "next" {
				t.Errorf("records = %q, want next at the end", got)
			}
		})
	}
}

func TestKafkaTornWrites(t *testing.T) {
	k := broker(t, t.TempDir())
	createTopic(t, k.addrs(), 1)
	cl := client(t, k.addrs())
	produce(t, cl, 0, "a", "b")
	commitAt := func(addrs []string, at int64) {
		t.Helper()
		offsets := make(kadm.Offsets)
		offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: at, LeaderEpoch: -1})
		if err := kadm.NewClient(client(t, addrs)).CommitAllOffsets(within(t), "mailriver.loader", offsets); err != nil {
			t.Fatalf("CommitAllOffsets() = %v, want nil", err)
		}
	}
	commitAt(k.addrs(), 1)

	for _, name := range []string{"partitions/" + topic + "-0/0.dat", "partitions/" + topic + "-0/0.idx", groupsLog, pidsLog} {
		for _, cut := range []int{1, 7} {
			t.Run(fmt.Sprintf("%s less %d", filepath.Base(name), cut), func(t *testing.T) {
				dir := crashed(t, k.store.dir)
				path := filepath.Join(dir, name)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(name, ".log") {
					// A torn entry behind the good ones.
					b = append(b, b[:len(b)-cut]...)
				} else {
					b = b[:len(b)-cut]
				}
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				again := broker(t, dir)
				want := []string{"a", "b"}
				if strings.HasSuffix(name, ".dat") {
					want = want[:1]
				}
				if got := committed(t, again.addrs(), 1)[0]; !slices.Equal(got, want) {
					t.Errorf("records = %q, want %q", got, want)
				}
				// What is written behind the cut is there after one more kill.
				produce(t, client(t, again.addrs()), 0, "c")
				commitAt(again.addrs(), 2)
				third := broker(t, crashed(t, dir))
				if got := committed(t, third.addrs(), 1)[0]; !slices.Equal(got, append(want, "c")) {
					t.Errorf("records after another kill = %q, want %q and c", got, want)
				}
				if at, _ := groupOffset(t, third.addrs()); at != 2 {
					t.Errorf("offset of the group = %d, want 2", at)
				}
			})
		}
	}

	t.Run("damaged in the middle", func(t *testing.T) {
		dir := crashed(t, k.store.dir)
		segment := filepath.Join(dir, "partitions", topic+"-0")
		b, err := os.ReadFile(filepath.Join(segment, "0.dat"))
		if err != nil {
			t.Fatal(err)
		}
		// A second segment, and a first one that is not whole.
		if err := errors.Join(
			os.WriteFile(filepath.Join(segment, "0.dat"), b[:len(b)/2], 0o600),
			os.WriteFile(filepath.Join(segment, "1.dat"), b[len(b)/2:], 0o600),
			os.WriteFile(filepath.Join(segment, "0.dat"), b[:len(b)/2-3], 0o600),
		); err != nil {
			t.Fatal(err)
		}
		if _, err := startKafka(t.Context(), dir, "127.0.0.1:0", testLog(t)); !errors.Is(err, errDamaged) {
			t.Errorf("startKafka() = %v, want %v", err, errDamaged)
		}
	})
}

// TestKafkaBatchIsNotWrittenTwice sends a batch again that is on disk already,
// as a producer does that saw the broker die before the answer.
func TestKafkaBatchIsNotWrittenTwice(t *testing.T) {
	// What the broker remembers of a producer is written in a clean stop, so it
	// is older than the data after a kill.
	k := broker(t, t.TempDir())
	createTopic(t, k.addrs(), 1)
	var to dialer
	to.set(k.addrs()[0])
	cl := client(t, k.addrs(), kgo.Dialer(to.dial))
	produce(t, cl, 0, "a")
	if err := k.close(); err != nil {
		t.Fatalf("close() = %v, want nil", err)
	}
	second := broker(t, k.store.dir)
	to.set(second.addrs()[0])
	produce(t, cl, 0, "b", "c")

	third := broker(t, crashed(t, second.store.dir))
	data, err := os.ReadFile(filepath.Join(third.store.dir, "partitions", topic+"-0", "0.dat"))
	if err != nil {
		t.Fatal(err)
	}
	var last []byte
	for len(data) > 0 {
		n := batchPrefix + int(binary.BigEndian.Uint32(data[8:]))
		last, data = data[:n], data[n:]
	}
	binary.BigEndian.PutUint64(last, 0) // as a client sends it
	if resp := produceRaw(t, third.addrs(), last); resp.ErrorCode != 0 || resp.BaseOffset != 2 {
		t.Errorf("the batch again = %v at %d, want no error at 2", kerr.ErrorForCode(resp.ErrorCode), resp.BaseOffset)
	}
	to.set(third.addrs()[0])
	produce(t, cl, 0, "d")
	if got := committed(t, third.addrs(), 1)[0]; !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("records = %q, want a, b, c and d", got)
	}
}

func produceRaw(t testing.TB, addrs []string, batch []byte) kmsg.ProduceResponseTopicPartition {
	t.Helper()
	cl := client(t, addrs)
	topics, err := kadm.NewClient(cl).ListTopics(within(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, topics[topic].ID
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = batch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(within(t), cl)
	if err != nil {
		t.Fatalf("Produce = %v, want nil", err)
	}
	return resp.Topics[0].Partitions[0]
}

func groupOffset(t testing.TB, addrs []string) (at int64, metadata string) {
	t.Helper()
	got, err := kadm.NewClient(client(t, addrs)).FetchOffsets(within(t), "mailriver.loader")
	if err != nil {
		if errors.Is(err, kerr.GroupIDNotFound) {
			return -1, ""
		}
		t.Fatalf("FetchOffsets() = %v, want nil", err)
	}
	o, ok := got.Lookup(topic, 0)
	if !ok {
		return -1, ""
	}
	return o.At, o.Metadata
}

// txOffset adds an offset of the group to the client's transaction.
func txOffset(ctx context.Context, cl *kgo.Client, at int64, metadata string) error {
	topics, err := kadm.NewClient(cl).ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = "normalizer", id, epoch
	req.Group, req.Generation = "mailriver.loader", -1
	rt := kmsg.NewTxnOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, topics[topic].ID
	rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	rp.Offset, rp.Metadata = at, &metadata
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// dialer connects a client to one broker after another, whatever address it
// was told.
type dialer struct {
	mu    sync.Mutex
	addr  string
	conns []net.Conn
}

func (d *dialer) set(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addr = addr
	for _, c := range d.conns {
		_ = c.Close()
	}
	d.conns = nil
}

func (d *dialer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var nd net.Dialer
	c, err := nd.DialContext(ctx, network, d.addr)
	if err == nil {
		d.conns = append(d.conns, c)
	}
	return c, err
}
