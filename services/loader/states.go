package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/fault"
	"mailriver/pkg/pending"
)

// StateSink is a table of states, such as clickhouse.States. Of the rows of a key
// it keeps the one with the highest offset. Its errors mean what those of [Sink]
// mean.
type StateSink[V any] interface {
	// Insert makes rows durable.
	Insert(ctx context.Context, rows []clickhouse.State[V]) error
	// Probe reports whether Insert would refuse a row, and has no effect.
	Probe(ctx context.Context, rows []clickhouse.State[V]) error
	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
}

// StateDecoder reads the value of a record. Its errors are permanent, except
// those of the schema registry.
type StateDecoder[V any] interface {
	Decode(ctx context.Context, value []byte) (V, error)
}

// StateDeps say which topic of states goes where. All are required.
type StateDeps[V any] struct {
	// NewClient makes the consumer's client, such as kafka.Clients.Group.
	NewClient pending.NewClient
	Table     string // as analysts call it; ends the name of the group
	Topic     string // compacted; all records of a key are in one partition
	Sink      StateSink[V]
	Decoder   StateDecoder[V]
	// Key reads a key, for a record without a value, which removes it.
	Key    func(key []byte) (V, bool)
	Parker Parker
	Meter  metric.Meter
	Logger *slog.Logger
	Now    func() time.Time
}

// States loads one topic of states.
type States[V any] struct {
	consumer[clickhouse.State[V]]
}

// NewStates checks its arguments and does nothing else.
func NewStates[V any](cfg Config, deps StateDeps[V]) (*States[V], error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	if deps.NewClient == nil || deps.Table == "" || deps.Topic == "" || deps.Sink == nil || deps.Decoder == nil ||
		deps.Key == nil || deps.Parker == nil || deps.Meter == nil || deps.Logger == nil || deps.Now == nil {
		return nil, fmt.Errorf("loader: states %q: %w", deps.Table, errors.New("a dependency is missing"))
	}
	s := &States[V]{}
	err := s.open(deps.Topic, StateGroup(cfg.Group, deps.Table), cfg.states(), consumerDeps[clickhouse.State[V]]{
		newClient: deps.NewClient, meter: deps.Meter,
		table: table[clickhouse.State[V]]{
			name:   deps.Table,
			decode: deps.decode,
			insert: func(ctx context.Context, _ string, rows []clickhouse.State[V]) error {
				return deps.Sink.Insert(ctx, rows)
			},
			probe:  deps.Sink.Probe,
			ping:   deps.Sink.Ping,
			known:  func(_ *clickhouse.State[V], r *kgo.Record) time.Time { return r.Timestamp },
			parker: deps.Parker, logger: deps.Logger, now: deps.Now,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("loader: states %q: %w", deps.Table, err)
	}
	return s, nil
}

// StateGroup is the consumer group of a table of states.
func StateGroup(group, table string) string { return group + "." + table }

func (d StateDeps[V]) decode(ctx context.Context, r *kgo.Record) (state clickhouse.State[V], err error) {
	state.Partition, state.Offset = r.Partition, r.Offset
	if r.Value == nil {
		var ok bool
		if state.Value, ok = d.Key(r.Key); !ok {
			return state, fault.Permanentf(fault.BadValue, "the key of %d bytes, without a value, is not one", len(r.Key))
		}
		state.Deleted = true
		return state, nil
	}
	state.Value, err = d.Decoder.Decode(ctx, r.Value)
	return state, err
}
