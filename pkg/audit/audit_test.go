package audit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/audit"
	"mailriver/pkg/clickhouse/clickhousetest"
	"mailriver/pkg/embedded/chdb"
	"mailriver/pkg/embedded/embeddedtest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
)

func TestMain(m *testing.M) {
	chdb.RunChildIfAsked()
	m.Run()
}

// memory is a warehouse of rows in memory.
type memory struct {
	rows   []event.Event
	hourly map[string]int // by source and type
	asked  int            // calls of Rows
}

func (m *memory) insert(rows ...event.Event) {
	if m.hourly == nil {
		m.hourly = map[string]int{}
	}
	for _, row := range rows {
		m.rows = append(m.rows, row)
		m.hourly[row.Source+" "+string(row.Type)]++
	}
}

func (m *memory) remove(ids ...event.ID) {
	m.rows = slices.DeleteFunc(m.rows, func(row event.Event) bool { return slices.Contains(ids, row.ID) })
}

func first(id event.ID) uint64 { return audit.Hash(id, 0) }

func (m *memory) selected(q audit.Query) []event.Event {
	var out []event.Event
	for _, row := range m.rows {
		from, ok := q.Span.From[row.RawPartition]
		inside := ok && row.RawTopic == q.Span.Topic && row.RawOffset >= from && row.RawOffset < q.Span.To[row.RawPartition]
		inTime := !row.ReceivedAt.Before(q.From) && !row.ReceivedAt.After(q.To)
		w := [2]int64{int64(row.RawPartition), row.RawOffset / q.Size}
		if inside && inTime && first(row.ID)%max(1, q.Of) == q.Part && (len(q.Windows) == 0 || slices.Contains(q.Windows, w)) {
			out = append(out, row)
		}
	}
	return out
}

func (m *memory) Sums(_ context.Context, q audit.Query) ([]audit.Sum, error) {
	byWindow := map[[2]int64]audit.Sum{}
	for _, row := range m.selected(q) {
		w := [2]int64{int64(row.RawPartition), row.RawOffset / q.Size}
		s := byWindow[w]
		s.Partition, s.Window = row.RawPartition, w[1]
		s.Count++
		s.Hash += audit.Hash(row.ID, row.Revision)
		byWindow[w] = s
	}
	var sums []audit.Sum
	for _, s := range byWindow {
		sums = append(sums, s)
	}
	return sums, nil
}

func grouped(events []event.Event) []audit.Row {
	type key struct {
		id        event.ID
		partition int32
		offset    int64
	}
	rows := map[key]audit.Row{}
	for _, e := range events {
		k := key{e.ID, e.RawPartition, e.RawOffset}
		row := rows[k]
		rows[k] = audit.Row{ID: e.ID, Partition: e.RawPartition, Offset: e.RawOffset, Count: row.Count + 1, Revision: max(row.Revision, e.Revision)}
	}
	var out []audit.Row
	for _, row := range rows {
		out = append(out, row)
	}
	return out
}

func (m *memory) Rows(_ context.Context, q audit.Query, each func(audit.Row) error) error {
	m.asked++
	for _, row := range grouped(m.selected(q)) {
		if err := each(row); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Find(_ context.Context, ids []event.ID) ([]audit.Row, error) {
	var found []event.Event
	for _, row := range m.rows {
		if slices.Contains(ids, row.ID) {
			found = append(found, row)
		}
	}
	return grouped(found), nil
}

func (m *memory) Rollups(context.Context, time.Time, time.Time) ([]audit.Rollup, error) {
	single := map[string]int{}
	for _, row := range m.rows {
		single[row.Source+" "+string(row.Type)]++
	}
	var out []audit.Rollup
	for group, n := range m.hourly {
		if single[group] != n {
			source, kind, _ := strings.Cut(group, " ")
			out = append(out, audit.Rollup{Month: 202611, Source: source, EventType: kind, Events: int64(single[group]), Hourly: int64(n)})
		}
	}
	return out, nil
}

// received is now, so that the retention of a real broker keeps it.
var received = time.Now().UTC().Truncate(time.Millisecond)

// river is what an audit looks at, made by hand.
type river struct {
	t     *testing.T
	c     *kafkatest.Cluster
	table memory
}

func newRiver(t *testing.T) *river { return &river{t: t, c: kafkatest.New(t)} }

func (r *river) produce(topic string, headers []kgo.RecordHeader, values ...[]byte) {
	r.t.Helper()
	client, err := r.c.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	for _, value := range values {
		record := &kgo.Record{Topic: topic, Value: value, Headers: headers}
		if err := client.ProduceSync(r.t.Context(), record).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// raw writes requests: a word for each event, "!" for an element that cannot be
// read.
func (r *river) raw(bodies ...string) {
	r.t.Helper()
	for _, body := range bodies {
		r.produce(r.c.Topics.Raw, nil, []byte(body))
	}
}

func id(word string) event.ID { return event.NewID("words", "shop", word) }

func (r *river) event(word string, offset int64) event.Event {
	return event.Event{
		ID: id(word), Type: event.Delivered, Source: "shop", Provider: "words", Recipient: word, ReceivedAt: received,
		OccurredAt: received, NormalizedAt: received, RawTopic: r.c.Topics.Raw, RawOffset: offset,
	}
}

func (r *river) publish(events ...event.Event) {
	r.t.Helper()
	for _, e := range events {
		value, err := json.Marshal(e)
		if err != nil {
			r.t.Fatal(err)
		}
		r.produce(r.c.Topics.Events, nil, value)
	}
}

func (r *river) letter(origin string) {
	r.t.Helper()
	r.produce(r.c.Topics.Dead, []kgo.RecordHeader{{Key: kafka.HeaderOrigin, Value: []byte(origin)}}, []byte("x"))
}

// commit says how far the groups are.
func (r *river) commit(normalized, loaded int64) {
	r.t.Helper()
	admin, err := r.c.Clients.Admin()
	if err != nil {
		r.t.Fatal(err)
	}
	defer admin.Close()
	for _, g := range []struct {
		group, topic string
		at           int64
	}{{"normalizer", r.c.Topics.Raw, normalized}, {"loader", r.c.Topics.Events, loaded}} {
		offsets := kadm.Offsets{}
		offsets.AddOffset(g.topic, 0, g.at, -1)
		if err := admin.CommitAllOffsets(r.t.Context(), r.c.Group(g.group), offsets); err != nil {
			r.t.Fatal(err)
		}
	}
}

func transform(topic string) func(*kgo.Record) audit.Made {
	return func(k *kgo.Record) audit.Made {
		made := audit.Made{ReceivedAt: received}
		for i, word := range strings.Fields(string(k.Value)) {
			if word == "!" {
				made.Letters = append(made.Letters, fmt.Sprintf("%s/%d/%d#%d", topic, k.Partition, k.Offset, i))
				continue
			}
			made.Events = append(made.Events, audit.Expected{ID: id(word), Index: int32(i)})
		}
		return made
	}
}

func decode(_ context.Context, value []byte) (e event.Event, err error) {
	if err := json.Unmarshal(value, &e); err != nil {
		return e, fault.Permanentf(fault.BadAvro, "not an event")
	}
	return e, nil
}

func (r *river) audit(opt audit.Options) audit.Books {
	r.t.Helper()
	a, err := audit.New(audit.Deps{
		Clients: r.c.Clients, Topics: r.c.Topics, NormalizerGroup: r.c.Group("normalizer"), LoaderGroup: r.c.Group("loader"),
		Transform: transform(r.c.Topics.Raw), Decode: decode, Warehouse: &r.table,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), kafkatest.Patience)
	defer cancel()
	books, err := a.Run(ctx, opt)
	if err != nil {
		r.t.Fatal(err)
	}
	return books
}

// fill makes a river that balances: eight requests with ten words, one of them
// delivered twice, and a letter.
func (r *river) fill() []event.Event {
	r.t.Helper()
	r.raw("a b", "c", "! d", "a b", "e f", "g", "h i", "j")
	var events []event.Event
	for word, offset := range map[string]int64{"a": 0, "b": 0, "c": 1, "d": 2, "e": 4, "f": 4, "g": 5, "h": 6, "i": 6, "j": 7} {
		events = append(events, r.event(word, offset))
	}
	slices.SortFunc(events, func(a, b event.Event) int { return strings.Compare(a.Recipient, b.Recipient) })
	r.publish(events...)
	r.letter(r.c.Topics.Raw + "/0/2#0")
	r.table.insert(events...)
	r.commit(8, 10)
	return events
}

func TestRun_balanced(t *testing.T) {
	r := newRiver(t)
	r.fill()
	for _, opt := range []audit.Options{{}, {MaxEvents: 3, Window: 2}, {From: kafka.At(received.Add(-time.Hour))}} {
		books := r.audit(opt)
		got := books.Total()
		want := audit.Partition{Requests: 8, Events: 12, Published: 10, Duplicates: 2, Letters: 1, Rows: 10}
		if !books.Balanced() || got != want {
			t.Errorf("Run(%+v) = %+v, %v, want %+v and no finding", opt, got, books.Findings, want)
		}
		if opt.MaxEvents > 0 && books.Passes < 3 {
			t.Errorf("Run(%+v) took %d passes, want several", opt, books.Passes)
		}
	}
	if r.table.asked > 0 {
		t.Errorf("compared event by event %d times, want never: the windows are equal", r.table.asked)
	}
}

// Each fault alone, on a river that balances without it.
func TestRun_faults(t *testing.T) {
	type finding struct{ kind, word, origin string }
	tests := map[string]struct {
		fault func(r *river, events []event.Event)
		want  []finding
	}{
		"a deleted row": {
			func(r *river, events []event.Event) { r.table.remove(events[2].ID) },
			[]finding{{audit.RollupDiffers, "", ""}, {audit.RowMissing, "c", "0/1"}},
		},
		"a batch inserted twice": {
			func(r *river, events []event.Event) { r.table.insert(events[3:5]...) },
			[]finding{{audit.RowDoubled, "d", "0/2"}, {audit.RowDoubled, "e", "0/4"}},
		},
		"one row twice and another gone": { // the count is right
			func(r *river, events []event.Event) {
				r.table.insert(events[3])
				r.table.remove(events[4].ID)
				r.table.hourly = nil
			},
			[]finding{{audit.RowDoubled, "d", "0/2"}, {audit.RowMissing, "e", "0/4"}},
		},
		"a skipped offset": {
			func(r *river, _ []event.Event) { r.raw("k l"); r.commit(9, 10) },
			[]finding{{audit.EventMissing, "k", "0/8#0"}, {audit.EventMissing, "l", "0/8#1"}},
		},
		"a skipped letter": {
			func(r *river, _ []event.Event) { r.raw("!"); r.commit(9, 10) },
			[]finding{{audit.LetterMissing, "", "0/8#0"}},
		},
		"published twice": {
			func(r *river, events []event.Event) { r.publish(events[0]); r.commit(8, 11) },
			[]finding{{audit.EventDoubled, "a", "0/0"}},
		},
		"published without a reason": {
			func(r *river, _ []event.Event) {
				e := r.event("z", 5)
				r.publish(e)
				r.table.insert(e)
				r.commit(8, 11)
			},
			[]finding{{audit.EventUnexpected, "z", "0/5"}},
		},
		"a row without an event": {
			func(r *river, _ []event.Event) { r.table.insert(r.event("z", 5)) },
			[]finding{{audit.RowUnexpected, "z", "0/5"}},
		},
		"a revision that ClickHouse does not have": {
			func(r *river, events []event.Event) {
				e := events[1]
				e.Revision = 1
				r.publish(e)
				r.commit(8, 11)
			},
			[]finding{{audit.RowStale, "b", "0/0"}},
		},
		"a canonical record that does not decode": {
			func(r *river, _ []event.Event) {
				r.produce(r.c.Topics.Events, nil, []byte("?"))
				r.commit(8, 11)
			},
			[]finding{{audit.RecordUnreadable, "", ""}},
		},
		"a roll-up that counts too much": {
			func(r *river, _ []event.Event) { r.table.hourly["shop delivered"]++ },
			[]finding{{audit.RollupDiffers, "", ""}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRiver(t)
			tt.fault(r, r.fill())
			var got []finding
			books := r.audit(audit.Options{Window: 3})
			for _, f := range books.Findings {
				if f.Kind == audit.RollupDiffers || f.Kind == audit.RecordUnreadable {
					f.Origin = ""
				}
				got = append(got, finding{f.Kind, f.EventID, strings.TrimPrefix(f.Origin, r.c.Topics.Raw+"/")})
			}
			want := slices.Clone(tt.want)
			for i, w := range want {
				if w.word != "" {
					want[i].word = id(w.word).String()
				}
			}
			if name == "a batch inserted twice" || name == "a row without an event" {
				slices.SortFunc(got, func(a, b finding) int { return strings.Compare(a.origin, b.origin) })
			}
			if !slices.Equal(got, want) || books.Balanced() {
				t.Errorf("findings = %v, want %v", got, want)
			}
		})
	}
}

// What is on its way, or was given up with a reason, is no error.
func TestRun_notErrors(t *testing.T) {
	tests := map[string]struct {
		arrange func(r *river, events []event.Event)
		want    audit.Partition // added to the balanced one
	}{
		"not normalized yet": {
			func(r *river, _ []event.Event) { r.raw("k", "l") },
			audit.Partition{RawInFlight: 2},
		},
		"not loaded yet": {
			func(r *river, _ []event.Event) { r.raw("k"); r.publish(r.event("k", 8)); r.commit(9, 10) },
			audit.Partition{Requests: 1, Events: 1, Published: 1, RowsInFlight: 1},
		},
		"loaded and not committed yet": {
			func(r *river, _ []event.Event) {
				r.raw("k l")
				k, l := r.event("k", 8), r.event("l", 8)
				r.publish(k, l)
				r.table.insert(k)
				r.commit(9, 10)
			},
			audit.Partition{Requests: 1, Events: 2, Published: 2, RowsInFlight: 2, Rows: 1},
		},
		"refused by ClickHouse": {
			func(r *river, _ []event.Event) {
				r.raw("k")
				r.publish(r.event("k", 8))
				r.letter(r.c.Topics.Events + "/0/10")
				r.commit(9, 11)
			},
			audit.Partition{Requests: 1, Events: 1, Published: 1, RowsLettered: 1},
		},
		"a letter that could be read today": {
			func(r *river, _ []event.Event) { r.raw("k"); r.letter(r.c.Topics.Raw + "/0/8"); r.commit(9, 10) },
			audit.Partition{Requests: 1, Events: 1, Lettered: 1},
		},
		"a copy of an event before the span": {
			func(r *river, _ []event.Event) {
				e := r.event("k", 3)
				e.RawPartition = 77
				r.table.insert(e)
				r.raw("k")
				r.commit(9, 10)
			},
			audit.Partition{Requests: 1, Events: 1, Duplicates: 1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRiver(t)
			tt.arrange(r, r.fill())
			books := r.audit(audit.Options{})
			want := tt.want
			want.Requests += 8
			want.Events += 12
			want.Published += 10
			want.Duplicates += 2
			want.Letters++
			want.Rows += 10
			if got := books.Total(); !books.Balanced() || got != want {
				t.Errorf("Run() = %+v, %v, want %+v and no finding", got, books.Findings, want)
			}
		})
	}
}

// Before the groups have committed anything, all of it is in flight.
func TestRun_newGroups(t *testing.T) {
	r := newRiver(t)
	r.raw("a b", "c")
	books := r.audit(audit.Options{})
	if got, want := books.Total(), (audit.Partition{RawInFlight: 2}); !books.Balanced() || got != want {
		t.Errorf("Run() = %+v, %v, want %+v", got, books.Findings, want)
	}
}

// A retry of dead letters writes a raw record in a transaction. Its end takes an
// offset that no group ever commits.
func TestRun_endOfATransactionIsNotInFlight(t *testing.T) {
	r := newRiver(t)
	r.fill()
	client, err := r.c.Clients.Producer(kgo.TransactionalID(r.c.Group("retry")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: r.c.Topics.Raw, Value: []byte("a b")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	r.commit(9, 10)
	got := r.audit(audit.Options{})
	if total := got.Total(); !got.Balanced() || total.RawInFlight != 0 || total.Duplicates != 4 {
		t.Errorf("Run() = %+v, %v, want nothing in flight", total, got.Findings)
	}
}

func TestRun_limitsWhatItNames(t *testing.T) {
	r := newRiver(t)
	events := r.fill()
	r.table.insert(events...)
	books := r.audit(audit.Options{Limit: 4})
	if len(books.Findings) != 4 || books.Found[audit.RowDoubled] != 10 {
		t.Errorf("%d findings are named of %v, want 4 of 10", len(books.Findings), books.Found)
	}
}

// The SQL says the same as the warehouse of these tests.
func TestClickHouse(t *testing.T) {
	db := clickhousetest.Open(t, embeddedtest.ClickHouse(t))
	table := audit.ClickHouse{Client: db.Client}
	var m memory
	rows := clickhousetest.Rows("a", 400)
	var ids []event.ID
	for i := range rows {
		rows[i].RawTopic, rows[i].RawPartition, rows[i].RawOffset = "email.raw.v1", int32(i%3), int64(i/2)
		rows[i].Revision = int32(i % 2)
		ids = append(ids, rows[i].ID)
	}
	for token, batch := range map[string][]event.Event{"1": rows, "2": rows[10:13]} {
		m.insert(batch...)
		if err := db.Insert(t.Context(), token, batch); err != nil {
			t.Fatal(err)
		}
	}
	span := kafka.Span{Topic: "email.raw.v1", From: map[int32]int64{0: 3, 1: 0, 2: 9}, To: map[int32]int64{0: 150, 1: 190, 2: 9}}
	for _, q := range []audit.Query{
		{Of: 1}, {Of: 3, Part: 2}, {Of: 1, Windows: [][2]int64{{0, 2}, {1, 18}}},
	} {
		q.Span, q.Size, q.From, q.To = span, 10, rows[4].ReceivedAt, rows[390].ReceivedAt
		got, err := table.Sums(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := m.Sums(t.Context(), q)
		compare(t, "Sums", got, want)
		compare(t, "Rows", collect(t, table, q), collect(t, &m, q))
	}
	got, err := table.Find(t.Context(), ids[:20])
	if err != nil {
		t.Fatal(err)
	}
	want, _ := m.Find(t.Context(), ids[:20])
	compare(t, "Find", got, want)

	rollups, err := table.Rollups(t.Context(), rows[0].ReceivedAt, rows[0].ReceivedAt)
	if err != nil || len(rollups) != 0 {
		t.Fatalf("Rollups() = %v, %v, want none that differ", rollups, err)
	}
	if err := db.Exec(t.Context(), "ALTER TABLE events DELETE WHERE event_id = '"+ids[0].String()+"' SETTINGS mutations_sync = 1"); err != nil {
		t.Fatal(err)
	}
	rollups, err = table.Rollups(t.Context(), rows[0].ReceivedAt, rows[0].ReceivedAt)
	wanted := []audit.Rollup{{Month: 202611, Source: "shop", EventType: "delivered", Events: 402, Hourly: 403}}
	if err != nil || !slices.Equal(rollups, wanted) {
		t.Errorf("Rollups() = %v, %v, want %v", rollups, err, wanted)
	}
}

func collect(t *testing.T, w audit.Warehouse, q audit.Query) (rows []audit.Row) {
	t.Helper()
	if err := w.Rows(t.Context(), q, func(row audit.Row) error { rows = append(rows, row); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

func compare[T any](t *testing.T, what string, got, want []T) {
	t.Helper()
	texts := func(list []T) []string {
		out := make([]string, len(list))
		for i, v := range list {
			out[i] = fmt.Sprint(v)
		}
		slices.Sort(out)
		return out
	}
	if len(want) == 0 {
		t.Errorf("%s: the test wants nothing", what)
	}
	if g, w := texts(got), texts(want); !slices.Equal(g, w) {
		t.Errorf("%s = %v, want %v", what, g, w)
	}
}
