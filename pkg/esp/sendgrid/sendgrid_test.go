package sendgrid_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/esptest"
	"mailriver/pkg/esp/sendgrid"
)

const (
	signatureHeader = "X-Twilio-Email-Event-Webhook-Signature"
	timestampHeader = "X-Twilio-Email-Event-Webhook-Timestamp"
)

var now = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

func TestParse(t *testing.T) { esptest.Parse(t, sendgrid.Provider) }

// The vector that the SendGrid SDKs publish with their verification code. The
// body ends in CR LF, and the signature covers that.
const (
	vectorKey       = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
	vectorSignature = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
	vectorTimestamp = "1600112502"
	vectorBody      = `[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",` +
		`"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",` +
		`"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",` +
		`"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]` + "\r\n"
)

func TestVerify_publishedVector(t *testing.T) {
	at := time.Unix(1600112502, 0)
	v := newVerifier(t, func() time.Time { return at }, vectorKey)
	if _, err := v.Verify(t.Context(), hook([]byte(vectorBody), vectorTimestamp, vectorSignature)); err != nil {
		t.Errorf("Verify(vector) = %v, want nil", err)
	}
	for name, body := range map[string]string{
		"trimmed": strings.TrimSpace(vectorBody), "line feed only": strings.TrimSpace(vectorBody) + "\n",
	} {
		_, err := v.Verify(t.Context(), hook([]byte(body), vectorTimestamp, vectorSignature))
		if reason, _ := esp.RefusalReason(err); reason != esp.ReasonMismatch {
			t.Errorf("Verify(vector, %s) = %v, want %s", name, err, esp.ReasonMismatch)
		}
	}
}

func TestVerify(t *testing.T) {
	first, second, foreign := newKey(t), newKey(t), newKey(t)
	v := newVerifier(t, clock, public(t, first), public(t, second))
	body := []byte("[{\"event\":\"open\"}]\r\n")
	stamp := strconv.FormatInt(now.Unix(), 10)
	signed := func(key *ecdsa.PrivateKey, at time.Time) esp.Webhook {
		ts := strconv.FormatInt(at.Unix(), 10)
		return hook(body, ts, sign(t, key, ts, body))
	}
	with := func(change func(w *esp.Webhook)) esp.Webhook {
		w := signed(first, now)
		change(&w)
		return w
	}
	tests := []struct {
		name   string
		w      esp.Webhook
		keyID  string // of the key that verifies it
		reason string // why it is refused
	}{
		{"newest key", signed(first, now), esp.KeyID(public(t, first)), ""},
		{"older key", signed(second, now), esp.KeyID(public(t, second)), ""},
		{"a retry a day later", signed(first, now.Add(-25*time.Hour)), esp.KeyID(public(t, first)), ""},
		{"a clock ahead", signed(first, now.Add(10*time.Minute)), esp.KeyID(public(t, first)), ""},
		{"too old", signed(first, now.Add(-25*time.Hour-time.Second)), "", esp.ReasonStale},
		{"too far ahead", signed(first, now.Add(10*time.Minute+time.Second)), "", esp.ReasonStale},
		{"foreign key", signed(foreign, now), "", esp.ReasonMismatch},
		{"foreign key, too old", signed(foreign, now.Add(-48*time.Hour)), "", esp.ReasonMismatch},
		{"changed body", with(func(w *esp.Webhook) { w.Body = bytes.Replace(w.Body, []byte("open"), []byte("oben"), 1) }), "", esp.ReasonMismatch},
		{"trimmed body", with(func(w *esp.Webhook) { w.Body = bytes.TrimSpace(w.Body) }), "", esp.ReasonMismatch},
		{"empty body", with(func(w *esp.Webhook) { w.Body = nil }), "", esp.ReasonMismatch},
		{"changed timestamp", with(func(w *esp.Webhook) { w.Header.Set(timestampHeader, strconv.FormatInt(now.Unix()+1, 10)) }), "", esp.ReasonMismatch},
		{"a byte moved from timestamp to body", with(func(w *esp.Webhook) {
			w.Header.Set(timestampHeader, stamp[:9])
			w.Body = append([]byte(stamp[9:]), w.Body...)
		}), "", esp.ReasonStale}, // the bytes are the same, but not the time
		{"no signature", with(func(w *esp.Webhook) { w.Header.Del(signatureHeader) }), "", esp.ReasonMissing},
		{"no timestamp", with(func(w *esp.Webhook) { w.Header.Del(timestampHeader) }), "", esp.ReasonMissing},
		{"no headers", esp.Webhook{Body: body}, "", esp.ReasonMissing},
		{"not base64", with(func(w *esp.Webhook) { w.Header.Set(signatureHeader, "!!!") }), "", esp.ReasonMalformed},
		{"not DER", with(func(w *esp.Webhook) { w.Header.Set(signatureHeader, "AAAA") }), "", esp.ReasonMalformed},
		{"DER and more", with(func(w *esp.Webhook) {
			der, _ := base64.StdEncoding.DecodeString(w.Header.Get(signatureHeader))
			w.Header.Set(signatureHeader, base64.StdEncoding.EncodeToString(append(der, 0)))
		}), "", esp.ReasonMalformed},
		{"a signed timestamp that is no time", hook(body, "soon", sign(t, first, "soon", body)), "", esp.ReasonMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), tt.w)
			reason, _ := esp.RefusalReason(err)
			if got.KeyID != tt.keyID || reason != tt.reason || (err == nil) != (tt.reason == "") {
				t.Errorf("Verify() = %+v, %v, want key %q, reason %q", got, err, tt.keyID, tt.reason)
			}
			if err != nil && !errors.Is(err, esp.ErrNotGenuine) {
				t.Errorf("Verify() = %v, want an error that is ErrNotGenuine", err)
			}
			if got.DeliveryKey != "" {
				t.Errorf("delivery key = %q, want none: a retry repeats the body", got.DeliveryKey)
			}
		})
	}
}

func TestNewVerifier(t *testing.T) {
	good := public(t, newKey(t))
	der, _ := base64.StdEncoding.DecodeString(good)
	armored := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	secret := base64.StdEncoding.EncodeToString(private)
	tests := []struct {
		name string
		keys []string
		now  func() time.Time
		want string // in the error; empty: none
	}{
		{"as shown by SendGrid", []string{good}, clock, ""},
		{"with line breaks", []string{good[:60] + "\n" + good[60:] + "\n"}, clock, ""},
		{"in PEM armor", []string{armored}, clock, ""},
		{"several", []string{good, armored}, clock, ""},
		{"none", nil, clock, "keys:"},
		{"empty", []string{""}, clock, "keys[0]"},
		{"second is not base64", []string{good, "???"}, clock, "keys[1]: not base64"},
		{"not a key", []string{"AAAA"}, clock, "keys[0]: not a public key"},
		{"a private key", []string{secret}, clock, "keys[0]: not a public key"},
		{"P-384", []string{encode(t, &p384.PublicKey)}, clock, "keys[0]: is on curve P-384, want P-256"},
		{"Ed25519", []string{encode(t, ed)}, clock, "want ECDSA"},
		{"RSA", []string{encode(t, &rsaKey.PublicKey)}, clock, "want ECDSA"},
		{"no clock", []string{good}, nil, "now:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := sendgrid.Provider.NewVerifier(esp.Settings{Keys: tt.keys, Now: tt.now})
			if tt.want == "" {
				if err != nil || v == nil {
					t.Errorf("NewVerifier() = %v, %v, want a verifier", v, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("NewVerifier() = %v, want an error with %q and without the key", err, tt.want)
			}
		})
	}
}

// A redelivery, whatever stands around the event in its batch, gives the same
// id; another event of the same message does not.
func TestParse_identity(t *testing.T) {
	const click = `{"event":"click","email":"%s","timestamp":1795430120,"url":"https://example.com/","sg_event_id":"Y2xr"}`
	parse := func(source, body string) string {
		t.Helper()
		result, err := sendgrid.Provider.Parse(esp.Webhook{Source: source, Body: []byte(body), ReceivedAt: now})
		if err != nil || len(result.Events) == 0 {
			t.Fatalf("Parse(%s) = %v, %v", body, result, err)
		}
		return result.Events[len(result.Events)-1].ID.String()
	}
	one := strings.Replace(click, "%s", "ann@example.com", 1)
	base := parse("shop", "["+one+"]")
	other := `{"event":"open","email":"bob@example.com","timestamp":1795430000,"sg_event_id":"b3Bu"}`
	if got := parse("shop", "["+other+","+one+"]\r\n"); got != base {
		t.Errorf("id in another batch = %s, want %s", got, base)
	}
	if got := parse("shop", "["+strings.Replace(click, "%s", "Ann@Example.com", 1)+"]"); got != base {
		t.Errorf("id with the address in another case = %s, want %s", got, base)
	}
	if got := parse("blog", "["+one+"]"); got == base {
		t.Error("two sources give one id")
	}
	if got := parse("shop", "["+strings.Replace(one, "Y2xr", "Y2xs", 1)+"]"); got == base {
		t.Error("two sg_event_ids give one id")
	}
}

func BenchmarkParse(b *testing.B) {
	body := batch(100)
	w := esp.Webhook{Source: "shop", Body: body, ReceivedAt: now}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		result, err := sendgrid.Provider.Parse(w)
		if err != nil || len(result.Events) != 100 {
			b.Fatalf("Parse() = %d events, %v", len(result.Events), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/event")
}

func BenchmarkVerify(b *testing.B) {
	key := newKey(b)
	v := newVerifier(b, clock, public(b, key))
	body := batch(100)
	stamp := strconv.FormatInt(now.Unix(), 10)
	w := hook(body, stamp, sign(b, key, stamp, body))
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := v.Verify(b.Context(), w); err != nil {
			b.Fatal(err)
		}
	}
}

// batch is like what SendGrid posts: mostly deliveries and opens, each with the
// sender's own arguments.
func batch(events int) []byte {
	kinds := []string{
		`"event":"processed","send_at":1795430000,"pool":{"id":7,"name":"tx"}`,
		`"event":"delivered","response":"250 2.0.0 OK 1795430009 q1-20020a05 - gsmtp","ip":"192.0.2.10","tls":1`,
		`"event":"open","sg_machine_open":false,"sg_content_type":"html","ip":"203.0.113.4","useragent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"`,
		`"event":"click","url":"https://shop.example.com/orders/17?utm_source=mail","url_offset":{"index":0,"type":"html"},"ip":"203.0.113.4","useragent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"`,
		`"event":"delivered","response":"250 2.0.0 OK","ip":"192.0.2.11","tls":1`,
	}
	var text strings.Builder
	text.WriteByte('[')
	for i := range events {
		if i > 0 {
			text.WriteByte(',')
		}
		n := strconv.Itoa(i)
		text.WriteString(`{"email":"customer` + n + `@example.com","timestamp":` + strconv.Itoa(1795430000+i) + `,` +
			kinds[i%len(kinds)] + `,"smtp-id":"<Zx81kQ` + n + `@geopod-ismtpd-4>","category":["receipt","eu"],` +
			`"sg_event_id":"ZGVsaXZlcmVkLTAtMTA5OTQ5MTkt` + n + `","sg_message_id":"Zx81kQ` + n +
			`.recvd-6f9b7c6d5-x2x7q-1-65F0A1B2-2E.0","asm_group_id":42,"order_id":"A-` + n + `","customer_id":"` + n + `"}`)
	}
	text.WriteString("]\r\n")
	return []byte(text.String())
}

func hook(body []byte, timestamp, signature string) esp.Webhook {
	header := textproto.MIMEHeader{}
	header.Set("Content-Type", "application/json")
	header.Set(timestampHeader, timestamp)
	header.Set(signatureHeader, signature)
	return esp.Webhook{Source: "shop", Header: header, Body: body, ReceivedAt: now}
}

func newVerifier(tb testing.TB, clock func() time.Time, keys ...string) esp.Verifier {
	tb.Helper()
	v, err := sendgrid.Provider.NewVerifier(esp.Settings{Keys: keys, Now: clock})
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func public(tb testing.TB, key *ecdsa.PrivateKey) string {
	tb.Helper()
	return encode(tb, &key.PublicKey)
}

func encode(tb testing.TB, public any) string {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func sign(tb testing.TB, key *ecdsa.PrivateKey, timestamp string, body []byte) string {
	tb.Helper()
	digest := sha256.Sum256(append([]byte(timestamp), body...))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		tb.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}
