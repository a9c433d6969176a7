package ses_test

import (
	"fmt"
	"net/textproto"
	"reflect"
	"strings"
	"testing"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/ses"
	"mailriver/pkg/event"
)

// parseRaw parses the JSON of SES without an envelope, which keeps tests short.
func parseRaw(t *testing.T, body string) esp.Result {
	t.Helper()
	h := textproto.MIMEHeader{}
	h.Set("x-amz-sns-rawdelivery", "true")
	h.Set("x-amz-sns-message-type", "Notification")
	h.Set("x-amz-sns-message-id", "raw-1")
	result, err := ses.Provider.Parse(esp.Webhook{Source: "shop", Header: h, Body: []byte(body), ReceivedAt: now})
	if err != nil {
		t.Fatalf("Parse(%s) = %v", body, err)
	}
	return result
}

func parseEvents(t *testing.T, body string, want int) []event.Event {
	t.Helper()
	result := parseRaw(t, body)
	if len(result.Events) != want || len(result.Rejected) != 0 {
		t.Fatalf("Parse(%s) = %d events, %d rejected, want %d events", body, len(result.Events), len(result.Rejected), want)
	}
	return result.Events
}

func parseFixture(t *testing.T, name string) []event.Event {
	t.Helper()
	hook, found := esptest.Fixtures(t, "testdata")[name]
	if !found {
		t.Fatalf("no fixture %s", name)
	}
	result, err := ses.Provider.Parse(hook)
	if err != nil {
		t.Fatal(err)
	}
	return result.Events
}

// An id is stored for ever: these literals may never change. They were computed
// apart from this code, with Python's hashlib.
func TestParse_idsArePinned(t *testing.T) {
	for fixture, want := range map[string]string{
		"bounce_general": "1537a70d-081c-8642-bbfe-4b185bf59701",
		"send":           "85e54dcf-d59a-8469-9a8a-47b238f4c470",
		"click":          "92201194-0dcf-81cd-a0c7-af5662840ae4",
		"plain_sentence": "b80c6aa0-3b50-8e09-8e65-8eaeddf36cc8",
	} {
		if got := parseFixture(t, fixture)[0].ID.String(); got != want {
			t.Errorf("%s: id = %s, want %s", fixture, got, want)
		}
	}
}

// Feedback notifications and event publishing report one bounce twice, under
// two SNS ids; raw delivery is a third way to get it.
func TestParse_oneFactHasOneID(t *testing.T) {
	for _, same := range [][]string{
		{"bounce_general", "feedback_bounce", "raw_bounce"},
		{"complaint", "feedback_complaint"},
		{"delivery", "feedback_delivery"},
		{"send", "raw_send"},
	} {
		first := parseFixture(t, same[0])[0]
		for _, other := range same[1:] {
			e := parseFixture(t, other)[0]
			if e.ID != first.ID || e.Recipient != first.Recipient || e.Type != first.Type {
				t.Errorf("%s gave %s %s, %s gave %s %s; want one event", same[0], first.Type, first.ID, other, e.Type, e.ID)
			}
		}
	}
}

func TestParse_identity(t *testing.T) {
	mail := `"mail":{"messageId":"m-1","destination":["ann@example.com"]}`
	click := func(at, link string) string {
		return fmt.Sprintf(`{"eventType":"Click",%s,"click":{"timestamp":%q,"link":%q}}`, mail, at, link)
	}
	base := click("2026-11-23T10:06:00.000Z", "https://example.com/a")
	tests := []struct {
		name, a, b string
		same       bool
	}{
		{"again", base, base, true},
		{"again, members in another order", base, `{"click":{"link":"https://example.com/a","timestamp":"2026-11-23T10:06:00.000Z"},"eventType":"Click",` + mail + `}`, true},
		{"a second later", base, click("2026-11-23T10:06:01.000Z", "https://example.com/a"), false},
		{"another link", base, click("2026-11-23T10:06:00.000Z", "https://example.com/b"), false},
		{"another message", base, strings.Replace(base, "m-1", "m-2", 1), false},
		{"another type", base, strings.ReplaceAll(strings.ReplaceAll(base, "Click", "Open"), "click", "open"), false},
		{"another recipient", base, strings.Replace(base, "ann@", "bob@", 1), false},
		{"recipient in another case", base, strings.Replace(base, "ann@", "Ann@", 1), true},
		// What has no id of its own is told apart by its bytes, not merged.
		{"no ids, the same bytes", `{"eventType":"Open","open":{"ipAddress":"192.0.2.1"}}`, `{"eventType":"Open","open":{"ipAddress":"192.0.2.1"}}`, true},
		{"no ids, other bytes", `{"eventType":"Open","open":{"ipAddress":"192.0.2.1"}}`, `{"eventType":"Open","open":{"ipAddress":"192.0.2.2"}}`, false},
		{"no time, other bytes", `{"eventType":"Open",` + mail + `,"open":{"ipAddress":"192.0.2.1"}}`, `{"eventType":"Open",` + mail + `,"open":{"ipAddress":"192.0.2.2"}}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := parseEvents(t, tt.a, 1)[0], parseEvents(t, tt.b, 1)[0]
			if same := a.ID == b.ID; same != tt.same {
				t.Errorf("one id = %t, want %t", same, tt.same)
			}
		})
	}
}

func TestParse_bounces(t *testing.T) {
	type outcome struct {
		typ                 event.Type
		kind, cause, reject string
		suppressed          bool
	}
	bounced := func(kind, cause string) outcome { return outcome{event.Bounced, kind, cause, "", false} }
	tests := []struct {
		typ, sub, status, action, diagnostic string
		want                                 outcome
	}{
		{"Permanent", "General", "5.1.1", "failed", "smtp; 550 5.1.1 no such user", bounced("hard", "unknown_recipient")},
		{"Permanent", "General", "5.1.2", "failed", "", bounced("hard", "unknown_domain")},
		{"Permanent", "General", "5.7.1", "failed", "smtp; 550 5.7.1 spam", bounced("hard", "spam")},
		{"Permanent", "General", "", "", "", bounced("hard", "other")},
		{"Permanent", "General", "", "failed", "smtp; 550 5.1.1 no such user", bounced("hard", "unknown_recipient")},
		{"Permanent", "NoEmail", "", "", "", bounced("hard", "unknown_recipient")},
		{"Permanent", "NoEmail", "5.1.2", "failed", "", bounced("hard", "unknown_domain")},
		{"Permanent", "SomethingNew", "5.1.1", "failed", "", bounced("hard", "unknown_recipient")},
		// The recipient's own status contradicts the type: never hard.
		{"Permanent", "General", "4.0.0", "delayed", "", bounced("soft", "other")},
		{"Permanent", "General", "4.2.2", "delayed", "smtp; 452 4.2.2 full", bounced("soft", "mailbox_full")},
		{"Permanent", "General", "4.0.0", "failed", "smtp; 550 5.1.1 no such user", bounced("soft", "other")},
		{"Permanent", "General", "2.0.0", "delivered", "", bounced("undetermined", "other")},
		{"Permanent", "General", "unreadable", "failed", "smtp; 550 5.1.1 no such user", bounced("undetermined", "unknown_recipient")},
		{"Permanent", "General", "", "delayed", "smtp; 550 5.1.1 no such user", bounced("undetermined", "unknown_recipient")},
		{"Permanent", "NoEmail", "4.4.1", "delayed", "", bounced("soft", "timeout_expired")},
		// Nothing was sent.
		{"Permanent", "Suppressed", "5.1.1", "failed", "", outcome{event.Rejected, "", "", "previously_bounced", true}},
		{"Permanent", "OnAccountSuppressionList", "4.0.0", "failed", "", outcome{event.Rejected, "", "", "previously_bounced", true}},
		{"Permanent", "UnsubscribedRecipient", "5.1.1", "failed", "", outcome{event.Rejected, "", "", "previously_unsubscribed", false}},
		// Transient is never hard, whatever the status.
		{"Transient", "General", "5.1.1", "failed", "smtp; 550 5.1.1 no such user", bounced("soft", "unknown_recipient")},
		{"Transient", "General", "5.4.4", "failed", "", bounced("soft", "dns")},
		{"Transient", "MailboxFull", "", "", "", bounced("soft", "mailbox_full")},
		{"Transient", "MessageTooLarge", "", "", "", bounced("soft", "too_large")},
		{"Transient", "ContentRejected", "", "", "", bounced("block", "content")},
		{"Transient", "AttachmentRejected", "5.1.1", "failed", "", bounced("block", "content")},
		{"Transient", "SomethingNew", "5.1.1", "failed", "", bounced("soft", "unknown_recipient")},
		{"Undetermined", "Undetermined", "5.1.1", "failed", "", bounced("undetermined", "unknown_recipient")},
		// A class that SES does not have: the reply alone.
		{"", "", "5.1.1", "failed", "", bounced("hard", "unknown_recipient")},
		{"Cosmic", "Ray", "", "", "", bounced("undetermined", "other")},
	}
	for _, tt := range tests {
		t.Run(strings.Join([]string{tt.typ, tt.sub, tt.status, tt.action}, "/"), func(t *testing.T) {
			e := parseEvents(t, fmt.Sprintf(
				`{"eventType":"Bounce","bounce":{"bounceType":%q,"bounceSubType":%q,"feedbackId":"f-1","bouncedRecipients":[{"emailAddress":"bob@example.com","status":%q,"action":%q,"diagnosticCode":%q}]}}`,
				tt.typ, tt.sub, tt.status, tt.action, tt.diagnostic), 1)[0]
			got := outcome{e.Type, e.BounceKind, e.BounceCause, e.RejectReason, e.ProviderSuppressed != nil && *e.ProviderSuppressed}
			if got != tt.want {
				t.Errorf("Parse() = %+v, want %+v", got, tt.want)
			}
		})
	}
}

// The recipients of a bounce are never made up from whom the message went to.
func TestParse_bounceWithoutRecipients(t *testing.T) {
	for _, recipients := range []string{`null`, `[]`} {
		e := parseEvents(t, `{"eventType":"Bounce","mail":{"messageId":"m-1","destination":["ann@example.com"]},"bounce":{"bounceType":"Permanent","bounceSubType":"General","feedbackId":"f-1","bouncedRecipients":`+recipients+`}}`, 1)[0]
		if e.Recipient != "" || !e.RecipientAmbiguous {
			t.Errorf("bouncedRecipients %s: recipient %q, ambiguous %t, want none and ambiguous", recipients, e.Recipient, e.RecipientAmbiguous)
		}
	}
}

func TestParse_repeatedRecipientCountsOnce(t *testing.T) {
	events := parseEvents(t, `{"eventType":"Send","mail":{"messageId":"m-1","destination":["ann@example.com","Ann <ANN@example.com>","bob@example.com"]}}`, 2)
	if events[0].Recipient != "ann@example.com" || events[1].Recipient != "bob@example.com" {
		t.Errorf("recipients %q and %q", events[0].Recipient, events[1].Recipient)
	}
}

func TestParse_simulator(t *testing.T) {
	for _, tt := range []struct {
		name, destination string
		want              bool
	}{
		{"one of it", `["complaint@simulator.amazonses.com"]`, true},
		{"another case", `["OOTO@Simulator.AmazonSES.com"]`, true},
		{"all of it", `["success@simulator.amazonses.com","ooto@simulator.amazonses.com"]`, true},
		{"a person among them", `["success@simulator.amazonses.com","ann@example.com"]`, false},
		{"looks like it", `["success@simulator.amazonses.com.example.org"]`, false},
		{"nobody", `[]`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := parseEvents(t, `{"eventType":"Open","mail":{"messageId":"m-1","destination":`+tt.destination+`},"open":{}}`, 1)[0]
			if e.IsTest != tt.want {
				t.Errorf("is_test = %t, want %t", e.IsTest, tt.want)
			}
		})
	}
}

// Events of one webhook share nothing that a later stage could change.
func TestParse_eventsShareNothing(t *testing.T) {
	// Without ids, so that there is a warning.
	body := `{"eventType":"Send","mail":{"timestamp":"2026-11-23T10:00:00Z","destination":["ann@example.com","bob@example.com"],"headers":[{"name":"X-Tag","value":"a"}],"tags":{"k":["v"]}}}`
	want := parseEvents(t, body, 2)[1]
	events := parseEvents(t, body, 2)
	events[0].Tags[0] = "changed"
	events[0].Metadata["k"] = "changed"
	events[0].Warnings[0] = "changed"
	events[0].Warn("more")
	if !reflect.DeepEqual(events[1], want) {
		t.Errorf("a change of one event changed its neighbor: %+v, want %+v", events[1], want)
	}
}

// Whatever members are of another type than documented, an event remains.
func TestParse_otherTypesThanDocumented(t *testing.T) {
	kinds := map[string]string{
		"Send": "send", "Reject": "reject", "Delivery": "delivery", "Bounce": "bounce", "Complaint": "complaint",
		"Open": "open", "Click": "click", "Rendering Failure": "failure", "DeliveryDelay": "deliveryDelay",
		"Subscription": "subscription", "Received": "receipt", "AmazonSnsSubscriptionSucceeded": "message", "New": "new",
	}
	for kind, member := range kinds {
		for _, value := range []string{`null`, `7`, `"{\"timestamp\":\"2026-11-23T10:00:00Z\"}"`, `[]`, `[{"a":1}]`, `true`} {
			body := fmt.Sprintf(`{"eventType":%q,"mail":%s,%q:%s}`, kind, value, member, value)
			if result := parseRaw(t, body); len(result.Events) != 1 || len(result.Rejected) != 0 {
				t.Errorf("Parse(%s) = %d events, %d rejected, want one event", body, len(result.Events), len(result.Rejected))
			}
		}
	}
}
