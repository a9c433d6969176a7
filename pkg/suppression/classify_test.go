package suppression_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

// FuzzClassify: any event gives facts that can be kept, or a reason why none.
func FuzzClassify(f *testing.F) {
	for _, e := range []event.Event{
		hard(0), at(0, event.Complained), at(0, event.Unsubscribed, scope(event.ScopeGroup, "7")), at(0, event.Delivered),
		byHand(0, event.SuppressionAdd, "complaint", expires(day)), byHand(0, event.SuppressionRemove, "nonsense"),
		at(0, event.SuppressionChanged, listed(event.SuppressionRemove, event.RejectPreviouslyBounced),
			scope(event.ScopeStream, "a|b")),
		{
			Type: event.Bounced, RecipientNormalized: "jane@example.com",
			BounceKind: event.KindHard, BounceCause: event.CauseInvalidAddress,
		},
		{Type: event.Complained, RecipientNormalized: "jane@example.com", EnhancedCode: strings.Repeat("é", 300)},
	} {
		data, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	skips := []string{
		suppression.SkipTest, suppression.SkipNoRecipient, suppression.SkipAmbiguous, suppression.SkipOff,
		suppression.SkipIrrelevant,
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e event.Event
		if json.Unmarshal(data, &e) != nil {
			return
		}
		policies := []suppression.Policy{suppression.DefaultPolicy(), softOn(), {}}
		for _, p := range policies {
			placed, skipped := suppression.Classify(&e, &p)
			if (len(placed) == 0) != slices.Contains(skips, skipped) {
				t.Fatalf("Classify() = %v, %q, want facts or one of %q", placed, skipped, skips)
			}
			keys := map[string]bool{}
			for _, f := range placed {
				s := suppression.State{Address: e.RecipientNormalized, ScopeKind: f.ScopeKind, ScopeID: f.ScopeID}.Add(f.Fact)
				if keys[s.Key()] {
					t.Errorf("Classify() places two facts in %s: one of an event is kept", s.Key())
				}
				keys[s.Key()] = true
				at, until := f.Fact.At, f.Fact.ExpiresAt
				if at.IsZero() || !at.Equal(at.Truncate(time.Microsecond)) || !until.IsZero() && until.UnixMicro() == 0 {
					t.Errorf("fact has the times %s and %s, which a record cannot hold", at, until)
				}
				if d := f.Fact.Detail; len(d) > 200 || !utf8.ValidString(d) {
					t.Errorf("Detail = %q, want valid text of at most 200 bytes", d)
				}
				if n := len(suppression.Evaluate(s, &p).Judgements); n != 1 {
					t.Errorf("Evaluate() has %d judgements of one fact", n)
				}
			}
		}
	})
}

func TestClassify_texts(t *testing.T) {
	p := suppression.DefaultPolicy()
	for _, tt := range []struct{ note, want string }{
		{"short", "short"},
		{strings.Repeat("x", 200), strings.Repeat("x", 200)},
		{strings.Repeat("x", 201), strings.Repeat("x", 200)},
		{strings.Repeat("x", 199) + "é", strings.Repeat("x", 199)},
		{strings.Repeat("x", 198) + "é" + "z", strings.Repeat("x", 198) + "é"},
		{strings.Repeat("x", 197) + "😀", strings.Repeat("x", 197)},
		{"a\xffb", "ab"},
		{"\xff" + strings.Repeat("x", 200), strings.Repeat("x", 200)},
	} {
		e := byHand(0, event.SuppressionAdd, "manual")
		e.Metadata["note"], e.Metadata["actor"] = tt.note, tt.note
		facts, _ := suppression.Classify(&e, &p)
		if f := facts[0].Fact; f.Detail != tt.want || f.Actor != tt.want {
			t.Errorf("Classify() of the note %q has Detail %q, Actor %q, want %q", tt.note, f.Detail, f.Actor, tt.want)
		}
		if got := suppression.Evaluate(stateOf(facts[0].Fact), &p).Entries[0].Note; got != tt.want {
			t.Errorf("Note of %q = %q, want %q", tt.note, got, tt.want)
		}
	}
	e := hard(0, func(e *event.Event) { e.EnhancedCode = "5.1.1" })
	facts, _ := suppression.Classify(&e, &p)
	if got, want := facts[0].Fact.Detail, "unknown_recipient 5.1.1"; got != want {
		t.Errorf("Detail = %q, want %q", got, want)
	}
	if got := suppression.Evaluate(stateOf(facts[0].Fact), &p).Entries[0].Note; got != "" {
		t.Errorf("Note of a provider's event = %q, want none", got)
	}
}

// Times come back from a record as they went in. An end at the very beginning of
// time stays an end: 0 in a record is never.
func TestClassify_times(t *testing.T) {
	p := suppression.DefaultPolicy()
	zone := time.FixedZone("", 3600)
	e := byHand(0, event.SuppressionAdd, "manual")
	e.OccurredAt = time.Date(2026, 3, 1, 12, 0, 0, 1999, zone)
	e.SuppressionExpiresAt = time.Date(2026, 3, 2, 12, 0, 0, 2999, zone)
	facts, _ := suppression.Classify(&e, &p)
	if got, want := facts[0].Fact.At, time.Date(2026, 3, 1, 11, 0, 0, 1000, time.UTC); got != want {
		t.Errorf("At = %v, want %v", got, want)
	}
	if got, want := facts[0].Fact.ExpiresAt, time.Date(2026, 3, 2, 11, 0, 0, 2000, time.UTC); got != want {
		t.Errorf("ExpiresAt = %v, want %v", got, want)
	}
	e.SuppressionExpiresAt = time.UnixMicro(0)
	facts, _ = suppression.Classify(&e, &p)
	entries := suppression.Evaluate(stateOf(facts[0].Fact), &p).Entries
	if len(entries) != 1 || facts[0].Fact.ExpiresAt.UnixMicro() == 0 || len(suppression.Active(entries, start)) != 0 {
		t.Errorf("an entry that ended in 1970 = %+v, want one that is over", entries)
	}
}

func TestParseReason(t *testing.T) {
	for i, r := range suppression.Reasons() {
		if got, ok := suppression.ParseReason(string(r)); !ok || got != r {
			t.Errorf("ParseReason(%q) = %q, %t", r, got, ok)
		}
		if got, want := r.Strength(), 7-i; got != want {
			t.Errorf("%q.Strength() = %d, want %d", r, got, want)
		}
	}
	if got, ok := suppression.ParseReason(""); ok {
		t.Errorf("ParseReason(\"\") = %q, want none", got)
	}
	if got := suppression.Reason("dreamt").Strength(); got != 0 {
		t.Errorf("Strength() of no reason = %d, want 0", got)
	}
}

func TestEvaluate_judgements(t *testing.T) {
	p := softOn()
	log := []event.Event{
		hard(0), byHand(time.Hour, event.SuppressionRemove, ""), byHand(2*time.Hour, event.SuppressionRemove, "complaint"),
		hard(3 * time.Hour), soft(4 * time.Hour), at(5*time.Hour, event.Delivered), soft(6 * time.Hour),
		at(7*time.Hour, event.Rejected, rejected(event.RejectPreviouslyComplained)),
	}
	want := []struct {
		counts  bool
		because string
	}{
		{false, "lifted by event"},
		{false, "lifts what is older, for every reason"},
		{false, "lifts what is older of reason complaint"},
		{true, "suppresses"},
		{false, "lifted by event"},
		{false, "a message arrived"},
		{false, "counted, but it takes 5 messages within 720h0m0s, the first and last at least 72h0m0s apart"},
		{true, "the provider refused because of an entry of its own"},
	}
	for _, s := range fold(&p, log) {
		v := suppression.Evaluate(s, &p)
		if len(v.Judgements) != len(want) {
			t.Fatalf("Evaluate() has %d judgements, want %d", len(v.Judgements), len(want))
		}
		for i, j := range v.Judgements {
			if j.Fact != s.Facts[i] || j.Counts != want[i].counts || !strings.HasPrefix(j.Because, want[i].because) {
				t.Errorf("judgement of fact %d = %t, %q, want %t, %q", i, j.Counts, j.Because, want[i].counts, want[i].because)
			}
		}
	}
	none := stateOf(suppression.Fact{Effect: suppression.None, Revision: 2, At: start}, suppression.Fact{
		EventID: event.NewID("p", "s", "later"), Effect: "haunt", At: start,
	})
	for i, j := range suppression.Evaluate(none, &p).Judgements {
		want := []string{"corrected by revision 2", "of an effect that this version does not know"}[i]
		if j.Counts || !strings.HasPrefix(j.Because, want) {
			t.Errorf("judgement = %t, %q, want false, %q", j.Counts, j.Because, want)
		}
	}
}
