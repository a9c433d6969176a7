package deliver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/webhook"
	"mailriver/schemas"
	"mailriver/services/leadscoring/deliver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	signalSchema = 3
	oldSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret    = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3"
)

type registry struct{}

func (registry) SchemaByID(_ context.Context, id int) (sr.Schema, error) {
	if id != signalSchema {
		return sr.Schema{}, &sr.ResponseError{StatusCode: http.StatusNotFound}
	}
	return sr.Schema{Schema: schemas.LeadSignalV1, Type: sr.TypeAvro}, nil
}

// hook is an endpoint that writes down what it is sent.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	got    []delivered
	answer func(n int, d delivered, w http.ResponseWriter) // n counts from 1
}

type delivered struct {
	id        string
	recipient string
	kind      string
	header    http.Header
	body      []byte
}

func newHook(t *testing.T, answer func(n int, d delivered, w http.ResponseWriter)) *hook {
	t.Helper()
	h := &hook{answer: answer}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var message struct {
		Type string
		Data webhook.Signal
	}
	_ = json.Unmarshal(body, &message) // an empty one fails the test
	d := delivered{r.Header.Get("Webhook-Id"), message.Data.Recipient, message.Type, r.Header, body}
	h.mu.Lock()
	h.got = append(h.got, d)
	n := len(h.got)
	h.mu.Unlock()
	if h.answer != nil {
		h.answer(n, d, w)
	}
}

func (h *hook) all() []delivered {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

func (h *hook) ids() []string {
	var ids []string
	for _, d := range h.all() {
		ids = append(ids, d.id)
	}
	return ids
}

func (h *hook) endpoint(name string) webhook.Endpoint {
	return webhook.Endpoint{
		Name: name, URL: h.URL, Secrets: []config.Secret{config.NewSecret(oldSecret)}, AllowPrivate: true,
	}
}

// quick is a schedule for tests: what waits for hours waits for milliseconds.
func quick(c *kafkatest.Cluster, endpoints ...webhook.Endpoint) deliver.Config {
	cfg := deliver.DefaultConfig()
	cfg.Webhooks = endpoints
	cfg.Deliveries.Group = c.Group("webhooks")
	cfg.Deliveries.RetryMin, cfg.Deliveries.RetryMax = 10*time.Millisecond, 50*time.Millisecond
	cfg.Deliveries.BreakMin, cfg.Deliveries.BreakMax = 20*time.Millisecond, 50*time.Millisecond
	cfg.Deliveries.RetryWait = 20 * time.Millisecond
	return cfg
}

func start(t testing.TB, c *kafkatest.Cluster, cfg deliver.Config, edit ...func(*deliver.Deps)) (service *deliver.Service, stop func()) {
	t.Helper()
	deps := deliver.Deps{
		Clients: c.Clients, Topics: c.Topics, Schemas: registry{}, Resolve: literal,
		Meter: noop.NewMeterProvider().Meter("test"), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for _, edit := range edit {
		edit(&deps)
	}
	service, err := deliver.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return service, stop
}

func literal(s config.Secret) (string, error) {
	return s.Resolve(func(string) (string, bool) { return "", false },
		func(string) ([]byte, error) { return nil, errors.New("no such file") })
}

// signal is the nth signal about a recipient.
func signal(t testing.TB, c *kafkatest.Cluster, recipient string, n int) *kgo.Record {
	t.Helper()
	enc, err := leadavro.NewSignalEncoder(signalSchema)
	if err != nil {
		t.Fatal(err)
	}
	s := leadavro.Signal{
		ID: idOf(recipient, n), Recipient: recipient,
		Crossing:   lead.Crossing{Profile: "marketing", Stage: "hot", Up: n%2 == 1, Score: float64(n)},
		OccurredAt: time.Now().UTC(), EventID: event.NewID("p", "e", recipient, fmt.Sprint(n)), EventType: event.Clicked,
		Provider: "sendgrid", Source: "sendgrid",
	}
	value, err := enc.Append(nil, &s)
	if err != nil {
		t.Fatal(err)
	}
	return &kgo.Record{Topic: c.Topics.LeadSignals, Key: []byte(recipient), Value: value}
}

func idOf(recipient string, n int) event.ID { return event.NewID("p", "s", recipient, fmt.Sprint(n)) }

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(kafkatest.Patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not %s within %s", what, kafkatest.Patience)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func book(c *kafkatest.Cluster) *deliver.Book {
	return &deliver.Book{Clients: c.Clients, Topics: c.Topics, Now: time.Now}
}

// states are what the topic says of all deliveries, by id.
func states(t *testing.T, c *kafkatest.Cluster) map[string]deliver.Delivery {
	t.Helper()
	list, _, err := book(c).List(t.Context(), deliver.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]deliver.Delivery{}
	for _, d := range list {
		byID[d.ID()] = d
	}
	return byID
}

// become waits until a delivery is in a state.
func become(t *testing.T, c *kafkatest.Cluster, id string, state deliver.State) deliver.Delivery {
	t.Helper()
	within(t, id+" "+string(state), func() bool { return states(t, c)[id].State == state })
	return states(t, c)[id]
}

func TestDeliver_once(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, nil)
	e := h.endpoint("crm")
	e.Secrets = append(e.Secrets, config.NewSecret(newSecret)) // while they are exchanged
	others := h.endpoint("others")
	others.Profiles = []string{"success"}
	service, stop := start(t, c, quick(c, e, others))
	within(t, "ready", func() bool { return service.Ready(t.Context()) == nil })
	c.Produce(t, signal(t, c, "ada@example.com", 1), signal(t, c, "bob@example.com", 2))
	for recipient, n := range map[string]int{"ada@example.com": 1, "bob@example.com": 2} {
		become(t, c, idOf(recipient, n).String()+":crm", deliver.Delivered)
	}
	stop()
	// A second instance, after the first: what is delivered stays so.
	_, stop = start(t, c, quick(c, e, others))
	c.Produce(t, signal(t, c, "ada@example.com", 3))
	become(t, c, idOf("ada@example.com", 3).String()+":crm", deliver.Delivered)
	stop()

	got := h.all()
	if len(got) != 3 || len(states(t, c)) != 3 {
		t.Fatalf("the endpoint got %v, of %d deliveries; want 3 and 3", h.ids(), len(states(t, c)))
	}
	for _, d := range got {
		for _, secret := range []string{oldSecret, newSecret} {
			receiver, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := receiver.Verify(d.body, d.header); err != nil {
				t.Errorf("Verify() = %v, want nil for each of the secrets", err)
			}
		}
		if want := map[string]string{"ada@example.com": webhook.TypeEntered, "bob@example.com": webhook.TypeLeft}[d.recipient]; d.kind != want {
			t.Errorf("%s got %s, want %s", d.recipient, d.kind, want)
		}
	}
}

// Signals that come again after a crash between the plan and its commit, or
// because the group's offsets are gone, are known: turns red without the mark of
// what was planned.
func TestDeliver_signalsThatComeAgain(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, nil)
	_, stop := start(t, c, quick(c, h.endpoint("crm")))
	c.Produce(t, signal(t, c, "ada@example.com", 1), signal(t, c, "ada@example.com", 2))
	become(t, c, idOf("ada@example.com", 2).String()+":crm", deliver.Delivered)
	stop()
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.Group = c.Group("another") // has committed nothing
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 3))
	become(t, c, idOf("ada@example.com", 3).String()+":crm", deliver.Delivered)
	if got := h.ids(); len(got) != 3 {
		t.Errorf("the endpoint got %v, want each signal once", got)
	}
}

// A topic that was deleted and made again has its offsets anew: its signals are
// not those that were planned. Turns red where the offset alone tells.
func TestDeliver_signalsOfANewTopic(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, nil)
	_, stop := start(t, c, quick(c, h.endpoint("crm")))
	c.Produce(t, signal(t, c, "ada@example.com", 1), signal(t, c, "ada@example.com", 2))
	become(t, c, idOf("ada@example.com", 2).String()+":crm", deliver.Delivered)
	stop()
	admin, err := c.Clients.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.DeleteTopic(t.Context(), c.Topics.LeadSignals); err != nil {
		t.Fatal(err)
	}
	declared, err := kafka.Declared(c.Config.TopicPrefix)
	if err != nil {
		t.Fatal(err)
	}
	only := slices.DeleteFunc(declared, func(d kafka.Topic) bool { return d.Name != c.Topics.LeadSignals })
	within(t, "made again", func() bool { return kafka.CreateTopics(t.Context(), admin, only, 0) == nil })
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.Group = c.Group("another")
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 3))
	become(t, c, idOf("ada@example.com", 3).String()+":crm", deliver.Delivered)
}

func TestDeliver_restartBetweenAttempts(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, func(n int, _ delivered, w http.ResponseWriter) {
		if n <= 2 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.RetryMin, cfg.Deliveries.RetryMax = time.Hour, time.Hour
	_, stop := start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	id := idOf("ada@example.com", 1).String() + ":crm"
	within(t, "attempted", func() bool { return states(t, c)[id].Attempts == 1 })
	stop()
	if d := states(t, c)[id]; d.State != deliver.Pending || d.Status != 500 || time.Until(d.NextAt) < 20*time.Minute {
		t.Fatalf("the delivery is %+v, want pending, due within the hour", d)
	}
	// It is due in an hour: a restart does not hasten it, and does not forget it.
	service, stop := start(t, c, cfg)
	within(t, "ready", func() bool { return service.Ready(t.Context()) == nil })
	c.Produce(t, signal(t, c, "bob@example.com", 1))
	within(t, "attempted", func() bool { return len(h.all()) == 2 })
	stop()
	if got := h.all(); got[1].recipient != "bob@example.com" {
		t.Errorf("the second attempt is %v, want that for bob", got[1])
	}
	// A person may hasten it.
	if _, err := book(c).Retry(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	start(t, c, cfg)
	if d := become(t, c, id, deliver.Delivered); d.Attempts != 2 || d.Round != 0 {
		t.Errorf("the delivery is %+v, want delivered at the second attempt", d)
	}
	if ids := h.ids(); ids[0] != ids[2] {
		t.Errorf("the ids of the attempts are %v, want the first and the third to be the same", ids)
	}
}

func TestDeliver_hangingEndpointHoldsUpNobody(t *testing.T) {
	c := kafkatest.New(t)
	release := make(chan struct{})
	hanging := newHook(t, func(int, delivered, http.ResponseWriter) { <-release })
	h := newHook(t, nil)
	slow := hanging.endpoint("slow")
	slow.Timeout = webhook.MaxTimeout
	_, stop := start(t, c, quick(c, slow, h.endpoint("crm")))
	var records []*kgo.Record
	for i := range 20 {
		records = append(records, signal(t, c, fmt.Sprintf("r%d@example.com", i), 1))
	}
	c.Produce(t, records...)
	within(t, "delivered at the other endpoint", func() bool { return len(h.all()) == 20 })
	if got := len(hanging.all()); got > deliver.DefaultConfig().Deliveries.InFlight {
		t.Errorf("the hanging endpoint has %d attempts in hand, want at most %d", got, deliver.DefaultConfig().Deliveries.InFlight)
	}
	close(release)
	within(t, "delivered at the slow endpoint", func() bool { return len(hanging.all()) == 20 })
	stop()
}

// Of one endpoint, a recipient whose delivery fails holds up itself only, and in
// order.
func TestDeliver_orderOfARecipient(t *testing.T) {
	c := kafkatest.New(t)
	var failures sync.Map
	h := newHook(t, func(_ int, d delivered, w http.ResponseWriter) {
		n, _ := failures.LoadOrStore(d.id, new(int))
		if d.recipient == "ada@example.com" {
			if *n.(*int)++; *n.(*int) <= 2 {
				w.WriteHeader(http.StatusBadRequest)
			}
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	start(t, c, cfg)
	var records []*kgo.Record
	for n := 1; n <= 4; n++ {
		records = append(records, signal(t, c, "ada@example.com", n), signal(t, c, "bob@example.com", n))
	}
	c.Produce(t, records...)
	become(t, c, idOf("ada@example.com", 4).String()+":crm", deliver.Delivered)
	become(t, c, idOf("bob@example.com", 4).String()+":crm", deliver.Delivered)
	var want []string
	for n := 1; n <= 4; n++ {
		for range 3 {
			want = append(want, idOf("ada@example.com", n).String())
		}
	}
	var got []string
	for _, d := range h.all() {
		if d.recipient == "ada@example.com" {
			got = append(got, d.id)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("ada got %v, want %v", got, want)
	}
}

func TestDeliver_deadLetterAndRetry(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, func(n int, _ delivered, w http.ResponseWriter) {
		if n <= 3 {
			http.Error(w, "no such lead", http.StatusUnprocessableEntity)
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.Attempts = 3
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	id := idOf("ada@example.com", 1).String() + ":crm"
	d := become(t, c, id, deliver.DeadLetter)
	if d.Attempts != 3 || d.Status != 422 || d.Problem != "HTTP 422: no such lead" {
		t.Errorf("the delivery is %+v, want dead after three attempts", d)
	}
	letter := c.Read(t, c.Topics.Dead, 1)[0]
	if kafkatest.Header(letter, kafka.HeaderStage) != deliver.Stage ||
		kafkatest.Header(letter, kafka.HeaderReason) != fault.Undelivered ||
		kafkatest.Header(letter, kafka.HeaderError) != "undelivered: endpoint crm, 3 attempts: HTTP 422" ||
		!strings.Contains(string(letter.Value), "no such lead") ||
		!strings.HasPrefix(kafkatest.Header(letter, kafka.HeaderOrigin), c.Topics.LeadDeliveries+"/") ||
		string(letter.Key) != "ada@example.com" {
		t.Errorf("the letter is %v %q", letter.Headers, letter.Key)
	}
	if _, err := book(c).Retry(t.Context(), "x:crm"); !errors.Is(err, deliver.ErrUnknown) {
		t.Errorf("Retry(x:crm) = %v, want ErrUnknown", err)
	}
	if _, err := book(c).Retry(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	// The running service hears of it.
	if d := become(t, c, id, deliver.Delivered); d.Attempts != 1 || d.Round != 1 {
		t.Errorf("the delivery is %+v, want delivered at the first attempt of another round", d)
	}
	if _, err := book(c).Retry(t.Context(), id); !errors.Is(err, deliver.ErrDelivered) {
		t.Errorf("Retry() of a delivered one = %v, want ErrDelivered", err)
	}
}

func TestDeliver_goneDisables(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, func(n int, _ delivered, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusGone)
		}
	})
	e := h.endpoint("crm")
	_, stop := start(t, c, quick(c, e))
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	first := idOf("ada@example.com", 1).String() + ":crm"
	become(t, c, first, deliver.DeadLetter)
	c.Produce(t, signal(t, c, "ada@example.com", 2))
	become(t, c, idOf("ada@example.com", 2).String()+":crm", deliver.Skipped)
	stop()
	// A restart does not forget it.
	_, stop = start(t, c, quick(c, e))
	c.Produce(t, signal(t, c, "ada@example.com", 3))
	become(t, c, idOf("ada@example.com", 3).String()+":crm", deliver.Skipped)
	if got := h.ids(); len(got) != 1 {
		t.Fatalf("the endpoint got %v, want one attempt", got)
	}
	// A person may try nevertheless.
	if _, err := book(c).Retry(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	become(t, c, first, deliver.Delivered)
	stop()
	// Another configuration enables it.
	e.Stages = []string{"hot"}
	start(t, c, quick(c, e))
	c.Produce(t, signal(t, c, "ada@example.com", 4))
	become(t, c, idOf("ada@example.com", 4).String()+":crm", deliver.Delivered)
}

// Retry-After holds back all of the endpoint, not only the delivery that was
// answered so.
func TestDeliver_retryAfter(t *testing.T) {
	c := kafkatest.New(t)
	var until time.Time
	var early []string
	var mu sync.Mutex
	h := newHook(t, func(n int, d delivered, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		if n == 1 {
			until = time.Now().Add(time.Second)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if time.Now().Before(until) {
			early = append(early, d.id)
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.InFlight = 1
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	within(t, "answered", func() bool { return len(h.all()) == 1 })
	c.Produce(t, signal(t, c, "bob@example.com", 1))
	become(t, c, idOf("ada@example.com", 1).String()+":crm", deliver.Delivered)
	become(t, c, idOf("bob@example.com", 1).String()+":crm", deliver.Delivered)
	mu.Lock()
	defer mu.Unlock()
	if len(early) > 0 {
		t.Errorf("%v were sent within the second that the endpoint asked for", early)
	}
}

func TestDeliver_breaker(t *testing.T) {
	c := kafkatest.New(t)
	broken := make(chan struct{})
	h := newHook(t, func(_ int, _ delivered, w http.ResponseWriter) {
		select {
		case <-broken:
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.BreakAfter, cfg.Deliveries.InFlight = 3, 1
	cfg.Deliveries.BreakMin, cfg.Deliveries.BreakMax = time.Hour, time.Hour
	_, stop := start(t, c, cfg)
	for i := range 10 {
		c.Produce(t, signal(t, c, fmt.Sprintf("r%d@example.com", i), 1))
	}
	within(t, "open", func() bool { return len(h.all()) == 3 })
	within(t, "all planned", func() bool { return len(states(t, c)) == 10 })
	stop()
	attempts := 0
	for _, d := range states(t, c) {
		attempts += d.Attempts
		if d.State != deliver.Pending {
			t.Errorf("%s is %s, want pending", d.ID(), d.State)
		}
	}
	if got := len(h.all()); got != 3 || attempts != 3 {
		t.Errorf("the endpoint got %d attempts, of %d that are written; want 3: it is left alone", got, attempts)
	}
	// With a short pause the probe closes it again.
	close(broken)
	start(t, c, quick(c, h.endpoint("crm")))
	within(t, "delivered", func() bool {
		for _, d := range states(t, c) {
			if d.State != deliver.Delivered {
				return false
			}
		}
		return true
	})
}

func TestDeliver_privateAddressRedirectAndHugeAnswer(t *testing.T) {
	c := kafkatest.New(t)
	target := newHook(t, nil)
	redirects := newHook(t, func(_ int, _ delivered, w http.ResponseWriter) {
		w.Header().Set("Location", target.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	huge := newHook(t, func(_ int, _ delivered, w http.ResponseWriter) {
		chunk := make([]byte, 64<<10)
		for range 1 << 14 { // a gibibyte
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		t.Error("the endpoint could send a gibibyte")
	})
	private := target.endpoint("private")
	private.AllowPrivate, private.URL = false, strings.Replace(target.URL, "http://", "https://", 1)
	cfg := quick(c, private, redirects.endpoint("redirects"), huge.endpoint("huge"))
	cfg.Deliveries.Attempts = 1
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	id := idOf("ada@example.com", 1).String()
	if d := become(t, c, id+":private", deliver.DeadLetter); !strings.Contains(d.Problem, "private or special") {
		t.Errorf("private: %q, want refused by its address", d.Problem)
	}
	if d := become(t, c, id+":redirects", deliver.DeadLetter); d.Status != 307 || !strings.Contains(d.Problem, "redirects") {
		t.Errorf("redirects: %d %q, want not followed", d.Status, d.Problem)
	}
	become(t, c, id+":huge", deliver.Delivered)
	if got := target.ids(); len(got) > 0 {
		t.Errorf("the target got %v, want nothing", got)
	}
}

// A signal that cannot be read becomes a dead letter, alone.
func TestDeliver_unreadableSignal(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, nil)
	start(t, c, quick(c, h.endpoint("crm")))
	bad := &kgo.Record{Topic: c.Topics.LeadSignals, Key: []byte("ada@example.com"), Value: []byte("no avro")}
	c.Produce(t, bad, signal(t, c, "ada@example.com", 1))
	become(t, c, idOf("ada@example.com", 1).String()+":crm", deliver.Delivered)
	letter := c.Read(t, c.Topics.Dead, 1)[0]
	if kafkatest.Header(letter, kafka.HeaderReason) != fault.BadEnvelope || string(letter.Value) != "no avro" {
		t.Errorf("the letter is %v %q, want %s with the bytes", letter.Headers, letter.Value, fault.BadEnvelope)
	}
}

// A delivery of an endpoint that is not configured any more waits for it, and is
// given up when it is too old: nothing is lost without a letter.
func TestDeliver_endpointIsNotConfigured(t *testing.T) {
	c := kafkatest.New(t)
	pending := func(recipient string, age time.Duration) deliver.Delivery {
		at := time.Now().Add(-age)
		return deliver.Delivery{
			Signal: webhook.Signal{ID: idOf(recipient, 1).String(), Recipient: recipient}, Endpoint: "gone",
			State: deliver.Pending, Attempts: 2, Since: at, NextAt: at, UpdatedAt: at, Problem: "HTTP 500", Status: 500,
		}
	}
	old, young := pending("ada@example.com", 73*time.Hour), pending("bob@example.com", time.Hour)
	for _, d := range []deliver.Delivery{old, young} {
		value, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		client, err := c.Clients.Producer(kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		record := &kgo.Record{Topic: c.Topics.LeadDeliveries, Key: []byte(d.ID()), Value: value}
		if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	_, stop := start(t, c, quick(c))
	if d := become(t, c, old.ID(), deliver.DeadLetter); d.Problem != "endpoint is not configured; HTTP 500" {
		t.Errorf("the delivery says %q, want that the endpoint is not configured", d.Problem)
	}
	c.Read(t, c.Topics.Dead, 1)
	stop()
	if got := states(t, c)[young.ID()]; got.State != deliver.Pending || got.Attempts != 2 {
		t.Errorf("the young delivery is %+v, want pending as it was", got)
	}
	h := newHook(t, nil)
	start(t, c, quick(c, h.endpoint("gone")))
	become(t, c, young.ID(), deliver.Delivered)
}

// Two instances share the partitions; what one has, the other takes over.
func TestDeliver_takeover(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, nil)
	cfg := quick(c, h.endpoint("crm"))
	_, stopFirst := start(t, c, cfg)
	second, _ := start(t, c, cfg)
	within(t, "ready", func() bool { return second.Ready(t.Context()) == nil })
	const n = 40
	for i := range n {
		if i == n/2 {
			stopFirst()
		}
		c.Produce(t, signal(t, c, fmt.Sprintf("r%d@example.com", i), 1))
	}
	within(t, "all delivered", func() bool {
		done := 0
		for _, d := range states(t, c) {
			if d.State == deliver.Delivered {
				done++
			}
		}
		return done == n
	})
	if got := h.ids(); len(got) != n {
		t.Errorf("the endpoint got %d deliveries, want %d: nothing was in doubt", len(got), n)
	}
}

// Another owner of the partition, of which this one does not know, keeps it from
// writing. It reads the partition again and goes on: turns red where a broken
// session is not replaced, or its signals are not gone back to.
func TestDeliver_fenced(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, nil)
	cfg := quick(c, h.endpoint("crm"))
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	id := func(n int) string { return idOf("ada@example.com", n).String() + ":crm" }
	partition := become(t, c, id(1), deliver.Delivered).Partition
	for n := 2; n <= 4; n++ {
		other, err := c.Clients.Publisher(t.Context(), fmt.Sprintf("%s.%d", cfg.Deliveries.Group, partition))
		if err != nil {
			t.Fatal(err)
		}
		other.Close()
		c.Produce(t, signal(t, c, "ada@example.com", n))
		become(t, c, id(n), deliver.Delivered)
	}
	if got := h.ids(); len(got) != 4 {
		t.Errorf("the endpoint got %v, want each once: the other one was there before each signal", got)
	}
}

// A predecessor that does not know that it is one writes nothing any more: what it
// sent meanwhile is sent again, under the same id. Turns red without the
// transactional id of the partition.
func TestDeliver_fencedWhileAnAttemptIsInHand(t *testing.T) {
	c := kafkatest.New(t)
	release := make(chan struct{})
	h := newHook(t, func(n int, _ delivered, _ http.ResponseWriter) {
		if n == 1 {
			<-release
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	start(t, c, cfg)
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	id := idOf("ada@example.com", 1).String() + ":crm"
	within(t, "in hand", func() bool { return len(h.all()) == 1 })
	partition := become(t, c, id, deliver.Pending).Partition
	other, err := c.Clients.Publisher(t.Context(), fmt.Sprintf("%s.%d", cfg.Deliveries.Group, partition))
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	close(release)
	if d := become(t, c, id, deliver.Delivered); d.Attempts != 1 {
		t.Errorf("the delivery has %d attempts, want 1: nobody could write the other one", d.Attempts)
	}
	if ids := h.ids(); len(ids) != 2 || ids[0] != ids[1] {
		t.Errorf("the endpoint got %v, want one id twice", ids)
	}
}

// What is in hand at the end is finished and written, so that it is not sent
// again.
func TestDeliver_stopLetsAttemptsFinish(t *testing.T) {
	c := kafkatest.New(t)
	release := make(chan struct{})
	h := newHook(t, func(int, delivered, http.ResponseWriter) { <-release })
	_, stop := start(t, c, quick(c, h.endpoint("crm")))
	c.Produce(t, signal(t, c, "ada@example.com", 1), signal(t, c, "ada@example.com", 2))
	within(t, "in hand", func() bool { return len(h.all()) == 1 })
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("Run() returned while an attempt was in hand")
	case <-time.After(100 * time.Millisecond): // long enough to turn red without the wait
	}
	close(release)
	<-stopped
	got := states(t, c)
	first, second := got[idOf("ada@example.com", 1).String()+":crm"], got[idOf("ada@example.com", 2).String()+":crm"]
	if first.State != deliver.Delivered || second.State != deliver.Pending || second.Attempts != 0 {
		t.Errorf("the deliveries are %s and %s, want the first delivered and the second pending", first.State, second.State)
	}
}

// The topic has the pending deliveries in the order in which they changed last;
// they go out in the order of their signals. Turns red where a restart takes the
// order of the topic.
func TestDeliver_orderOverARestart(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, func(n int, _ delivered, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.RetryMin, cfg.Deliveries.RetryMax = time.Hour, time.Hour
	_, stop := start(t, c, cfg)
	var records []*kgo.Record
	for n := 1; n <= 5; n++ {
		records = append(records, signal(t, c, "ada@example.com", n))
	}
	c.Produce(t, records...)
	first := idOf("ada@example.com", 1).String()
	within(t, "attempted", func() bool { return states(t, c)[first+":crm"].Attempts == 1 && len(states(t, c)) == 5 })
	stop()
	if _, err := book(c).Retry(t.Context(), first+":crm"); err != nil {
		t.Fatal(err)
	}
	start(t, c, cfg)
	become(t, c, idOf("ada@example.com", 5).String()+":crm", deliver.Delivered)
	want := []string{first}
	for n := 1; n <= 5; n++ {
		want = append(want, idOf("ada@example.com", n).String())
	}
	if got := h.ids(); !slices.Equal(got, want) {
		t.Errorf("the endpoint got %v, want %v", got, want)
	}
}

// Instances come and go while the endpoint fails at random: everything is taken
// once, and of each recipient in order.
func TestDeliver_instancesComeAndGo(t *testing.T) {
	c := kafkatest.New(t)
	const recipients, each = 12, 4
	taken := map[string][]int{} // by recipient
	number := map[string]int{}  // by id
	for i := range recipients {
		for n := 1; n <= each; n++ {
			number[idOf(fmt.Sprintf("r%d@example.com", i), n).String()] = n
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	h := newHook(t, func(_ int, d delivered, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(3) == 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		taken[d.recipient] = append(taken[d.recipient], number[d.id])
	})
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.Attempts = 100
	stops := make([]func(), 2)
	for i := range stops {
		_, stops[i] = start(t, c, cfg)
	}
	for n := 1; n <= each; n++ {
		for i := range recipients {
			c.Produce(t, signal(t, c, fmt.Sprintf("r%d@example.com", i), n))
		}
		stops[n%2]()
		_, stops[n%2] = start(t, c, cfg)
	}
	within(t, "all delivered", func() bool {
		done := 0
		for _, d := range states(t, c) {
			if d.State == deliver.Delivered {
				done++
			}
		}
		return done == recipients*each
	})
	mu.Lock()
	defer mu.Unlock()
	for i := range recipients {
		recipient := fmt.Sprintf("r%d@example.com", i)
		if got := taken[recipient]; !slices.Equal(got, []int{1, 2, 3, 4}) {
			t.Errorf("%s: the endpoint took %v, want 1 to %d", recipient, got, each)
		}
	}
}

func TestDeliver_metrics(t *testing.T) {
	c := kafkatest.New(t)
	h := newHook(t, func(n int, _ delivered, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	reader := sdk.NewManualReader()
	cfg := quick(c, h.endpoint("crm"))
	cfg.Deliveries.InFlight = 1
	start(t, c, cfg, func(d *deliver.Deps) { d.Meter = sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test") })
	c.Produce(t, signal(t, c, "ada@example.com", 1))
	become(t, c, idOf("ada@example.com", 1).String()+":crm", deliver.Delivered)
	want := map[string]float64{
		"attempts crm delivered": 1, "attempts crm refused": 1,
		"deliveries crm delivered": 1, "deliveries crm pending": 1,
		"pending crm": 0, "oldest_age crm": 0, "breaker crm": 0, "disabled crm": 0,
	}
	var got map[string]float64
	within(t, "counted", func() bool {
		got = collect(t, reader)
		return got["deliveries crm delivered"] == 1 && got["pending crm"] == 0
	})
	if !maps.Equal(got, want) {
		t.Errorf("metrics are %v, want %v", got, want)
	}
}

// collect returns the sums and gauges by name and attributes.
func collect(t *testing.T, reader *sdk.ManualReader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	name := func(m metricdata.Metrics, at attribute.Set) string {
		text := strings.TrimPrefix(m.Name, "mailriver.leadscoring.webhooks.")
		for _, kv := range at.ToSlice() { // sorted by key
			text += " " + kv.Value.AsString()
		}
		return text
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[name(m, p.Attributes)] = float64(p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					got[name(m, p.Attributes)] = float64(p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					got[name(m, p.Attributes)] = p.Value
				}
			}
		}
	}
	return got
}

func BenchmarkDeliver(b *testing.B) {
	c := kafkatest.New(b)
	var mu sync.Mutex
	got, all := 0, make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if got++; got == b.N {
			close(all)
		}
	}))
	b.Cleanup(server.Close)
	cfg := quick(c, (&hook{Server: server}).endpoint("crm"))
	cfg.Deliveries.InFlight = 16
	records := make([]*kgo.Record, b.N)
	for i := range records {
		records[i] = signal(b, c, fmt.Sprintf("r%d@example.com", i), 1)
	}
	c.Produce(b, records...)
	b.ResetTimer()
	start(b, c, cfg)
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}
