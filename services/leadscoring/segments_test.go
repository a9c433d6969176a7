package leadscoring_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/kafka/kafkatest"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadapi"
	"mailriver/pkg/lead/leadavro"
	"mailriver/services/leadscoring"
)

// with has an instance ask about segments, so long after now.
func with(later time.Duration, segments ...lead.Segment) edit {
	return func(cfg *leadscoring.Config, deps *leadscoring.Deps) {
		cfg.Segments = segments
		deps.Now = func() time.Time { return time.Now().Add(later) }
	}
}

// stored is the last record of a lead.
func stored(t *testing.T, c *kafkatest.Cluster, recipient string) (last leadavro.Record) {
	t.Helper()
	for _, r := range c.ReadWithin(t, c.Topics.LeadScores, 1<<20, 300*time.Millisecond) {
		if string(r.Key) != recipient {
			continue
		}
		var err error
		if last, err = leadavro.NewDecoder(registry{}).Decode(t.Context(), r.Value); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// knows waits until a lead has so many contributions and deliveries.
func knows(t *testing.T, c *kafkatest.Cluster, recipient string, n int) (record leadavro.Record) {
	t.Helper()
	within(t, fmt.Sprintf("%d events of %s folded", n, recipient), func() bool {
		record = stored(t, c, recipient)
		return len(record.Contributions)+len(record.Deliveries) == n
	})
	return record
}

// told returns the changes of a lead as lines, in their order, and checks what
// every change has.
func told(t *testing.T, c *kafkatest.Cluster, recipient string) (lines []string) {
	t.Helper()
	ids := map[event.ID]bool{}
	for _, r := range c.ReadWithin(t, c.Topics.Segments, 1<<20, 300*time.Millisecond) {
		change, err := leadavro.NewChangeDecoder(registry{}).Decode(t.Context(), r.Value)
		if err != nil {
			t.Fatal(err)
		}
		if ids[change.ID] || change != leadavro.NewChange(change) || string(r.Key) != change.Recipient {
			t.Errorf("change %+v under the key %s: its id is another's or not its own, or the key is not the recipient", change, r.Key)
		}
		ids[change.ID] = true
		if change.Recipient == recipient {
			lines = append(lines, strings.Join([]string{leadavro.Move(change.Entered), change.Segment, change.Because, change.EventID.String()}, " "))
		}
	}
	return lines
}

func in(record leadavro.Record) (names []string) {
	for _, m := range record.Segments {
		names = append(names, m.Segment)
	}
	return names
}

func delivery(id, recipient string, at time.Time) event.Event {
	e := click(id, recipient, 0)
	e.Type, e.URL, e.OccurredAt = event.Delivered, "", at.UTC().Truncate(time.Microsecond)
	return e
}

// Each change of membership is told once, with its reason: not again when the
// events come again, and not by an instance that takes over with an empty copy.
// Red without the memberships in the record of the lead.
func TestService_segments(t *testing.T) {
	const jane = "jane@example.com"
	busy := lead.Segment{Name: "busy", When: `clicks_30d >= 2 && score("default") > 1`}
	away := lead.Segment{Name: "away", When: `clicks_90d > 0 && days_since_click > 30`}
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir(), with(0, busy, away))
	one, two, three := click("1", jane, 60), click("2", jane, 59), click("3", jane, 58)
	c.Produce(t, canonical(t, c, one), canonical(t, c, two), canonical(t, c, three))
	record := knows(t, c, jane, 3)
	want := []string{"entered busy event " + two.ID.String()}
	if got := told(t, c, jane); !slices.Equal(got, want) {
		t.Errorf("changes = %q, want %q", got, want)
	}
	if !slices.Equal(in(record), []string{"busy"}) || time.Since(record.Segments[0].Since).Abs() > time.Hour {
		t.Fatalf("the record of jane has the segments %+v, want busy since now", record.Segments)
	}
	since := record.Segments[0].Since
	first.stop()

	second := start(t, c, "b", t.TempDir(), with(0, busy, away))
	four := click("4", jane, 57)
	c.Produce(t, canonical(t, c, one), canonical(t, c, two), canonical(t, c, three), canonical(t, c, four))
	record = knows(t, c, jane, 4)
	if got := told(t, c, jane); !slices.Equal(got, want) {
		t.Errorf("changes after a restart = %q, want still %q", got, want)
	}
	if !slices.Equal(in(record), []string{"busy"}) || !record.Segments[0].Since.Equal(since) {
		t.Errorf("the record of jane has the segments %+v, want busy since %s as before", record.Segments, since)
	}
	second.stop()

	// 40 days later time alone has changed both, and the next mail finds it.
	const later = 40 * 24 * time.Hour
	third := start(t, c, "c", t.TempDir(), with(later, busy, away))
	mail := delivery("5", jane, time.Now().Add(later))
	c.Produce(t, canonical(t, c, mail))
	record = knows(t, c, jane, 5)
	want = append(want, "left busy time "+mail.ID.String(), "entered away time "+mail.ID.String())
	if got := told(t, c, jane); !slices.Equal(got, want) || !slices.Equal(in(record), []string{"away"}) {
		t.Errorf("changes after 40 days = %q, and in %q, want %q, and in away", got, in(record), want)
	}
	third.stop()

	// A segment that was taken out of the configuration has nobody in it.
	start(t, c, "d", t.TempDir(), with(later))
	last := delivery("6", jane, time.Now().Add(later))
	c.Produce(t, canonical(t, c, last))
	record = knows(t, c, jane, 6)
	want = append(want, "left away time "+last.ID.String())
	if got := told(t, c, jane); !slices.Equal(got, want) || len(record.Segments) != 0 {
		t.Errorf("changes without segments = %q, and in %q, want %q, and in none", got, in(record), want)
	}
}

// Old events change memberships and say nothing; what time did is told even by
// them. A segment whose condition fails leaves the others.
func TestService_segmentsOfOldEvents(t *testing.T) {
	const old, joe = "old@example.com", "joe@example.com"
	segments := []lead.Segment{
		{Name: "broken", When: `10 % opens_30d == 0`},
		{Name: "clicked", When: `clicks_90d >= 1`},
		{Name: "fresh", When: `days_since_click < 10`},
	}
	c := kafkatest.New(t)
	first := start(t, c, "a", t.TempDir(), with(0, segments...))
	const day = 24 * 60
	then, now := click("1", old, 3*day), click("2", old, 1)
	c.Produce(t, canonical(t, c, then))
	if record := knows(t, c, old, 1); !slices.Equal(in(record), []string{"clicked", "fresh"}) {
		t.Errorf("an old click leaves the lead in %q, want clicked and fresh", in(record))
	}
	c.Produce(t, canonical(t, c, now))
	knows(t, c, old, 2)
	if got := told(t, c, old); len(got) != 0 {
		t.Errorf("changes = %q, want none: the first click was old, and the second changed nothing", got)
	}
	click1 := click("3", joe, 1)
	c.Produce(t, canonical(t, c, click1))
	knows(t, c, joe, 1)
	first.stop()

	start(t, c, "b", t.TempDir(), with(20*24*time.Hour, segments...))
	late := click("4", joe, day)
	c.Produce(t, canonical(t, c, late))
	knows(t, c, joe, 2)
	want := []string{
		"entered clicked event " + click1.ID.String(), "entered fresh event " + click1.ID.String(),
		"left fresh time " + late.ID.String(),
	}
	if got := told(t, c, joe); !slices.Equal(got, want) {
		t.Errorf("changes = %q, want %q", got, want)
	}
}

// Segments are checked with the profiles that they name.
func TestConfig_segments(t *testing.T) {
	cfg := leadscoring.DefaultConfig()
	cfg.Segments = []lead.Segment{{Name: "ready", When: `stage("default") == "hot"`}}
	if err := cfg.Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	cfg.Segments = append(cfg.Segments, lead.Segment{Name: "other", When: `stage("marketing") == "hot"`})
	want := `segments[1].when: there is no profile "marketing"`
	if err := cfg.Validate(); err == nil || err.Error() != want {
		t.Errorf("Validate() = %v, want %s", err, want)
	}
}

// Asked about a lead, the segments are those of now: time alone ends one, though
// no change was told.
func TestAPI_leadSegments(t *testing.T) {
	c := kafkatest.New(t)
	recent := lead.Segment{Name: "recent", When: `clicks_30d >= 1`}
	i := start(t, c, "a", t.TempDir(), with(0, recent))
	produce(t, c, click("1", "jane@example.com", 1))
	within(t, "in the segment", func() bool {
		return slices.Equal(answer[leadapi.Lead](i, "/v1/leads/jane@example.com").Segments, []string{"recent"})
	})
	if nobody := answer[leadapi.Lead](i, "/v1/leads/nobody@example.com").Segments; len(nobody) != 0 {
		t.Errorf("segments of one who was never heard of = %q, want none", nobody)
	}
	i.stop()
	later := start(t, c, "a", t.TempDir(), with(40*24*time.Hour, recent))
	if got := answer[leadapi.Lead](later, "/v1/leads/jane@example.com").Segments; len(got) != 0 {
		t.Errorf("segments 40 days later = %q, want none", got)
	}
}
