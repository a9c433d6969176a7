// Package postmark reads and extends the suppressions of one Postmark message
// stream.
//
// From the suppressions API (postmarkapp.com/developer/api/suppressions-api) and
// the overview (postmarkapp.com/developer/api/overview), as read on 2026-11-24.
// Not tried against a live account. What follows from them:
//
//   - A dump is one answer, however long, so it is read while it arrives.
//   - What is added has the reason ManualSuppression and the origin Customer. It
//     becomes effective within about a minute, and a dump may not have it before.
//   - A call adds at most 50 addresses, and its answer tells of each. The bound
//     is in no copy of the page that could be read, and is as it was known.
package postmark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

const name = "postmark"

// Default is the base URL.
const Default = "https://api.postmarkapp.com"

const batchSize = 50

// Options says which stream, and how it is reached.
type Options struct {
	ServerToken string
	Stream      string // id of the message stream, such as outbound
	BaseURL     string // empty: Default
	Transport   esplist.Transport
}

// Client is the suppressions of one stream.
type Client struct {
	caller *esplist.Caller
	stream string
}

// New checks the options. It calls nothing.
func New(o Options) (*Client, error) {
	if o.ServerToken == "" {
		return nil, errors.New("postmark: server token is required")
	}
	if o.Stream == "" || strings.ContainsAny(o.Stream, "/?#.") {
		return nil, fmt.Errorf("postmark: stream: is %q, must be the id of a message stream", o.Stream)
	}
	if o.BaseURL == "" {
		o.BaseURL = Default
	}
	caller, err := esplist.NewCaller(esplist.CallerConfig{
		Provider: name,
		BaseURL:  o.BaseURL,
		Authorize: func(r *http.Request, _ []byte) error {
			r.Header.Set("X-Postmark-Server-Token", o.ServerToken)
			return nil
		},
		Problem: problem,
		Secrets: []string{o.ServerToken},
	}, o.Transport)
	if err != nil {
		return nil, err
	}
	return &Client{caller, o.Stream}, nil
}

func problem(_ http.Header, body []byte) (kind, message string) {
	var answer struct {
		ErrorCode int
		Message   string
	}
	if json.Unmarshal(body, &answer) == nil && answer.ErrorCode != 0 {
		kind = fmt.Sprintf("error %d", answer.ErrorCode)
	}
	return kind, answer.Message
}

// Provider implements [esplist.Client].
func (c *Client) Provider() string { return name }

// List implements [esplist.Client].
func (c *Client) List(ctx context.Context, each func(suppression.Entry) error) error {
	dump := c.caller.URL(nil, "message-streams", c.stream, "suppressions", "dump")
	return c.caller.Stream(ctx, dump, func(d *json.Decoder) error {
		if err := esplist.Member(d, "Suppressions"); err != nil {
			return err
		}
		return esplist.Elements(d, func(line struct {
			EmailAddress      string
			SuppressionReason string
			Origin            string
			CreatedAt         string
		},
		) error {
			since, err := time.Parse(time.RFC3339Nano, line.CreatedAt)
			if err != nil {
				since = time.Time{} // when is worth less than that
			}
			return each(suppression.Entry{
				Address: line.EmailAddress, ScopeKind: event.ScopeStream, ScopeID: c.stream, Provider: name,
				Reason: reason(line.SuppressionReason, line.Origin), Since: since.UTC(),
			})
		})
	})
}

func reason(text, origin string) suppression.Reason {
	switch {
	case text == "HardBounce":
		return suppression.HardBounce
	case text == "SpamComplaint":
		return suppression.Complaint
	case text == "ManualSuppression" && origin == "Recipient":
		return suppression.Unsubscribe
	case text == "ManualSuppression":
		return suppression.Manual
	}
	return suppression.ProviderList
}

// Express implements [esplist.Client].
func (c *Client) Express(e suppression.Entry) (suppression.Entry, error) {
	if !esplist.Wide(e) && (e.ScopeKind != event.ScopeStream || e.ScopeID != c.stream) {
		return suppression.Entry{}, esplist.ErrScope
	}
	e.ScopeKind, e.ScopeID, e.Provider = event.ScopeStream, c.stream, name
	e.Reason = suppression.Manual
	return e, nil
}

// Add implements [esplist.Client].
func (c *Client) Add(ctx context.Context, entries []suppression.Entry) ([]esplist.Result, error) {
	refused := map[string]string{}
	results, err := esplist.AddInBatches(ctx, entries, batchSize,
		func(ctx context.Context, part []suppression.Entry) error {
			type address struct{ EmailAddress string }
			var body struct{ Suppressions []address }
			for _, e := range part {
				if _, err := c.Express(e); err != nil {
					return fmt.Errorf("postmark: add: %w", err)
				}
				body.Suppressions = append(body.Suppressions, address{e.Address})
			}
			var answer struct {
				Suppressions []struct{ EmailAddress, Status, Message string }
			}
			target := c.caller.URL(nil, "message-streams", c.stream, "suppressions")
			if err := c.caller.Do(ctx, http.MethodPost, target, body, &answer); err != nil {
				return err
			}
			// Whatever the answer does not call suppressed is not.
			for _, e := range part {
				refused[key(e.Address)] = "the answer does not tell of it"
			}
			for _, line := range answer.Suppressions {
				switch {
				case line.Status == "Suppressed":
					delete(refused, key(line.EmailAddress))
				case line.Message != "":
					refused[key(line.EmailAddress)] = line.Message
				default:
					refused[key(line.EmailAddress)] = "status " + line.Status
				}
			}
			return nil
		})
	for i := range results {
		if why, ok := refused[key(results[i].Entry.Address)]; ok && results[i].Refused == "" {
			results[i].Refused = why
		}
	}
	return results, err
}

// key is an address as it is found again in an answer, which may have it in
// lower case.
func key(address string) string { return strings.ToLower(strings.TrimSpace(address)) }
