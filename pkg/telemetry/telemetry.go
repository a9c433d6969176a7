// Package telemetry makes the process's logger, meter and tracer.
//
// Nothing here is global: what it makes is handed to who needs it, so that two
// services in one process, or two tests, do not meet in a registry. It defines
// no metric and no span of its own.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"mailriver/pkg/config"
)

// Config says how loud to be, and where traces go.
type Config struct {
	// LogLevel is one of debug, info, warn and error.
	LogLevel string `yaml:"log_level"`
	// OTLPEndpoint is the base URL of an OpenTelemetry collector that takes
	// OTLP over HTTP, such as http://collector:4318. Empty means no traces.
	// Headers for it come from OTEL_EXPORTER_OTLP_HEADERS.
	OTLPEndpoint string `yaml:"otlp_endpoint"`
	// TraceSampleRatio is the share of new traces that are kept, from 0 to 1.
	// Later stages follow the decision of the first.
	TraceSampleRatio float64 `yaml:"trace_sample_ratio"`
}

// DefaultConfig returns a configuration that is valid as it stands.
func DefaultConfig() Config { return Config{LogLevel: "info", TraceSampleRatio: 0.1} }

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var problems config.Problems
	_, err := c.level()
	problems.Add(err)
	if c.OTLPEndpoint != "" {
		u, err := url.Parse(c.OTLPEndpoint)
		problems.Must(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "",
			"otlp_endpoint: is %q, must be a URL such as http://collector:4318", config.RedactURL(c.OTLPEndpoint))
	}
	problems.Must(c.TraceSampleRatio >= 0 && c.TraceSampleRatio <= 1,
		"trace_sample_ratio: is %g, must be from 0 to 1", c.TraceSampleRatio)
	return problems.Err()
}

func (c Config) level() (slog.Level, error) {
	switch c.LogLevel {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log_level: is %q, must be debug, info, warn or error", c.LogLevel)
}

// Process is what telemetry says about where it comes from.
type Process struct {
	Service  string // as "mailriver-receiver"
	Version  string
	Instance string // as the host name
}

// Telemetry is how a process is watched.
type Telemetry struct {
	Logger *slog.Logger
	Meter  metric.MeterProvider
	Tracer trace.TracerProvider
	// Propagator carries a trace from process to process.
	Propagator propagation.TextMapPropagator
	// Metrics answers with all metrics in Prometheus form.
	Metrics http.Handler

	shutdown []func(context.Context) error
}

// Open makes the telemetry of a process. Logs go to w, as JSON lines. Only when
// an endpoint for traces is configured is there a goroutine and a connection,
// and a collector that is down costs its traces and nothing else. The caller
// calls Shutdown.
func Open(ctx context.Context, cfg Config, p Process, w io.Writer) (*Telemetry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	level, err := cfg.level()
	if err != nil {
		return nil, err
	}
	t := &Telemetry{
		Logger:     slog.New(traceHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})}).With("service", p.Service),
		Tracer:     noop.NewTracerProvider(),
		Propagator: propagation.TraceContext{},
	}
	described := resource.NewSchemaless(
		attribute.String("service.name", p.Service),
		attribute.String("service.version", p.Version),
		attribute.String("service.instance.id", p.Instance),
	)
	if err := t.openMetrics(described); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if cfg.OTLPEndpoint != "" {
		if err := t.openTraces(ctx, cfg, described); err != nil {
			return nil, fmt.Errorf("traces: %w", err)
		}
	}
	return t, nil
}

func (t *Telemetry) openMetrics(described *resource.Resource) error {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	// The scope of an instrument is its package: three labels on each series
	// that say nothing its name does not.
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return err
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(described))
	t.Meter = provider
	t.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		Registry: registry,
		ErrorLog: slog.NewLogLogger(t.Logger.Handler(), slog.LevelError),
	})
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

func (t *Telemetry) openTraces(ctx context.Context, cfg Config, described *resource.Resource) error {
	endpoint, err := url.JoinPath(cfg.OTLPEndpoint, "v1", "traces")
	if err != nil {
		return err
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(endpoint),
		otlptracehttp.WithTimeout(5*time.Second))
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(loggedExporter{exporter, t.Logger}),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.TraceSampleRatio))),
		sdktrace.WithResource(described),
	)
	t.Tracer = provider
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

// Shutdown sends what is not sent yet, for at most five seconds.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var errs []error
	for _, shutdown := range t.shutdown {
		errs = append(errs, shutdown(ctx))
	}
	return errors.Join(errs...)
}

// loggedExporter logs what could not be exported. Without it the error would go
// to a global handler, which prints it as plain text. The batcher exports every
// few seconds, so the log is bounded.
type loggedExporter struct {
	sdktrace.SpanExporter
	log *slog.Logger
}

func (e loggedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.log.WarnContext(ctx, "spans lost", "spans", len(spans), "err", err)
	}
	return nil
}

// traceHandler adds the ids of the current span to each log line.
type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
