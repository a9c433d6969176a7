package leadscoring

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
	signals      metric.Int64Counter
	failures     metric.Int64Counter
	changes      metric.Int64Counter
	segments     metric.Int64Counter
	deadLetters  metric.Int64Counter
	transactions kafka.TransactionMetrics
	freshness    metric.Float64Histogram
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	var m metrics
	var errs [10]error
	m.events, errs[0] = meter.Int64Counter("mailriver.leadscoring.events",
		metric.WithDescription("Canonical events folded, by outcome: scored, or why not."), metric.WithUnit("{event}"))
	m.states, errs[1] = meter.Int64Counter("mailriver.leadscoring.states",
		metric.WithDescription("States of leads published."), metric.WithUnit("{state}"))
	m.signals, errs[2] = meter.Int64Counter("mailriver.leadscoring.signals",
		metric.WithDescription("Crossings by profile, stage, direction and outcome: signaled, old or replayed."),
		metric.WithUnit("{signal}"))
	m.failures, errs[3] = meter.Int64Counter("mailriver.leadscoring.rule_failures",
		metric.WithDescription("Conditions that failed on an event, by profile and rule."), metric.WithUnit("{failure}"))
	m.deadLetters, errs[4] = meter.Int64Counter("mailriver.leadscoring.dead_letters",
		metric.WithDescription("Canonical records given up, by reason."), metric.WithUnit("{record}"))
	m.transactions.Ended, errs[5] = meter.Int64Counter("mailriver.leadscoring.transactions",
		metric.WithDescription("Transactions ended, by outcome: committed or aborted."), metric.WithUnit("{transaction}"))
	m.transactions.Took, errs[6] = meter.Float64Histogram("mailriver.leadscoring.transaction.duration",
		metric.WithDescription("Time from the begin to the end of a transaction."), metric.WithUnit("s"))
	m.freshness, errs[7] = meter.Float64Histogram("mailriver.leadscoring.freshness",
		metric.WithDescription("Age of the oldest event of a committed batch since its request was received."), metric.WithUnit("s"))
	m.changes, errs[8] = meter.Int64Counter("mailriver.leadscoring.segment_changes",
		metric.WithDescription("Segments entered or left, by segment, change and outcome: told, old or replayed."),
		metric.WithUnit("{change}"))
	m.segments, errs[9] = meter.Int64Counter("mailriver.leadscoring.segment_failures",
		metric.WithDescription("Conditions of segments that failed on a lead, by segment."), metric.WithUnit("{failure}"))
	return &m, errors.Join(errs[:]...)
}

type signalLabel struct{ profile, stage, direction, outcome string }

type changeLabel struct{ segment, change, outcome string }

type ruleLabel struct{ profile, rule string }

// tally is what a batch did; it is counted when the batch is committed.
type tally struct {
	events   map[string]int64 // by outcome
	signals  map[signalLabel]int64
	failures map[ruleLabel]int64
	changes  map[changeLabel]int64
	segments map[string]int64 // failures, by segment
	dead     map[string]int64 // by reason
	states   int64
	oldest   time.Time
}

func newTally() *tally {
	return &tally{
		events: map[string]int64{}, signals: map[signalLabel]int64{}, failures: map[ruleLabel]int64{}, dead: map[string]int64{},
		changes: map[changeLabel]int64{}, segments: map[string]int64{},
	}
}

func (m *metrics) folded(ctx context.Context, t *tally, now time.Time) {
	for outcome, n := range t.events {
		m.events.Add(ctx, n, metric.WithAttributes(attribute.String("outcome", outcome)))
	}
	for l, n := range t.signals {
		m.signals.Add(ctx, n, metric.WithAttributes(attribute.String("profile", l.profile), attribute.String("stage", l.stage),
			attribute.String("direction", l.direction), attribute.String("outcome", l.outcome)))
	}
	for l, n := range t.failures {
		m.failures.Add(ctx, n, metric.WithAttributes(attribute.String("profile", l.profile), attribute.String("rule", l.rule)))
	}
	for l, n := range t.changes {
		m.changes.Add(ctx, n, metric.WithAttributes(attribute.String("segment", l.segment), attribute.String("change", l.change),
			attribute.String("outcome", l.outcome)))
	}
	for segment, n := range t.segments {
		m.segments.Add(ctx, n, metric.WithAttributes(attribute.String("segment", segment)))
	}
	for reason, n := range t.dead {
		m.deadLetters.Add(ctx, n, metric.WithAttributes(attribute.String("reason", reason)))
	}
	m.states.Add(ctx, t.states)
	if !t.oldest.IsZero() {
		m.freshness.Record(ctx, now.Sub(t.oldest).Seconds())
	}
}
