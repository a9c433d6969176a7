package suppression

import (
	"fmt"
	"slices"
	"time"

	"mailriver/pkg/event"
)

// Judgement is what the policy made of one fact.
type Judgement struct {
	Fact    Fact
	Counts  bool   // it is part of an entry, expired or not
	Because string // for people
}

// Verdict is what a policy reads off a state.
type Verdict struct {
	// Entries has at most one for each reason, strongest first. Time does not
	// enter: an entry that has expired by now is among them.
	Entries []Entry
	// Judgements has one for each fact, in the order of the state.
	Judgements []Judgement
}

// Active returns the entries in force at a moment.
func Active(entries []Entry, now time.Time) []Entry {
	var active []Entry
	for _, e := range entries {
		if e.ExpiresAt.IsZero() || now.Before(e.ExpiresAt) {
			active = append(active, e)
		}
	}
	return active
}

// Evaluate applies the policy to all that is known about one address in one
// scope. It looks at no clock: only the facts and their times decide.
func Evaluate(s State, p *Policy) Verdict {
	v := Verdict{Judgements: make([]Judgement, len(s.Facts))}
	byReason := map[Reason][]int{}
	for i, f := range s.Facts {
		v.Judgements[i] = judge(s, f, p)
		if v.Judgements[i].Counts {
			byReason[f.Reason] = append(byReason[f.Reason], i)
		}
	}
	for reason, indexes := range byReason {
		if entry, ok := entryOf(s, p.Rule(reason), indexes); ok {
			entry.Reason = reason
			v.Entries = append(v.Entries, entry)
			continue
		}
		rule := p.Rule(reason)
		for _, i := range indexes {
			v.Judgements[i].Counts = false
			v.Judgements[i].Because = fmt.Sprintf("counted, but it takes %d messages%s", rule.Messages, window(rule))
		}
	}
	slices.SortFunc(v.Entries, func(a, b Entry) int { return p.compareStrength(a.Reason, b.Reason) })
	return v
}

func window(r Rule) string {
	text := ""
	if r.Within > 0 {
		text += " within " + r.Within.String()
	}
	if r.Spread > 0 {
		text += ", the first and last at least " + r.Spread.String() + " apart"
	}
	return text
}

// judge looks at one fact beside the lifts of its state.
func judge(s State, f Fact, p *Policy) Judgement {
	switch f.Effect {
	case Lift:
		return Judgement{Fact: f, Because: "lifts what is older" + of(f)}
	case Deliver:
		return Judgement{Fact: f, Because: "a message arrived"}
	case None:
		return Judgement{Fact: f, Because: fmt.Sprintf("corrected by revision %d: means nothing here any more", f.Revision)}
	case Suppress, Confirm:
	default:
		return Judgement{Fact: f, Because: "of an effect that this version does not know"}
	}
	rule := p.Rule(f.Reason)
	if !rule.Suppress {
		return Judgement{Fact: f, Because: "the policy does not suppress for this reason"}
	}
	for _, l := range s.Facts {
		if l.At.After(latest(f.At)) && lifts(l, f, rule) {
			return Judgement{Fact: f, Because: fmt.Sprintf("lifted by event %s of %s", l.EventID, l.At.Format(time.RFC3339))}
		}
	}
	if f.Effect == Confirm {
		return Judgement{Fact: f, Counts: true, Because: "the provider refused because of an entry of its own"}
	}
	return Judgement{Fact: f, Counts: true, Because: "suppresses"}
}

func of(f Fact) string {
	switch {
	case f.Reason != "":
		return " of reason " + string(f.Reason)
	case f.ByHand():
		return ", for every reason"
	}
	return ""
}

// latest is the last moment that a time can stand for: many providers send
// whole seconds. So of two in the same second the one that suppresses wins, and
// of two in the same microsecond.
func latest(at time.Time) time.Time {
	if at.Nanosecond() == 0 {
		return at.Add(time.Second - time.Microsecond)
	}
	return at
}

// lifts reports whether a later fact takes back an earlier one.
func lifts(l, f Fact, rule Rule) bool {
	switch {
	case l.Effect == Deliver:
		return rule.liftedBy(ByDelivery)
	case l.Effect != Lift:
		return false
	case l.EventType == event.Resubscribed:
		// Even our own page takes an opt-in from the recipient, not from an
		// operator: the policy may refuse it.
		return l.Reason == f.Reason && (l.ByHand() || sameList(l, f)) && rule.liftedBy(ByResubscribe)
	case l.ByHand():
		return l.Reason == "" || l.Reason == f.Reason
	}
	return l.Reason == f.Reason && sameList(l, f) && rule.liftedBy(ByProvider)
}

// sameList reports whether a provider that lifts speaks of the list that it
// spoke of before: of the same source, and of the same scope of its own or the
// whole account.
func sameList(l, f Fact) bool {
	return l.Provider == f.Provider && l.Source == f.Source && (l.Given == "" || l.Given == f.Given)
}

// certain reports whether a fact says that there is an entry, so that nothing
// needs counting: a person or a provider put the address on a list. It is no
// further bounce or complaint either.
func (f Fact) certain() bool {
	return f.Effect == Confirm || f.EventType == event.SuppressionChanged || f.ByHand()
}

// entryOf makes the entry of one reason out of the facts that count, oldest
// first, or none when they are too few.
func entryOf(s State, rule Rule, indexes []int) (Entry, bool) {
	var entry Entry
	open := false
	for at, i := range indexes {
		f := s.Facts[i]
		inForce := open && (entry.ExpiresAt.IsZero() || f.At.Before(entry.ExpiresAt))
		// In force, each further fact prolongs the entry. Else, if there was one
		// it had expired by then, and it takes as much as for the first.
		if !inForce && !f.certain() && !reached(s, rule, indexes[:at+1]) {
			continue
		}
		expires := expiry(f, rule)
		if !inForce {
			open = true
			entry = Entry{
				Address: s.Address, ScopeKind: s.ScopeKind, ScopeID: s.ScopeID, Since: f.At, ExpiresAt: expires,
				Provider: f.Provider, Source: f.Source, EventID: f.EventID.String(),
			}
			if f.ByHand() {
				entry.Note = f.Detail
			}
			continue
		}
		if expires.IsZero() || !entry.ExpiresAt.IsZero() && expires.After(entry.ExpiresAt) {
			entry.ExpiresAt = expires
		}
	}
	return entry, open
}

func expiry(f Fact, rule Rule) time.Time {
	switch {
	case !f.ExpiresAt.IsZero():
		return f.ExpiresAt
	case rule.Expires > 0:
		return f.At.Add(rule.Expires)
	}
	return time.Time{}
}

// reached reports whether the threshold is met at the last of the facts.
func reached(s State, rule Rule, indexes []int) bool {
	if rule.Messages <= 1 {
		return true
	}
	last := s.Facts[indexes[len(indexes)-1]]
	messages := map[int64]bool{}
	unknown := 0
	first := last.At
	for _, i := range indexes {
		f := s.Facts[i]
		if f.certain() || rule.Within > 0 && last.At.Sub(f.At) > rule.Within {
			continue
		}
		if f.At.Before(first) {
			first = f.At
		}
		if f.Message == 0 {
			unknown++ // each as one of its own
			continue
		}
		messages[f.Message] = true
	}
	return len(messages)+unknown >= rule.Messages && last.At.Sub(first) >= rule.Spread
}
