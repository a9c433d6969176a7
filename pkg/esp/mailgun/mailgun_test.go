package mailgun_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/mailgun"
)

// The keys that the fixtures are signed with; parentKey made parent-signature.
const (
	fixtureKey = "mailriver-fixture-signing-key"
	parentKey  = "mailriver-fixture-parent-key"
)

var now = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

func TestParse(t *testing.T) { esptest.Parse(t, mailgun.Provider) }

// Signatures that Mailgun made, published with their key in the tests of
// Symfony's Mailgun bridge (MIT). They cover no event, so the event is ours.
func TestVerify_publishedVectors(t *testing.T) {
	const key = "key-0p6mqbf74lb20gzq9f4dhpn9rg3zyk26"
	tests := []struct{ timestamp, token, signature string }{
		{"1661590666", "fff0ebc59c0516f4ce0823212a2f45e5c67814420b99fe558b", "a0cd251821d8fd56a2130b541becc8e441023574e602fe9829a9ab9fbfdea33f"},
		{"1661621787", "d1931d9645b65e60f6fddf94448e982ff8db9256144a7fcb15", "1aed11dcc25700d6b75f9a6d568343ea02ecdd3fc89cc3209e2883a19e5cdd50"},
		{"1661621710", "885894756b6c371a377f5f9516d60a4db497ad27d4931ed215", "606307bb55b72686b1b2a2c8c37ae6e6ec89496592bac4a4eee5a346337d04a5"},
	}
	for _, tt := range tests {
		seconds, _ := strconv.ParseInt(tt.timestamp, 10, 64)
		v := newVerifier(t, func() time.Time { return time.Unix(seconds, 0) }, key)
		w := jsonHook(tt.timestamp, tt.token, tt.signature, "", `{"event":"delivered","id":"x"}`)
		if _, err := v.Verify(t.Context(), w); err != nil {
			t.Errorf("Verify(vector of %s) = %v, want nil", tt.timestamp, err)
		}
	}
}

func TestVerify(t *testing.T) {
	const newest, older, parent, foreign = "newest-key", "older-key", "primary-account-key", "foreign-key"
	v := newVerifier(t, clock, newest, older, parent)
	const token = "0f3c5b7d9e1f2a4c6e8091a2b3c4d5e6f708192a3b4c5d6e7f"
	const data = `{"event":"opened","id":"evt-1","recipient":"ann@example.com"}`
	stamp := seconds(now)
	own := func(key string) string { return mac(key, stamp, token) }
	at := func(at time.Time) esp.Webhook {
		return jsonHook(seconds(at), token, mac(newest, seconds(at), token), "", data)
	}
	body := func(text string) esp.Webhook { return hook("application/json", []byte(text)) }
	tests := []struct {
		name   string
		w      esp.Webhook
		key    string // that verifies it
		reason string // why it is refused
	}{
		{"newest key", jsonHook(stamp, token, own(newest), "", data), newest, ""},
		{"older key", jsonHook(stamp, token, own(older), "", data), older, ""},
		{"signature in upper case", jsonHook(stamp, token, strings.ToUpper(own(newest)), "", data), newest, ""},
		{"a subaccount's own signature is not ours, its parent's is", jsonHook(stamp, token, own(foreign), own(parent), data), parent, ""},
		{"only a parent signature", jsonHook(stamp, token, "", own(parent), data), parent, ""},
		{"own is malformed, the parent's is good", jsonHook(stamp, token, "zz", own(parent), data), parent, ""},
		{"timestamp as a number", body(fmt.Sprintf(`{"signature":{"timestamp":%s,"token":%q,"signature":%q},"event-data":%s}`,
			stamp, token, own(newest), data)), newest, ""},
		{"the last retry", at(now.Add(-8 * time.Hour)), newest, ""},
		{"a day old", at(now.Add(-24 * time.Hour)), newest, ""},
		{"a clock ahead", at(now.Add(10 * time.Minute)), newest, ""},
		{"older than a day", at(now.Add(-24*time.Hour - time.Second)), "", esp.ReasonStale},
		{"too far ahead", at(now.Add(10*time.Minute + time.Second)), "", esp.ReasonStale},
		{"foreign key", jsonHook(stamp, token, own(foreign), "", data), "", esp.ReasonMismatch},
		{"foreign parent", jsonHook(stamp, token, own(foreign), own(foreign), data), "", esp.ReasonMismatch},
		{"foreign key, too old", jsonHook("1", token, mac(foreign, "1", token), "", data), "", esp.ReasonMismatch},
		{"changed timestamp", jsonHook(seconds(now.Add(time.Second)), token, own(newest), "", data), "", esp.ReasonMismatch},
		{"changed token", jsonHook(stamp, token[1:], own(newest), "", data), "", esp.ReasonMismatch},
		// Signed are timestamp and token with nothing between: these are the same
		// bytes, split elsewhere.
		{"a digit moved to the timestamp", jsonHook(stamp+token[:1], token[1:], own(newest), "", data), "", esp.ReasonStale},
		{"a digit moved to the token", jsonHook(stamp[:9], stamp[9:]+token, own(newest), "", data), "", esp.ReasonStale},
		{"timestamp in milliseconds", jsonHook(stamp+"000", "t", mac(newest, stamp+"000", "t"), "", data), "", esp.ReasonStale},
		{"timestamp with a fraction", jsonHook(stamp+".5", "t", mac(newest, stamp+".5", "t"), "", data), "", esp.ReasonMalformed},
		{"timestamp that is a date", jsonHook("2026-11-23T12:00:00Z", "t", mac(newest, "2026-11-23T12:00:00Z", "t"), "", data), "", esp.ReasonMalformed},
		{"not hexadecimal", jsonHook(stamp, token, strings.Repeat("z", 64), "", data), "", esp.ReasonMalformed},
		{"too short", jsonHook(stamp, token, own(newest)[:62], "", data), "", esp.ReasonMalformed},
		{"no signature", jsonHook(stamp, token, "", "", data), "", esp.ReasonMissing},
		{"no token", jsonHook(stamp, "", mac(newest, stamp, ""), "", data), "", esp.ReasonMissing},
		{"no timestamp", jsonHook("", token, mac(newest, "", token), "", data), "", esp.ReasonMissing},
		{"no signature object", body(`{"event-data":` + data + `}`), "", esp.ReasonMissing},
		{"signature is null", body(`{"signature":null,"event-data":` + data + `}`), "", esp.ReasonMissing},
		{"not JSON", body(`{"signature":`), "", esp.ReasonMalformed},
		{"an array", body(`[]`), "", esp.ReasonMalformed},
		{"no form of Mailgun", hook("application/x-www-form-urlencoded", []byte("a=b")), "", esp.ReasonMalformed},
		{"empty body", hook("application/json", nil), "", esp.ReasonMalformed},
		{"a stack of brackets", body("{\"a\":" + strings.Repeat("[", 8<<20)), "", esp.ReasonMalformed},
		{"the signature is there twice: the last counts", body(fmt.Sprintf(
			`{"signature":{"timestamp":%[1]q,"token":%[2]q,"signature":%[3]q},"event-data":%[5]s,"signature":{"timestamp":%[1]q,"token":%[2]q,"signature":%[4]q}}`,
			stamp, token, own(newest), own(foreign), data)), "", esp.ReasonMismatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), tt.w)
			reason, _ := esp.RefusalReason(err)
			if reason != tt.reason || (err == nil) != (tt.reason == "") || err != nil && !errors.Is(err, esp.ErrNotGenuine) {
				t.Fatalf("Verify() = %v, want reason %q", err, tt.reason)
			}
			if err == nil && (got.KeyID != esp.KeyID(tt.key) || got.DeliveryKey != "evt-1") {
				t.Errorf("Verify() = %+v, want key %q, delivery key evt-1", got, esp.KeyID(tt.key))
			}
		})
	}
}

// What stands before Mailgun's own timestamp, token and signature in the legacy
// form are the sender's variables of the same names.
func TestVerify_legacy(t *testing.T) {
	v := newVerifier(t, clock, "key")
	stamp, token := seconds(now), "0f3c"
	good := [][2]string{{"event", "opened"}, {"recipient", "ann@example.com"}, {"timestamp", stamp}, {"token", token}, {"signature", mac("key", stamp, token)}}
	before := append([][2]string{{"token", "mine"}, {"timestamp", "1"}, {"signature", "x"}}, good...)
	after := append(append([][2]string{}, good...), [2]string{"token", "mine"})
	for _, encode := range []func(*testing.T, [][2]string) esp.Webhook{urlencoded, multiparted} {
		for _, tt := range []struct {
			name   string
			fields [][2]string
			reason string
		}{
			{"genuine", good, ""},
			{"variables of the same names", before, ""},
			{"token added behind", after, esp.ReasonMismatch},
			{"without the signature", good[:4], esp.ReasonMissing},
		} {
			w := encode(t, tt.fields)
			got, err := v.Verify(t.Context(), w)
			if reason, _ := esp.RefusalReason(err); reason != tt.reason || (err == nil) != (tt.reason == "") {
				t.Errorf("Verify(%s, %s) = %v, want reason %q", tt.name, w.Header.Get("Content-Type"), err, tt.reason)
			}
			if err == nil && len(got.DeliveryKey) != 36 {
				t.Errorf("Verify(%s) delivery key = %q, want the identity of the event", tt.name, got.DeliveryKey)
			}
		}
	}
}

// Each signed fixture is genuine, and its delivery key is the id that Parse
// gives, so that verifier and parser have read the same bytes.
func TestVerify_fixtures(t *testing.T) {
	verified := 0
	for name, w := range esptest.Fixtures(t, "testdata") {
		got, err := newVerifier(t, clock, fixtureKey).Verify(t.Context(), w)
		if err != nil {
			if reason, _ := esp.RefusalReason(err); reason != esp.ReasonMalformed {
				t.Errorf("Verify(%s) = %v, want nil, or %s for a body that cannot be read", name, err, esp.ReasonMalformed)
			}
			continue
		}
		verified++
		result, err := mailgun.Provider.Parse(w)
		if err != nil {
			t.Errorf("Parse(%s) = %v after Verify accepted it", name, err)
		}
		for _, e := range result.Events {
			want := e.NativeEventID
			if e.ProviderVariant != "" {
				want = e.ID.String()
			}
			if got.DeliveryKey != want {
				t.Errorf("Verify(%s) delivery key = %q, want %q", name, got.DeliveryKey, want)
			}
		}
	}
	if verified < 50 {
		t.Errorf("%d fixtures are genuine, want at least 50", verified)
	}
	both := esptest.Fixtures(t, "testdata")["failed_bounce"]
	if got, err := newVerifier(t, clock, parentKey).Verify(t.Context(), both); err != nil || got.KeyID != esp.KeyID(parentKey) {
		t.Errorf("Verify(failed_bounce) by the primary account's key = %+v, %v", got, err)
	}
}

func TestVerify_longIDIsNoKey(t *testing.T) {
	v := newVerifier(t, clock, "key")
	w := jsonHook(seconds(now), "t", mac("key", seconds(now), "t"), "", `{"event":"opened","id":"`+strings.Repeat("x", 129)+`"}`)
	if got, err := v.Verify(t.Context(), w); err != nil || got.DeliveryKey != "" {
		t.Errorf("Verify() = %d bytes of delivery key, %v, want none", len(got.DeliveryKey), err)
	}
}

func TestNewVerifier(t *testing.T) {
	tests := []struct {
		name string
		keys []string
		now  func() time.Time
		want string // in the error; empty: none
	}{
		{"one", []string{"key"}, clock, ""},
		{"from a file", []string{"key\n"}, clock, ""},
		{"none", nil, clock, "keys:"},
		{"empty", []string{"key", " \n"}, clock, "keys[1]: is empty"},
		{"no clock", []string{"key"}, nil, "now:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := mailgun.Provider.NewVerifier(esp.Settings{Keys: tt.keys, Now: tt.now})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("NewVerifier() = %v, want an error with %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w := jsonHook(seconds(now), "t", mac("key", seconds(now), "t"), "", `{}`)
			if _, err := v.Verify(t.Context(), w); err != nil {
				t.Errorf("Verify() = %v, want nil", err)
			}
		})
	}
}

// The requests of an account's and of a domain's webhook, and every retry, are
// one event; what differs in id, name or time is another.
func TestParse_identity(t *testing.T) {
	parse := func(source, token, data string) string {
		t.Helper()
		w := jsonHook(seconds(now), token, "00", "", data)
		w.Source = source
		result, err := mailgun.Provider.Parse(w)
		if err != nil || len(result.Events) != 1 {
			t.Fatalf("Parse(%s) = %+v, %v", data, result, err)
		}
		return result.Events[0].ID.String()
	}
	const data = `{"event":"opened","id":"e1","timestamp":1795430500.000001,"recipient":"ann@example.com"}`
	base := parse("shop", "one", data)
	if got := parse("shop", "two", strings.Replace(data, "}", `,"domain":{"name":"mg.example.org"}}`, 1)); got != base {
		t.Errorf("id in another request = %s, want %s", got, base)
	}
	for name, other := range map[string]string{
		"source":    parse("blog", "one", data),
		"id":        parse("shop", "one", strings.Replace(data, "e1", "e2", 1)),
		"event":     parse("shop", "one", strings.Replace(data, "opened", "clicked", 1)),
		"timestamp": parse("shop", "one", strings.Replace(data, ".000001", ".000002", 1)),
	} {
		if other == base {
			t.Errorf("another %s gives the same id", name)
		}
	}
}

func BenchmarkVerifyAndParse(b *testing.B) {
	v := newVerifier(b, clock, fixtureKey)
	w := esptest.Fixtures(b, "testdata")["failed_bounce"]
	b.SetBytes(int64(len(w.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), w); err != nil {
			b.Fatal(err)
		}
		if result, err := mailgun.Provider.Parse(w); err != nil || len(result.Events) != 1 {
			b.Fatalf("Parse() = %d events, %v", len(result.Events), err)
		}
	}
}

func seconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

func mac(key, timestamp, token string) string {
	hash := hmac.New(sha256.New, []byte(key))
	hash.Write([]byte(timestamp + token))
	return hex.EncodeToString(hash.Sum(nil))
}

func newVerifier(tb testing.TB, clock func() time.Time, keys ...string) esp.Verifier {
	tb.Helper()
	v, err := mailgun.Provider.NewVerifier(esp.Settings{Keys: keys, Now: clock})
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func hook(contentType string, body []byte) esp.Webhook {
	header := textproto.MIMEHeader{}
	header.Set("Content-Type", contentType)
	return esp.Webhook{Source: esptest.Source, Header: header, Body: body, ReceivedAt: now}
}

func jsonHook(timestamp, token, signature, parent, data string) esp.Webhook {
	fields := fmt.Sprintf(`"timestamp":%q,"token":%q`, timestamp, token)
	if signature != "" {
		fields += fmt.Sprintf(`,"signature":%q`, signature)
	}
	if parent != "" {
		fields += fmt.Sprintf(`,"parent-signature":%q`, parent)
	}
	return hook("application/json", []byte(`{"signature":{`+fields+`},"event-data":`+data+`}`))
}

func urlencoded(_ *testing.T, fields [][2]string) esp.Webhook {
	var pairs []string
	for _, field := range fields {
		pairs = append(pairs, url.QueryEscape(field[0])+"="+url.QueryEscape(field[1]))
	}
	return hook("application/x-www-form-urlencoded", []byte(strings.Join(pairs, "&")))
}

func multiparted(t *testing.T, fields [][2]string) esp.Webhook {
	t.Helper()
	var body bytes.Buffer
	writer := multipart.NewWriter(&body)
	for _, field := range fields {
		if err := writer.WriteField(field[0], field[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return hook(writer.FormDataContentType(), body.Bytes())
}
