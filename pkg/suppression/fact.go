package suppression

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"mailriver/pkg/event"
)

// Effect is what a fact does to the state of its address and scope.
type Effect string

// The effects.
const (
	Suppress Effect = "suppress"  // counts towards an entry, by the threshold of its reason
	Confirm  Effect = "confirm"   // a provider refused because of an entry: there is one, whatever the threshold
	Lift     Effect = "lift"      // ends entries that are older
	Deliver  Effect = "delivered" // a message arrived, which some reasons are lifted by
	None     Effect = "none"      // a corrected event that says nothing any more
)

// Fact is what one event says about one address and scope.
type Fact struct {
	EventID  event.ID
	Revision int32
	Effect   Effect
	// Reason is what it suppresses for, or lifts. A lift without one lifts
	// every reason, when a person made it, and otherwise [ProviderList].
	Reason    Reason
	At        time.Time // occurred_at, UTC, microseconds
	ExpiresAt time.Time // of the entry, where the event says so
	Provider  string
	Source    string
	EventType event.Type
	Message   int64 // hash of the message's id; 0 when it is not known
	// Given is the scope that the event named, or came from, where the fact is
	// about a wider one: "stream:news". Empty is the account, or not said.
	Given  string
	Detail string // short: cause and enhanced code, or the note of a person
	Actor  string // who did it, when a person did
}

// ByHand reports whether a person or a program of ours made the fact, and not
// a provider.
func (f Fact) ByHand() bool { return f.Provider == event.ProviderMailriver }

// State is what is known about one address in one scope: a set of facts. The
// zero State knows nothing.
type State struct {
	Address   string // in the spelling of recipient_normalized
	ScopeKind string
	ScopeID   string
	Facts     []Fact // oldest first; only Merge and Add keep them as they must be
}

// KeptFacts bounds the facts of one kind in a state, by effect, reason, source,
// event type and given scope. Kept are the newest ones, the newest one of each of the newest
// messages, the oldest one of each of the newest days, the oldest of all, and
// the one that expires last. Of deliveries the newest is enough.
//
// These decide whether an address is suppressed. What the bound can change, when
// there are more facts than this after a lift, is how far back "since" reaches,
// the exact moment at which a threshold is met, and which of the times at which
// providers let an entry end is the last.
const KeptFacts = 32

// Add returns the state with one more fact.
func (s State) Add(f Fact) State {
	facts := append(slices.Clone(s.Facts), f)
	s.Facts = canonical(facts)
	return s
}

// Merge joins what two states know about the same address and scope. It is
// commutative, associative and idempotent. Of two spellings the result has the
// first in the order of bytes.
//
// One exception: a correction (higher revision) that moves the time or effect of
// a fact in a state that is at its bound may make room that the dropped facts no
// longer fill. Of deliveries that bound is one.
func Merge(a, b State) State {
	if len(a.Facts) == 0 {
		return b
	}
	if len(b.Facts) == 0 {
		return a
	}
	a.Address = min(a.Address, b.Address)
	a.Facts = canonical(append(slices.Clone(a.Facts), b.Facts...))
	return a
}

// Find returns the fact of an event.
func (s State) Find(id event.ID) (Fact, bool) {
	for _, f := range s.Facts {
		if f.EventID == id {
			return f, true
		}
	}
	return Fact{}, false
}

// canonical sorts the facts, drops copies and older revisions, and bounds them.
// It reorders its argument.
func canonical(facts []Fact) []Fact {
	// The newest revision of an event, by id.
	slices.SortFunc(facts, func(a, b Fact) int {
		return cmp.Or(bytes.Compare(a.EventID[:], b.EventID[:]), cmp.Compare(b.Revision, a.Revision), compareContent(a, b))
	})
	facts = slices.CompactFunc(facts, func(a, b Fact) bool { return a.EventID == b.EventID })
	// Newest first, so that counting down each bucket keeps the newest.
	slices.SortFunc(facts, func(a, b Fact) int { return -compareTime(a, b) })
	deliveries := 0
	for _, f := range facts {
		if f.Effect == Deliver {
			deliveries++
		}
	}
	if len(facts) <= KeptFacts && deliveries <= 1 {
		slices.Reverse(facts) // as nearly always: there is room for all of them
		return facts
	}
	kinds := map[kind]*room{}
	keep := make([]bool, len(facts))
	for i, f := range facts {
		k := kindOf(f)
		r := kinds[k]
		if r == nil {
			r = &room{messages: map[int64]bool{}, days: map[int64]int{}, longest: i}
			kinds[k] = r
		}
		keep[i] = r.admit(facts, i)
	}
	for k, r := range kinds {
		if k.effect == Deliver {
			continue
		}
		keep[r.oldest], keep[r.longest] = true, true
		for _, i := range r.days {
			keep[i] = true
		}
	}
	kept := make([]Fact, 0, len(facts))
	for i := len(facts) - 1; i >= 0; i-- {
		if keep[i] {
			kept = append(kept, facts[i])
		}
	}
	return kept
}

// kind is what facts have in common that stand in for each other.
type kind struct {
	effect   Effect
	reason   Reason
	provider string
	source   string
	typ      event.Type
	given    string // a removal may reach one and not the other
	expires  bool   // the event says when; else it is up to the policy
}

func kindOf(f Fact) kind {
	if f.Effect == Deliver {
		return kind{effect: Deliver} // whoever delivered it
	}
	return kind{f.Effect, f.Reason, f.Provider, f.Source, f.EventType, f.Given, !f.ExpiresAt.IsZero()}
}

// room is what is kept of one kind. Each part is the greatest or the least of a
// set, or a number of them, so that it can be had from parts of the set.
type room struct {
	newest   int
	messages map[int64]bool // whose newest fact is kept
	days     map[int64]int  // the oldest fact of each
	oldest   int
	longest  int
}

// admit takes the next fact, from the newest on, and reports whether it is
// already clear that it stays.
func (r *room) admit(facts []Fact, i int) bool {
	f := facts[i]
	r.oldest = i
	if f.ExpiresAt.After(facts[r.longest].ExpiresAt) {
		r.longest = i
	}
	if f.Effect == Deliver {
		r.newest++
		return r.newest == 1
	}
	// Without the days, 32 messages that bounce within one would hide that
	// others did for weeks, and the spread of a threshold would never be met.
	day := f.At.Unix() / int64((24*time.Hour)/time.Second)
	if _, ok := r.days[day]; ok || len(r.days) < KeptFacts {
		r.days[day] = i
	}
	keep := false
	if r.newest < KeptFacts {
		r.newest++
		keep = true
	}
	// Without the messages, one that bounces again and again would push the
	// others out. An oldest one of each message could not be kept: a message
	// that drops out would lose it, and may come back.
	if f.Message != 0 && !r.messages[f.Message] && len(r.messages) < KeptFacts {
		r.messages[f.Message] = true
		keep = true
	}
	return keep
}

func compareTime(a, b Fact) int {
	return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.EventID[:], b.EventID[:]))
}

// compareContent orders two facts of one event and revision. They differ only
// when two builds, or two policies, read the event differently; which one wins
// must not depend on the order.
func compareContent(a, b Fact) int {
	return cmp.Or(
		compareTime(a, b), cmp.Compare(a.Effect, b.Effect), cmp.Compare(a.Reason, b.Reason),
		a.ExpiresAt.Compare(b.ExpiresAt), cmp.Compare(a.Provider, b.Provider),
		cmp.Compare(a.Source, b.Source), cmp.Compare(a.EventType, b.EventType),
		cmp.Compare(a.Message, b.Message), cmp.Compare(a.Given, b.Given), cmp.Compare(a.Detail, b.Detail),
		cmp.Compare(a.Actor, b.Actor),
	)
}

// Key is the key of a state's record: scope and address. Delimiters in a scope's
// id are percent-encoded, so that the first bar ends the scope.
func (s State) Key() string {
	if s.ScopeID == "" {
		return s.ScopeKind + "|" + s.Address
	}
	return s.ScopeKind + ":" + escape.Replace(s.ScopeID) + "|" + s.Address
}

var escape = strings.NewReplacer("%", "%25", "|", "%7C")

// KeyParts splits a key made by [State.Key] into the scope, as it stands there,
// and the address.
func KeyParts(key string) (scope, address string, ok bool) {
	return strings.Cut(key, "|")
}

// ParseKey returns the state that has this key, without its facts.
func ParseKey(key string) (s State, ok bool) {
	scope, address, ok := KeyParts(key)
	kind, id, _ := strings.Cut(scope, ":")
	return State{Address: address, ScopeKind: kind, ScopeID: unescape.Replace(id)}, ok && address != "" && kind != ""
}

var unescape = strings.NewReplacer("%7C", "|", "%25", "%")
