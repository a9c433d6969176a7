package dead

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

// What became of a letter.
const (
	Published     = "published"      // the normalizer read it this time
	Sent          = "sent"           // it is in the raw topic; the normalizer has not come to it yet
	RefusedAgain  = "refused_again"  // the normalizer made a new letter of it
	Inserted      = "inserted"       // it is in ClickHouse
	AlreadyThere  = "already_there"  // it was in ClickHouse
	StillRefused  = "still_refused"  // the code of today cannot read it, either; it stays open
	Gone          = "gone"           // its raw record is no longer there; it stays open
	TooOld        = "too_old"        // its neighbors would be published again; it stays open
	NotRetryable  = "not_retryable"  // nobody knows where it came from; it stays open
	WouldRetry    = "would_retry"    // dry run
	AlreadyClosed = "already_closed" // retried before
)

// Outcome tells what became of a letter.
type Outcome struct {
	Letter  Letter
	Outcome string
	Detail  string
}

// Settled reports whether nothing is left to do about the letter.
func (o Outcome) Settled() bool {
	switch o.Outcome {
	case Published, Sent, Inserted, AlreadyThere, WouldRetry, AlreadyClosed:
		return true
	}
	return false
}

// RetryOptions say how to retry.
type RetryOptions struct {
	DryRun bool
	// Wait is how long to wait for the normalizer; then letters are reported as
	// sent. 0 does not wait.
	Wait time.Duration
	// Progress, if set, is told of each letter that is done with.
	Progress func(letters int)
}

// margin keeps away from the edge of the dedup window: marks are swept by then.
const margin = time.Hour

const (
	batchRecords = 200
	batchBytes   = 32 << 20
)

// Retry sends the letters of a filter through the code of today, each once, and
// returns what became of each. All letters of one raw record are retried
// together. After an error the outcomes are those until then, and the rest may
// be retried.
func (b *Box) Retry(ctx context.Context, f Filter, opt RetryOptions) ([]Outcome, error) {
	r := &retry{Box: b, opt: opt, groups: map[Place]*group{}}
	if !opt.DryRun {
		// Before the letters are listed: another retry cannot close any from
		// here on.
		publisher, err := b.deps.Clients.Publisher(ctx, b.deps.TransactionalID)
		if err != nil {
			return nil, fmt.Errorf("dead: %w", err)
		}
		defer publisher.Close()
		r.publisher = publisher
	}
	err := r.run(ctx, f)
	if err != nil {
		err = fmt.Errorf("dead: %w", err)
	}
	return r.outcomes, err
}

// group is a raw record and its letters.
type group struct {
	letters  []Letter
	selected map[Place]bool
	done     bool
}

// sent is a raw record that was written.
type sent struct {
	group *group
	made  Made
}

type retry struct {
	*Box
	opt       RetryOptions
	publisher *kafka.Publisher
	outcomes  []Outcome
	groups    map[Place]*group // by raw record

	batch   []*kgo.Record // to publish
	size    int
	pending []func() // what follows from it
	sent    map[*kgo.Record]sent
	deadEnd map[int32]int64
}

func (r *retry) tell(l Letter, outcome, detail string) {
	r.outcomes = append(r.outcomes, Outcome{l, outcome, detail})
	if r.opt.Progress != nil {
		r.opt.Progress(1)
	}
}

// tellGroup tells the same of all letters that were asked for.
func (r *retry) tellGroup(g *group, outcome, detail string) {
	g.done = true
	for _, l := range g.letters {
		if g.selected[l.Place] {
			r.tell(l, outcome, detail)
		}
	}
}

func (r *retry) run(ctx context.Context, f Filter) error {
	f.All = f.All || len(f.Places) > 0 // to say that one is closed
	letters, _, err := r.List(ctx, f)
	if err != nil {
		return err
	}
	span, err := r.deps.Clients.Span(ctx, r.deps.Topics.Dead, kafka.End(), kafka.End())
	if err != nil {
		return err
	}
	r.deadEnd, r.sent = span.From, map[*kgo.Record]sent{}
	var loader []Letter
	for _, l := range letters {
		switch {
		case l.Closed:
			r.tell(l, AlreadyClosed, "")
		case l.Stage == StageLoader && l.originKnown:
			loader = append(loader, l)
		case l.Stage == StageNormalizer && l.originKnown && l.fromTopic == r.deps.Topics.Raw:
			g := r.groups[l.from]
			if g == nil {
				g = &group{selected: map[Place]bool{}}
				r.groups[l.from] = g
			}
			g.selected[l.Place] = true
		default:
			r.tell(l, NotRetryable, fmt.Sprintf("stage %q, origin %q", l.Stage, l.Origin))
		}
	}
	if err := r.normalizer(ctx); err != nil {
		return err
	}
	for _, l := range loader {
		if err := r.insert(ctx, l); err != nil {
			return err
		}
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	return r.follow(ctx)
}

// normalizer retries raw records.
func (r *retry) normalizer(ctx context.Context) error {
	if len(r.groups) == 0 {
		return nil
	}
	// The other letters of these raw records, whatever the filter says: their
	// elements are read again, too.
	all, _, err := r.List(ctx, Filter{})
	if err != nil {
		return err
	}
	for _, l := range all {
		if g := r.groups[l.from]; g != nil && l.Stage == StageNormalizer && l.fromTopic == r.deps.Topics.Raw {
			g.letters = append(g.letters, l)
		}
	}
	var places []Place
	for from := range r.groups {
		places = append(places, from)
	}
	err = r.fetch(ctx, r.deps.Topics.Raw, places, func(k *kgo.Record) error {
		g := r.groups[Place{k.Partition, k.Offset}]
		if len(g.letters) > 0 && string(g.letters[0].key) != string(k.Key) {
			return nil // another topic of the same name
		}
		return r.resend(ctx, g, k)
	})
	if err != nil {
		return err
	}
	return r.rebuild(ctx)
}

// rebuild makes raw records out of letters that hold all of theirs.
func (r *retry) rebuild(ctx context.Context) error {
	whole := map[Place]*group{}
	var places []Place
	for _, g := range r.groups {
		if g.done {
			continue
		}
		for _, l := range g.letters {
			if l.element < 0 && whole[l.Place] == nil {
				whole[l.Place] = g
				places = append(places, l.Place)
				break
			}
		}
	}
	err := r.fetch(ctx, r.deps.Topics.Dead, places, func(k *kgo.Record) error {
		g := whole[Place{k.Partition, k.Offset}]
		original := &kgo.Record{Topic: r.deps.Topics.Raw, Key: k.Key, Value: k.Value}
		for _, h := range k.Headers {
			switch h.Key {
			case kafka.HeaderReason, kafka.HeaderError, kafka.HeaderStage, kafka.HeaderOrigin:
			default:
				original.Headers = append(original.Headers, h)
			}
		}
		return r.resend(ctx, g, original)
	})
	if err != nil {
		return err
	}
	for _, g := range r.groups {
		if !g.done {
			r.tellGroup(g, Gone, "retention has taken its raw record, and the letter holds a part of it only")
		}
	}
	return nil
}

// resend decides about a raw record and writes it again, with the closing marks
// of its letters.
func (r *retry) resend(ctx context.Context, g *group, original *kgo.Record) error {
	made := r.deps.Transform(original)
	refused := map[int32]Refusal{}
	for _, no := range made.Refused {
		refused[no.Index] = no
	}
	cured, lettered, whole := false, map[int32]bool{}, false
	for _, l := range g.letters {
		_, no := refused[l.element]
		_, allNo := refused[-1]
		cured = cured || !no && !allNo
		lettered[l.element] = true
		whole = whole || l.element < 0
	}
	if !cured {
		g.done = true
		for _, l := range g.letters {
			no, ok := refused[l.element]
			if !ok {
				no = refused[-1]
			}
			if g.selected[l.Place] {
				r.tell(l, StillRefused, no.Error)
			}
		}
		return nil
	}
	neighbors := 0
	for _, index := range made.Events {
		if !whole && !lettered[index] {
			neighbors++
		}
	}
	if age := r.deps.Now().Sub(made.ReceivedAt); neighbors > 0 && age > r.deps.DedupWindow-margin {
		r.tellGroup(g, TooOld, fmt.Sprintf("%d events beside it are older than the dedup window and would be published again", neighbors))
		return nil
	}
	if r.opt.DryRun {
		r.tellGroup(g, WouldRetry, fmt.Sprintf("its raw record becomes %d events and %d letters", len(made.Events), len(made.Refused)))
		return nil
	}
	again := &kgo.Record{Topic: r.deps.Topics.Raw, Key: original.Key, Value: original.Value}
	for _, h := range original.Headers {
		if h.Key != HeaderRetryOf {
			again.Headers = append(again.Headers, h)
		}
	}
	l := g.letters[0]
	again.Headers = append(again.Headers, kgo.RecordHeader{
		Key: HeaderRetryOf, Value: []byte(fmt.Sprintf("%s/%s", l.fromTopic, l.from)),
	})
	records := []*kgo.Record{again}
	for _, l := range g.letters {
		records = append(records, r.mark(l))
	}
	g.done = true
	return r.add(ctx, func() { r.sent[again] = sent{g, made} }, records...)
}

// mark is the closing mark of a letter.
func (r *retry) mark(l Letter) *kgo.Record {
	return &kgo.Record{
		Topic: r.deps.Topics.Dead, Key: l.key, Value: []byte{},
		Headers: []kgo.RecordHeader{
			{Key: HeaderCloses, Value: []byte(l.Place.String())},
			{Key: HeaderClosesOrigin, Value: []byte(l.id())},
		},
	}
}

// add puts records into the transaction in hand, which is never split within
// one call.
func (r *retry) add(ctx context.Context, then func(), records ...*kgo.Record) error {
	r.batch = append(r.batch, records...)
	r.pending = append(r.pending, then)
	for _, k := range records {
		r.size += len(k.Value)
	}
	if len(r.batch) < batchRecords && r.size < batchBytes {
		return nil
	}
	return r.flush(ctx)
}

func (r *retry) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	if err := r.publisher.Publish(ctx, r.batch...); err != nil {
		return err
	}
	for _, k := range r.batch {
		k.Value = nil // it is sent; only its place counts from here on
	}
	for _, then := range r.pending {
		then()
	}
	r.batch, r.pending, r.size = nil, nil, 0
	return nil
}

// insert retries a letter of the loader. The mark follows the insert; a crash in
// between leaves the letter open, and its next insert has the same token.
func (r *retry) insert(ctx context.Context, l Letter) error {
	if !l.decodable {
		record, err := r.Show(ctx, l.Place)
		if err != nil {
			return err
		}
		// Again, for the reason: the registry may have failed before.
		if l.event, err = r.deps.Decode(ctx, record.Value); err != nil {
			if _, permanent := fault.Reason(err); !permanent {
				return err
			}
			r.tell(l, StillRefused, err.Error())
			return nil
		}
	}
	there, err := r.deps.Table.Has(ctx, l.event.ID)
	if err != nil {
		return err
	}
	if r.opt.DryRun {
		r.tell(l, WouldRetry, "event "+l.event.ID.String()+", in ClickHouse: "+strconv.FormatBool(there))
		return nil
	}
	outcome := AlreadyThere
	if !there {
		err := r.deps.Table.Insert(ctx, "dead/"+l.Origin, []event.Event{l.event})
		if _, permanent := fault.Reason(err); permanent {
			r.tell(l, StillRefused, err.Error())
			return nil
		}
		if err != nil {
			return err
		}
		if there, err = r.deps.Table.Has(ctx, l.event.ID); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("event %s of letter %s was inserted and is not there: the letter stays open", l.event.ID, l.Place)
		}
		outcome = Inserted
	}
	return r.add(ctx, func() { r.tell(l, outcome, "event "+l.event.ID.String()) }, r.mark(l))
}

// follow waits for the normalizer and tells what it made of what was sent.
func (r *retry) follow(ctx context.Context) error {
	if len(r.sent) == 0 {
		return nil
	}
	reached, waitErr := r.await(ctx)
	again := map[string]string{} // error by origin; it begins with the reason
	if waitErr == nil {
		waitErr = r.deps.Clients.Settle(ctx, r.deps.Topics.Dead)
	}
	if waitErr == nil {
		span, err := r.deps.Clients.Span(ctx, r.deps.Topics.Dead, kafka.End(), kafka.End())
		if err != nil {
			return err
		}
		span.From = r.deadEnd
		err = r.deps.Clients.Read(ctx, span, func(k *kgo.Record) error {
			again[kafka.HeaderOf(k, kafka.HeaderOrigin)] = kafka.HeaderOf(k, kafka.HeaderError)
			return nil
		})
		if err != nil {
			return err
		}
	}
	for record, s := range r.sent {
		at := kafka.Origin(record)
		for _, l := range s.group.letters {
			if !s.group.selected[l.Place] {
				continue
			}
			why, refused := again[at]
			parts := 0
			if !refused && l.element >= 0 {
				why, refused = again[fmt.Sprintf("%s#%d", at, l.element)]
			} else if !refused {
				for origin := range again {
					if strings.HasPrefix(origin, at+"#") {
						parts++
					}
				}
			}
			switch {
			case refused:
				r.tell(l, RefusedAgain, "as "+at+", "+why)
			case !reached[record]:
				r.tell(l, Sent, "as "+at)
			case parts > 0:
				r.tell(l, Published, fmt.Sprintf("as %s, but %d of its elements are letters now", at, parts))
			default:
				r.tell(l, Published, "as "+at)
			}
		}
	}
	return waitErr
}

// await returns which of the sent records the normalizer has committed.
func (r *retry) await(ctx context.Context) (map[*kgo.Record]bool, error) {
	reached := map[*kgo.Record]bool{}
	deadline := time.Now().Add(r.opt.Wait)
	for {
		committed, err := r.deps.Clients.Committed(ctx, r.deps.NormalizerGroup, r.deps.Topics.Raw)
		if err != nil {
			return reached, err
		}
		for record := range r.sent {
			reached[record] = committed[record.Partition] > record.Offset
		}
		missing := false
		for _, ok := range reached {
			missing = missing || !ok
		}
		if !missing || !time.Now().Before(deadline) {
			return reached, nil
		}
		select {
		case <-ctx.Done():
			return reached, errors.Join(errors.New("interrupted while waiting for the normalizer"), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
