package normalizer

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/kafka"
)

type metrics struct {
	requests     metric.Int64Counter
	events       metric.Int64Counter
	duplicates   metric.Int64Counter
	deadLetters  metric.Int64Counter
	transactions kafka.TransactionMetrics
	freshness    metric.Float64Histogram
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	var m metrics
	var errs [7]error
	m.requests, errs[0] = meter.Int64Counter("mailriver.normalizer.requests",
		metric.WithDescription("Raw requests normalized."), metric.WithUnit("{request}"))
	m.events, errs[1] = meter.Int64Counter("mailriver.normalizer.events",
		metric.WithDescription("Canonical events published, by provider and type."), metric.WithUnit("{event}"))
	m.deadLetters, errs[2] = meter.Int64Counter("mailriver.normalizer.dead_letters",
		metric.WithDescription("Requests and elements given up, by provider and reason."), metric.WithUnit("{record}"))
	m.transactions.Ended, errs[3] = meter.Int64Counter("mailriver.normalizer.transactions",
		metric.WithDescription("Transactions ended, by outcome: committed or aborted."), metric.WithUnit("{transaction}"))
	m.transactions.Took, errs[4] = meter.Float64Histogram("mailriver.normalizer.transaction.duration",
		metric.WithDescription("Time from the begin to the end of a transaction."), metric.WithUnit("s"))
	m.freshness, errs[5] = meter.Float64Histogram("mailriver.normalizer.freshness",
		metric.WithDescription("Age of the oldest request of a committed batch since it was received."), metric.WithUnit("s"))
	m.duplicates, errs[6] = meter.Int64Counter("mailriver.normalizer.duplicates",
		metric.WithDescription("Events left out because they were published within the dedup window."), metric.WithUnit("{event}"))
	return &m, errors.Join(errs[:]...)
}

// published counts a committed batch.
func (m *metrics) published(ctx context.Context, results []Made, now time.Time) {
	type label struct{ provider, word string }
	events, letters := map[label]int64{}, map[label]int64{}
	requests, duplicates := map[string]int64{}, map[string]int64{}
	var oldest time.Time
	for i := range results {
		r := &results[i]
		requests[r.Provider]++
		duplicates[r.Provider] += r.Duplicates
		for _, c := range r.Events {
			events[label{r.Provider, string(c.Event.Type)}]++
		}
		for _, letter := range r.Letters {
			for _, h := range letter.Headers {
				if h.Key == kafka.HeaderReason {
					letters[label{r.Provider, string(h.Value)}]++
				}
			}
		}
		if !r.ReceivedAt.IsZero() && (oldest.IsZero() || r.ReceivedAt.Before(oldest)) {
			oldest = r.ReceivedAt
		}
	}
	for provider, n := range requests {
		m.requests.Add(ctx, n, metric.WithAttributes(attribute.String("provider", provider)))
	}
	for provider, n := range duplicates {
		if n > 0 {
			m.duplicates.Add(ctx, n, metric.WithAttributes(attribute.String("provider", provider)))
		}
	}
	for l, n := range events {
		m.events.Add(ctx, n, metric.WithAttributes(attribute.String("provider", l.provider), attribute.String("event_type", l.word)))
	}
	for l, n := range letters {
		m.deadLetters.Add(ctx, n, metric.WithAttributes(attribute.String("provider", l.provider), attribute.String("reason", l.word)))
	}
	if !oldest.IsZero() {
		m.freshness.Record(ctx, now.Sub(oldest).Seconds())
	}
}
