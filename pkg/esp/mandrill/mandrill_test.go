package mandrill

import (
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/event"
	"mailriver/pkg/fault"
)

const (
	hookURL = "https://hooks.example.com/webhooks/mandrill"
	liveKey = "webhook-key"
)

func TestParse(t *testing.T) { esptest.Parse(t, Provider) }

// hook is a webhook with that body and signature.
func hook(body, signature string) esp.Webhook {
	w := esp.Webhook{
		Source: esptest.Source, Header: textproto.MIMEHeader{}, Body: []byte(body),
		ReceivedAt: time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC),
	}
	w.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if signature != "" {
		w.Header.Set(signatureHeader, signature)
	}
	return w
}

func newTestVerifier(t testing.TB, s esp.Settings) esp.Verifier {
	t.Helper()
	v, err := newVerifier(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The signatures here and in the fixtures were computed apart from this code,
// with Python's hmac module. Mandrill publishes none.
const (
	emptyArray = "mandrill_events=%5B%5D"

	signedEmpty         = "H+yad9kjw3nNjiUS39s6afsjrZc=" // emptyArray, live key, hookURL
	signedByOlderKey    = "d+Z4/rz0jZSyLv+XZh49R4Q8M7Q=" // emptyArray, "older-key", hookURL
	signedWithPassword  = "uXr4gvohRt0xNEhPhWv3xyp9cL4=" // emptyArray, live key, URL with user:pa55@
	signedSeveralFields = "dUEGC3tU1nzw2OBXLoTQqBZ+cas=" // hookURL + a1a0b2mandrill_events[]
)

func TestVerify(t *testing.T) {
	const withPassword = "https://user:pa55@hooks.example.com/webhooks/mandrill"
	one := esp.Settings{Keys: []string{liveKey}, URL: hookURL}
	tests := []struct {
		name      string
		settings  esp.Settings
		body      string
		signature string
		reason    string // empty: genuine
		key       string // that verified it
	}{
		{name: "genuine", settings: one, body: emptyArray, signature: signedEmpty, key: liveKey},
		{
			name:     "older key, still live",
			settings: esp.Settings{Keys: []string{liveKey, "older-key"}, URL: hookURL},
			body:     emptyArray, signature: signedByOlderKey, key: "older-key",
		},
		{
			name: "older key, not live", settings: one,
			body: emptyArray, signature: signedByOlderKey, reason: esp.ReasonMismatch,
		},
		{
			name:     "credentials in the url, signed with them",
			settings: esp.Settings{Keys: []string{liveKey}, URL: withPassword},
			body:     emptyArray, signature: signedWithPassword, key: liveKey,
		},
		{
			name:     "credentials in the url, signed without them",
			settings: esp.Settings{Keys: []string{liveKey}, URL: withPassword},
			body:     emptyArray, signature: signedEmpty, key: liveKey,
		},
		{
			name: "signed with credentials that the url lacks", settings: one,
			body: emptyArray, signature: signedWithPassword, reason: esp.ReasonMismatch,
		},
		{
			name: "url with a slash more", body: emptyArray, signature: signedEmpty, reason: esp.ReasonMismatch,
			settings: esp.Settings{Keys: []string{liveKey}, URL: hookURL + "/"},
		},
		{
			name: "spelled with other escapes, the same after decoding", settings: one,
			body: "mandrill%5Fevents=[]", signature: signedEmpty, key: liveKey,
		},
		{name: "empty pairs", settings: one, body: "&" + emptyArray + "&&", signature: signedEmpty, key: liveKey},
		{
			name: "several fields, sorted by name, equal names as sent", settings: one,
			body: "b=2&a=1&mandrill_events=%5B%5D&a=0", signature: signedSeveralFields, key: liveKey,
		},
		{
			name: "equal names in another order", settings: one,
			body: "b=2&a=0&mandrill_events=%5B%5D&a=1", signature: signedSeveralFields, reason: esp.ReasonMismatch,
		},
		{
			name: "a field more", settings: one,
			body: emptyArray + "&x=1", signature: signedEmpty, reason: esp.ReasonMismatch,
		},
		{
			name: "changed value", settings: one,
			body: "mandrill_events=%5B1%5D", signature: signedEmpty, reason: esp.ReasonMismatch,
		},
		{
			name: "decoded twice", settings: one,
			body: "mandrill_events=%255B%255D", signature: signedEmpty, reason: esp.ReasonMismatch,
		},
		{name: "empty body", settings: one, signature: signedEmpty, reason: esp.ReasonMismatch},
		{name: "no signature", settings: one, body: emptyArray, reason: esp.ReasonMissing},
		{
			name: "signature is not base64", settings: one,
			body: emptyArray, signature: "%%%", reason: esp.ReasonMalformed,
		},
		{
			name: "signature is cut", settings: one,
			body: emptyArray, signature: signedEmpty[:24], reason: esp.ReasonMalformed,
		},
		{
			name: "signature in hexadecimal", settings: one,
			body: emptyArray, signature: strings.Repeat("ab", 20), reason: esp.ReasonMalformed,
		},
		{
			name: "body is no form", settings: one,
			body: "mandrill_events=%5", signature: signedEmpty, reason: esp.ReasonMalformed,
		},
		{
			name: "more fields than are held", settings: one,
			body: strings.Repeat("a&", maxFields) + emptyArray, signature: signedEmpty, reason: esp.ReasonMalformed,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := newTestVerifier(t, tt.settings).Verify(t.Context(), hook(tt.body, tt.signature))
			if tt.reason == "" {
				if want := (esp.Verified{KeyID: esp.KeyID(tt.key)}); err != nil || got != want {
					t.Errorf("Verify() = %+v, %v, want %+v", got, err, want)
				}
				return
			}
			reason, _ := esp.RefusalReason(err)
			if !errors.Is(err, esp.ErrNotGenuine) || reason != tt.reason {
				t.Errorf("Verify() = %v, want a refusal for %q", err, tt.reason)
			}
			if err != nil && (strings.Contains(err.Error(), liveKey) || strings.Contains(err.Error(), "pa55")) {
				t.Errorf("Verify() tells a secret: %v", err)
			}
		})
	}
}

// Every fixture is a genuine webhook, except for what no webhook can be.
func TestVerify_fixtures(t *testing.T) {
	v := newTestVerifier(t, esp.Settings{Keys: []string{liveKey}, URL: hookURL})
	for name, w := range esptest.Fixtures(t, "testdata") {
		t.Run(name, func(t *testing.T) {
			signed := w.Header.Get(signatureHeader) != ""
			if _, err := v.Verify(t.Context(), w); (err == nil) != signed {
				t.Errorf("Verify() = %v, carries a signature: %t", err, signed)
			}
			if !signed {
				return
			}
			w.Body = append([]byte("a=b&"), w.Body...)
			if _, err := v.Verify(t.Context(), w); !errors.Is(err, esp.ErrNotGenuine) {
				t.Errorf("Verify(changed body) = %v, want %v", err, esp.ErrNotGenuine)
			}
		})
	}
}

// The key of the test post is public: what it signs must hold nothing.
func TestVerify_testKey(t *testing.T) {
	v := newTestVerifier(t, esp.Settings{Keys: []string{liveKey}, URL: hookURL})
	tests := []struct {
		name string
		form []field
		ok   bool
	}{
		{"empty array", []field{{eventsField, "[]"}}, true},
		{"empty array, spaced", []field{{eventsField, " [\n] "}}, true},
		{"an event", []field{{eventsField, `[{"event":"send"}]`}}, false},
		{"an empty object", []field{{eventsField, `[{}]`}}, false},
		{"null", []field{{eventsField, `null`}}, false},
		{"a lone bracket", []field{{eventsField, `[`}}, false},
		{"nothing", []field{{eventsField, ``}}, false},
		{"empty array and events", []field{{eventsField, "[]"}, {eventsField, `[{"event":"send"}]`}}, false},
		{"events and empty array", []field{{eventsField, `[{"event":"send"}]`}, {eventsField, "[]"}}, false},
		{"another field", []field{{eventsField, "[]"}, {"x", "1"}}, false},
		{"no array", []field{{"x", "[]"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), hook(signedForm64(tt.form, testKey)))
			if got := err == nil; got != tt.ok {
				t.Errorf("Verify() = %v, want genuine = %t", err, tt.ok)
			}
		})
	}
}

func TestNewVerifier(t *testing.T) {
	tests := []struct {
		name     string
		settings esp.Settings
		want     []string // settings that the error names; nil: no error
	}{
		{name: "all there", settings: esp.Settings{Keys: []string{"a", "b"}, URL: hookURL}},
		{name: "http with port and query", settings: esp.Settings{Keys: []string{"a"}, URL: "http://u:p@h:8080/x/?a=b"}},
		{name: "no url", settings: esp.Settings{Keys: []string{"a"}}, want: []string{"url: is required"}},
		{name: "no keys", settings: esp.Settings{URL: hookURL}, want: []string{"keys: at least one"}},
		{name: "neither", want: []string{"keys: at least one", "url: is required"}},
		{name: "empty key", settings: esp.Settings{Keys: []string{"a", " "}, URL: hookURL}, want: []string{"keys: number 2"}},
		{name: "public key", settings: esp.Settings{Keys: []string{testKey}, URL: hookURL}, want: []string{"keys: number 1"}},
		{name: "path only", settings: esp.Settings{Keys: []string{"a"}, URL: "/webhooks/mandrill"}, want: []string{"url: must be"}},
		{name: "another scheme", settings: esp.Settings{Keys: []string{"a"}, URL: "ftp://u:pa55@h/"}, want: []string{"url: must be"}},
		{name: "no url at all", settings: esp.Settings{Keys: []string{"a"}, URL: "https://u:pa55@h:x/%"}, want: []string{"url: must be"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newVerifier(tt.settings)
			if len(tt.want) == 0 {
				if err != nil {
					t.Errorf("newVerifier() = %v, want none", err)
				}
				return
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("newVerifier() = %v, want %q in it", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "pa55") {
				t.Errorf("newVerifier() tells a secret: %v", err)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	tests := []struct {
		text string
		want []string
	}{
		{"https://h/x", []string{"https://h/x"}},
		{"https://u:p@h/x", []string{"https://u:p@h/x", "https://h/x"}},
		{"https://u%40v:p@h:8443", []string{"https://u%40v:p@h:8443", "https://h:8443"}},
		{"https://u:p@q@h/x", []string{"https://u:p@q@h/x", "https://h/x"}},
		{"https://h/x@y", []string{"https://h/x@y"}},
		{"https://h?to=a@b", []string{"https://h?to=a@b"}},
		{"https://u@H/%2f?a=B#c", []string{"https://u@H/%2f?a=B#c", "https://H/%2f?a=B#c"}},
	}
	for _, tt := range tests {
		if got := candidates(tt.text); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("candidates(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestDecodeForm(t *testing.T) {
	tests := []struct {
		body string
		want []field
		err  error
	}{
		{"", nil, nil},
		{"a=1&b=2&a=3", []field{{"a", "1"}, {"b", "2"}, {"a", "3"}}, nil},
		{"a", []field{{"a", ""}}, nil},
		{"=b", []field{{"", "b"}}, nil},
		{"a=b=c", []field{{"a", "b=c"}}, nil},
		{"a=1+2%2B3%26%3D%25", []field{{"a", "1 2+3&=%"}}, nil},
		{"a=%2526", []field{{"a", "%26"}}, nil}, // once, not twice
		{"a=1;b=2", []field{{"a", "1;b=2"}}, nil},
		{"a=%zz", nil, errBadEscape},
		{"%=a", nil, errBadEscape},
		{strings.Repeat("a&", maxFields+1), nil, errTooManyFields},
	}
	for _, tt := range tests {
		got, err := decodeForm([]byte(tt.body))
		if !errors.Is(err, tt.err) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("decodeForm(%.20q) = %q, %v, want %q, %v", tt.body, got, err, tt.want, tt.err)
		}
	}
}

// form encodes a mandrill_events field.
func form(array string) string { return eventsField + "=" + url.QueryEscape(array) }

func parseOne(t *testing.T, element string) event.Event {
	t.Helper()
	result, err := parse(hook(form("["+element+"]"), ""))
	if err != nil || len(result.Events) != 1 {
		t.Fatalf("parse(%s) = %d events, %v, want 1", element, len(result.Events), err)
	}
	return result.Events[0]
}

func TestIdentity(t *testing.T) {
	const click = `{"event":"click","_id":"2a","ts":1795428120,"url":"https://example.com/r","ip":"203.0.113.4",` +
		`"user_agent":"Mozilla","msg":{"_id":"2a","email":"ann@example.com","state":"sent","opens":[]}}`
	const change = `{"type":"blacklist","action":"add","ts":1795428011,"reject":{"email":"bob@example.com",` +
		`"reason":"hard-bounce","detail":"x","expires_at":"2026-12-23 10:00:10","subaccount":null}}`
	const inbound = `{"event":"inbound","ts":1795428200,"msg":{"email":"in@example.org","text":"a"}}`
	const noTime = `{"event":"open","_id":"2a","msg":{"email":"ann@example.com","state":"sent"}}`
	tests := []struct {
		name     string
		element  string
		old, new string // the change
		same     bool
	}{
		{"click, another second", click, "8120", "8121", false},
		{"click, time as text", click, "1795428120", `"1795428120"`, true},
		{"click, another link", click, "/r", "/s", false},
		{"click, another address", click, ".4", ".5", false},
		{"click, another agent", click, "Mozilla", "Opera", false},
		{"click, another message", click, `"_id":"2a","ts"`, `"_id":"2b","ts"`, false},
		{"click against open", click, `"click"`, `"open"`, false},
		{"click, another recipient", click, "ann@", "bob@", false},
		{"click, recipient in another case", click, "ann@", "ANN@", true},
		{"click, the history grew", click, `"opens":[]`, `"opens":[{"ts":1}]`, true},
		{"click, id in the message only", click, `"_id":"2a","ts"`, `"ts"`, true},
		{"change, another action", change, `"add"`, `"remove"`, false},
		{"change, another second", change, "8011", "8012", false},
		{"change, another reason", change, "hard-bounce", "spam", false},
		{"change, another expiry", change, "12-23", "12-24", false},
		{"change, another subaccount", change, `null`, `"eu"`, false},
		{"change, another note", change, `"x"`, `"y"`, true},
		{"inbound, another text in the same second", inbound, `"a"`, `"b"`, false},
		{"no time, another state", noTime, `"sent"`, `"spam"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := strings.Replace(tt.element, tt.old, tt.new, 1)
			if changed == tt.element {
				t.Fatalf("%q is not in the element", tt.old)
			}
			if got := parseOne(t, tt.element).ID == parseOne(t, changed).ID; got != tt.same {
				t.Errorf("same id = %t, want %t", got, tt.same)
			}
		})
	}
}

func TestBounce(t *testing.T) {
	tests := []struct{ native, description, diag, kind, cause string }{
		{"hard_bounce", "bad_mailbox", "smtp;550 5.1.1 no such user", event.KindHard, event.CauseUnknownRecipient},
		{"hard_bounce", "bad_mailbox", "", event.KindHard, event.CauseUnknownRecipient},
		{"hard_bounce", "general", "smtp;550 5.7.1 spam", event.KindHard, event.CauseSpam},
		{"hard_bounce", "", "", event.KindHard, event.CauseOther},
		{"soft_bounce", "mailbox_full", "smtp;550 5.7.1 spam", event.KindSoft, event.CauseMailboxFull},
		{"soft_bounce", "general", "smtp;550 5.7.1 spam", event.KindBlock, event.CauseSpam},
		{"soft_bounce", "", "smtp;550 5.1.1 no such user", event.KindSoft, event.CauseUnknownRecipient},
		{"soft_bounce", "", "", event.KindSoft, event.CauseOther},
	}
	for _, tt := range tests {
		e := parseOne(t, fmt.Sprintf(`{"event":%q,"_id":"1","ts":1795428010,"msg":{"bounce_description":%q,"diag":%q}}`,
			tt.native, tt.description, tt.diag))
		if e.BounceKind != tt.kind || e.BounceCause != tt.cause {
			t.Errorf("%s %q with %q = %s %s, want %s %s",
				tt.native, tt.description, tt.diag, e.BounceKind, e.BounceCause, tt.kind, tt.cause)
		}
	}
}

func TestIsTest(t *testing.T) {
	tests := []struct {
		element string
		want    bool
	}{
		{`{"event":"send","_id":"exampleaaa","ts":1795428010}`, true},
		{`{"event":"send","_id":"1","ts":1384954004}`, true},
		{`{"event":"send","_id":"1","ts":1795428010,"msg":{"ts":1365109999}}`, true},
		{`{"event":"send","_id":"1","ts":1795428010,"msg":{"tags":["a","webhook-example"]}}`, true},
		{`{"event":"send","_id":"1","ts":1795428010,"msg":{"email":"x@MandrillApp.com"}}`, true},
		{`{"type":"whitelist","action":"add","ts":1795428010,"entry":{"email":"x@mandrillapp.com"}}`, true},
		{`{"event":"send","_id":"1","ts":1795428010,"msg":{"email":"x@notmandrillapp.com","tags":["example"]}}`, false},
	}
	for _, tt := range tests {
		if got := parseOne(t, tt.element).IsTest; got != tt.want {
			t.Errorf("is_test of %s = %t, want %t", tt.element, got, tt.want)
		}
	}
}

// A full batch must come through the form whole.
func TestParse_thousand(t *testing.T) {
	var array strings.Builder
	array.WriteByte('[')
	for i := range 1000 {
		if i > 0 {
			array.WriteByte(',')
		}
		fmt.Fprintf(&array, `{"event":"send","_id":"%d","ts":1795428010,"msg":{"subject":"+&%%%d","email":"a@example.com"}}`, i, i)
	}
	array.WriteByte(']')
	result, err := parse(hook(form(array.String()), ""))
	if err != nil || len(result.Events) != 1000 {
		t.Fatalf("parse() = %d events, %v, want 1000", len(result.Events), err)
	}
	if last := result.Events[999]; last.RawEventIndex != 999 || last.Subject != "+&%999" {
		t.Errorf("last event = #%d %q, want #999 %q", last.RawEventIndex, last.Subject, "+&%999")
	}
}

func TestParse_tooDeep(t *testing.T) {
	_, err := parse(hook(eventsField+"="+strings.Repeat("[", 15<<20), ""))
	if reason, _ := fault.Reason(err); reason != fault.BadBody {
		t.Errorf("parse(fifteen million brackets) = %v, want %s", err, fault.BadBody)
	}
}
