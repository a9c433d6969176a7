package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/pending"
)

// table makes rows of type R of the records of a range, and puts them where they
// belong. It is what events and states have in common.
type table[R any] struct {
	name   string // in metrics and logs
	decode func(ctx context.Context, record *kgo.Record) (R, error)
	skip   func(*R) bool // nil: none is left out
	insert func(ctx context.Context, token string, rows []R) error
	// restore is asked for a range that came again. Nil: an insert that was
	// acknowledged stays, and one that is repeated changes nothing.
	restore func(ctx context.Context, token string, rows []R) (restored int, err error)
	probe   func(ctx context.Context, rows []R) error
	ping    func(ctx context.Context) error
	known   func(*R, *kgo.Record) time.Time // since when the row could be there
	parker  Parker
	logger  *slog.Logger
	now     func() time.Time

	timeout time.Duration // of one INSERT
	metrics *metrics
}

// consumer brings the ranges of a topic to a table.
type consumer[R any] struct {
	table   table[R]
	pending *pending.Consumer
}

type consumerDeps[R any] struct {
	newClient pending.NewClient
	fence     pending.Fence // nil is one that is always open
	meter     metric.Meter
	table     table[R]
}

// open checks its arguments and does nothing else.
func (c *consumer[R]) open(topic, group string, cfg Config, deps consumerDeps[R]) (err error) {
	c.table = deps.table
	c.table.timeout = cfg.InsertTimeout
	if c.table.metrics, err = newMetrics(deps.meter, deps.table.name); err != nil {
		return err
	}
	c.pending, err = pending.New(topic, group, cfg.pending(), pending.Deps{
		NewClient: deps.newClient, Handler: &c.table, Fence: deps.fence, Logger: deps.table.logger,
	})
	return err
}

// Run loads until ctx ends, and finishes the ranges in hand. It may be called
// once.
func (c *consumer[R]) Run(ctx context.Context) (err error) {
	stop, err := c.table.metrics.observe(c.pending)
	if err != nil {
		return fmt.Errorf("loader: %s: %w", c.table.name, err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := c.pending.Run(ctx); err != nil {
		return fmt.Errorf("loader: %s: %w", c.table.name, err)
	}
	return nil
}

// Ready reports whether Kafka and ClickHouse answer.
func (c *consumer[R]) Ready(ctx context.Context) error {
	if err := c.pending.Ping(ctx); err != nil {
		return fmt.Errorf("loader: %s: %w", c.table.name, err)
	}
	if err := c.table.ping(ctx); err != nil {
		return fmt.Errorf("loader: %s: %w", c.table.name, err)
	}
	return nil
}

// Handle implements [pending.Handler].
func (t *table[R]) Handle(ctx context.Context, r pending.Range, records []*kgo.Record) error {
	b, err := t.read(ctx, records)
	if err != nil {
		t.metrics.failed(ctx, "decode")
		return err
	}
	unreadable := b.rejects
	err = t.put(ctx, r.Token, b.rows)
	if _, refused := fault.Reason(err); refused {
		err = t.putRest(ctx, r.Token, &b, err)
	}
	if err != nil {
		return err
	}
	if r.Again && t.restore != nil {
		if err := t.putBack(ctx, r, b.rows); err != nil {
			return err
		}
	}
	// Not before the insert: while ClickHouse is away the range comes again and
	// again, and would leave its dead letters each time.
	if err := t.park(ctx, unreadable); err != nil {
		return err
	}
	t.metrics.done(ctx, r, len(b.rows), b.skipped, b.rejects)
	t.fresh(ctx, b)
	return nil
}

// fresh measures the age of the newest row.
func (t *table[R]) fresh(ctx context.Context, b batch[R]) {
	var newest time.Time
	for i := range b.rows {
		if at := t.known(&b.rows[i], b.from[i]); at.After(newest) {
			newest = at
		}
	}
	if !newest.IsZero() {
		t.metrics.fresh(ctx, t.now().Sub(newest))
	}
}

// batch is a range, decoded.
type batch[R any] struct {
	rows    []R
	from    []*kgo.Record // the record of each row
	rejects []kafka.Reject
	skipped int
}

func (t *table[R]) read(ctx context.Context, records []*kgo.Record) (batch[R], error) {
	b := batch[R]{rows: make([]R, 0, len(records)), from: make([]*kgo.Record, 0, len(records))}
	for _, record := range records {
		row, err := t.decode(ctx, record)
		if _, permanent := fault.Reason(err); permanent {
			b.rejects = append(b.rejects, kafka.Reject{Record: record, Err: err})
			continue
		}
		if err != nil {
			return batch[R]{}, fmt.Errorf("decode %s: %w", kafka.Origin(record), err)
		}
		if t.skip != nil && t.skip(&row) {
			b.skipped++
			continue
		}
		b.rows = append(b.rows, row)
		b.from = append(b.from, record)
	}
	return b, nil
}

func (t *table[R]) put(ctx context.Context, token string, rows []R) error {
	if len(rows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	begun := time.Now()
	err := t.insert(ctx, token, rows)
	t.metrics.inserted(ctx, time.Since(begun), err)
	if err == nil {
		return nil
	}
	if _, refused := fault.Reason(err); !refused {
		t.metrics.failed(ctx, "insert")
	}
	return fmt.Errorf("insert %d rows: %w", len(rows), err)
}

// putBack makes sure that the rows of a range that came again are in the table.
func (t *table[R]) putBack(ctx context.Context, r pending.Range, rows []R) error {
	// Time for a look, an insert, and another look.
	ctx, cancel := context.WithTimeout(ctx, 3*t.timeout)
	defer cancel()
	restored, err := t.restore(ctx, r.Token, rows)
	if err != nil {
		t.metrics.failed(ctx, "restore")
		return fmt.Errorf("look for %d rows: %w", len(rows), err)
	}
	if restored > 0 {
		t.metrics.putBack(ctx, restored)
		t.logger.WarnContext(ctx, "ClickHouse had lost rows of a range that it held for inserted; they are back",
			"table", t.name, "partition", r.Partition, "first", r.First, "last", r.Last, "rows", restored)
	}
	return nil
}

// putRest finds the rows that are refused, dead-letters them, and inserts the
// others under the same token. The search only probes, so whatever a crash
// leaves undone, the table holds either nothing of the range or all of it that
// it takes.
func (t *table[R]) putRest(ctx context.Context, token string, b *batch[R], refusal error) error {
	refused, err := t.search(ctx, b.rows)
	if err != nil {
		t.metrics.failed(ctx, "insert")
		return err
	}
	if len(refused) == 0 {
		t.metrics.failed(ctx, "insert")
		// Not %w: it is no row's fault after all, and must be tried again.
		return fmt.Errorf("ClickHouse refuses the rows together and none alone: %v", refusal) //nolint:errorlint // see above
	}
	var rows []R
	var from []*kgo.Record
	var rejects []kafka.Reject
	for i, row := range b.rows {
		if err, bad := refused[i]; bad {
			t.logger.WarnContext(ctx, "row refused, dead-lettered", "table", t.name, "origin", kafka.Origin(b.from[i]), "err", err)
			rejects = append(rejects, kafka.Reject{Record: b.from[i], Err: err})
			continue
		}
		rows, from = append(rows, row), append(from, b.from[i])
	}
	// Before the insert: once the token is in, a repeat that is not refused any
	// more, because somebody changed the table, would never find them again.
	if err := t.park(ctx, rejects); err != nil {
		return err
	}
	if err := t.put(ctx, token, rows); err != nil {
		// Again not %w. The range is tried from its beginning.
		return fmt.Errorf("without the refused rows: %v", err) //nolint:errorlint // see above
	}
	b.rows, b.from, b.rejects = rows, from, append(b.rejects, rejects...)
	return nil
}

// search returns the refused rows by index, by halving: n rows with k refused
// ones take about k log n probes.
func (t *table[R]) search(ctx context.Context, rows []R) (map[int]error, error) {
	refused := make(map[int]error)
	var halve func(from, to int) error
	halve = func(from, to int) error {
		probe, cancel := context.WithTimeout(ctx, t.timeout)
		defer cancel()
		err := t.probe(probe, rows[from:to])
		_, bad := fault.Reason(err)
		switch {
		case err == nil:
			return nil
		case !bad:
			return fmt.Errorf("probe %d rows: %w", to-from, err)
		case to-from == 1:
			refused[from] = err
			return nil
		}
		middle := from + (to-from)/2
		if err := halve(from, middle); err != nil {
			return err
		}
		return halve(middle, to)
	}
	return refused, halve(0, len(rows))
}

func (t *table[R]) park(ctx context.Context, rejects []kafka.Reject) error {
	if len(rejects) == 0 {
		return nil
	}
	if err := t.parker.Park(ctx, rejects); err != nil {
		t.metrics.failed(ctx, "dead_letter")
		return err
	}
	return nil
}
