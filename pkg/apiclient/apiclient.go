// Package apiclient asks the HTTP APIs of Mailriver: those that package
// httpserver/api serves.
//
// What it reads is bounded: answers in bytes, requests and pauses in time. It
// follows no redirect, so that the key goes to the configured host only, and no
// error shows the key. What may be repeated is repeated while an API is busy or
// restarts; what may not is not, since whoever asks for it should hear how it
// went.
//
// It knows no API, and no path of one: packages suppression/client and
// lead/leadapi do.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"mailriver/pkg/httpcall"
)

const (
	maxAnswer  = 64 << 20
	maxProblem = 1 << 20
	attempts   = 5 // of what may be repeated
)

// patience is between two attempts, and Most at most, whatever the API asks.
var patience = httpcall.Backoff{First: 2 * time.Second, Most: 30 * time.Second, Factor: 2} //nolint:gochecknoglobals // a constant, if structs could be

// ErrUnreachable is what every error is of an API that did not answer.
var ErrUnreachable = errors.New("does not answer")

// Problem is an answer that says no: the problem details of RFC 9457.
type Problem struct {
	Status     int           `json:"status"`
	Title      string        `json:"title"`
	Detail     string        `json:"detail"`
	Errors     []FieldError  `json:"errors"`
	RetryAfter time.Duration `json:"-"`
	// Foreign is set when the answer is no problem of the API's: something else
	// answered.
	Foreign bool `json:"-"`

	api string
}

// FieldError says what is wrong with one field.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string {
	if p.Foreign {
		return fmt.Sprintf("%d %s, which is no answer of the %s API", p.Status, http.StatusText(p.Status), p.api)
	}
	if len(p.Errors) > 0 {
		lines := make([]string, len(p.Errors))
		for i, e := range p.Errors {
			lines[i] = e.Field + ": " + e.Detail
		}
		return strings.Join(lines, "\n")
	}
	if p.Detail != "" {
		return p.Detail
	}
	return fmt.Sprintf("%d %s", p.Status, http.StatusText(p.Status))
}

// Deps are what the client needs of its surroundings. Now and Sleep are
// required.
type Deps struct {
	Key string // empty: none is sent
	Now func() time.Time
	// Sleep waits between two attempts.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Client asks one API. It may be used by several goroutines.
type Client struct {
	name    string
	base    string
	key     string
	timeout time.Duration
	http    *http.Client
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	// answered is set once the API did. One that never did is not waited for.
	answered atomic.Bool
}

// New checks its arguments and connects to nothing. The name is that of the API,
// for errors.
func New(name string, cfg Config, deps Deps) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil || deps.Sleep == nil {
		return nil, errors.New("apiclient: a dependency is missing")
	}
	if strings.ContainsFunc(deps.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("key: has characters that no key has")
	}
	return &Client{
		name: name, base: strings.TrimSuffix(cfg.URL, "/"), key: deps.Key, timeout: cfg.Timeout, now: deps.Now, sleep: deps.Sleep,
		http: &http.Client{CheckRedirect: httpcall.NoRedirects},
	}, nil
}

// Request is what is asked.
type Request struct {
	Method, Path string
	Query        url.Values
	ContentType  string
	Body         []byte
	Repeatable   bool
}

// Values makes a query of names and texts, without those that are empty.
func Values(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// Call asks and reads the answer into out.
func (c *Client) Call(ctx context.Context, r Request, out any) error {
	a, err := c.Open(ctx, r)
	if err != nil {
		return err
	}
	defer a.Stop()
	return a.Decode(out)
}

// Answer is one that says yes. Reading it ends when nothing comes for as long as
// a request may take. Whoever has it calls Stop.
type Answer struct {
	Status int
	Header http.Header

	client  *Client
	ctx     context.Context // of whoever asked
	resp    *http.Response
	cancel  context.CancelFunc
	clock   *time.Timer
	timeout time.Duration
}

// Read reads the body.
func (a *Answer) Read(p []byte) (int, error) {
	n, err := a.resp.Body.Read(p)
	if n > 0 {
		a.clock.Reset(a.timeout) // the clock starts anew with each part
	}
	return n, err
}

// Decode reads all of the body, which is JSON, into out.
func (a *Answer) Decode(out any) error {
	text, err := io.ReadAll(io.LimitReader(a, maxAnswer+1))
	if err != nil {
		return a.Broken(err)
	}
	if len(text) > maxAnswer {
		return fmt.Errorf("answer of %s: has more than %d bytes", a.resp.Request.URL.Path, maxAnswer)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return a.Foreign()
	}
	return nil
}

// Broken makes an error of one that reading the body gave.
func (a *Answer) Broken(err error) error { return a.client.unreachable(a.ctx, err) }

// Trailer is what stands behind the last byte, once that was read.
func (a *Answer) Trailer() http.Header { return a.resp.Trailer }

// Stop ends the answer.
func (a *Answer) Stop() {
	a.clock.Stop()
	a.cancel()
	_ = a.resp.Body.Close() // what was wanted of it was read
}

// Foreign is the error that an answer is not one of the API.
func (a *Answer) Foreign() *Problem {
	return &Problem{Status: a.resp.StatusCode, Foreign: true, api: a.client.name}
}

// Open asks until there is an answer that says yes.
func (c *Client) Open(ctx context.Context, r Request) (*Answer, error) {
	for n := 1; ; n++ {
		a, err := c.once(ctx, r)
		wait, again := c.again(err)
		if !again || !r.Repeatable || n == attempts || ctx.Err() != nil {
			return a, err
		}
		if wait == 0 {
			wait = patience.Wait(n, 1) // there is nobody beside to keep apart from
		}
		if err := c.sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// again says whether another attempt may do better.
func (c *Client) again(err error) (wait time.Duration, yes bool) {
	if p, ok := errors.AsType[*Problem](err); ok {
		switch p.Status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return p.RetryAfter, true
		}
		return 0, false
	}
	return 0, errors.Is(err, ErrUnreachable) && c.answered.Load()
}

func (c *Client) once(ctx context.Context, r Request) (*Answer, error) {
	target := c.base + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	asked, cancel := context.WithCancel(ctx)
	a := &Answer{client: c, ctx: ctx, cancel: cancel, clock: time.AfterFunc(c.timeout, cancel), timeout: c.timeout}
	req, err := http.NewRequestWithContext(asked, r.Method, target, bytes.NewReader(r.Body))
	if err != nil {
		cancel()
		return nil, err
	}
	if r.ContentType != "" {
		req.Header.Set("Content-Type", r.ContentType)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	a.resp, err = c.http.Do(req) //nolint:bodyclose // stop closes it
	if err != nil {
		cancel()
		return nil, c.unreachable(ctx, err)
	}
	c.answered.Store(true)
	a.Status, a.Header = a.resp.StatusCode, a.resp.Header
	if a.resp.StatusCode >= http.StatusOK && a.resp.StatusCode < http.StatusMultipleChoices {
		return a, nil
	}
	defer a.Stop()
	return nil, a.problem(c.now())
}

// unreachable makes an error of one that the transport gave.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // whoever asked gave up
	}
	err = httpcall.Cause(err)
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("nothing came for %s", c.timeout)
	}
	return fmt.Errorf("the %s API %w at %s: %w", c.name, ErrUnreachable, c.base, err)
}

// problem reads an answer that says no.
func (a *Answer) problem(now time.Time) *Problem {
	p := &Problem{}
	kind, _, _ := strings.Cut(a.resp.Header.Get("Content-Type"), ";")
	text, err := io.ReadAll(io.LimitReader(a, maxProblem))
	if err != nil || kind != "application/problem+json" || json.Unmarshal(text, p) != nil {
		p = a.Foreign()
	}
	p.Status = a.resp.StatusCode
	if wait, asked := httpcall.RetryAfter(a.resp.Header, now); asked && wait > 0 {
		p.RetryAfter = min(wait, patience.Most)
	}
	return p
}
