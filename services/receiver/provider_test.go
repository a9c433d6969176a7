package receiver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/mailgun"
	"mailriver/pkg/esp/mandrill"
	"mailriver/pkg/esp/postmark"
	"mailriver/pkg/esp/sendgrid"
	"mailriver/pkg/esp/ses"
)

// TestRealProviders sends what the providers themselves would send, and the
// same with one thing changed.
func TestRealProviders(t *testing.T) {
	const (
		topic      = "arn:aws:sns:eu-west-1:123456789012:ses-events"
		webhookURL = "https://hooks.example.com/webhooks/mandrill"
	)
	confirmed := make(chan string, 1)
	var certificate []byte
	server, root := authority(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".pem") {
			_, _ = w.Write(certificate)
			return
		}
		confirmed <- r.URL.RawQuery
	})
	certificate = root // the server's own key signs as SNS would
	snsKey := server.TLS.Certificates[0].PrivateKey.(*rsa.PrivateKey)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&curve.PublicKey)
	if err != nil {
		t.Fatal(err)
	}

	sources := []Source{
		{Name: "sendgrid", Provider: "sendgrid", Keys: secrets(base64.StdEncoding.EncodeToString(public))},
		{Name: "mailgun", Provider: "mailgun", Keys: secrets("mailgun-key")},
		{Name: "postmark", Provider: "postmark", BasicAuth: secrets("user:password")},
		{
			Name: "ses", Provider: "ses", TopicARNs: []string{topic}, CAFile: "ca.pem",
			CertHosts: []string{strings.TrimPrefix(server.URL, "https://")},
		},
		{
			Name: "far", Provider: "ses", TopicARNs: []string{topic}, CAFile: "ca.pem",
			CertHosts: []string{"127.0.0.1:1"},
		},
		{Name: "mandrill", Provider: "mandrill", Keys: secrets("mandrill-key"), URL: webhookURL},
	}
	producer := &acknowledging{}
	f := newFixture(t, DefaultConfig(), nil, producer, func(d *Deps) {
		d.Providers = []esp.Provider{
			sendgrid.Provider, mailgun.Provider, postmark.Provider, ses.Provider, mandrill.Provider,
		}
		d.ReadFile = func(string) ([]byte, error) { return root, nil }
	})
	if f.service.sources, err = newSources(f.service.cfg, sources, f.service.deps.Surroundings); err != nil {
		t.Fatal(err)
	}
	run(t, f.service)

	now := f.clock.Now()
	type request struct {
		body    []byte
		headers map[string]string
	}
	sendgridRequest := func() request {
		body := []byte(`[{"event":"delivered","email":"a@example.com"}]` + "\r\n")
		stamp := fmt.Sprint(now.Unix())
		digest := sha256.Sum256(append([]byte(stamp), body...))
		der, err := ecdsa.SignASN1(rand.Reader, curve, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return request{body, map[string]string{
			"X-Twilio-Email-Event-Webhook-Signature": base64.StdEncoding.EncodeToString(der),
			"X-Twilio-Email-Event-Webhook-Timestamp": stamp,
		}}
	}
	mailgunRequest := func() request {
		stamp, token := fmt.Sprint(now.Unix()), strings.Repeat("ab", 25)
		mac := hmac.New(sha256.New, []byte("mailgun-key"))
		mac.Write([]byte(stamp + token))
		body := fmt.Sprintf(`{"signature":{"timestamp":%q,"token":%q,"signature":%q},"event-data":{"id":"1","event":"delivered"}}`,
			stamp, token, hex.EncodeToString(mac.Sum(nil)))
		return request{[]byte(body), map[string]string{"Content-Type": "application/json"}}
	}
	postmarkRequest := func() request {
		return request{[]byte(`{"RecordType":"Delivery"}`), map[string]string{
			"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("user:password")),
		}}
	}
	snsRequest := func(base string) request {
		fields := map[string]string{
			"Type": "SubscriptionConfirmation", "MessageId": "m-1", "Token": "t-1", "TopicArn": topic, "Message": "confirm",
			"SubscribeURL": base + "/?Action=ConfirmSubscription&Token=t-1", "Timestamp": now.Format("2006-01-02T15:04:05.000Z"),
		}
		var text strings.Builder
		for _, name := range []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"} {
			text.WriteString(name + "\n" + fields[name] + "\n")
		}
		digest := sha256.Sum256([]byte(text.String()))
		signature, err := rsa.SignPKCS1v15(rand.Reader, snsKey, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		fields["SignatureVersion"], fields["Signature"] = "2", base64.StdEncoding.EncodeToString(signature)
		fields["SigningCertURL"] = base + "/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
		body, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return request{body, map[string]string{
			"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": fields["Type"],
			"x-amz-sns-message-id": fields["MessageId"], "x-amz-sns-topic-arn": topic,
		}}
	}
	mandrillRequest := func() request {
		mac := hmac.New(sha1.New, []byte("mandrill-key"))
		mac.Write([]byte(webhookURL + "mandrill_events" + `[{"event":"send"}]`))
		return request{[]byte("mandrill_events=%5B%7B%22event%22%3A%22send%22%7D%5D"), map[string]string{
			"Content-Type":         "application/x-www-form-urlencoded",
			"X-Mandrill-Signature": base64.StdEncoding.EncodeToString(mac.Sum(nil)),
		}}
	}
	without := func(r request, name string) request { delete(r.headers, name); return r }
	changed := func(r request, from, to string) request {
		body := bytes.Replace(r.body, []byte(from), []byte(to), 1)
		if bytes.Equal(body, r.body) {
			t.Fatalf("%q is not in the body", from)
		}
		return request{body, r.headers}
	}

	tests := []struct {
		name    string
		source  string
		request request
		want    int
	}{
		{"sendgrid", "sendgrid", sendgridRequest(), 200},
		{"sendgrid, the last line end lost", "sendgrid", changed(sendgridRequest(), "\r\n", ""), 401},
		{"mailgun", "mailgun", mailgunRequest(), 200},
		{"mailgun, another token", "mailgun", changed(mailgunRequest(), "abab", "abac"), 406},
		{"postmark", "postmark", postmarkRequest(), 200},
		{"postmark without credentials", "postmark", without(postmarkRequest(), "Authorization"), 401},
		{"ses", "ses", snsRequest(server.URL), 200},
		{"ses, another token", "ses", changed(snsRequest(server.URL), `"t-1"`, `"t-2"`), ses.Provider.Answers.Refuse},
		{"ses, another topic", "ses", changed(snsRequest(server.URL), "ses-events", "not-mine"), ses.Provider.Answers.Refuse},
		{"ses, certificate out of reach", "far", snsRequest("https://127.0.0.1:1"), ses.Provider.Answers.Retry},
		{"mandrill", "mandrill", mandrillRequest(), 200},
		{"mandrill, another event", "mandrill", changed(mandrillRequest(), "send", "open"), 401},
	}
	accepted := 0
	for _, tt := range tests {
		got := f.post(t, tt.source, bytes.NewReader(tt.request.body), func(r *http.Request) {
			for name, value := range tt.request.headers {
				r.Header.Set(name, value)
			}
		})
		if got.StatusCode != tt.want {
			t.Errorf("%s: POST = %d, want %d; log: %s", tt.name, got.StatusCode, tt.want, f.log.String())
		}
		if tt.want == 200 {
			accepted++
			if last := producer.records[len(producer.records)-1]; !bytes.Equal(last.Value, tt.request.body) {
				t.Errorf("%s: the record holds %q, want %q", tt.name, last.Value, tt.request.body)
			}
		}
	}
	if n := producer.Len(); n != accepted {
		t.Errorf("%d records produced, want %d", n, accepted)
	}
	if got, want := <-confirmed, "Action=ConfirmSubscription&Token=t-1"; got != want {
		t.Errorf("confirmation = %q, want %q", got, want)
	}
}
