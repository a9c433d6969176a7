package leadscoring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/measure"
	"mailriver/pkg/replica"
)

// What stands between the benchmark and the process that it measures.
const (
	envLeads   = "MAILRIVER_BENCH_LEADS"           // how many recipients; a million without it
	envBrokers = "MAILRIVER_BENCH_CHILD_BROKERS"   // of the parent
	envFolder  = "MAILRIVER_BENCH_CHILD_DIRECTORY" // of the local copy
	envBare    = "MAILRIVER_BENCH_CHILD_BARE"      // not empty: the copy alone, whose Map does nothing
)

// BenchmarkEndToEnd is a topic of events to committed states, and the same topic
// polled and thrown away, on the broker of kafkatest in this process.
func BenchmarkEndToEnd(b *testing.B) {
	const events, recipients = 100_000, 20_000
	var ours, polled time.Duration
	for b.Loop() {
		c := kafkatest.New(b)
		var records []*kgo.Record
		for i := range events {
			e := click(strconv.Itoa(i), fmt.Sprintf("user%d@example.com", i%recipients), i%10_000)
			if i%10 > 0 {
				e.Type, e.URL = event.Delivered, ""
			}
			records = append(records, canonical(b, c, e))
		}
		publish(b, c, slices.Values(records))
		span, err := c.Clients.Span(b.Context(), c.Topics.Events, kafka.Start(), kafka.End())
		if err != nil {
			b.Fatal(err)
		}
		poll := func() time.Duration {
			begun := time.Now()
			if err := c.Clients.Read(b.Context(), span, func(*kgo.Record) error { return nil }); err != nil {
				b.Fatal(err)
			}
			return time.Since(begun)
		}
		first := poll()
		service := build(b, c, "bench", b.TempDir())
		ctx, cancel := context.WithCancel(b.Context())
		begun := time.Now()
		done := make(chan error, 1)
		go func() { done <- service.Run(ctx) }()
		committed(b, c, span)
		ours += time.Since(begun)
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		polled += (first + poll()) / 2
	}
	b.ReportMetric(float64(b.N)*events/ours.Seconds(), "events/s")
	b.ReportMetric(polled.Seconds()/ours.Seconds(), "x_bare_polling")
}

// committed waits until the group has committed all of a span.
func committed(b *testing.B, c *kafkatest.Cluster, span kafka.Span) {
	b.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		b.Fatal(err)
	}
	defer admin.Close()
	for {
		offsets, err := admin.FetchOffsets(b.Context(), c.Group("leadscoring"))
		left := 0
		for partition, to := range span.To {
			if at, ok := offsets.Lookup(span.Topic, partition); to > span.From[partition] && (!ok || at.At < to) {
				left++
			}
		}
		if err == nil && left == 0 {
			return
		}
		select {
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// publish writes records as fast as the broker takes them.
func publish(b *testing.B, c *kafkatest.Cluster, records func(yield func(*kgo.Record) bool)) {
	b.Helper()
	client, err := c.Clients.Producer(kgo.ProducerLinger(20*time.Millisecond), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	failed := kgo.AbortingFirstErrPromise(client)
	for r := range records {
		client.Produce(b.Context(), r, failed.Promise())
	}
	if err := failed.Err(); err != nil {
		b.Fatal(err)
	}
}

// cost is what a process says about itself.
type cost struct {
	Seconds        float64 // from an empty copy, or the one there, to ready
	CPU            float64 // seconds of processor time for it
	Listed         float64 // seconds until the list of leads is there
	Resident, Disk int64
}

// BenchmarkCopy fills the topic of scores with the states of many recipients, one
// in ten of them in a stage, and measures in a process of its own how long the
// local copy takes to be read, and what it costs. The ratio is to a copy alone,
// whose Map returns what it is given, in a process of its own too: the machine may
// be busy, and then it is so for both.
func BenchmarkCopy(b *testing.B) {
	n := 1_000_000
	if text := os.Getenv(envLeads); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	c := kafkatest.New(b)
	publish(b, c, states(b, c, n))
	dir, bare := b.TempDir(), b.TempDir()
	child := func(dir string, more ...string) (m cost) {
		cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestBenchmarkedCopy$", "-test.v", "-test.timeout=0")
		cmd.Env = append(os.Environ(), envBrokers+"="+strings.Join(c.Config.Brokers, ","), envFolder+"="+dir)
		cmd.Env = append(cmd.Env, more...)
		out, err := cmd.CombinedOutput()
		_, text, found := bytes.Cut(out, []byte("measured: "))
		text, _, _ = bytes.Cut(text, []byte("\n"))
		if err != nil || !found || json.Unmarshal(text, &m) != nil {
			b.Fatalf("child: %v\n%s", err, out)
		}
		return m
	}
	for b.Loop() {
		if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(bare)); err != nil {
			b.Fatal(err)
		}
		first := child(filepath.Join(bare, "1"), envBare+"=1")
		restored := child(dir)
		second := child(filepath.Join(bare, "2"), envBare+"=1")
		again := child(dir)
		alone := (first.Seconds + second.Seconds) / 2 // before and behind
		b.ReportMetric(float64(n)/restored.Seconds, "restored/s")
		b.ReportMetric(float64(n)/restored.CPU, "restored/cpu-s")
		b.ReportMetric(float64(n)/alone, "bare/s")
		b.ReportMetric(alone/restored.Seconds, "x_bare")
		b.ReportMetric(float64(restored.Disk)/float64(n), "disk-B/lead")
		b.ReportMetric(float64(restored.Resident)/(1<<20), "resident-MB")
		b.ReportMetric(again.Seconds, "restart-s")
		b.ReportMetric(again.Listed, "listed-s")
		b.ReportMetric(float64(again.Resident)/(1<<20), "resident-again-MB")
	}
}

// states are those of n recipients: nine in ten with a delivery and an open, the
// others with three clicks.
func states(b *testing.B, c *kafkatest.Cluster, n int) func(yield func(*kgo.Record) bool) {
	b.Helper()
	rules, err := lead.Compile(lead.DefaultProfiles())
	if err != nil {
		b.Fatal(err)
	}
	enc, err := leadavro.NewEncoder(scoreSchema)
	if err != nil {
		b.Fatal(err)
	}
	return func(yield func(*kgo.Record) bool) {
		for i := range n {
			// In a random order of keys, as recipients come.
			state := lead.State{Recipient: fmt.Sprintf("user%015x@example%d.com", uint64(i)*0x9e3779b97f4a7c15>>4, i%1000)}
			events := clicks(state.Recipient, 3, i%3000)
			if i%10 > 0 {
				events = events[1:]
				events[0].Type, events[0].URL = event.Delivered, ""
				events[1].Type, events[1].URL = event.Opened, ""
			}
			for j := range events {
				o := rules.Observe(&events[j])
				state, _ = rules.Add(state, &o)
			}
			record := leadavro.Record{State: state, Standings: rules.Standings(&state), Rules: rules.Fingerprint()}
			value, err := enc.Append(nil, &record)
			if err != nil {
				b.Fatal(err)
			}
			if !yield(&kgo.Record{Topic: c.Topics.LeadScores, Key: []byte(state.Recipient), Value: value}) {
				return
			}
		}
	}
}

// TestBenchmarkedCopy is the other half of BenchmarkCopy.
func TestBenchmarkedCopy(t *testing.T) {
	brokers := os.Getenv(envBrokers)
	if brokers == "" {
		t.Skip("is started by BenchmarkCopy")
	}
	config := kafka.DefaultConfig()
	config.Brokers = strings.Split(brokers, ",")
	c := &kafkatest.Cluster{Config: config, Topics: config.Topics(), Clients: kafkatest.Clients(t, config)}
	begun := time.Now()
	var m cost
	var ready, listed func() bool
	if os.Getenv(envBare) != "" {
		ready = bareCopy(t, c, os.Getenv(envFolder))
		listed = ready
	} else {
		i := launch(t, c, "bench", os.Getenv(envFolder))
		ready, listed = func() bool { return i.service.Ready(t.Context()) == nil }, i.service.Listed
	}
	until := func(ok func() bool) float64 {
		for !ok() {
			select {
			case <-t.Context().Done():
				t.Fatal(t.Context().Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
		return time.Since(begun).Seconds()
	}
	m.Seconds = until(ready)
	used, err := measure.CPU()
	if err != nil {
		t.Fatal(err)
	}
	m.CPU = used.Seconds()
	m.Listed = until(listed)
	if m.Resident, err = measure.Resident(); err == nil {
		m.Disk, err = measure.Disk(os.Getenv(envFolder))
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nmeasured: %s\n", text)
}

// bareCopy follows the topic of scores as the service does, and does nothing else.
// It returns whether the copy is complete.
func bareCopy(t *testing.T, c *kafkatest.Cluster, dir string) func() bool {
	t.Helper()
	states, err := replica.Open(replica.Config{Topic: c.Topics.LeadScores, Dir: dir}, replica.Deps{
		Map:    func(r *kgo.Record) (key, value []byte, err error) { return r.Key, r.Value, nil },
		Reader: c.Clients.Reader, Admin: c.Clients.Admin, Meter: noop.NewMeterProvider().Meter("test"),
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- states.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, states.Close()); err != nil {
			t.Error(err)
		}
	})
	return func() bool { return !states.AsOf().IsZero() }
}
