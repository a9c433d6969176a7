package standardwebhooks_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"mailriver/pkg/standardwebhooks"
)

const (
	svix    = standardwebhooks.Svix
	webhook = standardwebhooks.Webhook
)

// The vector of the reference implementation, libraries/go/webhook_test.go,
// TestWebhookSign, and of Svix, go/webhook_test.go: both publish the same.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTimestamp = "1614265330"
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	vectorBody      = `{"test": 2432232314}`

	otherSignature = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
)

func TestSign_publishedVector(t *testing.T) {
	header := textproto.MIMEHeader{}
	standardwebhooks.Sign(header, keysOf(t, vectorSecret), vectorID, time.Unix(1614265330, 0), []byte(vectorBody))
	want := map[string]string{
		"webhook-id": vectorID, "webhook-timestamp": vectorTimestamp, "webhook-signature": vectorSignature,
	}
	for name, value := range want {
		if got := header.Get(name); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
}

// A receiver that knows the old secret and one that knows the new one both take
// what is signed with both; one that knows another takes nothing. The receiver is
// the reference implementation.
func TestSign_rotation(t *testing.T) {
	body := []byte(`{"type":"lead.stage.entered"}`)
	header := textproto.MIMEHeader{}
	standardwebhooks.Sign(header, keysOf(t, secretOf('a', 32), secretOf('b', 32)), "id-1", time.Now(), body)
	for _, tt := range []struct {
		secret string
		body   string
		ok     bool
	}{
		{secretOf('a', 32), string(body), true},
		{secretOf('b', 32), string(body), true},
		{secretOf('c', 32), string(body), false},
		{secretOf('a', 32), string(body) + " ", false},
	} {
		receiver, err := reference.NewWebhook(tt.secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := receiver.Verify([]byte(tt.body), http.Header(header)); (err == nil) != tt.ok {
			t.Errorf("Verify(%s, %s) = %v, want ok %t", tt.secret, tt.body, err, tt.ok)
		}
	}
}

func TestVerify(t *testing.T) {
	both := []standardwebhooks.Family{svix, webhook}
	signed := func(family standardwebhooks.Family, id, timestamp, signature string) textproto.MIMEHeader {
		header := textproto.MIMEHeader{}
		header.Set(family.ID(), id)
		header.Set(family.Timestamp(), timestamp)
		header.Set(family.Signature(), signature)
		return header
	}
	// with is the vector in the names of Svix, changed.
	with := func(change func(textproto.MIMEHeader)) textproto.MIMEHeader {
		header := signed(svix, vectorID, vectorTimestamp, vectorSignature)
		change(header)
		return header
	}
	set := func(name, value string) textproto.MIMEHeader {
		return with(func(h textproto.MIMEHeader) { h.Set(name, value) })
	}
	add := func(name, value string) textproto.MIMEHeader {
		return with(func(h textproto.MIMEHeader) { h.Add(name, value) })
	}
	only := []string{vectorSecret}
	tests := []struct {
		name     string
		header   textproto.MIMEHeader
		secrets  []string
		body     string
		families []standardwebhooks.Family
		key      int
		want     error
	}{
		{"names of the specification", signed(webhook, vectorID, vectorTimestamp, vectorSignature), only, vectorBody, both, 0, nil},
		{"names of Svix", set("x", ""), only, vectorBody, both, 0, nil},
		{"of one family, which it has", set("x", ""), only, vectorBody, both[:1], 0, nil},
		{"of one family, which it has not", set("x", ""), only, vectorBody, both[1:], 0, standardwebhooks.ErrMissing},
		{"of no family", set("x", ""), only, vectorBody, nil, 0, standardwebhooks.ErrMissing},
		{"second key", set("x", ""), []string{secretOf('a', 24), vectorSecret}, vectorBody, both, 1, nil},
		{
			"signed with two keys, the first is the one named", set("svix-signature", otherSignature+" "+vectorSignature),
			[]string{vectorSecret, secretOf('a', 24)},
			vectorBody, both, 0, nil,
		},
		{"foreign key", set("x", ""), []string{secretOf('a', 24)}, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"no key", set("x", ""), nil, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{
			"several signatures", set("svix-signature", strings.Join([]string{
				otherSignature, strings.Replace(otherSignature, "v1", "v2", 1), vectorSignature, otherSignature,
			}, " ")), only, vectorBody, both, 0, nil,
		},
		{"unknown versions before it", set("svix-signature", "v1a,AAAA v2 ,, "+vectorSignature), only, vectorBody, both, 0, nil},
		{"one that is not base64 before it", set("svix-signature", "v1,!!! "+vectorSignature), only, vectorBody, both, 0, nil},
		{
			"the signature under another version", set("svix-signature", strings.Replace(vectorSignature, "v1", "v2", 1)),
			only, vectorBody, both, 0, standardwebhooks.ErrMalformed,
		},
		{
			"the signature under another version, beside one", set("svix-signature", "v1a"+vectorSignature[2:]+" "+otherSignature),
			only, vectorBody, both, 0, standardwebhooks.ErrMismatch,
		},
		{"another signature", set("svix-signature", otherSignature), only, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"the beginning of the signature", set("svix-signature", vectorSignature[:3+8]), only, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"an empty signature", set("svix-signature", "v1,"), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"no version", set("svix-signature", vectorSignature[3:]), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"changed body", set("x", ""), only, vectorBody + " ", both, 0, standardwebhooks.ErrMismatch},
		{"empty body", set("x", ""), only, "", both, 0, standardwebhooks.ErrMismatch},
		{"changed id", set("svix-id", vectorID+"x"), only, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"changed time", set("svix-timestamp", "1614265331"), only, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"time in another spelling", set("svix-timestamp", "01614265330"), only, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"a digit moved from time to id", with(func(h textproto.MIMEHeader) {
			h.Set("svix-id", vectorID+".1614265330")
			h.Set("svix-timestamp", "1")
		}), only, vectorBody, both, 0, standardwebhooks.ErrMismatch},
		{"a signed time", set("svix-timestamp", "+1614265330"), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"a time with a fraction", set("svix-timestamp", "1614265330.0"), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"a time beyond all times", set("svix-timestamp", "99999999999999999999"), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"no id", with(func(h textproto.MIMEHeader) { h.Del("svix-id") }), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"no time", with(func(h textproto.MIMEHeader) { h.Del("svix-timestamp") }), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"no signature", with(func(h textproto.MIMEHeader) { h.Del("svix-signature") }), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"empty id", set("svix-id", ""), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"empty time", set("svix-timestamp", ""), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"empty signature header", set("svix-signature", ""), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"id twice", add("svix-id", "another"), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"the same id twice", add("svix-id", vectorID), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"time twice", add("svix-timestamp", vectorTimestamp), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"signature twice", add("svix-signature", vectorSignature), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		{"a space in the id", set("svix-id", "msg 1"), only, vectorBody, both, 0, standardwebhooks.ErrMalformed},
		// Red without the first family being the only one: the signature is the same
		// under both names, and who reads the id of the other is lied to.
		{"genuine under the second name, an id under the first", func() textproto.MIMEHeader {
			header := signed(webhook, vectorID, vectorTimestamp, vectorSignature)
			header.Set("svix-id", "another")
			return header
		}(), only, vectorBody, both, 0, standardwebhooks.ErrMissing},
		{"genuine under the first name, an id under the second", add("webhook-id", "another"), only, vectorBody, both, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := standardwebhooks.Verify(tt.header, keysOf(t, tt.secrets...), []byte(tt.body), tt.families...)
			if tt.want != nil {
				if !errors.Is(err, tt.want) || got != (standardwebhooks.Verified{}) {
					t.Errorf("Verify() = %+v, %v, want %v", got, err, tt.want)
				}
				return
			}
			want := standardwebhooks.Verified{Key: tt.key, ID: vectorID, At: time.Unix(1614265330, 0).UTC()}
			if err != nil || got != want {
				t.Errorf("Verify() = %+v, %v, want %+v", got, err, want)
			}
			if id := standardwebhooks.ID(tt.header, tt.families...); id != got.ID {
				t.Errorf("ID() = %q, and Verify() looked at %q", id, got.ID)
			}
		})
	}
}

// A signed text can be cut at any of its full stops. Red without the rule about
// the characters of an id: the beginning of the body becomes the end of the id.
func TestVerify_idTakesNothingOfTheBody(t *testing.T) {
	key := keysOf(t, vectorSecret)
	const body = `{"a":"x.1.[]"}`
	header := textproto.MIMEHeader{}
	standardwebhooks.Sign(header, key, "msg_1", time.Unix(1614265330, 0), []byte(body))
	if _, err := standardwebhooks.Verify(header, key, []byte(body), webhook); err != nil {
		t.Fatalf("Verify(as signed) = %v", err)
	}
	header.Set("webhook-id", `msg_1.1614265330.{"a":"x`)
	header.Set("webhook-timestamp", "1")
	if _, err := standardwebhooks.Verify(header, key, []byte(`[]"}`), webhook); !errors.Is(err, standardwebhooks.ErrMalformed) {
		t.Errorf("Verify(cut elsewhere) = %v, want %v", err, standardwebhooks.ErrMalformed)
	}
}

func TestID(t *testing.T) {
	one := func(name, value string) textproto.MIMEHeader {
		header := textproto.MIMEHeader{}
		header.Set(name, value)
		return header
	}
	twice := one("svix-id", "a")
	twice.Add("svix-id", "b")
	tests := []struct {
		name   string
		header textproto.MIMEHeader
		want   string
	}{
		{"Svix", one("svix-id", "msg_1"), "msg_1"},
		{"the specification", one("webhook-id", "msg_1"), "msg_1"},
		{"another header of the first family", func() textproto.MIMEHeader {
			header := one("webhook-id", "msg_1")
			header.Set("svix-timestamp", "1")
			return header
		}(), ""},
		{"twice", twice, ""},
		{"a space", one("svix-id", "a b"), ""},
		{"empty", one("svix-id", ""), ""},
		{"none", nil, ""},
	}
	for _, tt := range tests {
		if got := standardwebhooks.ID(tt.header, svix, webhook); got != tt.want {
			t.Errorf("ID(%s) = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestFamily(t *testing.T) {
	if got, want := svix.Headers(), []string{"svix-id", "svix-timestamp", "svix-signature"}; !slices.Equal(got, want) {
		t.Errorf("Headers() = %q, want %q", got, want)
	}
}

func TestParseKey(t *testing.T) {
	sized := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	tests := []struct {
		name, secret, own, foreign string // what the errors say; empty: none
	}{
		{"as the specification has it", vectorSecret, "", ""},
		{"bare", strings.TrimPrefix(vectorSecret, "whsec_"), "must begin with whsec_", ""},
		{"with the version before it", "v1," + vectorSecret, "must begin with whsec_", ""},
		{"with white space around it", " " + vectorSecret + "\n", "must begin with whsec_", ""},
		{"without padding", strings.TrimRight("whsec_"+sized(32), "="), "is not base64", ""},
		{"smallest", "whsec_" + sized(24), "", ""},
		{"largest", "whsec_" + sized(64), "", ""},
		{"too small for the specification", "whsec_" + sized(23), "has 23 bytes", ""},
		{"too large for the specification", "whsec_" + sized(65), "has 65 bytes", ""},
		{"smallest foreign one", "whsec_" + sized(16), "has 16 bytes", ""},
		{"too small", "whsec_" + sized(15), "has 15 bytes", "has 15 bytes"},
		{"empty", "", "must begin with whsec_", "has 0 bytes"},
		{"prefix only", "whsec_", "has 0 bytes", "has 0 bytes"},
		{"not base64", "whsec_!!!hunter2", "is not base64", "is not base64"},
		{"prefix twice", "whsec_" + vectorSecret, "is not base64", "is not base64"},
		{"public key", "whpk_" + sized(32), "must begin with whsec_", "whpk_ is for signatures of another kind"},
		{"private key", "whsk_" + sized(32), "must begin with whsec_", "whsk_ is for signatures of another kind"},
	}
	for _, tt := range tests {
		for _, parse := range []struct {
			name string
			of   func(string) (standardwebhooks.Key, error)
			want string
		}{{"ParseKey", standardwebhooks.ParseKey, tt.own}, {"ParseForeignKey", standardwebhooks.ParseForeignKey, tt.foreign}} {
			_, err := parse.of(tt.secret)
			if parse.want == "" {
				if err != nil {
					t.Errorf("%s(%s) = %v, want a key", parse.name, tt.name, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), parse.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s(%s) = %v, want %q in it, and no secret", parse.name, tt.name, err, parse.want)
			}
		}
	}
}

// However it is written, it is one key.
func TestParseForeignKey_oneKey(t *testing.T) {
	secret := secretOf('a', 32) // has padding
	for _, text := range []string{secret, "v1," + secret, strings.TrimPrefix(secret, "whsec_"), strings.TrimRight(secret, "=")} {
		key, err := standardwebhooks.ParseForeignKey(text)
		if err != nil {
			t.Fatal(err)
		}
		header := textproto.MIMEHeader{}
		standardwebhooks.Sign(header, keysOf(t, secret), "id-1", time.Unix(1614265330, 0), []byte("{}"))
		if _, err := standardwebhooks.Verify(header, []standardwebhooks.Key{key}, []byte("{}"), webhook); err != nil {
			t.Errorf("Verify(key read of %q) = %v", text, err)
		}
	}
}

// Only what was signed is genuine: id, time and body as they were.
func FuzzVerify(f *testing.F) {
	key, err := standardwebhooks.ParseKey(vectorSecret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(vectorID, vectorTimestamp, vectorSignature, vectorBody)
	f.Add(vectorID, vectorTimestamp, vectorSignature+" v1a,x", vectorBody+" ")
	f.Add(vectorID+"."+vectorTimestamp, "1", vectorSignature, vectorBody)
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, id, timestamp, signature, body string) {
		header := textproto.MIMEHeader{"Svix-Id": {id}, "Svix-Timestamp": {timestamp}, "Svix-Signature": {signature}}
		got, err := standardwebhooks.Verify(header, []standardwebhooks.Key{key}, []byte(body), svix, webhook)
		if err == nil && (id != vectorID || timestamp != vectorTimestamp || body != vectorBody) {
			t.Errorf("Verify(%q, %q, %q) = %+v, which nobody signed", id, timestamp, body, got)
		}
	})
}

func secretOf(b byte, n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(b)), n)))
}

func keysOf(t *testing.T, secrets ...string) []standardwebhooks.Key {
	t.Helper()
	keys := make([]standardwebhooks.Key, len(secrets))
	for i, secret := range secrets {
		key, err := standardwebhooks.ParseKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = key
	}
	return keys
}
