package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

const (
	maxEvents  = 1_000_000
	maxLetters = 5_000_000
	maxNamed   = 100
	windowSize = 10_000
	// lookUp is how many events ClickHouse is asked for at a time.
	lookUp = 1000
	// windowsAtOnce is how many windows are compared event by event in one query.
	windowsAtOnce = 50
)

// entry is a canonical event: its latest revision.
type entry struct {
	raw       place // where it comes from
	at        place // where it is
	revision  int32
	here      bool // the raw record is in the audited topic
	explained bool // a raw record of the span says it
	seen      bool // a row was met
}

// audit is one run.
type audit struct {
	*Auditor
	opt   Options
	spans spans
	books Books
	byP   map[int32]*Partition

	letters     map[element]bool   // letters of the normalizer by origin
	loaderDead  map[place]struct{} // canonical records in a letter of the loader
	first, last time.Time          // bounds of received_at

	of, part uint64
	events   map[event.ID]entry
	lost     []expectation // not canonical in this pass
}

type expectation struct {
	Expected
	from place
}

// Run audits once. Only what cannot be read is an error: see [Books.Balanced].
func (a *Auditor) Run(ctx context.Context, opt Options) (Books, error) {
	if opt.MaxEvents <= 0 {
		opt.MaxEvents = maxEvents
	}
	if opt.Limit <= 0 {
		opt.Limit = maxNamed
	}
	if opt.Window <= 0 {
		opt.Window = windowSize
	}
	r := &audit{
		Auditor: a, opt: opt, books: Books{Findings: []Finding{}, Found: map[string]int64{}}, byP: map[int32]*Partition{},
		letters: map[element]bool{}, loaderDead: map[place]struct{}{},
	}
	var err error
	if r.spans, err = a.locate(ctx, opt); err != nil {
		return Books{}, fmt.Errorf("audit: %w", err)
	}
	inFlight, err := a.rawInFlight(ctx, r.spans)
	if err != nil {
		return Books{}, fmt.Errorf("audit: raw records in flight: %w", err)
	}
	for p, from := range r.spans.raw.From {
		r.byP[p] = &Partition{Partition: p, From: from, To: r.spans.raw.To[p], RawInFlight: inFlight[p]}
	}
	if err := r.readLetters(ctx); err != nil {
		return Books{}, fmt.Errorf("audit: dead letters: %w", err)
	}
	r.of = uint64(max(1, (r.spans.events.Len()+opt.MaxEvents-1)/opt.MaxEvents))
	r.books.Passes = int(r.of)
	for r.part = 0; r.part < r.of; r.part++ {
		if err := r.pass(ctx); err != nil {
			return Books{}, fmt.Errorf("audit: %w", err)
		}
	}
	if !r.first.IsZero() {
		if err := r.rollups(ctx); err != nil {
			return Books{}, fmt.Errorf("audit: %w", err)
		}
	}
	for _, p := range r.byP {
		r.books.Partitions = append(r.books.Partitions, *p)
	}
	slices.SortFunc(r.books.Partitions, func(a, b Partition) int { return int(a.Partition) - int(b.Partition) })
	slices.SortStableFunc(r.books.Findings, func(a, b Finding) int {
		return strings.Compare(a.Kind+a.Origin+a.EventID, b.Kind+b.Origin+b.EventID)
	})
	return r.books, nil
}

func (r *audit) find(kind string, id event.ID, origin, detail string) {
	r.books.Found[kind]++
	if r.books.Found[kind] > int64(r.opt.Limit) {
		return
	}
	f := Finding{Kind: kind, Origin: origin, Detail: detail}
	if !id.IsZero() {
		f.EventID = id.String()
	}
	r.books.Findings = append(r.books.Findings, f)
}

// covers reports whether a raw record is in the audited span, and its book.
func (r *audit) covers(at place) (*Partition, bool) {
	p, ok := r.byP[at.partition]
	return p, ok && at.offset >= p.From && at.offset < p.To
}

func (r *audit) readLetters(ctx context.Context) error {
	return r.deps.Clients.Read(ctx, r.spans.dead, func(k *kgo.Record) error {
		origin := kafka.HeaderOf(k, kafka.HeaderOrigin)
		if at, ok := parseOrigin(r.deps.Topics.Raw, origin); ok {
			if _, covered := r.covers(at.place); covered {
				r.letters[at] = true
			}
		} else if at, ok := parseOrigin(r.deps.Topics.Events, origin); ok {
			r.loaderDead[at.place] = struct{}{}
		}
		if len(r.letters)+len(r.loaderDead) > maxLetters {
			return fmt.Errorf("more than %d letters: audit a shorter time", maxLetters)
		}
		return nil
	})
}

// pass audits the event ids of one part.
func (r *audit) pass(ctx context.Context) error {
	r.events = map[event.ID]entry{}
	if err := r.readEvents(ctx); err != nil {
		return fmt.Errorf("canonical events: %w", err)
	}
	if err := r.readRaw(ctx); err != nil {
		return fmt.Errorf("raw records: %w", err)
	}
	if err := r.lookUpLost(ctx); err != nil {
		return err
	}
	for id, e := range r.events {
		if _, covered := r.covers(e.raw); covered && e.here && !e.explained {
			r.find(EventUnexpected, id, e.raw.in(r.deps.Topics.Raw), "canonical at "+e.at.in(r.deps.Topics.Events)+", but its raw record does not say it")
		}
	}
	if r.first.IsZero() {
		return nil // nothing in the span says an event
	}
	return r.compareRows(ctx)
}

func (r *audit) readEvents(ctx context.Context) error {
	type decoded struct {
		id     event.ID
		entry  entry
		reason string
	}
	work := func(k *kgo.Record) (decoded, error) {
		e, err := r.deps.Decode(ctx, k.Value)
		if reason, permanent := fault.Reason(err); permanent {
			return decoded{reason: reason}, nil
		}
		if err != nil {
			return decoded{}, err
		}
		return decoded{id: e.ID, entry: entry{
			raw: place{e.RawPartition, e.RawOffset}, at: place{k.Partition, k.Offset}, revision: e.Revision,
			here: e.RawTopic == r.deps.Topics.Raw,
		}}, nil
	}
	return readEach(ctx, r.deps.Clients, r.spans.events, r.opt.Progress, work, func(k *kgo.Record, d decoded) error {
		at := place{k.Partition, k.Offset}
		if d.reason != "" {
			_, lettered := r.loaderDead[at]
			if r.part == 0 && !lettered && at.offset < r.spans.loaded[at.partition] {
				r.find(RecordUnreadable, event.ID{}, at.in(r.deps.Topics.Events), "does not decode ("+d.reason+"), and no dead letter says so")
			}
			return nil
		}
		if half(d.id)%r.of != r.part {
			return nil
		}
		old, exists := r.events[d.id]
		switch {
		case !exists || d.entry.revision > old.revision:
			r.events[d.id] = d.entry
		case d.entry.revision == old.revision:
			if r.inSpan(old) || r.inSpan(d.entry) {
				r.find(EventDoubled, d.id, d.entry.raw.in(r.deps.Topics.Raw), fmt.Sprintf("canonical at %s and %s, the first from %s",
					old.at.in(r.deps.Topics.Events), at.in(r.deps.Topics.Events), old.raw.in(r.deps.Topics.Raw)))
			}
		}
		return nil
	})
}

func (r *audit) inSpan(e entry) bool {
	_, covered := r.covers(e.raw)
	return covered && e.here
}

func (r *audit) readRaw(ctx context.Context) error {
	work := func(k *kgo.Record) (Made, error) { return r.deps.Transform(k), nil }
	return readEach(ctx, r.deps.Clients, r.spans.raw, r.opt.Progress, work, func(k *kgo.Record, made Made) error {
		at := place{k.Partition, k.Offset}
		book, covered := r.covers(at)
		if !covered {
			return nil
		}
		if r.part == 0 {
			book.Requests++
			r.checkLetters(book, at, made)
		}
		if !made.ReceivedAt.IsZero() {
			if r.first.IsZero() || made.ReceivedAt.Before(r.first) {
				r.first = made.ReceivedAt
			}
			if made.ReceivedAt.After(r.last) {
				r.last = made.ReceivedAt
			}
		}
		for _, expected := range made.Events {
			if half(expected.ID)%r.of != r.part {
				continue
			}
			book.Events++
			e, canonical := r.events[expected.ID]
			switch {
			case !canonical:
				r.lost = append(r.lost, expectation{expected, at})
				if len(r.lost) == lookUp {
					if err := r.lookUpLost(ctx); err != nil {
						return err
					}
				}
				continue
			case e.here && e.raw == at && !e.explained:
				book.Published++
				e.explained = true
				r.events[expected.ID] = e
			default:
				book.Duplicates++
			}
		}
		return nil
	})
}

func (r *audit) checkLetters(book *Partition, at place, made Made) {
	told := map[element]bool{}
	for _, origin := range made.Letters {
		e, ok := parseOrigin(r.deps.Topics.Raw, origin)
		if !ok || told[e] {
			continue
		}
		told[e] = true
		if r.letters[e] || r.letters[element{at, -1}] {
			book.Letters++
			continue
		}
		r.find(LetterMissing, event.ID{}, origin, "cannot be read, and no dead letter says so")
	}
}

// lookUpLost decides about events that the canonical topic does not hold: a dead
// letter, a copy of an event before the span, or missing.
func (r *audit) lookUpLost(ctx context.Context) error {
	if len(r.lost) == 0 {
		return nil
	}
	lost := r.lost
	r.lost = r.lost[:0:0]
	var ids []event.ID
	for _, l := range lost {
		ids = append(ids, l.ID)
	}
	rows, err := r.deps.Warehouse.Find(ctx, ids)
	if err != nil {
		return err
	}
	type known struct{ elsewhere, here bool }
	found := map[event.ID]known{}
	for _, row := range rows {
		k := found[row.ID]
		if _, covered := r.covers(place{row.Partition, row.Offset}); covered {
			k.here = true
		} else {
			k.elsewhere = true
		}
		found[row.ID] = k
	}
	for _, l := range lost {
		book := r.byP[l.from.partition]
		switch {
		case r.letters[element{l.from, l.Index}] || r.letters[element{l.from, -1}]:
			book.Lettered++
		case found[l.ID].elsewhere:
			book.Duplicates++
		default:
			detail := "not in " + r.deps.Topics.Events + ", and no dead letter says why"
			if found[l.ID].here {
				detail += "; ClickHouse has it"
			}
			book.Missing++
			r.find(EventMissing, l.ID, fmt.Sprintf("%s#%d", l.from.in(r.deps.Topics.Raw), l.Index), detail)
		}
	}
	return nil
}

// window is a part of a raw partition.
type window struct {
	partition int32
	number    int64
}

// balance is what a window must and may hold.
type balance struct {
	count, hash       uint64 // must
	mayCount, mayHash uint64 // may
}

// must reports whether ClickHouse must hold the event.
func (r *audit) must(e entry) bool {
	_, lettered := r.loaderDead[e.at]
	return !lettered && e.at.offset < r.spans.loaded[e.at.partition]
}

func (r *audit) compareRows(ctx context.Context) error {
	q := Query{Span: r.spans.raw, Size: r.opt.Window, From: r.first, To: r.last, Part: r.part, Of: r.of}
	want := map[window]balance{}
	for id, e := range r.events {
		book, covered := r.covers(e.raw)
		if !covered || !e.here {
			continue
		}
		w := window{e.raw.partition, e.raw.offset / r.opt.Window}
		b := want[w]
		if r.must(e) {
			b.count++
			b.hash += Hash(id, e.revision)
		} else {
			b.mayCount++
			b.mayHash += Hash(id, e.revision)
			if _, lettered := r.loaderDead[e.at]; lettered {
				book.RowsLettered++
			} else {
				book.RowsInFlight++
			}
		}
		want[w] = b
	}
	sums, err := r.deps.Warehouse.Sums(ctx, q)
	if err != nil {
		return err
	}
	have := map[window]Sum{}
	for _, s := range sums {
		have[window{s.Partition, s.Window}] = s
		if book, ok := r.byP[s.Partition]; ok {
			book.Rows += int64(s.Count)
		}
		if _, ok := want[window{s.Partition, s.Window}]; !ok {
			want[window{s.Partition, s.Window}] = balance{}
		}
	}
	var differing []window
	for w, b := range want {
		s := have[w]
		exact := s.Count == b.count && s.Hash == b.hash
		all := s.Count == b.count+b.mayCount && s.Hash == b.hash+b.mayHash
		if !exact && !all {
			differing = append(differing, w)
		}
	}
	slices.SortFunc(differing, func(a, b window) int {
		if a.partition != b.partition {
			return int(a.partition) - int(b.partition)
		}
		return int(min(1, max(-1, a.number-b.number)))
	})
	for some := range slices.Chunk(differing, windowsAtOnce) {
		if err := r.compareEvents(ctx, q, some); err != nil {
			return err
		}
	}
	return nil
}

// compareEvents compares windows event by event.
func (r *audit) compareEvents(ctx context.Context, q Query, windows []window) error {
	chosen := map[window]bool{}
	q.Windows = nil
	for _, w := range windows {
		chosen[w] = true
		q.Windows = append(q.Windows, [2]int64{int64(w.partition), w.number})
	}
	err := r.deps.Warehouse.Rows(ctx, q, func(row Row) error {
		from := place{row.Partition, row.Offset}
		origin := from.in(r.deps.Topics.Raw)
		e, canonical := r.events[row.ID]
		switch {
		case !canonical:
			r.find(RowUnexpected, row.ID, origin, "in ClickHouse, but not canonical")
			return nil
		case e.raw != from || !e.here:
			r.find(RowUnexpected, row.ID, origin, "in ClickHouse, but canonical from "+e.raw.in(r.deps.Topics.Raw))
			return nil
		case row.Count > 1:
			r.find(RowDoubled, row.ID, origin, fmt.Sprintf("%d rows in ClickHouse", row.Count))
		case row.Revision != e.revision && r.must(e):
			r.find(RowStale, row.ID, origin, fmt.Sprintf("revision %d in ClickHouse, %d is canonical", row.Revision, e.revision))
		}
		e.seen = true
		r.events[row.ID] = e
		return nil
	})
	if err != nil {
		return err
	}
	for id, e := range r.events {
		if e.seen || !r.inSpan(e) || !chosen[window{e.raw.partition, e.raw.offset / r.opt.Window}] || !r.must(e) {
			continue
		}
		r.find(RowMissing, id, e.raw.in(r.deps.Topics.Raw), "canonical at "+e.at.in(r.deps.Topics.Events)+", not in ClickHouse")
	}
	return nil
}

// Roll-ups are asked for several times: an insert is seen in events a moment
// before it is seen in events_hourly.
const (
	rollupTries = 5
	rollupPause = 300 * time.Millisecond
)

func (r *audit) rollups(ctx context.Context) error {
	type key struct {
		month             uint32
		source, eventType string
	}
	differs := map[key]int{}
	var last []Rollup
	for try := range rollupTries {
		rollups, err := r.deps.Warehouse.Rollups(ctx, r.first, r.last)
		if err != nil {
			return err
		}
		for _, u := range rollups {
			differs[key{u.Month, u.Source, u.EventType}]++
		}
		last = slices.DeleteFunc(rollups, func(u Rollup) bool { return differs[key{u.Month, u.Source, u.EventType}] <= try })
		if len(last) == 0 {
			return nil
		}
		if try == rollupTries-1 {
			break
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("roll-ups"), ctx.Err())
		case <-time.After(rollupPause):
		}
	}
	for _, u := range last {
		r.find(RollupDiffers, event.ID{}, "", fmt.Sprintf("%d, source %s, %s: events holds %d, events_hourly adds up to %d",
			u.Month, u.Source, u.EventType, u.Events, u.Hourly))
	}
	return nil
}
