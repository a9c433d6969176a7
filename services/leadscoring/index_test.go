package leadscoring

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	"mailriver/schemas"
)

func testRanking(t *testing.T) (*lead.Set, *ranking) {
	t.Helper()
	rules, err := lead.Compile(lead.DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	return rules, newRanking(rules.Profiles()[0])
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func entryOf(rules *lead.Set, r *ranking, recipient string, score float64, at time.Time, from source) *entry {
	return r.entry(rules, recipient, lead.Standing{Profile: "default", Score: score, Stage: "warm", At: at}, from)
}

func everything(*entry) (yes, more bool) { return true, true }

func never(*entry) bool { return false }

// Several goroutines bring the records of one partition in any order; the one with
// the highest offset counts, whatever a scan of the copy says meanwhile. It turns
// red without the comparison of offsets.
func TestRanking_concurrent(t *testing.T) {
	rules, r := testRanking(t)
	const recipients, rounds = 50, 200
	name := func(i int) string { return fmt.Sprintf("user%02d@example.com", i) }
	score := func(i, round int) float64 { return float64(20 + (i*31+round*17)%200) }
	type work struct{ recipient, round int }
	var all []work
	for i := range recipients {
		for round := range rounds {
			all = append(all, work{i, round})
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var wg sync.WaitGroup
	for part := range slices.Chunk(all, len(all)/8) {
		wg.Go(func() {
			for _, w := range part {
				from := source{int64(w.round*recipients + w.recipient), int32(w.recipient % 3)}
				if w.round < rounds-1 && w.round%5 == 0 {
					r.drop([]byte(name(w.recipient)), from)
					continue
				}
				r.put(entryOf(rules, r, name(w.recipient), score(w.recipient, w.round), noon, from), never)
			}
		})
	}
	wg.Go(func() { // a scan of the copy, which has old states
		for i := range recipients {
			r.put(entryOf(rules, r, name(i), 1, noon, copied), never)
			r.drop([]byte(name(i)), copied)
		}
	})
	wg.Go(func() { // and pages are read
		for range 100 {
			var last *place
			for more := true; more; {
				var found []*entry
				found, last, more = r.behind(last, 7, math.MaxInt, everything)
				if !slices.IsSortedFunc(found, func(a, b *entry) int { return comparePlaces(a.place, b.place) }) {
					t.Error("a page is not in order")
				}
			}
		}
	})
	wg.Wait()
	found, _, more := r.behind(nil, 2*recipients, math.MaxInt, everything)
	if len(found) != recipients || more {
		t.Fatalf("behind() = %d leads, more %t, want %d", len(found), more, recipients)
	}
	for _, e := range found {
		var i int
		if _, err := fmt.Sscanf(e.recipient, "user%02d@", &i); err != nil {
			t.Fatal(err)
		}
		if want := score(i, rounds-1); e.score != want {
			t.Errorf("%s has %v points, want %v of the last record", e.recipient, e.score, want)
		}
	}
	if r.order.Len() != recipients || len(r.entries) != recipients {
		t.Errorf("order has %d, entries %d, want %d in both", r.order.Len(), len(r.entries), recipients)
	}
}

// What the copy says takes the place of an entry, unless the entry is of a record
// that the copy has not read yet.
func TestRanking_correct(t *testing.T) {
	rules, r := testRanking(t)
	ahead := entryOf(rules, r, "ahead@example.com", 50, noon, source{10, 1})
	read := entryOf(rules, r, "read@example.com", 40, noon, source{10, 2})
	moved := entryOf(rules, r, "moved@example.com", 30, noon, copied)
	for _, e := range []*entry{ahead, read, moved} {
		r.put(e, never)
	}
	positions := map[int32]int64{1: 10, 2: 11}
	r.correct(ahead, nil, positions)
	r.correct(read, nil, positions)
	r.correct(moved, entryOf(rules, r, "moved@example.com", 90, noon, copied), positions)
	r.correct(moved, nil, positions) // is no longer there
	found, _, _ := r.behind(nil, 9, 9, everything)
	var names []string
	for _, e := range found {
		names = append(names, e.recipient)
	}
	if want := []string{"moved@example.com", "ahead@example.com"}; !slices.Equal(names, want) {
		t.Errorf("leads = %q, want %q", names, want)
	}
}

// Leads that faded away do not stay in memory, though nobody asks for the list.
func TestRanking_prune(t *testing.T) {
	rules, r := testRanking(t)
	gone := func(e *entry) bool { return rules.StandingAt(r.standing(e), noon).Stage == "" }
	for i := range 1000 {
		r.put(entryOf(rules, r, fmt.Sprintf("old%d@example.com", i), 30, noon.Add(-30*24*time.Hour), source{int64(i), 0}), gone)
	}
	for i := range pruneEvery {
		r.put(entryOf(rules, r, fmt.Sprintf("new%d@example.com", i), 30, noon, source{int64(1000 + i), 0}), gone)
	}
	if len(r.entries) != pruneEvery || r.order.Len() != pruneEvery {
		t.Errorf("%d leads are held, %d in order, want the %d that are in a stage", len(r.entries), r.order.Len(), pruneEvery)
	}
}

// A page ends where its work does, and where nothing behind it can be wanted.
func TestRanking_behind(t *testing.T) {
	rules, r := testRanking(t)
	for i := range 20 {
		r.put(entryOf(rules, r, fmt.Sprintf("user%02d@example.com", i), float64(100-i), noon, copied), never)
	}
	odd := func(e *entry) (yes, more bool) { return int(e.score)%2 == 1, e.score > 90 }
	found, last, more := r.behind(nil, 3, 99, odd)
	if len(found) != 3 || found[2].score != 95 || !more || last.recipient != "user05@example.com" {
		t.Errorf("behind() = %d leads, last %+v, more %t, want three and more", len(found), last, more)
	}
	if found, last, more = r.behind(last, 3, 2, odd); len(found) != 1 || !more || last.recipient != "user07@example.com" {
		t.Errorf("behind() of two looked at = %d leads, last %+v, more %t, want one and more", len(found), last, more)
	}
	if found, _, more = r.behind(last, 9, 99, odd); len(found) != 1 || more {
		t.Errorf("behind() = %d leads, more %t, want one: none below 90 is wanted", len(found), more)
	}
	from := placeOf(last.position())
	if from == nil || *from != *last || placeOf(nil) != nil {
		t.Errorf("placeOf(position()) = %+v, want %+v", from, last)
	}
}

// schemasOf knows the schema of scores, or nothing at all.
type schemasOf struct{ known bool }

func (s schemasOf) SchemaByID(context.Context, int) (sr.Schema, error) {
	if !s.known {
		return sr.Schema{}, errors.New("registry is down")
	}
	return sr.Schema{Schema: schemas.LeadScoreV1}, nil
}

// An index that recognizes leads in no stage by their first bytes holds what one
// does that decodes them all: leads come, move, fade and are removed.
func TestIndex_glance(t *testing.T) {
	rules, _ := testRanking(t)
	encoder, err := leadavro.NewEncoder(7)
	if err != nil {
		t.Fatal(err)
	}
	service := &Service{rules: rules, deps: Deps{Schemas: schemasOf{true}, Now: func() time.Time { return noon }}}
	fast, slow := newIndex(service), newIndex(service)
	slow.glance = leadavro.NewGlance(schemasOf{false})
	random := rand.New(rand.NewPCG(5, 6))
	recognized := 0
	for i := range 3000 {
		key := fmt.Appendf(nil, "user%d@example.com", random.IntN(100))
		record := leadavro.Record{State: lead.State{Recipient: string(key)}, Rules: rules.Fingerprint()}
		s := lead.Standing{Profile: "default", Score: random.Float64() * 100, At: noon.Add(-time.Duration(random.IntN(100)) * time.Hour)}
		s.Stage = []string{"", "", "warm", "hot"}[random.IntN(4)]
		record.Standings = []lead.Standing{s}
		value, err := encoder.Append(nil, &record)
		if err != nil {
			t.Fatal(err)
		}
		switch random.IntN(20) {
		case 0:
			value = nil
		case 1:
			value = value[:random.IntN(len(value))]
		}
		if fast.glance.InNoStage(t.Context(), value, rules.Fingerprint()) {
			recognized++
		}
		from := source{int64(i), 0}
		if random.IntN(5) == 0 {
			from = copied
		}
		for _, x := range []*index{fast, slow} {
			if err := x.take(t.Context(), key, value, from); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := fast.rankings[0], slow.rankings[0]; len(a.entries) != len(b.entries) {
			t.Fatalf("after record %d there are %d leads, want %d", i, len(a.entries), len(b.entries))
		}
	}
	got, _, _ := fast.rankings[0].behind(nil, math.MaxInt, math.MaxInt, everything)
	want, _, _ := slow.rankings[0].behind(nil, math.MaxInt, math.MaxInt, everything)
	if len(want) == 0 || !slices.EqualFunc(got, want, func(a, b *entry) bool { return *a == *b }) {
		t.Errorf("leads = %d, want the same %d", len(got), len(want))
	}
	if recognized < 1000 {
		t.Errorf("%d leads were recognized, want more than 1000", recognized)
	}
}

// A standing that is held is the one that was given.
func TestRanking_standing(t *testing.T) {
	rules, r := testRanking(t)
	for _, s := range []lead.Standing{
		{Profile: "default", Score: 1.0 / 3, Stage: "hot", At: noon.Add(time.Microsecond)},
		{Profile: "default", Score: -2, At: noon},
		{Profile: "default"},
	} {
		if got := r.standing(r.entry(rules, "jane@example.com", s, copied)); got != s {
			t.Errorf("standing(entry(%+v)) = %+v", s, got)
		}
	}
}
