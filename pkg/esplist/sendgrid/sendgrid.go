// Package sendgrid reads and extends the suppressions of a Twilio SendGrid
// account or subuser.
//
// From the v3 API reference (www.twilio.com/docs/sendgrid/api-reference:
// bounces-api, spam-reports-api, invalid-e-mails-api, suppressions-global-
// suppressions, suppressions-unsubscribe-groups, suppressions-suppressions, and
// how-to-use-the-sendgrid-v3-api/rate-limits), pages dated March to July 2026,
// as read on 2026-11-24. Not tried against a live account. What follows from
// them:
//
//   - Bounces, spam reports, invalid addresses and global unsubscribes each stop
//     all mail of the account. Blocks stop none, and are not read.
//   - Only global unsubscribes and those of a group can be added. A bounce is
//     therefore added as a global unsubscribe.
//   - Pages of at most 500 are asked for by offset. A list that changes
//     meanwhile shifts; asking for what was there at the start keeps new entries
//     from doing so.
//   - The addresses of a group come in one piece, without their times.
//   - An opt-out of a group that was deleted has nowhere to go, and is refused.
//   - How many addresses one call may add is not said; a thousand are sent, and
//     fewer where that is too much.
package sendgrid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

const name = "sendgrid"

// Base URLs of the regions.
const (
	Global = "https://api.sendgrid.com"
	EU     = "https://api.eu.sendgrid.com"
)

const (
	pageSize  = 500
	batchSize = 1000
)

// Options says whose lists, and how they are reached.
type Options struct {
	Key        string
	OnBehalfOf string   // a subuser, with the key of its parent account
	Groups     []string // ids of unsubscribe groups; empty: all
	BaseURL    string   // empty: Global
	Transport  esplist.Transport
}

// Client is the lists of one account or subuser.
type Client struct {
	caller *esplist.Caller
	groups []string
}

// New checks the options. It calls nothing.
func New(o Options) (*Client, error) {
	if o.Key == "" {
		return nil, errors.New("sendgrid: key is required")
	}
	for _, id := range o.Groups {
		if !isID(id) {
			return nil, fmt.Errorf("sendgrid: group: is %q, must be a number", id)
		}
	}
	if o.BaseURL == "" {
		o.BaseURL = Global
	}
	caller, err := esplist.NewCaller(esplist.CallerConfig{
		Provider: name,
		BaseURL:  o.BaseURL,
		Authorize: func(r *http.Request, _ []byte) error {
			r.Header.Set("Authorization", "Bearer "+o.Key)
			if o.OnBehalfOf != "" {
				r.Header.Set("On-Behalf-Of", o.OnBehalfOf)
			}
			return nil
		},
		Problem:     problem,
		ResetHeader: "X-Ratelimit-Reset",
		Secrets:     []string{o.Key},
	}, o.Transport)
	if err != nil {
		return nil, err
	}
	return &Client{caller, o.Groups}, nil
}

func isID(text string) bool {
	id, err := strconv.ParseUint(text, 10, 63)
	return err == nil && id > 0
}

func problem(_ http.Header, body []byte) (kind, message string) {
	var answer struct {
		Errors []struct {
			Field   string
			Message string
		}
	}
	_ = json.Unmarshal(body, &answer) // the status says enough without
	var texts []string
	for _, e := range answer.Errors {
		if e.Field != "" {
			e.Message = e.Field + ": " + e.Message
		}
		texts = append(texts, e.Message)
	}
	return "", strings.Join(texts, "; ")
}

// Provider implements [esplist.Client].
func (c *Client) Provider() string { return name }

// lists are those that are read page by page. All stop every mail.
var lists = []struct {
	path      string
	scopeKind string
	reason    suppression.Reason
}{
	{"spam_reports", event.ScopeAddress, suppression.Complaint},
	{"unsubscribes", event.ScopeAccount, suppression.Unsubscribe},
	{"bounces", event.ScopeAddress, suppression.HardBounce},
	{"invalid_emails", event.ScopeAddress, suppression.InvalidAddress},
}

// List implements [esplist.Client]. An address can be on several lists.
func (c *Client) List(ctx context.Context, each func(suppression.Entry) error) error {
	now := strconv.FormatInt(c.caller.Now().Unix(), 10)
	for _, l := range lists {
		e := suppression.Entry{ScopeKind: l.scopeKind, Reason: l.reason, Provider: name}
		if err := c.pages(ctx, l.path, now, e, each); err != nil {
			return err
		}
	}
	groups := c.groups
	if len(groups) == 0 {
		var all []struct{ ID int64 }
		if err := c.caller.Do(ctx, http.MethodGet, c.caller.URL(nil, "v3", "asm", "groups"), nil, &all); err != nil {
			return err
		}
		for _, g := range all {
			groups = append(groups, strconv.FormatInt(g.ID, 10))
		}
	}
	for _, id := range groups {
		e := suppression.Entry{
			ScopeKind: event.ScopeGroup, ScopeID: id, Reason: suppression.Unsubscribe, Provider: name,
		}
		err := c.caller.Stream(ctx, c.group(id), func(d *json.Decoder) error {
			return esplist.Elements(d, func(address string) error {
				e.Address = address
				return each(e)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) group(id string) *url.URL {
	return c.caller.URL(nil, "v3", "asm", "groups", id, "suppressions")
}

// pages reads until a page is empty: a short one may only mean that the
// provider allows less than was asked for.
func (c *Client) pages(ctx context.Context, list, until string, e suppression.Entry,
	each func(suppression.Entry) error,
) error {
	for offset := 0; ; {
		query := url.Values{
			"limit": {strconv.Itoa(pageSize)}, "offset": {strconv.Itoa(offset)}, "end_time": {until},
		}
		var page []struct {
			Created int64 // seconds
			Email   string
			Reason  string // of bounces and invalid addresses
		}
		if err := c.caller.Do(ctx, http.MethodGet, c.caller.URL(query, "v3", "suppression", list), nil, &page); err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		for _, line := range page {
			e.Address, e.Note, e.Since = line.Email, line.Reason, time.Time{}
			if line.Created > 0 {
				e.Since = time.Unix(line.Created, 0).UTC()
			}
			if err := each(e); err != nil {
				return err
			}
		}
		offset += len(page)
	}
}

// Express implements [esplist.Client].
func (c *Client) Express(e suppression.Entry) (suppression.Entry, error) {
	switch {
	case esplist.Wide(e):
		e.ScopeKind, e.ScopeID = event.ScopeAccount, ""
	case e.ScopeKind == event.ScopeGroup && isID(e.ScopeID) && c.has(e.ScopeID):
	default:
		return suppression.Entry{}, esplist.ErrScope
	}
	e.Reason, e.Provider = suppression.Unsubscribe, name
	return e, nil
}

func (c *Client) has(group string) bool {
	for _, id := range c.groups {
		if id == group {
			return true
		}
	}
	return len(c.groups) == 0
}

// Add implements [esplist.Client].
func (c *Client) Add(ctx context.Context, entries []suppression.Entry) ([]esplist.Result, error) {
	var results []esplist.Result
	for len(entries) > 0 {
		// Neighbours of one scope go together.
		first, n, err := esplist.Run(c, entries, func(a, b suppression.Entry) bool { return esplist.Slot(a) == esplist.Slot(b) })
		if err != nil {
			return results, err
		}
		target := c.caller.URL(nil, "v3", "asm", "suppressions", "global")
		if first.ScopeKind == event.ScopeGroup {
			target = c.group(first.ScopeID)
		}
		part, err := esplist.AddInBatches(ctx, entries[:n], batchSize,
			func(ctx context.Context, part []suppression.Entry) error {
				var body struct {
					Emails []string `json:"recipient_emails"`
				}
				for _, e := range part {
					body.Emails = append(body.Emails, e.Address)
				}
				return c.caller.Do(ctx, http.MethodPost, target, body, nil)
			})
		results = append(results, part...)
		switch p, ok := errors.AsType[*esplist.Error](err); {
		case ok && p.Status == http.StatusNotFound && first.ScopeKind == event.ScopeGroup:
			// The group is gone. That must not keep the others waiting.
			for _, e := range entries[len(part):n] {
				results = append(results, esplist.Result{Entry: e, Refused: "there is no group " + first.ScopeID})
			}
		case err != nil:
			return results, err
		}
		entries = entries[n:]
	}
	return results, nil
}
