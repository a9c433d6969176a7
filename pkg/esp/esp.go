// Package esp says what the pipeline knows about an email service provider
// (ESP): how its webhooks are proven genuine, what to answer it, and how its
// payload becomes canonical events.
//
// A provider is one folder below this one and one value of type [Provider];
// package all lists them. Providers are pure: no network, no Kafka, no clock
// and no HTTP server. One that must fetch something, as Amazon SES must fetch
// the certificate of a signature, is given a fetch function. Reading requests
// off the wire is the receiver's work, filling in what every event needs
// (normalized address, raw offset) the normalizer's.
package esp

import (
	"context"
	"errors"
	"net/textproto"
	"time"

	"mailriver/pkg/event"
)

// Webhook is one request as it arrived.
type Webhook struct {
	// Source is the configured name of the endpoint. It is part of every
	// event's identity and never comes from the payload.
	Source string
	// Header holds at least the provider's [Provider.Headers] and Content-Type,
	// in canonical form (textproto.CanonicalMIMEHeaderKey).
	Header textproto.MIMEHeader
	// Body is the request body after its Content-Encoding was undone. It is
	// never re-encoded: signatures cover its exact bytes.
	Body []byte
	// ReceivedAt is when the receiver had read the body, UTC.
	ReceivedAt time.Time
}

// Verified is what a verification found out.
type Verified struct {
	// KeyID says which of the live keys verified the webhook; see [KeyID].
	// Empty for a provider that does not sign.
	KeyID string
	// DeliveryKey identifies this delivery over the provider's retries, where
	// the verified bytes carry such an id. Empty means SHA-256 of the body.
	DeliveryKey string
	// ConfirmURL is to be requested with GET, outside the request path, to
	// complete a subscription. It has passed the same checks as the signature.
	ConfirmURL string
}

// Verifier decides whether a webhook is genuine. It is safe for concurrent use.
//
// It returns an error made by [Refuse] for a webhook that is not genuine, and
// one made by [CannotVerify] when it cannot tell just now. Anything else is a
// bug.
type Verifier interface {
	Verify(ctx context.Context, w Webhook) (Verified, error)
}

// Settings are what a verifier is built from: one source of the configuration.
type Settings struct {
	// Keys are the live keys, newest first. Any of them verifies.
	Keys []string
	// URL is the public URL of the endpoint as entered at the provider.
	URL string
	// TopicARNs are the SNS topics that may post.
	TopicARNs []string
	// CertHosts replace the built-in pattern of hosts (host or host:port) that
	// certificates and confirmations may be fetched from.
	CertHosts []string
	// RawDelivery accepts SNS raw message delivery, which carries no signature.
	RawDelivery bool
	// AllowSHA1 accepts a signature over SHA-1 where a request carries none over
	// SHA-256.
	AllowSHA1 bool
	// Fetch gets a small document over TLS: no redirects, bounded size and time.
	Fetch func(ctx context.Context, url string) ([]byte, error)
	// Now is the clock.
	Now func() time.Time
}

// Result is what one webhook holds. A rejected element does not hide its
// neighbors.
type Result struct {
	Events   []event.Event
	Rejected []Rejected
}

// Rejected is an element of a webhook that cannot be read.
type Rejected struct {
	Raw   []byte // the element's own bytes, or the whole body
	Index int32  // its place in the body, from 0
	Err   error  // always permanent (package fault)
}

// Answers are the status codes that mean what we mean to this provider.
type Answers struct {
	// Refuse is for a webhook that is not genuine. It must neither make the
	// provider disable the webhook nor stop the retries of a genuine one.
	Refuse int
	// Retry makes the provider send again later.
	Retry int
}

// Facts are what the provider's documentation says of its webhooks, a few words
// each. Nothing is decided by them.
type Facts struct {
	Authentication string // "HMAC-SHA256 in the body", "basic authentication"
	Batch          string // events in one request: "1", "up to 1000"
	Retries        string // on what and for how long: "all but 200 and 406, 8 hours"
}

// Provider is everything the pipeline knows about one provider. It is a value:
// declaring one has no side effects.
type Provider struct {
	// Name is the value of "provider" in the configuration, in records and in
	// metric labels.
	Name string
	// Title is the name for people.
	Title string
	// Facts are for people too: the table of providers is made of them.
	Facts Facts
	// Answers are the provider's status codes.
	Answers Answers
	// MaxBody bounds the decoded body, in bytes.
	MaxBody int64
	// Headers are the request headers that the verifier or the parser needs
	// beside Content-Type. They are kept in the raw record.
	Headers []string
	// Signs says whether the provider itself proves its webhooks. Without it a
	// source needs basic_auth, allow_ips or unverified.
	Signs bool
	// Own says that these are Mailriver's own records, written to the raw topic by
	// its own services. No endpoint can be configured to receive them, and no
	// source can have this name: what they say is believed for where it stands.
	Own bool
	// NewVerifier checks the settings and is called again when they change.
	// It is nil exactly when Signs is false. Its errors name the setting.
	NewVerifier func(Settings) (Verifier, error)
	// Parse is pure and total: same webhook, same result, and never a panic.
	// An error is permanent and about the whole body.
	Parse func(Webhook) (Result, error)
	// Types are the canonical types that Parse can yield; each is shown by a
	// fixture.
	Types []event.Type
}

// ErrNotGenuine is what every error of [Refuse] is.
var ErrNotGenuine = errors.New("webhook is not genuine")

// ErrCannotVerify is what every error of [CannotVerify] is.
var ErrCannotVerify = errors.New("webhook cannot be verified now")

// Reasons for a refusal. They are metric labels and log fields; the answer to
// the request never tells them.
const (
	ReasonMissing   = "missing_signature" // no signature, or a part of it is missing
	ReasonMalformed = "malformed"         // a signature, key or envelope that cannot be read
	ReasonMismatch  = "mismatch"          // well-formed, but not made by a live key over these bytes
	ReasonStale     = "stale"             // outside the time that the provider's own retries can take
	ReasonForeign   = "foreign"           // genuine, but of a topic, host or account that is not ours
	ReasonReplayed  = "replayed"          // a used token with another body
)

type refusal struct {
	reason string
	detail string
}

func (r *refusal) Error() string        { return "webhook is not genuine: " + r.reason + ": " + r.detail }
func (r *refusal) Is(target error) bool { return target == ErrNotGenuine }

// Refuse returns the error for a webhook that is not genuine. The detail is for
// the operator's log; it must not hold a secret.
func Refuse(reason, detail string) error { return &refusal{reason, detail} }

// RefusalReason returns the reason given to [Refuse].
func RefusalReason(err error) (reason string, ok bool) {
	if r, found := errors.AsType[*refusal](err); found {
		return r.reason, true
	}
	return "", false
}

type cannotVerify struct{ err error }

func (c *cannotVerify) Error() string        { return "webhook cannot be verified now: " + c.err.Error() }
func (c *cannotVerify) Unwrap() error        { return c.err }
func (c *cannotVerify) Is(target error) bool { return target == ErrCannotVerify }

// CannotVerify returns the error for a webhook that might be genuine, while
// something of ours is missing: it must be sent again.
func CannotVerify(err error) error { return &cannotVerify{err} }
