package leadscoring_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/httpserver/api/apitest"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadapi"
	"mailriver/pkg/lead/leadavro"
	"mailriver/schemas"
	"mailriver/services/leadscoring"
)

const (
	eventSchema  = 1
	scoreSchema  = 2
	signalSchema = 3
	changeSchema = 4
)

type registry struct{}

func (registry) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	text := map[int]string{
		eventSchema: schemas.EmailEventV1, scoreSchema: schemas.LeadScoreV1, signalSchema: schemas.LeadSignalV1,
		changeSchema: schemas.SegmentV1,
	}[id]
	if text == "" {
		return sr.Schema{}, &sr.ResponseError{StatusCode: http.StatusNotFound}
	}
	return sr.Schema{Schema: text, Type: sr.TypeAvro}, nil
}

type instance struct {
	t        *testing.T
	service  *leadscoring.Service
	document *apitest.Document // against which every answer is held
	url      string
	stop     func()
}

type edit = func(*leadscoring.Config, *leadscoring.Deps)

// start runs an instance on the cluster, on a local copy in dir, and waits until
// it is ready.
func start(t *testing.T, c *kafkatest.Cluster, name, dir string, edits ...edit) *instance {
	t.Helper()
	i := launch(t, c, name, dir, edits...)
	within(t, "ready", func() bool { return i.service.Ready(context.Background()) == nil })
	return i
}

func launch(t *testing.T, c *kafkatest.Cluster, name, dir string, edits ...edit) *instance {
	t.Helper()
	service := build(t, c, name, dir, edits...)
	i := serve(t, service)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	i.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil after the context ended", err)
		}
	})
	t.Cleanup(i.stop)
	return i
}

// serve answers for a service that need not run.
func serve(t *testing.T, service *leadscoring.Service) *instance {
	t.Helper()
	engine := api.NewEngine(slog.New(slog.DiscardHandler))
	service.Routes(engine)
	document := apitest.Open(t, leadscoring.OpenAPI)
	document.Routes(t, engine.Routes())
	server := httptest.NewServer(document.Handler(t, engine))
	t.Cleanup(server.Close)
	return &instance{t: t, service: service, document: document, url: server.URL}
}

func build(t testing.TB, c *kafkatest.Cluster, name, dir string, edits ...edit) *leadscoring.Service {
	t.Helper()
	scores, err := leadavro.NewEncoder(scoreSchema)
	if err != nil {
		t.Fatal(err)
	}
	signals, err := leadavro.NewSignalEncoder(signalSchema)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := leadavro.NewChangeEncoder(changeSchema)
	if err != nil {
		t.Fatal(err)
	}
	cfg := leadscoring.DefaultConfig()
	cfg.RetryWait = 10 * time.Millisecond
	cfg.Group = c.Group("leadscoring")
	deps := leadscoring.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return c.Clients.Session(cfg.Group, c.Group("leadscoring."+name), []string{c.Topics.Events}, opts...)
		},
		Reader: c.Clients.Reader, Admin: c.Clients.Admin, Schemas: registry{}, Scores: scores, Signals: signals, Changes: changes,
		Topics: c.Topics, Dir: dir, Meter: noop.NewMeterProvider().Meter("test"), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for _, e := range edits {
		e(&cfg, &deps)
	}
	service, err := leadscoring.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// within polls until ok or fails the test.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(kafkatest.Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not %s within %s", what, kafkatest.Patience)
		}
	}
}

// ask asks and reads the answer into out; it returns the status and the problem.
func (i *instance) ask(path string, out any) (int, api.Problem) {
	i.t.Helper()
	resp, err := http.Get(i.url + path)
	if err != nil {
		i.t.Fatal(err)
	}
	defer resp.Body.Close()
	var problem api.Problem
	if resp.StatusCode >= 400 {
		out = &problem
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		i.t.Fatalf("GET %s = %s, %v", path, resp.Status, err)
	}
	return resp.StatusCode, problem
}

// answer asks for what must be answered.
func answer[T any](i *instance, path string) (out T) {
	i.t.Helper()
	if status, problem := i.ask(path, &out); status != http.StatusOK {
		i.t.Fatalf("GET %s = %d %+v, want 200", path, status, problem)
	}
	return out
}

func (i *instance) get(address string) leadapi.Lead {
	i.t.Helper()
	return answer[leadapi.Lead](i, "/v1/leads/"+url.PathEscape(address))
}

// canonical encodes an event as the normalizer publishes it.
func canonical(t testing.TB, c *kafkatest.Cluster, e event.Event) *kgo.Record {
	t.Helper()
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, eventSchema)
	if err != nil {
		t.Fatal(err)
	}
	value, err := enc.Append(nil, &e)
	if err != nil {
		t.Fatal(err)
	}
	return &kgo.Record{Topic: c.Topics.Events, Key: []byte(e.RecipientNormalized), Value: value}
}

// click is a human click some minutes ago.
func click(id, recipient string, minutesAgo int) event.Event {
	at := time.Now().UTC().Add(-time.Duration(minutesAgo) * time.Minute).Truncate(time.Microsecond)
	return event.Event{
		ID: event.NewID("ses", "ses", recipient, id), Type: event.Clicked, Provider: "ses", Source: "ses",
		Recipient: recipient, RecipientNormalized: recipient, OccurredAt: at, ReceivedAt: at, Machine: event.MachineNo,
		URL: "https://example.com/" + id, ProviderMessageID: "m-" + id,
	}
}

func signalsOf(t *testing.T, records []*kgo.Record) []leadavro.Signal {
	t.Helper()
	var signals []leadavro.Signal
	for _, r := range records {
		s, err := leadavro.NewSignalDecoder(registry{}).Decode(t.Context(), r.Value)
		if err != nil {
			t.Fatal(err)
		}
		signals = append(signals, s)
	}
	return signals
}

// Each threshold is told once: not again when the same events come again, and
// not by another instance that takes over.
func TestService_signalsOnce(t *testing.T) {
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir())
	var events []event.Event
	for i := range 3 {
		events = append(events, click(fmt.Sprint(i), "jane@example.com", 60-i))
	}
	robot := click("robot", "scanner@example.com", 5)
	robot.Machine = event.MachineYes
	old := click("old", "old@example.com", 60*24*3)
	old2, old3 := old, old
	old2.ID, old3.ID = event.NewID("ses", "ses", "old", "2"), event.NewID("ses", "ses", "old", "3")
	produce := func() {
		c.Produce(t, &kgo.Record{Topic: c.Topics.Events, Key: []byte("x"), Value: []byte("garbage")})
		for _, e := range append(slices.Clone(events), robot, old, old2, old3) {
			c.Produce(t, canonical(t, c, e))
		}
	}
	produce()
	within(t, "warm", func() bool { return first.get("jane@example.com").Profiles[0].Stage == "warm" })
	first.stop()
	second := start(t, c, "b", t.TempDir())
	produce()
	c.Produce(t, canonical(t, c, click("marker", "marker@example.com", 1)))
	within(t, "behind the marker", func() bool { return second.get("marker@example.com").Profiles[0].Score > 0 })

	signals := signalsOf(t, c.ReadWithin(t, c.Topics.LeadSignals, 2, 2*time.Second))
	if len(signals) != 1 || signals[0].Recipient != "jane@example.com" || signals[0].Crossing.Stage != "warm" ||
		!signals[0].Crossing.Up || signals[0].EventID != events[2].ID {
		t.Errorf("signals = %+v, want one, that jane became warm by her third click", signals)
	}
	if l := second.get("scanner@example.com"); l.Profiles[0].Score != 0 {
		t.Errorf("a machine's click scores: %+v", l)
	}
	if l := second.get("old@example.com"); l.Profiles[0].Score < 10 {
		t.Errorf("three old clicks: %+v, want them to score, though they signal nothing", l)
	}
	if letters := c.Read(t, c.Topics.Dead, 2); kafkatest.Header(letters[0], "stage") != "leadscoring" {
		t.Errorf("dead letter has the headers %v, want the stage leadscoring", letters[0].Headers)
	}
}

// The live score is that of the set, bit for bit, whatever comes twice and in
// which order, over a takeover.
func TestService_scoreIsThatOfTheSet(t *testing.T) {
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir())
	rules, err := lead.Compile(lead.DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]lead.State{}
	var records []*kgo.Record
	for i := range 300 {
		recipient := fmt.Sprintf("user%d@example.com", i%17)
		e := click(fmt.Sprint(i), recipient, i)
		if i%5 == 0 {
			e.Type, e.URL = event.Opened, ""
		}
		if i%23 == 0 {
			e.Type, e.URL = event.Complained, ""
		}
		o := rules.Observe(&e)
		state := want[recipient]
		state.Recipient = recipient
		want[recipient], _ = rules.Add(state, &o)
		records = append(records, canonical(t, c, e))
		if i%4 == 0 {
			records = append(records, canonical(t, c, e))
		}
	}
	c.Produce(t, records[:len(records)/2]...)
	first.stop()
	start(t, c, "b", t.TempDir())
	c.Produce(t, records[len(records)/2:]...)
	for recipient, state := range want {
		expected := rules.Standings(&state)[0]
		got := func() leadavro.Record {
			last := leadavro.Record{}
			for _, r := range c.ReadWithin(t, c.Topics.LeadScores, 1<<20, 300*time.Millisecond) {
				if string(r.Key) == recipient {
					if last, err = leadavro.NewDecoder(registry{}).Decode(t.Context(), r.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
			return last
		}
		within(t, recipient+" scored", func() bool {
			r := got()
			return len(r.Standings) == 1 && r.Standings[0].Score == expected.Score && r.Standings[0].At.Equal(expected.At)
		})
	}
}
