package leadscoring

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
)

// Segments are asked when an event changes a lead, and not when time passes. Only
// the owner of a partition may write its leads, and what makes it the owner is
// the commit of offsets: a walk through the leads has none to commit, so one who
// lost a partition without noticing could write an old state over a newer one.

// move makes the segments of a lead those of now, and returns the records that
// say which it entered and left.
//
// An event that is hushed changes the memberships and says nothing, as with
// signals. What time did is told by such an event too: it would be so without the
// event, and is found once.
func (f *fold) move(input *kgo.Record, e *event.Event, before *lead.State, r *leadavro.Record, t *tally) ([]*kgo.Record, error) {
	if len(f.cfg.Segments) == 0 && len(r.Segments) == 0 {
		return nil, nil
	}
	now := f.deps.Now().UTC().Truncate(time.Microsecond) // as it is written
	names, failures := f.segments.Evaluate(&r.State, now)
	for _, failure := range failures {
		t.segments[failure.Rule]++
	}
	kept, entered, left := compareSegments(r.Segments, names, now)
	if len(entered) == 0 && len(left) == 0 {
		return nil, nil
	}
	r.Segments = kept
	because := f.reasons(before, names, now)
	var records []*kgo.Record
	tell := func(segment string, in bool) error {
		change := leadavro.NewChange(leadavro.Change{
			Recipient: r.Recipient, Segment: segment, Entered: in, At: now, Because: because(segment), EventID: e.ID,
		})
		label := changeLabel{segment, leadavro.Move(in), "told"}
		if change.Because == leadavro.BecauseEvent {
			label.outcome = cmp.Or(f.hushed(input, e), "told")
		}
		t.changes[label]++
		if label.outcome != "told" {
			return nil
		}
		value, err := f.deps.Changes.Append(nil, &change)
		if err != nil {
			return fmt.Errorf("change of segment: %w", err)
		}
		records = append(records, &kgo.Record{Topic: f.deps.Topics.Segments, Key: []byte(r.Recipient), Value: value})
		return nil
	}
	for _, segment := range left {
		if err := tell(segment, false); err != nil {
			return nil, err
		}
	}
	for _, segment := range entered {
		if err := tell(segment, true); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// compareSegments returns what a lead is in, and which of these segments are new
// and which of the known ones gone.
func compareSegments(known []lead.Membership, names []string, now time.Time) (in []lead.Membership, entered, left []string) {
	for _, name := range names {
		at := slices.IndexFunc(known, func(m lead.Membership) bool { return m.Segment == name })
		if at >= 0 {
			in = append(in, known[at])
			continue
		}
		in = append(in, lead.Membership{Segment: name, Since: now})
		entered = append(entered, name)
	}
	for _, m := range known {
		if !slices.Contains(names, m.Segment) {
			left = append(left, m.Segment)
		}
	}
	return in, entered, left
}

// reasons says why a membership is not what it was: by the event, unless it would
// be the same now without. One of whom nothing was known is here by the event.
func (f *fold) reasons(before *lead.State, names []string, now time.Time) func(segment string) string {
	unknown := len(before.Contributions) == 0 && len(before.Deliveries) == 0
	without, _ := f.segments.Evaluate(before, now)
	return func(segment string) string {
		if !unknown && slices.Contains(without, segment) == slices.Contains(names, segment) {
			return leadavro.BecauseTime
		}
		return leadavro.BecauseEvent
	}
}
