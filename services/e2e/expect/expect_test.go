package expect_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/pkg/suppression"
	"mailriver/services/e2e/expect"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func happened(n int, typ event.Type, recipient string) event.Event {
	return event.Event{
		ID: event.NewID("test", recipient, string(rune('a'+n))), Type: typ, Provider: "mailgun", Source: "eu",
		RecipientNormalized: recipient, OccurredAt: noon.Add(time.Duration(n) * time.Hour),
		URL: "https://example.com/" + string(rune('a'+n)), ProviderMessageID: string(rune('a' + n)),
	}
}

// Two spellings are one address in the answers and two records in the topic,
// and who has only read is an address with nothing against it.
func TestList(t *testing.T) {
	list := expect.NewList(suppression.DefaultPolicy())
	for _, e := range []event.Event{
		happened(0, event.Complained, "Jane@example.com"), happened(1, event.Unsubscribed, "jane@example.com"),
		happened(2, event.Opened, "joe@example.com"), happened(0, event.Complained, "Jane@example.com"),
		{Type: event.AccountNotice},
	} {
		list.Add(&e)
	}
	answers := list.Answers(noon.Add(24 * time.Hour))
	var reasons []suppression.Reason
	for _, e := range answers["jane@example.com"] {
		reasons = append(reasons, e.Reason)
	}
	slices.Sort(reasons)
	if want := []suppression.Reason{suppression.Complaint, suppression.Unsubscribe}; !slices.Equal(reasons, want) {
		t.Errorf("Answers() = %v for jane, want %v", reasons, want)
	}
	if entries, asked := answers["joe@example.com"]; !asked || len(entries) > 0 || len(answers) != 2 {
		t.Errorf("Answers() = %+v, want jane, and joe without entries", answers)
	}
	keys := slices.Sorted(maps.Keys(maps.Collect(list.Records())))
	if want := []string{"account|jane@example.com", "address|Jane@example.com"}; !slices.Equal(keys, want) {
		t.Errorf("Records() are of %q, want %q", keys, want)
	}
}

// A crossing is signaled by the event that crosses, and not again by its copy.
func TestLeads(t *testing.T) {
	profiles := []lead.Profile{{
		Name: "p", HalfLife: 1000 * time.Hour,
		Rules: []lead.Rule{
			{Name: "click", When: `event_type == "clicked"`, Points: 10}, {Name: "complaint", When: `event_type == "complained"`, Points: -100},
		},
		Stages: []lead.Stage{{Name: "warm", Enter: 15, Leave: 5}},
	}}
	log := []event.Event{
		happened(0, event.Clicked, "jane@example.com"), happened(1, event.Clicked, "jane@example.com"),
		happened(1, event.Clicked, "jane@example.com"), happened(2, event.Complained, "jane@example.com"),
	}
	follow := func(log []event.Event) (*expect.Leads, []leadavro.Signal) {
		leads, err := expect.NewLeads(profiles)
		if err != nil {
			t.Fatal(err)
		}
		var signals []leadavro.Signal
		for i := range log {
			signals = append(signals, leads.Signal(&log[i])...)
		}
		return leads, signals
	}
	leads, signals := follow(log)
	if len(signals) != 2 || signals[0].EventID != log[1].ID || !signals[0].Crossing.Up ||
		signals[1].EventID != log[3].ID || signals[1].Crossing.Up {
		t.Errorf("Signal() = %+v, want warm entered by the second click and left by the complaint", signals)
	}
	if at := leads.Standings(noon.Add(1000 * time.Hour))["jane@example.com"]; len(at) != 1 || at[0].Score > -35 || at[0].Score < -45 {
		t.Errorf("Standings() = %+v, want about half of -80 after the half-life", at)
	}
	// Signals depend on the order of events; what is left does not.
	backwards := slices.Clone(log)
	slices.Reverse(backwards)
	other, signals := follow(backwards)
	if len(signals) != 0 {
		t.Errorf("Signal() = %+v backwards, want none: the complaint comes first", signals)
	}
	if got, want := maps.Collect(other.Records()), maps.Collect(leads.Records()); !reflect.DeepEqual(got, want) || len(want) != 1 {
		t.Errorf("Records() = %+v backwards, want %+v", got, want)
	}
}
