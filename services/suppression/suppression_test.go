package suppression_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/metric/noop"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/httpserver/api"
	"mailriver/pkg/httpserver/api/apitest"
	"mailriver/pkg/kafka/kafkatest"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/schemas"
	"mailriver/services/normalizer"
	"mailriver/services/suppression"
)

const (
	eventSchema = 1
	stateSchema = 2
)

type registry struct{}

func (registry) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	text := map[int]string{eventSchema: schemas.EmailEventV1, stateSchema: schemas.SuppressionV1}[id]
	if text == "" {
		return sr.Schema{}, &sr.ResponseError{StatusCode: http.StatusNotFound}
	}
	return sr.Schema{Schema: text, Type: sr.TypeAvro}, nil
}

// replica is a running instance and its API.
type replica struct {
	t        *testing.T
	service  *suppression.Service
	document *apitest.Document // against which every answer is held
	url      string
	plain    string // the same without the document, which knows no lines of JSON
	client   *http.Client
	stop     func()
}

// start runs an instance on the cluster, on a local copy in dir, and waits until
// it is ready.
func start(t *testing.T, c *kafkatest.Cluster, name, dir string, edit ...func(*suppression.Config, *suppression.Deps)) *replica {
	t.Helper()
	r := launch(t, c, name, dir, edit...)
	within(t, "ready", func() bool { return r.service.Ready(context.Background()) == nil })
	return r
}

func launch(t *testing.T, c *kafkatest.Cluster, name, dir string, edit ...func(*suppression.Config, *suppression.Deps)) *replica {
	t.Helper()
	service, engine, end := build(t, c, name, dir, edit...)
	document := apitest.Open(t, suppression.OpenAPI)
	document.Routes(t, engine.Routes())
	server, plain := httptest.NewServer(document.Handler(t, engine)), httptest.NewServer(engine)
	r := &replica{t: t, service: service, document: document, url: server.URL, plain: plain.URL, client: server.Client()}
	r.stop = sync.OnceFunc(func() {
		server.Close()
		plain.Close()
		end()
	})
	t.Cleanup(r.stop)
	return r
}

// build runs an instance until the function that it returns is called.
func build(t *testing.T, c *kafkatest.Cluster, name, dir string, edit ...func(*suppression.Config, *suppression.Deps)) (
	*suppression.Service, *gin.Engine, func(),
) {
	t.Helper()
	enc, err := suppressionavro.NewEncoder(stateSchema)
	if err != nil {
		t.Fatal(err)
	}
	producer, err := c.Clients.Producer(kgo.RecordDeliveryTimeout(5 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	cfg := suppression.DefaultConfig()
	cfg.RetryWait = 10 * time.Millisecond
	cfg.Group = c.Group("suppression")
	deps := suppression.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return c.Clients.Session(cfg.Group, c.Group("suppression."+name), []string{c.Topics.Events}, opts...)
		},
		Reader: c.Clients.Reader, Admin: c.Clients.Admin, Producer: producer, Schemas: registry{}, Encoder: enc,
		Topics: c.Topics, Dir: dir, Meter: noop.NewMeterProvider().Meter("test"), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for _, e := range edit {
		e(&cfg, &deps)
	}
	service, err := suppression.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	engine := api.NewEngine(slog.New(slog.DiscardHandler))
	service.Routes(engine)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	return service, engine, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil after the context ended", err)
		}
		producer.Close()
	}
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

// answer is what came back.
type answer struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
}

// send makes a request. A body is JSON unless the header says otherwise.
func (r *replica) send(method, path, body string, header ...string) answer {
	r.t.Helper()
	return r.sendTo(r.url, method, path, strings.NewReader(body), body != "", header...)
}

func (r *replica) sendTo(url, method, path string, body io.Reader, json bool, header ...string) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	if json {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, resp.Trailer, string(text)}
}

// call makes a request, checks the status, and reads the answer into what into
// points to.
func (r *replica) call(method, path, body string, want int, into any) {
	r.t.Helper()
	a := r.send(method, path, body)
	if a.status != want {
		r.t.Fatalf("%s %s = %d %s, want %d", method, path, a.status, a.body, want)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(a.body), into); err != nil {
			r.t.Fatalf("%s %s = %s: %v", method, path, a.body, err)
		}
	}
}

func (r *replica) get(address, query string) suppression.Answer {
	r.t.Helper()
	var a suppression.Answer
	r.call(http.MethodGet, "/v1/suppressions/"+url.PathEscape(address)+query, "", http.StatusOK, &a)
	return a
}

// canonical encodes an event as the normalizer publishes it.
func canonical(t *testing.T, c *kafkatest.Cluster, e event.Event) *kgo.Record {
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

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func bounce(id, recipient string) event.Event {
	return event.Event{
		ID: event.NewID("ses", "ses", id), Type: event.Bounced, Provider: "ses", Source: "ses",
		Recipient: recipient, RecipientNormalized: recipient, OccurredAt: noon, ReceivedAt: noon,
		BounceKind: event.KindHard, BounceCause: event.CauseUnknownRecipient, EnhancedCode: "5.1.1", ProviderMessageID: "m-" + id,
	}
}

func TestService_answersWhatTheEventsSay(t *testing.T) {
	c := kafkatest.New(t)
	r := start(t, c, "a", t.TempDir())
	opened := bounce("3", "fine@example.com")
	opened.Type = event.Opened
	unsubscribed := bounce("4", "news@example.com")
	unsubscribed.Type, unsubscribed.ScopeKind, unsubscribed.ScopeID = event.Unsubscribed, event.ScopeStream, "newsletter"
	garbage := &kgo.Record{Topic: c.Topics.Events, Key: []byte("x"), Value: []byte("garbage")}
	c.Produce(t, garbage, canonical(t, c, bounce("1", "Jane@example.com")), canonical(t, c, opened), canonical(t, c, unsubscribed))

	within(t, "suppressed", func() bool { return r.get("jane@EXAMPLE.com", "").Suppressed })
	a := r.get("jane@EXAMPLE.com", "")
	want := suppression.Line{
		ScopeKind: "address", Reason: model.HardBounce, Since: noon, Provider: "ses", Source: "ses",
		EventID: bounce("1", "").ID.String(),
	}
	if len(a.Entries) != 1 || a.Entries[0] != want || a.Address != "jane@EXAMPLE.com" || a.AsOf == nil {
		t.Errorf("GET = %+v, want the entry %+v", a, want)
	}
	within(t, "unsubscribed", func() bool { return r.get("news@example.com", "?stream=newsletter").Suppressed })
	if a := r.get("news@example.com", ""); a.Suppressed || len(a.Entries) != 1 {
		t.Errorf("an opt-out of one stream: %+v, want it shown, and no mail but the stream's stopped", a)
	}
	if a := r.get("fine@example.com", ""); a.Suppressed || len(a.Entries) != 0 {
		t.Errorf("GET of one who opened = %+v, want no entry", a)
	}
	// Turns red when a record that does not decode is dropped, or stops its neighbors.
	if letters := c.Read(t, c.Topics.Dead, 1); kafkatest.Header(letters[0], "stage") != "suppression" {
		t.Errorf("dead letter has the headers %v, want the stage suppression", letters[0].Headers)
	}
}

// The state depends on the set of events. Two replicas share the work while one
// of them comes and goes; every address then reads the same on both, and as if
// one had seen everything in order.
func TestService_twoReplicasAgree(t *testing.T) {
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir())
	second := start(t, c, "b", t.TempDir())
	random := rand.New(rand.NewPCG(7, 7))
	policy := model.DefaultPolicy()
	expected := map[string]model.State{}
	var records []*kgo.Record
	for i := range 600 {
		spelling := fmt.Sprintf("User%d@example.com", random.IntN(40))
		if random.IntN(2) == 0 {
			spelling = strings.ToLower(spelling)
		}
		e := bounce(fmt.Sprint(i), spelling)
		e.OccurredAt = noon.Add(time.Duration(random.IntN(3600)) * time.Second)
		switch random.IntN(4) {
		case 0:
			e.Type, e.Provider, e.Source = event.SuppressionChanged, event.ProviderMailriver, mailriver.Source
			e.SuppressionAction, e.ScopeKind = event.SuppressionRemove, event.ScopeAddress
		case 1:
			e.Type = event.Complained
		}
		records = append(records, canonical(t, c, e))
		placed, _ := model.Classify(&e, &policy)
		for _, p := range placed {
			key := policy.Fold(spelling)
			s := expected[key]
			s.Address, s.ScopeKind, s.ScopeID = key, p.ScopeKind, p.ScopeID
			expected[key] = s.Add(p.Fact)
		}
	}
	for _, r := range records[:200] { // at least once
		records = append(records, &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value})
	}
	random.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	c.Produce(t, records[:300]...)
	second.stop()
	c.Produce(t, records[300:600]...)
	third := start(t, c, "c", t.TempDir())
	c.Produce(t, records[600:]...)

	for key, state := range expected {
		want := model.Active(model.Evaluate(state, &policy).Entries, time.Now())
		for _, r := range []*replica{first, third} {
			same := func(a suppression.Answer) bool {
				if len(a.Entries) != len(want) {
					return false
				}
				for i, e := range want {
					if a.Entries[i].Reason != e.Reason || !a.Entries[i].Since.Equal(e.Since) || a.Entries[i].EventID != e.EventID {
						return false
					}
				}
				return true
			}
			within(t, "as "+key+" should be", func() bool { return same(r.get(key, "")) })
		}
	}
}

// A restart goes on from the local copy, and without one reads the topic again.
func TestService_restart(t *testing.T) {
	c := kafkatest.New(t)
	dir := t.TempDir()
	r := start(t, c, "a", dir)
	c.Produce(t, canonical(t, c, bounce("1", "jane@example.com")))
	within(t, "suppressed", func() bool { return r.get("jane@example.com", "").Suppressed })
	r.stop()
	if again := start(t, c, "a", dir).get("jane@example.com", ""); !again.Suppressed {
		t.Errorf("after a restart: %+v, want suppressed at once", again)
	}
	if other := start(t, c, "b", t.TempDir()).get("jane@example.com", ""); !other.Suppressed {
		t.Errorf("without the copy: %+v, want suppressed at once", other)
	}
}

// A change by hand travels through the raw topic and the normalizer, is answered
// when the list has it, and is there on every replica from its position on.
func TestAPI_changes(t *testing.T) {
	c := kafkatest.New(t)
	startNormalizer(t, c)
	r, other := start(t, c, "a", t.TempDir()), start(t, c, "b", t.TempDir())
	var put suppression.Answer
	r.call(http.MethodPut, "/v1/suppressions/jane@example.com", `{"note":"asked by phone","expires_at":"2999-01-01T00:00:00Z"}`, http.StatusOK, &put)
	if !put.Suppressed || len(put.Entries) != 1 || put.Entries[0].Reason != model.Manual || put.Entries[0].Note != "asked by phone" ||
		put.Entries[0].ExpiresAt == nil || put.Entries[0].ExpiresAt.Year() != 2999 || put.Position == "" {
		t.Fatalf("PUT = %+v, want a manual entry until 2999, and a position", put)
	}
	if a := other.get("jane@example.com", "?wait="+put.Position); !a.Suppressed {
		t.Errorf("GET of the other replica behind the position = %+v, want suppressed", a)
	}
	c.Produce(t, canonical(t, c, bounce("1", "jane@example.com")))
	within(t, "bounced", func() bool { return len(r.get("jane@example.com", "").Entries) == 2 })

	var lifted suppression.Answer
	r.call(http.MethodDelete, "/v1/suppressions/Jane@example.com?note=back+again", "", http.StatusOK, &lifted)
	if lifted.Suppressed || len(lifted.Entries) != 0 {
		t.Errorf("DELETE = %+v, want nothing left: a lift by hand is of every reason", lifted)
	}
	// The same old bounce once more, as in a replay: the lift survives.
	c.Produce(t, canonical(t, c, bounce("1", "jane@example.com")), canonical(t, c, bounce("2", "marker@example.com")))
	within(t, "folded", func() bool { return r.get("marker@example.com", "").Suppressed })
	if a := r.get("jane@example.com", ""); a.Suppressed {
		t.Errorf("after the bounce came again: %+v, want it still lifted", a)
	}
	var why suppression.Explanation
	r.call(http.MethodGet, "/v1/suppressions/jane@example.com/explain", "", http.StatusOK, &why)
	if len(why.Scopes) != 1 || len(why.Scopes[0].Facts) != 3 {
		t.Fatalf("explain = %+v, want three facts of one scope", why)
	}
	lift := why.Scopes[0].Facts[2]
	if lift.Effect != model.Lift || lift.Detail != "back again" || lift.Actor != api.Loopback || why.Scopes[0].Facts[0].Counts {
		t.Errorf("explain = %+v, want the lift last, with its note and who made it", why)
	}
}

func startNormalizer(t *testing.T, c *kafkatest.Cluster) {
	t.Helper()
	enc, err := eventavro.NewEncoder(schemas.EmailEventV1, eventSchema)
	if err != nil {
		t.Fatal(err)
	}
	cfg := normalizer.DefaultConfig()
	cfg.RetryWait = 10 * time.Millisecond
	cfg.Group = c.Group("normalizer")
	service, err := normalizer.New(cfg, normalizer.Deps{
		Open: func(opts ...kgo.Opt) (*kgo.GroupTransactSession, error) {
			return c.Clients.Session(cfg.Group, c.Group("normalizer"), []string{c.Topics.Raw}, opts...)
		},
		Reader: c.Clients.Reader, Admin: c.Clients.Admin, Dir: t.TempDir(), Encoder: enc,
		Providers: []esp.Provider{mailriver.Provider}, Topics: c.Topics, Version: "test",
		Meter: noop.NewMeterProvider().Meter("test"), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("normalizer: Run() = %v", err)
		}
	})
}
