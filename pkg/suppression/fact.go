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
	Message   int64  // hash of the message's id; 0 when it is not known
	Detail    string // short: cause and enhanced code, or the note of a person
	Actor     string // who did it, when a person did
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

// KeptFacts bounds the facts of one effect, reason and source in a state: the
// newest ones, and the oldest. The newest decide whether an address is
// suppressed. What the bound can change is how far back "since" reaches when
// there are more facts than this after a lift.
const KeptFacts = 32

// Add returns the state with one more fact.
func (s State) Add(f Fact) State {
	facts := append(slices.Clone(s.Facts), f)
	s.Facts = canonical(facts)
	return s
}

// Merge joins what two states know about the same address and scope. It is
// commutative, associative and idempotent.
//
// One exception: a correction (higher revision) that moves the time or effect of
// a fact in a state that is at its bound may make room that the dropped facts no
// longer fill.
func Merge(a, b State) State {
	if len(a.Facts) == 0 {
		return b
	}
	if len(b.Facts) == 0 {
		return a
	}
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
	type bucket struct {
		effect Effect
		reason Reason
		source string
	}
	type message struct {
		bucket
		id int64
	}
	count := map[bucket]int{}
	oldest := map[bucket]int{}
	seen := map[message]bool{}
	keep := make([]bool, len(facts))
	for i, f := range facts {
		b := bucket{f.Effect, f.Reason, f.Source}
		if f.Effect == Suppress && f.Reason == SoftBounce {
			// Counted by message: without this, one message that bounces for
			// days would push the others out. The newest of a message stays;
			// keeping an oldest as well would not be associative.
			if f.Message != 0 {
				m := message{b, f.Message}
				if seen[m] {
					continue
				}
				seen[m] = true
			}
		} else {
			oldest[b] = i
		}
		if count[b] < KeptFacts {
			count[b]++
			keep[i] = true
		}
	}
	for _, i := range oldest {
		keep[i] = true
	}
	kept := make([]Fact, 0, len(facts))
	for i := len(facts) - 1; i >= 0; i-- {
		if keep[i] {
			kept = append(kept, facts[i])
		}
	}
	return kept
}

func compareTime(a, b Fact) int {
	return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.EventID[:], b.EventID[:]))
}

// compareContent orders two facts of one event and revision. They differ only
// when two builds, or two policies, read the event differently; which one wins
// must not depend on the order.
func compareContent(a, b Fact) int {
	return cmp.Or(
		compareTime(a, b), cmp.Compare(a.Effect, b.Effect), cmp.Compare(a.Reason, b.Reason), a.ExpiresAt.Compare(b.ExpiresAt),
		cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Source, b.Source), cmp.Compare(a.EventType, b.EventType),
		cmp.Compare(a.Message, b.Message), cmp.Compare(a.Detail, b.Detail), cmp.Compare(a.Actor, b.Actor),
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
