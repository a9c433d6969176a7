package spill

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	appended metric.Int64Counter
	rejected metric.Int64Counter
	drained  metric.Int64Counter
	refused  metric.Int64Counter
	stop     func() error // ends the callback of the gauges
}

func newMetrics(meter metric.Meter, s *Store) (*metrics, error) {
	m := &metrics{}
	var err error
	if m.appended, err = meter.Int64Counter("mailriver.spill.appended",
		metric.WithDescription("Records that were written to the spill.")); err != nil {
		return nil, err
	}
	if m.rejected, err = meter.Int64Counter("mailriver.spill.rejected",
		metric.WithDescription("Records that the spill did not take, by reason: full, behind, disk or timeout.")); err != nil {
		return nil, err
	}
	if m.drained, err = meter.Int64Counter("mailriver.spill.drained",
		metric.WithDescription("Records of the spill that Kafka acknowledged.")); err != nil {
		return nil, err
	}
	if m.refused, err = meter.Int64Counter("mailriver.spill.refused",
		metric.WithDescription("Attempts at records of the spill that Kafka refuses as they are.")); err != nil {
		return nil, err
	}
	records, err := meter.Int64ObservableGauge("mailriver.spill.records",
		metric.WithDescription("Records on disk that wait for Kafka."))
	if err != nil {
		return nil, err
	}
	bytes, err := meter.Int64ObservableGauge("mailriver.spill.size", metric.WithUnit("By"),
		metric.WithDescription("Bytes of the records on disk."))
	if err != nil {
		return nil, err
	}
	age, err := meter.Float64ObservableGauge("mailriver.spill.oldest_age", metric.WithUnit("s"),
		metric.WithDescription("Since the oldest record on disk was received; 0 when there is none."))
	if err != nil {
		return nil, err
	}
	kept, err := meter.Int64ObservableGauge("mailriver.spill.damaged",
		metric.WithDescription("Files that could not be read to their end and were put aside."))
	if err != nil {
		return nil, err
	}
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		d := s.Depth()
		o.ObserveInt64(records, d.Records)
		o.ObserveInt64(bytes, d.Bytes)
		var since float64
		if d.Records > 0 {
			since = s.deps.Now().Sub(d.Oldest).Seconds()
		}
		o.ObserveFloat64(age, since)
		o.ObserveInt64(kept, d.Kept)
		return nil
	}, records, bytes, age, kept)
	if err != nil {
		return nil, err
	}
	m.stop = registration.Unregister
	return m, nil
}

func (m *metrics) countAppend(ctx context.Context, err error) {
	if err == nil {
		m.appended.Add(ctx, 1)
		return
	}
	reason := "disk"
	switch {
	case errors.Is(err, ErrFull):
		reason = "full"
	case errors.Is(err, ErrBehind):
		reason = "behind"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		reason = "timeout"
	}
	m.rejected.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", reason)))
}
