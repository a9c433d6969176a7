// Package mailgun reads and extends the suppressions of one Mailgun domain:
// bounces, complaints and unsubscribes.
//
// From the API reference (documentation.mailgun.com/docs/mailgun/api-reference/
// send/mailgun: bounces, complaints, unsubscribe) and its predecessor
// (documentation.mailgun.com/en/latest/api-suppressions.html), as read on
// 2026-11-24. Not tried against a live account. What follows from them:
//
//   - Lists are those of one domain. They are paged by addresses that the answer
//     gives. When next equals last, the old page says, the end is reached; an
//     empty page is the end in any case, and is what is waited for here.
//   - An unsubscribe has tags; "*" is all mail of the domain, and so are none.
//     One of a tag is read, and not added: what is posted may replace the tags
//     that are there.
//   - A post has at most 1000 records. Times are like "Mon, 06 May 2024 18:11:58
//     UTC".
package mailgun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

const name = "mailgun"

// Base URLs of the regions.
const (
	US = "https://api.mailgun.net"
	EU = "https://api.eu.mailgun.net"
)

const (
	pageSize  = "1000"
	batchSize = 1000
)

// Options says which domain, and how it is reached.
type Options struct {
	Key       string
	Domain    string // the sending domain
	BaseURL   string // empty: US
	Transport esplist.Transport
}

// Client is the suppressions of one domain.
type Client struct {
	caller *esplist.Caller
	domain string
}

// New checks the options. It calls nothing.
func New(o Options) (*Client, error) {
	if o.Key == "" {
		return nil, errors.New("mailgun: key is required")
	}
	domain := strings.ToLower(strings.TrimSuffix(o.Domain, "."))
	if !strings.Contains(domain, ".") || strings.ContainsAny(domain, "/?#@ ") {
		return nil, fmt.Errorf("mailgun: domain: is %q, must be a sending domain", o.Domain)
	}
	if o.BaseURL == "" {
		o.BaseURL = US
	}
	caller, err := esplist.NewCaller(esplist.CallerConfig{
		Provider: name,
		BaseURL:  o.BaseURL,
		Authorize: func(r *http.Request, _ []byte) error {
			r.SetBasicAuth("api", o.Key)
			return nil
		},
		Problem: problem,
		Secrets: []string{o.Key},
	}, o.Transport)
	if err != nil {
		return nil, err
	}
	return &Client{caller, domain}, nil
}

func problem(_ http.Header, body []byte) (kind, message string) {
	var answer struct{ Message string }
	if json.Unmarshal(body, &answer) != nil {
		return "", string(body) // 401 is answered with a word of plain text
	}
	return "", answer.Message
}

// Provider implements [esplist.Client].
func (c *Client) Provider() string { return name }

// lists are the three, the strongest first.
var lists = []struct {
	path   string
	reason suppression.Reason
}{
	{"complaints", suppression.Complaint},
	{"unsubscribes", suppression.Unsubscribe},
	{"bounces", suppression.HardBounce},
}

// List implements [esplist.Client]. An address can be on several lists, and an
// unsubscribe is one entry for each of its tags.
func (c *Client) List(ctx context.Context, each func(suppression.Entry) error) error {
	for _, l := range lists {
		if err := c.pages(ctx, l.path, l.reason, each); err != nil {
			return err
		}
	}
	return nil
}

// record is an item of any of the lists.
type record struct {
	Address   string   `json:"address"`
	Code      text     `json:"code"`
	Error     string   `json:"error"`
	Tags      []string `json:"tags"`
	CreatedAt string   `json:"created_at"`
}

// text is a string, or a number that stands for one: the code has been either.
type text string

func (t *text) UnmarshalJSON(value []byte) error {
	if len(value) > 0 && value[0] == '"' {
		return json.Unmarshal(value, (*string)(t))
	}
	if *t = text(value); *t == "null" {
		*t = ""
	}
	return nil
}

func (c *Client) pages(ctx context.Context, list string, reason suppression.Reason,
	each func(suppression.Entry) error,
) error {
	at := c.caller.URL(url.Values{"limit": {pageSize}}, "v3", c.domain, list)
	for {
		var page struct {
			Items  []record
			Paging struct{ Next string }
		}
		if err := c.caller.Do(ctx, http.MethodGet, at, nil, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			for _, e := range c.entries(item, reason) {
				if err := each(e); err != nil {
					return err
				}
			}
		}
		if len(page.Items) == 0 || page.Paging.Next == "" {
			return nil
		}
		next, err := c.caller.Next(page.Paging.Next)
		if err != nil {
			return err
		}
		if next.String() == at.String() {
			return fmt.Errorf("mailgun: %s: the next page is this one", list)
		}
		at = next
	}
}

func (c *Client) entries(item record, reason suppression.Reason) []suppression.Entry {
	e := suppression.Entry{
		Address: item.Address, ScopeKind: event.ScopeDomain, ScopeID: c.domain,
		Reason: reason, Provider: name, Since: moment(item.CreatedAt),
	}
	if reason == suppression.HardBounce {
		e.Note = strings.TrimSpace(string(item.Code) + " " + item.Error)
	}
	if reason != suppression.Unsubscribe || len(item.Tags) == 0 {
		return []suppression.Entry{e}
	}
	var entries []suppression.Entry
	for _, tag := range item.Tags {
		if tag == "*" {
			return []suppression.Entry{e}
		}
		one := e
		one.ScopeKind, one.ScopeID = event.ScopeTag, tag
		entries = append(entries, one)
	}
	return entries
}

// moment reads a time with a zone's name or its offset. One that cannot be read
// is none: when is worth less than that.
func moment(text string) time.Time {
	for _, layout := range []string{time.RFC1123, time.RFC1123Z, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil && at.Year() > 1 {
			return at.UTC()
		}
	}
	return time.Time{}
}

// ErrTag is returned by Express for an opt-out of a tag.
var ErrTag = errors.New("opt-outs of a tag are only read: adding one may replace others")

// Express implements [esplist.Client].
func (c *Client) Express(e suppression.Entry) (suppression.Entry, error) {
	switch {
	case esplist.Wide(e):
	case e.ScopeKind == event.ScopeDomain && strings.EqualFold(e.ScopeID, c.domain):
	case e.ScopeKind == event.ScopeTag:
		return suppression.Entry{}, ErrTag
	default:
		return suppression.Entry{}, esplist.ErrScope
	}
	e.ScopeKind, e.ScopeID, e.Provider = event.ScopeDomain, c.domain, name
	switch e.Reason {
	case suppression.Complaint:
	case suppression.Unsubscribe, suppression.Manual:
		e.Reason = suppression.Unsubscribe
	default:
		e.Reason = suppression.HardBounce
	}
	return e, nil
}

// Add implements [esplist.Client].
func (c *Client) Add(ctx context.Context, entries []suppression.Entry) ([]esplist.Result, error) {
	var results []esplist.Result
	for len(entries) > 0 {
		// Neighbours of one list go together.
		first, n, err := esplist.Run(c, entries, func(a, b suppression.Entry) bool { return a.Reason == b.Reason })
		if err != nil {
			return results, err
		}
		part, err := esplist.AddInBatches(ctx, entries[:n], batchSize,
			func(ctx context.Context, part []suppression.Entry) error {
				return c.post(ctx, first.Reason, part)
			})
		results = append(results, part...)
		if err != nil {
			return results, err
		}
		entries = entries[n:]
	}
	return results, nil
}

func (c *Client) post(ctx context.Context, reason suppression.Reason, part []suppression.Entry) error {
	var list string
	for _, l := range lists {
		if l.reason == reason {
			list = l.path
		}
	}
	type item struct {
		Address   string   `json:"address"`
		Code      string   `json:"code,omitempty"`
		Error     string   `json:"error,omitempty"`
		Tags      []string `json:"tags,omitempty"`
		CreatedAt string   `json:"created_at"` // required, the reference says
	}
	items := make([]item, len(part))
	for i, e := range part {
		since := e.Since
		if since.IsZero() {
			since = c.caller.Now()
		}
		items[i] = item{Address: e.Address, CreatedAt: since.UTC().Format(time.RFC1123)}
		switch reason {
		case suppression.HardBounce:
			items[i].Code, items[i].Error = "550", "added by Mailriver: "+string(e.Reason)
		case suppression.Unsubscribe:
			items[i].Tags = []string{"*"}
		}
	}
	return c.caller.Do(ctx, http.MethodPost, c.caller.URL(nil, "v3", c.domain, list), items, nil)
}
