// Package trial scores the same events by two sets of rules and tells who would
// stand elsewhere: what a change of rules would do, before it is made.
//
// It is pure, and holds every recipient that a rule held for in memory. It reads
// no events and no rules itself, and knows nothing of live scores: both sets begin
// with nobody.
package trial

import (
	"cmp"
	"math"
	"slices"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
)

// Trial scores events by two sets of rules.
type Trial struct {
	sets       [2]*lead.Set // in force, and tried
	recipients map[string]*[2]lead.State
	events     int
	newest     time.Time
	failures   map[Failure]int
}

// Failure is a rule that was tried and could not be answered for an event.
type Failure struct {
	Profile, Rule string
	Err           string
}

// New returns a trial without events.
func New(inForce, tried *lead.Set) *Trial {
	return &Trial{
		sets: [2]*lead.Set{inForce, tried}, recipients: map[string]*[2]lead.State{}, failures: map[Failure]int{},
	}
}

// Add scores an event. Their order is of no account.
func (t *Trial) Add(e *event.Event) {
	t.events++
	if e.OccurredAt.After(t.newest) {
		t.newest = e.OccurredAt
	}
	for i, set := range t.sets {
		o := set.Observe(e)
		if i == 1 {
			for _, f := range o.Failures {
				t.failures[Failure{f.Profile, f.Rule, f.Err.Error()}]++
			}
		}
		if o.Contribution.EventID.IsZero() && o.Delivery.At.IsZero() {
			continue
		}
		states, known := t.recipients[e.RecipientNormalized]
		if !known {
			states = &[2]lead.State{{Recipient: e.RecipientNormalized}, {Recipient: e.RecipientNormalized}}
			t.recipients[e.RecipientNormalized] = states
		}
		states[i], _ = set.Add(states[i], &o)
	}
}

// Report is what a trial found.
type Report struct {
	Events     int            `json:"events"`
	Recipients int            `json:"recipients"` // that any rule held for
	At         time.Time      `json:"at"`         // when they stand so: at the newest event
	Stages     []Stage        `json:"stages"`
	Moved      int            `json:"moved"` // leads that would stand in another stage
	Moves      []Move         `json:"moves"` // the first of them
	Failures   []FailureCount `json:"failures"`
}

// Stage is how many are in a stage, and would be.
type Stage struct {
	Profile string `json:"profile"`
	Stage   string `json:"stage"` // empty below the lowest
	Before  int    `json:"before"`
	After   int    `json:"after"`
}

// Move is a lead that would stand in another stage.
type Move struct {
	Address     string  `json:"address"`
	Profile     string  `json:"profile"`
	Before      string  `json:"before"`
	After       string  `json:"after"`
	ScoreBefore float64 `json:"score_before"`
	ScoreAfter  float64 `json:"score_after"`
}

// FailureCount is how often a rule could not be answered.
type FailureCount struct {
	Profile string `json:"profile"`
	Rule    string `json:"rule"`
	Error   string `json:"error"`
	Events  int    `json:"events"`
}

// Report tells where all stand, with at most so many moves, those with the
// greatest change of score first.
func (t *Trial) Report(moves int) Report {
	r := Report{Events: t.events, Recipients: len(t.recipients), At: t.newest, Stages: t.stages(), Moves: []Move{}, Failures: []FailureCount{}}
	counts := map[[2]string]*Stage{}
	for i := range r.Stages {
		counts[[2]string{r.Stages[i].Profile, r.Stages[i].Stage}] = &r.Stages[i]
	}
	profiles := t.profiles()
	for recipient, states := range t.recipients {
		before, after := t.standings(0, &states[0]), t.standings(1, &states[1])
		for _, profile := range profiles {
			was, is := before[profile], after[profile]
			counts[[2]string{profile, was.Stage}].Before++
			counts[[2]string{profile, is.Stage}].After++
			if was.Stage != is.Stage {
				r.Moves = append(r.Moves, Move{recipient, profile, was.Stage, is.Stage, was.Score, is.Score})
			}
		}
	}
	slices.SortFunc(r.Moves, func(a, b Move) int {
		return cmp.Or(
			cmp.Compare(math.Abs(b.ScoreAfter-b.ScoreBefore), math.Abs(a.ScoreAfter-a.ScoreBefore)),
			cmp.Compare(a.Address, b.Address), cmp.Compare(a.Profile, b.Profile),
		)
	})
	r.Moved = len(r.Moves)
	r.Moves = slices.Clip(r.Moves[:min(max(moves, 0), r.Moved)])
	for f, n := range t.failures {
		r.Failures = append(r.Failures, FailureCount{f.Profile, f.Rule, f.Err, n})
	}
	slices.SortFunc(r.Failures, func(a, b FailureCount) int {
		return cmp.Or(cmp.Compare(a.Profile, b.Profile), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Error, b.Error))
	})
	return r
}

// standings are by profile. One that a set has not is where nobody is.
func (t *Trial) standings(of int, st *lead.State) map[string]lead.Standing {
	standings := map[string]lead.Standing{}
	for _, s := range t.sets[of].StandingsAt(st, t.newest) {
		standings[s.Profile] = s
	}
	return standings
}

// profiles are the names of both sets, those of the tried one first.
func (t *Trial) profiles() []string {
	var names []string
	for _, of := range []int{1, 0} {
		for _, p := range t.sets[of].Profiles() {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	return names
}

// stages are those of both sets by profile, from below the lowest up.
func (t *Trial) stages() []Stage {
	var stages []Stage
	for _, profile := range t.profiles() {
		names := []string{""}
		for _, of := range []int{1, 0} {
			for _, p := range t.sets[of].Profiles() {
				for _, s := range p.Stages {
					if p.Name == profile && !slices.Contains(names, s.Name) {
						names = append(names, s.Name)
					}
				}
			}
		}
		for _, name := range names {
			stages = append(stages, Stage{Profile: profile, Stage: name})
		}
	}
	return stages
}
