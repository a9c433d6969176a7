package suppression_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

const day = 24 * time.Hour

// start is the time of the first event of a log. It has a fraction: whole
// seconds stand for all of the second.
var start = time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC)

// at is an event of the given type, so long after the start.
func at(after time.Duration, typ event.Type, set ...func(*event.Event)) event.Event {
	e := event.Event{
		Type: typ, Provider: "ses", Source: "ses-eu", OccurredAt: start.Add(after), RecipientNormalized: "jane@example.com",
		ProviderMessageID: fmt.Sprint("message of ", after),
	}
	for _, f := range set {
		f(&e)
	}
	return e
}

func bounced(kind, cause string) func(*event.Event) {
	return func(e *event.Event) { e.BounceKind, e.BounceCause = kind, cause }
}

func scope(kind, id string) func(*event.Event) {
	return func(e *event.Event) { e.ScopeKind, e.ScopeID = kind, id }
}

func from(provider, source string) func(*event.Event) {
	return func(e *event.Event) { e.Provider, e.Source = provider, source }
}

func rejected(reason string) func(*event.Event) {
	return func(e *event.Event) { e.RejectReason = reason }
}

func listed(action, reason string) func(*event.Event) {
	return func(e *event.Event) { e.SuppressionAction, e.RejectReason = action, reason }
}

func expires(after time.Duration) func(*event.Event) {
	return func(e *event.Event) { e.SuppressionExpiresAt = start.Add(after) }
}

func message(id string) func(*event.Event) {
	return func(e *event.Event) { e.ProviderMessageID = id }
}

func wholeSecond(e *event.Event) { e.OccurredAt = e.OccurredAt.Truncate(time.Second) }

// hard is the bounce of a mailbox that does not exist.
func hard(after time.Duration, set ...func(*event.Event)) event.Event {
	set = append([]func(*event.Event){bounced(event.KindHard, event.CauseUnknownRecipient)}, set...)
	return at(after, event.Bounced, set...)
}

func soft(after time.Duration, set ...func(*event.Event)) event.Event {
	set = append([]func(*event.Event){bounced(event.KindSoft, event.CauseMailboxFull)}, set...)
	return at(after, event.Bounced, set...)
}

// byHand is a change of the list that a person made.
func byHand(after time.Duration, action, reason string, set ...func(*event.Event)) event.Event {
	set = append([]func(*event.Event){from(event.ProviderMailriver, "mailriver"), func(e *event.Event) {
		e.SuppressionAction, e.ProviderMessageID = action, ""
		e.Metadata = map[string]string{"note": "ticket 7", "actor": "ops"}
		if reason != "" {
			e.Metadata["reason"] = reason
		}
		e.ScopeKind = event.ScopeAddress
	}}, set...)
	return at(after, event.SuppressionChanged, set...)
}

// fold applies a log as the service does, and returns the states by key.
func fold(p *suppression.Policy, log []event.Event) map[string]suppression.State {
	states := map[string]suppression.State{}
	for i, e := range log {
		if e.ID.IsZero() {
			e.ID = event.NewID(e.Provider, e.Source, e.RecipientNormalized, fmt.Sprint(i))
		}
		placed, _ := suppression.Classify(&e, p)
		for _, f := range placed {
			s := suppression.State{Address: e.RecipientNormalized, ScopeKind: f.ScopeKind, ScopeID: f.ScopeID}
			if old, ok := states[s.Key()]; ok {
				s = old
			}
			states[s.Key()] = s.Add(f.Fact)
		}
	}
	return states
}

// listOf is the list that a log makes, one entry a word:
// reason@scope, +since, ..until.
func listOf(p *suppression.Policy, log []event.Event) string {
	var lines []string
	states := fold(p, log)
	for _, s := range states {
		for _, e := range suppression.Evaluate(s, p).Entries {
			line := string(e.Reason) + "@" + e.ScopeKind
			if e.ScopeID != "" {
				line += ":" + e.ScopeID
			}
			if since := e.Since.Sub(start); since != 0 {
				line += "+" + short(since)
			}
			if !e.ExpiresAt.IsZero() {
				line += ".." + short(e.ExpiresAt.Sub(start))
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func short(d time.Duration) string {
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

type row struct {
	quote string // of the rule, or what it means
	log   []event.Event
	want  string // the list
}

func check(t *testing.T, p *suppression.Policy, rows []row) {
	t.Helper()
	for _, tt := range rows {
		for _, order := range []string{"as it happened", "backwards"} {
			if got := listOf(p, tt.log); got != tt.want {
				t.Errorf("%s, %s: list = %q, want %q", tt.quote, order, got, tt.want)
			}
			for i := range tt.log { // identities stay with their events
				if e := &tt.log[i]; e.ID.IsZero() {
					e.ID = event.NewID(e.Provider, e.Source, e.RecipientNormalized, fmt.Sprint(i))
				}
			}
			slices.Reverse(tt.log)
		}
	}
}
