package postmark

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

func TestParse(t *testing.T) { esptest.Parse(t, Provider) }

// A refusal with 403 would end the retries of a genuine webhook (Postmark
// documentation, "Webhooks", retries).
func TestProvider_answers(t *testing.T) {
	if Provider.Signs || Provider.NewVerifier != nil {
		t.Errorf("Provider claims a signature, which Postmark does not have")
	}
	if got, want := Provider.Answers, (esp.Answers{Refuse: 401, Retry: 503}); got != want {
		t.Errorf("Answers = %+v, want %+v", got, want)
	}
}

func one(t *testing.T, body string) event.Event {
	t.Helper()
	result, err := parse(esp.Webhook{
		Source: esptest.Source, Body: []byte(body),
		ReceivedAt: time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC),
	})
	if err != nil || len(result.Events) != 1 {
		t.Fatalf("parse(%s) = %d events, %v, want 1", body, len(result.Events), err)
	}
	return result.Events[0]
}

func TestIdentity(t *testing.T) {
	const open = `{"RecordType":"Open","ServerID":118,"MessageStream":"outbound","MessageID":"m",` +
		`"Recipient":"ann@example.com","ReceivedAt":"2026-11-23T10:05:00.0000001Z"}`
	const bounced = `{"RecordType":"Bounce","ID":7,"Type":"HardBounce","MessageID":"m","Email":"ann@example.com",` +
		`"BouncedAt":"2026-11-23T10:05:00Z","Details":"smtp;550 5.1.1 gone"}`
	const noTime = `{"RecordType":"Open","ServerID":118,"MessageID":"m","Recipient":"ann@example.com","UserAgent":"a"}`
	const foreign = `{"RecordType":"Teleport","MessageID":"m","ReceivedAt":"2026-11-23T10:05:00Z","X":1}`
	tests := []struct {
		name     string
		body     string
		old, new string // the change
		same     bool
	}{
		{"open, another ten-millionth of a second", open, "0000001Z", "0000002Z", false},
		{"open, another recipient of the call", open, "ann@", "bob@", false},
		{"open, recipient in another case", open, "ann@example", "ann@EXAMPLE", true},
		{"open, another stream", open, "outbound", "broadcast", false},
		{"open, another server", open, "118", "119", false},
		{"open, another message", open, `"m"`, `"n"`, false},
		{"open against click", open, `"Open"`, `"Click"`, false},
		{"open, a field that is not part of it", open, `{`, `{"ReadSeconds":3,`, true},
		{"bounce, another id", bounced, `"ID":7`, `"ID":8`, false},
		{"bounce, id as text", bounced, `"ID":7`, `"ID":"7"`, true},
		{"bounce, other details", bounced, "gone", "moved", true},
		{"bounce, another time", bounced, "10:05:00", "10:05:01", true},
		{"no time, another user agent", noTime, `"a"`, `"b"`, false},
		{"unknown record, another field", foreign, `"X":1`, `"X":2`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := strings.Replace(tt.body, tt.old, tt.new, 1)
			if changed == tt.body {
				t.Fatalf("%q is not in the body", tt.old)
			}
			if got := one(t, tt.body).ID == one(t, changed).ID; got != tt.same {
				t.Errorf("same id = %t, want %t", got, tt.same)
			}
		})
	}
}

// The string Type decides; the code beside it contradicts itself in Postmark's
// own samples.
func TestBounce_typeCodeIsIgnored(t *testing.T) {
	for _, code := range []string{"1", "16", "100000", `"x"`, "null"} {
		e := one(t, fmt.Sprintf(`{"RecordType":"Bounce","ID":7,"Type":"Blocked","TypeCode":%s}`, code))
		if e.Type != event.Bounced || e.BounceKind != event.KindBlock {
			t.Errorf("Blocked with TypeCode %s = %s %s, want bounced block", code, e.Type, e.BounceKind)
		}
	}
}

func TestBounce_replyRefinesTheClass(t *testing.T) {
	tests := []struct{ bounceType, details, kind, cause string }{
		{"HardBounce", "smtp;550 5.1.1 no such user", event.KindHard, event.CauseUnknownRecipient},
		{"HardBounce", "smtp;550 5.2.1 disabled", event.KindHard, event.CauseMailboxDisabled},
		{"HardBounce", "smtp;550 5.1.2 no such domain", event.KindHard, event.CauseUnknownDomain},
		{"HardBounce", "smtp;550 5.7.1 spam", event.KindHard, event.CauseUnknownRecipient},
		{"HardBounce", "", event.KindHard, event.CauseUnknownRecipient},
		{"SoftBounce", "smtp;552 5.2.2 full", event.KindSoft, event.CauseMailboxFull},
		{"SoftBounce", "smtp;550 5.1.1 no such user", event.KindSoft, event.CauseUnknownRecipient},
		{"SoftBounce", "", event.KindSoft, event.CauseOther},
		{"Blocked", "smtp;550 5.7.26 unauthenticated", event.KindBlock, event.CauseAuth},
		{"DnsError", "smtp;550 5.1.1 no such user", event.KindSoft, event.CauseDNS},
		{"SpamNotification", "smtp;550 5.1.1 no such user", event.KindBlock, event.CauseSpam},
	}
	for _, tt := range tests {
		e := one(t, fmt.Sprintf(`{"RecordType":"Bounce","ID":7,"Type":%q,"Details":%q}`, tt.bounceType, tt.details))
		if e.BounceKind != tt.kind || e.BounceCause != tt.cause {
			t.Errorf("%s with %q = %s %s, want %s %s", tt.bounceType, tt.details, e.BounceKind, e.BounceCause, tt.kind, tt.cause)
		}
	}
}

func TestParse_tooDeep(t *testing.T) {
	body := `{"RecordType":"Open","Geo":` + strings.Repeat("[", 5<<20) + strings.Repeat("]", 5<<20) + `}`
	_, err := parse(esp.Webhook{Source: esptest.Source, Body: []byte(body)})
	if reason, _ := fault.Reason(err); reason != fault.BadBody {
		t.Errorf("parse(five million brackets) = %v, want %s", err, fault.BadBody)
	}
}
