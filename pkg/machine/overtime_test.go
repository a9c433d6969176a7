package machine_test

import (
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/machine"
)

var start = time.Date(2026, 11, 3, 8, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return start.Add(d) }

func click(at time.Duration, link int64) machine.Engagement {
	return machine.Engagement{At: after(at), Type: event.Clicked, Message: 1, Link: link}
}

func open(at time.Duration) machine.Engagement {
	return machine.Engagement{At: after(at), Type: event.Opened, Message: 1}
}

// Each code, on both sides of its bounds.
func TestOverTime(t *testing.T) {
	const ms, s, m = time.Millisecond, time.Second, time.Minute
	arrived := []machine.Delivery{{Message: 1, At: start}}
	tests := []struct {
		name        string
		deliveries  []machine.Delivery
		engagements []machine.Engagement
		want        [][]string
	}{
		{"nothing", nil, nil, [][]string{}},
		{"a person", arrived, []machine.Engagement{open(60 * s), click(90*s, 1), click(120*s, 2)}, [][]string{nil, nil, nil}},

		{"before_delivery", arrived, []machine.Engagement{click(-ms, 1), click(-10*m, 2)}, [][]string{{machine.BeforeDelivery}, {machine.BeforeDelivery}}},
		{"longer before than a server takes", arrived, []machine.Engagement{click(-10*m-ms, 1)}, [][]string{nil}},
		{"before_delivery of an open", arrived, []machine.Engagement{open(-3 * s)}, [][]string{{machine.BeforeDelivery}}},

		{"fast_click", arrived, []machine.Engagement{click(0, 1), click(3*s-ms, 1)}, [][]string{{machine.FastClick}, {machine.FastClick}}},
		{"three seconds are enough for a person", arrived, []machine.Engagement{click(3*s, 1)}, [][]string{nil}},
		{"a fast open", arrived, []machine.Engagement{open(0), open(s)}, [][]string{nil, nil}},
		{"a fast click without a delivery", nil, []machine.Engagement{click(s, 1)}, [][]string{nil}},
		{"a fast click on another message", []machine.Delivery{{Message: 2, At: start}}, []machine.Engagement{click(s, 1)}, [][]string{nil}},
		{
			"the first delivery counts, in any order",
			[]machine.Delivery{{Message: 1, At: after(50 * s)}, {Message: 1, At: start}, {Message: 1}},
			[]machine.Engagement{click(51*s, 1), click(2*s, 1)},
			[][]string{nil, {machine.FastClick}},
		},

		{"many_links: two within a second", nil, []machine.Engagement{click(0, 1), click(s-ms, 2)}, [][]string{{machine.ManyLinks}, {machine.ManyLinks}}},
		{"two, a second apart", nil, []machine.Engagement{click(0, 1), click(s, 2)}, [][]string{nil, nil}},
		{
			"many_links: three within two seconds", nil,
			[]machine.Engagement{click(0, 1), click(s, 2), click(2*s-ms, 3)},
			[][]string{{machine.ManyLinks}, {machine.ManyLinks}, {machine.ManyLinks}},
		},
		{"three in two seconds", nil, []machine.Engagement{click(0, 1), click(s, 2), click(2*s, 3)}, [][]string{nil, nil, nil}},
		{
			"many_links: six within five seconds, and not the one before and after", nil,
			[]machine.Engagement{click(-20*s, 9), click(0, 1), click(s, 2), click(2*s, 3), click(3*s, 4), click(4*s, 5), click(5*s-ms, 6), click(25*s, 1)},
			[][]string{nil, {machine.ManyLinks}, {machine.ManyLinks}, {machine.ManyLinks}, {machine.ManyLinks}, {machine.ManyLinks}, {machine.ManyLinks}, nil},
		},
		{"one link, clicked again and again", nil, []machine.Engagement{click(0, 1), click(100*ms, 1), click(200*ms, 1)}, [][]string{nil, nil, nil}},
		{
			"a repetition within a burst", nil,
			[]machine.Engagement{click(0, 1), click(100*ms, 1), click(200*ms, 2)},
			[][]string{{machine.ManyLinks}, {machine.ManyLinks}, {machine.ManyLinks}},
		},
		{"links that are not known", nil, []machine.Engagement{click(0, 0), click(ms, 0), click(2*ms, 1)}, [][]string{nil, nil, nil}},
		{
			"links of two messages", nil,
			[]machine.Engagement{click(0, 1), {At: after(ms), Type: event.Clicked, Message: 2, Link: 2}},
			[][]string{nil, nil},
		},
		{
			"a message that is not known",
			[]machine.Delivery{{At: start}},
			[]machine.Engagement{{At: start, Type: event.Clicked, Link: 1}, {At: start, Type: event.Clicked, Link: 2}},
			[][]string{nil, nil},
		},

		{"open_with_click", arrived, []machine.Engagement{open(8 * s), click(8*s+999*ms, 1)}, [][]string{{machine.OpenWithClick}, {machine.OpenWithClick}}},
		{"open_with_click, the click first", arrived, []machine.Engagement{click(8*s, 1), open(8*s + 999*ms)}, [][]string{{machine.OpenWithClick}, {machine.OpenWithClick}}},
		{
			"open_with_click: one open beside two clicks", arrived,
			[]machine.Engagement{click(8*s, 1), open(8 * s), click(8*s+500*ms, 1)},
			[][]string{{machine.OpenWithClick}, {machine.OpenWithClick}, {machine.OpenWithClick}},
		},
		{"a second between open and click", arrived, []machine.Engagement{open(8 * s), click(9*s, 1)}, [][]string{nil, nil}},
		{"half a minute after the delivery", arrived, []machine.Engagement{open(30 * s), click(30*s, 1)}, [][]string{nil, nil}},
		{"open and click, the delivery not known", nil, []machine.Engagement{open(8 * s), click(8*s, 1)}, [][]string{nil, nil}},
		{"two opens at once", arrived, []machine.Engagement{open(8 * s), open(8 * s)}, [][]string{nil, nil}},

		{
			"everything at once", arrived,
			[]machine.Engagement{open(s), click(s, 1), click(s+ms, 2)},
			[][]string{{machine.OpenWithClick}, {machine.FastClick, machine.ManyLinks, machine.OpenWithClick}, {machine.FastClick, machine.ManyLinks, machine.OpenWithClick}},
		},
		{
			"what is no engagement is ignored", arrived,
			[]machine.Engagement{{At: start, Type: event.Complained, Message: 1, Link: 1}, {At: start, Type: event.Unsubscribed, Message: 1, Link: 2}, click(90*s, 1)},
			[][]string{nil, nil, nil},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := machine.OverTime(tt.engagements, tt.deliveries); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("OverTime(%v) = %q, want %q", tt.engagements, got, tt.want)
			}
		})
	}
}

// random makes engagements that are close to each other in every respect.
func random(r *rand.Rand, n int) ([]machine.Engagement, []machine.Delivery) {
	types := []event.Type{event.Clicked, event.Clicked, event.Opened, event.Complained}
	engagements := make([]machine.Engagement, n)
	for i := range engagements {
		engagements[i] = machine.Engagement{
			At:   after(time.Duration(r.IntN(120)-10) * 250 * time.Millisecond),
			Type: types[r.IntN(len(types))], Message: r.Int64N(3), Link: r.Int64N(8),
		}
	}
	deliveries := make([]machine.Delivery, r.IntN(4))
	for i := range deliveries {
		deliveries[i] = machine.Delivery{Message: r.Int64N(3), At: after(time.Duration(r.IntN(40)) * time.Second / 4)}
	}
	return engagements, deliveries
}

// The answer is held against one that looks at every pair and every window, and
// knows nothing of order.
func TestOverTime_asByHand(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	found := map[string]int{}
	for range 3000 {
		engagements, deliveries := random(r, 1+r.IntN(24))
		got := machine.OverTime(engagements, deliveries)
		for i := range engagements {
			want := byHand(engagements, deliveries, i)
			if !slices.Equal(got[i], want) {
				t.Fatalf("OverTime(%v, %v)[%d] = %q, want %q", engagements, deliveries, i, got[i], want)
			}
			for _, code := range want {
				found[code]++
			}
		}
	}
	for _, code := range machine.OverTimeCodes() {
		if found[code] < 100 {
			t.Errorf("%s occurred %d times, too seldom to prove anything", code, found[code])
		}
	}
}

func byHand(all []machine.Engagement, deliveries []machine.Delivery, i int) []string {
	e := all[i]
	if e.Message == 0 || e.Type != event.Opened && e.Type != event.Clicked {
		return nil
	}
	var delivered time.Time
	for _, d := range deliveries {
		if d.Message == e.Message && (delivered.IsZero() || d.At.Before(delivered)) {
			delivered = d.At
		}
	}
	known, took := !delivered.IsZero(), e.At.Sub(delivered)
	var codes []string
	if known && took < 0 && took >= -10*time.Minute {
		codes = append(codes, machine.BeforeDelivery)
	}
	if known && took >= 0 && took < 3*time.Second && e.Type == event.Clicked {
		codes = append(codes, machine.FastClick)
	}
	if e.Type == event.Clicked && e.Link != 0 && (burst(all, e, 2, time.Second) || burst(all, e, 3, 2*time.Second) || burst(all, e, 6, 5*time.Second)) {
		codes = append(codes, machine.ManyLinks)
	}
	soon := func(at time.Time) bool {
		return at.Sub(delivered) >= -10*time.Minute && at.Sub(delivered) < 30*time.Second
	}
	beside := slices.ContainsFunc(all, func(o machine.Engagement) bool {
		return o.Message == e.Message && (o.Type == event.Opened || o.Type == event.Clicked) && o.Type != e.Type &&
			o.At.Sub(e.At).Abs() < time.Second && soon(o.At)
	})
	if known && soon(e.At) && beside {
		codes = append(codes, machine.OpenWithClick)
	}
	return codes
}

// burst reports whether some window that begins with a click and has e in it
// holds that many links.
func burst(all []machine.Engagement, e machine.Engagement, links int, within time.Duration) bool {
	same := func(o machine.Engagement) bool {
		return o.Message == e.Message && o.Type == event.Clicked && o.Link != 0
	}
	for _, first := range all {
		if !same(first) || e.At.Before(first.At) || e.At.Sub(first.At) >= within {
			continue
		}
		different := map[int64]bool{}
		for _, o := range all {
			if same(o) && !o.At.Before(first.At) && o.At.Sub(first.At) < within {
				different[o.Link] = true
			}
		}
		if len(different) >= links {
			return true
		}
	}
	return false
}

// Lead scoring sees events in another order after a replay, and must come to the
// same score.
func TestOverTime_orderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for range 500 {
		engagements, deliveries := random(r, 2+r.IntN(40))
		want := machine.OverTime(engagements, deliveries)
		places := r.Perm(len(engagements))
		mixed := make([]machine.Engagement, len(engagements))
		for i, p := range places {
			mixed[i] = engagements[p]
		}
		slices.Reverse(deliveries)
		got := machine.OverTime(mixed, deliveries)
		for i, p := range places {
			if !slices.Equal(got[i], want[p]) {
				t.Fatalf("OverTime() of %v in another order = %q, want %q", mixed[i], got[i], want[p])
			}
		}
	}
}

// An event that is told twice, as after a replay, tells nothing new.
func TestOverTime_repetitionTellsNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 500 {
		engagements, deliveries := random(r, 1+r.IntN(20))
		want := machine.OverTime(engagements, deliveries)
		got := machine.OverTime(slices.Concat(engagements, engagements), slices.Concat(deliveries, deliveries))
		if !reflect.DeepEqual(got, slices.Concat(want, want)) {
			t.Fatalf("OverTime() of %v twice = %q, want %q twice", engagements, got, want)
		}
	}
}

func FuzzOverTime(f *testing.F) {
	f.Add([]byte("some bytes that become engagements and deliveries, sixteen at a time...."))
	f.Fuzz(func(t *testing.T, data []byte) {
		var engagements []machine.Engagement
		var deliveries []machine.Delivery
		for ; len(data) >= 16; data = data[16:] {
			at := time.Unix(int64(binary.LittleEndian.Uint64(data)), int64(data[8]))
			message, link := int64(int8(data[9]))%3, int64(int8(data[10]))
			switch data[11] % 4 {
			case 0:
				deliveries = append(deliveries, machine.Delivery{Message: message, At: at})
			case 1:
				engagements = append(engagements, machine.Engagement{At: at, Type: event.Opened, Message: message})
			default:
				engagements = append(engagements, machine.Engagement{At: at, Type: event.Clicked, Message: message, Link: link})
			}
		}
		got := machine.OverTime(engagements, deliveries)
		if len(got) != len(engagements) {
			t.Fatalf("OverTime() of %d engagements gives %d answers", len(engagements), len(got))
		}
		for _, codes := range got {
			for i, code := range codes {
				if !slices.Contains(machine.OverTimeCodes(), code) || slices.Contains(codes[:i], code) {
					t.Errorf("OverTime() gives the evidence %q", codes)
				}
			}
		}
	})
}

// A busy recipient: what lead scoring asks on every event.
func BenchmarkOverTime(b *testing.B) {
	var engagements []machine.Engagement
	var deliveries []machine.Delivery
	for i := range int64(64) {
		at := start.Add(time.Duration(i) * time.Hour)
		engagements = append(engagements, machine.Engagement{At: at, Type: event.Clicked, Message: 1 + i/4, Link: i % 5})
		if i%8 == 0 {
			deliveries = append(deliveries, machine.Delivery{Message: 1 + i/4, At: at.Add(-time.Minute)})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		machine.OverTime(engagements, deliveries)
	}
}

// Clicks without end in the same second, as somebody might post them.
func BenchmarkOverTime_worst(b *testing.B) {
	engagements := make([]machine.Engagement, 10_000)
	for i := range engagements {
		engagements[i] = machine.Engagement{At: start, Type: event.Clicked, Message: 1, Link: int64(i + 1)}
	}
	b.ReportAllocs()
	for b.Loop() {
		machine.OverTime(engagements, nil)
	}
}
