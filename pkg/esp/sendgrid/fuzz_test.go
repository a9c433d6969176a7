package sendgrid_test

import (
	"errors"
	"strconv"
	"testing"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/sendgrid"
)

func FuzzParse(f *testing.F) { esptest.Fuzz(f, sendgrid.Provider) }

// Only one triple is genuine: whatever else is accepted was not signed.
func FuzzVerify(f *testing.F) {
	key := newKey(f)
	v := newVerifier(f, clock, public(f, key))
	body := []byte("[{\"event\":\"open\",\"email\":\"ann@example.com\"}]\r\n")
	stamp := strconv.FormatInt(now.Unix(), 10)
	signature := sign(f, key, stamp, body)
	f.Add(body, stamp, signature)
	f.Add(body[:len(body)-2], stamp, signature)
	f.Add(body, stamp[:9], signature)
	f.Add(append([]byte(stamp[9:]), body...), stamp[:9], signature)
	f.Add(body, "", "")
	f.Fuzz(func(t *testing.T, b []byte, ts, sig string) {
		_, err := v.Verify(t.Context(), hook(b, ts, sig))
		switch {
		case err == nil && ts+string(b) != stamp+string(body):
			t.Errorf("Verify accepts the timestamp %q and the body %q, which nobody signed", ts, b)
		case err != nil && !errors.Is(err, esp.ErrNotGenuine):
			t.Errorf("Verify() = %v, want a refusal", err)
		}
	})
}
