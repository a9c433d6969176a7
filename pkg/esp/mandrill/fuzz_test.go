package mandrill

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"testing"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
)

func FuzzParse(f *testing.F) { esptest.Fuzz(f, Provider) }

// signedForm64 encodes a form whose fields are in order of their names, and
// signs it.
func signedForm64(fields []field, key string) (body, signature string) {
	pairs := make([]string, len(fields))
	text := hookURL
	for i, f := range fields {
		pairs[i] = url.QueryEscape(f.name) + "=" + url.QueryEscape(f.value)
		text += f.name + f.value
	}
	mac := sign(key, text, nil)
	return strings.Join(pairs, "&"), base64.StdEncoding.EncodeToString(mac)
}

// Whatever is posted, the answer is a refusal or a genuine webhook: what a live
// key signed verifies, and the same with one byte changed does not.
func FuzzVerify(f *testing.F) {
	for _, w := range esptest.Fixtures(f, "testdata") {
		f.Add(w.Body, w.Header.Get(signatureHeader), `[{"event":"send"}]`)
	}
	v := newTestVerifier(f, esp.Settings{Keys: []string{"none-of-the-fixtures", liveKey}, URL: hookURL})
	f.Fuzz(func(t *testing.T, body []byte, signature, array string) {
		ctx := t.Context()
		if _, err := v.Verify(ctx, hook(string(body), signature)); err != nil && !errors.Is(err, esp.ErrNotGenuine) {
			t.Errorf("Verify() = %v, want a refusal", err)
		}
		genuine, mac := signedForm64([]field{{eventsField, array}}, liveKey)
		if _, err := v.Verify(ctx, hook(genuine, mac)); err != nil {
			t.Errorf("Verify(genuine) = %v", err)
		}
		if _, err := v.Verify(ctx, hook(genuine+"+", mac)); !errors.Is(err, esp.ErrNotGenuine) {
			t.Errorf("Verify(one byte more) = %v, want %v", err, esp.ErrNotGenuine)
		}
	})
}
