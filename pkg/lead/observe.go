package lead

import (
	"slices"

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

// Observe asks what an event means. Known says whether the recipient has a
// contribution of this event already: only then a correction that holds no rule
// any more says anything.
func (s *Set) Observe(e *event.Event) Observation {
	if e.IsTest || e.Type == event.Test {
		return Observation{Skipped: SkipTest}
	}
	if _, ok := address.Normalize(e.RecipientNormalized); !ok {
		return Observation{Skipped: SkipNoRecipient}
	}
	if e.RecipientAmbiguous {
		return Observation{Skipped: SkipAmbiguous}
	}
	if e.IsDuplicateHint {
		return Observation{Skipped: SkipHint}
	}
	o := Observation{}
	if e.Type == event.Delivered {
		o.Delivery = Delivery{Message: messageHash(e), At: e.OccurredAt.UTC()}
	}
	c := Contribution{
		EventID: e.ID, Revision: e.Revision, At: e.OccurredAt.UTC(), Type: e.Type, Message: messageHash(e),
	}
	if e.URL != "" {
		c.Link = hash(e.URL)
	}
	engaged := e.Type == event.Opened || e.Type == event.Clicked
	if engaged && e.Machine == event.MachineYes {
		o.Skipped = SkipMachine
	} else {
		c.Rules, o.Failures = s.Match(e)
		if len(c.Rules) == 0 {
			o.Skipped = SkipNoRule
		}
	}
	if len(c.Rules) > 0 || e.Revision > 0 {
		// A correction counts even when it takes everything back.
		o.Contribution = c
	}
	if !o.Delivery.At.IsZero() || len(c.Rules) > 0 {
		o.Skipped = ""
	}
	return o
}

// Add joins an observation to a state, and reports whether that changed it.
func (s *Set) Add(st State, o *Observation) (State, bool) {
	add := State{Recipient: st.Recipient}
	if !o.Contribution.EventID.IsZero() {
		if len(o.Contribution.Rules) == 0 && !st.has(o.Contribution.EventID) {
			return st, false // takes back what was never given
		}
		add.Contributions = []Contribution{o.Contribution}
	}
	if !o.Delivery.At.IsZero() && o.Delivery.Message != 0 {
		add.Deliveries = []Delivery{o.Delivery}
	}
	if len(add.Contributions)+len(add.Deliveries) == 0 {
		return st, false
	}
	next := s.Merge(st, add)
	same := slices.Equal(next.Deliveries, st.Deliveries) &&
		slices.EqualFunc(next.Contributions, st.Contributions, func(a, b Contribution) bool {
			return a.EventID == b.EventID && a.Revision == b.Revision && a.At.Equal(b.At) && slices.Equal(a.Rules, b.Rules)
		})
	return next, !same
}

func (st *State) has(id event.ID) bool {
	return slices.ContainsFunc(st.Contributions, func(c Contribution) bool { return c.EventID == id })
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
