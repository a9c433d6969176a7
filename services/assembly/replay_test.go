package assembly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/chdb"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/pending"
	"mailriver/pkg/pending/pendingtest"
	"mailriver/pkg/raw"
	"mailriver/pkg/replay"
	"mailriver/schemas"
	"mailriver/services/loader"
	"mailriver/services/normalizer"
)

func TestMain(m *testing.M) {
	chdb.RunChildIfAsked()
	m.Run()
}

type oneSchema struct{}

func (oneSchema) SchemaByID(context.Context, int) (sr.Schema, error) {
	return sr.Schema{Schema: schemas.EmailEventV1, Type: sr.TypeAvro}, nil
}

// lines is a provider whose body is one recipient a line. Its second version
// reads what begins with b as a bounce, makes an event of what begins with n, and
// none of what begins with g; the first rejects n.
func lines(version int) esp.Provider {
	return esp.Provider{Name: "lines", Parse: func(w esp.Webhook) (esp.Result, error) {
		var out esp.Result
		for i, line := range strings.Split(string(w.Body), "\n") {
			e := event.Event{
				ID: event.NewID("lines", w.Source, line), Type: event.Delivered, Recipient: line,
				OccurredAt: w.ReceivedAt.Add(-time.Minute), RawEventIndex: int32(i),
			}
			switch {
			case version == 1 && line[0] == 'n', version == 2 && line[0] == 'g':
				out.Rejected = append(out.Rejected, esp.Rejected{
					Raw: []byte(line), Index: int32(i), Err: fault.Permanentf(fault.BadElement, "not understood"),
				})
				continue
			case version == 2 && line[0] == 'b':
				e.Type, e.BounceKind, e.SMTPResponse = event.Bounced, event.KindHard, "550 no such user"
			}
			out.Events = append(out.Events, e)
		}
		return out, nil
	}}
}

// river is everything from the raw topic to ClickHouse, with the first version
// of the parser.
type river struct {
	t          *testing.T
	c          *kafkatest.Cluster
	db         *clickhousetest.Database
	encoder    *eventavro.Encoder
	decoder    *eventavro.Decoder
	now        time.Time
	normalizer func() // stops it
}

func newRiver(t *testing.T, server string) *river {
	t.Helper()
	encoder, err := eventavro.NewEncoder(schemas.EmailEventV1, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := &river{
		t: t, c: kafkatest.New(t, kfake.GroupMinSessionTimeout(100*time.Millisecond)), db: clickhousetest.Open(t, server),
		encoder: encoder, decoder: eventavro.NewDecoder(oneSchema{}), now: time.Now().UTC().Truncate(time.Millisecond),
	}
	r.normalizer = r.startNormalizer()
	return r
}

// run runs a service until the returned function is called, or the test ends.
func (r *river) run(name string, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Logf("%s: %v", name, err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

func (r *river) startNormalizer() (stop func()) {
	r.t.Helper()
	cfg := normalizer.DefaultConfig()
	cfg.Group, cfg.RetryWait = r.c.Group("normalizer"), 10*time.Millisecond
	s, err := normalizer.New(cfg, normalizer.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return r.c.Clients.Session(cfg.Group, r.c.Group("normalizer"), []string{r.c.Topics.Raw}, opts...)
		},
		Reader: r.c.Clients.Reader, Admin: r.c.Clients.Admin, Encoder: r.encoder, Providers: []esp.Provider{lines(1)},
		Topics: r.c.Topics, Dir: r.t.TempDir(), Version: "1", Meter: noop.Meter{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.run("normalizer", s.Run)
}

func (r *river) startLoader(change ...func(*loader.Deps)) (stop func()) {
	r.t.Helper()
	producer, err := r.c.Clients.Producer()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(producer.Close)
	cfg := loader.DefaultConfig()
	cfg.Group, cfg.MaxWait, cfg.RetryMin, cfg.RetryMax = r.c.Group("loader"), 20*time.Millisecond, 5*time.Millisecond, 50*time.Millisecond
	deps := loader.Deps{
		NewClient: r.c.Clients.Group, Topic: r.c.Topics.Events, Sink: r.db, Decoder: r.decoder,
		Parker: kafka.Parker{Client: producer, Topic: r.c.Topics.Dead, Stage: "loader"}, Fence: r.db,
		Meter: noop.Meter{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for _, f := range change {
		f(&deps)
	}
	s, err := loader.New(cfg, deps)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.run("loader", s.Run)
}

// replay returns a replay with the second version of the parser.
func (r *river) replay(change ...func(*replay.Deps)) *replay.Replay {
	r.t.Helper()
	transformer := normalizer.NewTransformer([]esp.Provider{lines(2)}, r.encoder, r.c.Topics, "2", time.Now)
	deps := replay.Deps{
		Clients: r.c.Clients, Topics: r.c.Topics, Store: r.db.Client, Decoder: r.decoder, Encoder: r.encoder,
		Transform:       canonical(transformer),
		NormalizerGroup: r.c.Group("normalizer"), LoaderGroup: r.c.Group("loader"), TransactionalID: r.c.Group("replay"),
		DedupWindow: time.Hour, Holder: "a test", Lease: 5 * time.Second, Wait: kafkatest.Patience,
	}
	for _, f := range change {
		f(&deps)
	}
	out, err := replay.New(deps)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// receive writes a raw record. Of two, one is received last month.
func (r *river) receive(source, key string, lastMonth bool, lines ...string) {
	r.t.Helper()
	at := r.now
	if lastMonth {
		at = time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC).Add(-time.Hour)
	}
	record := raw.Record{
		Provider: "lines", Source: source, ReceivedAt: at, Body: []byte(strings.Join(lines, "\n")),
	}.Kafka(r.c.Topics.Raw, key)
	record.Timestamp = r.now
	r.c.Produce(r.t, record)
}

// receiveAll writes 40 records of ten lines: four d(elivered), four b(ounced),
// one n(ew) and one g(one) each.
func (r *river) receiveAll() {
	r.t.Helper()
	for i := range 40 {
		lines := make([]string, 0, 10)
		for _, kind := range []string{"d1", "b1", "d2", "b2", "n", "d3", "b3", "g", "d4", "b4"} {
			lines = append(lines, fmt.Sprintf("%s-%d@example.com", kind, i))
		}
		r.receive([]string{"shop", "blog"}[i%2], fmt.Sprint(i), i%4 < 2, lines...)
	}
}

func (r *river) value(sql string) string {
	r.t.Helper()
	answer, err := r.db.Query(context.Background(), sql, nil)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return fmt.Sprint(answer.Rows)
}

func (r *river) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(kafkatest.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not after %s", what, kafkatest.Patience)
		}
		<-tick.C
	}
}

const (
	rows     = "SELECT count(), uniqExact(event_id), (SELECT sum(events) FROM events_hourly) FROM events"
	revised  = "SELECT countIf(revision = 1), countIf(revision = 1 AND bounce_kind = 'hard' AND event_type = 'bounced'), countIf(revision > 1) FROM events"
	bounced  = "SELECT sumIf(events, event_type = 'bounced' AND bounce_kind = 'hard') FROM events_hourly"
	leftover = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND match(name, '^replay_[0-9a-f]{16}')"
)

func (r *river) want(query, want string) {
	r.t.Helper()
	if got := r.value(query); got != want {
		r.t.Errorf("%s = %s, want %s", query, got, want)
	}
}

// loaded waits until ClickHouse holds n events, once each.
func (r *river) loaded(n int) {
	r.t.Helper()
	want := fmt.Sprintf("[[%d %d %d]]", n, n, n)
	r.eventually(fmt.Sprintf("%d events are in ClickHouse", n), func() bool { return r.value(rows) == want })
}

// open checks that no fence stands and nothing is left behind.
func (r *river) open() {
	r.t.Helper()
	if closed, err := r.db.Closed(context.Background()); err != nil || closed {
		r.t.Errorf("Closed() = %t, %v, want an open fence", closed, err)
	}
	r.want(leftover, "[[0]]")
}

// length is the number of committed canonical records.
func (r *river) length() int {
	r.t.Helper()
	span, err := r.c.Clients.Span(context.Background(), r.c.Topics.Events, kafka.Start(), kafka.End())
	if err != nil {
		r.t.Fatal(err)
	}
	n := 0
	if err := r.c.Clients.Read(context.Background(), span, func(*kgo.Record) error { n++; return nil }); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func everything() replay.Raw { return replay.Raw{From: kafka.Start(), To: kafka.End(), Limit: 1000} }

// engine is one ClickHouse for all tests of replay.
func TestReplay(t *testing.T) {
	server := embeddedtest.ClickHouse(t)
	for name, test := range map[string]func(*testing.T, string){
		"raw":                  testReplayRaw,
		"one source":           testReplaySource,
		"ahead of normalizer":  testReplayAhead,
		"interrupted":          testReplayInterrupted,
		"insert under way":     testReplayInsertUnderWay,
		"rows while it swaps":  testReplayRowsMeanwhile,
		"dead loader":          testReplayDeadLoader,
		"loader behind":        testReplayLoaderBehind,
		"events of the loader": testReplayEvents,
		"two replays":          testReplayTwo,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

func testReplayRaw(t *testing.T, server string) {
	r := newRiver(t, server)
	r.startLoader()
	r.receiveAll()
	r.loaded(360)

	published := r.length()
	dry := everything()
	dry.DryRun = true
	report, err := r.replay().Raw(t.Context(), dry)
	if err != nil {
		t.Fatal(err)
	}
	wantReport(t, report, replay.Report{Records: 40, Unchanged: 160, Changed: 160, New: 40, Gone: 40})
	for _, field := range []string{"event_type", "bounce_kind", "smtp_response"} {
		if report.Fields[field] != 160 {
			t.Errorf("Fields[%s] = %d, want 160", field, report.Fields[field])
		}
	}
	if len(report.Fields) != 3 || len(report.Differences) != 3*160+40+40 {
		t.Errorf("%d fields, %d differences, want 3 and %d: %v", len(report.Fields), len(report.Differences), 3*160+80, report.Fields)
	}
	one := slices.IndexFunc(report.Differences, func(d replay.Difference) bool { return d.Field == "smtp_response" })
	if d := report.Differences[one]; d.What != replay.WhatChanged || d.Published != "" || d.Today != "550 no such user" || d.Revision != 1 {
		t.Errorf("difference = %+v", d)
	}
	if got := r.length(); got != published {
		t.Errorf("a dry run published: %d records, want %d", got, published)
	}
	r.want(rows, "[[360 360 360]]")
	r.want(revised, "[[0 0 0]]")

	stop := r.hammer()
	report, err = r.replay().Raw(t.Context(), everything())
	stop()
	if err != nil {
		t.Fatal(err)
	}
	wantReport(t, report, replay.Report{Records: 40, Unchanged: 160, Changed: 160, New: 40, Gone: 40, Published: 200})
	if len(report.Months) != 2 || !report.Months[0].Replaced || !report.Months[1].Replaced {
		t.Errorf("Months = %+v, want two that are swapped", report.Months)
	}
	r.loaded(400) // the new ones come through the loader
	r.want(revised, "[[160 160 0]]")
	r.want(bounced, "[[160]]")
	r.open()

	// What the replay published first is marked as the normalizer marks it, so that
	// a redelivery is a copy.
	marks := map[string]bool{}
	span, err := r.c.Clients.Span(t.Context(), r.c.Topics.Dedup, kafka.Start(), kafka.End())
	if err == nil {
		err = r.c.Clients.Read(t.Context(), span, func(mark *kgo.Record) error { marks[string(mark.Key)] = true; return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		id := event.NewID("lines", []string{"shop", "blog"}[i%2], fmt.Sprintf("n-%d@example.com", i))
		// The marks of last month are outside of the window: a broker may delete them.
		if i%4 >= 2 && !marks[id.String()] {
			t.Errorf("new event %d is not marked", i)
		}
	}
	r.receive("shop", "0", true, "n-0@example.com", "b1-0@example.com", "last@example.com")
	r.loaded(401)

	again, err := r.replay().Raw(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	wantReport(t, again, replay.Report{Records: 41, Unchanged: 361, Gone: 40, Duplicates: 2})
	for _, m := range again.Months {
		if m.Replaced || m.Behind != 0 {
			t.Errorf("again: month %+v, want it left alone", m)
		}
	}
}

func wantReport(t *testing.T, got, want replay.Report) {
	t.Helper()
	got.Fields, got.Differences, got.Months = nil, nil, nil
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("report = %+v, want %+v", got, want)
	}
}

// hammer asks ClickHouse until it is stopped, and fails the test when an answer
// mixes rows from before and after the swap of a month.
func (r *river) hammer() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var asked atomic.Int64
	for _, q := range []struct{ sql, what string }{
		{
			"SELECT toString(toYYYYMM(received_at)), count(), countIf(revision > 0), countIf(event_type = 'bounced'), " +
				"countIf(recipient LIKE 'n%') FROM events GROUP BY 1", "events",
		},
		{
			"SELECT toString(received_month), sum(events) - sumIf(events, false), sumIf(events, event_type = 'bounced'), " +
				"sumIf(events, event_type = 'bounced'), 0 FROM events_hourly GROUP BY 1", "roll-up",
		},
	} {
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					answer, err := r.db.Query(ctx, q.sql, nil)
					if err != nil {
						if ctx.Err() == nil {
							r.t.Errorf("%s: %v", q.what, err)
						}
						return
					}
					asked.Add(1)
					for _, row := range answer.Rows {
						count, changed, bounces := number(row[1]), number(row[2]), number(row[3])
						// New events come in through the loader meanwhile.
						if count -= number(row[4]); q.what == "events" && count != 180 || count < 180 || count > 200 ||
							changed != bounces || changed != 0 && changed != 80 {
							r.t.Errorf("%s: half a state: %v", q.what, row)
							return
						}
					}
				}
			})
		}
	}
	return func() {
		cancel()
		wg.Wait()
		if asked.Load() == 0 {
			r.t.Error("nothing was asked")
		}
	}
}

func number(v any) int64 {
	switch n := v.(type) {
	case uint64:
		return int64(n)
	case int64:
		return n
	case uint8:
		return int64(n)
	}
	return -1
}

func testReplaySource(t *testing.T, server string) {
	r := newRiver(t, server)
	r.startLoader()
	r.receiveAll()
	r.loaded(360)
	what := everything()
	what.Source = "shop"
	report, err := r.replay().Raw(t.Context(), what)
	if err != nil {
		t.Fatal(err)
	}
	wantReport(t, report, replay.Report{Records: 20, Unchanged: 80, Changed: 80, New: 20, Gone: 20, Published: 100})
	r.loaded(380)
	r.want("SELECT groupUniqArray(source) FROM events WHERE revision > 0", "[[[shop]]]")
}

// What the normalizer has not reached would be published by both.
func testReplayAhead(t *testing.T, server string) {
	r := newRiver(t, server)
	r.startLoader()
	r.receive("shop", "1", false, "b@example.com")
	r.loaded(1)
	r.normalizer()
	r.receive("shop", "2", false, "d@example.com")
	r.receive("shop", "3", false, "b2@example.com")
	report, err := r.replay().Raw(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	wantReport(t, report, replay.Report{Records: 1, Ahead: 2, Changed: 1, Published: 1})
	r.startNormalizer()
	r.loaded(3)
	r.want(revised, "[[1 1 0]]")
}

// An interruption at any step leaves a state that the same replay completes, and
// no fence.
func testReplayInterrupted(t *testing.T, server string) {
	for _, step := range []string{
		"read what was published", "publish", "published", "wait for the loader", "swap months", "set the fence",
		"wait for inserts under way", "fill the shadow", "swap", "take the fence away",
	} {
		t.Run(step, func(t *testing.T) {
			r := newRiver(t, server)
			r.startLoader()
			r.receiveAll()
			r.loaded(360)
			ctx, cancel := context.WithCancel(t.Context())
			reached := false
			_, err := r.replay(func(d *replay.Deps) {
				d.Progress = func(name string, _, _ int64) {
					if name == step {
						reached = true
						cancel()
					}
				}
			}).Raw(ctx, everything())
			if !errors.Is(err, context.Canceled) || !reached {
				t.Fatalf("Raw() = %v, reached %t, want it canceled there", err, reached)
			}
			r.open()
			if _, err := r.replay().Raw(t.Context(), everything()); err != nil {
				t.Fatal(err)
			}
			r.loaded(400)
			r.want(revised, "[[160 160 0]]")
			r.want(bounced, "[[160]]")
			r.open()
		})
	}
}

// slow is a sink whose insert waits in the middle, once it is armed.
type slow struct {
	loader.Sink
	armed    atomic.Bool
	begun    chan struct{}
	released chan struct{}
	done     chan struct{}
}

func newSlow(sink loader.Sink) *slow {
	return &slow{Sink: sink, begun: make(chan struct{}, 1), released: make(chan struct{}), done: make(chan struct{}, 1)}
}

func (s *slow) Insert(ctx context.Context, token string, rows []event.Event) error {
	if !s.armed.Load() {
		return s.Sink.Insert(ctx, token, rows)
	}
	s.begun <- struct{}{}
	select {
	case <-s.released:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.armed.Store(false)
	defer func() { s.done <- struct{}{} }()
	return s.Sink.Insert(ctx, token, rows)
}

// A replay waits for the insert that looked at the fence before it was set.
// Without the wait for pending ranges, the row of that insert comes between
// filling and swapping here, and is lost.
func testReplayInsertUnderWay(t *testing.T, server string) {
	r := newRiver(t, server)
	s := newSlow(r.db)
	r.startLoader(func(d *loader.Deps) { d.Sink = s })
	r.receiveAll()
	r.loaded(360)
	fenced := 0
	release := sync.OnceFunc(func() { close(s.released) })
	_, err := r.replay(func(d *replay.Deps) {
		d.Progress = func(step string, _, _ int64) {
			switch step {
			case "set the fence":
				if fenced++; fenced == 1 {
					s.armed.Store(true)
					r.receive("shop", "late", true, "d-late@example.com")
					<-s.begun
				}
			case "wait for inserts under way":
				// Long enough for the shadow to be filled, by one who does not wait.
				time.AfterFunc(2*time.Second, release)
			case "swap":
				if fenced == 1 {
					release()
					<-s.done
				}
			}
		}
	}).Raw(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	r.loaded(401)
}

// gate counts how often the loader was told to wait.
type gate struct {
	pending.Fence
	closed atomic.Int64
}

func (g *gate) Closed(ctx context.Context) (bool, error) {
	closed, err := g.Fence.Closed(ctx)
	if closed {
		g.closed.Add(1)
	}
	return closed, err
}

// Rows that are published while a month is swapped go in afterwards. Without the
// look at the fence, they would be lost in the swap.
func testReplayRowsMeanwhile(t *testing.T, server string) {
	r := newRiver(t, server)
	g := &gate{Fence: r.db}
	r.startLoader(func(d *loader.Deps) { d.Fence = g })
	r.receiveAll()
	r.loaded(360)
	var late int
	_, err := r.replay(func(d *replay.Deps) {
		d.Progress = func(step string, _, _ int64) {
			if step != "swap" {
				return
			}
			before := g.closed.Load()
			late++
			r.receive("shop", fmt.Sprint("late", late), late == 1, fmt.Sprintf("d-late-%d@example.com", late))
			r.eventually("the loader waits", func() bool { return g.closed.Load() > before })
		}
	}).Raw(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	r.loaded(400 + late)
	if late != 2 {
		t.Errorf("%d months were swapped, want 2", late)
	}
}

// A loader that died in the middle of an insert has to finish it first: after a
// swap its token would mean nothing. Without the wait for pending ranges, the
// months are swapped beside it.
func testReplayDeadLoader(t *testing.T, server string) {
	r := newRiver(t, server)
	var wire pendingtest.Wire
	s := newSlow(r.db)
	stop := r.startLoader(func(d *loader.Deps) { d.Sink, d.NewClient = s, wire.NewClient(r.c.Clients.Group) })
	r.receiveAll()
	r.loaded(360)
	die := sync.OnceFunc(func() {
		r.loaded(360 + 40)
		s.armed.Store(true)
		r.receive("shop", "late", false, "d-late@example.com")
		<-s.begun
		wire.Cut()
		stop()
	})
	_, err := r.replay(func(d *replay.Deps) {
		d.Wait = 3 * time.Second
		d.Progress = func(step string, _, _ int64) {
			if step == "set the fence" {
				die()
			}
		}
	}).Raw(t.Context(), everything())
	if err == nil || !strings.Contains(err.Error(), "range that is pending") || !strings.Contains(err.Error(), "start `mailriver loader`") {
		t.Errorf("Raw() beside a dead loader = %v, want what to do", err)
	}
	r.want(revised, "[[0 0 0]]")
	r.open()
	r.startLoader()
	r.loaded(401)
	if _, err := r.replay().Raw(t.Context(), everything()); err != nil {
		t.Fatal(err)
	}
	r.want(revised, "[[160 160 0]]")
	r.want(rows, "[[401 401 401]]")
}

// A swap before the loader has the first revision would be followed by it.
func testReplayLoaderBehind(t *testing.T, server string) {
	r := newRiver(t, server)
	r.receive("shop", "1", false, "b@example.com")
	r.c.Read(t, r.c.Topics.Events, 1)
	short := func(d *replay.Deps) { d.Wait = 2 * time.Second }
	report, err := r.replay(short).Raw(t.Context(), everything())
	if err == nil || !strings.Contains(err.Error(), "start `mailriver loader`") || report.Published != 1 {
		t.Errorf("Raw() without a loader = %+v, %v, want one published and what to do", report, err)
	}
	r.startLoader()
	if _, err := r.replay().Raw(t.Context(), everything()); err != nil {
		t.Fatal(err)
	}
	r.want(rows, "[[1 1 1]]")
	r.want(revised, "[[1 1 0]]")
}

func TestCheckConsumer(t *testing.T) {
	want := []string{"loader", "suppression", "leadscoring"}
	if got := ReplayConsumers(); !slices.Equal(got, want) {
		t.Errorf("ReplayConsumers() = %v, want %v", got, want)
	}
	for _, name := range want {
		if err := CheckConsumer(name); err != nil {
			t.Errorf("CheckConsumer(%q) = %v, want nil", name, err)
		}
	}
	if err := CheckConsumer("nobody"); err == nil || !strings.Contains(err.Error(), strings.Join(want, ", ")) {
		t.Errorf("CheckConsumer(nobody) = %v, want an error with the known ones", err)
	}
	for _, g := range DefaultConfig().rewindable() {
		if g.Name == "" || g.Topic != "email.events.v1" {
			t.Errorf("rewindable() has %+v, want a group and the canonical topic", g)
		}
	}
}

func testReplayEvents(t *testing.T, server string) {
	r := newRiver(t, server)
	r.startLoader()
	r.receiveAll()
	r.loaded(360)
	if _, err := r.replay().Raw(t.Context(), everything()); err != nil {
		t.Fatal(err)
	}
	r.loaded(400)
	for _, damage := range []string{
		"INSERT INTO events SELECT * FROM events WHERE recipient LIKE 'd1%'",
		"ALTER TABLE events DELETE WHERE recipient LIKE 'd2%' SETTINGS mutations_sync = 2",
		"ALTER TABLE events UPDATE revision = 0, bounce_kind = '' WHERE recipient LIKE 'b2%' SETTINGS mutations_sync = 2",
		"INSERT INTO events_hourly SELECT * FROM events_hourly",
	} {
		if err := r.db.Exec(t.Context(), damage); err != nil {
			t.Fatal(err)
		}
	}
	if r.value(rows) == "[[400 400 400]]" {
		t.Fatal("nothing was damaged")
	}
	report, err := r.replay().Events(t.Context(), kafka.Start())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Months) != 2 || report.Months[0].Rows+report.Months[1].Rows != 400 {
		t.Errorf("Months = %+v, want two with 400 rows together", report.Months)
	}
	r.want(rows, "[[400 400 400]]")
	r.want(revised, "[[160 160 0]]")
	r.want(bounced, "[[160]]")
	r.open()
}

// Of two replays the later one publishes; the earlier one, which compared before,
// must not.
func testReplayTwo(t *testing.T, server string) {
	r := newRiver(t, server)
	r.startLoader()
	r.receiveAll()
	r.loaded(360)
	once := sync.OnceFunc(func() {
		if _, err := r.replay().Raw(t.Context(), everything()); err != nil {
			t.Error(err)
		}
	})
	_, err := r.replay(func(d *replay.Deps) {
		d.Progress = func(step string, _, _ int64) {
			if step == "publish" {
				once()
			}
		}
	}).Raw(t.Context(), everything())
	if err == nil {
		t.Error("Raw() after another replay took over = nil, want an error")
	}
	r.loaded(400)
	r.want(revised, "[[160 160 0]]")
}
