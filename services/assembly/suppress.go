package assembly

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/apiclient"
	"mailriver/pkg/change"
	"mailriver/pkg/config"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/esplist"
	"mailriver/pkg/esplist/mailgun"
	"mailriver/pkg/esplist/postmark"
	"mailriver/pkg/esplist/sendgrid"
	"mailriver/pkg/esplist/ses"
	"mailriver/pkg/event"
	"mailriver/pkg/httpcall"
	"mailriver/pkg/listsync"
	"mailriver/pkg/suppression"
	"mailriver/pkg/suppression/client"
)

// SyncList is a suppression list that a provider keeps, and how it is reached.
// Its secrets are looked up when it is used: other machines need not have them.
type SyncList struct {
	Name     string `yaml:"name"`     // what the command line calls it
	Provider string `yaml:"provider"` // one of ses, sendgrid, postmark and mailgun
	// Key is the API key of SendGrid or Mailgun, the server token of Postmark, or
	// the secret access key of SES.
	Key config.Secret `yaml:"key"`
	// Sources are those of this account: what others say of their groups, streams
	// and accounts is not put on the list. Empty means all of the provider.
	Sources      []string      `yaml:"sources,omitempty"`
	BaseURL      string        `yaml:"base_url,omitempty"`      // of the API; empty: where the provider has it
	Region       string        `yaml:"region,omitempty"`        // SES: such as eu-west-1
	AccessKeyID  string        `yaml:"access_key_id,omitempty"` // SES
	SessionToken config.Secret `yaml:"session_token,omitempty"` // SES: of temporary credentials
	Domain       string        `yaml:"domain,omitempty"`        // Mailgun: the sending domain
	Stream       string        `yaml:"stream,omitempty"`        // Postmark: the message stream, such as outbound
	OnBehalfOf   string        `yaml:"on_behalf_of,omitempty"`  // SendGrid: a subuser, with the key of its parent
	Groups       []string      `yaml:"groups,omitempty"`        // SendGrid: ids of unsubscribe groups; empty: all
}

// SyncProviders lists the providers whose lists can be compared.
func SyncProviders() []string { return []string{"ses", "sendgrid", "postmark", "mailgun"} }

// checkLists reports everything that is wrong with the lists, without looking
// at any secret.
func checkLists(lists []SyncList, sources []string) error {
	var problems config.Problems
	for i, l := range lists {
		where := fmt.Sprintf("suppression_sync[%d] (%s): ", i, l.Name)
		problems.Must(l.Name != "", "%sname: is required", where)
		problems.Must(!slices.ContainsFunc(lists[:i], func(o SyncList) bool { return o.Name == l.Name }), "%sname: is there twice", where)
		problems.Add(config.Prefix(where, l.validate(sources)))
	}
	return problems.Err()
}

func (l SyncList) validate(sources []string) error {
	if !slices.Contains(SyncProviders(), l.Provider) {
		return fmt.Errorf("provider: is %q, must be one of %s", l.Provider, strings.Join(SyncProviders(), ", "))
	}
	var problems config.Problems
	for _, field := range []struct {
		key, of string
		set     bool
	}{
		{"region", "ses", l.Region != ""},
		{"access_key_id", "ses", l.AccessKeyID != ""},
		{"session_token", "ses", !l.SessionToken.IsZero()},
		{"domain", "mailgun", l.Domain != ""},
		{"stream", "postmark", l.Stream != ""},
		{"on_behalf_of", "sendgrid", l.OnBehalfOf != ""},
		{"groups", "sendgrid", len(l.Groups) > 0},
	} {
		problems.Must(!field.set || field.of == l.Provider, "%s: is for %s only", field.key, field.of)
	}
	problems.Must(!l.Key.IsZero(), "key: is required")
	problems.Must(l.Provider != "ses" || l.AccessKeyID != "", "access_key_id: is required")
	for _, name := range l.Sources {
		problems.Must(slices.Contains(sources, name), "sources: %q is no source of this configuration", name)
	}
	if err := problems.Err(); err != nil {
		return err
	}
	_, err := l.client("key", "", esplist.Transport{})
	return err
}

// client makes the client of the list. Its errors begin with the key that is
// wrong.
func (l SyncList) client(key, sessionToken string, t esplist.Transport) (c esplist.Client, err error) {
	switch l.Provider {
	case "ses":
		c, err = ses.New(ses.Options{
			Region: l.Region, AccessKeyID: l.AccessKeyID, SecretAccessKey: key, SessionToken: sessionToken,
			BaseURL: l.BaseURL, Transport: t,
		})
	case "sendgrid":
		c, err = sendgrid.New(sendgrid.Options{
			Key: key, OnBehalfOf: l.OnBehalfOf, Groups: l.Groups, BaseURL: l.BaseURL, Transport: t,
		})
	case "postmark":
		c, err = postmark.New(postmark.Options{ServerToken: key, Stream: l.Stream, BaseURL: l.BaseURL, Transport: t})
	case "mailgun":
		c, err = mailgun.New(mailgun.Options{Key: key, Domain: l.Domain, BaseURL: l.BaseURL, Transport: t})
	default:
		return nil, fmt.Errorf("provider: is %q", l.Provider)
	}
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), l.Provider+": "))
	}
	return c, nil
}

// FindSyncList returns the list of the provider, or the one of that name where
// there are several.
func FindSyncList(cfg Config, provider, name string) (SyncList, error) {
	var found []SyncList
	var names []string
	for _, l := range cfg.SuppressionSync {
		if l.Provider == provider {
			names = append(names, l.Name)
			if name == "" || name == l.Name {
				found = append(found, l)
			}
		}
	}
	switch {
	case len(names) == 0:
		return SyncList{}, fmt.Errorf("%w: suppression_sync: has no list of %s: say how its API is reached", ErrConfig, provider)
	case len(found) == 0:
		return SyncList{}, fmt.Errorf("list: is %q; the lists of %s are %s", name, provider, strings.Join(names, ", "))
	case len(found) > 1:
		return SyncList{}, fmt.Errorf("list: is required: %s has %s", provider, strings.Join(names, ", "))
	}
	return found[0], nil
}

// SuppressionClient returns a client of the suppression API.
func SuppressionClient(cfg Config) (*client.Client, error) {
	key, err := cfg.resolve(cfg.SuppressionClient.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: suppression_client.key: %w", ErrConfig, err)
	}
	c, err := client.New(cfg.SuppressionClient, apiclient.Deps{Key: key, Now: time.Now, Sleep: httpcall.Sleep})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, config.Prefix("suppression_client.", err))
	}
	return c, nil
}

// SyncOptions says what a sync does beside comparing.
type SyncOptions struct {
	Apply    bool // add to the provider's list what is missing there
	Import   bool // add to Mailriver's what is missing here
	MaxRows  int  // differences in the report; 0: all
	Progress func(stage listsync.Stage, n int)
}

// Sync compares Mailriver's list, as the suppression API tells it, with that of
// a provider. What it imports goes to the raw topic, as every change by people.
func Sync(ctx context.Context, p *Process, list SyncList, ours *client.Client, o SyncOptions) (report listsync.Report, err error) {
	var problems config.Problems
	key, err := p.Config.resolve(list.Key)
	problems.Add(config.Prefix("key: ", err))
	token, err := p.Config.resolve(list.SessionToken)
	problems.Add(config.Prefix("session_token: ", err))
	if err := problems.Err(); err != nil {
		return report, fmt.Errorf("%w: %w", ErrConfig, config.Prefix(fmt.Sprintf("suppression_sync (%s): ", list.Name), err))
	}
	theirs, err := list.client(key, token, esplist.Transport{})
	if err != nil {
		return report, fmt.Errorf("%w: suppression_sync (%s): %w", ErrConfig, list.Name, err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	options := listsync.Options{
		Client: theirs,
		Ours: func(ctx context.Context, each func(suppression.Entry) error) error {
			return ours.Entries(ctx, client.Filter{}, each)
		},
		Policy: p.Config.Suppression.Policy, Sources: list.Sources, Now: now,
		Apply: o.Apply, MaxRows: o.MaxRows, Progress: o.Progress,
	}
	if o.Import {
		producer, err := p.Clients.Producer(kgo.RecordDeliveryTimeout(30 * time.Second))
		if err != nil {
			return report, err
		}
		defer producer.Close()
		options.Import = func(ctx context.Context, entries []suppression.Entry) error {
			records, err := change.Records(p.Config.Kafka.Topics().Raw, imports(list, entries, now), now)
			if err != nil {
				return err
			}
			// Canceling does not take a record back: the client bounds the time.
			if err := producer.ProduceSync(context.WithoutCancel(ctx), records...).FirstErr(); err != nil {
				return fmt.Errorf("kafka at %s: %w", strings.Join(p.Config.Kafka.Brokers, ", "), err)
			}
			return nil
		}
	}
	return listsync.Run(ctx, options)
}

// imports are the changes that put entries of a provider's list on ours. The id
// is that of the entry, so that a second run makes the same change.
func imports(list SyncList, entries []suppression.Entry, now time.Time) []mailriver.Change {
	changes := make([]mailriver.Change, len(entries))
	for i, e := range entries {
		since := ""
		at := e.Since.UTC().Truncate(time.Microsecond)
		if at.Year() < 2000 || at.After(now) {
			at = now // it is not said, or cannot be
		} else {
			since = at.Format(time.RFC3339Nano)
		}
		changes[i] = mailriver.Change{
			ID: event.NewID(event.ProviderMailriver, mailriver.OriginSync, e.Address,
				list.Provider, list.Name, e.Address, e.ScopeKind, e.ScopeID, string(e.Reason), since),
			Action: mailriver.ActionAdd, Address: strings.TrimSpace(e.Address), ScopeKind: e.ScopeKind, ScopeID: e.ScopeID,
			Reason: string(cmp.Or(e.Reason, suppression.ProviderList)), At: at, ExpiresAt: e.ExpiresAt,
			Note: "on the list of " + list.Provider, Actor: "cli", Origin: mailriver.OriginSync,
		}
	}
	return changes
}
