// Package ses reads and extends the account-level suppression list of Amazon
// SES, which holds for one AWS account in one region.
//
// From the SES API v2 reference (docs.aws.amazon.com/ses/latest/APIReference-V2:
// API_ListSuppressedDestinations, API_PutSuppressedDestination) and the
// developer guide (docs.aws.amazon.com/ses/latest/dg/
// sending-email-suppression-list.html), as read on 2026-11-24. Not tried against
// a live account. Three things follow from them:
//
//   - There are two reasons, BOUNCE and COMPLAINT, and whether an entry with
//     one stops mail depends on the account's setting for that reason. What is
//     not a complaint is added as BOUNCE.
//   - One call adds one address. For hundreds of thousands, the guide describes
//     an import job over S3, which this package does not do.
//   - Lists of tenants (TenantName, which newer versions of the reference have)
//     are not read.
//
// It signs with the AWS SDK's own signer, and calls with [esplist.Caller] as
// the other providers do: see decision 0020.
package ses

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"mailriver/pkg/esplist"
	"mailriver/pkg/event"
	"mailriver/pkg/suppression"
)

const name = "ses"

// pageSize is asked for. The reference names no maximum; a shorter page is
// followed by its token all the same.
const pageSize = "1000"

// Options says which list, and how it is reached.
type Options struct {
	Region          string
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // of temporary credentials
	BaseURL         string // empty: that of the region
	Transport       esplist.Transport
}

// Client is the list of one account and region.
type Client struct{ caller *esplist.Caller }

var region = regexp.MustCompile(`^[a-z0-9-]+$`)

// New checks the options. It calls nothing.
func New(o Options) (*Client, error) {
	if !region.MatchString(o.Region) {
		return nil, fmt.Errorf("ses: region: is %q, must be one such as eu-west-1", o.Region)
	}
	if o.AccessKeyID == "" || o.SecretAccessKey == "" {
		return nil, errors.New("ses: access key id and secret access key are required")
	}
	if o.BaseURL == "" {
		o.BaseURL = "https://email." + o.Region + ".amazonaws.com"
		if strings.HasPrefix(o.Region, "cn-") {
			o.BaseURL += ".cn"
		}
	}
	credentials := aws.Credentials{
		AccessKeyID: o.AccessKeyID, SecretAccessKey: o.SecretAccessKey, SessionToken: o.SessionToken,
	}
	now := o.Transport.Now
	if now == nil {
		now = time.Now
	}
	signer := v4.NewSigner()
	caller, err := esplist.NewCaller(esplist.CallerConfig{
		Provider: name,
		BaseURL:  o.BaseURL,
		Authorize: func(r *http.Request, body []byte) error {
			sum := sha256.Sum256(body)
			return signer.SignHTTP(r.Context(), credentials, r, hex.EncodeToString(sum[:]), "ses", o.Region, now())
		},
		Problem: problem,
		Busy: func(status int, kind string) bool {
			return status == http.StatusBadRequest &&
				(strings.HasPrefix(kind, "Throttling") || kind == "TooManyRequestsException")
		},
		// Credentials that are no longer good are answered with 400 as well, and
		// no other address would do better.
		Content: func(_ int, kind string) bool { return kind == "BadRequestException" },
		Secrets: []string{o.SecretAccessKey, o.SessionToken},
	}, o.Transport)
	if err != nil {
		return nil, err
	}
	return &Client{caller}, nil
}

// problem reads an error of the protocol: its name is in a header, with what
// follows a colon being of no interest, or in the body.
func problem(header http.Header, body []byte) (kind, message string) {
	var answer struct {
		Type    string `json:"__type"`
		Message string `json:"message"` // matches Message, too
	}
	_ = json.Unmarshal(body, &answer) // the status says enough without
	kind = header.Get("X-Amzn-Errortype")
	if kind == "" {
		kind = answer.Type[strings.LastIndexByte(answer.Type, '#')+1:]
	}
	kind, _, _ = strings.Cut(kind, ":")
	return kind, answer.Message
}

// Provider implements [esplist.Client].
func (c *Client) Provider() string { return name }

func (c *Client) addresses(query url.Values) *url.URL {
	return c.caller.URL(query, "v2", "email", "suppression", "addresses")
}

// List implements [esplist.Client]. Since is when the entry changed last, which
// is the only time that the list tells.
func (c *Client) List(ctx context.Context, each func(suppression.Entry) error) error {
	query := url.Values{"PageSize": {pageSize}}
	for {
		var page struct {
			NextToken string
			Summaries []struct {
				EmailAddress   string
				LastUpdateTime float64 // seconds
				Reason         string
			} `json:"SuppressedDestinationSummaries"`
		}
		if err := c.caller.Do(ctx, http.MethodGet, c.addresses(query), nil, &page); err != nil {
			return err
		}
		for _, s := range page.Summaries {
			e := suppression.Entry{
				Address: s.EmailAddress, ScopeKind: event.ScopeAddress, Provider: name,
				Reason: reason(s.Reason), Since: moment(s.LastUpdateTime),
			}
			if err := each(e); err != nil {
				return err
			}
		}
		if page.NextToken == "" {
			return nil
		}
		if page.NextToken == query.Get("NextToken") {
			return errors.New("ses: list: the token of the next page is that of this one")
		}
		query.Set("NextToken", page.NextToken)
	}
}

func reason(text string) suppression.Reason {
	switch text {
	case "BOUNCE":
		return suppression.HardBounce
	case "COMPLAINT":
		return suppression.Complaint
	}
	return suppression.ProviderList
}

// moment reads seconds with a fraction. The microseconds are rounded, because a
// float64 of today's seconds holds no more.
func moment(seconds float64) time.Time {
	if seconds <= 0 || seconds > 1e11 {
		return time.Time{}
	}
	return time.UnixMicro(int64(math.Round(seconds * 1e6))).UTC()
}

// Express implements [esplist.Client].
func (c *Client) Express(e suppression.Entry) (suppression.Entry, error) {
	if !esplist.Wide(e) {
		return suppression.Entry{}, esplist.ErrScope
	}
	e.ScopeKind, e.ScopeID, e.Provider = event.ScopeAddress, "", name
	if e.Reason != suppression.Complaint {
		e.Reason = suppression.HardBounce
	}
	return e, nil
}

// Add implements [esplist.Client]. It makes one call for each entry.
func (c *Client) Add(ctx context.Context, entries []suppression.Entry) ([]esplist.Result, error) {
	return esplist.AddInBatches(ctx, entries, 1, func(ctx context.Context, part []suppression.Entry) error {
		e, err := c.Express(part[0])
		if err != nil {
			return fmt.Errorf("ses: add: %w", err)
		}
		why := "BOUNCE"
		if e.Reason == suppression.Complaint {
			why = "COMPLAINT"
		}
		body := struct{ EmailAddress, Reason string }{e.Address, why}
		return c.caller.Do(ctx, http.MethodPut, c.addresses(nil), body, nil)
	})
}
