package normalizer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"mailriver/pkg/esp"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/raw"
	"mailriver/schemas"
	"mailriver/services/normalizer"
)

const schemaID = 7

type oneSchema struct{}

func (oneSchema) SchemaByID(context.Context, int) (sr.Schema, error) {
	return sr.Schema{Schema: schemas.EmailEventV1, Type: sr.TypeAvro}, nil
}

// lines is a provider whose body is one recipient a line. "!" is an element
// that cannot be read, "panic" a bug, "?" a body that cannot be read, and
// "wrong" an event outside the vocabulary.
var lines = esp.Provider{
	Name: "lines",
	Parse: func(w esp.Webhook) (esp.Result, error) {
		var result esp.Result
		for i, line := range strings.Split(string(w.Body), "\n") {
			switch line {
			case "?":
				return esp.Result{}, errors.New("unmarked on purpose")
			case "panic":
				panic("a bug")
			case "!":
				result.Rejected = append(result.Rejected, esp.Rejected{
					Raw: []byte(line), Index: int32(i), Err: fault.Permanentf(fault.BadElement, "no recipient"),
				})
				continue
			}
			e := event.Event{
				ID: event.NewID("lines", w.Source, line), Type: event.Delivered, Recipient: line,
				OccurredAt: time.UnixMilli(1795436000123).UTC(), RawEventIndex: int32(i),
			}
			if line == "wrong" {
				e.Type, e.Recipient, e.ProviderMessageID = "exploded", "", "m-1"
			}
			result.Events = append(result.Events, e)
		}
		return result, nil
	},
}

// received is now, so that the retention of a real broker keeps it.
var received = time.Now().UTC().Truncate(time.Millisecond)

func request(c *kafkatest.Cluster, source, body string) *kgo.Record {
	return raw.Record{
		Provider: "lines", Source: source, ReceivedAt: received, Body: []byte(body),
	}.Kafka(c.Topics.Raw, "key of "+body)
}

// start runs a normalizer on the cluster until it is stopped or the test ends.
func start(t *testing.T, c *kafkatest.Cluster, reader metric.Reader) (stop func()) {
	t.Helper()
	return startWith(t, c, reader, lines)
}

func startWith(t *testing.T, c *kafkatest.Cluster, reader metric.Reader, provider esp.Provider) (stop func()) {
	t.Helper()
	return startInstance(t, c, reader, provider, "test")
}

func startInstance(t *testing.T, c *kafkatest.Cluster, reader metric.Reader, provider esp.Provider, instance string) (stop func()) {
	t.Helper()
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, schemaID)
	if err != nil {
		t.Fatal(err)
	}
	cfg := normalizer.DefaultConfig()
	cfg.RetryWait = 10 * time.Millisecond
	cfg.Group = c.Group("normalizer")
	options := []metric.Option{}
	if reader != nil {
		options = append(options, metric.WithReader(reader))
	}
	service, err := normalizer.New(cfg, normalizer.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return c.Clients.Session(cfg.Group, c.Group("normalizer."+instance), []string{c.Topics.Raw}, opts...)
		},
		Reader: c.Clients.Reader, Admin: c.Clients.Admin, Dir: t.TempDir(),
		Encoder: enc, Providers: []esp.Provider{provider}, Topics: c.Topics, Version: "test",
		Meter: metric.NewMeterProvider(options...).Meter("test"), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil after the context ended", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func decode(t *testing.T, r *kgo.Record) event.Event {
	t.Helper()
	e, err := eventavro.NewDecoder(oneSchema{}).Decode(context.Background(), r.Value)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestNormalizer_publishesOneRecordPerRecipient(t *testing.T) {
	c := kafkatest.New(t)
	start(t, c, nil)
	c.Produce(t, request(c, "shop", "Ann@Example.COM\nwrong"))

	records := c.Read(t, c.Topics.Events, 2)
	byKey := map[string]*kgo.Record{}
	for _, r := range records {
		byKey[string(r.Key)] = r
	}
	ann, ok := byKey["Ann@example.com"]
	if !ok {
		t.Fatalf("keys are %v, want Ann@example.com among them", byKey)
	}
	e := decode(t, ann)
	if e.RecipientNormalized != "Ann@example.com" || e.RecipientDomain != "example.com" || e.Recipient != "Ann@Example.COM" {
		t.Errorf("recipient fields are %q, %q, %q", e.Recipient, e.RecipientNormalized, e.RecipientDomain)
	}
	if e.Source != "shop" || e.Provider != "lines" || e.RawTopic != c.Topics.Raw || e.NormalizerVersion != "test" ||
		e.SchemaVersion != event.SchemaVersion || !e.ReceivedAt.Equal(received) {
		t.Errorf("filled in by the normalizer: %+v", e)
	}
	for name, want := range map[string]string{
		"ce_specversion": "1.0",
		"ce_id":          e.ID.String(),
		"ce_type":        "io.mailriver.email.delivered.v1",
		"ce_source":      "/sources/shop",
		"ce_time":        "2026-11-23T12:13:20.123Z",
		"origin":         fmt.Sprintf("%s/%d/0#0", c.Topics.Raw, e.RawPartition),
	} {
		if got := kafkatest.Header(ann, name); got != want {
			t.Errorf("header %s = %q, want %q", name, got, want)
		}
	}

	wrong, ok := byKey["m-1"] // no recipient: the key is the message
	if !ok {
		t.Fatalf("keys are %v, want m-1 among them", byKey)
	}
	if e := decode(t, wrong); e.Type != event.Unknown || len(e.Warnings) != 1 || e.Warnings[0] != event.WarnBadVocabulary {
		t.Errorf("event outside the vocabulary became %s with %v", e.Type, e.Warnings)
	}
}

func TestNormalizer_oneBadRecordHarmsNoNeighbor(t *testing.T) {
	c := kafkatest.New(t)
	reader := metric.NewManualReader()
	start(t, c, reader)
	foreign := request(c, "shop", "x@example.com")
	foreign.Headers[0].Value = []byte("nobody")
	bare := &kgo.Record{Topic: c.Topics.Raw, Key: []byte("bare"), Value: []byte("bare")}
	c.Produce(t, request(c, "shop", "a@example.com\n!\nb@example.com"), request(c, "shop", "?"), request(c, "shop", "panic"),
		foreign, bare, request(c, "shop", "c@example.com"))

	var keys []string
	for _, r := range c.Read(t, c.Topics.Events, 3) {
		keys = append(keys, string(r.Key))
	}
	if len(keys) != 3 {
		t.Errorf("published %v, want a, b and c", keys)
	}
	got := map[string]string{}
	for _, r := range c.Read(t, c.Topics.Dead, 5) {
		got[string(r.Value)] = kafkatest.Header(r, "reason")
		if kafkatest.Header(r, "stage") != "normalizer" || kafkatest.Header(r, "error") == "" {
			t.Errorf("dead letter %q has the headers %v", r.Value, r.Headers)
		}
		if string(r.Value) == "!" {
			if origin := kafkatest.Header(r, "origin"); !strings.HasSuffix(origin, "#1") {
				t.Errorf("origin = %q, want the element's index behind #", origin)
			}
			if kafkatest.Header(r, "source") != "shop" {
				t.Errorf("dead letter lost the headers of its record: %v", r.Headers)
			}
		}
	}
	want := map[string]string{
		"!": fault.BadElement, "?": fault.BadBody, "panic": fault.BadBody,
		"x@example.com": fault.UnknownProvider, "bare": fault.BadRecord,
	}
	for value, reason := range want {
		if got[value] != reason {
			t.Errorf("dead letter %q has reason %q, want %q", value, got[value], reason)
		}
	}
	awaitSum(t, reader, "mailriver.normalizer.dead_letters", 5)
	awaitSum(t, reader, "mailriver.normalizer.events", 3)
}

// A commit that the broker refuses aborts the transaction. What was produced in
// it stays invisible, and the input comes again: each event is there once.
func TestNormalizer_abortedTransactionLeavesNothingBehind(t *testing.T) {
	c := kafkatest.New(t)
	c.NeedFake(t)
	refused := make(chan struct{})
	c.Fake.ControlKey(int16(kmsg.TxnOffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
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
		close(refused) // control functions run once unless kept
		return resp, nil, true
	})
	start(t, c, nil)
	c.Produce(t, request(c, "shop", "a@example.com"))
	select {
	case <-refused:
	case <-time.After(kafkatest.Patience):
		t.Fatal("no transaction was tried")
	}
	c.Read(t, c.Topics.Events, 1)
	c.Produce(t, request(c, "shop", "end@example.com"))
	records := c.Read(t, c.Topics.Events, 2)
	seen := map[string]int{}
	for _, r := range records {
		seen[string(r.Key)]++
	}
	if seen["a@example.com"] != 1 || seen["end@example.com"] != 1 {
		t.Errorf("committed records by key: %v, want each once", seen)
	}
}

// A second copy of an event is not published, whether it comes in the same
// request, in another one, or after a restart whose local store is gone: the
// marks in the topic are what counts. Without the marks the last part sees
// a@example.com twice.
func TestNormalizer_publishesEachEventOnce(t *testing.T) {
	c := kafkatest.New(t)
	reader := metric.NewManualReader()
	stop := start(t, c, reader)
	c.Produce(t, request(c, "shop", "a@example.com\na@example.com"), request(c, "shop", "b@example.com\na@example.com"))
	c.Read(t, c.Topics.Events, 2)
	c.Produce(t, request(c, "blog", "a@example.com")) // another source: another event
	c.Read(t, c.Topics.Events, 3)
	awaitSum(t, reader, "mailriver.normalizer.duplicates", 2)
	stop()

	start(t, c, nil) // with an empty folder
	c.Produce(t, request(c, "shop", "a@example.com\na@example.com"), request(c, "shop", "end@example.com"))
	seen := map[string]int{}
	for _, r := range c.Read(t, c.Topics.Events, 4) {
		e := decode(t, r)
		seen[e.Source+" "+e.Recipient]++
	}
	want := map[string]int{"shop a@example.com": 1, "shop b@example.com": 1, "blog a@example.com": 1, "shop end@example.com": 1}
	if !maps.Equal(seen, want) {
		t.Errorf("published %v, want %v", seen, want)
	}
}

// Copies of an event that come in the same moment, in other requests and so on
// other partitions, are published once by two instances side by side. Without
// the claims some are published by both.
func TestNormalizer_instancesSideBySide(t *testing.T) {
	c := kafkatest.New(t)
	startInstance(t, c, nil, lines, "one")
	startInstance(t, c, nil, lines, "two")
	// Both have partitions when events of every partition are through.
	const rounds, events = 20, 20
	seen, want := map[string]int{}, 0
	for round := range rounds {
		var records []*kgo.Record
		for i := range events {
			body := fmt.Sprintf("%d-%d@example.com", round, i)
			for copies := range 4 {
				records = append(records, request(c, "shop", body+strings.Repeat("\n"+body, copies)))
			}
		}
		c.Produce(t, records...)
		want += events
		clear(seen)
		all := c.Read(t, c.Topics.Events, want)
		for _, r := range all {
			seen[string(r.Key)]++
		}
	}
	// Whatever would be published twice is published before this one, on its
	// own partition of the canonical topic; so all of them are read once more.
	c.Produce(t, request(c, "blog", "end@example.com"))
	clear(seen)
	for _, r := range c.ReadWithin(t, c.Topics.Events, rounds*events*4+1, 2*time.Second) {
		seen[string(r.Key)]++
	}
	if len(seen) != want+1 {
		t.Errorf("published %d events, want %d", len(seen), want+1)
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("%s was published %d times, want once", key, n)
		}
	}
}

// What encodes larger than a record may be goes to the dead-letter topic. Left
// in, it would abort its transaction for ever.
func TestNormalizer_tooLarge(t *testing.T) {
	c := kafkatest.New(t)
	start(t, c, nil)
	huge := "a@" + string(bytes.Repeat([]byte("x"), 1<<20))
	c.Produce(t, request(c, "shop", huge), request(c, "shop", "b@example.com"))
	c.Read(t, c.Topics.Events, 1)
	letters := c.Read(t, c.Topics.Dead, 1)
	if reason := kafkatest.Header(letters[0], kafka.HeaderReason); reason != fault.TooLarge || string(letters[0].Value) != huge {
		t.Errorf("dead letter of %d bytes with reason %q, want all bytes and %q", len(letters[0].Value), reason, fault.TooLarge)
	}
}

// awaitSum waits until a counter has a value: a batch is counted a moment after
// others can read it.
func awaitSum(t *testing.T, reader metric.Reader, name string, want int64) {
	t.Helper()
	deadline := time.After(kafkatest.Patience)
	for sum(t, reader, name) != want {
		select {
		case <-deadline:
			t.Fatalf("%s = %d, want %d", name, sum(t, reader, name), want)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func sum(t *testing.T, reader metric.Reader, name string) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
				total += point.Value
			}
		}
	}
	return total
}
