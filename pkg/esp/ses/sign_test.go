package ses_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/ses"
)

// What the tests play: an SNS of their own, with a certificate authority, and
// the network between it and the verifier.

const (
	topic   = "arn:aws:sns:eu-west-1:111122223333:ses-events"
	certURL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
	message = `{"eventType":"Send","mail":{"messageId":"m-1","destination":["ann@example.com"]},"send":{}}` + "\n"
)

var now = time.Date(2026, time.November, 23, 10, 1, 0, 0, time.UTC)

// Keys take long to make, so they are made once.
var (
	awsKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	thiefKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	smallKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 1024)) })
	curveKey = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	rootKey  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err) // no randomness: nothing can be tested
	}
	return value
}

// certify returns the certificate of a key as PEM, made by the tests' authority.
func certify(t testing.TB, key crypto.Signer, notBefore, notAfter time.Time) []byte {
	t.Helper()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Authority"},
		NotBefore: now.AddDate(-10, 0, 0), NotAfter: now.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "sns.amazonaws.com"},
		NotBefore: notBefore, NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// goodCertificate is that of awsKey, valid for a year around now.
func goodCertificate(t testing.TB) []byte {
	return certify(t, awsKey(), now.AddDate(0, -6, 0), now.AddDate(0, 6, 0))
}

// network serves documents by URL, counts, and can hold answers back.
type network struct {
	mu    sync.Mutex
	pages map[string][]byte
	asked []string
	hold  func(ctx context.Context, url string) error // nil: answers at once
}

var errNoPage = errors.New("404 Not Found")

func (n *network) fetch(ctx context.Context, url string) ([]byte, error) {
	n.mu.Lock()
	n.asked = append(n.asked, url)
	page, found := n.pages[url]
	hold := n.hold
	n.mu.Unlock()
	if hold != nil {
		if err := hold(ctx, url); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, errNoPage
	}
	return page, nil
}

func (n *network) serve(url string, page []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pages[url] = page
}

func (n *network) requests() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

func newNetwork(t testing.TB) *network {
	return &network{pages: map[string][]byte{certURL: goodCertificate(t)}}
}

func newVerifier(t testing.TB, n *network, change func(*esp.Settings)) esp.Verifier {
	t.Helper()
	s := esp.Settings{TopicARNs: []string{topic}, Fetch: n.fetch, Now: func() time.Time { return now }}
	if change != nil {
		change(&s)
	}
	v, err := ses.Provider.NewVerifier(s)
	if err != nil {
		t.Fatalf("NewVerifier(%+v) = %v", s, err)
	}
	return v
}

// sns is an SNS message in the making.
type sns struct {
	fields map[string]string
	header map[string]string
	key    *rsa.PrivateKey
}

func notification() *sns {
	return &sns{key: awsKey(), fields: map[string]string{
		"Type": "Notification", "MessageId": "7c1f0a3e-4b5d-5e6f-8a9b-0c1d2e3f4a5b", "TopicArn": topic,
		"Subject": "Amazon SES Email Event Notification", "Message": message,
		"Timestamp": "2026-11-23T10:00:10.412Z", "SignatureVersion": "2", "SigningCertURL": certURL,
		"UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=" + topic + ":1a2b",
	}}
}

func confirmation(kind string) *sns {
	s := notification()
	delete(s.fields, "Subject")
	delete(s.fields, "UnsubscribeURL")
	s.fields["Type"] = kind
	s.fields["Token"] = "7a7a0102030405060708"
	s.fields["Message"] = "You have chosen to subscribe.\nTo confirm, visit the SubscribeURL."
	s.fields["SubscribeURL"] = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + topic + "&Token=7a7a0102030405060708"
	return s
}

// with changes a field; the empty text removes it.
func (s *sns) with(field, value string) *sns {
	if value == "" {
		delete(s.fields, field)
	} else {
		s.fields[field] = value
	}
	return s
}

// sign signs what the fields say now. The list is written out here, apart from
// the code under test.
func (s *sns) sign() *sns {
	names := []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	if s.fields["Type"] != "Notification" {
		names = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
	}
	return s.signOver(names)
}

func (s *sns) signOver(names []string) *sns {
	var text strings.Builder
	for _, name := range names {
		if value, there := s.fields[name]; there {
			text.WriteString(name + "\n" + value + "\n")
		}
	}
	var signature []byte
	if s.fields["SignatureVersion"] == "1" {
		sum := sha1.Sum([]byte(text.String()))
		signature = must(rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA1, sum[:]))
	} else {
		sum := sha256.Sum256([]byte(text.String()))
		signature = must(rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:]))
	}
	s.fields["Signature"] = base64.StdEncoding.EncodeToString(signature)
	return s
}

// webhook is the request that SNS would make of it.
func (s *sns) webhook() esp.Webhook {
	body := must(json.MarshalIndent(s.fields, "", "  "))
	header := textproto.MIMEHeader{}
	header.Set("Content-Type", "text/plain; charset=UTF-8")
	header.Set("x-amz-sns-message-type", s.fields["Type"])
	header.Set("x-amz-sns-message-id", s.fields["MessageId"])
	header.Set("x-amz-sns-topic-arn", s.fields["TopicArn"])
	for name, value := range s.header {
		if value == "" {
			header.Del(name)
		} else {
			header.Set(name, value)
		}
	}
	return esp.Webhook{Source: "shop", Header: header, Body: body, ReceivedAt: now}
}

// withHeader changes a header; the empty text removes it.
func (s *sns) withHeader(name, value string) *sns {
	if s.header == nil {
		s.header = map[string]string{}
	}
	s.header[name] = value
	return s
}

// edited replaces text in the body, behind the back of the signature.
func edited(w esp.Webhook, old, new string) esp.Webhook {
	w.Body = []byte(strings.Replace(string(w.Body), old, new, 1))
	return w
}
