package dead_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/dead"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/raw"
)

// received is now, so that the retention of a real broker keeps it.
var received = time.Now().UTC().Truncate(time.Millisecond)

// table is a ClickHouse that may refuse.
type table struct {
	refuse bool
	tokens []string
	rows   map[event.ID]int
}

func (t *table) Insert(_ context.Context, token string, rows []event.Event) error {
	if t.refuse {
		return fault.Permanentf(fault.RowRefused, "column url")
	}
	if slices.Contains(t.tokens, token) {
		return nil
	}
	t.tokens = append(t.tokens, token)
	for _, row := range rows {
		t.rows[row.ID]++
	}
	return nil
}

func (t *table) Has(_ context.Context, id event.ID) (bool, error) { return t.rows[id] > 0, nil }

// river is a cluster with letters on it. A raw record is a word for each
// element; those in cannot cannot be read.
type river struct {
	t      *testing.T
	c      *kafkatest.Cluster
	cannot []string
	table  *table
	now    time.Time
	box    *dead.Box
}

func newRiver(t *testing.T) *river {
	t.Helper()
	r := &river{t: t, c: kafkatest.New(t), table: &table{rows: map[event.ID]int{}}, now: received}
	var err error
	r.box, err = dead.New(dead.Deps{
		Clients: r.c.Clients, Topics: r.c.Topics, NormalizerGroup: r.c.Group("normalizer"), TransactionalID: r.c.Group("dead"),
		DedupWindow: 7 * 24 * time.Hour, Table: r.table, Now: func() time.Time { return r.now },
		Transform: r.transform,
		Decode: func(_ context.Context, value []byte) (e event.Event, err error) {
			if err := json.Unmarshal(value, &e); err != nil {
				return e, fault.Permanentf(fault.BadAvro, "not an event")
			}
			return e, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *river) transform(k *kgo.Record) dead.Made {
	made := dead.Made{ReceivedAt: received}
	if slices.Contains(r.cannot, string(k.Value)) {
		made.Refused = append(made.Refused, dead.Refusal{Index: -1, Reason: fault.BadBody, Error: "all of it"})
		return made
	}
	for i, word := range strings.Fields(string(k.Value)) {
		if slices.Contains(r.cannot, word) {
			made.Refused = append(made.Refused, dead.Refusal{Index: int32(i), Reason: fault.BadElement, Error: word})
			continue
		}
		made.Events = append(made.Events, int32(i))
	}
	return made
}

// raw writes a raw record and returns it with its place.
func (r *river) raw(source, body string) *kgo.Record {
	r.t.Helper()
	record := raw.Record{Provider: "words", Source: source, ReceivedAt: received, Body: []byte(body)}.Kafka(r.c.Topics.Raw, "key of "+body)
	r.c.Produce(r.t, record)
	return record
}

// letter writes the letter of a raw record, or of an element of it.
func (r *river) letter(from *kgo.Record, element int, value string) {
	r.t.Helper()
	reason, origin := fault.BadBody, kafka.Origin(from)
	if element >= 0 {
		reason, origin = fault.BadElement, fmt.Sprintf("%s#%d", origin, element)
	}
	r.c.Produce(r.t, kafka.DeadLetter(r.c.Topics.Dead, from, kafka.Letter{
		Stage: dead.StageNormalizer, Origin: origin, Err: fault.Permanentf(reason, "unreadable"), Value: []byte(value),
	}))
}

// loaderLetter writes the letter of a canonical record.
func (r *river) loaderLetter(e event.Event) {
	r.t.Helper()
	value, err := json.Marshal(e)
	if err != nil {
		r.t.Fatal(err)
	}
	record := &kgo.Record{Topic: r.c.Topics.Events, Key: []byte("k"), Value: value}
	r.c.Produce(r.t, record)
	r.c.Produce(r.t, kafka.DeadLetter(r.c.Topics.Dead, record, kafka.Letter{
		Stage: dead.StageLoader, Origin: kafka.Origin(record), Err: fault.Permanentf(fault.RowRefused, "column url"), Value: value,
	}))
}

func (r *river) list(f dead.Filter) []dead.Letter {
	r.t.Helper()
	letters, _, err := r.box.List(r.t.Context(), f)
	if err != nil {
		r.t.Fatal(err)
	}
	return letters
}

// retry returns the outcomes, sorted.
func (r *river) retry(f dead.Filter, opt dead.RetryOptions) []string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), kafkatest.Patience)
	defer cancel()
	outcomes, err := r.box.Retry(ctx, f, opt)
	if err != nil {
		r.t.Fatal(err)
	}
	var got []string
	for _, o := range outcomes {
		got = append(got, o.Outcome)
	}
	slices.Sort(got)
	return got
}

// rawRecords returns how many raw records there are.
func (r *river) rawRecords() int64 {
	r.t.Helper()
	span, err := r.c.Clients.Span(r.t.Context(), r.c.Topics.Raw, kafka.Start(), kafka.End())
	if err != nil {
		r.t.Fatal(err)
	}
	n := int64(0)
	if err := r.c.Clients.Read(r.t.Context(), span, func(*kgo.Record) error { n++; return nil }); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestList_filters(t *testing.T) {
	r := newRiver(t)
	a, b := r.raw("shop", "x"), r.raw("news", "y z")
	r.letter(a, -1, "x")
	r.letter(b, 0, "y")
	r.letter(b, 0, "y") // at least once
	r.letter(b, 1, "z")
	r.loaderLetter(event.Event{ID: event.NewID("words", "blog", "w"), Provider: "ses", Source: "blog"})
	tests := map[string]struct {
		filter dead.Filter
		want   int
	}{
		"all":              {dead.Filter{}, 4},
		"reason":           {dead.Filter{Reasons: []string{fault.BadElement}}, 2},
		"stage":            {dead.Filter{Stages: []string{dead.StageLoader}}, 1},
		"provider":         {dead.Filter{Providers: []string{"WORDS"}}, 3},
		"of the loader":    {dead.Filter{Providers: []string{"ses"}, Sources: []string{"blog"}}, 1},
		"source":           {dead.Filter{Sources: []string{"shop", "blog"}}, 2},
		"limit":            {dead.Filter{Limit: 3}, 3},
		"from the future":  {dead.Filter{From: kafka.At(time.Now().Add(time.Hour))}, 0},
		"reason and stage": {dead.Filter{Reasons: []string{fault.BadBody}, Stages: []string{dead.StageLoader}}, 0},
	}
	for name, tt := range tests {
		if got := r.list(tt.filter); len(got) != tt.want {
			t.Errorf("%s: List() = %d letters, want %d", name, len(got), tt.want)
		}
	}
	if _, more, err := r.box.List(t.Context(), dead.Filter{Limit: 3}); !more || err != nil {
		t.Errorf("List(limit) = more %t, %v, want more", more, err)
	}
}

func TestShow(t *testing.T) {
	r := newRiver(t)
	r.letter(r.raw("shop", "x"), -1, "x\x00\x1b[2J")
	at := r.list(dead.Filter{})[0].Place
	record, err := r.box.Show(t.Context(), at)
	if err != nil || string(record.Value) != "x\x00\x1b[2J" || kafkatest.Header(record, kafka.HeaderReason) != fault.BadBody {
		t.Errorf("Show(%s) = %v, %v", at, record, err)
	}
	at.Offset += 10
	if _, err := r.box.Show(t.Context(), at); err == nil || !strings.Contains(err.Error(), "dead list") {
		t.Errorf("Show(%s) = %v, want an error that says where to look", at, err)
	}
}

// A mended parser: the raw record is written again, once, with its key, and all
// its letters are closed.
func TestRetry_normalizer(t *testing.T) {
	r := newRiver(t)
	from := r.raw("shop", "a b c")
	r.letter(from, 0, "a")
	r.letter(from, 2, "c")

	r.cannot = []string{"a", "c"}
	if got := r.retry(dead.Filter{}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.StillRefused, dead.StillRefused}) {
		t.Errorf("before the fix: Retry() = %v", got)
	}
	r.cannot = nil
	if got := r.retry(dead.Filter{}, dead.RetryOptions{DryRun: true}); !slices.Equal(got, []string{dead.WouldRetry, dead.WouldRetry}) {
		t.Errorf("dry run: Retry() = %v", got)
	}
	if n := r.rawRecords(); n != 1 || len(r.list(dead.Filter{})) != 2 {
		t.Fatalf("%d raw records and %d open letters, want 1 and 2: nothing was to be retried", n, len(r.list(dead.Filter{})))
	}
	one := r.list(dead.Filter{})[0].Place
	if got := r.retry(dead.Filter{Places: []dead.Place{one}}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.Sent}) {
		t.Errorf("Retry() = %v, want the one letter sent", got)
	}
	if open := r.list(dead.Filter{}); len(open) != 0 || len(r.list(dead.Filter{All: true})) != 2 {
		t.Errorf("open letters = %v, want none: one record holds both", open)
	}
	if got := r.retry(dead.Filter{}, dead.RetryOptions{}); len(got) != 0 {
		t.Errorf("second Retry() = %v, want nothing", got)
	}
	if got := r.retry(dead.Filter{Places: []dead.Place{one}}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.AlreadyClosed}) {
		t.Errorf("second Retry() of one = %v", got)
	}
	records := r.c.Read(t, r.c.Topics.Raw, 2)
	again := records[len(records)-1]
	if len(records) != 2 || string(again.Key) != string(from.Key) || again.Partition != from.Partition || string(again.Value) != "a b c" ||
		kafkatest.Header(again, dead.HeaderRetryOf) != kafka.Origin(from) || kafkatest.Header(again, raw.HeaderSource) != "shop" {
		t.Errorf("raw records = %v, want the first again, once", records)
	}
}

// trim takes the raw records away, as retention does.
func (r *river) trim() {
	r.t.Helper()
	admin, err := r.c.Clients.Admin()
	if err != nil {
		r.t.Fatal(err)
	}
	defer admin.Close()
	ends, err := admin.ListEndOffsets(r.t.Context(), r.c.Topics.Raw)
	if err != nil {
		r.t.Fatal(err)
	}
	if answer, err := admin.DeleteRecords(r.t.Context(), ends.Offsets()); err != nil || answer.Error() != nil {
		r.t.Fatal(err, answer.Error())
	}
}

func TestRetry_rawRecordIsGone(t *testing.T) {
	r := newRiver(t)
	r.letter(r.raw("shop", "a b"), -1, "a b")
	r.letter(r.raw("shop", "c d"), 0, "c")
	r.trim()
	if got := r.retry(dead.Filter{}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.Gone, dead.Sent}) {
		t.Errorf("Retry() = %v, want the part gone and the whole sent", got)
	}
	again := r.c.Read(t, r.c.Topics.Raw, 1)[0]
	read, err := raw.Read(again)
	if err != nil || string(again.Value) != "a b" || string(again.Key) != "key of a b" || read.Source != "shop" ||
		kafkatest.Header(again, kafka.HeaderReason) != "" {
		t.Errorf("raw record = %v, %v, want the request of the letter", again, err)
	}
}

// Behind the dedup window the normalizer would publish the neighbors again.
func TestRetry_tooOld(t *testing.T) {
	r := newRiver(t)
	r.letter(r.raw("shop", "a b"), 0, "a")
	r.letter(r.raw("shop", "c d"), -1, "c d")
	r.now = received.Add(7 * 24 * time.Hour)
	if got := r.retry(dead.Filter{}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.Sent, dead.TooOld}) {
		t.Errorf("Retry() = %v, want the one without neighbors sent", got)
	}
}

func TestRetry_loader(t *testing.T) {
	r := newRiver(t)
	e := event.Event{ID: event.NewID("words", "blog", "w"), Provider: "ses", Source: "blog"}
	there := event.Event{ID: event.NewID("words", "blog", "v"), Provider: "ses", Source: "blog"}
	r.loaderLetter(e)
	r.loaderLetter(there)
	r.table.rows[there.ID] = 1
	r.table.refuse = true
	if got := r.retry(dead.Filter{}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.AlreadyThere, dead.StillRefused}) {
		t.Errorf("while refused: Retry() = %v", got)
	}
	r.table.refuse = false
	for i, want := range [][]string{{dead.Inserted}, nil} {
		if got := r.retry(dead.Filter{}, dead.RetryOptions{}); !slices.Equal(got, want) {
			t.Errorf("Retry() %d = %v, want %v", i, got, want)
		}
	}
	if r.table.rows[e.ID] != 1 || r.table.rows[there.ID] != 1 || len(r.table.tokens) != 1 {
		t.Errorf("rows = %v, want each once", r.table.rows)
	}
}

// A letter nobody can place stays open and says so.
func TestRetry_notRetryable(t *testing.T) {
	r := newRiver(t)
	r.c.Produce(t, &kgo.Record{Topic: r.c.Topics.Dead, Value: []byte("?"), Headers: []kgo.RecordHeader{{Key: kafka.HeaderStage, Value: []byte("other")}}})
	if got := r.retry(dead.Filter{}, dead.RetryOptions{}); !slices.Equal(got, []string{dead.NotRetryable}) {
		t.Errorf("Retry() = %v", got)
	}
	if len(r.list(dead.Filter{})) != 1 {
		t.Error("the letter is closed")
	}
}

func TestParsePlace(t *testing.T) {
	if got, err := dead.ParsePlace("2/17"); err != nil || got != (dead.Place{Partition: 2, Offset: 17}) {
		t.Errorf("ParsePlace(2/17) = %v, %v", got, err)
	}
	for _, text := range []string{"", "2", "2/", "/17", "-1/17", "2/x", "2/17/3"} {
		if _, err := dead.ParsePlace(text); err == nil {
			t.Errorf("ParsePlace(%q) = nil error", text)
		}
	}
}

func TestNew_needsAll(t *testing.T) {
	if _, err := dead.New(dead.Deps{}); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("New(nothing) = %v, want an error", err)
	}
}
