package loader_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/schemas"
	"mailriver/services/loader"
)

// score is a state as another table may have it: the loader knows no topic.
type score struct {
	Who    string
	Points int
}

// scores is a table of states in memory. It refuses negative points.
type scores struct {
	mu   sync.Mutex
	rows map[string]clickhouse.State[score]
	fail func(op string) error
}

func (s *scores) check(op string, rows []clickhouse.State[score]) error {
	if s.fail != nil {
		if err := s.fail(op); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if row.Value.Points < 0 {
			return fault.Permanentf(fault.RowRefused, "column points")
		}
	}
	return nil
}

func (s *scores) Insert(_ context.Context, rows []clickhouse.State[score]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check("insert", rows); err != nil {
		return err
	}
	for _, row := range rows {
		if have, ok := s.rows[row.Value.Who]; !ok || row.Offset >= have.Offset {
			s.rows[row.Value.Who] = row
		}
	}
	return nil
}

func (s *scores) Probe(_ context.Context, rows []clickhouse.State[score]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.check("probe", rows)
}

func (s *scores) Ping(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.check("ping", nil)
}

func (s *scores) setFail(f func(op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// standing is what the table says: points by name, of those that are not gone.
func (s *scores) standing() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	points := map[string]int{}
	for who, row := range s.rows {
		if !row.Deleted {
			points[who] = row.Value.Points
		}
	}
	return points
}

type scoreDecoder struct{ down *atomic.Bool }

func (d scoreDecoder) Decode(_ context.Context, value []byte) (s score, err error) {
	if d.down != nil && d.down.Load() {
		return s, errors.New("registry: connection refused")
	}
	if err := json.Unmarshal(value, &s); err != nil {
		return s, fault.Permanentf(fault.BadAvro, "not a score")
	}
	return s, nil
}

func scoreDeps(c *kafkatest.Cluster, sink *scores) loader.StateDeps[score] {
	return loader.StateDeps[score]{
		NewClient: c.Clients.Group, Table: "scores", Topic: c.Topics.Suppressions, Sink: sink, Decoder: scoreDecoder{},
		Key:    func(key []byte) (score, bool) { return score{Who: string(key)}, string(key) != "nobody" },
		Parker: kafka.Parker{}, Meter: noop.Meter{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

func startStates[V any](
	t *testing.T, c *kafkatest.Cluster, deps loader.StateDeps[V], change ...func(*loader.Config, *loader.StateDeps[V]),
) *process {
	t.Helper()
	producer, err := c.Clients.Producer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	p := &process{done: make(chan error, 1)}
	cfg := quick()
	deps.NewClient = p.wire.NewClient(c.Clients.Group)
	deps.Parker = kafka.Parker{Client: producer, Topic: c.Topics.Dead, Stage: "loader." + deps.Table}
	deps.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, f := range change {
		f(&cfg, &deps)
	}
	if p.service, err = loader.NewStates(cfg, deps); err != nil {
		t.Fatal(err)
	}
	p.run(t)
	return p
}

// scoreRecords are records of one partition. Of each pair the second is the
// points, or "" for a removal, or what does not decode.
func scoreRecords(c *kafkatest.Cluster, pairs ...string) []*kgo.Record {
	var records []*kgo.Record
	for i := 0; i < len(pairs); i += 2 {
		r := &kgo.Record{Topic: c.Topics.Suppressions, Key: []byte(pairs[i])}
		if pairs[i+1] != "" {
			r.Value = fmt.Appendf(nil, `{"Who":%q,"Points":%s}`, pairs[i], pairs[i+1])
		}
		records = append(records, r)
	}
	return records
}

// The newest record of each key is in the table, whatever became of others: a
// refused row and an unreadable record are dead-lettered alone.
func TestStates_load(t *testing.T) {
	c, sink := newCluster(t), &scores{rows: map[string]clickhouse.State[score]{}}
	produce(t, c, scoreRecords(c,
		"jane", "1", "joe", "5", "jane", "2", "ann", "7",
		"joe", "-1", // refused: the state before it stays
		"ann", "", // removed
		"bob", "3", "bob", "broken",
		"nobody", "", // no key
		"eve", "", "eve", "4", // removed, and there again
	)...)
	p := startStates(t, c, scoreDeps(c, sink))
	settledIn(t, c, "mailriver.loader.scores", c.Topics.Suppressions, 11)
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("Ready() = %v, want nil", err)
	}
	p.stop(t)
	if got, want := sink.standing(), map[string]int{"jane": 2, "joe": 5, "bob": 3, "eve": 4}; !maps.Equal(got, want) {
		t.Errorf("the table has %v, want %v", got, want)
	}
	told := map[string]string{}
	for _, letter := range c.Read(t, c.Topics.Dead, 3) {
		told[strings.TrimPrefix(kafkatest.Header(letter, kafka.HeaderOrigin), c.Topics.Suppressions)] =
			kafkatest.Header(letter, kafka.HeaderStage) + " " + kafkatest.Header(letter, kafka.HeaderError)
	}
	want := map[string]string{
		"/0/4": "loader.scores row_refused: column points",
		"/0/7": "loader.scores bad_avro: not a score",
		"/0/8": "loader.scores bad_value: the key of 6 bytes, without a value, is not one",
	}
	if !maps.Equal(told, want) {
		t.Errorf("dead letters = %v, want %v", told, want)
	}
}

// What is away is waited for, and nothing is given up.
func TestStates_wait(t *testing.T) {
	for _, away := range []string{"clickhouse", "registry"} {
		t.Run(away, func(t *testing.T) {
			c, sink := newCluster(t), &scores{rows: map[string]clickhouse.State[score]{}}
			produce(t, c, scoreRecords(c, "jane", "1", "joe", "-1", "jane", "broken", "jane", "2")...)
			reader := sdk.NewManualReader()
			var down atomic.Bool
			down.Store(true)
			deps := scoreDeps(c, sink)
			deps.Meter = sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
			if away == "registry" {
				deps.Decoder = scoreDecoder{&down}
			} else {
				sink.setFail(func(string) error {
					if down.Load() {
						return errors.New("connection refused")
					}
					return nil
				})
			}
			p := startStates(t, c, deps)
			eventually(t, "five tries", func() bool { return sum(t, reader, "mailriver.loader.retries") >= 5 })
			if err := p.Ready(t.Context()); (err == nil) != (away == "registry") {
				t.Errorf("Ready() = %v while the %s is away", err, away)
			}
			if n := deadLetters(t, c); n != 0 {
				t.Errorf("%d records were dead-lettered during the outage, want none", n)
			}
			down.Store(false)
			settledIn(t, c, "mailriver.loader.scores", c.Topics.Suppressions, 4)
			p.stop(t)
			if got, want := sink.standing(), map[string]int{"jane": 2}; !maps.Equal(got, want) {
				t.Errorf("the table has %v, want %v", got, want)
			}
			if n := deadLetters(t, c); n != 2 {
				t.Errorf("%d records were dead-lettered, want 2", n)
			}
		})
	}
}

// Every value says the table that it is about: both kinds of consumer use the
// same instruments.
func TestStates_metrics(t *testing.T) {
	c, sink := newCluster(t), &scores{rows: map[string]clickhouse.State[score]{}}
	produce(t, c, scoreRecords(c, "jane", "1", "joe", "-1", "jane", "2")...)
	rows := clickhousetest.Rows("a", 5)
	publish(t, c, 0, rows...)
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	deps := scoreDeps(c, sink)
	deps.Meter = meter
	states := startStates(t, c, deps)
	events := start(t, c, &clickhousetest.Memory{}, func(_ *loader.Config, d *loader.Deps) { d.Meter = meter })
	settledIn(t, c, "mailriver.loader.scores", c.Topics.Suppressions, 3)
	settled(t, c, 5)
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			for _, point := range points(m.Data) {
				if point.table == "" {
					t.Errorf("%s has a value without a table", m.Name)
				}
				got[m.Name+" "+point.table] += point.value
			}
		}
	}
	for name, want := range map[string]int64{
		"mailriver.loader.rows scores":         2,
		"mailriver.loader.rows events":         5,
		"mailriver.loader.dead_letters scores": 1,
		"mailriver.loader.dead_letters events": 0,
		"mailriver.loader.freshness scores":    1,
		"mailriver.loader.freshness events":    1,
		"mailriver.loader.partitions scores":   6,
		"mailriver.loader.partitions events":   6,
	} {
		if got[name] < want || strings.Contains(name, "rows") && got[name] != want {
			t.Errorf("%s = %d, want %d", name, got[name], want)
		}
	}
	states.stop(t)
	events.stop(t)
}

type point struct {
	table string
	value int64 // the count of a histogram
}

func points(data metricdata.Aggregation) (all []point) {
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			table, _ := p.Attributes.Value("table")
			all = append(all, point{table.AsString(), p.Value})
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			table, _ := p.Attributes.Value("table")
			all = append(all, point{table.AsString(), p.Value})
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			table, _ := p.Attributes.Value("table")
			all = append(all, point{table.AsString(), int64(p.Value)})
		}
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			table, _ := p.Attributes.Value("table")
			all = append(all, point{table.AsString(), int64(p.Count)})
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			table, _ := p.Attributes.Value("table")
			all = append(all, point{table.AsString(), int64(p.Count)})
		}
	}
	return all
}

func TestNewStates_isInertAndComplete(t *testing.T) {
	c := newCluster(t)
	good := scoreDeps(c, &scores{})
	if _, err := loader.NewStates(loader.DefaultConfig(), good); err != nil {
		t.Errorf("NewStates() = %v, want nil", err)
	}
	for name, spoil := range map[string]func(*loader.StateDeps[score]){
		"NewClient": func(d *loader.StateDeps[score]) { d.NewClient = nil },
		"Table":     func(d *loader.StateDeps[score]) { d.Table = "" },
		"Topic":     func(d *loader.StateDeps[score]) { d.Topic = "" },
		"Sink":      func(d *loader.StateDeps[score]) { d.Sink = nil },
		"Decoder":   func(d *loader.StateDeps[score]) { d.Decoder = nil },
		"Key":       func(d *loader.StateDeps[score]) { d.Key = nil },
		"Parker":    func(d *loader.StateDeps[score]) { d.Parker = nil },
		"Meter":     func(d *loader.StateDeps[score]) { d.Meter = metric.Meter(nil) },
		"Logger":    func(d *loader.StateDeps[score]) { d.Logger = nil },
		"Now":       func(d *loader.StateDeps[score]) { d.Now = nil },
	} {
		deps := good
		spoil(&deps)
		if _, err := loader.NewStates(loader.DefaultConfig(), deps); err == nil {
			t.Errorf("NewStates() without %s = nil, want an error", name)
		}
	}
	if _, err := loader.NewStates(loader.Config{}, good); err == nil {
		t.Error("NewStates() with an empty configuration = nil, want an error")
	}
}

type registry struct{}

func (registry) SchemaByID(context.Context, int) (sr.Schema, error) {
	return sr.Schema{Schema: schemas.SuppressionV1, Type: sr.TypeAvro}, nil
}

// TestStates_onClickHouse loads suppressions into the real table while loaders
// are killed behind an insert, with poison among the rows. The view has one row
// for each address and scope, the newest. A loader that took the last row to come
// for the newest would fail: what a killed one inserted comes again.
func TestStates_onClickHouse(t *testing.T) {
	db := clickhousetest.Open(t, embeddedtest.ClickHouse(t))
	c := newCluster(t)
	encoder, err := suppressionavro.NewEncoder(3)
	if err != nil {
		t.Fatal(err)
	}
	policy := suppression.DefaultPolicy()
	r := rand.New(rand.NewPCG(6, 1))
	states := map[string]suppression.State{}
	want := map[string]string{}
	var records []*kgo.Record
	poison := 0
	for i := range 3_000 {
		s := suppression.State{Address: fmt.Sprintf("Jane%d@example.com", r.IntN(300)), ScopeKind: event.ScopeAddress}
		if r.IntN(3) == 0 {
			s.ScopeKind, s.ScopeID = event.ScopeList, "a|b"
		}
		key := s.Key()
		if have, ok := states[key]; ok {
			s = have
		}
		fact := suppression.Fact{
			EventID: event.NewID("ses", "eu", fmt.Sprint(i)), Effect: suppression.Suppress, Provider: "ses", Source: "eu",
			Reason: suppression.Complaint, At: time.UnixMicro(1.7e15 + int64(i)).UTC(), EventType: event.Complained,
		}
		if r.IntN(3) == 0 {
			fact.Effect, fact.Reason, fact.Provider = suppression.Lift, "", event.ProviderMailriver
		}
		s = s.Add(fact)
		record := suppressionavro.NewRecord(s, &policy, "p")
		if i%1_000 == 500 && len(record.Entries) > 0 {
			record.Entries[0].EventID = "no UUID"
			poison++
		} else {
			states[key] = s
			want[key] = fmt.Sprint(len(record.Entries) > 0, len(s.Facts))
		}
		value, err := encoder.Append(nil, &record)
		if err != nil {
			t.Fatal(err)
		}
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(key))
		records = append(records, &kgo.Record{
			Topic: c.Topics.Suppressions, Partition: int32(hash.Sum32() % 6), Key: []byte(key), Value: value,
		})
	}
	if poison == 0 {
		t.Fatal("there is no poison among the records: it proves less")
	}
	produce(t, c, records...)

	var process *process
	var mu sync.Mutex
	deps := loader.StateDeps[suppressionavro.Record]{
		Table: "suppressions", Topic: c.Topics.Suppressions, Decoder: suppressionavro.NewDecoder(registry{}),
		Key: suppressionavro.ParseKey, Meter: noop.Meter{}, Now: time.Now,
	}
	small := func(cfg *loader.Config, _ *loader.StateDeps[suppressionavro.Record]) { cfg.MaxRows = 4 * 60 }
	for kills := range 3 {
		var inserts atomic.Int32
		killed := make(chan struct{})
		deps.Sink = stateCounting{db.Suppressions(), func() {
			if int(inserts.Add(1)) == 4+3*kills {
				mu.Lock()
				defer mu.Unlock()
				process.kill() // the rows are in, the commit never leaves
				close(killed)
			}
		}}
		mu.Lock()
		process = startStates(t, c, deps, small)
		mu.Unlock()
		<-killed
	}
	deps.Sink = db.Suppressions()
	last := startStates(t, c, deps, small)
	got := map[string]string{}
	look := func() bool {
		clear(got)
		err := db.Each(t.Context(), "SELECT scope_kind, scope_id, address, suppressed, facts FROM suppressions", nil, func(row []any) error {
			s := suppression.State{ScopeKind: fmt.Sprint(row[0]), ScopeID: fmt.Sprint(row[1]), Address: fmt.Sprint(row[2])}
			if _, twice := got[s.Key()]; twice {
				t.Fatalf("%s has two rows", s.Key())
			}
			got[s.Key()] = fmt.Sprint(row[3], row[4])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return maps.Equal(got, want)
	}
	eventually(t, "the newest state of each key", look)
	last.stop(t)
	if !look() {
		t.Error("the table changed after it was right")
	}
	if letters := c.Read(t, c.Topics.Dead, poison); !strings.Contains(kafkatest.Header(letters[0], kafka.HeaderError), "column event_id") {
		t.Errorf("error header = %q, want the column", kafkatest.Header(letters[0], kafka.HeaderError))
	}
}

// stateCounting calls f after each insert.
type stateCounting struct {
	clickhouse.States[suppressionavro.Record]
	f func()
}

func (s stateCounting) Insert(ctx context.Context, rows []clickhouse.State[suppressionavro.Record]) error {
	err := s.States.Insert(ctx, rows)
	s.f()
	return err
}
