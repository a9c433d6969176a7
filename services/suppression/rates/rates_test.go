package rates

import (
	"context"
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
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/schemas"
)

// world is a cluster, and what the tests have put into it.
type world struct {
	t       *testing.T
	c       *kafkatest.Cluster
	cfg     Config
	encoder *eventavro.Encoder
	made    int
	marks   int
	want    map[string]Counts // by sender and hour, what was put in

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c := kafkatest.New(t)
	encoder, err := eventavro.NewEncoder(schemas.EmailEventV1, eventSchema)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Group, cfg.MaxWait, cfg.RetryWait, cfg.MinVolume = c.Group("rates"), 10*time.Millisecond, 10*time.Millisecond, 10
	// Now, so that the retention of a real broker keeps it.
	return &world{t: t, c: c, cfg: cfg, encoder: encoder, want: map[string]Counts{}, now: time.Now().UTC().Truncate(time.Hour)}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// service makes an instance.
func (w *world) service(instance string) (*Service, *metric.ManualReader) {
	w.t.Helper()
	encoder, err := NewEncoder(alertSchema)
	if err != nil {
		w.t.Fatal(err)
	}
	reader := metric.NewManualReader()
	s, err := New(w.cfg, Deps{
		Clients: w.c.Clients, Topics: w.c.Topics, Instance: instance, Events: eventavro.NewDecoder(registry{}),
		Encoder: encoder, Decoder: NewDecoder(registry{}),
		Meter:  metric.NewMeterProvider(metric.WithReader(reader)).Meter("test"),
		Logger: slog.New(slog.DiscardHandler), Now: w.clock,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s.askEvery, s.sumEvery = 20*time.Millisecond, 5*time.Millisecond
	return s, reader
}

// start runs an instance until it is stopped or the test ends.
func (w *world) start(instance string) (stop func(), reader *metric.ManualReader) {
	w.t.Helper()
	s, reader := w.service(instance)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run() = %v, want nil after the context ended", err)
		}
	})
	w.t.Cleanup(stop)
	return stop, reader
}

// put publishes n events of a sender, each to another recipient, and notes them.
func (w *world) put(sender string, at time.Time, n Counts) {
	w.t.Helper()
	w.c.Produce(w.t, w.events(sender, at, n)...)
	w.note(sender, at, n)
}

func (w *world) note(sender string, at time.Time, n Counts) {
	key := sender + "|" + at.Format(hourForm)
	w.want[key] = w.want[key].plus(n)
}

func (w *world) events(sender string, at time.Time, n Counts) []*kgo.Record {
	w.t.Helper()
	var records []*kgo.Record
	add := func(count int64, typ event.Type, kind string) {
		for range count {
			w.made++
			e := event.Event{
				ID: event.NewID("ses", "ses", fmt.Sprint(w.made)), Type: typ, BounceKind: kind, Provider: "ses", Source: "ses",
				Sender: "news@" + sender, OccurredAt: at, ReceivedAt: w.clock().Add(time.Minute),
			}
			value, err := w.encoder.Append(nil, &e)
			if err != nil {
				w.t.Fatal(err)
			}
			records = append(records, &kgo.Record{Topic: w.c.Topics.Events, Key: fmt.Appendf(nil, "r%d@example.com", w.made), Value: value})
		}
	}
	add(n.Delivered, event.Delivered, "")
	add(n.Complained, event.Complained, "")
	add(n.HardBounced, event.Bounced, event.KindHard)
	return records
}

// read returns every committed record of a topic.
func (w *world) read(topic string) []*kgo.Record {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkatest.Patience)
	defer cancel()
	span, err := w.c.Clients.Span(ctx, topic, kafka.Start(), kafka.End())
	if err != nil {
		w.t.Fatal(err)
	}
	var records []*kgo.Record
	if err := w.c.Clients.Read(ctx, span, func(r *kgo.Record) error { records = append(records, r); return nil }); err != nil {
		w.t.Fatal(err)
	}
	return records
}

// ledger is what the rates topic says, by sender and hour: the last record of each
// key, as an owner would go on from it.
func (w *world) ledger() map[string]Counts {
	w.t.Helper()
	last := map[string]Counts{}
	for _, r := range w.read(w.c.Topics.Rates) {
		if _, _, n, err := parseCounter(r.Key, r.Value); err == nil {
			last[string(r.Key)] = n
		}
	}
	sums := map[string]Counts{}
	for key, n := range last {
		_, c, _, err := parseCounter([]byte(key), []byte("{}"))
		if err != nil {
			w.t.Fatal(err)
		}
		sum := c.sender + "|" + c.hour.begin().Format(hourForm)
		sums[sum] = sums[sum].plus(n)
	}
	return sums
}

// await polls until ok, which says what it waits for.
func (w *world) await(ok func() (bool, string)) {
	w.t.Helper()
	deadline := time.After(kafkatest.Patience)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		done, what := ok()
		if done {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			w.t.Fatalf("after %s: %s", kafkatest.Patience, what)
		}
	}
}

// balanced waits until the rates topic says what was put in.
func (w *world) balanced() {
	w.t.Helper()
	w.await(func() (bool, string) {
		got := w.ledger()
		return maps.Equal(got, w.want), fmt.Sprintf("the rates topic says %v, want %v", got, w.want)
	})
}

// alerts are those of a sender, in the order in which they were told.
func (w *world) alerts(sender string) []Alert {
	w.t.Helper()
	var list []Alert
	for _, r := range w.read(w.c.Topics.Alerts) {
		a, err := NewDecoder(registry{}).Decode(context.Background(), r.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		if a.key() != string(r.Key) || kafkatest.Header(r, "ce_id") != a.ID.String() {
			w.t.Errorf("alert %+v has the key %s and the ce_id %s", a, r.Key, kafkatest.Header(r, "ce_id"))
		}
		if a.Sender == sender {
			list = append(list, a)
		}
	}
	return list
}

// levels is how the alerts of a sender went: "complaint ok>warning".
func (w *world) levels(sender string) []string {
	w.t.Helper()
	var list []string
	for _, a := range w.alerts(sender) {
		list = append(list, fmt.Sprintf("%s %s>%s", a.Rate, a.Previous, a.Level))
	}
	return list
}

// told waits until the alerts of a sender are these.
func (w *world) told(sender string, want ...string) {
	w.t.Helper()
	w.await(func() (bool, string) {
		got := w.levels(sender)
		if slices.Equal(got, want) {
			return true, ""
		}
		return false, fmt.Sprintf("alerts of %s are %v, want %v; the rates topic says %v of %v", sender, got, want, w.ledger(), w.want)
	})
}

// judged waits until what was put in has been judged: the counters are written, a
// gauge shows them, and an alert of another sender, made after that, is told. The
// alerts topic has one partition and so one order.
func (w *world) judged(reader *metric.ManualReader, sender string, complaints float64) {
	w.t.Helper()
	w.balanced()
	w.await(func() (bool, string) {
		got := gauge(w.t, reader, "mailriver.suppression.complaint_rate")[sender]
		return got == complaints, fmt.Sprintf("the complaint rate of %s is %v, want %v", sender, got, complaints)
	})
	w.marked()
}

// marked waits until an alert that is made now is told.
func (w *world) marked() {
	w.t.Helper()
	w.marks++
	mark := fmt.Sprintf("mark-%d.example", w.marks)
	w.put(mark, w.clock().Truncate(time.Hour), Counts{Delivered: w.cfg.MinVolume, Complained: w.cfg.MinVolume})
	w.told(mark, "complaint ok>critical")
}

func gauge(t *testing.T, reader *metric.ManualReader, name string) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	for _, m := range collect(t, reader) {
		if points, ok := m.Data.(metricdata.Gauge[float64]); ok && m.Name == name {
			for _, p := range points.DataPoints {
				sender, _ := p.Attributes.Value("sender_domain")
				got[sender.AsString()] = p.Value
			}
		}
	}
	return got
}

// counter sums a counter by the values of a label.
func counter(t *testing.T, reader *metric.ManualReader, name, label string) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	for _, m := range collect(t, reader) {
		if points, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
			for _, p := range points.DataPoints {
				value, _ := p.Attributes.Value(attribute.Key(label))
				got[value.AsString()] += p.Value
			}
		}
	}
	return got
}

func collect(t *testing.T, reader *metric.ManualReader) []metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	var list []metricdata.Metrics
	for _, scope := range all.ScopeMetrics {
		list = append(list, scope.Metrics...)
	}
	return list
}

// refuseSomeCommits makes every n-th transaction abort.
func (w *world) refuseSomeCommits(n int64) (refused *atomic.Int64) {
	var seen atomic.Int64
	refused = &atomic.Int64{}
	w.c.Fake.ControlKey(int16(kmsg.TxnOffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.c.Fake.KeepControl()
		if seen.Add(1)%n != 0 {
			return nil, nil, false
		}
		refused.Add(1)
		commit := req.(*kmsg.TxnOffsetCommitRequest)
		resp := commit.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
		for _, topic := range commit.Topics {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				rp.Partition = partition.Partition
				rp.ErrorCode = kerr.UnknownMemberID.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	return refused
}

// Counters are exact while instances come and go in the middle of the traffic and
// transactions abort. Each of these alone makes it fail: a book that is not
// restored, one that is kept over an assignment, one that is written before the
// commit.
func TestCounts_areExact(t *testing.T) {
	w := newWorld(t)
	w.cfg.MaxRecords = 40
	var refused *atomic.Int64
	if w.c.Fake != nil {
		refused = w.refuseSomeCommits(7)
	}
	at := w.clock()
	traffic := func(rounds int) {
		for i := range rounds {
			sender := fmt.Sprintf("s%d.example", i%3)
			w.put(sender, at.Add(-time.Duration(i%5)*time.Hour), Counts{Delivered: 30, Complained: 2, HardBounced: 3})
		}
	}
	counting := func(reader *metric.ManualReader, name string) {
		t.Helper()
		w.await(func() (bool, string) {
			traffic(1)
			return len(counter(t, reader, "mailriver.suppression.rates.facts", "kind")) > 0, name + " counts nothing"
		})
	}
	stopA, _ := w.start("a")
	traffic(10)
	_, b := w.start("b")
	traffic(20)
	counting(b, "b")
	stopA()
	traffic(10)
	w.balanced() // b has all partitions,
	stopA, a := w.start("a")
	counting(a, "a") // loses some,
	traffic(10)
	stopA()
	traffic(10) // and has them again
	w.balanced()
	w.start("c")
	traffic(20)
	w.balanced()
	// All that was put in is counted. Nothing comes on top of it: the end is behind
	// every event.
	w.put("end.example", at, Counts{Delivered: 50})
	w.balanced()
	if refused != nil && refused.Load() == 0 {
		t.Error("no transaction was aborted: the test shows less than it says")
	}
}

// What a transaction holds open when a partition changes hands is waited for.
// Without Settle the counter is not there.
func TestCounted_waitsForOpenTransactions(t *testing.T) {
	w := newWorld(t)
	w.c.NeedFake(t)
	client, err := w.c.Clients.Producer(kgo.TransactionalID(w.c.Group("other")))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	want := cell{"shop.example", hourOf(w.clock())}
	record := &kgo.Record{Topic: w.c.Topics.Rates, Key: []byte(keyOf(2, want)), Value: []byte(`{"delivered":7}`)}
	if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	waits := make(chan struct{})
	w.c.Fake.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.c.Fake.KeepControl()
		if asked.Add(1) == 8 { // more than one look takes
			close(waits)
		}
		return nil, nil, false
	})
	s, _ := w.service("a")
	got := map[cell]Counts{}
	done := make(chan error, 1)
	go func() {
		_, err := s.counted(context.Background(), func(_ int32, c cell, n Counts) { got[c] = n })
		done <- err
	}()
	select {
	case <-waits:
		if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		err = <-done
	case err = <-done:
	}
	if err != nil || got[want] != (Counts{Delivered: 7}) {
		t.Errorf("counted() = %v, %v, want 7 delivered", got, err)
	}
}

// A new group begins a window ago, at an offset: also where nothing has been
// published yet, so that what is published next is read. What has a commit goes on
// from it.
func TestBegin(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service("a")
	client, err := w.c.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	old := w.clock().Add(-3 * 24 * time.Hour)
	for _, r := range []*kgo.Record{
		{Partition: 1, Timestamp: old}, {Partition: 1, Timestamp: old}, {Partition: 1, Timestamp: w.clock()}, {Partition: 2, Timestamp: old},
	} {
		r.Topic, r.Value = w.c.Topics.Events, []byte("x")
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	start := kgo.NewOffset().AtStart()
	got, err := s.begin(t.Context(), map[string]map[int32]kgo.Offset{
		w.c.Topics.Events: {0: start, 1: start, 2: start, 3: kgo.NewOffset().At(7)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[int32]int64{0: 0, 1: 2, 2: 1, 3: 7} {
		if offset := got[w.c.Topics.Events][p].EpochOffset().Offset; offset != want {
			t.Errorf("begin() of partition %d = %d, want %d", p, offset, want)
		}
	}
}

// A crossing is told once, up and down, and not again while the rate wavers.
func TestAlerts_crossings(t *testing.T) {
	w := newWorld(t)
	_, reader := w.start("a")
	const shop = "shop.example"
	at := w.clock()
	step := func(n Counts, rate float64, want ...string) {
		t.Helper()
		w.put(shop, at, n)
		w.judged(reader, shop, rate)
		w.told(shop, want...)
	}
	warned, critical := "complaint ok>warning", "complaint warning>critical"
	step(Counts{Delivered: 1000}, 0)
	step(Counts{Complained: 1}, 1.0/1000, warned)
	step(Counts{Delivered: 250}, 1.0/1250, warned) // 0.08 %: holds
	step(Counts{Complained: 1}, 2.0/1250, warned)
	step(Counts{Complained: 2}, 4.0/1250, warned, critical)
	step(Counts{Delivered: 350}, 4.0/1600, warned, critical) // 0.25 %: holds
	step(Counts{Complained: 1}, 5.0/1600, warned, critical)
	step(Counts{Delivered: 900}, 5.0/2500, warned, critical, "complaint critical>warning")
	step(Counts{Delivered: 4500}, 5.0/7000, warned, critical, "complaint critical>warning", "complaint warning>ok")
	step(Counts{HardBounced: 500}, 5.0/7000, warned, critical, "complaint critical>warning", "complaint warning>ok", "hard_bounce ok>critical")

	list := w.alerts(shop)
	ids := map[event.ID]bool{}
	for i, a := range list {
		ids[a.ID] = true
		if want := a.identity(); a.ID != want {
			t.Errorf("alert %d has the id %s, want %s", i, a.ID, want)
		}
		if i > 0 && a.Rate == Complaint && a.PreviousID != list[i-1].ID {
			t.Errorf("alert %d follows %s, want %s", i, a.PreviousID, list[i-1].ID)
		}
	}
	if len(ids) != len(list) {
		t.Errorf("%d ids of %d alerts", len(ids), len(list))
	}
	if got := gauge(t, reader, "mailriver.suppression.hard_bounce_rate")[shop]; got != 500.0/7500 {
		t.Errorf("hard_bounce_rate = %v, want %v", got, 500.0/7500)
	}
	alerts := counter(t, reader, "mailriver.suppression.alerts", "rate")
	if got, want := alerts["complaint"], int64(4+w.marks); got != want || alerts["hard_bounce"] != 1 {
		t.Errorf("alerts by rate = %v, want %d complaint and 1 hard_bounce", alerts, want)
	}
	facts := counter(t, reader, "mailriver.suppression.rates.facts", "kind")
	var want Counts
	for _, n := range w.want {
		want = want.plus(n)
	}
	if facts["delivered"] != want.Delivered || facts["complained"] != want.Complained || facts["hard_bounced"] != want.HardBounced {
		t.Errorf("facts = %v, want %v", facts, want)
	}
}

// One of three is no rate.
func TestAlerts_minVolume(t *testing.T) {
	w := newWorld(t)
	_, reader := w.start("a")
	w.put("small.example", w.clock(), Counts{Delivered: 9, Complained: 3, HardBounced: 0})
	w.judged(reader, "small.example", 3.0/9)
	w.told("small.example")
	w.put("small.example", w.clock(), Counts{Delivered: 1})
	w.told("small.example", "complaint ok>critical")
}

// An hour leaves the window when a later one has come for anybody, and events that
// come later than that are not counted. What is late, and within, is.
func TestAlerts_windowSlides(t *testing.T) {
	w := newWorld(t)
	_, reader := w.start("a")
	old := w.clock().Add(-23 * time.Hour)
	w.put("shop.example", old, Counts{Delivered: 99, Complained: 1})
	w.told("shop.example", "complaint ok>critical")
	w.put("shop.example", w.clock(), Counts{Delivered: 300}) // still in: 1 of 399
	w.judged(reader, "shop.example", 1.0/399)
	w.told("shop.example", "complaint ok>critical") // 0.25 %
	w.put("shop.example", old, Counts{Complained: 1})
	w.judged(reader, "shop.example", 2.0/399)

	// Another sender is an hour on.
	w.pass(time.Hour)
	w.put("other.example", w.clock(), Counts{Delivered: 60}) // on every partition, for the late ones below
	w.told("shop.example", "complaint ok>critical", "complaint critical>ok")
	w.judged(reader, "shop.example", 0)
	late := w.events("shop.example", old, Counts{Complained: 20})
	w.c.Produce(t, late...)
	w.await(func() (bool, string) {
		got := counter(t, reader, "mailriver.suppression.rates.late", "")[""]
		return got == 20, fmt.Sprintf("%d facts are late, want 20", got)
	})
	w.judged(reader, "shop.example", 0)
	w.told("shop.example", "complaint ok>critical", "complaint critical>ok")
	if a := w.alerts("shop.example")[1]; !a.WindowEnd.Equal(w.clock().Add(time.Hour)) || a.WindowEnd.Sub(a.WindowStart) != w.cfg.Window {
		t.Errorf("the window is %s to %s, want a day to %s", a.WindowStart, a.WindowEnd, w.clock().Add(time.Hour))
	}
}

// When nothing comes any more, the alert of a domain ends a window later by the
// clock, and says that there is no mail.
func TestAlerts_silence(t *testing.T) {
	w := newWorld(t)
	_, reader := w.start("a")
	w.put("shop.example", w.clock(), Counts{Delivered: 100, Complained: 1})
	w.judged(reader, "shop.example", 1.0/100)
	w.pass(23 * time.Hour)
	w.await(func() (bool, string) { // the counters still show: the hour is the last one in
		return gauge(t, reader, "mailriver.suppression.complaint_rate")["shop.example"] == 0.01, "the rate is gone within the window"
	})
	w.told("shop.example", "complaint ok>critical")
	w.pass(time.Hour)
	w.told("shop.example", "complaint ok>critical", "complaint critical>ok")
	if a := w.alerts("shop.example")[1]; a.Volume != 0 || a.Events != 0 || a.Value != 0 {
		t.Errorf("the alert is %+v, want one without mail", a)
	}
}

// Another instance takes over: it tells nothing again, and goes on from what was
// told.
func TestAlerts_takeover(t *testing.T) {
	w := newWorld(t)
	stop, _ := w.start("a")
	w.put("shop.example", w.clock(), Counts{Delivered: 1000, Complained: 1})
	w.told("shop.example", "complaint ok>warning")
	stop()
	_, reader := w.start("b")
	w.judged(reader, "shop.example", 1.0/1000)
	w.told("shop.example", "complaint ok>warning")
	w.put("shop.example", w.clock(), Counts{Complained: 5})
	w.told("shop.example", "complaint ok>warning", "complaint warning>critical")
	list := w.alerts("shop.example")
	if list[1].PreviousID != list[0].ID {
		t.Errorf("the second alert follows %s, want %s", list[1].PreviousID, list[0].ID)
	}
}

// Two instances that both hold themselves for the one to tell: the one that took
// over later tells, and the other ends with an error, having told nothing. Without
// the transactional id the crossing is told twice.
func TestTell_twoBelieveTheyAreIt(t *testing.T) {
	w := newWorld(t)
	stop, _ := w.start("before")
	w.put("old.example", w.clock(), Counts{Delivered: 100, Complained: 1})
	w.told("old.example", "complaint ok>critical")
	w.balanced()
	stop()

	type running struct {
		reader *metric.ManualReader
		done   chan error
	}
	believe := func(instance string) running {
		s, reader := w.service(instance)
		s.askEvery = time.Hour
		stopWatch, err := s.metrics.watch()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		r := running{reader, make(chan error, 1)}
		finished := make(chan struct{})
		go func() { defer close(finished); r.done <- s.tell(ctx) }()
		t.Cleanup(func() {
			cancel()
			<-finished
			if err := stopWatch(); err != nil {
				t.Error(err)
			}
		})
		w.await(func() (bool, string) {
			return gauge(t, reader, "mailriver.suppression.complaint_rate")["old.example"] == 0.01, instance + " shows nothing"
		})
		return r
	}
	first := believe("first")
	second := believe("second")
	w.c.Produce(t, &kgo.Record{
		Topic: w.c.Topics.Rates, Key: []byte(keyOf(0, cell{"new.example", hourOf(w.clock())})), Value: []byte(`{"delivered":100,"complained":1}`),
	})
	select {
	case err := <-first.done:
		if err == nil {
			t.Error("tell() of the one that was replaced = nil, want an error")
		}
	case <-time.After(kafkatest.Patience):
		t.Fatal("the one that was replaced goes on")
	}
	w.told("new.example", "complaint ok>critical")
	if got := counter(t, first.reader, "mailriver.suppression.alerts", "rate"); len(got) != 0 {
		t.Errorf("the one that was replaced told %v, want nothing", got)
	}
	if got := counter(t, second.reader, "mailriver.suppression.alerts", "rate")["complaint"]; got != 1 {
		t.Errorf("the other told %d, want 1", got)
	}
}

// Only the domains with the most mail have gauges, and only while the instance
// tells.
func TestGauges_areBounded(t *testing.T) {
	w := newWorld(t)
	w.cfg.MaxDomains = 2
	stop, reader := w.start("a")
	for i, sender := range []string{"tiny.example", "small.example", "large.example"} {
		w.put(sender, w.clock(), Counts{Delivered: int64(20 * (i + 1))})
	}
	w.await(func() (bool, string) {
		got := slices.Sorted(maps.Keys(gauge(t, reader, "mailriver.suppression.hard_bounce_rate")))
		return strings.Join(got, " ") == "large.example small.example", fmt.Sprintf("gauges of %v, want large and small", got)
	})
	stop()
	if got := gauge(t, reader, "mailriver.suppression.hard_bounce_rate"); len(got) != 0 {
		t.Errorf("after the end there are gauges of %v", got)
	}
}

// What cannot be read is left out and counted; what comes after it is not.
func TestCounts_unreadable(t *testing.T) {
	w := newWorld(t)
	_, reader := w.start("a")
	w.c.Produce(t, &kgo.Record{Topic: w.c.Topics.Events, Key: []byte("x"), Value: []byte("{}")},
		&kgo.Record{Topic: w.c.Topics.Rates, Key: []byte("x"), Value: []byte("?")})
	w.put("shop.example", w.clock(), Counts{Delivered: 20, Complained: 1})
	w.told("shop.example", "complaint ok>critical")
	w.await(func() (bool, string) {
		got := counter(t, reader, "mailriver.suppression.rates.unreadable", "")[""]
		return got == 1, fmt.Sprintf("%d records are unreadable, want 1", got)
	})
}

// It is not ready before it is connected.
func TestReady(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service("a")
	if err := s.Ready(t.Context()); err == nil {
		t.Error("Ready() before Run = nil, want an error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.await(func() (bool, string) {
		err := s.Ready(context.Background())
		return err == nil, fmt.Sprintf("Ready() = %v, want nil", err)
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// Switched off, it does nothing and is ready.
func TestRun_notEnabled(t *testing.T) {
	w := newWorld(t)
	w.cfg.Enabled = false
	s, _ := w.service("a")
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready() = %v, want nil", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}
