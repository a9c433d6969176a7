package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/kafka"
	"mailriver/pkg/simulate"
)

// bins are events on disk, by the last digit of their ids: what is compared is
// a sixteenth at a time, however many there are.
type bins struct {
	files [16]*os.File
	to    [16]*bufio.Writer
}

func newBins(dir string) (*bins, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b := &bins{}
	for i := range b.files {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%x.jsonl", i)))
		if err != nil {
			return nil, err
		}
		b.files[i], b.to[i] = file, bufio.NewWriterSize(file, 1<<16)
	}
	return b, nil
}

func (b *bins) add(e event.Event) error { return simulate.WriteTruth(b.to[e.ID[15]&15], e) }

func (b *bins) flush() error {
	var errs []error
	for _, to := range b.to {
		errs = append(errs, to.Flush())
	}
	return errors.Join(errs...)
}

// each calls f with the events of a bin.
func (b *bins) each(i int, f func(event.Event)) error {
	if _, err := b.files[i].Seek(0, io.SeekStart); err != nil {
		return err
	}
	for e, err := range simulate.ReadTruth(b.files[i]) {
		if err != nil {
			return err
		}
		f(e)
	}
	return nil
}

// account is one place where the events are, against the truth.
type account struct {
	events  int // rows or records
	twice   int // beyond the first of each id
	missing int
	untold  int // ids that the truth does not know
	wrong   int // events with a field that is not as told
}

func (a account) balanced(want int) bool {
	return a == account{events: want}
}

// balance fills in what the books say.
func (w *world) balance(ctx context.Context, truth *bins) error {
	r := w.result
	if err := w.balanceRaw(ctx); err != nil {
		return err
	}
	canonical, err := newBins(filepath.Join(w.dir, "canonical"))
	if err != nil {
		return err
	}
	books, err := w.openBooks(ctx)
	if err != nil {
		return err
	}
	if err := w.readCanonical(ctx, canonical, books); err != nil {
		return err
	}
	for i := range truth.files {
		told := map[event.ID]event.Event{}
		if err := truth.each(i, func(e event.Event) {
			told[e.ID] = e
			books.tell(&e)
		}); err != nil {
			return err
		}
		r.truth += len(told)
		c := newComparison(&r.canonical, r, told, "canonical topic")
		if err := canonical.each(i, c.enter); err != nil {
			return err
		}
		c.close()
		if err := w.compareTable(ctx, i, told); err != nil {
			return err
		}
	}
	if err := w.balanceTable(ctx); err != nil {
		return err
	}
	if err := w.balanceConsumers(ctx, books); err != nil {
		return err
	}
	w.audit(ctx)
	r.clickhouse, err = w.text(ctx, "SELECT version()")
	if err != nil {
		return err
	}
	if r.again, err = logged(w.logs, "a range is pending and comes again"); err != nil {
		return err
	}
	r.aborted, err = logged(w.logs, "transaction aborted, its input comes again")
	return err
}

// balanceRaw looks for the body of every request that was answered 200.
func (w *world) balanceRaw(ctx context.Context) error {
	r := w.result
	span, err := w.clients.Span(ctx, w.topics.Raw, kafka.Start(), kafka.End())
	if err != nil {
		return err
	}
	w.ledger.Lock()
	defer w.ledger.Unlock()
	r.ledger = len(w.ledger.accepted)
	if err := w.clients.Read(ctx, span, func(record *kgo.Record) error {
		r.raw++
		delete(w.ledger.accepted, sha256.Sum256(record.Value))
		return nil
	}); err != nil {
		return err
	}
	r.lost = len(w.ledger.accepted)
	if span, err = w.clients.Span(ctx, w.topics.Dead, kafka.Start(), kafka.End()); err != nil {
		return err
	}
	return w.clients.Read(ctx, span, func(record *kgo.Record) error {
		r.dead++
		for _, h := range record.Headers {
			if h.Key == kafka.HeaderError {
				r.complain("dead letter: %s", h.Value)
			}
		}
		return nil
	})
}

// readCanonical reads the canonical topic as its consumers do.
func (w *world) readCanonical(ctx context.Context, into *bins, books *books) error {
	decoder := eventavro.NewDecoder(books.registry)
	span, err := w.clients.Span(ctx, w.topics.Events, kafka.Start(), kafka.End())
	if err != nil {
		return err
	}
	if err := w.clients.Read(ctx, span, func(record *kgo.Record) error {
		e, err := decoder.Decode(ctx, record.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", kafka.Origin(record), err)
		}
		if err := books.follow(&e); err != nil {
			return err
		}
		return into.add(e)
	}); err != nil {
		return err
	}
	return into.flush()
}

// comparison enters the events of one place into its account.
type comparison struct {
	account *account
	result  *result
	told    map[event.ID]event.Event
	seen    map[event.ID]bool
	where   string
}

func newComparison(a *account, r *result, told map[event.ID]event.Event, where string) *comparison {
	return &comparison{account: a, result: r, told: told, seen: make(map[event.ID]bool, len(told)), where: where}
}

func (c *comparison) enter(e event.Event) {
	c.account.events++
	want, known := c.told[e.ID]
	switch {
	case c.seen[e.ID]:
		c.account.twice++
		c.complain(e, fmt.Sprintf("is there twice, this one from raw partition %d, offset %d", e.RawPartition, e.RawOffset))
	case !known:
		c.account.untold++
		c.complain(e, "was never told")
	default:
		if differences := simulate.Compare(want, e); len(differences) > 0 {
			c.account.wrong++
			c.complain(e, fmt.Sprint(differences))
		}
	}
	c.seen[e.ID] = true
}

// close counts what did not come.
func (c *comparison) close() {
	for id, e := range c.told {
		if !c.seen[id] {
			c.account.missing++
			c.complain(e, "is missing")
		}
	}
}

func (c *comparison) complain(e event.Event, what string) {
	c.result.complain("%s: %s %s %s: %s", c.where, e.Provider, e.Type, e.ID, what)
}

// compareTable compares the rows of one bin.
func (w *world) compareTable(ctx context.Context, bin int, told map[event.ID]event.Event) error {
	body, err := w.query(ctx, fmt.Sprintf("SELECT * FROM mailriver.events WHERE endsWith(toString(event_id), '%x') FORMAT JSONEachRow", bin))
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	dec := json.NewDecoder(body)
	c := newComparison(&w.result.table, w.result, told, "ClickHouse")
	for {
		var e event.Event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		c.enter(e)
	}
	c.close()
	return nil
}

// rollup lists every group in which events_hourly and events do not agree.
const rollup = `SELECT count() FROM (
	SELECT source, event_type, hour, provider, recipient_domain, bounce_kind, bounce_cause, stream, machine, sum(n) AS difference
	FROM (
		SELECT source, event_type, hour, provider, recipient_domain, bounce_kind, bounce_cause, stream, machine, toInt64(events) AS n
		FROM mailriver.events_hourly
		UNION ALL
		SELECT source, event_type, toStartOfHour(occurred_at) AS hour, provider, recipient_domain, bounce_kind, bounce_cause, stream, machine, toInt64(-1) AS n
		FROM mailriver.events
	)
	GROUP BY source, event_type, hour, provider, recipient_domain, bounce_kind, bounce_cause, stream, machine
	HAVING difference != 0
)`

// balanceTable asks the questions of an analyst, without FINAL.
func (w *world) balanceTable(ctx context.Context) (err error) {
	r := w.result
	for _, question := range []struct {
		answer *int
		sql    string
	}{
		{&r.count, "SELECT count() FROM mailriver.events"},
		{&r.distinct, "SELECT uniqExact(event_id) FROM mailriver.events"},
		{&r.rollup, "SELECT sum(events) FROM mailriver.events_hourly"},
		{&r.rollupGroups, rollup},
	} {
		if *question.answer, err = w.number(ctx, question.sql); err != nil {
			return err
		}
	}
	return nil
}

// audit asks Mailriver's own books, where this build has them.
func (w *world) audit(ctx context.Context) {
	help := exec.CommandContext(ctx, w.o.binary, "audit", "--help") //nolint:gosec // G204: the binary under test
	help.Env = w.o.environ
	if text, err := help.CombinedOutput(); err != nil || !bytes.Contains(text, []byte("mailriver audit")) {
		return
	}
	cmd := exec.CommandContext(ctx, w.o.binary, "audit", "--config", w.config) //nolint:gosec // G204: the binary under test
	cmd.Env = w.o.environ
	text, err := cmd.CombinedOutput()
	w.result.audit = "agrees"
	if err != nil {
		w.result.audit = "does not agree: " + err.Error()
		w.result.complain("audit: %s", text)
	}
}
