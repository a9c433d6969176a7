package deliver

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/webhook"
)

type metrics struct {
	attempts   metric.Int64Counter
	duration   metric.Float64Histogram
	deliveries metric.Int64Counter

	meter   metric.Meter
	pending metric.Int64ObservableGauge
	oldest  metric.Float64ObservableGauge
	breaker metric.Int64ObservableGauge
	gone    metric.Int64ObservableGauge
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := metrics{meter: meter}
	var errs [7]error
	m.attempts, errs[0] = meter.Int64Counter("mailriver.leadscoring.webhooks.attempts",
		metric.WithDescription("Attempts, by endpoint and outcome: delivered, gone, busy, refused, unreachable or unsent."),
		metric.WithUnit("{attempt}"))
	m.duration, errs[1] = meter.Float64Histogram("mailriver.leadscoring.webhooks.duration",
		metric.WithDescription("Time of one attempt with its answer, by endpoint."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25))
	m.deliveries, errs[2] = meter.Int64Counter("mailriver.leadscoring.webhooks.deliveries",
		metric.WithDescription("Deliveries, by endpoint and what became of them: delivered, dead, skipped, or pending for one that is tried again."),
		metric.WithUnit("{delivery}"))
	m.pending, errs[3] = meter.Int64ObservableGauge("mailriver.leadscoring.webhooks.pending",
		metric.WithDescription("Deliveries that are pending, by endpoint, of the partitions of this instance."),
		metric.WithUnit("{delivery}"))
	m.oldest, errs[4] = meter.Float64ObservableGauge("mailriver.leadscoring.webhooks.oldest_age",
		metric.WithDescription("Age of the oldest pending delivery, by endpoint; 0 when there is none."), metric.WithUnit("s"))
	m.breaker, errs[5] = meter.Int64ObservableGauge("mailriver.leadscoring.webhooks.breaker",
		metric.WithDescription("Circuit breaker, by endpoint: 0 closed, 1 letting one attempt through, 2 open."))
	m.gone, errs[6] = meter.Int64ObservableGauge("mailriver.leadscoring.webhooks.disabled",
		metric.WithDescription("1 for an endpoint that answered 410 Gone, until its configuration changes."))
	return &m, errors.Join(errs[:]...)
}

// observe reports what is pending, until the returned function is called.
func (m *metrics) observe(s *Service) (stop func() error, err error) {
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, e := range s.all() {
			at := metric.WithAttributes(attribute.String("endpoint", e.name))
			now := e.standing()
			o.ObserveInt64(m.pending, int64(now.pending), at)
			o.ObserveFloat64(m.oldest, now.oldest.Seconds(), at)
			o.ObserveInt64(m.breaker, map[webhook.BreakerState]int64{
				webhook.Closed: 0, webhook.HalfOpen: 1, webhook.Open: 2,
			}[now.breaker], at)
			var gone int64
			if now.gone {
				gone = 1
			}
			o.ObserveInt64(m.gone, gone, at)
		}
		return nil
	}, m.pending, m.oldest, m.breaker, m.gone)
	if err != nil {
		return nil, err
	}
	return r.Unregister, nil
}

func (m *metrics) attempt(ctx context.Context, endpoint string, r webhook.Result) {
	m.attempts.Add(ctx, 1, metric.WithAttributes(
		attribute.String("endpoint", endpoint), attribute.String("outcome", string(r.Outcome))))
	m.duration.Record(ctx, r.Took.Seconds(), metric.WithAttributes(attribute.String("endpoint", endpoint)))
}

func (m *metrics) settled(ctx context.Context, d *Delivery) {
	m.deliveries.Add(ctx, 1, metric.WithAttributes(
		attribute.String("endpoint", d.Endpoint), attribute.String("outcome", string(d.State))))
}
