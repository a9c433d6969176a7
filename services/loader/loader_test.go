package loader_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/chdb"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/pending/pendingtest"
	"mailriver/services/loader"
)

func TestMain(m *testing.M) {
	chdb.RunChildIfAsked()
	m.Run()
}

// decoder reads events as JSON. Its fault may be that of the schema registry.
type decoder struct{ down atomic.Bool }

func (d *decoder) Decode(_ context.Context, value []byte) (event.Event, error) {
	if d.down.Load() {
		return event.Event{}, errors.New("registry: connection refused")
	}
	var e event.Event
	if err := json.Unmarshal(value, &e); err != nil {
		return event.Event{}, fault.Permanentf(fault.BadAvro, "not an event")
	}
	return e, nil
}

func newCluster(t *testing.T) *kafkatest.Cluster {
	return kafkatest.New(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
}

// publish puts events on a partition of the canonical topic.
func publish(t *testing.T, c *kafkatest.Cluster, partition int32, rows ...event.Event) {
	t.Helper()
	values := make([][]byte, len(rows))
	for i, row := range rows {
		value, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		values[i] = value
	}
	publishRaw(t, c, partition, values...)
}

func publishRaw(t *testing.T, c *kafkatest.Cluster, partition int32, values ...[]byte) {
	t.Helper()
	records := make([]*kgo.Record, len(values))
	for i, value := range values {
		records[i] = &kgo.Record{Topic: c.Topics.Events, Partition: partition, Key: []byte("k"), Value: value}
	}
	produce(t, c, records...)
}

// produce writes records to the partitions that they name.
func produce(t *testing.T, c *kafkatest.Cluster, records ...*kgo.Record) {
	t.Helper()
	client, err := c.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// open is a fence that never closes.
type open struct{}

func (open) Closed(context.Context) (bool, error) { return false, nil }

func quick() loader.Config {
	c := loader.DefaultConfig()
	c.MaxWait = 20 * time.Millisecond
	c.RetryMin, c.RetryMax = 5*time.Millisecond, 20*time.Millisecond
	c.InsertTimeout, c.DrainTimeout = 3*time.Second, 4*time.Second
	return c
}

// service is what runs: events, or states.
type service interface {
	Run(ctx context.Context) error
	Ready(ctx context.Context) error
}

// process is a loader that can be killed.
type process struct {
	service
	wire    pendingtest.Wire
	decoder decoder
	cancel  context.CancelFunc
	done    chan error
}

func (p *process) kill() { p.wire.Cut(); p.cancel() }

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

func start(t *testing.T, c *kafkatest.Cluster, sink loader.Sink, change ...func(*loader.Config, *loader.Deps)) *process {
	t.Helper()
	producer, err := c.Clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	p := &process{done: make(chan error, 1)}
	cfg := quick()
	deps := loader.Deps{
		NewClient: p.wire.NewClient(c.Clients.Group), Topic: c.Topics.Events, Sink: sink, Decoder: &p.decoder,
		Parker: kafka.Parker{Client: producer, Topic: c.Topics.Dead, Stage: "loader"},
		Fence:  open{},
		Meter:  noop.Meter{}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now,
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	if p.service, err = loader.New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	p.run(t)
	return p
}

func (p *process) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-p.done; err != nil {
			t.Logf("Run() = %v", err) // of a killed one: stop has checked the others
		}
	})
}

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

// settled waits until everything up to offset of partition 0 is committed and
// nothing is pending.
func settled(t *testing.T, c *kafkatest.Cluster, offset int64) {
	t.Helper()
	settledIn(t, c, "mailriver.loader", c.Topics.Events, offset)
}

func settledIn(t *testing.T, c *kafkatest.Cluster, group, topic string, offset int64) {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	eventually(t, fmt.Sprintf("offset %d is committed", offset), func() bool {
		offsets, err := admin.FetchOffsets(t.Context(), group)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // not there before anybody joins
			t.Fatal(err)
		}
		o, ok := offsets.Lookup(topic, 0)
		return ok && o.At == offset && o.Metadata == ""
	})
}

// once checks that the sink holds exactly these events, once each.
func once(t *testing.T, sink clickhousetest.Sink, rows ...event.Event) {
	t.Helper()
	ids, err := sink.IDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if n := ids[row.ID.String()]; n != 1 {
			t.Errorf("event %s is in the sink %d times, want once", row.ID, n)
		}
	}
	if len(ids) != len(rows) {
		t.Errorf("the sink holds %d events, want %d", len(ids), len(rows))
	}
	if counted, err := sink.Counted(t.Context()); err != nil || counted != len(rows) {
		t.Errorf("the roll-up counts %d, %v, want %d", counted, err, len(rows))
	}
}

func TestService_loads(t *testing.T) {
	c, sink := newCluster(t), &clickhousetest.Memory{}
	rows := clickhousetest.Rows("a", 50)
	publish(t, c, 0, rows...)
	p := start(t, c, sink)
	settled(t, c, 50)
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("Ready() = %v, want nil", err)
	}
	p.stop(t)
	once(t, sink, rows...)
	for i, row := range sink.Rows() {
		if row.ID != rows[i].ID || row.Recipient != rows[i].Recipient || !row.OccurredAt.Equal(rows[i].OccurredAt) {
			t.Fatalf("row %d is %+v, want %+v", i, row, rows[i])
		}
	}
	if err := p.Ready(t.Context()); err == nil {
		t.Error("Ready() = nil after Run returned, want an error")
	}
}

// poisoned returns n rows of which those at the given places are refused.
func poisoned(n int, at ...int) (all, good []event.Event) {
	all = clickhousetest.Rows("p", n)
	for i := range all {
		if slices.Contains(at, i) {
			all[i].Type = ""
			all[i].Subject = "secret"
		} else {
			good = append(good, all[i])
		}
	}
	return all, good
}

// A refused row and an unreadable record are dead-lettered alone; without the
// search, 60 rows would be given up on, or none would ever go in.
func TestService_poison(t *testing.T) {
	for name, at := range map[string][]int{
		"one": {17}, "first": {0}, "last": {59}, "neighbors": {20, 21, 22}, "spread": {1, 30, 58}, "every one": every(60),
	} {
		t.Run(name, func(t *testing.T) {
			c, sink := newCluster(t), &clickhousetest.Memory{}
			all, good := poisoned(60, at...)
			publish(t, c, 0, all...)
			publishRaw(t, c, 0, []byte("\x00garbage"))
			p := start(t, c, sink)
			settled(t, c, 61)
			p.stop(t)
			once(t, sink, good...)
			letters := c.Read(t, c.Topics.Dead, len(at)+1)
			reasons := map[string]int{}
			origins := map[string]bool{}
			for _, letter := range letters {
				reason := kafkatest.Header(letter, kafka.HeaderReason)
				reasons[reason]++
				origins[kafkatest.Header(letter, kafka.HeaderOrigin)] = true
				text := kafkatest.Header(letter, kafka.HeaderError)
				if reason == fault.RowRefused && (!strings.Contains(text, "event_type") || strings.Contains(text, "secret")) {
					t.Errorf("error header = %q, want the column and no value", text)
				}
				if stage := kafkatest.Header(letter, kafka.HeaderStage); stage != "loader" {
					t.Errorf("stage header = %q, want loader", stage)
				}
			}
			if want := map[string]int{fault.RowRefused: len(at), fault.BadAvro: 1}; !maps.Equal(reasons, want) {
				t.Errorf("dead letters by reason = %v, want %v", reasons, want)
			}
			for _, i := range at {
				if origin := fmt.Sprintf("%s/0/%d", c.Topics.Events, i); !origins[origin] {
					t.Errorf("no dead letter of %s", origin)
				}
			}
		})
	}
}

func every(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// A loader dies at each step of a range with poison, and by the time the range
// comes again the table may have been changed to take what it refused. The rows
// are there once, and every record is in the table or dead-lettered. With an
// insert in place of the probe, or a token of its own for what is left of the
// range, rows would be doubled; with dead letters after the insert, the poison
// would be nowhere.
func TestService_crashWithPoison(t *testing.T) {
	type step struct {
		op string
		n  int // which call of it
	}
	type crash struct {
		step
		changed bool // the table, meanwhile
	}
	var crashes []crash
	for _, s := range []step{{"insert", 1}, {"probe", 1}, {"probe", 4}, {"insert", 2}, {"inserted", 2}} {
		crashes = append(crashes, crash{s, false}, crash{s, true})
	}
	for _, at := range crashes {
		t.Run(fmt.Sprintf("%s %d changed %t", at.op, at.n, at.changed), func(t *testing.T) {
			c, sink := newCluster(t), &clickhousetest.Memory{}
			all, good := poisoned(20, 7, 11)
			publish(t, c, 0, all...)
			var first *process
			var mu sync.Mutex
			calls := map[string]int{}
			killed := make(chan struct{})
			reached := func(op string) error {
				mu.Lock()
				defer mu.Unlock()
				calls[op]++
				if at.step != (step{op, calls[op]}) {
					return nil
				}
				first.kill()
				close(killed)
				return errors.New("dead")
			}
			sink.Fail(func(op, _ string) error { return reached(op) })
			mu.Lock()
			first = start(t, c, after{sink, func() error { return reached("inserted") }}, func(cfg *loader.Config, _ *loader.Deps) {
				cfg.MaxRows, cfg.MaxWait = 20, time.Hour
			})
			mu.Unlock()
			<-killed
			sink.Fail(nil)
			if at.changed {
				sink.Relax()
			}
			more := clickhousetest.Rows("more", 5)
			publish(t, c, 0, more...)
			second := start(t, c, sink)
			settled(t, c, 25)
			second.stop(t)
			ids, err := sink.IDs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range append(good, more...) {
				if n := ids[row.ID.String()]; n != 1 {
					t.Errorf("event %s is in the sink %d times, want once", row.ID, n)
				}
			}
			origins := map[string]bool{}
			if n := deadLetters(t, c); n > 0 {
				for _, letter := range c.Read(t, c.Topics.Dead, n) {
					origins[kafkatest.Header(letter, kafka.HeaderOrigin)] = true
				}
			}
			for _, i := range []int{7, 11} {
				inTable, parked := ids[all[i].ID.String()], origins[fmt.Sprintf("%s/0/%d", c.Topics.Events, i)]
				if inTable > 1 || inTable == 0 && !parked || inTable == 1 && !at.changed {
					t.Errorf("poison %d is in the sink %d times, dead-lettered %t", i, inTable, parked)
				}
			}
		})
	}
}

// after calls f when rows are in.
type after struct {
	*clickhousetest.Memory
	f func() error
}

func (a after) Insert(ctx context.Context, token string, rows []event.Event) error {
	if err := a.Memory.Insert(ctx, token, rows); err != nil {
		// A refusal counts too: then nothing is in.
		if reason := a.f(); reason != nil {
			return reason
		}
		return err
	}
	return a.f()
}

// A range that comes again is looked for, and what is lost of it put back; other
// ranges are not looked for. Without Restore, the rows stay lost.
func TestService_restores(t *testing.T) {
	c, sink := newCluster(t), &clickhousetest.Memory{}
	rows := clickhousetest.Rows("a", 20)
	publish(t, c, 0, rows...)
	var mu sync.Mutex
	token, looks := "", 0
	sink.Fail(func(op, tok string) error {
		mu.Lock()
		defer mu.Unlock()
		switch op {
		case "insert":
			token = tok
		case "restore":
			if looks++; looks == 1 {
				return errors.New("connection refused") // is tried again
			}
		}
		return nil
	})
	whole := func(cfg *loader.Config, _ *loader.Deps) { cfg.MaxRows, cfg.MaxWait = 20, time.Hour }
	var first *process
	var kill sync.Once
	killed := make(chan struct{})
	mu.Lock()
	first = start(t, c, after{sink, func() error {
		kill.Do(func() {
			mu.Lock()
			defer mu.Unlock()
			first.kill()
			close(killed)
		})
		return errors.New("dead")
	}}, whole)
	mu.Unlock()
	<-killed
	mu.Lock()
	sink.Lose(token)
	if looks != 0 {
		t.Errorf("a range that came for the first time was looked for %d times", looks)
	}
	mu.Unlock()

	reader := sdk.NewManualReader()
	second := start(t, c, sink, whole, func(_ *loader.Config, d *loader.Deps) {
		d.Meter = sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	})
	settled(t, c, 20)
	more := clickhousetest.Rows("more", 20)
	publish(t, c, 0, more...)
	settled(t, c, 40)
	second.stop(t)
	once(t, sink, append(rows, more...)...)
	if n := sum(t, reader, "mailriver.loader.restored"); n != 20 {
		t.Errorf("mailriver.loader.restored = %d, want 20", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if looks != 2 {
		t.Errorf("looked for ranges %d times, want twice for the one that came again", looks)
	}
}

// Rows that ClickHouse refuses together and takes one by one are no row's fault.
func TestService_refusedTogether(t *testing.T) {
	c, sink := newCluster(t), &clickhousetest.Memory{}
	rows := clickhousetest.Rows("a", 10)
	publish(t, c, 0, rows...)
	var tries atomic.Int32
	sink.Fail(func(op, _ string) error {
		if op == "insert" && tries.Add(1) <= 3 {
			return fault.Permanentf(fault.RowRefused, "odd")
		}
		return nil
	})
	p := start(t, c, sink)
	settled(t, c, 10)
	p.stop(t)
	once(t, sink, rows...)
	if letters := deadLetters(t, c); letters != 0 {
		t.Errorf("%d records were dead-lettered, want none", letters)
	}
}

// deadLetters counts what is on the dead-letter topic.
func deadLetters(t *testing.T, c *kafkatest.Cluster) int {
	t.Helper()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ends, err := admin.ListEndOffsets(t.Context(), c.Topics.Dead)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, partition := range ends[c.Topics.Dead] {
		n += int(partition.Offset)
	}
	return n
}

// What is away is waited for: nothing is given up, nothing twice.
func TestService_waits(t *testing.T) {
	for name, outage := range map[string]struct {
		begin func(*process, *clickhousetest.Memory, *parker)
		end   func(*process, *clickhousetest.Memory, *parker)
		ready bool
	}{
		"clickhouse": {
			begin: func(_ *process, s *clickhousetest.Memory, _ *parker) {
				s.Fail(func(string, string) error { return errors.New("connection refused") })
			},
			end: func(_ *process, s *clickhousetest.Memory, _ *parker) { s.Fail(nil) },
		},
		"registry": {
			begin: func(p *process, _ *clickhousetest.Memory, _ *parker) { p.decoder.down.Store(true) },
			end:   func(p *process, _ *clickhousetest.Memory, _ *parker) { p.decoder.down.Store(false) },
			ready: true,
		},
		"dead letters": {
			begin: func(_ *process, _ *clickhousetest.Memory, k *parker) { k.down.Store(true) },
			end:   func(_ *process, _ *clickhousetest.Memory, k *parker) { k.down.Store(false) },
			ready: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, sink := newCluster(t), &clickhousetest.Memory{}
			reader := sdk.NewManualReader()
			meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
			var k *parker
			p := start(t, c, sink, func(cfg *loader.Config, d *loader.Deps) {
				cfg.MaxRows, cfg.MaxWait = 11, time.Hour // all in one range
				k = &parker{Parker: d.Parker}
				d.Parker, d.Meter = k, meter
			})
			outage.begin(p, sink, k)
			all, good := poisoned(10, 4)
			publishRaw(t, c, 0, []byte("garbage"))
			publish(t, c, 0, all...)
			eventually(t, "five tries", func() bool { return sum(t, reader, "mailriver.loader.retries") >= 5 })
			if err := p.Ready(t.Context()); (err == nil) != outage.ready {
				t.Errorf("Ready() = %v during the outage, want ready %t", err, outage.ready)
			}
			if n := deadLetters(t, c); n != 0 {
				t.Errorf("%d records were dead-lettered during the outage, want none", n)
			}
			outage.end(p, sink, k)
			settled(t, c, 11)
			p.stop(t)
			once(t, sink, good...)
			if n := deadLetters(t, c); n != 2 {
				t.Errorf("%d records were dead-lettered, want 2", n)
			}
		})
	}
}

type parker struct {
	loader.Parker
	down atomic.Bool
}

func (k *parker) Park(ctx context.Context, rejects []kafka.Reject) error {
	if k.down.Load() {
		return errors.New("not enough replicas")
	}
	return k.Parker.Park(ctx, rejects)
}

// collect returns the data of an instrument.
func collect(t *testing.T, reader *sdk.ManualReader, name string) metricdata.Aggregation {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				return m.Data
			}
		}
	}
	return nil
}

func sum(t *testing.T, reader *sdk.ManualReader, name string) (n int64) {
	t.Helper()
	switch data := collect(t, reader, name).(type) {
	case metricdata.Sum[int64]:
		for _, point := range data.DataPoints {
			n += point.Value
		}
	case metricdata.Gauge[int64]:
		for _, point := range data.DataPoints {
			n += point.Value
		}
	case metricdata.Histogram[int64]:
		for _, point := range data.DataPoints {
			n += point.Sum
		}
	case metricdata.Histogram[float64]:
		for _, point := range data.DataPoints {
			n += int64(point.Count)
		}
	}
	return n
}

func TestService_metrics(t *testing.T) {
	c, sink := newCluster(t), &clickhousetest.Memory{}
	reader := sdk.NewManualReader()
	all, _ := poisoned(10, 4)
	publishRaw(t, c, 0, []byte("garbage"))
	publish(t, c, 0, all...)
	last := all[len(all)-1].ReceivedAt
	p := start(t, c, sink, func(_ *loader.Config, d *loader.Deps) {
		d.Meter = sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
		d.Now = func() time.Time { return last.Add(90 * time.Second) }
	})
	settled(t, c, 11)
	for name, want := range map[string]int64{
		"mailriver.loader.rows":            9,
		"mailriver.loader.batches":         1,
		"mailriver.loader.batch.rows":      9,
		"mailriver.loader.insert.duration": 2, // refused, done
		"mailriver.loader.repeats":         0,
		"mailriver.loader.retries":         0,
		"mailriver.loader.dead_letters":    2,
		"mailriver.loader.freshness":       1,
		"mailriver.loader.partitions":      6,
		"mailriver.loader.buffered":        0,
		"mailriver.loader.buffered.size":   0,
		"mailriver.loader.paused":          0,
	} {
		eventually(t, fmt.Sprintf("%s is %d", name, want), func() bool { return sum(t, reader, name) == want })
	}
	freshness, _ := collect(t, reader, "mailriver.loader.freshness").(metricdata.Histogram[float64])
	if len(freshness.DataPoints) != 1 || freshness.DataPoints[0].Sum != 90 {
		t.Errorf("freshness = %+v, want 90 s: the age of the newest row", freshness.DataPoints)
	}
	letters, _ := collect(t, reader, "mailriver.loader.dead_letters").(metricdata.Sum[int64])
	reasons := map[string]int64{}
	for _, point := range letters.DataPoints {
		reason, _ := point.Attributes.Value("reason")
		reasons[reason.AsString()] = point.Value
	}
	if want := map[string]int64{fault.RowRefused: 1, fault.BadAvro: 1}; !maps.Equal(reasons, want) {
		t.Errorf("dead letters by reason = %v, want %v", reasons, want)
	}
	p.stop(t)
}

func TestNew_isInertAndComplete(t *testing.T) {
	c := newCluster(t)
	good := loader.Deps{
		NewClient: c.Clients.Group, Topic: c.Topics.Events, Sink: &clickhousetest.Memory{}, Decoder: &decoder{}, Parker: kafka.Parker{}, Fence: open{},
		Meter: metric.Meter(noop.Meter{}), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if _, err := loader.New(loader.DefaultConfig(), good); err != nil {
		t.Errorf("New() = %v, want nil", err)
	}
	for name, spoil := range map[string]func(*loader.Deps){
		"NewClient": func(d *loader.Deps) { d.NewClient = nil },
		"Topic":     func(d *loader.Deps) { d.Topic = "" },
		"Sink":      func(d *loader.Deps) { d.Sink = nil },
		"Decoder":   func(d *loader.Deps) { d.Decoder = nil },
		"Parker":    func(d *loader.Deps) { d.Parker = nil },
		"Fence":     func(d *loader.Deps) { d.Fence = nil },
		"Meter":     func(d *loader.Deps) { d.Meter = nil },
		"Logger":    func(d *loader.Deps) { d.Logger = nil },
		"Now":       func(d *loader.Deps) { d.Now = nil },
	} {
		deps := good
		spoil(&deps)
		if _, err := loader.New(loader.DefaultConfig(), deps); err == nil {
			t.Errorf("New() without %s = nil, want an error", name)
		}
	}
	if _, err := loader.New(loader.Config{}, good); err == nil {
		t.Error("New() with an empty configuration = nil, want an error")
	}
}

// TestService_onClickHouse loads into a real table while loaders are killed, with
// poison among the rows, over all partitions.
func TestService_onClickHouse(t *testing.T) {
	db := clickhousetest.Open(t, embeddedtest.ClickHouse(t))
	c := newCluster(t)
	const each = 1_200
	var good []event.Event
	poison := 0
	for p := range int32(6) {
		rows := clickhousetest.Rows(fmt.Sprint(p), each)
		for i := range rows {
			if i == 600 {
				rows[i].Type = ""
				poison++
			} else {
				good = append(good, rows[i])
			}
		}
		publish(t, c, p, rows...)
	}
	small := func(cfg *loader.Config, _ *loader.Deps) { cfg.MaxRows = 200 }
	for kills := range 4 {
		var inserts atomic.Int32
		killed := make(chan struct{})
		var p *process
		var mu sync.Mutex
		mu.Lock()
		p = start(t, c, counting{db, func() {
			if int(inserts.Add(1)) == 5+3*kills {
				mu.Lock()
				defer mu.Unlock()
				p.kill() // the rows are in, the commit never leaves
				close(killed)
			}
		}}, small)
		mu.Unlock()
		<-killed
	}
	p := start(t, c, db, small)
	eventually(t, "every row", func() bool {
		n, err := db.Counted(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n >= len(good)
	})
	p.stop(t)
	once(t, db, good...)
	origins := map[string]bool{}
	for _, letter := range c.Read(t, c.Topics.Dead, poison) {
		origins[kafkatest.Header(letter, kafka.HeaderOrigin)] = true
	}
	if len(origins) != poison {
		t.Errorf("%d records were dead-lettered, want %d", len(origins), poison)
	}
}

// counting calls f after each insert.
type counting struct {
	*clickhousetest.Database
	f func()
}

func (s counting) Insert(ctx context.Context, token string, rows []event.Event) error {
	err := s.Database.Insert(ctx, token, rows)
	s.f()
	return err
}

// TestService_lostPart kills the loader behind an insert, and makes of the data
// what a ClickHouse leaves that is killed inside it: the token is logged and the
// part is not in its place. Without Restore, its rows stay lost.
func TestService_lostPart(t *testing.T) {
	dir := t.TempDir()
	database := func() (*clickhousetest.Database, *chdb.Process) {
		engine := embeddedtest.Engine(t, dir)
		cfg := clickhouse.DefaultConfig()
		cfg.URL = "http://" + engine.Addr() + "/" + clickhouse.DefaultDatabase
		return clickhousetest.At(t, cfg), engine
	}
	c := newCluster(t)
	rows := clickhousetest.Rows("a", 50)
	publish(t, c, 0, rows...)
	whole := func(cfg *loader.Config, _ *loader.Deps) { cfg.MaxRows, cfg.MaxWait = 50, time.Hour }

	db, engine := database()
	var first *process
	var mu sync.Mutex
	var kill sync.Once
	killed := make(chan struct{})
	mu.Lock()
	first = start(t, c, counting{db, func() {
		kill.Do(func() {
			mu.Lock()
			defer mu.Unlock()
			first.kill() // the rows are in, the commit never leaves
			close(killed)
		})
	}}, whole)
	mu.Unlock()
	<-killed
	parts := db.Parts(t, "events", 202611)
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		clickhousetest.LosePart(t, part)
	}
	db, _ = database()
	if ids, err := db.IDs(t.Context()); err != nil || len(ids) != 0 {
		t.Fatalf("%d events are there, %v, want none: the part is lost", len(ids), err)
	}
	second := start(t, c, db, whole)
	settled(t, c, 50)
	second.stop(t)
	once(t, db, rows...)
}

// A later revision of an event is a row already; loaded, it would be counted
// twice.
func TestService_leavesRevisionsOut(t *testing.T) {
	c, sink := newCluster(t), &clickhousetest.Memory{}
	rows := clickhousetest.Rows("a", 4)
	again := rows[1]
	again.Revision = 1
	publish(t, c, 0, rows[0], rows[1], again, rows[2], rows[3])
	p := start(t, c, sink)
	settled(t, c, 5)
	p.stop(t)
	once(t, sink, rows...)
	for _, row := range sink.Rows() {
		if row.Revision != 0 {
			t.Errorf("row %s has revision %d, want 0", row.ID, row.Revision)
		}
	}
}
