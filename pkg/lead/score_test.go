package lead_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/machine"
)

// Whole half-lives halve to the last bit, whatever the points are.
func TestStandingsAt_halfLife(t *testing.T) {
	for _, points := range []float64{1, 10, 0.1, 33.3, -7, 1e6, 1.0 / 3} {
		set := compile(t, profile("p", gives("click", event.Clicked, points)))
		st := fold(set, at(0, event.Clicked))
		for halves := range 17 {
			got := set.StandingsAt(&st, start.Add(time.Duration(halves)*week))[0].Score
			if want := points / math.Pow(2, float64(halves)); got != want {
				t.Errorf("%v after %d half-lives = %v, want %v", points, halves, got, want)
			}
		}
	}
}

func TestStandingsAt(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 64)))
	st := fold(set, at(0, event.Clicked))
	for _, tt := range []struct {
		after time.Duration
		score float64
		stage string
	}{
		{-time.Hour, 64, "hot"}, // as of the event
		{0, 64, "hot"},
		{week / 2, 64 * math.Sqrt(0.5), "hot"}, // 45.25
		{week, 32, "warm"},
		{2 * week, 16, "warm"},
		{2*week + day, 16 * math.Pow(2, -1.0/7), ""}, // 14.49
		{100 * week, 0, ""},
		{15000 * week, 0, ""},
	} {
		got := set.StandingsAt(&st, start.Add(tt.after))[0]
		if math.Abs(got.Score-tt.score) > 1e-9 || got.Stage != tt.stage || !got.At.Equal(start) {
			t.Errorf("StandingsAt(%s) = %+v, want %v %q", tt.after, got, tt.score, tt.stage)
		}
	}
	if got := set.StandingsAt(&lead.State{}, start)[0]; got != (lead.Standing{Profile: "p"}) {
		t.Errorf("StandingsAt() of nobody = %+v, want no score", got)
	}
}

// What is left between half-lives is the power of two that it should be, up to
// the last digits, and never more later than sooner.
func TestStandingsAt_betweenHalfLives(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, halfLife := range []time.Duration{time.Minute, 7*day + 1, 366 * day} {
		p := profile("p", gives("click", event.Clicked, 1))
		p.HalfLife = halfLife
		set := compile(t, p)
		st := fold(set, at(0, event.Clicked))
		after, last := []time.Duration{0, 1, halfLife - 1, halfLife, halfLife + 1}, 1.0
		for range 5000 {
			after = append(after, time.Duration(r.Int64N(int64(3*halfLife))))
		}
		slices.Sort(after)
		for _, d := range after {
			got := set.StandingsAt(&st, start.Add(d))[0].Score
			want := math.Exp2(-float64(d) / float64(halfLife))
			if math.Abs(got-want) > 1e-14*want || got > last*(1+1e-14) {
				t.Errorf("1 point after %d of %d = %v, want %v, and no more than %v", d, halfLife, got, want, last)
			}
			last = got
		}
	}
}

// The bits are pinned: every machine has to come to the same.
func TestStandingsAt_bits(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 10), gives("open", event.Opened, 0.1)))
	st := fold(set, at(0, event.Clicked), at(31*time.Hour+time.Microsecond, event.Opened), at(100*time.Hour, event.Clicked))
	for _, tt := range []struct {
		after time.Duration
		want  uint64
	}{{100 * time.Hour, 0x4030b1cfce618b84}, {101 * time.Hour, 0x4030a03700824955}, {1000*time.Hour + 1, 0x3fda113548b969da}} {
		if got := math.Float64bits(set.StandingsAt(&st, start.Add(tt.after))[0].Score); got != tt.want {
			t.Errorf("the bits after %s are %#x, want %#x", tt.after, got, tt.want)
		}
	}
}

// At a threshold, to the last bit: enter is reached, leave is not yet left.
func TestStandingsAt_thresholds(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 25), gives("reply", event.Inbound, 30)))
	if got := score(set, at(0, event.Clicked)); got.Stage != "warm" {
		t.Errorf("at 25 points one is %q, want warm", got.Stage)
	}
	st := fold(set, at(0, event.Inbound))
	if got := set.StandingsAt(&st, start.Add(week))[0]; got.Score != 15 || got.Stage != "warm" {
		t.Errorf("after a half-life, 30 points are %+v, want 15 and still warm", got)
	}
	if got := set.StandingsAt(&st, start.Add(week+time.Second))[0]; got.Stage != "" {
		t.Errorf("a second later one is %q, want in no stage", got.Stage)
	}
}

// An older event that is added later gives what it gives when it comes in time.
func TestAdd_olderLater(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 10), gives("open", event.Opened, 0.3)))
	log := []event.Event{at(0, event.Clicked), at(31*time.Hour, event.Opened), at(50*time.Hour, event.Clicked)}
	want := score(set, log...)
	slices.Reverse(log)
	if got := score(set, log...); got != want {
		t.Errorf("newest first, it stands at %+v, want %+v", got, want)
	}
	exact := 10*math.Exp2(-50.0/168) + 0.3*math.Exp2(-19.0/168) + 10
	if math.Abs(want.Score-exact) > 1e-12 {
		t.Errorf("score = %v, want %v", want.Score, exact)
	}
}

// A cap bounds what a rule gives within any span as long as its window, the
// oldest events first.
func TestStandings_caps(t *testing.T) {
	rule := func(points, cap float64, window time.Duration) *lead.Set {
		p := profile("p", capped(gives("click", event.Clicked, points), cap, window))
		p.HalfLife = 366 * day // so that points can be read off
		return compile(t, p)
	}
	for _, tt := range []struct {
		name           string
		set            *lead.Set
		hours, counted []float64
	}{
		{"below it", rule(10, 40, day), []float64{0, 1, 2}, []float64{10, 10, 10}},
		{"reached", rule(10, 40, day), []float64{0, 1, 2, 3, 4, 5}, []float64{10, 10, 10, 10, 0, 0}},
		{"a part of the last", rule(10, 25, day), []float64{0, 1, 2, 3}, []float64{10, 10, 5, 0}},
		{"the window rolls", rule(10, 20, day), []float64{0, 12, 23, 24, 35, 36}, []float64{10, 10, 0, 10, 0, 10}},
		{"and gives back a part", rule(10, 15, day), []float64{0, 1, 24, 25}, []float64{10, 5, 10, 5}},
		{"lower than the points", rule(10, 4, day), []float64{0, 1, 24}, []float64{4, 0, 4}},
		{"points below zero", rule(-10, 25, day), []float64{0, 1, 2, 3, 24}, []float64{-10, -10, -5, 0, -10}},
		{"fractions", rule(0.1, 0.25, day), []float64{0, 1, 2, 3}, []float64{0.1, 0.1, 0.25 - 0.1 - 0.1, 0}},
		{"a short window", rule(10, 10, time.Minute), []float64{0, 1, 2}, []float64{10, 10, 10}},
	} {
		var log []event.Event
		for _, h := range tt.hours {
			log = append(log, at(time.Duration(h*float64(time.Hour)), event.Clicked))
		}
		st := fold(tt.set, log...)
		steps, _ := tt.set.Explain(&st, "p", start)
		var counted []float64
		for _, step := range steps {
			counted = append(counted, step.Counted)
		}
		if !slices.EqualFunc(counted, tt.counted, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
			t.Errorf("%s: counted %v, want %v", tt.name, counted, tt.counted)
		}
	}
}

// No span as long as the window gives more than the cap, whatever comes.
func TestStandings_capsHold(t *testing.T) {
	set := models(t)
	limits := map[string]lead.Cap{}
	for _, p := range set.Profiles() {
		for _, r := range p.Rules {
			if r.Cap != nil {
				limits[p.Name+"/"+r.Name] = *r.Cap
			}
		}
	}
	for seed := range uint64(20) {
		st := fold(set, randomLog(seed, 200, 6*day)...)
		for _, p := range set.Profiles() {
			steps, _ := set.Explain(&st, p.Name, start)
			for i, from := range steps {
				limit, ok := limits[p.Name+"/"+from.Rule]
				sum := 0.0
				for _, step := range steps[i:] {
					if step.Rule == from.Rule && step.Contribution.At.Sub(from.Contribution.At) < limit.Window {
						sum += math.Abs(step.Counted)
					}
				}
				if ok && sum > limit.Points+1e-9 {
					t.Fatalf("seed %d: %s gives %v within %s, want at most %v", seed, from.Rule, sum, limit.Window, limit.Points)
				}
			}
		}
	}
}

// The steps of an explanation make up the score.
func TestExplain(t *testing.T) {
	set := models(t)
	for seed := range uint64(20) {
		st := fold(set, randomLog(seed, 150, 30*day)...)
		now := start.Add(31 * day)
		for i, standing := range set.StandingsAt(&st, now) {
			steps, ok := set.Explain(&st, standing.Profile, now)
			sum := 0.0
			for _, step := range steps {
				sum += step.Now
				if len(step.Evidence) > 0 && step.Counted > 0 {
					t.Errorf("seed %d: a machine's %s counts %v", seed, step.Rule, step.Counted)
				}
			}
			if !ok || math.Abs(sum-standing.Score) > 1e-9*(1+math.Abs(sum)) {
				t.Errorf("seed %d: the steps of profile %d make %v, want its score %v", seed, i, sum, standing.Score)
			}
		}
	}
	if _, ok := set.Explain(&lead.State{}, "nosuch", start); ok {
		t.Error("Explain() of a profile that is not there = true, want false")
	}
}

// ledger is what a reader of signals believes: it hears of every crossing, and
// knows that leads cool down.
func crossingsOf(set *lead.Set, log []event.Event) (told []string, final lead.Standing) {
	st := lead.State{Recipient: "jane@example.com"}
	before := set.Standings(&st)
	for i := range log {
		o := set.Observe(&log[i])
		st, _ = set.Add(st, &o)
		after := set.Standings(&st)
		for _, c := range set.Crossings(before, after) {
			sign := "-"
			if c.Up {
				sign = "+"
			}
			told = append(told, sign+c.Stage)
		}
		before = after
	}
	return told, before[0]
}

func TestCrossings(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 10), gives("reply", event.Inbound, 100),
		gives("complaint", event.Complained, -100), gives("unsubscribe", event.Unsubscribed, -20)))
	clicks := func(n int, from time.Duration) (log []event.Event) {
		for i := range n {
			log = append(log, at(from+time.Duration(i)*time.Minute, event.Clicked))
		}
		return log
	}
	for _, tt := range []struct {
		name  string
		log   []event.Event
		told  string
		stage string
	}{
		{"below", clicks(2, 0), "", ""},
		{"enters", clicks(3, 0), "+warm", "warm"},
		{"enters both", clicks(7, 0), "+warm +hot", "hot"},
		{"several at once", []event.Event{at(0, event.Inbound)}, "+warm +hot", "hot"},
		{"all left at once", []event.Event{at(0, event.Inbound), at(1, event.Complained)}, "+warm +hot -hot -warm", ""},
		{"stays between the thresholds", append(clicks(3, 0), at(5*day, event.Opened), at(4*day, event.Clicked)), "+warm", "warm"},
		// 30 fall to 15 in a week; a click lifts them over 15 again.
		{"decays to the lower threshold and stays", append(clicks(3, 0), at(week, event.Clicked)), "+warm", "warm"},
		// In eight days they fall below 15: left in silence. 13.6 + 10 is below 25.
		{"left by decay, not entered again", append(clicks(3, 0), at(8*day, event.Clicked)), "+warm", ""},
		{"left by decay, entered again", append(clicks(3, 0), clicks(2, 8*day)...), "+warm +warm", "warm"},
		{"left by points", append(clicks(3, 0), at(time.Hour, event.Unsubscribed)), "+warm -warm", ""},
		{
			"in and out", append(append(clicks(3, 0), at(time.Hour, event.Unsubscribed)), clicks(2, 2*time.Hour)...),
			"+warm -warm +warm", "warm",
		},
		{"left by decay and pulled down: told once", append(clicks(3, 0), at(8*day, event.Unsubscribed)), "+warm", ""},
		{"each twice", append(clicks(7, 0), clicks(7, 0)...), "+warm +hot", "hot"},
		{"a late event lifts", append([]event.Event{at(day, event.Clicked), at(day+time.Minute, event.Clicked)},
			at(0, event.Clicked)), "+warm", "warm"},
		{"a late event pulls down", append(clicks(3, day), at(0, event.Unsubscribed)), "+warm -warm", ""},
		// Between them, warm was entered and left again.
		{"a late event that has decayed", append([]event.Event{at(5*week, event.Clicked)}, clicks(3, 0)...), "", ""},
		{"a correction takes back", append(clicks(3, 0), corrected(at(2*time.Minute, event.Clicked), 1,
			func(e *event.Event) { e.Machine = event.MachineYes })), "+warm -warm", ""},
		// Behind the last event 30 points had become 13.6, and warm was left.
		{"a correction of the newest: what has cooled down is not entered again", append(clicks(3, 0), at(8*day, event.Clicked),
			corrected(at(8*day, event.Clicked), 1, func(e *event.Event) { e.IsTest = true })), "+warm", "warm"},
	} {
		told, final := crossingsOf(set, tt.log)
		if got := strings.Join(told, " "); got != tt.told || final.Stage != tt.stage {
			t.Errorf("%s: told %q, at last %q (%v), want %q, %q", tt.name, got, final.Stage, final.Score, tt.told, tt.stage)
		}
	}
}

// For any sequence, in any order: what is told is a step from where one stood,
// each threshold is told once for each time that it is crossed, and the same
// events again tell nothing. The reference is a reader who only knows the
// standings before and behind each event.
func TestCrossings_anySequence(t *testing.T) {
	set := models(t)
	height := func(p lead.Profile, stage string) int {
		return slices.IndexFunc(p.Stages, func(s lead.Stage) bool { return s.Name == stage })
	}
	told := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		log := randomLog(seed, 60, 12*day)
		if seed%2 == 0 {
			slices.SortFunc(log, func(a, b event.Event) int { return a.OccurredAt.Compare(b.OccurredAt) })
		}
		log = append(log, log[r.IntN(len(log))], log[r.IntN(len(log))])
		st := lead.State{Recipient: "jane@example.com"}
		for i := range log {
			o := set.Observe(&log[i])
			next, changed := set.Add(st, &o)
			before, after := set.Standings(&st), set.Standings(&next)
			crossings := set.Crossings(before, after)
			if !changed && len(crossings) > 0 {
				t.Fatalf("seed %d: an event that changes nothing tells %+v", seed, crossings)
			}
			for k, p := range set.Profiles() {
				now := after[k].At
				if before[k].At.After(now) {
					now = before[k].At
				}
				from := height(p, set.StandingsAt(&st, now)[k].Stage)
				to := height(p, set.StandingsAt(&next, now)[k].Stage)
				for _, c := range crossings {
					if c.Profile != p.Name {
						continue
					}
					told++
					h := height(p, c.Stage)
					if c.Up && h != from+1 || !c.Up && h != from {
						t.Fatalf("seed %d: told %+v to one who stood at %d", seed, c, from)
					}
					if from = h; !c.Up {
						from = h - 1
					}
				}
				if from != to {
					t.Fatalf("seed %d: what is told ends at stage %d, want %d", seed, from, to)
				}
			}
			st = next
		}
		for i := range log {
			o := set.Observe(&log[i])
			if again, changed := set.Add(st, &o); changed {
				t.Fatalf("seed %d: a repeated event changes the state to %+v", seed, again)
			}
		}
	}
	if told < 20 {
		t.Errorf("%d crossings in all, want enough to mean something", told)
	}
}

// A profile without stages is scored, and crosses nothing.
func TestCrossings_noStages(t *testing.T) {
	p := profile("p", gives("click", event.Clicked, 1000))
	p.Stages = nil
	told, final := crossingsOf(compile(t, p), []event.Event{at(0, event.Clicked)})
	if len(told) > 0 || final.Score != 1000 || final.Stage != "" {
		t.Errorf("told %v, standing %+v, want nothing, 1000", told, final)
	}
}

// What several events together say of machines takes their points, whichever
// comes first, and is never more than that: points below zero count.
func TestStandings_machines(t *testing.T) {
	set := compile(t, profile("p", gives("click", event.Clicked, 10), gives("open", event.Opened, 1),
		lead.Rule{Name: "opt-out", When: `event_type == "clicked" && url contains "/bye"`, Points: -50}))
	link := func(after time.Duration, n int) event.Event {
		return at(after, event.Clicked, message("m"), url(fmt.Sprint("https://example.com/", n)))
	}
	delivered := at(0, event.Delivered, message("m"))
	for _, tt := range []struct {
		name string
		log  []event.Event
		want float64
		code string
	}{
		{"a person", []event.Event{delivered, link(time.Hour, 1)}, 10, ""},
		{"right behind the delivery", []event.Event{delivered, link(time.Second, 1)}, 0, machine.FastClick},
		{"while it is delivered", []event.Event{delivered, link(-time.Second, 1)}, 0, machine.BeforeDelivery},
		{"every link at once", []event.Event{link(time.Hour, 1), link(time.Hour, 2), link(time.Hour, 3)}, 0, machine.ManyLinks},
		{"points below zero", []event.Event{
			delivered,
			at(time.Second, event.Clicked, message("m"), url("https://example.com/bye")),
		}, -50, machine.FastClick},
		{"another link at once that was taken back", []event.Event{
			link(time.Hour, 1), link(time.Hour, 2),
			corrected(link(time.Hour, 2), 1, func(e *event.Event) { e.IsTest = true }),
		}, 10, ""},
		{"another message", []event.Event{at(0, event.Delivered, message("n")), link(time.Second, 1)}, 10, ""},
	} {
		for range 2 {
			st := fold(set, tt.log...)
			steps, _ := set.Explain(&st, "p", start)
			code := ""
			for _, step := range steps {
				code = strings.Join(step.Evidence, " ")
			}
			if got := set.Standings(&st)[0].Score; math.Abs(got-tt.want) > 1e-9 || code != tt.code {
				t.Errorf("%s: score = %v with evidence %q, want %v, %q", tt.name, got, code, tt.want, tt.code)
			}
			if tt.log[len(tt.log)-1].Revision == 0 { // a correction comes behind what it corrects
				slices.Reverse(tt.log)
			}
		}
	}
	// A second link at once takes back what the first had given, and says so.
	warm := compile(t, profile("p", gives("click", event.Clicked, 30)))
	told, final := crossingsOf(warm, []event.Event{link(time.Hour, 1), link(time.Hour, 2), link(time.Hour, 3)})
	if got := strings.Join(told, " "); got != "+warm -warm" || final.Score != 0 {
		t.Errorf("told %q, score %v, want +warm -warm, 0", got, final.Score)
	}
}
