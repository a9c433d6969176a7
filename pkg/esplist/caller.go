package esplist

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/httpcall"
)

// Transport says how APIs are reached. The zero value is right for production;
// tests bring their own clock.
type Transport struct {
	RoundTripper http.RoundTripper                                // nil: [http.DefaultTransport]
	Now          func() time.Time                                 // nil: the system's clock
	Sleep        func(ctx context.Context, d time.Duration) error // nil: a timer
	Jitter       func() float64                                   // in [0, 1); nil: random
	Timeout      time.Duration                                    // one request with its answer; 0: 60 s
	StreamFor    time.Duration                                    // one answer that is a whole list; 0: 15 min
	Attempts     int                                              // of one request; 0: 6
	MaxWait      time.Duration                                    // between two attempts, whatever the provider asks; 0: 2 min
	MaxBody      int64                                            // bytes of one answer; 0: 16 MiB
	MaxStream    int64                                            // bytes of one answer that is a whole list; 0: 4 GiB
}

func (t Transport) withDefaults() Transport {
	if t.RoundTripper == nil {
		t.RoundTripper = http.DefaultTransport
	}
	if t.Now == nil {
		t.Now = time.Now
	}
	if t.Sleep == nil {
		t.Sleep = httpcall.Sleep
	}
	if t.Jitter == nil {
		t.Jitter = rand.Float64
	}
	setDefault(&t.Timeout, time.Minute)
	setDefault(&t.StreamFor, 15*time.Minute)
	setDefault(&t.Attempts, 6)
	setDefault(&t.MaxWait, 2*time.Minute)
	setDefault(&t.MaxBody, 16<<20)
	setDefault(&t.MaxStream, 4<<30)
	return t
}

func setDefault[T int | int64 | time.Duration](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

// Error is an answer that is no success. Its text names the provider, the call,
// the status and the provider's message, and never a key.
type Error struct {
	Provider string
	Call     string // method and path
	Status   int
	Kind     string // the provider's name of the problem, where it has one
	Message  string // the provider's words, cut and made printable
	Content  bool   // what was sent is at fault, so that sending less may help
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s: HTTP %d", e.Provider, e.Call, e.Status)
	if e.Kind != "" {
		text += ": " + e.Kind
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// CallerConfig is what a provider's package knows of its API.
type CallerConfig struct {
	Provider string
	BaseURL  string
	// Authorize signs a request. It is called for each attempt.
	Authorize func(r *http.Request, body []byte) error
	// Problem reads the name and the message of an answer that is no success.
	Problem func(header http.Header, body []byte) (kind, message string)
	// Busy reports whether such an answer means "later", for providers that say
	// so with another status than 429. Nil: never.
	Busy func(status int, kind string) bool
	// Content reports whether such an answer finds fault with what was sent,
	// rather than with who sent it. Nil: 400, 413 and 422 do.
	Content func(status int, kind string) bool
	// ResetHeader names a header with the second (Unix) at which the provider
	// listens again, read where an answer has no Retry-After.
	ResetHeader string
	// Secrets are blanked out wherever an error would show them.
	Secrets []string
}

// Caller calls an API. It follows no redirect and speaks to no host but that of
// its base URL.
type Caller struct {
	cfg    CallerConfig
	base   *url.URL
	client *http.Client
	t      Transport
}

// NewCaller checks the base URL: https, or http on this machine.
func NewCaller(cfg CallerConfig, t Transport) (*Caller, error) {
	base, err := url.Parse(cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("%s: base URL cannot be read", cfg.Provider) // the error would quote it
	}
	local := base.Hostname() == "127.0.0.1" || base.Hostname() == "localhost" || base.Hostname() == "::1"
	switch {
	case base.Host == "" || base.Scheme != "https" && (base.Scheme != "http" || !local):
		return nil, fmt.Errorf("%s: base URL must be https://host", cfg.Provider)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("%s: base URL must hold no user, query or fragment", cfg.Provider)
	}
	if cfg.Content == nil {
		cfg.Content = func(status int, _ string) bool {
			return status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge ||
				status == http.StatusUnprocessableEntity
		}
	}
	base.Path, base.RawPath = strings.TrimSuffix(base.Path, "/"), ""
	t = t.withDefaults()
	return &Caller{cfg: cfg, base: base, t: t, client: &http.Client{
		Transport:     t.RoundTripper,
		CheckRedirect: httpcall.NoRedirects,
	}}, nil
}

// Now is the time by the transport's clock.
func (c *Caller) Now() time.Time { return c.t.Now() }

// URL returns the address of a path below the base. The elements are escaped.
func (c *Caller) URL(query url.Values, elements ...string) *url.URL {
	u := *c.base
	for _, e := range elements {
		u.RawPath = u.EscapedPath() + "/" + url.PathEscape(e)
		u.Path += "/" + e
	}
	u.RawQuery = query.Encode()
	return &u
}

// Next reads the address of a further page, as a provider gave it. One that
// leads to another place is an error, since the key would go there.
func (c *Caller) Next(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%s: address of the next page cannot be read", c.cfg.Provider)
	}
	if u.Scheme != c.base.Scheme || u.Host != c.base.Host {
		return nil, fmt.Errorf("%s: next page is at %s://%s, not at %s://%s: not followed",
			c.cfg.Provider, u.Scheme, u.Host, c.base.Scheme, c.base.Host)
	}
	u.User = nil
	return u, nil
}

// Do sends a request, with a body in JSON unless it is nil, and reads the
// answer into the second, unless that is nil.
func (c *Caller) Do(ctx context.Context, method string, u *url.URL, body, answer any) error {
	return c.call(ctx, method, u, body, c.t.Timeout, c.t.MaxBody, func(r io.Reader) (again bool, err error) {
		text, err := io.ReadAll(r)
		if err != nil {
			return !errors.Is(err, errTooLong), err // the connection broke
		}
		if answer == nil {
			return false, nil
		}
		return false, shape(json.Unmarshal(text, answer))
	})
}

// Stream sends a GET and has read called with the answer while it arrives, for
// APIs that give a list in one piece. Once read was called, nothing is tried
// again.
func (c *Caller) Stream(ctx context.Context, u *url.URL, read func(*json.Decoder) error) error {
	return c.call(ctx, http.MethodGet, u, nil, c.t.StreamFor, c.t.MaxStream, func(r io.Reader) (bool, error) {
		return false, read(json.NewDecoder(r))
	})
}

// Elements reads a JSON array, one element at a time.
func Elements[T any](d *json.Decoder, each func(T) error) error {
	if err := delimiter(d, '['); err != nil {
		return err
	}
	for d.More() {
		var value T
		if err := d.Decode(&value); err != nil {
			return shape(err)
		}
		if err := each(value); err != nil {
			return err
		}
	}
	return delimiter(d, ']')
}

// Member reads a JSON object up to the value of a member. What stands before it
// is skipped.
func Member(d *json.Decoder, name string) error {
	if err := delimiter(d, '{'); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return shape(err)
		}
		if key == name {
			return nil
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return shape(err)
		}
	}
	return fmt.Errorf("answer has no %s", name)
}

func delimiter(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err != nil {
		return shape(err)
	}
	if got != want {
		return fmt.Errorf("answer is not the JSON expected: no %s where one must be", want)
	}
	return nil
}

// shape leaves out of an error of package json what it quotes of the answer,
// which holds addresses. What reading failed with stays as it is.
func shape(err error) error {
	if err == nil {
		return nil
	}
	const wrong = "answer is not the JSON expected"
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%s: broken at byte %d", wrong, syntax.Offset)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		found, _, _ := strings.Cut(kind.Value, " ") // "number 17" would quote
		return fmt.Errorf("%s: a %s at byte %d, which cannot be", wrong, found, kind.Offset)
	}
	return fmt.Errorf("%s: %w", wrong, err)
}

// call sends a request until it is answered for good, and has read called with
// the body of a success.
func (c *Caller) call(ctx context.Context, method string, u *url.URL, body any,
	timeout time.Duration, limit int64, read func(io.Reader) (again bool, err error),
) error {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s: %s %s: %w", c.cfg.Provider, method, u.Path, err)
		}
	}
	for attempt := 1; ; attempt++ {
		again, wait, err := c.attempt(ctx, method, u, payload, timeout, limit, read)
		if err == nil || !again || attempt >= c.t.Attempts || ctx.Err() != nil {
			return err
		}
		if wait <= 0 {
			wait = backoff.Wait(attempt, c.t.Jitter())
		}
		if sleepErr := c.t.Sleep(ctx, min(wait, c.t.MaxWait)); sleepErr != nil {
			return errors.Join(err, sleepErr)
		}
	}
}

// backoff doubles up to half a minute.
var backoff = httpcall.Backoff{First: 500 * time.Millisecond, Most: 30 * time.Second, Factor: 2}

// attempt sends a request once. wait is what the provider asks for.
func (c *Caller) attempt(ctx context.Context, method string, u *url.URL, payload []byte,
	timeout time.Duration, limit int64, read func(io.Reader) (again bool, err error),
) (again bool, wait time.Duration, err error) {
	where := func(err error) error {
		return fmt.Errorf("%s: %s %s: %w", c.cfg.Provider, method, u.Path, err)
	}
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(inner, method, u.String(), bytes.NewReader(payload))
	if err != nil {
		return false, 0, where(errors.New("request cannot be made"))
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "mailriver")
	if payload != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if err := c.cfg.Authorize(request, payload); err != nil {
		return false, 0, where(c.redacted(err))
	}
	response, err := c.client.Do(request)
	if err != nil {
		return true, 0, where(c.redacted(httpcall.Cause(err)))
	}
	defer response.Body.Close()
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		if again, err := read(&boundedReader{r: response.Body, left: limit}); err != nil {
			return again, 0, where(c.redacted(err))
		}
		return false, 0, nil
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // the status alone says enough
	kind, message := c.cfg.Problem(response.Header, text)
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		message = "redirects, which is not followed"
	}
	problem := &Error{
		Provider: c.cfg.Provider, Call: method + " " + u.Path, Status: response.StatusCode,
		Kind: c.redact(kind), Message: c.redact(message), Content: c.cfg.Content(response.StatusCode, kind),
	}
	again = response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= 500 ||
		c.cfg.Busy != nil && c.cfg.Busy(response.StatusCode, kind)
	return again, c.asked(response.Header), problem
}

// asked is how long the provider asks to be left alone. 0: it does not say.
func (c *Caller) asked(header http.Header) time.Duration {
	now := c.t.Now()
	if wait, asked := httpcall.RetryAfter(header, now); asked {
		return wait
	}
	if c.cfg.ResetHeader != "" {
		if second, err := strconv.ParseInt(header.Get(c.cfg.ResetHeader), 10, 64); err == nil {
			return time.Unix(second, 0).Sub(now)
		}
	}
	return 0
}

// redacted is an error whose text shows no key. One that shows none stays as it
// is, so that errors.Is goes on working.
func (c *Caller) redacted(err error) error {
	for _, secret := range c.cfg.Secrets {
		if secret != "" && strings.Contains(err.Error(), secret) {
			return errors.New(c.redact(err.Error()))
		}
	}
	return err
}

// redact makes text of a provider fit for an error: no key, no control
// characters, not too long.
func (c *Caller) redact(text string) string {
	for _, secret := range c.cfg.Secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return httpcall.Excerpt(text, 300)
}

// errTooLong is returned for an answer over the bound.
var errTooLong = errors.New("answer is longer than allowed")

// boundedReader fails, rather than end, where the bound is passed: a list cut
// short must not pass for a whole one.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLong
	}
	return n, err
}
