package rates

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

// book are the counters of one partition.
type book struct {
	cells  map[cell]Counts
	newest hour
}

func newBook() *book { return &book{cells: map[cell]Counts{}} }

func (b *book) set(c cell, n Counts) {
	b.cells[c] = n
	b.newest = max(b.newest, c.hour)
}

// prune forgets what has left the window of this partition, and so every one.
func (b *book) prune(window int64) {
	maps.DeleteFunc(b.cells, func(c cell, _ Counts) bool { return c.hour <= b.newest-hour(window) })
}

// books are those of the partitions that this instance counts.
type books struct {
	window int64 // hours

	mu          sync.Mutex
	byPartition map[int32]*book
	turns       map[int32]int // how often a partition was assigned
}

func newBooks(window int64) *books {
	return &books{window: window, byPartition: map[int32]*book{}, turns: map[int32]int{}}
}

// assigned forgets the books of newly assigned partitions: another instance may
// have counted meanwhile.
func (b *books) assigned(partitions []int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range partitions {
		b.turns[p]++
		delete(b.byPartition, p)
	}
}

// open returns the books of partitions, nil for one that must be restored, and
// the turns that they belong to.
func (b *books) open(partitions []int32) (map[int32]*book, map[int32]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	opened, turns := map[int32]*book{}, map[int32]int{}
	for _, p := range partitions {
		opened[p], turns[p] = b.byPartition[p], b.turns[p]
	}
	return opened, turns
}

// keep puts restored books in their places.
func (b *books) keep(restored map[int32]*book, turns map[int32]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, restored := range restored {
		if b.turns[p] == turns[p] {
			b.byPartition[p] = restored
		}
	}
}

// check returns an error when a partition was assigned again since.
func (b *books) check(turns map[int32]int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, turn := range turns {
		if b.turns[p] != turn {
			return fmt.Errorf("partition %d was assigned again", p)
		}
	}
	return nil
}

// write takes over what was committed.
func (b *books) write(entries map[int32]map[cell]Counts, turns map[int32]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, cells := range entries {
		written := b.byPartition[p]
		if written == nil || b.turns[p] != turns[p] {
			continue
		}
		newest := written.newest
		for c, n := range cells {
			written.set(c, n)
		}
		if written.newest != newest {
			written.prune(b.window)
		}
	}
}

// tally is what the events of one batch count for.
type tally struct {
	byPartition      map[int32][]entry
	late, unreadable int64
}

type entry struct {
	cell
	Counts
}

// count is one transaction: it reads events and writes the counters that they
// change.
func (s *Service) count(ctx context.Context, batch []*kgo.Record) (kafka.Outcome, error) {
	t, err := s.tally(ctx, batch)
	if err != nil {
		return kafka.Outcome{}, err
	}
	partitions := slices.Sorted(maps.Keys(t.byPartition))
	opened, turns := s.books.open(partitions)
	if err := s.restore(ctx, opened, turns); err != nil {
		return kafka.Outcome{}, err
	}
	var out kafka.Outcome
	entries := map[int32]map[cell]Counts{}
	var total Counts
	for _, p := range partitions {
		changed, newest := map[cell]Counts{}, opened[p].newest
		for _, e := range t.byPartition[p] {
			// What is out of this partition's window is out of every window that
			// is yet to come. Its counter may have been forgotten.
			newest = max(newest, e.hour)
			if e.hour <= newest-hour(s.cfg.hours()) {
				t.late++
				continue
			}
			before, known := changed[e.cell]
			if !known {
				before = opened[p].cells[e.cell]
			}
			changed[e.cell] = before.plus(e.Counts)
			total = total.plus(e.Counts)
		}
		records, err := s.counters(p, changed)
		if err != nil {
			return kafka.Outcome{}, err
		}
		out.Records = append(out.Records, records...)
		entries[p] = changed
	}
	out.Check = func(context.Context) error { return s.books.check(turns) }
	out.Done = func(committed bool) {
		if committed {
			s.books.write(entries, turns)
			s.metrics.counted(ctx, total, t)
		}
	}
	return out, nil
}

func (s *Service) tally(ctx context.Context, batch []*kgo.Record) (tally, error) {
	t := tally{byPartition: map[int32][]entry{}}
	for _, r := range batch {
		e, err := s.deps.Events.Decode(ctx, r.Value)
		if _, permanent := fault.Reason(err); permanent {
			t.unreadable++
			continue
		}
		if err != nil {
			return tally{}, fmt.Errorf("decode %s: %w", kafka.Origin(r), err)
		}
		if c, one, ok := factOf(&e); ok {
			t.byPartition[r.Partition] = append(t.byPartition[r.Partition], entry{c, one})
		}
	}
	return t, nil
}

// counters are the records of changed counters, in the order of their keys.
func (s *Service) counters(partition int32, changed map[cell]Counts) ([]*kgo.Record, error) {
	records := make([]*kgo.Record, 0, len(changed))
	for c, n := range changed {
		value, err := json.Marshal(n)
		if err != nil {
			return nil, fmt.Errorf("counter of %s: %w", c.sender, err)
		}
		records = append(records, &kgo.Record{Topic: s.deps.Topics.Rates, Key: []byte(keyOf(partition, c)), Value: value})
	}
	slices.SortFunc(records, func(a, b *kgo.Record) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return records, nil
}

// restore reads the counters of the books that are nil out of the rates topic.
//
// The offsets of a partition are handed to its new owner when the transaction
// that committed them is decided; its records stand in the topic by then, but may
// not be visible yet. So what is open now is waited for before the end is asked.
func (s *Service) restore(ctx context.Context, opened map[int32]*book, turns map[int32]int) error {
	restored := map[int32]*book{}
	for p, b := range opened {
		if b == nil {
			restored[p] = newBook()
		}
	}
	if len(restored) == 0 {
		return nil
	}
	_, err := s.counted(ctx, func(p int32, c cell, n Counts) {
		if b := restored[p]; b != nil {
			b.set(c, b.cells[c].greater(n))
		}
	})
	if err != nil {
		return fmt.Errorf("restore counters: %w", err)
	}
	for _, b := range restored {
		b.prune(s.cfg.hours())
	}
	maps.Copy(opened, restored)
	s.books.keep(restored, turns)
	return nil
}

// counted calls each with every counter that is written now, and returns where
// the topic goes on.
func (s *Service) counted(ctx context.Context, each func(partition int32, c cell, n Counts)) (map[int32]int64, error) {
	if err := s.deps.Clients.Settle(ctx, s.deps.Topics.Rates); err != nil {
		return nil, err
	}
	span, err := s.deps.Clients.Span(ctx, s.deps.Topics.Rates, kafka.Start(), kafka.End())
	if err != nil {
		return nil, err
	}
	err = s.deps.Clients.Read(ctx, span, func(r *kgo.Record) error {
		s.counter(ctx, r, each)
		return nil
	})
	return span.To, err
}

// counter reads one record of the rates topic. One that this build does not
// understand is not of this package, and left out.
func (s *Service) counter(ctx context.Context, r *kgo.Record, each func(partition int32, c cell, n Counts)) {
	p, c, n, err := parseCounter(r.Key, r.Value)
	if err != nil {
		s.deps.Logger.WarnContext(ctx, "record of the rates topic left out", "partition", r.Partition, "offset", r.Offset, "err", err)
		return
	}
	each(p, c, n)
}
