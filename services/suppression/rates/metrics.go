package rates

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	facts      metric.Int64Counter
	late       metric.Int64Counter
	unreadable metric.Int64Counter
	alerts     metric.Int64Counter

	meter     metric.Meter
	complaint metric.Float64ObservableGauge
	bounce    metric.Float64ObservableGauge
	shown     atomic.Pointer[[]standing]
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := metrics{meter: meter}
	var errs [6]error
	m.facts, errs[0] = meter.Int64Counter("mailriver.suppression.rates.facts",
		metric.WithDescription("Facts counted for the rates, by kind: delivered, complained or hard_bounced."),
		metric.WithUnit("{fact}"))
	m.late, errs[1] = meter.Int64Counter("mailriver.suppression.rates.late",
		metric.WithDescription("Facts left out because their hour had left the window when they came."), metric.WithUnit("{fact}"))
	m.unreadable, errs[2] = meter.Int64Counter("mailriver.suppression.rates.unreadable",
		metric.WithDescription("Records of the canonical topic left out because they cannot be read."), metric.WithUnit("{record}"))
	m.alerts, errs[3] = meter.Int64Counter("mailriver.suppression.alerts",
		metric.WithDescription("Alerts told by this instance, by rate and level."), metric.WithUnit("{alert}"))
	m.complaint, errs[4] = meter.Float64ObservableGauge("mailriver.suppression.complaint_rate",
		metric.WithDescription("Complaints of delivered messages in the window, as a fraction, by sender_domain. "+
			"Only the instance that tells alerts has it, and only for the domains with the most mail."))
	m.bounce, errs[5] = meter.Float64ObservableGauge("mailriver.suppression.hard_bounce_rate",
		metric.WithDescription("Hard bounces of delivered and hard-bounced messages in the window, as a fraction, by sender_domain. "+
			"Only the instance that tells alerts has it, and only for the domains with the most mail."))
	return &m, errors.Join(errs[:]...)
}

// watch exports the gauges until it is stopped.
func (m *metrics) watch() (stop func() error, err error) {
	registration, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		shown := m.shown.Load()
		if shown == nil {
			return nil
		}
		for _, s := range *shown {
			sender := metric.WithAttributes(attribute.String("sender_domain", s.sender))
			if events, volume := Complaint.of(s.total); volume > 0 {
				o.ObserveFloat64(m.complaint, fraction(events, volume), sender)
			}
			if events, volume := HardBounce.of(s.total); volume > 0 {
				o.ObserveFloat64(m.bounce, fraction(events, volume), sender)
			}
		}
		return nil
	}, m.complaint, m.bounce)
	if err != nil {
		return nil, err
	}
	return registration.Unregister, nil
}

// show replaces what the gauges show.
func (m *metrics) show(list []standing) { m.shown.Store(&list) }

// counted counts a committed batch.
func (m *metrics) counted(ctx context.Context, n Counts, t tally) {
	for _, fact := range []struct {
		kind string
		n    int64
	}{{"delivered", n.Delivered}, {"complained", n.Complained}, {"hard_bounced", n.HardBounced}} {
		if fact.n > 0 {
			m.facts.Add(ctx, fact.n, metric.WithAttributes(attribute.String("kind", fact.kind)))
		}
	}
	if t.late > 0 {
		m.late.Add(ctx, t.late)
	}
	if t.unreadable > 0 {
		m.unreadable.Add(ctx, t.unreadable)
	}
}

func (m *metrics) told(ctx context.Context, a Alert) {
	m.alerts.Add(ctx, 1, metric.WithAttributes(attribute.String("rate", string(a.Rate)), attribute.String("level", string(a.Level))))
}
