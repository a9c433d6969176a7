package clickhouse

import (
	"context"
	"strings"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	lib "github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"mailriver/pkg/fault"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
)

// State is what a record of a compacted topic says about its key, and where the
// record stands.
type State[V any] struct {
	// Value holds what names the key, and only that when the state is deleted.
	Value     V
	Deleted   bool
	Partition int32
	Offset    int64
}

// States writes to a table of states. Of the rows of a key the one with the
// highest offset counts, so rows may be inserted again and in any order. It needs
// no tokens, and nothing is lost of an insert that was acknowledged: what a
// killed server can lose of events is what the memory of tokens hides.
type States[V any] struct {
	client  *Client
	table   string
	columns []column[State[V]]
}

// Insert makes rows durable. After an error nothing is known.
func (s States[V]) Insert(ctx context.Context, rows []State[V]) error {
	return s.insert(ctx, s.table, rows)
}

// Probe reports whether ClickHouse would take the rows, without any effect.
func (s States[V]) Probe(ctx context.Context, rows []State[V]) error {
	return s.insert(ctx, s.table+"_probe", rows)
}

// Ping is [Client.Ping].
func (s States[V]) Ping(ctx context.Context) error { return s.client.Ping(ctx) }

func (s States[V]) insert(ctx context.Context, table string, rows []State[V]) error {
	// A replicated table remembers blocks without being asked to. It would
	// ignore what is inserted again after somebody emptied the table.
	return insertRows(ctx, s.client, table, s.columns, rows, driver.Settings{"insert_deduplicate": 0})
}

// Suppressions writes to suppression_states.
func (c *Client) Suppressions() States[suppressionavro.Record] {
	return States[suppressionavro.Record]{c, "suppression_states", suppressionColumns()}
}

// placeColumns are the last columns of every table of states.
func placeColumns[V any]() []column[State[V]] {
	return []column[State[V]]{
		number("state_partition", func(s *State[V]) int32 { return s.Partition }),
		{"state_offset", "UInt64", all(func(s *State[V]) uint64 { return uint64(s.Offset) })},
	}
}

// deletedColumn stands behind them where keys can be removed.
func deletedColumn[V any]() column[State[V]] {
	return column[State[V]]{"deleted", "UInt8", all(func(s *State[V]) uint8 {
		if s.Deleted {
			return 1
		}
		return 0
	})}
}

// domainOf is the part of an address behind its last @.
func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

// maybeUUID is an id that need not be there. Another text is refused.
func maybeUUID[T any](name string, get func(*T) string) column[T] {
	return column[T]{name, "Nullable(UUID)", func(to lib.BatchColumn, rows []T) error {
		values := make([]*uuid.UUID, len(rows))
		for i := range rows {
			var err error
			if values[i], err = parseUUID(name, get(&rows[i])); err != nil {
				return err
			}
		}
		return to.Append(values)
	}}
}

func parseUUID(name, text string) (*uuid.UUID, error) {
	if text == "" {
		return nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return nil, fault.Permanentf(fault.RowRefused, "column %s: is not a UUID", name)
	}
	return &id, nil
}

// arrayOf is a column of a nested table: an element for each E of a row. A nil
// element is NULL.
func arrayOf[T, E, V any](name, kind string, of func(*T) []E, get func(*E) (V, error)) column[T] {
	return column[T]{name, "Array(" + kind + ")", func(to lib.BatchColumn, rows []T) error {
		for i := range rows {
			elements := of(&rows[i])
			values := make([]V, len(elements))
			for j := range elements {
				var err error
				if values[j], err = get(&elements[j]); err != nil {
					return err
				}
			}
			if err := to.AppendRow(values); err != nil {
				return err
			}
		}
		return nil
	}}
}

// maybeInstantsOf is a column of a nested table of times that need not be set.
func maybeInstantsOf[T, E any](name string, of func(*T) []E, get func(*E) time.Time) column[T] {
	return arrayOf(name, "Nullable(DateTime64(6, 'UTC'))", of, func(e *E) (*time.Time, error) {
		t := get(e)
		if t.IsZero() {
			return nil, nil
		}
		return &t, inRange(name, t)
	})
}

type suppressionState = State[suppressionavro.Record]

// suppressionColumns lists the columns of suppression_states in its order. Names
// and units are those of the Avro schema.
func suppressionColumns() []column[suppressionState] {
	strongest := func(s *suppressionState) suppression.Entry {
		if len(s.Value.Entries) == 0 {
			return suppression.Entry{}
		}
		return s.Value.Entries[0]
	}
	weaker := func(s *suppressionState) []suppression.Entry {
		if len(s.Value.Entries) == 0 {
			return nil
		}
		return s.Value.Entries[1:]
	}
	words := func(name string, get func(*suppression.Entry) string) column[suppressionState] {
		return arrayOf("weaker."+name, "LowCardinality(String)", weaker,
			func(e *suppression.Entry) (string, error) { return get(e), nil })
	}
	instants := func(name string, get func(*suppression.Entry) time.Time) column[suppressionState] {
		return maybeInstantsOf("weaker."+name, weaker, get)
	}
	columns := []column[suppressionState]{
		word("domain", func(s *suppressionState) string { return domainOf(s.Value.Address) }),
		text("address", func(s *suppressionState) string { return s.Value.Address }),
		word("scope_kind", func(s *suppressionState) string { return s.Value.ScopeKind }),
		word("scope_id", func(s *suppressionState) string { return s.Value.ScopeID }),
		text("address_folded", func(s *suppressionState) string { return s.Value.Folded }),
		flag("suppressed", func(s *suppressionState) bool { return len(s.Value.Entries) > 0 }),
		word("reason", func(s *suppressionState) string { return string(strongest(s).Reason) }),
		maybeInstant("since", func(s *suppressionState) time.Time { return strongest(s).Since }),
		maybeInstant("expires_at", func(s *suppressionState) time.Time { return strongest(s).ExpiresAt }),
		word("provider", func(s *suppressionState) string { return strongest(s).Provider }),
		word("source", func(s *suppressionState) string { return strongest(s).Source }),
		maybeUUID("event_id", func(s *suppressionState) string { return strongest(s).EventID }),
		text("note", func(s *suppressionState) string { return strongest(s).Note }),
		words("reason", func(e *suppression.Entry) string { return string(e.Reason) }),
		instants("since", func(e *suppression.Entry) time.Time { return e.Since }),
		instants("expires_at", func(e *suppression.Entry) time.Time { return e.ExpiresAt }),
		words("provider", func(e *suppression.Entry) string { return e.Provider }),
		words("source", func(e *suppression.Entry) string { return e.Source }),
		arrayOf("weaker.event_id", "Nullable(UUID)", weaker, func(e *suppression.Entry) (*uuid.UUID, error) {
			return parseUUID("weaker.event_id", e.EventID)
		}),
		arrayOf("weaker.note", "String", weaker, func(e *suppression.Entry) (string, error) { return e.Note, nil }),
		{"facts", "UInt32", all(func(s *suppressionState) uint32 { return uint32(len(s.Value.Facts)) })},
		word("policy", func(s *suppressionState) string { return s.Value.Policy }),
		instant("updated_at", func(s *suppressionState) time.Time {
			if len(s.Value.Facts) == 0 {
				return time.Time{}
			}
			return s.Value.Facts[len(s.Value.Facts)-1].At
		}),
	}
	return append(append(columns, placeColumns[suppressionavro.Record]()...), deletedColumn[suppressionavro.Record]())
}
