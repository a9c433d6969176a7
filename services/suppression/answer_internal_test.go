package suppression

import (
	"encoding/json"
	"testing"
	"time"

	model "mailriver/pkg/suppression"
)

// Turns red when an answer is not what package json makes of it.
func TestAnswer_appendJSON(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 123456000, time.UTC)
	asOf := "2026-11-24T12:00:00.5Z"
	odd := "\x00\n\"\\<>&ä\u2028\U0001f600\xff/~ "
	for _, a := range []Answer{
		{Entries: []Line{}},
		{Address: "ada@example.com", Entries: []Line{}, AsOf: &asOf},
		{Address: odd, Suppressed: true, Entries: []Line{{}}, AsOf: &asOf, Position: "0:1,1:2"},
		{Address: "a", Suppressed: true, AsOf: &asOf, Entries: []Line{
			{Address: odd, ScopeKind: "list", ScopeID: odd, Reason: model.Complaint, Since: at, ExpiresAt: &at, Provider: odd, Source: odd, EventID: odd, Note: odd},
			{ScopeKind: "address", Reason: model.Manual, Since: at.Truncate(time.Second), Provider: "ses", Source: "ses", EventID: "x", Note: "n"},
		}},
	} {
		want, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.appendJSON(nil)
		if err != nil || string(got) != string(want) {
			t.Errorf("appendJSON of %+v =\n%s, %v, want\n%s", a, got, err, want)
		}
	}
}
