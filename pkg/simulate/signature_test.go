package simulate_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha1" // what the vendors sign with
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/simulate"
)

const (
	signatureHeader = "X-Twilio-Email-Event-Webhook-Signature"
	timestampHeader = "X-Twilio-Email-Event-Webhook-Timestamp"
)

var errForged = errors.New("not genuine")

// checks verify a request by the vendors' rules, with nothing but the standard
// library and what a receiver is given.
func checks() map[string]func(simulate.Keys, simulate.Request) error {
	return map[string]func(simulate.Keys, simulate.Request) error{
		"sendgrid": genuineSendgrid,
		"mailgun":  genuineMailgun,
		"postmark": genuinePostmark,
		"ses":      genuineSNS,
		"mandrill": genuineMandrill,
	}
}

func genuine(keys simulate.Keys, r simulate.Request) error {
	check, ok := checks()[r.Provider]
	if !ok {
		return errors.New("nobody says how requests of " + r.Provider + " are verified")
	}
	return check(keys, r)
}

func genuineSendgrid(keys simulate.Keys, r simulate.Request) error {
	der, err := base64.StdEncoding.DecodeString(keys.Text("sendgrid.pub"))
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return err
	}
	signature, err := base64.StdEncoding.DecodeString(r.Header.Get(signatureHeader))
	if err != nil {
		return err
	}
	digest := sha256.Sum256(append([]byte(r.Header.Get(timestampHeader)), r.Body...))
	if !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], signature) {
		return errForged
	}
	return nil
}

func genuineMailgun(keys simulate.Keys, r simulate.Request) error {
	var body struct {
		Signature struct{ Timestamp, Token, Signature string }
	}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return err
	}
	mac := hmac.New(sha256.New, []byte(keys.Text("mailgun.key")))
	mac.Write([]byte(body.Signature.Timestamp + body.Signature.Token))
	if len(body.Signature.Token) != 50 || body.Signature.Signature != hex.EncodeToString(mac.Sum(nil)) {
		return errForged
	}
	return nil
}

func genuinePostmark(keys simulate.Keys, r simulate.Request) error {
	if r.Header.Get("Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(keys.Text("postmark.auth"))) {
		return errForged
	}
	return nil
}

func genuineMandrill(keys simulate.Keys, r simulate.Request) error {
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return err
	}
	signed := base + "/webhooks/mandrill"
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range form {
			if !yield(name) {
				return
			}
		}
	}) {
		signed += name + form.Get(name)
	}
	mac := hmac.New(sha1.New, []byte(keys.Text("mandrill.key")))
	mac.Write([]byte(signed))
	if r.Header.Get("X-Mandrill-Signature") != base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		return errForged
	}
	return nil
}

func genuineSNS(keys simulate.Keys, r simulate.Request) error {
	var envelope map[string]string
	if err := json.Unmarshal(r.Body, &envelope); err != nil {
		return err
	}
	if envelope["TopicArn"] != keys.Text("sns.topic") || envelope["SigningCertURL"] != "https://"+certHost+keys.CertPath() ||
		r.Header.Get("x-amz-sns-message-type") != envelope["Type"] || r.Header.Get("x-amz-sns-message-id") != envelope["MessageId"] {
		return errForged
	}
	names := []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	if envelope["Type"] == "SubscriptionConfirmation" {
		names = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
	}
	var text strings.Builder
	for _, name := range names {
		if value, ok := envelope[name]; ok {
			text.WriteString(name + "\n" + value + "\n")
		}
	}
	block, _ := pem.Decode(keys.File("sns.cert.pem"))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	signature, err := base64.StdEncoding.DecodeString(envelope["Signature"])
	if err != nil {
		return err
	}
	hash := map[string]crypto.Hash{"1": crypto.SHA1, "2": crypto.SHA256}[envelope["SignatureVersion"]]
	if !hash.Available() {
		return errForged
	}
	digest := hash.New()
	digest.Write([]byte(text.String()))
	return rsa.VerifyPKCS1v15(certificate.PublicKey.(*rsa.PublicKey), hash, digest.Sum(nil), signature)
}

func TestSignatures(t *testing.T) {
	keys := newKeys(t)
	opt := simulate.Options{Seed: 11, Events: 2500, Duplicates: 0.2, Forgeries: 0.5}
	genuines, forgeries, versions := map[string]int{}, map[string]int{}, map[string]int{}
	for r := range generate(t, keys.Sources(base, certHost), opt) {
		err := genuine(keys, r)
		if (err != nil) != r.Forged {
			t.Errorf("%s, forged %t: %v\n%.300s", r.Provider, r.Forged, err, r.Body)
		}
		if r.Forged {
			forgeries[r.Provider]++
			continue
		}
		genuines[r.Provider]++
		for _, version := range []string{`"SignatureVersion":"1"`, `"SignatureVersion":"2"`} {
			if strings.Contains(string(r.Body), version) {
				versions[version]++
			}
		}
	}
	for _, provider := range simulate.Providers() {
		if genuines[provider] < 5 || forgeries[provider] < 5 {
			t.Errorf("%s: %d genuine and %d forged requests, want some of each", provider, genuines[provider], forgeries[provider])
		}
	}
	if len(versions) != 2 {
		t.Errorf("SNS signature versions: %v, want both", versions)
	}
}

func TestConfirmation(t *testing.T) {
	keys := newKeys(t)
	source := only(keys.Sources(base, certHost), "ses")[0]
	r, err := simulate.Confirmation(source, "https://"+certHost+"/?Action=ConfirmSubscription", "7a7a", start)
	if err != nil {
		t.Fatal(err)
	}
	if err := genuine(keys, r); err != nil {
		t.Errorf("Confirmation() is not genuine: %v", err)
	}
	r.Body = []byte(strings.Replace(string(r.Body), "7a7a", "7b7b", 1))
	if err := genuine(keys, r); err == nil {
		t.Error("another token is genuine as well")
	}
	if _, err := simulate.Confirmation(simulate.Source{Name: "x"}, "", "", time.Time{}); err == nil {
		t.Error("Confirmation(no topic) = nil error")
	}
}
