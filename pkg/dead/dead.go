// Package dead reads the dead-letter topic and sends letters through the code of
// today.
//
// A letter of the normalizer is retried by its raw record, once more into the raw
// topic: what was published of it before is dropped there as a copy, within the
// dedup window. A letter of the loader is inserted into ClickHouse. Either way a
// closing mark in the dead-letter topic keeps it from being retried again; it is
// written in the transaction that writes the raw record, or after the insert,
// whose token comes from the letter's origin.
//
// Letters are written at least once. Two of one origin are one here. The package
// decides nothing about what is a letter; the services do.
package dead

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/raw"
)

// Headers that this package writes.
const (
	HeaderCloses       = "closes"        // of a closing mark: partition/offset of the letter
	HeaderClosesOrigin = "closes_origin" // of a closing mark: origin of the letter
	HeaderRetryOf      = "retry_of"      // of a raw record: origin of the letters that it is a retry of
)

// Stages that leave letters.
const (
	StageNormalizer = "normalizer"
	StageLoader     = "loader"
)

// Place is a record of the dead-letter topic.
type Place struct {
	Partition int32
	Offset    int64
}

func (p Place) String() string { return fmt.Sprintf("%d/%d", p.Partition, p.Offset) }

// ParsePlace reads PARTITION/OFFSET.
func ParsePlace(text string) (Place, error) {
	partition, offset, ok := strings.Cut(text, "/")
	p, err := strconv.ParseUint(partition, 10, 31)
	o, err2 := strconv.ParseUint(offset, 10, 63)
	if !ok || err != nil || err2 != nil {
		return Place{}, fmt.Errorf("letter %q is not PARTITION/OFFSET, as in 0/17", text)
	}
	return Place{int32(p), int64(o)}, nil
}

// Letter is what the headers of a dead letter say.
type Letter struct {
	Place
	At                     time.Time
	Stage, Reason, Error   string
	Provider, Source       string
	Origin                 string // topic/partition/offset, and #element
	Bytes                  int
	Closed                 bool // retried
	key                    []byte
	fromTopic              string
	from                   Place
	element                int32 // -1: all of the record
	originKnown, decodable bool
	event                  event.Event
}

// id is the same for two letters of one origin.
func (l Letter) id() string {
	if l.Origin == "" {
		return l.Place.String()
	}
	return l.Stage + " " + l.Origin
}

// Filter says which letters. The zero value is all that are open.
type Filter struct {
	Reasons, Stages, Providers, Sources []string // any of them; empty lists let everything through
	Places                              []Place
	From, To                            kafka.Moment // To: the zero value is the end
	All                                 bool         // closed ones, too
	Limit                               int          // 0: none
}

func (f Filter) lets(l Letter) bool {
	in := func(list []string, value string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, value) })
	}
	return (f.All || !l.Closed) && in(f.Reasons, l.Reason) && in(f.Stages, l.Stage) && in(f.Providers, l.Provider) &&
		in(f.Sources, l.Source) && (len(f.Places) == 0 || slices.Contains(f.Places, l.Place))
}

// Refusal is an element that the code of today cannot read, either.
type Refusal struct {
	Index         int32 // -1: all of the record
	Reason, Error string
}

// Made is what a raw record becomes today.
type Made struct {
	ReceivedAt time.Time
	Events     []int32 // element of each event
	Refused    []Refusal
}

// Table is where letters of the loader go.
type Table interface {
	// Insert makes rows durable, once for each token. A permanent error means
	// that they are refused.
	Insert(ctx context.Context, token string, rows []event.Event) error
	// Has reports whether the event is there.
	Has(ctx context.Context, id event.ID) (bool, error)
}

// Deps are what a box needs. All are required.
type Deps struct {
	Clients         *kafka.Clients
	Topics          kafka.Topics
	NormalizerGroup string
	// TransactionalID is the same for every retry on the cluster: the newer one
	// ends the older, so no letter is retried by two.
	TransactionalID string
	// DedupWindow is how long the normalizer knows what it has published.
	DedupWindow time.Duration
	// Transform says what a raw record becomes.
	Transform func(*kgo.Record) Made
	// Decode reads a canonical record.
	Decode func(ctx context.Context, value []byte) (event.Event, error)
	Table  Table
	Now    func() time.Time
}

// Box is the dead-letter topic.
type Box struct{ deps Deps }

// New checks its arguments and does nothing else.
func New(deps Deps) (*Box, error) {
	if deps.Clients == nil || deps.Topics.Dead == "" || deps.NormalizerGroup == "" || deps.TransactionalID == "" ||
		deps.Transform == nil || deps.Decode == nil || deps.Table == nil || deps.Now == nil {
		return nil, errors.New("dead: a dependency is missing")
	}
	return &Box{deps}, nil
}

// errEnough ends a reading before its end.
var errEnough = errors.New("enough")

// List returns letters, the oldest first. More says that the limit left some
// out.
func (b *Box) List(ctx context.Context, f Filter) (letters []Letter, more bool, err error) {
	to := f.To
	if to == kafka.Start() {
		to = kafka.End()
	}
	span, err := b.deps.Clients.Span(ctx, b.deps.Topics.Dead, f.From, to)
	if err != nil {
		return nil, false, fmt.Errorf("dead: %w", err)
	}
	// A letter is closed after it was written: read to the end for that.
	closed, err := b.closed(ctx, span.From)
	if err != nil {
		return nil, false, fmt.Errorf("dead: %w", err)
	}
	known := map[string]bool{}
	err = b.deps.Clients.Read(ctx, span, func(r *kgo.Record) error {
		l, ok := b.read(ctx, r)
		if !ok || known[l.id()] && len(f.Places) == 0 {
			return nil
		}
		_, l.Closed = closed[l.id()]
		if !f.lets(l) {
			return nil
		}
		if f.Limit > 0 && len(letters) == f.Limit {
			more = true
			return errEnough
		}
		known[l.id()] = true
		letters = append(letters, l)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, false, fmt.Errorf("dead: %w", err)
	}
	slices.SortStableFunc(letters, func(a, b Letter) int { return a.At.Compare(b.At) })
	return letters, more, nil
}

// closed returns the ids of the letters that have a closing mark.
func (b *Box) closed(ctx context.Context, from map[int32]int64) (map[string]struct{}, error) {
	span, err := b.deps.Clients.Span(ctx, b.deps.Topics.Dead, kafka.Start(), kafka.End())
	if err != nil {
		return nil, err
	}
	for p, offset := range from {
		span.From[p] = max(span.From[p], offset)
	}
	closed := map[string]struct{}{}
	err = b.deps.Clients.Read(ctx, span, func(r *kgo.Record) error {
		if place := kafka.HeaderOf(r, HeaderCloses); place != "" {
			closed[place] = struct{}{}
			closed[kafka.HeaderOf(r, HeaderClosesOrigin)] = struct{}{}
		}
		return nil
	})
	return closed, err
}

// read reports what the headers say, and false for a closing mark.
func (b *Box) read(ctx context.Context, r *kgo.Record) (Letter, bool) {
	l := Letter{
		Place: Place{r.Partition, r.Offset}, At: r.Timestamp, Bytes: len(r.Value), key: r.Key,
		Stage: kafka.HeaderOf(r, kafka.HeaderStage), Reason: kafka.HeaderOf(r, kafka.HeaderReason), Error: kafka.HeaderOf(r, kafka.HeaderError),
		Origin: kafka.HeaderOf(r, kafka.HeaderOrigin), Provider: kafka.HeaderOf(r, raw.HeaderProvider), Source: kafka.HeaderOf(r, raw.HeaderSource),
	}
	if kafka.HeaderOf(r, HeaderCloses) != "" {
		return l, false
	}
	l.fromTopic, l.from, l.element, l.originKnown = parseOrigin(l.Origin)
	if l.Stage == StageLoader {
		// Its headers are those of a canonical record, which do not say the
		// provider. What does not decode stays without one.
		if e, err := b.deps.Decode(ctx, r.Value); err == nil {
			l.event, l.decodable, l.Provider, l.Source = e, true, e.Provider, e.Source
		}
	}
	return l, true
}

// Show returns a record of the dead-letter topic as it is.
func (b *Box) Show(ctx context.Context, at Place) (*kgo.Record, error) {
	var found *kgo.Record
	err := b.fetch(ctx, b.deps.Topics.Dead, []Place{at}, func(r *kgo.Record) error { found = r; return nil })
	if err != nil {
		return nil, fmt.Errorf("dead: %w", err)
	}
	if found == nil {
		return nil, fmt.Errorf("dead: %s has no letter %s: see `mailriver dead list`", b.deps.Topics.Dead, at)
	}
	return found, nil
}

// near is the distance of records that are read together.
const near = 200

// fetch calls each with the records of a topic that are still there.
func (b *Box) fetch(ctx context.Context, topic string, places []Place, each func(*kgo.Record) error) error {
	here, err := b.deps.Clients.Span(ctx, topic, kafka.Start(), kafka.End())
	if err != nil {
		return err
	}
	wanted := map[Place]bool{}
	var sorted []Place
	for _, p := range places {
		from, known := here.From[p.Partition]
		if known && p.Offset >= from && p.Offset < here.To[p.Partition] && !wanted[p] {
			wanted[p] = true
			sorted = append(sorted, p)
		}
	}
	slices.SortFunc(sorted, func(a, b Place) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		return int(min(1, max(-1, a.Offset-b.Offset)))
	})
	for i := 0; i < len(sorted); {
		first, last := sorted[i], sorted[i]
		for i++; i < len(sorted) && sorted[i].Partition == first.Partition && sorted[i].Offset-last.Offset <= near; i++ {
			last = sorted[i]
		}
		run := kafka.Span{
			Topic: topic, From: map[int32]int64{first.Partition: first.Offset}, To: map[int32]int64{first.Partition: last.Offset + 1},
		}
		err := b.deps.Clients.Read(ctx, run, func(r *kgo.Record) error {
			if !wanted[Place{r.Partition, r.Offset}] {
				return nil
			}
			return each(r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// parseOrigin reads topic/partition/offset, and #element if there is one.
func parseOrigin(text string) (topic string, at Place, element int32, ok bool) {
	text, index, indexed := strings.Cut(text, "#")
	element = -1
	if indexed {
		i, err := strconv.ParseInt(index, 10, 32)
		if err != nil {
			return "", Place{}, -1, false
		}
		element = int32(i)
	}
	slash := strings.IndexByte(text, '/')
	if slash < 0 {
		return "", Place{}, -1, false
	}
	at, err := ParsePlace(text[slash+1:])
	return text[:slash], at, element, err == nil
}

// Element returns the element that an origin names, -1 when it is all of the
// record.
func Element(origin string) int32 {
	_, _, element, _ := parseOrigin(origin)
	return element
}
