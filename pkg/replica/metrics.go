package replica

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	topic   metric.MeasurementOption
	records metric.Int64Counter
	bad     metric.Int64Counter
	over    metric.Int64Counter
	watched metric.Registration
}

func newMetrics(c *Copy) (*metrics, error) {
	meter := c.deps.Meter
	m := metrics{topic: metric.WithAttributes(attribute.String("topic", c.cfg.Topic))}
	var errs [5]error
	m.records, errs[0] = meter.Int64Counter("mailriver.replica.records",
		metric.WithDescription("Records of a topic applied to its local copy."), metric.WithUnit("{record}"))
	m.bad, errs[1] = meter.Int64Counter("mailriver.replica.unreadable",
		metric.WithDescription("Records left out of a local copy because they cannot be read."), metric.WithUnit("{record}"))
	m.over, errs[2] = meter.Int64Counter("mailriver.replica.started_over",
		metric.WithDescription("How often a local copy was emptied because it may no longer be what its topic says."),
		metric.WithUnit("{time}"))
	lag, err := meter.Int64ObservableGauge("mailriver.replica.lag",
		metric.WithDescription("Offsets between a local copy and the end of its topic, transactions still open included."),
		metric.WithUnit("{offset}"))
	errs[3] = err
	age, err := meter.Float64ObservableGauge("mailriver.replica.age",
		metric.WithDescription("Since a local copy was last known to be complete; none before the first time."),
		metric.WithUnit("s"))
	errs[4] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	m.watched, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ends != nil {
			var offsets int64
			for partition, end := range c.ends {
				offsets += max(0, end-c.position[partition])
			}
			o.ObserveInt64(lag, offsets, m.topic)
		}
		if !c.asOf.IsZero() {
			o.ObserveFloat64(age, c.deps.Now().Sub(c.asOf).Seconds(), m.topic)
		}
		return nil
	}, lag, age)
	return &m, err
}

func (m *metrics) stop() error { return m.watched.Unregister() }

func (m *metrics) applied(ctx context.Context, n int) { m.records.Add(ctx, int64(n), m.topic) }

func (m *metrics) unreadable(ctx context.Context, n int) { m.bad.Add(ctx, int64(n), m.topic) }

func (m *metrics) startedOver(ctx context.Context) { m.over.Add(ctx, 1, m.topic) }
