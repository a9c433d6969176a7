package lead_test

import (
	"fmt"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
)

// twenty is a set of 20 rules, as a sender with pages and campaigns of its own
// would write them.
func twenty(b *testing.B) *lead.Set {
	b.Helper()
	p := lead.DefaultProfiles()[0]
	for i, when := range []string{
		`event_type == "clicked" && url contains "/pricing"`,
		`event_type == "clicked" && url contains "/demo"`,
		`event_type == "clicked" && url startsWith "https://docs.example.com/"`,
		`event_type == "clicked" && "newsletter" in tags`,
		`event_type == "clicked" && campaign_id == "spring"`,
		`event_type == "clicked" && metadata["plan"] == "trial"`,
		`event_type == "clicked" && url matches "/product/[0-9]+$"`,
		`event_type == "clicked" && template_id in ["welcome", "onboarding"]`,
		`event_type == "opened" && campaign_id == "spring"`,
		`event_type == "opened" && subject contains "invoice"`,
		`event_type == "opened" && "newsletter" in tags`,
		`event_type == "delivered" && stream == "marketing"`,
		`event_type == "bounced" && bounce_kind == "hard"`,
		`event_type in ["resubscribed", "inbound"]`,
		`event_type == "complained" && complaint_type != "not-spam"`,
		`event_type == "unsubscribed" && list_id == "product"`,
	} {
		r := lead.Rule{Name: fmt.Sprint("rule", i), When: when, Points: float64(i + 1)}
		if i%3 == 0 {
			r.Cap = &lead.Cap{Points: 60, Window: 24 * time.Hour}
		}
		p.Rules = append(p.Rules, r)
	}
	return compile(b, p)
}

func typical(after time.Duration) event.Event {
	return at(after, event.Clicked, url("https://www.example.com/product/4711?utm_source=mail"), func(e *event.Event) {
		e.Tags = []string{"spring", "newsletter"}
		e.CampaignID = "spring"
		e.Metadata = map[string]string{"plan": "trial", "user": "17"}
	})
}

func BenchmarkMatch(b *testing.B) {
	set := twenty(b)
	for _, typ := range []event.Type{event.Clicked, event.Opened, event.Delivered, event.Accepted} {
		e := typical(0)
		e.Type = typ
		b.Run(string(typ), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Match(&e)
			}
		})
	}
}

// BenchmarkFold is what one event costs that changes a recipient with so many
// contributions: observed, added, and the standings behind it.
func BenchmarkFold(b *testing.B) {
	set := twenty(b)
	for _, n := range []int{5, 64} {
		var log []event.Event
		for i := range n {
			log = append(log, typical(time.Duration(i)*7*time.Hour))
		}
		st, e := fold(set, log...), typical(1000*time.Hour)
		o := set.Observe(&e)
		next, _ := set.Add(st, &o)
		before := set.Standings(&st)
		steps := []struct {
			name string
			step func()
		}{
			{"observe", func() { set.Observe(&e) }},
			{"add", func() { set.Add(st, &o) }},
			{"standings", func() { set.Standings(&next) }},
			{"crossings", func() { set.Crossings(before, before) }},
		}
		for _, s := range steps {
			b.Run(fmt.Sprint(s.name, "/", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.step()
				}
			})
		}
	}
}

func BenchmarkAvro(b *testing.B) {
	set := twenty(b)
	encoder, err := leadavro.NewEncoder(7)
	if err != nil {
		b.Fatal(err)
	}
	decoder := leadavro.NewDecoder(registry{})
	for _, n := range []int{5, 64} {
		var log []event.Event
		for i := range n {
			log = append(log, typical(time.Duration(i)*7*time.Hour), at(time.Duration(i)*7*time.Hour, event.Delivered))
		}
		st := fold(set, log...)
		r := leadavro.Record{State: st, Standings: set.Standings(&st), Rules: set.Fingerprint()}
		value, err := encoder.Append(nil, &r)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint("encode/", n), func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, 2*len(value))
			for b.Loop() {
				if _, err := encoder.Append(buf[:0], &r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(value)), "bytes") // behind the loop, which forgets it
		})
		b.Run(fmt.Sprint("decode/", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decoder.Decode(b.Context(), value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
