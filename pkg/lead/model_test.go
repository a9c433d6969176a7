package lead_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/schemas"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// profile is one with the given rules, half-lives of a week and the stages warm
// (25, left at 15) and hot (60, left at 45).
func profile(name string, rules ...lead.Rule) lead.Profile {
	p := lead.DefaultProfiles()[0]
	p.Name, p.Rules = name, rules
	return p
}

// gives is a rule that gives points for events of a type.
func gives(name string, typ event.Type, points float64) lead.Rule {
	return lead.Rule{Name: name, When: fmt.Sprintf("event_type == %q", typ), Points: points}
}

func capped(r lead.Rule, points float64, window time.Duration) lead.Rule {
	r.Cap = &lead.Cap{Points: points, Window: window}
	return r
}

func compile(t testing.TB, profiles ...lead.Profile) *lead.Set {
	t.Helper()
	set, err := lead.Compile(profiles)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// at is an event of its own message, so long after the start.
func at(after time.Duration, typ event.Type, change ...func(*event.Event)) event.Event {
	e := event.Event{
		Type: typ, Provider: "ses", Source: "ses-eu", OccurredAt: start.Add(after), RecipientNormalized: "jane@example.com",
	}
	for _, f := range change {
		f(&e)
	}
	if e.ProviderMessageID == "" {
		e.ProviderMessageID = fmt.Sprint("message of ", after, typ)
	}
	if e.ID.IsZero() {
		e.ID = event.NewID(e.Provider, e.Source, e.RecipientNormalized, string(typ), e.URL, fmt.Sprint(after))
	}
	return e
}

func url(u string) func(*event.Event)     { return func(e *event.Event) { e.URL = u } }
func message(m string) func(*event.Event) { return func(e *event.Event) { e.ProviderMessageID = m } }

// fold adds a log as the service does.
func fold(set *lead.Set, log ...event.Event) lead.State {
	st := lead.State{Recipient: "jane@example.com"}
	for i := range log {
		o := set.Observe(&log[i])
		st, _ = set.Add(st, &o)
	}
	return st
}

// score is where the first profile stands behind a log.
func score(set *lead.Set, log ...event.Event) lead.Standing {
	st := fold(set, log...)
	return set.Standings(&st)[0]
}

// bytesOf is a record as the topic holds it.
func bytesOf(t testing.TB, set *lead.Set, st lead.State) string {
	t.Helper()
	encoder, err := leadavro.NewEncoder(7)
	if err != nil {
		t.Fatal(err)
	}
	r := leadavro.Record{State: st, Standings: set.Standings(&st), Rules: set.Fingerprint()}
	out, err := encoder.Append(nil, &r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// registry is one that knows the schema of a lead.
type registry struct{}

func (registry) SchemaByID(context.Context, int) (sr.Schema, error) {
	return sr.Schema{Schema: schemas.LeadScoreV1}, nil
}

// models has profiles of different half-lives, with caps, fractions and points
// below zero, so that what a bound keeps matters in several ways at once.
func models(t testing.TB) *lead.Set {
	quick := profile("quick", gives("click", event.Clicked, 3), gives("odd", event.Delivered, 0.1),
		capped(gives("minus", event.Unsubscribed, -4), 6, 12*time.Hour))
	quick.HalfLife = 5 * time.Hour
	return compile(t, profile("slow", capped(gives("click", event.Clicked, 10), 25, day), gives("open", event.Opened, 1.7),
		gives("complaint", event.Complained, -100)), quick)
}

var types = []event.Type{
	event.Clicked, event.Clicked, event.Opened, event.Opened, event.Delivered, event.Unsubscribed, event.Complained,
}

// randomEvent is the event of a number: always the same for the same number.
func randomEvent(number int, span time.Duration) event.Event {
	r := rand.New(rand.NewPCG(uint64(number), 1))
	// Times meet, also in the same microsecond.
	after := time.Duration(r.Int64N(int64(span/time.Second))) * time.Second
	e := at(after, types[r.IntN(len(types))], message(fmt.Sprint("m", r.IntN(40))))
	if e.Type == event.Clicked {
		e.URL = fmt.Sprint("https://example.com/", r.IntN(3))
	}
	e.ID = event.NewID("p", "s", fmt.Sprint(number))
	return e
}

func randomLog(seed uint64, n int, span time.Duration) []event.Event {
	r := rand.New(rand.NewPCG(seed, 2))
	log := make([]event.Event, n)
	for i := range log {
		log[i] = randomEvent(r.IntN(1_000_000), span)
	}
	return log
}

// The same events give the same bytes and the same scores in any order, twice,
// in parts, and joined as any tree: below the bounds, above those of rules, and
// above the horizon. It is red when a bound looks at anything but the set, or
// when a score is kept as a running sum.
func TestMerge_anyWay(t *testing.T) {
	set := models(t)
	for _, tt := range []struct {
		n    int
		span time.Duration
	}{{1, day}, {7, day}, {60, 40 * day}, {60, 300 * day}, {400, 3 * day}, {700, 200 * day}} {
		t.Run(fmt.Sprint(tt.n, " in ", tt.span), func(t *testing.T) {
			log := randomLog(uint64(tt.n), tt.n, tt.span)
			want := bytesOf(t, set, fold(set, log...))
			r := rand.New(rand.NewPCG(9, uint64(tt.n)))
			for round := range 6 {
				shuffled := slices.Clone(log)
				r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				if got := bytesOf(t, set, fold(set, append(shuffled, shuffled[:len(shuffled)/2]...)...)); got != want {
					t.Fatalf("round %d: another order, half of it twice, gives other bytes", round)
				}
				parts := make([]lead.State, 1+r.IntN(8))
				for i, e := range shuffled {
					o := set.Observe(&e)
					part := &parts[i%len(parts)]
					part.Recipient = "jane@example.com"
					*part, _ = set.Add(*part, &o)
				}
				for len(parts) > 1 {
					i := r.IntN(len(parts) - 1)
					parts[i] = set.Merge(parts[i], parts[i+1])
					parts = slices.Delete(parts, i+1, i+2)
				}
				parts[0].Recipient = "jane@example.com"
				if got := bytesOf(t, set, parts[0]); got != want {
					t.Fatalf("round %d: joined as a tree, the bytes are others", round)
				}
			}
		})
	}
}

// A profile stands where it stood alone: no other profile keeps its events out
// or touches the last bit of its score.
func TestStandings_profilesAreAlone(t *testing.T) {
	both := models(t)
	log := randomLog(5, 600, 100*day)
	for i := range log { // evidence is about the recipient, for every profile
		log[i].ProviderMessageID = log[i].ID.String()
	}
	st := fold(both, log...)
	for i, p := range both.Profiles() {
		alone := compile(t, p)
		if got, want := both.Standings(&st)[i], score(alone, log...); got != want {
			t.Errorf("%s beside another = %+v, want %+v as alone", p.Name, got, want)
		}
	}
}

// What the bounds drop is no more than they say: the score is that of the newest
// 64 events of each rule.
func TestStandings_bounds(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 1), gives("open", event.Opened, 1)))
	var log []event.Event
	for i := range 200 {
		log = append(log, at(time.Duration(i)*time.Nanosecond*1000, event.Clicked, message(fmt.Sprint(i))))
	}
	log = append(log, at(-time.Second, event.Opened))
	st := fold(set, log...)
	if n := len(st.Contributions); n != lead.KeptEvents+1 {
		t.Errorf("%d contributions are kept of 200 clicks and an older open, want %d", n, lead.KeptEvents+1)
	}
	if s := set.Standings(&st)[0]; s.Score < 64.9 || s.Score > 65 {
		t.Errorf("score = %v, want just below 65", s.Score)
	}
	// Exactly one too many.
	st = fold(set, log[:lead.KeptEvents+1]...)
	if n := len(st.Contributions); n != lead.KeptEvents {
		t.Errorf("%d contributions are kept of %d, want %d", n, lead.KeptEvents+1, lead.KeptEvents)
	}
	// 16 half-lives before the newest is kept, and no longer.
	for _, tt := range []struct {
		before time.Duration
		want   int
	}{{16 * week, 2}, {16*week + time.Microsecond, 1}} {
		st := fold(set, at(0, event.Clicked), at(-tt.before, event.Opened))
		if n := len(st.Contributions); n != tt.want {
			t.Errorf("%d contributions when the older is %s before, want %d", n, tt.before, tt.want)
		}
	}
}

// Of deliveries the newest are kept, whichever came first.
func TestAdd_deliveries(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 1)))
	var log []event.Event
	for i := range 20 {
		log = append(log, at(time.Duration(i)*time.Hour, event.Delivered, message(fmt.Sprint(i))))
	}
	for range 2 {
		st := fold(set, log...)
		first := start.Add(time.Duration(20-lead.KeptDeliveries) * time.Hour)
		if n := len(st.Deliveries); n != lead.KeptDeliveries || !st.Deliveries[0].At.Equal(first) {
			t.Errorf("%d deliveries are kept, %+v, want %d from %s on", n, st.Deliveries, lead.KeptDeliveries, first)
		}
		slices.Reverse(log)
	}
}

// An event that two rules held for is kept for the one that needs it, and does
// not count for the other.
func TestMerge_bySeveralRules(t *testing.T) {
	set := compile(t, profile("p", gives("all", event.Clicked, 1),
		lead.Rule{Name: "pricing", When: `event_type == "clicked" && url contains "/pricing"`, Points: 1000}))
	log := []event.Event{at(-time.Minute, event.Clicked, url("https://example.com/pricing"))}
	for i := range 70 {
		log = append(log, at(time.Duration(i)*time.Microsecond, event.Clicked, message(fmt.Sprint(i))))
	}
	st := fold(set, log...)
	if n, rules := len(st.Contributions), st.Contributions[0].Rules; n != 65 || len(rules) != 1 {
		t.Fatalf("%d contributions, the oldest with the rules %v, want 65, and only pricing", n, rules)
	}
	if s := set.Standings(&st)[0].Score; s < 1063 || s > 1064.01 {
		t.Errorf("score = %v, want 1000 and 64, a little decayed", s)
	}
}

// corrected is an event as a replay publishes it.
func corrected(e event.Event, revision int32, change func(*event.Event)) event.Event {
	e.Revision = revision
	change(&e)
	return e
}

func TestAdd_correction(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 10), gives("open", event.Opened, 1)))
	click, open := at(0, event.Clicked), at(time.Hour, event.Opened)
	machine := func(e *event.Event) { e.Machine = event.MachineYes }
	toOpen := func(e *event.Event) { e.Type = event.Opened }
	tests := []struct {
		name string
		log  []event.Event
		same []event.Event // a log that gives the same score
	}{
		{"a machine's after all", []event.Event{click, open, corrected(click, 1, machine)}, []event.Event{open}},
		{
			"a test after all",
			[]event.Event{click, open, corrected(click, 1, func(e *event.Event) { e.IsTest = true })},
			[]event.Event{open},
		},
		{
			"a second report after all",
			[]event.Event{click, open, corrected(click, 1, func(e *event.Event) { e.IsDuplicateHint = true })},
			[]event.Event{open},
		},
		{
			"ambiguous after all",
			[]event.Event{click, open, corrected(click, 1, func(e *event.Event) { e.RecipientAmbiguous = true })},
			[]event.Event{open},
		},
		{
			"the first again, behind its correction",
			[]event.Event{click, open, corrected(click, 1, machine), click},
			[]event.Event{open},
		},
		{"another type", []event.Event{click, open, corrected(click, 1, toOpen)}, []event.Event{at(0, event.Opened), open}},
		{
			"and back",
			[]event.Event{click, open, corrected(click, 1, machine), corrected(click, 2, func(*event.Event) {})},
			[]event.Event{click, open},
		},
		{
			"revisions backwards",
			[]event.Event{corrected(click, 2, func(*event.Event) {}), corrected(click, 1, toOpen), click},
			[]event.Event{click},
		},
		{"what was never there", []event.Event{open, corrected(click, 1, machine)}, []event.Event{open}},
	}
	for _, tt := range tests {
		if got, want := score(set, tt.log...), score(set, tt.same...); got != want {
			t.Errorf("%s: stands at %+v, want %+v", tt.name, got, want)
		}
	}
	// Taken back, the event keeps neither the others out nor the horizon up.
	late := at(20*week, event.Clicked)
	st := fold(set, late, corrected(late, 1, machine), open)
	if len(st.Contributions) != 2 {
		t.Errorf("%d contributions, want the open and the correction behind it", len(st.Contributions))
	}
	// The exception: what had dropped out because of it does not come back.
	if got := score(set, open, late, corrected(late, 1, machine)); got.Score != 0 {
		t.Errorf("score = %v, want 0: the open had dropped out", got.Score)
	}
}

// A rule that is added counts for events that come after it, and for older ones
// when they are replayed: both are the same event, with more rules.
func TestMerge_rulesAdded(t *testing.T) {
	before := compile(t, profile("p", gives("click", event.Clicked, 10)))
	after := compile(t, profile("p", gives("click", event.Clicked, 10), gives("extra", event.Clicked, 5)))
	click := at(0, event.Clicked)
	st := fold(before, click)
	if s := after.Standings(&st)[0].Score; s != 10 {
		t.Errorf("score of an event before the rule = %v, want 10", s)
	}
	o := after.Observe(&click)
	again, changed := after.Add(st, &o)
	if s := after.Standings(&again)[0].Score; !changed || s != 15 {
		t.Errorf("score when it is replayed = %v, changed %t, want 15, true", s, changed)
	}
	// And the other way around: a rule that is gone counts nothing, at once, and
	// is there again when it comes back.
	if s := before.Standings(&again)[0].Score; s != 10 {
		t.Errorf("score without the rule = %v, want 10", s)
	}
	o = before.Observe(&click)
	if kept, changed := before.Add(again, &o); changed {
		t.Errorf("an event that is known changed the state to %+v", kept)
	}
}

// A profile that is gone neither counts nor keeps others out.
func TestMerge_profileRemoved(t *testing.T) {
	gone := profile("gone", gives("click", event.Clicked, 10))
	gone.HalfLife = time.Hour
	both := compile(t, gone, profile("stays", gives("click", event.Clicked, 10), gives("open", event.Opened, 1)))
	stays := compile(t, both.Profiles()[1])
	var log []event.Event
	for i := range 150 {
		log = append(log, at(time.Duration(i)*time.Hour, types[i%2+1], message(fmt.Sprint(i))))
	}
	st := fold(both, log...)
	for i := range log { // the state is written again without it
		o := stays.Observe(&log[i])
		st, _ = stays.Add(st, &o)
	}
	st = stays.Merge(st, fold(stays, at(200*time.Hour, event.Opened)))
	if got, want := stays.Standings(&st)[0], score(stays, append(log, at(200*time.Hour, event.Opened))...); got != want {
		t.Errorf("stands at %+v, want %+v as if it had always been alone", got, want)
	}
}

// What only a rule counted that is gone is bounded as before, so that nobody's
// state grows with the history of a configuration.
func TestMerge_rulesRemoved(t *testing.T) {
	gone := compile(t, profile("gone", gives("open", event.Opened, 1)))
	stays := compile(t, profile("stays", gives("click", event.Clicked, 1)))
	var log []event.Event
	for i := range 100 {
		log = append(log, at(time.Duration(i)*time.Hour, event.Opened))
	}
	var st lead.State
	for _, e := range log { // as if two versions of a configuration ran side by side
		st = stays.Merge(st, fold(gone, e))
	}
	if n := len(st.Contributions); n != lead.KeptEvents {
		t.Errorf("%d contributions of a rule that is gone are kept, want %d", n, lead.KeptEvents)
	}
	st = stays.Merge(st, fold(stays, at(17*week, event.Clicked)))
	if n := len(st.Contributions); n != 1 {
		t.Errorf("%d contributions behind the horizon of those that are there, want 1", n)
	}
}

// FuzzMerge: the laws of a join, over states that no log would make.
func FuzzMerge(f *testing.F) {
	set := models(f)
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 3, 30, 300, 900} {
		data := make([]byte, 0, n*3)
		for range n * 3 {
			data = append(data, byte(r.Uint32()))
		}
		f.Add(data, uint16(n))
	}
	f.Fuzz(func(t *testing.T, data []byte, hours uint16) {
		var states [3]lead.State
		span := max(time.Hour, time.Duration(hours)*time.Hour)
		for i := 0; i+2 < len(data); i += 3 {
			e := randomEvent(int(binary.BigEndian.Uint16(data[i:])), span)
			o := set.Observe(&e)
			part := &states[data[i+2]%3]
			*part, _ = set.Add(*part, &o)
			if data[i+2] > 250 && len(part.Contributions) > 0 { // rules that are not configured
				c := &part.Contributions[len(part.Contributions)-1]
				c.Rules = append(slices.Clone(c.Rules), 1<<62+int64(data[i+2]))
				slices.Sort(c.Rules)
				*part = set.Merge(*part, lead.State{})
			}
		}
		a, b, c := states[0], states[1], states[2]
		ab := set.Merge(a, b)
		want := bytesOf(t, set, ab)
		if got := bytesOf(t, set, set.Merge(b, a)); got != want {
			t.Error("Merge(b, a) is not Merge(a, b)")
		}
		for _, part := range []lead.State{a, b, ab} {
			if got := bytesOf(t, set, set.Merge(ab, part)); got != want {
				t.Error("joining a part once more changes the state")
			}
		}
		if bytesOf(t, set, set.Merge(ab, c)) != bytesOf(t, set, set.Merge(a, set.Merge(b, c))) {
			t.Error("Merge(Merge(a, b), c) is not Merge(a, Merge(b, c))")
		}
		if !slices.IsSortedFunc(ab.Contributions, func(a, b lead.Contribution) int { return a.At.Compare(b.At) }) {
			t.Error("contributions are not in the order of time")
		}
		got, err := leadavro.NewDecoder(registry{}).Decode(t.Context(), []byte(bytesOf(t, set, lead.State{
			Recipient: "jane@example.com", Contributions: ab.Contributions, Deliveries: ab.Deliveries,
		})))
		if err != nil {
			t.Fatal(err)
		}
		if got.Recipient = ""; bytesOf(t, set, got.State) != want {
			t.Error("the state that was written and read is another")
		}
	})
}

// Add leaves the state that it was given as it was: a transaction that aborts
// goes on with that.
func TestAdd_leavesItsArgument(t *testing.T) {
	set := models(t)
	log := randomLog(8, 300, 3*day)
	st := fold(set, log[:200]...)
	want := bytesOf(t, set, st)
	for i := range log[200:] {
		o := set.Observe(&log[200+i])
		set.Add(st, &o)
		set.Merge(st, fold(set, log[200+i]))
		if got := bytesOf(t, set, st); got != want {
			t.Fatalf("adding event %d changed the state before", i)
		}
	}
}
