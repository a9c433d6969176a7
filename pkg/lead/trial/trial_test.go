package trial_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/trial"
)

func compile(t *testing.T, profiles []lead.Profile) *lead.Set {
	t.Helper()
	set, err := lead.Compile(profiles)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func clicks(recipient string, n int) []event.Event {
	var events []event.Event
	for i := range n {
		events = append(events, event.Event{
			ID: event.NewID("trial", recipient, fmt.Sprint(i)), Type: event.Clicked, Provider: "ses", Source: "ses",
			Recipient: recipient, RecipientNormalized: recipient, Machine: event.MachineNo, URL: fmt.Sprint("https://example.com/", i),
			ProviderMessageID: fmt.Sprint(recipient, i), OccurredAt: time.Date(2026, 11, 1, 12, 7*i, 0, 0, time.UTC),
		})
	}
	return events
}

// Whoever stands in another stage by the tried rules is told, the greatest change
// first; whoever stands in the same is not, and a rule that fails is.
func TestTrial(t *testing.T) {
	tried := lead.DefaultProfiles()
	tried[0].Rules[0].Points = 20
	tried[0].Rules[0].Cap = nil
	tried[0].Rules = append(tried[0].Rules, lead.Rule{Name: "broken", When: `len(tags) > 0 || tags[3] == "x"`, Points: 1})
	second := tried[0]
	second.Name = "success"
	run := trial.New(compile(t, lead.DefaultProfiles()), compile(t, append(tried, second)))
	var events []event.Event
	for _, who := range []struct {
		name   string
		clicks int
	}{{"cold", 1}, {"rising", 2}, {"hot", 4}, {"steady", 5}} {
		events = append(events, clicks(who.name+"@example.com", who.clicks)...)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	for i := range events {
		run.Add(&events[i])
		run.Add(&events[i]) // twice is once
	}
	r := run.Report(1000)
	if r.Events != 2*len(events) || r.Recipients != 4 || !r.At.Equal(time.Date(2026, 11, 1, 12, 28, 0, 0, time.UTC)) {
		t.Errorf("Report() = %+v, want %d events of 4 recipients, as of the newest", r, 2*len(events))
	}
	var moves []string
	for _, m := range r.Moves {
		if m.Profile == "default" {
			moves = append(moves, m.Address+" "+m.Before+">"+m.After)
		}
	}
	// By the rules in force, 40 points a day are all there is: warm.
	if want := []string{"steady@example.com warm>hot", "hot@example.com warm>hot", "rising@example.com >warm"}; !slices.Equal(moves, want) {
		t.Errorf("moves = %q, want %q", moves, want)
	}
	want := []trial.Stage{
		{"default", "", 2, 1},
		{"default", "warm", 2, 1},
		{"default", "hot", 0, 2},
		{"success", "", 4, 1},
		{"success", "warm", 0, 1},
		{"success", "hot", 0, 2},
	}
	if !reflect.DeepEqual(r.Stages, want) {
		t.Errorf("stages = %+v, want %+v", r.Stages, want)
	}
	if len(r.Failures) != 2 || r.Failures[0].Rule != "broken" || r.Failures[0].Events != 2*len(events) {
		t.Errorf("failures = %+v, want those of broken in both profiles", r.Failures)
	}
	if few := run.Report(1); len(few.Moves) != 1 || few.Moved != r.Moved || few.Moves[0] != r.Moves[0] {
		t.Errorf("Report(1) = %+v, want the first of %d", few, r.Moved)
	}
}

// The same rules move nobody.
func TestTrial_sameRules(t *testing.T) {
	run := trial.New(compile(t, lead.DefaultProfiles()), compile(t, lead.DefaultProfiles()))
	for i := range 9 {
		for _, e := range clicks(fmt.Sprint("user", i, "@example.com"), i) {
			run.Add(&e)
		}
	}
	r := run.Report(10)
	if r.Moved != 0 || len(r.Moves) != 0 || r.Recipients != 8 {
		t.Errorf("Report() = %+v, want 8 recipients and no move", r)
	}
	for _, s := range r.Stages {
		if s.Before != s.After {
			t.Errorf("stage %+v: want as many after as before", s)
		}
	}
}
