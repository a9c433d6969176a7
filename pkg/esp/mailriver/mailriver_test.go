package mailriver

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

func TestParse(t *testing.T) { esptest.Parse(t, Provider) }

func change() Change {
	return Change{
		ID:     event.NewID("test", "", "", "1"),
		Action: ActionAdd, Address: "ann@example.com", ScopeKind: event.ScopeAddress, Reason: "manual",
		At: time.Date(2026, time.November, 23, 11, 58, 7, 123_456_000, time.UTC), Actor: "crm", Origin: OriginAPI,
	}
}

// The bytes are what another build reads: the field names and forms are pinned.
func TestEncode(t *testing.T) {
	full := change()
	full.Note, full.ScopeKind, full.ScopeID = "<said> so", event.ScopeList, "weekly"
	full.ExpiresAt = time.Date(2027, time.January, 1, 1, 0, 0, 0, time.FixedZone("", 3600))
	got, err := Encode([]Change{change(), full})
	if err != nil {
		t.Fatal(err)
	}
	const id = "7489c46b-047e-84f4-81c9-b1051e48df14"
	want := `{"changes":[{"id":"` + id + `","action":"add","address":"ann@example.com","scope_kind":"address","scope_id":"",` +
		`"reason":"manual","at":"2026-11-23T11:58:07.123456Z","actor":"crm","origin":"api"},` +
		`{"id":"` + id + `","action":"add","address":"ann@example.com","scope_kind":"list","scope_id":"weekly",` +
		`"reason":"manual","at":"2026-11-23T11:58:07.123456Z","expires_at":"2027-01-01T00:00:00.000000Z","note":"<said> so",` +
		`"actor":"crm","origin":"api"}]}`
	if string(got) != want {
		t.Errorf("Encode() =\n%s\nwant\n%s", got, want)
	}
}

// What Encode writes, Parse reads, field by field. Red when one of the two
// forgets a field.
func TestEncode_isReadByParse(t *testing.T) {
	at := time.Date(2026, time.November, 23, 11, 58, 7, 123_456_789, time.UTC)
	var changes []Change
	for i, action := range []string{ActionAdd, ActionRemove, ActionUnsubscribe, ActionResubscribe} {
		for j, kind := range []string{event.ScopeAddress, event.ScopeAccount, event.ScopeList} {
			c := Change{
				ID:     event.NewID("test", "", "", fmt.Sprint(i, j)),
				Action: action, Address: fmt.Sprintf("person%d@example.com", i), ScopeKind: kind, Reason: "complaint",
				At: at, ExpiresAt: at.Add(time.Hour), Note: `"said" <so>`, Actor: "crm", Origin: OriginSync,
			}
			if kind == event.ScopeList {
				c.ScopeID = "weekly"
			}
			changes = append(changes, c)
		}
	}
	body, err := Encode(changes)
	if err != nil {
		t.Fatal(err)
	}
	result, err := Provider.Parse(esp.Webhook{Source: Source, Body: body, ReceivedAt: at})
	if err != nil || len(result.Rejected) > 0 || len(result.Events) != len(changes) {
		t.Fatalf("Parse() = %d events, %v rejected, %v, want %d", len(result.Events), result.Rejected, err, len(changes))
	}
	for i, e := range result.Events {
		got := Change{
			Action: e.NativeEventType, Address: e.Recipient, ScopeKind: e.ScopeKind, ScopeID: e.ScopeID,
			Reason: e.Metadata[MetadataReason], At: e.OccurredAt, ExpiresAt: e.SuppressionExpiresAt,
			Note: e.Metadata[MetadataNote], Actor: e.Metadata[MetadataActor], Origin: e.ProviderVariant,
		}
		if got.ID, err = event.ParseID(e.NativeEventID); err != nil {
			t.Errorf("native_event_id: %v", err)
		}
		want := changes[i]
		want.At, want.ExpiresAt = want.At.Truncate(time.Microsecond), want.ExpiresAt.Truncate(time.Microsecond)
		if !reflect.DeepEqual(got, want) || e.Warnings != nil || e.RawEventIndex != int32(i) {
			t.Errorf("event %d says %+v (index %d, warnings %v), want %+v", i, got, e.RawEventIndex, e.Warnings, want)
		}
	}
}

// Every problem of every change is told at once, with its place.
func TestEncode_errors(t *testing.T) {
	wrong := Change{
		Action: "pause", Address: "ann", ScopeKind: "galaxy", ScopeID: "a\nb", Reason: "Hard Bounce",
		Note: strings.Repeat("n", MaxNote+1), Actor: "\x00", Origin: "telepathy",
	}
	scoped := change()
	scoped.ScopeID, scoped.Reason, scoped.ExpiresAt = "all", "", scoped.At
	list := change()
	list.ScopeKind = event.ScopeList
	body, err := Encode([]Change{change(), wrong, scoped, list})
	const want = `changes[1].id: is required
changes[1].action: is "pause", must be one of add, remove, unsubscribe, resubscribe
changes[1].address: must be local-part@domain, without control characters, of at most 320 bytes
changes[1].scope_kind: is "galaxy", must be one of address, account, subaccount, domain, stream, list, group, topic, tag
changes[1].scope_id: must have at most 256 bytes and no control characters
changes[1].reason: must be a word of a-z and _ of at most 64 letters
changes[1].at: is required, from the year 2000 on
changes[1].note: must have at most 500 bytes and no control characters
changes[1].actor: must have at most 128 bytes and no control characters
changes[1].origin: is "telepathy", must be one of api, import, sync, one_click
changes[2].scope_id: is "all", must be empty: the scope address is all of the address
changes[2].reason: is required to add
changes[2].expires_at: must be after at
changes[3].scope_id: is required with the scope_kind "list"`
	if body != nil || err == nil || err.Error() != want {
		t.Errorf("Encode() = %s,\n%v\nwant no body and\n%s", body, err, want)
	}
	for _, n := range []int{0, MaxChanges + 1} {
		if _, err := Encode(make([]Change, n)); err == nil || !strings.Contains(err.Error(), "must be from 1 to 500") {
			t.Errorf("Encode(%d changes) = %v, want the bounds", n, err)
		}
	}
}

// The largest body that Encode can write is within the bound of the provider.
func TestEncode_largest(t *testing.T) {
	c := change()
	c.Address = strings.Repeat(`"`, MaxAddress-2) + "@x"
	c.ScopeKind, c.ScopeID = event.ScopeSubaccount, strings.Repeat(`"`, MaxScopeID)
	c.Reason, c.Note = strings.Repeat("r", MaxReason), strings.Repeat("\u2028", MaxNote/3)
	c.Actor, c.ExpiresAt, c.Action = strings.Repeat(`\`, MaxActor), c.At.Add(1), ActionUnsubscribe
	changes := make([]Change, MaxChanges)
	for i := range changes {
		changes[i] = c
	}
	body, err := Encode(changes)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(body)) > Provider.MaxBody {
		t.Errorf("Encode() = %d bytes, want at most MaxBody, %d", len(body), Provider.MaxBody)
	}
	if !esp.ValidJSON(body) || bytes.ContainsRune(body, '\n') {
		t.Error("Encode() is not one line of JSON")
	}
}

// This package may not import the suppression policy, so it says some of its
// words again. Red when the policy gets a reason that the table was not asked
// about.
func TestRejectReason_everyReasonOfThePolicy(t *testing.T) {
	want := map[suppression.Reason]string{
		suppression.Complaint:      event.RejectPreviouslyComplained,
		suppression.Manual:         event.RejectPolicy,
		suppression.Unsubscribe:    event.RejectPreviouslyUnsubscribed,
		suppression.HardBounce:     event.RejectPreviouslyBounced,
		suppression.InvalidAddress: event.RejectInvalidAddress,
		suppression.ProviderList:   event.RejectPolicy,
		suppression.SoftBounce:     event.RejectPreviouslyBounced,
	}
	for _, reason := range suppression.Reasons() {
		if got := rejectReason(string(reason)); got != want[reason] || got == "" {
			t.Errorf("rejectReason(%q) = %q, want %q", reason, got, want[reason])
		}
		c := change()
		c.Reason = string(reason)
		if err := c.Validate(); err != nil {
			t.Errorf("Validate() with the reason %q = %v, want nil", reason, err)
		}
	}
}

// An id is stored for ever: this literal may never change.
func TestParse_identityIsPinned(t *testing.T) {
	body, err := os.ReadFile("testdata/unsubscribe/body")
	if err != nil {
		t.Fatal(err)
	}
	result, err := Provider.Parse(esp.Webhook{Source: Source, Body: body, ReceivedAt: change().At})
	if err != nil || len(result.Events) != 1 {
		t.Fatalf("Parse() = %+v, %v", result, err)
	}
	const want = "db335a10-5d42-8f75-ae6c-6184a8bb9101" // computed apart from this code, with Python's hashlib and uuid
	if got := result.Events[0].ID.String(); got != want {
		t.Errorf("event_id = %s, want %s", got, want)
	}
}
