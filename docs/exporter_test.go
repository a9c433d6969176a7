package docs_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/telemetry"
)

// exported is /metrics of a process that has this instrument only.
func exported(t *testing.T, in instrument) []byte {
	t.Helper()
	tel, err := telemetry.Open(t.Context(), telemetry.DefaultConfig(), telemetry.Process{Service: "docs"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	meter := tel.Meter.Meter("docs")
	var errs []error
	switch in.kind {
	case "counter":
		counter, err := meter.Int64Counter(in.name, metric.WithUnit(in.unit))
		counter.Add(t.Context(), 1)
		errs = append(errs, err)
	case "histogram":
		histogram, err := meter.Int64Histogram(in.name, metric.WithUnit(in.unit))
		histogram.Record(t.Context(), 1)
		errs = append(errs, err)
	case "gauge":
		gauge, err := meter.Int64Gauge(in.name, metric.WithUnit(in.unit))
		gauge.Record(t.Context(), 1)
		errs = append(errs, err)
	}
	answer := httptest.NewRecorder()
	tel.Metrics.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	errs = append(errs, tel.Shutdown(t.Context()))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var own []byte
	for line := range bytes.Lines(answer.Body.Bytes()) {
		if bytes.Contains(line, []byte("mailriver")) {
			own = append(own, line...)
		}
	}
	return own
}
