package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	"mailriver/pkg/config"
)

// Endpoint is where signals go, and which.
type Endpoint struct {
	Name string `yaml:"name"` // letters, digits, - and _; the name of its deliveries
	URL  string `yaml:"url"`  // https://, or http:// with allow_private
	// Secrets sign, each: whsec_ and 24 to 64 bytes in base64. To exchange one, add
	// the new one, have the receiver take it, and remove the old one.
	Secrets   []config.Secret `yaml:"secrets"`
	Profiles  []string        `yaml:"profiles,omitempty"`  // default: all
	Stages    []string        `yaml:"stages,omitempty"`    // default: all
	Campaigns []string        `yaml:"campaigns,omitempty"` // ids, of the event that crossed; default: all
	Template  string          `yaml:"template,omitempty"`  // generic (default), hubspot or salesforce
	// AllowPrivate allows addresses of private networks and of this machine, and
	// http://. Never those of a link (169.254.0.0/16 and fe80::/10), where clouds
	// hand out credentials.
	AllowPrivate bool          `yaml:"allow_private,omitempty"`
	Timeout      time.Duration `yaml:"timeout,omitempty"` // one attempt with its answer, at most 25s; default: 15s
	// Headers are sent with each attempt, for example Authorization. They are read
	// anew each time, so that a ${file:} may be exchanged.
	Headers map[string]config.Secret `yaml:"headers,omitempty"`
}

// Bounds of the time for one attempt. The specification recommends 15 to 30 s; a
// partition that moves to another instance waits for the attempts in hand, and
// Kafka waits for 30 s.
const (
	defaultTimeout = 15 * time.Second
	MaxTimeout     = 25 * time.Second
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// ours are headers that no configuration may set.
var ours = []string{
	"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Content-Type", "Content-Length", "Content-Encoding",
	"Host", "Connection", "Transfer-Encoding", "Trailer", "Te", "Upgrade", "User-Agent",
}

var headerForm = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// Validate reports everything that is wrong, without looking at any secret.
func (e *Endpoint) Validate() error {
	var problems config.Problems
	problems.Must(nameForm.MatchString(e.Name),
		"name: is %q, must be 1 to 63 letters, digits, - and _, the first of them no sign", e.Name)
	u, err := url.Parse(e.URL)
	switch {
	case err != nil || u.Hostname() == "":
		problems.Must(false, "url: must be https://host/path") // the value may hold a token
	default:
		problems.Must(u.Scheme == "https" || u.Scheme == "http" && e.AllowPrivate,
			"url: must begin with https://; http:// needs allow_private: true")
		problems.Must(u.User == nil && u.Fragment == "", "url: must have no user and no fragment; use headers")
	}
	problems.Must(len(e.Secrets) > 0, "secrets: at least one is required, as whsec_ and base64")
	for i, secret := range e.Secrets {
		problems.Must(!secret.IsZero(), "secrets[%d]: is empty", i)
	}
	_, known := templates[e.template()]
	problems.Must(known, "template: is %q, must be generic, hubspot or salesforce", e.Template)
	problems.Must(e.Timeout >= 0 && e.Timeout <= MaxTimeout, "timeout: is %s, must be positive and at most %s", e.Timeout, MaxTimeout)
	for name := range e.Headers {
		problems.Must(headerForm.MatchString(name), "headers: %q is no name of a header", name)
		problems.Must(!slices.Contains(ours, http.CanonicalHeaderKey(name)), "headers: %s cannot be set", name)
	}
	return problems.Err()
}

func (e *Endpoint) template() string {
	if e.Template == "" {
		return "generic"
	}
	return e.Template
}

func (e *Endpoint) timeout() time.Duration {
	if e.Timeout == 0 {
		return defaultTimeout
	}
	return e.Timeout
}

// Wants reports whether the endpoint has subscribed to a signal.
func (e *Endpoint) Wants(s *Signal) bool {
	return among(e.Profiles, s.Profile) && among(e.Stages, s.Stage) && among(e.Campaigns, s.Event.CampaignID)
}

func among(wanted []string, value string) bool {
	return len(wanted) == 0 || slices.Contains(wanted, value)
}

// Fingerprint changes when the endpoint's configuration does. It covers
// everything but the secrets and the values of headers.
func (e *Endpoint) Fingerprint() string {
	plain := *e
	plain.Secrets, plain.Headers = nil, nil
	text, err := json.Marshal(plain)
	if err != nil {
		return "" // never: it holds texts and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Body renders the endpoint's template.
func (e *Endpoint) Body(s *Signal) ([]byte, error) { return templates[e.template()](s) }
