package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/raw"
	"mailriver/pkg/spill"
)

// spillConfig gives up on Kafka soon, and on the request late.
func spillConfig() Config {
	cfg := DefaultConfig()
	cfg.AckTimeout = 5 * time.Second
	cfg.Spill.Enabled = true
	cfg.Spill.After = 20 * time.Millisecond
	cfg.Spill.Config.RetryWait = 5 * time.Millisecond
	return cfg
}

func newStore(t *testing.T, fs vfs.FS, change func(*spill.Config)) *spill.Store {
	t.Helper()
	cfg := spillConfig().Spill.Config
	cfg.Dir = "/spill"
	if change != nil {
		change(&cfg)
	}
	store, err := spill.Open(cfg, spill.Deps{
		FS: fs, Meter: sdkmetric.NewMeterProvider().Meter("test"), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return store
}

func withSpill(s Spill) func(*Deps) {
	return func(d *Deps) { d.Spill, d.SpillProducer = s, d.Producer }
}

// postBody sends a genuine request to the source shop.
func postBody(t *testing.T, f *fixture, body string) int {
	t.Helper()
	return f.post(t, "shop", strings.NewReader(body), with(sign(key, []byte(body)))).StatusCode
}

// outcomes returns the counted requests of the source shop, by outcome and
// reason.
func outcomes(t *testing.T, f *fixture) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	for labels, n := range f.counts(t, "mailriver.receiver.requests") {
		outcome, reason := "", ""
		for label := range strings.FieldsSeq(labels) {
			if value, ok := strings.CutPrefix(label, "outcome="); ok {
				outcome = value
			} else if value, ok := strings.CutPrefix(label, "reason="); ok {
				reason = " " + value
			}
		}
		got[outcome+reason] += n
	}
	return got
}

func wantOutcomes(t *testing.T, f *fixture, step string, want map[string]int64) {
	t.Helper()
	if got := outcomes(t, f); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: counted %v, want %v", step, got, want)
	}
}

// TestSpill_kafkaDownThenUp stops the broker, goes on receiving, and starts it
// again on its data. Every 200 is in the topic then, as it came.
func TestSpill_kafkaDownThenUp(t *testing.T) {
	data := t.TempDir()
	cluster := kafkatest.New(t, kfake.DataDir(data))
	cluster.NeedFake(t)
	client := producer(t, cluster)
	store := newStore(t, vfs.NewMem(), nil)
	f := newFixture(t, spillConfig(), twoSources(), client, withSpill(store))
	f.service.deps.Topic = cluster.Topics.Raw
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.service.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	}()

	var want []string
	send := func(body string) {
		t.Helper()
		if code := postBody(t, f, body); code != 200 {
			t.Errorf("POST %s = %d, want 200", body, code)
		}
		want = append(want, body)
	}
	// The first record may meet a client that has yet to find the broker.
	waitFor(t, "kafka to acknowledge a request", func() bool {
		send(fmt.Sprintf("before-%d", len(want)))
		return outcomes(t, f)["accepted"] > 0
	})
	waitFor(t, "an empty spill", func() bool { return store.Depth().Records == 0 })
	before := outcomes(t, f)

	cluster.Fake.Close()
	for n := range 20 {
		send(fmt.Sprintf("down-%02d", n))
	}
	if code := f.post(t, "shop", strings.NewReader("x"), with("forged")).StatusCode; code != 406 {
		t.Errorf("a forgery while kafka is down = %d, want 406", code)
	}
	got := outcomes(t, f)
	if n := got["accepted"] - before["accepted"]; n != 0 {
		t.Errorf("%d requests were counted as in kafka while it was down", n)
	}
	if n := got["spilled kafka_late"] - before["spilled kafka_late"]; n != 19 {
		t.Errorf("counted %v: %d requests went to the spill at once, want all but the first", got, n)
	}
	if d := store.Depth(); d.Records != 20 || !d.Oldest.Equal(f.clock.Now()) {
		t.Errorf("Depth() = %+v, want 20 records since %s", d, f.clock.Now())
	}
	if err := store.Degraded(t.Context()); err == nil || !strings.Contains(err.Error(), "20 records") {
		t.Errorf("Degraded() = %v, want an error that says how many are held", err)
	}

	_, port, err := net.SplitHostPort(cluster.Config.Brokers[0])
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	again, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(number), kfake.DataDir(data),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": "20971520"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	waitFor(t, "the drain", func() bool { return store.Depth().Records == 0 })
	if err := store.Degraded(t.Context()); err != nil {
		t.Errorf("Degraded() when drained = %v, want nil", err)
	}
	accepted := outcomes(t, f)["accepted"]
	send("after")
	if n := outcomes(t, f)["accepted"] - accepted; n != 1 {
		t.Errorf("counted %v, want the last request to go to kafka directly", outcomes(t, f))
	}

	// The records that were with the client when the broker went are twice in
	// the topic, by one key.
	found := map[string]string{}
	reader, err := cluster.Clients.Reader(kgo.ConsumeTopics(cluster.Topics.Raw))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	patience, cancel := context.WithTimeout(t.Context(), kafkatest.Patience)
	defer cancel()
	for len(found) < len(want) && patience.Err() == nil {
		for _, r := range reader.PollFetches(patience).Records() {
			stored, err := raw.Read(r)
			if err != nil {
				t.Fatal(err)
			}
			if first, twice := found[string(stored.Body)]; twice && first != string(r.Key) {
				t.Errorf("%s has the keys %s and %s", stored.Body, first, r.Key)
			}
			found[string(stored.Body)] = string(r.Key)
			if stored.Provider != "signed" || stored.Source != "shop" || !stored.ReceivedAt.Equal(f.clock.Now()) ||
				stored.Header.Get(signatureHeader) != sign(key, stored.Body) ||
				string(r.Key) != raw.DeliveryKey("", stored.Body) {
				t.Errorf("record = %+v with key %s", stored, r.Key)
			}
			if parent := kafkatest.Header(r, "traceparent"); !strings.HasPrefix(parent, "00-") {
				t.Errorf("traceparent = %q, want a W3C trace context", parent)
			}
		}
	}
	for _, body := range want {
		if _, ok := found[body]; !ok {
			t.Errorf("%s was answered 200 and is not in the topic", body)
		}
	}
}

// silent is a Kafka that acknowledges nothing until it is told to.
type silent struct{ promises chan func() }

func (p silent) TryProduce(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	p.promises <- func() { promise(r, nil) }
}

func newSilent() silent { return silent{make(chan func(), 100)} }

// Once Kafka acknowledges anything, requests go there directly, whether the
// spill is empty or not.
func TestSpill_directAgain(t *testing.T) {
	kafka := newSilent()
	store := newStore(t, vfs.NewMem(), nil)
	f := newFixture(t, spillConfig(), twoSources(), kafka, withSpill(store))
	for range 3 {
		if code := postBody(t, f, "x"); code != 200 {
			t.Errorf("POST = %d, want 200", code)
		}
	}
	wantOutcomes(t, f, "silent", map[string]int64{"spilled kafka_timeout": 1, "spilled kafka_late": 2})
	if len(kafka.promises) != 1 {
		t.Errorf("%d records wait in the client, want the first only", len(kafka.promises))
	}
	if used := f.service.budget.used.Load(); used != 1 {
		t.Errorf("%d bytes are held, want those of the record that waits in the client", used)
	}
	acknowledge := <-kafka.promises
	acknowledge()
	go func() { acknowledge := <-kafka.promises; acknowledge() }()
	if code := postBody(t, f, "y"); code != 200 {
		t.Errorf("POST = %d, want 200", code)
	}
	wantOutcomes(t, f, "acknowledging", map[string]int64{
		"spilled kafka_timeout": 1, "spilled kafka_late": 2, "accepted": 1,
	})
	if d := store.Depth(); d.Records != 3 {
		t.Errorf("the spill holds %d records, want the 3 from before", d.Records)
	}
}

// A spill that takes nothing more makes the answer what it is without one: that
// of Kafka, within the time of the request, or the provider's retryable code.
func TestSpill_full(t *testing.T) {
	kafka := newSilent()
	store := newStore(t, vfs.NewMem(), func(c *spill.Config) { c.MaxBytes, c.SegmentBytes = 1, 1 })
	cfg := spillConfig()
	cfg.AckTimeout = 100 * time.Millisecond
	f := newFixture(t, cfg, twoSources(), kafka, withSpill(store))
	if code := postBody(t, f, "x"); code != 502 {
		t.Errorf("POST with a full spill = %d, want 502", code)
	}
	wantOutcomes(t, f, "full", map[string]int64{"not_stored kafka_timeout": 1})
	if !strings.Contains(f.log.String(), spill.ErrFull.Error()) {
		t.Errorf("log = %s, want it to say that the spill is full", f.log.String())
	}
	<-kafka.promises

	cfg.AckTimeout = 8 * time.Second
	f = newFixture(t, cfg, twoSources(), kafka, withSpill(store))
	f.service.late.Store(true)
	go func() { acknowledge := <-kafka.promises; acknowledge() }()
	if code := postBody(t, f, "x"); code != 200 {
		t.Errorf("POST with a full spill and Kafka back = %d, want 200", code)
	}
	wantOutcomes(t, f, "kafka is back", map[string]int64{"accepted": 1})
	if f.service.late.Load() {
		t.Error("Kafka counts as late after it acknowledged")
	}
}

func TestSpill_kafkaErrors(t *testing.T) {
	tests := []struct {
		err     error
		want    int
		outcome string
		held    int64
	}{
		{kgo.ErrMaxBuffered, 200, "spilled kafka_buffer_full", 1},
		{errors.New("not the leader"), 200, "spilled kafka_error", 1},
		{kerr.TopicAuthorizationFailed, 200, "spilled kafka_error", 1},
		// It would stay in the spill until somebody raised the limit, and its
		// provider would never learn of it.
		{kerr.MessageTooLarge, 502, "not_stored kafka_too_large", 0},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			store := newStore(t, vfs.NewMem(), nil)
			f := newFixture(t, spillConfig(), twoSources(), producerFunc(
				func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) { promise(r, tt.err) },
			), withSpill(store))
			if code := postBody(t, f, "x"); code != tt.want {
				t.Errorf("POST = %d, want %d", code, tt.want)
			}
			wantOutcomes(t, f, "answered", map[string]int64{tt.outcome: 1})
			if d := store.Depth(); d.Records != tt.held {
				t.Errorf("the spill holds %d records, want %d", d.Records, tt.held)
			}
			if f.service.late.Load() {
				t.Error("an answer of Kafka makes it count as late")
			}
		})
	}
}

// The client changes the record that it was given, at any time. What goes to the
// spill is not that one; the race detector sees to it.
func TestSpill_recordIsItsOwn(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	kafka := producerFunc(func(_ context.Context, r *kgo.Record, _ func(*kgo.Record, error)) {
		go func() {
			defer close(stopped)
			for n := int32(0); ; n++ {
				select {
				case <-stop:
					return
				default:
					r.Partition, r.Timestamp = n, time.Unix(int64(n), 0)
					r.Headers[0] = kgo.RecordHeader{Key: "changed", Value: []byte("by the client")}
				}
			}
		}()
	})
	store := newStore(t, vfs.NewMem(), nil)
	f := newFixture(t, spillConfig(), twoSources(), kafka, withSpill(store))
	if code := postBody(t, f, "body"); code != 200 {
		t.Errorf("POST = %d, want 200", code)
	}
	close(stop)
	<-stopped
	ctx, cancel := context.WithCancel(t.Context())
	var drained []*kgo.Record
	if err := store.Drain(ctx, func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
		drained = append(drained, r)
		promise(r, nil)
		cancel()
	}); err != nil {
		t.Errorf("Drain() = %v", err)
	}
	if len(drained) != 1 || !bytes.Equal(drained[0].Value, []byte("body")) ||
		!drained[0].Timestamp.Equal(f.clock.Now().Truncate(time.Millisecond)) ||
		slices.ContainsFunc(drained[0].Headers, func(h kgo.RecordHeader) bool { return h.Key == "changed" }) {
		t.Errorf("drained %+v, want the record as it was received", drained)
	}
}

func TestNew_spillWithoutProducer(t *testing.T) {
	f := newFixture(t, spillConfig(), nil, &acknowledging{})
	deps := f.service.deps
	deps.Spill = newStore(t, vfs.NewMem(), nil)
	if _, err := New(spillConfig(), nil, deps); err == nil {
		t.Error("New() with a spill and nothing to drain it = nil, want an error")
	}
}

func TestConfig_spill(t *testing.T) {
	cfg := DefaultConfig()
	if cfg.Spill.Enabled {
		t.Error("the spill is on by default")
	}
	cfg.Spill.After = cfg.AckTimeout
	if err := cfg.Validate(); err != nil {
		t.Errorf("Validate() with the spill off = %v, want nil", err)
	}
	cfg.Spill.Enabled = true
	cfg.Spill.Config.MaxBytes = 0
	err := cfg.Validate()
	for _, want := range []string{"spill.after: is 8s, must be below ack_timeout", "spill.max_bytes: is 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() = %v, want it to say %q", err, want)
		}
	}
}
