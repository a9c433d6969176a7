package mailgun_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/mailgun"
)

func FuzzParse(f *testing.F) { esptest.Fuzz(f, mailgun.Provider) }

// Only one timestamp and token are signed: whatever JSON is accepted must hold
// them, and the parser must take what the verifier accepted.
func FuzzVerify(f *testing.F) {
	const token = "0f3c5b7d9e1f2a4c6e8091a2b3c4d5e6f708192a3b4c5d6e7f"
	v := newVerifier(f, clock, "key")
	stamp := seconds(now)
	sign := mac("key", stamp, token)
	genuine, err := hex.DecodeString(sign)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stamp, token, sign, "", `{"event":"opened","id":"x"}`)
	f.Add(stamp, token, "", sign, `null`)
	f.Add(stamp+token[:1], token[1:], sign, "", `{}`)
	f.Add(stamp, token[:49], sign, sign, `{}`)
	f.Fuzz(func(t *testing.T, timestamp, token2, own, parent, data string) {
		if !json.Valid([]byte(data)) {
			data = `{}`
		}
		text := func(s string) string {
			encoded, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			return string(encoded)
		}
		body := `{"signature":{"timestamp":` + text(timestamp) + `,"token":` + text(token2) + `,"signature":` + text(own) +
			`,"parent-signature":` + text(parent) + `},"event-data":` + data + `}`
		w := hook("application/json", []byte(body))
		_, err := v.Verify(t.Context(), w)
		if err != nil {
			if !errors.Is(err, esp.ErrNotGenuine) {
				t.Errorf("Verify(%s) = %v, want a refusal", body, err)
			}
			return
		}
		if timestamp != stamp || timestamp+token2 != stamp+token || !holds(genuine, own, parent) {
			t.Errorf("Verify accepts %s, which nobody signed", body)
		}
		if _, err := mailgun.Provider.Parse(w); err != nil {
			t.Errorf("Parse(%s) = %v after Verify accepted it", body, err)
		}
	})
}

// Any bytes of any type: no panic, and nothing is accepted without the key.
func FuzzVerify_anyBody(f *testing.F) {
	for _, w := range esptest.Fixtures(f, "testdata") {
		f.Add(w.Body, w.Header.Get("Content-Type"))
	}
	v := newVerifier(f, clock, "a key that signed none of the fixtures")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		if _, err := v.Verify(t.Context(), hook(contentType, body)); !errors.Is(err, esp.ErrNotGenuine) {
			t.Errorf("Verify(%q, %q) = %v, want a refusal", contentType, body, err)
		}
	})
}

func holds(genuine []byte, texts ...string) bool {
	for _, text := range texts {
		if got, err := hex.DecodeString(text); err == nil && len(got) == sha256.Size && hmac.Equal(got, genuine) {
			return true
		}
	}
	return false
}
