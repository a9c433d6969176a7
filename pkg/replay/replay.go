// Package replay makes what was published, and what ClickHouse holds, agree with
// today's code.
//
// [Replay.Raw] runs the transform of this build over raw records, compares what it
// makes with what was published for the same event ids, and publishes the events
// that changed under the same id with a revision one higher, in transactions. It
// then brings ClickHouse to the latest revisions, a month at a time, by swapping
// partitions, so that no query of one table and month sees some old and some new
// rows. [Replay.Events] brings ClickHouse to the canonical topic as it is.
// [Rewind] sets a consumer back whose state is a function of the set of events,
// so that it reads events again.
//
// Guarantees: nothing that was published is taken back. An interrupted replay is
// completed by the same one again: what is done is recognized by comparing, there
// is no state between runs. Of several replays of raw records one publishes; the
// others fail. The loader and the normalizer may run meanwhile; the loader waits
// while a month is swapped.
//
// Outside effects stay off. The package calls nobody, and what it publishes has a
// revision above 0, of which no consumer makes a signal. What a rewound consumer
// reads again it knows already, or is marked as a replay (kafka.Replays).
//
// Memory: about 150 bytes for each event in the time that is replayed, and the
// dedup window before it. The package parses no provider's payload and knows no
// service: the transform is given to it.
package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/clickhouse"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
	"mailriver/pkg/pending"
	"mailriver/pkg/raw"
)

// Canonical is an event, and the record for the canonical topic that holds it.
type Canonical struct {
	Event  *event.Event
	Record *kgo.Record
}

// Decoder reads a canonical event. An error that is permanent is about the bytes.
type Decoder interface {
	Decode(ctx context.Context, value []byte) (event.Event, error)
}

// Encoder appends a canonical event to buf.
type Encoder interface {
	Append(buf []byte, e *event.Event) ([]byte, error)
}

// Deps are the collaborators. All are required but Progress.
type Deps struct {
	Clients *kafka.Clients
	Topics  kafka.Topics
	Store   *clickhouse.Client
	Decoder Decoder
	Encoder Encoder
	// Transform is the normalizer's of this build: the canonical events of a raw
	// record. It is pure.
	Transform func(*kgo.Record) []Canonical

	NormalizerGroup, LoaderGroup string
	// TransactionalID is that of every replay of this installation.
	TransactionalID string
	// DedupWindow is how long before a raw record a copy of it may have been
	// published.
	DedupWindow time.Duration
	Holder      string // of the fence, for people
	// Lease is how long the loader waits for a replay that died.
	Lease time.Duration
	// Wait bounds each wait for another part: the loader, an open transaction,
	// another replay.
	Wait time.Duration
	// Progress is told what begins, and how many records of how many of it are
	// done. It may be called often.
	Progress func(step string, done, total int64)
}

// Replay replays. It is safe for one use at a time.
type Replay struct{ deps Deps }

// New checks its arguments and does nothing else.
func New(deps Deps) (*Replay, error) {
	if deps.Clients == nil || deps.Topics.Raw == "" || deps.Store == nil || deps.Decoder == nil || deps.Encoder == nil ||
		deps.Transform == nil || deps.NormalizerGroup == "" || deps.LoaderGroup == "" || deps.TransactionalID == "" ||
		deps.DedupWindow <= 0 || deps.Lease <= 0 || deps.Wait <= 0 {
		return nil, errors.New("replay: a dependency is missing")
	}
	if deps.Progress == nil {
		deps.Progress = func(string, int64, int64) {}
	}
	return &Replay{deps}, nil
}

// What a difference is about.
const (
	WhatChanged = "changed" // today's code makes another value of a field
	WhatNew     = "new"     // today's code makes an event that was never published
	WhatGone    = "gone"    // an event was published that today's code does not make
)

// Difference is one field of a changed event, or a new or gone event.
type Difference struct {
	ID        event.ID
	What      string // a constant What...
	Origin    string // raw topic/partition/offset
	Field     string // event_type for a new event, empty for one that is gone
	Published string
	Today     string
	Revision  int32 // that is, or would be, published
}

// Month is what became of a month in ClickHouse.
type Month struct {
	Month    int   // yyyymm of received_at
	Staged   int64 // events that the replay looked at
	Behind   int64 // rows that had an earlier revision
	Absent   int64 // events that the table did not have
	Replaced bool  // the partition was swapped
	Rows     int64 // of the new partition, when it was
}

// Report is what a replay found and did.
type Report struct {
	Records    int64 // raw or canonical records read
	Ahead      int64 // raw records left out because the normalizer has not reached them
	Unchanged  int64 // events that are published as today's code makes them
	Changed    int64
	New        int64
	Gone       int64 // reported, never deleted
	Duplicates int64 // copies of events that were published of another record
	Unreadable int64 // canonical records that do not decode, left out
	Refused    int64 // events that ClickHouse refuses, left out
	Published  int64 // records
	// Fields counts the changed events by field.
	Fields map[string]int64
	// Differences are the first ones, up to the limit.
	Differences []Difference
	Months      []Month
}

// Raw says which raw records are replayed.
type Raw struct {
	From, To kafka.Moment
	Source   string // empty for all
	DryRun   bool   // only compare
	Limit    int    // of Report.Differences
}

// Raw replays raw records. Its report is filled as far as it got, also beside an
// error.
func (r *Replay) Raw(ctx context.Context, what Raw) (Report, error) {
	report := Report{Fields: map[string]int64{}}
	err := r.raw(ctx, what, &report)
	if err != nil {
		return report, fmt.Errorf("replay raw: %w", err)
	}
	return report, nil
}

func (r *Replay) raw(ctx context.Context, what Raw, report *Report) error {
	// First of all: from here on no earlier replay can publish any more, so what
	// is read below is all there is.
	var publisher *kafka.Publisher
	if !what.DryRun {
		// Not to publish what could not be brought to ClickHouse.
		err := r.deps.Store.CanCorrect()
		if err != nil {
			return err
		}
		if publisher, err = r.deps.Clients.Publisher(ctx, r.deps.TransactionalID); err != nil {
			return err
		}
		defer publisher.Close()
	}
	admin, err := r.deps.Clients.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()

	span, err := r.rawSpan(ctx, admin, what, report)
	if err != nil {
		return err
	}
	// Copies of an event count as one over the dedup window; the hour is for
	// clocks that differ.
	canonical, err := r.canonicalSpan(ctx, admin, what.From.Before(r.deps.DedupWindow+time.Hour))
	if err != nil {
		return err
	}
	x := newIndex(func(e *event.Event) bool {
		from, in := span.From[e.RawPartition]
		return in && e.RawTopic == span.Topic && e.RawOffset >= from && e.RawOffset < span.To[e.RawPartition] &&
			(what.Source == "" || e.Source == what.Source)
	})
	if err := r.fill(ctx, x, canonical, report); err != nil {
		return err
	}
	c := comparison{r: r, index: x, publisher: publisher, limit: what.Limit, report: report}
	done, total := int64(0), span.Len()
	err = r.deps.Clients.Read(ctx, span, func(record *kgo.Record) error {
		if done++; done%progressEvery == 0 {
			r.deps.Progress("compare raw records", done, total)
		}
		if what.Source != "" {
			if request, err := raw.Read(record); err != nil || request.Source != what.Source {
				return nil
			}
		}
		report.Records++
		return c.record(ctx, record)
	})
	if err == nil {
		err = c.flush(ctx)
	}
	if err != nil {
		return err
	}
	c.gone()
	if what.DryRun {
		return nil
	}
	r.deps.Progress("published", report.Published, report.Published)
	revised := func(e entry) bool { return e.mine && e.revision > 0 }
	if !x.any(revised) {
		return nil
	}
	if canonical.To, err = r.stable(ctx, admin, r.deps.Topics.Events); err != nil {
		return err
	}
	return r.bring(ctx, admin, x, canonical, revised, false, report)
}

// progressEvery is how many records are between two reports of progress.
const progressEvery = 1000

// rawSpan is the part of the raw topic that is replayed: as far as the normalizer
// has published. What it has not reached would be published twice.
func (r *Replay) rawSpan(ctx context.Context, admin *kadm.Client, what Raw, report *Report) (kafka.Span, error) {
	span, err := r.deps.Clients.Span(ctx, r.deps.Topics.Raw, what.From, what.To)
	if err != nil {
		return span, err
	}
	progress, err := pending.ReadProgress(ctx, admin, r.deps.NormalizerGroup, r.deps.Topics.Raw)
	if err != nil {
		return span, err
	}
	for partition, to := range span.To {
		if reached := progress.Committed[partition]; reached < to {
			report.Ahead += to - max(reached, span.From[partition])
			span.To[partition] = reached
		}
	}
	return span, nil
}

// canonicalSpan reaches from a moment to what is published now.
func (r *Replay) canonicalSpan(ctx context.Context, admin *kadm.Client, from kafka.Moment) (kafka.Span, error) {
	to, err := r.stable(ctx, admin, r.deps.Topics.Events)
	if err != nil {
		return kafka.Span{}, err
	}
	span, err := r.deps.Clients.Span(ctx, r.deps.Topics.Events, from, kafka.End())
	span.To = to
	return span, err
}

// stable returns the end of a topic as it is now, and waits until the transactions
// before it have ended: the offsets of a transaction may be visible before its
// records are.
func (r *Replay) stable(ctx context.Context, admin *kadm.Client, topic string) (map[int32]int64, error) {
	listed, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end of %s: %w", topic, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, r.wait(ctx, askSoon, func() (string, error) {
		committed, err := admin.ListCommittedOffsets(ctx, topic)
		if err == nil {
			err = committed.Error()
		}
		if err != nil {
			return "", fmt.Errorf("end of %s: %w", topic, err)
		}
		open := ""
		committed.Each(func(o kadm.ListedOffset) {
			if o.Offset < ends[o.Partition] {
				open = fmt.Sprintf("a transaction is open on %s/%d at offset %d; it ends when its normalizer works or after its timeout",
					topic, o.Partition, o.Offset)
			}
		})
		return open, nil
	})
}

// Pauses between two questions of [Replay.wait].
const (
	askSoon  = 50 * time.Millisecond
	askLater = 500 * time.Millisecond
)

// wait asks until there is no reason to wait any more, within the bound. The
// reason becomes the error.
func (r *Replay) wait(ctx context.Context, pause time.Duration, ask func() (reason string, err error)) error {
	bound, cancel := context.WithTimeout(ctx, r.deps.Wait)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		reason, err := ask()
		if err != nil || reason == "" {
			return err
		}
		select {
		case <-tick.C:
		case <-bound.Done():
			if err := ctx.Err(); err != nil {
				return err
			}
			return fmt.Errorf("waited %s: %s", r.deps.Wait, reason)
		}
	}
}

// Events brings ClickHouse to the canonical topic: each event published since a
// moment is in it once, in its latest revision. Rows of events that were published
// before stay as they are.
func (r *Replay) Events(ctx context.Context, from kafka.Moment) (Report, error) {
	report := Report{Fields: map[string]int64{}}
	err := r.events(ctx, from, &report)
	if err != nil {
		return report, fmt.Errorf("replay events: %w", err)
	}
	return report, nil
}

func (r *Replay) events(ctx context.Context, from kafka.Moment, report *Report) error {
	if err := r.deps.Store.CanCorrect(); err != nil {
		return err
	}
	admin, err := r.deps.Clients.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	span, err := r.canonicalSpan(ctx, admin, from)
	if err != nil {
		return err
	}
	x := newIndex(func(*event.Event) bool { return true })
	if err := r.fill(ctx, x, span, report); err != nil {
		return err
	}
	report.Records = x.records
	return r.bring(ctx, admin, x, span, func(entry) bool { return true }, true, report)
}

// bring brings ClickHouse to the latest revision of the wanted events.
func (r *Replay) bring(
	ctx context.Context, admin *kadm.Client, x *index, span kafka.Span,
	wanted func(entry) bool, whole bool, report *Report,
) (err error) {
	correction, err := r.deps.Store.Correct(ctx, r.deps.Holder, r.deps.Lease)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.cleanUp(ctx, correction.Close)) }()
	last, err := r.stage(ctx, x, span, wanted, correction, report)
	if err != nil {
		return err
	}
	if err := r.loaded(ctx, admin, last); err != nil {
		return err
	}
	months, err := correction.Months(ctx)
	if err != nil {
		return err
	}
	for i, month := range months {
		r.deps.Progress("swap months", int64(i), int64(len(months)))
		m, err := r.month(ctx, admin, correction, month, whole)
		if err != nil {
			return fmt.Errorf("month %d: %w", month, err)
		}
		report.Months = append(report.Months, m)
	}
	return nil
}

// cleanUp runs f also after ctx ended.
func (r *Replay) cleanUp(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return f(ctx)
}

// stageRows is how many rows one insert stages.
const stageRows = 10_000

// stage stages the latest revision of each wanted event, and returns the last
// offset of each partition that holds a record.
func (r *Replay) stage(
	ctx context.Context, x *index, span kafka.Span, wanted func(entry) bool, to *clickhouse.Correction, report *Report,
) (last map[int32]int64, err error) {
	last = map[int32]int64{}
	rows := make([]event.Event, 0, stageRows)
	put := func() error {
		refused, err := to.Stage(ctx, rows)
		report.Refused += int64(refused)
		rows = rows[:0]
		return err
	}
	done, total := int64(0), span.Len()
	err = r.deps.Clients.Read(ctx, span, func(record *kgo.Record) error {
		if done++; done%progressEvery == 0 {
			r.deps.Progress("stage rows", done, total)
		}
		last[record.Partition] = record.Offset
		e, ok, err := r.decode(ctx, record)
		if err != nil || !ok {
			return err
		}
		if latest, ok := x.entries[e.ID]; !ok || !latest.at(record) || !wanted(latest) {
			return nil
		}
		if rows = append(rows, e); len(rows) == stageRows {
			return put()
		}
		return nil
	})
	if err == nil {
		err = put()
	}
	return last, err
}

func (r *Replay) decode(ctx context.Context, record *kgo.Record) (e event.Event, ok bool, err error) {
	e, err = r.deps.Decoder.Decode(ctx, record.Value)
	if _, permanent := fault.Reason(err); permanent {
		return e, false, nil
	}
	if err != nil {
		return e, false, fmt.Errorf("decode %s: %w", kafka.Origin(record), err)
	}
	return e, true, nil
}

// loaded waits until the loader is behind the given records. What it has not
// loaded yet it would add to the rows that a swap brings.
func (r *Replay) loaded(ctx context.Context, admin *kadm.Client, last map[int32]int64) error {
	r.deps.Progress("wait for the loader", 0, 0)
	return r.wait(ctx, askSoon, func() (string, error) {
		progress, err := pending.ReadProgress(ctx, admin, r.deps.LoaderGroup, r.deps.Topics.Events)
		if err != nil {
			return "", err
		}
		for partition, offset := range last {
			if committed := progress.Committed[partition]; committed <= offset {
				return fmt.Sprintf("the loader (group %s) is at offset %d of %s/%d and must be behind %d; "+
					"start `mailriver loader` and run the same command again",
					r.deps.LoaderGroup, committed, r.deps.Topics.Events, partition, offset), nil
			}
		}
		return "", nil
	})
}

// month corrects one month, if there is anything to correct.
func (r *Replay) month(
	ctx context.Context, admin *kadm.Client, correction *clickhouse.Correction, month int, whole bool,
) (Month, error) {
	found, err := correction.Compare(ctx, month)
	if err != nil {
		return Month{}, err
	}
	m := Month{Month: month, Staged: found.Staged, Behind: found.Behind, Absent: found.Absent}
	if !whole && found.Behind == 0 && found.Rollup == 0 {
		return m, nil
	}
	err = r.wait(ctx, askLater, func() (string, error) {
		rows, err := r.swap(ctx, admin, correction, month, whole)
		if errors.Is(err, clickhouse.ErrFenced) {
			return fmt.Sprintf("%v; wait until it is done, or until its lease of about %s ends, and run the same command again",
				err, r.deps.Lease), nil
		}
		m.Rows, m.Replaced = rows, err == nil
		return "", err
	})
	return m, err
}

// swap swaps a month while nothing is inserted.
func (r *Replay) swap(
	ctx context.Context, admin *kadm.Client, correction *clickhouse.Correction, month int, whole bool,
) (rows int64, err error) {
	s, err := correction.Begin(ctx, month)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.cleanUp(ctx, s.Release)) }()
	step := func(name string) error {
		r.deps.Progress(name, 0, 0)
		return ctx.Err()
	}
	if err := step("set the fence"); err != nil {
		return 0, err
	}
	if err := s.Close(ctx); err != nil {
		return 0, err
	}
	if err := step("wait for inserts under way"); err != nil {
		return 0, err
	}
	if err := r.idle(ctx, admin); err != nil {
		return 0, err
	}
	if err := step("fill the shadow"); err != nil {
		return 0, err
	}
	found, err := correction.Compare(ctx, month)
	if err != nil {
		return 0, err
	}
	if found.Newer > 0 {
		return 0, fmt.Errorf("%d rows in ClickHouse are newer than what this replay read: another one ran meanwhile; run the same command again", found.Newer)
	}
	if rows, err = s.Fill(ctx, whole); err != nil {
		return 0, err
	}
	if err := step("swap"); err != nil {
		return 0, err
	}
	if err := s.Replace(ctx); err != nil {
		return 0, err
	}
	return rows, step("take the fence away")
}

// idle waits until no partition of the loader has a pending range. See
// [pending.Fence].
func (r *Replay) idle(ctx context.Context, admin *kadm.Client) error {
	return r.wait(ctx, askSoon, func() (string, error) {
		progress, err := pending.ReadProgress(ctx, admin, r.deps.LoaderGroup, r.deps.Topics.Events)
		if err != nil || len(progress.Marked) == 0 {
			return "", err
		}
		return fmt.Sprintf("partitions %v of %s have a range that is pending: a loader is inserting it, or died while it did; "+
			"start `mailriver loader` so that it finishes, and run the same command again", progress.Marked, r.deps.Topics.Events), nil
	})
}
