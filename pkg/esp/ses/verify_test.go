package ses_test

import (
	"context"
	"errors"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/esp"
	"mailriver/pkg/esp/ses"
)

const messageID = "7c1f0a3e-4b5d-5e6f-8a9b-0c1d2e3f4a5b"

func TestVerify_genuine(t *testing.T) {
	const (
		china    = "arn:aws-cn:sns:cn-north-1:111122223333:ses-events"
		chinaURL = "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0123abcd.pem"
		gov      = "arn:aws-us-gov:sns:us-gov-west-1:111122223333:ses-events"
		govURL   = "https://sns.us-gov-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"
		ownURL   = "https://127.0.0.1:8443/SimpleNotificationService-test_1.pem"
	)
	ownHosts := func(s *esp.Settings) { s.CertHosts = []string{"certs.example.org", "127.0.0.1:8443"} }
	tests := []struct {
		name    string
		message *sns
		change  func(*esp.Settings)
		url     string // of the certificate, when it is another
		confirm string
	}{
		{name: "version 2", message: notification()},
		{name: "version 1", message: notification().with("SignatureVersion", "1")},
		{name: "without subject", message: notification().with("Subject", "")},
		{name: "line breaks and other scripts in the message", message: notification().with("Message", "Zwölf\n\u2028😀\t\"\\/<>&\n")},
		{name: "plain sentence", message: notification().with("Message", "Successfully validated SNS topic.")},
		{name: "sent again from a dead-letter queue after two weeks", message: notification().with("Timestamp", "2026-11-09T10:00:00.000Z")},
		{name: "clock of SNS half an hour ahead", message: notification().with("Timestamp", "2026-11-23T10:31:00.000Z")},
		{
			name: "China", message: notification().with("TopicArn", china).with("SigningCertURL", chinaURL), url: chinaURL,
			change: func(s *esp.Settings) { s.TopicARNs = []string{topic, china} },
		},
		{
			name: "GovCloud", message: notification().with("TopicArn", gov).with("SigningCertURL", govURL), url: govURL,
			change: func(s *esp.Settings) { s.TopicARNs = []string{gov} },
		},
		{name: "hosts of the configuration", message: notification().with("SigningCertURL", ownURL), url: ownURL, change: ownHosts},
		{
			name: "subscription confirmation", message: confirmation("SubscriptionConfirmation"),
			confirm: "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + topic + "&Token=7a7a0102030405060708",
		},
		{
			name: "subscription confirmation on hosts of the configuration", change: ownHosts, url: ownURL,
			message: confirmation("SubscriptionConfirmation").with("SigningCertURL", ownURL).with("SubscribeURL", "https://127.0.0.1:8443/any/path?Token=7a"),
			confirm: "https://127.0.0.1:8443/any/path?Token=7a",
		},
		// Its SubscribeURL subscribes again: there is nothing to confirm.
		{name: "unsubscribe confirmation", message: confirmation("UnsubscribeConfirmation")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			url := certURL
			if tt.url != "" {
				url = tt.url
				n.serve(url, goodCertificate(t))
			}
			got, err := newVerifier(t, n, tt.change).Verify(t.Context(), tt.message.sign().webhook())
			want := esp.Verified{KeyID: esp.KeyID(url), DeliveryKey: messageID, ConfirmURL: tt.confirm}
			if err != nil || got != want {
				t.Errorf("Verify() = %+v, %v, want %+v", got, err, want)
			}
			if asked := n.requests(); !slices.Equal(asked, []string{url}) {
				t.Errorf("fetched %q, want only %q", asked, url)
			}
		})
	}
}

// One of AWS's validators takes the list of the notification for this type.
func TestVerify_unsubscribeConfirmationOverTheOtherList(t *testing.T) {
	m := confirmation("UnsubscribeConfirmation").
		signOver([]string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"})
	got, err := newVerifier(t, newNetwork(t), nil).Verify(t.Context(), m.webhook())
	if want := (esp.Verified{KeyID: esp.KeyID(certURL), DeliveryKey: messageID}); err != nil || got != want {
		t.Errorf("Verify() = %+v, %v, want %+v", got, err, want)
	}
	// For the type that is acted on, there is no choice.
	m = confirmation("SubscriptionConfirmation").
		signOver([]string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"})
	_, err = newVerifier(t, newNetwork(t), nil).Verify(t.Context(), m.webhook())
	if reason, _ := esp.RefusalReason(err); reason != esp.ReasonMismatch {
		t.Errorf("Verify() = %v, want reason %s", err, esp.ReasonMismatch)
	}
}

func TestVerify_forgeries(t *testing.T) {
	const foreign = "arn:aws:sns:eu-west-1:999999999999:ses-events"
	otherTopic := strings.Replace(topic, "ses-events", "other", 1)
	cert := func(url string) esp.Webhook { return notification().with("SigningCertURL", url).sign().webhook() }
	host := func(host string) esp.Webhook {
		return cert("https://" + host + "/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem")
	}
	subscribe := func(url string) esp.Webhook {
		return confirmation("SubscriptionConfirmation").with("SubscribeURL", url).sign().webhook()
	}
	stolen := func(s *sns) *sns { s.key = thiefKey(); return s }

	tests := []struct {
		name    string
		hook    esp.Webhook
		reason  string
		fetches int // nothing may be fetched before the topic and the URL are found to be ours
	}{
		// The topic.
		{"foreign topic, perfectly signed", notification().with("TopicArn", foreign).sign().webhook(), esp.ReasonForeign, 0},
		{"foreign topic, confirmation", confirmation("SubscriptionConfirmation").with("TopicArn", foreign).sign().webhook(), esp.ReasonForeign, 0},
		{"topic in another case", notification().with("TopicArn", strings.ToUpper(topic)).sign().webhook(), esp.ReasonForeign, 0},
		{"message of another topic under ours", edited(notification().with("TopicArn", otherTopic).sign().webhook(), otherTopic, topic), esp.ReasonMismatch, 1},

		// The host of the certificate.
		{"another host", host("sns.example.org"), esp.ReasonForeign, 0},
		{"host that begins alike", host("sns.eu-west-1.amazonaws.com.example.org"), esp.ReasonForeign, 0},
		{"host that ends alike", host("evil-sns.eu-west-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"host with a dot for a dash", host("sns.eu.west-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"host below ours", host("a.sns.eu-west-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"bucket of anyone", host("sns.eu-west-1.s3.amazonaws.com"), esp.ReasonForeign, 0},
		{"another service", host("sqs.eu-west-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"another region", host("sns.us-east-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"no region", host("sns.amazonaws.com"), esp.ReasonForeign, 0},
		{"China for a topic elsewhere", host("sns.eu-west-1.amazonaws.com.cn"), esp.ReasonForeign, 0},
		{"trailing dot", host("sns.eu-west-1.amazonaws.com."), esp.ReasonForeign, 0},
		{"upper case", host("SNS.eu-west-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"user", host("sns.eu-west-1.amazonaws.com@example.org"), esp.ReasonForeign, 0},
		{"user and our host", host("user:password@sns.eu-west-1.amazonaws.com"), esp.ReasonForeign, 0},
		{"backslash before a host", host(`example.org\sns.eu-west-1.amazonaws.com`), esp.ReasonForeign, 0},
		{"backslash after our host", host(`sns.eu-west-1.amazonaws.com\@example.org`), esp.ReasonForeign, 0},
		{"other port", host("sns.eu-west-1.amazonaws.com:8443"), esp.ReasonForeign, 0},
		{"default port written out", host("sns.eu-west-1.amazonaws.com:443"), esp.ReasonForeign, 0},
		{"loopback", host("127.0.0.1"), esp.ReasonForeign, 0},
		{"metadata service", host("169.254.169.254"), esp.ReasonForeign, 0},

		// The rest of its URL.
		{"http", cert(strings.Replace(certURL, "https:", "http:", 1)), esp.ReasonForeign, 0},
		{"upper-case scheme", cert(strings.Replace(certURL, "https:", "HTTPS:", 1)), esp.ReasonForeign, 0},
		{"file", cert("file:///etc/passwd"), esp.ReasonForeign, 0},
		{"no scheme", cert(strings.TrimPrefix(certURL, "https:")), esp.ReasonForeign, 0},
		{"leading space", cert(" " + certURL), esp.ReasonForeign, 0},
		{"another path", cert("https://sns.eu-west-1.amazonaws.com/?Action=Publish"), esp.ReasonForeign, 0},
		{"no hexadecimal digits", cert("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-xyz.pem"), esp.ReasonForeign, 0},
		{"no digits", cert("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-.pem"), esp.ReasonForeign, 0},
		{"folder", cert("https://sns.eu-west-1.amazonaws.com/a/SimpleNotificationService-0123.pem"), esp.ReasonForeign, 0},
		{"way up", cert("https://sns.eu-west-1.amazonaws.com/../SimpleNotificationService-0123.pem"), esp.ReasonForeign, 0},
		{"double slash", cert("https://sns.eu-west-1.amazonaws.com//SimpleNotificationService-0123.pem"), esp.ReasonForeign, 0},
		{"escaped path", cert("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService%2D0123.pem"), esp.ReasonForeign, 0},
		{"query", cert(certURL + "?a=b"), esp.ReasonForeign, 0},
		{"empty query", cert(certURL + "?"), esp.ReasonForeign, 0},
		{"fragment", cert(certURL + "#a"), esp.ReasonForeign, 0},
		{"line break", cert(certURL + "\n"), esp.ReasonForeign, 0},

		// The signature.
		{"another key", stolen(notification()).sign().webhook(), esp.ReasonMismatch, 1},
		{"version 2 called 1", edited(notification().sign().webhook(), `"SignatureVersion": "2"`, `"SignatureVersion": "1"`), esp.ReasonMismatch, 1},
		{"version 1 called 2", edited(notification().with("SignatureVersion", "1").sign().webhook(), `"SignatureVersion": "1"`, `"SignatureVersion": "2"`), esp.ReasonMismatch, 1},
		{"version 3", notification().with("SignatureVersion", "3").sign().webhook(), esp.ReasonMalformed, 0},
		{"version 02", notification().with("SignatureVersion", "02").sign().webhook(), esp.ReasonMalformed, 0},
		{"version as a number", edited(notification().sign().webhook(), `"SignatureVersion": "2"`, `"SignatureVersion": 2`), esp.ReasonMissing, 0},
		{"not base64", notification().sign().with("Signature", "***").webhook(), esp.ReasonMalformed, 0},
		{"base64 of a URL", notification().sign().with("Signature", "-_-_").webhook(), esp.ReasonMalformed, 0},
		{"cut off base64", notification().sign().with("Signature", "YWJjZ").webhook(), esp.ReasonMalformed, 0},
		{"short signature", notification().sign().with("Signature", "YWJj").webhook(), esp.ReasonMismatch, 1},

		// What is signed.
		{"changed message", edited(notification().sign().webhook(), "ann@example.com", "bob@example.com"), esp.ReasonMismatch, 1},
		{"message without its line break", edited(notification().sign().webhook(), `{}}\n"`, `{}}"`), esp.ReasonMismatch, 1},
		{"body of another message", notification().sign().with("Message", `{"eventType":"Bounce"}`).webhook(), esp.ReasonMismatch, 1},
		{"changed id", notification().sign().with("MessageId", "another").webhook(), esp.ReasonMismatch, 1},
		{"changed subject", notification().sign().with("Subject", "another").webhook(), esp.ReasonMismatch, 1},
		{"removed subject", notification().sign().with("Subject", "").webhook(), esp.ReasonMismatch, 1},
		{"added subject", notification().with("Subject", "").sign().with("Subject", "another").webhook(), esp.ReasonMismatch, 1},
		{"changed time", notification().sign().with("Timestamp", "2026-11-23T10:00:10.413Z").webhook(), esp.ReasonMismatch, 1},
		{"changed type", confirmation("UnsubscribeConfirmation").sign().with("Type", "SubscriptionConfirmation").webhook(), esp.ReasonMismatch, 1},
		{"changed token", confirmation("SubscriptionConfirmation").sign().with("Token", "another").webhook(), esp.ReasonMismatch, 1},
		{
			"changed SubscribeURL",
			confirmation("SubscriptionConfirmation").sign().with("SubscribeURL", "https://sns.eu-west-1.amazonaws.com/?Action=Publish").webhook(),
			esp.ReasonMismatch, 1,
		},
		{
			// The same string to sign, cut into fields elsewhere.
			"subject moved into the id",
			notification().sign().with("Subject", "").with("MessageId", messageID+"\nSubject\nAmazon SES Email Event Notification").webhook(),
			esp.ReasonMalformed, 0,
		},

		// The confirmation's URL.
		{"confirmation elsewhere", subscribe("https://example.org/?Action=ConfirmSubscription"), esp.ReasonForeign, 1},
		{"confirmation inside", subscribe("https://127.0.0.1/"), esp.ReasonForeign, 1},
		{"confirmation in another region", subscribe("https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription"), esp.ReasonForeign, 1},
		{"confirmation over http", subscribe("http://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"), esp.ReasonForeign, 1},
		{"confirmation with a user", subscribe("https://sns.eu-west-1.amazonaws.com@example.org/"), esp.ReasonForeign, 1},
		{"confirmation at a port", subscribe("https://sns.eu-west-1.amazonaws.com:8443/"), esp.ReasonForeign, 1},
		{"confirmation with a fragment", subscribe("https://sns.eu-west-1.amazonaws.com/#a"), esp.ReasonForeign, 1},
		{"confirmation with a space", subscribe("https://sns.eu-west-1.amazonaws.com/ HTTP/1.1"), esp.ReasonForeign, 1},

		// The time.
		{"tomorrow", notification().with("Timestamp", "2026-11-24T10:00:10.412Z").sign().webhook(), esp.ReasonStale, 0},
		{"an hour and a bit ahead", notification().with("Timestamp", "2026-11-23T11:01:00.001Z").sign().webhook(), esp.ReasonStale, 0},
		{"no time", notification().with("Timestamp", "soon").sign().webhook(), esp.ReasonMalformed, 0},

		// The headers.
		{"no type header", notification().sign().withHeader("x-amz-sns-message-type", "").webhook(), esp.ReasonMissing, 0},
		{"no id header", notification().sign().withHeader("x-amz-sns-message-id", "").webhook(), esp.ReasonMissing, 0},
		{"another type in the header", notification().sign().withHeader("x-amz-sns-message-type", "SubscriptionConfirmation").webhook(), esp.ReasonMismatch, 0},
		{"another id in the header", notification().sign().withHeader("x-amz-sns-message-id", "another").webhook(), esp.ReasonMismatch, 0},
		{"raw delivery", notification().sign().withHeader("x-amz-sns-rawdelivery", "true").webhook(), esp.ReasonMissing, 0},

		// The envelope.
		{"message twice", edited(notification().sign().webhook(), "{", `{"Message": "{}",`), esp.ReasonMalformed, 0},
		{"message twice, once escaped", edited(notification().sign().webhook(), "{", `{"\u004dessage": "{}",`), esp.ReasonMalformed, 0},
		{"unsigned member twice", edited(notification().sign().webhook(), "{", `{"UnsubscribeURL": "",`), esp.ReasonMalformed, 0},
		{"message as an object", edited(notification().with("Message", "x").sign().webhook(), `"Message": "x"`, `"Message": {}`), esp.ReasonMissing, 0},
		{"no type", notification().sign().with("Type", "").withHeader("x-amz-sns-message-type", "Notification").webhook(), esp.ReasonMalformed, 0},
		{"unknown type", notification().with("Type", "Alert").sign().webhook(), esp.ReasonMalformed, 0},
		{"no id", notification().with("MessageId", "").sign().webhook(), esp.ReasonMissing, 0},
		{"no message", notification().with("Message", "").sign().webhook(), esp.ReasonMissing, 0},
		{"no topic", notification().with("TopicArn", "").sign().webhook(), esp.ReasonMissing, 0},
		{"no timestamp", notification().with("Timestamp", "").sign().webhook(), esp.ReasonMissing, 0},
		{"no signature", notification().webhook(), esp.ReasonMissing, 0},
		{"no signature version", notification().sign().with("SignatureVersion", "").webhook(), esp.ReasonMissing, 0},
		{"no certificate", notification().sign().with("SigningCertURL", "").webhook(), esp.ReasonMissing, 0},
		{"no token", confirmation("SubscriptionConfirmation").with("Token", "").sign().webhook(), esp.ReasonMissing, 0},
		{"no SubscribeURL", confirmation("SubscriptionConfirmation").with("SubscribeURL", "").sign().webhook(), esp.ReasonMissing, 0},
		{"certificate in another spelling", edited(notification().sign().webhook(), "SigningCertURL", "SigningCertUrl"), esp.ReasonMissing, 0},
		{"not JSON", edited(notification().sign().webhook(), "{", ""), esp.ReasonMalformed, 0},
		{"something after the envelope", edited(notification().sign().webhook(), "\n}", "\n}{}"), esp.ReasonMalformed, 0},
		{"array", esp.Webhook{Header: notification().webhook().Header, Body: []byte("[]")}, esp.ReasonMalformed, 0},
		{"deep nesting", esp.Webhook{Header: notification().webhook().Header, Body: []byte(strings.Repeat("[", 1<<20))}, esp.ReasonMalformed, 0},
		{"nothing at all", esp.Webhook{Header: textproto.MIMEHeader{}}, esp.ReasonMalformed, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			got, err := newVerifier(t, n, nil).Verify(t.Context(), tt.hook)
			if !errors.Is(err, esp.ErrNotGenuine) || errors.Is(err, esp.ErrCannotVerify) {
				t.Fatalf("Verify() = %+v, %v, want a refusal", got, err)
			}
			if reason, _ := esp.RefusalReason(err); reason != tt.reason {
				t.Errorf("Verify() = %v, want reason %s", err, tt.reason)
			}
			if got != (esp.Verified{}) {
				t.Errorf("Verify() = %+v beside a refusal, want nothing", got)
			}
			if asked := n.requests(); len(asked) != tt.fetches {
				t.Errorf("fetched %q, want %d", asked, tt.fetches)
			}
		})
	}
}

func TestVerify_hostsOfTheConfiguration(t *testing.T) {
	tests := []struct {
		name, url string
		allowed   bool
	}{
		{"host and port", "https://127.0.0.1:8443/SimpleNotificationService-test_1-A.pem", true},
		{"host without port", "https://certs.example.org/SimpleNotificationService-test.pem", true},
		{"other port", "https://127.0.0.1:8444/SimpleNotificationService-test.pem", false},
		{"port left out", "https://127.0.0.1/SimpleNotificationService-test.pem", false},
		{"port added", "https://certs.example.org:443/SimpleNotificationService-test.pem", false},
		{"below the host", "https://a.certs.example.org/SimpleNotificationService-test.pem", false},
		{"user", "https://a@certs.example.org/SimpleNotificationService-test.pem", false},
		{"another path", "https://certs.example.org/test.pem", false},
		{"dots in the path", "https://certs.example.org/SimpleNotificationService-a/../b.pem", false},
		{"query", "https://certs.example.org/SimpleNotificationService-test.pem?a=b", false},
		{"http", "http://certs.example.org/SimpleNotificationService-test.pem", false},
		{"the hosts of AWS no more", certURL, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.serve(tt.url, goodCertificate(t))
			v := newVerifier(t, n, func(s *esp.Settings) { s.CertHosts = []string{"127.0.0.1:8443", "certs.example.org"} })
			_, err := v.Verify(t.Context(), notification().with("SigningCertURL", tt.url).sign().webhook())
			reason, _ := esp.RefusalReason(err)
			if allowed := err == nil; allowed != tt.allowed || !allowed && reason != esp.ReasonForeign {
				t.Errorf("Verify() = %v, want allowed = %t", err, tt.allowed)
			}
			if fetched := len(n.requests()) > 0; fetched != tt.allowed {
				t.Errorf("fetched = %t, want %t", fetched, tt.allowed)
			}
		})
	}
}

func TestVerify_rawDelivery(t *testing.T) {
	allow := func(s *esp.Settings) { s.RawDelivery = true }
	headers := map[string]string{
		"x-amz-sns-message-type": "Notification", "x-amz-sns-message-id": "raw-1",
		"x-amz-sns-topic-arn": topic, "x-amz-sns-rawdelivery": "true",
	}
	tests := []struct {
		name   string
		change func(*esp.Settings)
		header map[string]string
		reason string // "" is accepted
	}{
		{"allowed", allow, nil, ""},
		{"not allowed", nil, nil, esp.ReasonMissing},
		{"foreign topic", allow, map[string]string{"x-amz-sns-topic-arn": topic + "-2"}, esp.ReasonForeign},
		{"no topic", allow, map[string]string{"x-amz-sns-topic-arn": ""}, esp.ReasonMissing},
		{"no id", allow, map[string]string{"x-amz-sns-message-id": ""}, esp.ReasonMissing},
		// Only a notification is delivered raw: these have to be envelopes.
		{"a confirmation", allow, map[string]string{"x-amz-sns-message-type": "SubscriptionConfirmation"}, esp.ReasonMalformed},
		{"no type", allow, map[string]string{"x-amz-sns-message-type": ""}, esp.ReasonMalformed},
		{"not said to be raw", allow, map[string]string{"x-amz-sns-rawdelivery": "false"}, esp.ReasonMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := esp.Webhook{Source: "shop", Header: textproto.MIMEHeader{}, Body: []byte(message), ReceivedAt: now}
			for _, set := range []map[string]string{headers, tt.header} {
				for name, value := range set {
					w.Header.Set(name, value)
				}
			}
			n := newNetwork(t)
			got, err := newVerifier(t, n, tt.change).Verify(t.Context(), w)
			if tt.reason == "" {
				if want := (esp.Verified{DeliveryKey: "raw-1"}); err != nil || got != want {
					t.Errorf("Verify() = %+v, %v, want %+v", got, err, want)
				}
			} else if reason, _ := esp.RefusalReason(err); reason != tt.reason {
				t.Errorf("Verify() = %v, want reason %s", err, tt.reason)
			}
			if asked := n.requests(); len(asked) != 0 {
				t.Errorf("fetched %q, want nothing", asked)
			}
		})
	}

	t.Run("an envelope is verified as ever", func(t *testing.T) {
		v := newVerifier(t, newNetwork(t), allow)
		if _, err := v.Verify(t.Context(), notification().sign().webhook()); err != nil {
			t.Errorf("Verify(genuine) = %v", err)
		}
		if _, err := v.Verify(t.Context(), notification().webhook()); !errors.Is(err, esp.ErrNotGenuine) {
			t.Errorf("Verify(unsigned) = %v, want a refusal", err)
		}
	})
}

func TestNewVerifier_settings(t *testing.T) {
	tests := []struct {
		name  string
		s     esp.Settings
		wants []string // in the error; none: accepted
	}{
		{"one topic", esp.Settings{TopicARNs: []string{topic}}, nil},
		{"hosts", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"127.0.0.1:8443", "sns.example.org", "[::1]:1", "localhost"}}, nil},
		{"a partition without a known host, with hosts", esp.Settings{TopicARNs: []string{"arn:aws-iso:sns:us-iso-east-1:111122223333:a"}, CertHosts: []string{"sns.example.org"}}, nil},
		{"no topic", esp.Settings{}, []string{"topic_arns: required"}},
		{"queue", esp.Settings{TopicARNs: []string{"arn:aws:sqs:eu-west-1:111122223333:a"}}, []string{"topic_arns[0]"}},
		{"subscription", esp.Settings{TopicARNs: []string{topic, topic + ":1a2b"}}, []string{"topic_arns[1]"}},
		{"no region", esp.Settings{TopicARNs: []string{"arn:aws:sns::111122223333:a"}}, []string{"topic_arns[0]"}},
		{"host in place of a region", esp.Settings{TopicARNs: []string{"arn:aws:sns:a.example.org/:111122223333:a"}}, []string{"topic_arns[0]"}},
		{"a partition without a known host", esp.Settings{TopicARNs: []string{"arn:aws-iso:sns:us-iso-east-1:111122223333:a"}}, []string{"cert_hosts: required", "topic_arns[0]", "aws-iso"}},
		{"URL", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"https://sns.example.org"}}, []string{"cert_hosts[0]"}},
		{"path", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"sns.example.org/"}}, []string{"cert_hosts[0]"}},
		{"user", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"a@sns.example.org"}}, []string{"cert_hosts[0]"}},
		{"pattern", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"*.example.org"}}, []string{"cert_hosts[0]"}},
		{"empty", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{""}}, []string{"cert_hosts[0]"}},
		{"empty port", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"sns.example.org:"}}, []string{"cert_hosts[0]"}},
		{"port that is none", esp.Settings{TopicARNs: []string{topic}, CertHosts: []string{"sns.example.org:70000"}}, []string{"cert_hosts[0]"}},
		{"every mistake", esp.Settings{TopicARNs: []string{"a", topic, "b"}, CertHosts: []string{"c/"}}, []string{"topic_arns[0]", "topic_arns[2]", "cert_hosts[0]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := ses.Provider.NewVerifier(tt.s)
			if len(tt.wants) == 0 {
				if err != nil || v == nil {
					t.Errorf("NewVerifier() = %v, %v, want a verifier", v, err)
				}
				return
			}
			if err == nil || v != nil {
				t.Fatalf("NewVerifier() = %v, %v, want an error", v, err)
			}
			for _, want := range tt.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("NewVerifier() = %q, want it to name %q", err, want)
				}
			}
		})
	}
}

// Settings are checked where nothing can be fetched; such a verifier says that
// it cannot tell.
func TestNewVerifier_withoutNetworkAndClock(t *testing.T) {
	v, err := ses.Provider.NewVerifier(esp.Settings{TopicARNs: []string{topic}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), notification().sign().webhook()); !errors.Is(err, esp.ErrCannotVerify) {
		t.Errorf("Verify() = %v, want ErrCannotVerify", err)
	}
}

// Without a clock the time of the webhook counts.
func TestVerify_withoutClock(t *testing.T) {
	v := newVerifier(t, newNetwork(t), func(s *esp.Settings) { s.Now = nil })
	w := notification().sign().webhook()
	if _, err := v.Verify(context.WithoutCancel(t.Context()), w); err != nil {
		t.Errorf("Verify() = %v", err)
	}
	w.ReceivedAt = now.Add(-24 * time.Hour)
	_, err := v.Verify(t.Context(), w)
	if reason, _ := esp.RefusalReason(err); reason != esp.ReasonStale {
		t.Errorf("Verify() = %v, want reason %s", err, esp.ReasonStale)
	}
}
