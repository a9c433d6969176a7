package replay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
)

// entry is the latest published revision of an event.
type entry struct {
	digest       [16]byte
	rawOffset    int64
	offset       int64 // in the canonical topic
	rawPartition int32
	partition    int32
	revision     int32
	mine         bool // its raw record is replayed
	made         bool // and today's code made it
}

func (e entry) at(r *kgo.Record) bool { return e.partition == r.Partition && e.offset == r.Offset }

// index knows what was published.
type index struct {
	mine    func(*event.Event) bool
	entries map[event.ID]entry
	records int64
}

func newIndex(mine func(*event.Event) bool) *index {
	return &index{mine: mine, entries: map[event.ID]entry{}}
}

func (x *index) any(ok func(entry) bool) bool {
	for _, e := range x.entries {
		if ok(e) {
			return true
		}
	}
	return false
}

func (x *index) add(record *kgo.Record, e *event.Event) {
	x.records++
	if have, ok := x.entries[e.ID]; ok && have.revision >= e.Revision {
		return
	}
	x.entries[e.ID] = entry{
		digest: digest(e), revision: e.Revision, mine: x.mine(e),
		rawPartition: e.RawPartition, rawOffset: e.RawOffset,
		partition: record.Partition, offset: record.Offset,
	}
}

func (r *Replay) fill(ctx context.Context, x *index, span kafka.Span, report *Report) error {
	done, total := int64(0), span.Len()
	r.deps.Progress("read what was published", 0, total)
	return r.deps.Clients.Read(ctx, span, func(record *kgo.Record) error {
		if done++; done%progressEvery == 0 {
			r.deps.Progress("read what was published", done, total)
		}
		e, ok, err := r.decode(ctx, record)
		if err != nil {
			return err
		}
		if !ok {
			report.Unreadable++
			return nil
		}
		x.add(record, &e)
		return nil
	})
}

// ignored are the fields that the raw record does not determine.
func ignored(name string) bool {
	return name == "normalized_at" || name == "normalizer_version" || name == "revision"
}

// digest is equal for events that differ in ignored fields only.
func digest(e *event.Event) [16]byte {
	copied := *e
	copied.NormalizedAt, copied.NormalizerVersion, copied.Revision = time.Time{}, "", 0
	text, err := json.Marshal(copied)
	if err != nil {
		// Nothing in an event can do that; and what cannot be compared is
		// taken for changed.
		text = []byte(err.Error() + e.NormalizedAt.String())
	}
	sum := sha256.Sum256(text)
	return [16]byte(sum[:])
}

// fieldDifference is a field in which two events differ.
type fieldDifference struct{ name, old, today string }

// diff compares two events field by field, in the order of the struct.
func diff(old, today *event.Event) []fieldDifference {
	var out []fieldDifference
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*today)
	for i := range a.NumField() {
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
		if ignored(name) {
			continue
		}
		was, is := text(a.Field(i)), text(b.Field(i))
		if was != is {
			out = append(out, fieldDifference{name, was, is})
		}
	}
	return out
}

// text is a value as JSON, a string as itself, and nothing for "not said".
func text(v reflect.Value) string {
	if v.IsZero() {
		return ""
	}
	if v.Kind() == reflect.String {
		return v.String()
	}
	encoded, err := json.Marshal(v.Interface())
	if err != nil {
		return fmt.Sprint(v.Interface())
	}
	return strings.Trim(string(encoded), `"`)
}

// change is an event to publish.
type change struct {
	what   string
	event  event.Event // as it will be read
	record *kgo.Record
	origin string
	raw    *kgo.Record
	old    entry
}

// comparison compares what today's code makes with what was published.
type comparison struct {
	r         *Replay
	index     *index
	publisher *kafka.Publisher // nil in a dry run
	limit     int
	report    *Report

	changes []change
}

// chunk is how many changes are published in one transaction.
const chunk = 500

func (c *comparison) record(ctx context.Context, record *kgo.Record) error {
	for _, made := range c.r.deps.Transform(record) {
		// What counts is what a reader of the topic sees.
		today, ok, err := c.r.decode(ctx, made.Record)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%s: what today's code makes of it does not decode", kafka.Origin(record))
		}
		have, known := c.index.entries[today.ID]
		switch {
		case !known:
			c.report.New++
			c.index.entries[today.ID] = entry{
				digest: digest(&today), rawPartition: record.Partition, rawOffset: record.Offset,
				partition: -1, mine: true, made: true,
			}
			c.changes = append(c.changes, change{what: WhatNew, event: today, record: made.Record, origin: kafka.Origin(record), raw: record})
		case have.made || have.rawPartition != record.Partition || have.rawOffset != record.Offset:
			c.report.Duplicates++
			continue
		default:
			have.made = true
			c.index.entries[today.ID] = have
			if have.digest == digest(&today) {
				c.report.Unchanged++
				continue
			}
			c.report.Changed++
			today.Revision = have.revision + 1
			if made.Record.Value, err = c.r.deps.Encoder.Append(nil, &today); err != nil {
				return fmt.Errorf("encode %s of %s: %w", today.ID, kafka.Origin(record), err)
			}
			c.changes = append(c.changes, change{
				what: WhatChanged, event: today, record: made.Record, origin: kafka.Origin(record), raw: record, old: have,
			})
		}
		if len(c.changes) >= chunk {
			if err := c.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush reports the changes at hand and publishes them.
func (c *comparison) flush(ctx context.Context) error {
	if len(c.changes) == 0 {
		return nil
	}
	if err := c.describe(ctx); err != nil {
		return err
	}
	if c.publisher != nil {
		if err := c.publish(ctx); err != nil {
			return err
		}
	}
	c.changes = c.changes[:0]
	return nil
}

// describe reads what was published of the changed events, and adds the
// differences to the report.
func (c *comparison) describe(ctx context.Context) error {
	span := kafka.Span{Topic: c.r.deps.Topics.Events, From: map[int32]int64{}, To: map[int32]int64{}}
	old := map[event.ID]event.Event{}
	for _, change := range c.changes {
		if change.what != WhatChanged {
			continue
		}
		p := change.old.partition
		if from, ok := span.From[p]; !ok || change.old.offset < from {
			span.From[p] = change.old.offset
		}
		span.To[p] = max(span.To[p], change.old.offset+1)
		old[change.event.ID] = event.Event{}
	}
	err := c.r.deps.Clients.Read(ctx, span, func(record *kgo.Record) error {
		e, ok, err := c.r.decode(ctx, record)
		if err != nil || !ok {
			return err
		}
		if _, wanted := old[e.ID]; wanted && c.index.entries[e.ID].at(record) {
			old[e.ID] = e
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, change := range c.changes {
		d := Difference{ID: change.event.ID, What: change.what, Origin: change.origin, Revision: change.event.Revision}
		if change.what == WhatNew {
			d.Field, d.Today = "event_type", string(change.event.Type)
			c.add(d)
			continue
		}
		was := old[change.event.ID]
		if was.ID != change.event.ID {
			return fmt.Errorf("%s/%d/%d: the published event is gone; retention took it, begin later",
				c.r.deps.Topics.Events, change.old.partition, change.old.offset)
		}
		for _, field := range diff(&was, &change.event) {
			c.report.Fields[field.name]++
			d.Field, d.Published, d.Today = field.name, field.old, field.today
			c.add(d)
		}
	}
	return nil
}

func (c *comparison) add(d Difference) {
	if len(c.report.Differences) < c.limit {
		c.report.Differences = append(c.report.Differences, d)
	}
}

func (c *comparison) publish(ctx context.Context) error {
	records := make([]*kgo.Record, 0, len(c.changes))
	for _, change := range c.changes {
		records = append(records, change.record)
		if change.what == WhatNew {
			// As the normalizer does: a copy that comes later is one.
			records = append(records, &kgo.Record{
				Topic: c.r.deps.Topics.Dedup, Partition: change.raw.Partition, Key: []byte(change.event.ID.String()),
				Value: []byte{}, Timestamp: change.event.ReceivedAt,
			})
		}
	}
	c.r.deps.Progress("publish", c.report.Published, 0)
	if err := c.publisher.Publish(ctx, records...); err != nil {
		return err
	}
	c.report.Published += int64(len(c.changes))
	for _, change := range c.changes {
		e := c.index.entries[change.event.ID]
		e.revision, e.partition, e.offset = change.event.Revision, change.record.Partition, change.record.Offset
		e.digest = digest(&change.event)
		c.index.entries[change.event.ID] = e
	}
	return nil
}

// gone finds what was published of the replayed records and is not made any more.
func (c *comparison) gone() {
	type lost struct {
		id event.ID
		entry
	}
	var all []lost
	for id, e := range c.index.entries {
		if e.mine && !e.made {
			all = append(all, lost{id, e})
		}
	}
	slices.SortFunc(all, func(a, b lost) int {
		return cmp.Or(cmp.Compare(a.rawPartition, b.rawPartition), cmp.Compare(a.rawOffset, b.rawOffset), cmp.Compare(a.id.String(), b.id.String()))
	})
	c.report.Gone = int64(len(all))
	for _, e := range all {
		c.add(Difference{
			ID: e.id, What: WhatGone, Revision: e.revision,
			Origin: fmt.Sprintf("%s/%d/%d", c.r.deps.Topics.Raw, e.rawPartition, e.rawOffset),
		})
	}
}
