package lead_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
)

var begin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func someEvent(id int, typ event.Type, after time.Duration) event.Event {
	e := event.Event{
		ID: event.NewID("ses", "ses", "history", fmt.Sprint(id)), Type: typ, Provider: "ses", Source: "ses", Recipient: "ada@example.com",
		RecipientNormalized: "ada@example.com", Machine: event.MachineNo, ProviderMessageID: fmt.Sprint("m", id),
		OccurredAt: begin.Add(after),
	}
	if typ == event.Clicked {
		e.URL = fmt.Sprint("https://example.com/", id)
	}
	return e
}

func stateOf(t *testing.T, rules *lead.Set, events []event.Event) (st lead.State) {
	t.Helper()
	for i := range events {
		o := rules.Observe(&events[i])
		st, _ = rules.Add(st, &o)
	}
	return st
}

func defaults(t *testing.T) *lead.Set {
	t.Helper()
	rules, err := lead.Compile(lead.DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// What entered is told with its event; what faded, with the moment at which the
// score was at the threshold.
func TestSet_History(t *testing.T) {
	rules := defaults(t)
	var events []event.Event
	for i := range 3 {
		events = append(events, someEvent(i, event.Clicked, time.Duration(i)*time.Millisecond))
	}
	events = append(events, someEvent(9, event.Complained, 30*24*time.Hour))
	for i := range 4 {
		events = append(events, someEvent(10+i, event.Clicked, 400*24*time.Hour+time.Duration(i)*time.Hour))
	}
	events = append(events, someEvent(20, event.Complained, 400*24*time.Hour+5*time.Hour))
	slices.Reverse(events) // the order in which they came is of no account
	st := stateOf(t, rules, events)
	got := rules.History(&st, begin.Add(500*24*time.Hour))
	want := []struct {
		stage string
		up    bool
		at    time.Time
		typ   event.Type
	}{
		{"warm", true, begin.Add(400*24*time.Hour + 2*time.Hour), event.Clicked},
		{"warm", false, begin.Add(400*24*time.Hour + 5*time.Hour), event.Complained},
	}
	// The first three are older than 16 half-lives, and no longer kept.
	if len(got) != len(want) {
		t.Fatalf("History() = %+v, want %d changes", got, len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Stage != w.stage || g.Up != w.up || !g.At.Equal(w.at) || g.Type != w.typ || g.EventID.IsZero() || g.Profile != "default" {
			t.Errorf("change %d = %+v, want %+v", i, g, w)
		}
	}
	// 40 points halve in a week: those of the clicks alone are left below 15 after ten days.
	st = stateOf(t, rules, events[1:])
	got = rules.History(&st, begin.Add(500*24*time.Hour))
	last := got[len(got)-1]
	if faded := last.At.Sub(begin.Add(400 * 24 * time.Hour)); last.Up || !last.EventID.IsZero() || last.Score != 15 ||
		faded < 9*24*time.Hour || faded > 10*24*time.Hour {
		t.Errorf("last change = %+v, want that points faded below 15 within ten days", last)
	}
	if got := rules.History(&lead.State{}, begin); len(got) != 0 {
		t.Errorf("History() of nobody = %+v, want nothing", got)
	}
}

// A history ends at the stage that the standing has, and goes one stage at a time.
func TestSet_History_endsWhereTheLeadStands(t *testing.T) {
	rules := defaults(t)
	types := []event.Type{event.Clicked, event.Clicked, event.Opened, event.Opened, event.Unsubscribed, event.Complained}
	crossed := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var events []event.Event
		for i := range 1 + r.IntN(40) {
			events = append(events, someEvent(i, types[r.IntN(len(types)-r.IntN(3))], time.Duration(r.IntN(60*24))*time.Hour))
		}
		st := stateOf(t, rules, events)
		until := begin.Add(time.Duration(60*24+r.IntN(60*24)) * time.Hour)
		stage, order := 0, []string{"", "warm", "hot"}
		var last time.Time
		for _, change := range rules.History(&st, until) {
			crossed++
			if change.Up {
				stage++
			}
			if order[stage] != change.Stage {
				t.Fatalf("seed %d: change %+v comes behind stage %q", seed, change, order[stage])
			}
			if !change.Up {
				stage--
			}
			if change.At.Before(last) || change.At.After(until) {
				t.Fatalf("seed %d: change at %s comes behind one at %s, until %s", seed, change.At, last, until)
			}
			last = change.At
		}
		if want := rules.StandingsAt(&st, until)[0].Stage; order[stage] != want {
			t.Errorf("seed %d: history ends in stage %q, want %q", seed, order[stage], want)
		}
	}
	if crossed < 100 {
		t.Errorf("%d changes in all, want enough to mean something", crossed)
	}
}

// The order by rank is that of the scores, at any time.
func TestSet_Rank(t *testing.T) {
	rules := defaults(t)
	r := rand.New(rand.NewPCG(3, 4))
	standing := func() lead.Standing {
		return lead.Standing{Profile: "default", Score: r.Float64() * 100, At: begin.Add(time.Duration(r.Int64N(int64(90 * 24 * time.Hour))))}
	}
	for range 2000 {
		a, b := standing(), standing()
		for _, later := range []time.Duration{90 * 24 * time.Hour, 120 * 24 * time.Hour} {
			at := begin.Add(later)
			x, y := rules.StandingAt(a, at).Score, rules.StandingAt(b, at).Score
			if got, want := rules.Rank(a) < rules.Rank(b), x < y; got != want && max(x, y)-min(x, y) > 1e-9*max(x, y) {
				t.Fatalf("Rank(%+v) < Rank(%+v) = %t, want %t: scores %v and %v at %s", a, b, got, want, x, y, at)
			}
		}
	}
	nobody := lead.Standing{Profile: "default"}
	if got, low := rules.Rank(nobody), rules.Rank(lead.Standing{Profile: "default", Score: 1e-9, At: begin}); got >= low {
		t.Errorf("Rank() of nothing = %v, want below %v", got, low)
	}
}

func TestReadProfiles(t *testing.T) {
	const list = "- name: a\n  half_life: 168h\n  rules: [{name: click, when: 'true', points: 1}]\n"
	indent := func(text, by string) string {
		out := ""
		for line := range strings.Lines(text) {
			out += by + line
		}
		return out
	}
	for name, text := range map[string]string{
		"list": list, "section": "profiles:\n" + indent(list, "  "),
		"configuration": "kafka: {brokers: [x]}\nleadscoring:\n  group: g\n  profiles:\n" + indent(list, "    "),
	} {
		profiles, err := lead.ReadProfiles([]byte(text))
		if err != nil || len(profiles) != 1 || profiles[0].Name != "a" || profiles[0].HalfLife != 168*time.Hour {
			t.Errorf("%s: ReadProfiles() = %+v, %v, want the profile a", name, profiles, err)
		}
	}
	for text, want := range map[string]string{
		"":                    "is empty",
		"x: 1":                "line 1: there are no profiles",
		"profiles: []":        "line 1: there are no profiles",
		"- nam: a":            "line 1: field nam",
		"profiles:\n  - {{":   "line",
		"leadscoring: {a: 1}": "line 1: there are no profiles",
	} {
		if _, err := lead.ReadProfiles([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadProfiles(%q) = %v, want an error with %q", text, err, want)
		}
	}
	profiles, err := lead.ReadProfiles([]byte("# a comment\n" + list + "  stages: [{name: warm, enter: 1, leave: 2}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lead.Compile(profiles); err == nil || !strings.Contains(err.Error(), "(line 5)") {
		t.Errorf("Compile() = %v, want the line of the mistake", err)
	}
}
