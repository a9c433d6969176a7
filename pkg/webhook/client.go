package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"mailriver/pkg/config"
	"mailriver/pkg/httpcall"
	"mailriver/pkg/standardwebhooks"
)

// Outcome is what an attempt came to.
type Outcome string

// Outcomes. All but Delivered and Gone are tried again, as the specification
// recommends, and none of these says that the message is at fault.
const (
	Delivered   Outcome = "delivered"   // 2xx
	Gone        Outcome = "gone"        // 410: the endpoint wants nothing any more
	Busy        Outcome = "busy"        // 429, 502, 503, 504: throttle
	Refused     Outcome = "refused"     // any other answer, 3xx among them: redirects are not followed
	Unreachable Outcome = "unreachable" // no answer in time, or no connection
	Unsent      Outcome = "unsent"      // a secret cannot be read just now
)

// Result is the outcome with what is known about it.
type Result struct {
	Outcome Outcome
	Status  int           // 0 without an answer
	Wait    time.Duration // how long the endpoint asks to be left alone; 0: it does not
	Problem string        // for people; empty when delivered
	Took    time.Duration
}

// Bounds of what an endpoint can make the sender hold.
const (
	maxAnswer  = 64 << 10 // bytes of a body that are read
	maxHeaders = 64 << 10
	excerpt    = 200 // bytes of a body that are kept for people
)

// Deps are a client's collaborators. All but Roots are required.
type Deps struct {
	Resolve func(config.Secret) (string, error)
	Now     func() time.Time
	Roots   *x509.CertPool // nil: those of the system
}

// Client sends to one endpoint. It keeps connections, follows no redirect, asks
// no proxy, and reads no more of an answer than it must.
type Client struct {
	endpoint Endpoint
	deps     Deps
	http     *http.Client
}

// NewClient returns a client. It connects to nothing and reads no secret.
func NewClient(endpoint Endpoint, deps Deps) (*Client, error) {
	if deps.Resolve == nil || deps.Now == nil {
		return nil, errors.New("webhook: a dependency is missing")
	}
	if err := endpoint.Validate(); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	return &Client{endpoint: endpoint, deps: deps, http: &http.Client{
		CheckRedirect: httpcall.NoRedirects,
		Transport: &http.Transport{
			// No Proxy: one named by the environment would make the connections,
			// and look at no address.
			DialContext:            dialer(endpoint.AllowPrivate).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: deps.Roots},
			TLSHandshakeTimeout:    10 * time.Second,
			ForceAttemptHTTP2:      true, // a dialer of one's own turns it off
			DisableCompression:     true, // a small answer must not become a large one
			MaxResponseHeaderBytes: maxHeaders,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        90 * time.Second,
		},
	}}, nil
}

// Check resolves the secrets and reports what is wrong with them. Its error is
// that of a file that cannot be read ([config.ErrUnreadable]) only if nothing else
// is wrong.
func (c *Client) Check() error {
	var mistakes, unreadable config.Problems
	for i, secret := range c.endpoint.Secrets {
		text, err := c.deps.Resolve(secret)
		if err == nil {
			_, err = standardwebhooks.ParseKey(text)
		}
		if err != nil {
			err = fmt.Errorf("secrets[%d]: %w", i, err)
		}
		if errors.Is(err, config.ErrUnreadable) {
			unreadable.Add(err)
		} else {
			mistakes.Add(err)
		}
	}
	if err := mistakes.Err(); err != nil {
		return err
	}
	return unreadable.Err()
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Send makes one attempt. The id is the same at each attempt for one message, and
// lets the receiver drop what it has seen.
func (c *Client) Send(ctx context.Context, id string, body []byte) Result {
	begun := c.deps.Now()
	r := c.send(ctx, id, body)
	r.Took = c.deps.Now().Sub(begun)
	return r
}

func (c *Client) send(ctx context.Context, id string, body []byte) Result {
	ctx, cancel := context.WithTimeout(ctx, c.endpoint.timeout())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.URL, bytes.NewReader(body))
	if err != nil {
		return Result{Outcome: Unsent, Problem: "request cannot be made"} // the error would quote the URL
	}
	secrets, err := c.headers(request.Header, id, body)
	if err != nil {
		return Result{Outcome: Unsent, Problem: err.Error()}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Result{Outcome: Unreachable, Problem: httpcall.Excerpt(httpcall.Cause(err).Error(), excerpt)}
	}
	defer response.Body.Close() // unread, it ends the connection, and with it a body without end
	// The status says it all; that the body breaks off changes nothing.
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	r := c.judge(response, answer)
	for _, secret := range secrets {
		r.Problem = strings.ReplaceAll(r.Problem, secret, config.Redacted) // some repeat what they were sent
	}
	return r
}

// headers puts what is sent beside the body, and returns the secrets in it.
func (c *Client) headers(header http.Header, id string, body []byte) (secrets []string, err error) {
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", "mailriver")
	for name, secret := range c.endpoint.Headers {
		value, err := c.deps.Resolve(secret)
		if err != nil {
			return nil, fmt.Errorf("headers: %s: %w", name, err)
		}
		header.Set(name, value)
		_, bare, _ := strings.Cut(value, " ") // behind Bearer or Basic
		secrets = append(secrets, value)
		if bare != "" {
			secrets = append(secrets, bare)
		}
	}
	keys := make([]standardwebhooks.Key, len(c.endpoint.Secrets))
	for i, secret := range c.endpoint.Secrets {
		text, err := c.deps.Resolve(secret)
		if err == nil {
			keys[i], err = standardwebhooks.ParseKey(text)
		}
		if err != nil {
			return nil, fmt.Errorf("secrets[%d]: %w", i, err)
		}
	}
	standardwebhooks.Sign(textproto.MIMEHeader(header), keys, id, c.deps.Now(), body)
	return secrets, nil
}

func (c *Client) judge(response *http.Response, answer []byte) Result {
	r := Result{Status: response.StatusCode}
	switch {
	case r.Status == http.StatusMultiStatus && c.endpoint.template() == "hubspot":
		r.Outcome = Refused // HubSpot's word for errors in a batch, and the batch is this one
	case r.Status >= 200 && r.Status < 300:
		r.Outcome = Delivered
		return r
	case r.Status == http.StatusGone:
		r.Outcome = Gone
	case r.Status == http.StatusTooManyRequests, r.Status == http.StatusBadGateway,
		r.Status == http.StatusServiceUnavailable, r.Status == http.StatusGatewayTimeout:
		r.Outcome = Busy
	default:
		r.Outcome = Refused
	}
	if wait, _ := httpcall.RetryAfter(response.Header, c.deps.Now()); wait > 0 {
		r.Wait = wait
	}
	r.Problem = fmt.Sprintf("HTTP %d", r.Status)
	if r.Status >= 300 && r.Status < 400 {
		r.Problem += ": redirects, which is not followed: change the URL"
	} else if text := httpcall.Excerpt(string(answer), excerpt); text != "" {
		r.Problem += ": " + text
	}
	return r
}

// Up reports whether an endpoint that gave this outcome works, whatever it
// thinks of the message.
func (r Result) Up() bool {
	return r.Outcome == Delivered || r.Outcome == Gone || r.Outcome == Refused && r.Status < 500
}
