package leadapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"mailriver/pkg/apiclient"
)

// Client asks one API. It may be used by several goroutines.
type Client struct{ api *apiclient.Client }

// New checks its arguments and connects to nothing.
func New(cfg apiclient.Config, deps apiclient.Deps) (*Client, error) {
	c, err := apiclient.New("lead scoring", cfg, deps)
	if err != nil {
		return nil, err
	}
	return &Client{c}, nil
}

// DefaultConfig is the API on this machine.
func DefaultConfig() apiclient.Config { return apiclient.DefaultConfig("http://127.0.0.1:8083") }

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.api.Call(ctx, apiclient.Request{Method: http.MethodGet, Path: path, Query: query, Repeatable: true}, out)
}

func leadPath(address string) string { return "/v1/leads/" + url.PathEscape(address) }

// Lead says where a recipient stands.
func (c *Client) Lead(ctx context.Context, address string) (l Lead, err error) {
	err = c.get(ctx, leadPath(address), nil, &l)
	return l, err
}

// Explain says what the scores of a recipient are made of; in all profiles where
// none is named.
func (c *Client) Explain(ctx context.Context, address, profile string) (e Explanation, err error) {
	err = c.get(ctx, leadPath(address)+"/explain", apiclient.Values("profile", profile), &e)
	return e, err
}

// History says how a recipient went through the stages; of all profiles where
// none is named.
func (c *Client) History(ctx context.Context, address, profile string) (h History, err error) {
	err = c.get(ctx, leadPath(address)+"/history", apiclient.Values("profile", profile), &h)
	return h, err
}

// Rules returns the rules in force.
func (c *Client) Rules(ctx context.Context) (r Rules, err error) {
	err = c.get(ctx, "/v1/rules", nil, &r)
	return r, err
}

// maxPage is how many leads the API gives at once.
const maxPage = 1000

// Top returns the best leads of a profile, at most limit, and whether there are
// more. The profile may be empty where there is one only; an empty stage is any.
func (c *Client) Top(ctx context.Context, profile, stage string, limit int) (leads []Ranked, more bool, err error) {
	query := apiclient.Values("profile", profile, "stage", stage)
	for {
		query.Set("limit", strconv.Itoa(min(limit-len(leads), maxPage)))
		var page Page
		if err := c.get(ctx, "/v1/leads", query, &page); err != nil {
			return leads, false, err
		}
		leads = append(leads, page.Leads...)
		if page.NextCursor == nil || len(leads) >= limit {
			return leads, page.NextCursor != nil, nil
		}
		if *page.NextCursor == query.Get("cursor") {
			return leads, false, errors.New("the API gave the same page twice")
		}
		query.Set("cursor", *page.NextCursor)
	}
}
