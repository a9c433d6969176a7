package lead_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
)

// A history ends where one stands, is in the order of time, and goes from stage
// to stage without a jump, at scores that the thresholds allow.
func TestHistory_endsWhereOneStands(t *testing.T) {
	set := models(t)
	told := 0
	for seed := range uint64(40) {
		st := fold(set, randomLog(seed, 80, 20*day)...)
		for _, until := range []time.Duration{20 * day, 21 * day, 60 * day} {
			changes := set.History(&st, start.Add(until))
			if !slices.IsSortedFunc(changes, func(a, b lead.Change) int { return a.At.Compare(b.At) }) {
				t.Fatalf("seed %d: changes are not in the order of time: %+v", seed, changes)
			}
			for i, p := range set.Profiles() {
				stage := -1
				for _, c := range changes {
					if c.Profile != p.Name {
						continue
					}
					told++
					at := slices.IndexFunc(p.Stages, func(s lead.Stage) bool { return s.Name == c.Stage })
					switch {
					case c.Up && (at != stage+1 || c.Score < p.Stages[at].Enter || c.EventID.IsZero()):
						t.Fatalf("seed %d: enters from stage %d with %+v", seed, stage, c)
					case !c.Up && (at != stage || c.Score > p.Stages[at].Leave):
						t.Fatalf("seed %d: leaves stage %d with %+v", seed, stage, c)
					}
					if stage = at; !c.Up {
						stage--
					}
				}
				got, want := "", set.StandingsAt(&st, start.Add(until))[i].Stage
				if stage >= 0 {
					got = p.Stages[stage].Name
				}
				if got != want {
					t.Fatalf("seed %d: the history of %s ends at %q, want %q", seed, p.Name, got, want)
				}
			}
		}
	}
	if told < 20 {
		t.Errorf("%d changes in all, want enough to mean something", told)
	}
}

// Ranks have the order of the scores, whatever time those are compared at, and
// one that faded has the standing that the state gives for that time.
func TestRank_isTheOrderOfScores(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 10), gives("open", event.Opened, 1.7)))
	var states []lead.State
	for seed := range uint64(60) {
		states = append(states, fold(set, randomLog(seed, int(1+seed%9), 30*day)...))
	}
	now := start.Add(50 * day)
	for i := range states {
		a := set.Standings(&states[i])[0]
		if got, want := set.StandingAt(a, now), set.StandingsAt(&states[i], now)[0]; got != want {
			t.Errorf("StandingAt(%+v) = %+v, want %+v", a, got, want)
		}
		for j := range states[:i] {
			b := set.Standings(&states[j])[0]
			x, y := set.StandingAt(a, now).Score, set.StandingAt(b, now).Score
			if math.Abs(x-y) > 1e-6*x && x > y != (set.Rank(a) > set.Rank(b)) {
				t.Errorf("scores %v and %v, ranks %v and %v, want one order", x, y, set.Rank(a), set.Rank(b))
			}
		}
	}
	if r := set.Rank(lead.Standing{Profile: "p"}); !math.IsInf(r, -1) {
		t.Errorf("Rank(no score) = %v, want the lowest there is", r)
	}
	if r := set.Rank(lead.Standing{Profile: "nosuch", Score: 1}); !math.IsInf(r, -1) {
		t.Errorf("Rank(another profile) = %v, want the lowest there is", r)
	}
}
