// Package audit balances the books: what the raw topic should have become
// against the canonical and the dead-letter topic, and these against the rows of
// ClickHouse.
//
// It compares counts and order-free hashes by window of raw offsets first, and
// event by event only where they differ, and names what is missing, doubled or
// there without a reason. What has not been worked on yet, by the committed
// offsets of the groups, is in flight and no error.
//
// It changes nothing anywhere, and knows neither providers nor tables: what a
// raw record should have become comes from Transform, and what ClickHouse holds
// from a [Warehouse].
//
// Memory does not grow with the span. The canonical events of one pass are held,
// about 150 bytes each, at most Options.MaxEvents of them; a longer span takes
// several passes over the topics, each for its share of the event ids. Beside
// them about 100 bytes are held for each dead letter of the span, up to
// maxLetters, and for each window.
package audit

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
)

// Kinds of findings. Each is an error in the books.
const (
	EventMissing     = "event_missing"     // raw has it, the canonical topic does not, and no letter says why
	EventDoubled     = "event_doubled"     // twice in the canonical topic, in one revision
	EventUnexpected  = "event_unexpected"  // canonical, but not what its raw record becomes
	LetterMissing    = "letter_missing"    // should be a dead letter and is none
	RecordUnreadable = "record_unreadable" // canonical record that does not decode, and no letter says so
	RowMissing       = "row_missing"       // canonical, but not in ClickHouse
	RowDoubled       = "row_doubled"       // several rows of one event
	RowStale         = "row_stale"         // an older revision than the canonical one
	RowUnexpected    = "row_unexpected"    // in ClickHouse, but not canonical
	RollupDiffers    = "rollup_differs"    // events_hourly does not add up to events
)

// Finding names one thing that is wrong.
type Finding struct {
	Kind    string `json:"kind"`
	EventID string `json:"event_id,omitempty"`
	// Origin is the raw record, or the canonical one of a record_unreadable.
	Origin string `json:"origin,omitempty"`
	Detail string `json:"detail"`
}

// Partition is the book of one partition of the raw topic. Events = Published +
// Duplicates + Lettered + Missing.
type Partition struct {
	Partition  int32 `json:"partition"`
	From       int64 `json:"from"`       // first offset
	To         int64 `json:"to"`         // behind the last one
	Requests   int64 `json:"requests"`   // raw records
	Events     int64 `json:"events"`     // that they say, copies included
	Published  int64 `json:"published"`  // events that are canonical by this partition
	Duplicates int64 `json:"duplicates"` // that another record has published
	Lettered   int64 `json:"lettered"`   // that are a dead letter, and could be read today
	Letters    int64 `json:"letters"`    // dead letters, as expected
	Missing    int64 `json:"missing"`    // events that are nowhere
	Rows       int64 `json:"rows"`       // in ClickHouse
	// RawInFlight are raw records that the normalizer has not committed yet
	// (offsets, when they are many), and RowsInFlight events that the loader has
	// not.
	RawInFlight  int64 `json:"raw_in_flight"`
	RowsInFlight int64 `json:"rows_in_flight"`
	// RowsLettered are events in a dead letter of the loader.
	RowsLettered int64 `json:"rows_lettered"`
}

// Books are the outcome of an audit.
type Books struct {
	Partitions []Partition      `json:"partitions"`
	Findings   []Finding        `json:"findings"` // at most Options.Limit of each kind
	Found      map[string]int64 `json:"found"`    // all of them, by kind
	Passes     int              `json:"passes"`
}

// Balanced reports whether nothing is wrong.
func (b Books) Balanced() bool { return len(b.Found) == 0 }

// Total adds the partitions up.
func (b Books) Total() Partition {
	var t Partition
	for _, p := range b.Partitions {
		t.Requests += p.Requests
		t.Events += p.Events
		t.Published += p.Published
		t.Duplicates += p.Duplicates
		t.Lettered += p.Lettered
		t.Letters += p.Letters
		t.Missing += p.Missing
		t.Rows += p.Rows
		t.RawInFlight += p.RawInFlight
		t.RowsInFlight += p.RowsInFlight
		t.RowsLettered += p.RowsLettered
	}
	return t
}

// Expected is an event that a raw record says.
type Expected struct {
	ID    event.ID
	Index int32 // element of the request
}

// Made is what a raw record becomes.
type Made struct {
	ReceivedAt time.Time
	Events     []Expected
	Letters    []string // origins of its dead letters
}

// Row is what ClickHouse holds of an event at one raw record.
type Row struct {
	ID        event.ID
	Partition int32 // of the raw record
	Offset    int64
	Count     uint64
	Revision  int32 // the highest
}

// Sum is what ClickHouse holds of a window of raw offsets.
type Sum struct {
	Partition int32
	Window    int64 // raw offset divided by the size of a window
	Count     uint64
	Hash      uint64 // see [Hash]
}

// Query says which rows.
type Query struct {
	Span     kafka.Span // of the raw topic
	Size     int64      // of a window
	Windows  [][2]int64 // partition and window; empty is all of the span
	From, To time.Time  // bounds of received_at, both included
	Part, Of uint64     // ids whose first half is Part modulo Of
}

// Rollup is a group of which events_hourly holds another number than events.
type Rollup struct {
	Month             uint32
	Source, EventType string
	Events, Hourly    int64
}

// Warehouse answers about the rows of ClickHouse.
type Warehouse interface {
	// Sums adds the rows up by window.
	Sums(ctx context.Context, q Query) ([]Sum, error)
	// Rows calls each with every event of the windows.
	Rows(ctx context.Context, q Query, each func(Row) error) error
	// Find returns the rows of the given events, from any raw record.
	Find(ctx context.Context, ids []event.ID) ([]Row, error)
	// Rollups returns the groups of the months of received_at that differ.
	Rollups(ctx context.Context, from, to time.Time) ([]Rollup, error)
}

// Hash is the share of a row in a [Sum]: the first half of the id, and the
// revision. Shares are added with wrap-around, so their order does not matter
// and a double does not cancel out.
func Hash(id event.ID, revision int32) uint64 {
	return half(id) + uint64(uint32(revision))*revisionFactor
}

// revisionFactor spreads a small number over all bits: 2^64 over the golden
// ratio.
const revisionFactor = 0x9E3779B97F4A7C15

func half(id event.ID) uint64 {
	var n uint64
	for _, b := range id[:8] {
		n = n<<8 | uint64(b)
	}
	return n
}

// Deps are what an audit reads. All are required.
type Deps struct {
	Clients         *kafka.Clients
	Topics          kafka.Topics
	NormalizerGroup string
	LoaderGroup     string
	// Transform says what a raw record becomes. It is called from several
	// goroutines.
	Transform func(*kgo.Record) Made
	// Decode reads a canonical record, from several goroutines too. Its errors
	// are permanent, except those of the schema registry.
	Decode    func(ctx context.Context, value []byte) (event.Event, error)
	Warehouse Warehouse
}

// Options say what to audit. The zero value is everything.
type Options struct {
	From kafka.Moment // by the time of the raw records
	To   kafka.Moment // the zero value is the end, not the start
	// MaxEvents bounds the canonical events held at a time; 0 is 1,000,000.
	MaxEvents int64
	// Limit bounds the findings that are named, of each kind; 0 is 100.
	Limit int
	// Window is the number of raw offsets that are added up; 0 is 10,000.
	Window int64
	// Progress, if set, is told of records that were read.
	Progress func(records int)
}

// Auditor audits.
type Auditor struct{ deps Deps }

// New checks its arguments and does nothing else.
func New(deps Deps) (*Auditor, error) {
	if deps.Clients == nil || deps.Topics.Raw == "" || deps.NormalizerGroup == "" || deps.LoaderGroup == "" ||
		deps.Transform == nil || deps.Decode == nil || deps.Warehouse == nil {
		return nil, errors.New("audit: a dependency is missing")
	}
	return &Auditor{deps}, nil
}
