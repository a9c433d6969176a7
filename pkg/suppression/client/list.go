// Package client asks the suppression API, and changes the list through it.
//
// How an API is asked is the business of package apiclient. What may be repeated
// (questions, and files, whose lines make the same change each time) is repeated;
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
	"strconv"
	"time"

	"mailriver/pkg/apiclient"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/layout"
)

const (
	listPath   = "/v1/suppressions"
	paramScope = "scope_kind"
	paramID    = "scope_id"
)

// MaxCheck is how many addresses the API checks at once.
const MaxCheck = 10_000

// Client asks one API. It may be used by several goroutines.
type Client struct{ api *apiclient.Client }

// New checks its arguments and connects to nothing.
func New(cfg apiclient.Config, deps apiclient.Deps) (*Client, error) {
	c, err := apiclient.New("suppression", cfg, deps)
	if err != nil {
		return nil, err
	}
	return &Client{c}, nil
}

// DefaultConfig is the API on this machine.
func DefaultConfig() apiclient.Config { return apiclient.DefaultConfig("http://127.0.0.1:8082") }

// Mail is the mail that a question is about, beside the address. The zero value
// is any: only what stands against every mail counts then.
type Mail struct{ Stream, ScopeKind, ScopeID string }

// Answer is what the list says about one address.
type Answer struct {
	Address    string              `json:"address"`
	Suppressed bool                `json:"suppressed"` // for the mail of the question
	Entries    []suppression.Entry `json:"entries"`    // all in force, strongest first
	AsOf       time.Time           `json:"as_of,omitzero"`
	Position   string              `json:"position,omitempty"`
	// Pending is set for a change that is durable, and not in the list yet.
	Pending bool `json:"-"`
}

// Check asks about at most [MaxCheck] addresses. The answers are in the order of
// the addresses.
func (c *Client) Check(ctx context.Context, addresses []string, m Mail) ([]Answer, error) {
	body, err := json.Marshal(struct {
		Addresses []string `json:"addresses"`
		Stream    string   `json:"stream,omitempty"`
		ScopeKind string   `json:"scope_kind,omitempty"`
		ScopeID   string   `json:"scope_id,omitempty"`
	}{addresses, m.Stream, m.ScopeKind, m.ScopeID})
	if err != nil {
		return nil, err
	}
	var byAddress map[string]Answer
	err = c.api.Call(ctx, apiclient.Request{
		Method: http.MethodPost, Path: listPath + "/check", ContentType: "application/json", Body: body, Repeatable: true,
	}, &byAddress)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, len(addresses))
	for i, address := range addresses {
		answer, ok := byAddress[address]
		if !ok {
			// Taking it for clear would be the one wrong thing.
			return nil, fmt.Errorf("the API left out %q in its answer", address)
		}
		answer.named()
		answers[i] = answer
	}
	return answers, nil
}

// named gives the entries of an answer their address, which the API says once.
func (a *Answer) named() {
	for i := range a.Entries {
		a.Entries[i].Address = a.Address
	}
}

// Change is an entry to be made.
type Change struct {
	ScopeKind string             `json:"scope_kind,omitempty"` // empty: all mail to the address
	ScopeID   string             `json:"scope_id,omitempty"`
	Reason    suppression.Reason `json:"reason,omitempty"` // empty: manual
	Note      string             `json:"note,omitempty"`
	ExpiresAt time.Time          `json:"expires_at,omitzero"`
}

// Add puts an address on the list. The answer is how the list is behind it.
func (c *Client) Add(ctx context.Context, address string, change Change) (Answer, error) {
	body, err := json.Marshal(change)
	if err != nil {
		return Answer{}, err
	}
	return c.change(ctx, apiclient.Request{
		Method: http.MethodPut, Path: addressPath(address), ContentType: "application/json", Body: body,
	})
}

// Lift takes an address off the list, in one scope.
func (c *Client) Lift(ctx context.Context, address, scopeKind, scopeID, note string) (Answer, error) {
	return c.change(ctx, apiclient.Request{
		Method: http.MethodDelete, Path: addressPath(address),
		Query: apiclient.Values("scope_kind", scopeKind, "scope_id", scopeID, "note", note),
	})
}

func (c *Client) change(ctx context.Context, r apiclient.Request) (a Answer, err error) {
	got, err := c.api.Open(ctx, r)
	if err != nil {
		return a, err
	}
	defer got.Stop()
	if err := got.Decode(&a); err != nil {
		return a, err
	}
	a.named()
	a.Pending = got.Status == http.StatusAccepted
	return a, nil
}

func addressPath(address string) string { return listPath + "/" + url.PathEscape(address) }

// Explanation is everything that is known about an address.
type Explanation struct {
	Answer
	Scopes []ExplainedScope `json:"scopes"`
}

// ExplainedScope is what is known in one scope.
type ExplainedScope struct {
	ScopeKind string `json:"scope_kind"`
	ScopeID   string `json:"scope_id"`
	Facts     []Fact `json:"facts"` // oldest first
}

// Fact is one event, and what the policy made of it.
type Fact struct {
	EventID    string             `json:"event_id"`
	Revision   int32              `json:"revision"`
	EventType  string             `json:"event_type"`
	OccurredAt time.Time          `json:"occurred_at"`
	ExpiresAt  time.Time          `json:"expires_at,omitzero"`
	Provider   string             `json:"provider"`
	Source     string             `json:"source"`
	Effect     string             `json:"effect"`
	Reason     suppression.Reason `json:"reason"`
	Counts     bool               `json:"counts"`  // it is part of an entry
	Because    string             `json:"because"` // what the policy made of it
	Detail     string             `json:"detail,omitempty"`
	Actor      string             `json:"actor,omitempty"`
}

// Explain says why an address is suppressed, or is not.
func (c *Client) Explain(ctx context.Context, address string, m Mail) (e Explanation, err error) {
	err = c.api.Call(ctx, apiclient.Request{
		Method: http.MethodGet, Path: addressPath(address) + "/explain", Repeatable: true,
		Query: apiclient.Values("stream", m.Stream, paramScope, m.ScopeKind, paramID, m.ScopeID),
	}, &e)
	e.named()
	return e, err
}

// Filter is a part of the list. Its zero value is all of it.
type Filter struct {
	Reason                     string
	ScopeKind, ScopeID, Domain string
	Since                      time.Time
}

func (f Filter) query() url.Values {
	since := ""
	if !f.Since.IsZero() {
		since = f.Since.UTC().Format(time.RFC3339Nano)
	}
	return apiclient.Values("reason", f.Reason, paramScope, f.ScopeKind, paramID, f.ScopeID, "domain", f.Domain, "since", since)
}

// maxPage is how many entries the API gives at once.
const maxPage = 1000

// List returns the first entries of a part of the list, at most limit, and
// whether there are more.
func (c *Client) List(ctx context.Context, f Filter, limit int) (entries []suppression.Entry, more bool, err error) {
	query := f.query()
	for {
		query.Set("limit", strconv.Itoa(min(max(limit-len(entries), 1), maxPage)))
		var page struct {
			Entries    []suppression.Entry `json:"entries"`
			NextCursor *string             `json:"next_cursor"`
		}
		if err := c.api.Call(ctx, apiclient.Request{Method: http.MethodGet, Path: listPath, Query: query, Repeatable: true}, &page); err != nil {
			return entries, false, err
		}
		entries = append(entries, page.Entries...)
		if len(entries) > limit {
			return entries[:limit], true, nil
		}
		// A filter that few addresses pass gives short pages, and empty ones.
		if page.NextCursor == nil || len(entries) == limit {
			return entries, page.NextCursor != nil, nil
		}
		if *page.NextCursor == query.Get("cursor") {
			return entries, false, errors.New("the API gave the same page twice")
		}
		query.Set("cursor", *page.NextCursor)
	}
}

// Form is how a file is written.
type Form struct {
	Layout      layout.Layout
	Format      layout.Format
	List        layout.List // of layouts that have several
	Spreadsheet bool
}

// Exported is what an export said beside the file.
type Exported struct {
	AsOf    time.Time // the file is not older
	LeftOut int       // entries that the layout cannot hold
}

// Export writes a part of the list. After an error, what was written is not the
// whole.
func (c *Client) Export(ctx context.Context, f Filter, form Form, to io.Writer) (out Exported, err error) {
	query := f.query()
	for name, texts := range apiclient.Values("layout", string(form.Layout), "format", string(form.Format), "list", string(form.List)) {
		query[name] = texts
	}
	if form.Spreadsheet {
		query.Set("spreadsheet", "true")
	}
	got, err := c.api.Open(ctx, apiclient.Request{Method: http.MethodGet, Path: listPath + "/export", Query: query, Repeatable: true})
	if err != nil {
		return out, err
	}
	defer got.Stop()
	if out.AsOf, err = time.Parse(time.RFC3339Nano, got.Header.Get("Mailriver-As-Of")); err != nil {
		return out, got.Foreign()
	}
	writer := &watchedWriter{writer: to}
	if _, err := io.Copy(writer, got); err != nil {
		if writer.err != nil {
			return out, writer.err
		}
		return out, fmt.Errorf("the file was cut off: %w", got.Broken(err))
	}
	// A trailer, which comes behind the last byte.
	out.LeftOut, err = strconv.Atoi(got.Trailer().Get("Mailriver-Left-Out"))
	if err != nil {
		return out, errors.New("the file was cut off: the answer has no end")
	}
	return out, nil
}

// watchedWriter tells an error of the writer from one of the connection.
type watchedWriter struct {
	writer io.Writer
	err    error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.writer.Write(p)
	w.err = err
	return n, err
}

// Entries calls each for every entry of a part of the list. An error of each
// ends it.
func (c *Client) Entries(ctx context.Context, f Filter, each func(suppression.Entry) error) error {
	from, to := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.Export(ctx, f, Form{Layout: layout.Mailriver, Format: layout.NDJSON}, to)
		_ = to.CloseWithError(err) // the one that reads has it
		done <- err
	}()
	err := readAll(layout.NewReader(from, layout.Mailriver, layout.NDJSON, layout.Options{}), each)
	_ = from.CloseWithError(err) // the one that writes ends
	exportErr := <-done
	if err != nil {
		return err
	}
	return exportErr
}

func readAll(reader *layout.Reader, each func(suppression.Entry) error) error {
	for {
		e, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// Imported is what became of entries.
type Imported struct {
	Taken    int       `json:"taken"`
	BadLines int       `json:"bad_lines"`
	Errors   []BadLine `json:"errors"` // the first of them
}

// BadLine is a line that was left out, and why.
type BadLine struct {
	Line   int    `json:"line"`
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// maxNote is more than the service keeps of a note, and keeps a line within its
// bound.
const maxNote = 4 << 10

// Batch is entries on their way to the list, as one request. Its zero value is
// empty.
type Batch struct {
	body bytes.Buffer
	n    int
}

// Bounds of a batch. The smallest bound of an import that a service can have is
// 1 MiB, and it writes at once what 5,000 entries make.
const (
	maxBatch      = 5000
	maxBatchBytes = 1 << 20
)

// Len returns how many entries it holds.
func (b *Batch) Len() int { return b.n }

// Put adds an entry, or returns false where the batch has to be imported first.
func (b *Batch) Put(e suppression.Entry) (bool, error) {
	if len(e.Note) > maxNote {
		e.Note = string(bytes.ToValidUTF8([]byte(e.Note[:maxNote]), nil))
	}
	text, err := json.Marshal(e)
	if err != nil {
		return false, err
	}
	if b.n == maxBatch || b.n > 0 && b.body.Len()+len(text)+1 > maxBatchBytes {
		return false, nil
	}
	b.body.Write(append(text, '\n'))
	b.n++
	return true, nil
}

// Import brings a batch to the list and empties it. The number of a bad line is
// that of its entry, from 1.
func (c *Client) Import(ctx context.Context, b *Batch) (out Imported, err error) {
	err = c.api.Call(ctx, apiclient.Request{
		Method: http.MethodPost, Path: listPath + "/import", Repeatable: true,
		Query:       apiclient.Values("layout", string(layout.Mailriver), "format", string(layout.NDJSON)),
		ContentType: layout.NDJSON.ContentType(), Body: b.body.Bytes(),
	}, &out)
	if err == nil {
		b.body.Reset()
		b.n = 0
	}
	return out, err
}
