// Package loader copies canonical events from Kafka into ClickHouse.
//
// Guarantee: each event of the canonical topic is in the table once, and in the
// roll-ups behind it. Group: mailriver.loader. Package pending delivers the
// records of a partition in ranges and repeats one exactly after a crash; the
// table ignores a token that it has seen. For a repeated range the loader looks
// whether the rows are there: a ClickHouse that was killed may know the token and
// have lost the rows. ClickHouse away, overloaded or out of
// memory means waiting, never giving up.
//
// It dead-letters, each alone: a record that does not decode, and a row that
// ClickHouse refuses and would refuse again. A dead letter is written before the
// offset moves past it, so a crash in between writes it twice; its origin header
// tells the two for one.
//
// It leaves out events with a revision above 0: those correct a row that is
// there, which is the work of mailriver replay. While that swaps a partition, the
// fence holds the loader back.
//
// It does not create tables (mailriver setup does) and computes nothing.
package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/pending"
)

// Sink is what the loader needs of a database. An error that is marked
// permanent means that a row of the call is refused, and would be again; nothing
// of the call went in then. After any other error nothing is known.
type Sink interface {
	// Insert makes rows durable, once for each token.
	Insert(ctx context.Context, token string, rows []event.Event) error
	// Restore adds those of the rows whose events are not there although their
	// token went in, and returns how many.
	Restore(ctx context.Context, token string, rows []event.Event) (restored int, err error)
	// Probe reports whether Insert would refuse a row, and has no effect.
	Probe(ctx context.Context, rows []event.Event) error
	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
}

// Decoder reads a canonical event. Its errors are permanent, except those of
// the schema registry.
type Decoder interface {
	Decode(ctx context.Context, value []byte) (event.Event, error)
}

// Parker writes dead letters, such as kafka.Parker. It returns when they are
// acknowledged.
type Parker interface {
	Park(ctx context.Context, rejects []kafka.Reject) error
}

// Deps are the loader's collaborators. All are required.
type Deps struct {
	// NewClient makes the consumer's client, such as kafka.Clients.Group.
	NewClient pending.NewClient
	Topic     string // canonical events
	Sink      Sink
	Decoder   Decoder
	Parker    Parker
	Fence     pending.Fence
	Meter     metric.Meter
	Logger    *slog.Logger
	Now       func() time.Time
}

// Service is the loader.
type Service struct {
	cfg      Config
	deps     Deps
	metrics  *metrics
	consumer *pending.Consumer
}

// New checks its arguments and does nothing else.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	if deps.NewClient == nil || deps.Topic == "" || deps.Sink == nil || deps.Decoder == nil || deps.Parker == nil ||
		deps.Fence == nil || deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("loader: a dependency is missing")
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	s := &Service{cfg: cfg, deps: deps, metrics: m}
	s.consumer, err = pending.New(deps.Topic, cfg.Group, cfg.pending(), pending.Deps{
		NewClient: deps.NewClient, Handler: s, Fence: deps.Fence, Logger: deps.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	return s, nil
}

// Run loads until ctx ends, and finishes the ranges in hand. It may be called
// once.
func (s *Service) Run(ctx context.Context) (err error) {
	stop, err := s.metrics.observe(s.consumer)
	if err != nil {
		return fmt.Errorf("loader: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := s.consumer.Run(ctx); err != nil {
		return fmt.Errorf("loader: %w", err)
	}
	return nil
}

// Ready reports whether Kafka and ClickHouse answer.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.consumer.Ping(ctx); err != nil {
		return fmt.Errorf("loader: %w", err)
	}
	if err := s.deps.Sink.Ping(ctx); err != nil {
		return fmt.Errorf("loader: %w", err)
	}
	return nil
}

// Handle implements [pending.Handler].
func (s *Service) Handle(ctx context.Context, r pending.Range, records []*kgo.Record) error {
	b, err := s.decode(ctx, records)
	if err != nil {
		s.metrics.failed(ctx, "decode")
		return err
	}
	unreadable := b.rejects
	err = s.insert(ctx, r.Token, b.rows)
	if _, refused := fault.Reason(err); refused {
		err = s.insertRest(ctx, r.Token, &b, err)
	}
	if err != nil {
		return err
	}
	if r.Again {
		if err := s.restore(ctx, r, b.rows); err != nil {
			return err
		}
	}
	// Not before the insert: while ClickHouse is away the range comes again and
	// again, and would leave its dead letters each time.
	if err := s.park(ctx, unreadable); err != nil {
		return err
	}
	s.metrics.done(ctx, r, b, s.deps.Now())
	return nil
}

// batch is a range, decoded.
type batch struct {
	rows    []event.Event
	from    []*kgo.Record // the record of each row
	rejects []kafka.Reject
	revised int // left to the replay that made them
}

func (s *Service) decode(ctx context.Context, records []*kgo.Record) (batch, error) {
	b := batch{rows: make([]event.Event, 0, len(records)), from: make([]*kgo.Record, 0, len(records))}
	for _, record := range records {
		row, err := s.deps.Decoder.Decode(ctx, record.Value)
		if _, permanent := fault.Reason(err); permanent {
			b.rejects = append(b.rejects, kafka.Reject{Record: record, Err: err})
			continue
		}
		if err != nil {
			return batch{}, fmt.Errorf("decode %s: %w", kafka.Origin(record), err)
		}
		if row.Revision > 0 {
			// Its first revision is a row already, and a second one would count
			// it twice.
			b.revised++
			continue
		}
		b.rows = append(b.rows, row)
		b.from = append(b.from, record)
	}
	return b, nil
}

func (s *Service) insert(ctx context.Context, token string, rows []event.Event) error {
	if len(rows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.InsertTimeout)
	defer cancel()
	begun := time.Now()
	err := s.deps.Sink.Insert(ctx, token, rows)
	s.metrics.inserted(ctx, time.Since(begun), err)
	if err == nil {
		return nil
	}
	if _, refused := fault.Reason(err); !refused {
		s.metrics.failed(ctx, "insert")
	}
	return fmt.Errorf("insert %d rows: %w", len(rows), err)
}

// restore makes sure that the rows of a range that came again are in the table.
func (s *Service) restore(ctx context.Context, r pending.Range, rows []event.Event) error {
	// Time for a look, an insert, and another look.
	ctx, cancel := context.WithTimeout(ctx, 3*s.cfg.InsertTimeout)
	defer cancel()
	restored, err := s.deps.Sink.Restore(ctx, r.Token, rows)
	if err != nil {
		s.metrics.failed(ctx, "restore")
		return fmt.Errorf("look for %d rows: %w", len(rows), err)
	}
	if restored > 0 {
		s.metrics.restored.Add(ctx, int64(restored))
		s.deps.Logger.WarnContext(ctx, "ClickHouse had lost rows of a range that it held for inserted; they are back",
			"partition", r.Partition, "first", r.First, "last", r.Last, "rows", restored)
	}
	return nil
}

// insertRest finds the rows that are refused, dead-letters them, and inserts the
// others under the same token. The search only probes, so whatever a crash
// leaves undone, the table holds either nothing of the range or all of it that
// it takes.
func (s *Service) insertRest(ctx context.Context, token string, b *batch, refusal error) error {
	refused, err := s.search(ctx, b.rows)
	if err != nil {
		s.metrics.failed(ctx, "insert")
		return err
	}
	if len(refused) == 0 {
		s.metrics.failed(ctx, "insert")
		// Not %w: it is no row's fault after all, and must be tried again.
		return fmt.Errorf("ClickHouse refuses the rows together and none alone: %v", refusal) //nolint:errorlint // see above
	}
	var rows []event.Event
	var rejects []kafka.Reject
	for i, row := range b.rows {
		if err, bad := refused[i]; bad {
			s.deps.Logger.WarnContext(ctx, "row refused, dead-lettered", "origin", kafka.Origin(b.from[i]), "event_id", row.ID, "err", err)
			rejects = append(rejects, kafka.Reject{Record: b.from[i], Err: err})
			continue
		}
		rows = append(rows, row)
	}
	// Before the insert: once the token is in, a repeat that is not refused any
	// more, because somebody changed the table, would never find them again.
	if err := s.park(ctx, rejects); err != nil {
		return err
	}
	if err := s.insert(ctx, token, rows); err != nil {
		// Again not %w. The range is tried from its beginning.
		return fmt.Errorf("without the refused rows: %v", err) //nolint:errorlint // see above
	}
	b.rows, b.rejects = rows, append(b.rejects, rejects...)
	return nil
}

// search returns the refused rows by index, by halving: n rows with k refused
// ones take about k log n probes.
func (s *Service) search(ctx context.Context, rows []event.Event) (map[int]error, error) {
	refused := make(map[int]error)
	var halve func(from, to int) error
	halve = func(from, to int) error {
		probe, cancel := context.WithTimeout(ctx, s.cfg.InsertTimeout)
		defer cancel()
		err := s.deps.Sink.Probe(probe, rows[from:to])
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

func (s *Service) park(ctx context.Context, rejects []kafka.Reject) error {
	if len(rejects) == 0 {
		return nil
	}
	if err := s.deps.Parker.Park(ctx, rejects); err != nil {
		s.metrics.failed(ctx, "dead_letter")
		return err
	}
	return nil
}
