// Package loader copies what Kafka holds into ClickHouse: canonical events, and
// states such as those of the suppression list.
//
// Guarantee for events ([Service]): each event of the canonical topic is in the
// table once, and in the roll-ups behind it. Group: mailriver.loader. Package
// pending delivers the records of a partition in ranges and repeats one exactly
// after a crash; the table ignores a token that it has seen. For a repeated range
// the loader looks whether the rows are there: a ClickHouse that was killed may
// know the token and have lost the rows.
//
// Guarantee for states ([States]): the newest record of each key of a compacted
// topic is in its table. Group: that of events, a dot and the table's name, such
// as mailriver.loader.suppressions. Rows may go in twice and in any order,
// because the table keeps the one with the highest offset.
//
// ClickHouse away, overloaded or out of memory means waiting, never giving up.
//
// It dead-letters, each alone: a record that does not decode, and a row that
// ClickHouse refuses and would refuse again. A dead letter is written before the
// offset moves past it, so a crash in between writes it twice; its origin header
// tells the two for one.
//
// It leaves out events with a revision above 0: those correct a row that is
// there, which is the work of mailriver replay. While that swaps a partition, the
// fence holds the loader back. States are not behind the fence.
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

// Service loads events.
type Service struct{ consumer[event.Event] }

// New checks its arguments and does nothing else.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	if deps.NewClient == nil || deps.Topic == "" || deps.Sink == nil || deps.Decoder == nil || deps.Parker == nil ||
		deps.Fence == nil || deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("loader: a dependency is missing")
	}
	s := &Service{}
	err := s.open(deps.Topic, cfg.Group, cfg, consumerDeps[event.Event]{
		newClient: deps.NewClient, fence: deps.Fence, meter: deps.Meter,
		table: table[event.Event]{
			name: "events",
			decode: func(ctx context.Context, r *kgo.Record) (event.Event, error) {
				return deps.Decoder.Decode(ctx, r.Value)
			},
			// The first revision is a row already, and a second one would count it
			// twice.
			skip:    func(e *event.Event) bool { return e.Revision > 0 },
			insert:  deps.Sink.Insert,
			restore: deps.Sink.Restore,
			probe:   deps.Sink.Probe,
			ping:    deps.Sink.Ping,
			known:   func(e *event.Event, _ *kgo.Record) time.Time { return e.ReceivedAt },
			parker:  deps.Parker, logger: deps.Logger, now: deps.Now,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	return s, nil
}
