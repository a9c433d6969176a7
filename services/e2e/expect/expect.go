// Package expect says what the consumers of canonical events must make of them:
// the suppression list, the leads and their signals.
//
// It folds events in memory, one after the other, with the same pure packages as
// the services, and with none of what the services are there for: no Kafka, no
// batches, no local copies, no restarts. So a test that compares the two finds
// what the way of the events did to them. It does not check the packages
// themselves, which have tests of their own.
package expect

import (
	"iter"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
)

// List is the suppression list.
type List struct {
	policy    suppression.Policy
	states    map[string]suppression.State // by key, which has the spelling of the address
	joined    map[scope]suppression.State  // all spellings of an address together
	addresses map[string]bool              // folded, all that were ever named
}

type scope struct{ address, kind, id string }

// NewList returns an empty list.
func NewList(p suppression.Policy) *List {
	return &List{
		policy: p, states: map[string]suppression.State{}, joined: map[scope]suppression.State{}, addresses: map[string]bool{},
	}
}

// Add folds an event. The order of events does not matter.
func (l *List) Add(e *event.Event) {
	if e.RecipientNormalized == "" {
		return
	}
	folded := l.policy.Fold(e.RecipientNormalized)
	l.addresses[folded] = true
	placed, _ := suppression.Classify(e, &l.policy)
	for _, p := range placed {
		of := suppression.State{Address: e.RecipientNormalized, ScopeKind: p.ScopeKind, ScopeID: p.ScopeID}
		key := of.Key()
		if known, ok := l.states[key]; ok {
			of = known
		}
		l.states[key] = of.Add(p.Fact)

		at := scope{folded, p.ScopeKind, p.ScopeID}
		of, ok := l.joined[at]
		if !ok {
			of = suppression.State{Address: folded, ScopeKind: p.ScopeKind, ScopeID: p.ScopeID}
		}
		l.joined[at] = of.Add(p.Fact)
	}
}

// Answers are the entries in force at a moment, in no particular order, by
// address in the form in which spellings are equal. Addresses that nothing
// stands against are there, without entries.
func (l *List) Answers(now time.Time) map[string][]suppression.Entry {
	answers := make(map[string][]suppression.Entry, len(l.addresses))
	for address := range l.addresses {
		answers[address] = nil
	}
	for at, s := range l.joined {
		active := suppression.Active(suppression.Evaluate(s, &l.policy).Entries, now)
		answers[at.address] = append(answers[at.address], active...)
	}
	return answers
}

// Records are what the topic of suppressions must hold, by key.
func (l *List) Records() iter.Seq2[string, suppressionavro.Record] {
	fingerprint := l.policy.Fingerprint()
	return func(yield func(string, suppressionavro.Record) bool) {
		for key, s := range l.states {
			if !yield(key, suppressionavro.NewRecord(s, &l.policy, fingerprint)) {
				return
			}
		}
	}
}

// Leads are the leads of a set of profiles.
type Leads struct {
	rules  *lead.Set
	states map[string]lead.State
}

// NewLeads returns no leads.
func NewLeads(profiles []lead.Profile) (*Leads, error) {
	rules, err := lead.Compile(profiles)
	if err != nil {
		return nil, err
	}
	return &Leads{rules: rules, states: map[string]lead.State{}}, nil
}

// Add folds an event. Corrections aside, the order of events does not matter.
func (l *Leads) Add(e *event.Event) {
	o := l.rules.Observe(e)
	l.add(e, &o)
}

func (l *Leads) add(e *event.Event, o *lead.Observation) (before, after lead.State, changed bool) {
	if o.Skipped != "" && o.Contribution.EventID.IsZero() {
		return before, after, false
	}
	before, known := l.states[e.RecipientNormalized]
	if !known {
		before.Recipient = e.RecipientNormalized
	}
	after, changed = l.rules.Add(before, o)
	if changed {
		l.states[e.RecipientNormalized] = after
	}
	return before, after, changed
}

// Signal folds an event and returns the signals that it must give, coming where
// it comes among those of its recipient. It knows no age: all events are new.
func (l *Leads) Signal(e *event.Event) []leadavro.Signal {
	o := l.rules.Observe(e)
	before, after, changed := l.add(e, &o)
	if !changed || o.Contribution.EventID.IsZero() || e.Revision > 0 {
		return nil
	}
	var signals []leadavro.Signal
	for _, crossing := range l.rules.Crossings(l.rules.Standings(&before), l.rules.Standings(&after)) {
		signals = append(signals, leadavro.NewSignal(e, crossing))
	}
	return signals
}

// Records are what the topic of lead scores must hold, by key.
func (l *Leads) Records() iter.Seq2[string, leadavro.Record] {
	fingerprint := l.rules.Fingerprint()
	return func(yield func(string, leadavro.Record) bool) {
		for recipient, s := range l.states {
			if !yield(recipient, leadavro.Record{State: s, Standings: l.rules.Standings(&s), Rules: fingerprint}) {
				return
			}
		}
	}
}

// Standings are where everybody who is a lead stands at a moment, by recipient.
func (l *Leads) Standings(at time.Time) map[string][]lead.Standing {
	all := make(map[string][]lead.Standing, len(l.states))
	for recipient, s := range l.states {
		all[recipient] = l.rules.StandingsAt(&s, at)
	}
	return all
}
