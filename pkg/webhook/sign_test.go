package webhook

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The vector of the reference implementation, libraries/go/webhook_test.go,
// TestWebhookSign.
func TestSign_publishedVector(t *testing.T) {
	key, err := parseKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{}
	sign(header, [][]byte{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	want := map[string]string{
		HeaderID: "msg_p5jXN8AQM9LWM0D4loKWxJek", HeaderTimestamp: "1614265330",
		HeaderSignature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
	}
	for name, value := range want {
		if got := header.Get(name); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
}

func secretOf(b byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(b)), 32)))
}

// A receiver that knows the old secret and one that knows the new one both take
// what is signed with both; one that knows another takes nothing.
func TestSign_rotation(t *testing.T) {
	var keys [][]byte
	for _, text := range []string{secretOf('a'), secretOf('b')} {
		key, err := parseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	body := []byte(`{"type":"lead.stage.entered"}`)
	header := http.Header{}
	sign(header, keys, "id-1", time.Now(), body)
	for _, tt := range []struct {
		secret string
		body   string
		ok     bool
	}{
		{secretOf('a'), string(body), true},
		{secretOf('b'), string(body), true},
		{secretOf('c'), string(body), false},
		{secretOf('a'), string(body) + " ", false},
	} {
		receiver, err := standardwebhooks.NewWebhook(tt.secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := receiver.Verify([]byte(tt.body), header); (err == nil) != tt.ok {
			t.Errorf("Verify(%s, %s) = %v, want ok %t", tt.secret, tt.body, err, tt.ok)
		}
	}
}

func TestParseKey_errors(t *testing.T) {
	for _, tt := range []struct{ secret, want string }{
		{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "must begin with whsec_"},
		{"whsec_!!!hunter2", "is not base64"},
		{"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23)), "has 23 bytes"},
		{"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)), "has 65 bytes"},
	} {
		_, err := parseKey(tt.secret)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("parseKey(%q) = %v, want %q in it, and no secret", tt.secret, err, tt.want)
		}
	}
}
