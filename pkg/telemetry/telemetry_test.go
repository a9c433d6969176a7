package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

var process = Process{Service: "mailriver-test", Version: "v1", Instance: "here"}

func open(t *testing.T, cfg Config, w io.Writer) *Telemetry {
	t.Helper()
	tel, err := Open(t.Context(), cfg, process, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.WithoutCancel(t.Context())) })
	return tel
}

func TestConfig_Validate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("DefaultConfig().Validate() = %v, want nil", err)
	}
	err := Config{LogLevel: "loud", OTLPEndpoint: "collector:4318", TraceSampleRatio: 2}.Validate()
	want := `log_level: is "loud", must be debug, info, warn or error
otlp_endpoint: is "collector:4318", must be a URL such as http://collector:4318
trace_sample_ratio: is 2, must be from 0 to 1`
	if err == nil || err.Error() != want {
		t.Errorf("Validate() = %v, want\n%s", err, want)
	}
}

func TestOpen_metrics(t *testing.T) {
	first, second := open(t, DefaultConfig(), io.Discard), open(t, DefaultConfig(), io.Discard)
	counter, err := first.Meter.Meter("test").Int64Counter("mailriver.receiver.requests")
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := first.Meter.Meter("test").Float64Histogram("mailriver.receiver.ack", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3, metric.WithAttributes(attribute.String("source", "shop")))
	seconds.Record(t.Context(), 0.1)

	text := scrape(t, first)
	for _, want := range []string{
		`mailriver_receiver_requests_total{source="shop"} 3`,
		"mailriver_receiver_ack_seconds_count 1",
		"go_goroutines ",
		"process_start_time_seconds ",
		`service_name="mailriver-test"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(scrape(t, second), "mailriver_receiver") {
		t.Error("the metrics of one process are in another's /metrics")
	}
}

func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	answer := httptest.NewRecorder()
	tel.Metrics.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("GET /metrics = %d, want 200", answer.Code)
	}
	return answer.Body.String()
}

func TestOpen_logs(t *testing.T) {
	var out bytes.Buffer
	tel := open(t, Config{LogLevel: "warn", TraceSampleRatio: 1}, &out)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2},
	}))
	tel.Logger.InfoContext(ctx, "quiet")
	tel.Logger.With("topic", "x").WarnContext(ctx, "loud")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("log is not one JSON line: %v: %s", err, out.Bytes())
	}
	delete(line, "time")
	want := map[string]any{
		"level": "WARN", "msg": "loud", "service": "mailriver-test", "topic": "x",
		"trace_id": "01000000000000000000000000000000", "span_id": "0200000000000000",
	}
	for key, value := range want {
		if line[key] != value {
			t.Errorf("%s = %v, want %v", key, line[key], value)
		}
	}
}

func TestOpen_traces(t *testing.T) {
	var mu sync.Mutex
	var path string
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		path = r.URL.Path
	}))
	defer collector.Close()

	tel := open(t, Config{LogLevel: "info", OTLPEndpoint: collector.URL, TraceSampleRatio: 1}, io.Discard)
	_, span := tel.Tracer.Tracer("test").Start(t.Context(), "work")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if path != "/v1/traces" {
		t.Errorf("collector was asked for %q, want /v1/traces", path)
	}
}

func TestOpen_collectorIsDown(t *testing.T) {
	collector := httptest.NewServer(http.NotFoundHandler()) // not retryable, so the test is quick
	defer collector.Close()
	var out bytes.Buffer
	tel := open(t, Config{LogLevel: "info", OTLPEndpoint: collector.URL, TraceSampleRatio: 1}, &out)
	_, span := tel.Tracer.Tracer("test").Start(t.Context(), "work")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"msg":"spans lost"`) {
		t.Errorf("log = %s, want it to say that spans were lost", out.String())
	}
}

func TestRecord(t *testing.T) {
	tel := open(t, Config{LogLevel: "info", OTLPEndpoint: "http://127.0.0.1:1", TraceSampleRatio: 0}, io.Discard)
	ctx, span := tel.Tracer.Tracer("test").Start(t.Context(), "work")
	defer span.End()

	record := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "provider", Value: []byte("x")}}}
	Inject(ctx, tel.Propagator, record)
	Inject(ctx, tel.Propagator, record)
	if len(record.Headers) != 2 || record.Headers[1].Key != "traceparent" {
		t.Fatalf("headers = %v, want provider and one traceparent", record.Headers)
	}
	got := trace.SpanContextFromContext(Extract(t.Context(), tel.Propagator, record))
	if got.TraceID() != span.SpanContext().TraceID() || got.SpanID() != span.SpanContext().SpanID() || !got.IsRemote() {
		t.Errorf("Extract() = %v, want the span %v", got, span.SpanContext())
	}

	bare := &kgo.Record{}
	Inject(t.Context(), propagation.TraceContext{}, bare)
	if len(bare.Headers) != 0 {
		t.Errorf("Inject() without a span gave %v, want no headers", bare.Headers)
	}
}
