// Package client asks the suppression API, and changes the list through it.
//
// What it reads is bounded: answers in bytes, requests and pauses in time. It
// follows no redirect, so that the key goes to the configured host only, and no
// error shows the key. What may be repeated (questions, and files, whose lines
// make the same change each time) is repeated while the API is busy or restarts;
// a single change is not, since whoever makes it should hear how it went.
//
// It does not read the local copy or Kafka, and decides nothing about addresses:
// what is suppressed, the service says.
package client

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

// MaxCheck is how many addresses the API checks at once.
const MaxCheck = 10_000

// ErrUnreachable is what every error is of an API that did not answer.
var ErrUnreachable = errors.New("the suppression API does not answer")

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
}

// FieldError says what is wrong with one field.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string {
	if p.Foreign {
		return fmt.Sprintf("%d %s, which is no answer of the suppression API", p.Status, http.StatusText(p.Status))
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
	base    string
	key     string
	timeout time.Duration
	http    *http.Client
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	// answered is set once the API did. One that never did is not waited for.
	answered atomic.Bool
}

// New checks its arguments and connects to nothing.
func New(cfg Config, deps Deps) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil || deps.Sleep == nil {
		return nil, errors.New("suppression client: a dependency is missing")
	}
	if strings.ContainsFunc(deps.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("key: has characters that no key has")
	}
	return &Client{
		base: strings.TrimSuffix(cfg.URL, "/"), key: deps.Key, timeout: cfg.Timeout, now: deps.Now, sleep: deps.Sleep,
		http: &http.Client{CheckRedirect: httpcall.NoRedirects},
	}, nil
}

// request is what is asked.
type request struct {
	method, path string
	query        url.Values
	contentType  string
	body         []byte
	repeatable   bool
}

// call asks and reads the answer into out.
func (c *Client) call(ctx context.Context, r request, out any) error {
	a, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer a.stop()
	text, err := io.ReadAll(io.LimitReader(a, maxAnswer+1))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if len(text) > maxAnswer {
		return fmt.Errorf("answer of %s: has more than %d bytes", r.path, maxAnswer)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return a.foreign()
	}
	return nil
}

// answer is one that says yes. Reading it ends when nothing comes for as long as
// a request may take. Whoever has it calls stop.
type answer struct {
	resp    *http.Response
	cancel  context.CancelFunc
	clock   *time.Timer
	timeout time.Duration
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.resp.Body.Read(p)
	if n > 0 {
		a.clock.Reset(a.timeout) // the clock starts anew with each part
	}
	return n, err
}

func (a *answer) stop() {
	a.clock.Stop()
	a.cancel()
	_ = a.resp.Body.Close() // what was wanted of it was read
}

func (a *answer) foreign() *Problem { return &Problem{Status: a.resp.StatusCode, Foreign: true} }

// open asks until there is an answer that says yes.
func (c *Client) open(ctx context.Context, r request) (*answer, error) {
	for n := 1; ; n++ {
		a, err := c.once(ctx, r)
		wait, again := c.again(err)
		if !again || !r.repeatable || n == attempts || ctx.Err() != nil {
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

func (c *Client) once(ctx context.Context, r request) (*answer, error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	asked, cancel := context.WithCancel(ctx)
	a := &answer{cancel: cancel, clock: time.AfterFunc(c.timeout, cancel), timeout: c.timeout}
	req, err := http.NewRequestWithContext(asked, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		cancel()
		return nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
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
	if a.resp.StatusCode >= http.StatusOK && a.resp.StatusCode < http.StatusMultipleChoices {
		return a, nil
	}
	defer a.stop()
	return nil, a.problem(c.now())
}

// unreachable makes an error of one that the transport gave.
func (c *Client) unreachable(ctx context.Context, err error) error {
	err = httpcall.Cause(err)
	if errors.Is(err, context.Canceled) && context.Cause(ctx) == nil {
		err = fmt.Errorf("nothing came for %s", c.timeout)
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, err)
}

// problem reads an answer that says no.
func (a *answer) problem(now time.Time) *Problem {
	p := &Problem{}
	kind, _, _ := strings.Cut(a.resp.Header.Get("Content-Type"), ";")
	text, err := io.ReadAll(io.LimitReader(a, maxProblem))
	if err != nil || kind != "application/problem+json" || json.Unmarshal(text, p) != nil {
		p = a.foreign()
	}
	p.Status = a.resp.StatusCode
	if wait, asked := httpcall.RetryAfter(a.resp.Header, now); asked && wait > 0 {
		p.RetryAfter = min(wait, patience.Most)
	}
	return p
}
