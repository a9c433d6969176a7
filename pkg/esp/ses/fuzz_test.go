package ses_test

import (
	"encoding/json"
	"net/textproto"
	"testing"
	"unicode/utf8"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/ses"
	"mailriver/pkg/fault"
)

func FuzzParse(f *testing.F) { esptest.Fuzz(f, ses.Provider) }

// FuzzMessage damages what is inside the envelope, which FuzzParse rarely gets
// to: the JSON of SES.
func FuzzMessage(f *testing.F) {
	for _, hook := range esptest.Fixtures(f, "testdata") {
		var envelope struct{ Message string }
		if json.Unmarshal(hook.Body, &envelope) == nil && envelope.Message != "" {
			f.Add([]byte(envelope.Message))
		}
	}
	header := textproto.MIMEHeader{}
	header.Set("x-amz-sns-rawdelivery", "true")
	header.Set("x-amz-sns-message-type", "Notification")
	f.Fuzz(func(t *testing.T, body []byte) {
		result, err := ses.Provider.Parse(esp.Webhook{Source: "shop", Header: header, Body: body, ReceivedAt: now})
		if err != nil {
			t.Fatalf("Parse() = %v: a bare message is never a bad body", err)
		}
		if len(result.Events)+len(result.Rejected) == 0 {
			t.Error("nothing came of it: neither an event nor a rejected element")
		}
		seen := map[string]bool{}
		for _, e := range result.Events {
			if bad := e.Check(); bad != nil || e.ID.IsZero() || e.OccurredAt.IsZero() {
				t.Errorf("bad fields %v in %+v", bad, e)
			}
			if seen[e.ID.String()] {
				t.Errorf("two events have the id %s", e.ID)
			}
			seen[e.ID.String()] = true
			for name, text := range map[string]string{"recipient": e.Recipient, "type": e.NativeEventType, "url": e.URL, "response": e.SMTPResponse} {
				if !utf8.ValidString(text) {
					t.Errorf("%s is not UTF-8: %q", name, text)
				}
			}
		}
		for _, r := range result.Rejected {
			if _, permanent := fault.Reason(r.Err); !permanent {
				t.Errorf("rejected with an unmarked error: %v", r.Err)
			}
		}
	})
}

// FuzzVerify damages a genuine body. What still verifies says the same.
func FuzzVerify(f *testing.F) {
	genuine := notification().sign()
	w := genuine.webhook()
	v := newVerifier(f, newNetwork(f), nil)
	f.Add(w.Body)
	for _, old := range []string{"ann@", "{", `\"`, "Message", "Subject", "1111"} {
		f.Add(edited(w, old, "x").Body)
	}
	want, err := ses.Provider.Parse(w)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		damaged := w
		damaged.Body = body
		if _, err := v.Verify(t.Context(), damaged); err != nil {
			return
		}
		got, err := ses.Provider.Parse(damaged)
		if err != nil || len(got.Events) != 1 || got.Events[0].ID != want.Events[0].ID {
			t.Errorf("a changed body verified and became %+v, %v:\n%s", got, err, body)
		}
	})
}
