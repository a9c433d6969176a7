package lead_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/lead"
)

func segments(t *testing.T, set *lead.Set, whens ...string) *lead.Segments {
	t.Helper()
	var list []lead.Segment
	for i, when := range whens {
		list = append(list, lead.Segment{Name: fmt.Sprint("s", i), When: when})
	}
	compiled, err := set.CompileSegments(list)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func TestSegments_Evaluate(t *testing.T) {
	set := compile(t, profile("marketing", gives("click", event.Clicked, 10), gives("open", event.Opened, 1)),
		profile("success", gives("complaint", event.Complained, -5)))
	log := []event.Event{
		at(0, event.Opened), at(day, event.Clicked), at(8*day, event.Clicked), at(8*day+time.Hour, event.Clicked),
		at(9*day, event.Clicked), at(9*day, event.Delivered, message("x")),
		at(9*day+time.Second, event.Clicked, message("x"), url("https://example.com")), // a machine's
		at(9*day, event.Complained),
	}
	active, nobody := fold(set, log...), lead.State{}
	for _, tt := range []struct {
		when           string
		active, nobody bool // ten days after the start
		later          bool // active, after 100 days
	}{
		{`score("marketing") > 25`, true, false, false},
		{`score("marketing") < 1`, false, true, true},
		{`score("success") < 0`, true, false, true},
		{`stage("marketing") == "warm"`, true, false, false},
		{`stage("marketing") in ["warm", "hot"]`, true, false, false},
		{`"" == stage("marketing")`, false, true, true},
		{`days_since_click >= 1 && days_since_click < 1.01`, true, false, false},
		{`days_since_click > 90`, false, true, true},
		{`days_since_open == 10`, true, false, false},
		{`days_since_engagement == days_since_click`, true, true, true},
		{`days_since_delivery <= 1`, true, false, false},
		{`days_since_delivery > 1`, false, true, true},
		{`clicks_7d == 3 && clicks_30d == 4 && clicks_90d == 4`, true, false, false},
		{`opens_7d == 0 && opens_30d == 1 && opens_90d == 1`, true, false, false},
		{`clicks_90d == 0 && opens_90d == 0`, false, true, true},
	} {
		g := segments(t, set, tt.when)
		in := func(st *lead.State, after time.Duration) bool {
			names, failures := g.Evaluate(st, start.Add(after))
			if failures != nil {
				t.Errorf("%s fails: %v", tt.when, failures)
			}
			return len(names) == 1
		}
		if a, n, l := in(&active, 10*day), in(&nobody, 10*day), in(&active, 109*day); a != tt.active || n != tt.nobody || l != tt.later {
			t.Errorf("%s holds for an active one, for nobody, later: %t, %t, %t, want %t, %t, %t",
				tt.when, a, n, l, tt.active, tt.nobody, tt.later)
		}
	}
	// A span ends before the moment that began it, and what was taken back is not counted.
	click := at(0, event.Clicked)
	once := fold(set, click, at(0, event.Delivered))
	for _, tt := range []struct {
		days int
		when string
	}{
		{7, `clicks_7d == 0 && clicks_30d == 1`}, {30, `clicks_30d == 0 && clicks_90d == 1`}, {90, `clicks_90d == 0`},
	} {
		if names, _ := segments(t, set, tt.when).Evaluate(&once, start.Add(time.Duration(tt.days)*day)); len(names) != 1 {
			t.Errorf("%s is false %d days after the click, want true", tt.when, tt.days)
		}
	}
	back := fold(set, click, corrected(click, 1, func(e *event.Event) { e.IsTest = true }))
	if names, _ := segments(t, set, `clicks_90d == 0 && days_since_click > 1000`).Evaluate(&back, start); len(names) != 1 {
		t.Error("a click that was taken back counts")
	}
	// A click of a clock that is ahead was now.
	ahead := fold(set, at(time.Hour, event.Clicked))
	if names, _ := segments(t, set, `days_since_click == 0 && clicks_7d == 1`).Evaluate(&ahead, start); len(names) != 1 {
		t.Error("an event after now is not one of now")
	}
}

// Membership depends on the state and the time, and not on what was asked before
// or is asked beside it; a segment that fails leaves the others.
func TestSegments_order(t *testing.T) {
	set := models(t)
	g := segments(t, set, `score("slow") != 0`, `10 % clicks_30d == 0`, `days_since_click < 5`, `true`)
	st := fold(set, randomLog(4, 80, 10*day)...)
	want, _ := g.Evaluate(&st, start.Add(10*day))
	if !slices.Equal(want, []string{"s0", "s2", "s3"}) && !slices.Equal(want, []string{"s0", "s1", "s2", "s3"}) {
		t.Errorf("Evaluate() = %v, want s0, s2 and s3 at least, in their order", want)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				names, failures := g.Evaluate(&lead.State{}, start)
				if !slices.Equal(names, []string{"s3"}) || len(failures) != 1 || failures[0].Rule != "s1" {
					t.Errorf("Evaluate(nobody) = %v, %v, want s3, and that s1 failed", names, failures)
				}
				if names, _ := g.Evaluate(&st, start.Add(10*day)); !slices.Equal(names, want) {
					t.Errorf("Evaluate() = %v, want %v again", names, want)
				}
			}
		})
	}
	wg.Wait()
	if none, err := set.CompileSegments(nil); err != nil {
		t.Errorf("CompileSegments(none) = %v, want nil", err)
	} else if names, _ := none.Evaluate(&st, start); names != nil {
		t.Errorf("Evaluate() of no segments = %v, want none", names)
	}
}

func TestSet_CompileSegments_lines(t *testing.T) {
	var cfg struct {
		Segments []lead.Segment `yaml:"segments"`
	}
	err := config.Parse(&cfg, "f", []byte(`segments:
  - { name: a b, when: 'true' }
  - name: profile
    when: score("markting") > 3
  - { name: profile, when: 'stage("default") in ["hot", "wram"] || "heiss" != stage("default")' }
  - { name: dynamic, when: 'score(stage("default")) > 1' }
  - { name: field, when: 'event_type == "clicked"' }
  - { name: zero, when: 'clicks_30d / (1-1) > 1' }
  - { name: clock, when: 'now() > now()' }
  - { name: empty }
  - { name: number, when: clicks_30d }
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = compile(t, lead.DefaultProfiles()...).CompileSegments(cfg.Segments)
	want := `segments[0].name (line 2): is "a b", must be of letters, digits, - and _
segments[1].when (line 4): there is no profile "markting"
segments[2].name (line 5): there are two called "profile"
segments[2].when (line 5): the profile "default" has no stage "wram"
segments[2].when (line 5): the profile "default" has no stage "heiss"
segments[3].when (line 6): score() wants the name of a profile in quotes
segments[4].when (line 7): unknown name event_type (1:1)
segments[5].when (line 8): divides by zero: clicks_30d / (1 - 1)
segments[6].when (line 9): unknown name now (1:1)
segments[7].when (line 10): is empty
segments[8].when (line 11): expected bool, but got int`
	if err == nil || err.Error() != want {
		t.Errorf("CompileSegments() =\n%v\nwant\n%s", err, want)
	}
	err = config.Parse(&cfg, "f", []byte("segments: [{ name: a, wen: 'true' }]"), nil)
	if err == nil || !strings.Contains(err.Error(), "line 1: unknown key wen") {
		t.Errorf("Parse() = %v, want that the key is unknown", err)
	}
	many := slices.Repeat([]lead.Segment{{Name: "x", When: "true"}}, 201)
	if _, err := compile(t).CompileSegments(many); err == nil || !strings.Contains(err.Error(), "has 201, at most 200") {
		t.Errorf("CompileSegments(201 of them) = %v, want that there are too many", err)
	}
}
