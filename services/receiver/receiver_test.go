package receiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/goleak"

	"mailriver/pkg/config"
	"mailriver/pkg/esp"
	"mailriver/pkg/httpserver"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/raw"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	signatureHeader = "X-Signed-Signature"
	idHeader        = "X-Signed-Id"
	key             = "s3cret-one"
	olderKey        = "s3cret-two"
)

// signed is a provider whose signature is the HMAC-SHA256 of the body.
func signed() esp.Provider {
	return esp.Provider{
		Name:        "signed",
		Answers:     esp.Answers{Refuse: http.StatusNotAcceptable, Retry: http.StatusBadGateway},
		MaxBody:     1 << 20,
		Headers:     []string{"x-signed-signature", "X-Signed-Id", "Authorization", "Cookie", "Content-Type"},
		Signs:       true,
		NewVerifier: func(s esp.Settings) (esp.Verifier, error) { return newSignedVerifier(s) },
	}
}

// plain is a provider that signs nothing.
func plain() esp.Provider {
	return esp.Provider{
		Name:    "plain",
		Answers: esp.Answers{Refuse: http.StatusUnauthorized, Retry: http.StatusTooManyRequests},
		MaxBody: 1 << 20,
	}
}

type signedVerifier struct{ settings esp.Settings }

func newSignedVerifier(s esp.Settings) (signedVerifier, error) {
	var errs []error
	if len(s.Keys) == 0 {
		errs = append(errs, errors.New("keys: at least one is required"))
	}
	for i, k := range s.Keys {
		if strings.HasPrefix(k, "malformed") {
			errs = append(errs, fmt.Errorf("keys[%d]: cannot be read", i))
		}
	}
	return signedVerifier{s}, errors.Join(errs...)
}

func (v signedVerifier) Verify(_ context.Context, w esp.Webhook) (esp.Verified, error) {
	if bytes.HasPrefix(w.Body, []byte("cannot verify")) {
		return esp.Verified{}, esp.CannotVerify(errors.New("certificate is out of reach"))
	}
	if bytes.HasPrefix(w.Body, []byte("bug")) {
		return esp.Verified{}, errors.New("neither of the two")
	}
	if w.Header.Get("Authorization") != "" {
		return esp.Verified{}, errors.New("the verifier was shown a header that it did not declare")
	}
	given := w.Header.Get(signatureHeader)
	if given == "" {
		return esp.Verified{}, esp.Refuse(esp.ReasonMissing, "no signature")
	}
	for _, k := range v.settings.Keys {
		if given == sign(k, w.Body) {
			verified := esp.Verified{KeyID: esp.KeyID(k), DeliveryKey: w.Header.Get(idHeader)}
			if url, ok := strings.CutPrefix(string(w.Body), "confirm "); ok {
				verified.ConfirmURL = url
			}
			return verified, nil
		}
	}
	return esp.Verified{}, esp.Refuse(esp.ReasonMismatch, "no key fits")
}

func sign(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func secrets(texts ...string) []config.Secret {
	list := make([]config.Secret, 0, len(texts))
	for _, text := range texts {
		list = append(list, config.NewSecret(text))
	}
	return list
}

// clock is a time that moves only when told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock {
	return &clock{now: time.Date(2026, time.November, 23, 12, 0, 0, 123_000_000, time.UTC)}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a receiver behind a real server.
type fixture struct {
	service *Service
	clock   *clock
	files   *files
	reader  *sdkmetric.ManualReader
	log     *syncBuffer
	url     string
}

// files are what ${file:...} reads.
type files struct {
	mu      sync.Mutex
	content map[string]string
	reads   int
}

func (f *files) Set(path, content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content[path] = content
}

func (f *files) Remove(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.content, path)
}

func (f *files) Read(path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	content, ok := f.content[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(content), nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type producerFunc func(context.Context, *kgo.Record, func(*kgo.Record, error))

func (f producerFunc) TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	f(ctx, r, promise)
}

// acknowledging is a producer that keeps what it was given.
type acknowledging struct {
	mu      sync.Mutex
	records []*kgo.Record
}

func (p *acknowledging) TryProduce(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	p.mu.Lock()
	p.records = append(p.records, r)
	p.mu.Unlock()
	promise(r, nil)
}

func (p *acknowledging) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.records)
}

func newFixture(t *testing.T, cfg Config, sources []Source, producer Producer, opts ...func(*Deps)) *fixture {
	t.Helper()
	f := &fixture{
		clock:  newClock(),
		files:  &files{content: map[string]string{}},
		reader: sdkmetric.NewManualReader(),
		log:    &syncBuffer{},
	}
	deps := Deps{
		Surroundings: Surroundings{
			Providers: []esp.Provider{signed(), plain()},
			LookupEnv: func(string) (string, bool) { return "", false },
			ReadFile:  f.files.Read,
			Now:       f.clock.Now,
		},
		Producer:   producer,
		Topic:      "email.raw.v1",
		Meter:      sdkmetric.NewMeterProvider(sdkmetric.WithReader(f.reader)).Meter("test"),
		Tracer:     sdktrace.NewTracerProvider().Tracer("test"),
		Propagator: propagation.TraceContext{},
		Logger:     slog.New(slog.NewJSONHandler(f.log, nil)),
	}
	for _, opt := range opts {
		opt(&deps)
	}
	var err error
	if f.service, err = New(cfg, sources, deps); err != nil {
		t.Fatal(err)
	}
	engine := httpserver.NewEngine(deps.Logger)
	f.service.Routes(engine)
	server := httptest.NewUnstartedServer(engine)
	server.Config.ReadTimeout = cfg.HTTP.ReadTimeout
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	f.url = server.URL
	return f
}

// post sends a request and returns its answer, body read.
func (f *fixture) post(t *testing.T, source string, body io.Reader, change ...func(*http.Request)) *http.Response {
	t.Helper()
	return f.do(t, http.MethodPost, "/webhooks/"+source, body, change...)
}

func (f *fixture) do(t *testing.T, method, path string, body io.Reader, change ...func(*http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(r)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) != 0 {
		switch response.StatusCode {
		case http.StatusNotFound, http.StatusMethodNotAllowed: // the engine's own text
		default:
			t.Errorf("%s %s = %d with the body %q, want none", method, path, response.StatusCode, text)
		}
	}
	return response
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func with(signature string) func(*http.Request) { return header(signatureHeader, signature) }

// counts returns the points of a counter as "label=value ..." -> count.
func (f *fixture) counts(t *testing.T, name string) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	f.eachMetric(t, func(m metricdata.Metrics) {
		if m.Name != name {
			return
		}
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				got[labelText(p.Attributes)] = p.Value
			}
		case metricdata.Gauge[int64]:
			for _, p := range data.DataPoints {
				got[labelText(p.Attributes)] = p.Value
			}
		case metricdata.Histogram[int64]:
			for _, p := range data.DataPoints {
				got[labelText(p.Attributes)] = p.Sum
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				got[labelText(p.Attributes)] = int64(p.Count)
			}
		}
	})
	return got
}

func (f *fixture) eachMetric(t *testing.T, do func(metricdata.Metrics)) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := f.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			do(m)
		}
	}
}

func labelText(set attribute.Set) string {
	var parts []string
	for _, kv := range set.ToSlice() {
		parts = append(parts, string(kv.Key)+"="+kv.Value.String())
	}
	return strings.Join(parts, " ")
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

func gzipped(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// chunked hides the length of a body from the client, which then sends chunks.
func chunked(body []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(body)} }

func twoSources() []Source {
	return []Source{
		{Name: "shop", Provider: "signed", Keys: secrets(key, olderKey)},
		{Name: "news", Provider: "plain", BasicAuth: secrets("old:pass", "new:word")},
		{Name: "both", Provider: "signed", Keys: secrets(key), BasicAuth: secrets("u:p")},
		{Name: "office", Provider: "plain", AllowIPs: []string{"192.0.2.0/24"}},
		{Name: "open", Provider: "plain", Unverified: true, MaxBody: 64},
		{Name: "toggled", Provider: "signed", Unverified: true, BasicAuth: secrets("u:p")},
	}
}

// TestAnswers is the matrix of requests and their answers. Only what is
// accepted is produced.
func TestAnswers(t *testing.T) {
	body := []byte(`[{"event":"delivered"}]` + "\r\n")
	zipped := gzipped(t, body)
	big := bytes.Repeat([]byte("x"), 1<<20+1)
	const unavailable = http.StatusBadGateway // of the provider signed
	const challenge = `Basic realm="mailriver"`
	tests := []struct {
		name      string
		method    string
		source    string
		body      io.Reader
		change    []func(*http.Request)
		want      int
		challenge string
		retry     string
		count     string // of mailriver.receiver.requests, without source and provider
	}{
		{
			name: "genuine", source: "shop", body: bytes.NewReader(body), change: []func(*http.Request){with(sign(key, body))},
			want: 200, count: "outcome=accepted",
		},
		{
			name: "an older key", source: "shop", body: bytes.NewReader(body),
			change: []func(*http.Request){with(sign(olderKey, body))}, want: 200, count: "outcome=accepted",
		},
		{
			name: "chunked", source: "shop", body: chunked(body), change: []func(*http.Request){with(sign(key, body))},
			want: 200, count: "outcome=accepted",
		},
		{
			name: "gzip", source: "shop", body: bytes.NewReader(zipped),
			change: []func(*http.Request){with(sign(key, body)), header("Content-Encoding", "gzip")},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "identity", source: "shop", body: bytes.NewReader(body),
			change: []func(*http.Request){with(sign(key, body)), header("Content-Encoding", "identity")},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "empty", source: "shop", body: http.NoBody, change: []func(*http.Request){with(sign(key, nil))},
			want: 200, count: "outcome=accepted",
		},
		{
			name: "no signature", source: "shop", body: bytes.NewReader(body),
			want: 406, count: "outcome=refused reason=missing_signature",
		},
		{
			name: "changed body", source: "shop", body: strings.NewReader("[]"),
			change: []func(*http.Request){with(sign(key, body))}, want: 406, count: "outcome=refused reason=mismatch",
		},
		{
			name: "cannot verify now", source: "shop", body: strings.NewReader("cannot verify"),
			want: unavailable, retry: "5", count: "outcome=cannot_verify reason=verifier",
		},
		{
			name: "verifier's error is of no kind", source: "shop", body: strings.NewReader("bug"),
			want: unavailable, retry: "5", count: "outcome=cannot_verify reason=verifier",
		},
		{
			name: "too large by its length", source: "shop", body: bytes.NewReader(big),
			change: []func(*http.Request){with(sign(key, big))}, want: 413, count: "outcome=bad_request reason=too_large",
		},
		{
			name: "too large in chunks", source: "shop", body: chunked(big),
			change: []func(*http.Request){with(sign(key, big))}, want: 413, count: "outcome=bad_request reason=too_large",
		},
		{
			name: "as large as may be", source: "open", body: bytes.NewReader(big[:64]),
			want: 200, count: "outcome=accepted",
		},
		{
			name: "as large as may be, in chunks", source: "open", body: chunked(big[:64]),
			want: 200, count: "outcome=accepted",
		},
		{
			name: "one byte more", source: "open", body: bytes.NewReader(big[:65]),
			want: 413, count: "outcome=bad_request reason=too_large",
		},
		{
			name: "one byte more in chunks", source: "open", body: chunked(big[:65]),
			want: 413, count: "outcome=bad_request reason=too_large",
		},
		{
			name: "gzip bomb", source: "shop", body: bytes.NewReader(gzipped(t, make([]byte, 8<<20))),
			change: []func(*http.Request){header("Content-Encoding", "gzip")},
			want:   413, count: "outcome=bad_request reason=too_large",
		},
		{
			name: "broken gzip", source: "shop", body: bytes.NewReader(zipped[:len(zipped)-3]),
			change: []func(*http.Request){header("Content-Encoding", "gzip")},
			want:   400, count: "outcome=bad_request reason=broken_encoding",
		},
		{
			name: "unsupported encoding", source: "shop", body: bytes.NewReader(body),
			change: []func(*http.Request){header("Content-Encoding", "br")},
			want:   415, count: "outcome=bad_request reason=unsupported_encoding",
		},
		{
			name: "encoded twice", source: "shop", body: bytes.NewReader(gzipped(t, zipped)),
			change: []func(*http.Request){header("Content-Encoding", "gzip, gzip")},
			want:   415, count: "outcome=bad_request reason=unsupported_encoding",
		},
		{
			name: "basic auth", source: "news", body: bytes.NewReader(body),
			change: []func(*http.Request){func(r *http.Request) { r.SetBasicAuth("old", "pass") }},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "basic auth, the other pair", source: "news", body: bytes.NewReader(body),
			change: []func(*http.Request){func(r *http.Request) { r.SetBasicAuth("new", "word") }},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "basic auth, two halves of two pairs", source: "news", body: bytes.NewReader(body),
			change: []func(*http.Request){func(r *http.Request) { r.SetBasicAuth("old", "word") }},
			want:   401, challenge: challenge, count: "outcome=refused reason=wrong_credentials",
		},
		{
			name: "no credentials", source: "news", body: bytes.NewReader(body),
			want: 401, challenge: challenge, count: "outcome=refused reason=missing_credentials",
		},
		{
			name: "no credentials for a provider that refuses otherwise", source: "both", body: bytes.NewReader(body),
			change: []func(*http.Request){with(sign(key, body))},
			want:   401, challenge: challenge, count: "outcome=refused reason=missing_credentials",
		},
		{
			name: "wrong credentials for that provider", source: "both", body: bytes.NewReader(body),
			change: []func(*http.Request){with(sign(key, body)), func(r *http.Request) { r.SetBasicAuth("u", "x") }},
			want:   406, count: "outcome=refused reason=wrong_credentials",
		},
		{
			name: "credentials do not replace the signature", source: "both", body: bytes.NewReader(body),
			change: []func(*http.Request){func(r *http.Request) { r.SetBasicAuth("u", "p") }},
			want:   406, count: "outcome=refused reason=missing_signature",
		},
		{
			name: "credentials and signature", source: "both", body: bytes.NewReader(body),
			change: []func(*http.Request){with(sign(key, body)), func(r *http.Request) { r.SetBasicAuth("u", "p") }},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "unverified in the place of keys", source: "toggled", body: bytes.NewReader(body),
			change: []func(*http.Request){func(r *http.Request) { r.SetBasicAuth("u", "p") }},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "address not allowed", source: "office", body: bytes.NewReader(body),
			want: 401, challenge: challenge, count: "outcome=refused reason=address",
		},
		{
			name: "address allowed, by a trusted proxy", source: "office", body: bytes.NewReader(body),
			change: []func(*http.Request){header("X-Forwarded-For", "203.0.113.9, 192.0.2.7")},
			want:   200, count: "outcome=accepted",
		},
		{
			name: "address invented before the proxy's", source: "office", body: bytes.NewReader(body),
			change: []func(*http.Request){header("X-Forwarded-For", "192.0.2.7, 203.0.113.9")},
			want:   401, challenge: challenge, count: "outcome=refused reason=address",
		},
		{name: "unknown source", source: "nobody", body: bytes.NewReader(body), want: 404, count: "outcome=unknown"},
		{name: "head", method: http.MethodHead, source: "shop", want: 200, count: "outcome=probe"},
		{name: "get", method: http.MethodGet, source: "news", want: 200, count: "outcome=probe"},
		{name: "options", method: http.MethodOptions, source: "office", want: 200, count: "outcome=probe"},
		{name: "get of an unknown source", method: http.MethodGet, source: "nobody", want: 404, count: "outcome=unknown"},
		{name: "head of an unknown source", method: http.MethodHead, source: "nobody", want: 404, count: "outcome=unknown"},
		{name: "put", method: http.MethodPut, source: "shop", body: bytes.NewReader(body), want: 405},
		{name: "delete", method: http.MethodDelete, source: "shop", want: 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.TrustedProxies = []string{"127.0.0.0/8"}
			producer := &acknowledging{}
			f := newFixture(t, cfg, twoSources(), producer)
			if tt.method == "" {
				tt.method = http.MethodPost
			}
			got := f.do(t, tt.method, "/webhooks/"+tt.source, tt.body, tt.change...)
			if got.StatusCode != tt.want {
				t.Errorf("status = %d, want %d", got.StatusCode, tt.want)
			}
			if h := got.Header.Get("WWW-Authenticate"); h != tt.challenge {
				t.Errorf("WWW-Authenticate = %q, want %q", h, tt.challenge)
			}
			if h := got.Header.Get("Retry-After"); h != tt.retry {
				t.Errorf("Retry-After = %q, want %q", h, tt.retry)
			}
			if allow := got.Header.Get("Allow"); tt.want == 405 {
				for _, method := range []string{"POST", "HEAD", "GET", "OPTIONS"} {
					if !strings.Contains(allow, method) {
						t.Errorf("Allow = %q, want it to hold %s", allow, method)
					}
				}
			}
			produced := 0
			if tt.count == "outcome=accepted" {
				produced = 1
			}
			if n := producer.Len(); n != produced {
				t.Errorf("%d records produced, want %d", n, produced)
			}
			f.wantRequest(t, tt.source, tt.count)
			if used := f.service.budget.used.Load(); used != 0 {
				t.Errorf("%d bytes are still held", used)
			}
			if n := f.service.inFlight.Load(); n != 0 {
				t.Errorf("%d requests are still in flight", n)
			}
		})
	}
}

// wantRequest checks that exactly one request was counted, as count says.
func (f *fixture) wantRequest(t *testing.T, source, count string) {
	t.Helper()
	got := f.counts(t, "mailriver.receiver.requests")
	want := map[string]int64{}
	if count != "" {
		outcome, reason, _ := strings.Cut(count, " ")
		labels := outcome
		if src := f.service.sources[source]; src != nil {
			labels += " provider=" + src.provider.Name
			if reason != "" {
				labels += " " + reason
			}
			labels += " source=" + source
		}
		want[labels] = 1
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("mailriver.receiver.requests = %v, want %v", got, want)
	}
}

// TestRecord sends through a real client to a broker and reads what is there.
func TestRecord(t *testing.T) {
	cluster := kafkatest.New(t)
	client := producer(t, cluster)
	f := newFixture(t, DefaultConfig(), twoSources(), client)
	f.service.deps.Topic = cluster.Topics.Raw

	body := []byte("[{\"a\":\"\\/\"}]\r\n\r\n")
	zipped := gzipped(t, body)
	wantKey := sha256.Sum256(body)

	refused := f.post(t, "shop", bytes.NewReader(body), with("wrong"))
	if refused.StatusCode != 406 {
		t.Fatalf("forgery = %d, want 406", refused.StatusCode)
	}
	requests := []struct {
		body   []byte
		change []func(*http.Request)
	}{
		{body, []func(*http.Request){
			with(sign(key, body)), header("Content-Type", "application/json"), header("User-Agent", "Signed/1"),
			header(idHeader, "delivery-1"), header("Cookie", "c=1"), header("X-Other", "x"),
		}},
		{zipped, []func(*http.Request){with(sign(olderKey, body)), header("Content-Encoding", "GZIP")}},
	}
	for _, r := range requests {
		if got := f.post(t, "shop", bytes.NewReader(r.body), r.change...); got.StatusCode != 200 {
			t.Fatalf("POST = %d, want 200", got.StatusCode)
		}
	}
	// Asking for one more than there should be shows that the forgery left nothing.
	records := cluster.ReadWithin(t, cluster.Topics.Raw, 3, 2*time.Second)
	if len(records) != 2 {
		t.Fatalf("the topic holds %d records, want 2", len(records))
	}
	byEncoding := map[string]*kgo.Record{}
	for _, r := range records {
		byEncoding[kafkatest.Header(r, raw.HeaderContentEncoding)] = r
	}

	first, second := byEncoding[""], byEncoding["gzip"]
	if first == nil || second == nil {
		t.Fatalf("records by encoding = %v, want one without and one with gzip", byEncoding)
	}
	if !bytes.Equal(first.Value, body) || string(first.Key) != "delivery-1" {
		t.Errorf("record = %q with key %q, want %q with key delivery-1", first.Value, first.Key, body)
	}
	if !bytes.Equal(second.Value, zipped) || string(second.Key) != hex.EncodeToString(wantKey[:]) {
		t.Errorf("record = %x with key %q, want %x with the hash of the decoded body", second.Value, second.Key, zipped)
	}
	got, err := raw.Read(first)
	if err != nil {
		t.Fatal(err)
	}
	if got.Provider != "signed" || got.Source != "shop" || got.KeyID != esp.KeyID(key) || got.RemoteAddr != "127.0.0.1" ||
		got.UserAgent != "Signed/1" || got.ContentType != "application/json" || !got.ReceivedAt.Equal(f.clock.Now()) {
		t.Errorf("record = %+v", got)
	}
	wantHeader := fmt.Sprint(map[string][]string{signatureHeader: {sign(key, body)}, idHeader: {"delivery-1"}})
	if fmt.Sprint(map[string][]string(got.Header)) != wantHeader {
		t.Errorf("kept headers = %v, want %v", got.Header, wantHeader)
	}
	for _, h := range first.Headers {
		if strings.Contains(strings.ToLower(h.Key), "authorization") || strings.Contains(strings.ToLower(h.Key), "cookie") {
			t.Errorf("header %s is in the record", h.Key)
		}
	}
	if parent := kafkatest.Header(first, "traceparent"); !strings.HasPrefix(parent, "00-") {
		t.Errorf("traceparent = %q, want a W3C trace context", parent)
	}

	for name, want := range map[string]string{
		"mailriver.receiver.verified": fmt.Sprint(map[string]int64{
			"key_id=" + esp.KeyID(key) + " source=shop":      1,
			"key_id=" + esp.KeyID(olderKey) + " source=shop": 1,
		}),
		"mailriver.receiver.body":           fmt.Sprint(map[string]int64{"source=shop": int64(len(body) + len(zipped))}),
		"mailriver.receiver.ack":            fmt.Sprint(map[string]int64{"source=shop": 2}),
		"mailriver.receiver.in_flight":      fmt.Sprint(map[string]int64{"": 0}),
		"mailriver.receiver.in_flight_body": fmt.Sprint(map[string]int64{"": 0}),
	} {
		if got := fmt.Sprint(f.counts(t, name)); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	if strings.Contains(f.log.String(), "delivery-1") || strings.Contains(f.log.String(), sign(key, body)) {
		t.Errorf("log holds what was sent: %s", f.log.String())
	}
}

func producer(t testing.TB, cluster *kafkatest.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := cluster.Clients.Producer(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func post(t *testing.T, f *fixture) *http.Response {
	t.Helper()
	return f.post(t, "shop", strings.NewReader("x"), with(sign(key, []byte("x"))))
}

func TestKafkaIsDown(t *testing.T) {
	cluster := kafkatest.New(t)
	client := producer(t, cluster, kgo.MaxBufferedRecords(2))
	cluster.Fake.Close()
	cfg := DefaultConfig()
	cfg.AckTimeout = 50 * time.Millisecond
	f := newFixture(t, cfg, twoSources(), client)
	for i, want := range []string{"kafka_timeout", "kafka_timeout", "kafka_buffer_full"} {
		got := post(t, f)
		if got.StatusCode != http.StatusBadGateway || got.Header.Get("Retry-After") != "5" {
			t.Errorf("request %d = %d, Retry-After %q, want 502, 5", i, got.StatusCode, got.Header.Get("Retry-After"))
		}
		if text := fmt.Sprint(f.counts(t, "mailriver.receiver.requests")); !strings.Contains(text, want) {
			t.Errorf("request %d: counted %s, want %s", i, text, want)
		}
	}
	// The two that wait for Kafka are held until the client gives them up.
	if used := f.service.budget.used.Load(); used != 2 {
		t.Errorf("%d bytes are held, want those of 2 records", used)
	}
	client.Close()
	waitFor(t, "the bytes to be released", func() bool { return f.service.budget.used.Load() == 0 })
}

func TestKafkaRefuses(t *testing.T) {
	failing := producerFunc(func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
		promise(r, errors.New("not the leader"))
	})
	f := newFixture(t, DefaultConfig(), twoSources(), failing)
	if got := post(t, f); got.StatusCode != http.StatusBadGateway {
		t.Errorf("POST = %d, want 502", got.StatusCode)
	}
	f.wantRequest(t, "shop", "outcome=not_stored reason=kafka_error")
	if !strings.Contains(f.log.String(), `"level":"ERROR"`) || !strings.Contains(f.log.String(), "not the leader") {
		t.Errorf("log = %s, want the error of Kafka", f.log.String())
	}
}

// TestRecordTooLarge sends what the client cannot put into a batch. It may be
// stored once an operator has raised the limit, so it must come again.
func TestRecordTooLarge(t *testing.T) {
	cluster := kafkatest.New(t)
	f := newFixture(t, DefaultConfig(), twoSources(), producer(t, cluster, kgo.ProducerBatchMaxBytes(1024)))
	body := bytes.Repeat([]byte("x"), 2048)
	if got := f.post(t, "shop", bytes.NewReader(body), with(sign(key, body))); got.StatusCode != http.StatusBadGateway {
		t.Errorf("POST = %d, want 502", got.StatusCode)
	}
	f.wantRequest(t, "shop", "outcome=not_stored reason=kafka_too_large")
}

// TestSenderHangsUp: what was begun is finished, and its context not canceled.
func TestSenderHangsUp(t *testing.T) {
	produced, acknowledge := make(chan context.Context, 1), make(chan struct{})
	f := newFixture(t, DefaultConfig(), twoSources(), producerFunc(
		func(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
			produced <- ctx
			go func() { <-acknowledge; promise(r, nil) }()
		}))
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/webhooks/shop", strings.NewReader("x"))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set(signatureHeader, sign(key, []byte("x")))
		if response, err := http.DefaultClient.Do(r); err == nil {
			_ = response.Body.Close()
			t.Errorf("the request was answered %d before it was acknowledged", response.StatusCode)
		}
	}()
	produceCtx := <-produced
	hangUp()
	<-gone
	if _, bounded := produceCtx.Deadline(); bounded || produceCtx.Done() != nil {
		t.Error("the context of the record can end, and take others of its partition with it")
	}
	close(acknowledge)
	waitFor(t, "the request to be counted as accepted", func() bool {
		return strings.Contains(fmt.Sprint(f.counts(t, "mailriver.receiver.requests")), "outcome=accepted")
	})
}

func TestAnswersOnlyAfterTheAcknowledgement(t *testing.T) {
	produced, acknowledge := make(chan struct{}), make(chan struct{})
	var acknowledged atomic.Bool
	f := newFixture(t, DefaultConfig(), twoSources(), producerFunc(
		func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
			close(produced)
			go func() { <-acknowledge; acknowledged.Store(true); promise(r, nil) }()
		}))
	answered := make(chan int, 1)
	go func() { answered <- post(t, f).StatusCode }()
	<-produced
	select {
	case code := <-answered:
		t.Fatalf("answered %d before the acknowledgement", code)
	default:
	}
	close(acknowledge)
	if code := <-answered; code != 200 || !acknowledged.Load() {
		t.Errorf("answered %d, acknowledged %t, want 200, true", code, acknowledged.Load())
	}
}

func TestLimits(t *testing.T) {
	begun, acknowledge := make(chan struct{}, 1), make(chan struct{})
	slow := producerFunc(func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
		begun <- struct{}{}
		go func() { <-acknowledge; promise(r, nil) }()
	})
	tests := []struct {
		name   string
		limit  func(*Config)
		body   []byte
		reason string
	}{
		{"requests in flight", func(c *Config) { c.MaxInFlight = 1 }, []byte("x"), "requests_in_flight"},
		{"bytes in flight", func(c *Config) { c.MaxInFlightBytes = 1 << 20 }, bytes.Repeat([]byte("x"), 1<<20), "bytes_in_flight"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			tt.limit(&cfg)
			f := newFixture(t, cfg, twoSources(), slow)
			send := func() int {
				return f.post(t, "shop", bytes.NewReader(tt.body), with(sign(key, tt.body))).StatusCode
			}
			first := make(chan int, 1)
			go func() { first <- send() }()
			<-begun
			if code := send(); code != http.StatusBadGateway {
				t.Errorf("a request over the limit = %d, want 502", code)
			}
			acknowledge <- struct{}{}
			if code := <-first; code != 200 {
				t.Errorf("the request within the limit = %d, want 200", code)
			}
			if got := fmt.Sprint(f.counts(t, "mailriver.receiver.requests")); !strings.Contains(got, "reason="+tt.reason) {
				t.Errorf("counted %s, want %s", got, tt.reason)
			}
		})
	}
}

func TestRateLimit(t *testing.T) {
	sources := []Source{{
		Name: "news", Provider: "plain", Unverified: true, RateLimit: RateLimit{PerSecond: 0.1, Burst: 2},
	}}
	f := newFixture(t, DefaultConfig(), sources, &acknowledging{})
	var got []int
	for range 3 {
		got = append(got, f.post(t, "news", strings.NewReader("x")).StatusCode)
	}
	last := f.post(t, "news", strings.NewReader("x"))
	f.clock.Advance(10 * time.Second)
	got = append(got, last.StatusCode, f.post(t, "news", strings.NewReader("x")).StatusCode)
	if want := []int{200, 200, 429, 429, 200}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("answers = %v, want %v", got, want)
	}
	if h := last.Header.Get("Retry-After"); h != "10" {
		t.Errorf("Retry-After = %q, want 10", h)
	}
}

func TestSlowBody(t *testing.T) {
	cfg := DefaultConfig()
	cfg.HTTP.ReadTimeout = 50 * time.Millisecond
	f := newFixture(t, cfg, twoSources(), &acknowledging{})
	body, hold := io.Pipe()
	defer func() { _ = hold.Close() }()
	go func() { _, _ = io.WriteString(hold, "the beginning") }()
	got := f.post(t, "shop", body)
	if got.StatusCode != http.StatusBadGateway {
		t.Errorf("POST = %d, want 502", got.StatusCode)
	}
	f.wantRequest(t, "shop", "outcome=incomplete reason=slow_body")
}

func TestLogIsBounded(t *testing.T) {
	f := newFixture(t, DefaultConfig(), twoSources(), &acknowledging{})
	send := func() { f.post(t, "shop", strings.NewReader("body-text"), with("header-text")) }
	for range 30 {
		send()
	}
	if n := strings.Count(f.log.String(), "\n"); n != 10 {
		t.Errorf("%d lines for 30 refusals at once, want 10", n)
	}
	f.clock.Advance(time.Second)
	send()
	if !strings.Contains(f.log.String(), `"not_logged":20`) {
		t.Errorf("log = %s, want it to say that 20 were left out", f.log.String())
	}
	for _, secret := range []string{"body-text", "header-text", key} {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	sources := append(twoSources(), Source{Name: "late", Provider: "signed", Keys: secrets("${file:/run/key}")})
	f := newFixture(t, DefaultConfig(), sources, &acknowledging{})
	send := func(signedWith string) int {
		f.clock.Advance(rereadAfter)
		return f.post(t, "late", strings.NewReader("x"), with(sign(signedWith, []byte("x")))).StatusCode
	}
	usable := func() int64 { return f.counts(t, "mailriver.receiver.source_usable")["source=late"] }
	expect := func(step string, code, want int, degraded string) {
		t.Helper()
		if code != want {
			t.Errorf("%s: POST = %d, want %d", step, code, want)
		}
		err := f.service.Degraded(t.Context())
		if (degraded == "") != (err == nil) || (err != nil && err.Error() != degraded) {
			t.Errorf("%s: Degraded() = %v, want %q", step, err, degraded)
		}
		if got := usable(); (got == 1) != (degraded == "") {
			t.Errorf("%s: source_usable = %d", step, got)
		}
	}

	const absent = "late: keys[0]: ${file:/run/key}: secret cannot be read: file does not exist"
	expect("file is absent", send(key), 502, absent)
	if code := post(t, f).StatusCode; code != 200 {
		t.Errorf("another source = %d, want 200", code)
	}
	if code := f.do(t, http.MethodHead, "/webhooks/late", nil).StatusCode; code != 200 {
		t.Errorf("HEAD without a key = %d, want 200", code)
	}

	f.files.Set("/run/key", key+"\n")
	expect("file appears", send(key), 200, "")
	f.files.Set("/run/key", olderKey)
	expect("file changes", send(olderKey), 200, "")
	expect("the key before", send(key), 406, "")
	f.files.Remove("/run/key")
	expect("file goes: what was read stays", send(olderKey), 200, absent)
	f.files.Set("/run/key", "malformed")
	expect("file holds no key: what was read stays", send(olderKey), 200, "late: keys[0]: cannot be read")
	f.files.Set("/run/key", key)
	expect("file is right again", send(key), 200, "")

	f.clock.Advance(rereadAfter)
	before := f.files.reads
	for range 5 {
		f.post(t, "late", strings.NewReader("x"), with(sign(key, []byte("x"))))
	}
	if got := f.files.reads - before; got != 1 {
		t.Errorf("file was read %d times by 5 requests at once, want 1", got)
	}
}

func TestReady(t *testing.T) {
	f := newFixture(t, DefaultConfig(), nil, &acknowledging{})
	if err := f.service.Ready(t.Context()); err == nil {
		t.Error("Ready() before Run = nil, want an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.service.Run(ctx) }()
	waitFor(t, "the service to be ready", func() bool { return f.service.Ready(t.Context()) == nil })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if err := f.service.Ready(t.Context()); err == nil {
		t.Error("Ready() after Run = nil, want an error")
	}
}

func TestNew_missingDependency(t *testing.T) {
	if _, err := New(DefaultConfig(), nil, Deps{}); err == nil {
		t.Error("New() without dependencies = nil, want an error")
	}
}
