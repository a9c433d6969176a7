package suppression

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/kafka"
)

type metrics struct {
	events       metric.Int64Counter
	states       metric.Int64Counter
	drift        metric.Int64Counter
	deadLetters  metric.Int64Counter
	transactions kafka.TransactionMetrics
	freshness    metric.Float64Histogram
	lookups      metric.Int64Counter
	changes      metric.Int64Counter

	suppressed, clear metric.MeasurementOption // of lookups; made once, not for each
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	var m metrics
	var errs [9]error
	m.events, errs[0] = meter.Int64Counter("mailriver.suppression.events",
		metric.WithDescription("Canonical events folded, by what they meant: suppress, confirm, lift, delivered, none, or why nothing."),
		metric.WithUnit("{event}"))
	m.states, errs[1] = meter.Int64Counter("mailriver.suppression.states",
		metric.WithDescription("States of addresses published."), metric.WithUnit("{state}"))
	m.drift, errs[2] = meter.Int64Counter("mailriver.suppression.drift",
		metric.WithDescription("Refusals by a provider for an entry that this list did not have, by provider."),
		metric.WithUnit("{event}"))
	m.deadLetters, errs[3] = meter.Int64Counter("mailriver.suppression.dead_letters",
		metric.WithDescription("Canonical records given up, by reason."), metric.WithUnit("{record}"))
	m.transactions.Ended, errs[4] = meter.Int64Counter("mailriver.suppression.transactions",
		metric.WithDescription("Transactions ended, by outcome: committed or aborted."), metric.WithUnit("{transaction}"))
	m.transactions.Took, errs[5] = meter.Float64Histogram("mailriver.suppression.transaction.duration",
		metric.WithDescription("Time from the begin to the end of a transaction."), metric.WithUnit("s"))
	m.freshness, errs[6] = meter.Float64Histogram("mailriver.suppression.freshness",
		metric.WithDescription("Age of the oldest event of a committed batch since its request was received."), metric.WithUnit("s"))
	m.lookups, errs[7] = meter.Int64Counter("mailriver.suppression.lookups",
		metric.WithDescription("Addresses looked up through the API, by answer: suppressed or clear."), metric.WithUnit("{address}"))
	m.changes, errs[8] = meter.Int64Counter("mailriver.suppression.changes",
		metric.WithDescription("Changes by people taken by the API, by origin and action."), metric.WithUnit("{change}"))
	m.suppressed = metric.WithAttributeSet(attribute.NewSet(attribute.String("answer", "suppressed")))
	m.clear = metric.WithAttributeSet(attribute.NewSet(attribute.String("answer", "clear")))
	return &m, errors.Join(errs[:]...)
}

// tally is what a batch did; it is counted when the batch is committed.
type tally struct {
	meant  map[string]int64 // by effect, or by why an event means nothing
	drift  map[string]int64 // by provider
	dead   map[string]int64 // by reason
	states int64
	oldest time.Time
}

func newTally() *tally {
	return &tally{meant: map[string]int64{}, drift: map[string]int64{}, dead: map[string]int64{}}
}

func (m *metrics) folded(ctx context.Context, t *tally, now time.Time) {
	for _, by := range []struct {
		counter metric.Int64Counter
		label   string
		counts  map[string]int64
	}{{m.events, "meaning", t.meant}, {m.drift, "provider", t.drift}, {m.deadLetters, "reason", t.dead}} {
		for value, n := range by.counts {
			by.counter.Add(ctx, n, metric.WithAttributes(attribute.String(by.label, value)))
		}
	}
	m.states.Add(ctx, t.states)
	if !t.oldest.IsZero() {
		m.freshness.Record(ctx, now.Sub(t.oldest).Seconds())
	}
}

func (m *metrics) lookedUp(ctx context.Context, answers ...Answer) {
	var suppressed int64
	for i := range answers {
		if answers[i].Suppressed {
			suppressed++
		}
	}
	clear := int64(len(answers)) - suppressed
	if suppressed > 0 {
		m.lookups.Add(ctx, suppressed, m.suppressed)
	}
	if clear > 0 {
		m.lookups.Add(ctx, clear, m.clear)
	}
}

func (m *metrics) changed(ctx context.Context, origin, action string, n int64) {
	m.changes.Add(ctx, n, metric.WithAttributes(attribute.String("origin", origin), attribute.String("action", action)))
}
