package suppression_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// randomFact has few values of each kind, so that facts meet.
func randomFact(r *rand.Rand, id int) suppression.Fact {
	f := suppression.Fact{
		EventID: event.NewID("p", "s", fmt.Sprint(id)), Reason: suppression.Reasons()[r.IntN(3)],
		Effect: suppression.Suppress, EventType: event.Bounced, Provider: "ses", Source: "ses-eu",
		At: start.Add(time.Duration(r.IntN(160)) * 6 * time.Hour), Message: r.Int64N(80),
	}
	switch r.IntN(8) {
	case 0:
		f.Effect, f.EventType = suppression.Lift, event.SuppressionChanged
	case 1:
		f.Effect, f.EventType = suppression.Deliver, event.Delivered
	case 2:
		f.Effect = suppression.None
	case 3:
		f.Effect = suppression.Confirm
	case 4, 5:
		f.ExpiresAt = f.At.Add(time.Duration(1+r.IntN(100)) * day)
	}
	if r.IntN(8) == 0 {
		f.Source = "ses-us"
	}
	if r.IntN(6) == 0 {
		f.Given = "stream:news"
	}
	return f
}

func stateOf(facts ...suppression.Fact) suppression.State {
	s := suppression.State{Address: "jane@example.com", ScopeKind: event.ScopeAddress}
	if len(facts) == 0 {
		return s
	}
	return suppression.Merge(s.Add(facts[0]), suppression.State{Address: s.Address, Facts: facts[1:]})
}

// threeStates reads three states out of bytes. Without corrections, an event has
// one content, wherever it occurs.
func threeStates(data []byte) (states [3]suppression.State, facts int, corrected bool) {
	if len(data) == 0 {
		return states, 0, false
	}
	corrected = data[0]&1 == 1
	var parts [3][]suppression.Fact
	narrow := data[0]&2 == 2 // nearly all of one kind, above the bound
	for i, rest := 0, data[1:]; len(rest) >= 3; i, rest = i+1, rest[3:] {
		id := int(binary.BigEndian.Uint16(rest)) % 512
		seed := uint64(id)
		if corrected {
			seed += uint64(rest[2]) << 32
		}
		f := randomFact(rand.New(rand.NewPCG(seed, 1)), id)
		if corrected {
			f.Revision = int32(rest[2] % 4)
			if f.Effect == suppression.Deliver {
				f.Effect = suppression.Confirm // one delivery is kept: always at the bound
			}
		}
		if narrow && id%16 != 0 {
			f.Effect, f.Reason, f.EventType = suppression.Suppress, suppression.SoftBounce, event.Bounced
		}
		parts[i%3] = append(parts[i%3], f)
		facts++
	}
	for i, part := range parts {
		states[i] = stateOf(part...)
	}
	return states, facts, corrected
}

func same(a, b suppression.State) bool {
	return a.Address == b.Address && a.ScopeKind == b.ScopeKind && a.ScopeID == b.ScopeID &&
		slices.Equal(a.Facts, b.Facts)
}

// The laws of a join. They would break if what a bound keeps depended on more
// than the set: on which part a fact was in, or on what had been dropped before.
func FuzzMerge(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for mode := range byte(4) {
		for _, n := range []int{0, 3, 30, 300, 900} {
			data := []byte{mode}
			for range n * 3 {
				data = append(data, byte(r.Uint32()))
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		states, facts, corrected := threeStates(data)
		a, b, c := states[0], states[1], states[2]
		ab := suppression.Merge(a, b)
		if ba := suppression.Merge(b, a); !same(ab, ba) {
			t.Errorf("Merge(a, b) = %+v,\nMerge(b, a) = %+v", ab, ba)
		}
		for _, s := range []suppression.State{a, ab} {
			if again := suppression.Merge(s, s); !same(again, s) {
				t.Errorf("Merge(s, s) = %+v,\nwant s = %+v", again, s)
			}
		}
		if !slices.IsSortedFunc(ab.Facts, func(a, b suppression.Fact) int { return a.At.Compare(b.At) }) {
			t.Errorf("Merge(a, b) is not in the order of time: %+v", ab)
		}
		// No revision stays beside a newer one.
		newest := map[event.ID]int32{}
		for _, f := range slices.Concat(a.Facts, b.Facts) {
			newest[f.EventID] = max(newest[f.EventID], f.Revision)
		}
		for _, f := range ab.Facts {
			if f.Revision != newest[f.EventID] {
				t.Errorf("Merge(a, b) has revision %d of %s, want %d", f.Revision, f.EventID, newest[f.EventID])
			}
		}
		// What a correction moves may have made others drop out: see Merge.
		if corrected && facts > suppression.KeptFacts {
			return
		}
		left, right := suppression.Merge(ab, c), suppression.Merge(a, suppression.Merge(b, c))
		if !same(left, right) {
			t.Errorf("Merge(Merge(a, b), c) = %+v,\nMerge(a, Merge(b, c)) = %+v", left, right)
		}
		absorbed := suppression.Merge(left, b)
		if !same(absorbed, left) {
			t.Errorf("Merge(all, b) = %+v,\nwant all = %+v", absorbed, left)
		}
	})
}

func TestMerge_spellings(t *testing.T) {
	a, b := stateOf(randomFact(rand.New(rand.NewPCG(1, 1)), 1)), stateOf(randomFact(rand.New(rand.NewPCG(2, 1)), 2))
	b.Address = "Jane@example.com"
	ab, ba := suppression.Merge(a, b), suppression.Merge(b, a)
	if !same(ab, ba) || ab.Address != b.Address {
		t.Errorf("Merge of two spellings = %+v and %+v, want the first spelling in both", ab, ba)
	}
	var none suppression.State
	if got := suppression.Merge(none, a); !same(got, a) {
		t.Errorf("Merge(State{}, a) = %+v, want a", got)
	}
	if got := suppression.Merge(a, none); !same(got, a) {
		t.Errorf("Merge(a, State{}) = %+v, want a", got)
	}
}

// A correction counts, however late its event comes again, and whichever comes
// first.
func TestMerge_correction(t *testing.T) {
	p := suppression.DefaultPolicy()
	first := hard(0)
	first.ID = event.NewID("ses", "ses-eu", "jane@example.com", "1")
	moved := first
	moved.Revision, moved.OccurredAt = 1, start.Add(2*time.Hour)
	lift := byHand(time.Hour, event.SuppressionRemove, "")
	check(t, &p, []row{
		{"moved behind a lift", []event.Event{first, lift, moved}, "hard_bounce@address+2h0m0s"},
		{"and back", []event.Event{moved, lift, func() event.Event { e := first; e.Revision = 2; return e }()}, ""},
	})
	// As the service takes back what a corrected event no longer says.
	for _, s := range fold(&p, []event.Event{first}) {
		none := s.Facts[0]
		none.Effect, none.Revision = suppression.None, 1
		for _, got := range []suppression.State{s.Add(none), stateOf(none, s.Facts[0])} {
			if v := suppression.Evaluate(got, &p); len(v.Entries) != 0 || len(got.Facts) != 1 {
				t.Errorf("Evaluate() after the correction = %+v, want no entry", v)
			}
		}
	}
	// Two builds that read one event differently settle on one reading.
	other := stateOf(suppression.Fact{
		EventID: first.ID, Effect: suppression.Confirm, Reason: suppression.HardBounce, At: start,
	})
	for _, s := range fold(&p, []event.Event{first}) {
		if a, b := suppression.Merge(s, other), suppression.Merge(other, s); !same(a, b) || len(a.Facts) != 1 {
			t.Errorf("Merge of two readings = %+v and %+v, want one of them in both", a, b)
		}
	}
}

func TestState_bounds(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	kinds := map[string]int{}
	var facts []suppression.Fact
	for id := range 5000 {
		facts = append(facts, randomFact(r, id))
	}
	s := suppression.State{Address: "jane@example.com", ScopeKind: event.ScopeAddress}
	for batch := range slices.Chunk(facts, 700) {
		s = suppression.Merge(s, stateOf(batch...))
	}
	for _, f := range s.Facts {
		kinds[fmt.Sprint(f.Effect, f.Reason, f.Source, f.EventType, f.Given, f.ExpiresAt.IsZero())]++
	}
	if len(kinds) < 10 {
		t.Fatalf("the facts are of %d kinds only", len(kinds))
	}
	for kind, n := range kinds {
		if limit := 3*suppression.KeptFacts + 2; n > limit {
			t.Errorf("%d facts of the kind %s are kept, want at most %d", n, kind, limit)
		}
	}
}

// The newest delivery says all that deliveries can say. Each of them is written
// with the state of every recipient while something is lifted by deliveries.
func TestState_oneDelivery(t *testing.T) {
	p := softOn()
	log := softs(0, 1, 2, 3, 4)
	for i := range 50 {
		log = append(log, at(time.Duration(i-50)*time.Hour, event.Delivered, from("mailgun", fmt.Sprint(i%3))))
	}
	for _, s := range fold(&p, log) {
		if got, want := len(s.Facts), 6; got != want {
			t.Errorf("state has %d facts, want %d: 5 bounces, and the newest of 50 deliveries", got, want)
		}
		if got, want := s.Facts[0].At, start.Add(-time.Hour); !got.Equal(want) {
			t.Errorf("the delivery kept is of %s, want %s", got, want)
		}
	}
}

// Above the bound the list is the one that all facts would give. Without the
// oldest fact of each day, 20 bounces a day would never be 3 days apart; without
// the newest of each message, one that bounces often would hide the others;
// without the one that expires last, an entry would end too early.
func TestEvaluate_aboveTheBound(t *testing.T) {
	p := softOn()
	var busy, noisy []event.Event
	for i := range 200 {
		busy = append(busy, soft(time.Duration(i)*72*time.Minute, message(fmt.Sprint(i))))
		noisy = append(noisy, soft(5*day+time.Duration(i)*time.Minute, message("again")))
	}
	suppressed := func(p *suppression.Policy, log []event.Event) bool { return listOf(p, log) != "" }
	if !suppressed(&p, busy) {
		t.Error("20 messages that bounce each day for 10 days make no entry")
	}
	if log := append(slices.Clone(busy), at(day, event.Delivered)); !suppressed(&p, log) {
		t.Error("20 messages that bounce each day for 9 days after a delivery make no entry")
	}
	quick := p
	quick.SoftBounce.Spread = 0
	for i := range 4 {
		noisy = append(noisy, soft(5*day+time.Duration(i+1)*time.Second, message(fmt.Sprint(i))))
	}
	if !suppressed(&quick, noisy) {
		t.Error("a message that bounces 200 times hides the 4 others of the day")
	}
	if lifted := append(slices.Clone(busy), at(20*day, event.Delivered)); suppressed(&p, lifted) {
		t.Error("a delivery after 200 bounces does not lift")
	}
	if old := append(slices.Clone(busy), at(9*day, event.Delivered)); suppressed(&p, old) {
		t.Error("bounces of one day after a delivery make an entry")
	}
	p.SoftBounce.Messages, p.SoftBounce.Within = suppression.KeptFacts, 0
	if !suppressed(&p, busy) {
		t.Error("the highest threshold is never met")
	}

	p = suppression.DefaultPolicy()
	adds := []event.Event{byHand(0, event.SuppressionAdd, "manual", expires(time.Hour))}
	for i := range 100 {
		until := time.Duration(1000-i) * day
		if i == 50 {
			until = 5000 * day
		}
		adds = append(adds, byHand(time.Duration(i+1)*time.Second, event.SuppressionAdd, "manual", expires(until)))
	}
	if got, want := listOf(&p, adds), "manual@address..5000d"; got != want {
		t.Errorf("list of 101 entries = %q, want %q", got, want)
	}
	// What is lifted may not push out what a lift from another scope leaves.
	subaccount := func(id string) func(*event.Event) { return func(e *event.Event) { e.SubaccountID = id } }
	scopes := []event.Event{hard(0, subaccount("8")), hard(time.Millisecond, subaccount("7"))}
	for i := range 100 {
		scopes = append(scopes, hard(time.Duration(i+1)*time.Second, subaccount("8")))
	}
	scopes = append(scopes, at(day, event.SuppressionChanged, scope(event.ScopeSubaccount, "8"),
		listed(event.SuppressionRemove, event.RejectPreviouslyBounced)))
	if got, want := listOf(&p, scopes), "hard_bounce@address+1ms"; got != want {
		t.Errorf("list after the removal from one subaccount of two = %q, want %q", got, want)
	}
	// Of an entry that lasts, the oldest fact says since when.
	var bounces []event.Event
	for i := range 200 {
		bounces = append(bounces, hard(time.Duration(i)*day))
	}
	if got, want := listOf(&p, bounces), "hard_bounce@address"; got != want {
		t.Errorf("list of 200 bounces in 200 days = %q, want %q", got, want)
	}
	// Entries that end may not push out one that never does.
	adds = append(adds, byHand(time.Millisecond, event.SuppressionAdd, "manual"))
	if got, want := listOf(&p, adds), "manual@address"; got != want {
		t.Errorf("list of 101 entries that end and one that does not = %q, want %q", got, want)
	}
	// Without the event's type among what makes a kind, 100 removals would push
	// out the opt-in, which alone may lift.
	p.Unsubscribe.LiftedBy = []string{suppression.ByResubscribe}
	log := []event.Event{at(0, event.Unsubscribed), at(time.Hour, event.Resubscribed)}
	for i := range 100 {
		log = append(log, at(day+time.Duration(i)*time.Second, event.SuppressionChanged,
			listed(event.SuppressionRemove, event.RejectPreviouslyUnsubscribed)))
	}
	log = append(log, at(-time.Hour, event.Resubscribed))
	if got := listOf(&p, log); got != "" {
		t.Errorf("list after an opt-in and 100 removals = %q, want none", got)
	}
}

// Whether there is an entry is what all facts say, not what the bound left of
// them.
func TestEvaluate_boundedIsAsAll(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	p := suppression.DefaultPolicy()
	for range 20 {
		var facts []suppression.Fact
		for id := range 600 {
			facts = append(facts, randomFact(r, id))
		}
		all := suppression.State{Facts: slices.Clone(facts)}
		slices.SortFunc(all.Facts, func(a, b suppression.Fact) int { return a.At.Compare(b.At) })
		reasons := func(s suppression.State) (list []suppression.Reason) {
			for _, e := range suppression.Evaluate(s, &p).Entries {
				list = append(list, e.Reason)
			}
			return list
		}
		if got, want := reasons(stateOf(facts...)), reasons(all); !slices.Equal(got, want) {
			t.Fatalf("reasons of the bounded state = %q, want %q as of all facts", got, want)
		}
		if got, want := stateOf(facts...), len(all.Facts); len(got.Facts) >= want {
			t.Fatalf("the state has %d facts of %d: nothing was bounded", len(got.Facts), want)
		}
	}
}

func TestState_Add_leavesItsReceiver(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	s := stateOf(randomFact(r, 1), randomFact(r, 2), randomFact(r, 3))
	before := slices.Clone(s.Facts)
	one, two := s.Add(randomFact(r, 4)), s.Add(randomFact(r, 5))
	if !slices.Equal(s.Facts, before) || reflect.DeepEqual(one, two) {
		t.Errorf("Add changed the state that it was called on: %+v", s)
	}
	if _, ok := one.Find(event.NewID("p", "s", "4")); !ok {
		t.Error("Find() does not find what was added")
	}
	if _, ok := two.Find(event.NewID("p", "s", "4")); ok {
		t.Error("Find() finds what was added elsewhere")
	}
}

func TestState_Key(t *testing.T) {
	for _, tt := range []struct{ kind, id, want string }{
		{event.ScopeAddress, "", "address|jane@example.com"},
		{event.ScopeStream, "news", "stream:news|jane@example.com"},
		{event.ScopeTag, "50%|x", "tag:50%25%7Cx|jane@example.com"},
	} {
		s := suppression.State{Address: "jane@example.com", ScopeKind: tt.kind, ScopeID: tt.id}
		if got := s.Key(); got != tt.want {
			t.Errorf("Key() = %q, want %q", got, tt.want)
		}
		if scope, address, ok := suppression.KeyParts(s.Key()); !ok || scope+"|"+address != tt.want || address != s.Address {
			t.Errorf("KeyParts(%q) = %q, %q, %t", s.Key(), scope, address, ok)
		}
		if got, ok := suppression.ParseKey(s.Key()); !ok || !reflect.DeepEqual(got, s) {
			t.Errorf("ParseKey(%q) = %+v, %t, want %+v", s.Key(), got, ok, s)
		}
	}
	if _, _, ok := suppression.KeyParts("address"); ok {
		t.Error("KeyParts of what is no key = ok")
	}
	for _, key := range []string{"", "address", "address|", "|jane@example.com", ":news|jane@example.com"} {
		if s, ok := suppression.ParseKey(key); ok {
			t.Errorf("ParseKey(%q) = %+v, want no state", key, s)
		}
	}
}
