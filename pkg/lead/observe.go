package lead

import (
	"slices"
	"time"

	"mailriver/pkg/address"
	"mailriver/pkg/event"
)

// Reasons why an event says nothing about a lead. They are metric labels.
const (
	SkipTest        = "test"
	SkipNoRecipient = "no_recipient"
	SkipAmbiguous   = "ambiguous"
	SkipMachine     = "machine"  // one event alone says that no human did it
	SkipNoRule      = "no_rule"  // no rule holds
	SkipHint        = "repeated" // a second signal of a fact that another event reports
)

// Observation is what an event says about its recipient.
type Observation struct {
	Contribution Contribution // without an id: none
	Delivery     Delivery     // without a time: none
	Skipped      string       // why there is neither
	Failures     []Failure
}

// Observe asks what an event means. A correction (higher revision) that gives
// nothing any more is a contribution without rules, which takes back what was
// given before.
func (s *Set) Observe(e *event.Event) Observation {
	if _, ok := address.Normalize(e.RecipientNormalized); !ok {
		return Observation{Skipped: SkipNoRecipient}
	}
	o := Observation{Skipped: skip(e)}
	at := e.OccurredAt.UTC().Truncate(time.Microsecond) // as a state is written
	c := Contribution{EventID: e.ID, Revision: e.Revision, At: at, Type: e.Type, Message: messageHash(e)}
	if e.URL != "" {
		c.Link = hash(e.URL)
	}
	if o.Skipped == "" {
		c.Rules, o.Failures = s.Match(e)
		if e.Type == event.Delivered && c.Message != 0 {
			o.Delivery = Delivery{Message: c.Message, At: at}
		}
		if len(c.Rules) == 0 && o.Delivery.At.IsZero() {
			o.Skipped = SkipNoRule
		}
	}
	if len(c.Rules) > 0 || e.Revision > 0 {
		o.Contribution = c
	}
	return o
}

// skip is why an event says nothing, before any rule is asked.
func skip(e *event.Event) string {
	switch {
	case e.IsTest || e.Type == event.Test:
		return SkipTest
	case e.RecipientAmbiguous:
		return SkipAmbiguous
	case e.IsDuplicateHint:
		return SkipHint
	case (e.Type == event.Opened || e.Type == event.Clicked) && e.Machine == event.MachineYes:
		return SkipMachine
	}
	return ""
}

// Add joins an observation to a state, and reports whether that changed it. A
// correction comes behind what it corrects, as it does in the topic of events:
// one that takes back what is not there is not kept.
func (s *Set) Add(st State, o *Observation) (State, bool) {
	next := st
	if c := &o.Contribution; !c.EventID.IsZero() {
		switch at, known := st.find(c); {
		case known:
			next.Contributions = s.bound(unite(st.Contributions, []Contribution{*c}))
		case len(c.Rules) > 0:
			all := append(make([]Contribution, 0, len(st.Contributions)+1), st.Contributions[:at]...)
			next.Contributions = s.bound(append(append(all, *c), st.Contributions[at:]...))
		}
	}
	if o.Delivery.Message != 0 && !slices.Contains(st.Deliveries, o.Delivery) {
		next.Deliveries = uniteDeliveries(st.Deliveries, []Delivery{o.Delivery})
	}
	if slices.Equal(next.Deliveries, st.Deliveries) && slices.EqualFunc(next.Contributions, st.Contributions, sameContribution) {
		return st, false
	}
	return next, true
}

func sameContribution(a, b Contribution) bool {
	return a.EventID == b.EventID && a.Revision == b.Revision && compare(&a, &b) == 0
}

// find returns where a contribution belongs in the order of time, or that one of
// its event is there.
func (st *State) find(c *Contribution) (at int, known bool) {
	for i := range st.Contributions {
		if st.Contributions[i].EventID == c.EventID {
			return i, true
		}
		if compareTime(&st.Contributions[i], c) < 0 {
			at = i + 1
		}
	}
	return at, false
}

func messageHash(e *event.Event) int64 {
	id := e.ProviderMessageID
	if id == "" {
		id = e.SMTPMessageID
	}
	if id == "" {
		return 0
	}
	return hash(e.Provider + "\x00" + e.Source + "\x00" + id)
}
