// Package lead scores recipients by what they do with mail: rules give points,
// points decay, and a score that crosses a threshold changes the stage of a
// lead.
//
// It is pure: no Kafka, no clock, no storage. What is known about a recipient is
// a set of contributions, one for each event that a rule held for, and score and
// stage are functions of that set, computed in the order of its times. So the
// same events give the same score, bit for bit, in any order and however often
// they come. The set is bounded by count and age, in a way that depends on the
// set alone.
//
// Machine opens and clicks give no points: what one event tells is in the event
// (package machine), what several tell together is asked here. The package does
// not send anything, and does not know how a lead is written (leadavro) or
// served (services/leadscoring).
package lead

import (
	"bytes"
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"mailriver/pkg/event"
)

// Contribution is an event that at least one rule of a profile held for.
type Contribution struct {
	EventID  event.ID
	Revision int32
	At       time.Time // occurred_at, UTC, microseconds
	Type     event.Type
	Message  int64   // hash of the message's id; 0 when it is not known
	Link     int64   // hash of the URL; 0 without one
	Rules    []int64 // ids of the rules, ascending; empty when a correction took them back
}

// Delivery is when a message arrived.
type Delivery struct {
	Message int64
	At      time.Time
}

// State is what is known about one recipient.
type State struct {
	Recipient     string         // recipient_normalized
	Contributions []Contribution // oldest first
	Deliveries    []Delivery     // oldest first
}

// Bounds of a state. Of each rule the newest events are kept, and of messages
// the newest deliveries.
const (
	KeptEvents     = 64
	KeptDeliveries = 8
	// horizon is in half-lives: what is older than this before the newest
	// contribution counts less than 1/65,536 of its points, and is dropped.
	horizon = 16
)

// Merge joins two states of one recipient. It is commutative, associative and
// idempotent, except that a correction (higher revision) of an event in a state
// at its bound may make room that nothing fills.
func (s *Set) Merge(a, b State) State {
	if a.Recipient == "" {
		a.Recipient = b.Recipient
	}
	a.Contributions = s.bound(append(slices.Clone(a.Contributions), b.Contributions...))
	a.Deliveries = boundDeliveries(append(slices.Clone(a.Deliveries), b.Deliveries...))
	return a
}

func (s *Set) bound(all []Contribution) []Contribution {
	slices.SortFunc(all, func(a, b Contribution) int {
		return cmp.Or(bytes.Compare(a.EventID[:], b.EventID[:]), cmp.Compare(b.Revision, a.Revision),
			a.At.Compare(b.At), slices.Compare(a.Rules, b.Rules))
	})
	all = slices.CompactFunc(all, func(a, b Contribution) bool { return a.EventID == b.EventID })
	slices.SortFunc(all, func(a, b Contribution) int { return -compareTime(a, b) })
	if len(all) == 0 {
		return nil
	}
	oldest := all[0].At.Add(-s.keep)
	counts := map[int64]int{}
	kept := make([]Contribution, 0, len(all))
	for _, c := range all {
		if c.At.Before(oldest) {
			break
		}
		keep := len(c.Rules) == 0 && counts[0] < KeptEvents // a correction that took all back
		if len(c.Rules) == 0 {
			counts[0]++
		}
		for _, id := range c.Rules {
			keep = keep || counts[id] < KeptEvents
			counts[id]++
		}
		if keep {
			kept = append(kept, c)
		}
	}
	slices.Reverse(kept)
	return kept
}

func compareTime(a, b Contribution) int {
	return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.EventID[:], b.EventID[:]))
}

// boundDeliveries keeps the first delivery of each of the newest messages.
func boundDeliveries(all []Delivery) []Delivery {
	slices.SortFunc(all, func(a, b Delivery) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Message, b.Message)) })
	seen := map[int64]bool{}
	var kept []Delivery
	for _, d := range all {
		if !seen[d.Message] && len(kept) < KeptDeliveries {
			seen[d.Message] = true
			kept = append(kept, d)
		}
	}
	slices.Reverse(kept)
	return kept
}

// Standing is where a recipient stands in one profile.
type Standing struct {
	Profile string
	Score   float64
	Stage   string    // empty below the lowest
	At      time.Time // when the score was this; it decays from then on
}

// Step is one contribution to a score.
type Step struct {
	Contribution Contribution
	Rule         string
	Points       float64  // what the rule gives
	Counted      float64  // of them, after caps
	Evidence     []string // why it is a machine's, and counts nothing
	Now          float64  // what is left of it at the time asked for
}

// stageIndex is -1 below the lowest stage.
type walk struct {
	score  float64
	stage  int
	before int // the stage just before the last contribution, decay included
	at     time.Time
	steps  []Step
}

// walk goes through the contributions in the order of time.
func (s *Set) walk(p *compiled, st *State, explain bool) walk {
	w := walk{stage: -1, before: -1}
	machine := s.machine(st)
	start := firstOf(p, st)
	spent := map[int64][]spending{}
	for i := start; i < len(st.Contributions); i++ {
		c := &st.Contributions[i]
		if !w.at.IsZero() {
			w.score = decay(w.score, c.At.Sub(w.at), p.HalfLife)
			w.stage = p.left(w.stage, w.score)
		}
		w.before, w.at = w.stage, c.At
		for _, id := range c.Rules {
			rule, known := p.rules[id]
			if !known || p.dropped(st, i, id) {
				continue
			}
			counted := rule.Points
			if len(machine[i]) > 0 && rule.Points > 0 {
				counted = 0
			} else if rule.Cap != nil {
				counted = capped(spent, id, rule, c.At)
			}
			w.score += counted
			if explain {
				w.steps = append(w.steps, Step{Contribution: *c, Rule: rule.Name, Points: rule.Points, Counted: counted, Evidence: machine[i]})
			}
		}
		w.stage = p.entered(p.left(w.stage, w.score), w.score)
	}
	return w
}

// dropped reports whether a contribution is kept for another rule's sake only.
func (p *compiled) dropped(st *State, at int, id int64) bool {
	newer := 0
	for i := len(st.Contributions) - 1; i > at; i-- {
		if slices.Contains(st.Contributions[i].Rules, id) {
			if newer++; newer >= KeptEvents {
				return true
			}
		}
	}
	return false
}

// firstOf is where the contributions begin that are young enough for a profile.
func firstOf(p *compiled, st *State) int {
	if len(st.Contributions) == 0 {
		return 0
	}
	oldest := st.Contributions[len(st.Contributions)-1].At.Add(-horizon * p.HalfLife)
	i, _ := slices.BinarySearchFunc(st.Contributions, oldest, func(c Contribution, t time.Time) int { return c.At.Compare(t) })
	return i
}

type spending struct {
	at     time.Time
	points float64
}

// capped is what the cap of a rule leaves of its points at a time.
func capped(spent map[int64][]spending, id int64, rule *Rule, at time.Time) float64 {
	sum := 0.0
	for _, s := range spent[id] {
		if at.Sub(s.at) < rule.Cap.Window {
			sum += math.Abs(s.points)
		}
	}
	left := math.Min(math.Abs(rule.Points), math.Max(0, rule.Cap.Points-sum))
	counted := math.Copysign(left, rule.Points)
	if left == 0 {
		counted = 0
	}
	spent[id] = append(spent[id], spending{at, counted})
	return counted
}

func decay(score float64, by, halfLife time.Duration) float64 {
	if by <= 0 || score == 0 {
		return score
	}
	return score * math.Exp2(-float64(by)/float64(halfLife))
}

// left is the stage after the score fell, entered the one after it rose.
func (p *compiled) left(stage int, score float64) int {
	for stage >= 0 && score < p.Stages[stage].Leave {
		stage--
	}
	return stage
}

func (p *compiled) entered(stage int, score float64) int {
	for stage+1 < len(p.Stages) && score >= p.Stages[stage+1].Enter {
		stage++
	}
	return stage
}

func (p *compiled) stageName(stage int) string {
	if stage < 0 {
		return ""
	}
	return p.Stages[stage].Name
}

// Standings returns where a recipient stands in each profile as of the newest
// contribution.
func (s *Set) Standings(st *State) []Standing {
	standings := make([]Standing, len(s.profiles))
	for i, p := range s.profiles {
		w := s.walk(p, st, false)
		standings[i] = Standing{Profile: p.Name, Score: w.score, Stage: p.stageName(w.stage), At: w.at}
	}
	return standings
}

// StandingsAt returns where a recipient stands at a time: decayed since the
// newest contribution, if that is before it.
func (s *Set) StandingsAt(st *State, at time.Time) []Standing {
	standings := make([]Standing, len(s.profiles))
	for i, p := range s.profiles {
		w := s.walk(p, st, false)
		score := decay(w.score, at.Sub(w.at), p.HalfLife)
		standings[i] = Standing{Profile: p.Name, Score: score, Stage: p.stageName(p.left(w.stage, score)), At: w.at}
	}
	return standings
}

// Explain returns every contribution to the score of one profile, oldest first,
// with what is left of each at a time.
func (s *Set) Explain(st *State, profile string, at time.Time) ([]Step, bool) {
	for _, p := range s.profiles {
		if p.Name != profile {
			continue
		}
		steps := s.walk(p, st, true).steps
		for i := range steps {
			steps[i].Now = decay(steps[i].Counted, at.Sub(steps[i].Contribution.At), p.HalfLife)
		}
		return steps, true
	}
	return nil, false
}

// Crossing is a stage that a recipient entered or left because of one event.
type Crossing struct {
	Profile string
	Stage   string
	Up      bool
	Score   float64 // behind the event
}

// Crossings returns what an event changed: it is in after and not in before.
// Going up by several stages is a crossing for each. That a score fell with
// time alone is none, since no event says so.
func (s *Set) Crossings(before, after *State, c *Contribution) []Crossing {
	var crossings []Crossing
	for _, p := range s.profiles {
		w := s.walk(p, after, false)
		from := w.before // the event is the newest: since then the stage may have been left
		if last := after.Contributions[len(after.Contributions)-1]; last.EventID != c.EventID {
			from = s.walk(p, before, false).stage
		}
		for stage := from + 1; stage <= w.stage; stage++ {
			crossings = append(crossings, Crossing{p.Name, p.stageName(stage), true, w.score})
		}
		for stage := from; stage > w.stage; stage-- {
			crossings = append(crossings, Crossing{p.Name, p.stageName(stage), false, w.score})
		}
	}
	return crossings
}

// RuleID is the id of a rule in a contribution: a hash of its name and that of
// its profile, so that rules can be added, removed and reordered.
func RuleID(profile, rule string) int64 { return hash(profile + "/" + rule) }

func hash(text string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return int64(h.Sum64() >> 1)
}

// machine returns, for each contribution, the evidence that several events
// together give against a human.
func (s *Set) machine(st *State) [][]string {
	return make([][]string, len(st.Contributions))
}
