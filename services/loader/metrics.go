package loader

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/pending"
)

type metrics struct {
	rows        metric.Int64Counter
	batches     metric.Int64Counter
	batchRows   metric.Int64Histogram
	duration    metric.Float64Histogram
	failures    metric.Int64Counter
	repeats     metric.Int64Counter
	deadLetters metric.Int64Counter
	freshness   metric.Float64Histogram
	revised     metric.Int64Counter
	restored    metric.Int64Counter

	table attribute.KeyValue

	meter metric.Meter
	held  metric.Int64ObservableGauge
	bytes metric.Int64ObservableGauge
	full  metric.Int64ObservableGauge
	owned metric.Int64ObservableGauge
	age   metric.Float64ObservableGauge
}

// newMetrics returns the instruments of one table. Every value has its name, as
// the attribute table.
func newMetrics(meter metric.Meter, table string) (*metrics, error) {
	m := metrics{meter: meter, table: attribute.String("table", table)}
	var errs [15]error
	m.rows, errs[0] = meter.Int64Counter("mailriver.loader.rows",
		metric.WithDescription("Rows that are in ClickHouse, each counted when its range is done."), metric.WithUnit("{row}"))
	m.batches, errs[1] = meter.Int64Counter("mailriver.loader.batches",
		metric.WithDescription("Ranges done."), metric.WithUnit("{range}"))
	m.batchRows, errs[2] = meter.Int64Histogram("mailriver.loader.batch.rows",
		metric.WithDescription("Rows of a range."), metric.WithUnit("{row}"),
		metric.WithExplicitBucketBoundaries(1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000))
	m.duration, errs[3] = meter.Float64Histogram("mailriver.loader.insert.duration",
		metric.WithDescription("Time of one INSERT, by outcome: done, refused or failed."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20))
	m.failures, errs[4] = meter.Int64Counter("mailriver.loader.retries",
		metric.WithDescription("Attempts at a range that failed and are tried again, by stage: decode, insert, restore or dead_letter."),
		metric.WithUnit("{attempt}"))
	m.repeats, errs[5] = meter.Int64Counter("mailriver.loader.repeats",
		metric.WithDescription("Ranges done that had been begun before, by this process or one that is gone."),
		metric.WithUnit("{range}"))
	m.deadLetters, errs[6] = meter.Int64Counter("mailriver.loader.dead_letters",
		metric.WithDescription("Records given up, by reason."), metric.WithUnit("{record}"))
	m.freshness, errs[7] = meter.Float64Histogram("mailriver.loader.freshness",
		metric.WithDescription("Age of the newest row of a range when it is in ClickHouse, since the receipt of its webhook; of a state, since it was written to Kafka."),
		metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 3600))
	m.held, errs[8] = meter.Int64ObservableGauge("mailriver.loader.buffered",
		metric.WithDescription("Records held in memory."), metric.WithUnit("{record}"))
	m.bytes, errs[9] = meter.Int64ObservableGauge("mailriver.loader.buffered.size",
		metric.WithDescription("Size of the records held in memory."), metric.WithUnit("By"))
	m.full, errs[10] = meter.Int64ObservableGauge("mailriver.loader.paused",
		metric.WithDescription("Partitions that are not fetched because their buffer is full."), metric.WithUnit("{partition}"))
	m.owned, errs[11] = meter.Int64ObservableGauge("mailriver.loader.partitions",
		metric.WithDescription("Partitions assigned."), metric.WithUnit("{partition}"))
	m.age, errs[12] = meter.Float64ObservableGauge("mailriver.loader.pending.age",
		metric.WithDescription("Age of the oldest range that is not done; it grows while ClickHouse is away."), metric.WithUnit("s"))
	m.revised, errs[13] = meter.Int64Counter("mailriver.loader.revised",
		metric.WithDescription("Events left out because they correct an earlier revision; mailriver replay brings them."),
		metric.WithUnit("{event}"))
	m.restored, errs[14] = meter.Int64Counter("mailriver.loader.restored",
		metric.WithDescription("Rows put back that ClickHouse held for inserted and had lost when it was killed."),
		metric.WithUnit("{row}"))
	return &m, errors.Join(errs[:]...)
}

// attrs are the attributes of a value: the table, and these.
func (m *metrics) attrs(more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(more, m.table)...)
}

// observe reports what the consumer holds, until the returned function is called.
func (m *metrics) observe(consumer *pending.Consumer) (stop func() error, err error) {
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s, table := consumer.Stats(), m.attrs()
		o.ObserveInt64(m.held, int64(s.Records), table)
		o.ObserveInt64(m.bytes, int64(s.Bytes), table)
		o.ObserveInt64(m.full, int64(s.Paused), table)
		o.ObserveInt64(m.owned, int64(s.Partitions), table)
		o.ObserveFloat64(m.age, s.PendingAge.Seconds(), table)
		return nil
	}, m.held, m.bytes, m.full, m.owned, m.age)
	if err != nil {
		return nil, err
	}
	return r.Unregister, nil
}

func (m *metrics) inserted(ctx context.Context, took time.Duration, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
		if _, refused := fault.Reason(err); refused {
			outcome = "refused"
		}
	}
	m.duration.Record(ctx, took.Seconds(), m.attrs(attribute.String("outcome", outcome)))
}

func (m *metrics) failed(ctx context.Context, stage string) {
	m.failures.Add(ctx, 1, m.attrs(attribute.String("stage", stage)))
}

func (m *metrics) putBack(ctx context.Context, rows int) { m.restored.Add(ctx, int64(rows), m.attrs()) }

func (m *metrics) fresh(ctx context.Context, age time.Duration) {
	m.freshness.Record(ctx, age.Seconds(), m.attrs())
}

// done counts a range whose rows and dead letters are where they belong.
func (m *metrics) done(ctx context.Context, r pending.Range, rows, skipped int, rejects []kafka.Reject) {
	m.rows.Add(ctx, int64(rows), m.attrs())
	m.revised.Add(ctx, int64(skipped), m.attrs())
	m.batches.Add(ctx, 1, m.attrs())
	m.batchRows.Record(ctx, int64(rows), m.attrs())
	if r.Again {
		m.repeats.Add(ctx, 1, m.attrs())
	}
	for _, reject := range rejects {
		reason, _ := fault.Reason(reject.Err)
		m.deadLetters.Add(ctx, 1, m.attrs(attribute.String("reason", reason)))
	}
}
