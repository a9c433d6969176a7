package ses

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/esp"
)

// maxAhead is how far the publication may lie in the future: our clock may be
// behind.
//
// There is no limit into the past. SNS itself tries for an hour, but a message
// that it gave up goes to a dead-letter queue, which keeps it for up to 14 days
// until an operator sends it again with its signature of then. An old genuine
// message does no harm: its events keep their ids, and are dropped as known.
const maxAhead = time.Hour

var (
	arnPattern  = regexp.MustCompile(`^arn:(aws[a-z-]*):sns:([a-z0-9-]+):([0-9]{12}):[A-Za-z0-9_-]{1,256}(\.fifo)?$`)
	hostPattern = regexp.MustCompile(`^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:([0-9]{1,5}))?$`)

	// Paths of a certificate: of AWS, and on hosts of the configuration.
	awsPath = regexp.MustCompile(`^SimpleNotificationService-[0-9A-Fa-f]+\.pem$`)
	ownPath = regexp.MustCompile(`^SimpleNotificationService-[0-9A-Za-z_-]+\.pem$`)

	// What may follow the host in a confirmation's URL: printable, no fragment.
	confirmPath = regexp.MustCompile(`^[!"$-~]*$`)
)

// verifier proves SNS messages. The order of its checks is part of the proof:
// whatever needs no network comes first, and nothing is fetched for a topic
// that is not ours or from a host that is not allowed.
type verifier struct {
	hosts        map[string][]string // topic: hosts for its certificate and confirmation
	certPath     *regexp.Regexp
	rawDelivery  bool
	certificates *certificates
	now          func() time.Time // nil: the time of the webhook
}

// newVerifier checks topic_arns and cert_hosts and names every mistake.
// Settings are also checked where there is neither a network nor a clock; such
// a verifier can prove nothing.
func newVerifier(s esp.Settings) (esp.Verifier, error) {
	v := &verifier{
		hosts:       make(map[string][]string, len(s.TopicARNs)),
		certPath:    awsPath,
		rawDelivery: s.RawDelivery,
		now:         s.Now,
	}
	var mistakes []error
	for i, host := range s.CertHosts {
		if !isHost(host) {
			mistakes = append(mistakes, fmt.Errorf("cert_hosts[%d]: %q is not a host or host:port", i, host))
		}
	}
	if len(s.CertHosts) > 0 {
		v.certPath = ownPath
	}
	if len(s.TopicARNs) == 0 {
		mistakes = append(mistakes, errors.New("topic_arns: required: anyone can have SNS sign messages of a topic of their own"))
	}
	for i, arn := range s.TopicARNs {
		parts := arnPattern.FindStringSubmatch(arn)
		if parts == nil {
			mistakes = append(mistakes, fmt.Errorf(
				"topic_arns[%d]: %q is not the ARN of an SNS topic (arn:aws:sns:REGION:ACCOUNT:NAME)", i, arn))
			continue
		}
		if len(s.CertHosts) > 0 {
			v.hosts[arn] = s.CertHosts
			continue
		}
		host, ok := snsHost(parts[1], parts[2])
		if !ok {
			mistakes = append(mistakes, fmt.Errorf(
				"cert_hosts: required for topic_arns[%d]: the SNS hosts of partition %q are not known", i, parts[1]))
		}
		v.hosts[arn] = []string{host}
	}
	if err := errors.Join(mistakes...); err != nil {
		return nil, err
	}
	fetch := s.Fetch
	if fetch == nil {
		fetch = func(context.Context, string) ([]byte, error) {
			return nil, errors.New("there is nothing to fetch with")
		}
	}
	v.certificates = newCertificates(fetch)
	return v, nil
}

// snsHost returns the host of SNS in a region.
func snsHost(partition, region string) (host string, ok bool) {
	switch partition {
	case "aws", "aws-us-gov":
		return "sns." + region + ".amazonaws.com", true
	case "aws-cn":
		return "sns." + region + ".amazonaws.com.cn", true
	}
	return "", false
}

func isHost(text string) bool {
	parts := hostPattern.FindStringSubmatch(text)
	if parts == nil {
		return false
	}
	port := parts[4]
	if port == "" {
		return true
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 1<<16
}

// Verify proves the webhook and, for the confirmation of a subscription,
// returns the URL that completes it.
func (v *verifier) Verify(ctx context.Context, w esp.Webhook) (esp.Verified, error) {
	if isRaw(w.Header) {
		return v.verifyRaw(w)
	}
	e, err := readEnvelope(w.Body)
	if err != nil {
		return refuse(esp.ReasonMalformed, "envelope: %v", err)
	}
	fields := signedFields(e["Type"])
	if fields == nil {
		return refuse(esp.ReasonMalformed, "Type %.60q is none that SNS has", e["Type"])
	}
	if field := e.missing(fields...); field != "" {
		return refuse(esp.ReasonMissing, "%s is missing", field)
	}
	if field := e.missing("Signature", "SignatureVersion", "SigningCertURL"); field != "" {
		return refuse(esp.ReasonMissing, "%s is missing", field)
	}
	if field := e.ambiguous(); field != "" {
		return refuse(esp.ReasonMalformed, "%s has a line break", field)
	}

	// The headers are not signed. That they agree shows that nothing between
	// SNS and here mixed up two requests.
	for _, same := range []struct{ header, field string }{{headerType, "Type"}, {headerID, "MessageId"}} {
		switch w.Header.Get(same.header) {
		case e[same.field]:
		case "":
			return refuse(esp.ReasonMissing, "header %s is missing", same.header)
		default:
			return refuse(esp.ReasonMismatch, "header %s is not the %s of the body", same.header, same.field)
		}
	}

	hosts, ours := v.hosts[e["TopicArn"]]
	if !ours {
		return refuse(esp.ReasonForeign, "topic %.300q is not in topic_arns", e["TopicArn"])
	}
	hash, ok := hashOf(e["SignatureVersion"])
	if !ok {
		return refuse(esp.ReasonMalformed, "SignatureVersion %.20q is not known", e["SignatureVersion"])
	}
	signature, err := base64.StdEncoding.DecodeString(e["Signature"])
	if err != nil {
		return refuse(esp.ReasonMalformed, "Signature: %v", err)
	}
	clock := v.now
	if clock == nil {
		clock = func() time.Time { return w.ReceivedAt }
	}
	published, err := time.Parse(time.RFC3339, e["Timestamp"])
	if err != nil {
		return refuse(esp.ReasonMalformed, "Timestamp %.60q cannot be read", e["Timestamp"])
	}
	if published.After(clock().Add(maxAhead)) {
		return refuse(esp.ReasonStale, "Timestamp %s is in the future", e["Timestamp"])
	}
	certURL := e["SigningCertURL"]
	if path, ok := below(certURL, hosts); !ok || !v.certPath.MatchString(path) {
		return refuse(esp.ReasonForeign, "SigningCertURL %.300q is not a certificate of %q", certURL, hosts)
	}

	key, err := v.certificates.key(ctx, certURL, clock)
	if err != nil {
		return esp.Verified{}, err
	}
	genuine := signedBy(key, hash, signature, e.stringToSign(fields))
	if !genuine && e["Type"] == kindUnsubscribe {
		// The documentation lists the fields of the confirmation for this type
		// too; one of AWS's own validators takes those of the notification. Both
		// hold the type, and the difference, Token and SubscribeURL, is not used.
		genuine = signedBy(key, hash, signature, e.stringToSign(notificationFields))
	}
	if !genuine {
		return refuse(esp.ReasonMismatch, "signature of message %.60q does not match", e["MessageId"])
	}

	verified := esp.Verified{KeyID: esp.KeyID(certURL), DeliveryKey: e["MessageId"]}
	if e["Type"] == kindSubscribe {
		// Signed by SNS or not: a request of ours goes nowhere else.
		if rest, ok := below(e["SubscribeURL"], hosts); !ok || !confirmPath.MatchString(rest) {
			return refuse(esp.ReasonForeign, "SubscribeURL %.300q is not on %q", e["SubscribeURL"], hosts)
		}
		verified.ConfirmURL = e["SubscribeURL"]
	}
	return verified, nil
}

// verifyRaw accepts a body of raw message delivery where the source allows it.
// Nothing of it is signed: what proves it is the source's basic_auth or
// allow_ips. That the topic is ours guards against a subscription that was set
// up wrong, not against a forger.
func (v *verifier) verifyRaw(w esp.Webhook) (esp.Verified, error) {
	if !v.rawDelivery {
		return refuse(esp.ReasonMissing, "raw message delivery is not signed and not allowed for this source")
	}
	arn, id := w.Header.Get(headerTopic), w.Header.Get(headerID)
	switch {
	case arn == "":
		return refuse(esp.ReasonMissing, "header %s is missing", headerTopic)
	case id == "":
		return refuse(esp.ReasonMissing, "header %s is missing", headerID)
	case v.hosts[arn] == nil:
		return refuse(esp.ReasonForeign, "topic %.300q is not in topic_arns", arn)
	}
	return esp.Verified{DeliveryKey: id}, nil
}

// below returns what follows "https://host/" in url when it is on one of the
// hosts. The text itself is compared, not a parsed form of it: user names,
// ports, other cases of letters and all that two parsers might read differently
// stand between the scheme and that slash, and cannot be there.
func below(url string, hosts []string) (rest string, ok bool) {
	for _, host := range hosts {
		if rest, ok := strings.CutPrefix(url, "https://"+host+"/"); ok {
			return rest, true
		}
	}
	return "", false
}

// hashOf returns the hash of a signature version. Both are accepted: which of
// them a topic uses is its owner's choice at AWS, and a downgrade is none that
// could be forged, as both are made with AWS's key.
func hashOf(version string) (crypto.Hash, bool) {
	switch version {
	case "1":
		return crypto.SHA1, true
	case "2":
		return crypto.SHA256, true
	}
	return 0, false
}

func signedBy(key *rsa.PublicKey, hash crypto.Hash, signature, text []byte) bool {
	var digest []byte
	if hash == crypto.SHA1 {
		sum := sha1.Sum(text)
		digest = sum[:]
	} else {
		sum := sha256.Sum256(text)
		digest = sum[:]
	}
	return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
}

func refuse(reason, format string, args ...any) (esp.Verified, error) {
	return esp.Verified{}, esp.Refuse(reason, fmt.Sprintf(format, args...))
}
