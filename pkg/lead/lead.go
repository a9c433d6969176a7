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
// Machine opens and clicks give no points: what one event tells is in the event,
// what several tell together is asked here (package machine knows both). This
// package does not send anything, and does not know how a lead is written
// (leadavro) or served (services/leadscoring).
package lead

import (
	"bytes"
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/machine"
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

// Bounds of a state. Of each rule the newest events are kept, and of deliveries
// the newest.
const (
	KeptEvents     = 64
	KeptDeliveries = 8
	// horizon is in half-lives of a profile: what is older than this before the
	// newest event of the profile counts less than 1/65,536 of its points, and is
	// dropped.
	horizon = 16
)

// Merge joins two states of one recipient. It is commutative, associative and
// idempotent, with one exception: what a correction (higher revision) takes back
// or moves may have made others drop out of a state at its bound, and they do not
// come back.
func (s *Set) Merge(a, b State) State {
	if a.Recipient == "" {
		a.Recipient = b.Recipient
	}
	a.Contributions = s.bound(unite(a.Contributions, b.Contributions))
	a.Deliveries = uniteDeliveries(a.Deliveries, b.Deliveries)
	return a
}

// unite returns one contribution for each event, oldest first: the one of the
// highest revision. Equal revisions differ only when rules were added between
// them, and then all rules count.
func unite(a, b []Contribution) []Contribution {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b Contribution) int {
		return cmp.Or(bytes.Compare(a.EventID[:], b.EventID[:]), cmp.Compare(b.Revision, a.Revision), compare(&a, &b))
	})
	one := all[:0]
	for i := range all {
		c := &all[i]
		if last := len(one) - 1; last >= 0 && one[last].EventID == c.EventID {
			if one[last].Revision == c.Revision {
				one[last].Rules = uniteRules(one[last].Rules, c.Rules)
			}
			continue
		}
		one = append(one, *c)
	}
	slices.SortFunc(one, func(a, b Contribution) int { return compareTime(&a, &b) })
	return one
}

func uniteRules(a, b []int64) []int64 {
	if slices.Equal(a, b) {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// compare orders contributions of one event and revision. They have the same
// content unless somebody made them up; which one counts must not depend on
// their order even then.
func compare(a, b *Contribution) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Message, b.Message),
		cmp.Compare(a.Link, b.Link), slices.Compare(a.Rules, b.Rules))
}

func compareTime(a, b *Contribution) int {
	return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.EventID[:], b.EventID[:]))
}

// bound drops what the bounds do not allow, rule by rule: a contribution loses
// the rules of which there are enough newer ones, or that are too old for their
// profile, and goes with its last rule. So no profile keeps another's events out.
// It takes contributions oldest first, owns the slice and does not write to the
// lists of rules.
func (s *Set) bound(all []Contribution) []Contribution {
	if n := len(all); n <= KeptEvents && (n == 0 || all[n-1].At.Sub(all[0].At) <= s.within) {
		return all // nothing can be too many or too old: so it is for nearly everybody
	}
	var unknown map[int64]int // of rules that are not configured: they may come back
	seen := make([]uint8, len(s.rules))
	newest := make([]time.Time, len(s.profiles)) // of each profile
	var last time.Time                           // of them all
	corrections := 0
	at := len(all) // where what is kept begins: from the end, as all are looked at newest first
	for i := len(all) - 1; i >= 0; i-- {
		c := all[i]
		if len(c.Rules) == 0 {
			// A correction took all back. It is kept to outlast what it corrects.
			if corrections < KeptEvents && (last.IsZero() || !c.At.Before(last.Add(-s.keep))) {
				corrections++
				at--
				all[at] = c
			}
			continue
		}
		if last.IsZero() {
			last = c.At
		}
		fits := func(id int64) bool {
			r, known := s.rules[id]
			if !known {
				if unknown == nil {
					unknown = map[int64]int{}
				}
				unknown[id]++
				return unknown[id] <= KeptEvents && !c.At.Before(last.Add(-s.keep))
			}
			if newest[r.profile].IsZero() {
				newest[r.profile] = c.At
			}
			if seen[r.index] == KeptEvents {
				return false
			}
			seen[r.index]++
			return !c.At.Before(newest[r.profile].Add(-horizon * s.profiles[r.profile].HalfLife))
		}
		for j, id := range c.Rules {
			if !fits(id) {
				// Seldom, so the list is copied only here.
				c.Rules = append(make([]int64, 0, len(c.Rules)-1), c.Rules[:j]...)
				for _, id := range all[i].Rules[j+1:] {
					if fits(id) {
						c.Rules = append(c.Rules, id)
					}
				}
				break
			}
		}
		if len(c.Rules) > 0 {
			at--
			all[at] = c
		}
	}
	return slices.Clip(all[at:])
}

// uniteDeliveries keeps the newest of both.
func uniteDeliveries(a, b []Delivery) []Delivery {
	if len(b) == 0 && len(a) <= KeptDeliveries && slices.IsSortedFunc(a, compareDeliveries) {
		return a
	}
	all := slices.Concat(a, b)
	slices.SortFunc(all, compareDeliveries)
	all = slices.Compact(all)
	return all[max(0, len(all)-KeptDeliveries):]
}

func compareDeliveries(a, b Delivery) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Message, b.Message))
}

// Standing is where a recipient stands in one profile.
type Standing struct {
	Profile string
	Score   float64
	Stage   string    // empty below the lowest
	At      time.Time // of the newest event of the profile; the score decays from then on
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

// walk is the way of one profile through the contributions, in order of time.
type walk struct {
	score float64
	stage int // -1 below the lowest
	at    time.Time
	last  int // the contribution that it stands at
}

// spending is what a rule with a cap gave.
type spending struct {
	at     time.Time
	points float64
}

// scratch is memory that one walk after another uses.
type scratch struct {
	spent       [][]spending // of each rule with a cap
	engagements []machine.Engagement
	deliveries  []machine.Delivery
}

// walk goes through a state for all profiles at once. A profile looks only at
// events that a rule of it held for: others do not touch its score, not even in
// its last bit. Each is called with every step.
func (s *Set) walk(st *State, each func(profile int, step Step)) []walk {
	walks := make([]walk, len(s.profiles))
	for i := range walks {
		walks[i] = walk{stage: -1, last: -1}
	}
	own, _ := s.scratches.Get().(*scratch)
	defer s.scratches.Put(own)
	spent := own.spent
	for i := range spent {
		spent[i] = spent[i][:0]
	}
	evidence := own.evidenceOf(st)
	for i := range st.Contributions {
		c := &st.Contributions[i]
		for _, id := range c.Rules {
			r, known := s.rules[id]
			if !known {
				continue
			}
			p, w := s.profiles[r.profile], &walks[r.profile]
			if w.last != i {
				w.to(p, c.At)
				w.last = i
			}
			counted := r.Points
			switch {
			case evidence != nil && len(evidence[i]) > 0 && r.Points > 0:
				counted = 0
			case r.Cap != nil:
				counted, spent[r.cap] = capped(spent[r.cap], r.Rule, c.At)
			}
			w.score += counted
			if each != nil {
				step := Step{Contribution: *c, Rule: r.Name, Points: r.Points, Counted: counted}
				if evidence != nil {
					step.Evidence = evidence[i]
				}
				each(r.profile, step)
			}
		}
	}
	for i := range walks {
		walks[i].settle(s.profiles[i])
	}
	return walks
}

// settle finds the stage behind a contribution, once all its rules counted.
func (w *walk) settle(p *Profile) { w.stage = entered(p, left(p, w.stage, w.score), w.score) }

// to goes on to a later time. Stages may be left on the way.
func (w *walk) to(p *Profile, at time.Time) {
	if w.last >= 0 {
		w.settle(p)
		w.score = decay(w.score, at.Sub(w.at), p.HalfLife)
		w.stage = left(p, w.stage, w.score)
	}
	w.at = at
}

// evidenceOf returns, for each contribution, what several events together say
// against a human; nil when they say nothing.
func (own *scratch) evidenceOf(st *State) [][]string {
	engaged := false
	for i := range st.Contributions {
		engaged = engaged || isEngagement(&st.Contributions[i])
	}
	if !engaged {
		return nil
	}
	own.engagements, own.deliveries = own.engagements[:0], own.deliveries[:0]
	for i := range st.Contributions {
		c := &st.Contributions[i]
		engagement := machine.Engagement{}
		if len(c.Rules) > 0 { // not one that a correction took back
			engagement = machine.Engagement{At: c.At, Type: c.Type, Message: c.Message, Link: c.Link}
		}
		own.engagements = append(own.engagements, engagement)
	}
	for _, d := range st.Deliveries {
		own.deliveries = append(own.deliveries, machine.Delivery(d))
	}
	return machine.OverTime(own.engagements, own.deliveries)
}

func isEngagement(c *Contribution) bool { return c.Type == event.Opened || c.Type == event.Clicked }

// capped is what the cap of a rule leaves of its points at a time, and what the
// rule gave within the window then, that included.
func capped(spent []spending, r *Rule, at time.Time) (float64, []spending) {
	over := 0
	for over < len(spent) && at.Sub(spent[over].at) >= r.Cap.Window {
		over++
	}
	spent = slices.Delete(spent, 0, over)
	sum := 0.0
	for _, s := range spent {
		sum += math.Abs(s.points)
	}
	points := min(math.Abs(r.Points), r.Cap.Points-sum)
	if points <= 0 {
		return 0, spent
	}
	points = math.Copysign(points, r.Points)
	return points, append(spent, spending{at, points})
}

// left is the stage after the score fell, entered the one after it rose.
func left(p *Profile, stage int, score float64) int {
	for stage >= 0 && score < p.Stages[stage].Leave {
		stage--
	}
	return stage
}

func entered(p *Profile, stage int, score float64) int {
	for stage+1 < len(p.Stages) && score >= p.Stages[stage+1].Enter {
		stage++
	}
	return stage
}

func stageName(p *Profile, stage int) string {
	if stage < 0 {
		return ""
	}
	return p.Stages[stage].Name
}

// Standings returns where a recipient stands in each profile, in their order, as
// of the newest event of each.
func (s *Set) Standings(st *State) []Standing {
	standings := make([]Standing, len(s.profiles))
	for i, w := range s.walk(st, nil) {
		p := s.profiles[i]
		standings[i] = Standing{Profile: p.Name, Score: w.score, Stage: stageName(p, w.stage), At: w.at}
	}
	return standings
}

// StandingsAt returns where a recipient stands at a time: decayed since the
// newest event of each profile. A time before that is answered as of the event.
func (s *Set) StandingsAt(st *State, at time.Time) []Standing {
	standings := s.Standings(st)
	for i, p := range s.profiles {
		w := s.at(p, &standings[i], at)
		standings[i].Score, standings[i].Stage = w.score, stageName(p, w.stage)
	}
	return standings
}

// at is a standing, decayed to a time.
func (s *Set) at(p *Profile, from *Standing, at time.Time) walk {
	score := decay(from.Score, at.Sub(from.At), p.HalfLife)
	stage := slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Name == from.Stage })
	return walk{score: score, stage: left(p, stage, score), at: at}
}

// Explain returns every contribution to the score of one profile, oldest first,
// with what is left of each at a time.
func (s *Set) Explain(st *State, profile string, at time.Time) (steps []Step, found bool) {
	asked := slices.IndexFunc(s.profiles, func(p *Profile) bool { return p.Name == profile })
	if asked < 0 {
		return nil, false
	}
	s.walk(st, func(of int, step Step) {
		if of == asked {
			step.Now = decay(step.Counted, at.Sub(step.Contribution.At), s.profiles[of].HalfLife)
			steps = append(steps, step)
		}
	})
	return steps, true
}

// Crossing is a stage that a recipient entered or left.
type Crossing struct {
	Profile string
	Stage   string
	Up      bool
	Score   float64
}

// Crossings returns what lies between two standings of one recipient, such as
// those before and behind an event: a crossing for each stage between the two,
// compared at the later of their times. That a score fell with time alone is
// none, since no event says so. The profiles are those of after.
func (s *Set) Crossings(before, after []Standing) []Crossing {
	var crossings []Crossing
	for i := range after {
		now := &after[i]
		p := s.profile(now.Profile)
		if p == nil {
			continue
		}
		was := Standing{}
		for j := range before {
			if before[j].Profile == now.Profile {
				was = before[j]
			}
		}
		at := now.At
		if was.At.After(at) {
			at = was.At
		}
		from, to := s.at(p, &was, at), s.at(p, now, at)
		for stage := from.stage + 1; stage <= to.stage; stage++ {
			crossings = append(crossings, Crossing{p.Name, stageName(p, stage), true, to.score})
		}
		for stage := from.stage; stage > to.stage; stage-- {
			crossings = append(crossings, Crossing{p.Name, stageName(p, stage), false, to.score})
		}
	}
	return crossings
}

func (s *Set) profile(name string) *Profile {
	for _, p := range s.profiles {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// RuleID is the id of a rule in a contribution: a hash of its name and that of
// its profile, so that rules can be added, removed and reordered.
func RuleID(profile, rule string) int64 { return hash(profile + "/" + rule) }

func hash(text string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return int64(h.Sum64() >> 1)
}
