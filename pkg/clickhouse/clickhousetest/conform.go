package clickhousetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

// Sink is what the suite tests, and how it looks inside.
type Sink interface {
	Insert(ctx context.Context, token string, rows []event.Event) error
	Restore(ctx context.Context, token string, rows []event.Event) (restored int, err error)
	Probe(ctx context.Context, rows []event.Event) error
	Ping(ctx context.Context) error
	IDs(ctx context.Context) (map[string]int, error)
	Counted(ctx context.Context) (int, error)
}

// Rows returns n events that every sink takes. Other seeds give others.
func Rows(seed string, n int) []event.Event {
	rows := make([]event.Event, n)
	for i := range rows {
		at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Minute)
		rows[i] = event.Event{
			SchemaVersion: event.SchemaVersion,
			ID:            event.NewID("sendgrid", "shop", "a@example.com", seed, fmt.Sprint(i)),
			Type:          event.Delivered, Provider: "sendgrid", Source: "shop",
			OccurredAt: at, ReceivedAt: at.Add(time.Second), NormalizedAt: at.Add(2 * time.Second),
			Recipient: "A@example.com", RecipientNormalized: "a@example.com", RecipientDomain: "example.com",
			Tags: []string{"x"}, Metadata: map[string]string{"k": "v"},
		}
	}
	return rows
}

// Conform runs the tests that every sink must pass, each on an empty one.
func Conform(t *testing.T, empty func(t *testing.T) Sink) {
	holds := func(t *testing.T, s Sink, rows ...[]event.Event) {
		t.Helper()
		ids, err := s.IDs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, some := range rows {
			for _, row := range some {
				if n++; ids[row.ID.String()] != 1 {
					t.Errorf("event %s is there %d times, want once", row.ID, ids[row.ID.String()])
				}
			}
		}
		if len(ids) != n {
			t.Errorf("%d events are there, want %d", len(ids), n)
		}
		if counted, err := s.Counted(t.Context()); err != nil || counted != n {
			t.Errorf("the roll-up counts %d, %v, want %d", counted, err, n)
		}
	}
	tests := map[string]func(*testing.T, Sink){
		"insert": func(t *testing.T, s Sink) {
			a, b := Rows("a", 3), Rows("b", 2)
			if err := s.Insert(t.Context(), "1", a); err != nil {
				t.Fatal(err)
			}
			if err := s.Insert(t.Context(), "2", b); err != nil {
				t.Fatal(err)
			}
			holds(t, s, a, b)
		},
		"a token counts once": func(t *testing.T, s Sink) {
			// Over two months of received_at, so over two partitions.
			a := Rows("a", 60_000)
			for range 3 {
				if err := s.Insert(t.Context(), "1", a); err != nil {
					t.Fatal(err)
				}
			}
			holds(t, s, a)
		},
		"a token counts once when other rows come under it": func(t *testing.T, s Sink) {
			a := Rows("a", 10)
			if err := s.Insert(t.Context(), "1", a); err != nil {
				t.Fatal(err)
			}
			if err := s.Insert(t.Context(), "1", a[:7]); err != nil {
				t.Fatal(err)
			}
			holds(t, s, a)
		},
		"equal rows under two tokens are two": func(t *testing.T, s Sink) {
			a := Rows("a", 1)
			for _, token := range []string{"1", "2"} {
				if err := s.Insert(t.Context(), token, a); err != nil {
					t.Fatal(err)
				}
			}
			if ids, err := s.IDs(t.Context()); err != nil || ids[a[0].ID.String()] != 2 {
				t.Errorf("the event is there %d times, %v, want twice", ids[a[0].ID.String()], err)
			}
		},
		"no rows": func(t *testing.T, s Sink) {
			if err := s.Insert(t.Context(), "1", nil); err != nil {
				t.Errorf("Insert() = %v, want nil", err)
			}
			holds(t, s)
		},
		"a refused row": func(t *testing.T, s Sink) {
			for name, spoil := range map[string]func(*event.Event){
				"event_id":    func(e *event.Event) { e.ID = event.ID{} },
				"event_type":  func(e *event.Event) { e.Type = "" },
				"occurred_at": func(e *event.Event) { e.OccurredAt = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC) },
				"received_at": func(e *event.Event) { e.ReceivedAt = time.Time{} },
			} {
				rows := Rows("a", 5)
				spoil(&rows[2])
				rows[2].Recipient = "secret@example.com"
				for what, try := range map[string]func() error{
					"Insert": func() error { return s.Insert(t.Context(), "1", rows) },
					"Probe":  func() error { return s.Probe(t.Context(), rows) },
					"alone":  func() error { return s.Probe(t.Context(), rows[2:3]) },
				} {
					err := try()
					if reason, _ := fault.Reason(err); reason != fault.RowRefused || !strings.Contains(err.Error(), name) {
						t.Errorf("%s with a bad %s = %v, want %s that names the column", what, name, err, fault.RowRefused)
					}
				}
			}
			holds(t, s)
			// A refused insert leaves nothing, not even its token.
			good := Rows("a", 5)
			if err := s.Insert(t.Context(), "1", good); err != nil {
				t.Fatal(err)
			}
			holds(t, s, good)
		},
		"a restore adds what is not there, and counts nothing": func(t *testing.T, s Sink) {
			a := Rows("a", 10)
			if err := s.Insert(t.Context(), "1", a[:7]); err != nil {
				t.Fatal(err)
			}
			for _, want := range []int{3, 0} {
				if restored, err := s.Restore(t.Context(), "1", a); err != nil || restored != want {
					t.Errorf("Restore() = %d, %v, want %d", restored, err, want)
				}
			}
			ids, err := s.IDs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range a {
				if ids[row.ID.String()] != 1 {
					t.Errorf("event %s is there %d times, want once", row.ID, ids[row.ID.String()])
				}
			}
			if counted, err := s.Counted(t.Context()); err != nil || counted != 7 {
				t.Errorf("the roll-up counts %d, %v, want the 7 that were inserted", counted, err)
			}
		},
		"a probe has no effect": func(t *testing.T, s Sink) {
			if err := s.Probe(t.Context(), Rows("a", 3)); err != nil {
				t.Errorf("Probe() = %v, want nil", err)
			}
			holds(t, s)
		},
		"ping": func(t *testing.T, s Sink) {
			if err := s.Ping(t.Context()); err != nil {
				t.Errorf("Ping() = %v, want nil", err)
			}
		},
		"an ended context is no fault of a row": func(t *testing.T, s Sink) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := s.Insert(ctx, "1", Rows("a", 1))
			if _, marked := fault.Reason(err); err == nil || marked {
				t.Errorf("Insert() = %v, want an unmarked error", err)
			}
			holds(t, s)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, empty(t)) })
	}
}
