package rates

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func delivered() event.Event {
	return event.Event{
		Type: event.Delivered, Provider: "ses", Source: "ses-eu", Sender: "News@Shop.Example",
		OccurredAt: noon.Add(59 * time.Minute), ReceivedAt: noon.Add(60 * time.Minute),
	}
}

func TestFactOf(t *testing.T) {
	at := cell{"shop.example", hourOf(noon)}
	for _, tt := range []struct {
		name   string
		change func(*event.Event)
		cell   cell
		want   Counts
	}{
		{"delivered", func(*event.Event) {}, at, Counts{Delivered: 1}},
		{"complained", func(e *event.Event) { e.Type = event.Complained }, at, Counts{Complained: 1}},
		{"complaint of another kind", func(e *event.Event) { e.Type, e.ComplaintType = event.Complained, "fraud" }, at, Counts{Complained: 1}},
		{"not spam", func(e *event.Event) { e.Type, e.ComplaintType = event.Complained, "not-spam" }, cell{}, Counts{}},
		{"hard bounce", func(e *event.Event) { e.Type, e.BounceKind = event.Bounced, event.KindHard }, at, Counts{HardBounced: 1}},
		{"soft bounce", func(e *event.Event) { e.Type, e.BounceKind = event.Bounced, event.KindSoft }, cell{}, Counts{}},
		{"block", func(e *event.Event) { e.Type, e.BounceKind = event.Bounced, event.KindBlock }, cell{}, Counts{}},
		{"rejected", func(e *event.Event) { e.Type = event.Rejected }, cell{}, Counts{}},
		{"opened", func(e *event.Event) { e.Type = event.Opened }, cell{}, Counts{}},
		{"inbound", func(e *event.Event) { e.Type = event.Inbound }, cell{}, Counts{}},
		{"test", func(e *event.Event) { e.IsTest = true }, cell{}, Counts{}},
		{"ambiguous", func(e *event.Event) { e.RecipientAmbiguous = true }, cell{}, Counts{}},
		{"second signal", func(e *event.Event) { e.IsDuplicateHint = true }, cell{}, Counts{}},
		{"correction", func(e *event.Event) { e.Revision = 1 }, cell{}, Counts{}},
		{"no sender", func(e *event.Event) { e.Sender = "" }, cell{"source:ses-eu", at.hour}, Counts{Delivered: 1}},
		{"no address", func(e *event.Event) { e.Sender = "Shop" }, cell{"source:ses-eu", at.hour}, Counts{Delivered: 1}},
		{"international domain", func(e *event.Event) { e.Sender = "a@Bücher.example" }, cell{"xn--bcher-kva.example", at.hour}, Counts{Delivered: 1}},
		{"provider that names it at times", func(e *event.Event) { e.Provider = "postmark" }, cell{"source:ses-eu", at.hour}, Counts{Delivered: 1}},
		{"a clock ahead", func(e *event.Event) { e.OccurredAt = noon.Add(9 * time.Hour) }, cell{"shop.example", at.hour + 1}, Counts{Delivered: 1}},
	} {
		e := delivered()
		tt.change(&e)
		c, got, ok := factOf(&e)
		if c != tt.cell || got != tt.want || ok != (tt.want != Counts{}) {
			t.Errorf("%s: factOf() = %v, %v, %t, want %v, %v", tt.name, c, got, ok, tt.cell, tt.want)
		}
	}
}

// A rate is of the same messages above and below the line: a provider whose
// deliveries name no sender, while its bounces or complaints do, is in silent.
// Without the entry of Postmark this fails.
func TestSilent_holdsTheProvidersWhoseDeliveriesNameNoSender(t *testing.T) {
	paths, err := filepath.Glob("../../../pkg/esp/*/testdata/*/want.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures of providers (%v)", err)
	}
	type seen struct{ delivery, namedDelivery, namedFailure bool }
	providers := map[string]seen{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var fixture struct{ Events []event.Event }
		if err := json.Unmarshal(text, &fixture); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, e := range fixture.Events {
			s := providers[e.Provider]
			switch e.Type {
			case event.Delivered:
				s.delivery = true
				s.namedDelivery = s.namedDelivery || e.Sender != ""
			case event.Bounced, event.Complained:
				s.namedFailure = s.namedFailure || e.Sender != ""
			}
			providers[e.Provider] = s
		}
	}
	for provider, s := range providers {
		want := s.delivery && !s.namedDelivery && s.namedFailure
		if got := slices.Contains(silent(), provider); got != want {
			t.Errorf("silent() has %s = %t, want %t", provider, got, want)
		}
	}
}

func TestKeyOf(t *testing.T) {
	c := cell{"shop.example", hourOf(noon)}
	if got, want := keyOf(3, c), "3|shop.example|2026-11-24T12Z"; got != want {
		t.Errorf("keyOf() = %s, want %s", got, want)
	}
	for _, sender := range []string{"shop.example", "source:ses-eu", "a|b", "", "|"} {
		want := cell{sender, hourOf(noon)}
		p, got, err := parseKey(keyOf(11, want))
		if p != 11 || got != want || err != nil {
			t.Errorf("parseKey(keyOf(11, %v)) = %d, %v, %v", want, p, got, err)
		}
	}
}

func TestParseCounter_refuses(t *testing.T) {
	for _, tt := range []struct{ key, value string }{
		{"", "{}"},
		{"1", "{}"},
		{"1|2026-11-24T12Z", "{}"},
		{"x|d|2026-11-24T12Z", "{}"},
		{"9999999999|d|2026-11-24T12Z", "{}"},
		{"1|d|today", "{}"},
		{"1|d|2026-11-24T12Z", ""},
		{"1|d|2026-11-24T12Z", "7"},
	} {
		if _, _, _, err := parseCounter([]byte(tt.key), []byte(tt.value)); err == nil {
			t.Errorf("parseCounter(%q, %q) = nil error, want one", tt.key, tt.value)
		}
	}
}
