package lead

import (
	"math"
	"slices"
	"time"

	"mailriver/pkg/event"
)

// Change is a stage that a recipient entered or left.
type Change struct {
	Profile string
	Stage   string
	Up      bool
	At      time.Time
	Score   float64    // then
	EventID event.ID   // of the event that did it; zero for time alone
	Type    event.Type // of that event
}

// History returns every change of stage that the contributions of a state and the
// time since led to, until a given time, oldest first. Like a score it is a
// function of the set: an event that comes late changes what is told about the
// past, and signals, which were sent when events came, can differ from it. What
// the bounds of a state have dropped is not in it.
func (s *Set) History(st *State, until time.Time) []Change {
	var changes []Change
	walks := make([]trail, len(s.profiles))
	for i, p := range s.profiles {
		walks[i] = trail{profile: p, stage: -1}
	}
	s.walk(st, func(of int, step Step) {
		w := &walks[of]
		if c := &step.Contribution; w.by.EventID != c.EventID {
			changes = w.settle(changes)
			changes = w.fade(changes, c.At)
			w.by = *c
		}
		w.score += step.Counted
	})
	for i := range walks {
		changes = walks[i].settle(changes)
		changes = walks[i].fade(changes, until)
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return a.At.Compare(b.At) })
	return changes
}

// trail is the way of one profile through the contributions.
type trail struct {
	profile *Profile
	score   float64
	stage   int // -1 below the lowest
	at      time.Time
	by      Contribution // the last
}

// settle tells what a contribution did, once all its rules counted.
func (w *trail) settle(to []Change) []Change {
	if w.by.EventID.IsZero() {
		return to
	}
	return w.move(to, entered(w.profile, left(w.profile, w.stage, w.score), w.score), func(int) Change {
		return Change{At: w.at, Score: w.score, EventID: w.by.EventID, Type: w.by.Type}
	})
}

// fade goes on to a later time and tells which stages were left on the way.
func (w *trail) fade(to []Change, at time.Time) []Change {
	score := decay(w.score, at.Sub(w.at), w.profile.HalfLife)
	from, since := w.score, w.at
	to = w.move(to, left(w.profile, w.stage, score), func(stage int) Change {
		halves := math.Log2(from / w.profile.Stages[stage].Leave)
		when := since.Add(time.Duration(max(halves, 0) * float64(w.profile.HalfLife))).Truncate(time.Microsecond)
		if when.After(at) {
			when = at
		}
		return Change{At: when, Score: w.profile.Stages[stage].Leave}
	})
	if at.After(w.at) {
		w.score, w.at = score, at
	}
	return to
}

// move goes to a stage, one after the other.
func (w *trail) move(to []Change, stage int, make func(stage int) Change) []Change {
	tell := func(stage int, up bool) {
		c := make(stage)
		c.Profile, c.Stage, c.Up = w.profile.Name, w.profile.Stages[stage].Name, up
		to = append(to, c)
	}
	for ; w.stage > stage; w.stage-- {
		tell(w.stage, false)
	}
	for ; w.stage < stage; w.stage++ {
		tell(w.stage+1, true)
	}
	return to
}

// StandingAt is a standing, decayed to a time. A time before that of the standing
// is answered as of the standing. It is as given where its profile is not one of
// the set.
func (s *Set) StandingAt(from Standing, at time.Time) Standing {
	p := s.profile(from.Profile)
	if p == nil {
		return from
	}
	w := s.at(p, &from, at)
	from.Score, from.Stage = w.score, stageName(p, w.stage)
	return from
}

// Rank is a number by which the standings of one profile are in the same order as
// their scores, at whatever time: all of them halve alike, so that the order of
// two changes with events only. It is that of the score, in half-lives: one that
// is twice as high has a rank one higher. A score of zero or less has the lowest
// rank there is.
func (s *Set) Rank(standing Standing) float64 {
	p := s.profile(standing.Profile)
	if p == nil || standing.Score <= 0 {
		return math.Inf(-1)
	}
	return rank(p, standing.Score, standing.At)
}

// rank keeps whole half-lives apart from the rest, which would lose its last
// digits behind them.
func rank(p *Profile, score float64, at time.Time) float64 {
	micros, halfLife := at.UnixMicro(), p.HalfLife.Microseconds()
	return float64(micros/halfLife) + (float64(micros%halfLife)/float64(halfLife) + math.Log2(score))
}
