package unsubscribe

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"mailriver/pkg/config"
)

// Path is where the receiver answers, before the token.
const Path = "/u/"

// Config is about the links by which recipients opt out: the section
// unsubscribe.
type Config struct {
	// Keys seal the links, newest first: the first one makes them, any of them
	// opens them. Each is a text of at least 32 characters that nobody can guess.
	// Without keys there are no links, and the receiver answers none.
	Keys []config.Secret `yaml:"keys,omitempty"`
	// BaseURL is the public URL of the receiver: a link is base_url/u/{token}.
	// It must be https, since mail programs follow no other.
	BaseURL string `yaml:"base_url"`
}

// Validate reports everything that is wrong, without looking at any secret.
func (c Config) Validate() error {
	if c.BaseURL == "" {
		return nil
	}
	var problems config.Problems
	u, err := url.Parse(c.BaseURL)
	if err != nil || u.Host == "" {
		return fmt.Errorf("base_url: is %q, must be a URL as https://mail.example.com", c.BaseURL)
	}
	problems.Must(u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()),
		"base_url: is %q, must begin with https:// (RFC 8058); http:// is for trying on localhost", c.BaseURL)
	problems.Must(u.RawQuery == "" && u.Fragment == "" && u.User == nil,
		"base_url: must have no query, fragment or credentials")
	problems.Must(!strings.ContainsAny(c.BaseURL, "<> \t\r\n"), "base_url: must have no spaces or angle brackets")
	return problems.Err()
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Open resolves the keys. It returns nil when there are none. Its error is that
// of a file that cannot be read ([config.ErrUnreadable]) only if nothing else is
// wrong.
func (c Config) Open(resolve func(config.Secret) (string, error)) (*Keys, error) {
	if len(c.Keys) == 0 {
		return nil, nil
	}
	var mistakes, unreadable config.Problems
	var texts []string
	for i, secret := range c.Keys {
		if secret.IsZero() {
			mistakes.Must(false, "keys[%d]: is empty", i)
			continue
		}
		text, err := resolve(secret)
		err = config.Prefix(fmt.Sprintf("keys[%d]: ", i), err)
		if errors.Is(err, config.ErrUnreadable) {
			unreadable.Add(err)
		} else {
			mistakes.Add(err)
		}
		texts = append(texts, text)
	}
	if err := mistakes.Err(); err != nil {
		return nil, err
	}
	if err := unreadable.Err(); err != nil {
		return nil, err
	}
	return NewKeys(texts)
}

// Headers are what a message needs for one-click unsubscribe (RFC 8058). DKIM
// must cover both.
type Headers struct {
	URL  string // the link itself, for the foot of the message
	List string // value of List-Unsubscribe
	Post string // value of List-Unsubscribe-Post
}

// maxLine is how long a line of a message may be (RFC 5322, 2.1.1). A URL
// cannot be folded.
const maxLine = 998

// Headers returns the URL of a token and the headers that carry it.
func (c Config) Headers(token string) (Headers, error) {
	if c.BaseURL == "" {
		return Headers{}, errors.New("unsubscribe.base_url: is required to make links")
	}
	link := strings.TrimSuffix(c.BaseURL, "/") + Path + token
	h := Headers{URL: link, List: "<" + link + ">", Post: "List-Unsubscribe=One-Click"}
	if line := len("List-Unsubscribe: ") + len(h.List); line > maxLine {
		return Headers{}, fmt.Errorf("link has %d bytes, too many for a line of a message (%d): use a shorter scope id or base_url", len(link), maxLine)
	}
	return h, nil
}
